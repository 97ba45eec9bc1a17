"""Quadratic kernels: feature maps, the quadratic form of a predictor."""

from __future__ import annotations

import pytest
import torch
from cases import normal

from featlearn.exceptions import DataError
from featlearn.kernels import Kernel, Metric, QuadraticKernel


def test_values_are_inner_products_of_products_of_coordinates() -> None:
    x, z = normal(8, 3), normal(5, 3, seed=2)
    features = [torch.einsum("ni,nj->nij", rows, rows).flatten(1) for rows in (x, z)]
    torch.testing.assert_close(QuadraticKernel().matrix(x, z), features[0] @ features[1].mT)


def test_general_form_adds_products_of_excess_norms() -> None:
    x, z = normal(8, 3), normal(5, 3, seed=2)
    added = QuadraticKernel(general=True).matrix(x, z) - QuadraticKernel().matrix(x, z)
    excess = [(rows * rows).sum(1) - 1 for rows in (x, z)]
    torch.testing.assert_close(added, torch.outer(*excess) / 2)


@pytest.mark.parametrize("general", [False, True])
@pytest.mark.parametrize("m", [2, 4, 5, 12])
def test_gradient_is_the_hessian_times_the_point_whichever_way_it_is_made(general: bool, m: int) -> None:
    kernel, (x, z, dual) = QuadraticKernel(general), (normal(9, 5), normal(m, 5, seed=2), normal(9, 3))
    autograd = Kernel.expansion_gradient(kernel, x, z, dual)
    torch.testing.assert_close(kernel.expansion_gradient(x, z, dual), autograd, rtol=1e-9, atol=1e-11)
    hessians = torch.stack([kernel.hessian(x, column) for column in dual.mT])
    assert torch.allclose(hessians, hessians.mT)
    torch.testing.assert_close(torch.einsum("mi,cij->mcj", z, hessians), autograd, rtol=1e-9, atol=1e-11)


def test_hessian_in_a_metric_is_sandwiched_by_the_factor() -> None:
    """G of a metric needs only H: gradients are z A H A^T."""
    kernel, x, z, dual, factor = QuadraticKernel(True), normal(9, 4), normal(6, 4, seed=2), normal(9, 1), normal(4, 3)
    hessian = factor @ kernel.hessian(x @ factor, dual[:, 0]) @ factor.mT
    gradient = Metric(kernel, factor).expansion_gradient(x, z, dual)[:, 0]
    torch.testing.assert_close(gradient, z @ hessian, rtol=1e-9, atol=1e-10)


def test_plain_form_is_positive_and_the_general_one_keeps_a_defined_diagonal() -> None:
    x = normal(12, 4)
    plain = QuadraticKernel().fill_(x, torch.empty(12, 12, dtype=x.dtype))
    assert float(torch.linalg.eigvalsh(plain)[0]) > -1e-10
    norms = x.square().sum(1)
    torch.testing.assert_close(QuadraticKernel().diagonal(x), norms**2)
    torch.testing.assert_close(QuadraticKernel(True).diagonal(x), norms**2 + (norms - 1) ** 2 / 2)


@pytest.mark.parametrize("general", [1, None, "yes"])
def test_a_switch_that_is_not_a_bool_is_refused(general: object) -> None:
    with pytest.raises(DataError, match="expected True or False"):
        QuadraticKernel(general)  # type: ignore[arg-type]
