"""Kernels: one a file, and the metric that goes around any of them."""

from __future__ import annotations

from .arccos import ArcCosNTK
from .bandwidth import median_bandwidth
from .base import Kernel
from .exponential import ExponentialKernel
from .gaussian import GaussianKernel
from .laplace import LaplaceKernel
from .lpq import LpqKernel
from .mean import MeanKernel
from .metric import Metric
from .quadratic import QuadraticKernel
from .radial import RadialKernel
from .warp import ColumnWarp

__all__ = [
    "ArcCosNTK",
    "ColumnWarp",
    "ExponentialKernel",
    "GaussianKernel",
    "Kernel",
    "LaplaceKernel",
    "LpqKernel",
    "MeanKernel",
    "Metric",
    "QuadraticKernel",
    "RadialKernel",
    "median_bandwidth",
]
