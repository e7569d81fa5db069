"""The container recipe: what it copies is there, what it installs is pinned, and it is not root who runs."""

import json
import re
import tomllib

import jobset
import launcher
from members import ROOT

LINES = (ROOT / "launch/Dockerfile").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(name: str) -> list[str]:
    """What follows each instruction of a name, in order."""
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def test_every_line_is_an_instruction():
    known = ("#", "FROM ", "ARG ", "RUN ", "WORKDIR ", "COPY ", "ENV ", "USER ", "ENTRYPOINT ")
    assert [line for line in LINES if line and not line.startswith(known)] == []
    assert next(line for line in LINES if not line.startswith("#")).startswith("FROM python:3.")


def test_what_is_copied_is_there_and_not_ignored():
    sources = [source for line in instructions("COPY") for source in line.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    ignored, *kept = (ROOT / "launch/Dockerfile.dockerignore").read_text().splitlines()
    assert ignored == "*"
    assert {line[1:] for line in kept if line.startswith("!")} == set(sources)
    built = {"gen_jax", "experiments", PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "setup.py"}
    assert built | {"constraints/py313.txt"} == set(sources)


def test_it_installs_the_pins_and_an_extra_that_is_there():
    (install,) = (line for line in instructions("RUN") if line.startswith("pip "))
    assert "--constraint py313.txt" in install and '".${EXTRA:+[$EXTRA]}"' in install
    assert not re.search(r"index|://", install)
    (default,) = (line.removeprefix("EXTRA=") for line in instructions("ARG"))
    named = re.findall(r"\b(?:cuda|tpu)\w*", LINES[0])
    assert default in named and set(named) <= PROJECT["optional-dependencies"].keys()
    for python, jax in (("311", "0.10.2"), ("313", "0.12.0.1")):
        pins = (ROOT / f"constraints/py{python}.txt").read_text().splitlines()
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins) and f"jax=={jax}" in pins


def test_it_runs_gen_jax_as_a_user():
    (user,), (entry,) = instructions("USER"), instructions("ENTRYPOINT")
    assert user == str(jobset.USER) and f"--uid {user} " in "".join(instructions("RUN"))
    assert json.loads(entry) == ["gen-jax"] and "gen-jax" in PROJECT["scripts"]


def test_all_launchers_set_malloc_up_alike():
    exported = re.findall(r"^export (.+)", (ROOT / "launch/env.sh").read_text(), re.MULTILINE)
    for line in (*instructions("ENV"), *exported):
        assert {name: int(value) for name, value in (word.split("=") for word in line.split())} == launcher.MALLOC
    assert len(instructions("ENV")) == len(exported) == 1
