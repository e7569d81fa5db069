"""Imports point one way, folder by folder: the code is parsed, so a forbidden import fails even inside a function."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "gen_jax"
FILES = sorted(ROOT.rglob("*.py"))
# folder, or file beside them -> what its files may import, besides their own folder; `cli` starts everything
ALLOWED = {
    "errors": "",
    "compat": "",
    "metrics": "",
    "parallel": "errors compat settings core",
    "io": "errors compat settings parallel",
    "settings": "errors",
    "core": "errors compat settings",
    "nets": "core",
    "models": "errors settings core nets",
    "text": "errors settings io",
    "data": "errors settings core io text",
    "runs": "errors settings core parallel io",
    "features": "errors settings core nets io runs",
    "evaluators": "errors settings core models parallel io runs features metrics",
    "config_file": "errors settings io",
    "results": "errors settings config_file",
    "config": "errors settings core models data evaluators parallel io config_file",
    "training": "errors compat settings core models data evaluators parallel io runs config",
    "train": "errors settings core parallel runs config training cli",
    "plan": "errors compat settings core models data parallel runs config training",
    "sweeps": "errors compat settings parallel io runs config config_file",
}
ALLOWED["commands"] = " ".join([*ALLOWED, "cli"])
ALLOWED["cli"] = "errors compat io parallel commands"


def imports(file: Path) -> set[str]:
    """The folders of gen_jax, and the files beside them, that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("gen_jax.")}


def part(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def wrong(file: Path, folder: str) -> set[str]:
    return imports(file) - {folder} - set(ALLOWED[folder].split())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file):
    if file != ROOT / "__init__.py":
        assert not wrong(file, part(file)), f"{part(file)} may not import these"


def test_no_folder_imports_one_that_imports_it():
    found = {name: {other for file in FILES if part(file) == name for other in imports(file)} for name in ALLOWED}
    del found["cli"], found["commands"]  # `cli` starts the commands, which ask it how they were started
    found = {name: others - {name, "cli"} for name, others in found.items()}
    while found:
        free = {name for name, others in found.items() if not others}
        assert free, f"these import each other: {found}"
        found = {name: others - free for name, others in found.items() if name not in free}


def test_few_files_lie_beside_the_folders():
    assert len([file for file in FILES if file.parent == ROOT]) <= 8


def test_the_rule_catches_a_wrong_import(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from gen_jax.data import load\n    import gen_jax.train\n    return load\n")
    assert wrong(bad, "models") == {"data", "train"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_second_way_of_annotations(file):
    """clu's metrics and pydantic's fields break under postponed annotations."""
    assert "from __future__ import annotations" not in file.read_text()
