"""What a fitted tree answers, whether it was fitted here or read from a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..exceptions import DataError
from .estimator import like
from .routing import Routing, take
from .tables import as_table
from .targets import ClassCoding, RegressionCoding
from .tree_intervals import Residuals
from .tree_leaves import TreeLeaf, mix

__all__ = ["ClassificationTree", "RegressionTree", "Tree", "sliceable"]


class Tree:
    """Routing of rows to leaves, and the mean of what the leaves say.

    Attributes
    ----------
    routing_ : Routing
    leaves_ : sequence of TreeLeaf
    temperature_ : float
    coding_ : RegressionCoding or ClassCoding
    """

    routing_: Routing
    leaves_: Sequence[TreeLeaf]
    temperature_: float
    coding_: Any

    def leaf_of(self, X: Any) -> NDArray[np.int64]:
        """Place among ``leaves_`` (m,) of the leaf on whose side of every threshold a row lies."""
        return self._leaf_of(self._checked_rows(X)).numpy()

    def shares(self, X: Any) -> NDArray[np.float64]:
        """Shares (m, L) of the leaves in the predictions of the rows of X; rows add to 1, at most 12 are not 0."""
        X = self._checked_rows(X)
        routing = self.routing_
        parts = [routing.shares(routing.projections(take(X, rows)), self.temperature_) for rows in routing.chunks(X)]
        return torch.cat(parts).numpy()

    def _checked_rows(self, X: Any) -> Any:
        """X as rows can be taken from it; DataError for what is no table, or has other columns than in ``fit``."""
        as_table(X)
        return sliceable(X)

    def _leaf_of(self, X: Any) -> Tensor:
        routing = self.routing_
        return torch.cat([routing.leaf_of(routing.projections(take(X, rows))) for rows in routing.chunks(X)])

    def _mixed(self, X: Any) -> Tensor:
        """Predictions (m, C), float64."""
        coding = self.coding_
        classes, width = (
            (np.asarray(coding.classes), len(coding.classes))
            if isinstance(coding, ClassCoding)
            else (None, len(coding.mean))
        )
        routing, chunks = self.routing_, []
        for rows in routing.chunks(X):
            part = take(X, rows)
            shares = routing.shares(routing.projections(part), self.temperature_)
            chunks.append(mix(shares, part, self.leaves_, classes, width))
        return torch.cat(chunks)


class RegressionTree(Tree):
    """Values, and intervals where some rows were set aside for them.

    Attributes
    ----------
    residuals_ : Residuals or None
    """

    coding_: RegressionCoding
    residuals_: Residuals | None

    def predict(self, X: Any) -> Any:
        """Predictions (m,) or (m, C), of the kind of X."""
        values = self._mixed(self._checked_rows(X))
        return _like(X, self.coding_.decode(values))

    def predict_interval(self, X: Any, level: float = 0.9) -> Any:
        """Intervals (m, 2), or (m, C, 2) for several outputs, that hold the target with probability ``level``.

        The prediction plus and minus what the residuals of the rows set aside ask for; the width is that of the leaf
        on whose side of every threshold a row lies. The coverage is at least the level on average over data, not in
        every leaf.

        Raises
        ------
        DataError
            For a tree fitted with ``intervals=None``, or a level outside (0, 1).
        """
        rows = self._checked_rows(X)
        if self.residuals_ is None:
            raise DataError('Got a tree fitted without intervals. Fit it with intervals="split".')
        found = self.residuals_.interval(self._mixed(rows), self._leaf_of(rows), level)
        return _like(X, found[:, 0] if self.coding_.one_output else found)


class ClassificationTree(Tree):
    """Labels and probabilities."""

    coding_: ClassCoding

    @property
    def classes_(self) -> NDArray[Any]:
        """Labels (K,), ascending."""
        return np.asarray(self.coding_.classes)

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (m,) of the largest probability; ties go to the first class."""
        values = self._mixed(self._checked_rows(X))
        return np.asarray(self.classes_[values.numpy().argmax(axis=1)])

    def predict_proba(self, X: Any) -> Any:
        """Probabilities (m, K): those of the leaves, by their shares."""
        return _like(X, self._mixed(self._checked_rows(X)))


def sliceable(X: Any) -> Any:
    """X, or an array where it is a sequence; text among numbers keeps the numbers."""
    if hasattr(X, "shape"):
        return X
    array = np.asarray(X)
    return np.array(X, dtype=object) if array.dtype.kind == "U" else array


def _like(X: Any, values: Tensor) -> Any:
    """Values of the kind and precision of X."""
    return like(X, values.float() if getattr(X, "dtype", None) == np.float32 else values)
