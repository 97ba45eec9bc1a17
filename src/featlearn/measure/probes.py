r"""Power 1 from random probes: debiased norms, probe error, and the jackknife over blocks of batches.

``<F, G>`` is linear in K and needs nothing. ``||G||^2`` is quadratic: probe noise inflates it. With p >= 2 probes two
halves give it as ``<B_A, B_B>``; with one probe the diagonal blocks are left out of ``||sum_b B_b||^2``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.special import stdtrit
from torch import Tensor

from .coordinates import Weight, combine

__all__ = ["PowerOne", "jackknife", "student_interval"]

NAN = float("nan")
IMPOSSIBLE = 1.1  # debiased correlations may exceed 1 by their noise; beyond this the noise is all there is


@dataclass(frozen=True, eq=False)
class PowerOne:
    r"""Scalars of every block from which the values at power 1 follow, whole and without each block.

    Row 0 of every tensor is the whole; row 1 + b is without block b.

    Attributes
    ----------
    inner : Tensor of shape (1 + blocks,)
        ``<F, G>``.
    norm, entries, entries_square : Tensor of shape (1 + blocks,)
        ``||G||^2``, ``1^T G 1`` and its square; the squares debiased.
    norm_f, entries_f : Tensor
        ``||F||^2`` and ``1^T F 1``.
    blocks : Tensor of shape (halves, blocks, groups, r, r)
        The kernels ``K_b``, unnormalised.
    probe_error : float
        Relative Frobenius error of the AGOP, from two halves of the probes; nan with fewer than two probes.
    biased : bool
        One probe and one block: the value is a plug-in.
    """

    inner: Tensor
    norm: Tensor
    entries: Tensor
    entries_square: Tensor
    norm_f: Tensor
    entries_f: Tensor
    blocks: Tensor
    weighting: _Weighting
    probe_error: float
    biased: bool

    def says_nothing(self, value: float, size: int, statistic: str) -> bool:
        """Whether a debiased correlation is undefined, or above what any correlation is by more than a little noise."""
        constant = statistic == "pearson" and not bool(self.norm_f - self.entries_f**2 / size > 1e-12 * self.norm_f)
        return self.weighting.probed and not constant and not value < IMPOSSIBLE

    @cached_property
    def kernel_traces(self) -> tuple[Tensor, Tensor]:
        """``tr K_r`` and ``tr K_r^2`` (debiased) of the whole, both (groups,)."""
        grams, weighting = _grams(self.blocks, self.blocks), self.weighting
        t1 = self.blocks.diagonal(dim1=-2, dim2=-1).sum((0, 1, -1)) / (weighting.total[0] * sum(weighting.probes))
        t2 = torch.stack([weighting.square(grams[:, :, g])[0] for g in range(grams.shape[2])])
        return t1, t2

    @property
    def norms(self) -> tuple[float, float]:
        """``||F||`` and ``||G||``."""
        return math.sqrt(float(self.norm_f)), math.sqrt(max(float(self.norm[0]), 0.0))

    def weight_kernel(self, weight: Weight) -> tuple[float, float]:
        r"""``cos(M, K)`` of ``M = W W^T`` inside the column space of W, and its mean over Haar rotations of K there.

        Rotations leave both norms as they are, so the mean, ``tr M tr K / r`` over the norms, is exact. nan where the
        rank of W is not known.
        """
        if not bool((weight.ranks >= 0).all()):
            return NAN, NAN
        t1, t2 = self.kernel_traces
        norm = weight.norm.sum() * t2.sum()
        if not bool(norm > 0):
            return NAN, NAN
        kernel = self.blocks.sum((0, 1)) / (self.weighting.total[0] * sum(self.weighting.probes))
        diagonal = weight.gram.dim() == 2
        inner = (weight.gram * (kernel.diagonal(dim1=-2, dim2=-1) if diagonal else kernel)).sum()
        null = (weight.trace * t1 / weight.ranks.clamp_min(1)).sum()
        return float(inner / norm.sqrt()), float(null / norm.sqrt())

    @classmethod
    def of(
        cls, blocks: Tensor, weight: Weight, samples: Sequence[int], probes: Sequence[int], probed: bool
    ) -> PowerOne:
        """From kernels ``K_b`` (halves, blocks, groups, r, r) and the weight in the same coordinates."""
        halves, count = blocks.shape[:2]
        gram = weight.gram
        products = gram.unsqueeze(-1) * blocks if gram.dim() == 2 else gram @ blocks  # M K_b, with M = W W^T
        if gram.dim() == 2:
            inner = (products.diagonal(dim1=-2, dim2=-1) * gram).sum((0, -2, -1))  # (blocks,)
        else:
            inner = (products * gram).sum((0, -3, -2, -1))
        entries = _quadratic_forms(blocks, weight.sums).sum(-1)  # (halves, blocks)
        grams = _grams(products, products.mT)  # <B_b, B_b'> = tr M K_b M K_b'
        n = torch.tensor(samples, dtype=blocks.dtype, device=blocks.device)
        kept = torch.cat([torch.ones(1, count), 1 - torch.eye(count)]).to(blocks)  # rows: whole, without block b
        total = kept @ n
        weighting = _Weighting(kept, total, n, probes, probed)
        norms = grams.sum(2)
        return cls(
            inner=kept @ inner / (total * sum(probes)),
            norm=weighting.square(norms),
            entries=kept @ entries.sum(0) / (total * sum(probes)),
            entries_square=weighting.square(
                entries.reshape(halves, 1, count, 1) * entries.reshape(1, halves, 1, count)
            ),
            norm_f=weight.norm.sum(),
            entries_f=weight.entries.sum(),
            blocks=blocks,
            weighting=weighting,
            probe_error=_probe_error(norms, probes),
            biased=probed and halves == 1 and count == 1,
        )

    def values(self, size: int, statistic: str) -> Tensor:
        """Correlations (1 + blocks,): the whole, and without each block."""
        return combine(
            self.inner,
            self.norm_f,
            self.norm,
            self.entries_f,
            self.entries,
            size,
            statistic,
            square_g=self.entries_square,
        )


@dataclass(frozen=True, eq=False)
class _Weighting:
    """How a quadratic form of block sums becomes an unbiased estimate of the square of their mean."""

    kept: Tensor
    total: Tensor
    n: Tensor
    probes: Sequence[int]
    probed: bool

    def square(self, products: Tensor) -> Tensor:
        """Rows of ``kept`` applied to products (halves, halves, blocks, blocks)."""
        if len(self.probes) == 2:
            chosen, scale = products[0, 1], self.total**2 * (self.probes[0] * self.probes[1])
        elif self.probed and len(self.n) > 1:
            apart = 1 - torch.eye(len(self.n)).to(products)
            chosen, scale = products[0, 0] * apart, self.total**2 - self.kept @ self.n**2
        else:
            chosen, scale = products[0, 0], (self.total * sum(self.probes)) ** 2
        return torch.where(scale > 0, torch.einsum("ab,bc,ac->a", self.kept, chosen, self.kept) / scale, NAN)


def _quadratic_forms(blocks: Tensor, vectors: Tensor) -> Tensor:
    """``u^T K u`` of every block matrix, (halves, blocks, groups), by one matrix-vector product a group."""
    halves, count, groups, r = blocks.shape[:4]
    rows = blocks.permute(2, 0, 1, 3, 4).reshape(groups, halves * count * r, r)
    images = (rows @ vectors.unsqueeze(-1)).reshape(groups, halves, count, r)
    return torch.einsum("ghbi,gi->hbg", images, vectors)


def _grams(first: Tensor, second: Tensor) -> Tensor:
    """Inner products (halves, halves, groups, blocks, blocks) of all block matrices."""
    halves, count, groups = first.shape[:3]
    rows, columns = (m.permute(2, 0, 1, 3, 4).reshape(groups, halves * count, -1) for m in (first, second))
    grams = rows @ columns.mT
    return grams.reshape(groups, halves, count, halves, count).permute(1, 3, 0, 2, 4)


def _probe_error(grams: Tensor, probes: Sequence[int]) -> float:
    if len(probes) != 2:
        return NAN
    sums = grams.sum((-2, -1))
    first, second = probes
    apart = sums[0, 0] / first**2 + sums[1, 1] / second**2 - (sums[0, 1] + sums[1, 0]) / (first * second)
    shared = sums[0, 1] / (first * second)
    if not bool(shared > 0):
        return NAN
    return math.sqrt(first * second) / (first + second) * math.sqrt(max(float(apart / shared), 0.0))


def jackknife(left_out: Tensor) -> float:
    r"""Standard error :math:`\sqrt{\frac{B-1}{B} \sum_b (\rho_{(-b)} - \bar\rho)^2}`; nan below two blocks."""
    count = len(left_out)
    if count < 2:
        return NAN
    return math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))


def student_interval(value: float, error: float, blocks: int) -> tuple[float, float]:
    """``value`` plus and minus ``t_{B-1, .975}`` standard errors."""
    if blocks < 2 or not math.isfinite(error):
        return NAN, NAN
    width = float(stdtrit(blocks - 1, 0.975)) * error
    return value - width, value + width
