"""Kernels of the Euclidean distance: everything by matrix products, in place in a block while it is in cache."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from .base import CHUNK, EQUAL, TILE, Kernel, check_pair, check_square, slices
from .distances import SquaredDistances

__all__ = ["RadialKernel"]


class RadialKernel(Kernel):
    r"""``k(x, z) = h(r)`` with ``r = |x - z|``, ``h(0) = 1``, and gradient ``w(r) (x - z)`` with respect to z.

    .. math:: w(r) = -h'(r) / r, \qquad \nabla f_c(z) = \sum_i w(r_i) \beta_{ic} (x_i - z),

    so that all gradients are one matrix product of W with ``[beta_c x, beta_c]``. Children give the profile h, the
    slope w, and w from the value of h.
    """

    has_bandwidth = True

    @abstractmethod
    def profile(self, r2: Tensor) -> Tensor:
        """Squared distances (positive) to kernel values: the plain, differentiable definition."""

    @abstractmethod
    def profile_(self, r2: Tensor) -> Tensor:
        """Squared distances (not negative) to kernel values, in place."""

    @abstractmethod
    def slope_(self, r2: Tensor) -> Tensor:
        """Squared distances (not negative) to w, in place; 0 where the distance is 0 and k has no gradient."""

    @abstractmethod
    def slope_of_value_(self, k: Tensor) -> Tensor:
        """Kernel values to w, in place; 0 where the value is 1 and k has no gradient."""

    def definition(self, x: Tensor, z: Tensor) -> Tensor:
        """Plain torch."""
        difference = x[:, None] - z
        r2 = difference.square().sum(dim=-1)
        rounding = (EQUAL * torch.finfo(x.dtype).eps) ** 2
        equal = r2 <= rounding * (x.square().sum(dim=1)[:, None] + z.square().sum(dim=1)).detach()
        # The inner `where` keeps the infinite slope of the root at 0 out of the backward pass.
        values = self.profile(torch.where(equal, torch.ones_like(r2), r2))
        return torch.where(equal, torch.ones_like(values), values)

    def _matrix(self, x: Tensor, z: Tensor) -> Tensor:
        distances = SquaredDistances(x, z)
        out = x.new_empty(len(x), len(z))
        for rows in slices(len(x), TILE):
            for columns in slices(len(z), TILE):
                self.profile_(distances.block_(rows, columns, out[rows, columns]))
        return out

    def fill_(self, x: Tensor, out: Tensor) -> Tensor:
        """Lower blocks computed in cache, upper ones mirrored."""
        check_square(x, out)
        distances = SquaredDistances(x)
        work, mirror = x.new_empty(2, TILE * TILE)
        for rows in slices(len(x), TILE):
            for columns in slices(rows.stop, TILE):
                block = _shaped(work, rows, columns)
                if columns == rows:
                    index = torch.arange(len(block), device=x.device)
                    distances.block_(rows, rows, block, equal=(index, index))
                    self.profile_(block)
                    out[rows, rows] = block.tril() + block.tril(-1).mT
                else:
                    self.profile_(distances.block_(rows, columns, block))
                    out[rows, columns] = block
                    # Turned in cache first: writing columns of a large matrix one number at a time is slow.
                    out[columns, rows] = _shaped(mirror, columns, rows).copy_(block.mT)
        return out

    def diagonal(self, x: Tensor) -> Tensor:
        """Ones."""
        return torch.ones_like(x[:, 0])

    def expansion(self, x: Tensor, z: Tensor, dual: Tensor) -> Tensor:
        """Values (m, C) of a kernel expansion, as :meth:`Kernel.expansion`, one block of kernel values at a time."""
        check_pair(x, z, dual)
        distances = SquaredDistances(z, x)
        values = dual.new_zeros(len(z), dual.shape[1])
        work = x.new_empty(TILE * TILE)
        for rows in slices(len(z), TILE):
            for columns in slices(len(x), TILE):
                block = self.profile_(distances.block_(rows, columns, _shaped(work, rows, columns)))
                values[rows].addmm_(block, dual[columns])
        return values

    def expansion_gradient(self, x: Tensor, z: Tensor, dual: Tensor, *, rows: Tensor | None = None) -> Tensor:
        r"""Gradients (m, C, d) of a kernel expansion, as :meth:`Kernel.expansion_gradient`.

        Notes
        -----
        ``2 m n d (C + 1)`` flops, and one block of W: no array (n, m, d).
        """
        check_pair(x, z, dual, rows)
        distances = SquaredDistances(z, x)
        centred, points = x - distances.center, z - distances.center
        n, d = x.shape
        gradients = z.new_empty(len(z), dual.shape[1], d)
        work = x.new_empty(TILE * TILE)
        outputs_at_once = max(1, CHUNK // (TILE * (d + 1) * x.element_size()))
        for outputs in slices(dual.shape[1], outputs_at_once):
            for part in slices(len(z), TILE):
                sums = z.new_zeros(part.stop - part.start, (outputs.stop - outputs.start) * (d + 1))
                for columns in slices(n, TILE):
                    equal = None if rows is None else _own(rows[part], columns)
                    w = self.slope_(distances.block_(part, columns, _shaped(work, part, columns), equal=equal))
                    scaled = dual[columns, outputs, None] * _with_ones(centred[columns])[:, None]
                    sums.addmm_(w, scaled.flatten(start_dim=1))
                sums = sums.unflatten(1, (-1, d + 1))
                gradients[part, outputs] = sums[..., :d] - sums[..., d:] * points[part, None]
        return gradients


def _shaped(work: Tensor, rows: slice, columns: slice) -> Tensor:
    """A contiguous view of the work space of a block's shape."""
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    return work[: shape[0] * shape[1]].view(shape)


def _own(rows: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Positions within a block of the pairs (point, the same training row)."""
    inside = ((rows >= columns.start) & (rows < columns.stop)).nonzero()[:, 0]
    return inside, rows[inside] - columns.start


def _with_ones(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (0, 1), value=1.0)
