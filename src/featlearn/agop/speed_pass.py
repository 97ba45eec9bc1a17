"""The passes behind feature speed: one backward, one forward-like for the change of every layer, and the sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from ..exceptions import ModelError, UnmeasurableError
from .batches import Batch, Outputs
from .first_order import Call, central_differences, finite_change, forward_mode
from .layers import Layer
from .losses import Loss, checked_loss
from .parameter_order import attached_parameters, dense, first_uses, inner, own_decay
from .taps import Tapped, Taps
from .updates import Update, parameter_update

__all__ = ["LayerSums", "Method", "SpeedPass", "speed_pass"]

Method = Literal["auto", "forward", "central"]


@dataclass(eq=False)
class LayerSums:
    """Sums over all samples, positions and calls of one layer.

    Attributes
    ----------
    size : int
        Numbers in the layer's output.
    features, backward, change : float
        ``||f||^2``, ``||b||^2`` and ``||df||^2``.
    decay : float
        ``-<b, df>``.
    finite : float or None
        ``||f(w + dw) - f(w)||^2``.
    own, before : float
        ``-<g, dw>`` over the layer's own parameters, and over all that were used until its output was there.
    """

    layer: Layer
    size: int = 0
    calls: int = 0
    features: float = 0.0
    backward: float = 0.0
    change: float = 0.0
    decay: float = 0.0
    finite: float | None = None
    own: float = 0.0
    before: float = 0.0


@dataclass(frozen=True, eq=False)
class SpeedPass:
    """What one update does, layer by layer in the order of execution, and to the loss as a whole."""

    layers: Mapping[str, LayerSums]
    unseen: Mapping[str, str]
    loss: float
    total_decay: float
    output_decay: float
    method: str
    forward_mode: bool
    dtype: torch.dtype


def speed_pass(
    model: nn.Module,
    layers: Sequence[Layer],
    batch: Batch,
    loss: Loss,
    outputs: Outputs,
    *,
    owners: Sequence[Layer],
    wanted: set[str],
    update: Update = "gradient",
    method: Method = "auto",
    finite: bool = False,
) -> SpeedPass:
    """Run the passes, inside an open :func:`~featlearn.agop.taps.guest`.

    Parameters
    ----------
    model, batch, loss, outputs
        What is run; ``loss(outputs, targets)`` is the mean over the batch.
    layers : sequence of Layer
        What is measured.
    owners : sequence of Layer
        All modules that own weights; parameters of none of them are attached to the one that ran before.
    wanted : set of str
        Parameters whose gradient is taken.
    update, method, finite
        As in :func:`~featlearn.agop.feature_speed.feature_speed`.

    Raises
    ------
    DataError, ModelError, UnmeasurableError
        Each says what was got, what was expected and what to do.
    """
    parameters = {name: p for name, p in model.named_parameters() if name in wanted and p.is_floating_point()}
    pulled = _pull(model, layers, batch, loss, outputs, parameters)
    change = parameter_update(update, model, parameters, pulled.gradients)
    names = {id(p): name for name, p in model.named_parameters()}
    gradients = {name: dense(gradient) for name, gradient in pulled.gradients.items()}
    decays = {name: -inner(gradients[name], change[name]) for name in change if name in gradients}
    starts = {name: min(places) for name, places in pulled.places.items()}
    attached = attached_parameters(model, owners, starts, pulled.first_use)
    with _requiring(parameters):
        for name, sums in pulled.sums.items():
            sums.own = own_decay(sums.layer, names, gradients, change)
            sums.own += sum(decays.get(free, 0.0) for free, layer in attached.items() if layer == name)
            until = max(pulled.places[name])
            sums.before = sum(decays.get(used, 0.0) for used, place in pulled.first_use.items() if place <= until)
    tangent, how, exact = _first_order(model, batch, outputs, change, pulled, method)
    if finite:
        _finite(model, batch, outputs, change, pulled)
    return SpeedPass(
        layers=pulled.sums,
        unseen=pulled.unseen,
        loss=pulled.loss,
        total_decay=sum(decays.values()),
        output_decay=-inner(pulled.output, tangent),
        method=how,
        forward_mode=exact,
        dtype=tangent.dtype,
    )


@dataclass(eq=False)
class _Pulled:
    """Gradients of the loss: by call of each layer, at the outputs, by parameter; and what the graph says."""

    loss: float
    output: Tensor
    backward: dict[tuple[str, int], Tensor]
    gradients: dict[str, Tensor]
    sums: dict[str, LayerSums]
    unseen: dict[str, str]
    places: dict[str, list[int]]
    first_use: dict[str, int]

    def measured(self) -> list[Layer]:
        return [sums.layer for sums in self.sums.values()]


@contextmanager
def _requiring(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    before = [(parameter, parameter.requires_grad) for parameter in parameters.values()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)


def _pull(
    model: nn.Module,
    layers: Sequence[Layer],
    batch: Batch,
    loss: Loss,
    outputs: Outputs,
    parameters: Mapping[str, nn.Parameter],
) -> _Pulled:
    """One forward and one backward pass: every gradient at once."""
    sums: dict[str, LayerSums] = {}

    def see(layer: Layer, _: Tensor, output: Tensor) -> None:
        entry = sums.setdefault(layer.name, LayerSums(layer))
        rows = _rows(layer, output)
        entry.size += rows.numel()
        entry.calls += 1
        entry.features += inner(rows, rows)

    with _requiring(parameters), Taps(layers, on_forward=see) as taps:
        result = taps.forward(Call(model, batch, outputs))
        if not result.requires_grad:
            raise ModelError("Got outputs that depend on no trained parameter. Check requires_grad and outputs=.")
        calls, unseen = list(taps.calls), dict(taps.unseen)
        top = get_gradient_edge(result)
        value = checked_loss(loss(result, batch.targets))
        uses = first_uses(value, parameters)
        edges = {id(call.edge): call.edge for call in calls}
        found = _grad(value, [*edges.values(), top, *parameters.values()])
    at_edge = dict(zip(edges, found, strict=False))
    gradients = {
        name: gradient
        for name, gradient in zip(parameters, found[len(edges) + 1 :], strict=True)
        if gradient is not None
    }
    if not gradients:
        raise ModelError("Got a loss that depends on no trained parameter. Check requires_grad, loss and outputs=.")
    output = found[len(edges)]
    return _Pulled(
        loss=float(value.detach()),
        output=torch.zeros_like(result) if output is None else output,
        backward=_by_call(calls, at_edge, sums),
        gradients=gradients,
        sums={name: sums[name] for name in dict.fromkeys(call.layer.name for call in calls)},
        unseen=unseen,
        places=_places(calls),
        first_use=uses,
    )


def _rows(layer: Layer, tensor: Tensor) -> Tensor:
    return tensor if layer.rows is None else layer.output(tensor, 0)


def _places(calls: Sequence[Tapped]) -> dict[str, list[int]]:
    """Place of each call's output in the order of execution, by layer."""
    places: dict[str, list[int]] = {}
    for call in calls:
        places.setdefault(call.layer.name, []).append(call.edge.node._sequence_nr())
    return places


