"""The carry of a training step. It holds arrays only, so it can be donated, sharded, saved and compared."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from gen_jax.core import lora

PyTree = Any


@flax.struct.dataclass
class Mean:
    """A weighted mean before the division: its value is sum(total) / sum(weight).

    `[B]` each in evaluation (one row an example), `[]` in training, `[K]` after K steps in one dispatch.
    Padding has weight 0, so a mean over a split is exact whatever the batch size.
    """

    total: PyTree
    weight: PyTree
    net: str = flax.struct.field(pytree_node=False, default="")  # whose update the term is of, in training

    @classmethod
    def of(cls, values: jax.Array) -> "Mean":
        """Each of `values` has weight 1."""
        return cls(values, jnp.ones_like(values))

    def of_net(self, net: str) -> "Mean":
        """The same, as a term of the update of `net`."""
        return Mean(self.total, self.weight, net)

    def sum(self) -> "Mean":
        """Sums the rows: both fields become `[]`."""
        return Mean(self.total.sum(), self.weight.sum(), self.net)

    def where(self, valid: jax.Array) -> "Mean":
        """Rows that are not valid get weight 0, even if their total is not finite."""
        return Mean(jnp.where(valid, self.total, 0), jnp.where(valid, self.weight, 0), self.net)


@flax.struct.dataclass
class Net:
    """One network."""

    params: PyTree  # with low-rank updates apart, where there are any
    opt: PyTree  # optimizer state of the trainable leaves; a frozen leaf keeps no moments
    stats: PyTree  # dict of the other collections: batch statistics, spectral-norm vectors, codebooks
    ema: PyTree  # averages "params" and "stats" (the float ones), "updates" [] int32 that are in them; None = off

    @classmethod
    def frozen(cls, variables: PyTree) -> "Net":
        """A network that no step changes: it has no optimizer, and no averages."""
        stats = {name: tree for name, tree in variables.items() if name != "params"}
        return cls(variables["params"], (), stats, None)

    @property
    def variables(self) -> dict[str, PyTree]:
        """The input of `Module.apply`, with the live parameters."""
        return {"params": lora.merge(self.params), **self.stats}

    @property
    def averaged(self) -> dict[str, PyTree]:
        """The input of `Module.apply` in evaluation: the averages if they are kept."""
        if self.ema is None:
            return self.variables
        return {"params": lora.merge(self.ema["params"]), **self.ema["stats"]}


@flax.struct.dataclass
class State:
    """Everything that a step changes, and everything that a checkpoint of the model holds."""

    step: PyTree  # [] int32, calls of train_step
    nets: dict[str, Net]
    carry: PyTree = None  # rows of recurrent carry, image buffer
    extra: PyTree = None  # what is not rows: schedules learned from losses, controllers; the same on all devices

    @property
    def collections(self) -> dict[str, PyTree]:
        """What a loss reads beside the variables of its network: `extra`, where there is one."""
        return {} if self.extra is None else {"extra": self.extra}

    @property
    def sizes(self) -> dict[str, int]:
        """The number of parameters of each network."""
        return {name: sum(leaf.size for leaf in jax.tree.leaves(net.params)) for name, net in self.nets.items()}

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What a notebook shows where a cell ends with a state, instead of every array."""
        nets = ", ".join(f"{name}: {size:,} parameters" for name, size in self.sizes.items())
        printer.text(f"State(step={self.step}, {nets})")


def path_name(path: tuple) -> str:
    """A tree path as rules and messages write it: `encoder/Dense_0/kernel`."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def partition(tree: PyTree, mask: PyTree) -> tuple[PyTree, PyTree]:
    """Splits a tree by a mask of bools into (leaves where True, leaves where False), with None for the others."""
    kept = jax.tree.map(lambda keep, leaf: leaf if keep else None, mask, tree)
    rest = jax.tree.map(lambda keep, leaf: None if keep else leaf, mask, tree)
    return kept, rest


def combine(kept: PyTree, rest: PyTree) -> PyTree:
    """Undoes `partition`."""
    return jax.tree.map(lambda a, b: b if a is None else a, kept, rest, is_leaf=lambda leaf: leaf is None)
