"""JSON that somebody may have written or damaged."""

import json
from typing import Any


def loads(text: str | bytes) -> Any:
    """What a text says. Raises ValueError where it is no JSON, also where it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("found JSON that is nested too deeply") from None
