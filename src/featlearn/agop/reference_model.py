"""The measured model at its reference weights: a copy, so that nobody's model is touched."""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..exceptions import FeatlearnWarning, ModelError
from .finding import unwrap
from .layers import Layer

__all__ = ["closest_names", "named_weights", "reference_model", "reference_state", "twin_layers"]

PREFIXES = ("module.", "_orig_mod.")  # what data-parallel and compiled wrappers put before every key


def reference_state(model: nn.Module, reference: Any) -> dict[str, Any]:
    """Parameters and buffers of the reference under the model's keys, in the reference's own precision.

    Parameters
    ----------
    model : torch.nn.Module
        Already unwrapped.
    reference : Module or mapping of str to Tensor
        The same architecture with other weights; its ``state_dict()``; or all its parameters by name. A parameter that
        the model holds under several names may be given under any of them; keys that the model does not have are
        ignored.

    Raises
    ------
    ModelError
        A missing parameter, another shape, or values that are not finite.

    Warns
    -----
    FeatlearnWarning
        Buffers (running statistics) that the reference lacks; those of the model stay.
    """
    state = named_weights(reference)
    own = model.state_dict()
    values = {key: state[key] for key in own if key in state}
    _fill_tied(model, values)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for key, tensor in own.items():
        if key in values:
            _check(key, values[key], tensor)
        elif key in parameters:
            raise ModelError(
                f"Got a reference without {key!r}, but running the model at the reference needs every parameter. "
                f"The closest keys are {closest_names(key, state)}."
            )
    buffers = [key for key in own if key not in values and not key.endswith("num_batches_tracked")]
    if buffers:
        shown = ", ".join(buffers[:3]) + (", ..." if len(buffers) > 3 else "")
        warnings.warn(
            f"Got a reference without the buffers {shown}, so those of the model are used. Pass a state_dict().",
            FeatlearnWarning,
            stacklevel=3,
        )
    return values


def reference_model(model: nn.Module, state: Mapping[str, Any]) -> nn.Module:
    """A copy of ``model`` that holds ``state``, from :func:`reference_state`, in the model's dtype and on its device.

    Raises
    ------
    ModelError
        The model cannot be copied.

    Notes
    -----
    Holds the weights a second time.
    """
    try:
        other = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise ModelError(
            f"Got a {type(model).__name__} that cannot be copied ({error}). Clear the tensors that its last forward "
            "left in attributes."
        ) from error
    with torch.no_grad():
        other.load_state_dict(state, strict=False)
    return other


def twin_layers(layers: Sequence[Layer], other: nn.Module) -> list[Layer]:
    """The same layers of a copy of their model."""
    return [replace(layer, module=other.get_submodule(layer.module_name)) for layer in layers]


def closest_names(name: str, available: Mapping[str, Any]) -> str:
    """The three names that resemble one most, for an error message."""
    return ", ".join(map(repr, difflib.get_close_matches(name, available, n=3, cutoff=0.0))) or "none: it is empty"


def named_weights(reference: Any) -> dict[str, Any]:
    """Tensors of a module, a state_dict or a mapping by name, without the prefixes that wrappers put before every key.

    Raises
    ------
    ModelError
        For anything else.
    """
    if isinstance(reference, nn.Module):
        return dict(unwrap(reference).state_dict())
    if not isinstance(reference, Mapping):
        raise ModelError(
            f"Got reference={type(reference).__name__}, but expected a module, its state_dict or weights by name."
        )
    state = dict(reference)
    for prefix in PREFIXES:
        if state and all(str(key).startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _fill_tied(model: nn.Module, values: dict[str, Any]) -> None:
    """A parameter with several names may be given under any of them."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for tied in names.values():
        given = next((values[name] for name in tied if name in values), None)
        if given is not None:
            for name in tied:
                values.setdefault(name, given)


def _check(key: str, got: Any, expected: Any) -> None:
    if not isinstance(expected, Tensor):
        return
    shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
    if shape != tuple(expected.shape):
        raise ModelError(f"Got {key!r} of shape {shape} in the reference, but expected {tuple(expected.shape)}.")
    if not bool(got.isfinite().all()):
        raise ModelError(f"Got {key!r} in the reference with NaN or infinity, but expected finite weights.")
