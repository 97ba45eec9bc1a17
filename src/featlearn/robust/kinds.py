"""Tensors at the door of an estimator that computes in numpy: arrays inside, tensors out again."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["like", "plain"]


def plain(values: Any) -> Any:
    """A tensor, of any device and precision, as an array; anything else as it is."""
    if not isinstance(values, Tensor):
        return values
    return (values.double() if values.is_floating_point() else values).detach().cpu().numpy()


def like(Z: Any, values: NDArray[Any]) -> Any:
    """Results for rows Z: a tensor on the device of a tensor, except for words; an array for anything else."""
    return torch.from_numpy(values).to(Z.device) if isinstance(Z, Tensor) and values.dtype.kind in "biuf" else values
