"""Kernels of the Euclidean distance, which need matrix products only."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from .distances import SquaredDistances
from .exponential import BlockDistances, ExponentialKernel

__all__ = ["RadialKernel"]


class RadialKernel(ExponentialKernel):
    r"""Kernels ``k(x, z) = exp(-c r^q)`` of ``r = |x - z|``.

    .. math:: \nabla f_c(z) = \sum_i w(r_i) \, \beta_{ic} (x_i - z), \qquad w(r) = q c \, r^{q-2} k

    :meth:`profile_` maps squared distances to k, :meth:`slope_` to w, and :meth:`slope_of_value_` k to w, each in
    place; :class:`~featlearn.kernels.distances.SquaredDistances` makes the squared distances.
    """

    @property
    @abstractmethod
    def _exponent(self) -> float:
        """The exponent q."""

    @property
    def _orders(self) -> tuple[float, float]:
        return 2, self._exponent

    def distances(self, x: Tensor, z: Tensor) -> BlockDistances:
        """Distances to the power p between the rows, made block by block where they are used."""
        return SquaredDistances(x, z)
