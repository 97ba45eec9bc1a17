"""The panels that a figure is drawn into: those given, or a new figure."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from ..exceptions import DataError

__all__ = ["panels"]

_WORDS = {2: "two", 3: "three", 4: "four"}


def panels(ax: Axes | Iterable[Axes] | None, count: int, figsize: tuple[float, float]) -> list[Axes]:
    """One Axes or ``count`` of them, side by side in a new figure when none are given.

    Raises
    ------
    DataError
        Another number of Axes.
    """
    if ax is None:
        return list(plt.subplots(1, count, figsize=figsize, layout="constrained")[1])
    axes = [ax] if isinstance(ax, Axes) else list(ax)
    if len(axes) not in (1, count):
        raise DataError(f"Got {len(axes)} Axes, but expected one or {_WORDS[count]}.")
    return axes
