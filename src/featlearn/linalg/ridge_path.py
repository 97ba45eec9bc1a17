r"""Ridge solutions for many alphas from one eigendecomposition."""

from __future__ import annotations

import torch
from torch import Tensor

from ..exceptions import DataError
from .gram import check_alpha, check_system
from .loo import leave_one_out_residuals, recentred_leave_one_out

__all__ = ["RidgePath"]

STRIP = 512  # rows of squared eigenvectors at once


class RidgePath:
    r"""``(K + alpha diag(1/w)) beta = Y`` for any alpha, with leave-one-out residuals.

    .. math::

        W^{1/2} K W^{1/2} = Q \operatorname{diag}(e) Q^\top, \qquad
        \beta(\alpha) = W^{1/2} Q \operatorname{diag}(1/(e + \alpha)) Q^\top W^{1/2} Y

    Parameters
    ----------
    gram : Tensor of shape (n, n)
        Symmetric kernel matrix; left as it is, and not kept.
    targets : Tensor of shape (n, C)
        Y, of the dtype and device of ``gram``.
    weights : Tensor of shape (n,), optional
        Positive sample weights w; 1 where left out.

    Attributes
    ----------
    eigenvalues : Tensor of shape (n,)
        e, ascending, float64.

    Raises
    ------
    DataError
        For input that :func:`~featlearn.linalg.ridge.solve_ridge` refuses, or a matrix that is not finite.

    Notes
    -----
    One eigendecomposition in float64 whatever the precision of K, since small alphas drown in the rounding of float32
    eigenvalues: about ``9 n^3`` flops and ``16 n^2`` bytes. Every alpha costs ``4 n^2 C`` flops more, and
    ``n^2`` for leave-one-out.

    Examples
    --------
    >>> import torch
    >>> path = RidgePath(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[1.0], [0.0]]))
    >>> path.solve(1.0)
    tensor([[ 0.3750],
            [-0.1250]])
    >>> path.leave_one_out(1.0)  # 1 - 0, and 0 - 1/3: the other row alone predicts y k(x, z) / (k(x, x) + alpha)
    tensor([[ 1.0000],
            [-0.3333]])
    """

    def __init__(self, gram: Tensor, targets: Tensor, weights: Tensor | None = None) -> None:
        check_system(gram, targets, weights)
        self.dtype = gram.dtype
        self.targets = targets.detach().double()
        self.weights = torch.ones_like(self.targets[:, 0]) if weights is None else weights.to(self.targets)
        self.root = self.weights.sqrt()[:, None]
        scaled = gram.detach().to(torch.float64, copy=True).mul_(self.root).mul_(self.root.mT)
        # Any NaN or infinity makes the sum one too; finite values cannot sum to one in float64.
        if not torch.isfinite(scaled.sum()):
            raise DataError("Got a kernel matrix with NaN or infinity, but expected finite numbers.")
        self.eigenvalues, self._vectors = torch.linalg.eigh(scaled)
        self._rotated = self._vectors.mT @ (self.root * self.targets)

    @property
    def cut(self) -> float:
        """Eigenvalues of at most this size count as 0: n roundings of the largest."""
        largest = float(self.eigenvalues.abs().max())
        return len(self.eigenvalues) * torch.finfo(torch.float64).eps * largest

    @property
    def smallest_alpha(self) -> float:
        """Every alpha above this one gives a positive definite matrix; 0 where K is one itself."""
        return max(0.0, self.cut - float(self.eigenvalues[0]))

    def is_singular(self) -> bool:
        """Whether alpha = 0 needs the pseudo-inverse."""
        return bool((self.eigenvalues.abs() <= self.cut).any())

    def solve(self, alpha: float) -> Tensor:
        """Dual coefficients (n, C); for alpha = 0 and a singular K the solution of least norm, ``K^+ Y``.

        Raises
        ------
        DataError
            Where alpha is negative, or positive and the matrix is not positive definite with it.
        """
        return self._solve(alpha).to(self.dtype)

    def leave_one_out(self, alpha: float, *, recentred: bool = False) -> Tensor:
        """Residuals (n, C) of n refits that each leave one row out: :mod:`featlearn.linalg.loo`.

        ``recentred``: the targets given had their weighted mean subtracted, which every refit computes anew.
        """
        dual, diagonal = self._solve(alpha), self._inverse_diagonal(alpha)
        if not recentred:
            return leave_one_out_residuals(dual, diagonal).to(self.dtype)
        sums = self._apply_inverse(alpha, self._vectors.mT @ self.root).squeeze(1)
        return recentred_leave_one_out(dual, diagonal, sums, self.targets, self.weights).to(self.dtype)

    def leverage(self, alpha: float) -> Tensor:
        """Diagonal (n,) of the hat matrix ``K (K + alpha diag(1/w))^-1``, between 0 and 1; its sum is the effective
        number of parameters.
        """
        return (1 - alpha * self._inverse_diagonal(alpha) / self.weights).to(self.dtype)

    def _solve(self, alpha: float) -> Tensor:
        return self._apply_inverse(alpha, self._rotated)

    def _apply_inverse(self, alpha: float, rotated: Tensor) -> Tensor:
        return self.root * (self._vectors @ (self._inverse_eigenvalues(alpha)[:, None] * rotated))

    def _inverse_diagonal(self, alpha: float) -> Tensor:
        inverse = self._inverse_eigenvalues(alpha)
        return self.weights * torch.cat([rows.square() @ inverse for rows in self._vectors.split(STRIP)])

    def _inverse_eigenvalues(self, alpha: float) -> Tensor:
        alpha = check_alpha(alpha)
        if alpha == 0:
            kept = self.eigenvalues.abs() > self.cut
            return torch.where(kept, 1 / torch.where(kept, self.eigenvalues, 1.0), 0.0)
        if float(self.eigenvalues[0]) + alpha <= 0:
            raise DataError(
                f"Got a kernel matrix with smallest eigenvalue {float(self.eigenvalues[0]):.1e}, which is not positive "
                f"definite with alpha={alpha:g}. Any alpha above {self.smallest_alpha:.1e} works."
            )
        return 1 / (self.eigenvalues + alpha)
