"""The data named on the command line, as batches: which kind it is, which samples of it, and their scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn

from .._random import generator
from ..exceptions import DataError

__all__ = ["Data", "InputNeeds", "Preparation", "SizedBatches", "load_data", "read_numbers"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class InputNeeds:
    """What a model's layers say of its input: channels and axes of its first convolution (or ``None``), its dtype."""

    channels: int | None
    axes: int | None
    dtype: torch.dtype

    @classmethod
    def of(cls, model: nn.Module) -> InputNeeds:
        """Read the first convolution and the first floating-point parameter."""
        first = next((module for module in model.modules() if isinstance(module, CONVOLUTIONS)), None)
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
        return cls(None, None, dtype) if first is None else cls(first.in_channels, len(first.kernel_size) + 2, dtype)


@dataclass(frozen=True)
class Preparation:
    """How samples are chosen and prepared.

    Attributes
    ----------
    n, batch_size, seed : int
        The first ``n`` samples after a shuffle by ``seed``, ``batch_size`` at a time.
    image_size : int or None
        For folders of images: see :class:`~featlearn.cli.image_folder.ImageFolder`.
    mean, std : tuple of float or None
        Per channel (one number: for all), subtracted and divided by.
    """

    n: int
    batch_size: int
    seed: int
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def choose(self, total: int) -> NDArray[np.int64]:
        """Positions of the chosen samples among ``total``, in the order in which they are read."""
        return torch.randperm(total, generator=generator(self.seed, "samples"))[: self.n].numpy()

    def parts(self, total: int) -> Iterator[slice]:
        """Slices of one batch each."""
        return (slice(start, start + self.batch_size) for start in range(0, total, self.batch_size))

    def count(self, total: int) -> int:
        """Number of batches that ``total`` samples make."""
        return -(-total // self.batch_size)

    def scaling(self, channels: int) -> Callable[[Tensor], Tensor]:
        """``(batch - mean) / std`` along axis 1; refuses another number of means than channels."""
        for option, values in (("--mean", self.mean), ("--std", self.std)):
            if values is not None and len(values) not in (1, channels):
                raise typer.BadParameter(
                    f"Got {option} of {len(values)} numbers for data of {channels} channels, but expected 1 or "
                    f"{channels}."
                )
        mean, std = torch.tensor(self.mean or [0.0]), torch.tensor(self.std or [1.0])
        if self.mean is None and self.std is None:
            return lambda batch: batch

        def scale(batch: Tensor) -> Tensor:
            shape = (1, -1) + (1,) * (batch.ndim - 2)
            return (batch - mean.to(batch).reshape(shape)) / std.to(batch).reshape(shape)

        return scale


@dataclass(frozen=True, eq=False)
class Data:
    """Batches to be read once, and what is known of them beforehand.

    Attributes
    ----------
    name : str
        For the report: the path as typed, and how many samples of how many.
    image_shape : tuple of int or None
        (channels, height, width) of a sample that is an image.
    """

    batches: Iterable[Any]
    name: str
    image_shape: tuple[int, ...] | None = None


class SizedBatches:
    """Batches made by ``make`` when they are asked for, their number known beforehand."""

    def __init__(self, make: Callable[[], Iterator[Any]], count: int) -> None:
        self._make, self._count = make, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return self._make()


def load_data(spec: str, how: Preparation, model: nn.Module) -> Data:
    """Batches of the data that ``spec`` names.

    Parameters
    ----------
    spec : str
        A folder of images (one subfolder a class, or flat), a ``.npz`` file with ``X`` (n, ...) and optionally ``y``
        (n, ...), or ``module:loader`` / ``file.py:loader``.
    how : Preparation
        Number of samples, shuffle, size and scale.
    model : torch.nn.Module
        Its first convolution says how many channels it wants, its parameters which dtype.

    Raises
    ------
    DataError
        Missing, empty, damaged, not finite, or of a kind or shape that the model cannot take.
    typer.BadParameter
        Image options for data that are no images.
    """
    path, needs = Path(spec), InputNeeds.of(model)
    if path.is_dir():
        from .image_folder import load_folder

        return load_folder(path, spec, how, needs)
    if path.suffix == ".npz":
        from .npz_data import load_npz

        return load_npz(path, spec, how, needs)
    if ":" in spec:
        from .loader_data import load_loader

        return load_loader(spec, how)
    problem = "that file is none of these" if path.exists() else "there is no such folder or file"
    raise DataError(f"Got --data {spec}, but {problem}: expected a folder of images, a .npz file, or module:loader.")


def read_numbers(text: str | None, option: str, positive: bool = False) -> tuple[float, ...] | None:
    """Finite numbers separated by commas.

    Raises
    ------
    typer.BadParameter
        Anything else.
    """
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(value) and (value > 0 or not positive) for value in values):
        kind = "positive numbers" if positive else "numbers"
        raise typer.BadParameter(f"Got {option} {text}, but expected {kind} separated by commas, such as 0.5,0.5,0.5.")
    return values
