"""`gen-jax list`, what it says of fields, and models, sources and evaluators outside the package."""

import json
from typing import Annotated, Literal

import numpy as np
import pytest
from members import ROOT, SMALLEST
from pydantic import Field

import gen_jax.models
from gen_jax import cli, config, config_file, data, evaluators
from gen_jax.core import optim
from gen_jax.errors import ConfigError
from gen_jax.evaluators.evaluator import EvalConfig
from gen_jax.features import choice
from gen_jax.io import field_text, modules
from gen_jax.runs.run_dir import RunDir
from gen_jax.settings import Count, Decay, Few, Number, Positive, PositiveFloat, Regex, Settings, Widths
from gen_jax.train import train

SECTIONS = {
    "models": [config.model_module(name).Config for name in modules.names(gen_jax.models)],
    "data": [data.sources.module(name).Config for name in data.sources.known()],
    "evaluators": [evaluators.module(name).Config for name in modules.names(evaluators)],
    "others": [config.Experiment, optim.Config, choice.Config],
}


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_field_has_a_description(kind):
    rows = [
        (section.__module__, row.key, row.description) for section in SECTIONS[kind] for row in field_text.rows(section)
    ]
    assert len(rows) > 20
    assert not [row[:2] for row in rows if not row[2].endswith((".", ")"))]


class Inner(Settings):
    """A section in a section."""

    rate: PositiveFloat = 0.5
    """Of the inner one."""


class Outer(Settings):
    """Fields of many kinds."""

    width: Positive
    """Needed.

    More of it."""
    few: Few = 3
    decay: Decay = 0.0
    pattern: Regex = ""
    widths: Widths = (1, 2)
    kind: Literal["a", "b"] = "a"
    end: Count | None = None
    shape: tuple[Positive, Positive] = (1, 2)
    level: Annotated[Number, Field(gt=0, le=1)] = 1.0
    inner: Inner = Inner()


def test_fields_as_text():
    rows = {row.key: row for row in field_text.rows(Outer)}
    assert rows["width"] == ("width", "int > 0", "required", "Needed.\n\nMore of it.")
    assert {key: row.type for key, row in rows.items()} == {
        "width": "int > 0",
        "few": "int > 0, <= 1000",
        "decay": "float >= 0, < 1",
        "pattern": "str",
        "widths": "tuple of int > 0",
        "kind": "'a' | 'b'",
        "end": "int >= 0 | None",
        "shape": "tuple[int > 0, int > 0]",
        "level": "float > 0, <= 1",
        "inner.rate": "float > 0",
    }
    assert rows["inner.rate"].default == "0.5" and rows["inner.rate"].description == "Of the inner one."
    assert field_text.required(Outer) == ["width"]
    assert field_text.summary(rows["width"].description) == "Needed."


def listed(capsys, *words):
    cli.main(["list", *words])
    return capsys.readouterr().out


def test_it_lists_all_names(capsys):
    out = listed(capsys)
    known = [
        *modules.names(gen_jax.models),
        *data.sources.known(),
        *modules.names(evaluators),
        *config_file.experiments(),
    ]
    words = {line.split()[0] for line in out.splitlines()}
    assert {*known, *optim.RULES} <= words
    assert "linear_ar" in out and "Needs data_dim." in next(line for line in out.splitlines() if "  linear_ar " in line)


def test_it_lists_the_fields_of_one(capsys):
    assert "warmup: int >= 0  = 0" in listed(capsys, "optimizers", "adamw")
    out = listed(capsys, "optimizers", "lion")
    assert "b2: float >= 0, < 1 | None  = 0.99" in out and "\neps:" not in out
    assert "features.recipe.epochs: int > 0, <= 1000  = 8\n    Passes over" in listed(
        capsys, "evaluators", "generation"
    )
    assert "path: str  required" in listed(capsys, "data", "npz")
    fields, options = listed(capsys, "models", "vae").split("\n\nsampling:\n")
    assert "latent: int > 0  = 50" in fields and "temperature: float >= 0  = 1.0\n    Scales the noise" in options
    assert listed(capsys, "configs", "vae/digits").startswith("The quickstart:")


@pytest.mark.parametrize(
    "words, says",
    [
        (("models", "vea"), "models: unknown name 'vea'; did you mean vae?"),
        (("data", "digit"), "data: unknown name 'digit'; did you mean digits?"),
        (("evaluators", ""), "evaluators: unknown name ''; known: active_units, "),
        (("configs", "vae/digit"), "configs: no file vae/digit; did you mean vae/digits?"),
        (("configs", str(ROOT / "docs/images/README.md")), "configs: no file "),
        (("configs", str(ROOT / "LICENSE")), "LICENSE:2: IndentationError: "),
        (("optimizers", "adm"), "optimizers: unknown name 'adm'; did you mean adam?"),
        (("models", "vae", "extra"), "unknown argument extra"),
        (("model",), "invalid choice: 'model'"),
    ],
)
def test_a_wrong_name_is_one_line(words, says, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["list", *words])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and says in error and error.count("\n") == 1


