"""Figure of a head trained over environments: losses and penalties of every environment over the steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ..exceptions import DataError
from .palette import INK, layer_colors
from .panels import panels

__all__ = ["plot_head"]

_PANELS = (("loss", "loss, nats"), ("penalty", "squared slope $D_e^2$ (IRM penalty), nats$^2$"))
_MOST_NAMES = 8


def plot_head(
    history: Sequence[Mapping[str, Any]], environments: Sequence[str], ax: Axes | Iterable[Axes] | None = None
) -> list[Axes]:
    """Two panels over the steps, one curve an environment: solid on training rows, dashed on held-out ones.

    Parameters
    ----------
    history : list of dict
        ``OODHead.history_``: ``step``, and over environments ``loss``, ``penalty``, and where rows were held out
        ``held_out_loss`` and ``held_out_penalty``.
    environments : sequence of str
        Names, in the order of those lists.
    ax : Axes or two Axes, optional
        Drawn into; one Axes gets the losses alone. By default a new figure.

    Returns
    -------
    list of Axes
        The penalty is on a logarithmic axis where it is positive.

    Raises
    ------
    DataError
        Another number of Axes, an empty history, or names that do not fit.
    """
    if not history:
        raise DataError("Got an empty history, but expected at least one step.")
    if len(environments) != len(history[0]["loss"]):
        raise DataError(
            f"Got {len(environments)} names, but expected one for each of the {len(history[0]['loss'])} environments."
        )
    axes = panels(ax, 2, (9.6, 3.8))
    steps = [entry["step"] for entry in history]
    colors = layer_colors(len(environments))
    for panel, (key, label) in zip(axes, _PANELS, strict=False):
        smallest = np.inf
        for name, style in ((key, "-"), (f"held_out_{key}", "--")):
            if name not in history[0]:
                continue
            values = np.array([entry[name] for entry in history], dtype=np.float64)
            smallest = min(smallest, values.min())
            for color, curve in zip(colors, values.T, strict=True):
                marker = "o" if len(steps) == 1 else ""
                panel.plot(steps, curve, color=color, linestyle=style, linewidth=1.4, marker=marker, markersize=5)
        if key == "penalty" and smallest > 0:
            panel.set_yscale("log")
        panel.set_xlabel("step of the head")
        panel.set_title(label, fontsize=10)
    _legend(axes[0], colors, environments, "held_out_loss" in history[0])
    return axes


def _legend(ax: Axes, colors: Sequence[str], environments: Sequence[str], held_out: bool) -> None:
    words = [f"environment {name}" if name.isdigit() else name for name in environments]
    if len(words) <= _MOST_NAMES:
        named = list(zip(colors, words, strict=True))
    else:  # the colours run from the first to the last
        named = [(colors[0], words[0]), (colors[-1], f"... {words[-1]}")]
    handles = [Line2D([], [], color=color, label=name) for color, name in named]
    if held_out:
        handles += [
            Line2D([], [], color=INK, label="training rows"),
            Line2D([], [], color=INK, linestyle="--", label="held-out rows"),
        ]
    ax.legend(handles=handles, fontsize=8, frameon=False)
