"""The user's own loader, named on the command line, as batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
import typer
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from ..exceptions import DataError
from .data_loading import Data, Preparation, SizedBatches
from .object_loading import blame, load_object

__all__ = ["load_loader"]


def load_loader(spec: str, how: Preparation) -> Data:
    """Batches of a ``Dataset`` (shuffled here), of an iterable of batches (in its own order), or of what a function
    without arguments returns.

    Raises
    ------
    DataError
        It cannot be imported or called, is none of these, is empty, or raises while it is read.
    typer.BadParameter
        Options that prepare samples: a loader prepares its own.
    """
    for name in ("image_size", "mean", "std"):
        if getattr(how, name) is not None:
            option = "--" + name.replace("_", "-")
            raise typer.BadParameter(
                f"Got {option} with --data {spec}, but a loader of yours prepares its own samples."
            )
    found = load_object(spec, "--data", DataError)
    if callable(found) and not isinstance(found, Dataset | Iterable):
        try:
            found = found()
        except Exception as problem:
            raise DataError(f"Got --data {spec}, but calling it failed: {blame(problem)}.") from problem
    if isinstance(found, Dataset) and not isinstance(found, IterableDataset):
        return _dataset(found, spec, how)
    if not isinstance(found, Iterable) or isinstance(found, Tensor | np.ndarray | str | Mapping):
        raise DataError(
            f"Got a {type(found).__name__} from --data {spec}, but expected a Dataset or an iterable of batches: "
            "tensors, (inputs, targets) or mappings."
        )
    name, batches, count = f"{spec} (first {how.n} samples)", _read(found, spec, how.n), _count(found, how.n)
    return Data(batches if count is None else SizedBatches(lambda: batches, count), name)


def _dataset(dataset: Any, spec: str, how: Preparation) -> Data:
    """Chosen samples of a map-style data set, collated as a ``DataLoader`` would."""
    try:
        total = len(dataset)
    except TypeError as problem:
        raise DataError(f"Got --data {spec}, a Dataset without a length, but expected one with __len__.") from problem
    if total == 0:
        raise DataError(f"Got --data {spec}, a Dataset of 0 samples, but expected at least 1.")
    chosen = how.choose(total).tolist()

    def make() -> Iterator[Any]:
        for part in how.parts(len(chosen)):
            try:
                batch = default_collate([dataset[row] for row in chosen[part]])
            except Exception as problem:
                start = chosen[part][0]
                raise DataError(
                    f"Got --data {spec}, but reading samples {start}, ... failed: {blame(problem)}."
                ) from problem
            yield batch

    return Data(SizedBatches(make, how.count(len(chosen))), f"{spec} ({len(chosen)} of {total} samples)")


def _read(batches: Iterable[Any], spec: str, n: int) -> Iterator[Any]:
    """The first ``n`` samples of an iterable of batches; what it raises names it and the place."""
    left = n
    try:
        for batch in batches:
            size = _samples(batch)
            yield batch if size <= left else _first(batch, left, size)
            left -= size
            if left <= 0:
                return
    except DataError:
        raise
    except Exception as problem:
        raise DataError(
            f"Got --data {spec}, but reading it failed after {n - left} samples: {blame(problem)}."
        ) from problem
    if left == n:
        raise DataError(f"Got --data {spec} without a single sample, but expected at least one.")


def _count(batches: Any, n: int) -> int | None:
    """Batches that hold the first ``n`` samples, where that is known before reading: of a list, of a ``DataLoader``."""
    if isinstance(batches, list | tuple):
        return min(len(batches), 1 + sum(end < n for end in itertools.accumulate(map(_samples, batches))))
    size = getattr(batches, "batch_size", None)
    return min(len(batches), -(-n // size)) if isinstance(batches, Sized) and isinstance(size, int) else None


def _samples(batch: Any) -> int:
    """Length of the first axis of the first tensor or array in the batch."""
    leaves = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
    sizes = [len(part) for part in leaves if _has_samples(part)]
    if not sizes:
        raise DataError(
            f"Got a batch of type {type(batch).__name__} without tensors from --data, but expected a tensor, "
            "(inputs, targets) or a mapping."
        )
    return sizes[0]


def _has_samples(part: Any) -> bool:
    return isinstance(part, Tensor | np.ndarray) and part.ndim > 0


def _first(batch: Any, count: int, size: int) -> Any:
    """The first ``count`` of the ``size`` samples of a batch."""

    def cut(part: Any) -> Any:
        return part[:count] if _has_samples(part) and len(part) == size else part

    if isinstance(batch, Mapping):
        return {key: cut(part) for key, part in batch.items()}
    return tuple(cut(part) for part in batch) if isinstance(batch, tuple | list) else cut(batch)
