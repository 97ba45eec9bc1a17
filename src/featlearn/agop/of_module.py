r"""AGOP of every layer of a torch module, as ``W^T K W``: no unfolded patch, no per-sample loop, no rewritten model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed.reduce import all_gather, all_reduce_max, all_reduce_sum, rank_and_world
from ..exceptions import DataError, UnmeasurableError
from .accumulate import TangentKernel, accumulation_dtype, block_count
from .assumptions import ONE_SAMPLE, departure, forward_is_known, refuse_mixing
from .batches import Batch, Outputs, check_batches, check_outputs, count_batches, flat_outputs, parse_batch, raw_outputs
from .finding import find_layers, resolve_layers, unwrap
from .layer_agop import LayerAGOP, PatchAGOP, patch_agop
from .layers import Layer, Rows
from .probes import MAX_EXACT_PASSES, Probes, check_probes, check_random_state, compressed_cotangents, rademacher
from .taps import Tapped, Taps, guest

__all__ = ["LayerAGOP", "ModuleAGOP", "PatchAGOP", "agop_of_module", "patch_agop"]

WIDEST = 8192  # min(k, d) beyond which a layer's small matrices are not small any more
BATCHED_NUMBERS = 2**20  # gradients held at once by the vectorised walk; on a CPU larger walks gain nothing
TOLERANCE = 0.03  # relative error of every AGOP that probes="auto" aims for


@dataclass(eq=False)
class ModuleAGOP:
    """Accumulator of the tangent kernels of many layers: ``add(batch, index)``, ``merge(other)``, ``finalize()``.

    To be used inside ``guest(model)``. ``jackknife=True`` keeps the blocks that standard errors need.
    """

    model: nn.Module
    layers: Sequence[Layer]
    explicit: bool = False
    outputs: Outputs = "logits"
    probes: Probes = "exact"
    random_state: int = 0
    n_batches: int | None = None
    n_samples_hint: int | None = None
    jackknife: bool = False
    references: Mapping[str, Tensor] = field(default_factory=dict)
    reduce_coordinates: bool = True
    group: Any = None

    kernels: dict[str, TangentKernel] = field(default_factory=dict, init=False)
    isotropic: dict[str, float] = field(default_factory=dict, init=False)
    positions: dict[str, float] = field(default_factory=dict, init=False)
    calls: dict[str, int] = field(default_factory=dict, init=False)
    skipped: dict[str, str] = field(default_factory=dict, init=False)
    notes: list[str] = field(default_factory=list, init=False)
    passes: int = field(default=0, init=False)
    n_samples: int = field(default=0, init=False)
    probes_used: int | str | None = field(default=None, init=False)
    compressed: bool = field(default=False, init=False)
    batched: str = field(default="not needed", init=False)
    head: Layer | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.probes, self.random_state = check_probes(self.probes), check_random_state(self.random_state)
        check_outputs(self.outputs)
        narrow = [layer for layer in self.layers if min(layer.weight().shape[1:]) <= WIDEST]
        for layer in self.layers:
            if layer not in narrow:
                reason = f"its smaller side {min(layer.weight().shape[1:])} is above {WIDEST}"
                if self.explicit:
                    raise UnmeasurableError(
                        f"Layer {layer.name!r} cannot be measured: {reason}. Choose some of its Rows."
                    )
                self.skipped[layer.name] = reason
        self.layers = narrow
        measured = {id(layer.module) for layer in narrow}
        self._heads = [layer for layer in find_layers(self.model)[0].values() if id(layer.module) not in measured]
        self._cotangents: Tensor | None = None
        self._head_weight: Tensor | None = None
        self._block = self._half = self._n = 0
        self._seen: list[tuple[int, int]] = []  # index and samples of every batch that is complete
        self._unseen: dict[str, str] = {}
        self._verified: set[str] = set()
        self._unchecked: str | None = None  # why it is not known whether samples interact

    # --- one batch ----------------------------------------------------------------------------------------------------

    def add(self, batch: Batch, index: int) -> Tensor:
        """Measure one batch; returns its outputs, detached. A batch that fails midway leaves nothing behind."""
        with Taps(self.layers, self._receive, self._verify, watched=self._heads) as taps:
            raw = taps.forward(lambda: raw_outputs(self.model, batch, self.outputs))
            outputs = flat_outputs(raw)
            self._n = len(outputs)
            positions = self._look(taps, raw)
            self._check_mixing(raw, batch)
            taps.muted.update(self.isotropic, self.skipped)
            if not outputs.requires_grad:
                names = ", ".join(repr(layer.name) for layer in self.layers[:5])
                reasons = "".join(f" {name!r}: {reason}." for name, reason in list(self._unseen.items())[:5])
                raise UnmeasurableError(
                    f"Got outputs that do not depend on the measured layers {names} through autograd.{reasons} Check "
                    "for detach() or torch.no_grad() in the model, and the layers= chosen."
                )
            if self.probes_used is None:
                self.probes_used = self._choose_probes(taps, outputs, index)
            try:
                self._backward(taps, outputs, index)
            except BaseException:
                for kernel in self.kernels.values():
                    kernel.drop(index % kernel.blocks)
                raise
        for kernel in self.kernels.values():
            kernel.count(self._n, block=index % kernel.blocks)
        self._seen.append((index, self._n))
        for name, here in positions.items():  # batches may be of different lengths
            self.isotropic[name] += (here - self.isotropic[name]) * self._n / (self.n_samples + self._n)
        self.n_samples += self._n
        return raw.detach()

    def _receive(self, layer: Layer, gradient: Tensor) -> None:
        kernel = self._kernel(layer, gradient)
        kernel.add(layer.output(gradient, self._n), block=self._block % kernel.blocks, half=self._half)

    def _kernel(self, layer: Layer, gradient: Tensor) -> TangentKernel:
        if layer.name not in self.kernels:
            groups, k, _ = layer.weight().shape
            halves = 2 if isinstance(self.probes_used, int) and self.probes_used >= 2 else 1
            self.kernels[layer.name] = TangentKernel(
                groups,
                k,
                blocks=block_count(k, self.n_batches, halves=halves) if self.jackknife else 1,
                halves=halves,
                basis=self._basis(layer, gradient) if self.reduce_coordinates else None,
                dtype=accumulation_dtype(gradient.dtype),
                device=gradient.device,
            )
            self.kernels[layer.name].probes = self._probes_per_half(halves)
            for index, n in self._seen:  # a layer that runs for some batches only has zero gradients in the others
                self.kernels[layer.name].count(n, block=index % self.kernels[layer.name].blocks)
        return self.kernels[layer.name]

    def _probes_per_half(self, halves: int) -> list[int]:
        if not isinstance(self.probes_used, int):
            return [1]
        return [len(range(half, self.probes_used, halves)) for half in range(halves)]

    def _basis(self, layer: Layer, gradient: Tensor) -> Tensor | None:
        """Orthonormal basis of the columns of W (and of the reference) when that saves work: k much above d."""
        weight = layer.weight().to(device=gradient.device, dtype=accumulation_dtype(gradient.dtype))
        columns = weight[0]
        if layer.name in self.references:
            columns = torch.cat([columns, self.references[layer.name][0].to(columns)], dim=1)
        k, width = columns.shape
        if len(weight) > 1 or k <= 1024 or k <= 1.618 * width:
            return None
        return torch.linalg.qr(columns)[0]

    # --- what ran -----------------------------------------------------------------------------------------------------

    def _verify(self, layer: Layer, tensor: Tensor, output: Tensor) -> None:
        """At a layer's first call: is its output what its rule says?"""
        if layer.name not in self._verified:
            self._verified.add(layer.name)
            reason = departure(layer, tensor, output)
            if reason:
                self._leave_out(layer.name, reason)

    def _look(self, taps: Taps, raw: Tensor) -> dict[str, float]:
        """Which layers ran, and which of them made the outputs; returns the positions of the latter."""
        if taps.calls and taps.calls[0].anchor is None:
            raise UnmeasurableError(
                f"Got a gradient path that passes layer {taps.calls[0].layer.name!r} and ends in a tensor that is no "
                "parameter of the model. Detach that tensor, or register it as a parameter."
            )
        self._unseen = {**taps.unseen, **self._unseen}
        runs: dict[str, list[Tapped]] = {}
        for call in taps.calls:
            if call.layer.name not in self.skipped:
                runs.setdefault(call.layer.name, []).append(call)
        made = {}
        for name, calls in runs.items():
            groups, k, _ = calls[0].layer.weight().shape
            total = sum(math.prod(call.shape) / (self._n * self._channels(call, groups * k)) for call in calls)
            self.calls.setdefault(name, len(calls))
            self.positions.setdefault(name, total / len(calls))
            if len(calls) == 1 and calls[0].made(raw):
                made[name] = total
        head = self._find_head(taps, runs, raw)
        if not self._seen:
            self.head, self.isotropic = head, dict(made)
            self._head_weight = None if head is None else head.weight()[0]
        elif head is not self.head or made.keys() != self.isotropic.keys():
            raise UnmeasurableError(
                "Got outputs that another layer made than in the first batch. Measure such outputs one by one, with "
                "outputs= a function that selects them."
            )
        return made

    def _check_mixing(self, raw: Tensor, batch: Batch) -> None:
        """On the first batch that has more than one sample."""
        if self._unchecked is None or (self._unchecked == ONE_SAMPLE and self._n > 1):
            self._unchecked = refuse_mixing(self.model, batch, raw, self.outputs)
            told = "independence of samples not checked: "
            self.notes = [note for note in self.notes if not note.startswith(told)]
            if self._unchecked:
                self.notes.append(told + self._unchecked)

    @staticmethod
    def _channels(call: Tapped, own: int) -> int:
        """Outputs of the whole module: those of the layer, unless it is some Rows of it."""
        layer = call.layer
        return own if layer.rows is None else math.prod(layer.rule.matrix(layer.module, layer.parameter()).shape[:2])

    def _leave_out(self, name: str, reason: str) -> None:
        if self.explicit:
            raise UnmeasurableError(f"Layer {name!r} cannot be measured: {reason}. Leave it out of layers=.")
        self.skipped[name] = reason

    @staticmethod
    def _find_head(taps: Taps, runs: Mapping[str, list[Tapped]], raw: Tensor) -> Layer | None:
        """The linear layer whose output is ``raw`` itself, if there is one: its rank bounds the passes."""
        if raw.dim() != 2:
            return None
        alone = [calls[0] for calls in runs.values() if len(calls) == 1]
        for call in [*alone, *(call for call in taps.watched_calls if forward_is_known(call.layer.module))]:
            layer = call.layer
            whole = layer.rows is None and not layer.part
            if whole and layer.rule.kind in ("linear", "lora") and call.made(raw):
                return layer
        return None

    # --- passes -------------------------------------------------------------------------------------------------------

    def _exact_passes(self, outputs: Tensor) -> int:
        if self._head_weight is not None and self._cotangents is None:
            self._cotangents = compressed_cotangents(self._head_weight)
            self.compressed = self._cotangents is not None
        return outputs.shape[1] if self._cotangents is None else len(self._cotangents)

    def _choose_probes(self, taps: Taps, outputs: Tensor, index: int) -> int | str:
        if isinstance(self.probes, int):
            return self.probes
        exact = outputs.shape[1] if self._head_weight is None else min(outputs.shape[1], self._head_weight.shape[1])
        if self.probes == "auto":
            wanted = self._pilot(taps, outputs, index)
            if wanted < exact:
                return wanted
        if exact > MAX_EXACT_PASSES:
            raise DataError(
                f"Got {exact} outputs a sample, one backward pass each, but expected at most {MAX_EXACT_PASSES}. "
                "Pass probes='auto' or probes=8, or outputs= that selects fewer."
            )
        return "exact"

    def _pilot(self, taps: Taps, outputs: Tensor, index: int) -> int:
        """Probes for a relative error of 0.03 in every AGOP, from two probes on the first batch."""
        if self.n_samples_hint is None and self.n_batches is None:
            raise DataError(
                "Got probes='auto' and batches without a length. Pass an integer number of probes, or a list."
            )
        total = self.n_samples_hint or self.n_batches * self._n  # type: ignore[operator]
        self.probes_used, jackknife, self.jackknife = 2, self.jackknife, False
        self._probe_passes(taps, outputs, index, range(2), last=False)
        errors = [
            _single_probe_error(layer, self.kernels[layer.name]) for layer in self.layers if layer.name in self.kernels
        ]
        self.kernels.clear()
        self.probes_used, self.jackknife = None, jackknife
        worst = max((error for error in errors if error == error), default=0.0)
        needed = all_reduce_max(worst * self._n / (total * TOLERANCE**2), self.group)
        return max(1, math.ceil(min(needed, 2.0**31)))

    def _backward(self, taps: Taps, outputs: Tensor, index: int) -> None:
        self._block = index
        if all(call.layer.name in self.isotropic for call in taps.calls):
            return  # nothing to learn from a gradient
        if isinstance(self.probes_used, int):
            self._probe_passes(taps, outputs, index, range(self.probes_used), last=True)
            return
        passes = self._exact_passes(outputs)
        start = self._batched_passes(taps, outputs, passes)
        self._half = 0
        for j in range(start, passes):
            taps.backward(outputs, self._cotangent(outputs, j), retain=j + 1 < passes)
            self.passes += 1

    def _cotangent(self, outputs: Tensor, j: int) -> Tensor:
        if self._cotangents is not None:
            return self._cotangents[j].to(outputs).expand_as(outputs)
        unit = torch.zeros_like(outputs)
        unit[:, j] = 1
        return unit

    def _probe_passes(self, taps: Taps, outputs: Tensor, index: int, probes: range, *, last: bool) -> None:
        self._block = index
        for probe in probes:
            self._half = probe % 2 if self.probes_used != 1 else 0
            signs = rademacher(self.random_state, index, probe, *outputs.shape)
            taps.backward(outputs, signs.to(outputs), retain=not last or probe + 1 < len(probes))
            self.passes += 1

    def _batched_passes(self, taps: Taps, outputs: Tensor, passes: int) -> int:
        """Pull several cotangents at once while the gradients are small; returns how many passes were done so."""
        chunk = min(passes, 16)
        live = [call for call in taps.calls if call.layer.name not in self.isotropic]
        if chunk < 2 or sum(math.prod(c.shape) for c in live) * chunk > BATCHED_NUMBERS or ":" in self.batched:
            return 0
        for start in range(0, passes, chunk):
            stop = min(start + chunk, passes)
            stack = torch.stack([self._cotangent(outputs, j) for j in range(start, stop)])
            try:
                pulled = taps.batched(outputs, stack)
            except RuntimeError as error:  # an operation without a batching rule: nothing was counted yet
                self.batched = f"unsupported: {str(error).splitlines()[0][:120]}"
                return start
            for call, gradients in pulled:
                kernel = self._kernel(call.layer, gradients)
                kernel.add(_stacked_outputs(call.layer, gradients, self._n), block=self._block % kernel.blocks)
            self.passes += stop - start
        self.batched = f"{chunk} cotangents at once"
        return passes

    # --- results ------------------------------------------------------------------------------------------------------

    def merge(self, other: ModuleAGOP) -> ModuleAGOP:
        """Add what another accumulator of the same model, layers and options has seen; returns self."""
        if self.probes_used != other.probes_used:
            raise DataError(f"Got probes {self.probes_used} and {other.probes_used}, but expected the same number.")
        for layer in self.layers:
            if layer.name in self.kernels or layer.name in other.kernels:
                self._kernel(layer, layer.weight()).merge(other._kernel(layer, layer.weight()))
            if layer.name in other.calls:
                self.calls.setdefault(layer.name, other.calls[layer.name])
                self.positions.setdefault(layer.name, other.positions[layer.name])
        if self.n_samples and other.n_samples and self.isotropic.keys() != other.isotropic.keys():
            raise DataError("Got measurements of outputs that different layers made, but expected the same outputs.")
        for name, positions in other.isotropic.items():
            own = self.isotropic.get(name, 0.0) * self.n_samples
            self.isotropic[name] = (own + positions * other.n_samples) / (self.n_samples + other.n_samples)
        self._seen += other._seen
        self.n_samples += other.n_samples
        self.passes += other.passes
        return self

    def reduce(self) -> None:
        """Sum over the processes of ``group``: afterwards every rank holds the whole."""
        if self.group is None:
            return
        ran = all_gather((self.calls, self.positions, list(self.kernels)), self.group)
        # A layer that ran on some ranks only takes part on all of them; in rank order, so that all ranks agree.
        self.calls, self.positions = {}, {}
        for calls, positions, _ in ran:
            self.calls |= {name: count for name, count in calls.items() if name not in self.calls}
            self.positions |= {name: count for name, count in positions.items() if name not in self.positions}
        for layer in self.layers:
            if any(layer.name in kernels for _, _, kernels in ran):
                kernel = self._kernel(layer, layer.weight())
                all_reduce_sum(kernel.sums, self.group)
                all_reduce_sum(kernel.samples, self.group)
        sums = torch.tensor([1.0, *self.isotropic.values()], dtype=torch.float64) * self.n_samples
        counts = torch.tensor([self.n_samples, self.passes])
        all_reduce_sum(sums, self.group)
        all_reduce_sum(counts, self.group)
        self.n_samples, self.passes = int(counts[0]), int(counts[1])
        self.isotropic = dict(zip(self.isotropic, (sums[1:] / sums[0]).tolist(), strict=True))

    def finalize(self) -> dict[str, LayerAGOP]:
        """Weight and kernel of every layer that the outputs depend on, in the order in which they ran."""
        by_name = {layer.name: layer for layer in self.layers}
        for layer in self.layers:
            if layer.name not in self.calls and layer.name not in self.skipped:
                self._leave_out(layer.name, self._unseen.get(layer.name, "it never ran"))
        results = {}
        for name in self.calls:
            layer = by_name[name]
            kernel = self.kernels.get(name)
            if name in self.isotropic:
                results[name] = LayerAGOP(
                    name,
                    layer.weight(),
                    None,
                    self.n_samples,
                    isotropic=self.isotropic[name],
                    patch_shape=layer.rule.patch_shape(layer.module),
                )
            elif kernel is None or kernel.n_samples == 0:
                self._leave_out(name, "no gradient reached it: the outputs do not depend on it")
            else:
                results[name] = LayerAGOP(
                    name,
                    layer.weight(),
                    kernel.finalize(),
                    kernel.n_samples,
                    basis=kernel.basis,
                    patch_shape=layer.rule.patch_shape(layer.module),
                )
        return results


