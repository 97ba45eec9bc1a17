"""Figures of neurons that are functions: how they look, what they compute together, and how far they are optimal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .palette import ALIGNMENT, CENTERED, COMPARISON, FAINT, INK
from .panels import panels

__all__ = ["plot_functional_mean_field"]


def plot_functional_mean_field(
    optimum: Mapping[str, Any],
    neurons: Mapping[str, Any],
    particles: Sequence[float] | None = None,
    ax: Axes | Iterable[Axes] | None = None,
) -> list[Axes]:
    """Neurons as functions, outputs beside the targets, and the gap over the iterations.

    Parameters
    ----------
    optimum : mapping
        ``FunctionalOptimum.to_dict()``.
    neurons : mapping
        "kind" ("place" or "coefficient") of the abscissa "at"; "drawn" neurons, their "mean", and "prior_std".
    particles : sequence of float, optional
        Outputs of a simulation: dots.
    ax : Axes or three Axes, optional
        Drawn into; one Axes gets the neurons alone. By default a new figure.

    Returns
    -------
    list of Axes

    Raises
    ------
    DataError
        Another number of Axes.
    """
    axes = panels(ax, 3, (13.0, 3.7))
    _neurons(axes[0], neurons)
    if len(axes) == 3:
        _outputs(axes[1], optimum, particles)
        _gap(axes[2], optimum)
    return axes


def _neurons(ax: Axes, neurons: Mapping[str, Any]) -> None:
    at, spread = np.asarray(neurons["at"]), np.asarray(neurons["prior_std"])
    ax.fill_between(at, -2 * spread, 2 * spread, color=FAINT, alpha=0.5, linewidth=0, label="prior, two deviations")
    # Coefficients do not vary smoothly: lines between them would cover everything.
    mark: dict[str, Any] = {"marker": ".", "markersize": 2.5} if neurons["kind"] == "coefficient" else {}
    style: dict[str, Any] = {"color": ALIGNMENT, "linewidth": 0.6, "linestyle": "none" if mark else "-"} | mark
    for i, curve in enumerate(neurons["drawn"]):
        ax.plot(at, curve, alpha=0.45, label="_" if i else "neurons of the optimum", **style)
    ax.plot(at, neurons["mean"], color=INK, linewidth=2.2, label="their mean")
    if neurons["kind"] == "coefficient":
        ax.set_xscale("log")
        ax.set_xlabel("coefficient")
        ax.set_ylabel("in deviations of the prior")
    else:
        ax.set_xlabel("place")
    ax.set_title("neurons", fontsize=10)
    ax.legend(fontsize=8, frameon=False)


def _outputs(ax: Axes, optimum: Mapping[str, Any], particles: Sequence[float] | None) -> None:
    inputs = np.arange(1, len(optimum["f"]) + 1)
    width = float(np.clip(320 / len(inputs), 5, 16))
    ax.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    ax.plot(inputs, optimum["y"], "x", color=COMPARISON, markersize=7, label="target")
    ax.plot(inputs, optimum["f"], "_", color=ALIGNMENT, markersize=width, markeredgewidth=2, label="optimum")
    if particles is not None:
        ax.plot(inputs, particles, "o", color=CENTERED, markersize=4, markerfacecolor="white", label="particles")
    ax.set_xlabel("input")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title("outputs", fontsize=10)
    ax.legend(fontsize=8, frameon=False)


def _gap(ax: Axes, optimum: Mapping[str, Any]) -> None:
    gaps = np.asarray(optimum["gaps"])
    positive = gaps > 0  # an exact zero has no place on the axis
    ax.semilogy(np.flatnonzero(positive), gaps[positive], ".-", color=INK, linewidth=1.2, markersize=5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(optimum["solver"].replace("_", " ").replace("newton", "Newton") + ", iteration")
    ax.set_title("gap between primal and dual", fontsize=10)
