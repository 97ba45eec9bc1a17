"""What the estimators promise: numbers against definitions in numpy, symmetries, and every kind of data."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss

from featlearn.exceptions import FeatlearnWarning
from featlearn.kernels import GaussianKernel, LaplaceKernel
from featlearn.machines.columns import Columns
from featlearn.machines.rfm import RFMClassifier, RFMRegressor
from featlearn.machines.rules import MetricRule

FAST = {"kernel": "laplace", "alpha": 1e-2, "max_iter": 2, "selection": None, "random_state": 0}
FIXED = {**FAST, "bandwidth": 3.0, "columns": Columns(standardize=False)}  # nothing depends on the rows but the fit


def rows(n, d=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


X = rows(60)
Y = X[:, 0] * X[:, 1] + 0.5 * np.sin(X[:, 2])
LABELS = np.array(["low", "middle", "top"])[np.digitize(Y, [-0.4, 0.4])]
Z = rows(25, seed=1)


# against definitions ------------------------------------------------------------------------------------------------


def laplace_machine(x, y, z, *, alpha, bandwidth, steps, weights=None):
    """Predictions at z and the metric of a Laplace machine after so many steps, ``M = G / max G``, by definition."""
    weights, y = np.ones(len(x)) if weights is None else weights, y.reshape(len(x), -1)
    metric = np.eye(x.shape[1])
    for t in range(steps + 1):

        def distances(a, b, metric=metric):
            difference = a[:, None] - b[None]
            return np.sqrt(np.einsum("ijk,kl,ijl->ij", difference, metric, difference).clip(0))

        kernel = np.exp(-distances(x, x) / bandwidth)
        dual = np.linalg.solve(kernel + alpha * np.diag(1 / weights), y)
        if t == steps:
            return np.exp(-distances(z, x) / bandwidth) @ dual, metric
        r = distances(x, x)
        np.fill_diagonal(r, np.inf)
        slopes = kernel / (bandwidth * r)
        gradients = np.einsum("ji,jik,ic->jck", slopes, x[None] - x[:, None], dual) @ metric
        agop = np.einsum("j,jck,jcl->kl", weights / weights.sum(), gradients, gradients)
        metric = agop / agop.max()
    raise AssertionError("unreachable")


@pytest.mark.parametrize("d", [4, 80], ids=["more rows", "more columns"])
def test_a_published_rule_is_its_definition(d):
    x, z = rows(50, d, seed=2) / d**0.5, rows(9, d, seed=3) / d**0.5
    y = np.column_stack([x[:, 0] * x[:, 1], x[:, 2]]) * d
    machine = RFMRegressor(rule="pip").fit(x, y)
    expected, metric = laplace_machine(x, y, z, alpha=1e-3, bandwidth=1.0, steps=3)
    np.testing.assert_allclose(machine.predict(z), expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(machine.metric_at(3), metric, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(machine.metric_at(0), np.eye(d))
    factor = machine.metric_factor_
    np.testing.assert_allclose(factor @ factor.T, metric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ("science", {"kernel_name_": "laplace", "bandwidth_": 10.0, "alpha_": 1e-3, "power_": 1.0, "n_iter_": 5}),
        ("pip", {"kernel_name_": "laplace", "bandwidth_": 1.0, "alpha_": 1e-3, "power_": 1.0, "n_iter_": 3}),
        ("uci", {"kernel_name_": "laplace", "bandwidth_": 10.0, "power_": 1.0}),
        ("xrfm", {"kernel_name_": "laplace", "bandwidth_": 10.0, "alpha_": 1e-3, "power_": 1.0}),
        ("grokking", {"kernel_name_": "quadratic", "alpha_": 1e-9, "power_": 0.5}),
    ],
)
def test_published_rules_set_what_is_left_open(rule, chosen):
    machine = RFMRegressor(rule=rule, tol=0.0, random_state=0).fit(X, Y)
    assert {name: getattr(machine, name) for name in chosen} == chosen
    assert not machine.columns_.config.standardize
    assert machine.coding_.mean.tolist() == [0.0]
    assert (machine.selection_ is None) == (rule in ("science", "pip", "grokking"))
    assert machine.score(X, Y) > 0.8
    changed = RFMRegressor(rule=rule, alpha=1.0, max_iter=1, tol=0.0, random_state=0).fit(X, Y)
    assert (changed.alpha_, len(changed._kernels)) == (1.0, changed.n_iter_ + 1)


def test_published_rules_code_classes_as_they_did():
    found = {rule: RFMClassifier(rule=rule, max_iter=0).fit(X, LABELS).coding_.origin for rule in ("pip", "xrfm")}
    assert found["pip"].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(found["xrfm"], np.unique(LABELS, return_counts=True)[1] / 60)


@pytest.mark.slow
def test_the_default_chooses_everything_and_finds_the_columns():
    x = rows(120, 5, seed=4)
    y = np.where(x[:, 1] > 0, 1.0, -1.0) + 0.1 * x[:, 3]
    machine = RFMRegressor(random_state=0).fit(x, y)
    table = machine.selection_.frame()
    assert set(table["kernel"]) == {"rotated+coordinates", "rotated", "aligned", "coordinates", "gaussian"}
    assert set(table["columns"]) == {"none", "quantile"}
    assert set(table["power"]) == {0.5, 1.0}
    assert table["iteration"].max() == 5
    assert machine.feature_importances_.argmax() == 1
    assert machine.feature_importances_[1] > 0.8
    test = rows(500, 5, seed=5)
    assert machine.score(test, np.where(test[:, 1] > 0, 1.0, -1.0) + 0.1 * test[:, 3]) > 0.7


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("kernel", ["laplace", "gaussian", "lpq", "quadratic"])
def test_the_agop_is_that_of_the_predictions(kernel, standardize):
    # Central differences see no kink at a training row: its own term is even.
    columns = Columns(standardize=standardize)
    machine = RFMRegressor(**{**FAST, "kernel": kernel, "columns": columns}).fit(3 * X + 1, Y)
    step, scale = 1e-5, X.std(0) * 3 if standardize else np.ones(4)
    at = 3 * X + 1
    gradient = np.stack(
        [(machine.predict(at + step * unit) - machine.predict(at - step * unit)) / (2 * step) for unit in np.eye(4)], 1
    )
    gradient *= scale
    expected = gradient.T @ gradient / len(at)
    np.testing.assert_allclose(machine.agop_, expected, rtol=1e-4, atol=1e-5 * expected.max())
    spread = np.ones(4) if standardize else X.std(0) * 3
    shares = spread**2 * np.diag(machine.agop_)
    np.testing.assert_allclose(machine.feature_importances_, shares / shares.sum(), rtol=1e-8)


def test_several_outputs_without_a_metric_are_several_machines():
    targets = np.column_stack([Y, X[:, 3], np.exp(X[:, 0])])
    together = RFMRegressor(**{**FAST, "max_iter": 0}).fit(X, targets).predict(Z)
    for output in range(3):
        alone = RFMRegressor(**{**FAST, "max_iter": 0}).fit(X, targets[:, output]).predict(Z)
        np.testing.assert_allclose(together[:, output], alone, rtol=1e-8, atol=1e-10)


def test_rotated_outputs_are_rotated_predictions():
    targets = np.column_stack([Y, X[:, 3], np.exp(X[:, 0])])
    turn = np.linalg.qr(rows(3, 3, seed=6))[0]
    first, second = (RFMRegressor(**FAST).fit(X, goal) for goal in (targets, targets @ turn))
    np.testing.assert_allclose(first.predict(Z) @ turn, second.predict(Z), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(first.agop_, second.agop_, rtol=1e-6, atol=1e-8)


def test_one_column_of_targets_keeps_its_axis():
    flat, column = RFMRegressor(**FAST).fit(X, Y), RFMRegressor(**FAST).fit(X, Y[:, None])
    assert flat.predict(Z).shape == (25,)
    assert column.predict(Z).shape == (25, 1)
    np.testing.assert_array_equal(flat.predict(Z), column.predict(Z)[:, 0])


# symmetries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["laplace", "lpq", "rotated+coordinates", "aligned"])
def test_permuted_columns_permute_the_answer(kernel):
    order = [2, 0, 3, 1]
    machine = RFMRegressor(**{**FAST, "kernel": kernel}).fit(X, Y)
    permuted = RFMRegressor(**{**FAST, "kernel": kernel}).fit(X[:, order], Y)
    np.testing.assert_allclose(permuted.predict(Z[:, order]), machine.predict(Z), rtol=1e-6, atol=1e-8)
    importances = machine.feature_importances_[order]
    np.testing.assert_allclose(permuted.feature_importances_, importances, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(permuted.agop_, machine.agop_[np.ix_(order, order)], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(permuted.directions_[0], machine.directions_[0][order], rtol=1e-5, atol=1e-7)


def test_permuted_rows_change_nothing():
    order = np.random.default_rng(7).permutation(60)
    machine, permuted = RFMRegressor(**FAST).fit(X, Y), RFMRegressor(**FAST).fit(X[order], Y[order])
    np.testing.assert_allclose(permuted.predict(Z), machine.predict(Z), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(permuted.dual_coef_, machine.dual_coef_[order], rtol=1e-5, atol=1e-8)


def test_units_of_columns_and_targets_do_not_matter():
    scale, shift = np.array([1e-3, 1e3, 5.0, 1.0]), np.array([7.0, -1e3, 0.0, 1.0])
    machine, other = RFMRegressor(**FAST).fit(X, Y), RFMRegressor(**FAST).fit(X * scale + shift, 100 * Y - 40)
    np.testing.assert_allclose(other.predict(Z * scale + shift), 100 * machine.predict(Z) - 40, rtol=1e-6)
    np.testing.assert_allclose(other.feature_importances_, machine.feature_importances_, rtol=1e-6)


@pytest.mark.parametrize("coding", ["prevalence", "one_hot"])
def test_weight_two_is_a_row_given_twice_and_weight_zero_one_left_out(coding):
    weights = np.ones(60)
    weights[[3, 30]], weights[[5, 11]] = 2, 0
    order = np.repeat(np.arange(60), weights.astype(int))
    once, twice = RFMRegressor(**FIXED), RFMRegressor(**FIXED)
    once.fit(X, Y, sample_weight=weights)
    twice.fit(X[order], Y[order])
    np.testing.assert_allclose(once.predict(Z), twice.predict(Z), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(once.agop_, twice.agop_, rtol=1e-6, atol=1e-8)
    expected = laplace_machine(
        X[weights > 0],
        (Y - np.average(Y, weights=weights))[weights > 0],
        Z,
        alpha=1e-2,
        bandwidth=3.0,
        steps=2,
        weights=weights[weights > 0],
    )[0][:, 0]
    np.testing.assert_allclose(once.predict(Z), expected + np.average(Y, weights=weights), rtol=1e-6, atol=1e-8)
    once, twice = RFMClassifier(**FIXED, coding=coding), RFMClassifier(**FIXED, coding=coding)
    once.fit(X, LABELS, sample_weight=weights)
    twice.fit(X[order], LABELS[order])
    np.testing.assert_allclose(once.decision_function(Z), twice.decision_function(Z), rtol=1e-6, atol=1e-8)


def test_what_rows_of_weight_zero_hold_does_not_matter():
    weights = np.ones(60)
    weights[:5] = 0
    x, y, labels = X.copy(), Y.copy(), LABELS.astype(object)
    x[:5], y[:5], labels[:5] = 1e3, -1e6, "unknown"
    first = RFMRegressor(**FAST).fit(x, y, sample_weight=weights)
    np.testing.assert_allclose(first.predict(Z), RFMRegressor(**FAST).fit(X[5:], Y[5:]).predict(Z), rtol=1e-8)
    machine = RFMClassifier(**FAST).fit(x, labels, sample_weight=weights)
    assert machine.classes_.tolist() == ["low", "middle", "top"]


def test_weights_are_ridges():
    weights = np.random.default_rng(8).uniform(0.5, 2, size=60)
    first = RFMRegressor(**FIXED).fit(X, Y, sample_weight=weights)
    second = RFMRegressor(**{**FIXED, "alpha": 5e-2}).fit(X, Y, sample_weight=5 * weights)
    np.testing.assert_allclose(first.predict(Z), second.predict(Z), rtol=1e-7)


def test_class_weights_are_factors_on_sample_weights():
    names, counts = np.unique(LABELS, return_counts=True)
    by_hand = 60 / (3 * counts[np.searchsorted(names, LABELS)])
    balanced = RFMClassifier(**FIXED, class_weight="balanced").fit(X, LABELS)
    weighted = RFMClassifier(**FIXED).fit(X, LABELS, sample_weight=by_hand)
    np.testing.assert_allclose(balanced.decision_function(Z), weighted.decision_function(Z), rtol=1e-8)
    np.testing.assert_allclose(balanced.coding_.origin, np.full(3, 1 / 3))
    both = RFMClassifier(**FIXED, class_weight={"low": 3.0}).fit(X, LABELS, sample_weight=np.arange(60) + 1.0)
    product = (np.arange(60) + 1.0) * np.where(LABELS == "low", 3.0, 1.0)
    alone = RFMClassifier(**FIXED).fit(X, LABELS, sample_weight=product)
    np.testing.assert_allclose(both.decision_function(Z), alone.decision_function(Z), rtol=1e-8)
    mild, strong = (
        RFMClassifier(**{**FIXED, "alpha": 1.0}, class_weight={"top": weight}).fit(X, LABELS) for weight in (1, 50)
    )
    assert np.sum(strong.predict(Z) == "top") > np.sum(mild.predict(Z) == "top")


# classes and probabilities --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [LABELS, np.digitize(Y, [-0.4, 0.4]) * 10 - 5, Y > 0, pd.Series(LABELS, dtype="category"), list(LABELS)],
    ids=["text", "integers", "truth values", "categories", "list"],
)
def test_labels_of_every_type(labels):
    machine = RFMClassifier(**FAST).fit(X, labels)
    assert machine.classes_.tolist() == sorted(set(np.asarray(labels).tolist()))
    predicted, chances = machine.predict(Z), machine.predict_proba(Z)
    assert chances.shape == (25, len(machine.classes_))
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-12)
    assert (chances > 0).all()
    np.testing.assert_array_equal(predicted, machine.classes_[chances.argmax(1)])
    assert machine.score(X, labels) > 0.95
    scores = machine.decision_function(Z)
    if len(machine.classes_) == 2:
        np.testing.assert_array_equal(scores > 0, predicted == machine.classes_[1])
    else:
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-8)


def test_ties_go_to_the_first_class():
    x = np.array([[-1.0, 0], [1, 0], [0, 1], [0, -1]])
    machine = RFMClassifier(**{**FAST, "max_iter": 0}).fit(x, ["b", "b", "a", "a"])
    np.testing.assert_allclose(machine.decision_function(np.zeros((1, 2))), 0, atol=1e-12)
    far = machine.predict(np.full((1, 2), 1e6))
    assert far.tolist() == ["a"]


def noisy_labels(x, seed):
    chance = 1 / (1 + np.exp(-3 * x[:, 0] * x[:, 1]))
    return (np.random.default_rng(seed).random(len(x)) < chance).astype(int)


@pytest.mark.parametrize("search", [False, True])
def test_probabilities_are_as_sharp_as_they_should_be(search):
    x, test = rows(400, seed=9), rows(4000, seed=10)
    labels, truth = noisy_labels(x, 11), noisy_labels(test, 12)
    settings = {"kernel": "laplace", "alpha": 1e-1, "max_iter": 2, "power": 1.0, "random_state": 0}
    machine = RFMClassifier(**settings, selection="auto" if search else None).fit(x, labels)
    chances = machine.predict_proba(test)
    scores = machine.decision_function(test)

    def loss(log_sharpness):
        return log_loss(truth, 1 / (1 + np.exp(-np.exp(log_sharpness) * scores)))

    best = minimize_scalar(loss, bounds=(-3, 5), method="bounded")
    # Without selection the sharpness is that of the machine before its metric was learned.
    factor, excess = (1.3, 0.005) if search else (3.0, 0.05)
    assert 1 / factor < machine.sharpness_ / np.exp(best.x) < factor
    assert log_loss(truth, chances) < best.fun + excess
    if search:
        error = 0.0
        for low, high in pairwise([0, 0.2, 0.4, 0.6, 0.8, 1]):
            inside = (chances[:, 1] >= low) & (chances[:, 1] < high)
            error += abs(truth[inside].mean() - chances[inside, 1].mean()) * inside.mean()
        assert error < 0.06


# intervals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intervals", ["split", pytest.param("cv_plus", marks=pytest.mark.slow)])
def test_intervals_cover_what_they_promise_over_many_draws(intervals):
    random = np.random.default_rng(13)
    covered = []
    for _ in range(100):
        x = random.normal(size=(95, 3))
        y = x[:, 0] * x[:, 1] + 0.3 * random.standard_t(3, size=95)
        machine = RFMRegressor(**{**FAST, "alpha": 0.3, "max_iter": 1}, intervals=intervals).fit(x[:45], y[:45])
        found = machine.predict_interval(x[45:], level=0.9)
        covered.append(np.mean((found[:, 0] <= y[45:]) & (y[45:] <= found[:, 1])))
    error = np.std(covered, ddof=1) / 10
    if intervals == "split":
        # 9 rows are set aside: the largest of their residuals covers a tenth with probability 9/10 exactly.
        assert abs(np.mean(covered) - 0.9) < 3 * error
    else:
        assert 0.9 - 3 * error < np.mean(covered) < 0.96


@pytest.mark.parametrize("intervals", ["split", "cv_plus"])
def test_intervals_hold_the_prediction_and_grow_with_the_level(intervals):
    machine = RFMRegressor(**FAST, intervals=intervals).fit(X, np.column_stack([Y, 10 * X[:, 3]]))
    narrow, wide = machine.predict_interval(Z, level=0.6), machine.predict_interval(Z, level=0.9)
    assert narrow.shape == wide.shape == (25, 2, 2)
    assert (wide[..., 0] <= narrow[..., 0]).all()
    assert (narrow[..., 1] <= wide[..., 1]).all()
    assert (narrow[..., 0] < narrow[..., 1]).all()
    if intervals == "split":
        np.testing.assert_allclose(narrow.mean(-1), machine.predict(Z), rtol=1e-8)
    else:
        inside = (wide[..., 0] < machine.predict(Z)) & (machine.predict(Z) < wide[..., 1])
        assert inside.mean() > 0.9
    assert np.isinf(machine.predict_interval(Z, level=0.999)).all()


def test_rows_set_aside_are_seen_by_nothing_but_the_width():
    machine = RFMRegressor(**FAST, intervals="split").fit(X, Y)
    aside = np.setdiff1d(np.arange(60), kept_rows(machine))
    assert len(aside) == 12
    changed_x, changed_y = X.copy(), Y.copy()
    changed_x[aside] *= 5
    changed_y[aside] += 100
    other = RFMRegressor(**FAST, intervals="split").fit(changed_x, changed_y)
    np.testing.assert_array_equal(other.predict(Z), machine.predict(Z))
    residuals = np.abs(changed_y[aside] - other.predict(changed_x[aside]))
    width = np.diff(other.predict_interval(Z, level=0.9))
    np.testing.assert_allclose(width, 2 * residuals.max(), rtol=1e-8)  # the 12th of 12: ceil(0.9 * 13)


def kept_rows(machine):
    """Rows of X among those that the machine holds."""
    distances = np.linalg.norm(machine.transform(X)[:, None] - machine.predictor_.bases[0].numpy()[None], axis=-1)
    return np.flatnonzero(distances.min(axis=1) < 1e-6)


@pytest.mark.parametrize("intervals", ["split", "cv_plus"])
def test_intervals_leave_the_seed_and_the_search_alone(intervals):
    settings = {"kernel": "laplace", "alpha": (1e-2, 1.0), "power": 1.0, "max_iter": 1, "random_state": 0}
    first, second = (RFMRegressor(**settings, intervals=intervals).fit(X, Y) for _ in range(2))
    np.testing.assert_array_equal(first.predict_interval(Z), second.predict_interval(Z))
    plain = RFMRegressor(**settings).fit(X, Y)
    if intervals == "cv_plus":
        np.testing.assert_array_equal(first.predict(Z), plain.predict(Z))
    else:
        assert first.dual_coef_.shape == (48, 1)


# metric, features, history --------------------------------------------------------------------------------------------


def test_the_columns_that_matter_are_found():
    x = rows(300, 8, seed=14)
    machine = RFMRegressor(**{**FAST, "max_iter": 3}).fit(x, (x[:, 2] + x[:, 5]) ** 3)
    assert set(np.argsort(machine.feature_importances_)[-2:]) == {2, 5}
    assert machine.feature_importances_.sum() == pytest.approx(1)
    direction = machine.directions_[0]
    assert abs(direction[2] - direction[5]) < 0.2
    assert direction[2] > 0.5  # the largest entry is positive
    np.testing.assert_allclose(np.linalg.norm(machine.directions_, axis=1), 1)
    shares = machine.direction_shares_
    assert shares[0] > 0.8
    assert (np.diff(shares) <= 1e-12).all()
    assert shares.sum() == pytest.approx(1)  # all eight directions are kept
    assert (x @ direction)[:, None].shape == machine.transform(x)[:, :1].shape


def test_transformed_rows_have_the_distances_that_the_kernel_sees():
    machine = RFMRegressor(**FAST).fit(X, Y)
    seen = machine.transform(Z)
    z, metric = (Z - X.mean(0)) / X.std(0), machine.metric_at(machine.n_iter_)
    difference = z[:, None] - z[None]
    expected = np.einsum("ijk,kl,ijl->ij", difference, metric, difference)
    np.testing.assert_allclose(((seen[:, None] - seen[None]) ** 2).sum(-1), expected, rtol=1e-6, atol=1e-10)
    kernel = np.exp(-np.sqrt(((seen[:, None] - machine.transform(X)[None]) ** 2).sum(-1)) / machine.bandwidth_)
    np.testing.assert_allclose(kernel @ machine.dual_coef_[:, 0] + Y.mean(), machine.predict(Z), rtol=1e-6)


def test_transformed_columns_have_names():
    table = pd.DataFrame(X, columns=list("abcd"))
    machine = RFMRegressor(**{**FAST, "metric": "diagonal"}).set_output(transform="pandas").fit(table, Y)
    found = machine.transform(table)
    assert list(found.columns) == [f"rfmregressor{j}" for j in range(4)] == machine.get_feature_names_out().tolist()
    assert found.index.equals(table.index)
    assert machine.feature_names_in_.tolist() == list("abcd")


@pytest.mark.parametrize("shape", ["full", "block", "diagonal", "fixed"])
def test_metrics_have_the_shape_that_was_asked_for(shape):
    table = pd.DataFrame(X[:, :3], columns=list("abc")).assign(kind=LABELS)
    machine = RFMRegressor(**{**FAST, "metric": shape}).fit(table, Y)
    metric = machine.metric_at(machine.n_iter_)
    numbers = np.arange(6) < 3
    across = metric[np.ix_(numbers, ~numbers)]
    off = metric[~np.eye(6, dtype=bool)]
    assert machine.n_iter_ == (0 if shape == "fixed" else 2)
    assert (np.abs(across).max() > 1e-4) == (shape == "full")
    assert (np.abs(off).max() > 1e-4) == (shape in ("full", "block"))
    if shape == "fixed":
        np.testing.assert_array_equal(metric, np.eye(6))
        assert machine.history_[0]["stop_reason"] == "fixed metric"


def test_a_smaller_power_keeps_more_directions():
    def kept(power):
        metric = RFMRegressor(**FAST, power=power).fit(X, Y).metric_at(1)
        return metric.trace() ** 2 / (metric**2).sum()

    assert kept(0.5) > kept(1.0) > kept(2.0)


def test_a_metric_rule_is_taken_over():
    rule = MetricRule(power=0.5, normalize="trace", center=True)
    machine = RFMRegressor(**FAST, rule=rule).fit(X, Y)
    assert machine.power_ == 0.5
    assert machine.metric_at(1).trace() == pytest.approx(1)
    assert machine.columns_.config.standardize  # all else as the default rule has it


@pytest.mark.parametrize("kernel", [LaplaceKernel(1.0, exponent=0.7), GaussianKernel(5.0)], ids=repr)
def test_kernels_of_ones_own(kernel):
    machine = RFMRegressor(**{**FAST, "kernel": kernel}).fit(X, Y)
    assert machine.kernel_name_ == repr(kernel)
    assert machine.bandwidth_ == pytest.approx(machine.kernel_.kernel.bandwidth)
    assert machine.score(X, Y) > 0.9


def test_every_step_of_the_final_fit_is_told():
    seen = []
    machine = RFMRegressor(**{**FAST, "max_iter": 3}, callback=lambda entry: seen.append(dict(entry)) and None)
    machine.fit(X, Y)
    assert [entry["iteration"] for entry in seen] == [0, 1, 2, 3] == [e["iteration"] for e in machine.history_]
    for entry in machine.history_:
        assert entry["alpha"] == 1e-2
        assert entry["solver_reason"] == "exact"
        assert 0 <= entry["train_score"] < 0.1
        assert entry["seconds"] > 0
    assert machine.history_[-1]["bandwidth"] == machine.bandwidth_
    assert (machine.solution_.method, machine.solution_.reason) == ("cholesky", "exact")
    error = np.mean((machine.predict(X) - Y) ** 2) / Y.var()
    assert machine.history_[-1]["train_score"] == pytest.approx(error, rel=1e-6)


def test_a_callback_hears_of_the_final_fit_alone_and_can_end_it():
    seen = []
    settings = {"kernel": "laplace", "alpha": (1e-2, 1.0), "max_iter": 3, "power": 1.0, "random_state": 0}
    machine = RFMRegressor(**settings, callback=lambda entry: seen.append(entry["iteration"])).fit(X, Y)
    assert seen == list(range(machine.n_iter_ + 1))
    assert machine.n_iter_ > 0
    machine = RFMRegressor(**{**FAST, "max_iter": 9, "tol": 0.0}, callback=lambda entry: entry["iteration"] == 1)
    assert machine.fit(X, Y).n_iter_ == 1


def test_the_loop_stops_where_the_metric_does():
    machine = RFMRegressor(**{**FAST, "max_iter": 50, "tol": 0.05}).fit(X, Y)
    assert machine.n_iter_ < 49
    assert machine.history_[-1]["stop_reason"] == "converged"
    assert machine.history_[-1]["metric_change"] < 0.05 <= machine.history_[-2]["metric_change"]


@pytest.mark.parametrize("kernel", ["laplace", "rotated+coordinates"])
def test_a_warm_start_goes_on_where_the_last_fit_ended(kernel):
    settings = {**FAST, "kernel": kernel, "tol": 0.0}
    whole = RFMRegressor(**{**settings, "max_iter": 3}).fit(X, Y)
    parts = RFMRegressor(**{**settings, "max_iter": 2}, warm_start=True).fit(X, Y)
    parts.set_params(max_iter=1).fit(X, Y)
    np.testing.assert_allclose(parts.predict(Z), whole.predict(Z), rtol=1e-5, atol=1e-7)
    cold = RFMRegressor(**{**settings, "max_iter": 1}).fit(X, Y)
    assert np.abs(cold.predict(Z) - whole.predict(Z)).max() > 1e-3


@pytest.mark.parametrize("target", [np.sign(X[:, 0]), Y, X[:, 0] + X[:, 1]], ids=["threshold", "product", "sum"])
def test_a_warm_start_keeps_what_was_chosen(target):
    settings = {"kernel": ["rotated+coordinates", "aligned", "laplace"], "alpha": (1e-2, 1.0), "max_iter": 1}
    machine = RFMRegressor(**settings, warm_start=True, random_state=0).fit(X, target)
    names = ("kernel_name_", "alpha_", "power_")
    before = [getattr(machine, name) for name in names] + [machine.columns_.config]
    machine.fit(X, target)
    assert [getattr(machine, name) for name in names] + [machine.columns_.config] == before
    assert machine.selection_ is None


def test_the_metric_of_some_rows_serves_all():
    machine = RFMRegressor(**FAST, metric_samples=30).fit(X, Y)
    assert machine.dual_coef_.shape == (60, 1)
    seen = machine.transform(X)
    kernel = np.exp(-np.sqrt(((seen[:, None] - seen[None]) ** 2).sum(-1)) / machine.bandwidth_)
    dual = np.linalg.solve(kernel + 1e-2 * np.eye(60), Y - Y.mean())
    np.testing.assert_allclose(machine.dual_coef_[:, 0], dual, rtol=1e-5, atol=1e-8)
    everything = RFMRegressor(**FAST, metric_samples=60).fit(X, Y)
    np.testing.assert_array_equal(everything.predict(Z), RFMRegressor(**FAST).fit(X, Y).predict(Z))
    assert np.abs(machine.metric_at(2) - everything.metric_at(2)).max() > 1e-3


def test_every_solver_leads_to_the_same_machine():
    exact = RFMRegressor(**{**FAST, "alpha": 0.3, "max_iter": 0})
    expected = exact.fit(X, Y).predict(Z)
    for solver in ("cholesky", "eigh", "pcg"):
        machine = clone(exact).set_params(solver=solver).fit(X, Y)
        assert machine.solution_.method == solver
        np.testing.assert_allclose(machine.predict(Z), expected, rtol=1e-3, atol=1e-3)


# data of every kind ---------------------------------------------------------------------------------------------------


def mixed_table(n=60):
    table = pd.DataFrame(X[:n, :2], columns=["length", "width"])
    table["colour"] = pd.Categorical(np.where(X[:n, 2] > 0, "red", "blue"), categories=["red", "blue", "green"])
    table["sold"] = X[:n, 3] > 0
    return table


def test_categories_are_one_hot_columns():
    table = mixed_table()
    target = Y + 2 * (table["colour"] == "red")
    machine = RFMRegressor(**FAST).fit(table, target)
    numbers = (X[:, :2] - X[:, :2].mean(0)) / X[:, :2].std(0)
    red, sold = (table["colour"] == "red").to_numpy(float), table["sold"].to_numpy(float)
    by_hand = np.column_stack([numbers, 1 - red, red, 1 - sold, sold])
    plain = RFMRegressor(**FAST, columns=Columns(standardize=False)).fit(by_hand, target.to_numpy())
    np.testing.assert_allclose(machine.predict(table), plain.predict(by_hand), rtol=1e-6)
    np.testing.assert_allclose(machine.agop_, plain.agop_, rtol=1e-6, atol=1e-9)
    by_column = plain.feature_importances_.reshape(-1)
    expected = [by_column[0], by_column[1], by_column[2] + by_column[3], by_column[4] + by_column[5]]
    np.testing.assert_allclose(machine.feature_importances_, expected, rtol=1e-6)
    assert machine.directions_.shape[1] == 4


def test_gaps_are_an_indicator_of_their_own():
    x = X.copy()
    x[::4, 0] = np.nan
    target = np.where(np.isnan(x[:, 0]), 3.0, 0.0) + 0.1 * X[:, 1]
    columns = Columns(missing="indicator")
    machine = RFMRegressor(**FAST, columns=columns).fit(x, target)
    assert machine.feature_importances_.argmax() == 0
    filled = np.column_stack([np.where(np.isnan(x[:, 0]), np.nanmedian(x[:, 0]), x[:, 0]), x[:, 1:]])
    encoded = np.column_stack([(filled - filled.mean(0)) / filled.std(0), np.isnan(x[:, 0])])
    plain = RFMRegressor(**FAST, columns=Columns(standardize=False)).fit(encoded, target)
    np.testing.assert_allclose(machine.predict(x), plain.predict(encoded), rtol=1e-6)
    surprise = Z.copy()
    surprise[0, 2] = np.nan
    with pytest.warns(FeatlearnWarning, match="column 2 of X, where training had none"):
        assert np.isfinite(machine.predict(surprise)).all()


def test_tensors_go_in_and_come_out():
    x, y, z = torch.tensor(X), torch.tensor(Y), torch.tensor(Z, requires_grad=True)
    machine, array = (RFMRegressor(**FAST, intervals="split").fit(*data) for data in ((x, y), (X, Y)))
    for name in ("predict", "predict_interval", "transform"):
        found = getattr(machine, name)(z)
        assert isinstance(found, torch.Tensor)
        assert (found.dtype, found.requires_grad) == (torch.float64, False)
        np.testing.assert_array_equal(found.numpy(), getattr(array, name)(Z))
    for name in ("agop_", "feature_importances_", "directions_", "direction_shares_", "metric_factor_", "dual_coef_"):
        assert isinstance(getattr(machine, name), torch.Tensor)
        np.testing.assert_array_equal(getattr(machine, name).numpy(), getattr(array, name))
    assert isinstance(machine.metric_at(1), torch.Tensor)
    assert isinstance(machine.predict(Z), np.ndarray)
    assert isinstance(array.predict(torch.tensor(Z)), torch.Tensor)
    assert machine.score(x, y) > 0.9
    labels = torch.tensor((Y > 0).astype(int))
    classifier = RFMClassifier(**FAST).fit(x, labels)
    assert isinstance(classifier.predict_proba(z), torch.Tensor)
    assert isinstance(classifier.decision_function(z), torch.Tensor)
    assert classifier.score(x, labels) == 1.0


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_single_precision_stays_single(kind):
    made = np.asarray if kind == "array" else torch.tensor
    x, z = made(X.astype(np.float32)), made(Z.astype(np.float32))
    machine = RFMRegressor(**FAST).fit(x, made(Y.astype(np.float32)))
    double = RFMRegressor(**FAST).fit(X, Y)
    found = machine.predict(z)
    assert found.dtype == x.dtype
    assert machine.predictor_.dtype == torch.float32
    np.testing.assert_allclose(np.asarray(found), double.predict(Z), rtol=1e-2, atol=1e-3)
    assert double.predict(z).dtype == x.dtype  # predictions follow the rows that are asked about
    classifier = RFMClassifier(**FAST).fit(x, LABELS)
    assert classifier.predict_proba(z).dtype == x.dtype
    assert RFMRegressor(**FAST).fit((10 * X).astype(int), Y).predict((10 * Z).astype(int)).dtype == np.float64


def test_many_rows_are_in_single_precision_unless_the_rule_says_otherwise():
    x = rows(1100, 2, seed=15)
    settings = {"max_iter": 0, "selection": None, "random_state": 0}
    plain = RFMRegressor(kernel="laplace", alpha=1.0, **settings).fit(x, x[:, 0])
    assert plain.predictor_.dtype == torch.float32
    assert plain.predict(x).dtype == np.float64
    classes = RFMClassifier(kernel="laplace", alpha=1.0, **settings).fit(x, x[:, 0] > 0)
    np.testing.assert_allclose(classes.predict_proba(x).sum(axis=1), 1, rtol=1e-14)
    grokking = RFMRegressor(rule="grokking", **settings).fit(x, x[:, 0] * x[:, 1])
    assert grokking.predictor_.dtype == torch.float64
    assert grokking.score(x, x[:, 0] * x[:, 1]) > 1 - 1e-6


def test_a_memmap_is_an_array_and_stays_as_it_is(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, X)
    mapped = np.load(path, mmap_mode="r")
    machine, plain = (RFMRegressor(**FAST).fit(x, Y) for x in (mapped, X))
    np.testing.assert_array_equal(machine.predict(mapped), plain.predict(X))
    assert not isinstance(machine.predict(mapped), np.memmap)
    np.testing.assert_array_equal(np.load(path), X)
    del mapped
    path.unlink()
    np.testing.assert_array_equal(machine.predict(X), plain.predict(X))  # the file is not needed any more


@pytest.mark.parametrize("kind", [list, pd.DataFrame, np.asfortranarray, lambda x: np.ascontiguousarray(x[::-1])[::-1]])
def test_rows_may_be_held_in_any_way(kind):
    machine = RFMRegressor(**FAST, intervals="split").fit(kind(X), list(Y))
    plain = RFMRegressor(**FAST, intervals="split").fit(X, Y)
    np.testing.assert_allclose(machine.predict(kind(Z)), plain.predict(Z), rtol=1e-10)
    np.testing.assert_allclose(machine.predict_interval(kind(Z)), plain.predict_interval(Z), rtol=1e-10)


def test_lists_of_numbers_and_text():
    table = [[float(row[0]), "up" if row[1] > 0 else "down"] for row in X]
    machine = RFMRegressor(**FAST, intervals="split").fit(table, list(Y))
    assert np.isfinite(machine.predict_interval([[0.3, "up"]], level=0.5)).all()


def test_inputs_are_left_as_they_are():
    x, y, weights = X.copy(), Y.copy(), np.arange(60.0)
    RFMRegressor(**FAST, intervals="split").fit(x, y, sample_weight=weights).predict(x)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(weights, np.arange(60.0))


# copies, seeds, threads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, "joblib"])
def test_copies_predict_the_same_to_the_last_bit(copied, tmp_path):
    settings = {**FAST, "kernel": "rotated+coordinates"}
    regressor = RFMRegressor(**settings, intervals="cv_plus").fit(mixed_table(), Y)
    classifier = RFMClassifier(**settings).fit(mixed_table(), LABELS)

    def again(machine):
        if copied != "joblib":
            return copied(machine)
        joblib.dump(machine, tmp_path / "machine")
        return joblib.load(tmp_path / "machine")

    table = mixed_table(20)
    np.testing.assert_array_equal(again(regressor).predict_interval(table), regressor.predict_interval(table))
    np.testing.assert_array_equal(again(classifier).predict_proba(table), classifier.predict_proba(table))
    np.testing.assert_array_equal(again(regressor).metric_at(1), regressor.metric_at(1))


@pytest.mark.parametrize("machine", [RFMRegressor, RFMClassifier])
def test_two_threads_give_the_same_machine_to_the_last_bit(machine):
    labels = Y if machine is RFMRegressor else LABELS
    settings = {"kernel": ("laplace", "coordinates"), "alpha": (1e-2, 1.0), "max_iter": 2, "random_state": 0}
    one, two = (machine(**settings, n_jobs=jobs).fit(X, labels) for jobs in (1, 2))
    np.testing.assert_array_equal(one.predict(Z), two.predict(Z))
    np.testing.assert_array_equal(one.agop_, two.agop_)
    assert one.selection_.table == two.selection_.table


def test_the_same_seed_is_the_same_machine_and_no_global_seed_is_touched():
    state, of_torch = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    settings = {"kernel": "laplace", "alpha": (1e-2, 1.0), "max_iter": 1, "power": 1.0}
    first, second, other = (RFMRegressor(**settings, random_state=seed).fit(X, Y) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.predict(Z), second.predict(Z))
    assert first.selection_.table != other.selection_.table
    assert all(np.array_equal(a, b) for a, b in zip(state, np.random.get_state(), strict=True))  # noqa: NPY002
    assert torch.equal(of_torch, torch.get_rng_state())
    drawn = [RFMRegressor(**settings, random_state=np.random.RandomState(3)).fit(X, Y).predict(Z) for _ in range(2)]
    np.testing.assert_array_equal(*drawn)


def test_fitting_again_forgets_the_last_fit():
    machine = RFMRegressor(**FAST).fit(X[:, :2], X[:, 0])
    machine.fit(X, Y)
    np.testing.assert_array_equal(machine.predict(Z), RFMRegressor(**FAST).fit(X, Y).predict(Z))
    assert machine.n_features_in_ == 4


def test_outputs_in_unlike_units_are_told():
    rows = np.random.default_rng(0).normal(size=(60, 3))
    y = np.c_[rows[:, 0] * rows[:, 1], 1e3 * rows[:, 2]]
    machine = RFMRegressor(kernel="laplace", alpha=0.1, max_iter=1, selection=None)
    with pytest.warns(FeatlearnWarning, match="standardise y first"):
        machine.fit(rows, y)
    machine.fit(rows, y / y.std(0))


def test_numbers_in_a_series_of_objects_are_targets():
    rows = np.random.default_rng(0).normal(size=(30, 2))
    machine = RFMRegressor(kernel="laplace", alpha=0.1, max_iter=1, selection=None)
    expected = machine.fit(rows, rows[:, 0]).predict(rows)
    np.testing.assert_array_equal(machine.fit(rows, pd.Series(rows[:, 0]).astype(object)).predict(rows), expected)


@pytest.mark.parametrize("method", ["plot", "to_dict"])
def test_showing_before_fit_says_so(method):
    with pytest.raises(NotFittedError):
        getattr(RFMRegressor(), method)()
