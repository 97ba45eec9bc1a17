"""Mahalanobis metrics around any kernel, with or without a warp of the columns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..exceptions import DataError
from .base import Kernel, check_pair
from .warp import ColumnWarp

__all__ = ["Metric"]


@dataclass(frozen=True, eq=False)
class Metric(Kernel):
    r"""A kernel of linearly transformed rows; itself a kernel.

    .. math:: k_M(x, z) = k(x A, z A), \qquad \nabla_z k_M = (\nabla_u k)(x A, u = z A) \, A^\top, \qquad M = A A^\top

    With a warp, rows x are :math:`\varphi(x)` first, and gradients are multiplied by :math:`\varphi'(z)` in the end.

    Parameters
    ----------
    kernel : Kernel
        Knows nothing of the metric.
    factor : Tensor of shape (d, k) or (d,), optional
        A; a vector is a diagonal matrix, and None the identity. Kernels that are rotation invariant see M alone, so
        that A may be thin (k < d); for the others A should be the symmetric root of M.
    warp : ColumnWarp, optional
        Monotone map of every column, before the factor.

    Raises
    ------
    DataError
        For a factor of another rank, or one that does not fit the rows.
    """

    kernel: Kernel
    factor: Tensor | None = None
    warp: ColumnWarp | None = None

    def __post_init__(self) -> None:
        if self.factor is not None and self.factor.dim() not in (1, 2):
            raise DataError(f"Got a factor of shape {tuple(self.factor.shape)}, but expected (d, k) or (d,).")

    @property
    def has_bandwidth(self) -> bool:
        """As of the kernel inside."""
        return self.kernel.has_bandwidth

    @property
    def rotation_invariant(self) -> bool:
        """As of the kernel inside."""
        return self.kernel.rotation_invariant

    @property
    def smooth(self) -> bool:
        """As of the kernel inside."""
        return self.kernel.smooth

    def with_bandwidth(self, bandwidth: float) -> Metric:
        """The same metric around the kernel with another bandwidth."""
        return Metric(self.kernel.with_bandwidth(bandwidth), self.factor, self.warp)

    def to(self, rows: Tensor) -> Metric:
        """Factor and warp for rows of this dtype and on this device."""
        factor = None if self.factor is None else self.factor.to(rows)
        return Metric(self.kernel.to(rows), factor, None if self.warp is None else self.warp.to(rows))

    def project(self, x: Tensor) -> Tensor:
        """Rows ``x A`` of shape (n, k), those that the kernel inside sees."""
        factor = self.factor
        if self.warp is not None:
            x = self.warp(x)
        if factor is None:
            return x
        if x.dim() != 2 or x.shape[1] != len(factor) or x.dtype != factor.dtype or x.device != factor.device:
            raise DataError(
                f"Got rows {tuple(x.shape)} of {x.dtype} on {x.device}, but the factor is {tuple(factor.shape)} of "
                f"{factor.dtype} on {factor.device}: expected (n, {len(factor)}) of its dtype on its device."
            )
        return x * factor if factor.dim() == 1 else x @ factor

    def definition(self, x: Tensor, z: Tensor) -> Tensor:
        """Of the projected rows."""
        return self.kernel.definition(self.project(x), self.project(z))

    def _matrix(self, x: Tensor, z: Tensor) -> Tensor:
        return self.kernel.matrix(self.project(x), self.project(z))

    def fill_(self, x: Tensor, out: Tensor, *, add: float | None = None) -> Tensor:
        """The symmetric matrix of the projected rows, in place."""
        return self.kernel.fill_(self.project(x), out, add=add)

    def diagonal(self, x: Tensor) -> Tensor:
        """Of the projected rows."""
        return self.kernel.diagonal(self.project(x))

    def expansion(self, x: Tensor, z: Tensor, dual: Tensor) -> Tensor:
        """Values (m, C) of a kernel expansion."""
        return self.kernel.expansion(self.project(x), self.project(z), dual)

    @torch.no_grad()
    def expansion_gradient(self, x: Tensor, z: Tensor, dual: Tensor, *, rows: Tensor | None = None) -> Tensor:
        """Gradients (m, C, d) with respect to z, not to its projection."""
        check_pair(x, z, dual, rows)
        gradient = self.kernel.expansion_gradient(self.project(x), self.project(z), dual, rows=rows)
        if self.factor is not None:
            gradient = gradient * self.factor if self.factor.dim() == 1 else gradient @ self.factor.mT
        return gradient if self.warp is None else gradient * self.warp.derivative(z)[:, None]
