r"""Neural tangent Gram matrix of the measured layers, from inputs and output gradients of each layer alone.

With ``x`` the patches that a layer reads and ``g`` the gradients at its output, sample i has the weight gradient
:math:`G_{ic} = \sum_p g_{ipc} x_{ip}^\top`, summed over positions and over all calls of the module. Inputs and
gradients of all samples are held, for as many outputs and layers at once as a fixed budget allows; weight gradients
exist one block of rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from ..exceptions import DataError, MixingError, UnmeasurableError
from .accumulate import accumulation_dtype
from .batches import Outputs, flat_outputs, raw_outputs
from .layers import Layer
from .probes import MAX_EXACT_PASSES, rademacher
from .samples import Samples, by_sample, mixed_layers
from .taps import Taps

__all__ = ["Cotangents", "tangent_gram"]

HELD = 2**26  # numbers of inputs and gradients held at once
BLOCK = 2**25  # numbers of weight gradients, or of unfolded patches, made at once


def tangent_gram(
    model: nn.Module,
    samples: Samples,
    layers: Sequence[Layer],
    *,
    outputs: Outputs = "logits",
    probes: int | str = "exact",
    random_state: int = 0,
    explicit: bool = False,
) -> Tensor:
    r"""Neural tangent Gram matrix, summed over outputs, of the layers' weights and biases.

    .. math:: \Theta_{ij} = \sum_c \sum_l \langle G_{ic}^l, G_{jc}^l \rangle + \langle b_{ic}^l, b_{jc}^l \rangle,
              \qquad G_{ic} = \sum_p g_{ipc} x_{ip}^\top, \quad b_{ic} = \sum_p g_{ipc}

    For one position this is :math:`(x_i \cdot x_j + 1)(g_i \cdot g_j)`, the 1 for a bias.

    Parameters
    ----------
    model : torch.nn.Module
        Inside ``guest(model)``.
    samples : sequence of (Batch, int)
        From :func:`featlearn.agop.samples.take_samples`.
    layers : sequence of Layer
        Of this model. Layers that hold one parameter count as one, cross terms included.
    outputs : "logits" or callable
    probes : "exact" or int
        Every output, or the mean over that many random projections of the outputs, each shared by all samples:
        independent ones would lose every entry off the diagonal.
    random_state : int
    explicit : bool
        Refuse layers that do not run, instead of leaving them out.

    Returns
    -------
    Tensor of shape (n, n)
        float64, on the model's device.

    Raises
    ------
    DataError, MixingError, UnmeasurableError

    Notes
    -----
    One forward pass and C (or the number of probes) backward passes over the samples while the inputs and gradients of
    all layers fit into 2^26 numbers, and again for each further group of layers or outputs. ``n^2 k d`` flops a layer
    and output beside these; ``n^2 (d + k)`` with one position.
    """
    sizes, width = _survey(model, samples, layers, outputs, explicit)
    cotangents = Cotangents.of(width, probes, random_state)
    terms = _terms([layer for layer in layers if layer.name in sizes])
    total = sum(n for _, n in samples)
    gram = torch.zeros(total, total, dtype=torch.float64, device=next(iter(model.parameters())).device)
    for group, chunk in _plan(terms, sizes, cotangents.passes):
        needed = {layer.name: layer for term in group for layer in term.layers}
        for start in range(0, cotangents.passes, chunk):
            some = range(start, min(start + chunk, cotangents.passes))
            held = _gather(model, samples, list(needed.values()), outputs, cotangents, some)
            for term in group:
                if term.bias:
                    _add_bias(gram, term, held)
                else:
                    _add_weight(gram, term, held)
    return gram if cotangents.exact else gram / cotangents.passes


@dataclass(frozen=True)
class Cotangents:
    """Vectors over the outputs, each made when needed: the unit vectors, or random signs shared by all samples."""

    passes: int
    width: int
    exact: bool
    random_state: int

    @classmethod
    def of(cls, width: int, probes: int | str, random_state: int) -> Cotangents:
        """All of ``width`` outputs, or ``probes`` signs; refuses more exact passes than anybody means to make."""
        if probes == "exact" and width > MAX_EXACT_PASSES:
            raise DataError(
                f"Got {width} outputs a sample, one backward pass each, but expected at most {MAX_EXACT_PASSES}. "
                "Pass probes=8, or outputs= that selects fewer."
            )
        return cls(width if probes == "exact" else int(probes), width, probes == "exact", random_state)

    def like(self, flat: Tensor, j: int) -> Tensor:
        """Vector number j, for outputs of shape (n, C)."""
        if not self.exact:
            return rademacher(self.random_state, 0, j, 1, self.width)[0].to(flat).expand_as(flat)
        unit = torch.zeros_like(flat)
        unit[:, j] = 1
        return unit


# --- what there is, and how much of it fits ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Term:
    """Layers whose gradients add up before the inner product: those that hold one parameter."""

    layers: list[Layer]
    bias: bool


def _terms(layers: Sequence[Layer]) -> list[_Term]:
    weights: dict[Hashable, _Term] = {}
    biases: dict[Hashable, _Term] = {}
    for layer in layers:
        weights.setdefault(_key(layer, layer.parameter()), _Term([], False)).layers.append(layer)
        bias = layer.rule.bias(layer.module)
        if bias is not None:
            biases.setdefault(_key(layer, bias), _Term([], True)).layers.append(layer)
    order = {layer.name: place for place, layer in enumerate(layers)}
    return sorted([*weights.values(), *biases.values()], key=lambda term: order[term.layers[0].name])


def _key(layer: Layer, parameter: Tensor) -> Hashable:
    # A weight that is made anew at each access (a parametrisation, a slice) has no identity to share.
    if not isinstance(parameter, nn.Parameter):
        return layer.name
    rows = None if layer.rows is None else (layer.rows.start, layer.rows.stop)
    return id(parameter), layer.rule.kind, layer.part, rows, tuple(layer.weight().shape)


def _survey(
    model: nn.Module, samples: Samples, layers: Sequence[Layer], outputs: Outputs, explicit: bool
) -> tuple[dict[str, list[int]], int]:
    """Numbers in the inputs and outputs of each layer that runs, over all samples, and the number of outputs."""
    sizes: dict[str, list[int]] = {}
    unseen: dict[str, str] = {}
    width: int | None = None

    def measure(layer: Layer, tensor: Tensor, output: Tensor) -> None:
        size = sizes.setdefault(layer.name, [0, 0])
        size[0] += tensor.numel()
        size[1] += output.numel()

    attached = False
    for batch, n in samples:
        with Taps(layers, on_forward=measure) as taps:
            flat = flat_outputs(taps.forward(partial(raw_outputs, model, batch, outputs)))
            attached = attached or flat.requires_grad
            unseen |= taps.unseen
        width = flat.shape[1] if width is None else width
        if flat.shape != (n, width):
            raise DataError(f"Got outputs of shape {tuple(flat.shape)}, but expected {(n, width)} as before.")
    for layer in layers:
        if layer.name not in sizes and explicit:
            why = unseen.get(layer.name, "it never ran")
            raise UnmeasurableError(f"Layer {layer.name!r} cannot be measured: {why}. Leave it out of layers=.")
    if not attached:
        raise UnmeasurableError(
            "Got outputs that do not depend on any measured layer through autograd. Check for detach() or "
            "torch.no_grad() in the model, and the layers= chosen."
        )
    assert width is not None
    return sizes, width


def _refuse_mixing(taps: Taps, flat: Tensor, n: int) -> None:
    mixed = mixed_layers(taps.calls, flat, n) if n > 1 else []
    if mixed:
        raise MixingError(
            f"Got outputs of one sample that depend on rows of layer {mixed[0]!r} that are read as other samples', but "
            "a kernel between samples needs each sample's own. Use running statistics in BatchNorm, keep the samples "
            "on the first axis, or leave the layer out of layers=."
        )


def _plan(terms: Sequence[_Term], sizes: dict[str, list[int]], passes: int) -> list[tuple[list[_Term], int]]:
    """Groups of terms, and how many cotangents at once, so that what is held stays within the budget."""
    inputs = sum(size for size, _ in sizes.values())
    gradients = max(1, sum(size for _, size in sizes.values()))
    if inputs + gradients <= HELD:
        return [(list(terms), max(1, min(passes, (HELD - inputs) // gradients)))]
    groups: list[list[_Term]] = []
    held: set[str] = set()
    for term in terms:
        names = {layer.name for layer in term.layers}
        if not names <= held and (not groups or sum(sum(sizes[name]) for name in held | names) > HELD):
            groups.append([])
            held = set()
        groups[-1].append(term)
        held |= names
    return [(group, 1) for group in groups]


# --- inputs and gradients of all samples ------------------------------------------------------------------------------


@dataclass(eq=False)
class _Call:
    """One call of a layer on one batch: its input, and its output's gradient for several cotangents."""

    layer: Layer
    n: int
    input: Tensor  # patches (n, groups, d, P) where these are no larger than the input, else the input as it came
    unfolded: bool
    gradient: Tensor  # (n, groups, cotangents * k, P)

    def patches(self, start: int, stop: int) -> Tensor:
        """(stop - start, groups, d, P)."""
        if self.unfolded:
            return self.input[start:stop]
        frames = len(self.input) // self.n
        some = self.layer.patches(self.input[start * frames : stop * frames], stop - start)
        return by_sample(some, stop - start, self.layer.name)


