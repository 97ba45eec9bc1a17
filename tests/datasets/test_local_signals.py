from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from featlearn.datasets import digits_in_noise, informative_rows, load_mnist, stars_in_noise
from featlearn.exceptions import DataError

# The star as its recipe lists it, drawn by hand: rows 3 to 9, columns 7 to 13.
STAR = [
    "...#...",
    "..###..",
    "#######",
    ".#####.",
    "..###..",
    ".#####.",
    ".##.##.",
]  # fmt: skip


def some_images(m=40, seed=0):
    """Images of 28 x 28 bytes, black at the rim, the label written into pixel (5, 5)."""
    random = np.random.default_rng(seed)
    images = np.zeros((m, 28, 28), dtype=np.uint8)
    images[:, 4:-4, 4:-4] = random.integers(0, 256, (m, 20, 20))
    labels = np.arange(m)
    images[:, 5, 5] = 100 + labels
    return images, labels


def digits(n=40, **options):
    images, labels = some_images()
    return digits_in_noise(n, **{"images": images, "labels": labels, **options})


def assert_normal(values, std):
    """Mean, variance and fourth moment of independent normal values, each within 3 standard errors."""
    values = values.double().flatten() / std
    n = len(values)
    assert n > 1000
    assert abs(values.mean()) < 3 / math.sqrt(n)
    assert abs((values**2).mean() - 1) < 3 * math.sqrt(2 / n)
    assert abs((values**4).mean() - 3) < 3 * math.sqrt(96 / n)


def within_three_standard_errors(errors, probability):
    return abs(errors.double().mean() - probability) < 3 * math.sqrt(probability * (1 - probability) / len(errors))


def corners(informative):
    """First row and first column of every mask."""
    return torch.stack([informative.any(dim=axis).int().argmax(dim=1) for axis in (2, 1)], dim=1)


def assert_all_reached(places, first, shifts):
    """Every shift in both directions, as often as a uniform draw has it, independently of each other."""
    shift = places - first
    for axis in range(2):
        counts = shift[:, axis].bincount(minlength=shifts).double()
        assert len(counts) == shifts
        assert int(counts.min()) > 0
        expected = len(shift) / shifts
        # Chi-squared with `shifts - 1` degrees of freedom, 3 standard deviations above its mean.
        assert ((counts - expected) ** 2 / expected).sum() < shifts - 1 + 3 * math.sqrt(2 * (shifts - 1))
    assert abs(torch.corrcoef(shift.T.double())[0, 1]) < 3 / math.sqrt(len(shift))


ALL = pytest.mark.parametrize("make", [stars_in_noise, digits, informative_rows])


@ALL
def test_types_and_shapes(make):
    data = make(20)
    assert len(data) == len(data.X) == len(data.y) == len(data.informative) == 20
    assert (data.X.dtype, data.y.dtype, data.informative.dtype) == (torch.float32, torch.int64, torch.bool)
    assert data.informative.shape[1:] == data.X.shape[2:]
    assert repr(data).startswith("LocalSignals(20 images of shape (")


