"""How a model is built, read off the graph of one forward pass: layers in order, who owns what, where paths meet."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from ..agop.batches import Outputs, check_outputs, parse_batch, raw_outputs
from ..agop.finding import unwrap
from ..agop.losses import Loss, checked_loss
from ..agop.parameter_order import first_uses
from ..agop.taps import guest, training_mode
from ..exceptions import DataError, ModelError, UnmeasurableError

__all__ = ["Structure", "WeightLayer", "matching", "read_structure"]

Place = tuple[int, int]  # of a tensor in the graph: order of the operation that made it, and which of its outputs

_DEPENDS_ON_NOTHING = "Got a loss that depends on no trained weight. Check requires_grad, loss and outputs=."


@dataclass(frozen=True, eq=False)
class WeightLayer:
    """A module that owns a parameter with at least two axes.

    Attributes
    ----------
    name : str
        Name of the module.
    module : torch.nn.Module
        Itself.
    parameters, gradients : mapping of str to Parameter, to Tensor
        Its trained parameters by name, and those of modules without a weight (norm gains, free vectors) that are first
        used after it and before the next layer. Every trained parameter belongs to one layer. ``dJ/dw`` of each.
    is_cut : bool
        Whether every path from the parameters used so far to the loss passes through its output: not inside a
        residual branch, and not beside parallel branches.
    returns_tensor : bool
        Whether it is called and returns one tensor, not several.
    normalised : bool
        Whether every path from its output to the loss passes through a normalisation module that reads it.
    """

    name: str
    module: nn.Module
    parameters: Mapping[str, nn.Parameter]
    gradients: Mapping[str, Tensor]
    is_cut: bool
    returns_tensor: bool
    normalised: bool


@dataclass(frozen=True, eq=False)
class Structure:
    """Layers in order of execution, the mean loss, and the module whose output the last layer reads.

    Attributes
    ----------
    layers : mapping of str to WeightLayer
        In the order in which their weights are first used; the last one is the readout.
    loss : float
        Mean over the batch.
    last_features : str or None
        The last layer before the readout, if its output is a cut; otherwise the last block whose output is one.
    tied : str or None
        The layer whose weight also acts after all others (an embedding that is the readout too), if there is one.
    unreached : tuple of str
        Layers with trained weights on which the loss of this batch does not depend.
    """

    layers: Mapping[str, WeightLayer]
    loss: float
    last_features: str | None
    tied: str | None
    unreached: tuple[str, ...]

    @property
    def readout(self) -> WeightLayer:
        """The last layer."""
        return list(self.layers.values())[-1]


def read_structure(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    *,
    outputs: Outputs = "logits",
    mode: Literal["eval", "train"] = "eval",
) -> Structure:
    """One forward and one backward pass of one batch; the model is given back exactly as it was.

    Raises
    ------
    DataError
        A batch that cannot be read, a loss that is no finite number.
    ModelError
        No layer with trained weights that the loss depends on.
    """
    if mode not in ("eval", "train"):
        raise DataError(f"Got mode={mode!r}, but expected 'eval' or 'train'.")
    check_outputs(outputs)
    model = unwrap(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
    with guest(model), training_mode(model) if mode == "train" else nullcontext():
        for parameter in trained.values():
            parameter.requires_grad_(True)
        parsed = parse_batch(batch, model)
        with _Calls(model) as calls:  # not open in the backward pass, where a checkpoint calls its modules again
            value = _checked(loss(raw_outputs(model, parsed, outputs), parsed.targets))
        uses = first_uses(value, trained)
        if not uses:
            raise ModelError(_DEPENDS_ON_NOTHING)
        names = list(uses)
        found = torch.autograd.grad(value, [trained[name] for name in names], retain_graph=True, materialize_grads=True)
        gradients = dict(zip(names, found, strict=True))
        owned = _owned(model, trained, uses)
        if not owned:
            raise ModelError(_DEPENDS_ON_NOTHING)
        cuts = {name: _is_cut(value, trained, uses, edges) for name, edges in calls.edges.items()}
        layers = {
            name: WeightLayer(
                name,
                model.get_submodule(name),
                {key: trained[key] for key in keys},
                {key: gradients[key] for key in keys},
                cuts.get(name, False),
                name in calls.edges and name not in calls.several,
                calls.only_normalised(name, value),
            )
            for name, keys in owned.items()
        }
        return Structure(
            layers,
            float(value.detach()),
            _last_features(list(layers), cuts, calls),
            _tied(value, trained, owned),
            tuple(dict.fromkeys(_owner(key) for key, p in trained.items() if key not in uses and p.dim() >= 2)),
        )


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names that a name or glob means, in their order.

    Raises
    ------
    UnmeasurableError
        None of them.
    """
    known = list(names)
    found = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise UnmeasurableError(f"Got layer {pattern!r}, but expected one of {', '.join(map(repr, known))}, or a glob.")
    return found


# --- the forward pass ---------------------------------------------------------------------------------------------


