"""What machines refuse before any work, and what they accept with a warning."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.kernels import LpqKernel
from featlearn.machines.columns import Columns
from featlearn.machines.rfm import RFMClassifier, RFMRegressor
from featlearn.machines.rules import MetricRule

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(40, 3))
Y = X[:, 0] * X[:, 1]
LABELS = np.where(Y > 0, "up", "down")
FAST = {"kernel": "laplace", "alpha": 1e-2, "max_iter": 1, "selection": None}
SEARCH = {"kernel": "laplace", "alpha": (1e-2, 1.0), "power": 1.0, "max_iter": 1}


def with_entry(value, rows=X):
    changed = rows.astype(object if isinstance(value, str) else float)
    changed[7, 1] = value
    return changed


BAD_X = {
    "NaN": (with_entry(np.nan), "NaN in row 7, column 1"),
    "infinity": (with_entry(np.inf), "inf in row 7, column 1"),
    "no rows": (X[:0], r"0 sample\(s\)"),
    "no columns": (X[:, :0], r"0 feature\(s\)"),
    "one row": (X[:1], "1 sample|one class"),
    "one axis": (X[:, 0], "expected two axes"),
    "three axes": (X[None], "expected two axes"),
    "mixed column": (with_entry("?"), "both numbers and text in column 1"),
    "objects": (np.array([[object()] * 2] * 40), "an argument must be a string or a number"),
    "dates": (pd.DataFrame({"when": pd.date_range("2020-01-01", periods=40)}), "'when' of dtype datetime64"),
    "named NaN": (pd.DataFrame(with_entry(np.nan), columns=["a", "b", "c"]), "row 7, column 'b'"),
    "all constant": (np.ones((40, 3)), "no column varies"),
    "equal rows": (np.tile(X[:1], (40, 1)), "no column varies"),
    "complex": (X + 1j, "Complex data not supported"),
}


@pytest.mark.parametrize("name", BAD_X)
@pytest.mark.parametrize("machine", [RFMRegressor(**FAST), RFMClassifier(**FAST)], ids=["regressor", "classifier"])
def test_rows_that_are_refused(machine, name):
    rows, message = BAD_X[name]
    labels = Y if isinstance(machine, RFMRegressor) else LABELS
    with pytest.raises(DataError, match=message):
        machine.fit(rows, labels[: len(rows)])
    assert not hasattr(machine, "predictor_")


BAD_TARGETS = {
    "NaN": (RFMRegressor, with_entry(np.nan)[:, 1], "1 of 40 entries NaN"),
    "infinity": (RFMRegressor, with_entry(np.inf)[:, 1], "1 of 40 entries NaN or infinite"),
    "text": (RFMRegressor, LABELS, "y"),
    "None": (RFMRegressor, None, "requires y to be passed"),
    "other length": (RFMRegressor, Y[:-1], "39 rows and X with 40"),
    "three axes": (RFMRegressor, np.ones((40, 2, 2)), "Flatten the outputs"),
    "one class": (RFMClassifier, np.zeros(40, dtype=int), "one class only"),
    "real-valued": (RFMClassifier, Y, "Unknown label type: continuous"),
    "missing label": (RFMClassifier, np.where(Y > 1, None, LABELS), "missing labels"),
    "label of NaN": (RFMClassifier, np.where(Y > 1, np.nan, 1.0), "missing labels"),
    "labels of other length": (RFMClassifier, LABELS[:-1], "39 rows and X with 40"),
    "no labels": (RFMClassifier, None, "requires y to be passed"),
}


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_targets_that_are_refused(name):
    machine, targets, message = BAD_TARGETS[name]
    with pytest.raises(DataError, match=message):
        machine(**FAST).fit(X, targets)


BAD_WEIGHTS = {
    "negative": (-np.ones(40), "negative sample_weight"),
    "all zero": (np.zeros(40), "zero in every row"),
    "NaN": (np.full(40, np.nan), "NaN"),
    "infinite": (np.full(40, np.inf), "infinite"),
    "other length": (np.ones(39), r"expected \(40,\)"),
    "one row": (np.eye(40)[3], "1 sample of positive weight"),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
@pytest.mark.parametrize("machine", [RFMRegressor, RFMClassifier])
def test_weights_that_are_refused(machine, name):
    weights, message = BAD_WEIGHTS[name]
    labels = Y if machine is RFMRegressor else np.arange(40) % 2
    if machine is RFMClassifier and name == "one row":
        message = "one class only"
    with pytest.raises(DataError, match=message):
        machine(**FAST).fit(X, labels, sample_weight=weights)


BAD_PARAMETERS = [
    ({"bandwidth": -1.0}, "bandwidth=-1.0"),
    ({"bandwidth": 0}, "bandwidth=0"),
    ({"bandwidth": np.inf}, "bandwidth=inf"),
    ({"bandwidth": ("median", -1)}, "bandwidth="),
    ({"bandwidth": ("mean", 1.0)}, "bandwidth='mean'"),
    ({"bandwidth": "median"}, "bandwidth='median'"),
    ({"bandwidth": []}, r"bandwidth=\[\]"),
    ({"alpha": -1e-3}, "alpha=-0.001"),
    ({"alpha": np.nan}, "alpha=nan"),
    ({"alpha": []}, r"alpha=\[\]"),
    ({"alpha": (1.0, "a")}, "alpha='a'"),
    ({"power": 0}, "power=0"),
    ({"power": (0.5, -1)}, "power=-1"),
    ({"power": True}, "power=True"),
    ({"max_iter": -1}, "max_iter=-1"),
    ({"max_iter": 1.5}, "max_iter=1.5"),
    ({"max_iter": True}, "max_iter=True"),
    ({"tol": -1.0}, "tol=-1.0"),
    ({"tol": np.nan}, "tol=nan"),
    ({"kernel": "rbf"}, "kernel='rbf'"),
    ({"kernel": ()}, r"kernel=\(\)"),
    ({"kernel": 3}, "kernel=3"),
    ({"metric": "round"}, "metric='round'"),
    ({"rule": "nature"}, "rule='nature'"),
    ({"columns": "quantile"}, "columns='quantile'"),
    ({"solver": "lu"}, "'lu'"),
    ({"selection": "test"}, "selection='test'"),
    ({"metric_samples": 1}, "metric_samples=1"),
    ({"metric_samples": 10.0}, "metric_samples=10.0"),
]


@pytest.mark.parametrize("machine", [RFMRegressor, RFMClassifier])
@pytest.mark.parametrize(("parameters", "message"), BAD_PARAMETERS, ids=str)
def test_parameters_that_are_refused(machine, parameters, message):
    with pytest.raises(DataError, match=message):
        machine(**{**FAST, **parameters}).fit(X, Y if machine is RFMRegressor else LABELS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MetricRule(power=0), "power=0"),
        (lambda: MetricRule(power=np.inf), "power=inf"),
        (lambda: MetricRule(normalize="mean"), "normalize='mean'"),
        (lambda: MetricRule(points=0), "points=0"),
        (lambda: MetricRule(points="some"), "points='some'"),
        (lambda: LpqKernel(1.0, p=1.0, q=1.5), "q <= p"),
        (lambda: LpqKernel(1.0, p=2.5, q=1.0), "p <= 2"),
        (lambda: Columns(missing="median"), "missing='median'"),
    ],
)
def test_parts_that_are_refused_when_they_are_made(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_parameters_of_one_estimator_that_are_refused():
    with pytest.raises(DataError, match="intervals='jackknife'"):
        RFMRegressor(**FAST, intervals="jackknife").fit(X, Y)
    with pytest.raises(DataError, match="coding='simplex'"):
        RFMClassifier(**FAST, coding="simplex").fit(X, LABELS)
    with pytest.raises(DataError, match="class_weight='even'"):
        RFMClassifier(**FAST, class_weight="even").fit(X, LABELS)
    with pytest.raises(DataError, match="label 'left'"):
        RFMClassifier(**FAST, class_weight={"left": 2.0}).fit(X, LABELS)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 90, np.nan])
@pytest.mark.parametrize("intervals", ["split", "cv_plus"])
def test_levels_outside_zero_and_one(intervals, level):
    machine = RFMRegressor(**FAST, intervals=intervals).fit(X, Y)
    with pytest.raises(DataError, match="level="):
        machine.predict_interval(X, level=level)


def test_intervals_that_were_not_prepared():
    machine = RFMRegressor(**FAST).fit(X, Y)
    with pytest.raises(DataError, match="without intervals"):
        machine.predict_interval(X)


@pytest.mark.parametrize(("intervals", "n"), [("split", 2), ("cv_plus", 3)])
def test_too_few_rows_for_intervals(intervals, n):
    with pytest.raises(DataError, match=f'intervals="{intervals}"'):
        RFMRegressor(**FAST, intervals=intervals).fit(X[:n], Y[:n])


def test_alpha_zero_names_two_equal_rows():
    rows, targets = np.vstack([X, X[5:6]]), np.append(Y, 1.0)
    with pytest.raises(DataError, match=r"alpha=0 with equal rows \(5 and 40\)"):
        RFMRegressor(**{**FAST, "alpha": 0}).fit(rows, targets)
    weights = np.ones(41)
    weights[[0, 2]] = 0  # places are those of X, not of the rows that are left
    with pytest.raises(DataError, match=r"\(5 and 40\)"):
        RFMRegressor(**{**FAST, "alpha": (0.0, 1.0)}).fit(rows, targets, sample_weight=weights)
    weights[40] = 0
    machine = RFMRegressor(**{**FAST, "alpha": 0}).fit(rows, targets, sample_weight=weights)
    np.testing.assert_allclose(machine.predict(X[3:]), Y[3:], rtol=1e-6)


@pytest.mark.parametrize("n", [3, 7, 37, 40])
def test_constant_targets_are_predicted_and_teach_no_features(n):
    # The mean of n times 0.1 is not always 0.1, and what is left must not be learned.
    rows = RANDOM.normal(size=(n, 3))
    with pytest.warns(FeatlearnWarning, match="equal targets in all rows") as caught:
        machine = RFMRegressor(**FAST).fit(rows, np.full(n, 0.1))
    assert len(caught) == 1
    np.testing.assert_array_equal(machine.predict(X), np.full(len(X), 0.1))
    assert machine.n_iter_ == 0
    assert machine.history_[-1]["stop_reason"] == "The AGOP is zero or not finite"
    np.testing.assert_array_equal(machine.metric_at(0), np.eye(3))
    for array in (machine.agop_, machine.feature_importances_, machine.direction_shares_):
        np.testing.assert_array_equal(array, np.zeros_like(array))


def test_one_constant_output_beside_another_needs_no_warning():
    machine = RFMRegressor(**FAST).fit(X, np.column_stack([Y, np.full(40, 0.1)]))
    np.testing.assert_array_equal(machine.predict(X)[:, 1], np.full(40, 0.1))


def test_fewer_rows_than_folds_are_fewer_folds():
    with pytest.warns(FeatlearnWarning, match="4 rows: selection uses 4 folds instead of 5"):
        machine = RFMRegressor(**SEARCH).fit(X[:4], Y[:4])
    assert machine.selection_.best["splits"] == 4


def test_classes_with_fewer_members_than_folds_are_fewer_folds():
    labels = np.repeat([0, 1, 2], [20, 17, 3])
    with pytest.warns(FeatlearnWarning, match="3 rows in the smallest class: selection uses 3 folds"):
        machine = RFMClassifier(**SEARCH).fit(X, labels)
    assert machine.selection_.best["splits"] == 3
    for rows, _ in machine.selection_.held_out:
        assert np.bincount(labels[rows.numpy()]).tolist()[2] == 1


@pytest.mark.filterwarnings("ignore:.*selection uses 2 folds:featlearn.exceptions.FeatlearnWarning")
@pytest.mark.parametrize("selection", ["cv", "holdout"])
def test_too_few_rows_to_hold_some_out(selection):
    with pytest.raises(DataError, match="1 to fit to where the others are held out"):
        RFMRegressor(**SEARCH, selection=selection).fit(X[:2], Y[:2])


@pytest.mark.parametrize("n", [3, 4, 5])
def test_a_few_rows_are_enough_to_hold_one_out(n):
    machine = RFMRegressor(**SEARCH, selection="holdout").fit(X[:n], Y[:n])
    assert [len(rows) for rows, _ in machine.selection_.held_out] == [1]


def test_predicting_other_columns():
    machine = RFMRegressor(**FAST).fit(X, Y)
    for method in (machine.predict, machine.transform):
        with pytest.raises(ValueError, match="X has 2 features, but RFMRegressor is expecting 3"):
            method(X[:, :2])
        with pytest.raises(DataError, match="NaN in row 7, column 1"):
            method(with_entry(np.nan))
        with pytest.raises(DataError, match="two axes"):
            method(X[0])


def test_predicting_columns_of_other_names():
    table = pd.DataFrame(X, columns=["a", "b", "c"])
    machine = RFMRegressor(**FAST).fit(table, Y)
    with pytest.raises(ValueError, match="feature names should match"):
        machine.predict(table.rename(columns={"c": "d"}))
    with pytest.raises(ValueError, match="must be in the same order"):
        machine.predict(table[["b", "a", "c"]])


def test_unseen_categories_are_a_block_of_zeros():
    table = pd.DataFrame({"size": X[:, 0], "colour": np.where(X[:, 1] > 0, "red", "blue")})
    machine = RFMRegressor(**FAST).fit(table, Y)
    new = pd.DataFrame({"size": [0.5, 0.5], "colour": ["green", "violet"]})
    first, second = machine.predict(new)
    assert first == pytest.approx(second, rel=1e-9)
    z = machine.columns_.transform(new)
    assert z[:, 1:].eq(0).all()
    assert machine.predict(new.assign(colour="red"))[0] != pytest.approx(first, rel=1e-3)


def test_leave_one_out_after_learning_says_that_it_is_optimistic():
    with pytest.warns(FeatlearnWarning, match="optimistic"):
        RFMRegressor(**SEARCH, selection="loo").fit(X, Y)
    machine = RFMRegressor(**{**SEARCH, "max_iter": 0}, selection="loo").fit(X, Y)  # honest: nothing was learned
    assert machine.selection_.method == "loo"


@pytest.mark.parametrize("machine", [RFMRegressor, RFMClassifier])
def test_validation_needs_rows_and_rows_need_validation(machine):
    labels = Y if machine is RFMRegressor else LABELS
    for rows in ({}, {"X_val": X}, {"y_val": labels}):
        with pytest.raises(DataError, match="without X_val and y_val"):
            machine(**SEARCH, selection="validation").fit(X, labels, **rows)
    for rows in ({"X_val": X}, {"y_val": labels}, {"X_val": X, "y_val": labels}):
        with pytest.raises(DataError, match="selection='auto' does not use"):
            machine(**SEARCH).fit(X, labels, **rows)


def test_validation_rows_that_do_not_fit():
    machine = RFMClassifier(**SEARCH, selection="validation")
    with pytest.raises(DataError, match="'left'"):
        machine.fit(X, LABELS, X_val=X, y_val=np.where(Y > 0, "left", "down"))
    with pytest.raises(DataError, match="2 features"):
        machine.fit(X, LABELS, X_val=X[:, :2], y_val=LABELS)
    with pytest.raises(DataError, match="39 rows and X with 40"):
        machine.fit(X, LABELS, X_val=X, y_val=LABELS[:-1])


@pytest.mark.parametrize("t", [-1, 2, 0.5, True])
def test_steps_that_were_not_taken_have_no_metric(t):
    with pytest.raises(DataError, match=f"t={t}"):
        RFMRegressor(**FAST).fit(X, Y).metric_at(t)


def test_a_warm_start_from_other_columns_or_another_kernel():
    machine = RFMRegressor(**FAST, warm_start=True).fit(X, Y)
    with pytest.raises(DataError, match="other columns than in the last fit"):
        machine.fit(X[:, :2], Y)
    machine = RFMRegressor(**FAST, warm_start=True).fit(X, Y).set_params(kernel="gaussian")
    with pytest.raises(DataError, match="kernel='laplace'"):
        machine.fit(X, Y)


def test_a_machine_that_is_not_fitted():
    for call in ("predict", "transform", "predict_interval"):
        with pytest.raises(ValueError, match="not fitted"):
            getattr(RFMRegressor(), call)(X)
    with pytest.raises(ValueError, match="not fitted"):
        RFMClassifier().predict_proba(X)
    with pytest.raises(ValueError, match="not fitted"):
        RFMRegressor().metric_at(0)


def test_tensors_are_refused_for_the_same_reasons():
    rows = torch.tensor(X)
    with pytest.raises(DataError, match="inf in row 7, column 1"):
        RFMRegressor(**FAST).fit(torch.tensor(with_entry(np.inf)), torch.tensor(Y))
    with pytest.raises(DataError, match="sparse"):
        RFMRegressor(**FAST).fit(rows.to_sparse(), torch.tensor(Y))
    with pytest.raises(DataError, match="1 of 40 entries NaN"):
        RFMRegressor(**FAST).fit(rows, torch.tensor(with_entry(np.nan)[:, 1]))


def test_names_of_columns_that_are_names_of_attributes():
    table = pd.DataFrame(X, columns=["dtype", "device", "shape"])
    machine = RFMRegressor(**FAST).fit(table, Y)
    np.testing.assert_array_equal(machine.predict(table), RFMRegressor(**FAST).fit(X, Y).predict(X))