@dataclass(eq=False)
class _Held:
    """Calls of each layer, batch by batch."""

    sizes: list[int] = field(default_factory=list)
    calls: list[dict[str, list[_Call]]] = field(default_factory=list)

    def of(self, term: _Term) -> list[tuple[int, list[_Call]]]:
        """Samples of each batch, and all calls of the term's layers on it."""
        names = [layer.name for layer in term.layers]
        return [
            (n, [call for name in names for call in calls.get(name, [])])
            for n, calls in zip(self.sizes, self.calls, strict=True)
        ]


def _gather(
    model: nn.Module,
    samples: Samples,
    layers: Sequence[Layer],
    outputs: Outputs,
    cotangents: Cotangents,
    some: range,
) -> _Held:
    held = _Held()
    inputs: list[Tensor] = []

    def keep(layer: Layer, tensor: Tensor, output: Tensor) -> None:
        inputs.append(tensor.clone())  # frozen layers keep no inputs, so the model may overwrite this one in place

    for batch, n in samples:
        inputs.clear()
        with Taps(layers, on_forward=keep) as taps:
            flat = flat_outputs(taps.forward(partial(raw_outputs, model, batch, outputs)))
            found: dict[str, list[_Call]] = {}
            if flat.requires_grad:  # else none of these layers acts on the outputs
                if some.start == 0:
                    _refuse_mixing(taps, flat, n)
                arrived = _pull(taps, flat, cotangents, some)
                for call, tensor, gradients in zip(taps.calls, inputs, arrived, strict=True):
                    if gradients and gradients[0].numel():  # an expert that saw no token has nothing to add
                        found.setdefault(call.layer.name, []).append(_call(call.layer, n, tensor, gradients))
        held.sizes.append(n)
        held.calls.append(found)
    return held


