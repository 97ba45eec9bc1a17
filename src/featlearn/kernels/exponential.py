"""Exponentials of a power of a distance: everything block by block, in place while a block is in cache."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from .base import EQUAL, TILE, Kernel, blocks, check_pair, check_square, own_pairs, put_, slices, wants_graph

__all__ = ["BlockDistances", "ExponentialKernel"]


class BlockDistances(Protocol):
    """Distances to the power p between the rows of x and of z, made where they are used."""

    def block_(self, rows: slice, columns: slice, out: Tensor, *, equal: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Between ``x[rows]`` and ``z[columns]``, into contiguous ``out``; 0 exactly for equal rows, never negative.

        ``equal`` lists pairs within the block that are known to be the same row.
        """

    def add_gradients_(self, rows: slice, columns: slice, w: Tensor, dual: Tensor, out: Tensor) -> None:
        """Add ``sum_j w_ij dual_jc sign(u) |u|^(p-1)``, u = z_j - x_i, to ``out`` (rows, C, d)."""


class ExponentialKernel(Kernel):
    r"""Exponential of a power of an :math:`\ell_p` distance.

    .. math:: k(x, z) = \exp(-c \, s^{q/p}), \qquad s = \sum_l |x_l - z_l|^p, \qquad
        \partial_l k = w \operatorname{sign}(u_l) |u_l|^{p-1}, \qquad w = q c \, s^{q/p-1} k, \qquad u = x - z

    with the derivative taken in z. Children give p, q, the rate c and how distances are made.

    Notes
    -----
    A block of 512 x 512 pairs is made, transformed and used before the next, so that square roots and exponentials
    work in cache and no array larger than the answer is held.
    """

    has_bandwidth = True

    @property
    @abstractmethod
    def _orders(self) -> tuple[float, float]:
        """The order p of the distance and its exponent q."""

    @property
    @abstractmethod
    def _rate(self) -> float:
        """The rate c."""

    @abstractmethod
    def distances(self, x: Tensor, z: Tensor) -> BlockDistances:
        """Distances to the power p between the rows of x and of z, made block by block where they are used."""

    @property
    def smooth(self) -> bool:
        """Whether ``k(x, .)`` has a gradient at x itself."""
        return self._orders == (2, 2)

    def definition(self, x: Tensor, z: Tensor) -> Tensor:
        """Plain torch, with an array (n, m, d) of differences; rows equal up to rounding have value 1, gradient 0."""
        p, q = self._orders
        size = (x[:, None] - z).abs()
        apart = size > 0
        # The inner `where` keeps infinite slopes at 0 out of the backward pass, here and below.
        sums = (torch.where(apart, size, 1.0) ** p * apart).sum(dim=-1)
        scale = (x.abs() ** p).sum(dim=1)[:, None] + (z.abs() ** p).sum(dim=1)
        apart = sums > (EQUAL * torch.finfo(x.dtype).eps) ** p * scale.detach()
        values = torch.exp(-self._rate * torch.where(apart, sums, 1.0) ** (q / p))
        return torch.where(apart, values, 1.0)

    def profile_(self, powers: Tensor) -> Tensor:
        """Distances to the power p (not negative; for p = 2 squared distances) to kernel values, in place."""
        return self._to_exponent_(powers).mul_(-self._rate).exp_()

    def slope_(self, powers: Tensor) -> Tensor:
        """Distances to the power p (not negative) to w, in place; 0 at 0, where k has no gradient."""
        p, q = self._orders
        amplitude = q * self._rate
        if self.smooth:
            return self.profile_(powers).mul_(amplitude)
        equal = _where(powers, powers.amin() == 0, 0) if powers.numel() else None
        if p == q:
            self.profile_(powers)
        elif p == 2 * q:
            values = torch.div(-self._rate, powers.rsqrt_()).exp_()
            powers.mul_(values)
        else:
            raised = self._to_exponent_(powers.clone())
            values = torch.mul(raised, -self._rate).exp_()
            torch.div(values.mul_(raised), powers, out=powers)
        powers.mul_(amplitude)
        return powers if equal is None else powers.masked_fill_(equal, 0.0)

    def slope_of_value_(self, values: Tensor) -> Tensor:
        """Kernel values to w, in place; 0 where the value is 1 and k has no gradient there."""
        p, q = self._orders
        if self.smooth:
            return values.mul_(q * self._rate)
        equal = _where(values, values.amax() == 1, 1) if values.numel() else None
        if p != q:
            raised = values.log().neg_()  # c D^q
            values.mul_(raised.reciprocal_() if p == 2 * q else raised.pow_(1 - p / q))
        values.mul_(q * self._rate ** (p / q))
        return values if equal is None else values.masked_fill_(equal, 0.0)

    def _to_exponent_(self, powers: Tensor) -> Tensor:
        """D^p to D^q, in place."""
        p, q = self._orders
        if p == q:
            return powers
        return powers.sqrt_() if p == 2 * q else powers.pow_(q / p)

    def _matrix(self, x: Tensor, z: Tensor) -> Tensor:
        distances = self.distances(x, z)
        out, work = x.new_empty(len(x), len(z)), _workspace(x)
        for rows, columns in blocks(len(x), len(z)):
            out[rows, columns] = self.profile_(distances.block_(rows, columns, _shaped(work, rows, columns)))
        return out

    def fill_(self, x: Tensor, out: Tensor, *, add: float | None = None) -> Tensor:
        """The symmetric matrix ``k(x_i, x_j)`` into ``out`` (n, n): lower blocks computed, upper ones mirrored."""
        check_square(x, out)
        distances = self.distances(x, x)
        work, mirror = _workspace(x), _workspace(x)
        for rows in slices(len(x), TILE):
            for columns in slices(rows.stop, TILE):
                block = _shaped(work, rows, columns)
                if columns == rows:
                    index = torch.arange(len(block), device=x.device)
                    self.profile_(distances.block_(rows, rows, block, equal=(index, index)))
                    put_(out[rows, rows], (block + block.mT) / 2, add)  # exactly symmetric
                else:
                    put_(out[rows, columns], self.profile_(distances.block_(rows, columns, block)), add)
                    # Turned in cache first: writing columns of a large matrix one number at a time is slow.
                    put_(out[columns, rows], _shaped(mirror, columns, rows).copy_(block.mT), add)
        return out

    def diagonal(self, x: Tensor) -> Tensor:
        """Ones (n,)."""
        return x.new_ones(len(x))

    def expansion(self, x: Tensor, z: Tensor, dual: Tensor) -> Tensor:
        """Values (m, C) of a kernel expansion, as :meth:`Kernel.expansion`; holds one block of kernel values."""
        check_pair(x, z, dual)
        if wants_graph(x, z, dual):
            return super().expansion(x, z, dual)
        distances, work = self.distances(z, x), _workspace(x)
        values = dual.new_zeros(len(z), dual.shape[1])
        for rows, columns in blocks(len(z), len(x)):
            block = self.profile_(distances.block_(rows, columns, _shaped(work, rows, columns)))
            values[rows].addmm_(block, dual[columns])
        return values

    @torch.no_grad()
    def expansion_gradient(self, x: Tensor, z: Tensor, dual: Tensor, *, rows: Tensor | None = None) -> Tensor:
        """Gradients (m, C, d) of a kernel expansion, as :meth:`Kernel.expansion_gradient`; holds one block of w."""
        check_pair(x, z, dual, rows)
        distances, work = self.distances(z, x), _workspace(x)
        gradients = z.new_zeros(len(z), dual.shape[1], z.shape[1])
        for part, columns in blocks(len(z), len(x)):
            equal = None if rows is None else own_pairs(rows[part], columns)
            w = self.slope_(distances.block_(part, columns, _shaped(work, part, columns), equal=equal))
            distances.add_gradients_(part, columns, w, dual[columns], gradients[part])
        return gradients


def _where(tensor: Tensor, any_at_all: Tensor, value: float) -> Tensor | None:
    """Where a value occurs; None in the usual case that it does not, which saves two slow passes over a block."""
    return tensor == value if bool(any_at_all) else None


def _workspace(x: Tensor) -> Tensor:
    return x.new_empty(TILE * TILE)


def _shaped(work: Tensor, rows: slice, columns: slice) -> Tensor:
    """A contiguous view of the work space of a block's shape."""
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    return work[: shape[0] * shape[1]].view(shape)
