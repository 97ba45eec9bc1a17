r"""Change of every layer's output that a change of the parameters causes: to first order, and in full.

To first order it is one forward-mode pass: dual parameters :math:`w + \varepsilon\, \delta w` go through the model,
and the tangent at a layer is :math:`\delta f_l`. Where an operation has no forward rule, central differences stand in.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._random import preserved_rng
from .attention import recompute_attention
from .batches import Batch, Outputs, raw_outputs
from .layers import Layer
from .parameter_order import norm

__all__ = ["Call", "central_differences", "difference_step", "finite_change", "forward_mode", "moved"]

# (layer, number of its call, tensor at its output); the tensor is valid only during the call.
See = Callable[[Layer, int, Tensor], None]

# Relative size of the step of central differences: large against round-off, small against curvature.
_RELATIVE_STEP = {torch.float64: 1e-5, torch.float32: 1e-3}
_HALF_PRECISION_STEP = 5e-2


class Call(nn.Module):
    """The model on one batch as a module without inputs, which is what ``functional_call`` calls."""

    def __init__(self, model: nn.Module, batch: Batch, outputs: Outputs) -> None:
        super().__init__()
        self.model = model
        self.batch = batch
        self.outputs = outputs

    def forward(self) -> Tensor:
        """The model's outputs, from the same state of the random generators at every call."""
        with preserved_rng():
            return raw_outputs(self.model, self.batch, self.outputs)


def forward_mode(
    model: nn.Module,
    batch: Batch,
    outputs: Outputs,
    change: Mapping[str, Tensor],
    layers: Sequence[Layer],
    see: See,
) -> Tensor:
    r"""Tangents of all layers in one pass, and the outputs' tangent as the result.

    Parameters
    ----------
    model, batch, outputs
        What is run.
    change : mapping of str to Tensor
        :math:`\delta w` by parameter name.
    layers : sequence of Layer
        Where to look.
    see : callable
        ``(layer, call, tangent)`` at each call of each layer.

    Returns
    -------
    Tensor
        Tangent of the outputs, in their shape.

    Raises
    ------
    NotImplementedError
        From torch: an operation without a forward rule.

    Notes
    -----
    Costs about two forward passes, and keeps no activations.
    """
    _load_forward_rules()
    parameters = dict(model.named_parameters())

    def tangent(tensor: Tensor) -> Tensor:
        found = forward_ad.unpack_dual(tensor).tangent
        return torch.zeros_like(tensor) if found is None else found

    # Fused attention has no forward rule; the same attention written out has one.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        duals = {f"model.{name}": forward_ad.make_dual(parameters[name].detach(), d) for name, d in change.items()}
        with _watching(layers, lambda layer, call, output: see(layer, call, tangent(output))):
            result = functional_call(Call(model, batch, outputs), duals, ())
        return tangent(result).clone()


