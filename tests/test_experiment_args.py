"""The part after the colon of `--config=FILE.py:ARG`: what `ARGS` of the file declares, and nothing else."""

import pytest
from members import CONFIGS, ROOT, variants

from gen_jax import cli, config_file
from gen_jax.errors import ConfigError

FILE = """from ml_collections import ConfigDict
ARGS = {args}
def get_config(arg):
    return ConfigDict(vars(arg))
"""
ARGS = dict(smoke=False, size=("s", "m"), run="runs/a", k=1)


def file(folder, args=ARGS) -> str:
    path = folder / "c.py"
    path.write_text(FILE.format(args=args))
    return str(path)


@pytest.mark.parametrize(
    ("arg", "values"),
    [
        ("", dict(smoke=False, size="s", run="runs/a", k=1)),
        ("smoke", dict(smoke=True, size="s", run="runs/a", k=1)),
        ("size=m,k=12", dict(smoke=False, size="m", run="runs/a", k=12)),
        ("run=gs://b/r=1,smoke", dict(smoke=True, size="s", run="gs://b/r=1", k=1)),
    ],
)
def test_what_is_declared_reaches_the_config(arg, values, tmp_path):
    assert config_file.read(f"{file(tmp_path)}:{arg}") == config_file.argument(f"{file(tmp_path)}:{arg}") == values


@pytest.mark.parametrize(
    "arg", ["smok", "smoke=1", "smoke=", "size", "size=l", "k=x", "k=-1", "k=" + "9" * 5_000, "run=", "=", "__class__"]
)
def test_what_is_not_is_refused_and_the_known_are_listed(arg, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown argument '.*; known: smoke, size=s\|m, run=TEXT, k=INTEGER$"):
        config_file.read(f"{file(tmp_path)}:{arg}")


def test_one_argument_has_one_value(tmp_path):
    with pytest.raises(ConfigError, match=r"c\.py: the argument k is given twice$"):
        config_file.read(f"{file(tmp_path)}:k=2,k=3")


def test_a_config_without_a_declaration_takes_none(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(FILE.replace("ARGS = {args}\n", ""))
    assert config_file.read(str(path)) == {}
    with pytest.raises(ConfigError, match=r"unknown argument 'smoke'; known: none$"):
        config_file.read(f"{path}:smoke")


@pytest.mark.parametrize(
    "args", ["('smoke',)", dict(smoke=True), dict(size=()), dict(size=(1, 2)), dict(a=1.5), {1: False}]
)
def test_a_wrong_declaration_is_one_line(args, tmp_path):
    with pytest.raises(
        ConfigError, match=r"c\.py: ARGS: expected names with False, an integer, a text or a tuple of texts, got"
    ):
        config_file.read(file(tmp_path, args))


def test_the_user_sees_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["check", "--config=experiments/vae/digits.py:smok"])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said == "gen-jax: --config: experiments/vae/digits.py: unknown argument 'smok'; known: smoke\n"


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_has_a_smoke_and_each_argument_changes_it(path):
    plain, *others = [config_file.read(str(ROOT / spec)) for spec in [*variants(path, files="there"), f"{path}:smoke"]]
    assert config_file.arguments(path)["smoke"] is False
    assert plain not in others