def _pull(taps: Taps, flat: Tensor, cotangents: Cotangents, some: range) -> list[list[Tensor]]:
    """Gradients at each call's output, one a cotangent; an empty list where none arrives."""
    edges = [call.edge for call in taps.calls]
    pulled: list[Sequence[Tensor | None]] = [
        torch.autograd.grad(flat, edges, cotangents.like(flat, j), retain_graph=j + 1 < some.stop, allow_unused=True)
        for j in some
    ]
    arrived = []
    for call, gradients in zip(taps.calls, zip(*pulled, strict=True), strict=True):
        zero = torch.zeros(call.shape, dtype=call.dtype, device=flat.device)
        reached = any(gradient is not None for gradient in gradients)
        arrived.append([zero if gradient is None else gradient for gradient in gradients] if reached else [])
    return arrived


def _call(layer: Layer, n: int, tensor: Tensor, gradients: Sequence[Tensor]) -> _Call:
    groups, _, d = layer.weight().shape
    rows = [by_sample(layer.output(gradient, n), n, layer.name).unflatten(1, (groups, -1)) for gradient in gradients]
    gradient = torch.cat(rows, dim=2)
    dtype = accumulation_dtype(tensor.dtype)
    unfolded = n * groups * d * gradient.shape[-1] <= tensor.numel()
    if unfolded:
        tensor = by_sample(layer.patches(tensor, n), n, layer.name)
    return _Call(layer, n, tensor.to(dtype), unfolded, gradient.to(dtype))


# --- inner products ---------------------------------------------------------------------------------------------------


def _add_bias(gram: Tensor, term: _Term, held: _Held) -> None:
    _add_sums(gram, term, held, lambda call: call.gradient.sum(dim=-1).flatten(1))


def _add_weight(gram: Tensor, term: _Term, held: _Held) -> None:
    batches = held.of(term)
    if all(len(calls) == 1 and calls[0].gradient.shape[-1] == 1 for _, calls in batches):
        read = torch.cat([calls[0].patches(0, n)[..., 0] for n, calls in batches]).movedim(1, 0)  # (groups, N, d)
        back = torch.cat([calls[0].gradient[..., 0] for _, calls in batches]).movedim(1, 0)
        gram += ((read @ read.mT) * (back @ back.mT)).sum(dim=0).to(gram)
        return
    groups, _, d = term.layers[0].weight().shape
    size = max(1, BLOCK // (len(gram) * groups * d))
    total = max((call.gradient.shape[2] for _, calls in batches for call in calls), default=0)
    for start in range(0, total, size):
        _add_sums(gram, term, held, partial(_weight_gradient, rows=slice(start, start + size)))


def _add_sums(gram: Tensor, term: _Term, held: _Held, of: Callable[[_Call], Tensor]) -> None:
    """Add the Gram matrix of vectors (n, ...), one a sample, each a sum over the calls of the term's layers."""
    sums = [(n, [of(call) for call in calls]) for n, calls in held.of(term)]
    first = next((parts[0] for _, parts in sums if parts), None)
    if first is None:
        return
    zero = first.new_zeros(1, first.shape[1])
    rows = torch.cat([sum(parts[1:], start=parts[0]) if parts else zero.expand(n, -1) for n, parts in sums])
    gram += (rows @ rows.mT).to(gram)


def _weight_gradient(call: _Call, rows: slice) -> Tensor:
    """Some rows, of all cotangents, of the weight gradient of every sample, summed over the positions of one call."""
    groups, _, d = call.layer.weight().shape
    step = max(1, BLOCK // (groups * d * call.gradient.shape[-1]))
    parts = [
        call.gradient[start : start + step, :, rows] @ call.patches(start, min(start + step, call.n)).mT
        for start in range(0, call.n, step)
    ]
    return torch.cat(parts).flatten(1)  # (n, groups * rows * d)
