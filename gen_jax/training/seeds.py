"""Several seeds of one config as one program on one device: `num_seeds=8` trains eight runs with one compiled step.

Their states are stacked, [S, ...], and the step is mapped over them. Each seed reads its own data and writes its own
directory, so it equals the run of that seed alone. Seeds may be at different steps: each resumes from its own
checkpoint. `seed_runs` trains them.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.config import Experiment, Profile
from gen_jax.core import ops
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.errors import ConfigError
from gen_jax.evaluators.evaluator import Evaluator, Report
from gen_jax.models.abilities_base import Measures
from gen_jax.models.base import Preprocesses
from gen_jax.parallel import sharding
from gen_jax.training import checks
from gen_jax.training.feeder import Feeder
from gen_jax.training.program import Program, k_steps

KStep = Callable[[State, dict, dict, jax.Array], tuple[State, dict[str, Mean]]]  # state, resident, rows [K, B], key


def vmapped(k_step: KStep) -> KStep:
    """All seeds at once: states, rows and keys are [S, ...]. Resident arrays are shared."""
    return jax.vmap(k_step, in_axes=(0, None, 0, 0))


def in_turn(k_step: KStep) -> KStep:
    """One seed after another in one dispatch. On CPU one seed fills the cores, and vmap would add work.

    Steps with convolutions are unrolled there, once for each seed: a small `steps_per_call` compiles sooner.
    """

    def mapped(state, resident, rows, rng):
        def of_one(_, seed):
            return None, k_step(seed[0], resident, *seed[1:])

        return ops.scan(of_one, None, (state, rows, rng))[1]

    return mapped


MAPS = {"cpu": in_turn}  # elsewhere vmapped


class Seeds(Program):
    """The program of `num_seeds` S runs. `seats` are the programs of single runs. State, rows and metrics are [S, ...].

    Args: as of Program.

    Raises:
      ConfigError: also if seeds cannot share a program.
    """

    def __init__(self, experiment: Experiment, *args: Any, **kwargs: Any):
        super().__init__(experiment, *args, **kwargs)
        self._check_alone()
        checks.check_memory(self)
        self.seats = [Seat(self, i) for i in range(experiment.num_seeds)]
        keys = np.stack([jax.random.key_data(seat.train_key) for seat in self.seats])
        self.keys = jax.random.wrap_key_data(jnp.asarray(keys))  # [S]
        self.stacked: PyTree = None  # the state, once the first step is made
        self.metrics: dict[str, Mean] = {}

    def _check_alone(self) -> None:
        if (n := self.mesh.devices.size) > 1:
            raise ConfigError(f"config.num_seeds: expected 1 on {n} devices, or config.mesh.data=1 to take one of them")
        if isinstance(self.model, Preprocesses | Measures):
            name = type(self.model).__name__
            raise ConfigError(f"config.num_seeds: expected 1, the inputs of {name} depend on what it starts from")

    def init(self) -> State:
        return self.stack([seat.init() for seat in self.seats])

    def step(self, state: State, step: int | Sequence[int]) -> tuple[State, dict[str, Mean]]:
        """`steps_per_call` updates of each seed from its own `step` on. Metrics are `[S, K]`."""
        return self.compiled_step(state, self.feeder.resident, self.rows(step), self.keys)

    def rows(self, step: int | Sequence[int]) -> dict:
        """The input of these steps, [S, K, B, ...]."""
        steps = np.broadcast_to(step, len(self.seats)).tolist()
        rows = [seat.feeder.host_rows(step) for seat, step in zip(self.seats, steps, strict=True)]
        return sharding.place(jax.tree.map(lambda *leaves: np.stack(leaves), *rows), sharding.replicated(self.mesh))

    @functools.cached_property
    def compiled_step(self) -> Callable:
        """(state [S], resident, rows [S, K, B], keys [S]) -> (state [S], metrics [S, K]), one dispatch."""
        k_step = functools.partial(k_steps, self.model.train_step, self.feeder.feed.assemble)
        over_seeds = MAPS.get(ops.platform(), vmapped)
        return jax.jit(over_seeds(k_step), donate_argnums=0, out_shardings=sharding.replicated(self.mesh))

    def flops_per_step(self, recomputed: bool = False) -> float:
        return len(self.seats) * super().flops_per_step(recomputed)

    @functools.cached_property
    def compiled_init(self) -> Callable:
        """(key, resident, rows) -> the first state of one seed."""

        def init(rng, resident, rows):
            return self.model.init(rng, self.feeder.feed.assemble(resident, rows))

        return jax.jit(init, out_shardings=self.shardings)

    @functools.cached_property
    def stack(self) -> Callable[[list[State]], State]:
        def stack(states):
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

        return jax.jit(stack, out_shardings=sharding.replicated(self.mesh))

    @functools.cached_property
    def row(self) -> Callable[[State, int], State]:
        """(stacked state, i) -> the state of one seed."""
        return jax.jit(lambda states, i: jax.tree.map(lambda x: x[i], states), out_shardings=self.shardings)

    def advance(self, steps: list[int]) -> None:
        """Makes the next steps of all runs. The last steps of a run that has ended are made again, and dropped."""
        if self.stacked is None:
            self.stacked = self.stack([seat.entered for seat in self.seats])
            for seat in self.seats:
                seat.entered = None
        self.stacked, self.metrics = self.step(self.stacked, steps)


def make(experiment: Experiment, **kwargs: Any) -> Program:
    """The program of a config with one seed or several. Arguments as Program's."""
    return (Seeds if experiment.num_seeds > 1 else Program)(experiment, **kwargs)


class Seat(Program):
    """The program of one seed. It behaves as the program of that seed alone, but shares everything that is compiled."""

    def __init__(self, seeds: Seeds, number: int):
        vars(self).update(vars(seeds))  # data, model, mesh, shapes
        self.seeds, self.number = seeds, number
        seed = seeds.experiment.seed + number
        self.experiment = seeds.experiment.model_copy(update={"seed": seed, "num_seeds": 1})
        self.dataset = seeds.dataset.with_seed(seed)
        self.feeder = Feeder(self.experiment, self.dataset, self.mesh)
        self.set_keys(seed)
        self.profile = seeds.profile if number == 0 else Profile()  # a trace is of the process
        self.entered: PyTree = None  # the state it starts from

    @property
    def evaluators(self) -> Mapping[str, Callable[[State], Report]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {name: functools.partial(self._evaluate, one) for name, one in self.seeds.evaluators.items()}

    def _evaluate(self, evaluator: Evaluator, state: State) -> Report:
        self.seeds.context.rng, self.seeds.poll = self.eval_key, self.poll
        return evaluator(state)

    def init(self) -> State:
        return self.seeds.compiled_init(self.init_key, self.seeds.feeder.resident, self.feeder.feed.rows(0))

    def enter(self, state: State) -> State:
        self.entered = state
        return state

    def leave(self, state: State) -> State:
        """The seed's row of the stacked state, or `state` before the first step."""
        return state if self.seeds.stacked is None else self.seeds.row(self.seeds.stacked, self.number)

    def step(self, state: State, step: int) -> tuple[State, dict[str, Mean]]:
        """The result of `Seeds.advance`: the stacked state, and this seed's metrics `[K]`."""
        return self.seeds.stacked, jax.tree.map(lambda x: _Row(x, self.number), self.seeds.metrics)


@dataclasses.dataclass(frozen=True)
class _Row:
    """Row `i` of an array [S, ...]. The host reads all rows at once."""

    whole: jax.Array
    i: int

    def copy_to_host_async(self) -> None:
        self.whole.copy_to_host_async()

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return np.asarray(self.whole)[self.i]
