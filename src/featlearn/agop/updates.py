"""The change of the parameters that one step makes: of a gradient, an optimiser, or whatever the user gives."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..exceptions import DataError, ModelError
from .parameter_order import dense

__all__ = ["Update", "check_update", "parameter_update", "update_name"]

Update = (
    str
    | torch.optim.Optimizer
    | Mapping[str, Tensor]
    | Callable[[dict[str, Tensor], dict[str, Tensor]], Mapping[str, Tensor]]
)


def check_update(update: Update) -> None:
    """Refuse what is no update, before any work.

    Raises
    ------
    DataError
        Unknown word or type; an optimiser whose step evaluates the loss itself.
    """
    if isinstance(update, torch.optim.Optimizer):
        closure = inspect.signature(update.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise DataError(
                f"Got {type(update).__name__}, whose step evaluates the loss several times, but expected an optimiser "
                "that steps from the gradient alone. Pass the change itself as a mapping from names to tensors."
            )
    elif isinstance(update, str) and update != "gradient":
        raise DataError(f"Got update={update!r}, but expected 'gradient', an optimiser, a mapping or a callable.")
    elif not (isinstance(update, (str, Mapping)) or callable(update)):
        raise DataError(
            f"Got update of type {type(update).__name__}, but expected 'gradient', an optimiser, a mapping or a "
            "callable (parameters, gradients) -> mapping."
        )


def update_name(update: Update) -> str:
    """How a report names the update."""
    if isinstance(update, str):
        return update
    if isinstance(update, Mapping):
        return "given changes"
    return (
        type(update).__name__ if isinstance(update, torch.optim.Optimizer) else getattr(update, "__name__", "callable")
    )


def parameter_update(
    update: Update, model: nn.Module, parameters: Mapping[str, nn.Parameter], gradients: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    r"""Change :math:`\delta w` of every parameter that moves.

    Parameters
    ----------
    update : "gradient", Optimizer, mapping or callable
        ``"gradient"`` is :math:`\delta w = -g`, the step of gradient descent at rate 1. An optimiser makes its real
        step on the real parameters, which is then taken back bitwise: parameters, ``.grad`` and everything that the
        optimiser holds. A mapping gives the change by parameter name. A callable gets the parameters and gradients by
        name and returns such a mapping.
    model : torch.nn.Module
        Whose names a mapping uses; the second name of a tied parameter is understood.
    parameters : mapping of str to Parameter
        Those that have a gradient wanted.
    gradients : mapping of str to Tensor
        Of those that the loss depends on.

    Returns
    -------
    dict of str to Tensor
        By the first name of each parameter, in its dtype and on its device.

    Raises
    ------
    DataError
        Unknown name, other shape, or a change that is not finite.
    ModelError
        An optimiser that holds none of the model's trained parameters.
    """
    if isinstance(update, torch.optim.Optimizer):
        change: Mapping[str, Tensor] = _rehearse(update, parameters, gradients)
    elif isinstance(update, str):
        change = {name: -dense(gradient) for name, gradient in gradients.items()}
    elif isinstance(update, Mapping):
        change = update
    else:
        copies = {name: gradient.clone() for name, gradient in gradients.items()}
        change = update({name: parameter.detach().clone() for name, parameter in parameters.items()}, copies)
        if not isinstance(change, Mapping):
            raise DataError(
                f"Got an update that returns {type(change).__name__}, but expected a mapping from parameter names to "
                "tensors."
            )
    return _checked(change, model)


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter to its first one: tied parameters have several."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name: first[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}


def _checked(change: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    names, owned = canonical_names(model), dict(model.named_parameters())
    checked: dict[str, Tensor] = {}
    for name, delta in change.items():
        if name not in names:
            raise DataError(f"Got a change of {name!r}, but the model has no such parameter.")
        parameter = owned[names[name]]
        if not isinstance(delta, Tensor) or delta.shape != parameter.shape:
            got = f"shape {tuple(delta.shape)}" if isinstance(delta, Tensor) else type(delta).__name__
            raise DataError(
                f"Got a change of {name!r} of {got}, but expected a tensor of shape {tuple(parameter.shape)}."
            )
        if not delta.isfinite().all():
            raise DataError(f"Got a change of {name!r} that is not finite. Check the loss and the learning rate.")
        checked[names[name]] = delta.detach().to(parameter)
    return checked


def _rehearse(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], gradients: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What ``optimizer.step()`` does to the parameters; afterwards it has not happened."""
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    inside = {id(parameter) for parameter in held}
    moved = {name: p for name, p in parameters.items() if id(p) in inside and name in gradients}
    if not moved:
        raise ModelError(
            f"Got {type(optimizer).__name__}, which holds none of the model's parameters that have a gradient. "
            "Build it from the parameters of this model."
        )
    with ExitStack() as stack:
        for parameter in held:
            # The values come back bitwise, so a graph that the caller still holds stays valid.
            stack.enter_context(torch.autograd._unsafe_preserve_version_counter(parameter))  # type: ignore[attr-defined]
        undo: list[Callable[[], Any]] = []
        _remember(optimizer, undo, set())
        for put_back in undo:
            stack.callback(put_back)
        for parameter in held:
            stack.callback(setattr, parameter, "grad", parameter.grad)
            parameter.grad = None
        before = {name: parameter.detach().clone() for name, parameter in moved.items()}
        for name, parameter in moved.items():
            parameter.grad = gradients[name].clone()
        optimizer.step()
        return {name: parameter.detach() - before[name] for name, parameter in moved.items()}


def _remember(value: Any, undo: list[Callable[[], Any]], seen: set[int]) -> None:
    """Add to ``undo`` what puts ``value`` back in place as it is now: tensors, containers, optimisers inside others."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        undo.append(partial(_put_back, value, value.data, value.detach().clone()))
    elif isinstance(value, dict):
        undo.append(partial(_refill, value, dict(value)))
        for item in value.values():
            _remember(item, undo, seen)
    elif isinstance(value, (list, deque)):
        undo.append(partial(_refill, value, list(value)))
        for item in value:
            _remember(item, undo, seen)
    elif isinstance(value, tuple):
        for item in value:
            _remember(item, undo, seen)
    elif isinstance(value, torch.optim.Optimizer):
        _remember(vars(value), undo, seen)


def _put_back(tensor: Tensor, storage: Tensor, copy: Tensor) -> None:
    storage.copy_(copy)
    if tensor.data_ptr() != storage.data_ptr():  # an optimiser that assigns to .data
        tensor.data = storage


def _refill(container: Any, items: dict[Any, Any] | list[Any]) -> None:
    container.clear()
    container.update(items) if isinstance(items, dict) else container.extend(items)
