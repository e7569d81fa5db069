"""What is computed from all data before the first step: inputs of second stages, and means that a state holds."""

import hashlib
import io
from typing import Any

import jax
import numpy as np
from etils import epath

from gen_jax import config
from gen_jax.core.state import State
from gen_jax.io.disk import write_atomic
from gen_jax.models.abilities_base import Measures
from gen_jax.models.base import Preprocesses
from gen_jax.parallel.processes import everywhere, gather, is_primary
from gen_jax.training.program import Program


def preprocessed(program: Program, state: State, cache: epath.Path) -> Program:
    """A program on the values of that function, computed once and kept in `cache`. Without one, `program` itself."""
    if not isinstance(program.model, Preprocesses):
        return program
    found = jax.eval_shape(program.model.preprocess, program.shapes, program.first_batch_shapes)
    kinds = {name: (leaf.shape[1:], str(leaf.dtype)) for name, leaf in found.items()}  # an earlier version gave others
    section = config.to_dict(program.experiment)["data"] | {"inputs": kinds}
    digest = _digest(section, program.model.preprocess_inputs(state))
    path = cache / f"inputs_{digest[:16]}.npz"
    splits = [split for split, size in program.dataset.sizes.items() if size]
    if everywhere(path.exists()):
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
    else:
        arrays = {f"{split}/{k}": v for split in splits for k, v in _computed(program, state, split).items()}
        if is_primary():
            file = io.BytesIO()
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] - numpy's stub
            cache.mkdir(parents=True, exist_ok=True)
            write_atomic(path, file.getvalue())
    extra = {split: {} for split in splits}
    for key, array in arrays.items():
        split, name = key.split("/")
        extra[split][name] = array
    return Program(program.experiment, program.dataset.with_arrays(extra), program.poll)


def _computed(program: Program, state: State, split: str) -> dict[str, np.ndarray]:
    compute = jax.jit(program.model.preprocess)
    rows = []
    for batch in program.batches(split):
        inputs, valid = gather((compute(state, batch), batch["valid"]))
        rows.append({name: value[valid] for name, value in inputs.items()})
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def measured(program: Program, state: State) -> State:
    """A state of step 0 with what its model measures over the training data (`abilities_base.Measures`)."""
    if not isinstance(model := program.model, Measures) or int(jax.device_get(state.step)):
        return state

    @jax.jit
    def sums(state, batch):
        return {name: (mean.total.sum(0), mean.weight.sum(0)) for name, mean in model.measure(state, batch).items()}

    rows = [gather(sums(state, batch)) for batch in program.batches("train")]
    totals = jax.tree.map(lambda *parts: np.sum(parts, axis=0, dtype=np.float64), *rows)
    found = {name: (total / weight).astype(np.float32) for name, (total, weight) in totals.items()}
    return jax.jit(model.measured, out_shardings=program.shardings)(state, found)


def _digest(section: dict, arrays: Any) -> str:
    """sha256 of a config section and of arrays."""
    digest = hashlib.sha256(repr(sorted(section.items())).encode())
    for leaf in jax.tree.leaves(gather(arrays)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
