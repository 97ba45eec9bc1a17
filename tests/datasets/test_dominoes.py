"""Dominoes: exact cells, each image used once and in one place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from featlearn.datasets import load_fashion_mnist, make_dominoes
from featlearn.exceptions import DataError

DIGITS = load_digits()


@pytest.mark.parametrize("flat", [False, True])
def test_upper_image_is_the_spurious_class_and_lower_the_label(flat):
    data = make_dominoes(flat=flat)
    assert data.image_shape == (1, 16, 8)
    for split in data.splits.values():
        images = split.X.reshape(-1, *data.image_shape)[:, 0]
        assert split.X.ndim == (2 if flat else 4)
        for half, column, attribute, classes in (
            (images[:, :8], 0, split.s, (0, 1)),
            (images[:, 8:], 1, split.y, (3, 8)),
        ):
            np.testing.assert_allclose(half, DIGITS.images[split.index[:, column]] / 16)
            np.testing.assert_array_equal(DIGITS.target[split.index[:, column]], np.take(classes, attribute))


@given(
    rho=st.floats(0, 1),
    halves=st.integers(1, 20),
    quarters=st.integers(1, 5),
    classes=st.permutations(range(10)),
    same=st.booleans(),
)
@settings(max_examples=30)
def test_cells_are_exact_and_no_image_is_used_twice(rho, halves, quarters, classes, same):
    top, bottom = classes[:2], classes[:2] if same else classes[2:4]
    data = make_dominoes(
        top=top, bottom=bottom, correlation=rho, n_train=2 * halves, n_validation=4 * quarters, n_test=4 * quarters
    )
    against = round((1 - rho) * halves)
    assert data.train.counts.tolist() == [halves - against, against, against, halves - against]
    for split in (data.validation, data.test):
        assert split.counts.tolist() == [quarters] * 4
    used = np.concatenate([split.index.ravel() for split in data.splits.values()])
    assert len(np.unique(used)) == len(used) == 2 * (2 * halves + 8 * quarters)
    assert data.ceilings["top_train"] == (halves - against) / halves


def test_rows_are_shuffled():
    assert 0 < np.abs(np.diff(make_dominoes().train.y)).sum() < 119
    assert np.abs(np.diff(make_dominoes().train.y)).sum() > 20


def test_subset_of_fashion_has_sizes_of_its_own_and_names_its_classes():
    pair = (load_fashion_mnist("train"), load_fashion_mnist("test"))
    data = make_dominoes(pair, correlation=1.0)
    assert [len(split) for split in data.splits.values()] == [600, 200, 200]
    assert data.group_names[1] == "y=Pullover, top=Ankle boot"
    assert data.train.counts.tolist() == [300, 0, 0, 300]
    assert data.test.index.min() >= 4000 > data.validation.index.max()


def test_reuse_keeps_places_and_splits_apart():
    data = make_dominoes(n_train=1000, reuse=True)
    places = [set(split.index[:, column].tolist()) for split in data.splits.values() for column in (0, 1)]
    assert sum(map(len, places)) == len(set().union(*places))
    times = max(np.bincount(split.index.ravel()).max() for split in data.splits.values())
    assert f"images used up to {times} times" in data.description


def test_random_state_decides_the_rows():
    first, again, other = (make_dominoes(random_state=seed).train.X.tobytes() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"n_train": 1000},
            r"expected 560 images of class 0 \(178 available\); 560 images of class 1 \(182 available\)",
        ),
        ({"n_train": 11}, "n_train=11, but expected a multiple of 2"),
        ({"n_test": 6}, "n_test=6, but expected a multiple of 4 of at least 4"),
        ({"top": (1, 1)}, "top=.1, 1., but expected two different classes of .0, 1, 2"),
        ({"bottom": (1, 12)}, "bottom=.1, 12., but expected two different classes"),
        ({"bottom": (3, 8.5)}, r"bottom=.3, 8\.5., but expected two different classes"),
        ({"bottom": 3}, "bottom=3, but expected a sequence of 2 numbers"),
        ({"correlation": -0.1}, "correlation=-0.1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        make_dominoes(**options)


def test_too_few_official_test_images_are_told_apart():
    pair = (load_fashion_mnist("train"), load_fashion_mnist("test", n=400))
    with pytest.raises(DataError, match=r"class Trouser for testing \(\d+ available\)") as caught:
        make_dominoes(pair)
    assert "training" not in str(caught.value)
