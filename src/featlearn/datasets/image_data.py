"""Labelled images in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..exceptions import DataError

__all__ = ["ImageData"]


@dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images of one split of one data set.

    Attributes
    ----------
    images : Tensor of shape (n, channels, height, width), uint8
        Pixels, 0 to 255.
    labels : Tensor of shape (n,), int64
        Indices into ``classes``.
    classes : tuple of str
        Names of the classes.
    name : str
        The data set, as reports should call it.
    split : str
        ``"train"`` or ``"test"``.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    name: str
    split: str

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        n, *shape = self.images.shape
        return f"ImageData({self.name!r}, {self.split!r}, {n} images of shape {tuple(shape)})"

    def normalized(self, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0) -> torch.Tensor:
        """Images as float32 input of a network: ``(pixel / 255 - mean) / std``, per channel.

        Parameters
        ----------
        mean, std : float or sequence of float, one a channel
            In units of the full range of a pixel. The defaults give numbers from 0 to 1.

        Returns
        -------
        Tensor of shape (n, channels, height, width), float32

        Raises
        ------
        DataError
            Another number of entries than channels, or a ``std`` that is not positive.

        Examples
        --------
        >>> from featlearn.datasets import load_fashion_mnist
        >>> data = load_fashion_mnist("test", n=2)
        >>> data.normalized(0.5, 0.5).aminmax().max
        tensor(1.)
        """
        channels = self.images.shape[1]
        center, scale = (torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1) for value in (mean, std))
        for label, value in (("mean", center), ("std", scale)):
            if len(value) not in (1, channels):
                raise DataError(f"Got {label} of {len(value)} entries, but expected one or one a channel ({channels}).")
        if not bool((scale > 0).all()):
            raise DataError(f"Got std={std}, but expected positive numbers.")
        return self.images.to(torch.float32).div_(255).sub_(center).div_(scale)

    def batches(
        self, batch_size: int, *, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Batches ``(images, labels)`` in order, the last one possibly smaller: what ``measure_features`` takes.

        Parameters
        ----------
        batch_size : int
            Images a batch.
        mean, std : float or sequence of float
            As in :meth:`normalized`.

        Examples
        --------
        >>> from featlearn.datasets import load_fashion_mnist
        >>> [len(labels) for images, labels in load_fashion_mnist("test", n=25).batches(10)]
        [10, 10, 5]
        """
        if batch_size < 1:
            raise DataError(f"Got batch_size={batch_size}, but expected at least 1.")
        images = self.normalized(mean, std)
        return list(zip(images.split(batch_size), self.labels.split(batch_size), strict=True))
