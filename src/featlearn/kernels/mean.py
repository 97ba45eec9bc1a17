"""The mean of several kernels: one machine that looks at the rows in several ways."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..exceptions import DataError
from .base import Kernel, check_pair, check_square

__all__ = ["MeanKernel"]


@dataclass(frozen=True, eq=False)
class MeanKernel(Kernel):
    r"""Mean of kernels, each usually with a metric of its own; itself a kernel.

    .. math:: k(x, z) = \frac{1}{P} \sum_{p=1}^{P} k_p(x, z)

    One ridge regression with it fits a sum of P functions, one from the space of each kernel: what is easy for one is
    left to that one.

    Parameters
    ----------
    kernels : tuple of Kernel

    Raises
    ------
    DataError
        For no kernels.
    """

    kernels: tuple[Kernel, ...]

    def __post_init__(self) -> None:
        if not self.kernels:
            raise DataError("Got no kernels, but expected at least one to take the mean of.")

    @property
    def rotation_invariant(self) -> bool:
        """Whether all of them are."""
        return all(kernel.rotation_invariant for kernel in self.kernels)

    @property
    def smooth(self) -> bool:
        """Whether all of them are."""
        return all(kernel.smooth for kernel in self.kernels)

    def to(self, rows: Tensor) -> MeanKernel:
        """Each of them for rows of this dtype and on this device."""
        return MeanKernel(tuple(kernel.to(rows) for kernel in self.kernels))

    def definition(self, x: Tensor, z: Tensor) -> Tensor:
        """The mean of the definitions."""
        return torch.stack([kernel.definition(x, z) for kernel in self.kernels]).mean(dim=0)

    def _matrix(self, x: Tensor, z: Tensor) -> Tensor:
        total = self.kernels[0].matrix(x, z)
        for kernel in self.kernels[1:]:
            total += kernel.matrix(x, z)
        return total.div_(len(self.kernels))

    def fill_(self, x: Tensor, out: Tensor, *, add: float | None = None) -> Tensor:
        """The symmetric mean matrix, one kernel after the other added in place."""
        check_square(x, out)
        if add is None:
            out.zero_()
        for kernel in self.kernels:
            kernel.fill_(x, out, add=(1.0 if add is None else add) / len(self.kernels))
        return out

    def diagonal(self, x: Tensor) -> Tensor:
        """The mean of the diagonals."""
        return torch.stack([kernel.diagonal(x) for kernel in self.kernels]).mean(dim=0)

    def expansion(self, x: Tensor, z: Tensor, dual: Tensor) -> Tensor:
        """Values (m, C): the mean of those with each kernel."""
        total = self.kernels[0].expansion(x, z, dual)
        for kernel in self.kernels[1:]:
            total = total + kernel.expansion(x, z, dual)
        return total / len(self.kernels)

    @torch.no_grad()
    def expansion_gradient(self, x: Tensor, z: Tensor, dual: Tensor, *, rows: Tensor | None = None) -> Tensor:
        """Gradients (m, C, d): the mean of those with each kernel."""
        check_pair(x, z, dual, rows)
        total = self.kernels[0].expansion_gradient(x, z, dual, rows=rows)
        for kernel in self.kernels[1:]:
            total += kernel.expansion_gradient(x, z, dual, rows=rows)
        return total.div_(len(self.kernels))
