"""Weights of rows: 2 means that the row was given twice, 0 that it was left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._arrays import as_tensor
from ..exceptions import DataError

__all__ = ["as_weights", "weighted_mean"]


def as_weights(sample_weight: Any, n: int) -> Tensor | None:
    """Weights of n rows, float64 of shape (n,); None stands for equal ones and stays None.

    A weight of 2 means what giving the row twice means, 0 what leaving it out means.

    Raises
    ------
    DataError
        Other than n weights, one that is negative, NaN or infinite, or all of them 0.
    """
    if sample_weight is None:
        return None
    if not hasattr(sample_weight, "shape"):
        sample_weight = np.asarray(sample_weight)
    if len(sample_weight.shape) == 0:
        return as_weights(np.full(n, sample_weight), n)
    weights, _ = as_tensor(sample_weight, name="sample_weight", dtype=torch.float64)
    weights = weights.detach().cpu()
    if weights.shape != (n,):
        raise DataError(f"Got sample_weight of shape {tuple(weights.shape)}, but expected ({n},): one weight a row.")
    if bool((weights < 0).any()):
        raise DataError(
            f"Got a negative sample_weight ({float(weights.min()):g}), but expected weights of at least 0. Use 0 to "
            "leave a row out."
        )
    if not bool(weights.any()):
        raise DataError("Got a sample_weight that is zero in every row, but expected a positive weight in some.")
    return weights


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean (C,) over the rows of ``values`` (n, C), weighted by ``weights`` (n,)."""
    if weights is None:
        return values.mean(dim=0)
    weights = weights.to(values)
    return weights @ values / weights.sum()
