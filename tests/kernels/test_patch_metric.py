"""A metric between patches: loops, invariances, patch gradients by differences and by autograd, filling, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import reference
import torch
from cases import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from featlearn.exceptions import DataError
from featlearn.kernels import ConvNTK, MeanKernel, PatchMetric

# (channels, height, width, patch size, depth, padding), columns of the factor or None
CASES: list[tuple[tuple[int, ...], int | None]] = [
    ((1, 5, 6, 3, 1, 0), 9),
    ((2, 6, 5, 3, 2, 0), 4),
    ((2, 4, 5, 2, 3, 0), 11),
    ((2, 6, 7, 2, 4, 0), None),
    ((3, 3, 4, 1, 3, 0), 3),
    ((1, 4, 3, 3, 2, 1), 3),
    ((2, 3, 5, 3, 3, 2), None),
    ((1, 5, 6, 5, 2, 2), 5),
    ((1, 9, 9, 3, 4, 0), None),
]
SINGLE = [  # the same, images, points
    ((1, 9, 7, 3, 3, 0), None, 1, 5),
    ((2, 7, 9, 3, 2, 1), 7, 63, 1),
    ((1, 6, 5, 2, 4, 0), 4, 64, 65),
    ((6, 5, 4, 1, 3, 0), 6, 65, 64),
    ((2, 8, 9, 5, 2, 4), 50, 130, 3),
    ((1, 9, 8, 3, 1, 0), 12, 130, 63),
    ((3, 14, 13, 11, 1, 0), 20, 20, 7),
    ((3, 9, 8, 11, 1, 5), None, 7, 9),
    ((64, 7, 6, 3, 2, 0), 30, 66, 5),
]


def pictures(n: int, *shape: int, seed: int) -> Tensor:
    return normal(n, *shape, seed=seed) + 0.3


def metric_of(shape: tuple[int, ...], columns: int | None, scale: float = 1.0) -> PatchMetric:
    channels, _, _, size, depth, padding = shape
    factor = None if columns is None else normal(channels * size**2, columns, seed=7)
    return PatchMetric(ConvNTK(size, depth, padding), factor, scale)


def patch_gradients(metric: PatchMetric, x: Tensor, z: Tensor, dual: Tensor) -> Tensor:
    """All of them, after a look at the slices."""
    parts = list(metric.patch_gradients(x, z, dual))
    covered = [row for part, _ in parts for row in range(part.start, part.stop)]
    assert covered == list(range(len(z)))
    return torch.cat([gradients for _, gradients in parts])


def by_autograd(metric: PatchMetric, x: Tensor, z: Tensor, dual: Tensor) -> Tensor:
    """Gradients (m, C, h, w, q) through the plain recursion, patches of z being leaves."""
    kernel, leaf = metric.kernel, metric.kernel.patches(z).clone().requires_grad_(True)
    factor = torch.eye(leaf.shape[-1], dtype=z.dtype) if metric.factor is None else metric.factor
    values = kernel.of_patches(kernel.patches(x) @ factor, leaf @ factor, x.shape[1]) / metric.scale
    columns = (values.mT @ dual).sum(dim=0)
    return torch.stack([torch.autograd.grad(column, leaf, retain_graph=True)[0] for column in columns], dim=1)


# values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "columns"), CASES)
def test_equals_loops_over_projected_patches(shape: tuple[int, ...], columns: int | None) -> None:
    *sizes, size, depth, padding = shape
    metric = metric_of(shape, columns, scale=2.5)
    x, z = pictures(3, *sizes, seed=1), pictures(4, *sizes, seed=2)
    factor = None if metric.factor is None else metric.factor.numpy()
    expected = torch.from_numpy(reference.conv_ntk(x.numpy(), z.numpy(), size, depth, padding, factor)) / 2.5
    for found in (metric.matrix(x, z), metric.definition(x, z), metric.matrix(z, x).mT):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "columns"), CASES)
def test_diagonal_is_its_formula(shape: tuple[int, ...], columns: int | None, dtype: torch.dtype) -> None:
    *sizes, size, depth, padding = shape
    metric, x = metric_of(shape, columns, scale=0.5), pictures(4, *sizes, seed=1)
    expected = []
    for image in x.numpy():
        patches = reference.image_patches(image, size, padding)
        a = ((patches if metric.factor is None else patches @ metric.factor.numpy()) ** 2).sum(axis=2) / sizes[0]
        for _ in range(depth - 1):
            a = reference.window_sums(a, size)
        expected.append((depth + 1) * a.mean() / 0.5)
    found = metric.to(x.to(dtype)).diagonal(x.to(dtype)).double()
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=tolerance, atol=0)
    torch.testing.assert_close(metric.definition(x, x).diagonal(), torch.tensor(expected).double(), rtol=1e-6, atol=0)


@settings(max_examples=25)
@given(st.data())
def test_only_the_product_of_the_factor_with_itself_matters(data: Any) -> None:
    """A R for orthogonal R, columns of zeros and a symmetric root give the kernel and gradients of A."""
    size, depth = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    padding = data.draw(st.integers(0, size - 1)) if size % 2 else 0
    kernel = ConvNTK(size, depth, padding)
    least = max(1, kernel.smallest_image)
    channels = data.draw(st.integers(2, 3))
    sizes = (channels, least + data.draw(st.integers(0, 2)), least + data.draw(st.integers(0, 2)))
    columns, seed = data.draw(st.integers(2, channels * size**2 + 2)), data.draw(st.integers(0, 1000))
    factor, rotation = normal(channels * size**2, columns, seed=seed), normal(columns, columns, seed=seed + 1)
    x, z, dual = normal(3, *sizes, seed=seed), normal(2, *sizes, seed=seed + 1), normal(3, 1, seed=seed + 2)
    values, vectors = torch.linalg.eigh(factor @ factor.mT)
    first = PatchMetric(kernel, factor)
    for same in (
        factor @ torch.linalg.qr(rotation).Q,
        torch.cat([torch.zeros_like(factor), factor], dim=1),
        vectors * values.clamp(min=0).sqrt() @ vectors.mT,
    ):
        other = PatchMetric(kernel, same)
        scale = float(first.diagonal(x).max() * first.diagonal(z).max()) ** 0.5
        torch.testing.assert_close(other.matrix(x, z), first.matrix(x, z), rtol=0, atol=1e-8 * scale)
        expected = patch_gradients(first, x, z, dual)
        torch.testing.assert_close(
            patch_gradients(other, x, z, dual), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "columns"), CASES)
def test_no_factor_is_the_identity_and_a_number_squares(
    shape: tuple[int, ...], columns: int | None, dtype: torch.dtype
) -> None:
    *sizes, size, depth, padding = shape
    kernel, q = ConvNTK(size, depth, padding), sizes[0] * size**2
    x, z, dual = (t.to(dtype) for t in (pictures(4, *sizes, seed=1), pictures(3, *sizes, seed=2), normal(4, 2)))
    plain, tripled = PatchMetric(kernel), PatchMetric(kernel, 3 * torch.eye(q, dtype=dtype), 4.5)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(kernel.matrix(x, z), plain.matrix(x, z), rtol=0, atol=0)
    torch.testing.assert_close(tripled.matrix(x, z), 2 * plain.matrix(x, z), **tolerance)
    torch.testing.assert_close(tripled.diagonal(x), 2 * plain.diagonal(x), **tolerance)
    expected = 2 * patch_gradients(plain, x, z, dual)
    loose = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else tolerance
    torch.testing.assert_close(patch_gradients(tripled, x, z, dual), expected, **loose)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_factor_that_mixes_channels_is_images_with_mixed_channels(dtype: torch.dtype) -> None:
    """Patches in the order (channel, row, column): the factor is a Kronecker product."""
    mix, x, z = normal(3, 3, seed=5), pictures(5, 3, 7, 6, seed=1), pictures(4, 3, 7, 6, seed=2)
    kernel, factor = ConvNTK(3, 2, 1), torch.kron(mix, torch.eye(9, dtype=mix.dtype))
    mixed = [torch.einsum("nchw,cd->ndhw", images, mix).to(dtype) for images in (x, z)]
    found = PatchMetric(kernel, factor.to(dtype)).matrix(x.to(dtype), z.to(dtype))
    tolerance = 5e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, kernel.matrix(*mixed), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_factor_that_picks_pixels_is_a_smaller_patch(dtype: torch.dtype) -> None:
    """The lower right 2 x 2 of patches 3 x 3, in one layer: images without their first row and column."""
    picked = [4, 5, 7, 8, 13, 14, 16, 17]
    factor = torch.eye(18, dtype=dtype)[:, picked]
    x, z = (pictures(n, 2, 6, 7, seed=n).to(dtype) for n in (5, 4))
    found = PatchMetric(ConvNTK(3, 1), factor).matrix(x, z)
    expected = ConvNTK(2, 1).matrix(x[:, :, 1:, 1:], z[:, :, 1:, 1:])
    tolerance = 5e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("columns", [1, 2, 12])
def test_thin_and_rank_deficient_factors(columns: int) -> None:
    """Rank 1 or 2, at most: gradients lie in the span of the factor, and images that differ across it are equal."""
    kernel, x, z, dual = ConvNTK(3, 2), pictures(5, 1, 7, 6, seed=1), pictures(3, 1, 7, 6, seed=2), normal(5, 2)
    left = torch.tensor([[1.0, 0, -1, 2, 0, -2, 1, 0, -1], [1, 2, 1, 0, 0, 0, -1, -2, -1]], dtype=x.dtype).mT
    factor = left[:, :1] if columns == 1 else left @ (torch.eye(2, dtype=x.dtype) if columns == 2 else normal(2, 12))
    metric = PatchMetric(kernel, factor)
    gradients = patch_gradients(metric, x, z, dual)
    span = left[:, : min(columns, 2)]
    projector = torch.eye(9, dtype=x.dtype) - span @ torch.linalg.pinv(span)
    assert float((gradients @ projector).abs().max()) < 1e-10 * float(gradients.abs().max())
    brighter = metric.matrix(x + 5, z - 2)  # derivatives do not see a constant
    tolerance = 1e-6 if columns == 1 else 1e-10  # one number a patch: all parallel
    torch.testing.assert_close(brighter, metric.matrix(x, z), rtol=tolerance, atol=tolerance)
    own = metric.diagonal(x)
    torch.testing.assert_close(metric.matrix(x, x).diagonal(), own, rtol=1e-12, atol=0)
    assert float((metric.matrix(x, z) / (own[:, None] * metric.diagonal(z)).sqrt()).max()) < 1 + 1e-9


def test_values_are_differentiable_by_the_factor() -> None:
    kernel, x, z = ConvNTK(3, 2), pictures(3, 1, 6, 5, seed=1), pictures(2, 1, 6, 5, seed=2)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-3)):
        factor = normal(9, 4, seed=3).to(dtype).requires_grad_(True)
        PatchMetric(kernel, factor).matrix(x.to(dtype), z.to(dtype)).sum().backward()
        assert factor.grad is not None
        step = torch.zeros(9, 4, dtype=x.dtype)
        step[2, 1] = 1e-5
        sums = [PatchMetric(kernel, normal(9, 4, seed=3) + sign * step).matrix(x, z).sum() for sign in (1, -1)]
        assert float(factor.grad[2, 1]) == pytest.approx(float(sums[0] - sums[1]) / 2e-5, rel=tolerance)


def test_the_factor_follows_the_images() -> None:
    metric, x = metric_of((1, 6, 5, 3, 1, 0), 4, scale=3.0), pictures(3, 1, 6, 5, seed=1).float()
    single = metric.to(x)
    assert single.factor is not None
    assert (single.factor.dtype, single.scale, single.kernel) == (torch.float32, 3.0, metric.kernel)
    torch.testing.assert_close(single.matrix(x, x).double(), metric.matrix(x.double(), x.double()), rtol=5e-6, atol=0)
    plain = PatchMetric(ConvNTK(3, 1), None, 3.0)
    assert plain.to(x).scale == 3.0
    assert plain.to(x).factor is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaled_by_images_the_largest_of_their_diagonal_is_one(dtype: torch.dtype) -> None:
    x = pictures(6, 2, 6, 7, seed=1).to(dtype)
    for columns in (None, 4):
        metric = metric_of((2, 6, 7, 3, 2, 0), columns, scale=7.0).to(x)
        scaled = metric.scaled_by(x)
        assert float(scaled.diagonal(x).max()) == pytest.approx(1, rel=1e-6)
        torch.testing.assert_close(scaled.matrix(x, x) * scaled.scale, metric.matrix(x, x) * 7)
        for bad in (torch.zeros_like(x), x * math.nan, x * math.inf):
            with pytest.raises(DataError, match=r"Got images whose largest k\(x, x\) is"):
                metric.scaled_by(bad)


def test_single_precision_works_whatever_the_default_is() -> None:
    x, z, dual = pictures(5, 1, 6, 7, seed=1).float(), pictures(4, 1, 6, 7, seed=2).float(), normal(5, 2).float()
    for columns in (None, 2, 9):
        metric = metric_of((1, 6, 7, 3, 2, 0), columns).to(x)
        values, gradients = metric.matrix(x, z), patch_gradients(metric, x, z, dual)
        torch.set_default_dtype(torch.float64)
        try:
            assert torch.equal(metric.matrix(x, z), values)
            assert torch.equal(patch_gradients(metric, x, z, dual), gradients)
        finally:
            torch.set_default_dtype(torch.float32)


# patch gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "columns"), CASES)
def test_patch_gradients_equal_autograd_and_obey_euler(shape: tuple[int, ...], columns: int | None) -> None:
    *sizes, _, _, _ = shape
    metric = metric_of(shape, columns, scale=2.5)
    x, z, dual = pictures(6, *sizes, seed=1), pictures(4, *sizes, seed=2), normal(6, 3, seed=3)
    found = patch_gradients(metric, x, z, dual)
    expected = by_autograd(metric, x, z, dual)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))
    euler = torch.einsum("mChwq,mhwq->mC", found, metric.kernel.patches(z))
    torch.testing.assert_close(euler, metric.expansion(x, z, dual), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "columns"),
    [((1, 4, 5, 3, 1, 0), None), ((2, 4, 3, 2, 2, 0), 5), ((1, 3, 4, 3, 2, 1), 4), ((2, 3, 3, 1, 3, 0), None)],
)
def test_patch_gradients_equal_finite_differences(shape: tuple[int, ...], columns: int | None) -> None:
    *sizes, size, depth, padding = shape
    metric = metric_of(shape, columns)
    x, z, dual = pictures(3, *sizes, seed=1), pictures(1, *sizes, seed=2), normal(3, 2, seed=3)
    factor = None if metric.factor is None else metric.factor.numpy()
    arrays = (x.numpy(), z.numpy(), dual.numpy())
    expected = torch.from_numpy(reference.conv_ntk_patch_gradients(*arrays, size, depth, padding, factor))
    scale = float(expected.abs().max())
    torch.testing.assert_close(patch_gradients(metric, x, z, dual), expected, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("depth", [1, 2])
def test_at_a_blank_patch_the_gradient_is_that_of_central_differences(depth: int, dtype: torch.dtype) -> None:
    """The kernel has a kink there, with other slopes forwards than backwards; theirs is the mean of both."""
    x, z, dual = pictures(3, 1, 4, 5, seed=1), pictures(1, 1, 4, 5, seed=2), normal(3, 2, seed=3)
    z[0, 0, :2, 2:4], x[0, 0, 1:3, 1:3] = 0, 0
    arrays = (x.numpy(), z.numpy(), dual.numpy())
    expected = torch.from_numpy(reference.conv_ntk_patch_gradients(*arrays, 2, depth, step=1e-6))
    metric = PatchMetric(ConvNTK(2, depth))
    assert float(metric.kernel.patches(z)[0, 0, 2].abs().sum()) == 0
    assert float(expected[0, :, 0, 2].abs().max()) > 1e-2
    found = patch_gradients(metric, x.to(dtype), z.to(dtype), dual.to(dtype)).double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_patches_that_are_not_blank_have_the_gradient_of_autograd_beside_blank_ones(
    depth: int, dtype: torch.dtype
) -> None:
    x, z, dual = pictures(5, 2, 9, 10, seed=1), pictures(4, 2, 9, 10, seed=2), normal(5, 2)
    x[:3, :, :, :7], z[:2, :, :6], x[4], z[3] = 0, 0, 0, 0
    metric = PatchMetric(ConvNTK(3, depth))
    found = patch_gradients(metric, x.to(dtype), z.to(dtype), dual.to(dtype)).double()
    expected = by_autograd(metric, x, z, dual)
    seen = metric.kernel.patches(z).abs().sum(dim=3) > 0
    assert 0 < int(seen.sum()) < seen.numel()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    found, expected = (gradients.permute(0, 2, 3, 1, 4)[seen] for gradients in (found, expected))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    whole = patch_gradients(metric, x.to(dtype), z.to(dtype), dual.to(dtype)).double()
    plain = patch_gradients(metric, x, z, dual)
    torch.testing.assert_close(whole, plain, rtol=tolerance, atol=tolerance * float(plain.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_images_alone_obey_euler(dtype: torch.dtype) -> None:
    """At its own image the slope of the arcus cosine counts as 0, and the value is that of the formula."""
    for depth, columns in ((1, None), (3, None), (2, 5)):
        metric, x = metric_of((2, 8, 9, 3, depth, 0), columns), pictures(70, 2, 8, 9, seed=1)
        metric, x = metric.to(x.to(dtype)), x.to(dtype)
        dual = normal(70, 2).to(dtype)
        found = patch_gradients(metric, x, x[60:], dual)
        euler = torch.einsum("mChwq,mhwq->mC", found, metric.kernel.patches(x[60:])).double()
        values = metric.expansion(x, x[60:], dual).double()
        tolerance = (2e-4 if dtype == torch.float32 else 1e-8) * float(metric.diagonal(x).max())
        torch.testing.assert_close(euler, values, rtol=0, atol=tolerance)


def test_pixels_gather_the_gradients_of_their_patches() -> None:
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        metric = metric_of((2, 6, 5, 3, 2, 1), 6, scale=1.5)
        x, z, dual = pictures(6, 2, 6, 5, seed=1), pictures(4, 2, 6, 5, seed=2), normal(6, 3, seed=3)
        leaf = z.clone().requires_grad_(True)
        columns = (metric.definition(x, leaf).mT @ dual).sum(dim=0)
        expected = torch.stack([torch.autograd.grad(column, leaf, retain_graph=True)[0] for column in columns], dim=1)
        single = metric.to(x.to(dtype))
        found = single.expansion_gradient(x.to(dtype), z.to(dtype), dual.to(dtype)).double()
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_coefficients_enter_linearly_and_their_rows_follow_the_images() -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        metric, x, z = PatchMetric(ConvNTK(3, 2)), pictures(130, 1, 6, 7, seed=1), pictures(5, 1, 6, 7, seed=2)
        x, z, dual, mix = x.to(dtype), z.to(dtype), normal(130, 4).to(dtype), normal(4, 3, seed=5).to(dtype)
        found = patch_gradients(metric, x, z, dual)
        scale = float(found.abs().max())
        mixed = torch.einsum("mChwq,Cd->mdhwq", found, mix)
        torch.testing.assert_close(patch_gradients(metric, x, z, dual @ mix), mixed, rtol=0, atol=tolerance * scale)
        order = torch.randperm(130, generator=torch.Generator().manual_seed(0))
        shuffled = patch_gradients(metric, x[order], z.flip(0), dual[order])
        torch.testing.assert_close(shuffled.flip(0), found, rtol=0, atol=tolerance * scale)
        sole = torch.zeros_like(dual[:, :1])
        sole[100] = 2
        one = patch_gradients(metric, x[100:101], z, 2 * torch.ones(1, 1, dtype=dtype))
        torch.testing.assert_close(patch_gradients(metric, x, z, sole), one, rtol=0, atol=tolerance * scale)


# single precision, chunks, threads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "columns", "n", "m"), SINGLE)
def test_single_precision_agrees_with_the_definition(
    shape: tuple[int, ...], columns: int | None, n: int, m: int
) -> None:
    *sizes, _, _, _ = shape
    metric = metric_of(shape, columns, scale=2.0)
    x, z, dual = pictures(n, *sizes, seed=1).float(), pictures(m, *sizes, seed=2).float(), normal(n, 3).float()
    single = metric.to(x)
    double = single.to(x.double())
    expected = double.definition(x.double(), z.double())
    scale = (double.diagonal(x.double())[:, None] * double.diagonal(z.double())).sqrt()
    found = single.matrix(x, z)
    assert (found.shape, found.dtype) == ((n, m), torch.float32)
    assert float(((found.double() - expected).abs() / torch.maximum(expected.abs(), 0.1 * scale)).max()) < 5e-6
    expected = patch_gradients(double, x.double(), z.double(), dual.double())
    gradients = patch_gradients(single, x, z, dual)
    assert gradients.dtype == torch.float32
    assert float((gradients.double() - expected).abs().max() / expected.abs().max()) < 2e-5


def test_single_precision_of_a_factor_with_one_column() -> None:
    """All patches are parallel then, or opposite: the arcus cosine loses half of the digits."""
    metric, x, z = metric_of((2, 7, 8, 3, 3, 0), 1), pictures(30, 2, 7, 8, seed=1), pictures(9, 2, 7, 8, seed=2)
    scale = (metric.diagonal(x)[:, None] * metric.diagonal(z)).sqrt()
    error = metric.to(x.float()).matrix(x.float(), z.float()).double() - metric.definition(x, z)
    assert float((error.abs() / scale).max()) < 4e-4


@pytest.mark.parametrize("columns", [None, 5])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 130])
def test_symmetric_filling_equals_the_matrix(n: int, columns: int | None) -> None:
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-13)):
        x = pictures(n, 2, 5, 6, seed=1).to(dtype)
        metric = metric_of((2, 5, 6, 3, 2, 0), columns, scale=0.7).to(x)
        out = torch.full((n, n), math.nan, dtype=dtype)
        assert metric.fill_(x, out) is out
        assert torch.equal(out, out.mT)
        assert torch.equal(out.diagonal(), metric.diagonal(x))
        expected, scale = metric.matrix(x, x), float(metric.diagonal(x).max())
        torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("n", [1, 64, 70])
def test_filling_can_add_a_multiple(n: int) -> None:
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-13)):
        x, before = pictures(n, 2, 5, 6, seed=1).to(dtype), normal(n, n, seed=3).to(dtype)
        before = before + before.mT
        metric, out = metric_of((2, 5, 6, 3, 2, 0), 5, scale=0.7).to(x), before.clone()
        assert metric.fill_(x, out, add=0.25) is out
        assert torch.equal(out, out.mT)
        expected = before + 0.25 * metric.fill_(x, torch.empty(n, n, dtype=dtype))
        off = ~torch.eye(n, dtype=torch.bool)
        torch.testing.assert_close(
            out[off], expected[off], rtol=tolerance, atol=tolerance * float(expected.abs().max())
        )
        loose = 5e-4 if dtype == torch.float32 else 1e-7
        torch.testing.assert_close(out, expected, rtol=loose, atol=loose)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_change_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x, z = pictures(130, 2, 6, 7, seed=1).to(dtype), pictures(150, 2, 6, 7, seed=2).to(dtype)
    metric, dual = metric_of((2, 6, 7, 3, 2, 0), 5).to(x), normal(130, 2).to(dtype)

    def results() -> list[Tensor]:
        filled = metric.fill_(z, torch.empty(150, 150, dtype=dtype))
        return [metric.matrix(x, z), filled, metric.diagonal(z), metric.expansion(x, z, dual),
                patch_gradients(metric, x, z, dual), metric.expansion_gradient(x, z, dual)]  # fmt: skip

    whole = results()
    monkeypatch.setattr("featlearn.kernels.patch_metric.CHUNK", 2**17)
    monkeypatch.setattr("featlearn.kernels.patch_metric.SLAB", 2**16)
    monkeypatch.setattr("featlearn.kernels._conv_numba.AT_ONCE", 1)
    assert len(list(metric.patch_gradients(x, z, dual))) > 3
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    for one, other in zip(whole, results(), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=tolerance * float(one.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [None, 6, 18])
def test_threads_change_nothing(columns: int | None, dtype: torch.dtype, one_torch_thread: Any) -> None:
    """No bit without a factor; with one, its products are the library's, whose sums follow the number of threads."""
    n = 130 if dtype == torch.float32 else 20
    x, z, dual = pictures(n, 2, 8, 7, seed=1).to(dtype), pictures(35, 2, 8, 7, seed=2).to(dtype), normal(n, 3)
    metric, found = metric_of((2, 8, 7, 3, 2, 1), columns).to(x), []
    for threads in (1, 2, 3):
        one_torch_thread(threads)
        filled = metric.fill_(x, torch.empty(n, n, dtype=dtype))
        gradients = patch_gradients(metric, x, z, dual.to(dtype))
        found.append((metric.matrix(x, z), filled, metric.diagonal(x), gradients))
    rounding = 0 if columns is None else (2e-6 if dtype == torch.float32 else 1e-13)
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            torch.testing.assert_close(same, one, rtol=0, atol=rounding * float(one.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_images_have_the_value_of_the_diagonal(dtype: torch.dtype) -> None:
    x = pictures(70, 1, 8, 9, seed=1).to(dtype)
    x[9], x[10] = x[66], 0
    for columns in (None, 1, 4):
        metric = metric_of((1, 8, 9, 3, 3, 0), columns, scale=3.0).to(x)
        own = metric.diagonal(x)
        values = metric.matrix(x, x[[69, 0, 66, 10]])
        for column, image in enumerate((69, 0, 66, 10)):
            assert float(values[image, column]) == pytest.approx(float(own[image]), rel=3e-7, abs=0)
        assert values[9, 2] == values[66, 2]
        assert float(values[:, 3].abs().sum()) == 0


def test_images_that_differ_by_a_rounding_have_nearly_the_same_value() -> None:
    x = pictures(5, 1, 8, 9, seed=1).float()
    z = x.clone()
    z[:, 0, 4, 4] = torch.nextafter(z[:, 0, 4, 4], torch.tensor(9.0))
    metric = PatchMetric(ConvNTK(3, 2))
    torch.testing.assert_close(metric.matrix(x, z).diagonal(), metric.diagonal(x), rtol=5e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_factor_and_coefficients_stay_as_they_are(dtype: torch.dtype) -> None:
    given = [t.to(dtype) for t in (pictures(66, 2, 5, 6, seed=1), pictures(4, 2, 5, 6, seed=2), normal(66, 2))]
    x, z, dual = (t.clone() for t in given)
    metric = metric_of((2, 5, 6, 3, 2, 0), 5).to(x)
    assert metric.factor is not None
    factor = metric.factor.clone()
    metric.matrix(x, z)
    metric.fill_(x, torch.empty(66, 66, dtype=dtype))
    metric.diagonal(x)
    metric.expansion(x, z, dual)
    metric.expansion_gradient(x, z, dual)
    assert all(torch.equal(one, other) for one, other in zip((x, z, dual), given, strict=True))
    assert torch.equal(metric.factor, factor)


def test_goes_into_a_mean_of_kernels() -> None:
    x, z = pictures(6, 1, 6, 7, seed=1), pictures(4, 1, 6, 7, seed=2)
    parts = (metric_of((1, 6, 7, 3, 2, 0), 4), PatchMetric(ConvNTK(2, 1), None, 5.0))
    mean = MeanKernel(parts)
    expected = (parts[0].matrix(x, z) + parts[1].matrix(x, z)) / 2
    torch.testing.assert_close(mean.expansion(x, z, torch.eye(6, dtype=x.dtype)).mT, expected)


# refusals -------------------------------------------------------------------------------------------------------------

IMAGES = torch.zeros(2, 2, 7, 7)


@pytest.mark.parametrize("scale", [0, 0.0, -1.0, math.inf, math.nan, "1", None])
def test_scales_that_are_not_positive_are_refused(scale: object) -> None:
    with pytest.raises(DataError, match=rf"Got scale={scale!r}, but expected a positive finite number"):
        PatchMetric(ConvNTK(3, 1), None, scale)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(18,), (2, 9, 4), ()])
def test_factors_that_are_no_matrix_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"Got a factor of shape .*, but expected \(q, k\)"):
        PatchMetric(ConvNTK(3, 1), torch.zeros(shape))


