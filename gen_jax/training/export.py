"""Writes a trained model for programs that do not have gen_jax: parameters, compiled functions, a GPT-2 folder."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors.numpy import save

from gen_jax.core import ops
from gen_jax.core.state import Net, PyTree, State, path_name
from gen_jax.errors import ConfigError, first_line
from gen_jax.io.disk import write_atomic
from gen_jax.models.base import HasLogProb, Samples
from gen_jax.parallel.processes import gather
from gen_jax.runs import model_card
from gen_jax.training import gpt2
from gen_jax.training.trained import TrainedRun

PARAMETERS, CARD = "model.safetensors", "README.md"
PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}  # of jax.export -> as models ask for theirs
Tensors = dict[str, np.ndarray]


def tensors(state: State, averaged: bool = True) -> Tensors:
    """The variables of all networks by their paths, such as `net/params/Dense_0/kernel`; low-rank updates are merged.

    Args:
      averaged: the averages where the run keeps them, as in evaluation; else the parameters themselves.
    """
    nets = {name: jax.jit(_variables, static_argnums=1)(net, averaged) for name, net in state.nets.items()}
    leaves = jax.tree_util.tree_leaves_with_path(nets)
    return {path_name(path): np.ascontiguousarray(gather(leaf)) for path, leaf in leaves}


def _variables(net: Net, averaged: bool) -> PyTree:
    return net.averaged if averaged else net.variables


@dataclasses.dataclass(frozen=True)
class Exported:
    """Files by their names, what each holds, and Python that reads them."""

    contents: Mapping[str, bytes]
    about: Mapping[str, str]
    usage: str


def write(run: TrainedRun, folder: epath.Path, exported: Exported) -> list[str]:
    """Writes the files and the card. Returns their names."""
    card = model_card.text(run.run_dir, run.step, exported.about, exported.usage)
    for name, content in {**exported.contents, CARD: card}.items():
        write_atomic(folder / name, content)
    return [*exported.contents, CARD]


def parameters(run: TrainedRun, averaged: bool) -> Exported:
    """`model.safetensors`."""
    usage = f'from safetensors.numpy import load_file\n\ntensors = load_file("{PARAMETERS}")  # name -> array'
    return Exported({PARAMETERS: save(tensors(run.state, averaged))}, {PARAMETERS: _what(averaged)}, usage)


def compiled(run: TrainedRun, averaged: bool, function: str, n: int, platforms: Sequence[str] = ()) -> Exported:
    """`sample.stablehlo` or `log_prob.stablehlo`, and its parameters.

    It takes the parameters, a seed, and for `log_prob` a batch of n examples.

    Args:
      function: `sample` or `log_prob`.
      n: samples of a call, or examples.
      platforms: of `PLATFORMS`, on each of which it runs; () = the one at hand.

    Raises:
      ConfigError: the model does not have the function, or an operation that a platform lacks.
    """
    able = {"sample": Samples, "log_prob": HasLogProb}[function]
    if not isinstance(run.model, able):
        raise ConfigError(f"--function: the model {run.config.model_name} has no {function}")
    found = tensors(run.state, averaged)
    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in found.items()}
    rebuild, seed = _rebuilt(run.state), jax.ShapeDtypeStruct((), jnp.uint32)
    if function == "sample":
        draw = run.sampler(n)

        def sample(parameters, seed):
            return draw(rebuild(parameters), jax.random.key(seed))

        exported, call = _exported(sample, platforms, shapes, seed), "sample.call(parameters, np.uint32(0))"
    else:
        batch = _example_batch(run, n)

        def log_prob(parameters, batch, seed):
            return run.model.log_prob(rebuild(parameters), batch, jax.random.key(seed), LOG_PROB_SAMPLES)

        exported = _exported(log_prob, platforms, shapes, batch, seed)
        examples = ", ".join(f'"{name}": np.zeros({x.shape}, "{x.dtype}")' for name, x in batch.items())
        call = f"log_prob.call(parameters, {{{examples}}}, np.uint32(0))"
    name = f"{function}.stablehlo"
    usage = f'''import jax.export
import numpy as np
from safetensors.numpy import load_file

parameters = load_file("{PARAMETERS}")
with open("{name}", "rb") as file:
    {function} = jax.export.deserialize(bytearray(file.read()))
result = {call}'''
    about = {PARAMETERS: _what(averaged), name: f"a function for {', '.join(exported.platforms)}, {n} rows a call"}
    return Exported({PARAMETERS: save(found), name: bytes(exported.serialize())}, about, usage)


def _exported(function: Callable, platforms: Sequence[str], *shapes: Any) -> jax.export.Exported:
    """`function` of `shapes` for each platform, traced once: where a CPU is one of them, as for a CPU."""
    kinds = {PLATFORMS[name] for name in platforms} or {ops.platform()}
    traced = next(iter(kinds)) if len(kinds) == 1 else "cpu" if "cpu" in kinds else "tpu"  # whose code is common to all
    try:
        with ops.compiling_for(traced):
            return jax.export.export(jax.jit(function), platforms=platforms or None)(*shapes)
    except NotImplementedError as error:
        raise ConfigError(f"--platforms: the model cannot be compiled for all of them: {first_line(error)}") from None


LOG_PROB_SAMPLES = 100  # importance samples, where the model needs any


def _example_batch(run: TrainedRun, n: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of n test examples as `log_prob` takes them."""
    feed = run.program.dataset.eval_feed("test", n)
    batch = jax.eval_shape(feed.assemble, feed.resident, feed.rows(0))
    return {name: x for name, x in batch.items() if name != "valid"}


def _rebuilt(state: State) -> Callable[[Mapping[str, Any]], State]:
    """From tensors by path to a state that `sample` and `log_prob` take: without optimizer and carry."""
    nets = {name: jax.eval_shape(lambda net: net.averaged, net) for name, net in state.nets.items()}
    step = int(state.step)

    def rebuild(parameters: Mapping[str, Any]) -> State:
        filled = jax.tree_util.tree_map_with_path(lambda path, _: parameters[path_name(path)], nets)
        parts = {name: dict(variables) for name, variables in filled.items()}
        new = {name: Net(one.pop("params"), opt=(), stats=one, ema=None) for name, one in parts.items()}
        return dataclasses.replace(state, step=jnp.int32(step), nets=new, carry=None)

    return rebuild


def huggingface(run: TrainedRun, averaged: bool) -> Exported:
    """`config.json` and `model.safetensors`, as `transformers.GPT2LMHeadModel` reads them.

    Raises:
      ConfigError: the model has not the shape of GPT-2.
    """
    if run.config.model_name != "transformer":
        raise ConfigError(f"--format: expected the model transformer for huggingface, got {run.config.model_name}")
    config = gpt2.huggingface_config(run.config.model)
    prefix = "net/params/"
    params = {name.removeprefix(prefix): value for name, value in tensors(run.state, averaged).items()}
    found = gpt2.to_huggingface(params, config["n_head"])
    usage = 'from transformers import GPT2LMHeadModel\n\nmodel = GPT2LMHeadModel.from_pretrained(".")'
    about = {PARAMETERS: f"{_what(averaged)}, by Hugging Face's names", "config.json": "the shape of the model"}
    contents = {PARAMETERS: save(found, {"format": "pt"}), "config.json": json.dumps(config, indent=2).encode() + b"\n"}
    return Exported(contents, about, usage)


def _what(averaged: bool) -> str:
    return "the parameters, averaged where the run keeps averages" if averaged else "the parameters, not averaged"
