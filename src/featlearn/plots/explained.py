"""Figures that explain the ansatz: prediction against measurement, and what its value is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..exceptions import DataError
from .history import grows_geometrically, history_series
from .palette import ALIGNMENT, CENTERED, COMPARISON, FAINT, INK, MUTED, layer_colors

__all__ = ["plot_early", "plot_explained"]

_SUMMANDS = {"nfa_initial": "initial", "nfa_mixed": "mixed", "nfa_learned": "learned"}
_MOST_LAYERS = 4  # rows that are read at a glance
_MOST_VALUES = 40  # eigenvalues that are seen apart

Series = tuple[NDArray[np.float64], NDArray[np.float64]]


def plot_explained(
    history: Any,
    early: Mapping[str, float] | None = None,
    *,
    layers: Sequence[str] | None = None,
    axes: Any = None,
) -> NDArray[np.object_]:
    """One row a layer: prediction against measurement, initial and learned parts, shared directions and sizes.

    Left, the centred ansatz over training and its chance level, beside its value predicted exactly from gradients at
    the start (dashed; with a loss) and from inputs and labels alone (dotted; with ``early``). Middle, what initial and
    learned weights contribute to the cosine ansatz; their sum is the line. Right, its two factors; their product is the
    line. Without spectra the right panel shows the plain cosine of ``W W^T`` with the tangent kernel and its chance
    level.

    Parameters
    ----------
    history : DataFrame or iterable
        ``FeatureTracker.frame()``, or its rows.
    early : mapping of str to float, optional
        Predicted start of the centred ansatz by layer, in the history's statistic: ``EarlyAlignment.nfa``.
    layers : sequence of str, optional
        Which; the first four when not given.
    axes : array of Axes of shape (layers, 3), optional
        Drawn into; by default a new figure.

    Returns
    -------
    array of Axes of shape (layers, 3)

    Raises
    ------
    DataError
        Empty history, one without parts of the ansatz, unknown layers, or axes of another shape.
    """
    series = {key: history_series(history, key) for key in ("nfa_cosine", "centered_nfa", *_SUMMANDS)}
    optional = ("centered_null", "derivative_nfa", "directional", "spectral", "weight_kernel", "weight_kernel_null")
    series |= {key: found for key in optional if (found := _where_measured(history, key))}
    known = list(series["nfa_cosine"])
    names = known[:_MOST_LAYERS] if layers is None else list(layers)
    unknown = sorted({*names, *(early or {})} - set(known))
    if unknown:
        raise DataError(f"Got layers {', '.join(unknown)}, but expected some of {', '.join(known)}.")
    if axes is None:
        size = (10.5, 0.7 + 2.3 * len(names))
        axes = plt.subplots(
            len(names), 3, figsize=size, layout="constrained", sharex=True, sharey="row", squeeze=False
        )[1]
    grid = np.asarray(axes, dtype=object).reshape(-1, 3) if np.size(axes) == 3 * len(names) else None
    if grid is None:
        raise DataError(f"Got {np.size(axes)} Axes, but expected three for each of the {len(names)} layers.")
    for row, name in zip(grid, names, strict=True):
        own = {key: _arrays(found[name]) for key, found in series.items()}
        _prediction(row[0], own, (early or {}).get(name))
        _summands(row[1], own)
        _factors(row[2], own)
        row[0].set_ylabel(f"layer {name}")
        steps = own["nfa_cosine"][0]
        for ax in row:
            if grows_geometrically(steps.tolist()):
                ax.set_xscale("symlog", linthresh=1.0)
            ax.set_xlim(steps.min(), steps.max())
            ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]), top=1.04)
    for ax, title in zip(grid[0], ("centred ansatz", "ansatz, summed up", "ansatz, multiplied out"), strict=True):
        ax.set_title(title, fontsize=10)
    for ax in grid[0]:
        ax.legend(fontsize=7.5, frameon=False)
    for ax in grid[-1]:
        ax.set_xlabel("optimiser step")
    return grid


def plot_early(result: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Predicted spectra of the first weight change: of its feature matrix and of its AGOP.

    Parameters
    ----------
    result : mapping
        ``EarlyAlignment.to_dict()``.
    ax : Axes, optional
        Drawn into; by default a new figure.
    """
    ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")[1] if ax is None else ax
    for key, label, color, marker in (
        ("nfm_spectrum", "feature matrix", ALIGNMENT, "o"),
        ("agop_spectrum", "AGOP", CENTERED, "s"),
    ):
        values = np.asarray(result[key]["values"])[:_MOST_VALUES]
        values = values[values > 1e-6 * values[0]]
        ax.semilogy(range(1, len(values) + 1), values, color=color, marker=marker, markersize=3, lw=1, label=label)
    cosine, pearson = (math.nan if result[key] is None else result[key] for key in ("cosine", "pearson"))
    ax.set_title(f"first change of layer {result['layer']}: cosine {cosine:.3f}, Pearson {pearson:.3f}", fontsize=10)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("eigenvalue, largest first")
    ax.set_ylabel("size, unit Frobenius norm")
    ax.legend(fontsize=8, frameon=False)
    return ax