def _load_forward_rules() -> None:
    """Torch compiles some forward rules at the first dual tensor, and warns of its own use of TorchScript."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=DeprecationWarning)
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(()), torch.zeros(()))


def central_differences(
    model: nn.Module,
    batch: Batch,
    outputs: Outputs,
    change: Mapping[str, Tensor],
    layers: Sequence[Layer],
    see: See,
) -> tuple[Tensor, float]:
    r"""As :func:`forward_mode`, by :math:`(f(w + h\,\delta w) - f(w - h\,\delta w)) / 2h`, and the step h.

    Notes
    -----
    ``h ||dw|| / ||w||`` is 1e-5 in float64, 1e-3 in float32 and 5e-2 in half precision. Costs two forward passes and
    one copy of the layers' outputs.
    """
    parameters = dict(model.named_parameters())
    step = difference_step(parameters, change)
    run = Call(model, batch, outputs)
    ahead: dict[tuple[str, int], Tensor] = {}

    def keep(layer: Layer, call: int, output: Tensor) -> None:
        ahead[layer.name, call] = output.clone()

    def compare(layer: Layer, call: int, output: Tensor) -> None:
        see(layer, call, _difference(ahead.pop((layer.name, call), None), output) / (2 * step))

    with torch.no_grad():
        with moved(parameters, change, step), _watching(layers, keep):
            plus = run()
        with moved(parameters, change, -step), _watching(layers, compare):
            return (plus - run()) / (2 * step), step


def difference_step(parameters: Mapping[str, nn.Parameter], change: Mapping[str, Tensor]) -> float:
    """Step h of central differences along a change: ``h ||dw|| / ||w||`` by the coarsest precision among them."""
    coarsest = max((parameters[name].dtype for name in change), key=lambda dtype: torch.finfo(dtype).eps)
    length, size = norm(change.values()), norm(parameters[name] for name in change)
    return _RELATIVE_STEP.get(coarsest, _HALF_PRECISION_STEP) * (size or 1.0) / (length or 1.0)


def finite_change(
    model: nn.Module,
    batch: Batch,
    outputs: Outputs,
    change: Mapping[str, Tensor],
    layers: Sequence[Layer],
    see: See,
) -> None:
    r"""Full change :math:`f_l(w + \delta w) - f_l(w)` of all layers: two forward passes, one copy of the outputs."""
    after: dict[tuple[str, int], Tensor] = {}

    def run() -> None:
        # Not checked for finite outputs: a full step may well overflow, and the ratio will say so.
        with preserved_rng():
            outputs(model, batch.raw) if callable(outputs) else batch.call(model)

    def keep(layer: Layer, call: int, output: Tensor) -> None:
        after[layer.name, call] = output.clone()

    def compare(layer: Layer, call: int, output: Tensor) -> None:
        see(layer, call, _difference(after.pop((layer.name, call), None), output))

    with torch.no_grad():
        with moved(dict(model.named_parameters()), change, 1.0), _watching(layers, keep):
            run()
        with _watching(layers, compare):
            run()


def _difference(after: Tensor | None, before: Tensor) -> Tensor:
    """``after - before``; nan where routing sent other rows through the layer, so that nothing can be compared."""
    if after is None or after.shape != before.shape:
        return torch.full((), math.nan, dtype=before.dtype, device=before.device)
    return after - before


@contextmanager
def moved(parameters: Mapping[str, nn.Parameter], change: Mapping[str, Tensor], step: float) -> Iterator[None]:
    """The model at ``w + step * dw`` inside; bitwise at ``w`` afterwards."""
    # Through .data, so that a graph that the caller still holds does not take this for a modification.
    kept = {name: parameters[name].detach().clone() for name in change}
    try:
        for name, delta in change.items():
            parameters[name].data.add_(delta, alpha=step)
        yield
    finally:
        for name, copy in kept.items():
            parameters[name].data.copy_(copy)


@contextmanager
def _watching(layers: Sequence[Layer], see: See) -> Iterator[None]:
    """Call ``see`` at every call of every layer, before an in-place activation can change its output."""
    by_module: dict[int, list[Layer]] = {}
    for layer in layers:
        by_module.setdefault(id(layer.module), []).append(layer)
    handles = [
        group[0].module.register_forward_hook(_hook(group, see), with_kwargs=True, prepend=True)
        for group in by_module.values()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(layers: list[Layer], see: See) -> Callable[..., Any]:
    calls = dict.fromkeys((layer.name for layer in layers), 0)

    def look(layer: Layer, output: Tensor) -> None:
        # Rows stand on an axis that does not depend on the number of samples.
        see(layer, calls[layer.name], output if layer.rows is None else layer.output(output, 0))
        calls[layer.name] += 1

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        for layer in layers:
            look(layer, output)

    def attention_hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        def tap(part: str, tensor: Tensor, output: Tensor) -> Tensor:
            for layer in layers:
                if layer.part == part:
                    look(layer, output)
            return output

        return recompute_attention(module, args, kwargs, output, tap, layers[0].module_name)

    return attention_hook if isinstance(layers[0].module, nn.MultiheadAttention) and layers[0].part else hook
