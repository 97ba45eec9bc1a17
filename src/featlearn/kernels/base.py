"""What every kernel offers, and the plain definition of all of it: chunks, symmetric filling, gradients by autograd."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..exceptions import DataError

__all__ = [
    "EQUAL",
    "Kernel",
    "blocks",
    "blocks_below",
    "check_pair",
    "check_square",
    "own_pairs",
    "positive",
    "put_",
    "slices",
    "wants_graph",
    "weighted_sums",
]

TILE = 512  # rows at once: a square of float32 is 1 MB, which stays in cache
CHUNK = 2**26  # bytes of kernel values, or of differences between rows, held at once
EQUAL = 64.0  # two rows are equal when their distance is at most this many roundings of their norms


class Kernel(ABC):
    r"""A positive definite function of two rows. Children are frozen dataclasses without state.

    A child has to give :meth:`definition`; everything else follows from it. Fast forms are overrides, and are tested
    against the ones below.

    Notes
    -----
    Rows are row vectors: x (n, d), z (m, d), of one dtype (float32 or float64) and on one device. A kernel knows
    nothing of metrics: :class:`~featlearn.kernels.Metric` wraps any of them.
    """

    @property
    def rotation_invariant(self) -> bool:
        """Whether k depends on the rows only through their inner products, so that a metric's factor may be thin."""
        return True

    @property
    def has_bandwidth(self) -> bool:
        """Whether :meth:`with_bandwidth` changes anything."""
        return False

    @property
    def smooth(self) -> bool:
        """Whether ``k(x, .)`` has a gradient at x itself; where it has none, the term counts as 0."""
        return True

    @abstractmethod
    def definition(self, x: Tensor, z: Tensor) -> Tensor:
        """``k(x_i, z_j)`` of shape (n, m) in plain torch, differentiable; its gradient is 0 where k has none."""

    def with_bandwidth(self, bandwidth: float) -> Kernel:
        """The same kernel with another bandwidth; kernels without one return themselves."""
        return self

    def to(self, rows: Tensor) -> Kernel:
        """The same kernel for rows of this dtype and on this device; kernels that hold no tensors return themselves."""
        return self

    def matrix(self, x: Tensor, z: Tensor) -> Tensor:
        """``k(x_i, z_j)``.

        Parameters
        ----------
        x : Tensor of shape (n, d)
        z : Tensor of shape (m, d)

        Returns
        -------
        Tensor of shape (n, m)
            Differentiable when an input asks for a gradient: then by the slower plain definition.

        Raises
        ------
        DataError
            Unless both are matrices with as many columns, of one floating dtype and on one device.
        """
        check_pair(x, z)
        if wants_graph(x, z):
            return self.definition(x, z)
        return self._matrix(x, z)

    def _matrix(self, x: Tensor, z: Tensor) -> Tensor:
        """The fast form of :meth:`matrix`, without a graph; here the definition on chunks of z."""
        out = x.new_empty(len(x), len(z))
        for part in slices(len(z), _rows_at_once(x.numel() * x.element_size())):
            out[:, part] = self.definition(x, z[part])
        return out

    def fill_(self, x: Tensor, out: Tensor, *, add: float | None = None) -> Tensor:
        """The symmetric matrix ``k(x_i, x_j)`` written into ``out`` (n, n), which is returned.

        Only blocks on and below the diagonal are computed; the rest is mirrored, so that ``out`` is exactly symmetric.
        With ``add``, that multiple of the matrix is added to what ``out`` holds.
        """
        check_square(x, out)
        diagonal = self.diagonal(x)
        for rows in slices(len(x), TILE):
            block = self.matrix(x[rows], x[: rows.stop])
            square = block[:, rows.start :]
            square.copy_(square.tril(-1) + square.tril(-1).mT + diagonal[rows].diag())
            put_(out[rows, : rows.stop], block, add)
            put_(out[: rows.start, rows], block[:, : rows.start].mT, add)
        return out

    def diagonal(self, x: Tensor) -> Tensor:
        """``k(x_i, x_i)`` of shape (n,)."""
        return torch.cat([self.definition(row, row).flatten() for row in x.split(1)])

    def expansion(self, x: Tensor, z: Tensor, dual: Tensor) -> Tensor:
        r"""Values of a kernel expansion, ``f_c(z_j) = sum_i dual_ic k(x_i, z_j)``.

        Parameters
        ----------
        x : Tensor of shape (n, d)
        z : Tensor of shape (m, d)
        dual : Tensor of shape (n, C)

        Returns
        -------
        Tensor of shape (m, C)
            Differentiable, as :meth:`matrix`.

        Notes
        -----
        Never holds more than 64 MB of kernel values; the chunks depend on the shapes alone.
        """
        check_pair(x, z, dual)
        parts = list(slices(len(z), _rows_at_once(len(x) * x.element_size()))) or [slice(0)]
        return torch.cat([self.matrix(x, z[part]).mT @ dual for part in parts])

    def expansion_gradient(self, x: Tensor, z: Tensor, dual: Tensor, *, rows: Tensor | None = None) -> Tensor:
        r"""Gradients of a kernel expansion, ``d f_c / d z_j``.

        Parameters
        ----------
        x : Tensor of shape (n, d)
        z : Tensor of shape (m, d)
        dual : Tensor of shape (n, C)
        rows : Tensor of shape (m,), optional
            Where the points are rows of x: ``z_j`` is row ``rows[j]``. Those terms count as 0 where k has no gradient
            (other pairs do when they are equal up to rounding).

        Returns
        -------
        Tensor of shape (m, C, d)

        Notes
        -----
        Not differentiable again. This one differentiates the plain definition, with C backward passes and arrays
        (n, chunk of m, d).
        """
        check_pair(x, z, dual, rows)
        gradients = z.new_empty(len(z), dual.shape[1], z.shape[1])
        for part in slices(len(z), _rows_at_once(x.numel() * x.element_size())):
            own = None if rows is None or self.smooth else rows[part]
            gradients[part] = self._autograd(x, z[part], dual, own)
        return gradients

    def _autograd(self, x: Tensor, z: Tensor, dual: Tensor, own: Tensor | None) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = z.detach().clone().requires_grad_(True)
            values = self.definition(x.detach(), leaf)
            if own is not None:
                itself = torch.zeros_like(values, dtype=torch.bool)
                itself[own, torch.arange(len(leaf), device=own.device)] = True
                values = values.masked_fill(itself, 0)
            outputs = values.mT @ dual.detach()
            columns = outputs.sum(dim=0).unbind()
            return torch.stack([torch.autograd.grad(column, leaf, retain_graph=True)[0] for column in columns], dim=1)


