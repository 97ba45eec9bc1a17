r"""Features that a tree can learn: what turns a row into the few numbers that its rules test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ..exceptions import DataError

__all__ = ["FeatureMap", "LinearMap", "PrototypeMap"]

Floats = NDArray[np.float64]

FLAT = 1e-12  # a feature whose standard deviation is below this share of its largest value does not vary


class FeatureMap(Protocol):
    """What the learner asks of features; a user's own class of this shape can be passed to the estimators.

    Maps are never changed: every method that changes something returns a new map. ``parameters`` are float64 arrays
    whose first axis is the feature. A map knows which of its weights are frozen at zero, and keeps them so.
    """

    @property
    def parameters(self) -> tuple[Floats, ...]:
        """What gradient steps change."""

    @property
    def n_features(self) -> int:
        """The number q of features."""

    @property
    def n_weights(self) -> NDArray[np.int64]:
        """Non-zero weights (q,) of each feature: the inputs that a reader of its rule has to look at."""

    def start(self, X: Floats, Y: Floats, w: Floats, q: int, rng: torch.Generator) -> Self:
        """A random map of q features, nothing frozen."""

    def forward(self, X: Floats) -> Floats:
        """Features Z (n, q) of rows X (n, d)."""

    def backward(self, X: Floats, dZ: Floats) -> tuple[Floats, ...]:
        """Gradients like ``parameters`` of a loss whose gradient in Z is ``dZ``; 0 where frozen."""

    def with_parameters(self, parameters: tuple[Floats, ...]) -> Self:
        """The same map with these numbers, but zero where frozen."""

    def rescaled(self, X: Floats, w: Floats) -> Self:
        """The same features in units of their standard deviation over the weighted rows."""

    def keep_largest(self, s: int) -> Self:
        """All but the s largest weights of each feature set to zero; all zeros are frozen."""

    def select(self, rows: NDArray[np.integer]) -> Self:
        """These features, in this order."""


@dataclass(frozen=True, eq=False)
class LinearMap:
    r"""Linear combinations of the inputs, ``z_j = w_j^T x``.

    Parameters
    ----------
    weights : array of shape (q, d)
        W, per standard deviation of the inputs.
    support : bool array of shape (q, d), optional
        False where a weight is frozen at zero; by default nothing is, so that a zero of ``weights`` may move until
        :meth:`keep_largest` freezes it.

    Notes
    -----
    With the gradient dZ of a loss, ``d loss / d W = dZ^T X``.

    Examples
    --------
    >>> import numpy as np
    >>> rule = LinearMap(np.array([[3.0, -2.0, 0.1]])).keep_largest(2)
    >>> rule.weights, rule.n_weights
    (array([[ 3., -2.,  0.]]), array([2]))
    """

    weights: Floats
    support: NDArray[np.bool_] | None = None

    @classmethod
    def random(cls, q: int, d: int, rng: torch.Generator) -> Self:
        """Rows of independent N(0, 1) numbers: the same draw whatever the data are."""
        return cls(_normal(q, d, rng))

    @classmethod
    def start(cls, X: Floats, Y: Floats, w: Floats, q: int, rng: torch.Generator) -> Self:
        """:meth:`random` rows for the columns of X, in units of their standard deviation."""
        return cls.random(q, X.shape[1], rng).rescaled(X, w)

    @property
    def parameters(self) -> tuple[Floats, ...]:
        """``(W,)``."""
        return (self.weights,)

    @property
    def n_features(self) -> int:
        """The number q of features."""
        return len(self.weights)

    @property
    def n_weights(self) -> NDArray[np.int64]:
        """Non-zero weights (q,) of each row."""
        return np.count_nonzero(self.weights, axis=1)

    def forward(self, X: Floats) -> Floats:
        """``X W^T``."""
        return X @ self.weights.T

    def backward(self, X: Floats, dZ: Floats) -> tuple[Floats, ...]:
        """``dZ^T X``, 0 where frozen."""
        return (_inside(dZ.T @ X, self.support),)

    def with_parameters(self, parameters: tuple[Floats, ...]) -> Self:
        """The same support with other weights."""
        (weights,) = parameters
        return type(self)(_inside(weights, self.support), self.support)

    def rescaled(self, X: Floats, w: Floats) -> Self:
        """Rows divided by the standard deviation of their feature; a row whose feature does not vary is left alone."""
        return type(self)(self.weights / _spread(self.forward(X), w)[:, None], self.support)

    def keep_largest(self, s: int) -> Self:
        """All but the s weights of largest magnitude of each row set to zero; all zeros are frozen."""
        support = _largest(self.weights, s)
        return type(self)(_inside(self.weights, support), support)

    def select(self, rows: NDArray[np.integer]) -> Self:
        """These rows, in this order."""
        return type(self)(self.weights[rows], _rows_of(self.support, rows))


@dataclass(frozen=True, eq=False)
class PrototypeMap:
    r"""Closeness to prototypes, ``z_j = -|(x - p_j) * m_j|^2`` with a mask of weights for each.

    Parameters
    ----------
    prototypes : array of shape (q, d)
        P, in standard deviations of the inputs from their means.
    masks : array of shape (q, d)
        M: what a difference in each input counts. Only magnitudes matter.
    support : bool array of shape (q, d), optional
        False where a mask is frozen at zero; by default nothing is.

    Notes
    -----
    With the gradient dZ of a loss and ``D = x - p_j``: ``d loss / d p_j = sum_x dZ 2 m_j^2 D`` and
    ``d loss / d m_j = sum_x dZ (-2 m_j D^2)``. Squares are expanded, so that everything is a matrix product.

    Examples
    --------
    >>> import numpy as np
    >>> near = PrototypeMap(np.array([[1.0, 0.0]]), np.array([[1.0, 2.0]]))
    >>> near.forward(np.array([[2.0, 0.0], [2.0, 1.0]]))
    array([[-1.],
           [-5.]])
    """

    prototypes: Floats
    masks: Floats
    support: NDArray[np.bool_] | None = None

    @classmethod
    def start(cls, X: Floats, Y: Floats, w: Floats, q: int, rng: torch.Generator) -> Self:
        """Class means in turn plus N(0, 1) noise, masks of ones, in units of the features' standard deviation.

        Drawing rows of X instead would break "a weight is a repetition". Targets that are no one-hot labels have one
        mean, that of all rows.
        """
        one_hot = bool(np.isin(Y, (0.0, 1.0)).all() and (Y.sum(axis=1) == 1).all())
        shares = w[:, None] * Y if one_hot else w[:, None]
        totals = shares.sum(axis=0)
        means = (shares[:, totals > 0].T @ X) / totals[totals > 0, None]
        prototypes = means[np.arange(q) % len(means)] + _normal(q, X.shape[1], rng)
        return cls(prototypes, np.ones_like(prototypes)).rescaled(X, w)

    @property
    def parameters(self) -> tuple[Floats, ...]:
        """``(P, M)``."""
        return self.prototypes, self.masks

    @property
    def n_features(self) -> int:
        """The number q of features."""
        return len(self.masks)

    @property
    def n_weights(self) -> NDArray[np.int64]:
        """Non-zero masks (q,) of each prototype."""
        return np.count_nonzero(self.masks, axis=1)

    def forward(self, X: Floats) -> Floats:
        """Negative squared distances (n, q)."""
        squares = self.masks**2
        at_origin = (squares * self.prototypes**2).sum(axis=1)
        return 2 * (X @ (squares * self.prototypes).T) - X**2 @ squares.T - at_origin

    def backward(self, X: Floats, dZ: Floats) -> tuple[Floats, ...]:
        """Gradients in the prototypes and in the masks, 0 where frozen."""
        first, total = dZ.T @ X, dZ.sum(axis=0)[:, None]
        differences = first - total * self.prototypes
        squares = dZ.T @ X**2 - 2 * self.prototypes * first + total * self.prototypes**2
        gradients = 2 * self.masks**2 * differences, -2 * self.masks * squares
        return tuple(_inside(gradient, self.support) for gradient in gradients)

    def with_parameters(self, parameters: tuple[Floats, ...]) -> Self:
        """The same support with other prototypes and masks."""
        prototypes, masks = parameters
        return type(self)(prototypes, _inside(masks, self.support), self.support)

    def rescaled(self, X: Floats, w: Floats) -> Self:
        """Masks divided by the root of the feature's standard deviation; one that does not vary is left alone."""
        return type(self)(self.prototypes, self.masks / np.sqrt(_spread(self.forward(X), w))[:, None], self.support)

    def keep_largest(self, s: int) -> Self:
        """All but the s masks of largest magnitude of each prototype set to zero; all zeros are frozen."""
        support = _largest(self.masks, s)
        return type(self)(self.prototypes, _inside(self.masks, support), support)

    def select(self, rows: NDArray[np.integer]) -> Self:
        """These prototypes, in this order."""
        return type(self)(self.prototypes[rows], self.masks[rows], _rows_of(self.support, rows))


