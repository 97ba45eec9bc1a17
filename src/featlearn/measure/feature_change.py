r"""Streaming measures of what changed in one layer between two models, and of how lazy the last features are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..agop.layers import Layer
from ..exceptions import DataError
from ..linalg.similarity import FEWEST, DebiasedCKA, linear_gram

__all__ = ["FeatureChange", "LastFeatureScatter", "WeightChange", "relative", "weight_changes"]

NAN = float("nan")
ROUND_OFF = 16  # columns that vary by less than this many units of their precision are constant


def relative(change: float, size: float) -> float:
    """``sqrt(change / size)`` of two sums of squares; ``nan`` when there was nothing to change."""
    return math.sqrt(change / size) if size > 0 else NAN


@dataclass(frozen=True)
class WeightChange:
    """Squared norms of ``W - W_0`` and ``W_0``, and the spectral norm of ``W - W_0``."""

    moved: float
    size: float
    spectral: float

    @property
    def relative(self) -> float:
        """``||W - W_0|| / ||W_0||``."""
        return relative(self.moved, self.size)


def weight_changes(layers: Sequence[Layer], references: Mapping[str, Tensor]) -> dict[str, WeightChange]:
    """Change of each layer's weight (groups, k, d) from its reference; one eigenvalue of the smaller Gram matrix."""
    changes = {}
    for layer in layers:
        reference = references[layer.name].double()
        moved = layer.weight().to(reference) - reference
        gram = moved @ moved.mT if moved.shape[1] <= moved.shape[2] else moved.mT @ moved
        spectral = math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[:, -1].max())))
        changes[layer.name] = WeightChange(float(moved.square().sum()), float(reference.square().sum()), spectral)
    return changes


class FeatureChange:
    r"""Change of one layer's pre-activations ``h`` from those of the reference ``h_0``, over batches.

    ``add(h, h_0)`` for every call of the layer on a batch, then ``close()``.
    """

    def __init__(self, name: str) -> None:
        self.cka = DebiasedCKA(f"pre-activations of layer {name!r}")
        self.unequal = False  # the layer ran otherwise in the two models: nothing to compare
        self.unaligned = False  # its rows are not laid out sample by sample: no CKA
        self._change = self._size = 0.0
        self._switched = self._entries = 0
        self._grams: tuple[Tensor, Tensor] | None = None

    def add(self, h: Tensor, h0: Tensor) -> None:
        """Add one call of a batch, both (n, k, P), or any other equal shapes when ``unaligned``."""
        difference = h.double() - h0.double()
        self._change += float(difference.square().sum())
        self._size += float(h0.double().square().sum())
        self._switched += int(((h > 0) != (h0 > 0)).sum())
        self._entries += h.numel()
        if len(h) >= FEWEST and not self.unaligned:
            grams = linear_gram(h), linear_gram(h0)
            before = self._grams
            self._grams = grams if before is None else (before[0] + grams[0], before[1] + grams[1])

    def close(self) -> None:
        """The batch is complete: all calls of its samples have been added."""
        if self._grams is not None and not self.unaligned:
            self.cka.add_grams(*self._grams)
        self._grams = None

    @property
    def feature_change(self) -> float:
        """``rms(h - h_0) / rms(h_0)``."""
        return NAN if self.unequal else relative(self._change, self._size)

    @property
    def pattern_distance(self) -> float:
        """Share of entries whose sign differs."""
        return NAN if self.unequal or self._entries == 0 else self._switched / self._entries

    def similarity(self) -> float:
        """Debiased CKA; ``nan`` when no batch had the four samples it needs, or when samples cannot be told apart."""
        return NAN if self.unequal or self.unaligned or not self.cka.n_samples else self.cka.finalize()


