"""Metrics around kernels: the kernel of projected rows, gradients pulled back."""

from __future__ import annotations

import pytest
import torch
from cases import normal
from torch import Tensor

from featlearn.exceptions import DataError
from featlearn.kernels import ArcCosNTK, GaussianKernel, Kernel, LaplaceKernel, LpqKernel, Metric, QuadraticKernel
from featlearn.linalg.psd import haar_orthogonal

KERNELS = [LaplaceKernel(2.0), GaussianKernel(2.0), LpqKernel(4.0), QuadraticKernel(True), ArcCosNTK(2)]


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize("factor", [normal(4, 2), normal(4, 4), normal(4, 7)], ids=lambda a: str(tuple(a.shape)))
def test_metric_is_the_kernel_of_projected_rows(kernel: Kernel, factor: Tensor) -> None:
    x, z, dual = normal(12, 4), normal(7, 4, seed=2), normal(12, 2)
    metric = Metric(kernel, factor)
    assert torch.equal(metric.project(x), x @ factor)
    torch.testing.assert_close(metric.matrix(x, z), kernel.matrix(x @ factor, z @ factor))
    torch.testing.assert_close(metric.expansion(x, z, dual), kernel.expansion(x @ factor, z @ factor, dual))
    torch.testing.assert_close(metric.diagonal(x), kernel.diagonal(x @ factor))
    inner = kernel.expansion_gradient(x @ factor, z @ factor, dual)
    torch.testing.assert_close(metric.expansion_gradient(x, z, dual), torch.einsum("mck,dk->mcd", inner, factor))


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_a_vector_is_a_diagonal_matrix_and_none_the_identity(kernel: Kernel) -> None:
    x, z, dual, vector = normal(12, 4), normal(7, 4, seed=2), normal(12, 2), normal(4, seed=3)
    for short, long in ((vector, vector.diag()), (None, torch.eye(4, dtype=x.dtype))):
        one, other = Metric(kernel, short), Metric(kernel, long)
        torch.testing.assert_close(one.matrix(x, z), other.matrix(x, z))
        torch.testing.assert_close(one.expansion_gradient(x, z, dual), other.expansion_gradient(x, z, dual))


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel.rotation_invariant], ids=repr)
def test_rotation_invariant_kernels_see_the_metric_and_not_its_factor(kernel: Kernel) -> None:
    x, z, dual, factor = normal(12, 4), normal(7, 4, seed=2), normal(12, 2), normal(4, 3, seed=3)
    turned = factor @ haar_orthogonal((1, 3, 3), torch.Generator().manual_seed(0))[0]
    torch.testing.assert_close(Metric(kernel, factor).matrix(x, z), Metric(kernel, turned).matrix(x, z))
    torch.testing.assert_close(
        Metric(kernel, factor).expansion_gradient(x, z, dual), Metric(kernel, turned).expansion_gradient(x, z, dual)
    )


def test_metrics_nest() -> None:
    x, z, dual, first, second = normal(9, 4), normal(5, 4, seed=2), normal(9, 2), normal(4, 3), normal(3, seed=4)
    nested, product = (
        Metric(Metric(LaplaceKernel(2.0), second), first),
        Metric(LaplaceKernel(2.0), first * second),
    )
    torch.testing.assert_close(nested.matrix(x, z), product.matrix(x, z))
    torch.testing.assert_close(nested.expansion_gradient(x, z, dual), product.expansion_gradient(x, z, dual))
    assert nested.has_bandwidth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_own_rows_do_not_leak_rounding_into_the_gradient(dtype: torch.dtype) -> None:
    """A metric with directions 1e4 apart in scale: projections of the same row in other products differ by rounding."""
    factor = (normal(30, 30) * torch.logspace(0, -4, 30, dtype=torch.float64)).to(dtype)
    x, dual = normal(80, 30).to(dtype), normal(80, 1).to(dtype)
    for kernel in (LaplaceKernel(2.0), LpqKernel(8.0)):
        metric = Metric(kernel, factor)
        together = metric.expansion_gradient(x, x, dual, rows=torch.arange(80))
        alone = torch.cat([metric.expansion_gradient(x, x[[i]], dual, rows=torch.tensor([i])) for i in (0, 41, 79)])
        tolerance = 1e-4 if dtype == torch.float32 else 1e-10
        torch.testing.assert_close(
            together[[0, 41, 79]], alone, rtol=tolerance, atol=tolerance * float(together.abs().max())
        )


def test_factors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"Got a factor of shape \(2, 2, 2\)"):
        Metric(LaplaceKernel(1.0), normal(2, 2, 2))
    for factor in (normal(3, 2), normal(3), normal(4, 2).float()):
        metric = Metric(LaplaceKernel(1.0), factor)
        with pytest.raises(DataError, match=r"expected \(n, [34]\) of its dtype"):
            metric.matrix(normal(5, 4), normal(5, 4))
