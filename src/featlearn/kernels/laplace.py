"""Laplace kernel and its generalisation with an exponent."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..exceptions import DataError
from .base import positive
from .radial import RadialKernel

__all__ = ["LaplaceKernel"]


@dataclass(frozen=True)
class LaplaceKernel(RadialKernel):
    r"""Exponential of a power of the distance.

    .. math:: k(x, z) = \exp(-(r / L)^q), \qquad \nabla_z k = \frac{q}{L^q} r^{q-2} k \, (x - z), \qquad r = |x - z|

    Parameters
    ----------
    bandwidth : float
        L, in units of the distance.
    exponent : float, default 1.0
        q in (0, 2]; at 2 it is the Gaussian kernel of bandwidth ``L / sqrt(2)``.

    Raises
    ------
    DataError
        For a bandwidth that is not positive and finite, or an exponent for which the kernel is not positive definite.

    Examples
    --------
    >>> import torch
    >>> LaplaceKernel(2.0).matrix(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([[0.0821]])
    """

    bandwidth: float
    exponent: float = 1.0

    def __post_init__(self) -> None:
        positive("bandwidth", self.bandwidth)
        positive("exponent", self.exponent)
        if self.exponent > 2:
            raise DataError(
                f"Got exponent={self.exponent!r}, but expected at most 2: above, the kernel is not positive definite."
            )

    @property
    def _exponent(self) -> float:
        return self.exponent

    @property
    def _rate(self) -> float:
        return self.bandwidth**-self.exponent

    def with_bandwidth(self, bandwidth: float) -> LaplaceKernel:
        """The same kernel with another bandwidth."""
        return dataclasses.replace(self, bandwidth=bandwidth)