class LastFeatureScatter:
    r"""Scatter of the last hidden features, and of the targets with them: all that the lazy-rich distance needs.

    .. math:: D_{LR} = 1 - \frac{\|Q^\top \Phi\|_F^2}{\sqrt{r} \, \|\Phi^\top \Phi\|_F},

    with :math:`\Phi` the centred features (n, p), Q an orthonormal basis of the centred outputs (or targets), r their
    rank: one minus the CKA of the features' kernel and the projector onto the outputs. Zero when the features span
    nothing but the task, equally; near one when the task is a small part of them.

    The outputs are ``Phi V^T`` with the readout's weight V, so their basis follows from the (p, p) scatter alone.
    Scatter and means are updated batch by batch about the current means, so nothing cancels.

    Notes
    -----
    Memory: ``(p + m)^2`` numbers, m the width of the targets (0 without). ``add`` costs ``n (p + m)^2`` flops.
    """

    def __init__(self) -> None:
        self.n_rows = 0
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None
        self._features = 0
        self._noise: Tensor | None = None  # relative round-off of each column

    def add(self, features: Tensor, targets: Tensor | None = None) -> None:
        """Add rows of features (n, p), and of targets (n, m)."""
        self._features = features.shape[1]
        rows = features.double() if targets is None else torch.cat([features.double(), targets.double()], dim=1)
        n, mean = len(rows), rows.mean(dim=0)
        noise = torch.full_like(mean, ROUND_OFF * torch.finfo(torch.float64).eps)
        noise[: self._features] = ROUND_OFF * torch.finfo(features.dtype).eps
        self._noise = noise
        residual = rows - mean
        if self._mean is None or self._scatter is None:
            self._mean, self._scatter = mean, residual.mT @ residual
        else:
            if rows.shape[1] != len(mean) or len(self._mean) != len(mean):
                raise DataError(f"Got rows of width {len(mean)}, but expected {len(self._mean)} as before.")
            delta = mean - self._mean
            self._scatter.addmm_(residual.mT, residual)
            self._scatter.addr_(delta, delta, alpha=self.n_rows * n / (self.n_rows + n))
            self._mean = self._mean + delta * (n / (self.n_rows + n))
        self.n_rows += n

    def merge(self, other: LastFeatureScatter) -> LastFeatureScatter:
        """Add the rows of another accumulator; returns self."""
        if other._mean is None or other._scatter is None:
            return self
        if self._mean is None or self._scatter is None:
            self.n_rows, self._features, self._noise = other.n_rows, other._features, other._noise
            self._mean, self._scatter = other._mean.clone(), other._scatter.clone()
            return self
        total = self.n_rows + other.n_rows
        delta = other._mean - self._mean
        self._scatter = (
            self._scatter + other._scatter + torch.outer(delta, delta) * (self.n_rows * other.n_rows / total)
        )
        self._mean = self._mean + delta * (other.n_rows / total)
        self.n_rows = total
        return self

    def distance_from_outputs(self, readout: Tensor) -> float:
        r""":math:`D_{LR}` of the outputs ``Phi V^T``.

        Parameters
        ----------
        readout : Tensor of shape (C, p)
            ``V``.

        Returns
        -------
        float
            ``nan`` when features or outputs are constant. Directions of the outputs smaller than 1e-5 of the largest
            (sqrt(eps) in half precision) are round-off and do not count.
        """
        scatter = self._block(slice(None, self._features), slice(None, self._features))
        values, vectors = torch.linalg.eigh(scatter)
        root = values.clamp_min(0.0).sqrt()
        weight = readout.to(scatter)
        left, spread, _ = torch.linalg.svd(root[:, None] * (vectors.mT @ weight.mT), full_matrices=False)
        real = left[:, spread > _cut(readout.dtype) * spread[0]] if spread[0] > 0 else left[:, :0]
        return _distance(float((root[:, None] * real).square().sum()), real.shape[1], scatter)

    def distance_from_targets(self) -> float:
        r""":math:`D_{LR}` with the targets in place of the outputs; ``nan`` when they or the features are constant."""
        features, targets = slice(None, self._features), slice(self._features, None)
        values, vectors = torch.linalg.eigh(self._block(targets, targets))
        real = values > 1e-10 * values[-1].clamp_min(torch.finfo(torch.float64).tiny)
        shared = vectors[:, real].mT @ self._block(targets, features) / values[real].sqrt()[:, None]
        return _distance(float(shared.square().sum()), int(real.sum()), self._block(features, features))

    def _block(self, rows: slice, columns: slice) -> Tensor:
        if self._scatter is None or self._mean is None or self._noise is None:
            raise DataError("Got no features, but expected at least one batch.")
        varies = self._scatter.diagonal() > self.n_rows * (self._noise * self._mean).square()
        return (self._scatter * varies * varies[:, None])[rows, columns]


def _cut(dtype: torch.dtype) -> float:
    return 1e-5 if dtype in (torch.float32, torch.float64) else math.sqrt(torch.finfo(dtype).eps)


def _distance(shared: float, rank: int, scatter: Tensor) -> float:
    size = float(scatter.norm())
    return 1 - shared / (math.sqrt(rank) * size) if rank and size > 0 else NAN
