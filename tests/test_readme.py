"""README.md says nothing that does not work: its commands parse, its files exist, its example model trains."""

import importlib
import re
import shlex
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from members import ROOT

import gen_jax.models
from gen_jax import cli, config, data
from gen_jax.core.gradients import Optimizer
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train

TEXT = (ROOT / "README.md").read_text()
EXAMPLE = "experiments/vae/digits_belief.py"


def blocks(language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every line that starts with `gen-jax`, but those with a placeholder."""
    shell = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`(gen-jax [^`]+)`", TEXT)
    lines = [line[line.index("gen-jax ") :] for line in shell + inline if "gen-jax " in line]
    return sorted({line for line in lines if not re.search(r"\b(COMMAND|PATH_OR_NAME)\b", line)})


def override_flags() -> list[str]:
    """The `--config...` flags that stand outside of a whole command, as in the table."""
    flags = {flag for cell in re.findall(r"`(--config\.[^`]+)`", TEXT) for flag in shlex.split(cell)}
    return sorted(flags - {"--config.key=value"})


def test_there_is_something_to_check():
    assert len(commands()) > 20
    assert len(override_flags()) > 10
    assert {line.split()[1] for line in commands()} == set(cli.COMMANDS)


@pytest.mark.parametrize("line", commands())
def test_a_command_parses(line):
    _, name, *words = shlex.split(line, comments=True)
    assert name in cli.COMMANDS
    if not words or words == ["prepare"]:
        return  # a mention
    parser = cli.Parser(prog="gen-jax", allow_abbrev=False)
    importlib.import_module(f"gen_jax.commands.{name}").add_arguments(parser)
    args, rest = parser.parse_known_args(words)
    spec = getattr(args, "config", None)
    overrides = cli._overrides(rest, takes=spec is not None)
    if spec and spec.split(":")[0] != EXAMPLE:
        config.load(spec, overrides)


@pytest.mark.parametrize("flag", override_flags())
def test_a_flag_fits_a_config(flag):
    metric = "--config.best.metric=val/elbo"  # without it a patience is refused
    resolved = config.load("experiments/vae/digits.py", [metric, flag])
    *path, last = flag.removeprefix("--config.").partition("=")[0].split(".")
    section = resolved
    for name in path:
        section = section[name] if isinstance(section, dict) else getattr(section, name)
    assert last in section if isinstance(section, dict) else hasattr(section, last)


def test_what_it_names_is_there():
    named = re.findall(r"`((?:gen_jax|experiments|launch|tests)/[\w/.]+\.\w+)`", TEXT)
    named += re.findall(r"\]\(([\w/.]+)\)", TEXT) + re.findall(r"^bash (\S+)", TEXT, re.MULTILINE)
    assert len(named) > 8
    written_by_the_reader = {"gen_jax/models/sigmoid_belief.py", EXAMPLE}
    assert not [name for name in named if name not in written_by_the_reader and not (ROOT / name).exists()]


def test_every_config_has_a_row_of_results():
    rows = set(re.findall(r"^\| `(\w+/\w+\.py)`", TEXT, re.MULTILINE))
    assert rows == {str(path.relative_to(ROOT / "experiments")) for path in ROOT.glob("experiments/*/*.py")}


def test_the_extras_are_those_of_the_package():
    project = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("[project")[0]
    table = TEXT.split("| extra |")[1].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(re.findall(r"^(\w+) =", project, re.MULTILINE))


def test_the_data_sections_are_valid():
    sections = "".join(block for block in blocks("python") if block.startswith("c.data"))
    lines = [line.removeprefix("c.data = ") for line in sections.splitlines()]
    sources = {data.parse(eval(line, {"dict": dict})).source for line in lines}
    assert sources == {"npz", "image_folder", "text_file", "tfds", "token_file", "pairs", "wav_folder", "unpaired"}


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The example's model where models are looked for, and its config file."""
    model = next(block for block in blocks("python") if "class Config(Settings)" in block)
    file = next(block for block in blocks("python") if EXAMPLE in block)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/sigmoid_belief.py").write_text(model)
    (tmp_path / "digits_belief.py").write_text(file)
    monkeypatch.setattr(gen_jax.models, "__path__", [*gen_jax.models.__path__, str(tmp_path / "models")])
    yield tmp_path / "digits_belief.py", len([line for line in model.splitlines() if line.strip()])
    sys.modules.pop("gen_jax.models.sigmoid_belief", None)
    vars(gen_jax.models).pop("sigmoid_belief", None)


def test_the_example_model_has_40_lines_and_learns(example, workdir):
    file, lines = example
    assert lines <= 40
    loaded = config.load(str(file), ["--config.mesh.data=1", "--config.total_steps=60", "--config.log_every=20"])
    train(loaded, workdir)
    run = RunDir(workdir)
    losses = [row["train/loss"] for row in run.rows()]
    assert losses[-1] < losses[0] - 1
    assert run.rows()[-1]["test/log_prob"] == -run.rows()[-1]["test/loss"]
    assert (run.samples / "test_samples_00000060.png").exists()


def test_the_example_model_has_the_likelihood_that_it_says(example):
    """The probabilities of all 16 images of 2x2 bits add up to 1: no pixel sees itself or a later one."""
    module = config.model_module("sigmoid_belief")
    rng = np.random.default_rng(0)
    variables = {"params": {"kernel": rng.normal(size=(4, 4)), "bias": rng.normal(size=4)}}
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)
    model = module.from_config(module.Config(image=(2, 2, 1)), {"net": Optimizer(optax.identity())})
    bits = np.array([[i >> k & 1 for k in range(4)] for i in range(16)], np.uint8).reshape(16, 2, 2, 1)
    batch = {"image": jnp.asarray(255 * bits)}
    terms = model.terms(variables, batch, jax.random.key(0), step=jnp.zeros((), jnp.int32), train=False)
    np.testing.assert_allclose(np.exp(terms.means["log_prob"].total).sum(), 1, rtol=1e-5)
