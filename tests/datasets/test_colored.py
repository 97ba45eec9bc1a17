"""Coloured images: noise in the stated amounts, colour in one channel, no image in two splits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from featlearn.datasets import fashion_mnist, image_pool, load_fashion_mnist, make_colored
from featlearn.exceptions import DataError


def arrays(n=600, size=16, seed=0):
    """Images that hold their own number in their first two pixels, and labels 0 to 9 in turn."""
    images = np.random.default_rng(seed).integers(1, 256, (n, size, size), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 2] = np.arange(n) // 256, np.arange(n) % 256
    return images, np.arange(n) % 10


def within(observed, probability, n):
    return abs(observed - probability) < 3 * math.sqrt(probability * (1 - probability) / n) + 1e-12


def test_every_image_is_used_once_and_pixels_are_those_of_its_index():
    images, labels = arrays()
    data = make_colored(images, labels)
    used = np.concatenate([data.train.index, data.validation.index, data.test.index])
    assert sorted(used) == list(range(600))
    assert (len(data.train), len(data.validation), len(data.test)) == (375, 75, 150)
    for split in data.splits.values():
        rows = np.arange(len(split))
        np.testing.assert_allclose(split.X[rows, split.s], images[split.index, ::2, ::2] / 255, atol=1e-7)
        assert not split.X[rows, 1 - split.s].any()
        np.testing.assert_array_equal(split.y_clean, labels[split.index] < 5)
        assert split.X.dtype == np.float32


def test_noise_is_binomial_in_every_environment():
    data = make_colored(*arrays(24_000, 4), n_test=8000, subsample=1, label_noise=0.3, random_state=4)
    assert data.environments.keys() == {"e=0.1", "e=0.5", "e=0.9"}
    for place, rate in enumerate((0.1, 0.2)):
        split = data.train.select(data.train.environment == place)
        assert within(np.mean(split.y != split.s), rate, len(split))
        assert within(np.mean(split.y != split.y_clean), 0.3, len(split))
    for place, (name, rate) in enumerate({"e=0.1": 0.1, "e=0.5": 0.5, "e=0.9": 0.9}.items()):
        split = data.environments[name]
        assert within(np.mean(split.y != split.s), rate, len(split))
        assert within(np.mean(split.y == split.y_clean), data.ceilings["shape"], len(split))
        assert within(np.mean(split.y == split.s), data.ceilings[f"colour_{name}"], len(split))
        assert set(split.environment) == {2 + place}
    # Colour noise does not depend on the shape, given the label.
    train = data.train
    assert abs(np.mean(train.s[(train.y == 1) & (train.y_clean == 1)]) - np.mean(train.s[train.y == 1])) < 0.03


def test_test_environments_recolour_the_same_images_with_the_same_labels():
    data = make_colored()
    for split in data.environments.values():
        np.testing.assert_array_equal(split.index, data.test.index)
        np.testing.assert_array_equal(split.y, data.test.y)
        np.testing.assert_allclose(split.X.sum(axis=1), data.test.X.sum(axis=1))
    assert data.test is data.environments["e=0.9"]


def test_exact_counts_are_the_nearest_whole_numbers_in_every_class_and_environment():
    data = make_colored(*arrays(2000), exact_counts=True, label_noise=0.25)
    for split, rates in ((data.train, (0.1, 0.2)), (data.validation, (0.1, 0.2))):
        for place, rate in enumerate(rates):
            inside = split.environment == place
            for label in (0, 1):
                clean = inside & (split.y_clean == label)
                assert (split.y[clean] != label).sum() == round(0.25 * clean.sum())
                noisy = inside & (split.y == label)
                assert (split.s[noisy] != label).sum() == round(rate * noisy.sum())


def test_environments_take_turns():
    data = make_colored(train_noise=(0.1, 0.2, 0.3))
    assert data.train.environment[:7].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert data.validation.environment[:4].tolist() == [0, 1, 2, 0]
    counts = data.counts()
    inside = counts[[f"train, environment {place}" for place in range(3)]]
    np.testing.assert_array_equal(inside.sum(axis=1), counts["train"])


@pytest.mark.parametrize(("label_noise", "noise", "best"), [(0.25, (0.1, 0.2), 0.85), (0.1, (0.2, 0.25), 0.9)])
def test_bayes_ceiling_is_the_better_of_shape_and_colour(label_noise, noise, best):
    """Against the best of all 16 rules of (clean label, colour), by their exact joint distribution."""
    ceilings = make_colored(label_noise=label_noise, train_noise=noise).ceilings
    colour = np.mean(noise)
    joint = {
        (clean, c, y): 0.5 * (1 - label_noise if y == clean else label_noise) * (1 - colour if c == y else colour)
        for clean in (0, 1)
        for c in (0, 1)
        for y in (0, 1)
    }
    exact = sum(max(joint[clean, c, 0], joint[clean, c, 1]) for clean in (0, 1) for c in (0, 1))
    assert ceilings["bayes_train"] == pytest.approx(exact)
    assert ceilings["bayes_train"] == pytest.approx(best)
    assert ceilings["shape"] == pytest.approx(1 - label_noise)
    assert ceilings["colour_e=0.9"] == pytest.approx(0.1)


def test_rules_sort_the_classes():
    images, labels = arrays()
    data = make_colored(images, labels, rule="footwear")
    for split in data.splits.values():
        assert 8 not in labels[split.index]
        np.testing.assert_array_equal(split.y_clean, np.isin(labels[split.index], (5, 7, 9)))
    own = make_colored(images, labels, rule=lambda classes: np.where(classes == 3, 1, np.where(classes == 4, 0, -1)))
    assert set(labels[own.train.index]) == {3, 4}
    assert "own rule" in own.description


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_images_leave_one_to_train_and_one_to_test(n):
    images, labels = arrays(n)
    data = make_colored(images, labels * 9 % 10, validation_fraction=0.9)
    assert len(data.train) >= 1
    assert len(data.test) >= 1
    assert len(data.train) + len(data.validation) + len(data.test) == n


def test_sizes_subsample_binarize_and_flat():
    images, labels = arrays()
    data = make_colored(images, labels, n_train=250, n_test=40, subsample=3, binarize=True, flat=True)
    assert (len(data.train), len(data.validation), len(data.test)) == (250, 50, 40)
    assert data.train.X.shape == (250, 72)
    assert data.image_shape == (2, 6, 6)
    shown = data.train.X.reshape(-1, 2, 6, 6).sum(axis=1)
    np.testing.assert_array_equal(shown, images[data.train.index, ::3, ::3] > 127.5)
    assert len(make_colored(images, labels, validation_fraction=0).validation) == 0


def test_an_official_test_split_stays_apart():
    images, labels = arrays()
    data = make_colored((images[:500], images[500:]), (labels[:500], labels[500:]))
    assert sorted(data.test.index) == list(range(500, 600))
    assert max(data.train.index.max(), data.validation.index.max()) < 500
    np.testing.assert_allclose(data.test.X.sum(axis=1), images[data.test.index, ::2, ::2] / 255, atol=1e-7)


def test_image_data_are_taken_with_their_names():
    train, test = load_fashion_mnist("train", n=300), load_fashion_mnist("test", n=90)
    data = make_colored((train, test), rule="footwear")
    assert data.source == "Fashion-MNIST (subset)"
    kept = np.flatnonzero(test.labels.numpy() != 8)
    assert sorted(data.test.index - 300) == kept.tolist()
    single = make_colored(train)
    assert max(split.index.max() for split in single.splits.values()) < 300


def test_reuse_repeats_images_within_a_split_only():
    images, labels = arrays(40)
    data = make_colored(images, labels, n_train=100, n_test=60, reuse=True)
    assert (len(data.train), len(data.validation), len(data.test)) == (100, 20, 60)
    used = [set(split.index.tolist()) for split in (data.train, data.validation, data.test)]
    assert sum(map(len, used)) == len(set().union(*used))
    times = max(np.bincount(split.index).max() for split in (data.train, data.validation, data.test))
    assert f"images used up to {times} times" in data.description
    assert "used up to" not in make_colored(images, labels).description


def test_random_state_decides_everything_and_every_argument_counts():
    images, labels = arrays(200)

    def made(**options):
        splits = make_colored(images, labels, **{"random_state": 3, **options}).splits
        return [(name, split.X.shape, split.X.tobytes(), split.y.tobytes()) for name, split in splits.items()]

    changes = (
        {"random_state": 4}, {"rule": "footwear"}, {"label_noise": 0.1}, {"train_noise": (0.1, 0.3)},
        {"test_noise": (0.9,)}, {"subsample": 1}, {"n_train": 50}, {"n_test": 20}, {"validation_fraction": 0.3},
        {"binarize": True}, {"exact_counts": True}, {"flat": True},
    )  # fmt: skip
    assert made() == made()
    for change in changes:
        assert made(**change) != made(), change


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_train": 1500}, "expected 2249 images of the classes that the rule keeps .1797 available.*reuse=True"),
        ({"n_train": 1500, "n_test": 1797}, "expected 3597 images"),
        ({"n_test": 1797}, "1,797 images for testing of 1,797 in all, but expected some to train on"),
        ({"n_test": 5000, "reuse": True}, "5,000 images for testing of 1,797 in all, but expected some to train on"),
        ({"n_train": 0}, "n_train=0, but expected a whole number of at least 1"),
        ({"rule": "shoes"}, "rule='shoes', but expected 'split5', 'footwear' or a function"),
        ({"rule": lambda classes: classes}, "Got .0, 1, 2, 3, 4. in shape .1797,. from the rule"),
        ({"rule": lambda classes: classes * 0}, r"Got classes \[0\] of the rule, but expected both 0 and 1"),
        ({"label_noise": 0.6}, "label_noise of 0.6, but expected at most 0.5"),
        ({"train_noise": (0.1, 0.7)}, "train_noise of 0.7, but expected at most 0.5"),
        ({"train_noise": ()}, "train_noise=.., but expected a sequence of at least one number"),
        ({"test_noise": (0.5, float("nan"))}, "test_noise entry=nan"),
        ({"test_noise": (0.5, 0.5)}, "expected numbers that differ"),
        ({"test_noise": 0.5}, "test_noise=0.5, but expected a sequence"),
        ({"test_noise": np.array(0.5)}, r"test_noise=array\(0\.5\), but expected a sequence"),
        ({"label_noise": np.complex64(0.1)}, "label_noise=.*, but expected a number"),
        ({"validation_fraction": 1}, "nothing would be left to train on"),
        ({"subsample": 0}, "subsample=0"),
        ({"random_state": None}, "random_state=None"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_numbers_that_do_not_fit_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        make_colored(**options)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ("mnist", None, "images='mnist', but expected one of 'digits', 'fashion-mnist', 'auto', or arrays"),
        ("digits", [1], "expected none. Leave labels= away"),
        (np.zeros((5, 4, 4), dtype=np.uint8), None, "without labels="),
        (np.zeros((5, 4, 4), dtype=np.uint8), np.zeros(4, dtype=int), r"labels of shape .4,. .*shape .5,."),
        (np.zeros((5, 4, 4), dtype=np.uint8), np.zeros(5), "type float64, but expected whole numbers"),
        (np.zeros((5, 3, 4, 4)), np.zeros(5, dtype=int), "images of shape .5, 3, 4, 4., but expected"),
        (np.zeros((0, 4, 4)), np.zeros(0, dtype=int), "images of shape .0, 4, 4."),
        (np.full((5, 4, 4), 2.0), np.zeros(5, dtype=int), "expected bytes, or floats from 0 to 1"),
        (np.full((5, 4, 4), np.nan), np.zeros(5, dtype=int), "expected bytes, or floats from 0 to 1"),
        (np.zeros((5, 4, 4), dtype=int), np.zeros(5, dtype=int), "type int64, but expected bytes"),
        ((np.zeros((5, 4, 4)), np.zeros((5, 4, 4))), np.zeros(5, dtype=int), "images or of labels alone"),
        ((np.zeros((5, 4, 4)), np.zeros((5, 3, 3))), (np.zeros(5, dtype=int),) * 2, "one shape in both splits"),
        ([np.zeros((5, 4, 4)), np.zeros((6, 4, 4))], np.zeros(11, dtype=int), "images that make no array.*as a tuple"),
        (np.zeros((11, 4, 4)), [np.zeros(5, dtype=int), np.zeros(6, dtype=int)], "labels that make no array"),
        (torch.zeros(5, 4, 4, requires_grad=True), np.zeros(5, dtype=int), "images that make no array"),
    ],
    ids=lambda value: "",
)
def test_images_that_do_not_fit_are_refused(images, labels, message):
    with pytest.raises(DataError, match=message):
        make_colored(images, labels)


@pytest.mark.parametrize(("name", "source"), [("auto", "digits of scikit-learn"), ("fashion-mnist", "subset")])
def test_without_the_original_files_the_source_tells_what_was_taken(monkeypatch, name, source):
    monkeypatch.setattr(image_pool, "has_fashion_mnist", lambda: False)
    assert source in make_colored(name, n_train=20).source


@pytest.mark.skipif(not fashion_mnist.has_fashion_mnist(), reason="the original files of Fashion-MNIST are not here")
@pytest.mark.parametrize("name", ["auto", "fashion-mnist"])
def test_the_original_files_are_taken_where_they_are_found(name):
    data = make_colored(name, rule="footwear", n_train=1000, n_test=500)
    assert data.source == "Fashion-MNIST"
    assert data.image_shape == (2, 14, 14)
    assert data.test.index.min() >= 60_000 > data.train.index.max()
    assert within(np.mean(data.train.y_clean), 1 / 3, 1000)


def test_floats_bytes_and_channels_of_one_give_the_same_images():
    digits = load_digits()
    shares = (digits.images / 16).astype(np.float32)
    ours, theirs, channel = (
        make_colored(*source) for source in (("digits",), (shares, digits.target), (shares[:, None], digits.target))
    )
    np.testing.assert_array_equal(ours.train.X, theirs.train.X)
    np.testing.assert_array_equal(channel.train.X, theirs.train.X)


def test_arrays_without_labels_and_labels_in_words_are_refused_clearly():
    images = np.zeros((20, 8, 8))
    with pytest.raises(DataError, match="without labels="):
        make_colored(images)
    with pytest.raises(DataError, match=r"labels such as .*'cat'.*return_inverse"):
        make_colored(images, np.array(["cat", "dog"] * 10))
