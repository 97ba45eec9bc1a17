"""The convolutional tangent kernel: golden numbers, loops, sampled networks, identities, blank images, precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from cases import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from featlearn.exceptions import DataError
from featlearn.kernels import ArcCosNTK, ConvNTK
from featlearn.kernels.conv import box, box_transposed

# (channels, height, width, patch size, depth, padding)
SHAPES = [
    (1, 4, 5, 3, 1, 0),
    (2, 6, 5, 3, 2, 0),
    (3, 5, 4, 2, 3, 0),
    (2, 6, 8, 2, 4, 0),
    (2, 3, 4, 1, 3, 0),
    (1, 4, 3, 3, 2, 1),
    (2, 3, 5, 3, 3, 2),
    (1, 5, 6, 5, 2, 2),
    (1, 9, 10, 5, 2, 0),
    (3, 3, 2, 5, 1, 4),
    (1, 9, 9, 3, 4, 0),
]
GOLDEN = [
    ((1, 6, 6, 3, 1), 9.0184372509, 1.5447070217, -0.2530232866, 1.5391346850),
    ((2, 8, 7, 3, 2), 120.9515808958, 20.4717889166, 22.8386379776, 20.4779562678),
    ((3, 9, 9, 3, 3), 1457.6123146724, 295.6565213942, 393.9921972124, 295.5387482852),
    ((1, 9, 9, 5, 2), 931.3055989085, 132.6019149633, 205.1397971982, 133.3330641238),
]
SINGLE = [  # (channels, height, width, patch size, depth, padding), images, points
    ((1, 9, 7, 3, 3, 0), 1, 63),
    ((2, 7, 10, 3, 2, 1), 63, 1),
    ((1, 6, 5, 2, 4, 0), 64, 65),
    ((6, 5, 4, 1, 3, 0), 65, 64),
    ((3, 9, 11, 5, 2, 4), 130, 3),
    ((1, 12, 10, 3, 1, 0), 130, 130),
    ((3, 16, 13, 11, 1, 0), 20, 7),
    ((3, 9, 8, 11, 1, 5), 7, 9),
    ((64, 7, 6, 3, 2, 0), 66, 5),
]


def sines(channels: int, height: int, width: int) -> Tensor:
    """Three images by a formula, in double precision."""
    i, k, h, w = torch.meshgrid(*(torch.arange(size).double() for size in (3, channels, height, width)), indexing="ij")
    return torch.sin(1 + 0.7 * i + 1.3 * k + 0.37 * (i + 1) * h + 0.53 * (k + 2) * w)


def pictures(n: int, *shape: int, seed: int) -> Tensor:
    """Images (n, c, H, W) that are neither centred nor sparse."""
    return normal(n, *shape, seed=seed) + 0.3


@pytest.mark.parametrize(("sizes", "first", "k01", "k02", "k12"), GOLDEN)
def test_golden_numbers(sizes: tuple[int, ...], first: float, k01: float, k02: float, k12: float) -> None:
    kernel, x = ConvNTK(sizes[3], sizes[4]), sines(*sizes[:3])
    filled = kernel.fill_(x, torch.empty(3, 3, dtype=x.dtype))
    for values in (kernel.matrix(x, x), filled):
        found = [values[0, 0], values[0, 1], values[0, 2], values[1, 2]]
        assert [float(value) for value in found] == pytest.approx([first, k01, k02, k12], rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_loops_over_pairs_positions_and_layers(shape: tuple[int, ...]) -> None:
    *sizes, size, depth, padding = shape
    kernel = ConvNTK(size, depth, padding)
    x, z = pictures(3, *sizes, seed=1), pictures(4, *sizes, seed=2)
    expected = torch.from_numpy(reference.conv_ntk(x.numpy(), z.numpy(), size, depth, padding))
    for found in (kernel.matrix(x, z), kernel.definition(x, z)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("depth", "width"), [(1, 400), (2, 200)])
def test_is_the_tangent_kernel_of_a_wide_random_network(depth: int, width: int) -> None:
    """Inner products of the parameters' gradients, averaged over networks with standard normal weights."""
    x = sines(2, 5, 6)[:2]
    samples = torch.stack([_sampled_kernel(x, depth, width, seed) for seed in range(60)])
    error = samples.std(dim=0) / len(samples) ** 0.5
    expected = ConvNTK(3, depth).matrix(x, x)
    # Beyond one layer a finite network is off by O(1 / width).
    bias = 0.0 if depth == 1 else 2 / width
    assert ((samples.mean(dim=0) - expected).abs() < 4 * error + bias * expected.abs()).all()