class _Calls:
    """Where the outputs of all modules stand in the graph, and which of them a normalisation reads."""

    def __init__(self, model: nn.Module) -> None:
        self.edges: dict[str, list[GradientEdge]] = {}
        self.several: set[str] = set()
        self._normalised: list[tuple[GradientEdge, GradientEdge]] = []
        self._modules = list(model.named_modules())
        self._handles: list[Any] = []

    def __enter__(self) -> _Calls:
        for name, module in self._modules:
            self._handles.append(module.register_forward_hook(self._seen(name), prepend=True))
            if _is_norm(module):
                self._handles.append(module.register_forward_hook(self._read))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _seen(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if first is not output:
                self.several.add(name)
            if isinstance(first, Tensor) and first.requires_grad:
                # Taken here: an in-place activation that comes next gives the tensor another place in the graph.
                self.edges.setdefault(name, []).append(get_gradient_edge(first))

        return hook

    def _read(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        ends = [args[0] if args else None, output]
        if all(isinstance(end, Tensor) and end.requires_grad for end in ends):
            self._normalised.append((get_gradient_edge(ends[0]), get_gradient_edge(ends[1])))

    def at(self, name: str) -> list[Place]:
        """Places of the module's outputs."""
        return [_place(edge) for edge in self.edges.get(name, ())]

    def only_normalised(self, name: str, root: Tensor) -> bool:
        """Whether normalisations that read the module's outputs separate these from ``root``."""
        places = self.at(name)
        norms = {after.node for before, after in self._normalised if _place(before) in places}
        return bool(norms) and _reached(root, norms).isdisjoint(edge.node for edge in self.edges[name])


def _is_norm(module: nn.Module) -> bool:
    """By its name, as many are the users' own; what holds layers is none (a block that normalises, then acts)."""
    inside = (parameter for child in module.children() for parameter in child.parameters())
    return "norm" in type(module).__name__.lower() and not any(parameter.dim() >= 2 for parameter in inside)


def _place(edge: GradientEdge) -> Place:
    return edge.node._sequence_nr(), edge.output_nr


def _reached(root: Tensor, removed: Set[Node]) -> set[Node]:
    """Nodes of the graph that a path from ``root`` reaches without passing through those removed."""
    stack = [root.grad_fn] if root.grad_fn is not None and root.grad_fn not in removed else []
    seen = set(stack)
    while stack:
        for below, _ in stack.pop().next_functions:
            if below is not None and below not in removed and below not in seen:
                seen.add(below)
                stack.append(below)
    return seen


def _checked(value: Any) -> Tensor:
    if isinstance(value, Tensor) and not value.requires_grad:
        raise ModelError(_DEPENDS_ON_NOTHING)
    return checked_loss(value)


# --- order and ownership --------------------------------------------------------------------------------------------


def _owner(key: str) -> str:
    """Name of the module that a parameter acts in; a parametrised weight is made from those of a module below."""
    return f".{key}".rpartition(".")[0].partition(".parametrizations.")[0].removeprefix(".")


def _owned(model: nn.Module, trained: Mapping[str, nn.Parameter], uses: Mapping[str, int]) -> dict[str, list[str]]:
    """Layers in order of execution, and every used parameter to one of them: its own, or the last that ran before."""
    own: dict[str, list[str]] = {}
    for key in (key for key in trained if key in uses):
        own.setdefault(_owner(key), []).append(key)
    wide = {
        name
        for name, keys in own.items()
        if any(trained[key].dim() >= 2 for key in keys) and not _is_norm(model.get_submodule(name))
    }
    # What holds layers is none (a class token, position embeddings), attention excepted.
    holders = {a for a in wide if any(b != a and (not a or b.startswith(f"{a}.")) for b in wide)}
    attention = {name for name in holders if isinstance(model.get_submodule(name), nn.MultiheadAttention)}
    starts = {name: min(uses[key] for key in own[name]) for name in wide - (holders - attention)}
    order = sorted(starts, key=starts.__getitem__)
    owned = {name: list(own[name]) for name in order}
    for key in uses if order else ():
        if not any(key in keys for keys in owned.values()):
            before = [name for name in order if starts[name] < uses[key]]
            owned[before[-1] if before else order[0]].append(key)
    return owned


def _is_cut(
    root: Tensor, trained: Mapping[str, nn.Parameter], uses: Mapping[str, int], edges: Iterable[GradientEdge]
) -> bool:
    """Whether removing these outputs from the graph separates the loss from all parameters used before."""
    removed = {edge.node for edge in edges}
    last = max(node._sequence_nr() for node in removed)
    names = {id(trained[name]): name for name in uses}
    reached = (names.get(id(getattr(node, "variable", None))) for node in _reached(root, removed))
    return not any(name is not None and uses[name] <= last for name in reached)


def _tied(root: Tensor, trained: Mapping[str, nn.Parameter], owned: Mapping[str, list[str]]) -> str | None:
    """The layer whose weight acts last, unless it is also the one whose weight is the last to act first."""
    owners = {id(trained[key]): name for name, keys in owned.items() for key in keys if trained[key].dim() >= 2}
    last: dict[str, int] = {}
    for node in _reached(root, set()):
        for below, _ in node.next_functions:
            name = owners.get(id(getattr(below, "variable", None)))
            if name is not None:
                last[name] = max(last.get(name, 0), node._sequence_nr())
    found = max(last, key=last.__getitem__)
    return None if found == list(owned)[-1] else found


def _last_features(order: list[str], cuts: Mapping[str, bool], calls: _Calls) -> str | None:
    *hidden, readout = order
    if not hidden or cuts.get(hidden[-1], False):
        return hidden[-1] if hidden else None
    end = min(calls.at(readout), default=None)
    blocks = [
        name
        for name, cut in cuts.items()
        if cut and any(layer.startswith(f"{name}.") for layer in hidden) and not readout.startswith(f"{name}.")
        if name and (end is None or max(calls.at(name)) < end)
    ]
    return max(blocks, key=lambda name: max(calls.at(name)), default=None)
