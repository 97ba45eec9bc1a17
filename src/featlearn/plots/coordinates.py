"""Figure of a coordinate check: every quantity against size, with the fitted power laws, from plain dictionaries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from .palette import COMPARISON, MUTED, layer_colors
from .panels import panels

__all__ = ["plot_coordinates"]

_PANELS = {
    "feature_rms": "features: rms(f)",
    "feature_change_rms": "change of features: rms(f(t) - f(0))",
    "cos_theta": "cosine of the backward-feature angle",
}
_MOST_NAMES = 8


def plot_coordinates(result: Mapping[str, Any], ax: Axes | Iterable[Axes] | None = None) -> list[Axes]:
    """Log-log panels of features, their change and the cosine after the last step, one colour a layer.

    Marks are geometric means over seeds, bars their standard errors; lines are the fitted power laws, dashed for what
    is not judged. The legend gives each slope with half the width of its interval.

    Parameters
    ----------
    result : mapping
        ``CoordinateCheck.to_dict()``.
    ax : Axes or three Axes, optional
        Drawn into; one Axes gets the change of features. By default a new figure.

    Returns
    -------
    list of Axes

    Raises
    ------
    DataError
        Another number of Axes.
    """
    axes = panels(ax, 3, (13.5, 4.8))
    quantities = list(_PANELS) if len(axes) == 3 else ["feature_change_rms"]
    for panel, quantity in zip(axes, quantities, strict=True):
        _panel(panel, result, quantity)
    return axes


def _panel(ax: Axes, result: Mapping[str, Any], quantity: str) -> None:
    slopes = [slope for slope in result["slopes"] if slope["quantity"] == quantity]
    named = _named(slopes)
    for slope, color in zip(slopes, layer_colors(len(slopes)), strict=True):
        sizes, means, errors = _means(result, slope["layer"], quantity)
        label = _label(slope) if slope["layer"] in named else "_"
        ax.errorbar(sizes, means, yerr=errors, color=color, linestyle="", marker="o", markersize=4, capsize=2)
        line = _line(slope, sizes, means)
        ax.plot(sizes, line, color=color, linewidth=1.4, linestyle="-" if slope["judged"] else "--", label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(FixedLocator(result["sizes"]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    ax.set_xlabel(result["over"])
    ax.set_title(_PANELS[quantity], fontsize=10)
    _leave_room(ax)
    if slopes:
        legend = ax.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), handlelength=1.8)
        rest = f"; {len(slopes) - len(named)} layers unnamed" if len(named) < len(slopes) else ""
        title = f"slope in {result['over']} (dashed: not judged{rest})"
        legend.set_title(title, prop=FontProperties(size=8))
    for failure in {failure["size"] for failure in result["failures"]}:
        ax.axvline(failure, color=COMPARISON, linewidth=0.8, linestyle=":")
        ax.text(failure, 0.98, " not finite", transform=ax.get_xaxis_transform(), fontsize=7, color=MUTED, va="top")


def _named(slopes: Sequence[Mapping[str, Any]]) -> set[str]:
    """Layers in the legend: where there are too many, those of the steepest slopes and the two ends."""
    if len(slopes) <= _MOST_NAMES:
        return {slope["layer"] for slope in slopes}
    steep = sorted(slopes, key=lambda slope: -abs(slope["slope"] or 0.0) if _finite(slope["slope"]) else 0.0)
    return {slopes[0]["layer"], slopes[-1]["layer"], *(slope["layer"] for slope in steep[: _MOST_NAMES - 2])}


def _label(slope: Mapping[str, Any]) -> str:
    if not _finite(slope["slope"]):
        return f"{slope['layer']}: no slope"
    return f"{slope['layer']}: {slope['slope']:+.2f} ± {(slope['high'] - slope['low']) / 2:.2f}, {slope['verdict']}"


def _means(
    result: Mapping[str, Any], layer: str, quantity: str
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Sizes, geometric means over seeds, and the distances to one standard error below and above."""
    values: dict[int, list[float]] = {}
    for record in result["measured"]:
        value = record[quantity]
        if record["step"] == result["steps"] and record["layer"] == layer and _finite(value) and value > 0:
            values.setdefault(record["size"], []).append(math.log(value))
    sizes = sorted(values)
    logs = [np.asarray(values[size]) for size in sizes]
    centre = np.array([log.mean() for log in logs])
    error = np.array([log.std(ddof=1) / math.sqrt(len(log)) if len(log) > 1 else 0.0 for log in logs])
    means = np.exp(centre)
    return np.array(sizes), means, np.array([means - np.exp(centre - error), np.exp(centre + error) - means])


def _line(slope: Mapping[str, Any], sizes: np.ndarray[Any, Any], means: np.ndarray[Any, Any]) -> Any:
    if not _finite(slope["slope"]) or len(sizes) == 0:
        return np.full(len(sizes), np.nan)
    u = np.log(sizes)
    return np.exp(np.log(means).mean() + slope["slope"] * (u - u.mean()))


def _leave_room(ax: Axes) -> None:
    """At least a factor of eight from bottom to top, so that what is flat looks flat; ticks that can be read."""
    low, high = ax.get_ylim()
    if high < 8 * low:
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(8), middle * math.sqrt(8)
        ax.set_ylim(low, high)
    if high < 100 * low:
        ax.yaxis.set_major_locator(FixedLocator([tick for tick in _ROUND if low <= tick <= high]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


# 1, 2 and 5 times powers of ten.
_ROUND = [step * 10.0**power for power in range(-12, 13) for step in (1, 2, 5)]


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