@pytest.mark.parametrize("factor", [torch.zeros(17, 4), torch.zeros(9, 9), torch.zeros(18, 4, dtype=torch.float64)])
def test_factors_that_do_not_fit_the_patches_are_refused(factor: Tensor) -> None:
    metric, dual = PatchMetric(ConvNTK(3, 2), factor), torch.zeros(2, 1)
    for call in (
        lambda: metric.check(IMAGES),
        lambda: metric.matrix(IMAGES, IMAGES),
        lambda: metric.definition(IMAGES, IMAGES),
        lambda: metric.diagonal(IMAGES),
        lambda: metric.fill_(IMAGES, torch.empty(2, 2)),
        lambda: metric.expansion(IMAGES, IMAGES, dual),
        lambda: metric.expansion_gradient(IMAGES, IMAGES, dual),
        lambda: list(metric.patch_gradients(IMAGES, IMAGES, dual)),
    ):
        message = r"Got a factor .*expected \(18, k\) of torch.float32 for patches of 2 x 3 x 3"
        with pytest.raises(DataError, match=message):
            call()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[0], r"\(2, 7, 7\) .*expected \(n, channels, height, width\)"),
        (IMAGES.int(), "torch.int32 .*cast to float32"),
        (IMAGES[:, :, :4], "4 x 7 pixels.*at least 5 x 5"),
        (IMAGES[..., :4], "7 x 4 pixels.*at least 5 x 5"),
    ],
    ids=["three axes", "integers", "too flat", "too narrow"],
)
def test_images_are_checked_in_every_call(images: Tensor, message: str) -> None:
    metric, dual = PatchMetric(ConvNTK(3, 2)), torch.zeros(2, 1)
    for call in (
        lambda: metric.check(images, images),
        lambda: metric.matrix(images, images),
        lambda: metric.diagonal(images),
        lambda: metric.fill_(images, torch.empty(2, 2)),
        lambda: metric.expansion(images, images, dual),
        lambda: metric.expansion_gradient(images, images, dual),
    ):
        with pytest.raises(DataError, match=message):
            call()


