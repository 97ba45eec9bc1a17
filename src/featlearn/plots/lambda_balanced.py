"""Figures of balanced two-layer linear networks: what is learned when, and how far the kernel moves for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from .palette import COMPARISON
from .panels import panels
from .single_neuron import balance_colors

__all__ = ["plot_lambda_balanced"]

_MOST_NAMED = 8
_ZERO = 1e-9


def plot_lambda_balanced(
    model: Mapping[str, Any],
    closed: Mapping[str, Any],
    simulated: Mapping[str, Any] | None = None,
    distances: Sequence[Any] | None = None,
    ax: Axes | Iterable[Axes] | None = None,
) -> list[Axes]:
    """Singular values of the product over time, those of the target dotted; and the kernel distance.

    Parameters
    ----------
    model : mapping
        ``LambdaBalanced.to_dict()``; each element of a batch is one colour, by its balance.
    closed : mapping
        ``Trajectory.to_dict()`` of the closed form: lines.
    simulated : mapping, optional
        ``Trajectory.to_dict()`` of the simulation: dots.
    distances : nested list (..., T), optional
        ``kernel_distance`` at the times of ``closed``.
    ax : Axes or two Axes, optional
        Drawn into; one Axes gets the singular values alone. By default a new figure.

    Returns
    -------
    list of Axes

    Raises
    ------
    DataError
        Another number of Axes.
    """
    axes = panels(ax, 2, (10.0, 4.0))
    lams = np.ravel(np.asarray(model["lam"], dtype=np.float64))
    colors = balance_colors(lams)
    lines, dots = _features(closed), _features(simulated) if simulated is not None else None
    for i in np.argsort(lams)[::-1]:  # negative ones last and dashed: for many problems they lie on the positive ones
        style: dict[str, Any] = {"color": colors[i], "linestyle": "--" if lams[i] < -_ZERO else "-", "linewidth": 1.7}
        axes[0].plot(closed["t"], lines[i], **style)
        axes[-1].plot([], [], label=f"{lams[i] if abs(lams[i]) > _ZERO else 0.0:.2g}", **style)
        if simulated is not None and dots is not None:
            axes[0].plot(simulated["t"], dots[i], "o", color=colors[i], markersize=4, markerfacecolor="white")
        if distances is not None and len(axes) == 2:
            axes[1].plot(closed["t"], np.asarray(distances, dtype=np.float64).reshape(len(lams), -1)[i], **style)
    targets = np.asarray(model["Syx"], dtype=np.float64)
    for value in np.unique(np.linalg.svd(targets, compute_uv=False).round(12)):
        axes[0].axhline(value, color=COMPARISON, linewidth=0.9, linestyle=":", zorder=0)
    axes[0].set_title("singular values of W2 W1, and of the target (dotted)", fontsize=10)
    axes[0].set_ylim(bottom=0.0)
    if len(lams) <= _MOST_NAMED:
        axes[-1].legend(title="lambda", fontsize=8, title_fontsize=8, frameon=False)
    if len(axes) == 2:
        axes[1].set_title("distance of the kernel from its start", fontsize=10)
        axes[1].set_ylim(bottom=0.0)
    for panel in axes:
        panel.set_xlabel("time")
    return axes


def _features(trajectory: Mapping[str, Any]) -> NDArray[np.float64]:
    """Singular values of the product, shape (batch, T, k)."""
    product = np.asarray(trajectory["values"]["product"], dtype=np.float64)
    return np.asarray(np.linalg.svd(np.moveaxis(product.reshape(-1, *product.shape[-3:]), -1, 1), compute_uv=False))