def _where_measured(history: Any, quantity: str) -> dict[str, tuple[list[float], list[float]]]:
    """The series of a quantity that not every tracker has; empty where none has it."""
    try:
        series = history_series(history, quantity)
    except DataError:
        return {}
    return series if any(math.isfinite(value) for _, values in series.values() for value in values) else {}


def _arrays(series: tuple[list[float], list[float]]) -> Series:
    steps, values = (np.asarray(part, dtype=np.float64) for part in series)
    order = np.argsort(steps, kind="stable")
    return steps[order], values[order]


def _prediction(ax: Axes, own: Mapping[str, Series], early: float | None) -> None:
    steps, values = own["centered_nfa"]
    ax.plot(steps, values, color=CENTERED, marker="o", markersize=2.5, lw=1.4, label="measured")
    if "centered_null" in own:
        ax.plot(*own["centered_null"], color=MUTED, lw=1, label="its chance level")
    if "derivative_nfa" in own:
        ax.axhline(own["derivative_nfa"][1][0], color=INK, lw=1, ls="--", label="from the first gradient")
    if early is not None:
        ax.axhline(early, color=ALIGNMENT, lw=1.4, ls=":", label="from inputs and labels")


def _summands(ax: Axes, own: Mapping[str, Series]) -> None:
    """Stacked areas: what is positive above zero, what is negative below it."""
    steps = own["nfa_cosine"][0]
    above = below = np.zeros(len(steps))
    for (key, label), color in zip(_SUMMANDS.items(), (FAINT, COMPARISON, ALIGNMENT), strict=True):
        values = own[key][1]
        up, down = above + np.clip(values, 0, None), below + np.clip(values, None, 0)
        ax.fill_between(steps, above, up, color=color, alpha=0.75, lw=0, label=label)
        if (values < 0).any():
            ax.fill_between(steps, below, down, color=color, alpha=0.75, lw=0)
        above, below = up, down
    ax.plot(steps, own["nfa_cosine"][1], color=INK, lw=1.2, label="ansatz (cosine)")


def _factors(ax: Axes, own: Mapping[str, Series]) -> None:
    first, second = layer_colors(2)
    steps = own["nfa_cosine"][0]
    ax.plot(steps, own["nfa_cosine"][1], color=INK, lw=1.2, label="ansatz (cosine)")
    if "directional" in own:
        product = own["directional"][1] * own["spectral"][1]
        ax.plot(*own["directional"], color=first, lw=1.4, label="shared directions")
        ax.plot(*own["spectral"], color=second, lw=1.4, ls="--", label="even weighing")
        ax.plot(steps, product, color=INK, ls="", marker="x", markersize=4, label="their product")
    elif "weight_kernel" in own:
        ax.plot(*own["weight_kernel"], color=first, lw=1.4, label="weights with kernel")
        ax.plot(*own["weight_kernel_null"], color=MUTED, lw=1, ls="--", label="its chance level")
