"""Patch AGOP of a kernel expansion: golden numbers, autograd, differences, identities, standard error, precision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import reference
import torch
from cases import normal
from torch import Tensor

from featlearn.agop.of_kernel import agop_of_expansion
from featlearn.agop.of_patches import patch_agop_of_expansion
from featlearn.exceptions import DataError
from featlearn.kernels import ArcCosNTK, ConvNTK, PatchMetric

# (channels, height, width, patch size, depth, padding), columns of the factor or None
CASES: list[tuple[tuple[int, ...], int | None]] = [
    ((1, 6, 5, 3, 1, 0), None),
    ((2, 6, 5, 3, 2, 0), 4),
    ((2, 4, 5, 2, 3, 0), 11),
    ((3, 3, 4, 1, 3, 0), 3),
    ((2, 3, 5, 3, 3, 2), 18),
    ((1, 5, 6, 5, 2, 2), None),
    ((1, 9, 9, 3, 4, 0), 5),
]
GOLDEN = [
    ((1, 6, 6, 3, 1), 2.2960913313, 0.2630094642),
    ((2, 8, 7, 3, 2), 94.56077972, 6.038274084),
    ((3, 9, 9, 3, 3), 6323.17726, 270.5040641),
    ((1, 9, 9, 5, 2), 3256.893715, 161.4935148),
]
SINGLE = [  # the same as the cases, images, points
    ((1, 9, 7, 3, 3, 0), None, 1, 5),
    ((2, 7, 9, 3, 2, 1), 7, 63, 1),
    ((1, 6, 5, 2, 4, 0), 4, 64, 65),
    ((6, 5, 4, 1, 3, 0), 6, 65, 64),
    ((2, 8, 9, 5, 2, 4), 50, 130, 3),
    ((1, 9, 8, 3, 1, 0), None, 130, 63),
    ((3, 14, 13, 11, 1, 0), None, 20, 7),
    ((64, 7, 6, 3, 2, 0), 30, 66, 5),
]


def sines(channels: int, height: int, width: int) -> Tensor:
    """Three images by a formula, in double precision."""
    i, k, h, w = torch.meshgrid(*(torch.arange(size).double() for size in (3, channels, height, width)), indexing="ij")
    return torch.sin(1 + 0.7 * i + 1.3 * k + 0.37 * (i + 1) * h + 0.53 * (k + 2) * w)


def metric_of(shape: tuple[int, ...], columns: int | None, scale: float = 1.0) -> PatchMetric:
    channels, _, _, size, depth, padding = shape
    factor = None if columns is None else normal(channels * size**2, columns, seed=7)
    return PatchMetric(ConvNTK(size, depth, padding), factor, scale)


def pictures(n: int, *shape: int, seed: int) -> Tensor:
    return normal(n, *shape, seed=seed) + 0.3


def each_by_autograd(metric: PatchMetric, x: Tensor, dual: Tensor, points: Tensor) -> Tensor:
    """The summand of each image (m, q, q), through the plain recursion, one output after the other."""
    kernel, leaf = metric.kernel, metric.kernel.patches(points).clone().requires_grad_(True)
    factor = torch.eye(leaf.shape[-1], dtype=x.dtype) if metric.factor is None else metric.factor
    values = kernel.of_patches(kernel.patches(x) @ factor, leaf @ factor, x.shape[1]) / metric.scale
    total = x.new_zeros(len(points), leaf.shape[-1], leaf.shape[-1])
    for column in (values.mT @ dual).sum(dim=0):
        (gradient,) = torch.autograd.grad(column, leaf, retain_graph=True)
        total += torch.einsum("mhwq,mhwr->mqr", gradient, gradient)
    return total


@pytest.fixture
def data() -> tuple[PatchMetric, Tensor, Tensor, Tensor]:
    """A metric, 12 images, coefficients of 4 outputs and 7 points."""
    shape = (2, 6, 5, 3, 2, 0)
    x, points = pictures(12, 2, 6, 5, seed=1), pictures(7, 2, 6, 5, seed=2)
    return metric_of(shape, 6, scale=1.5), x, normal(12, 4, seed=3), points


# the matrix -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "trace", "first"), GOLDEN)
def test_golden_numbers(sizes: tuple[int, ...], trace: float, first: float) -> None:
    x, dual = sines(*sizes[:3]), torch.tensor([[1.0, -0.5], [0.25, 1.0], [-1.0, 0.75]]).double()
    for factor in (None, torch.eye(sizes[0] * sizes[3] ** 2, dtype=x.dtype)):
        found = patch_agop_of_expansion(PatchMetric(ConvNTK(sizes[3], sizes[4]), factor), x, dual, x).matrix
        assert float(found.trace()) == pytest.approx(trace, rel=1e-6)
        assert float(found[0, 0]) == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize(("shape", "columns"), CASES)
def test_equals_autograd_with_patches_as_independent_inputs(shape: tuple[int, ...], columns: int | None) -> None:
    *sizes, _, _, _ = shape
    metric = metric_of(shape, columns, scale=2.5)
    x, points, dual = pictures(6, *sizes, seed=1), pictures(4, *sizes, seed=2), normal(6, 3, seed=3)
    expected = each_by_autograd(metric, x, dual, points).mean(dim=0)
    found = patch_agop_of_expansion(metric, x, dual, points)
    torch.testing.assert_close(found.matrix, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))
    torch.testing.assert_close(found.matrix, found.matrix.mT, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))
    assert (found.n_points, found.rank_outputs) == (4, 3)


def test_equals_finite_differences() -> None:
    metric, x, points = metric_of((2, 4, 3, 2, 2, 0), 5), pictures(3, 2, 4, 3, seed=1), pictures(2, 2, 4, 3, seed=2)
    dual = normal(3, 2, seed=3)
    assert metric.factor is not None
    arrays = (x.numpy(), points.numpy(), dual.numpy())
    gradients = torch.from_numpy(reference.conv_ntk_patch_gradients(*arrays, 2, 2, 0, metric.factor.numpy()))
    expected = torch.einsum("mChwq,mChwr->qr", gradients, gradients) / 2
    found = patch_agop_of_expansion(metric, x, dual, points).matrix
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * float(expected.max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_patch_an_image_is_the_agop_of_a_dense_network(dtype: torch.dtype) -> None:
    x, points, dual = normal(9, 48).to(dtype), normal(5, 48, seed=2).to(dtype), normal(9, 3, seed=3).to(dtype)
    expected = agop_of_expansion(ArcCosNTK(1), None, x, dual / 3, points)
    images, others = x.reshape(-1, 3, 4, 4), points.reshape(-1, 3, 4, 4)
    found = patch_agop_of_expansion(PatchMetric(ConvNTK(4, 1)), images, dual, others)
    tolerance = (1e-5 if dtype == torch.float32 else 1e-10) * float(expected.matrix.abs().max())
    torch.testing.assert_close(found.matrix, expected.matrix, rtol=0, atol=tolerance)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-4)


def test_depends_on_the_factor_through_its_product_and_lies_in_its_span(data: Any) -> None:
    metric, x, dual, points = data
    first = patch_agop_of_expansion(metric, x, dual, points).matrix
    rotation = torch.linalg.qr(normal(6, 6, seed=5)).Q
    rotated = PatchMetric(metric.kernel, metric.factor @ rotation, metric.scale)
    torch.testing.assert_close(patch_agop_of_expansion(rotated, x, dual, points).matrix, first, rtol=1e-7, atol=1e-9)
    values = torch.linalg.eigvalsh(first)
    assert float(values[:12].abs().max()) < 1e-12 * float(values[-1])
    assert float(values[12]) > 1e-4 * float(values[-1])
    projector = metric.factor @ torch.linalg.pinv(metric.factor)
    torch.testing.assert_close(projector @ first @ projector, first, rtol=1e-9, atol=1e-10)


def test_scale_coefficients_and_images_enter_by_their_powers(data: Any) -> None:
    metric, x, dual, points = data
    first = patch_agop_of_expansion(metric, x, dual, points)
    scaled = PatchMetric(metric.kernel, metric.factor, 4 * metric.scale)
    for other, power in (
        (patch_agop_of_expansion(scaled, x, dual, points), 1 / 16),
        (patch_agop_of_expansion(metric, x, -3 * dual, points), 9.0),
        (patch_agop_of_expansion(metric, 5 * x, dual, points), 25.0),
        (patch_agop_of_expansion(metric, x, dual, 5 * points), 1.0),  # gradients are homogeneous of degree 0
    ):
        torch.testing.assert_close(other.matrix, power * first.matrix, rtol=1e-9, atol=1e-9)
        assert other.standard_error == pytest.approx(first.standard_error, rel=1e-9)


def test_rotated_outputs_have_the_same_agop_and_dependent_ones_cost_nothing(data: Any) -> None:
    metric, x, dual, points = data
    first = patch_agop_of_expansion(metric, x, dual, points)
    rotation = torch.linalg.qr(normal(4, 4, seed=9)).Q
    rotated = patch_agop_of_expansion(metric, x, dual @ rotation, points)
    torch.testing.assert_close(rotated.matrix, first.matrix, rtol=1e-9, atol=1e-9)
    dependent = torch.cat([dual, dual[:, :2] + dual[:, 2:], dual[:, :1]], dim=1)
    found = patch_agop_of_expansion(metric, x, dependent, points)
    assert (first.rank_outputs, found.rank_outputs) == (4, 4)
    expected = each_by_autograd(metric, x, dependent, points).mean(dim=0)
    torch.testing.assert_close(found.matrix, expected, rtol=1e-9, atol=1e-9)
    assert found.standard_error == pytest.approx(_error(each_by_autograd(metric, x, dependent, points), 12), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("outputs", [1, 3])
def test_no_coefficients_give_zero(outputs: int, dtype: torch.dtype) -> None:
    metric, x = metric_of((1, 6, 5, 3, 1, 0), 4), pictures(5, 1, 6, 5, seed=1).to(dtype)
    found = patch_agop_of_expansion(metric.to(x), x, torch.zeros(5, outputs, dtype=dtype), x[:2])
    assert found.matrix.shape == (9, 9)
    assert float(found.matrix.abs().max()) == 0
    assert found.standard_error == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mirrored_images_have_a_mirrored_agop(dtype: torch.dtype) -> None:
    """Pixels of the patch trade places as those of the image do; rows and columns are not mixed up."""
    metric, dual = PatchMetric(ConvNTK(3, 2, 1)), normal(9, 2, seed=3).to(dtype)
    x, points = pictures(9, 2, 5, 7, seed=1).to(dtype), pictures(4, 2, 5, 7, seed=2).to(dtype)
    first = patch_agop_of_expansion(metric, x, dual, points).matrix.reshape(2, 3, 3, 2, 3, 3)
    tolerance = (1e-5 if dtype == torch.float32 else 1e-10) * float(first.abs().max())
    for axes in ((2,), (3,), (2, 3)):
        moved = patch_agop_of_expansion(metric, x.flip(axes), dual, points.flip(axes)).matrix
        expected = first.flip(tuple(axis - 1 for axis in axes) + tuple(axis + 2 for axis in axes)).reshape(18, 18)
        torch.testing.assert_close(moved, expected, rtol=0, atol=tolerance)
    moved = patch_agop_of_expansion(metric, x.mT, dual, points.mT).matrix
    expected = first.permute(0, 2, 1, 3, 5, 4).reshape(18, 18)
    torch.testing.assert_close(moved, expected, rtol=0, atol=tolerance)


# weights and the standard error ---------------------------------------------------------------------------------------


def _error(each: Tensor, population: int, share: Tensor | None = None) -> float:
    """sqrt((mean |G_j|^2 - |G|^2) / (m - 1) (1 - m / N)) / |G|, from the matrices of all images."""
    m = len(each)
    share = torch.full((m,), 1 / m, dtype=each.dtype) if share is None else share / share.sum()
    mean = torch.einsum("j,jqr->qr", share, each)
    spread = float(share @ each.square().sum(dim=(1, 2)) - mean.square().sum())
    return math.sqrt(spread / (m - 1) * (1 - m / population)) / float(mean.norm())


def test_standard_error_is_its_formula(data: Any) -> None:
    metric, x, dual, points = data
    each = each_by_autograd(metric, x, dual, points)
    found = patch_agop_of_expansion(metric, x, dual, points)
    assert found.standard_error == pytest.approx(_error(each, 12), rel=1e-8)
    large = patch_agop_of_expansion(metric, x, dual, points, population=1000)
    assert large.standard_error == pytest.approx(_error(each, 1000), rel=1e-8)
    assert torch.equal(large.matrix, found.matrix)
    whole = patch_agop_of_expansion(metric, x, dual, points, population=7)
    assert whole.standard_error == 0
    assert patch_agop_of_expansion(metric, x[:7], dual[:7], x[:7]).standard_error == 0


def test_weights_make_a_weighted_mean(data: Any) -> None:
    metric, x, dual, points = data
    each = each_by_autograd(metric, x, dual, points)
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0, 1.0, 0.25], dtype=x.dtype)
    expected = torch.einsum("j,jqr->qr", weights / weights.sum(), each)
    for given in (weights, 8 * weights, weights.float()):
        found = patch_agop_of_expansion(metric, x, dual, points, weights=given)
        torch.testing.assert_close(found.matrix, expected, rtol=1e-9, atol=1e-9)
        assert found.standard_error == pytest.approx(_error(each, 12, weights), rel=1e-8)


def test_a_weight_of_two_is_an_image_given_twice_and_zero_is_none(data: Any) -> None:
    metric, x, dual, points = data
    weights = torch.tensor([1.0, 1.0, 2.0, 0.0, 1.0, 1.0, 1.0], dtype=x.dtype)
    others = points[[0, 1, 2, 2, 4, 5, 6]]
    found = patch_agop_of_expansion(metric, x, dual, points, weights=weights).matrix
    torch.testing.assert_close(found, patch_agop_of_expansion(metric, x, dual, others).matrix, rtol=1e-9, atol=1e-9)


def test_standard_error_is_the_spread_over_draws() -> None:
    """200 images, of unequal contrast; the summands of all of them once, then 2,000 draws of 20."""
    x = normal(200, 1, 5, 6, seed=5) * torch.linspace(0.2, 2, 200, dtype=torch.float64).reshape(-1, 1, 1, 1) + 0.5
    metric, dual = PatchMetric(ConvNTK(3, 1)), normal(200, 2, seed=6)
    whole = patch_agop_of_expansion(metric, x, dual, x)
    each = torch.stack([patch_agop_of_expansion(metric, x, dual, x[i : i + 1]).matrix for i in range(200)])
    torch.testing.assert_close(each.mean(dim=0), whole.matrix, rtol=1e-9, atol=1e-9)
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randperm(200, generator=generator)[:20] for _ in range(2000)]
    errors = torch.stack([(each[rows].mean(dim=0) - whole.matrix).square().sum() for rows in draws])
    claimed = [patch_agop_of_expansion(metric, x, dual, x[rows]).standard_error for rows in draws[:60]]
    found = float(errors.mean().sqrt() / whole.matrix.norm())
    assert found == pytest.approx(sum(claimed) / len(claimed), rel=0.1)


# single precision, chunks, threads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "columns", "n", "m"), SINGLE)
def test_single_precision_agrees_with_the_definition(
    shape: tuple[int, ...], columns: int | None, n: int, m: int
) -> None:
    *sizes, _, _, _ = shape
    x, points, dual = pictures(n, *sizes, seed=1).float(), pictures(m, *sizes, seed=2).float(), normal(n, 3).float()
    single = metric_of(shape, columns, scale=2.0).to(x)
    found = patch_agop_of_expansion(single, x, dual, points)
    expected = patch_agop_of_expansion(single.to(x.double()), x.double(), dual.double(), points.double())
    assert found.matrix.dtype == torch.float32
    error = (found.matrix.double() - expected.matrix).abs().max() / expected.matrix.abs().max()
    assert float(error) < 1e-4
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-4, abs=1e-7)
    assert found.rank_outputs == expected.rank_outputs


def test_single_precision_at_training_images() -> None:
    """Every point meets itself, where the arcus cosine loses half of the digits."""
    for shape, columns in (((1, 9, 9, 3, 3, 0), None), ((2, 7, 8, 3, 2, 1), 8)):
        x, dual = pictures(70, *shape[:3], seed=1).float(), normal(70, 3).float()
        metric = metric_of(shape, columns).to(x)
        found = patch_agop_of_expansion(metric, x, dual, x).matrix.double()
        expected = patch_agop_of_expansion(metric.to(x.double()), x.double(), dual.double(), x.double()).matrix
        assert float((found - expected).abs().max() / expected.abs().max()) < 5e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_change_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    metric, x = metric_of((2, 6, 5, 3, 2, 0), 6), pictures(70, 2, 6, 5, seed=1).to(dtype)
    points, dual, weights = pictures(66, 2, 6, 5, seed=2).to(dtype), normal(70, 3).to(dtype), normal(66).abs().to(dtype)
    whole = patch_agop_of_expansion(metric.to(x), x, dual, points, weights=weights)
    monkeypatch.setattr("featlearn.kernels.patch_metric.CHUNK", 2**14)
    monkeypatch.setattr("featlearn.kernels.patch_metric.SLAB", 2**14)
    parts = patch_agop_of_expansion(metric.to(x), x, dual, points, weights=weights)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(parts.matrix, whole.matrix, rtol=0, atol=tolerance * float(whole.matrix.abs().max()))
    assert parts.standard_error == pytest.approx(whole.standard_error, rel=10 * tolerance)
    assert parts.n_points == 66


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    n = 70 if dtype == torch.float32 else 20
    metric, x = metric_of((2, 8, 7, 3, 2, 0), None), pictures(n, 2, 8, 7, seed=1).to(dtype)
    points, dual, found = pictures(35, 2, 8, 7, seed=2).to(dtype), normal(n, 3).to(dtype), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(patch_agop_of_expansion(metric, x, dual, points))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        # The products of gradients are the library's, whose sums follow the number of threads.
        rounding = 1e-6 if dtype == torch.float32 else 1e-13
        scale = float(found[0].matrix.abs().max())
        torch.testing.assert_close(other.matrix, found[0].matrix, rtol=0, atol=rounding * scale)
        assert other.standard_error == pytest.approx(found[0].standard_error, rel=1e-5)


def test_nothing_that_is_given_changes_and_no_graph_is_kept(data: Any) -> None:
    metric, x, dual, points = data
    weights = torch.linspace(1, 2, 7, dtype=x.dtype)
    given = [t.clone() for t in (x, dual, points, weights, metric.factor)]
    found = patch_agop_of_expansion(metric, x.requires_grad_(True), dual.requires_grad_(True), points, weights=weights)
    assert not found.matrix.requires_grad
    for one, other in zip((x, dual, points, weights, metric.factor), given, strict=True):
        assert torch.equal(one.detach(), other)


# refusals -------------------------------------------------------------------------------------------------------------


def test_no_points_and_weights_that_do_not_fit_are_refused(data: Any) -> None:
    metric, x, dual, points = data
    with pytest.raises(DataError, match="Got no images, but expected at least one"):
        patch_agop_of_expansion(metric, x, dual, points[:0])
    for weights in (
        torch.ones(6),
        torch.ones(7, 1),
        torch.zeros(7),
        -torch.ones(7),
        torch.full((7,), math.nan),
        torch.eye(7)[0] - 0.1,
    ):
        with pytest.raises(DataError, match=r"Got weights .*expected \(7,\) of at least 0 with a positive sum"):
            patch_agop_of_expansion(metric, x, dual, points, weights=weights)


def test_points_and_coefficients_that_do_not_fit_are_refused(data: Any) -> None:
    metric, x, dual, points = data
    for wrong in (points[..., :4], points[:, :1], points.float()):
        with pytest.raises(DataError, match=r"Got images .*of one size, all cast to float32"):
            patch_agop_of_expansion(metric, x, dual, wrong)
    with pytest.raises(DataError, match=r"Got dual coefficients \(11, 4\), but expected \(12, C\)"):
        patch_agop_of_expansion(metric, x, dual[1:], points)
    with pytest.raises(DataError, match=r"Got dual coefficients \(12,\)"):
        patch_agop_of_expansion(metric, x, dual[:, 0], points)
    with pytest.raises(DataError, match=r"Got images"):
        patch_agop_of_expansion(metric, x, dual, points[0])
    with pytest.raises(DataError, match=r"Got a factor .*expected \(18, k\)"):
        patch_agop_of_expansion(PatchMetric(metric.kernel, torch.eye(9).double()), x, dual, points)
