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

from ..agop.accumulate import accumulation_dtype
from ..agop.batches import Outputs, flat_outputs, raw_outputs
from ..agop.layers import Layer
from ..agop.probes import MAX_EXACT_PASSES, rademacher
from ..agop.taps import Taps
from ..exceptions import DataError, MixingError, UnmeasurableError
from .samples import Samples, by_sample, mixed_layers

__all__ = ["tangent_gram"]

HELD = 2**27  # numbers of inputs and gradients held at once
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
        From :func:`featlearn.measure.samples.take_samples`.
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
    all layers fit into 2^27 numbers, and again for each further group of layers or outputs. ``n^2 k d`` flops a layer
    and output beside these; ``n^2 (d + k)`` with one position.
    """
    sizes, width = _survey(model, samples, layers, outputs, explicit)
    cotangents = _Cotangents.of(width, probes, random_state)
    terms = _terms([layer for layer in layers if layer.name in sizes])
    total = sum(n for _, n in samples)
    gram = torch.zeros(total, total, dtype=torch.float64, device=next(iter(model.parameters())).device)
    for group, chunk in _plan(terms, sizes, total, cotangents.passes):
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
class _Cotangents:
    """Vectors over the outputs, each made when needed: the unit vectors, or random signs shared by all samples."""

    passes: int
    width: int
    exact: bool
    random_state: int

    @classmethod
    def of(cls, width: int, probes: int | str, random_state: int) -> _Cotangents:
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
) -> tuple[dict[str, tuple[int, int]], int]:
    """Numbers a sample of each layer's inputs and outputs, and the number of outputs."""
    batch, n = samples[0]
    inputs: dict[str, int] = {}
    sizes: dict[str, tuple[int, int]] = {}

    def measure(layer: Layer, tensor: Tensor, output: Tensor) -> None:
        inputs[layer.name] = inputs.get(layer.name, 0) + tensor.numel()

    with Taps(layers, on_forward=measure) as taps:
        flat = _run(taps, partial(raw_outputs, model, batch, outputs))
        for layer in layers:
            calls = [call for call in taps.calls if call.layer is layer]
            if not calls and explicit:
                why = taps.unseen.get(layer.name, "it never ran")
                raise UnmeasurableError(f"Layer {layer.name!r} cannot be measured: {why}. Leave it out of layers=.")
            if calls:
                sizes[layer.name] = inputs[layer.name] // n, sum(call.shape.numel() for call in calls) // n
    return sizes, flat.shape[1]


def _run(taps: Taps, run: Callable[[], Tensor]) -> Tensor:
    flat = flat_outputs(taps.forward(run))
    if not flat.requires_grad:
        raise UnmeasurableError(
            "Got outputs that do not depend on any measured layer through autograd. Check for detach() or "
            "torch.no_grad() in the model, and the layers= chosen."
        )
    return flat


def _refuse_mixing(taps: Taps, flat: Tensor, n: int) -> None:
    mixed = mixed_layers(taps.calls, flat, n) if n > 1 else []
    if mixed:
        raise MixingError(
            f"Got outputs of one sample that depend on rows of layer {mixed[0]!r} that are read as other samples', but "
            "a kernel between samples needs each sample's own. Use running statistics in BatchNorm, keep the samples "
            "on the first axis, or leave the layer out of layers=."
        )


