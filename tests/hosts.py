"""`python hosts.py ADDRESS RANK FOLDER CASE...`: the cases as one of two processes of 2 devices each.

Each restores the checkpoint `FOLDER/CASE/one`, trains anew and saves `FOLDER/CASE/two`; process 0 writes what the steps
measured, and the sums of the restored leaves, to `FOLDER/CASE/two.json`.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from members import ROOT, SMALLEST, smoke

from gen_jax.core.state import State
from gen_jax.models.transformer import FSDP, TENSOR_PARALLEL
from gen_jax.parallel.processes import gather
from gen_jax.runs.checkpoint import Checkpoints
from gen_jax.runs.restore import load
from gen_jax.training.program import Program

STEPS = 20
MIXED = (("(.*MLP_0/)?Dense_0/kernel", (None, "model")), ("(.*MLP_0/)?Dense_0/bias", ("model",)), *FSDP)
# model, rules, data x fsdp x model devices
CASES = {
    "vae": ("vae", MIXED, (1, 2, 2)),
    "vae_fsdp": ("vae", FSDP, (2, 2, 1)),
    "gan": ("gan", MIXED, (2, 1, 2)),
    "gan_fsdp": ("gan", FSDP, (1, 4, 1)),
    "transformer": ("transformer", TENSOR_PARALLEL, (2, 1, 2)),
    "transformer_fsdp": ("transformer", FSDP, (1, 4, 1)),
    "transformer_both": ("transformer", TENSOR_PARALLEL, (1, 2, 2)),
    "transformer_rows_on_all": ("transformer", TENSOR_PARALLEL, (1, 1, 4)),  # the axis "model" spans the processes
}


def program(case: str) -> Program:
    model, rules, (data, fsdp, width) = CASES[case]
    flags = ("steps_per_call=1", f"total_steps={STEPS}", f"mesh.fsdp={fsdp}", f"mesh.model={width}")
    experiment = smoke(SMALLEST[model], *flags, devices=data)
    return Program(experiment.model_copy(update={"sharding": rules}))


def trained(program: Program) -> tuple[State, list[dict[str, float]]]:
    """The state after the steps, and what each of them measured."""
    state, seen = program.init(), []
    for step in range(STEPS):
        state, metrics = program.step(state, step)
        seen.append({name: float(m.total[0] / m.weight[0]) for name, m in jax.device_get(metrics).items()})
    return state, seen


def save(state: State, folder: Path) -> None:
    with Checkpoints(folder, keep=1, hash_limit_mb=100) as checkpoints:
        checkpoints.save(STEPS, state, {})


def restored(program: Program, folder: Path) -> list[np.ndarray]:
    """The leaves of a checkpoint, as the program lays them out."""
    return [gather(leaf) for leaf in jax.tree.leaves(load(folder, program.abstract)[1])]


def free_address() -> str:
    """HOST:PORT that nobody listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def two_processes(script: Path, *arguments: str) -> None:
    """`script ADDRESS RANK ARGUMENTS` twice, until both have ended well."""
    address = free_address()
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([sys.executable, str(script), address, str(rank), *arguments], env=env, cwd=ROOT)
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=500) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


if __name__ == "__main__":
    jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
    for case in sys.argv[4:]:
        folder, built = Path(sys.argv[3]) / case, program(case)
        sums = [float(np.sum(leaf, dtype=np.float64)) for leaf in restored(built, folder / "one")]
        state, seen = trained(built)
        save(state, folder / "two")
        if jax.process_index() == 0:
            (folder / "two.json").write_text(json.dumps({"restored": sums, "seen": seen}))