def _stacked_outputs(layer: Layer, gradients: Tensor, n: int) -> Tensor:
    """Gradients (m, *output) of m cotangents as (m n, groups * k, P), a view where the first axis can be merged."""
    one = layer.output(gradients[0], n)
    whole = layer.output(gradients.flatten(0, 1), n * len(gradients))
    if whole.shape == (len(gradients) * len(one), *one.shape[1:]):
        return whole
    # A call without a batch axis (one image, one vector): its first axis is not that of the samples.
    return torch.cat([layer.output(gradient, n) for gradient in gradients])


def _single_probe_error(layer: Layer, kernel: TangentKernel) -> float:
    """Squared relative error of the AGOP from one probe on one batch, from two independent ones; inf if unknown."""
    weight = layer.weight().to(kernel.sums)
    weight = weight if kernel.basis is None else kernel.basis.mT @ weight
    gram = weight @ weight.mT
    first, second = kernel.sums.sum(dim=1).unbind(0)
    shared = float((gram @ first @ gram * second).sum())
    apart = float((gram @ (first - second) @ gram * (first - second)).sum())
    if apart == 0:
        return math.nan  # no gradient, or no noise: says nothing of the number of probes
    return 0.5 * apart / shared if shared > 0 else math.inf


def agop_of_module(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: str | Rows | Sequence[str | Rows] = "auto",
    outputs: Outputs = "logits",
    probes: Probes = "exact",
    random_state: int = 0,
    group: Any = None,
) -> dict[str, LayerAGOP]:
    r"""AGOP of every linear, convolution and attention layer of a model, in one pass over the data.

    .. math:: G = W^\top K W, \qquad K = \frac{1}{n} \sum_i \sum_p \sum_c g_{ipc}\, g_{ipc}^\top, \qquad
              g_{ipc} = \partial f_c(x_i) / \partial h_{ip}

    Parameters
    ----------
    model : torch.nn.Module
        Used in evaluation mode and given back exactly as it was.
    batches : iterable
        Tensors, tuples ``(x, y, ...)`` or mappings; read once.
    layers : "auto", names, globs or Rows
        What to measure; "auto" is every supported layer that runs.
    outputs : "logits" or callable
        ``(model, batch) -> tensor (n, ...)`` replaces the model's own outputs.
    probes : "exact", "auto" or int
        Every output, or random projections (their number chosen for a relative error of 0.03).
    random_state : int
        Seed of the probes.
    group : torch.distributed group, optional
        Processes that hold different batches; every rank gets the same result.

    Returns
    -------
    dict of str to LayerAGOP
        In the order in which the layers ran.

    Raises
    ------
    DataError, ModelError, UnmeasurableError, MixingError
        Each says what was got, what was expected and what to do.

    Notes
    -----
    Floor: one forward and C backward passes down to the lowest measured layer, and ``2 n C P k^2`` flops a layer; in
    probe mode the number of probes stands for C. Memory: activations of one batch and ``k^2`` numbers a layer,
    whatever the number of samples and outputs.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> agops = agop_of_module(model, torch.randn(64, 3).split(16))
    >>> agops["0"].agop().shape
    torch.Size([3, 3])
    """
    model = unwrap(model)
    chosen, _, explicit = resolve_layers(model, layers)
    rank, world = rank_and_world(group)
    n_batches = count_batches(batches, world)
    accumulator = ModuleAGOP(model, chosen, explicit, outputs, probes, random_state, n_batches=n_batches, group=group)
    with guest(model):
        seen = 0
        for i, batch in enumerate(check_batches(batches)):
            accumulator.add(parse_batch(batch, model, i), i * world + rank)
            seen += 1
        if not seen:
            raise DataError("Got no batches, but expected at least one. A generator can be read only once.")
        accumulator.reduce()
        return accumulator.finalize()
