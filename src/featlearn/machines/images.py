"""What machines of images are given: arrays, tensors or rows of pixels, as images (n, c, H, W) in single precision."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..exceptions import DataError, FeatlearnWarning

__all__ = ["as_images", "as_shape", "from_array", "warn_of_blank", "with_channels"]

FEW = 4  # at most so many channels are taken for channels when they come last


def as_shape(image_shape: Any) -> tuple[int, int, int]:
    """``(c, H, W)`` of ``(c, H, W)`` or ``(H, W)``; DataError for anything else."""
    whole = isinstance(image_shape, tuple | list) and all(
        isinstance(side, int | np.integer) and not isinstance(side, bool) and side > 0 for side in image_shape
    )
    if not whole or len(image_shape) not in (2, 3):
        raise DataError(
            f"Got image_shape={image_shape!r}, but expected (channels, height, width) or (height, width), positive "
            "whole numbers."
        )
    return (1, *map(int, image_shape)) if len(image_shape) == 2 else tuple(map(int, image_shape))  # type: ignore[return-value]


def as_images(X: Any, name: str = "X", *, shape: tuple[int, int, int] | None = None) -> Tensor:
    """Images (n, c, H, W), float32, of an array or tensor (n, c, H, W) or (n, H, W), on its device.

    Images of the ``shape`` (c, H, W), where that is known, are taken as they are, be they ever so narrow.

    Raises
    ------
    DataError
        For integers, complex numbers, NaN, infinity, other ranks, no image, or channels that come last.
    """
    tensor = X.detach() if isinstance(X, Tensor) else from_array(np.asarray(X), name)
    if tensor.dim() not in (3, 4):
        raise DataError(
            f"Got {name} of shape {tuple(tensor.shape)}, but expected images (n, channels, height, width) or "
            "(n, height, width), or rows (n, pixels) with image_shape."
        )
    if not tensor.is_floating_point():
        raise DataError(
            f"Got {name} of {tensor.dtype}, but expected floating numbers. Cast it: {name}.astype('float32') / 255."
        )
    if tensor.dim() == 4 and tuple(tensor.shape[1:]) != shape and tensor.shape[3] <= FEW < min(tensor.shape[1:3]):
        raise DataError(
            f"Got {name} of shape {tuple(tensor.shape)}: the channels seem to come last, but were expected second. "
            f"Move the axis: numpy.moveaxis({name}, -1, 1). If they do not, pass image_shape={tuple(tensor.shape[1:])}."
        )
    return _finite(with_channels(tensor).float(), name)


def with_channels(tensor: Tensor) -> Tensor:
    """(n, H, W) as (n, 1, H, W)."""
    return tensor[:, None] if tensor.dim() == 3 else tensor


def from_array(values: np.ndarray[Any, Any], name: str = "X") -> Tensor:
    """A tensor of the numbers, in the memory of the array where torch can share it."""
    if values.dtype.kind not in "fiub":
        raise DataError(f"Got {name} of dtype {values.dtype}, but expected floating numbers.")
    # torch knows neither long doubles nor foreign byte orders, and does not share memory that must not be written.
    dtype = np.dtype(np.float64) if values.dtype.itemsize > 8 else values.dtype.newbyteorder("=")
    return torch.from_numpy(np.require(values, dtype, ["C", "W"]))


def _finite(x: Tensor, name: str) -> Tensor:
    if not len(x):
        raise DataError(f"Got {name} of shape {tuple(x.shape)}, but expected at least one image.")
    fine = torch.isfinite(x.flatten(1).sum(dim=1))  # makes no copy; sums of large numbers may be infinite too
    if not bool(fine.all()):
        fine = torch.isfinite(x).flatten(1).all(dim=1)
    if not bool(fine.all()):
        first = int((~fine).nonzero()[0])
        raise DataError(f"Got {name} with NaN or infinity (image {first}), but expected finite pixels in float32.")
    return x


def warn_of_blank(x: Tensor, rows: Tensor) -> None:
    """Tell of images without a pixel other than 0, whose kernel with everything is 0; refuse nothing but those.

    ``rows`` (n,) are what the user calls the images.
    """
    blank = (~x.flatten(1).any(dim=1)).nonzero()[:, 0]
    if len(blank) == len(x):
        raise DataError("Got blank images only, but expected some with a pixel other than 0.")
    if len(blank):
        shown = ", ".join(map(str, rows[blank[:5].cpu()].tolist())) + (", ..." if len(blank) > 5 else "")
        warnings.warn(
            f"Got {len(blank)} blank images (at {shown}): their kernel with any image is 0, and so are the outputs.",
            FeatlearnWarning,
            stacklevel=4,
        )