@ALL
def test_the_draw_depends_on_the_seed_alone(make):
    first, again, other = (make(20, random_state=seed) for seed in (3, np.int64(3), 4))
    for name in ("X", "y", "informative"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


@ALL
def test_global_generators_are_not_touched(make):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    make(20)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.parametrize("make", [stars_in_noise, informative_rows])
@pytest.mark.parametrize("n", [2, 7, 100])
def test_classes_are_balanced_in_random_order(make, n):
    labels = make(n).y
    assert labels.bincount().tolist() == [n - n // 2, n // 2]
    if n == 100:
        # Runs of equal labels in random order: 51 on average, standard deviation 5.
        assert abs(int((labels.diff() != 0).sum()) - 50) < 15


def test_star_is_the_drawn_one_in_two_channels_of_class_one():
    data = stars_in_noise(60)
    drawn = torch.tensor([[pixel == "#" for pixel in row] for row in STAR])
    assert int(drawn.sum()) == 28
    for image, label, mask in zip(data.X, data.y, data.informative, strict=True):
        assert torch.equal(image[0] == 1, mask)
        assert torch.equal(image[1] == 1, mask)
        assert not bool((image[2] == 1).any())
        if label == 0:
            assert not bool(mask.any())
            continue
        row, column = corners(mask[None])[0]
        assert torch.equal(mask[row : row + 7, column : column + 7], drawn)
        assert int(mask.sum()) == 28


def test_star_reaches_every_shift():
    data = stars_in_noise(1000)
    assert_all_reached(corners(data.informative[data.y == 1]), first=torch.tensor([3, 7]), shifts=18)


def test_noise_around_the_star_and_in_the_third_channel():
    data = stars_in_noise(200)
    assert_normal(data.X[:, 2], 0.3)
    assert_normal(data.X[:, :2].movedim(1, -1)[~data.informative], 0.3)


def test_star_is_found_by_its_mean():
    data = stars_in_noise(100)
    star = torch.tensor([[float(pixel == "#") for pixel in row] for row in STAR]) / 56
    score = torch.nn.functional.conv2d(data.X[:, :2], star.expand(1, 2, 7, 7)).amax(dim=(1, 2, 3))
    assert torch.equal(score > 0.5, data.y == 1)


def digit_squares(data, places):
    return torch.stack(
        [image[0, r : r + 28, c : c + 28] for image, (r, c) in zip(data.X, places.tolist(), strict=True)]
    )


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28)])
@pytest.mark.parametrize("as_floats", [False, True])
def test_replacing_digits_are_clean_and_noise_is_around_them(shape, as_floats):
    images, _ = some_images()
    given = torch.from_numpy(images).reshape(-1, *shape)
    data = digits(images=given / 255 if as_floats else given, sigma=4.0)
    places = corners(data.informative) - 4
    assert torch.equal(digit_squares(data, places), torch.from_numpy(images[data.y]).float() / 255)
    around = torch.ones_like(data.informative)
    for mask, (row, column) in zip(around, places.tolist(), strict=True):
        mask[row : row + 28, column : column + 28] = False
    assert not bool((around & data.informative).any())
    assert_normal(data.X[:, 0][around], 0.5 * 2.0)


def test_added_digits_lie_on_the_same_noise():
    added, replaced = (digits(overlay=overlay, sigma=0.25) for overlay in ("add", "replace"))
    assert torch.equal(added.y, replaced.y)
    assert torch.equal(added.informative, replaced.informative)
    noise = added.X.clone()
    places = corners(added.informative) - 4
    images, _ = some_images()
    for image, label, (row, column) in zip(noise, added.y.tolist(), places.tolist(), strict=True):
        image[0, row : row + 28, column : column + 28] -= torch.from_numpy(images[label]).float() / 255
    assert_normal(noise, 0.5 * 0.5)


def test_ink_is_where_the_pixels_are_above_zero():
    data = digits(sigma=0.0)
    assert torch.equal(data.X[:, 0] > 0, data.informative)


def test_no_image_is_drawn_twice_and_labels_follow_their_images():
    data = digits(30, sigma=0.0)
    assert len(data.y.unique()) == 30
    places = corners(data.informative) - 4
    assert torch.equal((digit_squares(data, places)[:, 5, 5] * 255).round().long(), 100 + data.y)


def test_digit_reaches_every_shift():
    images = np.zeros((2000, 28, 28))
    images[:, 0, 0] = 1.0
    data = digits_in_noise(2000, images=images, labels=np.zeros(2000, dtype=int))
    assert_all_reached(corners(data.informative), first=torch.tensor([0, 0]), shifts=14)


def test_splits_have_independent_noise():
    train, test = (digits(split=split).X[:, 0, 0] for split in ("train", "test"))
    assert abs(torch.corrcoef(torch.stack([train.flatten(), test.flatten()]))[0, 1]) < 3 / math.sqrt(train.numel())


def test_mnist_is_the_default():
    try:
        mnist = load_mnist("test")
    except DataError:
        pytest.skip("the files of MNIST are not here")
    data = digits_in_noise(200, split="test")
    given = digits_in_noise(200, split="test", images=mnist.images, labels=mnist.labels)
    assert torch.equal(data.X, given.X)
    assert torch.equal(data.y, given.y)
    assert len(data.y.unique()) == 10


def test_rows_are_constant_and_noise_elsewhere():
    data = informative_rows(300, sigma=2.0)
    assert bool((data.informative.all(dim=2) == data.informative.any(dim=2)).all())
    assert torch.equal(data.informative.any(dim=2).sum(dim=1), torch.ones(300, dtype=torch.int64))
    rows = data.X[:, 0][data.informative].reshape(300, 32)
    expected = torch.where(data.y == 1, 1.0, -1.0)[:, None] / math.sqrt(32)
    torch.testing.assert_close(rows, expected.expand(300, 32), rtol=1e-6, atol=0)
    assert_normal(data.X[:, 0][~data.informative], math.sqrt(2.0 / 32))


