"""Kernels of a distance: slopes, equal rows in single precision, positive definiteness, invariances."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from featlearn.exceptions import DataError
from featlearn.kernels import (
    ExponentialKernel,
    GaussianKernel,
    Kernel,
    LaplaceKernel,
    LpqKernel,
    Metric,
    RadialKernel,
)
from featlearn.linalg.psd import haar_orthogonal

RADIAL: list[RadialKernel] = [
    LaplaceKernel(1.7),
    LaplaceKernel(1.7, 0.5),
    LaplaceKernel(1.7, 1.3),
    LaplaceKernel(1.7, 2.0),
    GaussianKernel(0.8),
]
OTHERS = [LpqKernel(1.7), LpqKernel(1.7, 1.0, 0.5), LpqKernel(1.7, 1.4, 0.9), LpqKernel(1.7, 1.5, 1.5)]


def duplicated(n: int = 300, d: int = 40, shift: float = 0.0) -> Tensor:
    """Rows in single precision, every one of them twice."""
    half = (normal(n // 2, d) + shift).float()
    return torch.cat([half, half.flip(0)])


@pytest.mark.parametrize("kernel", RADIAL, ids=repr)
def test_slope_is_minus_twice_the_derivative_in_the_squared_distance(kernel: RadialKernel) -> None:
    r2 = torch.logspace(-4, 2, 50, dtype=torch.float64, requires_grad=True)
    x, z = r2.new_zeros(1, 1), r2.sqrt()[:, None]
    (derivative,) = torch.autograd.grad(kernel.definition(x, z).sum(), r2)
    slope = kernel.slope_(r2.detach().clone())
    torch.testing.assert_close(slope, -2 * derivative, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kernel", [*RADIAL, *OTHERS], ids=repr)
def test_slope_of_a_value_is_the_slope_of_its_distance(kernel: ExponentialKernel) -> None:
    powers = torch.logspace(-3, 1, 50, dtype=torch.float64)
    slope, values = kernel.slope_(powers.clone()), kernel.profile_(powers.clone())
    torch.testing.assert_close(kernel.slope_of_value_(values), slope, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kernel", [*RADIAL, *OTHERS], ids=repr)
def test_maps_work_in_place_and_slopes_are_zero_at_zero_distance(kernel: ExponentialKernel) -> None:
    for function in (kernel.profile_, kernel.slope_, kernel.slope_of_value_):
        tensor = torch.tensor([[0.25, 0.5]], dtype=torch.float64)
        before = tensor.clone()
        assert function(tensor) is tensor
        assert not torch.equal(tensor, before)
    at_zero = float(kernel.slope_(torch.zeros(1))), float(kernel.slope_of_value_(torch.ones(1)))
    expected = {LaplaceKernel: 2 / 1.7**2, GaussianKernel: 1 / 0.8**2}[type(kernel)] if kernel.smooth else 0.0
    assert at_zero == pytest.approx((expected, expected))


@pytest.mark.parametrize("kernel", [*RADIAL, *OTHERS], ids=repr)
def test_values_far_away_are_zero_with_slope_zero(kernel: ExponentialKernel) -> None:
    far = torch.tensor([1e12], dtype=torch.float32)
    assert float(kernel.profile_(far.clone())) == 0
    assert float(kernel.slope_(far.clone())) == 0
    assert float(kernel.slope_of_value_(torch.zeros(1))) == 0


@pytest.mark.parametrize("shift", [0.0, 1000.0])
@pytest.mark.parametrize("kernel", [LaplaceKernel(5.0), GaussianKernel(5.0), LpqKernel(40.0)], ids=repr)
def test_equal_rows_have_value_one_and_values_keep_single_precision(kernel: Kernel, shift: float) -> None:
    x = duplicated(shift=shift)
    exact = kernel.definition(x.double(), x.double())
    for values in (kernel.matrix(x, x), kernel.fill_(x, torch.empty(300, 300))):
        assert torch.equal(values[torch.arange(300), torch.arange(300).flip(0)], torch.ones(300))
        torch.testing.assert_close(values.double(), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kernel", [LaplaceKernel(5.0), LaplaceKernel(5.0, 0.5), LpqKernel(40.0)], ids=repr)
def test_equal_rows_push_nothing_into_a_gradient(kernel: Kernel) -> None:
    """Where a row occurs twice, both terms are left out: as if their coefficients were 0."""
    x, dual = duplicated(), normal(300, 1).float()
    gradient = kernel.expansion_gradient(x, x, dual, rows=torch.arange(300))
    for row in (0, 17, 149, 150, 299):
        others = dual.double()
        others[[row, 299 - row]] = 0
        expected = kernel.expansion_gradient(x.double(), x[row : row + 1].double(), others)[0]
        torch.testing.assert_close(gradient[row].double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kernel", [LaplaceKernel(5.0), LpqKernel(40.0)], ids=repr)
def test_projected_rows_that_differ_by_rounding_are_equal(kernel: Kernel) -> None:
    """The same rows multiplied in another order differ in the last bits; their unit direction means nothing."""
    x, factor = duplicated(n=60), normal(40, 40).float()
    x = x - x[:1]  # a row of zeros among them
    projected, again = x @ factor, (x.double() @ factor.double()).float()
    assert not torch.equal(projected, again)
    values = kernel.matrix(projected, again)
    assert torch.equal(values.diagonal(), torch.ones(60))
    assert float((values.double() - kernel.definition(projected.double(), again.double())).abs().max()) < 1e-5
    alone = kernel.expansion_gradient(projected[5:6], again[5:6], torch.ones(1, 1))
    assert float(alone.abs().max()) == 0


@pytest.mark.parametrize("kernel", [LaplaceKernel(5.0), GaussianKernel(5.0)], ids=repr)
@pytest.mark.parametrize("distance", [3e-2, 1e-2, 1e-3])
def test_close_rows_keep_their_distance(kernel: RadialKernel, distance: float) -> None:
    """A matrix product alone is off by the root of the precision, here 2e-3."""
    x = normal(50, 100).float()
    z = x + distance * torch.nn.functional.normalize(normal(50, 100, seed=4), dim=1).float()
    r2 = kernel.distances(x, z).block_(slice(0, 50), slice(0, 50), torch.empty(50, 50)).diagonal().double()
    torch.testing.assert_close(r2, (x.double() - z.double()).square().sum(1), rtol=1e-4, atol=0)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 40),
    st.integers(1, 30),
    st.integers(1, 9),
    st.floats(-1e3, 1e3),
    st.sampled_from([RADIAL[0], OTHERS[2]]),
)
def test_translations_change_nothing(n: int, m: int, d: int, shift: float, kernel: Kernel) -> None:
    x, z, dual = normal(n, d, seed=n), normal(m, d, seed=99 + m), normal(n, 2)
    torch.testing.assert_close(kernel.matrix(x + shift, z + shift), kernel.matrix(x, z), rtol=1e-8, atol=1e-8)
    moved = kernel.expansion_gradient(x + shift, z + shift, dual)
    torch.testing.assert_close(moved, kernel.expansion_gradient(x, z, dual), rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 8), st.integers(0, 100))
def test_rotations_change_radial_kernels_alone(d: int, seed: int) -> None:
    x, z = normal(12, d, seed=seed), normal(7, d, seed=seed + 1)
    rotation = haar_orthogonal((1, d, d), torch.Generator().manual_seed(seed))[0]
    for kernel in RADIAL:
        assert kernel.rotation_invariant
        torch.testing.assert_close(kernel.matrix(x @ rotation, z @ rotation), kernel.matrix(x, z))
    kernel = LpqKernel(2.0)
    assert not kernel.rotation_invariant
    assert not Metric(kernel).rotation_invariant
    if d > 2:
        assert not torch.allclose(kernel.matrix(x @ rotation, z @ rotation), kernel.matrix(x, z))


@settings(deadline=None, max_examples=40)
@given(st.floats(0.1, 2.0), st.floats(0.05, 1.0), st.floats(0.3, 30.0), st.integers(1, 12), st.integers(0, 50))
def test_kernels_are_positive_definite_inside_the_range(p: float, share: float, L: float, d: int, seed: int) -> None:
    x = normal(40, d, seed=seed)
    for kernel in (LpqKernel(L, p=p, q=p * share), LaplaceKernel(L, exponent=p)):
        eigenvalues = torch.linalg.eigvalsh(kernel.fill_(x, torch.empty(40, 40, dtype=x.dtype)))
        assert float(eigenvalues[0]) > -1e-12 * float(eigenvalues[-1])


@pytest.mark.parametrize(("p", "q"), [(1.0, 1.5), (2.0, 2.2)])
def test_outside_the_range_the_formula_is_indefinite_and_the_kernel_refuses(p: float, q: float) -> None:
    x = normal(150, 2)
    size = (x[:, None] - x).abs().pow(p).sum(-1).pow(1 / p)
    lowest = min(float(torch.linalg.eigvalsh(torch.exp(-((size / L) ** q)))[0]) for L in (0.5, 1.0, 2.0, 3.0))
    assert lowest < -1e-3
    with pytest.raises(DataError, match="expected 0 < q"):
        LpqKernel(1.0, p=p, q=q)


@pytest.mark.parametrize("make", [LaplaceKernel, GaussianKernel, LpqKernel])
@pytest.mark.parametrize("bandwidth", [0.0, -1.0, float("nan"), float("inf"), "wide", None, torch.ones(2)])
def test_bandwidths_that_are_not_positive_numbers_are_refused(make: Any, bandwidth: Any) -> None:
    with pytest.raises(DataError, match=r"Got bandwidth=.* but expected a positive finite number"):
        make(bandwidth)
    with pytest.raises(DataError, match="expected a positive finite number"):
        make(1.0).with_bandwidth(bandwidth)


def test_exponents_out_of_range_are_refused() -> None:
    for exponent in (2.01, 0.0, -1.0, float("nan")):
        with pytest.raises(DataError, match=f"Got exponent={exponent}"):
            LaplaceKernel(1.0, exponent=exponent)
    for p, q in ((2.5, 1.0), (1.0, 1.01)):
        with pytest.raises(DataError, match=f"Got p={p} and q={q}"):
            LpqKernel(1.0, p=p, q=q)
    for p, q in ((0.0, 0.0), (1.0, 0.0), (1.0, -0.5), (float("nan"), 1.0)):
        with pytest.raises(DataError, match="positive finite number"):
            LpqKernel(1.0, p=p, q=q)


def test_kernels_of_the_same_formula_agree() -> None:
    x, z, dual = normal(20, 4), normal(9, 4, seed=5), normal(20, 2)
    for one, other in (
        (GaussianKernel(2.0), LaplaceKernel(2.0 * 2**0.5, exponent=2.0)),
        (LpqKernel(2.0, p=2.0, q=0.8), LaplaceKernel(2.0, exponent=0.8)),
        (LpqKernel(3.0, p=1.0, q=1.0), LpqKernel(3.0, p=1.0 + 1e-12, q=1.0)),
    ):
        torch.testing.assert_close(one.matrix(x, z), other.matrix(x, z), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            one.expansion_gradient(x, z, dual), other.expansion_gradient(x, z, dual), rtol=1e-8, atol=1e-10
        )


def test_laplace_of_one_coordinate_is_a_product_over_coordinates() -> None:
    """l1 with q = 1: the exponential of a sum."""
    x, z = normal(6, 3), normal(5, 3, seed=2)
    product = torch.stack([LaplaceKernel(2.0).matrix(x[:, [k]], z[:, [k]]) for k in range(3)]).prod(dim=0)
    torch.testing.assert_close(LpqKernel(2.0).matrix(x, z), product)
