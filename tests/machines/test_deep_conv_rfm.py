"""Deep convolutional machines: filters of the learned covariance, layers of convolutions, the last machine predicts."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from featlearn import ConvRFMClassifier, DeepConvRFMClassifier
from featlearn.exceptions import FeatlearnWarning

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(40, 2, 9, 8))
NEW = RANDOM.normal(size=(7, 2, 9, 8))
VALUES = X[:, 0, 2, 2] * X[:, 1, 2, 3] + X[:, 0, 4, 4]
LABELS = np.array(["ant", "bee", "cat"])[np.digitize(VALUES, [-0.5, 0.5])]
PLAIN = {"alpha": 1e-2, "max_iter": 1, "selection": None, "random_state": 0}


def convolved(images, filters, padding, nonlinearity):
    """A layer by torch, in double precision."""
    maps = torch.nn.functional.conv2d(torch.tensor(images).double(), torch.tensor(filters).double(), padding=padding)
    return (maps.relu() if nonlinearity == "relu" else maps).numpy()


@pytest.mark.parametrize("nonlinearity", ["relu", "none"])
@pytest.mark.parametrize("filters", ["random", "directions"])
@pytest.mark.parametrize("padding", [0, 1])
def test_features_are_convolutions_with_the_filters(nonlinearity, filters, padding):
    machine = DeepConvRFMClassifier(3, 12, nonlinearity=nonlinearity, filters=filters, padding=padding, **PLAIN)
    machine.fit(X, LABELS)
    channels = [2, 12, 12]
    assert [one.shape for one in machine.filters_] == [(12, channels[layer], 3, 3) for layer in range(2)]
    images, train = NEW, X
    for layer, one in enumerate(machine.filters_):
        images = convolved(images, one, padding if layer == 0 else 0, nonlinearity)
        train = convolved(train, one, padding if layer == 0 else 0, nonlinearity)
        shape = machine.layers_[layer + 1].image_shape_
        assert images.shape[1:] == shape
        np.testing.assert_allclose(machine.layers_[layer + 1]._basis, train, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(machine.transform(NEW), images, rtol=1e-3, atol=1e-4)
    last = machine.layers_[-1]
    np.testing.assert_allclose(machine.decision_function(NEW), last.decision_function(images), rtol=0, atol=2e-3)
    np.testing.assert_array_equal(machine.predict(NEW), machine.classes_[machine.decision_function(NEW).argmax(axis=1)])
    np.testing.assert_allclose(machine.predict_proba(NEW), last.predict_proba(images), rtol=0, atol=2e-3)


def test_kernels_have_one_layer_fewer_behind_each_layer_and_padding_is_at_the_image():
    machine = DeepConvRFMClassifier(3, 6, padding=1, **PLAIN).fit(X, LABELS)
    assert [one.depth for one in machine.layers_] == [3, 2, 1]
    assert [one.padding for one in machine.layers_] == [1, 0, 0]
    assert [one.image_shape_ for one in machine.layers_] == [(2, 9, 8), (6, 9, 8), (6, 7, 6)]
    assert machine.image_shape_ == (2, 9, 8)
    assert machine.n_features_in_ == 144
    assert machine.n_iter_ == sum(one.n_iter_ for one in machine.layers_)


@pytest.mark.parametrize("selection", [None, "auto", "cv"])
def test_one_layer_is_a_convolutional_machine(selection):
    options = {**PLAIN, "alpha": (1e-3, 1e-1), "selection": selection}
    deep = DeepConvRFMClassifier(1, **options).fit(X[:, :1], LABELS)
    plain = ConvRFMClassifier(depth=1, **options).fit(X[:, :1], LABELS)
    np.testing.assert_array_equal(deep.decision_function(NEW[:, :1]), plain.decision_function(NEW[:, :1]))
    np.testing.assert_array_equal(deep.predict_proba(NEW[:, :1]), plain.predict_proba(NEW[:, :1]))
    np.testing.assert_array_equal(deep.transform(NEW[:, :1]), NEW[:, :1].astype(np.float32))
    assert deep.filters_ == []
    assert deep.frame()["iteration"].tolist() == [plain.n_iter_]


def test_layers_are_machines_of_their_own_and_the_first_sees_the_images():
    machine = DeepConvRFMClassifier(2, 6, **PLAIN).fit(X, LABELS)
    first = ConvRFMClassifier(depth=2, **PLAIN).fit(X, LABELS)
    np.testing.assert_array_equal(machine.layers_[0].decision_function(NEW), first.decision_function(NEW))
    np.testing.assert_array_equal(machine.layers_[0].patch_agop_, first.patch_agop_)


@pytest.mark.parametrize("steps", [0, 1])
def test_random_filters_have_the_learned_covariance(steps):
    """Of the identity where that was chosen; the metric does not depend on the seed here."""
    options = {**PLAIN, "max_iter": steps}
    machines = [
        DeepConvRFMClassifier(2, 20, **{**options, "random_state": seed}).fit(X[:12, :, :6, :6], LABELS[:12])
        for seed in range(60)
    ]
    metric = machines[0].layers_[0].metric_at(steps).astype(float)
    filters = np.concatenate([one.filters_[0].reshape(20, 18) for one in machines]).astype(float)
    covariance = filters.T @ filters
    covariance /= np.trace(covariance)
    # Sampling: E |S - M|^2 = (tr M^2 + (tr M)^2) / m for m draws from N(0, M).
    expected = ((metric**2).sum() + np.trace(metric) ** 2) / len(filters)
    assert ((covariance - metric) ** 2).sum() < 3 * expected
    assert ((np.eye(18) / 18 - metric) ** 2).sum() > 10 * expected or steps == 0
    assert np.linalg.norm(filters.mean(axis=0)) < 4 * (np.trace(filters.T @ filters) / len(filters) ** 2) ** 0.5


@pytest.mark.parametrize("nonlinearity", ["relu", "none"])
def test_directions_with_enough_width_lose_nothing_of_the_metric(nonlinearity):
    """Sums over filters of products of maps are products in the learned metric; a ReLU keeps both signs of them."""
    machine = DeepConvRFMClassifier(2, 36, nonlinearity=nonlinearity, filters="directions", **PLAIN).fit(X, LABELS)
    metric = machine.layers_[0].metric_at(1).astype(float)
    maps = machine.transform(NEW).astype(float)
    if nonlinearity == "relu":
        assert maps.shape[1] == 36
        np.testing.assert_allclose(np.minimum(maps[:, :18], maps[:, 18:]), 0, atol=0)  # one of the signs is off
        maps = maps[:, :18] - maps[:, 18:]
    assert maps.shape[1] == 18
    for row, column in [(0, 0), (3, 2), (6, 5)]:
        patches = NEW[:, :, row : row + 3, column : column + 3].reshape(7, 18)
        products = maps[:, :, row, column] @ maps[:, :, row, column].T
        np.testing.assert_allclose(products, patches @ metric @ patches.T, rtol=0, atol=1e-4 * np.abs(products).max())


def test_few_directions_are_the_leading_ones():
    machine = DeepConvRFMClassifier(2, 7, nonlinearity="none", filters="directions", **PLAIN).fit(X, LABELS)
    filters = machine.filters_[0].reshape(7, 18).astype(float)
    values = np.linalg.eigvalsh(machine.layers_[0].metric_at(1).astype(float))[::-1][:7]
    np.testing.assert_allclose(filters @ filters.T, np.diag(values), rtol=0, atol=1e-5 * values[0])


def test_layers_without_a_nonlinearity_see_linear_maps():
    machine = DeepConvRFMClassifier(3, 5, nonlinearity="none", **PLAIN).fit(X, LABELS)
    mixture = machine.transform(0.3 * NEW[:1] - 2 * NEW[1:2])
    np.testing.assert_allclose(
        mixture, 0.3 * machine.transform(NEW[:1]) - 2 * machine.transform(NEW[1:2]), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("options", [{}, {"filters": "directions"}, {"nonlinearity": "none"}], ids=str)
def test_a_common_factor_of_all_images_changes_nothing(options):
    plain = DeepConvRFMClassifier(2, 8, **options, **PLAIN).fit(X, LABELS)
    scaled = DeepConvRFMClassifier(2, 8, **options, **PLAIN).fit(7 * X, LABELS)
    np.testing.assert_allclose(scaled.decision_function(7 * NEW), plain.decision_function(NEW), rtol=0, atol=2e-3)


def test_weight_zero_is_left_out_and_weight_two_is_given_twice():
    weights = np.ones(40)
    weights[[3, 20]], weights[[5, 6, 30]] = 0, 2
    rows = np.repeat(np.arange(40), weights.astype(int))
    weighted = DeepConvRFMClassifier(2, 8, **PLAIN).fit(X, LABELS, sample_weight=weights)
    repeated = DeepConvRFMClassifier(2, 8, **PLAIN).fit(X[rows], LABELS[rows])
    np.testing.assert_allclose(weighted.decision_function(NEW), repeated.decision_function(NEW), rtol=0, atol=5e-3)


def test_layers_behind_the_first_hold_out_a_fifth():
    options = {**PLAIN, "selection": "auto", "alpha": (1e-3, 1e-1)}
    many = np.concatenate([X, RANDOM.normal(size=(10, 2, 9, 8))])[:, :1]
    labels = np.r_[LABELS, ["ant", "cat"] * 5]
    machine = DeepConvRFMClassifier(3, 6, **options).fit(many, labels)
    assert [one.selection_.method for one in machine.layers_] == ["loo", "holdout", "holdout"]
    machine = DeepConvRFMClassifier(2, 6, **{**options, "selection": "cv"}).fit(many, labels)
    assert [one.selection_.method for one in machine.layers_] == ["cv", "cv"]


def test_narrow_maps_are_no_channels_that_come_last():
    machine = DeepConvRFMClassifier(3, 16, **PLAIN).fit(X[:, :, :, :7], LABELS)
    assert machine.layers_[-1].image_shape_ == (16, 5, 3)
    assert machine.predict(NEW[..., :7]).shape == (7,)


def test_the_seed_decides():
    first, again, other = (
        DeepConvRFMClassifier(2, 8, **{**PLAIN, "random_state": seed}).fit(X, LABELS).decision_function(NEW)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_layers_do_not_share_their_random_numbers():
    machine = DeepConvRFMClassifier(3, 5, **{**PLAIN, "max_iter": 0}).fit(X[:, [0, 1, 0, 1, 0]], LABELS)
    first, second = machine.filters_
    assert first.shape == second.shape
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.3


def test_a_blank_image_is_told_once_a_layer():
    images = X.copy()
    images[4] = 0
    with pytest.warns(FeatlearnWarning, match=r"1 blank images \(at 4\)") as told:
        machine = DeepConvRFMClassifier(2, 8, **PLAIN).fit(images, LABELS)
    assert len(told) == 2
    assert np.isfinite(machine.decision_function(images)).all()


def test_threads_change_nothing():
    options = {**PLAIN, "selection": "cv", "alpha": (1e-2, 1e-1)}
    one, two = (DeepConvRFMClassifier(2, 6, **options, n_jobs=jobs).fit(X, LABELS) for jobs in (1, 2))
    np.testing.assert_array_equal(one.decision_function(NEW), two.decision_function(NEW))


def test_what_was_learned_is_told_in_plain_values_and_as_a_table():
    machine = DeepConvRFMClassifier(3, 6, **{**PLAIN, "selection": "holdout", "alpha": (1e-2, 1e-1)}).fit(X, LABELS)
    told = json.loads(json.dumps(machine.to_dict()))
    assert (told["nonlinearity"], told["filters"]) == ("relu", "random")
    assert [layer["channels"] for layer in told["layers"]] == [2, 6, 6]
    assert [layer["size"] for layer in told["layers"]] == [[9, 8], [7, 6], [5, 4]]
    for layer, one in zip(told["layers"], machine.layers_, strict=True):
        assert (layer["iteration"], layer["alpha"]) == (one.n_iter_, one.alpha_)
        assert layer["method"] == "holdout"
        assert layer["scores"][one.n_iter_]["score"] == min(entry["score"] for entry in layer["scores"])
        assert sum(layer["shares"]) <= 1 + 1e-6
        assert len(layer["directions"]) == (18 if layer["channels"] == 2 else 0)
    frame = machine.frame()
    assert isinstance(frame, pd.DataFrame)
    assert frame["score"].tolist() == [one.selection_.best["score"] for one in machine.layers_]
    assert frame["depth"].tolist() == [3, 2, 1]
