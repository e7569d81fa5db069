"""Imports point one way: the code is parsed, so a forbidden import fails even inside a function."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "gen_jax"
PURE = {
    "compat",
    "state",
    "json_text",
    "ops",
    "losses",
    "likelihoods",
    "sampling",
    "beam",
    "lora",
    "settings",
    "errors",
}
PURE |= {"paths", "adversarial", "augment", "cache", "filters", "gradients", "protocol", "tables"}
PURE |= {"leaves", "rules"}
LOOP = {
    "config",
    "config_file",
    "optim",
    "sharding",
    "checkpoint",
    "step_dirs",
    "log",
    "run_dir",
    "pictures",
    "signals",
    "progress",
}
LOOP |= {"pmap", "program", "flops", "train", "cli", "commands", "init_from", "gpt2", "same_data"}
LOOP |= {"nonfinite", "origin", "disk", "events", "interrupts", "manifest", "quiet", "resume", "status"}
LOOP |= {"distributed", "watch", "aborts", "checks", "journal", "loop", "seeds", "seed_report", "spool"}

# folder -> the parts of gen_jax that its files may import
ALLOWED = {
    "models": PURE | {"models.base", "nets"},
    "nets": {"ops", "nets"},
    "data": {"data", "text", "settings", "errors", "cache", "paths", "json_text"},
    "text": {"text", "errors", "settings", "json_text"},
    "metrics": {"metrics"},
    "features": PURE | {"features", "nets", "progress"},
    "plan": PURE | LOOP - {"train", "cli", "commands"} | {"plan", "data.base", "data.datasets"},
    "sweeps": {
        "sweeps",
        "json_text",
        "resume",
        "compat",
        "config",
        "config_file",
        "errors",
        "pictures",
        "progress",
        "protocol",
        "run_dir",
        "settings",
        "signals",
        "tables",
    },
    "evaluators": PURE | {"evaluators", "features", "metrics", "pictures", "models.base"},
}
FILES = sorted(ROOT.rglob("*.py"))


def imports(file: Path) -> set[str]:
    """The modules of gen_jax that a file imports, without the leading `gen_jax.`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folder = ROOT.parent / (node.module or "").replace(".", "/")
            is_package = folder.is_dir() and (node.module or "").startswith("gen_jax")
            found |= {f"{node.module}.{alias.name}" if is_package else node.module or "" for alias in node.names}
    return {name.removeprefix("gen_jax.") for name in found if name.startswith("gen_jax.")}


def allowed(folder: str, module: str, name: str) -> bool:
    if folder == "models" and module == "code_prior" and name in ("models.vqvae", "models.pixel_transformer"):
        return True  # one model owns another as a constructor argument
    parts = ALLOWED[folder]
    return name in parts or name.split(".")[0] in parts


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file):
    folder = file.relative_to(ROOT).parts[0]
    if folder in ALLOWED:
        wrong = {name for name in imports(file) if not allowed(folder, file.stem, name)}
        assert not wrong, f"{folder} may not import {wrong}"
    elif file.stem in PURE:
        assert imports(file) <= PURE, f"{file.stem} may import pure functions only"
    elif file.parent == ROOT and file.stem not in {"train", "cli", "launcher", "__init__"}:
        assert not {"train", "cli", "commands"} & {name.split(".")[0] for name in imports(file)}


def test_the_rule_catches_a_wrong_import(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from gen_jax.data import load\n    return load\n")
    assert imports(bad) == {"data.load"}
    assert not allowed("models", "bad", "data.load")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_second_way_of_annotations(file):
    """clu's metrics and pydantic's fields break under postponed annotations."""
    assert "from __future__ import annotations" not in file.read_text()
