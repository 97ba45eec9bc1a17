"""Chains of layers through which a change of scale can pass, and where it stops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..agop.batches import Batch, Outputs
from ..agop.execution import Place, in_order, passes, stops
from ..agop.finding import find_layers
from ..agop.layers import Layer
from ..exceptions import ModelError, UnmeasurableError

__all__ = ["checked_chain", "frobenius", "inputs_of", "no_matrix", "where_it_stops"]


def frobenius(tensor: Tensor) -> float:
    """Root of the sum of squares, in float32 at least."""
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=wide))


def inputs_of(layer: Layer) -> int:
    """Numbers, or channels, that one position of the input has."""
    shape = layer.rule.patch_shape(layer.module)
    return layer.weight().shape[-1] if shape is None else shape[0]


def checked_chain(model: nn.Module, chosen: Sequence[Layer], path: Sequence[Place], *, ran: bool) -> list[Layer]:
    """All layers from the first chosen to the last, refused unless a scale can pass from each to the next."""
    position = {id(module): i for i, (_, module) in enumerate(path)}
    span = path[min(position[id(x.module)] for x in chosen) : max(position[id(x.module)] for x in chosen) + 1]
    between = in_order(find_layers(model)[0].values(), span)
    names = {layer.name for layer in between}
    for layer in chosen:
        if layer.name not in names:
            raise UnmeasurableError(f"Got rows of layer {layer.module_name!r}, but expected whole layers.")
    parameters = {id(p) for p in model.parameters()}
    biases: set[int] = set()
    for layer in between:
        runs = sum(module is layer.module for _, module in path)
        _refuse(layer, _layer_obstacle(layer, parameters, biases, runs))
        biases |= {id(layer.rule.bias(layer.module))} - {id(None)}
    # Without a batch nothing tells where a module runs: one that stops the scale counts wherever it is registered.
    for name, module in span if ran else path:
        why = stops(module)
        if why == "" and not ran:
            raise ModelError(
                f"Got {name!r}, a {type(module).__name__}, of which it is not known whether it is positively "
                "homogeneous. Pass batch= to compare the outputs before and after."
            )
        if why:
            hint = "" if ran else " Pass batch= if it does not run between these layers."
            raise ModelError(
                f"Got {name!r}, {why} ({type(module).__name__}), but expected only linear layers, ReLU, leaky ReLU and "
                f"pooling from {chosen[0].name!r} to {chosen[-1].name!r}. Choose other layers=.{hint}"
            )
    return between


def _layer_obstacle(layer: Layer, parameters: set[int], biases: set[int], runs: int) -> str | None:
    weight, bias = layer.parameter(), layer.rule.bias(layer.module)
    if layer.part:
        return "is a part of attention, which is neither linear nor positively homogeneous"
    if layer.shared_with:
        return f"shares its weight with {layer.shared_with[0]!r}"
    if runs > 1:
        return f"runs {runs} times, so its weight is shared"
    if id(weight) not in parameters:
        return "has a weight that is computed from other parameters"
    if bias is not None and (id(bias) not in parameters or id(bias) in biases):
        return "has a bias that is shared or computed from other parameters"
    norm = frobenius(weight)
    if not math.isfinite(norm) or norm == 0:
        return f"has a weight of norm {norm:g}, where a positive finite one is needed"
    if bias is not None and not bool(bias.isfinite().all()):
        return "has a bias that is not finite"
    return None


def _refuse(layer: Layer, why: str | None) -> None:
    if why is not None:
        raise ModelError(
            f"Got layer {layer.name!r}, which {why}; it cannot be rescaled. Choose layers before or after it."
        )


def where_it_stops(model: nn.Module, between: Sequence[Layer], batch: Batch, outputs: Outputs, change: float) -> str:
    """Between which two layers a scale does not pass."""
    for first, second in pairwise(between):
        if not passes(model, first, second, batch, outputs):
            return (
                f"Got a network that is not positively homogeneous from {first.name!r} to {second.name!r} (a smooth "
                f"activation, a normalisation or a residual sum): rescaling changes the outputs by {change:.1e}, "
                "relative. Choose other layers=; nothing was changed."
            )
    return (
        f"Got outputs that change by {change:.1e}, relative, when the layers are rescaled, but expected round-off. "
        "Use a smaller tilt or float64; nothing was changed."
    )


def no_matrix(
    model: nn.Module, first: Layer, second: Layer, path: Sequence[Place], conserved: bool | None
) -> str | None:
    """Why ``W_2^T W_2 - W_1 W_1^T`` is not defined or not known to mean anything."""
    if first.part or second.part:
        return "parts of attention do not form a chain"
    if first.rows is not None or second.rows is not None:
        return "some rows of a layer do not form a chain"
    if conserved is False:
        return "no chain: a scale does not pass from one to the other"
    (groups, k, _), (more_groups, _, _) = first.weight().shape, second.weight().shape
    if max(groups, more_groups) > 1:
        return "grouped convolution"
    inputs = inputs_of(second)
    if inputs != k:
        return f"the first has {k} outputs, the second reads {inputs}"
    if (first.rule.patch_shape(first.module) is None) != (second.rule.patch_shape(second.module) is None):
        return "one is a convolution, the other is not"
    if conserved is None and not _in_one_sequential(model, first, second, path):
        return "not known to be a chain: pass batch="
    return None


def _in_one_sequential(model: nn.Module, first: Layer, second: Layer, path: Sequence[Place]) -> bool:
    parents = {layer.module_name.rpartition(".")[0] for layer in (first, second)}
    if len(parents) != 1 or type(model.get_submodule(parents.pop())) is not nn.Sequential:
        return False
    modules = [module for _, module in path]
    start, stop = (next(i for i, m in enumerate(modules) if m is layer.module) for layer in (first, second))
    return all(stops(module) is None for module in modules[start + 1 : stop])
