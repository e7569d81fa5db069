"""JSON that somebody may have written or damaged."""

import json
from typing import Any

DEEPEST = 64  # lists and sections inside of each other


def loads(text: str | bytes) -> Any:
    """What a text says. Raises ValueError if it is no JSON, or nested more than DEEPEST deep."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("found JSON that is nested too deeply") from None
    level = [found]
    for _ in range(DEEPEST + 1):
        boxes = [one for one in level if isinstance(one, dict | list)]
        if not boxes:
            return found
        level = [inner for one in boxes for inner in (one.values() if isinstance(one, dict) else one)]
    raise ValueError("found JSON that is nested too deeply")
