"""The untrained network: the same architecture at random weights, without which decodability proves no learning."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .._parameters import check_count
from .._random import seeded_rng
from ..agop.finding import unwrap
from ..agop.reference_model import reference_model
from ..exceptions import ModelError

__all__ = ["untrained_copy"]


def untrained_copy(model: nn.Module, random_state: int = 0) -> nn.Module:
    """A copy of a model whose layers have drawn their weights anew, as torch's layers do when they are made.

    Parameters
    ----------
    model : torch.nn.Module
        Not changed.
    random_state : int, default 0
        What the weights are drawn from; the global generators stay as they are.

    Returns
    -------
    torch.nn.Module
        Modes, ``requires_grad``, dtype and device as in the model.

    Raises
    ------
    DataError
        A ``random_state`` that is no whole number from 0.
    ModelError
        A parameter whose module has no ``reset_parameters``, by name.

    Notes
    -----
    Calls ``reset_parameters`` of every module, children before their parents, which also resets running statistics.
    An initialisation that the model's own code made on top of that is not repeated: where it matters, build the model
    again and use that.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(2, 3)
    >>> fresh = untrained_copy(model)
    >>> torch.equal(fresh.weight, model.weight), torch.equal(fresh.weight, untrained_copy(model).weight)
    (False, True)
    """
    check_count("random_state", random_state, 0)
    model = unwrap(model)
    reset_by_some = {
        id(parameter)
        for module in model.modules()
        if _reset_of(module) is not None
        for parameter in module.parameters(recurse=False)
    }
    for name, parameter in model.named_parameters():
        if id(parameter) not in reset_by_some:
            owner = model.get_submodule(name.rpartition(".")[0])
            raise ModelError(
                f"Got the parameter {name!r} of a {type(owner).__name__}, which has no reset_parameters() to draw it "
                "anew. Add that method, or pass a network that was built but not trained as untrained=."
            )
    fresh = reference_model(model, {})
    with seeded_rng(random_state, "untrained_copy"), torch.no_grad():
        # Children first, as when a module is made: a parent may set its children's weights.
        for module in reversed(list(fresh.modules())):
            reset = _reset_of(module)
            if reset is not None:
                reset()
    return fresh


def _reset_of(module: nn.Module) -> Callable[[], object] | None:
    """What draws a module's own parameters; attention and transformers of torch hide theirs behind an underscore."""
    return getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
