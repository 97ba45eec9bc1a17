"""Items on stripes: exact groups, stripes in the stated direction, extra test splits of the same rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.datasets import load_digits

from featlearn.datasets import load_fashion_mnist, make_waterbirds_like
from featlearn.exceptions import DataError

SUBSET = (load_fashion_mnist("train"), load_fashion_mnist("test"))
SMALL = {"sizes": (60, 10, 4, 40), "validation_sizes": (8, 7, 6, 5), "test_per_group": 9}


def test_groups_are_exact_and_no_image_is_used_twice():
    data = make_waterbirds_like(SUBSET, **SMALL)
    assert data.train.counts.tolist() == [60, 10, 4, 40]
    assert data.validation.counts.tolist() == [8, 7, 6, 5]
    assert data.test.counts.tolist() == [9] * 4
    used = np.concatenate([data.train.index, data.validation.index, data.test.index])
    assert len(np.unique(used)) == len(used)
    assert data.test.index.min() >= 4000 > data.train.index.max()
    labels = np.concatenate([part.labels.numpy() for part in SUBSET])
    for split in data.splits.values():
        np.testing.assert_array_equal(labels[split.index], np.take((2, 4), split.y))
    assert data.ceilings == {"item": 1.0, "background_train": 100 / 114, "background_test": 0.5}
    assert data.group_names[2] == "y=Coat, background=horizontal"


def test_items_cover_backgrounds_where_they_exceed_the_threshold():
    data = make_waterbirds_like(SUBSET, threshold=0.3, **SMALL)
    pixels = np.concatenate([part.images[:, 0].numpy() for part in SUBSET]) / 255
    front, behind = (data.environments[f"test_{name}_only"] for name in ("foreground", "background"))
    items = pixels[data.test.index][:, None]
    np.testing.assert_allclose(data.test.X, np.where(items > 0.3, items, behind.X), atol=1e-7)
    np.testing.assert_allclose(front.X, np.where(items > 0.3, items, 0), atol=1e-7)
    for split in (front, behind):
        np.testing.assert_array_equal(split.index, data.test.index)
        np.testing.assert_array_equal(split.groups, data.test.groups)


def test_stripes_without_noise_are_gratings_of_their_direction():
    data = make_waterbirds_like(SUBSET, noise=0, contrast=(0.4, 0.4), frequency=(3, 3), **SMALL)
    background = data.environments["test_background_only"]
    images = background.X[:, 0].astype(float)
    lines = np.where(background.s[:, None] == 0, images[:, :, 0], images[:, 0, :])
    expanded = np.where(background.s[:, None, None] == 0, lines[:, :, None], lines[:, None, :])
    np.testing.assert_allclose(images, np.broadcast_to(expanded, images.shape), atol=1e-7)
    # Three whole waves of amplitude 0.2 about 0.2: one Fourier coefficient, and phases that differ.
    waves = np.fft.rfft(lines - 0.2, axis=1) / 28
    np.testing.assert_allclose(np.abs(waves[:, 3]), 0.1, atol=1e-6)
    waves[:, 3] = 0
    np.testing.assert_allclose(waves, 0, atol=1e-6)
    assert len(np.unique(lines[:, 0].round(6))) > 30


def test_noise_has_the_stated_size_where_nothing_is_clipped():
    data = make_waterbirds_like(SUBSET, noise=0.01, contrast=(0.5, 0.5), frequency=(0, 0), **SMALL)
    images = data.environments["test_background_only"].X[:, 0].astype(float)
    level = images.mean(axis=(1, 2), keepdims=True)
    inside = (images - level)[(level[:, 0, 0] > 0.1) & (level[:, 0, 0] < 0.9)]
    assert abs(inside.std() / 0.01 - 1) < 3 / math.sqrt(2 * inside.size)


def test_usual_sizes_shrink_together_to_what_there_is():
    data = make_waterbirds_like(SUBSET)
    learn = 400 / (3498 + 184 + 467 + 466)
    assert data.train.counts.tolist() == [int(learn * n) for n in (3498, 184, 56, 1057)]
    assert data.validation.counts.tolist() == [int(learn * n) for n in (467, 466, 133, 133)]
    assert data.test.counts.tolist() == [int(learn * 500)] * 4
    digits = make_waterbirds_like()
    assert digits.train.counts.min() >= 1
    assert sum(len(split) for split in (digits.train, digits.validation, digits.test)) <= 357
    # Sizes that are asked for come first, the others share the rest.
    mixed = make_waterbirds_like(SUBSET, validation_sizes=(100, 100, 100, 100))
    assert mixed.validation.counts.tolist() == [100] * 4
    assert mixed.train.counts.tolist()[:2] == [int(200 / 3682 * n) for n in (3498, 184)]


def test_usual_sizes_are_those_of_waterbirds_where_images_suffice():
    images = np.zeros((12_000, 2, 2), dtype=np.uint8)
    data = make_waterbirds_like(images, np.repeat([2, 4], 6000))
    assert data.train.counts.tolist() == [3498, 184, 56, 1057]
    assert data.validation.counts.tolist() == [467, 466, 133, 133]
    assert data.test.counts.tolist() == [500] * 4


def test_every_argument_counts_and_random_state_decides():
    def made(**options):
        splits = make_waterbirds_like(SUBSET, **{**SMALL, **options}).splits
        return [(split.X.shape, split.X.tobytes()) for split in splits.values()]

    changes = (
        {"classes": (0, 6)}, {"sizes": (60, 10, 4, 41)}, {"validation_sizes": (8, 7, 6, 6)}, {"test_per_group": 8},
        {"contrast": (0.2, 0.5)}, {"frequency": (2, 4)}, {"noise": 0.1}, {"threshold": 0.5}, {"flat": True},
        {"random_state": 1},
    )  # fmt: skip
    assert made() == made()
    for change in changes:
        assert made(**change) != made(), change


def test_digits_keep_their_pixels():
    data = make_waterbirds_like(flat=True, threshold=0)
    np.testing.assert_allclose(
        data.environments["test_foreground_only"].X, load_digits().data[data.test.index] / 16, atol=1e-7
    )
    assert data.image_shape == (1, 8, 8)


def test_reuse_says_so():
    data = make_waterbirds_like(sizes=(300, 20, 10, 200), reuse=True)
    assert data.train.counts.tolist() == [300, 20, 10, 200]
    times = max(np.bincount(split.index).max() for split in (data.train, data.validation, data.test))
    assert f"used up to {times} times" in data.description
    assert not set(data.train.index) & set(data.test.index)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (3498, 184, 56, 1057)}, r"expected \d+ images of class 3 \(183 available\); \d+ images of class 8"),
        ({"sizes": (0, 0, 0, 0)}, r"sizes=\(0, 0, 0, 0\), but expected at least one row to train on"),
        ({"sizes": (1, 2, 3)}, "expected a sequence of 4 numbers"),
        ({"validation_sizes": (1, 2, 3, -1)}, "validation_sizes entry=-1"),
        ({"test_per_group": 0}, "test_per_group=0"),
        ({"classes": (3, 3)}, "expected two different classes"),
        ({"contrast": (0.6, 0.2)}, "expected 0 <= lowest <= highest"),
        ({"frequency": 3}, "frequency=3, but expected a sequence of 2 numbers"),
        ({"noise": -1}, "noise=-1, but expected at least 0"),
        ({"threshold": float("nan")}, "threshold=nan"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        make_waterbirds_like(**options)