def wants_graph(*tensors: Tensor) -> bool:
    """Whether the answer has to be differentiable."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def put_(out: Tensor, block: Tensor, add: float | None) -> None:
    """Write a block, or add a multiple of it."""
    if add is None:
        out.copy_(block)
    else:
        out.add_(block, alpha=add)


def slices(length: int, step: int) -> Iterator[slice]:
    """Consecutive slices of at most ``step``."""
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def blocks(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of a matrix that fit in cache, row after row."""
    return ((one, other) for one in slices(rows, TILE) for other in slices(columns, TILE))


def blocks_below(n: int) -> Iterator[tuple[slice, slice]]:
    """Blocks on and below the diagonal of a square matrix."""
    return ((rows, columns) for rows in slices(n, TILE) for columns in slices(rows.stop, TILE))


def own_pairs(rows: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Positions within a block of the pairs (point, the same training row)."""
    inside = ((rows >= columns.start) & (rows < columns.stop)).nonzero()[:, 0]
    return inside, rows[inside] - columns.start


def weighted_sums(w: Tensor, dual: Tensor, x: Tensor) -> Tensor:
    """``sum_i w_ji dual_ic x_i`` of shape (m, C, d), as matrix products: the part of a gradient along the rows."""
    at_once = max(1, CHUNK // max(1, x.numel() * x.element_size()))
    products = [w @ (dual[:, part, None] * x[:, None]).flatten(start_dim=1) for part in slices(dual.shape[1], at_once)]
    return torch.cat(products, dim=1).unflatten(1, (dual.shape[1], x.shape[1]))


def _rows_at_once(bytes_per_row: int) -> int:
    return max(1, CHUNK // max(1, bytes_per_row))


def positive(name: str, value: Any) -> None:
    """Refuse a parameter that is not a positive finite number."""
    if not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise DataError(f"Got {name}={value!r}, but expected a positive finite number.")


def check_pair(x: Tensor, z: Tensor, dual: Tensor | None = None, rows: Tensor | None = None) -> None:
    """Refuse tensors that do not belong together, before any work."""
    same = x.dtype == z.dtype and x.device == z.device and x.dtype in (torch.float32, torch.float64)
    if x.dim() != 2 or z.dim() != 2 or x.shape[1] != z.shape[1] or not same:
        raise DataError(
            f"Got rows {_kind(x)} and {_kind(z)}, but expected two matrices with as many columns, "
            "both float32 or both float64, on one device."
        )
    if dual is not None and (dual.dim() != 2 or len(dual) != len(x) or dual.dtype != x.dtype):
        raise DataError(
            f"Got dual coefficients {_kind(dual)}, but expected ({len(x)}, C) of {x.dtype}, a row for each row of x."
        )
    if rows is not None and (rows.shape != z.shape[:1] or rows.dtype != torch.int64):
        raise DataError(f"Got rows {_kind(rows)}, but expected an int64 index into x for each of the {len(z)} points.")


def check_square(x: Tensor, out: Tensor) -> None:
    """Refuse a target that does not hold the kernel matrix of the rows."""
    check_pair(x, x)
    if out.shape != (len(x), len(x)) or out.dtype != x.dtype or out.device != x.device:
        raise DataError(f"Got out {_kind(out)}, but expected ({len(x)}, {len(x)}) of {x.dtype} on {x.device}.")


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}"
