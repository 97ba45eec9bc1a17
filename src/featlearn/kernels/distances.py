"""Squared distances by matrix products, exact where the matrix product is not."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import CHUNK, EQUAL, slices, weighted_sums

__all__ = ["SquaredDistances"]


class SquaredDistances:
    r"""Squared Euclidean distances between rows, made block by block where they are used.

    .. math:: |x_i - z_j|^2 = |x_i|^2 + |z_j|^2 - 2 x_i \cdot z_j = [x_i, |x_i|^2, 1] \cdot [-2 z_j, 1, |z_j|^2],

    one matrix product, of rows centred at the mean of z. Where the result is within rounding of 0 (at most
    ``64 eps (|x_i|^2 + |z_j|^2)``) it is replaced by the sum of the squared differences, and by 0 exactly if the rows
    are equal up to the rounding of their coordinates. In single precision the product alone puts equal rows about
    1e-3 of their norm apart, which a kernel with a kink at 0 shows.

    Parameters
    ----------
    x : Tensor of shape (n, d)
    z : Tensor of shape (m, d), optional
        Default: x itself.

    Attributes
    ----------
    center : Tensor of shape (d,)
        What is subtracted from both: differences of rows do not see it, rounding does. It comes from z, the training
        rows of an expansion, so that no point's value depends on the other points.

    Notes
    -----
    Holds centred copies of both, n d + m d numbers. A block costs ``2 d`` flops an entry.
    """

    def __init__(self, x: Tensor, z: Tensor | None = None) -> None:
        self.x = x.detach()
        self.z = self.x if z is None else z.detach()
        self.center = self.z.mean(dim=0) if len(self.z) else self.z.new_zeros(self.z.shape[1])
        self._left = self._lifted(self.x, 1.0)
        self._right = self._lifted(self.z, -2.0)
        self._eps = EQUAL * torch.finfo(x.dtype).eps

    def _lifted(self, rows: Tensor, factor: float) -> Tensor:
        n, d = rows.shape
        lifted = rows.new_empty(n, d + 2)
        centred = torch.sub(rows, self.center, out=lifted[:, :d])
        norm, one = (d, d + 1) if factor == 1.0 else (d + 1, d)
        lifted[:, norm] = (centred * centred).sum(dim=1)
        lifted[:, one] = 1.0
        centred.mul_(factor)
        return lifted

    @property
    def _left_norms(self) -> Tensor:
        return self._left[:, -2]

    @property
    def _right_norms(self) -> Tensor:
        return self._right[:, -1]

    def block_(self, rows: slice, columns: slice, out: Tensor, *, equal: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Squared distances between ``x[rows]`` and ``z[columns]``, written into ``out`` and returned; not negative.

        ``equal`` lists pairs within the block (indices into it) that are known to be the same row.
        """
        torch.mm(self._left[rows], self._right[columns].mT, out=out)
        if equal is not None:
            out[equal] = torch.inf
        if out.numel():
            self._correct_(rows, columns, out)
        if equal is not None:
            out[equal] = 0.0
        return out

    def add_gradients_(self, rows: slice, columns: slice, w: Tensor, dual: Tensor, out: Tensor) -> None:
        """Add ``sum_j w_ij dual_jc (z_j - x_i)`` to ``out`` (rows, C, d): ``W [dual_c z] - diag(W dual_c) x``."""
        x, z = self._left[rows, :-2], self._right[columns, :-2]
        out.sub_(weighted_sums(w, dual, z), alpha=0.5)  # the right-hand rows hold -2 z
        out.addcmul_((w @ dual)[..., None], x[:, None], value=-1)

    def _correct_(self, rows: slice, columns: slice, out: Tensor) -> None:
        """Replace what is within rounding of 0 by the sum of the squared differences."""
        left, right = self._eps * self._left_norms[rows], self._eps * self._right_norms[columns]
        # Almost every block has no such pair: one pass over it says so.
        if out.amin() > left.amax() + right.amax():
            return
        i, j = (out <= left[:, None] + right).nonzero(as_tuple=True)
        x, z = self.x[rows], self.z[columns]
        for part in slices(len(i), CHUNK // (16 * max(1, x.shape[1]))):
            one, other = x[i[part]], z[j[part]]
            exact = (one - other).square_().sum(dim=1)
            rounding = self._eps**2 * (one.square_().sum(dim=1) + other.square_().sum(dim=1))
            out[i[part], j[part]] = exact.masked_fill_(exact <= rounding, 0.0)
