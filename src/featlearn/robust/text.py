"""Results as text that a terminal of a hundred columns holds."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

__all__ = ["folded", "text_rows"]

WIDTH = 100
NAME, CELL = 30, 16  # letters of the first column and of others; longer ones are cut


def text_rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: names to the left and cut where they are long, all other columns to the right."""
    columns = [
        [_cut(cell, CELL if place else NAME) for cell in column]
        for place, column in enumerate(zip(head, *rows, strict=True))
    ]
    widths = [max(map(len, column)) for column in columns]
    cells = [
        [cell.rjust(width) if place else cell.ljust(width) for cell in column]
        for place, (column, width) in enumerate(zip(columns, widths, strict=True))
    ]
    return ["  ".join(line).rstrip() for line in zip(*cells, strict=True)]


def folded(text: str) -> list[str]:
    """The lines of a text, broken where they are longer than 100 columns."""
    return [line for long in text.splitlines() for line in textwrap.wrap(long, WIDTH, break_on_hyphens=False)]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
