"""How much room the bars of groups need, and in which words their names stand; numbers only, no figure."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

__all__ = ["figure_size", "in_lines", "interval_words", "stand_upright"]

WIDEST, TALLEST = 24.0, 12.0  # inches
UPRIGHT = 6  # groups whose names still stand upright
LETTERS = 15  # of a name that stand upright beside its neighbours
LINE, LETTER = 0.15, 0.065  # inches that a line of an upright name and a letter of a slanted one are high


def figure_size(groups: Sequence[str], methods: int) -> tuple[float, float]:
    """Width and height in inches in which the names of groups stand below their bars, and those of methods above.

    Parameters
    ----------
    groups : sequence of str
        Names; the longest slanted one, or the most lines of an upright one, add to the height.
    methods : int
        Bars a group.

    Returns
    -------
    width, height : float
    """
    upright = stand_upright(len(groups))
    room = (1.15 if upright else 0.75) * (1 + 0.12 * methods)
    names = LINE * max(in_lines(name).count("\n") + 1 for name in groups) if upright else LETTER * max(map(len, groups))
    return min(WIDEST, max(6.4, room * (len(groups) + 3))), min(TALLEST, 3.9 + 0.18 * methods + names)


def stand_upright(groups: int) -> bool:
    """Whether so many names have room beside each other; more of them are slanted."""
    return groups <= UPRIGHT


def in_lines(name: str) -> str:
    """Attributes one below the other; long ones break, at the equals sign if that is enough."""
    parts = [part if len(part) <= LETTERS else part.replace("=", "= ") for part in name.split(", ")]
    return "\n".join(line for part in parts for line in wrap(part, LETTERS) or [""])


def interval_words(confidence: float) -> str:
    """``95% interval``, ``99.9% interval``: as many digits as were asked for."""
    return f"{100 * confidence:.6g}% interval"
