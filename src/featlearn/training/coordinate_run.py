r"""One model of a coordinate check: a few steps of training, and what they do to every layer's output.

Passes :math:`t = 0, 1, \dots` see :math:`f_l(t)` and :math:`b_l(t) = \partial J / \partial f_l` of all layers at once,
and the gradients that the optimiser steps with, so that the angle is that of the very step that was made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..agop.batches import Batch, Outputs
from ..agop.first_order import Call
from ..agop.layers import Layer
from ..agop.losses import Loss, checked_loss
from ..agop.parameter_order import inner
from ..agop.taps import Taps
from ..exceptions import DataError, ModelError

__all__ = ["Coordinates", "Diverged", "watch_training"]

NAN = float("nan")


class Diverged(Exception):
    """Numbers that are not finite appeared."""


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """Sizes of one layer's output after some steps of one run. Undefined values are nan.

    Attributes
    ----------
    feature_rms : float
        ``rms(f(t))``.
    feature_change_rms : float
        ``rms(f(t) - f(0))``.
    cos_theta : float
        Backward-feature angle of the last step, ``-<b(t-1), df> / (||b(t-1)|| ||df||)`` with the whole change
        ``df = f(t) - f(t-1)``.
    """

    feature_rms: float
    feature_change_rms: float
    cos_theta: float


# Outputs of every call of a layer, or the gradients at them, by the layer's name.
_ByLayer = Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True, eq=False)
class _Seen:
    features: _ByLayer
    backward: _ByLayer
    last: str


def watch_training(
    model: nn.Module,
    chosen: Sequence[Layer],
    others: Sequence[Layer],
    batch: Batch,
    loss: Loss,
    outputs: Outputs,
    optimizer: torch.optim.Optimizer,
    steps: int,
) -> Iterator[tuple[dict[str, Coordinates], str]]:
    """Train for some steps on one batch; before the first and after each, the coordinates of all layers.

    Parameters
    ----------
    model : torch.nn.Module
        Trained in the mode in which it is, with gradients enabled by the caller. Every pass draws the same random
        numbers, so that dropout keeps its masks.
    chosen : sequence of Layer
        What is looked at.
    others : sequence of Layer
        Layers of the model that are not; they tell which layer runs last.
    batch, loss, outputs
        ``loss(outputs, targets)`` is the mean over the batch.
    optimizer : Optimizer
        Of the model's parameters.
    steps : int
        Number of steps.

    Yields
    ------
    tuple of dict and str
        Coordinates by name, in the order of execution, and the name of the layer that ran last: the readout.

    Raises
    ------
    Diverged
        The loss, or the output of a layer, is not finite.
    DataError, ModelError
        The loss is no number, or depends on no trained parameter.

    Notes
    -----
    ``steps + 1`` forward and ``steps`` backward passes; four copies of the layers' outputs in memory.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first = before = None
    for step in range(steps + 1):
        if step:
            optimizer.step()
        seen = _pass(model, chosen, others, batch, loss, outputs, parameters if step < steps else None)
        first = first or seen
        yield {name: _coordinates(name, first, before, seen) for name in seen.features}, seen.last
        before = seen


def _pass(
    model: nn.Module,
    chosen: Sequence[Layer],
    others: Sequence[Layer],
    batch: Batch,
    loss: Loss,
    outputs: Outputs,
    parameters: Sequence[nn.Parameter] | None,
) -> _Seen:
    """Outputs of all layers; with ``parameters`` also the gradients there, and theirs as ``.grad``."""
    features: dict[str, list[Tensor]] = {}
    names = {layer.name for layer in chosen}

    def see(layer: Layer, _: Tensor, output: Tensor) -> None:
        if not output.isfinite().all():
            raise Diverged(f"the output of {layer.name!r} is not finite")
        if layer.name in names:
            features.setdefault(layer.name, []).append(_rows(layer, output).clone())

    with Taps([*chosen, *others], on_forward=see) as taps:
        result = taps.forward(Call(model, batch, outputs))
        calls = list(taps.calls)
        watched = [call for call in calls if call.layer.name in names]
        backward: dict[str, list[Tensor]] = {}
        if parameters is not None:
            value = _loss_value(loss, result, batch.targets)
            edges = {id(call.edge): call.edge for call in watched}
            inputs: list[Any] = [*edges.values(), *parameters]
            found = torch.autograd.grad(value, inputs, allow_unused=True)
            at_edge = dict(zip(edges, found, strict=False))
            for call in watched:
                gradient = at_edge[id(call.edge)]
                zeros = torch.zeros(call.shape, dtype=call.dtype, device=result.device)
                backward.setdefault(call.layer.name, []).append(
                    _rows(call.layer, zeros if gradient is None else gradient)
                )
            _set_gradients(parameters, found[len(edges) :])
    return _Seen(features, backward, calls[-1].layer.name if calls else "")


def _set_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    if all(gradient is None for gradient in gradients):
        raise ModelError("Got a loss that depends on no trained parameter. Check requires_grad, loss and outputs=.")
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _rows(layer: Layer, tensor: Tensor) -> Tensor:
    # Rows stand on an axis that does not depend on the number of samples.
    return tensor if layer.rows is None else layer.output(tensor, 0)


def _loss_value(loss: Loss, result: Tensor, targets: Any) -> Tensor:
    try:
        value = loss(result, targets)
    except (TypeError, AttributeError) as problem:
        if targets is None:
            raise DataError(
                f"Got a batch without targets, which the loss cannot do without ({problem}). Pass (inputs, targets)."
            ) from problem
        raise
    if isinstance(value, Tensor) and not value.isfinite().all():
        raise Diverged("the loss is not finite")
    return checked_loss(value)


def _coordinates(name: str, first: _Seen, before: _Seen | None, now: _Seen) -> Coordinates:
    features = now.features[name]
    count = sum(feature.numel() for feature in features)
    total = _differences(now, first, name)
    cos_theta = NAN
    if before is not None:
        last, pull = _differences(now, before, name), before.backward.get(name, [])
        norms = math.sqrt(_square(last) * _square(pull))
        if norms > 0:
            cos_theta = -sum(inner(b, d) for b, d in zip(pull, last, strict=True)) / norms
    return Coordinates(
        feature_rms=math.sqrt(_square(features) / count) if count else NAN,
        feature_change_rms=math.sqrt(_square(total) / count) if count else NAN,
        cos_theta=cos_theta,
    )


def _differences(now: _Seen, then: _Seen, name: str) -> list[Tensor]:
    """Change of every call's output; nan where routing sent other rows through the layer, so nothing is comparable."""
    after, before = now.features[name], then.features.get(name, [])
    if [tensor.shape for tensor in after] != [tensor.shape for tensor in before]:
        return [torch.full_like(tensor, NAN) for tensor in after]
    return [new - old for new, old in zip(after, before, strict=True)]


def _square(tensors: Sequence[Tensor]) -> float:
    return sum(inner(tensor, tensor) for tensor in tensors)
