r"""EigenPro: stochastic gradient descent on a kernel expansion with the top eigenvectors of a subset damped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from .._random import generator as seeded
from ..exceptions import DataError
from .cholesky import ridge_diagonal
from .gram import GramOperator, as_operator, check_alpha, check_system
from .solution import Reason, RidgeSolution, RidgeSolver

__all__ = ["solve_eigenpro"]

SUBSET = 2000  # rows of the preconditioner at most
TILE_BYTES = 2**26  # of float64: rows of a batch computed at once
PATIENCE = 50  # epochs without a new minimum of the residual, where no score says when to stop
DIVERGED = 1e3  # relative residual

Score = Callable[[Tensor], float]


def solve_eigenpro(
    gram: Tensor | GramOperator,
    targets: Tensor,
    alpha: float = 0.0,
    *,
    weights: Tensor | None = None,
    solver: RidgeSolver | None = None,
    score: Score | None = None,
    patience: int = 5,
    subset: int | None = None,
    top: int | None = None,
    generator: torch.Generator | None = None,
    initial: Tensor | None = None,
) -> RidgeSolution:
    r"""Stream over random batches of rows; stop early on a validation score.

    For a subset S of s rows with :math:`K_{SS} / s = E \operatorname{diag}(l) E^\top` and its top q eigenvectors, a
    batch B of size b takes the step

    .. math::

        e &= K_{B,:} \beta - Y_B, \qquad \beta_B \mathrel{-}= g \, e, \qquad
        \beta_S \mathrel{+}= g \, E_q \operatorname{diag}(D) E_q^\top K_{SB} \, e,

        D_i &= \frac{1 - l_{q+1} / l_i}{s \, l_i}, \qquad b = \lfloor \max_i K_{ii} / l_{q+1} \rfloor, \qquad
        g = \frac{1}{\max_i K_{ii} + (b - 1) \, l_{q+1}}.

    Parameters
    ----------
    gram, targets, weights, generator, initial
        As in :func:`~featlearn.linalg.ridge.solve_ridge`.
    alpha : float, default 0
        Ridge; 0 is the usual choice, early stopping then being the regularisation. K stands for
        ``K + alpha diag(1/w)`` above.
    solver : RidgeSolver, optional
        Its tol (on the residual), max_iter (epochs) and precision count.
    score : callable, optional
        Maps dual coefficients (n, C) to a number, smaller being better, after each epoch; the best iterate is returned.
        Without one, the iterate of smallest residual is.
    patience : int, default 5
        Epochs without a better score before stopping.
    subset : int, optional
        s; by default 3/10 of the rows, at most 2000.
    top : int, optional
        q < s; by default 2/15 of s.

    Returns
    -------
    RidgeSolution
        Reasons "tolerance", "early_stopping" (of a score), "max_iter", "stagnated" (without a score: no new minimum of
        the residual in 50 epochs), "breakdown" (diverged), "interrupted".

    Raises
    ------
    DataError
        As ``solve_ridge``, and for sizes outside their range.

    Notes
    -----
    An epoch evaluates K once and costs ``2 n^2 C`` flops; memory is the larger of ``n s`` and one tile.
    """
    start = time.perf_counter()
    solver = solver or RidgeSolver(method="eigenpro")
    alpha = check_alpha(alpha)
    check_system(gram, targets, weights)
    if patience < 1:
        raise DataError(f"Got patience={patience}, but expected at least 1.")
    double = solver.precision == "float64"
    run = _Run(gram, targets.double() if double else targets, alpha, weights, subset, top, generator)
    if initial is not None:
        run.dual = initial.to(run.dual, copy=True)
    reason, epochs = run.until(solver, score, patience)
    seconds = time.perf_counter() - start
    return RidgeSolution(run.best.to(targets), "eigenpro", reason, epochs, run.best_residual, 0.0, seconds).warn()


class _Run:
    """The preconditioner and the current iterate."""

    def __init__(
        self,
        gram: Tensor | GramOperator,
        targets: Tensor,
        alpha: float,
        weights: Tensor | None,
        subset: int | None,
        top: int | None,
        generator: torch.Generator | None,
    ) -> None:
        self.operator, self.targets = as_operator(gram), targets
        self.generator = seeded(0, "eigenpro") if generator is None else generator
        self.ridge = ridge_diagonal(alpha, weights, targets)
        n = len(targets)
        s = min(n, SUBSET, max(2, 3 * n // 10)) if subset is None else subset
        q = 2 * s // 15 if top is None else top
        if not 1 <= s <= n:
            raise DataError(f"Got subset={s}, but expected between 1 and the {n} rows.")
        if not 0 <= q < s:
            raise DataError(f"Got top={q}, but expected at least 0 and less than the subset of {s} rows.")
        self.tile = max(1, TILE_BYTES // (8 * n))
        self.subset = self._permutation()[:s]
        self._precondition(q)
        self.dual = torch.zeros_like(targets)
        self.best, self.best_residual = self.dual, 1.0

    def _permutation(self) -> Tensor:
        device = self.generator.device
        return torch.randperm(len(self.targets), generator=self.generator, device=device).to(self.targets.device)

    def _rows(self, index: Tensor) -> Tensor:
        return self.operator.rows(index).to(self.targets)

    def _precondition(self, q: int) -> None:
        s, n = len(self.subset), len(self.targets)
        largest = self._largest_diagonal()
        square = self._rows(self.subset)[:, self.subset].double()
        square.diagonal().add_(self.ridge[self.subset])
        values, vectors = torch.linalg.eigh((square + square.mT) / (2 * s))
        values, vectors = values.flip(0), vectors.flip(1)
        edge = float(values[q])
        if edge <= s * torch.finfo(torch.float64).eps * float(values.abs().max()):
            raise DataError(
                f"Got a kernel matrix whose eigenvalue {q + 1} on {s} rows is {edge:.1e}, but expected a positive one. "
                "Use a smaller top, or alpha > 0."
            )
        self.vectors = vectors[:, :q].to(self.targets)
        self.damping = ((1 - edge / values[:q]) / (s * values[:q])).to(self.targets)[:, None]
        self.batch = min(n, max(1, math.floor(largest / edge)))
        self.step = 1 / (largest + (self.batch - 1) * edge)

    def _largest_diagonal(self) -> float:
        largest = -math.inf
        for tile in torch.arange(len(self.targets), device=self.targets.device).split(self.tile):
            rows = self._rows(tile)
            if not torch.isfinite(rows).all():
                raise DataError("Got a kernel matrix with NaN or infinity, but expected finite numbers.")
            largest = max(largest, float((rows.gather(1, tile[:, None]).squeeze(1) + self.ridge[tile]).max()))
        return largest

    def epoch(self) -> float:
        """One pass over all rows; the largest relative residual, each row's before its own step."""
        squares = torch.zeros_like(self.targets[0], dtype=torch.float64)
        for batch in self._permutation().split(self.batch):
            error = torch.zeros_like(self.targets)
            seen = torch.zeros_like(self.targets[self.subset])
            for tile in batch.split(self.tile):
                rows = self._rows(tile)
                error[tile] = rows @ self.dual + self.ridge[tile, None] * self.dual[tile] - self.targets[tile]
                seen.addmm_(rows[:, self.subset].mT, error[tile])
            seen += self.ridge[self.subset, None] * error[self.subset]
            squares += error.double().square().sum(dim=0)
            self.dual.sub_(error, alpha=self.step)
            correction = self.vectors @ (self.damping * (self.vectors.mT @ seen))
            self.dual.index_add_(0, self.subset, correction, alpha=self.step)
        norms = self.targets.double().norm(dim=0)
        return float(torch.where(norms > 0, squares.sqrt() / norms, 0.0).max())

    def until(self, solver: RidgeSolver, score: Score | None, patience: int) -> tuple[Reason, int]:
        """Epochs until one of the reasons to stop; the best iterate is in ``best``."""
        lowest, waited, epoch = math.inf, 0, 0
        patience = PATIENCE if score is None else patience
        try:
            for epoch in range(1, solver.max_iter + 1):
                residual = self.epoch()
                if not residual < DIVERGED:
                    return "breakdown", epoch
                value = residual if score is None else float(score(self.dual.clone()))
                waited += 1
                if value < lowest:
                    # The residual is that of the iterates before each step: the one after the epoch is no worse.
                    lowest, waited = value, 0
                    self.best, self.best_residual = self.dual.clone(), residual
                if residual < solver.tol:
                    return "tolerance", epoch
                if waited >= patience:
                    return ("stagnated" if score is None else "early_stopping"), epoch
        except KeyboardInterrupt:
            return "interrupted", epoch
        return "max_iter", solver.max_iter
