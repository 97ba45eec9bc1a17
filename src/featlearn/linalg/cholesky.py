r"""Cholesky factor of ``K + diag(ridge)`` made in place, and honest answers where there is none."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.linalg import get_blas_funcs, get_lapack_funcs
from torch import Tensor

from ..exceptions import DataError

__all__ = ["CholeskyFactor", "DirectSolution", "ridge_diagonal", "solve_cholesky"]

STRIP = 512  # rows mirrored at once


class DirectSolution(NamedTuple):
    """Dual coefficients (n, C), their largest relative residual over outputs, and diag(B) and B 1 where asked for."""

    dual: Tensor
    relative_residual: float
    inverse_diagonal: Tensor | None = None
    inverse_sums: Tensor | None = None


def ridge_diagonal(alpha: float, weights: Tensor | None, like: Tensor) -> Tensor:
    """``alpha / w`` of shape (n,) for n rows like those of ``like``."""
    if weights is None:
        return like.new_full((len(like),), alpha)
    return (alpha / weights.double()).to(like)


class CholeskyFactor:
    r"""Cholesky factor ``L L^T = K + diag(ridge)`` that takes no memory on the CPU.

    LAPACK's ``potrf`` writes the factor into one triangle of K; the other triangle still holds K, and gives residuals
    and K itself back.

    Parameters
    ----------
    gram : Tensor of shape (n, n)
        Symmetric, contiguous, float32 or float64. On the CPU it is **workspace** until :meth:`restore_`; on other
        devices torch makes a factor of its own and ``gram`` is left as it was.
    ridge : Tensor of shape (n,)
        Added to the diagonal.

    Attributes
    ----------
    pivot : int
        0, or the (1-based) first pivot that is not positive: then there is no factor, and ``gram`` is K again.

    Notes
    -----
    ``n^3 / 3`` flops; a solve costs ``2 n^2 C``.
    """

    def __init__(self, gram: Tensor, ridge: Tensor) -> None:
        self.gram = gram.detach()
        self.diagonal, self.ridge = self.gram.diagonal().clone(), ridge
        self.gram.diagonal().add_(ridge)
        self.in_place = gram.device.type == "cpu"
        if self.in_place:
            self._potrf()
        else:
            self._torch_cholesky()
        if self.pivot:
            self.restore_()

    def _potrf(self) -> None:
        if not self.gram.is_contiguous():
            raise DataError(f"Got a kernel matrix with strides {self.gram.stride()}, but expected a contiguous one.")
        # The transposed view of a C-ordered matrix is F-ordered, which is what LAPACK writes into without a copy.
        self.square = self.gram.numpy().T
        (potrf,) = get_lapack_funcs(("potrf",), (self.square,))
        _, self.pivot = potrf(self.square, lower=1, overwrite_a=1, clean=0)

    def _torch_cholesky(self) -> None:
        self.factor, pivot = torch.linalg.cholesky_ex(self.gram)
        self.pivot = int(pivot)
        self.gram.diagonal().copy_(self.diagonal)

    def smallest_pivot(self) -> float:
        """Smallest squared diagonal entry of L; near rounding, the matrix is singular."""
        diagonal = self.gram.diagonal() if self.in_place else self.factor.diagonal()
        return float(diagonal.min()) ** 2

    def solve(self, targets: Tensor) -> Tensor:
        """``(K + diag(ridge))^-1 Y`` of shape (n, C)."""
        if not self.in_place:
            return torch.cholesky_solve(targets, self.factor).contiguous()
        columns = targets.mT.clone(memory_format=torch.contiguous_format)
        (potrs,) = get_lapack_funcs(("potrs",), (self.square,))
        potrs(self.square, columns.numpy().T, lower=1, overwrite_b=1)
        return columns.mT.contiguous()

    def relative_residual(self, dual: Tensor, targets: Tensor) -> float:
        """Largest ``|Y_c - (K + diag(ridge)) beta_c| / |Y_c|`` over outputs, from the triangle that still holds K."""
        rows = dual.mT.contiguous()
        if self.in_place:
            (symm,) = get_blas_funcs(("symm",), (self.square,))
            product = torch.from_numpy(symm(1.0, self.square, rows.numpy().T, lower=0)).mT
            product = product + (self.diagonal + self.ridge - self.gram.diagonal()) * rows
        else:
            product = rows @ self.gram + self.ridge * rows
        return relative_residual(targets.mT - product, targets.mT)

    def inverse_diagonal_(self) -> Tensor:
        """``diag((K + diag(ridge))^-1)`` of shape (n,); the factor is consumed (``potri``, 2 n^3 / 3 flops)."""
        if not self.in_place:
            eye = torch.eye(len(self.gram), dtype=self.gram.dtype, device=self.gram.device)
            inverse = torch.linalg.solve_triangular(self.factor, eye, upper=False)
            return inverse.square_().sum(dim=0)
        (potri,) = get_lapack_funcs(("potri",), (self.square,))
        potri(self.square, lower=1, overwrite_c=1)
        return self.gram.diagonal().clone()

    def restore_(self) -> Tensor:
        """K, bit for bit as it was given (if it was exactly symmetric); the factor is gone."""
        if self.in_place:
            # The factor lies on and above the diagonal of the C-ordered matrix: its transpose is LAPACK's lower part.
            for start in range(0, len(self.gram), STRIP):
                stop = min(start + STRIP, len(self.gram))
                square = self.gram[start:stop, start:stop]
                square.copy_(square.tril(-1) + square.tril(-1).mT)
                self.gram[start:stop, stop:] = self.gram[stop:, start:stop].mT
        self.gram.diagonal().copy_(self.diagonal)
        return self.gram


def relative_residual(residual: Tensor, targets: Tensor) -> float:
    """Largest ratio of row norms; rows of zeros, which are solved by zeros, count as 0."""
    norms = targets.double().norm(dim=1)
    return float(torch.where(norms > 0, residual.double().norm(dim=1) / norms, 0.0).max())


def solve_cholesky(
    gram: Tensor,
    targets: Tensor,
    alpha: float,
    weights: Tensor | None,
    *,
    tol: float,
    double: bool,
    overwrite: bool,
    inverse: bool = False,
) -> DirectSolution | None:
    """Solve by Cholesky, in float64 where float32 fails; None where alpha = 0 and K is singular.

    Parameters
    ----------
    gram, targets, alpha, weights
        A checked system: :func:`~featlearn.linalg.ridge.solve_ridge`.
    tol : float
        A float32 factor whose solution leaves a larger relative residual counts as a failure.
    double : bool
        Factorise in float64 at once.
    overwrite : bool
        Use ``gram`` as workspace; it is K again afterwards.
    inverse : bool
        Also give the diagonal and the row sums of ``B = (K + alpha diag(1/w))^-1``.

    Raises
    ------
    DataError
        Where alpha > 0 and the matrix is not positive definite in float64 either: names the pivot, and an alpha that
        was tried and works. Where K holds NaN or infinity.
    """
    single = gram.dtype == torch.float32 and not double and alpha > 0
    if single or gram.dtype == torch.float64:
        work = gram if overwrite and gram.is_contiguous() else gram.clone(memory_format=torch.contiguous_format)
        solution, pivot = _attempt(work, targets, alpha, weights, inverse)
        if solution is not None and (gram.dtype == torch.float64 or solution.relative_residual <= tol):
            return solution
        del work
    if gram.dtype == torch.float32:
        work = gram.to(torch.float64, memory_format=torch.contiguous_format)
        solution, pivot = _attempt(work, targets.double(), alpha, weights, inverse)
        if solution is not None:
            return solution
    if not _all_finite(gram):
        raise DataError("Got a kernel matrix with NaN or infinity, but expected finite numbers. Are the rows finite?")
    if alpha == 0:
        return None
    raise DataError(
        f"Got a kernel matrix that is not positive definite with alpha={alpha:g}: pivot {pivot} of {len(gram)} is not "
        f"positive, in float64 too. {_workable(gram, alpha, weights)}"
    )


def _attempt(
    work: Tensor, targets: Tensor, alpha: float, weights: Tensor | None, inverse: bool
) -> tuple[DirectSolution | None, int]:
    """The solution, if the matrix is positive definite, and the pivot that failed; ``work`` is K again afterwards."""
    factor = CholeskyFactor(work, ridge_diagonal(alpha, weights, work))
    if factor.pivot:
        return None, factor.pivot
    try:
        scale = float(factor.diagonal.max())
        singular = alpha == 0 and factor.smallest_pivot() <= len(work) * torch.finfo(work.dtype).eps * scale
        dual = factor.solve(targets)
        if singular or not torch.isfinite(dual).all():
            return None, len(work)
        residual = factor.relative_residual(dual, targets)
        if not inverse:
            return DirectSolution(dual, residual), 0
        sums = factor.solve(torch.ones_like(targets[:, :1])).squeeze(1)
        return DirectSolution(dual, residual, factor.inverse_diagonal_(), sums), 0
    finally:
        factor.restore_()


def _all_finite(gram: Tensor) -> bool:
    return all(bool(torch.isfinite(rows).all()) for rows in gram.split(STRIP))


def _workable(gram: Tensor, alpha: float, weights: Tensor | None) -> str:
    """A sentence with the smallest tried power of ten that gives a positive definite matrix in float64."""
    work = gram.to(torch.float64, memory_format=torch.contiguous_format, copy=True)
    floor = len(work) * torch.finfo(torch.float64).eps * float(work.diagonal().abs().max())
    exponent = math.floor(math.log10(max(alpha, floor))) + 1
    for larger in (float(f"1e{exponent + step}") for step in range(16)):
        factor = CholeskyFactor(work, ridge_diagonal(larger, weights, work))
        if not factor.pivot:
            return f"alpha={larger:g} works."
    return "No alpha up to 1e15 times as large works: is the kernel positive definite?"
