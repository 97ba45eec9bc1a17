r"""Kernel ridge regression: one door to every solver."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from .._random import generator as seeded
from ..exceptions import DataError
from .cholesky import relative_residual, ridge_diagonal, solve_cholesky
from .eigenpro import solve_eigenpro
from .gram import GramOperator, TiledGram, as_operator, check_alpha, check_system
from .nystrom import NystromPreconditioner
from .pcg import Iterate, Product, conjugate_gradients
from .ridge_path import RidgePath
from .solution import Reason, RidgeSolution, RidgeSolver

__all__ = ["RidgePath", "RidgeSolution", "RidgeSolver", "nystrom_preconditioner", "solve_ridge", "uses_pcg"]

DIRECT_ROWS = 4000  # "auto" is Cholesky up to here
CACHE_BYTES = 2**21  # of float64: rows of a stored matrix converted at once


def solve_ridge(
    gram: Tensor | GramOperator,
    targets: Tensor,
    alpha: float,
    *,
    weights: Tensor | None = None,
    solver: str | RidgeSolver = "auto",
    generator: torch.Generator | None = None,
    initial: Tensor | None = None,
    overwrite: bool = False,
    preconditioner: NystromPreconditioner | None = None,
) -> RidgeSolution:
    r"""Dual coefficients of weighted kernel ridge regression.

    .. math::

        \min_f \sum_i w_i |y_i - f(x_i)|^2 + \alpha |f|_{\mathcal H}^2, \qquad
        (K + \alpha \operatorname{diag}(1/w)) \, \beta = Y

    There is no factor n and no factor 1/2: alpha is that of scikit-learn's ``KernelRidge``. A row of weight 2 counts
    exactly as two equal rows.

    Parameters
    ----------
    gram : Tensor of shape (n, n), or GramOperator
        Symmetric kernel matrix, float32 or float64; or an object such as
        :class:`~featlearn.linalg.gram.TiledGram` that computes rows when asked, where the matrix does not fit.
    targets : Tensor of shape (n, C)
        Y, of the dtype and device of K; a sparse tensor is made dense.
    alpha : float
        Ridge >= 0, in units of the kernel. Never raised silently.
    weights : Tensor of shape (n,), optional
        Positive sample weights; rows of weight 0 are to be dropped.
    solver : str or RidgeSolver, default "auto"
        A method by name, or a :class:`RidgeSolver`. "auto": Cholesky for n <= 4000, PCG above.
    generator : torch.Generator, optional
        Draws the rows of the preconditioner, and the batches of EigenPro; by default one with a fixed seed.
    initial : Tensor of shape (n, C), optional
        First iterate of PCG and EigenPro.
    overwrite : bool, default False
        Let Cholesky use ``gram`` as workspace, so that no second n x n array is made in K's precision. On return it
        holds K again. Other methods never change ``gram``.
    preconditioner : NystromPreconditioner, optional
        For PCG without weights: one made before from the same K, for any ridge; default a new one.

    Returns
    -------
    RidgeSolution
        ``dual_coef`` (n, C) in the dtype of ``targets``.

    Raises
    ------
    DataError
        For bad shapes, dtypes, NaN, weights that are not positive or a negative alpha, before any work; for a matrix
        that is not positive definite with this alpha, naming one that works.

    Warns
    -----
    FeatlearnWarning
        For the reasons "max_iter", "stagnated", "breakdown", "interrupted" and "pseudo_inverse".

    Notes
    -----
    - Cholesky: ``n^3/3`` flops. alpha = 0 is solved in float64; a singular K by its pseudo-inverse, with a warning.
    - PCG: K is read once an iteration, ``2 n^2 C`` flops, and nothing else of size n^2 is made. Weights run on
      ``W^(1/2) K W^(1/2) + alpha I``, which is not formed. Where rounding in float32 leaves more than tol, as
      it does for bandwidths far above the distances, the last iterations run in float64 on rows converted a few at a
      time.
    - eigh: :class:`RidgePath` for one alpha. EigenPro: :func:`~featlearn.linalg.eigenpro.solve_eigenpro`.

    Examples
    --------
    >>> import torch
    >>> gram = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> solution = solve_ridge(gram, torch.tensor([[1.0], [0.0]]), alpha=1.0)
    >>> solution.dual_coef, solution.reason
    (tensor([[ 0.3750],
            [-0.1250]]), 'exact')
    """
    start = time.perf_counter()
    solver = RidgeSolver(solver) if isinstance(solver, str) else solver
    alpha = check_alpha(alpha)
    targets = targets.detach().to_dense()
    check_system(gram, targets, weights)
    if initial is not None and (initial.shape != targets.shape or not torch.isfinite(initial).all()):
        raise DataError(f"Got initial of shape {tuple(initial.shape)}, but expected finite {tuple(targets.shape)}.")
    if isinstance(gram, Tensor):
        gram = gram.detach()
    method = solver.method
    if method == "auto":
        method = "pcg" if uses_pcg(solver, len(targets)) else "cholesky"
    if method == "eigenpro":
        return solve_eigenpro(
            gram, targets, alpha, weights=weights, solver=solver, generator=generator, initial=initial
        )
    if method == "pcg":
        iterate = _pcg(gram, targets, alpha, weights, solver, generator, initial, preconditioner)
        solution = RidgeSolution(
            iterate.rows.mT.to(targets).contiguous(), "pcg", iterate.reason, iterate.n_iter,
            iterate.relative_residual, 0.0, 0.0,
        )  # fmt: skip
    else:
        matrix = gram if isinstance(gram, Tensor) else _stored(gram, targets)
        overwrite = overwrite or not isinstance(gram, Tensor)
        solution = _direct(matrix, targets, alpha, weights, solver, method, overwrite)
    return replace(solution, seconds=time.perf_counter() - start).warn()


def uses_pcg(solver: RidgeSolver, n: int) -> bool:
    """Whether n rows are solved by conjugate gradients."""
    return solver.method == "pcg" or (solver.method == "auto" and n > DIRECT_ROWS)


def _direct(
    gram: Tensor,
    targets: Tensor,
    alpha: float,
    weights: Tensor | None,
    solver: RidgeSolver,
    method: str,
    overwrite: bool,
) -> RidgeSolution:
    if method == "cholesky":
        double = solver.precision == "float64"
        found = solve_cholesky(gram, targets, alpha, weights, tol=solver.tol, double=double, overwrite=overwrite)
        if found is not None:
            dual = found.dual.to(targets)
            return RidgeSolution(dual, "cholesky", "exact", 0, found.relative_residual, 0.0, 0.0)
    path = RidgePath(gram, targets, weights)
    dual = path.solve(alpha)
    rows = dual.mT.contiguous()
    residual = targets.mT - rows @ gram - ridge_diagonal(alpha, weights, gram) * rows
    reason: Reason = "pseudo_inverse" if alpha == 0 and path.is_singular() else "exact"
    jitter = path.cut if reason == "pseudo_inverse" else 0.0
    return RidgeSolution(dual, "eigh", reason, 0, relative_residual(residual, targets.mT), jitter, 0.0)


def _stored(gram: GramOperator, targets: Tensor) -> Tensor:
    """All rows of an operator, made exactly symmetric, for a method that needs the matrix."""
    n = len(targets)
    matrix = torch.empty(n, n, dtype=targets.dtype, device=targets.device)
    for start in range(0, n, 512):
        rows = slice(start, min(start + 512, n))
        matrix[rows] = gram.rows(rows)
        matrix[:start, rows] = matrix[rows, :start].mT
        matrix[rows, rows] = matrix[rows, rows].tril() + matrix[rows, rows].tril(-1).mT
    return matrix


def _pcg(
    gram: Tensor | GramOperator,
    targets: Tensor,
    alpha: float,
    weights: Tensor | None,
    solver: RidgeSolver,
    generator: torch.Generator | None,
    initial: Tensor | None,
    preconditioner: NystromPreconditioner | None,
) -> Iterate:
    """PCG in the precision asked for; in float32 that stagnates above tol, the rest in float64."""
    double = _in_double(gram, len(targets))
    if solver.precision == "float64" and targets.dtype != torch.float64:
        gram, targets = double, targets.double()
    system = _ScaledSystem(as_operator(gram), targets, alpha, weights)
    known = preconditioner if weights is None else None
    if known is not None and known.vectors.dtype != targets.dtype:
        known = None
    precondition = _preconditioner(system, solver.rank, generator) if known is None else known.with_alpha(alpha).apply
    first = None if initial is None else system.scaled(initial.to(targets))
    iterate = system.solve(precondition, solver.tol, solver.max_iter, first)
    left = solver.max_iter - iterate.n_iter
    if targets.dtype == torch.float32 and iterate.reason in ("stagnated", "breakdown") and left > 0:
        precise = _ScaledSystem(double, targets.double(), alpha, weights)
        again = precise.solve(lambda rows: precondition(rows.float()).double(), solver.tol, left, iterate.rows.double())
        system, iterate = precise, again._replace(n_iter=iterate.n_iter + again.n_iter)
    return iterate._replace(rows=iterate.rows * system.root)


class _ScaledSystem:
    """``W^(1/2) K W^(1/2) + alpha I`` acting on rows, without being formed, and its right-hand sides."""

    def __init__(self, gram: GramOperator, targets: Tensor, alpha: float, weights: Tensor | None) -> None:
        self.gram, self.alpha = gram, alpha
        ones = torch.ones_like(targets[:, 0])
        self.root = ones if weights is None else weights.double().sqrt().to(targets)
        self.rows = targets.mT.contiguous().mul_(self.root)

    def product(self, right: Tensor) -> Tensor:
        """``R (W^(1/2) K W^(1/2) + alpha I)``."""
        return self.gram.product(right * self.root).mul_(self.root).add_(right, alpha=self.alpha)

    def scaled_rows(self, index: Tensor) -> Tensor:
        """Rows of ``W^(1/2) K W^(1/2)``."""
        return self.gram.rows(index) * self.root * self.root[index, None]

    def scaled(self, dual: Tensor) -> Tensor:
        """Dual coefficients as rows in the unknowns of this system."""
        return (dual.mT / self.root).contiguous()

    def solve(self, precondition: Product, tol: float, max_iter: int, initial: Tensor | None) -> Iterate:
        """The best iterate by conjugate gradients."""
        return conjugate_gradients(self.product, self.rows, precondition, tol=tol, max_iter=max_iter, initial=initial)


def _preconditioner(system: _ScaledSystem, rank: int, generator: torch.Generator | None) -> Product:
    index = _sampled(system.rows.shape[1], rank, generator, system.rows.device)
    return torch.clone if index is None else NystromPreconditioner(system.scaled_rows, index, system.alpha).apply


def nystrom_preconditioner(
    gram: Tensor | GramOperator, rank: int, generator: torch.Generator | None = None
) -> NystromPreconditioner | None:
    """The preconditioner that PCG would make of K, to share between ridges; None for too few rows."""
    operator = as_operator(gram)
    device = gram.device if isinstance(gram, Tensor) else torch.device("cpu")
    index = _sampled(operator.shape[0], rank, generator, device)
    return None if index is None else NystromPreconditioner(operator.rows, index, 1.0)


def _sampled(n: int, rank: int, generator: torch.Generator | None, device: torch.device) -> Tensor | None:
    rank = min(rank, n // 10)
    if rank == 0:
        return None
    generator = seeded(0, "nystrom") if generator is None else generator
    index = torch.randperm(n, generator=generator, device=generator.device)[:rank].sort().values
    return index.to(device)


def _in_double(gram: Tensor | GramOperator, n: int) -> TiledGram:
    """The same matrix in float64 one tile at a time: no second matrix is stored."""
    operator = as_operator(gram)
    # Tiles that stay in cache convert several times faster than large ones; recomputed rows keep their own size.
    block = max(1, CACHE_BYTES // (8 * n)) if isinstance(gram, Tensor) else None
    return TiledGram(lambda index: operator.rows(index).double(), n, block)
