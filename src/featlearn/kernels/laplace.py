"""Laplace kernel and its generalisation with an exponent."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

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
    def smooth(self) -> bool:
        """Whether ``k(x, .)`` has a gradient at x itself."""
        return self.exponent == 2

    def with_bandwidth(self, bandwidth: float) -> LaplaceKernel:
        """The same kernel with another bandwidth."""
        return dataclasses.replace(self, bandwidth=bandwidth)

    def profile(self, r2: Tensor) -> Tensor:
        """Squared distances (positive) to kernel values."""
        return torch.exp(-(r2 ** (self.exponent / 2)) / self.bandwidth**self.exponent)

    def profile_(self, r2: Tensor) -> Tensor:
        """Squared distances (not negative) to kernel values, in place."""
        return self._power_(r2).mul_(-(self.bandwidth**-self.exponent)).exp_()

    def slope_(self, r2: Tensor) -> Tensor:
        """Squared distances (not negative) to w, in place."""
        q, scale = self.exponent, self.bandwidth**-self.exponent
        if q == 2:
            return r2.mul_(-scale).exp_().mul_(2 * scale)
        equal = r2 == 0
        power = self._power_(r2.clone())
        values = torch.mul(power, -scale).exp_()
        return torch.div(power.mul_(values), r2, out=r2).mul_(q * scale).masked_fill_(equal, 0.0)

    def slope_of_value_(self, k: Tensor) -> Tensor:
        """Kernel values to w, in place."""
        q, bandwidth = self.exponent, self.bandwidth
        if q == 2:
            return k.mul_(2 / bandwidth**2)
        power = k.log().neg_()  # (r / L)^q
        power.masked_fill_(power <= 0, torch.inf)  # where w becomes 0
        factor = power.reciprocal_() if q == 1 else power.pow_(1 - 2 / q)
        return k.mul_(factor).mul_(q / bandwidth**2)

    def _power_(self, r2: Tensor) -> Tensor:
        """Squared distances to r^q, in place."""
        if self.exponent == 1:
            return r2.sqrt_()
        return r2 if self.exponent == 2 else r2.pow_(self.exponent / 2)
