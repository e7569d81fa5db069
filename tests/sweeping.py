"""Configs to sweep over, and sweeps that train with `fake_trainer.py`."""

import sys
import time
from pathlib import Path

import pytest
from members import ROOT

from gen_jax.sweeps.definition import Search, definition
from gen_jax.sweeps.sweep import Sweep

FAKE = (sys.executable, "-S", str(ROOT / "tests/fake_trainer.py"))


GRID = """
    s.minimize("val/elbo")
    s.choice("optim.net.lr", (1e-4, 1e-3, 1e-2))
    s.choice("model.latent", (16, 32, 64))
"""


THREE = """
    s.minimize("val/elbo")
    s.choice("model.latent", (16, 32, 64))
"""


RANGES = """
    s.minimize("val/elbo")
    s.log_uniform("optim.net.lr", 1e-5, 1e-1)
    s.choice("model.latent", (16, 32, 64, 128, 256))
"""


def config_with(folder: Path, body: str) -> str:
    """A config file: the digits' smoke config, and a sweep of these lines."""
    path = folder / "config.py"
    start = f"import runpy\nglobals().update(runpy.run_path({str(ROOT / 'experiments/vae/digits.py')!r}))\n"
    path.write_text(f"{start}\ndef sweep(s):{body}\n")
    return f"{path}:smoke"


@pytest.fixture
def sweep(tmp_path):
    """Makes a sweep of fake trials of 8 steps."""

    def make(body=GRID, search: Search = "grid", folder="d", steps=8, flags=(), **options):
        steps_flags = [
            f"--config.{key}" for key in (f"total_steps={steps}", "eval_every=1", "steps_per_call=1", *flags)
        ]
        made = definition(config_with(tmp_path, body), steps_flags, search)
        return Sweep(made, tmp_path / folder, command=FAKE, poll=0.01, **options)

    return make


def starts(sweep: Sweep) -> list[int]:
    """How often each trial was started."""
    return [len(file.read_text().split()) for file in sorted(sweep.path.glob("trials/*/starts"))]


def wait_for(path: Path, seconds: float = 120) -> bool:
    """Until a file is there; False: it did not come."""
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return path.exists()
