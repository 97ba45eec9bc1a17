"""The tangent kernel of a ReLU network: golden numbers, sampled networks, homogeneity, zero and parallel rows."""

from __future__ import annotations

import pytest
import torch
from cases import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from featlearn.exceptions import DataError
from featlearn.kernels import ArcCosNTK, Kernel

X = torch.tensor([[1.0, 0.5, -0.25], [0.2, -1.0, 0.7]], dtype=torch.float64)
Z = torch.tensor([[-0.3, 0.8, 0.6]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("depth", "first", "second"),
    [(1, 0.3317246498, 0.0438574548), (2, 0.7735327276, 0.5486294578), (3, 1.2240526126, 1.0549556391)],
)
def test_golden_numbers(depth: int, first: float, second: float) -> None:
    values = ArcCosNTK(depth).matrix(X, Z)
    torch.testing.assert_close(values[:, 0], torch.tensor([first, second], dtype=torch.float64), rtol=0, atol=6e-11)


def test_one_layer_is_the_mean_over_random_networks() -> None:
    """f(x) = sqrt(2 / width) sum_j a_j relu(w_j . x) at standard normal weights: gradient inner products."""
    draws = 200_000
    w = normal(draws, 3, seed=5)
    pre_x, pre_z = w @ X.mT, w @ Z.mT
    by_outer = 2 * pre_x.relu() * pre_z.relu()  # with respect to a
    by_inner = 2 * (pre_x > 0) * (pre_z > 0) * (X @ Z.mT).mT  # with respect to w, a^2 at its mean
    samples = by_outer + by_inner
    error = samples.std(dim=0) / draws**0.5
    assert float(((samples.mean(dim=0) - ArcCosNTK(1).matrix(X, Z)[:, 0]) / error).abs().max()) < 4


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 1000), st.floats(0.01, 100))
def test_homogeneous_of_degree_one_and_euler(depth: int, d: int, seed: int, scale: float) -> None:
    kernel = ArcCosNTK(depth)
    x, z, dual = normal(9, d, seed=seed), normal(4, d, seed=seed + 1), normal(9, 2, seed=seed + 2)
    values = kernel.expansion(x, z, dual)
    torch.testing.assert_close(kernel.expansion(x, scale * z, dual), scale * values, rtol=1e-8, atol=1e-8)
    gradient = kernel.expansion_gradient(x, z, dual)
    torch.testing.assert_close((gradient * z[:, None]).sum(-1), values, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_diagonal_by_formula_and_euler_at_its_own_row(depth: int, dtype: torch.dtype) -> None:
    kernel, x = ArcCosNTK(depth), normal(12, 5).to(dtype)
    norms = x.square().sum(1)
    torch.testing.assert_close(kernel.diagonal(x), (depth + 1) * norms)
    assert torch.equal(kernel.fill_(x, torch.empty(12, 12, dtype=dtype)).diagonal(), kernel.diagonal(x))
    rows, eye = torch.arange(12), torch.eye(12, dtype=dtype)
    own = kernel.expansion_gradient(x, x, eye, rows=rows)[rows, rows]
    torch.testing.assert_close((own * x).sum(1), kernel.diagonal(x))
    torch.testing.assert_close(own, (depth + 1) * x)


def test_rows_of_zeros_have_value_and_gradient_zero() -> None:
    kernel = ArcCosNTK(2)
    x, z, dual = normal(6, 3), normal(4, 3, seed=2), normal(6, 1)
    x[2], z[1] = 0, 0
    values = kernel.matrix(x, z)
    assert float(values[2].abs().sum() + values[:, 1].abs().sum()) == 0
    gradient = kernel.expansion_gradient(x, z, dual)
    assert float(gradient[1].abs().sum()) == 0
    torch.testing.assert_close(gradient, Kernel.expansion_gradient(kernel, x, z, dual), rtol=1e-9, atol=1e-12)
    kept = [0, 1, 3, 4, 5]
    torch.testing.assert_close(gradient, kernel.expansion_gradient(x[kept], z, dual[kept]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("factor", [2.0, -0.5])
def test_parallel_rows(factor: float) -> None:
    """Along a ray the kernel is linear; against it, every layer but the first sees cosine 0."""
    x = normal(5, 4)
    for depth in (1, 3):
        kernel = ArcCosNTK(depth)
        values = kernel.matrix(x, factor * x).diagonal()
        squares = x.square().sum(1)
        expected = (depth + 1) * factor * squares if factor > 0 else -factor * squares * _opposite(depth)
        torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-6)
        gradient = kernel.expansion_gradient(x[:1], factor * x[:1], torch.ones(1, 1, dtype=x.dtype))
        assert gradient.isfinite().all()


def _opposite(depth: int) -> float:
    """The recursion for opposite unit vectors: S = -1 gives N = 0 and T = 0, then goes on from cosine 0."""
    s, t = 0.0, 0.0
    for _ in range(depth - 1):
        rest = torch.pi - float(torch.acos(torch.tensor(s, dtype=torch.float64)))
        n = ((1 - s**2) ** 0.5 + s * rest) / torch.pi
        s, t = n, n + t * rest / torch.pi
    return t


def test_kernel_is_positive_definite() -> None:
    x: Tensor = normal(40, 3)
    for depth in (1, 2, 5):
        eigenvalues = torch.linalg.eigvalsh(ArcCosNTK(depth).fill_(x, torch.empty(40, 40, dtype=x.dtype)))
        assert float(eigenvalues[0]) > 0


@pytest.mark.parametrize("depth", [0, -1, 1.5, 2.0, True, "2", None])
def test_depths_that_are_not_positive_integers_are_refused(depth: object) -> None:
    with pytest.raises(DataError, match="expected an integer of at least 1"):
        ArcCosNTK(depth)  # type: ignore[arg-type]
