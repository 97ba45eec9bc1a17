"""Figures of feature augmented training: what each round reached, and the toy's two features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .palette import ALIGNMENT, CENTERED, COMPARISON, FAINT, INK, layer_colors
from .panels import panels

__all__ = ["plot_rounds", "plot_toy"]

_BAR = 0.8  # width of the bars of one round together
_RUNS = (COMPARISON, INK, ALIGNMENT, CENTERED)  # told apart where lines cross, as neighbours of a sequence are not


def plot_rounds(
    rounds: Sequence[Mapping[str, Any]],
    history: Sequence[Mapping[str, Any]],
    ax: Axes | Iterable[Axes] | None = None,
) -> list[Axes]:
    """Accuracy on every set at the end of each round, with that of its commonest class; losses over all steps.

    Parameters
    ----------
    rounds : sequence of mapping
        Rows of ``FeATPretrainer.rounds_``.
    history : sequence of mapping
        ``FeATPretrainer.history_``.
    ax : Axes or two Axes, optional
        Drawn into; one Axes gets the accuracies alone. By default a new figure.

    Returns
    -------
    list of Axes

    Raises
    ------
    DataError
        Another number of Axes.
    """
    axes = panels(ax, 2, (11.0, 4.6))
    numbers = sorted({int(row["round"]) for row in rounds})
    colors = dict(zip(numbers, layer_colors(len(numbers)), strict=True))
    _accuracies(axes[0], rounds, numbers, colors)
    if len(axes) == 2:
        _losses(axes[1], rounds, history, colors)
    return axes


def _accuracies(ax: Axes, rounds: Sequence[Mapping[str, Any]], numbers: Sequence[int], colors: dict[int, str]) -> None:
    """One bar a set, coloured by the round after which the set came to be."""
    widest = max(sum(row["round"] == k for row in rounds) for k in numbers)
    width = _BAR / widest
    labels = []
    for k in numbers:
        own = [row for row in rounds if row["round"] == k]
        labels.append(f"round {k}" if own[0]["accepted"] else f"round {k}\n(rejected)")
        for i, row in enumerate(own):
            x = k + (i - (len(own) - 1) / 2) * width
            retained = row["role"] == "retain"
            color = _color_of_set(str(row["set"]), colors)
            ax.bar(
                x,
                row["accuracy"],
                0.9 * width,
                color="none" if retained else color,
                edgecolor=color,
                hatch="////" if retained else None,
                alpha=1.0 if row["accepted"] else 0.45,
            )
            if not retained:
                ax.plot([x - 0.45 * width, x + 0.45 * width], [row["majority"]] * 2, color=INK, lw=1.8)
            ax.annotate(
                f"{row['accuracy']:.2f} (n={row['n']:,})",
                (x, row["accuracy"]),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                rotation=90,
                fontsize=8,
            )
    ax.set_xticks(numbers, labels)
    ax.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
    ax.set_ylim(0, 1.36)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.set_ylabel("accuracy at the end of the round")
    handles = [
        ax.bar([0], [0], color=colors[k], label="all rows" if k == 1 else f"rows wrong after round {k - 1}")
        for k in numbers
        if k == 1 or any(row["set"] == f"wrong after round {k - 1}" for row in rounds)
    ]
    kept = ax.bar([0], [0], color="none", edgecolor=COMPARISON, hatch="////", label="earlier head, rows it had right")
    handles += [kept] if any(row["role"] == "retain" for row in rounds) else []
    line = Line2D([], [], color=INK, lw=1.8, label="commonest class")
    ax.legend(handles=[*handles, line], fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _color_of_set(name: str, colors: dict[int, str]) -> str:
    """That of the first round that trained on it: retained rows look like the head that had them right."""
    if name == "all":
        return next(iter(colors.values()))
    place = int(name.rsplit(" ", 1)[1])
    return colors[place + 1] if name.startswith("wrong") else colors[place]


def _losses(
    ax: Axes, rounds: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]], colors: dict[int, str]
) -> None:
    """Loss of every set to learn over the steps of all rounds; of the rows to retain, dashed."""
    first = 0
    for k in colors:
        own = [entry for entry in history if entry["round"] == k]
        steps = first + np.arange(1, len(own) + 1)
        names = [str(row["set"]) for row in rounds if row["round"] == k and row["role"] == "learn"]
        for name, losses in zip(names, np.array([entry["set_losses"] for entry in own]).T, strict=True):
            ax.plot(steps, losses, color=_color_of_set(name, colors), lw=1.4)
        kept = np.array([entry["retention_losses"] for entry in own]).T
        for losses in kept:
            ax.plot(steps, losses, color=COMPARISON, lw=1.1, ls="--")
        if first:
            ax.axvline(first + 0.5, color=FAINT, lw=1)
        first += len(own)
    ax.set_xlabel("step, of all rounds")
    ax.set_ylabel("mean loss of a set")
    ax.set_ylim(bottom=0)
    if any(entry["retention_losses"] for entry in history):
        ax.plot([], [], color=COMPARISON, lw=1.1, ls="--", label="earlier heads, rows they had right")
        ax.legend(fontsize=8, frameon=False)


def plot_toy(runs: Mapping[str, Mapping[str, Any]], ax: Axes | Iterable[Axes] | None = None) -> list[Axes]:
    """The plane of invariant and spurious feature with the way of every run; both features over the steps.

    Parameters
    ----------
    runs : mapping of str to mapping
        ``ToyRun.to_dict()`` by name.
    ax : Axes or two Axes, optional
        Drawn into; one Axes gets the plane alone. By default a new figure.

    Returns
    -------
    list of Axes

    Raises
    ------
    DataError
        Another number of Axes.
    """
    axes = panels(ax, 2, (11.0, 4.4))
    colors = _RUNS[-len(runs) :] if len(runs) <= len(_RUNS) else layer_colors(len(runs))
    plane = axes[0]
    plane.axhline(0, color=FAINT, lw=1)
    plane.axvline(0, color=FAINT, lw=1)
    for (name, run), color in zip(runs.items(), colors, strict=True):
        plane.plot(run["invariant"], run["spurious"], color=color, lw=1.5, label=name)
        plane.plot(run["invariant"][-1], run["spurious"][-1], "o", color=color, ms=8, mec="white", zorder=3)
    plane.set_xlabel("invariant feature")
    plane.set_ylabel("spurious feature")
    plane.set_title("from the origin to the dot", fontsize=10)
    plane.legend(fontsize=8, frameon=False)
    if len(axes) == 2:
        _over_steps(axes[1], runs, colors)
    return axes


def _over_steps(ax: Axes, runs: Mapping[str, Mapping[str, Any]], colors: Sequence[str]) -> None:
    for run, color in zip(runs.values(), colors, strict=True):
        steps = np.arange(len(run["invariant"]))
        ax.plot(steps, run["invariant"], color=color, lw=1.6)
        ax.plot(steps, run["spurious"], color=color, lw=1.2, ls="--")
    ax.axhline(0, color=FAINT, lw=1)
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xlim(left=0)
    ax.set_xlabel("step")
    ax.set_ylabel("feature")
    styles = [
        Line2D([], [], color=INK, lw=1.6, label="invariant"),
        Line2D([], [], color=INK, ls="--", label="spurious"),
    ]
    ax.legend(handles=styles, fontsize=8, frameon=False, loc="upper left")
