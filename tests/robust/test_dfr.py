from __future__ import annotations

import pickle
import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler

from featlearn.exceptions import ConvergenceWarning, DataError, FeatlearnWarning
from featlearn.robust.balanced_fits import Rows, halves
from featlearn.robust.dfr import DFRClassifier
from featlearn.robust.group_report import group_report

TIGHT = {"tol": 1e-9, "max_iter": 10_000, "random_state": 0}


def rows(sizes=(60, 20, 20, 60), width=6, seed=0, classes=2):
    """Features of groups (y, s), cell by cell: column 0 tells the class, column 1 (more clearly) the attribute."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.repeat(np.arange(classes), len(sizes) // classes), sizes)
    s = np.repeat(np.tile(np.arange(len(sizes) // classes), classes), sizes)
    Z = 0.7 + 1.3 * rng.normal(size=(len(y), width))
    Z[:, 0] += 1.5 * (y == 1) - 1.5 * (y == 2)
    Z[:, 1] += 3.0 * s
    return Z, y, s


def standard(Z):
    return (Z - Z.mean(axis=0)) / Z.std(axis=0)


def reliance(head):
    return abs(head.raw_coef_[0, 1] / head.raw_coef_[0, 0])


# --- the fits ---------------------------------------------------------------------------------------------------------


def test_balanced_classes_and_one_refit_are_the_l1_logistic_regression():
    Z, y, _ = rows((50, 50))
    head = DFRClassifier(C=0.3, n_refits=1, **TIGHT).fit(Z, y)
    plain = LogisticRegression(C=0.3, l1_ratio=1.0, solver="liblinear", **TIGHT).fit(standard(Z), y)
    np.testing.assert_allclose(head.coef_, plain.coef_, atol=1e-5)
    np.testing.assert_allclose(head.intercept_, plain.intercept_, atol=1e-5)


@pytest.mark.parametrize("C", [0.05, 0.5])
def test_optimality_with_a_penalised_intercept(C):
    Z, y, _ = rows((70, 70), width=20)
    Z[:, 2] += 0.4 * y
    head = DFRClassifier(C=C, n_refits=1, **TIGHT).fit(Z, y)
    columns = np.column_stack([standard(Z), np.ones(len(Z))])
    w = np.append(head.coef_[0], head.intercept_)
    slope = C * columns.T @ (expit(columns @ w) - y)
    assert (w[:-1] == 0).any()
    assert np.abs(slope[w == 0]).max(initial=0.0) <= 1 + 1e-3
    np.testing.assert_allclose(slope[w != 0], -np.sign(w[w != 0]), atol=1e-3)


def test_optimality_of_the_penalised_intercept_itself():
    Z, y, _ = rows((40, 40))
    other = Z + 2.0  # scaled by rows with another mean, the features are far from centred
    head = DFRClassifier(C=0.5, n_refits=1, scaler_fit_on=Z, **TIGHT).fit(other, y)
    shifted = (other - Z.mean(axis=0)) / Z.std(axis=0)
    assert head.intercept_[0] != 0
    slope = 0.5 * np.sum(expit(shifted @ head.coef_[0] + head.intercept_) - y)
    assert slope == pytest.approx(-np.sign(head.intercept_[0]), abs=1e-3)


def test_reweighting_classes_is_class_weight_balanced():
    Z, y, _ = rows((90, 30))
    head = DFRClassifier(C=0.2, balance="reweight", **TIGHT).fit(Z, y)
    plain = LogisticRegression(C=0.2, l1_ratio=1.0, solver="liblinear", class_weight="balanced", **TIGHT)
    plain.fit(standard(Z), y)
    np.testing.assert_allclose(head.coef_, plain.coef_, atol=1e-5)
    assert head.n_iter_.shape == (1,)
    assert head.n_effective_ == pytest.approx(4 / (1 / 90 + 1 / 30))
    assert head.group_table_["weight"].tolist() == pytest.approx([120 / 180, 2.0])


def test_no_penalty_is_the_weighted_likelihood():
    Z, y, s = rows((300, 100, 100, 300))
    head = DFRClassifier(C=np.inf, balance="reweight", **TIGHT).fit(Z, y, (y, s))
    counts = np.array([[300, 100], [100, 300]])[y, s]
    slope = np.column_stack([Z, np.ones(len(Z))]).T @ ((head.predict_proba(Z)[:, 1] - y) / counts)
    np.testing.assert_allclose(slope, 0, atol=1e-6)


@pytest.mark.parametrize(("l1_ratio", "solver"), [(0.0, "lbfgs"), (0.5, "saga")])
@pytest.mark.parametrize("classes", [2, 3])
def test_other_penalties_fit_all_classes_at_once(l1_ratio, solver, classes):
    Z, y, _ = rows((50,) * classes, classes=classes)
    head = DFRClassifier(C=0.3, l1_ratio=l1_ratio, n_refits=1, **TIGHT).fit(Z, y)
    plain = LogisticRegression(C=0.3, l1_ratio=l1_ratio, solver=solver, **TIGHT).fit(standard(Z), y)
    np.testing.assert_allclose(head.coef_, plain.coef_, atol=1e-5)
    np.testing.assert_allclose(head.predict_proba(Z), plain.predict_proba(standard(Z)), atol=1e-5)
    assert head.multi_class_ == ("binary" if classes == 2 else "multinomial")


def test_several_classes_under_l1_are_told_apart_one_against_the_rest():
    Z, y, _ = rows((50, 50, 50), classes=3)
    head = DFRClassifier(C=0.3, n_refits=1, **TIGHT).fit(Z, y)
    scores = np.column_stack(
        [
            LogisticRegression(C=0.3, l1_ratio=1.0, solver="liblinear", **TIGHT)
            .fit(standard(Z), y == k)
            .decision_function(standard(Z))
            for k in range(3)
        ]
    )
    np.testing.assert_allclose(head.decision_function(Z), scores, atol=1e-4)
    np.testing.assert_allclose(head.predict_proba(Z), expit(scores) / expit(scores).sum(axis=1)[:, None], atol=1e-4)
    np.testing.assert_array_equal(head.predict(Z), scores.argmax(axis=1))
    assert head.multi_class_ == "one-vs-rest"


def test_probabilities_of_rows_far_from_every_class_are_finite():
    Z, y, _ = rows((50, 50, 50), classes=3)
    head = DFRClassifier(C=1.0, n_refits=1, **TIGHT).fit(Z, y)
    far = 1e5 * np.sign(np.random.default_rng(0).normal(size=(20, Z.shape[1])))
    np.testing.assert_allclose(head.predict_proba(far).sum(axis=1), 1)


# --- averaging and balance --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(60, 20, 20, 60), (40, 12, 12, 30, 12, 40)])
def test_averaged_coefficients_are_averaged_logits(sizes):
    classes = len(sizes) // 2
    Z, y, s = rows(sizes, classes=classes)
    head = DFRClassifier(C=0.3, n_refits=5, random_state=0).fit(Z, y, (y, s))
    each = np.stack([head.scaler_.transform(Z) @ w.T + b for w, b in zip(head.coefs_, head.intercepts_, strict=True)])
    assert np.ptp(each, axis=0).max() > 0.1  # the samples differ
    scores = head.decision_function(Z).reshape(len(Z), -1)
    np.testing.assert_allclose(scores, each.mean(axis=0), atol=1e-10)
    np.testing.assert_allclose(scores, Z @ head.raw_coef_.T + head.raw_intercept_, atol=1e-10)
    assert head.n_effective_ == len(sizes) * min(sizes)
    assert head.n_per_group_ == min(sizes)


def test_reweighting_is_the_limit_of_many_subsamples_of_duplicated_rows():
    Z, y, s = rows((16, 16, 16, 16), width=3)
    times = np.repeat([6, 1, 1, 6], 16)
    copies = [np.repeat(part, times, axis=0) for part in (Z, y, s)]
    n = len(copies[1])
    common = {"l1_ratio": 0.0, "scaler_fit_on": Z, "tol": 1e-8, "random_state": 0}
    groups = (copies[1], copies[2])
    weighted = DFRClassifier(C=1e-3, balance="reweight", **common).fit(copies[0], copies[1], groups)
    # Every distinct row has weight n / 64 in sum, so that this is the fit to the rows before they were duplicated.
    once = DFRClassifier(C=1e-3 * n / 64, n_refits=1, **common).fit(Z, y, (y, s))
    np.testing.assert_allclose(weighted.coef_, once.coef_, rtol=1e-5)
    # At so strong a penalty coefficients are linear in the rows, so that means of one are means of the other.
    many = DFRClassifier(C=1e-3 * n / 64, n_refits=200, **common).fit(copies[0], copies[1], groups)
    error = many.coefs_.std(axis=0) / np.sqrt(200)
    assert (np.abs(many.coef_ - weighted.coef_) < 3 * error).all()
    assert (error < 0.2 * np.abs(weighted.coef_[0, 0])).all()


def test_groups_balanced_rely_less_on_the_attribute_than_classes_balanced():
    Z, y, s = rows((200, 20, 20, 200))
    by_class, by_group = (DFRClassifier(random_state=0).fit(Z, y, groups) for groups in (None, (y, s)))
    assert reliance(by_group) < 0.2 < 0.5 < reliance(by_class)
    Z_test, y_test, s_test = rows((500, 500, 500, 500), seed=1)
    worst = [
        group_report(y_test, head.predict(Z_test), (y_test, s_test)).worst_group_accuracy
        for head in (by_class, by_group)
    ]
    assert worst[1] > worst[0] + 0.15


def test_several_classes_gain_in_their_worst_group():
    Z, y, s = rows((200, 20, 20, 200, 200, 20), classes=3)
    Z_test, y_test, s_test = rows((400,) * 6, seed=1, classes=3)

    def worst(groups, l1_ratio):
        head = DFRClassifier(l1_ratio=l1_ratio, n_refits=5, random_state=0).fit(Z, y, groups)
        return group_report(y_test, head.predict(Z_test), (y_test, s_test)).worst_group_accuracy

    for l1_ratio in (0.0, 1.0):
        assert worst((y, s), l1_ratio) > worst(None, l1_ratio) + 0.1


def test_nothing_depends_on_the_number_of_processes():
    Z, y, s = rows()
    one, two = (DFRClassifier(n_refits=4, n_jobs=k, random_state=3).fit(Z, y, (y, s)) for k in (1, 2))
    np.testing.assert_array_equal(one.coefs_, two.coefs_)
    np.testing.assert_array_equal(one.intercepts_, two.intercepts_)
    pd.testing.assert_frame_equal(one.tuning_, two.tuning_)


# --- tuning -----------------------------------------------------------------------------------------------------------


def test_scores_on_given_rows_are_worst_group_accuracies_of_single_fits():
    Z, y, s = rows((30, 30, 30, 30))
    Z_tune, y_tune, s_tune = rows((90, 10, 20, 60), seed=5)
    head = DFRClassifier(n_refits=1, **TIGHT).fit(
        Z, y, (y, s), Z_tune=Z_tune, y_tune=y_tune, groups_tune=(y_tune, s_tune)
    )
    scaler = StandardScaler().fit(Z)
    for _, (C, found) in head.tuning_[["C", "worst_group_accuracy"]].iterrows():
        plain = LogisticRegression(C=C, l1_ratio=1.0, solver="liblinear", **TIGHT).fit(scaler.transform(Z), y)
        hits = plain.predict(scaler.transform(Z_tune)) == y_tune
        assert found == min(hits[(y_tune == a) & (s_tune == b)].mean() for a in (0, 1) for b in (0, 1))
    scores = head.tuning_.set_index("C")["worst_group_accuracy"]
    assert head.best_C_ == head.C_ == scores[scores == scores.max()].index.max()
    assert head.information_ == "group labels on 120 rows, and on 180 to tune"


def test_halves_hold_half_of_every_group():
    Z, y, s = rows((31, 8, 2, 60))
    first, second = halves(Rows(Z, y, 2 * y + s), np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(101))
    counts = np.bincount((2 * y + s)[first], minlength=4)
    assert (np.abs(counts - np.array([15.5, 4, 1, 30])) <= 0.5).all()
    again, _ = halves(Rows(Z, y, 2 * y + s), np.random.default_rng(1))
    assert not np.array_equal(first, again)


@pytest.mark.parametrize("grid", [(1.0, 0.1, 0.01), (0.01, 0.1, 1.0)])
def test_of_equal_scores_the_largest_C_is_taken(grid):
    Z, y, s = rows()
    Z[:, 0] += 100 * y
    head = DFRClassifier(C_grid=grid, n_refits=1, tune_splits=2, random_state=0).fit(Z, y, (y, s))
    assert (head.tuning_.query("C >= 0.1")["worst_group_accuracy"] == 1).all()
    assert head.best_C_ == 1.0
    assert len(head.tuning_) == 6


def test_a_tuned_C_follows_the_number_of_rows():
    Z, y, s = rows((61, 20, 20, 61))
    scaled, published = (
        DFRClassifier(rescale_C=rescale, random_state=0).fit(Z, y, (y, s)) for rescale in (True, False)
    )
    assert published.C_ == published.best_C_ == scaled.best_C_
    np.testing.assert_allclose(scaled.C_, scaled.best_C_ * 40 / 80)
    assert not np.allclose(scaled.coef_, published.coef_)
    weighted = DFRClassifier(balance="reweight", random_state=0).fit(Z, y, (y, s))
    np.testing.assert_allclose(weighted.C_, weighted.best_C_ * 81 / 162)


@pytest.mark.parametrize(
    "change",
    [
        {"C": 0.2},
        {"C_grid": (0.05,)},
        {"l1_ratio": 0.5},
        {"l1_ratio": 0.0},
        {"balance": "reweight"},
        {"n_refits": 3},
        {"tune_splits": 3},
        {"scaler_fit_on": "balanced"},
        {"scaler_fit_on": rows(seed=9)[0]},
        {"tol": 0.5},
        {"random_state": 1},
    ],
    ids=lambda change: ", ".join(change),
)
def test_every_parameter_changes_the_result(change):
    Z, y, s = rows((70, 15, 20, 60))
    base = {"n_refits": 20, "random_state": 0}
    plain, other = (DFRClassifier(**options).fit(Z, y, (y, s)) for options in (base, base | change))
    difference = np.abs(plain.raw_coef_ - other.raw_coef_).max()
    if "tune_splits" in change:
        assert len(other.tuning_) == 3 * len(plain.tuning_)
    else:
        assert difference > 1e-6


# --- kinds of data ----------------------------------------------------------------------------------------------------


def test_tensors_go_in_and_come_out():
    Z, y, s = rows()
    arrays = DFRClassifier(n_refits=2, random_state=0).fit(Z, y, (y, s))
    tensors = DFRClassifier(n_refits=2, random_state=0).fit(
        torch.from_numpy(Z).requires_grad_(), torch.from_numpy(y), (torch.from_numpy(y), torch.from_numpy(s))
    )
    np.testing.assert_array_equal(arrays.coef_, tensors.coef_)
    for method in ("predict", "predict_proba", "decision_function"):
        found = getattr(tensors, method)(torch.from_numpy(Z))
        assert isinstance(found, torch.Tensor)
        np.testing.assert_array_equal(found.numpy(), getattr(arrays, method)(Z))
    assert tensors.predict(torch.from_numpy(Z).bfloat16()).shape == (len(Z),)


def test_frames_words_and_pickle():
    Z, y, s = rows()
    names = [f"unit {k}" for k in range(Z.shape[1])]
    words, places = np.array(["land bird", "water bird"])[y], np.array(["land", "water"])[s]
    frame = pd.DataFrame(Z, columns=names)
    groups = pd.DataFrame({"bird": words, "place": places})
    head = DFRClassifier(n_refits=2, random_state=0).fit(frame, words, groups)
    assert head.feature_names_in_.tolist() == names
    assert head.group_table_["group"].tolist()[1] == "bird=land bird, place=water"
    assert set(head.predict(frame)) == {"land bird", "water bird"}
    assert isinstance(head.predict(frame), np.ndarray)
    again = pickle.loads(pickle.dumps(head))
    np.testing.assert_array_equal(again.decision_function(frame), head.decision_function(frame))


def test_the_report_tells_what_was_used():
    Z, y, s = rows()
    Z_test, y_test, s_test = rows(seed=1)
    head = DFRClassifier(n_refits=2, random_state=0).fit(Z, y, (y, s))
    report = head.report(Z_test, y_test, (y_test, s_test), n_boot=50)
    assert report.selection == "group-labelled validation"
    assert report.information == "group labels on 160 rows"
    hits = head.predict(Z_test) == y_test
    worst = min(hits[(y_test == a) & (s_test == b)].mean() for a in (0, 1) for b in (0, 1))
    assert report.worst_group_accuracy == pytest.approx(worst)
    by_class = DFRClassifier(n_refits=1, random_state=0).fit(Z, y)
    assert (by_class.selection_, by_class.information_) == ("class-balanced validation", "class labels on 160 rows")
    assert DFRClassifier(C=1.0, n_refits=1).fit(Z, y, (y, s)).selection_ == "none"
    own = head.report(torch.from_numpy(Z_test), y_test, (y_test, s_test), n_boot=50, information="mine")
    assert own.information == "mine"


def test_verbose_shows_the_groups(capsys):
    Z, y, s = rows()
    DFRClassifier(C=0.1, n_refits=1, verbose=1).fit(Z, y, (y, s))
    shown = capsys.readouterr().err
    assert re.search(r"y=0, s=1 +20 +20", shown)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"C": 0.0}, "Got C=0.0, but expected 'tune' or a positive number"),
        ({"C": "best"}, "Got C='best'"),
        ({"C": True}, "Got C=True"),
        ({"C_grid": ()}, "C_grid"),
        ({"C_grid": (1.0, np.inf)}, "C_grid"),
        ({"l1_ratio": 1.5}, "from 0 to 1"),
        ({"balance": "both"}, "'subsample' or 'reweight'"),
        ({"n_refits": 0}, "n_refits=0"),
        ({"tune_splits": 1.5}, "tune_splits=1.5"),
        ({"balance": "reweight", "n_refits": 5}, "which fits all rows once"),
        ({"rescale_C": "no"}, "rescale_C='no'"),
        ({"scaler_fit_on": "train"}, "scaler_fit_on='train'"),
        ({"scaler_fit_on": np.ones((5, 2))}, "with 2 features, but Z has 6"),
        ({"max_iter": 0}, "max_iter=0"),
        ({"tol": 0.0}, "tol=0.0"),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, dict) else "message",
)
def test_parameters_out_of_range(options, message):
    Z, y, s = rows()
    with pytest.raises(DataError, match=message):
        DFRClassifier(**options).fit(Z, y, (y, s))


def overlapping(y, s):
    return np.column_stack([y == 0, y == 1, s == 1])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (lambda y, s: (y, np.where(y == 0, 0, s)), r"no rows in y=0, s=1.*y=0, s=0: 80 rows; y=0, s=1: 0 rows"),
        (lambda y, s: s[:-1], "Got 159 rows in groups"),
        (overlapping, "overlap"),
        (lambda y, s: s + 0.5, "whole numbers"),
        (lambda y, s: np.arange(len(y)) // (len(y) - 1), "single row in group 1,"),
        (lambda y, s: (y[:-1], s[:-1]), "no tuple: pass pandas.DataFrame"),
        (lambda y, s: (y, pd.Categorical(s, categories=[0, 1, 2])), "no rows in y=0, s=2; y=1, s=2"),
    ],
    ids=["empty", "length", "overlap", "halves", "single", "cut", "category"],
)
@pytest.mark.filterwarnings("ignore:Fewer than 10 rows:featlearn.exceptions.FeatlearnWarning")
def test_groups_that_cannot_be_balanced(groups, message):
    Z, y, s = rows()
    with pytest.raises(DataError, match=message):
        DFRClassifier().fit(Z, y, groups(y, s))


def test_labels_that_cannot_be_learned():
    Z, y, s = rows()
    with pytest.raises(DataError, match=r"Got one class \(0\)"):
        DFRClassifier().fit(Z, np.zeros(len(y), dtype=int), s)
    with pytest.raises(ValueError, match="NaN"):
        DFRClassifier().fit(np.where(Z > 3, np.nan, Z), y, s)


def test_groups_without_the_label_may_lose_a_class():
    Z, y, _ = rows((100, 100))
    y = y.copy()
    y[0] = 7  # in the large region, of which samples hold ten rows of 190
    region = np.repeat([0, 1], [190, 10])
    with pytest.raises(DataError, match=r"lacked one in 20 draws. Cross the groups"):
        DFRClassifier(C=1.0, n_refits=40, random_state=0).fit(Z, y, region)
    head = DFRClassifier(C=1.0, balance="reweight").fit(Z, y, region)
    assert head.classes_.tolist() == [0, 1, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda Z, y, g: {"Z_tune": Z}, "Z_tune and y_tune"),
        (lambda Z, y, g: {"Z_tune": Z, "y_tune": y}, "not for both"),
        (lambda Z, y, g: {"groups_tune": g}, "not for both"),
        (lambda Z, y, g: {"Z_tune": Z, "y_tune": y + 1, "groups_tune": g}, "class 2 in y_tune only"),
        (lambda Z, y, g: {"Z_tune": Z[:, :3], "y_tune": y, "groups_tune": g}, "3 features"),
    ],
    ids=["labels", "groups", "rows", "class", "width"],
)
def test_rows_to_tune_on_must_be_complete(options, message):
    Z, y, s = rows()
    with pytest.raises(ValueError, match=message):
        DFRClassifier().fit(Z, y, (y, s), **options(Z, y, (y, s)))


def test_rows_to_tune_on_need_something_to_tune():
    Z, y, _ = rows()
    with pytest.raises(DataError, match=r"C=0.1, which chooses nothing"):
        DFRClassifier(C=0.1).fit(Z, y, Z_tune=Z, y_tune=y)


def test_a_refused_fit_leaves_the_last_one_whole():
    Z, y, s = rows()
    head = DFRClassifier(n_refits=1, random_state=0).fit(Z, y, (y, s))
    before = head.decision_function(Z)
    with pytest.raises(DataError):
        head.fit(Z, np.where(y == 0, "a", "b"), (y, np.zeros_like(s) + (y == 0) * s))
    np.testing.assert_array_equal(head.decision_function(Z), before)
    assert head.classes_.tolist() == [0, 1]


def test_small_groups_and_solvers_that_did_not_finish_are_told():
    Z, y, s = rows((50, 6, 50, 50))
    with pytest.warns(FeatlearnWarning, match="Fewer than 10 rows in y=0, s=1: 6"):
        DFRClassifier(C=0.1, n_refits=1).fit(Z, y, (y, s))
    Z, y, s = rows()
    with pytest.warns(ConvergenceWarning, match=r"3 of 3 fits \(refitting\) stopped at max_iter=1"):
        DFRClassifier(C=10.0, n_refits=3, max_iter=1, tol=1e-12).fit(Z, y, (y, s))


# --- in scikit-learn's searches ---------------------------------------------------------------------------------------


def worst_group_accuracy(y, predicted, groups):
    return group_report(y, predicted, groups).worst_group_accuracy


def test_a_search_hands_groups_to_the_fit_and_to_a_scorer_that_ask_for_them():
    Z, y, s = rows()
    groups = pd.DataFrame({"y": y, "s": s})
    folds = list(StratifiedKFold(2).split(Z, 2 * y + s))  # every group in every fold
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            DFRClassifier(n_refits=1, random_state=0).set_fit_request(groups=True),
            {"C": [1.0, 0.1]},
            scoring=make_scorer(worst_group_accuracy).set_score_request(groups=True),
            cv=folds,
        ).fit(Z, y, groups=groups)
    assert search.best_estimator_.information_ == f"group labels on {len(y)} rows"
    for C, found in zip((1.0, 0.1), search.cv_results_["mean_test_score"], strict=True):
        scores = []
        for fit, test in folds:
            head = DFRClassifier(C=C, n_refits=1, random_state=0).fit(Z[fit], y[fit], (y[fit], s[fit]))
            hits = head.predict(Z[test]) == y[test]
            scores.append(min(hits[(y[test] == a) & (s[test] == b)].mean() for a in (0, 1) for b in (0, 1)))
        assert found == pytest.approx(np.mean(scores))


def test_an_index_in_another_order_is_refused():
    Z, y, s = rows()
    frame = pd.DataFrame(Z)
    with pytest.raises(DataError, match=r"Got Z and y with the same index in different orders"):
        DFRClassifier(C=1.0).fit(frame, pd.Series(y)[::-1], s)
    with pytest.raises(DataError, match=r"Got Z and groups\[1\]"):
        DFRClassifier(C=1.0).fit(frame, y, (y, pd.Series(s)[::-1]))
