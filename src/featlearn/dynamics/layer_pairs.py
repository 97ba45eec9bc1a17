"""Two consecutive weight layers as matrices between hidden units: which layers follow one another, and their Grams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..agop.execution import NORMALISATION, Place, in_order, places
from ..agop.finding import find_layers, resolve_layers
from ..agop.layers import Layer
from ..agop.reference_model import closest_names
from ..exceptions import ModelError, UnmeasurableError

__all__ = ["Names", "Pair", "WeightPair", "between", "find_pairs", "parse_pairs", "weight_pair"]

Names = tuple[str, str]


@dataclass(frozen=True, eq=False)
class WeightPair:
    """Weights ``W_1`` (groups, outputs, inputs) and ``W_2`` (groups, outputs, inputs), which meet in ``width`` units.

    The inputs of ``W_2`` hold every hidden unit several times: at kernel positions, or at the places that a flatten
    has put side by side. Units vary slowest, or with ``places_first`` fastest.
    """

    first: Tensor
    second: Tensor
    places_first: bool = False

    @property
    def width(self) -> int:
        """Hidden units or channels."""
        return self.first.shape[0] * self.first.shape[1]

    def incoming(self) -> Tensor:
        r""":math:`M_1 = W_1 W_1^\top` in float64; units of different groups read different inputs: block diagonal."""
        wide = self.first.double()
        return torch.block_diag(*(wide @ wide.mT))

    def outgoing(self) -> Tensor:
        r""":math:`M_2 = W_2^\top W_2` in float64, summed over outputs, kernel positions and places."""
        groups, outputs, inputs = self.second.shape
        units = self.width // groups
        if self.places_first:
            wide = self.second.double().reshape(groups, outputs, inputs // units, units).permute(0, 3, 1, 2)
        else:
            wide = self.second.double().reshape(groups, outputs, units, inputs // units).permute(0, 2, 1, 3)
        flat = wide.flatten(2)
        return torch.block_diag(*(flat @ flat.mT))

    @property
    def chance(self) -> float:
        r"""Soft floor of :math:`c^2`: its size in independent random weights, ``1/h``, or 3/h of two single vectors."""
        one_input = self.first.shape[0] == self.first.shape[2] == 1
        one_output = self.second.shape[0] == self.second.shape[1] == 1 and self.second.shape[2] == self.width
        return (3 if one_input or one_output else 1) / self.width


@dataclass(frozen=True, eq=False)
class Pair:
    """Two layers of a model, the output of the first being read by the second."""

    first: Layer
    second: Layer
    flags: tuple[str, ...] = ()
    normalised: bool = False

    @property
    def names(self) -> Names:
        """As they are written in ``pairs=``."""
        return self.first.name, self.second.name

    def weights(self) -> WeightPair:
        """Their weights now.

        Raises
        ------
        ModelError
            Weights that are not finite.
        """
        for layer in (self.first, self.second):
            if not bool(layer.weight().isfinite().all()):
                raise ModelError(f"Got weights of layer {layer.name!r} that are not finite. Look at the last steps.")
        return WeightPair(self.first.weight(), self.second.weight(), not _is_convolution(self.first))


def find_pairs(model: nn.Module, pairs: Sequence[Names] | None, path: Sequence[Place] | None = None) -> list[Pair]:
    """Pairs that the user names, or all consecutive layers in order of registration whose widths match.

    Parameters
    ----------
    model : torch.nn.Module
        Already unwrapped.
    pairs : sequence of (str, str), optional
        Layers or their weights. A pair that is not consecutive in the path is flagged.
    path : sequence of (str, Module), optional
        Modules in order of execution; by default in order of registration.

    Raises
    ------
    UnmeasurableError
        Unknown layers, layers whose widths do not match, or no pair at all.
    """
    order = "registration" if path is None else "execution"
    path = places(model) if path is None else path
    if pairs is None:
        whole = [layer for layer in in_order(find_layers(model)[0].values(), path) if not layer.part]
        found = [(a, b) for a, b in pairwise(whole) if a.module is not b.module and _follows(a, b)]
        if not found:
            raise UnmeasurableError(
                f"Got a {type(model).__name__} without two consecutive linear or convolution layers whose widths match."
            )
        return [_inspected(first, second, path, ()) for first, second in found]
    named = [_named(model, pair) for pair in parse_pairs(pairs)]
    return [_inspected(first, second, path, _apart(model, first, second, path, order)) for first, second in named]


def between(first: Layer, second: Layer, path: Sequence[Place]) -> list[nn.Module]:
    """Modules of the path after the first layer and before the next call of the second."""
    modules = [module for _, module in path]
    starts = [i for i, module in enumerate(modules) if module is first.module]
    for start in starts:
        stops = [i for i in range(start + 1, len(modules)) if modules[i] is second.module]
        if stops:
            return modules[start + 1 : stops[0]]
    return []


def weight_pair(state: Mapping[str, Any], names: Names) -> WeightPair:
    """A pair from the weights alone, with the name of the layer or of its weight; the first has no groups."""
    keys = [name if name in state else f"{name}.weight" for name in names]
    for name, key in zip(names, keys, strict=True):
        if key not in state:
            raise UnmeasurableError(f"Got {name!r}, but the closest weights are {closest_names(key, state)}.")
        if not isinstance(state[key], Tensor) or state[key].dim() < 2:
            raise UnmeasurableError(f"Got {key!r}, but expected a weight of at least two axes.")
        if not bool(state[key].isfinite().all()):
            raise ModelError(f"Got weights {key!r} that are not finite. Look at the last steps.")
    first, second = (state[key].detach() for key in keys)
    width, inputs = len(first), second.shape[1]
    groups = 1
    if second.dim() > 2 and inputs != width:
        groups = width // inputs
        _refuse_unequal(names, width, inputs, width % inputs == 0 and len(second) % max(1, groups) == 0)
    else:
        _refuse_unequal(names, width, inputs, inputs % width == 0)
    return WeightPair(first.reshape(1, width, -1), second.reshape(groups, len(second) // groups, -1), first.dim() == 2)


def parse_pairs(pairs: Sequence[Names]) -> list[Names]:
    """What a user gives as pairs, one pair alone included, as a list of pairs of names.

    Raises
    ------
    UnmeasurableError
        Something else, or none.

    Examples
    --------
    >>> parse_pairs(("fc1", "fc2"))
    [('fc1', 'fc2')]
    """
    named = [pairs] if isinstance(pairs, tuple) and all(isinstance(name, str) for name in pairs) else list(pairs)
    for pair in named:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            raise UnmeasurableError(f"Got the pair {pair!r}, but expected two names of layers: ('fc1', 'fc2').")
    if not named:
        raise UnmeasurableError("Got no pairs, but expected at least one, or None for all.")
    return [(first, second) for first, second in named]


def _named(model: nn.Module, pair: Names) -> tuple[Layer, Layer]:
    chosen = []
    available = find_layers(model)[0]
    for name in pair:
        layer = name if name in available else name.removesuffix(".weight")
        layers = resolve_layers(model, [layer])[0]
        if len(layers) != 1:
            raise UnmeasurableError(f"Got {name!r}, which stands for {len(layers)} layers, but expected one.")
        chosen.append(layers[0])
    first, second = chosen
    if first.module is second.module and first.part == second.part:
        raise UnmeasurableError(f"Got the layer {first.name!r} twice, but expected two layers.")
    _refuse_unequal(pair, _outputs(first), _inputs(second), _matches(first, second))
    return first, second


def _refuse_unequal(pair: Names, width: int, inputs: int, matches: bool) -> None:
    if not matches:
        raise UnmeasurableError(
            f"Got the pair {tuple(pair)!r}, whose first layer has {width} outputs and whose second reads {inputs}, but "
            "expected as many, or a multiple where the outputs are flattened."
        )


def _is_convolution(layer: Layer) -> bool:
    return layer.rule.patch_shape(layer.module) is not None


def _outputs(layer: Layer) -> int:
    groups, outputs, _ = layer.weight().shape
    return groups * outputs


def _inputs(layer: Layer) -> int:
    groups, _, inputs = layer.weight().shape
    shape = layer.rule.patch_shape(layer.module)
    return groups * (inputs if shape is None else shape[0])


def _matches(first: Layer, second: Layer) -> bool:
    width, inputs = _outputs(first), _inputs(second)
    return inputs == width if _is_convolution(second) else inputs % width == 0


def _follows(first: Layer, second: Layer) -> bool:
    """Whether the shapes alone say so: outputs of a linear layer are seldom flattened, those of a convolution often."""
    if _inputs(second) == _outputs(first):
        return True
    return _is_convolution(first) and not _is_convolution(second) and _matches(first, second)


def _apart(model: nn.Module, first: Layer, second: Layer, path: Sequence[Place], order: str) -> tuple[str, ...]:
    """Flags of a pair that the user named though other layers run between, or the second does not follow."""
    modules = [module for _, module in path]
    starts = [i for i, module in enumerate(modules) if module is first.module]
    stops = [i for i, module in enumerate(modules) if module is second.module]
    if not (starts and stops) or first.module is second.module:
        return ()
    gaps = [modules[max(s for s in starts if s < stop) + 1 : stop] for stop in stops if stop > starts[0]]
    if not gaps:
        return (f"{second.name!r} comes before {first.name!r} in {order}: it may not read it",)
    weighty = {id(layer.module): layer.module_name for layer in find_layers(model)[0].values()}
    names = min(([weighty[id(module)] for module in gap if id(module) in weighty] for gap in gaps), key=len)
    if not names:
        return ()
    return (f"not consecutive: {', '.join(map(repr, names))} between {first.name!r} and {second.name!r} in {order}",)


def _inspected(first: Layer, second: Layer, path: Sequence[Place], apart: tuple[str, ...]) -> Pair:
    flags = list(apart)
    norm = next((m for m in between(first, second, path) if isinstance(m, NORMALISATION)), None)
    if norm is not None:
        flags.append(f"{type(norm).__name__} between: the size of the first weight means nothing, only c is given")
    flags += [
        f"{layer.name!r} shares its weight with {layer.shared_with[0]!r}"
        for layer in (first, second)
        if layer.shared_with
    ]
    return Pair(first, second, tuple(flags), norm is not None)
