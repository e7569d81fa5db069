"""The pages in launch/ say nothing that does not work: their commands are accepted, their flags and numbers are so."""

import re
import shlex

import jobset
import launcher
import pytest
import slurm
from members import ROOT

from gen_jax import cli, config
from gen_jax.parallel import distributed

PAGES = {path.name: path.read_text() for path in sorted((ROOT / "launch").glob("*.md"))}
COMMANDS = [
    line.partition("  #")[0]
    for text in PAGES.values()
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
SCRIPTS = {"launch/slurm.py": slurm, "launch/jobset.py": jobset}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_accepted(line, capsys):
    program, *words = shlex.split(line)
    if program == "python":
        SCRIPTS[words[0]].main(["--dry_run", *words[1:]])
        assert capsys.readouterr().out.startswith(("#!/bin/bash\n", "apiVersion: "))
    elif program == "gen-jax" or words[0] == "launch/local.sh":
        _, args, overrides = cli.parse(words[words[0] == "launch/local.sh" :])
        config.load(args.config, overrides)
        if hasattr(args, "coordinator"):
            distributed.check(args)
    else:
        assert program in ("docker", "kubectl")


@pytest.mark.parametrize(("page", "script"), [("slurm.md", slurm), ("kubernetes.md", jobset)])
def test_flags_and_numbers_are_those_of_the_script(page, script):
    options = script.parser()._option_string_actions
    quoted = {found.partition("=")[0] for found in re.findall(r"`(--\w[^`]*)`", PAGES[page])}
    elsewhere = {"--workers", "--"}
    assert quoted - elsewhere <= set(options) and len(quoted) > 5
    for name, value in re.findall(r"`(--\w+)` \((\d+)\)", PAGES[page]):
        assert options[name].default == int(value)
    rows = [*map(str, launcher.RESUMED), ", ".join(map(str, launcher.RESTARTED))]
    assert all(f"\n| {codes}" in PAGES[page] for codes in rows)


def test_a_page_is_short():
    assert set(PAGES) == {"local.md", "slurm.md", "kubernetes.md"}
    assert all(len(text.splitlines()) <= 45 and max(map(len, text.splitlines())) < 200 for text in PAGES.values())
