"""Which parameters act when, read off the graph of one forward pass, and what each layer owns of the loss decay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from .layers import Layer

__all__ = ["attached_parameters", "dense", "first_uses", "inner", "norm", "own_decay"]


def first_uses(root: Tensor, parameters: Mapping[str, nn.Parameter]) -> dict[str, int]:
    """Place of the first operation on each parameter, in the order of execution of what ``root`` was computed by.

    Parameters
    ----------
    root : Tensor
        Result of a forward pass, with its graph.
    parameters : mapping of str to Parameter
        By name.

    Returns
    -------
    dict of str to int
        Comparable with ``node._sequence_nr()`` of any node of the graph; parameters without a use are absent.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    uses: dict[str, int] = {}
    seen: set[Node] = set()
    stack = [root.grad_fn] if root.grad_fn is not None else []
    while stack:
        node = stack.pop()
        for below, _ in node.next_functions:
            if below is None:
                continue
            name = names.get(id(getattr(below, "variable", None)))
            if name is not None:
                place = node._sequence_nr()
                uses[name] = min(place, uses.get(name, place))
            elif below not in seen:
                seen.add(below)
                stack.append(below)
    return uses


def attached_parameters(
    model: nn.Module, layers: Sequence[Layer], places: Mapping[str, int], first_use: Mapping[str, int]
) -> dict[str, str]:
    """Parameters of no layer (norm gains, free vectors) to the last layer that ran before their first use.

    Parameters
    ----------
    model : torch.nn.Module
        Whose parameters they are.
    layers : sequence of Layer
        All modules of the model that own weights, measured or not.
    places : mapping of str to int
        Place in the order of execution of the layers whose call was seen; others stand where their weights were used.
    first_use : mapping of str to int
        From :func:`first_uses`.

    Returns
    -------
    dict of str to str
        Parameter name to layer name; the first layer takes what was used before any.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    owned: set[str] = set()
    order: dict[str, int] = {}
    for layer in layers:
        own = {names[id(parameter)] for parameter in layer.module.parameters()}
        owned |= own
        uses = [first_use[name] for name in own if name in first_use]
        if layer.name in places or uses:
            order[layer.name] = places[layer.name] if layer.name in places else min(uses)
    ranked = sorted(order, key=lambda name: order[name])
    free = {name: place for name, place in first_use.items() if name not in owned}
    return {
        name: next((layer for layer in reversed(ranked) if order[layer] < place), ranked[0])
        for name, place in free.items()
        if ranked
    }


def own_decay(
    layer: Layer, names: Mapping[int, str], gradients: Mapping[str, Tensor], change: Mapping[str, Tensor]
) -> float:
    """``-<g, dw>`` over the layer's own weight and bias; nan for rows of a weight that is computed from others.

    Parameters
    ----------
    layer : Layer
        Of which the module, a part (attention) or some rows count.
    names : mapping of int to str
        Name of a parameter by ``id``.
    gradients, change : mapping of str to Tensor
        ``g`` and ``dw`` by name; absent means zero.
    """
    leaves = {names[id(p)]: p for p in layer.module.parameters() if names[id(p)] in gradients}
    leaves = {name: p for name, p in leaves.items() if name in change}
    if not layer.part and layer.rows is None:
        return -sum(inner(gradients[name], change[name]) for name in leaves)
    if not layer.parameter().is_leaf:
        return float("nan")
    pieces = [piece for piece in (layer.matrix(layer.parameter()), layer.bias()) if piece is not None]
    pieces = [piece.sum() for piece in pieces if piece.requires_grad]
    if not pieces or not leaves:
        return 0.0
    # The pieces are views, so the gradient of their sum marks the layer's own entries with ones.
    marks = torch.autograd.grad(sum(pieces[1:], pieces[0]), list(leaves.values()), allow_unused=True)
    return -sum(
        inner(gradients[name] * mark, change[name])
        for name, mark in zip(leaves, marks, strict=True)
        if mark is not None
    )


def inner(a: Tensor, b: Tensor) -> float:
    """Inner product of all entries, accumulated in float64 where the device has it."""
    wide = torch.float32 if a.device.type == "mps" else torch.float64
    return float((a.to(wide) * b.to(wide)).sum())


def norm(tensors: Iterable[Tensor]) -> float:
    """Euclidean norm of all entries of all tensors together."""
    return math.sqrt(sum(inner(tensor.detach(), tensor.detach()) for tensor in tensors))


def dense(tensor: Tensor) -> Tensor:
    """The gradient of an embedding may be sparse."""
    return tensor.to_dense() if tensor.is_sparse else tensor
