"""The leaves of a tree: what they are fitted to, what they share, and how their predictions are mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from torch import Tensor

from .._random import generator
from .estimator import RFMBase
from .loop import squared_error
from .routing import Routing, take
from .rules import KERNELS
from .tree_growth import Targets

__all__ = ["TEMPERATURES", "TreeLeaf", "choose_temperature", "fit_leaf", "held_out", "mix", "shared_choices", "varies"]

HELD_SHARE = 0.1  # of the rows of a leaf, held out of it to choose the temperature
HELD_MOST = 1500
HELD_ROWS = 10_000  # of the whole tree: more do not make one number better known
HELD_LEAST = 100
FEWEST = 5  # rows below which a leaf is a constant
EQUAL = 1e-9  # standard deviations of a column that do not make two rows different
TEMPERATURES = (0.0, *np.geomspace(0.025, 4.5, 20).tolist())


@dataclass(frozen=True, eq=False)
class TreeLeaf:
    """A leaf and its machine.

    Attributes
    ----------
    heap, depth : int
        As of a :class:`~featlearn.machines.routing.TreeNode`.
    n : int
        Training rows that reached it, those held out of it included.
    estimator : estimator
        The machine; a :class:`~sklearn.dummy.DummyRegressor` or :class:`~sklearn.dummy.DummyClassifier` where the
        targets or the rows of the leaf do not differ, or are fewer than 5.
    mean : Tensor of shape (C,), float64
        Of the targets of those rows, weighted; the shares of the classes.
    """

    heap: int
    depth: int
    n: int
    estimator: Any
    mean: Tensor


def held_out(rows: Tensor, heap: int, n_leaves: int, random_state: int) -> Tensor:
    """Rows (h,), ascending, that the machine of a leaf with ``rows`` (n,) does not see.

    A tenth of them, at most 1,500, and no more than it takes to have 10,000 in all leaves together (but 100 a leaf).
    """
    most = min(HELD_MOST, max(HELD_LEAST, -(-HELD_ROWS // n_leaves)))
    order = torch.randperm(len(rows), generator=generator(random_state, "held", heap))
    return rows[order[: min(int(HELD_SHARE * len(rows)), most)]].sort().values


def varies(encoded: Tensor, targets: Targets, rows: Tensor) -> bool:
    """Whether a machine can learn anything from these rows (n, p) and their targets."""
    if len(rows) < FEWEST or targets.constant(rows):
        return False
    low, high = encoded.aminmax(dim=0)
    return bool((high - low > EQUAL).any())


def fit_leaf(estimator: Any, parameters: dict[str, Any], X: Any, y: NDArray[Any], weights: NDArray[Any] | None) -> Any:
    """A fitted copy of the estimator; weights are passed on where there are any."""
    machine = clone(estimator).set_params(**parameters)
    return machine.fit(X, y) if weights is None else machine.fit(X, y, sample_weight=weights)


def shared_choices(pilot: RFMBase) -> dict[str, Any]:
    """What the selection of one machine found, as parameters of others, which then have nothing to select.

    Classifiers still hold rows out, a fifth, on which the sharpness of their probabilities is chosen.
    """
    selection = pilot.selection_
    if selection is None:
        return {}
    candidate = selection.candidate
    return {
        "kernel": candidate.kernel if candidate.kernel in KERNELS else candidate.parts[0].kernel,
        "bandwidth": candidate.bandwidth,
        "power": candidate.power,
        "columns": pilot.columns_.config,
        "alpha": pilot.alpha_,
        "max_iter": pilot.n_iter_,
        "selection": "holdout" if is_classifier(pilot) else None,
    }


def leaf_values(estimator: Any, X: Any, classes: NDArray[Any] | None) -> Tensor:
    """Predictions (m, C) of one leaf, float64; where the tree has ``classes``, probabilities (m, K) of all of them."""
    if classes is None:
        values = _tensor(estimator.predict(X))
        return values.reshape(len(values), -1)
    probabilities = _tensor(estimator.predict_proba(X))
    full = probabilities.new_zeros(len(probabilities), len(classes))
    full[:, torch.from_numpy(np.searchsorted(classes, estimator.classes_))] = probabilities
    return full


def mix(shares: Tensor, X: Any, leaves: Sequence[TreeLeaf], classes: NDArray[Any] | None, width: int) -> Tensor:
    """Predictions (m, C) of the rows of X: those of the leaves, each asked only for rows in which it has a share."""
    mixed = torch.zeros(len(shares), width, dtype=torch.float64)
    for share, leaf in zip(shares.mT, leaves, strict=True):
        rows = share.nonzero()[:, 0]
        if len(rows):
            mixed[rows] += share[rows, None] * leaf_values(leaf.estimator, take(X, rows), classes)
    return mixed


def choose_temperature(
    routing: Routing,
    leaves: Sequence[TreeLeaf],
    X: Any,
    targets: Tensor,
    weights: Tensor | None,
    classes: NDArray[Any] | None,
) -> tuple[float, list[dict[str, float]]]:
    """Temperature with the smallest squared error on rows that no leaf was fitted to, and the score of each.

    ``targets`` (m, C) are values, or one-hot rows: their squared error is the Brier score. Ties go to the harder one.
    """
    projections = routing.projections(X)
    used = torch.zeros(len(projections), len(leaves), dtype=torch.bool)
    for temperature in TEMPERATURES:
        used |= routing.shares(projections, temperature) > 0
    answers = []
    for asked, leaf in zip(used.mT, leaves, strict=True):
        rows = asked.nonzero()[:, 0]
        answers.append((rows, leaf_values(leaf.estimator, take(X, rows), classes) if len(rows) else None))
    table = []
    for temperature in TEMPERATURES:
        mixed = torch.zeros_like(targets)
        for share, (rows, values) in zip(routing.shares(projections, temperature).mT, answers, strict=True):
            if values is not None:
                mixed[rows] += share[rows, None] * values
        table.append({"temperature": temperature, "score": squared_error(targets - mixed, weights)})
    return min(table, key=lambda entry: (entry["score"], entry["temperature"]))["temperature"], table


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values).detach().cpu().double()
