"""Layers in the order in which they run, and whether a change of scale passes from one to the next unchanged.

Between two layers everything must be positively homogeneous, ``h(c x) = c h(x)`` for ``c > 0``: ReLU, pooling, nothing.
Then ``(c W_l, c b_l)`` and ``W_{l+1} / c`` are the same function for every ``c``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..agop.batches import Batch, Outputs
from ..agop.finding import find_layers
from ..agop.first_order import Call
from ..agop.layers import Layer, rules_of
from ..agop.taps import guest
from ..exceptions import ModelError, UnmeasurableError

__all__ = [
    "Place",
    "checked_chain",
    "distance",
    "frobenius",
    "in_order",
    "inputs_of",
    "no_matrix",
    "passes",
    "places",
    "scale_passes",
    "stops",
    "tolerance",
    "where_it_stops",
]

Place = tuple[str, nn.Module]

# Their parents in torch: what is derived from them behaves the same.
_PASSES: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Flatten, nn.Unflatten),
    *(nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd),
    *(nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd),
    nn.modules.dropout._DropoutNd,
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
    *(nn.modules.padding._ReflectionPadNd, nn.modules.padding._ReplicationPadNd, nn.modules.padding._CircularPadNd),
    *(nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Fold, nn.Unfold),
    *(nn.Sequential, nn.ModuleList, nn.ModuleDict),
)

_NORMALISATION: tuple[type[nn.Module], ...] = (
    *(nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
    *(nn.LocalResponseNorm, nn.CrossMapLRN2d),
)
_BENT: tuple[type[nn.Module], ...] = (
    *(nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.CELU, nn.SELU, nn.Softplus, nn.LogSigmoid),
    *(nn.Softsign, nn.Tanhshrink, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softshrink, nn.Hardshrink),
    *(nn.Threshold, nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Softmin, nn.GLU),
)
_OTHER: tuple[type[nn.Module], ...] = (
    *(nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, nn.Bilinear),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
)


def stops(module: nn.Module) -> str | None:
    """Why a change of scale does not pass this module; "" when that is unknown, None when it passes."""
    if isinstance(module, _NORMALISATION):
        return "a normalisation layer"
    if isinstance(module, _BENT):
        return "not positively homogeneous"
    if isinstance(module, _OTHER):
        return "neither linear nor positively homogeneous"
    if isinstance(module, _PASSES) or rules_of(module) is not None:
        return None
    if next(module.children(), None) is not None and next(module.parameters(recurse=False), None) is None:
        return None  # a container: what its forward does shows in the outputs only
    return ""


def places(model: nn.Module, batch: Batch | None = None, outputs: Outputs = "logits") -> list[Place]:
    """Layers, leaves and owners of parameters: in order of execution on a batch, else of registration.

    Parameters
    ----------
    model : torch.nn.Module
        Runs once on the batch, as a guest.
    batch : Batch, optional
        From ``parse_batch``. A module that runs several times appears several times, one that does not run is absent.
    outputs : "logits" or callable
        As in :func:`~featlearn.agop.feature_speed.feature_speed`.

    Returns
    -------
    list of (str, Module)
    """
    found: list[Place] = []
    inside: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if any(name.startswith(f"{outer}.") or not outer for outer in inside):
            continue
        layer, leaf = rules_of(module) is not None, next(module.children(), None) is None
        if layer:
            inside.append(name)
        if layer or leaf or (batch is None and next(module.parameters(recurse=False), None) is not None):
            found.append((name, module))
    if batch is None:
        return found
    ran: list[Place] = []
    with guest(model), torch.no_grad(), ExitStack() as stack:
        for name, module in {id(module): (name, module) for name, module in reversed(found)}.values():
            handle = module.register_forward_hook(lambda *_, place=(name, module): ran.append(place))
            stack.callback(handle.remove)
        Call(model, batch, outputs)()
    return ran


def in_order(layers: Iterable[Layer], path: Sequence[Place]) -> list[Layer]:
    """Layers by the place at which they first stand; parts of one module as they were; absent ones left out."""
    first: dict[int, int] = {}
    for position, (_, module) in enumerate(path):
        first.setdefault(id(module), position)
    return sorted((x for x in layers if id(x.module) in first), key=lambda layer: first[id(layer.module)])


def tolerance(dtype: torch.dtype) -> float:
    """Relative difference of outputs that counts as round-off."""
    return {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 5e-2)


def distance(after: Tensor, before: Tensor) -> float:
    """``||after - before|| / ||before||``; the plain distance when ``before`` is zero."""
    wide = torch.promote_types(before.dtype, torch.float32)
    norm = torch.linalg.vector_norm(before, dtype=wide)
    change = torch.linalg.vector_norm(after.to(wide) - before.to(wide))
    return float(change / norm) if norm > 0 else float(change)


def scale_passes(
    model: nn.Module, first: Layer, second: Layer, batch: Batch, outputs: Outputs = "logits"
) -> tuple[float, float]:
    """Double the output of one layer and halve the input of the next.

    Returns
    -------
    (float, float)
        Relative error with which the input of the second doubles, and relative change of the model's outputs: both
        zero (two is a power of two) when all that leaves the first arrives at the second, positively homogeneous.

    Notes
    -----
    Two forward passes; the model is a guest.
    """
    doubling = False
    seen: list[Tensor] = []

    def double(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        return 2 * output if doubling else None

    def halve(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        seen.append(args[0].clone())  # the layer after it may work in place
        return (args[0] / 2, *args[1:]) if doubling else None

    with guest(model), torch.no_grad(), ExitStack() as stack:
        stack.callback(first.module.register_forward_hook(double, prepend=True).remove)
        stack.callback(second.module.register_forward_pre_hook(halve).remove)
        run = Call(model, batch, outputs)
        before = run().clone()
        doubling = True
        after = run()
    if len(seen) != 2:
        return float("inf"), float("inf")
    return distance(seen[1], 2 * seen[0]), distance(after, before)


# --- chains of layers -------------------------------------------------------------------------------------------------


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


def passes(model: nn.Module, first: Layer, second: Layer, batch: Batch, outputs: Outputs) -> bool:
    """Whether a scale passes from one layer to the next on this batch, to round-off."""
    if first.part or second.part or first.module is second.module:
        return False
    arrives, change = scale_passes(model, first, second, batch, outputs)
    return max(arrives, change) <= tolerance(first.parameter().dtype)


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
