"""Batches as users have them (tensors, tuples, mappings, loaders), and the outputs of a model on one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..exceptions import DataError

__all__ = [
    "Batch",
    "Outputs",
    "check_batches",
    "check_outputs",
    "count_batches",
    "flat_outputs",
    "parse_batch",
    "raw_outputs",
]

Outputs = str | Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch on the model's device: what the model is called with, the targets, and the batch as it came."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Any
    raw: Any

    def call(self, model: nn.Module) -> Any:
        """``model(*args, **kwargs)``."""
        return model(*self.args, **self.kwargs)

    def part(self, model: nn.Module, start: int, stop: int, n: int) -> Batch | None:
        """Samples ``start <= i < stop`` of the n, or None when no tensor has a sample axis to cut."""
        found = False

        def cut(tensor: Tensor) -> Tensor:
            nonlocal found
            if n not in tensor.shape:
                return tensor
            found = True
            return tensor.narrow(tensor.shape.index(n), start, stop - start)

        raw = _map_tensors(cut, self.raw)
        return _as_batch(raw) if found else None


def check_batches(batches: Any) -> Iterable[Any]:
    """Refuse what is iterable but no iterable of batches."""
    if isinstance(batches, (Tensor, np.ndarray)):
        raise DataError(
            f"Got one {type(batches).__name__} of shape {tuple(batches.shape)}, but expected an iterable of batches. "
            "Pass X.split(50), or a DataLoader."
        )
    streams = isinstance(batches, torch.utils.data.IterableDataset)
    if isinstance(batches, torch.utils.data.Dataset) and not streams:
        raise DataError(
            f"Got the data set {type(batches).__name__}, but expected an iterable of batches. "
            "Pass DataLoader(dataset, batch_size=50)."
        )
    if isinstance(batches, (Mapping, str, bytes)) or not (streams or hasattr(batches, "__iter__")):
        raise DataError(f"Got {type(batches).__name__}, but expected an iterable of batches. Pass a list or a loader.")
    return batches


def count_batches(batches: Any, world: int = 1) -> int | None:
    """Batches of all ``world`` processes, or None for a stream: a loader of a stream has a length that raises."""
    try:
        return len(batches) * world
    except TypeError:
        return None


def check_outputs(outputs: object) -> None:
    """Refuse anything but "logits" or a callable."""
    if outputs != "logits" and not callable(outputs):
        raise DataError(f"Got outputs={outputs!r}, but expected 'logits' or a callable (model, batch) -> tensor.")


def parse_batch(batch: Any, model: nn.Module, index: int = 0) -> Batch:
    """Read one batch and move it to the model.

    Tensors go to the device of the model's first parameter; floating ones take its dtype, so that loaders in float32
    serve models in half or double precision. Gradients stop here: what made the batch is no part of the model.

    Raises
    ------
    DataError
        For a batch that is no tensor, sequence or mapping of them, or that holds NaN or infinity, also only in the
        model's dtype. Minus infinity is what additive attention masks are made of, and passes.
    """
    parameters = iter(model.parameters())
    first = next(parameters, torch.empty(0, device="cpu", dtype=torch.float32))
    device = first.device
    dtype = next((p.dtype for p in chain((first,), parameters) if p.is_floating_point()), torch.float32)

    def move(tensor: Tensor) -> Tensor:
        tensor = tensor.clone() if tensor.is_inference() else tensor.detach()  # autograd saves no inference tensors
        if not tensor.is_floating_point():
            return tensor.to(device=device)
        moved = tensor.to(device=device, dtype=dtype)
        # A sum is finite only if all its terms are, at a tenth of the cost of asking them one by one.
        if not moved.sum().isfinite() and not (moved.isfinite() | moved.isneginf()).all():
            raise DataError(
                f"Got inputs that are not finite in batch {index}, as {dtype}. Remove or impute NaN and infinity."
            )
        return moved

    return _as_batch(_map_tensors(move, batch), index)


def _as_batch(raw: Any, index: int = 0) -> Batch:
    if isinstance(raw, Tensor):
        return Batch((raw,), {}, None, raw)
    if isinstance(raw, Mapping):
        labels = [key for key in raw if key in ("labels", "label")]
        rest = {str(key): value for key, value in raw.items() if key not in labels}
        return Batch((), rest, raw[labels[0]] if labels else None, raw)
    if isinstance(raw, (tuple, list)) and raw:
        return Batch((raw[0],), {}, raw[1] if len(raw) > 1 else None, raw)
    raise DataError(
        f"Got batch {index} of type {type(raw).__name__}, but expected a tensor, (inputs, targets) or a mapping."
    )


def _map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply to every tensor or array in a nest of tuples, lists and mappings."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, np.ndarray) and tree.dtype.kind in "fiub":
        return function(torch.from_numpy(np.require(tree, requirements=["C", "W"])))
    if isinstance(tree, Mapping):
        return {key: _map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map_tensors(function, value) for value in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(_map_tensors(function, value) for value in tree)
    return tree


def raw_outputs(model: nn.Module, batch: Batch, outputs: Outputs) -> Tensor:
    """The output tensor of shape (n, ...) that features are measured for.

    Raises
    ------
    DataError
        When the model's return value holds no tensor, or several of which none is called "logits".
    """
    chosen = outputs(model, batch.raw) if callable(outputs) else _logits(batch.call(model))
    if not isinstance(chosen, Tensor) or not chosen.is_floating_point() or chosen.dim() == 0:
        got = f"{chosen.dtype} of shape {tuple(chosen.shape)}" if isinstance(chosen, Tensor) else type(chosen).__name__
        raise DataError(f"Got outputs {got}, but expected a floating tensor with samples on its first axis.")
    if not chosen.isfinite().all():
        raise DataError("Got model outputs that are not finite. Check the weights and the scale of the inputs.")
    if chosen.shape[0] == 0:
        raise DataError("Got an empty batch, but expected at least one sample.")
    return chosen


def _logits(returned: Any) -> Any:
    if isinstance(returned, Tensor):
        return returned
    if isinstance(returned, (tuple, list)) and not hasattr(returned, "_fields"):
        return next((value for value in returned if isinstance(value, Tensor)), returned)
    if isinstance(returned, Mapping):
        named = dict(returned)
    elif hasattr(returned, "_asdict"):
        named = returned._asdict()
    elif dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        named = {entry.name: getattr(returned, entry.name) for entry in dataclasses.fields(returned)}
    else:
        return returned
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if "logits" in tensors:
        return tensors["logits"]
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    raise DataError(
        f"Got a model that returns {', '.join(map(repr, named))}, none of them 'logits'. "
        "Pass outputs=lambda model, batch: ... that returns one tensor."
    )


def flat_outputs(outputs: Tensor) -> Tensor:
    """(n, C): everything after the sample axis flattened; one output per sample when there is none."""
    return outputs.reshape(len(outputs), -1)
