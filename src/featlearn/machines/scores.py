"""How good predictions are, in the units that people ask for, each with its standard error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..exceptions import DataError
from .targets import ClassCoding, RegressionCoding

__all__ = ["Scores", "beats_constant", "class_scores", "coded_scores", "regression_scores"]

Scores = dict[str, dict[str, float]]
"""By name: ``value``, its ``standard_error``, and the value of the best ``constant`` prediction of the same rows."""

SMALLEST = 1e-15  # probabilities are not taken to be smaller: one sure mistake would make the mean log loss infinite


def regression_scores(targets: Tensor, predictions: Tensor, weights: Tensor | None = None) -> Scores:
    r"""Scores of predictions (m, C) of targets (m, C); over rows and outputs together.

    .. math::

        R^2 = 1 - \frac{A}{B}, \quad \mathrm{rmse} = \sqrt{A / C}, \quad
        A = \sum_{o} \mathbb{E}[(y_o - f_o)^2], \quad B = \sum_{o} \operatorname{Var}[y_o]

    Parameters
    ----------
    targets, predictions : Tensor of shape (m, C)
    weights : Tensor of shape (m,), optional

    Returns
    -------
    dict
        "r2", "rmse" and "mae" (both in units of the targets).

    Raises
    ------
    DataError
        No rows, or shapes that differ.

    Notes
    -----
    Standard errors are those of means over independent rows, carried through the root and the ratio to first order;
    that of R^2 counts the variance of the targets as estimated too.
    """
    _check(targets.shape, predictions.shape)
    y, f = targets.double(), predictions.double().to(targets.device)
    share = _shares(len(y), weights).to(y.device)
    mean = share @ y
    errors, spreads = (y - f).square().sum(dim=1), (y - mean).square().sum(dim=1)
    distances = (y - f).abs().mean(dim=1)
    a, b, outputs = float(share @ errors), float(share @ spreads), y.shape[1]
    rmse, deviation = (a / outputs) ** 0.5, (b / outputs) ** 0.5
    scores = {
        "rmse": {
            "value": rmse,
            "standard_error": _error(errors / outputs, share) / (2 * rmse) if rmse else 0.0,
            "constant": deviation,
        },
        "mae": {
            "value": float(share @ distances),
            "standard_error": _error(distances, share),
            "constant": float(share @ (y - y.quantile(0.5, dim=0)).abs().mean(dim=1)),
        },
    }
    if b > 0:
        influence = (errors - a) / b - a * (spreads - b) / b**2
        r2 = {"value": 1 - a / b, "standard_error": _error(influence, share), "constant": 0.0}
        return {"r2": r2, **scores}
    return scores


def class_scores(labels: Tensor, chances: Tensor, weights: Tensor | None = None) -> Scores:
    r"""Scores of probabilities (m, K) of classes with indices (m,).

    .. math::

        \mathrm{accuracy} = \mathbb{E}[\arg\max_k p_k = y], \quad \mathrm{log\ loss} = \mathbb{E}[-\log p_y], \quad
        \mathrm{Brier} = \mathbb{E}\Big[\sum_k (p_k - 1[y = k])^2\Big]

    Returns
    -------
    dict
        "accuracy", "log_loss" (in nats) and "brier"; the constant prediction is the shares of the classes among these
        rows.

    Raises
    ------
    DataError
        No rows, or another number of labels than of probabilities.
    """
    _check(labels.shape, chances.shape[:1])
    p = chances.double()
    share = _shares(len(p), weights).to(p.device)
    one_hot = torch.nn.functional.one_hot(labels.to(p.device), p.shape[1]).double()
    frequencies = share @ one_hot
    rows = {
        "accuracy": (p.argmax(dim=1) == labels.to(p.device)).double(),
        "log_loss": -(p * one_hot).sum(dim=1).clamp_min(SMALLEST).log(),
        "brier": (p - one_hot).square().sum(dim=1),
    }
    constant = {
        "accuracy": float(frequencies.max()),
        "log_loss": float(-torch.xlogy(frequencies, frequencies).sum()),
        "brier": float(1 - frequencies.square().sum()),
    }
    return {
        name: {"value": float(share @ row), "standard_error": _error(row, share), "constant": constant[name]}
        for name, row in rows.items()
    }


def coded_scores(
    coding: RegressionCoding | ClassCoding,
    targets: Tensor,
    expansions: Tensor,
    weights: Tensor | None = None,
    sharpness: float = 1.0,
) -> Scores:
    """Scores of the values (m, C) of a kernel expansion, given coded targets (m, C) of the same rows."""
    if isinstance(coding, RegressionCoding):
        mean = coding.mean.to(targets)
        return regression_scores(targets + mean, expansions.to(targets) + mean, weights)
    labels = coding.scores(targets).argmax(dim=1)
    return class_scores(labels, torch.softmax(sharpness * coding.scores(expansions).double(), dim=1), weights)


def beats_constant(scores: Scores) -> bool:
    """Whether the predictions are better than the best constant one by more than two standard errors.

    Judged by R^2, or by the Brier score of classes; False without either, and for a single row.
    """
    entry = scores.get("r2") or scores.get("brier")
    if entry is None:
        return False
    gain = entry["value"] - entry["constant"]
    return (gain if "r2" in scores else -gain) > 2 * entry["standard_error"]


def _shares(m: int, weights: Tensor | None) -> Tensor:
    if weights is None:
        return torch.full((m,), 1 / m, dtype=torch.float64)
    return weights.double().cpu() / weights.double().cpu().sum()


def _error(rows: Tensor, share: Tensor) -> float:
    """Standard error of the weighted mean of independent rows; nan for a single one."""
    m = len(rows)
    if m < 2:
        return float("nan")
    return float((share**2 @ (rows - share @ rows) ** 2 * m / (m - 1)).sqrt())


def _check(targets: Any, predictions: Any) -> None:
    if tuple(targets) != tuple(predictions) or 0 in tuple(targets):
        raise DataError(
            f"Got targets of shape {tuple(targets)} and predictions of shape {tuple(predictions)}, but expected one "
            "prediction for each target, and at least one."
        )
