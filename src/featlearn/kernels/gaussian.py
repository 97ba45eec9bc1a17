"""Gaussian kernel."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import positive
from .radial import RadialKernel

__all__ = ["GaussianKernel"]


@dataclass(frozen=True)
class GaussianKernel(RadialKernel):
    r"""Exponential of the squared distance.

    .. math:: k(x, z) = \exp(-r^2 / (2 L^2)), \qquad \nabla_z k = \frac{k}{L^2} (x - z), \qquad r = |x - z|

    Parameters
    ----------
    bandwidth : float
        L, in units of the distance.

    Raises
    ------
    DataError
        For a bandwidth that is not positive and finite.

    Notes
    -----
    The text of the grokking paper (arXiv 2407.20199) writes ``exp(-r^2 / L)``; its code uses the form above.

    Examples
    --------
    >>> import torch
    >>> GaussianKernel(2.0).matrix(torch.zeros(1, 1), torch.tensor([[2.0]]))
    tensor([[0.6065]])
    """

    bandwidth: float

    def __post_init__(self) -> None:
        positive("bandwidth", self.bandwidth)

    @property
    def _rate(self) -> float:
        return 0.5 / self.bandwidth**2

    def with_bandwidth(self, bandwidth: float) -> GaussianKernel:
        """The same kernel with another bandwidth."""
        return dataclasses.replace(self, bandwidth=bandwidth)

    def profile(self, r2: Tensor) -> Tensor:
        """Squared distances (positive) to kernel values."""
        return torch.exp(-r2 / (2 * self.bandwidth**2))

    def profile_(self, r2: Tensor) -> Tensor:
        """Squared distances (not negative) to kernel values, in place."""
        return r2.mul_(-self._rate).exp_()

    def slope_(self, r2: Tensor) -> Tensor:
        """Squared distances (not negative) to w, in place."""
        return self.slope_of_value_(self.profile_(r2))

    def slope_of_value_(self, k: Tensor) -> Tensor:
        """Kernel values to w, in place."""
        return k.mul_(2 * self._rate)