def test_targets_and_coefficients_that_do_not_fit_are_refused() -> None:
    metric = PatchMetric(ConvNTK(3, 2))
    for out in (torch.empty(2, 3), torch.empty(2, 2, dtype=torch.float64)):
        with pytest.raises(DataError, match=r"Got out .*expected \(2, 2\) of torch.float32"):
            metric.fill_(IMAGES, out)
    for dual in (torch.zeros(3, 1), torch.zeros(2), torch.zeros(2, 1, dtype=torch.float64)):
        with pytest.raises(DataError, match=r"Got dual coefficients .*expected \(2, C\) of torch.float32"):
            list(metric.patch_gradients(IMAGES, IMAGES, dual))
        with pytest.raises(DataError, match=r"Got dual coefficients .*expected \(2, C\) of torch.float32"):
            metric.expansion_gradient(IMAGES, IMAGES, dual)


# found by a second reader ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_filling_by_addition_has_the_exact_diagonal(dtype: torch.dtype) -> None:
    x, metric = normal(70, 2, 6, 7).to(dtype), PatchMetric(ConvNTK(3, 2))
    out = metric.fill_(x, torch.zeros(70, 70, dtype=dtype), add=1.0)
    torch.testing.assert_close(out.diagonal(), metric.diagonal(x), rtol=0, atol=0)


