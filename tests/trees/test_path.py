"""Accuracy against size: candidates scored on given rows, and scikit-learn's pruned trees by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import r2_score
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from featlearn.exceptions import DataError
from featlearn.trees.estimators import FeatureTreeClassifier, FeatureTreeRegressor

RANDOM = np.random.default_rng(5)
X = RANDOM.standard_normal((240, 4))
LABELS = np.array(["no", "yes"])[(X[:, 0] + X[:, 1] + 0.3 * RANDOM.standard_normal(240) > 0).astype(int)]
OUTPUTS = np.c_[1.0 * (X[:, 0] > 0), 100 * X[:, 1]] + 0.1 * RANDOM.standard_normal((240, 2))
TRAIN, NEW = slice(0, 140), slice(140, 240)
QUICK = {"n_init": 0, "max_depth": 3, "random_state": 0}


@pytest.fixture(scope="module")
def classifier():
    return FeatureTreeClassifier(**QUICK).fit(X[TRAIN], LABELS[TRAIN])


@pytest.fixture(scope="module")
def regressor():
    return FeatureTreeRegressor(**QUICK).fit(X[TRAIN], OUTPUTS[TRAIN])


def test_the_chosen_candidate_scores_as_the_estimator_does(classifier, regressor):
    for tree, y in ((classifier, LABELS), (regressor, OUTPUTS)):
        rows = tree.path_frame(X[NEW], y[NEW]).rows
        chosen = [row for row in rows if row["chosen"]]
        assert len(chosen) == 1
        score = tree.score(X[NEW], y[NEW]) if tree is classifier else r2_score(y[NEW], tree.predict(X[NEW]))
        assert_allclose(chosen[0]["score"], score, rtol=1e-12)
        assert chosen[0]["leaves"] == tree.get_n_leaves()
        splits = tree.tree_.feature[tree.tree_.feature >= 0]
        assert chosen[0]["weights"] == tree.n_weights_[splits].sum()
        assert_allclose([chosen[0]["loss"], chosen[0]["objective"]], [tree.loss_, tree.objective_])


def test_a_single_leaf_scores_as_a_constant_and_every_candidate_as_its_own_loss(classifier, regressor):
    for tree, y in ((classifier, LABELS), (regressor, OUTPUTS)):
        path = tree.path_frame()
        assert path.score_of == "training rows"
        assert path.rows[0]["leaves"] == 1
        assert_allclose(path.rows[0]["score"], 0, atol=1e-12)
        targets = np.eye(2)[np.unique(y, return_inverse=True)[1]] if y is LABELS else y
        targets = targets[TRAIN] if y is LABELS else (targets[TRAIN] / targets[TRAIN].std(axis=0))
        variance = np.square(targets - targets.mean(axis=0)).sum(axis=1).mean()
        for row in path.rows:
            assert_allclose(row["score"], 1 - row["loss"] / variance, atol=1e-9)
    constant = np.mean(LABELS[NEW] == max("no", "yes", key=lambda label: np.sum(LABELS[TRAIN] == label)))
    assert_allclose(classifier.path_frame(X[NEW], LABELS[NEW]).rows[0]["score"], constant)


def cart_by_hand(kind, y):
    """Leaves and score of scikit-learn's tree at every strength of pruning."""
    found = {}
    alphas = kind(random_state=0).cost_complexity_pruning_path(X[TRAIN], y[TRAIN]).ccp_alphas
    for alpha in alphas:
        tree = kind(random_state=0, ccp_alpha=max(alpha, 0)).fit(X[TRAIN], y[TRAIN])
        score = tree.score(X[NEW], y[NEW]) if y is LABELS else r2_score(y[NEW], tree.predict(X[NEW]))
        found[tree.get_n_leaves()] = score
    return found


def test_cart_is_what_scikit_learn_prunes(classifier, regressor):
    for tree, kind, y in (
        (classifier, DecisionTreeClassifier, LABELS),
        (regressor, DecisionTreeRegressor, OUTPUTS),
    ):
        cart = tree.path_frame(X[NEW], y[NEW], cart=(X[TRAIN], y[TRAIN])).cart
        expected = cart_by_hand(kind, y)
        assert cart[0]["leaves"] == 1
        assert max(row["leaves"] for row in cart) == max(expected)
        assert len(cart) <= 40
        for row in cart:
            assert_allclose(row["score"], expected[row["leaves"]])
            assert row["weights"] == row["leaves"] - 1


def test_frame_and_best_by_leaves(classifier):
    path = classifier.path_frame(X[NEW], LABELS[NEW])
    frame = path.frame()
    assert len(frame) == len(path.rows) == len(classifier.path_) == len(classifier.candidates_)
    assert frame["leaves"].is_monotonic_increasing
    best = path.best_by_leaves()
    assert [row["leaves"] for row in best] == sorted({row["leaves"] for row in path.rows})
    for row in best:
        assert row["objective"] == min(each["objective"] for each in path.rows if each["leaves"] == row["leaves"])
    assert json.loads(json.dumps(path.to_dict())) == path.to_dict()
    assert "<table" in path._repr_html_()


def test_held_out_scores_are_in_the_table_of_a_validated_tree():
    tree = FeatureTreeClassifier(**QUICK, selection="validation").fit(X[TRAIN], LABELS[TRAIN])
    path = tree.path_frame(X[NEW], LABELS[NEW])
    assert {row["kappa"] for row in path.rows} == {0.03, 0.1, 0.3, 1.0}
    assert all(row["held_out"] > 0 and row["standard_error"] >= 0 for row in path.rows)
    assert json.loads(json.dumps(path.to_dict())) == path.to_dict()


def test_the_star_of_a_validated_tree_is_the_tree_that_was_learned_again_on_all_rows():
    for kind, y, mode in ((FeatureTreeClassifier, LABELS, "fuzzy"), (FeatureTreeRegressor, OUTPUTS[:, 0], "crisp")):
        tree = kind(**QUICK, selection="validation", predict_mode=mode).fit(X[TRAIN], y[TRAIN])
        assert tree.n_leaves_ > 1
        row = next(row for row in tree.path_frame(X[NEW], y[NEW]).rows if row["chosen"])
        assert_allclose(row["score"], tree.score(X[NEW], y[NEW]))
        assert (row["leaves"], row["loss"], row["objective"]) == (tree.n_leaves_, tree.loss_, tree.objective_)


def test_what_cannot_be_scored_is_refused(classifier):
    for arguments, told in [
        ((X, None), "one of X and y"),
        ((None, LABELS), "one of X and y"),
        ((X[:5], LABELS[:4]), "X with 5 rows and y with 4"),
    ]:
        with pytest.raises(DataError, match=told):
            classifier.path_frame(*arguments)
    with pytest.raises(DataError, match="cart without X and y"):
        classifier.path_frame(cart=(X, LABELS))
    for wrong in (X, True, (X, LABELS, LABELS)):
        with pytest.raises(DataError, match="expected a pair: X and y of the training rows"):
            classifier.path_frame(X, LABELS, cart=wrong)
