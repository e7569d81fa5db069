"""A model card (Mitchell et al. 2019): what an exported model is, what it was trained on, and how good it is."""

import json
from collections.abc import Mapping
from typing import Any

from gen_jax.errors import CheckpointError
from gen_jax.io import json_text
from gen_jax.runs.run_dir import RunDir

INTENDED_USE = """Research and teaching. The samples resemble the training data, with their errors and biases. They
were not reviewed for safety, for privacy or for copyright."""


def text(run_dir: RunDir, step: int, files: Mapping[str, str], usage: str) -> str:
    """The card as Markdown.

    Args:
      run_dir: of the run that was exported.
      step: of its checkpoint.
      files: name -> what it holds.
      usage: Python that reads them.
    """
    config = run_dir.config()
    parts = [
        f"# {config['model_name']}: {run_dir.path.name}",
        f"The model `{config['model_name']}` of gen_jax after {step} training steps with seed {config['seed']}.",
        "## Files",
        "\n".join(f"- `{name}`: {what}" for name, what in files.items()),
        f"```python\n{usage.strip()}\n```",
        "## Intended use",
        INTENDED_USE,
        "## Metrics",
        _table(metrics(run_dir, step), "metric"),
        "## Training data",
        _table(_fingerprint(run_dir), "fact"),
        "## Versions",
        _table(_versions(run_dir), "package"),
        "## Config",
        f"```json\n{json.dumps(config, indent=2)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def metrics(run_dir: RunDir, step: int) -> dict[str, Any]:
    """The last value up to `step` of each metric that an evaluator found, in training or by `gen-jax eval`."""
    rows = [*run_dir.rows(), *RunDir(run_dir.path / "eval").rows()]
    found: dict[str, Any] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        if row["step"] <= step:
            found |= {key: value for key, value in row.items() if not key.startswith(("train/", "perf/", "step"))}
    return {key: "not finite" if value is None else f"{value:.6g}" for key, value in found.items()}


def _fingerprint(run_dir: RunDir) -> dict[str, Any]:
    found = json_text.loads(run_dir.data_file.read_text()) if run_dir.data_file.exists() else {}
    return {"source": run_dir.config()["data"]["source"], **found.get("fingerprint", {})}


def _versions(run_dir: RunDir) -> dict[str, Any]:
    """Of the last start of the training."""
    try:
        starts = json_text.loads(run_dir.manifest_file.read_text())["starts"]
        last = next((start for start in reversed(starts) if "versions" in start), {"python": "unknown", "versions": {}})
        return {"python": last["python"], **{name: found for name, found in last["versions"].items() if found}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{run_dir.manifest_file} is not readable") from error


def _table(rows: Mapping[str, Any], name: str) -> str:
    if not rows:
        return "None."
    lines = [f"| `{key}` | {value} |" for key, value in rows.items()]
    return "\n".join([f"| {name} | value |", "|---|---|", *lines])
