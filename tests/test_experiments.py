"""Every config: its smoke version trains, evaluates, draws and saves; its header says what it is and how it went."""

import ast
import json
from pathlib import Path

import pytest
from members import CONFIGS, ROOT, SMALLEST, smoke

from gen_jax import config
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train

# one config of each model; the rest are as quick, but there are many
AT_ONCE = set(SMALLEST.values())


@pytest.mark.parametrize(
    "path", [path if path in AT_ONCE else pytest.param(path, marks=pytest.mark.slow) for path in CONFIGS]
)
def test_smoke(path, tmp_path):
    experiment = smoke(path)
    state = train(experiment, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    assert int(state.step) == experiment.total_steps
    assert run.status()["state"] == "done"
    rows = run.rows()
    assert rows[-1]["step"] == experiment.total_steps
    assert all(value is not None for row in rows for value in row.values())
    if experiment.evals:
        assert any(not key.startswith(("train/", "step")) for key in rows[-1])
    assert config.resolve(json.loads(run.config_file.read_text())) == experiment


@pytest.mark.parametrize("path", CONFIGS)
def test_the_default_resolves_and_needs_no_data_of_this_machine(path):
    experiment = config.load(path, [])
    assert getattr(experiment.data, "data_dir", "") == ""
    assert experiment.total_steps > 0


@pytest.mark.parametrize("path", CONFIGS)
def test_the_header_has_command_minutes_and_number(path):
    header = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
    assert f"gen-jax train --config={path}" in header or f"gen-jax bench --config={path}" in header
    assert "2 cores" in header
    assert "__" not in header, "the number has not been filled in"
    assert any(ch.isdigit() for ch in header.split("2 cores", 1)[1]), "no number behind the time"


def test_every_folder_of_experiments_is_found():
    folders = {Path(path).parent.name for path in CONFIGS}
    assert {"vae", "vqvae", "gan", "lstm"} <= folders