def _normal(q: int, d: int, rng: torch.Generator) -> Floats:
    return np.asarray(torch.randn(q, d, generator=rng, dtype=torch.float64))


def _spread(Z: Floats, w: Floats) -> Floats:
    """Weighted standard deviation (q,) of each feature, 1 for one that does not vary."""
    share = w / w.sum()
    std = np.sqrt(share @ (Z - share @ Z) ** 2)
    return np.where(std > FLAT * np.abs(Z).max(axis=0), std, 1.0)


def _inside(values: Floats, support: NDArray[np.bool_] | None) -> Floats:
    return values if support is None else np.where(support, values, 0.0)


def _largest(weights: Floats, s: int) -> NDArray[np.bool_]:
    """Where the s largest magnitudes of each row are that are not 0; the lower column wins a tie."""
    if s < 1:
        raise DataError(f"Got s={s} weights to keep, but expected at least one.")
    kept = np.zeros(weights.shape, dtype=bool)
    np.put_along_axis(kept, np.argsort(-np.abs(weights), axis=1, kind="stable")[:, :s], True, axis=1)
    return kept & (weights != 0)


def _rows_of(support: NDArray[np.bool_] | None, rows: NDArray[np.integer]) -> NDArray[np.bool_] | None:
    return None if support is None else support[rows]
