"""A fitted tree as plain values, and its figure."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .. import __version__
from .columns import FittedColumns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TreeShown", "describe_tree"]


class TreeShown:
    """What trees, and trees read from a file, offer to be looked at."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: see :func:`describe_tree`."""
        check_is_fitted(self)
        return describe_tree(self)

    def plot_tree(self, ax: Axes | None = None, max_depth: int = 3) -> Axes:
        """The tree down to ``max_depth``: rows and strongest columns of every split, rows and targets of every leaf.

        Parameters
        ----------
        ax : Axes, optional
            Default: a figure of its own.
        max_depth : int, default=3
            Deeper splits and their leaves are drawn as one box, with the number of leaves in it. Boxes are legible at
            the default; deeper trees need a larger ``ax``.

        Returns
        -------
        Axes
        """
        from ..plots.trees import plot_tree

        return plot_tree(self.to_dict(), ax, max_depth=max_depth)


def describe_tree(tree: Any) -> dict[str, Any]:
    """A fitted tree in plain values.

    Returns
    -------
    dict
        ``machine`` and ``task``; ``rows`` (in leaves); ``features`` (names), ``unordered`` (those of categories, whose
        entries in a direction have no sign), ``encoded`` (numbers a row); ``outputs`` or ``classes``; ``nodes``, the
        root first (``heap``, ``depth``, ``rows``, ``direction`` (d) among the input columns per standard deviation,
        ``threshold``, ``iqr``, ``left``, ``right``: place of a node, or -1 - l for leaf l); ``leaves`` (``heap``,
        ``depth``, ``rows``, ``mean`` of the targets or shares of the classes (C), ``machine``, ``chosen``: kernel,
        columns, alpha, power, iteration, None for other machines); ``temperature``, ``temperatures`` (score of each);
        ``importances`` (d), None where leaves have none; ``intervals``; ``provenance``.
    """
    columns, nodes = tree.routing_.columns, tree.nodes_
    names = columns.feature_names or tuple(f"x{j}" for j in range(columns.n_features_in))
    classes = getattr(tree, "classes_", None)
    importances = getattr(tree, "feature_importances_", None)
    signed = columns.input_of[: int(columns.numeric.kept.sum())].tolist()
    return {
        "machine": type(tree).__name__,
        "task": "regression" if classes is None else "classification",
        "rows": sum(leaf.n for leaf in tree.leaves_),
        "features": list(names),
        "unordered": [names[j] for j in sorted(set(columns.input_of.tolist()) - set(signed))],
        "encoded": len(columns.names),
        "outputs": len(tree.leaves_[0].mean),
        "classes": None if classes is None else [_label(label) for label in classes.tolist()],
        "nodes": [
            {
                "heap": node.heap,
                "depth": node.depth,
                "rows": node.n,
                "direction": _among_inputs(columns, node.direction).tolist(),
                "threshold": float(node.threshold),
                "iqr": float(node.iqr),
                "left": node.left,
                "right": node.right,
            }
            for node in nodes
        ],
        "leaves": [
            {
                "heap": leaf.heap,
                "depth": leaf.depth,
                "rows": leaf.n,
                "mean": leaf.mean.tolist(),
                "machine": type(leaf.estimator).__name__,
                "chosen": _chosen(leaf.estimator),
            }
            for leaf in tree.leaves_
        ],
        "temperature": float(tree.temperature_),
        "temperatures": [dict(entry) for entry in tree.temperatures_],
        "importances": None if importances is None else [float(value) for value in importances],
        "intervals": getattr(tree, "intervals", None),
        "provenance": {
            "random_state": int(tree.random_state) if isinstance(tree.random_state, int | np.integer) else None,
            "versions": {
                "featlearn": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        },
    }


def _among_inputs(columns: FittedColumns, direction: Tensor) -> Tensor:
    """A direction (p,) among the input columns (d,), with the signs that it has: more of a "+" column goes right."""
    found = columns.input_directions(direction[:, None])[0]
    numbers = (direction * columns.spread.to(direction))[: int(columns.numeric.kept.sum())]
    if bool(numbers.any()):
        largest = int(numbers.abs().argmax())
        signed = columns.input_of[: len(numbers)]
        if float(found[signed[largest]] * numbers[largest]) < 0:  # turned, so that its largest entry be positive
            found[signed] = -found[signed]
    return found


def _chosen(machine: Any) -> dict[str, Any] | None:
    """What a recursive feature machine settled on."""
    if not hasattr(machine, "kernel_name_"):
        return None
    return {
        "kernel": machine.kernel_name_,
        "columns": machine.columns_.config.transform,
        "alpha": float(machine.alpha_),
        "power": float(machine.power_),
        "iteration": int(machine.n_iter_),
    }


def _label(label: Any) -> Any:
    return label if isinstance(label, bool | int | float | str) else str(label)
