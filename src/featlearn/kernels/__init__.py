"""Kernels: one a file, and the metric that goes around any of them."""

from __future__ import annotations

from .arccos import ArcCosNTK
from .bandwidth import median_bandwidth
from .base import Kernel
from .conv import ConvNTK
from .exponential import ExponentialKernel
from .gaussian import GaussianKernel
from .laplace import LaplaceKernel
from .lpq import LpqKernel
from .mean import MeanKernel
from .metric import Metric
from .patch_metric import PatchMetric
from .quadratic import QuadraticKernel
from .radial import RadialKernel
from .warp import ColumnWarp

__all__ = [
    "ArcCosNTK",
    "ColumnWarp",
    "ConvNTK",
    "ExponentialKernel",
    "GaussianKernel",
    "Kernel",
    "LaplaceKernel",
    "LpqKernel",
    "MeanKernel",
    "Metric",
    "PatchMetric",
    "QuadraticKernel",
    "RadialKernel",
    "median_bandwidth",
]