def _plan(
    terms: Sequence[_Term], sizes: dict[str, tuple[int, int]], n: int, passes: int
) -> list[tuple[list[_Term], int]]:
    """Groups of terms, and how many cotangents at once, so that what is held stays within the budget."""
    budget = HELD // n
    inputs = sum(size for size, _ in sizes.values())
    gradients = max(1, sum(size for _, size in sizes.values()))
    if inputs + gradients <= budget:
        return [(list(terms), max(1, min(passes, (budget - inputs) // gradients)))]
    groups: list[list[_Term]] = []
    held: set[str] = set()
    for term in terms:
        names = {layer.name for layer in term.layers}
        if not names <= held and (not groups or sum(sum(sizes[name]) for name in held | names) > budget):
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
    gradient: Tensor  # (cotangents, n, groups, k, P)

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
    cotangents: _Cotangents,
    some: range,
) -> _Held:
    held = _Held()
    inputs: list[Tensor] = []

    def keep(layer: Layer, tensor: Tensor, output: Tensor) -> None:
        inputs.append(tensor.clone())  # frozen layers keep no inputs, so the model may overwrite this one in place

    for batch, n in samples:
        inputs.clear()
        with Taps(layers, on_forward=keep) as taps:
            flat = _run(taps, partial(raw_outputs, model, batch, outputs))
            if flat.shape != (n, cotangents.width):
                wanted = (n, cotangents.width)
                raise DataError(f"Got outputs of shape {tuple(flat.shape)}, but expected {wanted} as before.")
            if some.start == 0:
                _refuse_mixing(taps, flat, n)
            edges = [call.edge for call in taps.calls]
            pulled = [
                torch.autograd.grad(
                    flat, edges, cotangents.like(flat, j), retain_graph=j + 1 < some.stop, allow_unused=True
                )
                for j in some
            ]
            found: dict[str, list[_Call]] = {}
            for call, tensor, gradients in zip(taps.calls, inputs, zip(*pulled, strict=True), strict=True):
                if any(gradient is not None for gradient in gradients):
                    zero = torch.zeros(call.shape, dtype=call.dtype, device=flat.device)
                    full = [zero if gradient is None else gradient for gradient in gradients]
                    found.setdefault(call.layer.name, []).append(_call(call.layer, n, tensor, full))
        held.sizes.append(n)
        held.calls.append(found)
    return held


def _call(layer: Layer, n: int, tensor: Tensor, gradients: Sequence[Tensor]) -> _Call:
    groups, _, d = layer.weight().shape
    rows = torch.stack([by_sample(layer.output(gradient, n), n, layer.name) for gradient in gradients])
    gradient = rows.unflatten(2, (groups, -1))  # (m, n, groups, k, P)
    dtype = accumulation_dtype(tensor.dtype)
    unfolded = n * groups * d * gradient.shape[-1] <= tensor.numel()
    if unfolded:
        tensor = by_sample(layer.patches(tensor, n), n, layer.name)
    return _Call(layer, n, tensor.to(dtype), unfolded, gradient.to(dtype))


# --- inner products ---------------------------------------------------------------------------------------------------


def _add_bias(gram: Tensor, term: _Term, held: _Held) -> None:
    batches = held.of(term)
    first = next((calls[0] for _, calls in batches if calls), None)
    if first is None:
        return
    zero = first.gradient.new_zeros(first.gradient.shape[0], 1, first.gradient.shape[2] * first.gradient.shape[3])
    sums = [
        sum((call.gradient.sum(dim=-1).flatten(2) for call in calls), start=zero.expand(-1, n, -1))
        for n, calls in batches
    ]  # (cotangents, n, groups * k)
    rows = torch.cat(sums, dim=1).movedim(0, 1).flatten(1)
    gram += (rows @ rows.mT).to(gram)


def _add_weight(gram: Tensor, term: _Term, held: _Held) -> None:
    batches = held.of(term)
    first = next((calls[0] for _, calls in batches if calls), None)
    if first is None:
        return
    if all(len(calls) == 1 and calls[0].gradient.shape[-1] == 1 for _, calls in batches):
        inputs = torch.cat([calls[0].patches(0, n)[..., 0] for n, calls in batches])  # (N, groups, d)
        gradients = torch.cat([calls[0].gradient[..., 0].movedim(0, 2).flatten(2) for _, calls in batches])
        read, back = inputs.movedim(1, 0), gradients.movedim(1, 0)  # back: (groups, N, cotangents * k)
        gram += ((read @ read.mT) * (back @ back.mT)).sum(dim=0).to(gram)
        return
    groups, k, d = term.layers[0].weight().shape
    size = max(1, BLOCK // (len(gram) * groups * d))
    for cotangent in range(len(first.gradient)):
        for start in range(0, k, size):
            rows = slice(start, min(start + size, k))
            zero = first.gradient.new_zeros(1, groups, rows.stop - start, d)
            parts = [
                sum((_weight_gradient(call, cotangent, rows) for call in calls), start=zero.expand(n, -1, -1, -1))
                for n, calls in batches
            ]
            block = torch.cat(parts).flatten(1)
            gram += (block @ block.mT).to(gram)


def _weight_gradient(call: _Call, cotangent: int, rows: slice) -> Tensor:
    """Some rows of the weight gradient of every sample, summed over the positions of one call: (n, groups, rows, d)."""
    groups, _, d = call.layer.weight().shape
    step = max(1, BLOCK // (groups * d * call.gradient.shape[-1]))
    return torch.cat(
        [
            call.gradient[cotangent, start : start + step, :, rows] @ call.patches(start, min(start + step, call.n)).mT
            for start in range(0, call.n, step)
        ]
    )
