"""A fitted machine as plain values, from which figures and pages are made."""

from __future__ import annotations

import math
import platform
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from .. import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Shown", "describe"]

HOW = {
    "cv": "cross-validation",
    "holdout": "one fifth of the rows held out, five thousand at most",
    "loo": "leave-one-out",
    "validation": "the rows given as X_val",
}


class Shown:
    """What estimators, and machines read from a file, offer to be looked at."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: see :func:`describe`."""
        return describe(self)

    def plot(self) -> Figure:
        """Spectrum of the AGOP, importances of the first columns, and the scores among which the machine was chosen."""
        from ..plots.machines import plot_machine

        return plot_machine(self.to_dict())

    def to_html(self, path: str | PathLike[str], *, title: str | None = None) -> None:
        """Write one self-contained page: what was chosen and how, scores, importances, directions, columns."""
        from ..report.machine import write_machine_report

        write_machine_report(self.to_dict(), path, title=title)


def describe(machine: Any) -> dict[str, Any]:
    """A fitted estimator in plain values.

    Returns
    -------
    dict
        ``machine`` and ``task``; ``rows``, ``features`` (names), ``encoded`` (numbers a row), ``outputs`` or
        ``classes``; ``chosen`` (kernel, columns, bandwidth of each part, alpha, power, iteration),
        of the first of the ``members`` that are averaged; ``importances`` (d),
        ``directions`` (k, d), ``direction_shares`` (k); ``selection`` (``Selection.to_dict()``) and ``scores`` (of the
        rows that were held out for it), or None; ``history``; ``solver``; ``intervals``; ``notes`` about columns;
        ``provenance``.
    """
    check_is_fitted(machine)
    columns, selection, solution = machine.columns_, machine.selection_, machine.solution_
    names = columns.feature_names or tuple(f"x{j}" for j in range(columns.n_features_in))
    classes = getattr(machine, "classes_", None)
    told: dict[str, Any] = {
        "machine": type(machine).__name__,
        "task": "regression" if classes is None else "classification",
        "rows": len(machine.predictor_.dual),
        "features": list(names),
        "encoded": len(columns.names),
        "outputs": machine.predictor_.dual.shape[1],
        "classes": None if classes is None else [_plain(label) for label in classes],
        "chosen": {
            "kernel": machine.kernel_name_,
            "columns": columns.config.transform,
            "standardize": bool(columns.config.standardize),
            "bandwidth": [float(x) for x in np.atleast_1d(machine.bandwidth_) if math.isfinite(x)],
            "alpha": float(machine.alpha_),
            "power": float(machine.power_),
            "iteration": int(machine.n_iter_),
        },
        "members": [{key: _plain(value) for key, value in member.items()} for member in machine.members_],
        "importances": _floats(machine.feature_importances_),
        "directions": [_floats(row) for row in machine.directions_],
        "direction_shares": _floats(machine.direction_shares_),
        "selection": None if selection is None else selection.to_dict(),
        "scores": None,
        "history": [{key: _plain(value) for key, value in entry.items()} for entry in machine.history_],
        "solver": {
            "method": solution.method,
            "reason": solution.reason,
            "iterations": int(solution.n_iter),
            "relative_residual": float(solution.relative_residual),
        },
        "intervals": getattr(machine, "intervals", None),
        "notes": list(columns.notes),
        "provenance": {
            "random_state": machine.random_state if isinstance(machine.random_state, int) else None,
            "dtype": str(machine.predictor_.dtype).removeprefix("torch."),
            "device": str(machine.predictor_.dual.device),
            "versions": {
                "featlearn": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        },
    }
    if selection is not None:
        told["scores"] = {
            "how": _how(selection),
            "rows": sum(len(values) for _, values in selection.held_out),
            "scores": machine.held_out_scores_,
        }
    return told


def _how(selection: Any) -> str:
    splits = selection.best["splits"]
    return f"{splits}-fold cross-validation" if selection.method == "cv" else HOW[selection.method]


def _floats(values: Any) -> list[float]:
    return [float(value) for value in values]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
