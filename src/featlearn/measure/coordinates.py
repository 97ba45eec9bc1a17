r"""A weight's singular coordinates, and every correlation of ``F = W^T W`` with powers of ``G = W^T K W`` in them.

With the thin SVD ``W = U diag(s) V^T``, in the basis V, F is ``diag(s^2)`` and G is

.. math:: B = \mathrm{diag}(s)\, U^\top K U\, \mathrm{diag}(s) = Q\, \mathrm{diag}(\lambda)\, Q^\top,

so no d x d matrix is ever built. For groups (of a convolution) all sums run over the blocks on the diagonal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Coordinates", "Factors", "Weight", "combine", "correlation", "eigen", "factorise"]

NAN = float("nan")
BY_SVD = 512  # smaller side of W up to which the SVD itself is taken, in float64
IN_DOUBLE = 2048  # side up to which Gram matrices are diagonalised in float64
POWERS = np.round(np.arange(0.10, 2.005, 0.01), 2)


@dataclass(frozen=True, eq=False)
class Weight:
    """What power 1 needs of the blocks of a weight.

    Attributes
    ----------
    gram : Tensor of shape (groups, r, r), or (groups, r) when diagonal
        ``M = W W^T``.
    sums : Tensor of shape (groups, r)
        ``W 1``.
    ranks : Tensor of shape (groups,)
    d : int
        Inputs of one group.
    """

    gram: Tensor
    sums: Tensor
    ranks: Tensor
    d: int

    @property
    def norm(self) -> Tensor:
        """``||F||^2`` of each group."""
        return (self.gram**2).flatten(1).sum(1)

    @property
    def trace(self) -> Tensor:
        """``tr F`` of each group."""
        return self.gram.sum(-1) if self.gram.dim() == 2 else self.gram.diagonal(dim1=-2, dim2=-1).sum(-1)

    @property
    def entries(self) -> Tensor:
        """``1^T F 1`` of each group."""
        return (self.sums**2).sum(-1)

    @property
    def size(self) -> int:
        """Entries of F over all groups."""
        return len(self.sums) * self.d**2

    @classmethod
    def dense(cls, weight: Tensor) -> Weight:
        """Of ``weight`` (groups, r, d) itself, without any eigendecomposition.

        ``ranks`` is -1 where they cannot be told: rows of zeros (dead units) count, but what else makes M singular
        needs the factors.
        """
        gram = weight @ weight.mT
        alive, sure = _full_rank(gram, 8 * torch.finfo(gram.dtype).eps)
        if not bool(sure.all()) and gram.dtype == torch.float32 and gram.device.type != "mps":
            # Squares of singular values carry the round-off: float32 loses the rank of most weight changes.
            wide = weight.double()
            gram = wide @ wide.mT
            alive, sure = _full_rank(gram, 1e-11)
        return cls(gram.to(weight), weight.sum(-1), torch.where(sure, alive.sum(-1), -1), weight.shape[2])


def _full_rank(gram: Tensor, round_off: float) -> tuple[Tensor, Tensor]:
    """Rows that are not zero (groups, r), and whether the others are surely independent (groups,)."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    alive, scale = diagonal > 0, diagonal.amax(-1, keepdim=True)
    lower, failed = torch.linalg.cholesky_ex(gram + torch.diag_embed(torch.where(alive, 0.0, scale)))
    pivots = lower.diagonal(dim1=-2, dim2=-1) ** 2
    return alive, (failed == 0) & (pivots > round_off * scale).all(-1)


@dataclass(frozen=True, eq=False)
class Factors:
    """Thin SVD of the blocks of a weight: ``left`` (groups, k, r), ``s`` and ``t = V^T 1`` (groups, r), ``ranks``."""

    weight: Tensor
    left: Tensor
    s: Tensor
    t: Tensor
    ranks: Tensor

    @property
    def d(self) -> int:
        """Inputs of one group."""
        return self.weight.shape[2]

    @property
    def at_power_one(self) -> Weight:
        """In the basis of the left singular vectors."""
        return Weight(self.s**2, self.s * self.t, self.ranks, self.d)

    def right(self, coefficients: Tensor, group: int = 0) -> Tensor:
        """``V @ coefficients`` of one group, V applied as ``W^T U / s`` and never stored."""
        s = self.s[group]
        inverse = torch.where(s > 0, 1 / s.clamp_min(torch.finfo(s.dtype).tiny), 0.0)
        return self.weight[group].to(s).mT @ (self.left[group] @ (inverse[:, None] * coefficients))


def factorise(weight: Tensor) -> Factors:
    """Thin SVD of each block of ``weight`` (groups, k, d); singular values of round-off size are zeroed.

    float64 while the smaller side is at most 2048, by the SVD itself up to 512; the Gram matrix of the smaller side
    beyond, in float32 above 2048.
    """
    side = min(weight.shape[1:])
    double = side <= IN_DOUBLE and weight.device.type != "mps"
    wide = weight.detach().to(torch.float64 if double else torch.float32)
    cut = 1e-10 if weight.dtype == torch.float64 else 1e-6
    if side <= BY_SVD:
        left, s, _ = torch.linalg.svd(wide, full_matrices=False)
    else:
        cut = max(cut, 1e-7) if double else 1e-3  # squares of singular values carry the round-off
        first = wide.shape[1] <= wide.shape[2]
        squares, vectors = torch.linalg.eigh(wide @ wide.mT if first else wide.mT @ wide)
        s, vectors = squares.flip(-1).clamp_min(0).sqrt(), vectors.flip(-1)
        left = vectors if first else wide @ vectors / s.clamp_min(cut * s.amax()).unsqueeze(-2)
    kept = s > cut * s[:, :1]
    s, left = torch.where(kept, s, 0.0), torch.where(kept.unsqueeze(1), left, 0.0)
    rank = max(1, int(kept.sum(-1).max()))
    s, left = s[:, :rank], left[:, :, :rank]
    sums = (left.mT @ wide.sum(-1, keepdim=True)).squeeze(-1)
    t = torch.where(s > 0, sums / s.clamp_min(torch.finfo(s.dtype).tiny), 0.0)
    return Factors(weight.detach(), left, s, t, kept.sum(-1))


