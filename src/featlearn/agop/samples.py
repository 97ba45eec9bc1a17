"""A fixed set of samples, kept so that two models can be run on the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..exceptions import DataError, UnmeasurableError
from .batches import Batch, Outputs, check_batches, parse_batch, raw_outputs
from .probes import rademacher
from .taps import Tapped

__all__ = ["Samples", "by_sample", "mean_loss", "mixed_layers", "take_samples", "targets_of"]

LEAK = 1e-4  # share of a sample's gradient that may reach other samples: none but round-off

Samples = Sequence[tuple[Batch, int]]  # batches, each with its number of samples


def take_samples(
    model: nn.Module, batches: Iterable[Any], outputs: Outputs, most: int | None = None
) -> list[tuple[Batch, int]]:
    """The first ``most`` samples, on the model's device; no more batches are read than they need.

    To be used inside ``guest(model)``. Runs the model once, since only its outputs say how many samples a batch holds.

    Raises
    ------
    DataError
        No batches, or a last batch that is too large and cannot be cut.
    """
    taken: list[tuple[Batch, int]] = []
    total = 0
    for i, raw in enumerate(check_batches(batches)):
        batch = parse_batch(raw, model, i)
        with torch.no_grad():
            n = len(raw_outputs(model, batch, outputs))
        if most is not None and total + n > most:
            part = batch.part(model, 0, most - total, n)
            if part is None:
                raise DataError(
                    f"Got {total + n} samples in {i + 1} batches that cannot be cut, but expected at most {most}. "
                    "Pass smaller batches, or a larger max_samples."
                )
            batch, n = part, most - total
        taken.append((batch, n))
        total += n
        if total == most:
            break
    if not taken:
        raise DataError("Got no batches, but expected at least one. A generator can be read only once.")
    return taken


def targets_of(batch: Batch, n: int, what: str) -> Tensor:
    """Targets of a batch, one row a sample.

    Raises
    ------
    DataError
        When there are none, or their number is another.
    """
    targets = batch.targets
    if not isinstance(targets, Tensor) or targets.dim() == 0 or len(targets) != n:
        got = f"shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise DataError(
            f"Got targets of {got} for {n} samples, but {what} needs one row a sample. "
            "Pass batches (inputs, targets), or mappings with 'labels'."
        )
    return targets


def mean_loss(model: nn.Module, samples: Samples, outputs: Outputs, loss: Callable[[Any, Any], Tensor]) -> float:
    """Mean over samples of ``loss(outputs, targets)``, itself a mean over the batch. Inside ``guest(model)``."""
    total = 0.0
    with torch.no_grad():
        for batch, n in samples:
            if batch.targets is None:
                raise DataError("Got batches without targets, but loss= needs them. Pass (inputs, targets).")
            total += n * float(loss(raw_outputs(model, batch, outputs), batch.targets))
    return total / sum(n for _, n in samples)


def by_sample(tensor: Tensor, n: int, name: str) -> Tensor:
    """(n * F, ..., P), frames merged into the batch sample by sample, as (n, ..., F * P).

    Raises
    ------
    UnmeasurableError
        When the first axis is no multiple of n.
    """
    if len(tensor) == n:
        return tensor
    if len(tensor) % n:
        raise UnmeasurableError(
            f"Layer {name!r} ran on {len(tensor)} rows for {n} samples, but expected a multiple. Leave it out of "
            "layers=."
        )
    return tensor.unflatten(0, (n, -1)).movedim(1, -2).flatten(-2)


def mixed_layers(calls: Sequence[Tapped], flat: Tensor, n: int) -> list[str]:
    """Layers where the gradient of the first sample's outputs reaches rows that are read as other samples'.

    Either samples interact above the layer, or its rows are not laid out sample by sample. One backward pass; the graph
    stays.

    Parameters
    ----------
    calls : sequence of Tapped
        Of the forward pass that made the outputs.
    flat : Tensor of shape (n, C)
        The outputs.
    """
    cotangent = torch.zeros_like(flat)
    cotangent[0] = rademacher(0, 0, 0, 1, flat.shape[1])[0].to(flat)
    edges = [call.edge for call in calls]
    pulled: Sequence[Tensor | None] = torch.autograd.grad(flat, edges, cotangent, retain_graph=True, allow_unused=True)
    mixed = []
    for call, gradient in zip(calls, pulled, strict=True):
        if gradient is None:
            continue
        rows = call.layer.output(gradient, n).float()
        share = len(rows) // n if len(rows) % n == 0 else 0
        if share == 0 or float(rows[share:].norm()) > LEAK * float(rows.norm()):
            mixed.append(call.layer.name)
    return mixed
