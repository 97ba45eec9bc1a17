"""Directions of a layer's input as small images; numbers only, no figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError
from .palette import diverging

__all__ = ["Patches", "check_image_shape", "drawable", "first_patches", "patch_image"]

SIDE_BY_SIDE = 4  # more channels than this, other than as colours, make no readable picture
FEWEST_PIXELS = 4


@dataclass(frozen=True, eq=False)
class Patches:
    """Top directions of one layer as images.

    Attributes
    ----------
    layer : str
        Name of the layer.
    shape : tuple of int
        (channels, height, width) of one direction.
    agop, nfm : list of uint8 arrays of shape (height, width, 3)
        Eigenvectors of the AGOP and of ``W^T W``, largest eigenvalue first.
    """

    layer: str
    shape: tuple[int, int, int]
    agop: list[NDArray[np.uint8]]
    nfm: list[NDArray[np.uint8]]


def check_image_shape(image_shape: Sequence[int] | None) -> tuple[int, int, int] | None:
    """(height, width) or (channels, height, width) as three positive numbers.

    Raises
    ------
    DataError
        Anything else.
    """
    if image_shape is None:
        return None
    shape = tuple(image_shape)
    if len(shape) not in (2, 3) or any(not isinstance(side, (int, np.integer)) or side < 1 for side in shape):
        raise DataError(f"Got image_shape={image_shape!r}, but expected (height, width) or (channels, height, width).")
    channels, height, width = (1, *map(int, shape))[-3:]
    return channels, height, width


def drawable(layer: Mapping[str, Any], image_shape: tuple[int, int, int] | None = None) -> tuple[int, int, int] | None:
    """Shape in which one direction of a layer can be seen, or ``None``.

    A 2-D convolution shows its patch, a 1-D convolution its (channels, positions) as one image, and a plain layer the
    whole input when ``image_shape`` is known and has as many numbers.
    """
    patch = layer["patch_shape"]
    if patch is None:
        shape = image_shape if image_shape is not None and math.prod(image_shape) == layer["d"] else None
    elif len(patch) == 2:
        shape = (1, int(patch[0]), int(patch[1]))
    else:
        shape = (int(patch[0]), int(patch[1]), int(patch[2])) if len(patch) == 3 else None
    if shape is None or shape[0] > SIDE_BY_SIDE or shape[1] * shape[2] < FEWEST_PIXELS:
        return None
    return shape


def first_patches(
    report: Mapping[str, Any], image_shape: tuple[int, int, int] | None = None, top: int = 8, layer: str | None = None
) -> Patches | None:
    """Images of the first layer, if its directions make any; of ``layer`` when one is named.

    Parameters
    ----------
    report : mapping
        ``FeatureReport.to_dict()``.
    image_shape : tuple of int or None
        (channels, height, width) of the model's input, for a plain first layer.
    top : int
        Number of directions of each matrix.
    layer : str or None
        Layer to draw. ``None``: the first convolution or, without one, the first layer.
    """
    layers = report["layers"]
    convolutions = [name for name, entry in layers.items() if entry["patch_shape"] is not None]
    name = layer if layer is not None else next(iter(convolutions or layers), None)
    shape = None if name is None else drawable(layers[name], image_shape)
    if name is None or shape is None:
        return None
    agop, nfm = (
        [patch_image(row, shape) for row in layers[name][key][:top]] for key in ("agop_directions", "nfm_directions")
    )
    return Patches(name, shape, agop, nfm)


def patch_image(direction: Sequence[float], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """One direction as an image, scaled by its own largest magnitude.

    Three channels are red, green and blue around mid-grey; one channel is blue (negative), white (zero), red
    (positive); two or four channels stand side by side, each drawn like one channel.

    Parameters
    ----------
    direction : sequence of float, length channels * height * width
        Ordered as a weight is flattened: channel, row, column.
    shape : tuple of int
        (channels, height, width).

    Returns
    -------
    uint8 array of shape (height, width', 3)
    """
    values = np.nan_to_num(np.asarray(direction, dtype=np.float64)).reshape(shape)
    largest = np.abs(values).max()
    values = values / largest if largest > 0 else values
    if shape[0] == 3:
        return np.asarray(np.rint(127.5 * (values.transpose(1, 2, 0) + 1.0)), dtype=np.uint8)
    return diverging(np.concatenate(list(values), axis=1))
