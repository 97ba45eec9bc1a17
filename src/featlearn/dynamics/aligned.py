"""Two-layer linear networks aligned with their target, where every feature is learned by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError
from .hyperbola import Hyperbola

__all__ = ["aligned_modes"]

Floats = NDArray[np.float64]

_ALIGNED = 1e-8
_MIXTURE = 0.37


def aligned_modes(W1: Floats, W2: Floats, Syx: Floats) -> Hyperbola:
    """One hyperbola for each feature (pair of singular vectors) of the target.

    Parameters
    ----------
    W1, W2, Syx : arrays of shape (..., Nh, Ni), (..., No, Nh), (..., No, Ni)
        Layers and target.

    Returns
    -------
    Hyperbola of shape (..., min(Ni, No))

    Raises
    ------
    DataError
        Layers that couple the features.

    Examples
    --------
    >>> modes = aligned_modes(np.diag([0.1, 0.2]), np.diag([0.1, 0.2]), np.diag([1.0, 3.0]))
    >>> modes.F_inf.round(3).tolist(), modes.F0.round(3).tolist()
    ([3.0, 1.0], [0.04, 0.01])
    """
    product = W2 @ W1
    U, V = _shared_vectors(product, Syx)
    k = min(product.shape[-2:])
    target, start = U.mT @ Syx @ V, U.mT @ product @ V
    w2, w1 = (W2.mT @ U)[..., :k], (W1 @ V)[..., :k]
    strength = np.abs(_diagonal(target)) + np.abs(_diagonal(start))
    largest = (np.abs(target) + np.abs(start)).max(axis=(-2, -1))
    # What is neither in the target nor in the start stays at zero, whatever its weights.
    active = strength > _ALIGNED * largest[..., np.newaxis]
    grams = U.mT @ W2 @ W2.mT @ U, V.mT @ W1.mT @ W1 @ V
    coupled = max(*(_beside(matrix, active) for matrix in (target, start, *grams)), _apart(w1, w2, active))
    size = float(((W1**2).sum(axis=(-2, -1)) + (W2**2).sum(axis=(-2, -1))).max())
    if coupled > _ALIGNED * max(1.0, size):
        raise DataError(
            f"Got layers that couple the features of Syx (by {coupled:.3g}), but expected W2 W1 and Syx with the same "
            "singular vectors; closed_form has no such condition."
        )
    A, B = ((w2 + w1) ** 2).sum(axis=-2), ((w2 - w1) ** 2).sum(axis=-2)
    return Hyperbola.from_sums(A, B, 2 * _diagonal(target), omega=2.0)


def _shared_vectors(product: Floats, Syx: Floats) -> tuple[Floats, Floats]:
    """Singular vectors of both, where they share them.

    Equal singular values leave their vectors open; those of a mixture of both matrices are vectors of each.
    """
    target_size, start_size = (np.linalg.norm(matrix, axis=(-2, -1), keepdims=True) for matrix in (Syx, product))
    share = np.where(target_size > 0, _MIXTURE * target_size, 1.0) / np.where(start_size > 0, start_size, 1.0)
    U, _, V = np.linalg.svd(Syx + share * product)
    return U, V.mT


def _diagonal(matrix: Floats) -> Floats:
    return np.diagonal(matrix, axis1=-2, axis2=-1)


def _beside(matrix: Floats, rows: NDArray[np.bool_]) -> float:
    """Largest entry beside the diagonal, in the leading rows and columns that are marked."""
    beside = np.abs(matrix * (1 - np.eye(*matrix.shape[-2:])))
    k = rows.shape[-1]
    across = np.where(rows[..., :, np.newaxis], beside[..., :k, :], 0.0)
    down = np.where(rows[..., np.newaxis, :], beside[..., :, :k], 0.0)
    return float(max(across.max(), down.max()))


def _apart(w1: Floats, w2: Floats, columns: NDArray[np.bool_]) -> float:
    """Largest area that the two hidden vectors of a marked feature span: 0 where it has one hidden direction."""
    square = (w2**2).sum(axis=-2, keepdims=True)
    left = w1 - w2 * (w1 * w2).sum(axis=-2, keepdims=True) / np.where(square > 0, square, 1.0)
    area = np.sqrt((left**2).sum(axis=-2) * square[..., 0, :])
    return float(np.where(columns, area, 0.0).max())
