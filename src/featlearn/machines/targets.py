"""What the solver is asked to fit: centred targets and coded classes; and the way back to predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import type_of_target
from torch import Tensor

from .._arrays import as_tensor
from ..exceptions import DataError
from .tables import missing_entries
from .weights import weighted_mean

__all__ = ["ClassCoding", "RegressionCoding"]

CODINGS = ("prevalence", "one_hot")


@dataclass(frozen=True, eq=False)
class RegressionCoding:
    """Targets minus their weighted mean, which for equal targets is theirs exactly.

    Attributes
    ----------
    mean : Tensor of shape (C,), float64
        What predictions start from; zeros when not centred.
    one_output : bool
        Whether y had one axis, so that predictions have one too.
    """

    mean: Tensor
    one_output: bool

    @classmethod
    def fit(cls, y: Any, n: int, weights: Tensor | None = None, *, center: bool = True) -> RegressionCoding:
        """Coding of y of shape (n,) or (n, C); DataError for another length, NaN, text or more axes."""
        targets = _regression_targets(y, n)
        columns = targets.reshape(n, -1)
        if not center:
            return cls(columns.new_zeros(columns.shape[1]), targets.ndim == 1)
        there = columns if weights is None else columns[weights > 0]
        # The sum of equal numbers is rounded: what is left of them would be learned.
        constant = there.amin(dim=0) == there.amax(dim=0)
        return cls(torch.where(constant, there[0], weighted_mean(columns, weights)), targets.ndim == 1)

    def encode(self, y: Any, n: int) -> Tensor:
        """Coded targets (n, C), float64."""
        columns = _regression_targets(y, n).reshape(n, -1)
        if columns.shape[1] != len(self.mean):
            raise DataError(
                f"Got y with {columns.shape[1]} outputs, but expected {len(self.mean)}, as in fit. Pass the same ones."
            )
        return columns - self.mean

    def decode(self, expansion: Tensor) -> Tensor:
        """Predictions (m,) or (m, C) from the values (m, C) of the kernel expansion, in their dtype."""
        predictions = expansion + self.mean.to(expansion)
        return predictions[:, 0] if self.one_output else predictions


def _regression_targets(y: Any, n: int) -> Tensor:
    if y is None:
        raise DataError(
            "Got y=None, but expected targets: this estimator requires y to be passed, but the target y is None."
        )
    if hasattr(y, "to_numpy") and y.ndim == 1:
        y = y.to_numpy()
    if isinstance(y, np.ndarray) and y.dtype.kind == "O":
        y = _from_objects(y)
    targets = as_tensor(y, name="y", dtype=torch.float64)[0].detach().cpu()
    if targets.ndim > 2:
        raise DataError(
            f"Got y of shape {tuple(targets.shape)}, but expected (n,) or (n, outputs). Flatten the outputs."
        )
    _check_length(len(targets), n)
    return targets


def _from_objects(y: NDArray[Any]) -> NDArray[np.float64]:
    try:
        return y.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"Got y with entries that are no numbers ({error}). Unknown label type for regression."
        ) from error


def _check_length(got: int, n: int) -> None:
    if got != n:
        raise DataError(f"Got y with {got} rows and X with {n}, but expected as many of one as of the other.")


@dataclass(frozen=True, eq=False)
class ClassCoding:
    r"""Classes as one-hot rows minus the class frequencies ("prevalence"), or as they are ("one_hot").

    .. math:: Y_{ik} = 1[y_i = k] - \pi_k, \qquad f_k(z) = \pi_k + \sum_i \beta_{ik} k(x_i, z)

    Attributes
    ----------
    classes : array of shape (K,)
        Labels, ascending, of the rows of positive weight.
    origin : Tensor of shape (K,), float64
        Scores where the expansion is 0: the weighted class frequencies pi, or zeros.
    factors : Tensor of shape (K,), float64
        ``class_weight`` as factors on the sample weights.

    Notes
    -----
    Both matrix products that matter, the decoded scores and ``beta beta^T`` (hence the AGOP), are those of the regular
    simplex in K - 1 dimensions with the frequencies as its origin. With "prevalence" far from all data the scores are
    the frequencies, and the scores of every point add to 1.
    """

    classes: NDArray[Any]
    origin: Tensor
    factors: Tensor

    @classmethod
    def fit(
        cls, y: Any, n: int, weights: Tensor | None = None, *, coding: str = "prevalence", class_weight: Any = None
    ) -> ClassCoding:
        """Coding of labels of any type that sorts, shape (n,).

        Parameters
        ----------
        class_weight : None, "balanced" or mapping from label to weight
            Factor on the weights of the rows of a class, 1 for labels that a mapping leaves out. "balanced": total
            weight over (number of classes times weight of the class).

        Raises
        ------
        DataError
            Unknown ``coding`` or ``class_weight``; another length; missing or real-valued labels; a single class.
        """
        if coding not in CODINGS:
            raise DataError(f"Got coding={coding!r}, but expected one of {', '.join(map(repr, CODINGS))}.")
        labels = _class_labels(y, n)
        there = np.ones(n, dtype=bool) if weights is None else weights.numpy() > 0
        classes, place = np.unique(labels[there], return_inverse=True)
        if len(classes) < 2:
            raise DataError(
                f"Got labels of one class only ({classes.tolist()[0]!r}) in the rows of positive weight, but expected "
                "at least two classes. Nothing can be told apart."
            )
        mass = torch.from_numpy(np.bincount(place, None if weights is None else weights.numpy()[there])).double()
        factors = _class_factors(class_weight, classes, mass)
        prevalence = mass * factors / (mass @ factors)
        return cls(classes, prevalence if coding == "prevalence" else torch.zeros_like(prevalence), factors)

    def indices(self, y: Any, n: int) -> Tensor:
        """Place of each label among the classes, int64 of shape (n,); DataError for a label that was not in fit."""
        labels = _class_labels(y, n)
        try:
            place = np.searchsorted(self.classes, labels).clip(max=len(self.classes) - 1)
            unknown = labels[self.classes[place] != labels]
        except TypeError as error:  # numbers among text do not sort
            raise DataError(f"Got labels of another type than in fit ({self.classes[:3].tolist()}, ...).") from error
        if len(unknown):
            first, some = unknown.tolist()[0], self.classes[:5].tolist()
            raise DataError(f"Got the label {first!r}, but expected one of those in fit ({some}). Leave such rows out.")
        return torch.from_numpy(place.astype(np.int64))

    def row_weights(self, y: Any, n: int, weights: Tensor | None = None) -> Tensor | None:
        """Sample weights (n,) times the factors of the classes; None where all are equal to 1."""
        if weights is None and bool((self.factors == 1).all()):
            return None
        weights = torch.ones(n, dtype=torch.float64) if weights is None else weights.clone()
        there = weights > 0  # the label of a row that is left out need not be known
        labels = _class_labels(y, n)[there.numpy()]
        weights[there] *= self.factors[self.indices(labels, len(labels))]
        return weights

    def encode(self, y: Any, n: int) -> Tensor:
        """Coded labels (n, K), float64."""
        one_hot = torch.nn.functional.one_hot(self.indices(y, n), len(self.classes))
        return one_hot.to(torch.float64) - self.origin

    def scores(self, expansion: Tensor) -> Tensor:
        """Scores (m, K) from the values (m, K) of the kernel expansion, in their dtype."""
        return expansion + self.origin.to(expansion)

    def decode(self, expansion: Tensor) -> NDArray[Any]:
        """Labels (m,) of the largest scores; ties go to the first class."""
        # argmax of torch does not promise the first of equal entries; numpy's does.
        return np.asarray(self.classes[self.scores(expansion).detach().cpu().numpy().argmax(axis=1)])


def _class_labels(y: Any, n: int) -> NDArray[Any]:
    if y is None:
        raise DataError(
            "Got y=None, but expected labels: this estimator requires y to be passed, but the target y is None."
        )
    labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if labels.dtype.kind == "c":
        raise DataError("Got complex labels. Complex data not supported.")
    labels = np.asarray(column_or_1d(labels, warn=True))
    _check_length(len(labels), n)
    missing = missing_entries(labels) if labels.dtype.kind in "fO" else False
    if np.any(missing):
        raise DataError(
            f"Got y with {np.sum(missing)} missing labels (NaN or None), but expected a label in every row. Leave "
            "these rows out."
        )
    if n and labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DataError("Got y with infinity, but expected labels. Leave these rows out.")
    kind = type_of_target(labels, input_name="y")
    if kind not in ("binary", "multiclass"):
        raise DataError(
            f"Unknown label type: {kind}. Expected classes (text, integers, truth values). For real-valued targets use "
            "a regressor, or cut them into classes."
        )
    return labels


def _class_factors(class_weight: Any, classes: NDArray[Any], mass: Tensor) -> Tensor:
    """Factor (K,) on the weights of each class, whose weights add to ``mass`` (K,)."""
    if class_weight is None:
        return torch.ones_like(mass)
    if isinstance(class_weight, str) and class_weight == "balanced":
        return mass.sum() / (len(mass) * mass)
    if not isinstance(class_weight, Mapping):
        raise DataError(f"Got class_weight={class_weight!r}, but expected None, 'balanced' or a dict of weights.")
    known = classes.tolist()
    unknown = [label for label in class_weight if label not in known]
    if unknown:
        raise DataError(f"Got class_weight for the label {unknown[0]!r}, but expected labels among {known[:5]}.")
    factors = [float(class_weight.get(label, 1.0)) for label in known]
    if not all(0 < factor < np.inf for factor in factors):
        raise DataError(
            f"Got class_weight={class_weight!r}, but expected positive finite weights. To leave out a class, drop its "
            "rows."
        )
    return torch.tensor(factors, dtype=torch.float64)
