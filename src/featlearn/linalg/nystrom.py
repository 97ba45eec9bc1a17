r"""Preconditioner of a ridge system from some columns of its matrix."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch
from torch import Tensor

from ..exceptions import DataError

__all__ = ["NystromPreconditioner"]

JITTER = 1e-7  # of the trace of K_PP
CUT = 1e-7  # of the largest eigenvalue


class NystromPreconditioner:
    r"""Column-Nystrom preconditioner of ``K + alpha I``.

    .. math::

        L L^\top = K_{PP} + 10^{-7} \operatorname{tr}(K_{PP}) I, \qquad B = L^{-1} K_{P,:}, \qquad
        B B^\top = V \operatorname{diag}(l) V^\top, \qquad U = \operatorname{diag}(l)^{-1/2} V^\top B

        P^{-1} r = (r - U^\top U r) + U^\top \operatorname{diag}\Big(\frac{l_{\min} + \alpha}{l_i + \alpha}\Big) U r

    Parameters
    ----------
    gram_rows : callable
        Maps int64 row numbers (p,) to those rows of K, shape (p, n).
    index : Tensor of shape (p,)
        Distinct row numbers P, drawn at random.
    alpha : float
        Ridge >= 0.

    Attributes
    ----------
    eigenvalues : Tensor of shape (q,)
        ``l`` above ``1e-7 max(l)``, descending, float64.
    vectors : Tensor of shape (q, n)
        ``U``, orthonormal rows, in the precision of K.

    Raises
    ------
    DataError
        Where the rows are not finite, or ``K_PP`` is not positive definite.

    Notes
    -----
    Costs ``6 p^2 n`` flops once, in the precision of K, and ``4 p n`` per right-hand side; memory ``2 p n``. Only p x p
    matrices are float64.
    """

    def __init__(self, gram_rows: Callable[[Tensor], Tensor], index: Tensor, alpha: float) -> None:
        rows = gram_rows(index)
        square = rows[:, index].double()
        square = (square + square.mT) / 2
        square.diagonal().add_(JITTER * square.diagonal().mean() * len(index))
        factor, failed = torch.linalg.cholesky_ex(square)
        if int(failed) or not torch.isfinite(rows).all():
            raise DataError(
                f"Got a kernel matrix whose {len(index)} sampled rows are not positive definite or not finite. Is the "
                'kernel positive definite? method="eigh" solves systems that are not.'
            )
        inverse = torch.linalg.solve_triangular(factor, torch.eye(len(index)).to(factor), upper=False)
        half = inverse.to(rows.dtype) @ rows
        values, vectors = torch.linalg.eigh((half @ half.mT).double())
        cut = max(CUT, 8 * torch.finfo(rows.dtype).eps) * values[-1]
        kept = values > cut
        self.eigenvalues = values[kept].flip(0)
        scaled = (vectors[:, kept].flip(1) / self.eigenvalues.sqrt()).mT
        self.vectors = scaled.to(rows.dtype) @ half
        self.damping = self._damping(alpha)

    def _damping(self, alpha: float) -> Tensor:
        return ((self.eigenvalues[-1] + alpha) / (self.eigenvalues + alpha) - 1).to(self.vectors.dtype)

    def with_alpha(self, alpha: float) -> NystromPreconditioner:
        """The same for another ridge, at no cost: the vectors do not depend on it."""
        other = copy(self)
        other.damping = self._damping(alpha)
        return other

    def apply(self, right: Tensor) -> Tensor:
        """``R P^-1`` of shape (C, n) for right-hand sides R stored as rows (C, n)."""
        return torch.addmm(right, (right @ self.vectors.mT).mul_(self.damping), self.vectors)
