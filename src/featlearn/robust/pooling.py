"""From a layer's tensor to one row a sample, and where those rows are collected: written once, where they stay."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from ..exceptions import DataError, FeatlearnWarning, UnmeasurableError

__all__ = ["POOLS", "Pool", "RowStore", "check_pool", "choose_pool", "pooled"]

Pool = Literal["flatten", "mean"]
POOLS = ("auto", "flatten", "mean")

ANNOUNCED = 1e9  # bytes of features that are worth a word before they are computed

_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)
_CHANNELS_FIRST = (
    *(nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm),
    *(nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd),
    *(nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd),
)


def check_pool(pool: object) -> None:
    """Refuse anything but "auto", "flatten" and "mean"."""
    if pool not in POOLS:
        raise DataError(f"Got pool={pool!r}, but expected 'auto', 'flatten' or 'mean'.")


def choose_pool(tensor: Tensor, pool: str) -> Pool:
    """What is done with a tensor: the mean of images (four axes) for "auto", of all with positions for "mean"."""
    averaged = tensor.dim() == 4 if pool == "auto" else pool == "mean" and tensor.dim() > 2
    return "mean" if averaged else "flatten"


def pooled(tensor: Tensor, pool: Pool, module: nn.Module | None) -> Tensor:
    """One row a sample: all numbers of it, or the mean over its positions.

    Parameters
    ----------
    tensor : Tensor of shape (n, ...)
    pool : {"flatten", "mean"}
        As :func:`choose_pool` has it. The mean keeps the axis of channels. It is the last one of linear layers, layer
        norms and embeddings, and of every tensor with three axes that no convolution, batch norm or pooling has made or
        reads; else the second.
    module : Module, optional
        The layer.

    Returns
    -------
    Tensor of shape (n, d)
        A view for "flatten", where the layout allows it.
    """
    if pool == "mean":
        last = isinstance(module, _CHANNELS_LAST) or (tensor.dim() == 3 and not isinstance(module, _CHANNELS_FIRST))
        channels = tensor.dim() - 1 if last else 1
        positions = [axis for axis in range(1, tensor.dim()) if axis != channels]
        return tensor.mean(positions, dtype=torch.promote_types(tensor.dtype, torch.float32))
    return tensor.reshape(len(tensor), -1)


class RowStore:
    """Rows of one layer on the CPU.

    Parameters
    ----------
    name : str
        The layer, for messages.
    dtype : torch.dtype
        Of the rows that are kept.
    expected : int or None
        Rows to come. Where that is not known the store grows as it fills, and holds twice its size for a moment.
    """

    def __init__(self, name: str, dtype: torch.dtype, expected: int | None) -> None:
        self.name = name
        self.dtype = dtype
        self.expected = expected
        self._data: Tensor | None = None

    def write(self, start: int, rows: Tensor) -> None:
        """Copy rows of shape (n, d) to their place, the only copy there is.

        Raises
        ------
        UnmeasurableError
            Another width than before.
        """
        stop = start + len(rows)
        if self._data is None:
            self._data = self._reserve(max(stop, self.expected or 0), rows.shape[1])
        if rows.shape[1] != self._data.shape[1]:
            raise UnmeasurableError(
                f"Got {rows.shape[1]} features of layer {self.name!r} after {self._data.shape[1]} in an earlier batch, "
                "but expected the same number. Pass pool='mean', or inputs of one size."
            )
        if stop > len(self._data):
            wider = self._reserve(max(stop, math.ceil(1.5 * len(self._data))), rows.shape[1])
            wider[:start] = self._data[:start]
            self._data = wider
        self._data[start:stop] = rows

    def result(self, n: int) -> Tensor:
        """The first n rows."""
        if self._data is None:
            raise DataError("Got no batches, but expected at least one. A generator can be read only once.")
        return self._data if len(self._data) == n else self._data[:n].clone()

    def _reserve(self, rows: int, width: int) -> Tensor:
        size = rows * width * self.dtype.itemsize
        grown = self._data is not None and self._data.nbytes > ANNOUNCED
        if size > ANNOUNCED and not grown:
            warnings.warn(
                f"Features of layer {self.name!r}, {rows} rows of {width} numbers, take {size / 1e9:.1f} GB of memory. "
                "Pass fewer rows, or pool='mean' for a layer with positions.",
                FeatlearnWarning,
                stacklevel=2,
            )
        return torch.empty(rows, width, dtype=self.dtype, device="cpu")
