"""A prediction told rule by rule: the parts sum to it, and terms sum to the feature that a rule tests."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from featlearn.exceptions import DataError
from featlearn.trees.estimators import FeatureTreeClassifier, FeatureTreeRegressor
from featlearn.trees.features import PrototypeMap

RANDOM = np.random.default_rng(2)
X = RANDOM.standard_normal((160, 4)) * [1, 10, 0.1, 1] + [0, 50, 0, 3]
SIGNS = X[:, 0] + (X[:, 1] - 50) / 10 > 0, 10 * X[:, 2] > 0.3
LABELS = np.array(["a", "b", "c"])[SIGNS[0] * (1 + SIGNS[1])]
OUTPUTS = np.c_[2.0 * SIGNS[0] + SIGNS[1], 100.0 * SIGNS[1]] + 0.1 * RANDOM.standard_normal((160, 2))
QUICK = {"n_init": 0, "max_depth": 3, "random_state": 0}
CIRCLE = {**QUICK, "features": "prototype", "n_features": 4, "n_init": 1, "max_iter": 4}

CASES = {
    "classes": (FeatureTreeClassifier, QUICK, LABELS),
    "classes, fuzzy": (FeatureTreeClassifier, {**QUICK, "predict_mode": "fuzzy", "bandwidth": 0.5}, LABELS),
    "output": (FeatureTreeRegressor, QUICK, OUTPUTS[:, 0]),
    "outputs, fuzzy": (FeatureTreeRegressor, {**QUICK, "predict_mode": "fuzzy", "bandwidth": 0.5}, OUTPUTS),
    "prototypes": (FeatureTreeClassifier, CIRCLE, LABELS),
    "prototypes, fuzzy": (FeatureTreeRegressor, {**CIRCLE, "predict_mode": "fuzzy", "bandwidth": 0.5}, OUTPUTS),
    "one leaf": (FeatureTreeClassifier, {**QUICK, "alpha": 2.0, "max_iter": 0}, LABELS),
}


@pytest.fixture(scope="module", params=CASES, ids=str)
def fitted(request):
    estimator, options, y = CASES[request.param]
    return estimator(**options).fit(X, y)


def predicted(tree, rows):
    values = tree.predict_proba(rows) if hasattr(tree, "predict_proba") else tree.predict(rows)
    return values.reshape(len(rows), -1)


def test_the_parts_sum_to_the_prediction(fitted):
    values = predicted(fitted, X[:40])
    size = np.abs(fitted.tree_.value).max()
    for x, value in zip(X[:40], values, strict=True):
        told = fitted.explain(x)
        total = told.root + sum((step.contribution for step in told.steps), np.zeros(len(told.root)))
        assert_allclose(total, value, atol=1e-12 * size, rtol=0)
        assert_allclose(told.prediction, value, atol=1e-12 * size, rtol=0)
        assert_array_equal(told.root, fitted.tree_.value[0])


def test_terms_sum_to_the_feature_and_are_ordered(fitted):
    Z = fitted.transform(X[:20])
    for x, z in zip(X[:20], Z, strict=True):
        for step in fitted.explain(x).steps:
            assert_allclose(step.z, z[step.feature], rtol=1e-12)
            sizes = [abs(value) for _, value in step.terms]
            assert sizes == sorted(sizes, reverse=True)
            assert_allclose(sum(value for _, value in step.terms), step.z, atol=1e-10)
            assert step.threshold == fitted.tree_.threshold[step.node]
            assert step.margin == step.z - step.threshold
            assert step.right == (step.z > step.threshold)


def test_linear_terms_are_weights_times_standardised_inputs():
    tree = FeatureTreeClassifier(**QUICK).fit(X, LABELS)
    mean, scale = X.mean(axis=0), X.std(axis=0)
    for step in tree.explain(X[7]).steps:
        weights = tree.components_standardized_[step.feature]
        for name, value in step.terms:
            i = int(name[1:])
            assert_allclose(value, weights[i] * (X[7, i] - mean[i]) / scale[i], rtol=1e-9)


def test_a_crisp_explanation_is_the_decision_path(fitted):
    if fitted.fuzzy_bandwidth_:
        pytest.skip("a fuzzy tree is crossed at every node")
    path = fitted.decision_path(X[:20]).toarray()
    leaves = fitted.apply(X[:20])
    for i, x in enumerate(X[:20]):
        told = fitted.explain(x)
        assert [step.node for step in told.steps] + [leaves[i]] == np.flatnonzero(path[i]).tolist()
        assert all(step.reach == 1 and step.share == step.right for step in told.steps)
        after = [*[step.node for step in told.steps], leaves[i]][1:]
        for step, child in zip(told.steps, after, strict=True):
            change = fitted.tree_.value[child] - fitted.tree_.value[step.node]
            assert_allclose(step.contribution, change, atol=1e-12 * np.abs(fitted.tree_.value).max())


def test_fuzzy_steps_are_all_nodes_that_the_row_reaches():
    tree = FeatureTreeClassifier(**CASES["classes, fuzzy"][1]).fit(X, LABELS)
    reach = tree.tree_.reach(tree.transform(X), 0.5)
    steps = [tree.explain(x).steps for x in X]
    assert any(0 < step.share < 1 for each in steps for step in each)
    for each, weights in zip(steps, reach, strict=True):
        assert [step.node for step in each] == [v for v in tree.tree_.split_nodes if weights[v] > 0]
        assert_allclose([step.reach for step in each], [weights[step.node] for step in each])


def test_it_is_plain_text_a_table_and_plain_values(fitted):
    told = fitted.explain(X[3])
    assert json.loads(json.dumps(told.to_dict())) == told.to_dict()
    frame = told.frame()
    assert len(frame) == 1 + len(told.steps)
    assert_allclose(frame[list(told.outputs)].sum().to_numpy(float), told.prediction, atol=1e-9)
    lines = str(told).splitlines()
    assert len(lines) == 2 + len(told.steps)
    assert "all training rows" in lines[0]
    assert lines[-1].endswith("prediction")
    assert lines[-1].startswith(f"{told.outputs[0]}: ")
    shown = re.findall(r"^(?:.*?): ([ +-]?[\d.e+-]+)", str(told), re.MULTILINE)
    assert sum(map(float, shown[:-1])) == pytest.approx(float(shown[-1]), abs=0.005 * abs(told.root[0]))


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e5])
def test_an_explanation_shows_three_digits_in_any_unit(unit):
    y = unit * (2.0 * (X[:, 0] > 0) + (X[:, 3] > 0.3))
    told = FeatureTreeRegressor(**QUICK).fit(X, y).explain(X[3])
    shown = [float(line.split(":")[1].split()[0]) for line in str(told).splitlines()]
    parts = [told.root[0], *(step.contribution[0] for step in told.steps), told.prediction[0]]
    assert_allclose(shown, parts, atol=0.001 * max(map(abs, parts)))
    assert "-0.000 " not in str(told)


def test_one_row_of_any_kind():
    frame = pd.DataFrame(X, columns=["age", "weight", "dose", "days"])
    tree = FeatureTreeClassifier(**QUICK).fit(frame, LABELS)
    expected = tree.explain(frame.iloc[[4]]).prediction
    assert_array_equal(tree.explain(frame.iloc[4]).prediction, expected)
    assert {name for step in tree.explain(frame.iloc[4]).steps for name, _ in step.terms} <= set(frame)
    plain = FeatureTreeClassifier(**QUICK).fit(X, LABELS)
    for row in (X[4], X[[4]], X[4].tolist(), tuple(X[4]), [X[4].tolist()], torch.tensor(X[4]), torch.tensor(X[[4]])):
        assert_array_equal(plain.explain(row).prediction, expected)
    with pytest.raises(DataError, match="Got 2 rows, but expected one"):
        plain.explain(X[:2])
    with pytest.raises(DataError, match="Got 4, but expected a row: 4 numbers"):
        plain.explain(4)
    with pytest.raises(DataError, match="NaN in column 1"):
        plain.explain([0, np.nan, 0, 0])
    with pytest.raises(ValueError, match="3 features"):
        plain.explain(X[4, :3])


def test_many_classes_are_told_by_the_largest_three():
    digits = np.digitize(X[:, 0], [-1, -0.5, 0, 0.5, 1])
    tree = FeatureTreeClassifier(init_directions=np.eye(4), max_iter=0, n_init=0).fit(X, digits)
    told = tree.explain(X[0])
    assert len(told.prediction) == 6
    assert all(line.count(",") == 2 for line in str(told).splitlines())


class Other:
    """A map that is no subclass of the library's."""

    def __init__(self, inner):
        self.inner = inner

    n_features = property(lambda self: self.inner.n_features)
    n_weights = property(lambda self: self.inner.n_weights)
    parameters = property(lambda self: self.inner.parameters)

    def start(self, X, Y, w, q, rng):
        return Other(PrototypeMap.start(X, Y, w, q, rng))

    def forward(self, X):
        return self.inner.forward(X)

    def backward(self, X, dZ):
        return self.inner.backward(X, dZ)

    def with_parameters(self, parameters):
        return Other(self.inner.with_parameters(parameters))

    def rescaled(self, X, w):
        return Other(self.inner.rescaled(X, w))

    def keep_largest(self, s):
        return Other(self.inner.keep_largest(s))

    def select(self, rows):
        return Other(self.inner.select(rows))


def test_features_of_the_users_own_are_told_by_number():
    start = Other(PrototypeMap(np.zeros((1, 4)), np.ones((1, 4))))
    tree = FeatureTreeClassifier(**{**CIRCLE, "features": start}).fit(X, LABELS)
    same = FeatureTreeClassifier(**CIRCLE).fit(X, LABELS)
    assert_array_equal(tree.predict_proba(X), same.predict_proba(X))
    told = tree.explain(X[0])
    assert told.steps
    assert all(step.terms == () for step in told.steps)
    assert f"feature {told.steps[0].feature} = " in str(told)
    assert "if feature_" in tree.export_text()
    assert tree.feature_importances_.sum() == 0
    with pytest.raises(DataError, match="features of type Other"):
        tree.export_dict()
