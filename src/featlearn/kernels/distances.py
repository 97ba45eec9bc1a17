"""Squared distances by matrix products, exact where the matrix product is not."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import CHUNK, EQUAL, weighted_sums

__all__ = ["SquaredDistances"]


class SquaredDistances:
    r"""Squared Euclidean distances between rows, made block by block where they are used.

    .. math:: |x_i - z_j|^2 = |x_i|^2 + |z_j|^2 - 2 x_i \cdot z_j = [x_i, |x_i|^2, 1] \cdot [-2 z_j, 1, |z_j|^2],

    one matrix product, of rows centred at the mean of z. Where the result is within rounding of 0 (at most
    ``64 eps (|x_i|^2 + |z_j|^2)``) it is replaced by the sum of the squared differences, and by 0 exactly if the rows
    are equal up to the rounding of their coordinates (at most ``(64 eps)^2 (|x_i|^2 + |z_j|^2)``, not centred). In
    single precision the product alone puts equal rows about 1e-3 of their norm apart, which a kernel with a kink at 0
    shows.

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
        self._left, self._near_left, self._same_left = self._prepared(self.x, left=True)
        self._right, self._near_right, self._same_right = self._prepared(self.z, left=False)

    def _prepared(self, rows: Tensor, *, left: bool) -> tuple[Tensor, Tensor, Tensor]:
        """One side of the product, and each row's part in what counts as close and as equal."""
        n, d = rows.shape
        lifted = rows.new_empty(n, d + 2)
        centred = torch.sub(rows, self.center, out=lifted[:, :d])
        lifted[:, d if left else d + 1] = norms = centred.square().sum(dim=1)
        lifted[:, d + 1 if left else d] = 1.0
        if not left:
            centred.mul_(-2)
        eps = EQUAL * torch.finfo(rows.dtype).eps
        same = eps**2 * rows.square().sum(dim=1)
        return lifted, eps * norms + same, same

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
        left, right = self._near_left[rows], self._near_right[columns]
        # Almost every block has no such pair: one pass over it says so.
        if out.amin() > left.amax() + right.amax():
            return
        close = (out <= left[:, None] + right).nonzero()
        x, z = self.x[rows], self.z[columns]
        same_x, same_z = self._same_left[rows], self._same_right[columns]
        for part in close.split(CHUNK // (16 * max(1, x.shape[1]))):
            i, j = part.unbind(dim=1)
            exact = (x[i] - z[j]).square_().sum(dim=1)
            out[i, j] = exact.masked_fill_(exact <= same_x[i] + same_z[j], 0.0)
