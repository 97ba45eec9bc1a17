"""Kernels: one a file, and the metric that goes around any of them."""

from __future__ import annotations

from .arccos import ArcCosNTK
from .bandwidth import median_bandwidth
from .base import Kernel
from .exponential import ExponentialKernel
from .gaussian import GaussianKernel
from .laplace import LaplaceKernel
from .lpq import LpqKernel
from .metric import Metric
from .quadratic import QuadraticKernel
from .radial import RadialKernel

__all__ = [
    "ArcCosNTK",
    "ExponentialKernel",
    "GaussianKernel",
    "Kernel",
    "LaplaceKernel",
    "LpqKernel",
    "Metric",
    "QuadraticKernel",
    "RadialKernel",
    "median_bandwidth",
]
