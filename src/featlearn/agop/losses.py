"""Losses as users have them: a function of outputs and targets that returns the mean over the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..exceptions import DataError

__all__ = ["Loss", "checked_loss"]

Loss = Callable[[Tensor, Any], Tensor]


def checked_loss(value: Any) -> Tensor:
    """The value of a loss as a tensor without axes, which gradients can be taken of.

    Raises
    ------
    DataError
        No tensor, or not of one number; not finite; without a gradient.
    """
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise DataError(f"Got a loss of {got}, but expected one number: the mean over the batch.")
    if not bool(value.isfinite().all()):
        raise DataError(f"Got a loss of {float(value.detach())}, but expected a finite number. Check the targets.")
    if not value.requires_grad:
        raise DataError(
            "Got a loss that does not depend on the outputs through autograd. Compute it from them with "
            "differentiable operations, and do not detach them."
        )
    return value.reshape(())
