"""Distances made coordinate by coordinate, for orders other than 2."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import CHUNK, EQUAL, slices

__all__ = ["CoordinateDistances"]


class CoordinateDistances:
    r"""``sum_l |x_il - z_jl|^p``, made block by block where they are used; plain torch, on any device.

    Rows closer than the rounding of their coordinates are 0 apart, as in
    :class:`~featlearn.kernels.distances.SquaredDistances`.

    Parameters
    ----------
    x : Tensor of shape (n, d)
    z : Tensor of shape (m, d)
    p : float
        Positive.

    Notes
    -----
    A block costs d powers an entry, a gradient d more and ``2 C d`` flops.
    """

    def __init__(self, x: Tensor, z: Tensor, p: float) -> None:
        self.x, self.z, self.p = x.detach().contiguous(), z.detach().contiguous(), p
        rounding = (EQUAL * torch.finfo(x.dtype).eps) ** p
        self._x_rounding = rounding * (self.x.abs() ** p).sum(dim=1)
        self._z_rounding = self._x_rounding if z is x else rounding * (self.z.abs() ** p).sum(dim=1)

    def block_(self, rows: slice, columns: slice, out: Tensor, *, equal: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Between ``x[rows]`` and ``z[columns]``, written into ``out`` and returned; not negative.

        ``equal`` lists pairs within the block (indices into it) that are known to be the same row.
        """
        self._sums_(rows, columns, out)
        if equal is not None:
            out[equal] = 0.0
        return out

    def _sums_(self, rows: slice, columns: slice, out: Tensor) -> None:
        x, z = self.x[rows], self.z[columns]
        out.copy_(torch.cdist(x, z, p=self.p, compute_mode="donot_use_mm_for_euclid_dist").pow_(self.p))
        out.masked_fill_(out <= self._x_rounding[rows, None] + self._z_rounding[columns], 0.0)

    def add_gradients_(self, rows: slice, columns: slice, w: Tensor, dual: Tensor, out: Tensor) -> None:
        """Add ``sum_j w_ij dual_jc sign(u) |u|^(p-1)``, u = z_j - x_i, to ``out`` (rows, C, d)."""
        x, z = self.x[rows], self.z[columns]
        for part in slices(len(x), max(1, CHUNK // (4 * max(1, z.numel()) * z.element_size()))):
            difference = z - x[part, None]  # (part, columns, d)
            size = difference.abs()
            terms = difference.sign() * torch.where(size > 0, size, 1.0) ** (self.p - 1)
            out[part] += (w[part, None] * dual.mT) @ terms
