"""Which layers a model has: wrappers taken off, every module that a rule reads, and the user's choice among them."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..exceptions import ModelError, UnmeasurableError
from .layers import REFUSED, Layer, Rows, refusal, rules_of

__all__ = ["find_layers", "resolve_layers", "unwrap", "without_wrappers"]


def unwrap(model: nn.Module) -> nn.Module:
    """The user's module inside DataParallel, DistributedDataParallel and ``torch.compile`` wrappers.

    Raises
    ------
    ModelError
        For what is no module, a ScriptModule, and parameters that are sharded over processes, lazy, without numbers,
        or made under ``torch.inference_mode``.
    """
    model = without_wrappers(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"Got a ScriptModule at {name or 'the top'!r}. Pass the Python model it was scripted from."
            )
        if "FullyShardedDataParallel" in type(module).__name__:
            raise ModelError(f"Got sharded parameters at {name or 'the top'!r}. Gather the full parameters first.")
    for name, parameter in model.named_parameters():
        if torch.nn.parameter.is_lazy(parameter):
            # Skipping it would not do: the first call would draw its weights, and measuring changes nothing.
            raise ModelError(f"Got the lazy parameter {name!r}, which has no shape yet. Run the model once first.")
        if parameter.is_meta:
            raise ModelError(
                f"Got the parameter {name!r} on the meta device, which holds no numbers. Load the weights."
            )
        if parameter.is_inference():
            raise ModelError(
                f"Got the parameter {name!r} made under torch.inference_mode, which autograd cannot use. "
                "Build or load the model outside of it."
            )
        if type(parameter.data).__name__ == "DTensor":
            raise ModelError(f"Got the sharded parameter {name!r}. Gather the full parameters first.")
    return model


def without_wrappers(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and ``torch.compile``, whatever its parameters are.

    Raises
    ------
    ModelError
        For what is no module.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"Got {type(model).__name__}, but expected a torch.nn.Module. Pass the model itself.")
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(model, wrappers) or hasattr(model, "_orig_mod"):
        inner: Any = model.module if isinstance(model, wrappers) else model._orig_mod
        model = inner
    return model


def find_layers(model: nn.Module) -> tuple[dict[str, Layer], dict[str, str]]:
    """All layers that have a rule, in registration order, and a reason for every module with weights that has none."""
    layers: dict[str, Layer] = {}
    refused: dict[str, str] = {}
    holders = _weight_holders(model)
    for name, module in _walk(model, "", set()):
        reason, rules = refusal(module), rules_of(module)
        if reason is not None:
            refused[name or type(module).__name__] = reason
        elif rules is not None:
            for part, rule in rules.items():
                full = ".".join(piece for piece in (name, part) if piece)
                layer = Layer(full, name, module, rule, part)
                shared = tuple(other for other in holders.get(id(layer.parameter()), ()) if other != name)
                layers[full] = replace(layer, shared_with=shared)
    return layers, refused


def _walk(module: nn.Module, name: str, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """Modules depth first, each once, not entering those that have a rule (their children are parts of them)."""
    if id(module) in seen:
        return
    seen.add(id(module))
    yield name, module
    if rules_of(module) is None and not any(isinstance(module, cls) for cls in REFUSED):
        for child_name, child in module.named_children():
            yield from _walk(child, f"{name}.{child_name}" if name else child_name, seen)


def _weight_holders(model: nn.Module) -> dict[int, list[str]]:
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if parameter.dim() >= 2:
                holders.setdefault(id(parameter), []).append(name)
    return holders


def resolve_layers(
    model: nn.Module, layers: str | Rows | Sequence[str | Rows] = "auto"
) -> tuple[list[Layer], dict[str, str], bool]:
    """Turn ``layers=`` into layers, skipped names with reasons, and whether they were named explicitly.

    Raises
    ------
    UnmeasurableError
        For an unknown name (with the three closest), a named layer that cannot be measured, rows out of range, or a
        model without any measurable layer.
    """
    available, refused = find_layers(model)
    if isinstance(layers, str) and layers == "auto":
        if not available:
            raise UnmeasurableError(
                f"Got {type(model).__name__}, which has no linear, convolution or attention layer"
                + (f" ({'; '.join(f'{name}: {why}' for name, why in refused.items())})." if refused else ".")
            )
        return list(available.values()), refused, False
    if isinstance(layers, (str, Rows)):
        layers = [layers]
    if not isinstance(layers, Iterable) or not (wanted := list(layers)):
        raise UnmeasurableError(f"Got layers={layers!r}, but expected 'auto' or at least one layer name, glob or Rows.")
    chosen: dict[str, Layer] = {}
    for entry in wanted:
        found = _rows_layer(entry, available, refused) if isinstance(entry, Rows) else None
        for layer in [found] if found else _named_layers(model, entry, available, refused):
            if layer.name in chosen and chosen[layer.name].rows != layer.rows:
                raise UnmeasurableError(f"Got two Rows called {layer.name!r}. Give each a label of its own.")
            chosen[layer.name] = layer
    return list(chosen.values()), {}, True


def _rows_layer(rows: Rows, available: Mapping[str, Layer], refused: Mapping[str, str]) -> Layer:
    if rows.layer not in available:
        raise UnmeasurableError(_unknown(rows.layer, available, refused))
    layer = available[rows.layer]
    groups, k = layer.weight().shape[:2]
    if groups != 1:
        raise UnmeasurableError(
            f"Got Rows of the grouped convolution {rows.layer!r}, but expected a layer of one group."
        )
    if not 0 <= rows.start < rows.stop <= k:
        raise UnmeasurableError(
            f"Got rows {rows.start}:{rows.stop} of {rows.layer!r}, but expected 0 <= start < stop <= {k}."
        )
    return Layer(
        rows.name,
        layer.module_name,
        layer.module,
        layer.rule,
        layer.part,
        slice(rows.start, rows.stop),
        layer.shared_with,
    )


def _named_layers(
    model: nn.Module, name: object, available: Mapping[str, Layer], refused: Mapping[str, str]
) -> list[Layer]:
    if not isinstance(name, str):
        raise UnmeasurableError(f"Got the layer {name!r}, but expected a name, a glob or Rows.")
    if name in available:
        return [available[name]]
    parts = [layer for layer in available.values() if layer.part and layer.module_name == name]
    matches = parts or [layer for key, layer in available.items() if fnmatch.fnmatchcase(key, name)]
    if matches:
        return matches
    aliases = dict(model.named_modules(remove_duplicate=False))
    same = [layer for layer in available.values() if layer.module is aliases.get(name)]
    if same:
        return same
    raise UnmeasurableError(_unknown(name, available, refused))


def _unknown(name: str, available: Mapping[str, Layer], refused: Mapping[str, str]) -> str:
    if name in refused:
        return f"Got layer {name!r}, which cannot be measured: {refused[name]}."
    owner = name.rpartition(".")[0]
    if owner and owner in refused and not any(key.startswith(f"{owner}.") for key in available):
        return f"Got layer {name!r}, a part of {owner!r}, which cannot be measured: {refused[owner]}."
    inside = [key for key in available if key.startswith(f"{name}.")]
    if inside:
        return (
            f"Got {name!r}, which holds layers but is none. Use the glob {name + '.*'!r} for {', '.join(inside[:3])}."
        )
    if not available:
        return f"Got layer {name!r}, but the model has no linear, convolution or attention layer."
    close = difflib.get_close_matches(name, available, n=3, cutoff=0.0)
    return f"Got layer {name!r}, but the model has no such layer. The closest are {', '.join(map(repr, close))}."
