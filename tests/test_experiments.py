"""Every config: its smoke version trains, evaluates, draws and saves; its header has its command."""

import ast
import json
from pathlib import Path

import pytest
from members import CONFIGS, QUICK, ROOT, SMALLEST, VARIANTS, smoke, some_slow, variants

from gen_jax import config, config_file
from gen_jax.results import expected
from gen_jax.runs import metric_tags
from gen_jax.runs.run_dir import RunDir
from gen_jax.settings import defaulted
from gen_jax.train import train

# one config of each family, and those that take a second; the rest are as quick, but there are many
AT_ONCE = {SMALLEST[name] for name in QUICK | {"diffusion", "vaegan", "vqvae"}}


@pytest.mark.parametrize("path", some_slow(VARIANTS, AT_ONCE))
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
    known = {metric_tags.name_of(tag) for row in rows for tag in row}
    one = expected.find(path)
    assert not one or known >= {metric.metric for metric in one.metrics}
    assert config.resolve(json.loads(run.config_file.read_text())) == experiment


@pytest.mark.parametrize("path", VARIANTS)
def test_a_config_resolves_and_needs_no_data_of_this_machine(path):
    experiment = config.load(path, [])
    assert getattr(experiment.data, "data_dir", "") == ""
    assert experiment.total_steps > 0


def restated(spec: str) -> set[str]:
    """The keys that a config gives although they have that value anyway."""
    given = flat(config_file.read(spec))
    fields = defaulted(config.load(spec, []))
    picks = (".source", ".type")  # the class that the fields belong to
    fields = [one for one in fields if one.key in given and not one.key.endswith(picks)]
    return {one.key for one in fields if one.value == one.default}


def flat(section: dict, prefix: str = "") -> set[str]:
    keys = {f"{prefix}{key}" for key in section}
    inner = [flat(value, f"{prefix}{key}.") for key, value in section.items() if isinstance(value, dict)]
    return keys.union(*inner)


@pytest.mark.parametrize("path", CONFIGS)
def test_a_config_restates_no_default(path):
    """A value may be the default under one argument of the config and another one under the next."""
    assert not set.intersection(*map(restated, variants(path, files="there")))


def test_the_rule_finds_what_is_restated(tmp_path):
    file = tmp_path / "c.py"
    text = (ROOT / "experiments/vae/digits.py").read_text()
    file.write_text(
        text.replace("    return smoke", "    c.optim.net.lr, c.mesh = 1e-3, dict(data=-1)\n    return smoke")
    )
    assert restated(str(file)) == {"optim.net.lr", "mesh.data"}


@pytest.mark.parametrize("path", CONFIGS)
def test_the_header_has_a_command(path):
    header = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
    assert f"gen-jax train --config={path}" in header or f"gen-jax bench --config={path}" in header


def test_every_folder_of_experiments_is_found():
    folders = {Path(path).parent.name for path in CONFIGS}
    assert {"vae", "vqvae", "gan", "lstm"} <= folders
