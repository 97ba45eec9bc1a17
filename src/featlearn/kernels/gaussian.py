"""Gaussian kernel."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

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
    def _exponent(self) -> float:
        return 2.0

    @property
    def _rate(self) -> float:
        return 0.5 / self.bandwidth**2

    def with_bandwidth(self, bandwidth: float) -> GaussianKernel:
        """The same kernel with another bandwidth."""
        return dataclasses.replace(self, bandwidth=bandwidth)