MODEL = '''"""A VAE with another default."""
from gen_jax.models import vae
from gen_jax.settings import Positive

class Config(vae.Config):
    """A smaller latent."""
    latent: Positive = 3
    """Numbers of mine."""

Sampling, from_config = vae.Sampling, vae.from_config
'''
EVALUATOR = '''"""Counts examples."""
from gen_jax.evaluators import evaluator

class Config(evaluator.EvalConfig):
    """No fields."""

def from_config(cfg, context):
    def evaluate(state):
        return evaluator.Report({"examples": float(context.size(cfg.split))})
    return evaluator.Evaluator(evaluate)
'''
SOURCE = '''"""The digits, upside down."""
from gen_jax.data.source import ExampleSource
from gen_jax.data.sources import digits

class Config(ExampleSource):
    """Fields of the digits."""
    size: int = 8
    """Pixels a side."""

def load(cfg, seed):
    return digits.load(digits.Config(source="digits", size=cfg.size), seed)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder, which is the current one, with a model, an evaluator and a source."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_model.py").write_text(MODEL)
    (tmp_path / "my_pkg/count.py").write_text(EVALUATOR)
    (tmp_path / "my_pkg/upside.py").write_text(SOURCE)
    return tmp_path


def own_flags(*flags):
    names = [
        "model_name=./my_model.py",
        "data.source=my_pkg.upside",
        "evals.own.type=my_pkg.count",
        "evals.own.split=train",
    ]
    return [f"--config.{flag}" for flag in (*names, "mesh.data=1", *flags)]


def test_a_model_a_source_and_an_evaluator_of_the_users_own_train(own):
    base = str(ROOT / SMALLEST["vae"])
    loaded = config.load(
        f"{base}:smoke", [*own_flags(), "--config.evals.pictures.when=end", "--config.data.order=permuted"]
    )
    assert type(loaded.model).__name__ == "Config" and "my_model" in type(loaded.model).__module__ + loaded.model_name
    train(loaded, own / "run")
    rows = RunDir(own / "run").rows()
    assert rows[-1]["train_eval/examples"] == 1437
    assert config.resolve(json.loads((own / "run/config.json").read_text())) == loaded


def test_they_are_listed_like_ours(own, capsys):
    (own / "mine.py").write_text('"""A config of mine."""\n1 / 0')
    assert listed(capsys, "configs", "./mine.py") == "A config of mine.\n"  # it is not run
    out = listed(capsys, "models", "./my_model.py")
    assert "latent: int > 0  = 3\n    Numbers of mine." in out and out.startswith("A VAE with another default.")
    assert "size: int  = 8" in listed(capsys, "data", "my_pkg.upside")


@pytest.mark.parametrize(
    "name, says",
    [
        ("./nowhere.py", r"config\.model_name: there is no file './nowhere\.py'"),
        (
            "my_pkg.nowhere",
            r"config\.model_name: there is no module my_pkg\.nowhere on Python's path or in this folder",
        ),
        ("nopkg.nowhere", r"config\.model_name: there is no module nopkg\.nowhere"),
        ("./bare.py", r"config\.model_name: \./bare\.py: expected a class Config\(ModelConfig\), found none"),
        ("./half.py", r"config\.model_name: \./half\.py: expected a function from_config, found none"),
        ("./broken.py", r"config\.model_name: .*/broken\.py:1: ZeroDivisionError"),
        ("fails.inner", r"config\.model_name: fails\.inner: ZeroDivisionError: division by zero"),
        ("lacks.inner", r"config\.model_name: lacks\.inner: ModuleNotFoundError: No module named 'no_such_package'"),
        ("my_pkg.upside.inner", r"config\.model_name: .*my_pkg\.upside"),
        ("__main__.inner", r"config\.model_name: .*__main__\.inner"),
        (
            "./samples.py",
            r"config\.model_name: \./samples\.py: expected a class Sampling\(sampling\.Sampling\), found ",
        ),
        ("./spelt.py", r"config\.model_name: .*/spelt\.py:1: SyntaxError"),
        ("my_pkg.upside", r"config\.model_name: my_pkg\.upside: expected a class Config\(ModelConfig\), found none"),
        ("v a.e", r"config\.model_name: unknown name 'v a\.e'; did you mean vae"),
        (7, r"config\.model_name: unknown name 7"),
    ],
)
def test_what_is_wrong_with_one_is_one_line(own, name, says):
    (own / "bare.py").write_text("x = 1")
    for package, text in (("fails", "1 / 0"), ("lacks", "import no_such_package")):
        (own / package).mkdir()
        (own / package / "__init__.py").write_text(text)
    (own / "samples.py").write_text(
        MODEL.replace("Sampling, from_config = vae.Sampling,", "Sampling, from_config = dict,")
    )
    (own / "half.py").write_text("from gen_jax.models.vae import Config")
    (own / "broken.py").write_text("x = 1 / 0")
    (own / "spelt.py").write_text("x = = 1")
    for _ in range(2):  # also where Python has kept a part of it
        with pytest.raises(ConfigError, match="^" + says):
            config.model_module(name)


def test_what_one_prints_is_for_people(own, capsys):
    (own / "says.py").write_text("print('hello')\n" + MODEL)
    config.model_module("./says.py")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "hello\n")


def test_an_evaluator_must_derive_from_ours(own):
    with pytest.raises(
        ConfigError, match=r"^config.evals.own.type: ./my_model.py: expected a class Config\(EvalConfig\)"
    ):
        evaluators.parse({"type": "./my_model.py"}, "config.evals.own")


def test_a_module_is_loaded_once(own):
    assert config.model_module("./my_model.py") is config.model_module(str(own / "my_model.py"))
    assert np.prod(config.model_module("./my_model.py").Config().image) == 784
    assert issubclass(evaluators.module("mean").Config, EvalConfig)
