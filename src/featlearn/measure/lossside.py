r"""Loss-side measures: gradients of a loss in place of gradients of outputs, from one ordinary backward pass a batch.

With ``g[i, p] = n_b dL/dh[i, p]`` (the gradient of sample i's own loss), :math:`G_b = \frac{1}{n}\sum g g^\top`,
:math:`H_b = \frac{1}{n}\sum h h^\top` (without bias), :math:`H_a` the second moment of the layer's input, and
:math:`N = dL/dW` over the whole data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..agop.accumulate import TangentKernel, accumulation_dtype
from ..agop.batches import Batch, Outputs, raw_outputs
from ..agop.layers import LORA, Layer
from ..agop.losses import Loss, checked_loss
from ..agop.taps import Taps
from ..distributed.reduce import all_gather, all_reduce_sum
from ..exceptions import DataError
from .coordinates import combine

__all__ = ["RELATIONS", "LossSide", "check_loss", "fact"]

NAN = float("nan")
WIDEST_INPUT = 2048  # inputs of one group up to which their second moment (d x d) is kept
UNFOLDED = 16  # samples whose patches exist at once
RELATIONS = ("out_hg", "out_hw", "out_gw", "in_hg", "in_hw", "in_gw")


def check_loss(loss: object) -> None:
    """Refuse what cannot be called."""
    if not callable(loss):
        raise DataError(f"Got loss={loss!r}, but expected a function (outputs, targets) -> mean over the batch.")


@dataclass(eq=False)
class Moment:
    """Second moment of vectors (mean over samples, sum over positions), unit-norm or about their mean on request."""

    kernel: TangentKernel
    total: Tensor
    vectors: int = 0
    normalize: bool = False
    center: bool = False

    @classmethod
    def empty(cls, groups: int, size: int, like: Tensor, *, normalize: bool = False, center: bool = False) -> Moment:
        """Of vectors of ``groups * size`` entries, a block for each group."""
        dtype = accumulation_dtype(like.dtype)
        kernel = TangentKernel(groups, size, dtype=dtype, device=like.device)
        kernel.probes = [1]
        total = torch.zeros(groups * size, dtype=dtype, device=like.device)
        return cls(kernel, total, normalize=normalize, center=center)

    def add(self, vectors: Tensor, n: int = 0) -> None:
        """Vectors (n, groups * size, P); ``n`` more samples are then complete."""
        vectors = vectors.to(self.total.dtype)
        if self.normalize:
            apart = vectors.unflatten(1, (self.kernel.groups, -1))
            norms = apart.norm(dim=2, keepdim=True)
            vectors = (apart / torch.where(norms > 0, norms, 1.0)).flatten(1, 2)
        self.kernel.add(vectors)
        self.total += vectors.sum(dim=(0, 2))
        self.vectors += len(vectors) * vectors.shape[2]

    def reduce(self, group: Any) -> None:
        """Sum over processes."""
        if group is not None:
            counts = torch.tensor([self.vectors])
            for tensor in (self.kernel.sums, self.total, counts):
                all_reduce_sum(tensor, group)
            self.vectors = int(counts[0])

    def matrix(self, n: int) -> Tensor:
        """(groups, size, size)."""
        matrix = self.kernel.sums[0, 0] / n
        if self.center and self.vectors:
            means = self.total.reshape(len(matrix), -1) / self.vectors
            matrix = matrix - (self.vectors / n) * means.unsqueeze(2) * means.unsqueeze(1)
        return matrix


@dataclass(eq=False)
class LossSide:
    """Accumulator of everything a loss says of each layer; to be used inside ``guest(model)``.

    Parameters
    ----------
    model, layers, loss, outputs
        As in :func:`featlearn.measure_features`.
    normalize, center : bool
        Unit-norm vectors, moments about the mean.
    """

    model: nn.Module
    layers: Sequence[Layer]
    loss: Loss
    outputs: Outputs = "logits"
    normalize: bool = False
    center: bool = False

    def __post_init__(self) -> None:
        check_loss(self.loss)
        self.n_samples = 0
        self.total_loss = 0.0
        self.complete = True
        self.weight_gradients: dict[str, Tensor] = {}
        self.moments: dict[str, dict[str, Moment]] = {layer.name: {} for layer in self.layers}

    @property
    def mean_loss(self) -> float:
        """Mean loss over the samples seen."""
        return self.total_loss / self.n_samples if self.n_samples else NAN

    def add(self, batch: Batch) -> None:
        """One forward and one backward pass. When it fails midway, ``complete`` turns false."""
        self.complete = False
        n = 0

        def on_forward(layer: Layer, inputs: Tensor, output: Tensor) -> None:
            calls.append((layer, inputs, output.clone()))  # an in-place activation may come next

        def on_gradient(layer: Layer, gradient: Tensor) -> None:
            rows = layer.output(gradient, n) * n
            self._moment(layer, "g", layer.weight().shape[1], rows).add(rows)
            if self.normalize or self.center:
                weight = layer.weight().to(rows)
                with torch.autocast(rows.device.type, enabled=False):  # the caller's would give half precision
                    pulled = weight.mT @ rows.unflatten(1, (len(weight), -1))
                self._moment(layer, "Wg", weight.shape[2], rows).add(pulled.flatten(1, 2))

        calls: list[tuple[Layer, Tensor, Tensor]] = []
        modules = {id(layer.module): layer.module for layer in self.layers}
        with (
            _trainable(modules.values()),
            parametrize.cached(),
            Taps(self.layers, on_gradient=on_gradient, on_forward=on_forward) as taps,
        ):
            outputs = taps.forward(lambda: raw_outputs(self.model, batch, self.outputs))
            n = len(outputs)
            value = self._value(outputs, batch)
            weights = {layer.name: layer.parameter() for layer in self.layers if layer.rule is not LORA}
            distinct = {id(weight): weight for weight in weights.values() if weight.requires_grad}
            # The walk must pass the outputs of layers whose weight is made on the fly, or has no gradient, too.
            made = [layer.module for layer in self.layers if not layer.parameter().is_leaf]
            below = {id(p): p for module in made for p in module.parameters() if p.requires_grad}
            ends = [*distinct.values(), *below.values(), *taps.roots()]
            found = torch.autograd.grad(value, ends, allow_unused=True)
        gradients = dict(zip(distinct, found, strict=False))
        for layer in self.layers:
            gradient = gradients.get(id(weights.get(layer.name)))
            if gradient is not None:
                share = n * layer.matrix(gradient.detach()).to(accumulation_dtype(gradient.dtype))
                self.weight_gradients[layer.name] = self.weight_gradients.get(layer.name, 0) + share
        for layer, inputs, output in calls:
            rows, bias = layer.output(output, n), layer.bias()
            rows = rows if bias is None else rows - bias.detach()[:, None]
            self._moment(layer, "h", layer.weight().shape[1], rows).add(rows)
            self._add_inputs(layer, inputs, n)
        self.n_samples += n
        self.total_loss += n * float(value.detach())
        self.complete = True

    def _value(self, outputs: Tensor, batch: Batch) -> Tensor:
        if batch.targets is None:
            raise DataError(
                "Got loss= and a batch without targets. Pass (inputs, targets), or a mapping with 'labels'."
            )
        return checked_loss(self.loss(outputs, batch.targets))

    def _moment(self, layer: Layer, kind: str, size: int, like: Tensor) -> Moment:
        moments = self.moments[layer.name]
        if kind not in moments:
            groups = layer.weight().shape[0]
            moments[kind] = Moment.empty(groups, size, like, normalize=self.normalize, center=self.center)
        return moments[kind]

    def _add_inputs(self, layer: Layer, inputs: Tensor, n: int) -> None:
        d = layer.weight().shape[2]
        if d > WIDEST_INPUT:
            return
        convolution = layer.rule.patch_shape(layer.module) is not None
        pieces = inputs.split(UNFOLDED) if convolution and len(inputs) == n else [inputs]
        for piece in pieces:
            patches = layer.patches(piece, len(piece) if convolution else n)
            self._moment(layer, "x", d, patches).add(patches.flatten(1, 2))

    def reduce(self, group: Any) -> None:
        """Sum over the processes of ``group``."""
        if group is None:
            return
        sizes = {(name, kind): m.kernel.k for name, kinds in self.moments.items() for kind, m in kinds.items()}
        ran = all_gather((sizes, list(self.weight_gradients)), group)
        everywhere = {key: size for found, _ in ran for key, size in found.items()}
        for layer in self.layers:  # one that ran on some ranks only takes part on all of them
            weight = layer.weight()
            for kind, size in sorted((kind, size) for (name, kind), size in everywhere.items() if name == layer.name):
                self._moment(layer, kind, size, weight).reduce(group)
            if any(layer.name in names for _, names in ran):
                zero = torch.zeros_like(weight, dtype=accumulation_dtype(weight.dtype))
                total = self.weight_gradients.get(layer.name, zero).contiguous()  # slices and transposes cannot travel
                all_reduce_sum(total, group)
                self.weight_gradients[layer.name] = total
        totals = torch.tensor([float(self.n_samples), self.total_loss], dtype=torch.float64)
        all_reduce_sum(totals, group)
        self.n_samples, self.total_loss = int(totals[0]), float(totals[1])

    def weight_gradient(self, name: str) -> Tensor | None:
        """``N`` of shape (groups, k, d); ``None`` where no gradient with respect to the weight exists."""
        gradient = self.weight_gradients.get(name)
        return None if gradient is None else gradient / self.n_samples

    def gradient_moment(self, name: str) -> Tensor | None:
        """``G_b`` of shape (groups, k, k)."""
        moment = self.moments[name].get("g")
        return None if moment is None else moment.matrix(self.n_samples)

    def relations(self, layer: Layer, statistic: str) -> dict[str, float]:
        """Six canonical-representation correlations of a layer that the loss depends on; nan where d > 2048."""
        moments = {kind: moment.matrix(self.n_samples) for kind, moment in self.moments[layer.name].items()}
        weight = layer.weight().to(moments["g"])
        with torch.autocast(weight.device.type, enabled=False):
            return self._relations(moments, weight, statistic)

    @staticmethod
    def _relations(moments: dict[str, Tensor], weight: Tensor, statistic: str) -> dict[str, float]:
        out = {"h": moments["h"], "g": moments["g"], "w": weight @ weight.mT}
        values = {f"out_{a}{b}": _blocks(out[a], out[b], statistic) for a, b in ("hg", "hw", "gw")}
        if "x" not in moments:
            return values | dict.fromkeys(("in_hg", "in_hw", "in_gw"), NAN)
        pulled = moments["Wg"] if "Wg" in moments else weight.mT @ moments["g"] @ weight
        inside = {"h": moments["x"], "g": pulled, "w": weight.mT @ weight}
        return values | {f"in_{a}{b}": _blocks(inside[a], inside[b], statistic) for a, b in ("hg", "hw", "gw")}


@contextmanager
def _trainable(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let the parameters of these modules require gradients, until the context closes."""
    parameters = {id(p): p for module in modules for p in module.parameters() if p.is_floating_point()}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False)


