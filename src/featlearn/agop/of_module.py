r"""AGOP of every layer of a torch module, as ``W^T K W``: no unfolded patch, no per-sample loop, no rewritten model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed.reduce import all_reduce_max, all_reduce_sum, rank_and_world
from ..exceptions import DataError, MixingError, UnmeasurableError
from ..linalg.psd import top_eigenvectors
from ..linalg.spectrum import Spectrum
from .accumulate import TangentKernel, accumulation_dtype, block_count
from .batches import Batch, Outputs, check_batches, flat_outputs, parse_batch, raw_outputs
from .layers import Layer, Rows, find_layers, resolve_layers, unwrap
from .probes import MAX_EXACT_PASSES, Probes, check_probes, compressed_cotangents, rademacher
from .taps import Tapped, Taps, guest

__all__ = ["LayerAGOP", "ModuleAGOP", "PatchAGOP", "agop_of_module", "patch_agop"]

WIDEST = 8192  # min(k, d) beyond which a layer's small matrices are not small any more
BATCHED_NUMBERS = 2**24  # gradients held at once by the vectorised walk
TOLERANCE = 0.03  # relative error of every AGOP that probes="auto" aims for


@dataclass(frozen=True, eq=False)
class LayerAGOP:
    r"""Weight and tangent kernel of one layer; its AGOP is ``G = W^T K W``.

    Attributes
    ----------
    weight : Tensor of shape (groups, k, d)
    tangent_kernel : Tensor of shape (groups, k, k) or None
        ``K``, mean over samples, sum over positions and outputs. None when it is ``isotropic * I``.
    basis : Tensor of shape (k, r) or None
        Orthonormal columns spanning those of W; then ``tangent_kernel`` is ``basis^T K basis`` of shape (1, r, r).
    isotropic : float or None
        Set for the model's last layer on its raw outputs, where K is the number of positions times the identity.
    n_samples : int
    patch_shape : tuple of int or None
        ``(channels / groups, *kernel)`` of a convolution.
    """

    name: str
    weight: Tensor
    tangent_kernel: Tensor | None
    n_samples: int
    basis: Tensor | None = None
    isotropic: float | None = None
    patch_shape: tuple[int, ...] | None = None

    def effective(self) -> tuple[Tensor, Tensor]:
        """Weight and kernel in the same coordinates, shapes (groups, r, d) and (groups, r, r)."""
        if self.tangent_kernel is None:
            assert self.isotropic is not None
            eye = torch.eye(self.weight.shape[1], dtype=self.weight.dtype, device=self.weight.device)
            return self.weight, self.isotropic * eye.expand(len(self.weight), -1, -1)
        weight = self.weight.to(self.tangent_kernel.dtype)
        return (weight if self.basis is None else self.basis.mT @ weight), self.tangent_kernel

    def agop(self) -> Tensor:
        """``W^T K W``, of shape (d, d), or (groups, d, d) for grouped convolutions."""
        if self.isotropic is not None:
            agop = self.isotropic * (self.weight.mT @ self.weight)
        else:
            weight, kernel = self.effective()
            agop = weight.mT @ kernel @ weight
        return agop[0] if len(agop) == 1 else agop

    def spectrum(self) -> Spectrum:
        """Eigenvalues of the AGOP over all groups, with their ranks."""
        return Spectrum(torch.linalg.eigvalsh(self.agop().double()).flatten().cpu().numpy())

    def merge(self, other: LayerAGOP) -> LayerAGOP:
        """The same layer over the samples of both measurements (of one unchanged model)."""
        if self.name != other.name or not torch.equal(self.weight, other.weight):
            raise DataError(
                f"Got AGOPs of {self.name!r} and {other.name!r}, but expected one layer with equal weights."
            )
        total = self.n_samples + other.n_samples
        kernel = None
        if self.tangent_kernel is not None and other.tangent_kernel is not None:
            kernel = (self.n_samples * self.tangent_kernel + other.n_samples * other.tangent_kernel) / total
        return LayerAGOP(self.name, self.weight, kernel, total, self.basis, self.isotropic, self.patch_shape)


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
        check_probes(self.probes)
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

    # --- one batch ----------------------------------------------------------------------------------------------------

    def add(self, batch: Batch, index: int) -> Tensor:
        """Measure one batch; returns its outputs, detached. A batch that fails midway leaves nothing behind."""
        with Taps(self.layers, on_gradient=self._receive, watched=self._heads) as taps:
            raw = taps.forward(lambda: raw_outputs(self.model, batch, self.outputs))
            outputs = flat_outputs(raw)
            self._n = len(outputs)
            if self.n_samples == 0 and not self.calls:
                self._first_batch(taps, raw, batch)
            taps.muted.update(self.isotropic)
            if not outputs.requires_grad:
                raise UnmeasurableError(
                    "Got outputs that do not depend on any measured layer through autograd. "
                    "Check for detach() or torch.no_grad() in the model, and the layers= chosen."
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

    # --- the first batch ----------------------------------------------------------------------------------------------

    def _first_batch(self, taps: Taps, raw: Tensor, batch: Batch) -> None:
        self._refuse_mixing(raw, batch)
        runs: dict[str, list[Tapped]] = {}
        for call in taps.calls:
            runs.setdefault(call.layer.name, []).append(call)
        for name, calls in runs.items():
            groups, k, _ = calls[0].layer.weight().shape
            total = sum(math.prod(call.shape) / (self._n * self._channels(call, groups * k)) for call in calls)
            self.calls[name], self.positions[name] = len(calls), total / len(calls)
            if len(calls) == 1 and calls[0].made(raw):
                self.isotropic[name] = total
        for layer in self.layers:
            if layer.name not in runs:
                self._leave_out(layer.name, taps.unseen.get(layer.name, "it never ran"))
        self._find_compression(taps, runs, raw)

    @staticmethod
    def _channels(call: Tapped, own: int) -> int:
        """Outputs of the whole module: those of the layer, unless it is some Rows of it."""
        rule, module = call.layer.rule, call.layer.module
        return own if call.layer.rows is None else math.prod(rule.matrix(module, rule.parameter(module)).shape[:2])

    def _leave_out(self, name: str, reason: str) -> None:
        if self.explicit:
            raise UnmeasurableError(f"Layer {name!r} cannot be measured: {reason}. Leave it out of layers=.")
        self.skipped[name] = reason

    def _find_compression(self, taps: Taps, runs: Mapping[str, list[Tapped]], raw: Tensor) -> None:
        if raw.dim() != 2:
            return
        for call in [*taps.calls, *taps.watched_calls]:
            layer = call.layer
            alone = len(runs.get(layer.name, [call])) == 1 and layer.rows is None and not layer.part
            if alone and layer.rule.kind in ("linear", "lora") and call.made(raw):
                self.head, self._head_weight = layer, layer.weight()[0]

    def _refuse_mixing(self, raw: Tensor, batch: Batch) -> None:
        """One forward of half the batch must give the same outputs: per-sample gradients exist only then."""
        n = len(raw)
        half = batch.part(self.model, 0, n // 2, n) if n > 1 else None
        if half is None:
            self.notes.append("independence of samples not checked: " + ("one sample" if n == 1 else "no sample axis"))
            return
        with torch.no_grad():
            part = raw_outputs(self.model, half, self.outputs)
        if part.shape[1:] != raw.shape[1:] or len(part) != n // 2:
            self.notes.append("independence of samples not checked: half a batch gave outputs of another shape")
            return
        full = raw.detach()[: n // 2].double()
        change = float((part.double() - full).norm() / full.norm().clamp_min(torch.finfo(torch.float64).tiny))
        if change > (1e-3 if raw.dtype in (torch.float32, torch.float64) else 5e-2):
            culprit = next(
                (
                    name
                    for name, module in self.model.named_modules()
                    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None
                ),
                None,
            )
            named = f" {culprit!r} normalises with batch statistics." if culprit else ""
            raise MixingError(
                f"Got outputs that change by {change:.1e} (relative) when half of the batch is left out, but expected "
                f"each sample's outputs to be its own.{named} Use running statistics, or a model whose samples do "
                "not interact."
            )

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
        for name, kernel in other.kernels.items():
            if name in self.kernels:
                self.kernels[name].merge(kernel)
            else:
                self.kernels[name] = kernel
        self.n_samples += other.n_samples
        self.passes += other.passes
        return self

    def reduce(self) -> None:
        """Sum over the processes of ``group``: afterwards every rank holds the whole."""
        if self.group is None:
            return
        for layer in self.layers:
            if layer.name in self.kernels:
                kernel = self.kernels[layer.name]
                all_reduce_sum(kernel.sums, self.group)
                all_reduce_sum(kernel.samples, self.group)
        counts = torch.tensor([self.n_samples, self.passes])
        all_reduce_sum(counts, self.group)
        self.n_samples, self.passes = int(counts[0]), int(counts[1])

    def finalize(self) -> dict[str, LayerAGOP]:
        """Weight and kernel of every layer that the outputs depend on, in the order in which they ran."""
        by_name = {layer.name: layer for layer in self.layers}
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
    n_batches = len(batches) * world if isinstance(batches, Sized) else None
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


@dataclass(frozen=True, eq=False)
class PatchAGOP:
    """Patch AGOP of a convolution over all its input channels: ``matrix`` of shape (c * kernel, c * kernel)."""

    matrix: Tensor
    patch_shape: tuple[int, ...]

    def images(self, top: int = 8) -> Tensor:
        """Top eigenvectors as patches (top, c, *kernel), largest eigenvalue first, largest entry positive."""
        return top_eigenvectors(self.matrix, top)[1].mT.reshape(-1, *self.patch_shape)


def patch_agop(layer_agop: LayerAGOP) -> PatchAGOP:
    """Patch AGOP of a convolution; the groups of a grouped one stand on the diagonal.

    Parameters
    ----------
    layer_agop : LayerAGOP
        From :func:`agop_of_module`.

    Returns
    -------
    PatchAGOP
        ``.matrix`` and ``.images(top)``.

    Raises
    ------
    UnmeasurableError
        When the layer is no convolution.
    """
    if layer_agop.patch_shape is None:
        raise UnmeasurableError(f"Got {layer_agop.name!r}, which is no convolution. Use .agop() for linear layers.")
    agop = layer_agop.agop()
    blocks = [agop] if agop.dim() == 2 else list(agop)
    channels, *kernel = layer_agop.patch_shape
    return PatchAGOP(torch.block_diag(*blocks), (channels * len(blocks), *kernel))
