"""Kernels of every kind, with and without a metric, and points that include equal rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import normal
from torch import Tensor

from featlearn.kernels import (
    ArcCosNTK,
    ColumnWarp,
    GaussianKernel,
    Kernel,
    LaplaceKernel,
    LpqKernel,
    MeanKernel,
    Metric,
    QuadraticKernel,
)

D = 5
PLAIN: list[Kernel] = [
    LaplaceKernel(2.0),
    LaplaceKernel(3.0, exponent=0.6),
    LaplaceKernel(3.0, exponent=1.4),
    LaplaceKernel(3.0, exponent=2.0),
    GaussianKernel(2.0),
    LpqKernel(6.0),
    LpqKernel(6.0, p=1.0, q=0.7),
    LpqKernel(4.0, p=1.3, q=1.0),
    LpqKernel(4.0, p=1.5, q=1.5),
    LpqKernel(9.0, p=0.6, q=0.4),
    LpqKernel(3.0, p=2.0, q=1.0),
    LpqKernel(3.0, p=2.0, q=2.0),
    QuadraticKernel(),
    QuadraticKernel(general=True),
    ArcCosNTK(1),
    ArcCosNTK(3),
]
FACTORS = {"thin": normal(D, 3, seed=8), "square": normal(D, D, seed=9), "diagonal": normal(D, seed=10), "none": None}


WARP = ColumnWarp.identity(normal(40, D, seed=11), pieces=6).learned(
    normal(60, D, seed=12), normal(60, D, seed=13) ** 2, power=2.0
)


class Named:
    """A kernel with a short name for the test's id."""

    def __init__(self, kernel: Kernel, metric: str = "", *, warp: bool = False) -> None:
        self.kernel = Metric(kernel, FACTORS[metric], WARP if warp else None) if metric else kernel
        self.name = f"{kernel!r} {metric}{' warped' if warp else ''}".strip()


CASES = [Named(kernel) for kernel in PLAIN]
CASES += [
    Named(kernel, metric)
    for kernel in (LaplaceKernel(2.0), GaussianKernel(2.0), QuadraticKernel(general=True), ArcCosNTK(2))
    for metric in FACTORS
]
CASES += [Named(LpqKernel(6.0), "square"), Named(LpqKernel(4.0, p=1.3, q=1.0), "diagonal")]
CASES += [Named(LaplaceKernel(2.0), "square", warp=True), Named(LpqKernel(6.0), "diagonal", warp=True)]
MEAN = Named(MeanKernel((CASES[-2].kernel, CASES[-1].kernel)))
MEAN.name = "mean of two"
CASES.append(MEAN)


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return request.param.kernel


@pytest.fixture
def points() -> tuple[Tensor, Tensor, Tensor]:
    """Rows x (23, 5), points z (11, 5) and coefficients (23, 3); some rows agree in some coordinates."""
    x, z, dual = normal(23, D, seed=1), normal(11, D, seed=2), normal(23, 3, seed=3)
    z[:4, 2] = x[:4, 2]
    return x, z, dual


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Shrinks blocks and chunks, so that small data passes over many of them."""

    def shrink(tile: int = 7, chunk: int = 2**10) -> None:
        for module in ("base", "exponential"):
            monkeypatch.setattr(f"featlearn.kernels.{module}.TILE", tile)
        for module in ("base", "distances", "coordinates"):
            monkeypatch.setattr(f"featlearn.kernels.{module}.CHUNK", chunk)

    return shrink


@pytest.fixture
def one_torch_thread() -> Any:
    threads = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(threads)
