"""Maps over the scale and the balance of a network's start: what it learned, and what moved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from numpy.typing import NDArray

from ..exceptions import DataError
from .palette import FAINT, INK, diverging

__all__ = ["plot_regime_grid"]

Floats = NDArray[np.float64]

_COLORS = ListedColormap(diverging(np.linspace(0.0, 0.85, 256)) / 255.0).with_extremes(bad=FAINT)
_TITLES = {
    "train": "training loss",
    "test": "test loss",
    "kernel_distance": "distance of the kernel",
    "hamming": "share of switched activations",
    "parameter_distance": "distance of the weights",
    "balance_drift": "drift of the balance",
}
_OVER_DECADES = ("train", "test", "balance_drift")
_MOST_WITH_NUMBERS = 7
_MOST_TICKS = 7
_DARK = 0.7


def plot_regime_grid(result: Mapping[str, Any], ax: Axes | Iterable[Axes] | None = None) -> list[Axes]:
    """One map a measure, a cell a start; few cells carry their number, those that diverged are grey.

    Parameters
    ----------
    result : mapping
        "tau", "delta", and "maps": measure to a nested list (n_tau, n_delta).
    ax : Axes or one Axes a map, optional
        Drawn into; one Axes gets the first map. By default a new figure.

    Returns
    -------
    list of Axes

    Raises
    ------
    DataError
        Another number of Axes.
    """
    maps = result["maps"]
    axes = _panels(ax, len(maps))
    names = ("tau", "delta")
    order = [np.argsort(result[name]) for name in names]
    ticks = [np.asarray(result[name], dtype=np.float64)[rank] for name, rank in zip(names, order, strict=True)]
    for panel, (measure, values) in zip(axes, maps.items(), strict=False):
        _map(panel, np.asarray(values, dtype=np.float64)[np.ix_(*order)], measure in _OVER_DECADES)
        panel.set_title(_TITLES[measure], fontsize=10)
        panel.set_xlabel("balance delta: downstream to upstream", fontsize=9)
        for axis, values_of_axis in zip((panel.yaxis, panel.xaxis), ticks, strict=True):
            _label(axis, values_of_axis)
    axes[0].set_ylabel("scale tau: rich to lazy", fontsize=9)
    return axes


def _panels(ax: Axes | Iterable[Axes] | None, count: int) -> list[Axes]:
    if ax is None:
        return list(plt.subplots(1, count, figsize=(3.3 * count, 3.1), layout="constrained", squeeze=False)[1][0])
    axes = [ax] if isinstance(ax, Axes) else list(ax)
    if len(axes) not in (1, count):
        raise DataError(f"Got {len(axes)} Axes for {count} maps, but expected one, or one a map.")
    return axes


def _map(ax: Axes, values: Floats, over_decades: bool) -> None:
    shown = values[np.isfinite(values) & ((values > 0) | (not over_decades))]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (1.0, 1.0)
    scale = LogNorm(low, high) if over_decades else Normalize(0.0, high)
    image = ax.imshow(values, cmap=_COLORS, norm=scale, origin="lower", aspect="auto", interpolation="nearest")
    if max(values.shape) > _MOST_WITH_NUMBERS:
        ax.figure.colorbar(image, ax=ax, shrink=0.85)
        return
    for (row, column), value in np.ndenumerate(values):
        dark = np.isfinite(value) and float(scale(value)) > _DARK
        text = f"{value:.2g}" if np.isfinite(value) else "diverged"
        ax.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else INK)


def _label(axis: Axis, values: Floats) -> None:
    places = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MOST_TICKS)).round().astype(int))
    axis.set_ticks(places, [f"{values[place]:.3g}" for place in places])
    axis.set_tick_params(length=0, labelsize=8)
