"""Rows of values as text: CSV for programs, columns for people."""

import csv
import io
from collections.abc import Sequence
from typing import Any


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """A header and a line a row; columns in the order in which they first occur, empty where a row lacks one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*dict.fromkeys(name for row in rows for name in row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """A line a row, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
