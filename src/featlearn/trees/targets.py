"""What a tree is fitted to: shares of classes, or outputs of one scale; and the way back to predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets

from ..exceptions import DataError
from .inputs import weighted_mean_and_scale

__all__ = ["Targets", "as_classes", "as_outputs", "check_labels"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Targets:
    """Numbers that a tree averages.

    Attributes
    ----------
    Y : array of shape (n, K)
        One-hot classes, or outputs centred and divided by their standard deviation.
    center, scale : array of shape (K,)
        ``scale * Y + center`` are the outputs in their own units; 0 and 1 for classes.
    classes : array of shape (K,), optional
        Labels, ascending; None in regression.
    """

    Y: Array
    center: Array
    scale: Array
    classes: NDArray[Any] | None = None

    def decode(self, values: Array) -> Array:
        """Means of ``Y`` as shares of classes or outputs in their own units, (m, K)."""
        return values * self.scale + self.center


def check_labels(y: NDArray[Any]) -> None:
    """Refuse what are no labels.

    Raises
    ------
    DataError
        For missing entries among texts, and for texts among numbers. ValueError (of scikit-learn) for fractions.
    """
    if y.dtype.kind == "O":
        missing = [i for i, label in enumerate(y) if label is None]
        if missing:
            raise DataError(
                f"Got {len(missing)} rows of y without a label (None, the first in row {missing[0]}), but expected one "
                "in every row. Drop these rows."
            )
        kinds = sorted({type(label).__name__ for label in y})
        try:
            np.unique(y)
        except TypeError as error:
            raise DataError(
                f"Got labels of the types {', '.join(kinds)} in y, but expected one type. Turn all into text."
            ) from error
    check_classification_targets(y)


def as_classes(y: NDArray[Any], w: Array) -> Targets:
    """One-hot labels (n,) with positive weights.

    Raises
    ------
    DataError
        For a single class.
    """
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            f"Got one class ({classes.tolist()[0]!r}) among the rows of positive weight, but expected two or more. A "
            "classifier needs rows of the other class."
        )
    return Targets(np.eye(len(classes))[codes], np.zeros(len(classes)), np.ones(len(classes)), classes)


def as_outputs(y: Array, w: Array) -> Targets:
    """Outputs (n, K), each centred and divided by its weighted standard deviation; a constant one stays 0.

    Raises
    ------
    DataError
        If no output varies.
    """
    mean, scale = weighted_mean_and_scale(y, w)
    if not scale.any():
        raise DataError(f"Got a constant target ({mean[0]:g}), but expected one that varies. There is nothing to fit.")
    scale = np.where(scale > 0, scale, 1.0)
    return Targets((y - mean) / scale, mean, scale)
