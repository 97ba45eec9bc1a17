r"""Leave-one-out residuals of kernel ridge regression in closed form: what n refits would give, from one.

With ``B = (K + alpha diag(1/w))^-1``, ``beta = B Y``, ``h = diag(B)`` and ``v = B 1``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..exceptions import DataError
from .cholesky import solve_cholesky
from .gram import check_alpha, check_system, check_weights
from .solution import RidgeSolution, RidgeSolver

__all__ = [
    "LeaveOneOut",
    "intercept_leave_one_out",
    "landmark_leave_one_out",
    "leave_one_out_predictions",
    "leave_one_out_residuals",
    "recentred_leave_one_out",
    "ridge_with_leave_one_out",
    "with_intercept",
]


def leave_one_out_residuals(dual: Tensor, inverse_diagonal: Tensor) -> Tensor:
    r"""Residuals of every row under the predictor fitted to the others, with any weights.

    .. math:: y_i - f_{(-i)}(x_i) = \beta_i / h_i

    Parameters
    ----------
    dual : Tensor of shape (n, C)
    inverse_diagonal : Tensor of shape (n,)
        h.

    Returns
    -------
    Tensor of shape (n, C)
        In units of the targets.

    Notes
    -----
    Exact for a fixed kernel. Where the kernel's metric was learned from the same targets it is badly optimistic.
    """
    return dual / inverse_diagonal[:, None]


def recentred_leave_one_out(
    dual: Tensor, inverse_diagonal: Tensor, inverse_sums: Tensor, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    r"""The same where targets were centred by their weighted mean, which every refit computes anew from its rows.

    .. math::

        y_i - f_{(-i)}(x_i) = \frac{\beta_i - (\mu_{(-i)} - \mu) v_i}{h_i}, \qquad
        \mu_{(-i)} - \mu = -\frac{w_i (y_i - \mu)}{\sum_j w_j - w_i}

    Parameters
    ----------
    dual : Tensor of shape (n, C)
        Solved for the centred targets.
    inverse_diagonal, inverse_sums : Tensor of shape (n,)
        h and v.
    targets : Tensor of shape (n, C)
        ``Y - mu``.
    weights : Tensor of shape (n,), optional

    Raises
    ------
    DataError
        Where the weighted mean of ``targets`` is not 0, there is one row only, or weights are not positive.
    """
    check_weights(weights, len(targets))
    if len(targets) < 2:
        raise DataError("Got one row, but expected at least two: leaving it out leaves none to take a mean of.")
    column = torch.ones_like(inverse_sums)[:, None] if weights is None else weights.to(targets)[:, None]
    total = column.sum()
    mean = (column * targets).sum(dim=0) / total
    if (mean.abs() > torch.finfo(targets.dtype).eps ** 0.5 * targets.abs().amax(dim=0)).any():
        raise DataError(
            f"Got targets with weighted mean {mean.tolist()}, but expected 0. Subtract the mean before solving, or use "
            "leave_one_out_residuals."
        )
    shift = -column * targets / (total - column)
    return (dual - shift * inverse_sums[:, None]) / inverse_diagonal[:, None]


def with_intercept(dual: Tensor, inverse_sums: Tensor) -> tuple[Tensor, Tensor]:
    r"""Dual coefficients (n, C) and intercepts (C,) of ``f + b`` with b not penalised, from those without b.

    .. math:: b = \frac{v^\top Y}{1^\top v}, \qquad \beta' = \beta - v \, b
    """
    intercept = dual.sum(dim=0) / inverse_sums.sum()
    return dual - inverse_sums[:, None] * intercept, intercept


def intercept_leave_one_out(dual: Tensor, inverse_diagonal: Tensor, inverse_sums: Tensor) -> Tensor:
    r"""Leave-one-out residuals (n, C) with an intercept that is not penalised, and fitted anew by every refit.

    .. math:: y_i - f_{(-i)}(x_i) = \frac{\beta'_i}{h_i - v_i^2 / 1^\top v}

    ``dual`` are the coefficients :math:`\beta'` of :func:`with_intercept`.
    """
    return dual / (inverse_diagonal - inverse_sums.square() / inverse_sums.sum())[:, None]


def leave_one_out_predictions(
    predictions: Tensor, projections: Tensor, dual: Tensor, inverse_diagonal: Tensor
) -> Tensor:
    r"""What each of the n leave-one-out predictors says anywhere.

    .. math:: f_{(-i)}(z) = f(z) - (k(z, X) B)_i \, \beta_i / h_i

    Parameters
    ----------
    predictions : Tensor of shape (m, C)
        ``f(z)``.
    projections : Tensor of shape (m, n)
        ``k(z, X) B``.
    dual : Tensor of shape (n, C)
    inverse_diagonal : Tensor of shape (n,)

    Returns
    -------
    Tensor of shape (m, n, C)
    """
    return predictions[:, None] - projections[..., None] * leave_one_out_residuals(dual, inverse_diagonal)


def landmark_leave_one_out(features: Tensor, targets: Tensor, alpha: float, weights: Tensor | None = None) -> Tensor:
    r"""Leave-one-out residuals of ridge regression on p features, such as those of a landmark (Nystrom) model.

    .. math::

        H = \Phi (\Phi^\top W \Phi + \alpha I)^{-1} \Phi^\top W, \qquad
        y_i - f_{(-i)}(x_i) = \frac{(Y - H Y)_i}{1 - H_{ii}}

    Parameters
    ----------
    features : Tensor of shape (n, p)
    targets : Tensor of shape (n, C)
    alpha : float
        Ridge > 0.
    weights : Tensor of shape (n,), optional

    Returns
    -------
    Tensor of shape (n, C)

    Raises
    ------
    DataError
        For bad input, or where ``Phi^T W Phi + alpha I`` is not positive definite in float64.

    Notes
    -----
    ``2 n p^2 + p^3 / 3`` flops; the p x p matrix is factorised in float64.
    """
    check_weights(weights, len(targets))
    alpha = check_alpha(alpha)
    if alpha == 0:
        raise DataError("Got alpha=0, but expected alpha > 0: without a ridge a row can be fitted by itself alone.")
    if features.dim() != 2 or targets.dim() != 2 or len(features) != len(targets):
        raise DataError(
            f"Got shapes {tuple(features.shape)} and {tuple(targets.shape)}, but expected (n, p) and (n, C)."
        )
    if not (torch.isfinite(features).all() and torch.isfinite(targets).all()):
        raise DataError("Got features or targets with NaN or infinity, but expected finite numbers.")
    root = torch.ones_like(targets[:, :1]) if weights is None else weights.to(targets).sqrt()[:, None]
    scaled, answers = features * root, targets * root
    square = (scaled.mT @ scaled).double()
    square.diagonal().add_(alpha)
    factor, failed = torch.linalg.cholesky_ex(square)
    if int(failed):
        raise DataError(f"Got features whose Gram matrix is not positive definite with alpha={alpha:g}: raise alpha.")
    inverse = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False)
    whitened = scaled @ inverse.mT.to(scaled)
    leverage = whitened.square().sum(dim=1, keepdim=True)
    return (answers - whitened @ (whitened.mT @ answers)) / (1 - leverage) / root


@dataclass(frozen=True)
class LeaveOneOut:
    """A ridge solution with the residuals of its n refits.

    Attributes
    ----------
    solution : RidgeSolution
        Its ``dual_coef`` are those with an intercept for the variant "intercept".
    residuals : Tensor of shape (n, C)
    intercept : Tensor of shape (C,) or None
        For the variant "intercept".
    """

    solution: RidgeSolution
    residuals: Tensor
    intercept: Tensor | None = None


def ridge_with_leave_one_out(
    gram: Tensor,
    targets: Tensor,
    alpha: float,
    *,
    weights: Tensor | None = None,
    variant: Literal["plain", "recentred", "intercept"] = "plain",
    solver: RidgeSolver | None = None,
    overwrite: bool = False,
) -> LeaveOneOut:
    """Solve a ridge system by Cholesky and give the leave-one-out residuals from the same factor.

    Parameters
    ----------
    gram, targets, alpha, weights, overwrite
        As in :func:`~featlearn.linalg.ridge.solve_ridge`, alpha > 0.
    variant : {"plain", "recentred", "intercept"}, default "plain"
        "recentred": targets had their weighted mean subtracted; "intercept": an unpenalised intercept is fitted.
    solver : RidgeSolver, optional
        Its precision and tol count.

    Raises
    ------
    DataError
        As ``solve_ridge``; for alpha = 0; for an unknown variant.

    Notes
    -----
    ``n^3`` flops in one n x n array. :class:`~featlearn.linalg.ridge_path.RidgePath` is for several alphas.
    """
    start = time.perf_counter()
    solver = solver or RidgeSolver()
    if variant not in ("plain", "recentred", "intercept"):
        raise DataError(f'Got variant={variant!r}, but expected "plain", "recentred" or "intercept".')
    check_system(gram, targets, weights)
    if check_alpha(alpha) == 0:
        raise DataError("Got alpha=0, but expected alpha > 0 for leave-one-out residuals by Cholesky: use RidgePath.")
    double = solver.precision == "float64"
    found = solve_cholesky(
        gram, targets, alpha, weights, tol=solver.tol, double=double, overwrite=overwrite, inverse=True
    )
    # Only alpha = 0 gives None, and ``inverse=True`` gives both vectors.
    assert found is not None
    assert found.inverse_diagonal is not None
    assert found.inverse_sums is not None
    dual, diagonal, sums, intercept = found.dual, found.inverse_diagonal, found.inverse_sums, None
    if variant == "intercept":
        dual, intercept = with_intercept(dual, sums)
        residuals = intercept_leave_one_out(dual, diagonal, sums)
        intercept = intercept.to(targets)
    elif variant == "recentred":
        residuals = recentred_leave_one_out(dual, diagonal, sums, targets.to(dual), weights)
    else:
        residuals = leave_one_out_residuals(dual, diagonal)
    seconds = time.perf_counter() - start
    solution = RidgeSolution(dual.to(targets), "cholesky", "exact", 0, found.relative_residual, 0.0, seconds)
    return LeaveOneOut(solution, residuals.to(targets), intercept)