def _blocks(a: Tensor, b: Tensor, statistic: str) -> float:
    """Correlation over all entries of two block-diagonal matrices (groups, m, m)."""
    a, b = a.double(), b.double()
    value = combine((a * b).sum(), (a * a).sum(), (b * b).sum(), a.sum(), b.sum(), a.numel(), statistic)
    return float(value)


def fact(weight: Tensor, gradient: Tensor, statistic: str) -> float:
    r"""Correlation of ``W^T W`` with ``-W^T N``: 1 at a stationary point of loss + weight decay.

    Parameters
    ----------
    weight, gradient : Tensor of shape (groups, k, d)
        ``W`` and ``N = dL/dW``.
    statistic : {"pearson", "cosine"}

    Notes
    -----
    Without weight decay nothing makes the two proportional, and the number means nothing. Source: arXiv 2507.05644.
    """
    w, n = weight.double(), gradient.double()
    gram = w @ w.mT
    inner = -(gram * (n @ w.mT).mT).sum()
    norm = (gram * (n @ n.mT)).sum()
    sums = w.sum(-1), n.sum(-1)
    size = len(w) * w.shape[2] ** 2
    return float(
        combine(inner, (gram**2).sum(), norm, (sums[0] ** 2).sum(), -(sums[0] * sums[1]).sum(), size, statistic)
    )
