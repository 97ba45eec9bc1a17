"""Tensors at the door of an estimator that computes in numpy: arrays inside, tensors out again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["floats_like", "like", "plain"]


def plain(values: Any) -> Any:
    """A tensor, of any device and precision, as an array; anything else as it is."""
    if not isinstance(values, Tensor):
        return values
    # First off the device: not every device has double precision.
    values = values.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()


def like(Z: Any, values: NDArray[Any]) -> Any:
    """Results for rows Z: a tensor on the device of a tensor, except for words; an array for anything else."""
    if not isinstance(Z, Tensor) or values.dtype.kind not in "biuf":
        return values
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(native).to(Z.device)


def floats_like(Z: Any, values: NDArray[np.float64]) -> Any:
    """Real numbers for rows Z: of the kind, on the device and in the precision of a tensor or a floating array."""
    if isinstance(Z, Tensor):
        return torch.from_numpy(values).to(Z.device, Z.dtype if Z.is_floating_point() else torch.float64)
    return values.astype(Z.dtype, copy=False) if isinstance(Z, np.ndarray) and Z.dtype.kind == "f" else values