def eigen(reduced: Tensor, factors: Factors) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lam, c, q and Q of ``B = diag(s) K_r diag(s)``, any leading axes, largest eigenvalue first."""
    scaled = factors.s.unsqueeze(-1) * reduced * factors.s.unsqueeze(-2)
    lam, vectors = torch.linalg.eigh((scaled + scaled.mT) / 2)
    lam, vectors = lam.flip(-1).clamp_min(0), vectors.flip(-1)
    c = (factors.s.unsqueeze(-1) ** 2 * vectors**2).sum(-2)
    q = (factors.t.unsqueeze(-1) * vectors).sum(-2)
    return lam, c, q, vectors


def correlation(
    lam: Tensor, c: Tensor, q: Tensor, s: Tensor, t: Tensor, d: int, power: float, statistic: str, floor: float
) -> Tensor:
    r"""Cosine or Pearson correlation of F with :math:`G^a`, over any leading axes of (..., groups, r) tensors."""
    if power < 1:
        lam = torch.where(lam > floor * lam.amax(dim=(-2, -1), keepdim=True), lam, 0.0)
    powers = lam.clamp_min(0) ** power  # 0 ** a = 0: directions without gradient, and padding
    size = lam.shape[-2] * d**2
    axes = (-2, -1)
    return combine(
        (powers * c).sum(axes),
        (s**4).sum(axes),
        (powers**2).sum(axes),
        (s**2 * t**2).sum(axes),
        (powers * q**2).sum(axes),
        size,
        statistic,
    )


def combine(
    inner: Tensor,
    norm_f: Tensor,
    norm_g: Tensor,
    sum_f: Tensor,
    sum_g: Tensor,
    size: int,
    statistic: str,
    *,
    square_g: Tensor | None = None,
) -> Tensor:
    """Correlation from <F, G>, ||F||^2, ||G||^2 and the sums of all ``size`` entries; nan where it is undefined.

    ``square_g`` is the square of ``sum_g`` where an estimate better than ``sum_g ** 2`` is known.
    """
    if statistic == "pearson":
        square = sum_g**2 if square_g is None else square_g
        inner = inner - sum_f * sum_g / size
        # Matrices without variance (a single entry, a constant) have no Pearson correlation.
        norm_f = torch.where(norm_f - sum_f**2 / size > 1e-12 * norm_f, norm_f - sum_f**2 / size, NAN)
        norm_g = torch.where(norm_g - square / size > 1e-12 * norm_g.abs(), norm_g - square / size, NAN)
    product = norm_f * norm_g
    return torch.where(product > 0, inner / product.clamp_min(0).sqrt(), NAN)


@dataclass(frozen=True, eq=False)
class Coordinates:
    r"""The few numbers from which the correlation at any power follows exactly.

    Attributes
    ----------
    d : int
        Inputs of one group.
    lam, c, q, s, t : arrays of shape (groups, r)
        Eigenvalues of ``G``, :math:`c_j = \sum_i s_i^2 Q_{ij}^2`, :math:`q = Q^\top t`, singular values of W,
        :math:`t = V^\top 1`. Padded by zeros where a group has a lower rank.
    floor : float
        Eigenvalues below ``floor`` times the largest are round-off: powers below 1 take them as zero.
    """

    d: int
    lam: NDArray[np.float64]
    c: NDArray[np.float64]
    q: NDArray[np.float64]
    s: NDArray[np.float64]
    t: NDArray[np.float64]
    floor: float

    @classmethod
    def empty(cls, groups: int, d: int) -> Coordinates:
        """Of a layer measured at power 1 alone: every correlation is nan."""
        nothing = np.zeros((groups, 0))
        return cls(d, nothing, nothing, nothing, nothing, nothing, 0.0)

    def correlation(self, power: float, statistic: str) -> float:
        r""":math:`\rho(F, G^a)`."""
        if not self.lam.size:
            return NAN
        lam, c, q, s, t = map(torch.from_numpy, (self.lam, self.c, self.q, self.s, self.t))
        return float(correlation(lam, c, q, s, t, self.d, power, statistic, self.floor))

    def best_power(self) -> float:
        """Power in 0.10, 0.11, ..., 2.00 of the highest cosine; nan when there is none."""
        top = self.lam.max(initial=0.0)
        if not top > 0:
            return NAN
        kept = self.lam > self.floor * top
        lam, c = self.lam[kept] / top, self.c[kept]
        powers = lam ** POWERS[:, None]  # (powers, eigenvalues)
        return float(POWERS[int(np.argmax(powers @ c / np.linalg.norm(powers, axis=1)))])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, one entry a group."""
        names = ("lam", "c", "q", "s", "t")
        groups = [{key: getattr(self, key)[g].tolist() for key in names} for g in range(len(self.lam))]
        return {"d": self.d, "floor": self.floor, "groups": groups}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Coordinates:
        """Inverse of :meth:`to_dict`."""

        def rows(key: str) -> NDArray[np.float64]:
            lists = [group[key] for group in plain["groups"]]
            return np.asarray(lists, dtype=np.float64).reshape(len(lists), -1)

        lam, c, q, s, t = map(rows, ("lam", "c", "q", "s", "t"))
        return cls(plain["d"], lam, c, q, s, t, plain["floor"])
