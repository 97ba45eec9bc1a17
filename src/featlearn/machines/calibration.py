"""Scores into probabilities: a softmax with one sharpness, chosen on scores of rows the model has not seen."""

from __future__ import annotations

import math

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ..exceptions import DataError

__all__ = ["SHARPNESS_RANGE", "fit_sharpness", "log_loss", "probabilities"]

SHARPNESS_RANGE = (0.1, 100.0)


def probabilities(scores: Tensor, sharpness: float) -> Tensor:
    r"""Class probabilities (m, K) of scores (m, K).

    .. math:: p_{ik} = \frac{e^{b f_{ik}}}{\sum_l e^{b f_{il}}}

    The order of the classes is that of the scores, whatever the sharpness b > 0.
    """
    return torch.softmax(sharpness * scores, dim=1)


def log_loss(scores: Tensor, labels: Tensor, sharpness: float, weights: Tensor | None = None) -> float:
    """Mean of -log p of the true class, in nats, weighted by ``weights`` (m,); ``labels`` (m,) are class indices."""
    losses = -torch.log_softmax(sharpness * scores.double(), dim=1).gather(1, labels[:, None])[:, 0]
    if weights is None:
        return float(losses.mean())
    weights = weights.to(losses)
    return float(weights @ losses / weights.sum())


def fit_sharpness(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    r"""Sharpness b of the softmax with the smallest log loss on honest scores.

    .. math:: b = \arg\min_{0.1 \le b \le 100} \; -\sum_i w_i \log \mathrm{softmax}(b f_i)_{y_i}

    Parameters
    ----------
    scores : Tensor of shape (m, K)
        Scores of rows that the model was not fitted to: out of fold, held out, or left one out with a fixed metric.
        Scores of training rows fit their labels too well and make b too large.
    labels : Tensor of shape (m,), int64
        Class indices.
    weights : Tensor of shape (m,), optional
        Sample weights.

    Returns
    -------
    float
        1.0 if no row prefers any class, since every b is as good then.

    Raises
    ------
    DataError
        No rows, scores that are not finite, labels that do not match.

    Notes
    -----
    The log loss is convex in b, hence has one minimum in log b too. About 20 evaluations of m K exponentials.
    """
    if scores.ndim != 2 or len(scores) == 0:
        raise DataError(f"Got scores of shape {tuple(scores.shape)}, but expected (m, K) with at least one row.")
    if labels.shape != scores.shape[:1]:
        raise DataError(
            f"Got labels of shape {tuple(labels.shape)} and scores of shape {tuple(scores.shape)}, but expected one "
            "class index a row of scores."
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= scores.shape[1]:
        raise DataError(
            f"Got class indices from {lowest} to {highest}, but expected 0 to {scores.shape[1] - 1}: one column of "
            "scores a class."
        )
    if not bool(torch.isfinite(scores).all()):
        raise DataError(
            "Got scores that are NaN or infinite, but expected finite ones. The solution they come from failed."
        )
    if bool((scores == scores[:, :1]).all()):
        return 1.0

    def loss(log_sharpness: float) -> float:
        return log_loss(scores, labels, math.exp(log_sharpness), weights)

    ends = tuple(math.log(end) for end in SHARPNESS_RANGE)
    inside = float(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-6}).x)
    # The search never touches the ends themselves, where the best b lies if the classes are told apart without error.
    return math.exp(min((inside, *ends), key=loss))
