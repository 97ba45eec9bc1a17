"""Data that feature trees take, in which form they answer, and what they refuse by name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError

from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.trees.estimators import FeatureTreeClassifier, FeatureTreeRegressor

RANDOM = np.random.default_rng(11)
X = RANDOM.standard_normal((120, 4)) * [1, 20, 0.1, 1] + [0, 60, 5, 0]
SIDES = X[:, 0] + (X[:, 1] - 60) / 20 > 0, 10 * (X[:, 2] - 5) > 0.2
LABELS = SIDES[0] * (1 + SIDES[1])
OUTPUTS = np.c_[2.0 * SIDES[0] + SIDES[1], 50.0 * SIDES[1]] + 0.1 * RANDOM.standard_normal((120, 2))
NEW = RANDOM.standard_normal((60, 4)) * X.std(axis=0) + X.mean(axis=0)
QUICK = {"n_init": 0, "max_depth": 3, "max_iter": 0, "random_state": 0}


@pytest.fixture(scope="module")
def classifier():
    return FeatureTreeClassifier(**QUICK).fit(X, LABELS)


@pytest.fixture(scope="module")
def regressor():
    return FeatureTreeRegressor(**QUICK).fit(X, OUTPUTS)


def test_tensors_in_tensors_out(classifier, regressor):
    rows, labels = torch.tensor(X), torch.tensor(LABELS)
    tree = FeatureTreeClassifier(**QUICK).fit(rows, labels, sample_weight=torch.ones(120))
    new = torch.tensor(NEW)
    assert_array_equal(tree.predict_proba(new).numpy(), classifier.predict_proba(NEW))
    for method in ("predict", "predict_proba", "transform", "apply"):
        found = getattr(tree, method)(new)
        assert isinstance(found, torch.Tensor)
        assert_array_equal(found.numpy(), getattr(tree, method)(NEW))
    assert tree.predict(new).dtype == torch.int64
    assert_array_equal(tree.predict(new.float().requires_grad_()), tree.predict(NEW.astype(np.float32)))
    words = FeatureTreeClassifier(**QUICK).fit(rows, np.array(["a", "b", "c"])[LABELS])
    assert isinstance(words.predict(new), np.ndarray)
    outputs = FeatureTreeRegressor(**QUICK).fit(rows, torch.tensor(OUTPUTS))
    assert_array_equal(outputs.predict(new).numpy(), regressor.predict(NEW))


def test_frames_keep_their_names(classifier):
    names = ["age", "weight", "dose", "days"]
    frame = pd.DataFrame(X, columns=names, index=np.arange(120) + 500)
    tree = FeatureTreeClassifier(**QUICK).fit(frame, pd.Series(LABELS, index=frame.index, name="group"))
    new = pd.DataFrame(NEW, columns=names)
    assert_array_equal(tree.predict_proba(new), classifier.predict_proba(NEW))
    assert_array_equal(tree.feature_names_in_, names)
    assert tree.input_names_ == tuple(names)
    assert classifier.input_names_ == ("x0", "x1", "x2", "x3")
    features = tree.set_output(transform="pandas").transform(frame)
    assert_array_equal(features.columns, tree.get_feature_names_out())
    assert_array_equal(features.index, frame.index)
    assert_array_equal(features, classifier.transform(X))
    outputs = FeatureTreeRegressor(**QUICK)
    assert outputs.fit(frame, pd.DataFrame(OUTPUTS, columns=["cost", "stay"])).output_names_ == ("cost", "stay")
    assert outputs.fit(frame, pd.Series(OUTPUTS[:, 0], name="cost")).output_names_ == ("cost",)
    assert outputs.fit(frame, OUTPUTS[:, 0]).output_names_ == ("y",)
    assert outputs.fit(frame, OUTPUTS).output_names_ == ("y0", "y1")


@pytest.mark.parametrize(
    "labels", [[2, 5, 9], ["lo", "mid", "hi"], [-1.0, 0.0, 1.0]], ids=["numbers", "words", "floats"]
)
def test_labels_of_any_kind(labels, classifier):
    y = np.array(labels)[LABELS]
    tree = FeatureTreeClassifier(**QUICK).fit(X, y)
    assert_array_equal(tree.classes_, np.unique(labels))
    assert tree.classes_.dtype == y.dtype
    assert tree.score(X, y) == pytest.approx(classifier.score(X, LABELS), abs=0.02)
    assert tree.output_names_ == tuple(str(label) for label in sorted(labels))


def test_yes_and_no():
    tree = FeatureTreeClassifier(**QUICK).fit(X.tolist(), SIDES[0].tolist())
    assert tree.predict(X).dtype == bool
    assert tree.score(X, SIDES[0]) > 0.95


def test_shapes_of_outputs_are_those_of_fit(regressor):
    assert FeatureTreeRegressor(**QUICK).fit(X, OUTPUTS[:, 0]).predict(NEW).shape == (60,)
    assert regressor.predict(NEW).shape == (60, 2)
    column = FeatureTreeRegressor(**QUICK).fit(X, OUTPUTS[:, :1])
    assert column.predict(NEW).shape == (60, 1)


# what is refused ------------------------------------------------------------------------------------------------------


def with_entry(row, column, value):
    bad = X.copy()
    bad[row, column] = value
    return bad


FRAME = pd.DataFrame(X, columns=["age", "weight", "dose", "days"])
BAD_DATA = {
    "NaN": (with_entry(3, 1, np.nan), LABELS, "NaN in column 1 of X .row 3; 1 such"),
    "infinity": (with_entry(3, 2, -np.inf), LABELS, "inf .infinity. in column 2 of X"),
    "NaN by name": (FRAME.mask(FRAME["dose"] > 5.1), LABELS, "NaN in column 'age' of X"),
    "words": (FRAME.assign(dose="high", days="1"), LABELS, "columns 'dose' that hold no numbers"),
    "categories": (FRAME.assign(dose=pd.Categorical(["a", "b"] * 60)), LABELS, "columns 'dose' that hold no numbers"),
    "dates": (FRAME.assign(days=pd.Timestamp("2020-01-01")), LABELS, "columns 'days' that hold no numbers"),
    "sparse": (scipy.sparse.csr_matrix(X), LABELS, "(?i)sparse"),
    "constant X": (np.ones((120, 4)), LABELS, "only columns that do not vary"),
    "one class": (X, np.full(120, 7), "one class .7. among the rows"),
    "two columns of labels": (X, np.c_[LABELS, LABELS], "1d array"),
    "numbers for labels": (X, OUTPUTS[:, 0], "Unknown label type"),
    "a label that is missing": (X, np.where(SIDES[0], "a", None), "rows of y without a label .None, the first in row"),
    "labels of two types": (X, np.array(["a", 1] * 60, dtype=object), "labels of the types int, str in y"),
    "NaN among labels": (X, np.where(LABELS, 1.0, np.nan), "contains NaN"),
    "too few labels": (X, LABELS[:-1], "inconsistent numbers of samples"),
    "no rows": (X[:0], LABELS[:0], "0 sample"),
    "one dimension": (X[:, 0], LABELS, "2D array"),
}


@pytest.mark.parametrize("what", BAD_DATA)
def test_bad_data_is_refused(what):
    rows, labels, told = BAD_DATA[what]
    with pytest.raises((ValueError, TypeError), match=told):
        FeatureTreeClassifier(**QUICK).fit(rows, labels)


def test_columns_of_objects_that_are_numbers_are_numbers(classifier):
    tree = FeatureTreeClassifier(**QUICK).fit(FRAME.astype(object), LABELS)
    assert_array_equal(tree.predict_proba(FRAME), classifier.predict_proba(X))


@pytest.mark.parametrize(
    ("y", "told"),
    [
        (np.full(120, 2.5), "constant target .2.5."),
        (np.tile([1.0, 2.0], (120, 1)), "constant target"),
        (np.where(LABELS, 1.0, np.nan), "NaN"),
        (np.array(["a", "b", "c"])[LABELS], "convert"),
    ],
    ids=["constant", "two constants", "NaN", "words"],
)
def test_bad_outputs_are_refused(y, told):
    with pytest.raises(ValueError, match=told):
        FeatureTreeRegressor(**QUICK).fit(X, y)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (np.zeros(120), "(?i)zero"),
        (np.where(LABELS, 1.0, -1.0), "Negative"),
        (np.full(120, np.nan), "NaN"),
        (np.ones(119), "sample_weight.shape"),
        (np.where(LABELS == 1, 1.0, 0.0), "one class .1. among the rows of positive weight"),
    ],
    ids=["zero", "negative", "NaN", "short", "of one class"],
)
def test_bad_weights_are_refused(weights, told):
    with pytest.raises(ValueError, match=told):
        FeatureTreeClassifier(**QUICK).fit(X, LABELS, sample_weight=weights)


def test_weights_that_are_shares_are_told_to_count_for_nothing():
    with pytest.warns(FeatlearnWarning, match="weights of 120 rows sum to 1, .* Multiply the weights") as caught:
        tree = FeatureTreeClassifier(**QUICK).fit(X, LABELS, sample_weight=np.full(120, 1 / 120))
    assert caught[0].filename == __file__
    assert tree.get_n_leaves() == 1
    FeatureTreeClassifier(**QUICK, min_weight_leaf=0.1).fit(X, LABELS, sample_weight=np.full(120, 1 / 120))


@pytest.mark.parametrize("method", ["predict", "predict_proba", "transform", "apply", "decision_path"])
def test_bad_rows_are_refused(method, classifier):
    call = getattr(classifier, method)
    for rows, told in (
        (X[:, :3], "3 features"),
        (with_entry(2, 1, np.nan), "NaN in column 1"),
        (X[0], "2D array"),
        (FRAME.assign(dose="high"), "'dose' that hold no numbers"),
    ):
        with pytest.raises(ValueError, match=told):
            call(rows)


def test_rows_of_other_names_are_refused():
    tree = FeatureTreeClassifier(**QUICK).fit(FRAME, LABELS)
    with pytest.raises(ValueError, match="feature names"):
        tree.predict(FRAME.rename(columns={"age": "years"}))
    with pytest.raises(DataError, match="NaN in column 'weight'"):
        tree.predict(FRAME.assign(weight=np.nan))


@pytest.mark.parametrize(
    "use",
    [
        lambda tree: tree.predict(X),
        lambda tree: tree.transform(X),
        lambda tree: tree.explain(X[0]),
        lambda tree: tree.export_text(),
        lambda tree: tree.export_dict(),
        lambda tree: tree.path_frame(),
        lambda tree: tree.get_depth(),
        lambda tree: tree.get_n_leaves(),
        lambda tree: tree.input_names_,
        lambda tree: tree.get_feature_names_out(),
    ],
    ids=["predict", "transform", "explain", "text", "dict", "path", "depth", "leaves", "names", "names out"],
)
def test_a_tree_that_was_not_fitted_says_so(use):
    with pytest.raises(NotFittedError):
        use(FeatureTreeClassifier())


def test_too_few_rows_to_hold_some_out():
    tree = FeatureTreeClassifier(selection="validation", n_init=0, random_state=0)
    with pytest.raises(DataError, match="3 different rows, but selection='validation' holds every fourth one out"):
        tree.fit(np.repeat(X[:3], 9, axis=0), np.repeat([0, 1, 0], 9))
    assert tree.fit(X[:4], [0, 1, 0, 1]).get_n_leaves() == 1
    assert FeatureTreeClassifier(n_init=0).fit(X[:2], [0, 1]).get_n_leaves() == 1