def _by_call(
    calls: Sequence[Tapped], at_edge: Mapping[int, Tensor | None], sums: Mapping[str, LayerSums]
) -> dict[tuple[str, int], Tensor]:
    backward: dict[tuple[str, int], Tensor] = {}
    numbers = dict.fromkeys(sums, 0)
    for call in calls:
        name = call.layer.name
        gradient = at_edge[id(call.edge)]
        if gradient is not None:
            backward[name, numbers[name]] = _rows(call.layer, gradient)
            sums[name].backward += inner(backward[name, numbers[name]], backward[name, numbers[name]])
        numbers[name] += 1
    return backward


def _grad(value: Tensor, inputs: Sequence[Any]) -> tuple[Tensor | None, ...]:
    try:
        return torch.autograd.grad(value, inputs, allow_unused=True)
    except RuntimeError as error:
        if "Checkpointing is not compatible" in str(error):
            raise UnmeasurableError(
                "Got reentrant checkpointing, which hides the layers inside it. Use use_reentrant=False."
            ) from error
        raise


def _first_order(
    model: nn.Module,
    batch: Batch,
    outputs: Outputs,
    change: Mapping[str, Tensor],
    pulled: _Pulled,
    method: Method,
) -> tuple[Tensor, str, bool]:
    """Fill in ``change`` and ``decay`` of every layer; the outputs' tangent, how it was found, and whether exactly."""

    def see(layer: Layer, call: int, tangent: Tensor) -> None:
        sums = pulled.sums[layer.name]
        sums.change += inner(tangent, tangent)
        if (layer.name, call) in pulled.backward:
            sums.decay -= inner(pulled.backward[layer.name, call], tangent)

    layers, why = pulled.measured(), "as asked"
    if method != "central":
        try:
            return forward_mode(model, batch, outputs, change, layers, see), "forward mode", True
        except NotImplementedError as error:
            if method == "forward":
                raise UnmeasurableError(
                    f"Got an operation without a forward rule ({_first_line(error)}). Use method='central'."
                ) from error
            why = _first_line(error)
            for sums in pulled.sums.values():
                sums.change = sums.decay = 0.0
    tangent, step = central_differences(model, batch, outputs, change, layers, see)
    return tangent, f"central differences of step {step:.1e}: {why}", False


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160]


def _finite(model: nn.Module, batch: Batch, outputs: Outputs, change: Mapping[str, Tensor], pulled: _Pulled) -> None:
    for sums in pulled.sums.values():
        sums.finite = 0.0

    def see(layer: Layer, call: int, difference: Tensor) -> None:
        sums = pulled.sums[layer.name]
        sums.finite = (sums.finite or 0.0) + inner(difference, difference)

    finite_change(model, batch, outputs, change, pulled.measured(), see)
