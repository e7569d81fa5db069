"""`python killed.py WHERE N ARG...`: `gen-jax ARG...`, killed with SIGKILL at the N-th call of WHERE, if not `never`.

WHERE: `step` before a dispatch, `seeds` before one of several seeds, `save` while a checkpoint's arrays are being
written, `manifest` after they are committed and before the checkpoint counts, `upload` just before that, on `gs://`,
`evaluated` when an evaluation's row is written and its end is not recorded yet. At
`sleep`, before a dispatch, and at `sleep_in_save`, where `manifest` is, it is not killed but sleeps for ever.
"""

import os
import signal
import sys
import time
from typing import Any

from gen_jax import cli
from gen_jax.io import gcs
from gen_jax.runs import step_dirs
from gen_jax.runs.checkpoint import Checkpoints
from gen_jax.training.program import Program
from gen_jax.training.seeds import Seeds

PLACES: dict[str, tuple[Any, str]] = {
    "step": (Program, "step"),
    "seeds": (Seeds, "step"),
    "sleep": (Program, "step"),
    "sleep_in_save": (step_dirs, "fingerprint"),
    "save": (Checkpoints, "save"),
    "evaluated": (Checkpoints, "record"),
    "upload": (gcs._Spool, "upload"),
    "manifest": (step_dirs, "fingerprint"),
}


def asleep() -> None:
    time.sleep(10**6)


def kill_at(where: str, number: int) -> None:
    owner, name = PLACES[where]
    original, calls = getattr(owner, name), []

    def wrapper(*args):
        calls.append(1)
        result = original(*args) if where == "save" or len(calls) < number else None
        if len(calls) == number and where.startswith("sleep"):
            asleep()
        elif len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapper)


if __name__ == "__main__":
    if sys.argv[1] != "never":
        kill_at(sys.argv[1], int(sys.argv[2]))
    cli.main(sys.argv[3:])
