"""Conjugate gradients for several right-hand sides stored as rows, each with its own scalars."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..exceptions import DataError
from .solution import Reason

__all__ = ["Iterate", "Product", "conjugate_gradients"]

PATIENCE = 50  # iterations without a new minimum of the residual
DRIFT = 1e4  # roundings: a tolerance below this many is checked against the true residual

Product = Callable[[Tensor], Tensor]


class Iterate(NamedTuple):
    """Best iterate of an iterative solver: solutions (C, n), why it stopped, products, largest relative residual."""

    rows: Tensor
    reason: Reason
    n_iter: int
    relative_residual: float


def conjugate_gradients(
    product: Product,
    targets: Tensor,
    precondition: Product,
    *,
    tol: float,
    max_iter: int,
    initial: Tensor | None = None,
) -> Iterate:
    r"""Solve ``X A = B`` for symmetric positive definite A, until ``|B_c - X_c A| < tol |B_c|`` for every row c.

    Parameters
    ----------
    product : callable
        ``R -> R A``, both of shape (C', n) with C' <= C: outputs that have finished are no longer multiplied.
    targets : Tensor of shape (C, n)
        B.
    precondition : callable
        ``R -> R P^-1``, symmetric positive definite.
    tol : float
        Relative residual at which an output has converged.
    max_iter : int
        Most products, those that check a residual or start from ``initial`` included.
    initial : Tensor of shape (C, n), optional
        First iterate; outputs for which zero is closer start from zero.

    Returns
    -------
    Iterate
        For every output the iterate of smallest residual. The reason is the worst over outputs: "tolerance",
        "max_iter", "stagnated" (no new minimum in 50 iterations, or a true residual that no restart halves),
        "breakdown" (a direction of curvature <= 0), or "interrupted" (Ctrl-C).

    Raises
    ------
    DataError
        Where the first product is not finite.

    Notes
    -----
    The residual is updated, not recomputed, and drifts from the true one by rounding. Tolerances below 1e4 roundings
    (1e-3 in float32) are therefore checked with one more product at the end; outputs that fail go on from there.
    """
    run = _Run(product, targets, precondition, tol, max_iter)
    reason: Reason = "tolerance"
    try:
        run.start(initial)
        while True:
            while len(run.active) and run.n_iter < max_iter:
                run.step()
            if len(run.active) or tol >= DRIFT * torch.finfo(targets.dtype).eps or not run.verify():
                break
    except KeyboardInterrupt:
        reason = "interrupted"
    else:
        reason = run.reason()
    return Iterate(run.best, reason, run.n_iter, float(run.residual.max()))


class _Run:
    """State of the iteration; ``best`` and ``residual`` are rebound, not written: an interrupt leaves them whole."""

    def __init__(self, product: Product, targets: Tensor, precondition: Product, tol: float, max_iter: int) -> None:
        self.product, self.precondition, self.targets = product, precondition, targets
        self.tol, self.max_iter = tol, max_iter
        self.norms = targets.norm(dim=1)
        self.n_iter = 0
        self.best = torch.zeros_like(targets)
        self.residual = (self.norms > 0).to(targets.dtype)  # of the zero solution, relative
        self.checked = torch.full_like(self.residual, torch.inf)  # true residual at the last check
        self.stagnated = self.broken = False
        self.active = torch.nonzero(self.norms > 0).flatten()
        self.patience = torch.zeros_like(self.active)

    def start(self, initial: Tensor | None) -> None:
        if initial is not None and len(self.active):
            residual = self._true_residual(initial)
            relative = residual.norm(dim=1) / self.norms.clamp_min(torch.finfo(self.norms.dtype).tiny)
            better = relative < self.residual
            self.best = torch.where(better[:, None], initial, self.best)
            self.residual = torch.where(better, relative, self.residual)
            residual = torch.where(better[:, None], residual, self.targets)
            self.active = torch.nonzero((self.norms > 0) & (self.residual >= self.tol)).flatten()
            self._restart(residual[self.active])
        else:
            self._restart(self.targets[self.active])

    def _true_residual(self, rows: Tensor) -> Tensor:
        product = self.product(rows)
        if self.n_iter == 0:
            _check_finite(product)
        self.n_iter += 1
        return self.targets - product

    def _restart(self, residual: Tensor) -> None:
        """Steepest descent from the best iterates of the active outputs."""
        self.x, self.r = self.best[self.active], residual
        self.p = self.precondition(residual)
        self.rho = (residual * self.p).sum(dim=1)
        self.patience = torch.zeros_like(self.active)

    def step(self) -> None:
        q = self.product(self.p)
        if self.n_iter == 0:
            _check_finite(q)
        self.n_iter += 1
        curvature = (self.p * q).sum(dim=1)
        broken = ~(curvature > 0) | ~(self.rho > 0)
        length = torch.where(broken, 0.0, self.rho / curvature)[:, None]
        self.x.addcmul_(length, self.p)
        self.r = self.r.addcmul(length, q, value=-1)
        relative = self.r.norm(dim=1) / self.norms[self.active]
        self._remember(relative)
        z = self.precondition(self.r)
        rho = (self.r * z).sum(dim=1)
        self.p = z.addcmul_((rho / self.rho)[:, None], self.p)
        self.rho = rho
        self._freeze(relative, broken)

    def _remember(self, relative: Tensor) -> None:
        better = relative < self.residual[self.active]
        self.patience = torch.where(better, 0, self.patience + 1)
        if better.any():
            outputs = self.active[better]
            self.best = self.best.index_copy(0, outputs, self.x[better])
            self.residual = self.residual.index_copy(0, outputs, relative[better])

    def _freeze(self, relative: Tensor, broken: Tensor) -> None:
        converged = relative < self.tol
        broken &= ~converged
        stagnated = (self.patience >= PATIENCE) & ~converged & ~broken
        self.broken |= bool(broken.any())
        self.stagnated |= bool(stagnated.any())
        running = ~(converged | broken | stagnated)
        if not running.all():
            self.active, self.patience, self.rho = self.active[running], self.patience[running], self.rho[running]
            self.x, self.r, self.p = self.x[running], self.r[running], self.p[running]

    def verify(self) -> bool:
        """Measure the true residuals; whether any output goes on because its own was too small."""
        if self.n_iter == 0 or self.n_iter >= self.max_iter:
            return False
        converged = self.residual < self.tol
        residual = self._true_residual(self.best)
        relative = torch.where(self.norms > 0, residual.norm(dim=1) / self.norms, 0.0)
        fails = converged & (relative >= self.tol)
        hopeless = fails & (relative > self.checked / 2)
        self.stagnated |= bool(hopeless.any())
        self.residual, self.checked = relative, relative
        self.active = torch.nonzero(fails & ~hopeless).flatten()
        self._restart(residual[self.active])
        return len(self.active) > 0

    def reason(self) -> Reason:
        if self.broken:
            return "breakdown"
        if self.stagnated:
            return "stagnated"
        return "max_iter" if len(self.active) else "tolerance"


def _check_finite(product: Tensor) -> None:
    if not torch.isfinite(product).all():
        raise DataError("Got a kernel matrix with NaN or infinity, but expected finite numbers. Are the rows finite?")
