"""The reference weights ``W_0`` of each layer: from a module, a state_dict, or a mapping of weights by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..agop.accumulate import accumulation_dtype
from ..agop.finding import find_layers, unwrap
from ..agop.layers import LORA, Layer, lora_reference
from ..agop.reference_model import closest_names, named_weights
from ..exceptions import ModelError

__all__ = ["covers_model", "describe_reference", "reference_weights"]


def reference_weights(reference: Any, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """``W_0`` (groups, k, d) of every layer, in float32 at least.

    Half precision would destroy ``W - W_0`` of a lazy layer. Without a reference, the layers with a LoRA adapter have
    one all the same: their weight before it.

    Parameters
    ----------
    reference : Module, mapping or None
        The same architecture with other weights; its ``state_dict()``; or weights by layer or parameter name.
    layers : sequence of Layer

    Raises
    ------
    ModelError
        For a missing key or another shape, with the closest names.
    """
    if reference is None:
        return {layer.name: _wide(lora_reference(layer)).unsqueeze(0) for layer in layers if layer.rule is LORA}
    if isinstance(reference, nn.Module):
        others, _ = find_layers(unwrap(reference))
        return {layer.name: _of_module(layer, others) for layer in layers}
    state = named_weights(reference)
    return {layer.name: _of_state(layer, state) for layer in layers}


def _of_module(layer: Layer, others: Mapping[str, Layer]) -> Tensor:
    name = f"{layer.module_name}.{layer.part}" if layer.part and layer.module_name else layer.part or layer.module_name
    if name not in others:
        raise ModelError(
            f"Got a reference without the layer {name!r}, but expected the measured model's architecture. "
            f"The closest are {closest_names(name, others)}."
        )
    other = others[name]
    weight = layer.matrix(other.parameter().detach())
    _check_shape(layer, weight, layer.weight())
    return _wide(weight).clone()


def _of_state(layer: Layer, state: Mapping[str, Any]) -> Tensor:
    if isinstance(named := state.get(layer.name), Tensor):
        weight = named.reshape(layer.weight().shape) if named.numel() == layer.weight().numel() else named
        _check_shape(layer, weight, layer.weight())
        return _wide(weight).clone()
    prefix = f"{layer.module_name}." if layer.module_name else ""
    own = {key: value for key, value in layer.module.state_dict().items() if isinstance(value, Tensor)}
    parameter = layer.parameter()
    holder = next((key for key, value in layer.module.named_parameters() if value is parameter), None)
    needed = [holder] if holder is not None else [key for key in own if not key.endswith("bias")]
    for key in needed:
        if prefix + key not in state:
            raise ModelError(
                f"Got a reference without {prefix + key!r}, but expected every measured weight. "
                f"The closest keys are {closest_names(prefix + key, state)}."
            )
        _check_shape(layer, state[prefix + key], own[key])
    if holder is not None:
        return _wide(layer.matrix(state[prefix + holder].detach())).clone()
    module = copy.deepcopy(layer.module).to(accumulation_dtype(parameter.dtype))  # parametrised: W is made, not held
    module.load_state_dict({key: state[prefix + key] for key in own if prefix + key in state}, strict=False)
    return _wide(layer.matrix(layer.rule.parameter(module).detach())).clone()


def _check_shape(layer: Layer, got: Any, expected: Tensor) -> None:
    shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
    if shape != tuple(expected.shape):
        raise ModelError(
            f"Got reference weights of shape {shape} for layer {layer.name!r}, but expected {tuple(expected.shape)}."
        )
    if not bool(got.isfinite().all()):
        raise ModelError(f"Got reference weights that are not finite for layer {layer.name!r}.")


def _wide(weight: Tensor) -> Tensor:
    return weight.to(accumulation_dtype(weight.dtype))


def covers_model(reference: Any, model: nn.Module) -> bool:
    """Whether the reference can stand for the whole model, so that it can be run."""
    if isinstance(reference, nn.Module):
        return True
    if not isinstance(reference, Mapping):
        return False
    needed = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
    return needed <= set(named_weights(reference))


def describe_reference(reference: Any) -> str | None:
    """A few words for the report."""
    if reference is None:
        return None
    if isinstance(reference, nn.Module):
        return f"the weights of another {type(unwrap(reference)).__name__}"
    tensors = [value for value in reference.values() if isinstance(value, torch.Tensor)]
    return f"a checkpoint of {len(tensors)} tensors"
