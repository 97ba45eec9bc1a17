"""Feature trees as estimators: what must not change them, what must, what they hold, and what they refuse."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from featlearn.exceptions import DataError
from featlearn.trees.estimators import FeatureTreeClassifier, FeatureTreeRegressor

RANDOM = np.random.default_rng(11)
X = RANDOM.standard_normal((120, 4)) * [1, 20, 0.1, 1] + [0, 60, 5, 0]
SIDES = X[:, 0] + (X[:, 1] - 60) / 20 > 0, 10 * (X[:, 2] - 5) > 0.2
LABELS = SIDES[0] * (1 + SIDES[1])
OUTPUTS = np.c_[2.0 * SIDES[0] + SIDES[1], 50.0 * SIDES[1]] + 0.1 * RANDOM.standard_normal((120, 2))
NEW = RANDOM.standard_normal((60, 4)) * X.std(axis=0) + X.mean(axis=0)

QUICK = {"n_init": 0, "max_depth": 2, "random_state": 0}
RANDOM_START = {"init_directions": None, "n_init": 1, "max_depth": 2, "max_iter": 3, "random_state": 0}
CIRCLE = {**RANDOM_START, "init_directions": "kernel", "features": "prototype"}
FUZZY = {**QUICK, "predict_mode": "fuzzy", "bandwidth": 0.4}
KINDS = {
    "kernel": (FeatureTreeClassifier, QUICK, LABELS),
    "outputs": (FeatureTreeRegressor, QUICK, OUTPUTS),
    "fuzzy": (FeatureTreeRegressor, FUZZY, OUTPUTS[:, 0]),
    "random": (FeatureTreeClassifier, RANDOM_START, LABELS),
    "prototypes": (FeatureTreeClassifier, CIRCLE, LABELS),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def fitted():
    return {kind: make(**options).fit(X, y) for kind, (make, options, y) in KINDS.items()}


def values(tree, rows):
    return tree.predict_proba(rows) if hasattr(tree, "predict_proba") else tree.predict(rows)


def assert_same_to_the_bit(one, other):
    for name in ("feature", "threshold", "children_left", "children_right", "value", "n_node_weight", "gain"):
        assert_array_equal(getattr(one.tree_, name), getattr(other.tree_, name), err_msg=name)
    for name in ("components_", "thresholds_", "feature_importances_", "loss_", "objective_"):
        assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert_array_equal(values(one, NEW), values(other, NEW))
    assert one.history_ == other.history_


# what must not change a tree ------------------------------------------------------------------------------------------


@kinds
def test_the_same_random_state_gives_the_same_tree_to_the_bit(kind, fitted):
    make, options, y = KINDS[kind]
    assert_same_to_the_bit(make(**options).fit(X, y), fitted[kind])


@kinds
def test_the_order_of_the_rows_does_not_matter_to_the_bit(kind, fitted):
    make, options, y = KINDS[kind]
    order = RANDOM.permutation(len(X))
    assert_same_to_the_bit(make(**options).fit(X[order], y[order]), fitted[kind])


@kinds
def test_a_weight_is_a_number_of_repetitions_to_the_bit(kind):
    make, options, y = KINDS[kind]
    times = RANDOM.integers(0, 3, len(X))
    weighted = make(**options).fit(X, y, sample_weight=times)
    repeated = make(**options).fit(np.repeat(X, times, axis=0), np.repeat(y, times, axis=0))
    assert_same_to_the_bit(weighted, repeated)


def test_no_weight_is_a_weight_of_one_in_any_kind_of_vector():
    options = {**QUICK, "max_iter": 0}
    plain = FeatureTreeClassifier(**options).fit(X, LABELS)
    for ones in (np.ones(120), [1] * 120, pd.Series(np.ones(120)), torch.ones(120), 1.0):
        assert_same_to_the_bit(FeatureTreeClassifier(**options).fit(X, LABELS, sample_weight=ones), plain)


@settings(max_examples=4)
@given(
    kind=st.sampled_from(["kernel", "outputs"]),
    scales=st.lists(st.floats(1e-6, 1e6), min_size=4, max_size=4),
    shifts=st.lists(st.floats(-100, 100), min_size=4, max_size=4),
    signs=st.lists(st.sampled_from([-1, 1]), min_size=4, max_size=4),
)
def test_scales_and_shifts_of_columns_do_not_matter(fitted, kind, scales, shifts, signs):
    def moved(rows):
        return (rows + shifts * X.std(axis=0)) * scales * signs

    make, options, y = KINDS[kind]
    assert_allclose(values(make(**options).fit(moved(X), y), moved(NEW)), values(fitted[kind], NEW), atol=1e-8)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_neither_do_units_that_have_no_squares(size, fitted):
    again = FeatureTreeClassifier(**QUICK).fit(X * size, LABELS)
    assert_allclose(again.predict_proba(NEW * size), fitted["kernel"].predict_proba(NEW), atol=1e-8)
    outputs = FeatureTreeRegressor(**QUICK).fit(X, OUTPUTS * size)
    assert_allclose(outputs.predict(NEW) / size, fitted["outputs"].predict(NEW), rtol=1e-8)


@settings(max_examples=3)
@given(kind=st.sampled_from(["kernel", "outputs"]), order=st.permutations(range(4)))
def test_permuted_columns_permute_the_components(fitted, kind, order):
    make, options, y = KINDS[kind]
    again = make(**options).fit(X[:, order], y)
    assert_allclose(again.components_, fitted[kind].components_[:, order], rtol=1e-6, atol=1e-9)
    assert_allclose(again.feature_importances_, fitted[kind].feature_importances_[order], atol=1e-9)
    assert_allclose(values(again, NEW[:, order]), values(fitted[kind], NEW), atol=1e-8)


def test_units_of_outputs_do_not_matter(fitted):
    again = FeatureTreeRegressor(**QUICK).fit(X, OUTPUTS * [1e3, 1e-3] - [7, 0])
    back = (again.predict(NEW) - [-7, 0]) / [1e3, 1e-3]
    assert_allclose(back, fitted["outputs"].predict(NEW), rtol=1e-9)


def test_columns_that_do_not_vary_do_not_matter(fitted):
    def padded(rows):
        return np.insert(rows, [0, 2], [3.7, -1e5], axis=1)

    again = FeatureTreeClassifier(**QUICK).fit(padded(X), LABELS)
    assert_array_equal(again.predict_proba(padded(NEW)), fitted["kernel"].predict_proba(NEW))
    assert again.n_features_in_ == again.components_.shape[1] == len(again.feature_importances_) == 6
    assert not again.components_[:, [0, 3]].any()
    assert not again.components_standardized_[:, [0, 3]].any()


@pytest.mark.parametrize("kind", ["kernel", "random"])
def test_a_bar_on_the_terminal_does_not_matter(kind, fitted, capfd):
    make, options, y = KINDS[kind]
    assert_same_to_the_bit(make(**options, verbose=1).fit(X, y), fitted[kind])
    assert capfd.readouterr().out == ""


# what must ------------------------------------------------------------------------------------------------------------

ROUGH = np.random.default_rng(4)
NOISY = np.where(ROUGH.random(120) < 0.15, (LABELS + 1) % 3, LABELS)
OTHER = {
    "features": "prototype",
    "init_directions": None,
    "n_features": 1,
    "n_init": 3,
    "max_depth": 1,
    "bandwidth": 0.6,
    "penalty_scale": 3.0,
    "alpha": 0.2,
    "l0": 0.1,
    "min_weight_leaf": 30,
    "selection": "validation",
    "predict_mode": "fuzzy",
    "max_iter": 0,
    "random_state": 1,
}
# Where a change shows only under other circumstances.
GIVEN = {
    "features": {"n_init": 1},
    "init_directions": {"n_init": 1},
    "n_init": {"init_directions": None, "n_init": 1, "n_features": 1},
    "bandwidth": {"max_iter": 2},
    "max_iter": {"init_directions": None, "n_init": 1, "max_iter": 2},
    "random_state": {"init_directions": None, "n_init": 1},
}


@pytest.mark.parametrize("name", OTHER)
def test_every_argument_changes_the_answer(name):
    base = {"n_init": 0, "max_depth": 3, "max_iter": 0, "random_state": 0, **GIVEN.get(name, {})}
    trees = [FeatureTreeClassifier(**options).fit(X, NOISY) for options in (base, {**base, name: OTHER[name]})]
    before, after = (tree.predict_proba(NEW) for tree in trees)
    assert not np.allclose(before, after, atol=1e-3)


def test_both_estimators_take_the_same_arguments():
    names = [list(inspect.signature(kind).parameters) for kind in (FeatureTreeClassifier, FeatureTreeRegressor)]
    assert names[0] == names[1]
    assert set(names[0]) == {*OTHER, "verbose"}


# what a fitted tree holds ---------------------------------------------------------------------------------------------


@kinds
def test_components_and_thresholds_in_original_units_lead_to_the_leaves(kind, fitted):
    tree = fitted[kind]
    nodes = tree.tree_
    path = tree.decision_path(NEW).toarray()
    for x, leaf, passed in zip(NEW, tree.apply(NEW), path, strict=True):
        node, seen = 0, [0]
        while nodes.children_left[node] >= 0:
            row = tree.components_[nodes.feature[node]]
            if tree.prototypes_ is None:
                z = row @ x
            else:
                z = -np.square(row * (x - tree.prototypes_[nodes.feature[node]])).sum()
            right = z > tree.thresholds_[node]
            node = nodes.children_right[node] if right else nodes.children_left[node]
            seen.append(node)
        assert node == leaf
        assert_array_equal(np.flatnonzero(passed), seen)
    assert len(seen) - 1 <= tree.get_depth() == nodes.depth
    assert tree.get_n_leaves() == tree.n_leaves_ == nodes.n_leaves


@kinds
def test_shapes_and_units(kind, fitted):
    tree, scale = fitted[kind], X.std(axis=0)
    q = len(tree.components_)
    assert_array_equal(np.unique(tree.tree_.feature[~tree.tree_.is_leaf]), np.arange(q))
    assert_allclose(tree.components_, tree.components_standardized_ / scale, rtol=1e-12)
    assert_array_equal(tree.n_weights_, (tree.components_ != 0).sum(axis=1))
    assert_allclose(tree.transform(X).std(axis=0), 1, rtol=1e-9)
    assert np.isnan(tree.thresholds_[tree.tree_.is_leaf]).all()
    assert (tree.prototypes_ is None) == (kind != "prototypes")
    if tree.prototypes_ is None:
        rows = tree.components_standardized_
        assert (rows[np.arange(q), np.abs(rows).argmax(axis=1)] > 0).all()
    else:
        assert tree.prototypes_.shape == (q, 4)
    # Thresholds are midpoints: no training row is on one.
    Z = tree.transform(X)
    for node in tree.tree_.split_nodes:
        assert np.abs(Z[:, tree.tree_.feature[node]] - tree.tree_.threshold[node]).min() > 1e-9


@kinds
def test_importances_are_gains_shared_by_weights(kind, fitted):
    tree = fitted[kind]
    total = np.zeros(4)
    for node in tree.tree_.split_nodes:
        row = np.abs(tree.components_standardized_[tree.tree_.feature[node]])
        total += tree.tree_.gain[node] * row / row.sum()
    assert_allclose(tree.feature_importances_, total / total.sum(), atol=1e-12)
    assert tree.feature_importances_.sum() == pytest.approx(1)


def test_an_input_of_noise_is_of_little_importance():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 5))
    y = (rows[:, 0] + rows[:, 1] > 0) ^ (rows[:, 2] > 0)
    tree = FeatureTreeClassifier(n_init=0, max_depth=2, random_state=0).fit(rows, y)
    assert tree.score(rows, y) > 0.97
    assert (tree.feature_importances_[3:] < 0.05).all()


@pytest.mark.parametrize("kind", ["kernel", "outputs", "random", "prototypes"])
def test_a_crisp_tree_predicts_the_means_of_its_leaves(kind, fitted):
    tree, y = fitted[kind], KINDS[kind][2]
    targets = np.eye(3)[y] if hasattr(tree, "classes_") else y
    leaves = tree.apply(X)
    for leaf in np.unique(leaves):
        expected = targets[leaves == leaf].mean(axis=0)
        assert_allclose(values(tree, X[leaves == leaf]), np.tile(expected, ((leaves == leaf).sum(), 1)), atol=1e-10)
        assert tree.tree_.n_node_weight[leaf] == (leaves == leaf).sum()
    if hasattr(tree, "classes_"):
        assert_array_equal(tree.predict(NEW), tree.classes_[tree.predict_proba(NEW).argmax(axis=1)])


def test_a_fuzzy_tree_predicts_means_of_memberships(fitted):
    tree, h = fitted["fuzzy"], 0.4
    Z, nodes = tree.transform(np.r_[X, NEW]), tree.tree_
    reach = np.ones((len(Z), nodes.n_nodes))
    for node in nodes.split_nodes:
        share = np.clip((Z[:, nodes.feature[node]] - nodes.threshold[node] + h) / (2 * h), 0, 1)
        reach[:, nodes.children_right[node]] = reach[:, node] * share
        reach[:, nodes.children_left[node]] = reach[:, node] * (1 - share)
    own, y = reach[:120], OUTPUTS[:, 0]
    means = own.T @ y / own.sum(axis=0)
    assert_allclose(nodes.value[:, 0], means, rtol=1e-10)
    assert_allclose(nodes.n_node_weight, own.sum(axis=0), rtol=1e-10)
    assert_allclose(tree.predict(NEW), reach[120:][:, nodes.is_leaf] @ means[nodes.is_leaf], rtol=1e-10)
    crisp = FeatureTreeRegressor(**{**FUZZY, "predict_mode": "crisp"}).fit(X, y)
    assert_array_equal(crisp.thresholds_, tree.thresholds_)
    assert not np.allclose(crisp.predict(NEW), tree.predict(NEW))


@pytest.mark.parametrize("kappa", [0.1, 1.0])
def test_loss_objective_and_prices_are_the_formulas(kappa):
    tree = FeatureTreeClassifier(**QUICK, penalty_scale=kappa).fit(X, LABELS)
    targets = np.eye(3)[LABELS]
    variance = np.square(targets - targets.mean(axis=0)).sum(axis=1).mean()
    assert tree.alpha_ == pytest.approx(0.002 + kappa * 8 * variance * np.log(4) / 120)
    assert tree.l0_ == pytest.approx(kappa * 3 * variance / 120)
    assert tree.loss_ == pytest.approx(np.square(tree.predict_proba(X) - targets).sum(axis=1).mean())
    splits = tree.tree_.feature[~tree.tree_.is_leaf]
    price = sum(tree.alpha_ + tree.l0_ * np.count_nonzero(tree.components_[j]) for j in splits)
    assert tree.objective_ == pytest.approx(tree.loss_ + price)
    assert tree.objective_ == tree.path_["objective"].min()
    given = FeatureTreeClassifier(**QUICK, alpha=0.01, l0=0.002, penalty_scale=kappa).fit(X, LABELS)
    assert (given.alpha_, given.l0_) == (0.01, 0.002)


def test_what_the_search_did_is_told(fitted):
    tree = fitted["random"]
    assert tree.selection_ == "penalty"
    assert tree.interrupted_ is False
    assert set(tree.history_[0]) >= {"start", "route", "round", "h", "loss", "leaves"}
    assert [entry["round"] for entry in tree.history_ if entry["stage"] == "start"] == [0, 1, 2, 3]
    assert {"kappa", "s", "loss", "leaves", "weights", "held_out"} <= set(tree.path_.columns)
    assert tree.path_["chosen"].sum() == 1
    assert tree.n_iter_ == len(tree.history_)


def test_labels_of_noise_are_one_leaf_on_held_out_rows():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 5))
    options = {"n_init": 0, "max_iter": 0, "selection": "validation"}
    tree = FeatureTreeClassifier(**options, random_state=0).fit(rows, rng.integers(0, 2, 200))
    assert tree.selection_ == "validation"
    assert tree.guarded_
    assert tree.get_n_leaves() == 1
    assert tree.transform(rows).shape == (200, 0)
    assert len(tree.get_feature_names_out()) == 0
    assert not tree.feature_importances_.any()
    assert_array_equal(tree.apply(rows), 0)
    assert_allclose(tree.predict_proba(rows).sum(axis=1), 1)


def test_permuted_targets_explain_less(fitted):
    options = {**QUICK, "max_iter": 0}
    report = FeatureTreeClassifier(**options).permutation_report(X, LABELS, n_permutations=3)
    tree = FeatureTreeClassifier(**options).fit(X, LABELS)
    assert report.explained == pytest.approx(1 - tree.objective_ / tree.tree_.impurity[0])
    assert report.p_value == 0.25
    assert (report.permuted < report.explained).all()


def test_an_output_that_does_not_vary_is_predicted():
    tree = FeatureTreeRegressor(**QUICK).fit(X, np.c_[OUTPUTS[:, 0], np.full(120, 3.25)])
    assert_array_equal(tree.predict(NEW)[:, 1], 3.25)
    assert tree.get_n_leaves() > 1


# stopping, copying ----------------------------------------------------------------------------------------------------


def test_a_refused_fit_leaves_the_one_before_it_whole(fitted):
    tree = pickle.loads(pickle.dumps(fitted["kernel"]))
    for bad in (np.full((120, 2), np.nan), pd.DataFrame(X).assign(age="old"), np.ones((120, 4))):
        with pytest.raises(DataError):
            tree.fit(bad, LABELS)
    with pytest.raises(DataError, match="max_depth"):
        tree.set_params(max_depth=0).fit(X, LABELS)
    assert_same_to_the_bit(tree, fitted["kernel"])
    assert not hasattr(tree, "feature_names_in_")
    assert tree.max_depth == 0


@pytest.mark.parametrize("selection", ["penalty", "validation"])
@pytest.mark.parametrize("moves", [0, 5])
def test_an_interrupt_gives_the_best_tree_until_then(selection, moves, monkeypatch):
    from featlearn.trees.problem import Problem

    moved, calls = Problem.moved, iter(range(1000))

    def stop(*arguments):
        if next(calls) >= moves:
            raise KeyboardInterrupt
        return moved(*arguments)

    monkeypatch.setattr(Problem, "moved", stop)
    tree = FeatureTreeClassifier(**QUICK, selection=selection).fit(X, LABELS)
    assert tree.interrupted_ is True
    assert tree.predict(NEW).shape == (60,)
    assert tree.score(X, LABELS) >= np.mean(LABELS == 0)
    assert tree.export_text().count("class:") == tree.get_n_leaves()
    assert len(tree.explain(NEW[0]).prediction) == 3
    monkeypatch.undo()
    assert tree.set_params(max_iter=0).fit(X, LABELS).interrupted_ is False


def test_an_interrupt_before_there_is_a_tree_leaves_the_last_one(fitted, monkeypatch):
    tree = pickle.loads(pickle.dumps(fitted["kernel"]))

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("featlearn.trees.fitting.kernel_agop", stop)
    with pytest.raises(KeyboardInterrupt):
        tree.fit(X[:, :2], LABELS)
    assert_same_to_the_bit(tree, fitted["kernel"])


@kinds
def test_copies(kind, fitted):
    y = KINDS[kind][2]
    again = pickle.loads(pickle.dumps(fitted[kind]))
    assert_same_to_the_bit(again, fitted[kind])
    empty = clone(fitted[kind])
    assert empty.get_params() == fitted[kind].get_params()
    assert not hasattr(empty, "tree_")
    assert_same_to_the_bit(empty.fit(X, y), fitted[kind])


def test_the_random_state_may_be_a_generator_or_none():
    options = {**RANDOM_START, "random_state": np.random.RandomState(3)}
    one = FeatureTreeClassifier(**options).fit(X, LABELS)
    again = FeatureTreeClassifier(**{**options, "random_state": np.random.RandomState(3)}).fit(X, LABELS)
    assert_same_to_the_bit(one, again)
    assert FeatureTreeClassifier(**{**QUICK, "random_state": None, "max_iter": 0}).fit(X, LABELS).get_n_leaves() > 1
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    FeatureTreeClassifier(**RANDOM_START).fit(X, LABELS)
    assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
