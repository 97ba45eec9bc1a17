"""Kernel matrices as solvers see them: some rows at a time, or in a product; and the checks of a ridge system."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from scipy.linalg import blas
from torch import Tensor

from ..exceptions import DataError

__all__ = ["DenseGram", "GramOperator", "TiledGram", "as_operator", "check_alpha", "check_system", "check_weights"]

SYMV = {torch.float32: blas.ssymv, torch.float64: blas.dsymv}
TILE_BYTES = 2**25  # of float64: a tile of recomputed rows


class GramOperator(Protocol):
    """A symmetric matrix K of shape (n, n) that need not be stored."""

    @property
    def shape(self) -> tuple[int, int]:
        """``(n, n)``."""

    def rows(self, index: Tensor | slice) -> Tensor:
        """Rows ``K[index]`` of shape (len, n)."""

    def product(self, right: Tensor) -> Tensor:
        """``R K`` of shape (C, n) for R (C, n)."""


class DenseGram:
    """A stored matrix as a :class:`GramOperator`.

    ``R K`` with right-hand sides as rows reads K once, in the order it is stored: two to four times faster than
    ``K R^T`` for 2 to 10 right-hand sides. A single one reads only one triangle of K where BLAS has such a product.
    """

    def __init__(self, gram: Tensor) -> None:
        self.gram = gram

    @property
    def shape(self) -> tuple[int, int]:
        """``(n, n)``."""
        n = len(self.gram)
        return n, n

    def rows(self, index: Tensor | slice) -> Tensor:
        """Rows ``K[index]``."""
        return self.gram[index]

    def product(self, right: Tensor) -> Tensor:
        """``R K`` of shape (C, n)."""
        if len(right) == 1 and self.gram.device.type == "cpu" and right.dtype in SYMV:
            return torch.from_numpy(SYMV[right.dtype](1.0, self.gram.numpy().T, right[0].numpy()))[None]
        return right @ self.gram


class TiledGram:
    """A matrix that does not fit: rows are computed whenever they are asked for, and never stored.

    Parameters
    ----------
    kernel_rows : callable
        Maps a slice or an int64 tensor of row numbers to those rows of K, shape (len, n): for a kernel
        ``lambda rows: kernel.matrix(x[rows], x)``.
    n : int
        Rows of K.
    block : int, optional
        Rows of one tile; by default as many as 32 MB of float64 hold. Changes memory, not the result (up to rounding).

    Raises
    ------
    DataError
        Unless n and block are at least 1.

    Notes
    -----
    A product costs one evaluation of the whole matrix and ``2 n^2 C`` flops; memory is one tile.
    """

    def __init__(self, kernel_rows: Callable[[Tensor | slice], Tensor], n: int, block: int | None = None) -> None:
        if n < 1:
            raise DataError(f"Got n={n}, but expected at least one row.")
        if block is not None and block < 1:
            raise DataError(f"Got block={block}, but expected at least one row a tile.")
        self.rows = kernel_rows
        self.n = n
        self.block = min(n, block or max(1, TILE_BYTES // (8 * n)))

    @property
    def shape(self) -> tuple[int, int]:
        """``(n, n)``."""
        return self.n, self.n

    def tiles(self) -> Iterator[tuple[slice, Tensor]]:
        """Every tile with the rows it holds, in order."""
        for start in range(0, self.n, self.block):
            rows = slice(start, min(start + self.block, self.n))
            yield rows, self.rows(rows)

    def product(self, right: Tensor) -> Tensor:
        """``R K`` of shape (C, n), one tile after the other."""
        out = torch.zeros_like(right)
        for rows, tile in self.tiles():
            out.addmm_(right[:, rows], tile)
        return out


def as_operator(gram: Tensor | GramOperator) -> GramOperator:
    """The matrix as an operator; operators return themselves."""
    return DenseGram(gram) if isinstance(gram, Tensor) else gram


def check_alpha(alpha: float) -> float:
    """The ridge as a float, refused unless it is a finite number of at least 0."""
    if not (math.isfinite(alpha) and alpha >= 0):
        raise DataError(f"Got alpha={alpha}, but expected a finite number >= 0.")
    return float(alpha)


def check_weights(weights: Tensor | None, n: int) -> None:
    """Refuse weights that are not n positive finite numbers."""
    if weights is None:
        return
    if weights.shape != (n,):
        raise DataError(f"Got weights of shape {tuple(weights.shape)}, but expected ({n},): one a row.")
    if not (torch.isfinite(weights) & (weights > 0)).all():
        raise DataError("Got weights that are zero, negative or not finite. Drop the rows of weight 0 before solving.")


def check_system(gram: Tensor | GramOperator, targets: Tensor, weights: Tensor | None) -> None:
    """Refuse what cannot be solved before any work: shapes, dtypes, devices, values that are not finite.

    Of a stored matrix only the diagonal is looked at; solvers find other bad entries in what they compute anyway.
    """
    if targets.dim() != 2 or 0 in targets.shape:
        raise DataError(f"Got targets of shape {tuple(targets.shape)}, but expected (n >= 1, C >= 1).")
    if targets.dtype not in (torch.float32, torch.float64):
        raise DataError(f"Got targets of {targets.dtype}, but expected torch.float32 or torch.float64.")
    n = len(targets)
    if tuple(gram.shape) != (n, n):
        raise DataError(f"Got a kernel matrix of shape {tuple(gram.shape)} for {n} targets, but expected ({n}, {n}).")
    check_weights(weights, n)
    if not torch.isfinite(targets).all():
        raise DataError("Got targets with NaN or infinity, but expected finite numbers.")
    if not isinstance(gram, Tensor):
        return
    if gram.dtype != targets.dtype or gram.device != targets.device:
        raise DataError(
            f"Got a kernel matrix of {gram.dtype} on {gram.device} and targets of {targets.dtype} on {targets.device}, "
            "but expected one dtype and one device."
        )
    if not torch.isfinite(gram.diagonal()).all():
        raise DataError("Got a kernel matrix with NaN or infinity on its diagonal, but expected finite numbers.")
