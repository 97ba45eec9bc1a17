"""Which parameters of a model have a speed of their own, under which names, and the groups made of them."""

from __future__ import annotations

import difflib
import fnmatch
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from ..agop.finding import without_wrappers
from ..agop.layers import rules_of
from ..exceptions import DataError, ModelError

__all__ = ["NamedParameter", "named_parameters", "slo_groups"]


@dataclass
class NamedParameter:
    """A parameter, once, with all its names and those of the layers that it is a weight of."""

    parameter: nn.Parameter
    names: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    is_weight: bool = True


def slo_groups(
    model: nn.Module, fast: str | Sequence[str], constant: float = 20.0, lr: float | None = None
) -> list[dict[str, Any]]:
    r"""Parameter groups for :class:`SLO`: chosen layers at speed C, all others at 1/C.

    Parameters
    ----------
    model : torch.nn.Module
        Wrappers (DistributedDataParallel, ``torch.compile``) are looked through.
    fast : str or sequence of str
        Names of layers or parameters, or globs over them: ``"0"``, ``"blocks.3.*"``, ``"head.weight"``.
    constant : float, default 20.0
        ``C``.
    lr : float, optional
        Learning rate of every group; the base optimiser's when not given.

    Returns
    -------
    list of dict
        One group a weight tensor, in the model's order: ``{"params", "name", "speed"}``. Then, if there are any, one
        group ``{"params", "name": "exempt", "exempt": True}`` that is left to the base optimiser: biases and other
        parameters of one axis, parameters of norms and embeddings, and free tensors of modules that hold other modules
        (class tokens, position tables). The name of such a parameter in ``fast`` gives it a speed too. Every trainable
        parameter is in exactly one group, tied ones once; frozen ones are left out.

    Raises
    ------
    DataError
        No layer or parameter of that name, with the closest ones; a frozen one; constant or lr not positive.
    ModelError
        No module, or a lazy parameter.

    Notes
    -----
    The projections q, k and v of ``nn.MultiheadAttention`` are one tensor, ``in_proj_weight``: the name of one, such as
    ``"attention.q"``, speeds up all three. An output layer tied to an embedding is exempt.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> for group in slo_groups(net, "0"):
    ...     print(group["name"], group.get("speed"), len(group["params"]))
    0.weight 20.0 1
    2.weight 0.05 1
    exempt None 2
    """
    for key, value in {"constant": constant, "lr": lr}.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise DataError(f"Got {key}={value!r}, but expected a positive finite number.")
    entries = [fast] if isinstance(fast, str) else list(fast)
    if not entries:
        raise DataError(f"Got fast={fast!r}, but expected at least one name or glob of a layer.")
    found = named_parameters(model)
    chosen = {id(named.parameter) for entry in entries for named in _matches(entry, found)}
    groups, exempt = [], []
    rate = {} if lr is None else {"lr": lr}
    for named in found:
        is_fast = id(named.parameter) in chosen
        if not named.parameter.requires_grad:
            continue
        if is_fast or named.is_weight:
            speed = constant if is_fast else 1 / constant
            groups.append({"params": [named.parameter], "name": named.names[0], "speed": speed, **rate})
        else:
            exempt.append(named.parameter)
    if exempt:
        groups.append({"params": exempt, "name": "exempt", "exempt": True, **rate})
    return groups


def named_parameters(model: nn.Module) -> list[NamedParameter]:
    """Every parameter of the model once, in its order.

    Raises
    ------
    ModelError
        No module, or a lazy parameter.
    """
    model = without_wrappers(model)
    found: dict[int, NamedParameter] = {}
    for layer, module in model.named_modules(remove_duplicate=False):
        for own, parameter in module.named_parameters(recurse=False):
            name = f"{layer}.{own}" if layer else own
            if nn.parameter.is_lazy(parameter):
                raise ModelError(f"Got the lazy parameter {name!r}, which has no shape yet. Run the model once first.")
            named = found.setdefault(id(parameter), NamedParameter(parameter))
            named.names.append(name)
            if parameter.dim() >= 2 and not own.startswith("bias") and _is_layer(module):
                named.layers.append(layer.partition(".parametrizations.")[0])
            named.is_weight &= _is_weight(module, own, parameter)
    for layer, module in model.named_modules():
        for part, rule in (rules_of(module) or {}).items():
            if part and id(rule.parameter(module)) in found:
                found[id(rule.parameter(module))].layers.append(f"{layer}.{part}" if layer else part)
    return list(found.values())


def _is_layer(module: nn.Module) -> bool:
    """Whether it owns weights: one that holds others and has no rule owns free tensors (class tokens, positions)."""
    leaf = next(module.children(), None) is None
    return leaf or rules_of(module) is not None or isinstance(module, ParametrizationList)


def _is_weight(module: nn.Module, own: str, parameter: torch.Tensor) -> bool:
    if parameter.dim() < 2 or own.startswith("bias") or isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return False
    return _is_layer(module) and re.search(r"Norm(\dd)?$", type(module).__name__) is None


def _matches(entry: str, found: Sequence[NamedParameter]) -> list[NamedParameter]:
    """Of the exact name of a parameter, else of a layer, else of a glob over the weights; at least one trainable."""
    if not isinstance(entry, str):
        raise DataError(f"Got fast={entry!r}, but expected a name or glob of a layer, or a list of them.")
    matches = (
        [named for named in found if entry in named.names]
        or [named for named in found if entry in named.layers]
        or [
            named
            for named in found
            if named.is_weight and any(fnmatch.fnmatchcase(name, entry) for name in (*named.layers, *named.names))
        ]
    )
    if not matches:
        names = [name for named in found if named.is_weight for name in (*named.layers, *named.names)]
        close = ", ".join(map(repr, difflib.get_close_matches(entry, names, n=3, cutoff=0.0)))
        inside = any(name.startswith(f"{entry}.") for name in names)
        hint = f"Use the glob {entry + '.*'!r} for what it holds." if inside else f"The closest are {close}."
        raise DataError(f"Got fast={entry!r}, but the model has no such layer or weight. {hint}")
    if not any(named.parameter.requires_grad for named in matches):
        raise DataError(f"Got fast={entry!r}, but expected a layer that is trained: {matches[0].names[0]!r} is frozen.")
    return matches
