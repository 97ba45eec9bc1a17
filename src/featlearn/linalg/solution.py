"""How a ridge system is to be solved, and how that went."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ..exceptions import DataError, FeatlearnWarning

__all__ = ["METHODS", "Reason", "RidgeSolution", "RidgeSolver"]

METHODS = ("auto", "cholesky", "eigh", "pcg", "eigenpro")
Reason = Literal[
    "exact", "tolerance", "early_stopping", "max_iter", "stagnated", "breakdown", "interrupted", "pseudo_inverse"
]
ADVICE = {
    "max_iter": "Raise max_iter or rank, or alpha.",
    "stagnated": 'Rounding allows no better: raise alpha, or ask for precision="float64".',
    "breakdown": "The matrix is not positive definite to working precision, or the iteration diverged: raise alpha, or "
    'ask for precision="float64".',
    "interrupted": "The best iterate so far is returned.",
    "pseudo_inverse": "The matrix is singular: the solution of least norm is returned. Use alpha > 0, or drop equal "
    "rows.",
}


@dataclass(frozen=True)
class RidgeSolver:
    """How to solve ``(K + alpha diag(1/w)) beta = Y``.

    Attributes
    ----------
    method : {"auto", "cholesky", "eigh", "pcg", "eigenpro"}, default "auto"
        "auto" is Cholesky for n <= 4000 rows and PCG above: it depends on n alone, never on memory.
    precision : {"same", "float64"}, default "same"
        Precision of the solve; "same" is that of K.
    tol : float, default 1e-4
        Largest residual of any output relative to the norm of its targets. Where rounding in float32 leaves more,
        Cholesky is repeated and PCG goes on in float64.
    max_iter : int, default 500
        Iterations of PCG, epochs of EigenPro.
    rank : int, default 300
        Rows of the Nystrom preconditioner (at most n/10); 0 is plain conjugate gradients.

    Raises
    ------
    DataError
        For an unknown method or precision, tol outside (0, 1), max_iter < 1 or rank < 0.
    """

    method: str = "auto"
    precision: str = "same"
    tol: float = 1e-4
    max_iter: int = 500
    rank: int = 300

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise DataError(f"Got method={self.method!r}, but expected one of {', '.join(METHODS)}.")
        if self.precision not in ("same", "float64"):
            raise DataError(f'Got precision={self.precision!r}, but expected "same" or "float64".')
        if not 0 < self.tol < 1:
            raise DataError(f"Got tol={self.tol}, but expected a number between 0 and 1, both excluded.")
        if self.max_iter < 1:
            raise DataError(f"Got max_iter={self.max_iter}, but expected at least 1.")
        if self.rank < 0:
            raise DataError(f"Got rank={self.rank}, but expected at least 0.")


@dataclass(frozen=True)
class RidgeSolution:
    """Dual coefficients and how they were found.

    Attributes
    ----------
    dual_coef : Tensor of shape (n, C)
        ``beta``.
    method : str
        "cholesky", "eigh", "pcg" or "eigenpro".
    reason : str
        Why the solver stopped. "exact": a direct solve. "tolerance": the residual is below tol. "early_stopping":
        the validation score stopped improving. "max_iter", "stagnated" (no new minimum of the residual in 50
        iterations), "breakdown", "interrupted" and "pseudo_inverse" come with a warning.
    n_iter : int
        Products with K, or epochs; 0 for direct methods.
    relative_residual : float
        Largest ``|Y_c - (K + alpha diag(1/w)) beta_c| / |Y_c|`` over outputs c; PCG measures it with the rows
        multiplied by ``sqrt(w)``, EigenPro as it streams, each row before its own step. Of the solution before it is
        rounded to the dtype of the targets, where it was found in float64.
    jitter : float
        How far the solved matrix is from the one asked for: 0, or the eigenvalue below which "pseudo_inverse" dropped
        all.
    seconds : float
        Wall time.
    """

    dual_coef: Tensor = field(repr=False)
    method: str
    reason: Reason
    n_iter: int
    relative_residual: float
    jitter: float
    seconds: float

    def warn(self, stacklevel: int = 2) -> RidgeSolution:
        """Itself, after a FeatlearnWarning where the reason calls for one."""
        if self.reason in ADVICE:
            residual = f"{self.relative_residual:.1e}" if math.isfinite(self.relative_residual) else "unknown"
            warnings.warn(
                f"Ridge solver {self.method!r} stopped after {self.n_iter} iterations with reason {self.reason!r} and "
                f"relative residual {residual}. {ADVICE[self.reason]}",
                FeatlearnWarning,
                stacklevel=stacklevel + 1,
            )
        return self