def test_every_row_is_informative_equally_often():
    counts = informative_rows(1600).informative.any(dim=2).sum(dim=0).double()
    assert ((counts - 100) ** 2 / 100).sum() < 15 + 3 * math.sqrt(30)


def test_row_rules_err_as_often_as_stated():
    data = informative_rows(8000)
    projections = data.X[:, 0].sum(dim=2) / math.sqrt(32)
    by_sum = (projections.sum(dim=1) > 0) != (data.y == 1)
    assert within_three_standard_errors(by_sum, norm.cdf(-math.sqrt(32 / 15)))

    data = informative_rows(8000, sigma=8.0)
    projections = data.X[:, 0].sum(dim=2) / math.sqrt(32)
    largest = projections.gather(1, projections.abs().argmax(dim=1, keepdim=True))[:, 0]
    by_largest = (largest > 0) != (data.y == 1)
    assert within_three_standard_errors(by_largest, (1 - (1 - 2 * norm.cdf(-2)) ** 15) / 2)


def test_least_squares_finds_the_sum_of_the_projections():
    data = informative_rows(20000)
    rows, target = data.X.flatten(start_dim=1).double(), 2.0 * data.y - 1
    # E[x t] / E[x x^T] along w of every row: (1/16) / (1/16 + (15/16) / 32), the same for all 16.
    weights = torch.linalg.lstsq(rows, target.double()[:, None]).solution.reshape(16, 32)
    along = weights.sum(dim=1) / math.sqrt(32)
    expected = (1 / 16) / (1 / 16 + 15 / 16 / 32)
    torch.testing.assert_close(along, torch.full_like(along, expected), rtol=0.1, atol=0)
    # Five standard errors: residuals of standard deviation 0.57 over entries of 0.18, 20,000 rows.
    assert (weights - along[:, None] / math.sqrt(32)).abs().max() < 5 * 0.57 / 0.18 / math.sqrt(20000)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (stars_in_noise, {"n": 1}, "n=1, but expected a whole number of at least 2"),
        (stars_in_noise, {"n": 10.0}, r"n=10\.0, but expected a whole number"),
        (stars_in_noise, {"n": True}, "n=True, but expected a whole number"),
        (stars_in_noise, {"random_state": None}, "random_state=None, but expected a whole number of at least 0"),
        (stars_in_noise, {"random_state": -1}, "random_state=-1, but expected a whole number of at least 0"),
        (informative_rows, {"n": 0}, "n=0, but expected a whole number of at least 2"),
        (informative_rows, {"sigma": -1.0}, r"sigma=-1\.0, but expected a finite number of at least 0"),
        (informative_rows, {"sigma": math.nan}, "sigma=nan, but expected a finite number"),
        (digits, {"n": 0}, "n=0, but expected a whole number of at least 1"),
        (digits, {"n": 41}, "n=41, but expected at most 40"),
        (digits, {"sigma": math.inf}, "sigma=inf, but expected a finite number"),
        (digits, {"split": "valid"}, "split='valid', but expected 'train' or 'test'"),
        (digits, {"overlay": "mix"}, "overlay='mix', but expected 'replace' or 'add'"),
        (digits, {"labels": None}, "Got images without labels, but expected both or neither"),
        (digits, {"images": None}, "Got labels without images, but expected both or neither"),
        (digits, {"images": np.zeros((40, 8, 8))}, r"images of shape \(40, 8, 8\), but expected \(m, 28, 28\)"),
        (digits, {"images": np.zeros((0, 28, 28))}, r"images of shape \(0, 28, 28\)"),
        (digits, {"images": np.full((40, 28, 28), 16.0)}, "from 16 to 16, but expected uint8, or floats from 0 to 1"),
        (digits, {"images": np.full((40, 28, 28), np.nan)}, "from nan to nan, but expected uint8"),
        (digits, {"images": np.zeros((40, 28, 28), dtype=int)}, r"type torch\.int64 from 0 to 0, but expected uint8"),
        (digits, {"labels": np.arange(39)}, r"labels of shape \(39,\) and type torch\.int64"),
        (digits, {"labels": np.arange(40.0)}, r"type torch\.float64, but expected whole numbers of shape \(40,\)"),
        (digits, {"labels": ["seven"] * 40}, "labels of type <U5 and shape .40,., but expected an array of numbers"),
    ],
)
def test_unusable_arguments_are_refused(make, options, message):
    with pytest.raises(DataError, match=message):
        make(**options)