def _sampled_kernel(x: Tensor, depth: int, width: int, seed: int) -> Tensor:
    weights, maps, fan = [], x, x.shape[1]
    for layer in range(depth):
        weights.append(normal(width, fan, 3, 3, seed=10 * seed + layer).requires_grad_(True))
        maps = math.sqrt(2) * torch.conv2d(maps, weights[-1] / math.sqrt(fan)).relu()
        fan = width
    weights.append(normal(maps[0].numel(), seed=10 * seed + 9).requires_grad_(True))
    outputs = maps.flatten(1) @ weights[-1] / math.sqrt(maps[0].numel())
    rows = [torch.autograd.grad(output, weights, retain_graph=True) for output in outputs]
    gradients = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    return gradients @ gradients.mT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_patch_is_the_kernel_of_a_dense_network(dtype: torch.dtype) -> None:
    """Patches as large as the image, or of one pixel in images of one pixel."""
    x, z, dual = (normal(*shape, seed=seed).to(dtype) for seed, shape in enumerate([(6, 48), (4, 48), (6, 2)], start=1))
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-12}
    for channels, side, depth in ((3, 4, 1), (48, 1, 1), (48, 1, 3)):
        kernel, dense = ConvNTK(side, depth), ArcCosNTK(depth)
        images, points = (rows.reshape(-1, channels, side, side) for rows in (x, z))
        torch.testing.assert_close(kernel.matrix(images, points), dense.matrix(x, z) / channels, **tolerance)
        torch.testing.assert_close(kernel.diagonal(images), dense.diagonal(x) / channels, **tolerance)
        found = kernel.expansion_gradient(images, points, dual)
        expected = dense.expansion_gradient(x, z, dual) / channels
        torch.testing.assert_close(found.flatten(2), expected, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_diagonal_is_its_formula(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    *sizes, size, depth, padding = shape
    x = pictures(4, *sizes, seed=1)
    kernel, expected = ConvNTK(size, depth, padding), []
    for image in x.numpy():
        a = (reference.image_patches(image, size, padding) ** 2).sum(axis=2) / sizes[0]
        for _ in range(depth - 1):
            a = reference.window_sums(a, size)
        expected.append((depth + 1) * a.mean())
    found = kernel.diagonal(x.to(dtype))
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=tolerance, atol=0)
    # What the recursion tends to, up to the rounding of the arcus cosine.
    itself = kernel.definition(x, x).diagonal()
    torch.testing.assert_close(itself, torch.tensor(expected).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_images_have_the_value_of_the_diagonal(dtype: torch.dtype) -> None:
    kernel, x = ConvNTK(3, 3), pictures(70, 1, 8, 9, seed=1).to(dtype)
    x[5] = x[66]
    z = torch.stack([x[69], x[0], x[66], pictures(1, 1, 8, 9, seed=2)[0].to(dtype)])
    values, own = kernel.matrix(x, z), kernel.diagonal(x)
    pairs = [(69, 0), (0, 1), (66, 2), (5, 2)]
    for i, j in pairs:
        assert float(values[i, j]) == pytest.approx(float(own[i]), rel=2e-7)
    assert torch.equal(kernel.matrix(x, x)[66, 5], kernel.matrix(x, x)[66, 66])
    mask = torch.zeros_like(values, dtype=torch.bool)
    mask[tuple(zip(*pairs, strict=True))] = True
    plain = kernel.definition(x.double(), z.double())
    torch.testing.assert_close(values[~mask].double(), plain[~mask], rtol=5e-6, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_by_pixels_equals_autograd_and_obeys_euler(shape: tuple[int, ...]) -> None:
    *sizes, size, depth, padding = shape
    kernel = ConvNTK(size, depth, padding)
    x, z, dual = pictures(6, *sizes, seed=1), pictures(4, *sizes, seed=2), normal(6, 3, seed=3)
    found = kernel.expansion_gradient(x, z, dual)
    leaf = z.clone().requires_grad_(True)
    columns = (kernel.definition(x, leaf).mT @ dual).sum(dim=0)
    expected = torch.stack([torch.autograd.grad(column, leaf, retain_graph=True)[0] for column in columns], dim=1)
    assert found.shape == (4, 3, *sizes)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    values = kernel.expansion(x, z, dual)
    torch.testing.assert_close((found * z[:, None]).sum(dim=(2, 3, 4)), values, rtol=1e-10, atol=1e-10)


def test_gradient_by_pixels_equals_finite_differences() -> None:
    kernel, x, z, dual = ConvNTK(3, 2, 1), pictures(5, 2, 4, 5, seed=1), pictures(2, 2, 4, 5, seed=2), normal(5, 2)
    found = kernel.expansion_gradient(x, z, dual).flatten(2)
    for place in range(0, 40, 3):
        step = torch.zeros(40, dtype=z.dtype)
        step[place] = 1e-5
        moved = [kernel.expansion(x, z + sign * step.reshape(2, 4, 5), dual) for sign in (1, -1)]
        torch.testing.assert_close(found[:, :, place], (moved[0] - moved[1]) / 2e-5, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrix_and_expansion_are_differentiable(dtype: torch.dtype) -> None:
    kernel, x, z = ConvNTK(3, 2), pictures(3, 1, 6, 7, seed=1).to(dtype), pictures(2, 1, 6, 7, seed=2).to(dtype)
    dual, cotangent = normal(3, 1).to(dtype), normal(2, 1, seed=4).to(dtype)
    leaf = z.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad((kernel.expansion(x, leaf, dual) * cotangent).sum(), leaf)
    expected = (kernel.expansion_gradient(x, z, dual)[:, 0]) * cotangent[..., None, None]
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-4 if dtype == torch.float32 else 1e-10)


def test_expansion_is_the_matrix_times_the_coefficients() -> None:
    for dtype in (torch.float32, torch.float64):
        kernel, x, z = ConvNTK(3, 2), pictures(9, 1, 6, 7, seed=1).to(dtype), pictures(4, 1, 6, 7, seed=2).to(dtype)
        dual = normal(9, 3).to(dtype)
        torch.testing.assert_close(kernel.expansion(x, z, dual), kernel.matrix(x, z).mT @ dual)
        assert kernel.expansion(x, z[:0], dual).shape == (0, 3)
        assert kernel.matrix(x, z[:0]).shape == (9, 0)


@settings(max_examples=25)
@given(st.data())
def test_homogeneous_and_symmetric(data: Any) -> None:
    size, depth = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    padding = data.draw(st.integers(0, size - 1)) if size % 2 else 0
    kernel = ConvNTK(size, depth, padding)
    least = max(1, kernel.smallest_image)
    sizes = [data.draw(st.integers(1, 3)), *(least + data.draw(st.integers(0, 3)) for _ in range(2))]
    seed, scale = data.draw(st.integers(0, 1000)), data.draw(st.floats(0.01, 100))
    x, z = normal(3, *sizes, seed=seed), normal(2, *sizes, seed=seed + 1)
    values = kernel.matrix(x, z)
    margin = 1e-8 * float(values.abs().max())  # patches of one number are all parallel
    torch.testing.assert_close(kernel.matrix(scale * x, z), scale * values, rtol=1e-8, atol=margin * scale)
    torch.testing.assert_close(kernel.matrix(x, scale * z), scale * values, rtol=1e-8, atol=margin * scale)
    torch.testing.assert_close(kernel.matrix(z, x), values.mT, rtol=1e-8, atol=margin)
    torch.testing.assert_close(kernel.diagonal(scale * x), scale**2 * kernel.diagonal(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_powers_of_two_scale_without_rounding(dtype: torch.dtype) -> None:
    kernel, x, z = ConvNTK(3, 3), pictures(7, 2, 8, 9, seed=1).to(dtype), pictures(3, 2, 8, 9, seed=2).to(dtype)
    values, gradient = kernel.matrix(x, z), kernel.expansion_gradient(x, z, torch.ones(7, 1, dtype=dtype))
    for power in (-20, 20):
        assert torch.equal(kernel.matrix(2.0**power * x, 4 * z), 2.0 ** (power + 2) * values)
        moved = kernel.expansion_gradient(2.0**power * x, 4 * z, torch.ones(7, 1, dtype=dtype))
        assert torch.equal(moved, 2.0**power * gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 9, 7, 3, 3, 0), (1, 6, 9, 5, 2, 2), (3, 7, 8, 2, 3, 0)])
def test_mirrored_and_transposed_images_and_mixed_channels_have_the_same_kernel(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    *sizes, size, depth, padding = shape
    kernel, tolerance = ConvNTK(size, depth, padding), 5e-6 if dtype == torch.float32 else 1e-12
    x, z = pictures(5, *sizes, seed=1).to(dtype), pictures(4, *sizes, seed=2).to(dtype)
    values = kernel.matrix(x, z)
    rotation = torch.linalg.qr(normal(sizes[0], sizes[0], seed=3)).Q.to(dtype)
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "transposed": lambda images: images.mT,
        "upside down": lambda images: images.flip(2),
        "left is right": lambda images: images.flip(3),
        "channels": lambda images: torch.einsum("nchw,cd->ndhw", images, rotation),
    }
    for change in changes.values():
        torch.testing.assert_close(kernel.matrix(change(x), change(z)), values, rtol=tolerance, atol=tolerance)


def test_zeros_around_by_hand_are_padding() -> None:
    for dtype in (torch.float32, torch.float64):
        x, z = pictures(4, 2, 5, 4, seed=1).to(dtype), pictures(3, 2, 5, 4, seed=2).to(dtype)
        wide = [torch.nn.functional.pad(images, (2, 2, 2, 2)) for images in (x, z)]
        tolerance = 1e-6 if dtype == torch.float32 else 1e-13
        torch.testing.assert_close(ConvNTK(3, 3, 2).matrix(x, z), ConvNTK(3, 3).matrix(*wide), rtol=tolerance, atol=0)


# degenerate images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blank_images_have_value_zero_and_add_nothing_to_gradients(dtype: torch.dtype) -> None:
    kernel = ConvNTK(3, 3)
    x, z, dual = (t.to(dtype) for t in (pictures(6, 1, 8, 9, seed=1), pictures(4, 1, 8, 9, seed=2), normal(6, 2)))
    x[2], z[1] = 0, 0
    values, filled = kernel.matrix(x, z), kernel.fill_(x, torch.full((6, 6), 7.0, dtype=dtype))
    for blank in (values[2], values[:, 1], filled[2], filled[:, 2], kernel.diagonal(x)[2]):
        assert float(blank.abs().sum()) == 0
    gradient = kernel.expansion_gradient(x, z, dual)
    kept = [0, 1, 3, 4, 5]
    torch.testing.assert_close(gradient, kernel.expansion_gradient(x[kept], z, dual[kept]), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blank_patches_add_nothing_to_values(dtype: torch.dtype) -> None:
    """The left of x and the top of z are blank, so that whole windows of later layers are."""
    x, z = pictures(5, 2, 9, 10, seed=1), pictures(4, 2, 9, 10, seed=2)
    x[:3, :, :, :7], z[:2, :, :6] = 0, 0
    for depth, padding in ((1, 0), (3, 0), (3, 2)):
        kernel = ConvNTK(3, depth, padding)
        expected = torch.from_numpy(reference.conv_ntk(x.numpy(), z.numpy(), 3, depth, padding))
        found = kernel.matrix(x.to(dtype), z.to(dtype)).double()
        tolerance = 5e-6 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "depth"), [(3, 1), (3, 3), (2, 4)])
def test_images_along_and_against_one_another(size: int, depth: int, dtype: torch.dtype) -> None:
    """Along a ray the kernel is linear; against it, every layer but the first sees cosine 0 or more."""
    kernel, x = ConvNTK(size, depth), pictures(3, 2, 8, 7, seed=1)
    own = (depth + 1) * torch.stack([_last_norms(image, size, depth).mean() for image in x])
    along = kernel.matrix(x.to(dtype), 2 * x.to(dtype)).diagonal().double()
    torch.testing.assert_close(along, 2 * own, rtol=5e-4 if dtype == torch.float32 else 1e-7, atol=0)
    against = kernel.matrix(x.to(dtype), -2 * x.to(dtype)).diagonal().double()
    last = torch.stack([2 * _last_norms(image, size, depth).mean() for image in x])
    expected = last * _opposite(depth)
    torch.testing.assert_close(against, expected, rtol=0, atol=(5e-4 if dtype == torch.float32 else 1e-7) * last.max())
    gradient = kernel.expansion_gradient(x[:1].to(dtype), -2 * x[:1].to(dtype), torch.ones(1, 1, dtype=dtype))
    assert gradient.isfinite().all()


def _last_norms(image: Tensor, size: int, depth: int) -> Tensor:
    a = (reference.image_patches(image.numpy(), size) ** 2).sum(axis=2) / len(image)
    for _ in range(depth - 1):
        a = reference.window_sums(a, size)
    return torch.from_numpy(a)


def _opposite(depth: int) -> float:
    """Opposite images: all maps are multiples of the norms, which box carries from layer to layer; so a recursion of
    numbers, from S = Theta = -1.
    """
    s, t = -1.0, -1.0
    for layer in range(depth):
        rest = math.pi - math.acos(s)
        n, t = ((1 - s**2) ** 0.5 + s * rest) / math.pi, t * rest / math.pi
        if layer < depth - 1:
            s, t = n, n + t
    return n + t


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_at_a_multiple_of_a_training_image(dtype: torch.dtype) -> None:
    """The derivative of kappa_0 counts as 0 there, so that the slope is that of (depth + 1) mean_p <u, v> / c."""
    for factor in (1.0, 2.0):
        for depth in (1, 3):
            kernel, x = ConvNTK(3, depth), pictures(1, 2, 8, 7, seed=1)
            image = x[0].clone().requires_grad_(True)
            bilinear = torch.conv2d((image * x[0]).sum(0)[None, None] / 2, torch.ones(1, 1, 3, 3, dtype=x.dtype))
            for _ in range(depth - 1):
                bilinear = torch.conv2d(bilinear, torch.ones(1, 1, 3, 3, dtype=x.dtype))
            (expected,) = torch.autograd.grad((depth + 1) * bilinear.mean(), image)
            found = kernel.expansion_gradient(x.to(dtype), factor * x.to(dtype), torch.ones(1, 1, dtype=dtype))
            tolerance = 2e-3 if dtype == torch.float32 else 1e-6
            scale = float(expected.abs().max())
            torch.testing.assert_close(found[0, 0].double(), expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_images_are_all_parallel(dtype: torch.dtype) -> None:
    kernel, levels = ConvNTK(3, 2), torch.tensor([1.0, 3.0, 0.5, 0.0], dtype=dtype)
    x = levels.reshape(-1, 1, 1, 1).expand(4, 2, 7, 6)
    one = float(kernel.diagonal(torch.ones(1, 2, 7, 6, dtype=dtype)))
    assert one == pytest.approx(3 * 9 * 9)  # (depth + 1) windows of 9 patches of 9 pixels of square 1
    expected = one * levels[:, None] * levels
    tolerance = 5e-4 if dtype == torch.float32 else 1e-7
    torch.testing.assert_close(kernel.matrix(x, x), expected, rtol=tolerance, atol=0)
    torch.testing.assert_close(kernel.fill_(x, torch.empty(4, 4, dtype=dtype)), expected, rtol=tolerance, atol=0)
    assert kernel.expansion_gradient(x, x, torch.ones(4, 1, dtype=dtype)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("size", "depth", "padding"), [(3, 2, 0), (5, 1, 0), (3, 4, 1), (2, 3, 0), (5, 2, 2), (1, 3, 0)]
)
def test_smallest_images_have_one_position(size: int, depth: int, padding: int, dtype: torch.dtype) -> None:
    kernel = ConvNTK(size, depth, padding)
    side = depth * (size - 1) + 1 - 2 * padding
    assert kernel.smallest_image == side
    x, z, dual = pictures(4, 2, side, side, seed=1), pictures(3, 2, side, side, seed=2), normal(4, 1)
    expected = torch.from_numpy(reference.conv_ntk(x.numpy(), z.numpy(), size, depth, padding))
    tolerance = 5e-6 if dtype == torch.float32 else 1e-12
    found = kernel.matrix(x.to(dtype), z.to(dtype)).double()
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    gradient = kernel.expansion_gradient(x.to(dtype), z.to(dtype), dual.to(dtype)).double()
    euler, values = (gradient[:, 0] * z).sum(dim=(1, 2, 3)), (expected.mT @ dual)[:, 0]
    torch.testing.assert_close(euler, values, rtol=20 * tolerance, atol=20 * tolerance)


def test_kernel_is_positive_definite() -> None:
    for size, depth in ((3, 1), (3, 3), (2, 4)):
        x = normal(40, 1, 7, 8)
        values = ConvNTK(size, depth).fill_(x, torch.empty(40, 40, dtype=x.dtype))
        assert float(torch.linalg.eigvalsh(values)[0]) > 0


# single precision, compiled -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "n", "m"), SINGLE)
def test_single_precision_agrees_with_the_definition(shape: tuple[int, ...], n: int, m: int) -> None:
    *sizes, size, depth, padding = shape
    kernel = ConvNTK(size, depth, padding)
    for offset in (0.0, 0.5):
        x, z = normal(n, *sizes, seed=1).float() + offset, normal(m, *sizes, seed=2).float() + offset
        expected = kernel.definition(x.double(), z.double())
        scale = (kernel.diagonal(x.double())[:, None] * kernel.diagonal(z.double())).sqrt()
        found = kernel.matrix(x, z)
        assert found.shape == (n, m)
        assert found.dtype == torch.float32
        assert float(((found.double() - expected).abs() / torch.maximum(expected.abs(), 0.1 * scale)).max()) < 5e-6


@pytest.mark.parametrize("channels", [1, 2])
def test_single_precision_of_patches_that_are_all_nearly_parallel(channels: int) -> None:
    """The arcus cosine loses half of the digits there, which is why the diagonal has a formula."""
    kernel, x, z = ConvNTK(1, 3), normal(65, channels, 5, 4, seed=1), normal(9, channels, 5, 4, seed=2)
    if channels == 2:
        x[:, 1], z[:, 1] = x[:, 0] * (1 + 1e-3 * x[:, 1]), z[:, 0] * (1 + 1e-3 * z[:, 1])
    expected = kernel.definition(x, z)
    scale = (kernel.diagonal(x)[:, None] * kernel.diagonal(z)).sqrt()
    assert float(((kernel.matrix(x.float(), z.float()).double() - expected).abs() / scale).max()) < 4e-4


@pytest.mark.parametrize("n", [1, 63, 64, 65, 130])
def test_symmetric_filling_equals_the_matrix(n: int) -> None:
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-13)):
        kernel, x = ConvNTK(3, 2, 1), pictures(n, 2, 5, 4, seed=1).to(dtype)
        out = torch.full((n, n), math.nan, dtype=dtype)
        assert kernel.fill_(x, out) is out
        assert torch.equal(out, out.mT)
        assert torch.equal(out.diagonal(), kernel.diagonal(x))
        torch.testing.assert_close(out, kernel.matrix(x, x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n", [1, 63, 64, 65])
def test_values_do_not_depend_on_the_other_images(n: int) -> None:
    kernel, x, z = ConvNTK(3, 2), pictures(130, 1, 6, 7, seed=1).float(), pictures(66, 1, 6, 7, seed=2).float()
    values = kernel.matrix(x, z)
    torch.testing.assert_close(kernel.matrix(x[-n:], z), values[-n:], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(kernel.matrix(x, z[:n]), values[:, :n], rtol=1e-6, atol=1e-6)
    order = torch.randperm(130, generator=torch.Generator().manual_seed(n))
    torch.testing.assert_close(kernel.matrix(x[order], z), values[order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_no_bit(dtype: torch.dtype, one_torch_thread: Any) -> None:
    n = 130 if dtype == torch.float32 else 20
    kernel, x, z = ConvNTK(3, 3), pictures(n, 2, 8, 9, seed=1).to(dtype), pictures(37, 2, 8, 9, seed=2).to(dtype)
    dual, found = normal(n, 3).to(dtype), []
    for threads in (1, 2, 3):
        one_torch_thread(threads)
        out = kernel.fill_(x, torch.empty(n, n, dtype=dtype))
        found.append((kernel.matrix(x, z), out, kernel.diagonal(x), kernel.expansion_gradient(x, z, dual)))
    for other in found[1:]:
        assert all(torch.equal(one, same) for one, same in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layout_in_memory_changes_nothing(dtype: torch.dtype) -> None:
    kernel, x, z = ConvNTK(3, 2), pictures(66, 3, 6, 7, seed=1).to(dtype), pictures(5, 3, 6, 7, seed=2).to(dtype)
    dual, tolerance = normal(66, 2).to(dtype), 1e-6 if dtype == torch.float32 else 1e-13
    values, gradient = kernel.matrix(x, z), kernel.expansion_gradient(x, z, dual)
    twice = torch.stack([x, x], dim=-1)[..., 0]
    for same in (x.to(memory_format=torch.channels_last), x.mT.contiguous().mT, twice, x.flip(0).contiguous().flip(0)):
        torch.testing.assert_close(kernel.matrix(same, z), values, rtol=tolerance, atol=0)
        torch.testing.assert_close(kernel.matrix(z, same), values.mT, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(kernel.expansion_gradient(same, z, dual), gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_and_coefficients_stay_as_they_are(dtype: torch.dtype) -> None:
    kernel = ConvNTK(3, 2, 1)
    given = [t.to(dtype) for t in (pictures(66, 2, 5, 6, seed=1), pictures(4, 2, 5, 6, seed=2), normal(66, 2))]
    x, z, dual = (t.clone() for t in given)
    kernel.matrix(x, z)
    kernel.fill_(x, torch.empty(66, 66, dtype=dtype))
    kernel.diagonal(x)
    kernel.expansion(x, z, dual)
    kernel.expansion_gradient(x, z, dual)
    assert all(torch.equal(one, other) for one, other in zip((x, z, dual), given, strict=True))
    assert kernel == ConvNTK(3, 2, 1)


# pieces ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "padding"), [(1, 0), (2, 0), (3, 0), (3, 2), (5, 2)])
def test_patches_filters_and_their_transpose(size: int, padding: int) -> None:
    kernel, x = ConvNTK(size, 1, padding), normal(3, 2, 5, 6)
    patches = kernel.patches(x)
    expected = [reference.image_patches(image, size, padding) for image in x.numpy()]
    assert torch.equal(patches, torch.stack([torch.from_numpy(one) for one in expected]))
    assert kernel.map_size(5, 6) == patches.shape[1:3]
    filters = normal(2 * size**2, 4, seed=2)
    torch.testing.assert_close(kernel.filtered(x, filters), patches @ filters, rtol=1e-12, atol=1e-12)
    others = normal(*patches.shape, seed=3)
    torch.testing.assert_close((kernel.to_images(others, (5, 6)) * x).sum(), (others * patches).sum())


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_box_sums_windows_and_its_transpose_spreads(size: int) -> None:
    maps = normal(3, 2, 5, 7)
    sums = box(maps, size)
    for one, found in zip(maps.flatten(0, 1), sums.flatten(0, 1), strict=True):
        expected = torch.from_numpy(reference.window_sums(one.numpy(), size))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    others = normal(*sums.shape, seed=2)
    spread = box_transposed(others, size)
    assert spread.shape == maps.shape
    torch.testing.assert_close((spread * maps).sum(), (others * sums).sum())


# refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, 1.5, 3.0, True, "3", None])
@pytest.mark.parametrize("name", ["patch_size", "depth"])
def test_sizes_that_are_not_positive_integers_are_refused(name: str, value: object) -> None:
    with pytest.raises(DataError, match=rf"Got {name}={value!r}, but expected an integer of at least 1"):
        ConvNTK(**{"patch_size": 3, "depth": 1, name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, 1.0, False, "0", None])
def test_paddings_that_are_no_counts_are_refused(value: object) -> None:
    with pytest.raises(DataError, match=rf"Got padding={value!r}, but expected an integer of at least 0"):
        ConvNTK(3, 1, value)  # type: ignore[arg-type]


def test_padding_is_less_than_the_patch_and_odd_patches_only() -> None:
    with pytest.raises(DataError, match="Got padding=3 with patch_size=3, but expected at most 2"):
        ConvNTK(3, 1, 3)
    with pytest.raises(DataError, match="Got patch_size=4 with padding=1, but expected an odd patch size"):
        ConvNTK(4, 1, 1)
    assert ConvNTK(3, 1, 2).padding == 2
    assert ConvNTK(4, 1).padding == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kernel", "height", "width", "least"),
    [(ConvNTK(3, 3), 6, 9, 7), (ConvNTK(3, 3), 9, 6, 7), (ConvNTK(5, 1), 4, 4, 5), (ConvNTK(3, 3, 1), 4, 7, 5)],
)
def test_too_small_images_are_told_the_size_they_need(
    kernel: ConvNTK, height: int, width: int, least: int, dtype: torch.dtype
) -> None:
    x = torch.zeros(2, 1, height, width, dtype=dtype)
    message = (
        rf"Got images of {height} x {width} pixels, but depth={kernel.depth} with patch_size={kernel.patch_size} and "
        rf"padding={kernel.padding} needs at least {least} x {least}"
    )
    for call in _calls(kernel, x, x):
        with pytest.raises(DataError, match=message):
            call()


def _calls(kernel: ConvNTK, x: Tensor, z: Tensor) -> list[Callable[[], Any]]:
    dual = torch.zeros(len(x), 1, dtype=x.dtype)
    return [
        lambda: kernel.check_images(x, z),
        lambda: kernel.definition(x, z),
        lambda: kernel.matrix(x, z),
        lambda: kernel.expansion(x, z, dual),
        lambda: kernel.expansion_gradient(x, z, dual),
    ]


IMAGES = torch.zeros(2, 1, 7, 7)


@pytest.mark.parametrize(
    ("x", "z", "got"),
    [
        (IMAGES[0], IMAGES[0], r"\(1, 7, 7\)"),
        (IMAGES, IMAGES[0], r"\(1, 7, 7\)"),
        (IMAGES.flatten(1), IMAGES.flatten(1), r"\(2, 49\)"),
        (IMAGES, torch.zeros(2, 2, 7, 7), r"\(2, 2, 7, 7\)"),
        (IMAGES, torch.zeros(2, 1, 7, 8), r"\(2, 1, 7, 8\)"),
        (IMAGES, IMAGES.double(), r"torch\.float64"),
        (IMAGES.int(), IMAGES.int(), r"torch\.int32"),
    ],
    ids=["three axes", "three axes of points", "flat", "channels", "width", "dtypes", "integers"],
)
def test_tensors_that_are_no_images_of_one_kind_are_refused(x: Tensor, z: Tensor, got: str) -> None:
    for call in _calls(ConvNTK(3, 2), x, z):
        with pytest.raises(DataError, match=rf"Got images .*{got}.*expected \(n, channels, height, width\)"):
            call()


def test_a_target_that_does_not_hold_the_matrix_is_refused() -> None:
    for out in (torch.empty(2, 3), torch.empty(3, 3), torch.empty(2, 2, dtype=torch.float64)):
        with pytest.raises(DataError, match=r"Got out .*expected \(2, 2\) of torch.float32"):
            ConvNTK(3, 2).fill_(IMAGES, out)
