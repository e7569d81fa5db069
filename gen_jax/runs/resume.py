"""What may differ when a run is started again in its directory."""

import re
from collections.abc import Mapping
from typing import Any

# The length of a run, its periods, its patience, how devices share it; `schedule_steps` pins a schedule to a length.
FREE = r"total_steps|(log|eval|save)_every|hang_limit_s|memory_check|mesh\.(data|fsdp|model)|sharding|log\.writers"
FREE += r"|optim\.[^.]+\.schedule_steps"
# With --override, which manifest.json records.
OVERRIDABLE = r"best\..+|evals(\..+)?|optim\.[^.]+\.(lr|skip_nonfinite|skip_above)"
ABSENT = "absent"


def changes(old: Mapping, new: Mapping, defaults: Mapping) -> dict[str, tuple[Any, Any]]:
    """key -> (old, new) of what differs between two configs, beyond what is free.

    A key that an older config.json lacks counts as its default: new fields are added with a default that leaves runs
    as they were.
    """
    old, new = flatten(old), flatten(new)
    pairs = {key: (old.get(key, defaults.get(key, ABSENT)), new.get(key, ABSENT)) for key in old | new}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b and not re.fullmatch(FREE, key)}


def listed(found: Mapping[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key} was {a!r}, is now {b!r}" for key, (a, b) in found.items())


def refused(found: Mapping[str, tuple[Any, Any]], override: bool) -> dict[str, tuple[Any, Any]]:
    """Those of the changes that a trained run does not take."""
    return {key: pair for key, pair in found.items() if not (override and re.fullmatch(OVERRIDABLE, key))}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"width": 64}} -> {"model.width": 64}; an empty section is its own leaf."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
