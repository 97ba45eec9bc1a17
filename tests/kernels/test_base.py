"""What holds for every kernel, with every metric: values, gradients, blocks, bad input."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from cases import normal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from featlearn.exceptions import DataError
from featlearn.kernels import ArcCosNTK, GaussianKernel, Kernel, LaplaceKernel, LpqKernel, Metric, QuadraticKernel

Points = tuple[Tensor, Tensor, Tensor]


def test_matrix_is_the_definition(kernel: Kernel, points: Points) -> None:
    x, z, _ = points
    torch.testing.assert_close(kernel.matrix(x, z), kernel.definition(x, z), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(kernel.matrix(z, x), kernel.matrix(x, z).mT, rtol=1e-12, atol=1e-14)


def test_filled_matrix_is_the_definition_and_exactly_symmetric(
    kernel: Kernel, points: Points, small_blocks: Any
) -> None:
    x = points[0]
    expected = kernel.definition(x, x)
    small_blocks()
    out = torch.full((23, 23), torch.nan, dtype=x.dtype)
    assert kernel.fill_(x, out) is out
    # The arc cosine of 1 less a rounding is 1e-8, which the formula for the diagonal avoids.
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-14)
    off = ~torch.eye(23, dtype=torch.bool)
    torch.testing.assert_close(out[off], expected[off], rtol=1e-12, atol=1e-14)
    assert torch.equal(out, out.mT)
    assert torch.equal(out.diagonal(), kernel.diagonal(x))


def test_filling_a_part_of_a_larger_tensor(kernel: Kernel, points: Points) -> None:
    x = points[0]
    whole = torch.zeros(30, 40, dtype=x.dtype)
    kernel.fill_(x, whole[3:26, 5:28])
    assert torch.equal(whole[3:26, 5:28], kernel.fill_(x, torch.empty(23, 23, dtype=x.dtype)))
    assert float(whole[:3].abs().sum() + whole[:, :5].abs().sum() + whole[:, 28:].abs().sum()) == 0


def test_expansion_is_the_matrix_times_the_coefficients(kernel: Kernel, points: Points) -> None:
    x, z, dual = points
    torch.testing.assert_close(kernel.expansion(x, z, dual), kernel.definition(x, z).mT @ dual, rtol=1e-11, atol=1e-11)


def test_closed_gradient_equals_autograd(kernel: Kernel, points: Points) -> None:
    autograd = Kernel.expansion_gradient(kernel, *points)
    torch.testing.assert_close(kernel.expansion_gradient(*points), autograd, rtol=1e-9, atol=1e-11)


def test_gradient_equals_finite_differences(kernel: Kernel, points: Points) -> None:
    x, z, dual = points
    z = z + 0.01  # off the kinks in single coordinates
    step = 1e-5
    expected = torch.stack(
        [
            (kernel.definition(x, z + move) - kernel.definition(x, z - move)).mT @ dual / (2 * step)
            for move in step * torch.eye(z.shape[1], dtype=z.dtype)
        ],
        dim=-1,
    )
    torch.testing.assert_close(kernel.expansion_gradient(x, z, dual), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["rows", "shuffled", "repeated"])
def test_own_terms_count_as_zero_where_they_have_no_gradient(kernel: Kernel, points: Points, order: str) -> None:
    x, _, dual = points
    rows = {
        "rows": torch.arange(23),
        "shuffled": torch.arange(23).flip(0)[:17],
        "repeated": torch.tensor([4, 4, 22, 0]),
    }[order]
    gradient = kernel.expansion_gradient(x, x[rows], dual, rows=rows)
    autograd = Kernel.expansion_gradient(kernel, x, x[rows], dual, rows=rows)
    # At its own row the arc-cosine kernel is right to the root of the precision only.
    loose = isinstance(kernel, ArcCosNTK) or (isinstance(kernel, Metric) and isinstance(kernel.kernel, ArcCosNTK))
    tolerance = 1e-6 if loose else 1e-9
    torch.testing.assert_close(gradient, autograd, rtol=tolerance, atol=tolerance)
    without = []
    for row in rows.tolist():
        others = dual.clone()
        if not kernel.smooth:
            others[row] = 0
        without.append(kernel.expansion_gradient(x, x[row : row + 1], others))
    torch.testing.assert_close(gradient, torch.cat(without), rtol=tolerance, atol=tolerance)


def test_blocks_change_no_result(kernel: Kernel, points: Points, small_blocks: Any) -> None:
    x, z, dual = points
    rows = torch.arange(23)

    def results() -> list[Tensor]:
        return [
            kernel.matrix(x, z),
            kernel.expansion(x, z, dual),
            kernel.expansion_gradient(x, z, dual),
            kernel.expansion_gradient(x, x, dual, rows=rows),
            Kernel.expansion(kernel, x, z, dual),
            Kernel.expansion_gradient(kernel, x, z, dual),
        ]

    whole = results()
    small_blocks()
    for block, expected in zip(results(), whole, strict=True):
        torch.testing.assert_close(block, expected, rtol=1e-9, atol=1e-10)


def test_single_precision_agrees_with_double(kernel: Kernel, points: Points) -> None:
    kernel = kernel.to(points[0].float())
    exact = kernel.to(points[0])  # of the rounded factor
    single = [tensor.float() for tensor in points]
    x, z, dual = (tensor.double() for tensor in single)
    for computed, expected in (
        (kernel.matrix(single[0], single[1]), exact.definition(x, z)),
        (kernel.expansion_gradient(*single), Kernel.expansion_gradient(exact, x, z, dual)),
    ):
        assert computed.dtype == torch.float32
        error = (computed.double() - expected).abs().max() / expected.abs().max()
        assert float(error) < 1e-5


def test_matrix_and_expansion_are_differentiable_when_asked(kernel: Kernel, points: Points) -> None:
    x, z, dual = points
    leaf = z.clone().requires_grad_(True)
    (by_matrix,) = torch.autograd.grad((kernel.matrix(x, leaf).mT @ dual)[:, 1].sum(), leaf)
    (by_expansion,) = torch.autograd.grad(kernel.expansion(x, leaf, dual)[:, 1].sum(), leaf)
    expected = kernel.expansion_gradient(x, z, dual)[:, 1]
    torch.testing.assert_close(by_matrix, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(by_expansion, expected, rtol=1e-9, atol=1e-11)
    assert not kernel.expansion_gradient(x, leaf, dual).requires_grad
    assert not Kernel.expansion_gradient(kernel, x, leaf, dual).requires_grad


def test_no_points_and_one_row(kernel: Kernel, points: Points) -> None:
    x, z, dual = points
    assert kernel.matrix(x, z[:0]).shape == (23, 0)
    assert kernel.expansion(x, z[:0], dual).shape == (0, 3)
    assert kernel.expansion_gradient(x, z[:0], dual).shape == (0, 3, 5)
    assert kernel.fill_(x[:1], torch.empty(1, 1, dtype=x.dtype)).shape == (1, 1)


def test_evaluation_changes_neither_kernel_nor_input(kernel: Kernel, points: Points) -> None:
    before, shown = [tensor.clone() for tensor in points], repr(kernel)
    kernel.expansion_gradient(*points)
    kernel.fill_(points[0], torch.empty(23, 23, dtype=torch.float64))
    assert repr(kernel) == shown
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(points, before, strict=True))


def test_kernels_can_be_pickled(kernel: Kernel, points: Points) -> None:
    x, z, _ = points
    assert torch.equal(pickle.loads(pickle.dumps(kernel)).matrix(x, z), kernel.matrix(x, z))


def test_rows_need_not_be_contiguous(kernel: Kernel, points: Points) -> None:
    x, z, dual = points
    strided = [torch.stack([tensor, tensor], dim=2)[..., 0] for tensor in (x, z, dual)]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(
        kernel.expansion_gradient(*strided), kernel.expansion_gradient(x, z, dual), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize(
    "kernel", [LaplaceKernel(2.0), GaussianKernel(1.0), LpqKernel(3.0), LpqKernel(2.0, p=1.5), LpqKernel(2.0, p=2.0)]
)
def test_bandwidth_is_replaced_in_a_new_kernel(kernel: Any) -> None:
    other = kernel.with_bandwidth(5.0)
    assert kernel.has_bandwidth
    assert (type(other), other.bandwidth) == (type(kernel), 5.0)
    assert kernel.bandwidth != 5.0
    x = normal(4, 3)
    torch.testing.assert_close(other.matrix(x, x), kernel.matrix(x * kernel.bandwidth / 5, x * kernel.bandwidth / 5))
    wrapped = Metric(kernel, x[0]).with_bandwidth(5.0)
    assert wrapped.kernel == other
    assert wrapped.factor is not None
    assert torch.equal(wrapped.factor, x[0])


@pytest.mark.parametrize("kernel", [QuadraticKernel(), ArcCosNTK(2)])
def test_kernels_without_a_bandwidth_return_themselves(kernel: Kernel) -> None:
    assert not kernel.has_bandwidth
    assert kernel.with_bandwidth(5.0) is kernel


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor made."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


@pytest.mark.parametrize(
    "kernel", [LaplaceKernel(2.0), GaussianKernel(2.0), LpqKernel(3.0), QuadraticKernel(), ArcCosNTK(1)], ids=repr
)
def test_expansions_hold_blocks_only(kernel: Kernel, small_blocks: Any) -> None:
    n, d, tile = 300, 6, 16
    x, dual = normal(n, d), normal(n, 2)
    small_blocks(tile=tile, chunk=8 * 40 * n)
    with Largest() as expansion:
        kernel.expansion(x, x, dual)
    with Largest() as gradient:
        kernel.expansion_gradient(x, x, dual, rows=torch.arange(n))
    assert expansion.bytes <= 8 * 40 * n < 8 * n * n
    assert gradient.bytes <= 8 * n * 2 * d  # the answer


@pytest.mark.parametrize(
    ("x", "z"),
    [
        (normal(3, 2), normal(3, 4)),
        (normal(3, 2), normal(3, 2).float()),
        (normal(3, 2).half(), normal(3, 2).half()),
        (normal(3), normal(3)),
        (torch.ones(3, 2, dtype=torch.int64), torch.ones(3, 2, dtype=torch.int64)),
    ],
)
def test_rows_that_do_not_belong_together_are_refused(kernel: Kernel, x: Tensor, z: Tensor) -> None:
    with pytest.raises(DataError, match="expected"):
        kernel.matrix(x, z)
    with pytest.raises(DataError, match="expected"):
        kernel.expansion_gradient(x, z, x[:, :1] if x.dim() > 1 else x[:, None])


def test_coefficients_indices_and_targets_that_do_not_fit_are_refused(kernel: Kernel, points: Points) -> None:
    x, z, dual = points
    for wrong in (dual[:5], dual[:, 0], dual.float()):
        with pytest.raises(DataError, match=r"expected \(23, C\) of torch.float64"):
            kernel.expansion(x, z, wrong)
        with pytest.raises(DataError, match=r"expected \(23, C\) of torch.float64"):
            kernel.expansion_gradient(x, z, wrong)
    for rows in (torch.arange(4), torch.arange(11).int()):
        with pytest.raises(DataError, match="an int64 index into x for each of the 11 points"):
            kernel.expansion_gradient(x, z, dual, rows=rows)
    for out in (torch.empty(23, 22, dtype=x.dtype), torch.empty(23, 23)):
        with pytest.raises(DataError, match=r"expected \(23, 23\) of torch.float64"):
            kernel.fill_(x, out)


def test_importing_kernels_does_not_import_numba() -> None:
    code = "import featlearn.kernels, sys; print([n for n in ('numba', 'sklearn', 'pandas') if n in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
