"""Prediction intervals from honest residuals: which order statistics bound the next target."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..exceptions import DataError

__all__ = ["adaptive_scale", "conformal_rank", "cv_plus_interval", "residual_quantile", "split_interval"]

CHUNK_NUMBERS = 2**22  # bounds held at once


def conformal_rank(n: int, level: float) -> int:
    """``ceil(level (n + 1))``: the rank among n residuals whose value covers a further one with probability ``level``.

    A rank of n + 1 means that n residuals are too few: the interval is the whole line.

    Raises
    ------
    DataError
        ``level`` outside (0, 1).
    """
    if not 0 < level < 1:
        raise DataError(f"Got level={level!r}, but expected a number between 0 and 1, such as 0.9.")
    # 0.9 * 10 is above 9 in floating point; the rounding keeps such products from costing a rank.
    return math.ceil(round(level * (n + 1), 9))


def residual_quantile(residuals: Tensor, level: float) -> Tensor:
    """Half-widths (C,): the ``conformal_rank``-th smallest of the absolute residuals (n, C), or infinity."""
    rank = conformal_rank(len(residuals), level)
    if rank > len(residuals):
        return residuals.new_full(residuals.shape[1:], math.inf)
    return residuals.abs().kthvalue(rank, dim=0).values


def split_interval(
    predictions: Tensor,
    residuals: Tensor,
    level: float,
    *,
    scale: Tensor | None = None,
    residual_scale: Tensor | None = None,
) -> Tensor:
    r"""Split-conformal intervals: predictions plus and minus one quantile of the residuals of rows set aside.

    .. math:: f(z) \pm s(z) \, q, \qquad q = \lceil (1 - a)(n + 1) \rceil\text{-th smallest of } |r_i| / s_i

    Parameters
    ----------
    predictions : Tensor of shape (m, C)
    residuals : Tensor of shape (n, C)
        Target minus prediction of rows that neither the model nor its selection has seen.
    level : float
        Wanted coverage 1 - a.
    scale, residual_scale : Tensor of shapes (m,) and (n,), optional
        How uncertain each point is, in any positive unit: :func:`adaptive_scale`, or the typical residual of a tree's
        leaf. The guarantee asks that it does not depend on these residuals.

    Returns
    -------
    Tensor of shape (m, C, 2)
        Lower and upper bounds; infinite where ``ceil((1 - a)(n + 1)) > n``.

    Raises
    ------
    DataError
        ``level`` outside (0, 1); shapes that do not fit; scales that are not positive; one scale without the other.

    Notes
    -----
    If rows are exchangeable the coverage of each output is at least ``level`` on average over data sets, and at most
    ``level + 1/(n + 1)`` if residuals do not tie.

    References
    ----------
    Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, "Distribution-free predictive inference for regression", 2018.
    """
    _check_outputs(predictions, residuals)
    here, there = _scales(predictions, residuals, scale, residual_scale)
    half = residual_quantile(residuals / there, level) * here
    return torch.stack([predictions - half, predictions + half], dim=-1)


def cv_plus_interval(
    fold_predictions: Tensor,
    folds: Tensor,
    residuals: Tensor,
    level: float,
    *,
    scale: Tensor | None = None,
    residual_scale: Tensor | None = None,
) -> Tensor:
    r"""CV+ intervals: every row brings its residual together with the model of the fold that left it out.

    .. math::

        \text{lower}(z) &= \lfloor a (n + 1) \rfloor\text{-th smallest of } f_{-k(i)}(z) - s(z) |r_i| / s_i

        \text{upper}(z) &= \lceil (1 - a)(n + 1) \rceil\text{-th smallest of } f_{-k(i)}(z) + s(z) |r_i| / s_i

    Parameters
    ----------
    fold_predictions : Tensor of shape (F, m, C)
        Predictions of the model that was fitted without fold ``k``, for each fold.
    folds : Tensor of shape (n,), int64
        Fold of each training row.
    residuals : Tensor of shape (n, C)
        Target minus prediction, row ``i`` by the model without its fold.
    level, scale, residual_scale
        As in :func:`split_interval`.

    Returns
    -------
    Tensor of shape (m, C, 2)
        Lower and upper bounds; infinite where n is too small for the level. For levels below 1/2 the lower one can
        exceed the upper one where fold models disagree: the interval is empty there.

    Raises
    ------
    DataError
        As in :func:`split_interval`.

    Notes
    -----
    The guarantee is ``1 - 2a`` less a term of order ``1/sqrt(n)``; in practice the coverage is close to ``1 - a``.
    Costs m n C comparisons; holds 32 MB of bounds.

    References
    ----------
    Barber, Candes, Ramdas, Tibshirani, "Predictive inference with the jackknife+", 2021.
    """
    if fold_predictions.ndim != 3 or len(fold_predictions) < 2:
        shape = tuple(fold_predictions.shape)
        raise DataError(f"Got fold_predictions of shape {shape}, but expected (F, m, C) with at least two folds.")
    _check_outputs(fold_predictions[0], residuals)
    n_folds = len(fold_predictions)
    if folds.shape != residuals.shape[:1] or not bool(((folds >= 0) & (folds < n_folds)).all()):
        raise DataError(
            f"Got folds of shape {tuple(folds.shape)}, but expected ({len(residuals)},) with a number from 0 to "
            f"{n_folds - 1} for each residual."
        )
    here, there = _scales(fold_predictions[0], residuals, scale, residual_scale)
    widths = residuals.abs() / there
    n, rank = len(residuals), conformal_rank(len(residuals), level)
    bounds = fold_predictions.new_empty(*fold_predictions.shape[1:], 2)
    if rank > n:
        bounds[..., 0], bounds[..., 1] = -math.inf, math.inf
        return bounds
    step = max(1, CHUNK_NUMBERS // max(1, widths.numel()))
    for start in range(0, fold_predictions.shape[1], step):
        rows = slice(start, start + step)
        middle = fold_predictions[:, rows].transpose(0, 1)[:, folds]  # (rows, n, C)
        reach = widths * here[rows, None]
        # floor(a (n + 1)) = n + 1 - ceil((1 - a)(n + 1)), free of the rounding of a = 1 - level.
        bounds[rows, :, 0] = (middle - reach).kthvalue(n + 1 - rank, dim=1).values
        bounds[rows, :, 1] = (middle + reach).kthvalue(rank, dim=1).values
    return bounds


def adaptive_scale(variance: Tensor, typical: float) -> Tensor:
    r"""Scale (m,) of residuals from the posterior variance of a kernel model with unit prior.

    .. math:: s(z) = \sqrt{v(z) + v_0}, \qquad v(z) = k(z, z) - k(z, X) (K + \alpha I)^{-1} k(X, z)

    Parameters
    ----------
    variance : Tensor of shape (m,)
        v at the points; what rounding makes negative counts as 0.
    typical : float
        Median of v over the rows that gave the residuals; keeps the scale away from 0 next to training rows.
    """
    if not (math.isfinite(typical) and typical > 0):
        raise DataError(
            f"Got a median variance of {typical}, but expected a positive finite number. Use constant widths."
        )
    return (variance.clamp_min(0) + typical).sqrt()


def _check_outputs(predictions: Tensor, residuals: Tensor) -> None:
    if predictions.ndim != 2 or residuals.ndim != 2 or predictions.shape[1] != residuals.shape[1]:
        raise DataError(
            f"Got predictions of shape {tuple(predictions.shape)} and residuals of shape {tuple(residuals.shape)}, but "
            "expected (m, C) and (n, C)."
        )
    if len(residuals) == 0 or not bool(torch.isfinite(residuals).all()):
        raise DataError("Got no residuals, or some that are not finite, but expected finite ones of at least one row.")


def _scales(
    predictions: Tensor, residuals: Tensor, scale: Tensor | None, residual_scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both scales as columns, ones if there are none."""
    if (scale is None) != (residual_scale is None):
        raise DataError("Got one of scale and residual_scale, but expected both or neither.")
    if scale is None or residual_scale is None:
        return predictions.new_ones(len(predictions), 1), residuals.new_ones(len(residuals), 1)
    for name, given, rows in (("scale", scale, predictions), ("residual_scale", residual_scale, residuals)):
        if given.shape != rows.shape[:1] or not bool((torch.isfinite(given) & (given > 0)).all()):
            raise DataError(
                f"Got {name} of shape {tuple(given.shape)}, but expected ({len(rows)},) positive finite numbers."
            )
    return scale[:, None], residual_scale[:, None]
