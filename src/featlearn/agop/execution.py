"""Modules in the order in which they run, and whether a change of scale passes from one layer to the next unchanged.

Between two layers everything must be positively homogeneous, ``h(c x) = c h(x)`` for ``c > 0``: ReLU, pooling, nothing.
Then ``(c W_l, c b_l)`` and ``W_{l+1} / c`` are the same function for every ``c``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .batches import Batch, Outputs
from .first_order import Call
from .layers import Layer, rules_of
from .taps import guest

__all__ = [
    "BENT",
    "NORMALISATION",
    "Place",
    "distance",
    "in_order",
    "passes",
    "places",
    "scale_passes",
    "stops",
    "tolerance",
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

NORMALISATION: tuple[type[nn.Module], ...] = (
    *(nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
    *(nn.LocalResponseNorm, nn.CrossMapLRN2d),
)
BENT: tuple[type[nn.Module], ...] = (
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
    if isinstance(module, NORMALISATION):
        return "a normalisation layer"
    if isinstance(module, BENT):
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


def passes(model: nn.Module, first: Layer, second: Layer, batch: Batch, outputs: Outputs) -> bool:
    """Whether a scale passes from one layer to the next on this batch, to round-off."""
    if first.part or second.part or first.module is second.module:
        return False
    arrives, change = scale_passes(model, first, second, batch, outputs)
    return max(arrives, change) <= tolerance(first.parameter().dtype)
