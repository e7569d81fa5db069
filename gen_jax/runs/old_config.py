"""Configs of runs that an earlier version made, in the words of this one."""

from typing import Any

# evaluator -> its fields that are fields of `sampling` now, and the values that asked for nothing
MOVED: dict[str, dict[str, Any]] = {
    "pictures": {"temperature": 1.0, "label": None},
    "series": {"temperature": 1.0},
    "audio": {"temperature": 1.0, "length": 0},
    "text": {
        "prompt": "",
        "length": 256,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    },
    "translation": {"beams": None, "length_penalty": 0.6, "length": None},
}


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json whose evaluators say what they ask of `sample` in a section of its own."""
    evals = config.get("evals")
    if not isinstance(evals, dict):
        return config
    return config | {"evals": {name: _evaluator(section) for name, section in evals.items()}}


def _evaluator(section: Any) -> Any:
    moved = MOVED.get(section["type"], {}) if isinstance(section, dict) and isinstance(section.get("type"), str) else {}
    if not moved or "sampling" in section or not section.keys() & moved:
        return section
    found = {name: section[name] for name, unasked in moved.items() if section.get(name, unasked) != unasked}
    if "prompt" in found:
        found["prompts"] = [found.pop("prompt")]
    if found.get("beams") == 0:
        found |= {"temperature": 0.0}
    return {name: value for name, value in section.items() if name not in moved} | {"sampling": found}