def test_adding_to_what_is_not_symmetric() -> None:
    x, metric, before = normal(5, 2, 6, 7), PatchMetric(ConvNTK(3, 2)), normal(5, 5, seed=3)
    expected = before + 2 * metric.fill_(x, torch.empty(5, 5).double())
    torch.testing.assert_close(metric.fill_(x, before.clone(), add=2.0), expected)


def test_no_points_have_no_gradients() -> None:
    x = normal(5, 2, 6, 7)
    assert ConvNTK(3, 2).expansion_gradient(x, x[:0], normal(5, 3)).shape == (0, 3, 2, 6, 7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype: torch.dtype) -> None:
    x = normal(5, 2, 6, 7).to(dtype)
    with pytest.raises(DataError, match="cast to float32"):
        ConvNTK(3, 2).matrix(x, x)


def test_filling_of_images_that_ask_for_a_gradient() -> None:
    x = normal(5, 2, 6, 7).float()
    expected = ConvNTK(3, 2).fill_(x, torch.empty(5, 5))
    assert torch.equal(ConvNTK(3, 2).fill_(x.clone().requires_grad_(), torch.empty(5, 5)), expected)


def test_what_cannot_be_used_is_refused_everywhere() -> None:
    x, kernel = normal(5, 2, 6, 7), ConvNTK(3, 2)
    with pytest.raises(DataError, match="dual coefficients"):
        kernel.expansion(x, x, normal(4, 2))
    with pytest.raises(DataError, match="Got images"):
        kernel.matrix(x[:, :0], x[:, :0])
    with pytest.raises(DataError, match=r"k at least 1"):
        PatchMetric(kernel, torch.zeros(18, 0))
