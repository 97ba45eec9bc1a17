"""Batches with several labels a row, (x, y, s): what a model reads, what it does not, and the order of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ..exceptions import DataError

__all__ = ["check_order", "count_rows", "first_tensor", "join_labels", "rows_of", "split_batch"]

INPUT_KEYS = ("input", "inputs", "x")
LABEL_KEYS = ("labels", "label")
_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def split_batch(raw: Any, index: int = 0) -> tuple[Any, tuple[Any, ...]]:
    """What the model is called with, as :func:`featlearn.agop.batches.parse_batch` reads it, and the labels.

    Parameters
    ----------
    raw : Tensor, array, sequence or mapping
        A tuple holds the input, then labels. A mapping holds the input under "input", "inputs" or "x", and everything
        else is labels; without such a key all of it is the input but "labels" and "label".
    index : int
        Which batch, for messages.

    Returns
    -------
    inputs : tuple of one, or mapping
    labels : tuple

    Raises
    ------
    DataError
        Another kind of object.
    """
    if isinstance(raw, Mapping):
        key = next((key for key in INPUT_KEYS if key in raw), None)
        if key is not None:
            return (raw[key],), tuple(value for other, value in raw.items() if other != key)
        rest = {name: value for name, value in raw.items() if name not in LABEL_KEYS}
        return rest, tuple(raw[name] for name in LABEL_KEYS if name in raw)
    if isinstance(raw, Tensor | np.ndarray):
        return (raw,), ()
    if isinstance(raw, tuple | list) and raw:
        return (raw[0],), tuple(raw[1:])
    raise DataError(
        f"Got batch {index} of type {type(raw).__name__}, but expected a tensor, (inputs, labels, ...) or a mapping."
    )


def first_tensor(tree: Any) -> Any:
    """The first tensor or array of numbers in a nest of sequences and mappings; None when it holds none."""
    if isinstance(tree, Tensor) or (isinstance(tree, np.ndarray) and tree.dtype.kind in "fiub"):
        return tree
    values = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, tuple | list) else ()
    return next((found for value in values if (found := first_tensor(value)) is not None), None)


def rows_of(inputs: Any, index: int = 0) -> int:
    """Samples of a batch: the length of its first tensor.

    Raises
    ------
    DataError
        No tensor, or one without rows.
    """
    tensor = first_tensor(inputs)
    if tensor is None:
        raise DataError(f"Got no tensor or array of numbers in batch {index}, but expected samples on its first axis.")
    if tensor.ndim == 0 or len(tensor) == 0:
        raise DataError(f"Got no rows in batch {index}, but expected a tensor with samples on its first axis.")
    return len(tensor)


def count_rows(batches: Any) -> int | None:
    """Rows of all batches where that is known before they are read, else None."""
    if isinstance(batches, DataLoader):
        sized = not isinstance(batches.dataset, IterableDataset) and batches.batch_size is not None
        return len(batches.sampler) if sized and isinstance(batches.sampler, Sized) else None
    if isinstance(batches, list | tuple):
        return sum(rows_of(split_batch(raw, i)[0], i) for i, raw in enumerate(batches))
    return None


def check_order(batches: Any, allow_shuffled: bool) -> None:
    """Refuse a loader that gives its rows in another order at every pass.

    Raises
    ------
    DataError
        A ``DataLoader`` with a random sampler, unless that is allowed.
    """
    if allow_shuffled or not isinstance(batches, DataLoader) or isinstance(batches.dataset, IterableDataset):
        return
    samplers = [batches.sampler, getattr(batches.batch_sampler, "sampler", None)]
    if any(isinstance(sampler, _SHUFFLING) or getattr(sampler, "shuffle", False) for sampler in samplers):
        raise DataError(
            "Got a DataLoader that shuffles, but expected one that keeps the order: features would no longer match "
            "labels that were read before. Pass DataLoader(dataset, shuffle=False), or allow_shuffled=True."
        )


def join_labels(parts: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """One column a label from its parts in all batches: tensors on the CPU if they are tensors, else arrays.

    Parameters
    ----------
    parts : sequence of sequences
        Labels of every batch.

    Raises
    ------
    DataError
        Batches with different numbers of labels.
    """
    if len({len(labels) for labels in parts}) > 1:
        raise DataError("Got batches with different numbers of labels, but expected the same in all.")
    return tuple(_column(column) for column in zip(*parts, strict=True))


def _column(parts: Sequence[Any]) -> Any:
    if all(isinstance(part, Tensor) for part in parts):
        return torch.cat([part.detach().cpu() for part in parts])
    return np.concatenate([np.asarray(part) for part in parts])
