"""Kernels: one a file, and the metric that goes around any of them."""

from __future__ import annotations

from .bandwidth import median_bandwidth
from .base import Kernel
from .gaussian import GaussianKernel
from .laplace import LaplaceKernel
from .metric import Metric
from .radial import RadialKernel

__all__ = ["GaussianKernel", "Kernel", "LaplaceKernel", "Metric", "RadialKernel", "median_bandwidth"]
