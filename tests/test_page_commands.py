"""Every command of README.md and docs/ runs, small, in the order that it needs, or NOT_RUN says why it does not."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from members import CONFIGS, ROOT
from pages import commands
from PIL import Image

from gen_jax import cli

NOT_RUN = {  # a regex of commands, and why
    r"pip install|-m venv|pre-commit": "installs packages",
    r"^bash launch/(quickstart|test|docs)\.sh": "installs packages; .ci/run runs what they run",
    r"^tensorboard ": "a server",
    r"data prepare": "needs TensorFlow and a download; tests/test_tfds_files.py",
    r"--coordinator=": "needs two hosts; tests/test_distributed.py",
    r"--num_processes=": "starts processes; tests/test_distributed.py",
    r"^gen-jax plan": "needs the TPU compiler for minutes; tests/test_plan_command.py",
    r"^gen-jax sweep": "trains for minutes; tests/test_sweep_command.py",
    r"^gen-jax reproduce": "trains a whole config; tests/test_results.py",
    r"--format=huggingface": "needs a run shaped as GPT-2; tests/test_export.py",
    r"^gen-jax replay": "needs a run that diverged; tests/test_nonfinite.py",
    r"digits_belief": "tests/test_readme.py trains it",
    r"^python launch/": "needs a cluster; test_a_launcher_accepts_it submits nothing",
}
RUN = [line for line in commands() if not any(re.search(pattern, line) for pattern in NOT_RUN)]
TRAINED = {  # run directory -> the first command that makes it
    re.search(r"--workdir=(\S+)", line)[1]: line for line in reversed(RUN) if "gen-jax train" in line
}


def smoke(found: re.Match) -> str:
    return f"{found[1]}{found[2]},smoke" if found[2] else f"{found[1]}:smoke"


def smaller(line: str) -> list[str]:
    """The words of a command: the smoke version of its config, the latest step, no overrides, few samples."""
    words = shlex.split(line[line.index("gen-jax ") :])[1:]
    words = [word for word in words if not word.startswith("--config.")]
    words = [re.sub(r"^(--config=[^:]+)(:(?:kind|model)=\w+)?([:,].*)?$", smoke, word) for word in words]
    words = [
        re.sub(r"^--(length|n|seconds)=.*", r"--\1=2", re.sub(r"^--step=\d+", "--step=latest", word)) for word in words
    ]
    return [*words, "--config.mesh.data=1"] if any(word.startswith("--config=") for word in words) else words


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the files that the pages name."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("books/one.txt", "books/two.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("a book of words about words\n" * 400)
    (folder / "photos/new").mkdir(parents=True)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "photos/new/one.png")
    return folder


def test_a_command_runs_or_says_why_not():
    unused = [pattern for pattern in NOT_RUN if not any(re.search(pattern, line) for line in commands())]
    assert not unused and len(RUN) > 40
    assert {line.split()[0] for line in RUN if "XLA_FLAGS" not in line} == {"gen-jax"}
    for reason in NOT_RUN.values():
        assert all((ROOT / name).exists() for name in re.findall(r"tests/\w+\.py", reason)), reason


def test_every_config_of_a_command_is_trained_by_the_test_of_configs():
    """tests/test_experiments.py trains the smoke version of all CONFIGS: so those here need not be trained always."""
    named = {f"experiments/{name}.py" for line in RUN for name in re.findall(r"--config=([^:\s]+)", line)}
    assert named <= {*CONFIGS}


@pytest.mark.slow
@pytest.mark.parametrize("line", RUN)
def test_a_command_runs(line, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    workdirs = re.findall(r"(?:--workdir=|:run=|\s)((?:runs)/\w+)", line)
    for workdir in workdirs:
        if "gen-jax train" not in line and not Path(workdir).exists():
            cli.main(smaller(TRAINED[workdir]))
    cli.main(smaller(line))
    assert capsys.readouterr().out


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("python launch/")])
def test_a_launcher_accepts_it(line, capsys):
    import jobset
    import slurm

    _, script, *words = shlex.split(line)
    {"launch/slurm.py": slurm, "launch/jobset.py": jobset}[script].main(["--dry_run", *words])
    assert capsys.readouterr().out.startswith(("#!/bin/bash\n", "apiVersion: "))
