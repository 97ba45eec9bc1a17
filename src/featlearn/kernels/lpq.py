"""Kernels of distances other than the Euclidean one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from ..exceptions import DataError
from .base import positive
from .coordinates import CoordinateDistances
from .distances import SquaredDistances
from .exponential import BlockDistances, ExponentialKernel

__all__ = ["LpqKernel"]


@dataclass(frozen=True)
class LpqKernel(ExponentialKernel):
    r"""Exponential of a power of an :math:`\ell_p` distance.

    .. math:: k(x, z) = \exp(-(D / L)^q), \qquad D = \Big( \sum_l |x_l - z_l|^p \Big)^{1/p}, \qquad
        \partial_{z_l} k = \frac{q}{L^q} \, k \, D^{q-p} \operatorname{sign}(u_l) |u_l|^{p-1}, \qquad u = x - z

    Parameters
    ----------
    bandwidth : float
        L, in units of the distance.
    p : float, default 1.0
        Order of the distance, in (0, 2].
    q : float, default 1.0
        Exponent, in (0, p].

    Raises
    ------
    DataError
        For a bandwidth that is not positive and finite, or outside ``0 < q <= p <= 2``, where the kernel is not
        positive definite.

    Notes
    -----
    Not rotation invariant: a metric's factor has to be the symmetric root. A term counts as 0 where the derivative does
    not exist: in the coordinates in which two rows agree, for ``p <= 1``. Costs d powers a pair (compiled on
    processors); p = 2 runs by matrix products.

    Examples
    --------
    >>> import torch
    >>> LpqKernel(2.0, p=1.0, q=1.0).matrix(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([[0.0302]])
    """

    bandwidth: float
    p: float = 1.0
    q: float = 1.0

    rotation_invariant = False

    def __post_init__(self) -> None:
        positive("bandwidth", self.bandwidth)
        positive("p", self.p)
        positive("q", self.q)
        if not self.q <= self.p <= 2:
            raise DataError(
                f"Got p={self.p!r} and q={self.q!r}, but expected 0 < q <= p <= 2: outside, the kernel is not positive "
                "definite."
            )

    @property
    def _orders(self) -> tuple[float, float]:
        return self.p, self.q

    @property
    def _rate(self) -> float:
        return self.bandwidth**-self.q

    def with_bandwidth(self, bandwidth: float) -> LpqKernel:
        """The same kernel with another bandwidth."""
        return dataclasses.replace(self, bandwidth=bandwidth)

    def distances(self, x: Tensor, z: Tensor) -> BlockDistances:
        """Distances to the power p between the rows, made block by block where they are used."""
        if self.p == 2:
            return SquaredDistances(x, z)
        if x.device.type != "cpu":
            return CoordinateDistances(x, z, self.p)
        from ._lpq_numba import CompiledDistances  # numba loads at first use

        return CompiledDistances(x, z, self.p)
