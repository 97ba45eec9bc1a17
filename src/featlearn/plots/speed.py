"""Figures of feature speed: angle, share of the loss decay and sensitivity against depth; and all of it over time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from ..exceptions import DataError
from .palette import ALIGNMENT, COMPARISON, INK
from .panels import panels
from .tracking import plot_history

__all__ = ["plot_speed", "plot_speed_history"]

_PANELS = (
    ("cos_theta", "cosine of the backward-feature angle"),
    ("loss_decay_share", "share of the loss decay"),
    ("sensitivity", "sensitivity: feature change per loss decay"),
)
_MOST_NAMES = 30


def plot_speed(
    result: Mapping[str, Any], ax: Axes | Iterable[Axes] | None = None, *, theory: Sequence[float] | None = None
) -> list[Axes]:
    """Three panels over the layers in order of execution; filled marks are cuts, through which the whole decay passes.

    Parameters
    ----------
    result : mapping
        ``FeatureSpeed.to_dict()``.
    ax : Axes or three Axes, optional
        Drawn into; one Axes gets the cosine alone. By default a new figure.
    theory : sequence of float, optional
        Expected cosines, one a layer, nan where there is none; dashed.

    Returns
    -------
    list of Axes

    Raises
    ------
    DataError
        Another number of Axes, or of expected cosines.
    """
    layers = list(result["layers"].values())
    if theory is not None and len(theory) != len(layers):
        raise DataError(f"Got {len(theory)} expected cosines, but expected one for each of the {len(layers)} layers.")
    axes = panels(ax, 3, (3 * min(3.2 + 0.25 * len(layers), 7.0), 3.6))
    for panel, (key, label) in zip(axes, _PANELS, strict=False):
        _curve(panel, layers, key)
        panel.set_title(label, fontsize=10)
    if theory is not None:
        axes[0].plot(range(len(layers)), theory, linestyle="--", color=COMPARISON, label="wide random network")
    if axes[0].get_legend_handles_labels()[1]:
        axes[0].legend(fontsize=8, frameon=False)
    return axes


def plot_speed_history(
    history: Any, quantity: str = "relative_change", ax: Axes | Iterable[Axes] | None = None
) -> list[Axes]:
    """The loss over the steps of the optimiser, and one curve a layer beside it.

    Parameters
    ----------
    history : DataFrame
        ``FeatureSpeedTracker.frame()``.
    quantity : str
        A numeric column of it; drawn on a logarithmic axis where it is positive and spans more than a factor of 30.
    ax : Axes or two Axes, optional
        Drawn into; one Axes gets the layers alone. By default a new figure.

    Returns
    -------
    list of Axes

    Raises
    ------
    DataError
        Another number of Axes, an empty history, or a quantity that it does not hold.
    """
    axes = panels(ax, 2, (10.0, 3.8))
    plot_history(history, quantity, axes[-1])
    axes[-1].set_ylabel(
        "relative change of features a step" if quantity == "relative_change" else axes[-1].get_ylabel()
    )
    values = [value for value in history[quantity] if math.isfinite(value)]
    if values and min(values) > 0 and max(values) > 30 * min(values):
        axes[-1].set_yscale("log")
    if len(axes) == 2:
        losses = history.drop_duplicates("step")
        axes[0].plot(losses["step"], losses["loss"], color=INK, lw=1.4, marker="o", markersize=2.5)
        axes[0].set_xscale(axes[1].get_xscale())
        axes[0].set_xlabel("optimiser step")
        axes[0].set_ylabel("loss on the measured batch")
    return axes


def _curve(ax: Axes, layers: Sequence[Mapping[str, Any]], key: str) -> None:
    values = [math.nan if layer[key] is None else float(layer[key]) for layer in layers]
    ax.plot(range(len(layers)), values, color=ALIGNMENT, linewidth=1)
    for cut, face, label in ((True, ALIGNMENT, ""), (False, "none", "not a cut: the loss has other paths")):
        chosen = [i for i, layer in enumerate(layers) if bool(layer["is_cut"]) is cut]
        heights = [values[i] for i in chosen]
        style: dict[str, Any] = {
            "linestyle": "",
            "marker": "o",
            "markersize": 5,
            "color": ALIGNMENT,
            "markerfacecolor": face,
        }
        ax.plot(chosen, heights, label=label if chosen else "", **style)
    if len(layers) <= _MOST_NAMES:
        ax.set_xticks(range(len(layers)), [layer["name"] for layer in layers], rotation=45, ha="right")
    else:
        ax.set_xlabel("layer, in order of execution")
    finite = [value for value in values if math.isfinite(value)]
    if key == "sensitivity" and finite and min(finite) > 0 and max(finite) > 30 * min(finite):
        ax.set_yscale("log")
    elif finite and min(finite) >= 0:
        ax.set_ylim(bottom=0.0)
    else:
        ax.axhline(0.0, color=COMPARISON, linewidth=0.5)
