"""Parses JSON that may be damaged or hostile."""

import json
from typing import Any

DEEPEST = 64  # lists and sections inside of each other


def loads(text: str | bytes) -> Any:
    """The value of a text. Raises ValueError if it is not JSON, or nested deeper than DEEPEST."""
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
