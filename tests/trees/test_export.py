"""Trees in words, read back by a parser of their own, and in plain values, from which they predict the same."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from featlearn.exceptions import DataError
from featlearn.trees.estimators import FeatureTreeClassifier, FeatureTreeRegressor

RANDOM = np.random.default_rng(2)
X = RANDOM.standard_normal((160, 4)) * [1, 1000, 0.01, 1] + [0, 5000, 0, -3]
X = np.insert(X, 2, 7.0, axis=1)  # a column that does not vary
SIGNS = X[:, 0] - (X[:, 1] - 5000) / 1000 > 0, 100 * X[:, 3] > 0.3
CODES = SIGNS[0] * (1 + SIGNS[1])
OUTPUTS = np.c_[2.0 * SIGNS[0] + SIGNS[1], 100.0 * SIGNS[1]] + 0.1 * RANDOM.standard_normal((160, 2))
QUICK = {"n_init": 0, "max_depth": 3, "random_state": 0}
CIRCLE = {**QUICK, "features": "prototype", "n_init": 1, "max_iter": 4}
FUZZY = {"predict_mode": "fuzzy", "bandwidth": 0.5}

CASES = {
    "numbers": (FeatureTreeClassifier, QUICK, CODES),
    "words": (FeatureTreeClassifier, {**QUICK, **FUZZY}, np.array(["a", "b, or more", "ç"])[CODES]),
    "words of pandas": (FeatureTreeClassifier, QUICK, pd.Series(["low", "mid", "high"])[CODES].reset_index(drop=True)),
    "yes and no": (FeatureTreeClassifier, QUICK, SIGNS[0]),
    "output": (FeatureTreeRegressor, QUICK, OUTPUTS[:, 0]),
    "outputs": (FeatureTreeRegressor, {**QUICK, **FUZZY}, OUTPUTS),
    "prototypes": (FeatureTreeClassifier, CIRCLE, CODES),
    "prototypes, outputs": (FeatureTreeRegressor, CIRCLE, OUTPUTS),
    "one leaf": (FeatureTreeClassifier, {**QUICK, "alpha": 2.0, "max_iter": 0}, CODES),
    "one leaf of prototypes": (FeatureTreeRegressor, {**CIRCLE, "alpha": 9.0, "max_iter": 0}, OUTPUTS),
}


@pytest.fixture(scope="module", params=CASES, ids=str)
def fitted(request):
    estimator, options, y = CASES[request.param]
    return estimator(**options).fit(X, y)


def feature_of(text, names):
    """The function of a row that the left side of a rule is."""
    if "^2" in text:
        parts = re.findall(r"(\S+)\*\((\w+) ([+-]) (\S+)\)\^2", text)
        terms = [(float(w), names[name], (-1 if sign == "+" else 1) * float(p)) for w, name, sign, p in parts]
        return lambda x: sum(w * (x[i] - p) ** 2 for w, i, p in terms)
    if "*" not in text:
        return lambda x: x[names[text]]
    parts = re.findall(r"(?:^(-?)|([+-]) )([\d.e+-]+)\*(\w+)", text)
    terms = [((-1 if "-" in (first, sign) else 1) * float(w), names[name]) for first, sign, w, name in parts]
    return lambda x: sum(w * x[i] for w, i in terms)


def parsed(text, names):
    """Leaf number of a row, leaves counted in the order of the lines, from nothing but the text."""
    lines = [re.sub(r"   \(n = .*\)$", "", line) for line in text.splitlines()]
    leaves = [i for i, line in enumerate(lines) if line.strip().startswith(("class:", "value:"))]

    def leaf(x):
        at, indent = 0, 0
        while at not in leaves:
            rule = re.fullmatch(r"if (.+) ([<>]) (\S+):", lines[at].strip())
            value, bound = feature_of(rule[1], names)(x), float(rule[3])
            if value > bound if rule[2] == ">" else value < bound:
                at += 1
            else:
                at = lines.index(" " * indent + "else:", at) + 1
            indent += 4
        return leaves.index(at)

    return leaf


def leaves_by_line(tree):
    """Nodes of the leaves in the order of the text: the right side first."""
    found, waiting = [], [0]
    while waiting:
        node = waiting.pop()
        if tree.is_leaf[node]:
            found.append(node)
        else:
            waiting += [int(tree.children_left[node]), int(tree.children_right[node])]
    return found


@pytest.mark.parametrize("units", ["original", "standardized"])
def test_the_text_read_back_sends_every_row_to_the_same_leaf(fitted, units):
    text = fitted.export_text(units=units, decimals=17, max_terms=None)
    leaf = parsed(text, {f"x{i}": i for i in range(5)})
    scale = X.std(axis=0)
    rows = X if units == "original" else (X - X.mean(axis=0)) / np.where(scale > 0, scale, 1)
    order = leaves_by_line(fitted.tree_)
    assert [order[leaf(x)] for x in rows] == fitted.apply(X).tolist()


def test_the_text_tells_how_many_rows_there_are_at_every_node(fitted):
    counts = [float(n) for n in re.findall(r"\(n = (\S+)\)", fitted.export_text())]
    assert len(counts) == fitted.tree_.n_nodes
    assert counts[0] == pytest.approx(160)
    assert sorted(counts) == pytest.approx(sorted(fitted.tree_.n_node_weight), rel=1e-5)


def test_leaves_tell_shares_and_values(fitted):
    lines = [line for line in fitted.export_text(decimals=12).splitlines() if "class:" in line or "value:" in line]
    for line, node in zip(lines, leaves_by_line(fitted.tree_), strict=True):
        values = fitted.tree_.value[node]
        if hasattr(fitted, "classes_"):
            for name, value in zip(fitted.output_names_, values, strict=True):
                assert (f"{name} ({100 * value:.12g}%)" in line) == (value > 0)
        else:
            assert all(f"{value:.12g}" in line for value in values if abs(value) > 1e-9)


def test_hidden_terms_are_counted():
    y = X @ [1, 0.002, 0, 100, 1] > 7
    tree = FeatureTreeClassifier(init_directions=[[1, 0.002, 0, 100, 1]], n_init=0, max_iter=0, max_depth=1).fit(X, y)
    first = [tree.export_text(max_terms=terms).splitlines()[0] for terms in (1, 2, 3, 4, None)]
    assert "1 smaller term " in first[2]
    assert [re.findall(r"\+ (\d) smaller terms? >", line) for line in first] == [["3"], ["2"], ["1"], [], []]
    assert first[0].startswith("if 0.")
    assert first[0].count("*") == 1
    largest = np.argmax(np.abs(tree.components_standardized_[0]))
    assert f"*x{largest} " in first[0]


FAR = np.c_[2015 + RANDOM.integers(-8, 9, 300), -122.3 + 0.05 * RANDOM.standard_normal(300)]
NEAR = (FAR - [2015, -122.3]) / [4.9, 0.05]


@pytest.mark.parametrize(
    ("options", "yes"),
    [
        ({}, NEAR.sum(axis=1) > 0.3),
        ({}, NEAR[:, 1] > 0.3),
        (CIRCLE, np.square(NEAR).sum(axis=1) < 1.2),
    ],
    ids=["a sum", "one input", "a circle"],
)
def test_the_text_of_inputs_far_from_zero_decides_as_the_tree_does(options, yes):
    # Three digits of a year or of a longitude would send every row to the same side.
    tree = FeatureTreeClassifier(**{**QUICK, **options}).fit(FAR, yes)
    assert tree.n_leaves_ > 1
    leaf, order = parsed(tree.export_text(), {"x0": 0, "x1": 1}), leaves_by_line(tree.tree_)
    same = np.array([order[leaf(x)] for x in FAR]) == tree.apply(FAR)
    assert same.mean() > 0.97


def test_a_rule_of_one_input_is_told_as_a_bound_of_it():
    tree = FeatureTreeClassifier(**QUICK).fit(FAR, NEAR[:, 1] > 0.3)
    found = re.match(r"if x1 > (-122\.\d+):", tree.export_text())
    assert tree.components_[0, 1] * float(found[1]) == pytest.approx(tree.thresholds_[0], abs=0.01)
    assert re.match(r"if x1 > 0\.\d+:", tree.export_text(units="standardized"))


def test_numbers_of_leaves_are_those_that_a_reader_would_write():
    yes = NEAR[:, 1] > 0.3
    told = FeatureTreeRegressor(**QUICK).fit(FAR, 181479.0 * yes + 123456).export_text()
    assert "value: 304935 " in told
    assert "value: 123456 " in told
    assert "value: 0 " in FeatureTreeRegressor(**QUICK).fit(FAR, 1e-6 * yes).export_text()  # not -1e-21
    assert "class: 1 (100%) " in FeatureTreeClassifier(**QUICK).fit(FAR, yes.astype(int)).export_text()


def test_a_soft_tree_says_that_its_rules_are_soft():
    for mode in ("crisp", "fuzzy"):
        tree = FeatureTreeClassifier(**QUICK, predict_mode=mode).fit(FAR, NEAR[:, 1] > 0.3)
        assert ("both sides" in tree.export_text()) == (mode == "fuzzy")


def test_what_cannot_be_written_is_refused(fitted):
    for options, told in [
        ({"units": "metric"}, "units='metric', but expected one of 'original', 'standardized'"),
        ({"decimals": 0}, "decimals=0"),
        ({"decimals": 2.5}, "decimals=2.5"),
        ({"decimals": True}, "decimals=True"),
        ({"max_terms": 0}, "max_terms=0"),
        ({"max_terms": "all"}, "max_terms='all'"),
    ]:
        with pytest.raises(DataError, match=told):
            fitted.export_text(**options)
    assert fitted.export_text(decimals=np.int64(3), max_terms=np.int64(6)) == fitted.export_text()


def test_a_file_gives_an_estimator_that_predicts_the_same(fitted):
    told = json.loads(json.dumps(fitted.export_dict(), allow_nan=False))
    assert told == fitted.export_dict()
    again = type(fitted).from_dict(told)
    new = X + 0.3 * X.std(axis=0) * np.random.default_rng(1).standard_normal(X.shape)
    assert_array_equal(again.predict(new), fitted.predict(new))
    assert again.predict(new).dtype == fitted.predict(new).dtype
    for name in ("apply", "transform", *(["predict_proba"] if hasattr(fitted, "classes_") else [])):
        assert_array_equal(getattr(again, name)(new), getattr(fitted, name)(new))
    for name in ("components_", "thresholds_", "feature_importances_", "n_weights_", "components_standardized_"):
        assert_array_equal(getattr(again, name), getattr(fitted, name))
    assert (again.prototypes_ is None) == (fitted.prototypes_ is None)
    assert again.export_dict() == told
    assert again.export_text() == fitted.export_text()
    assert str(again.explain(new[0])) == str(fitted.explain(new[0]))
    assert again.get_depth() == fitted.get_depth()
    assert_array_equal(again.get_feature_names_out(), fitted.get_feature_names_out())


def test_the_nodes_of_a_file_are_a_tree_in_original_units(fitted):
    told = fitted.export_dict()
    apply = fitted.apply(X)
    for x, leaf in zip(X, apply, strict=True):
        node = told["nodes"][0]
        while node["left"] is not None:
            values = dict(node["terms"])
            if node["rule"] == "linear":
                z = sum(weight * x[int(name[1:])] for name, weight in values.items())
            else:
                terms = zip(node["terms"], node["centers"], strict=True)
                z = -sum((weight * (x[int(name[1:])] - center)) ** 2 for (name, weight), center in terms)
            node = told["nodes"][node["right"] if z > node["threshold"] else node["left"]]
        assert node["id"] == leaf
    assert_allclose([node["n"] for node in told["nodes"]], fitted.tree_.n_node_weight)
    assert told["units"] == "original"
    assert set(told["versions"]) >= {"featlearn", "numpy", "scikit-learn", "python"}


def test_names_of_columns_are_kept():
    frame = pd.DataFrame(X, columns=["age", "weight", "batch", "dose", "days"])
    outputs = pd.DataFrame(OUTPUTS, columns=["cost", "stay"])
    tree = FeatureTreeRegressor(**QUICK).fit(frame, outputs)
    again = FeatureTreeRegressor.from_dict(json.loads(json.dumps(tree.export_dict())))
    assert_array_equal(again.predict(frame), tree.predict(frame))
    assert_array_equal(again.feature_names_in_, tree.feature_names_in_)
    assert again.output_names_ == ("cost", "stay")
    with pytest.raises(ValueError, match="feature names"):
        again.predict(frame[frame.columns[::-1]])
    used = set(re.findall(r"\*(\w+)", tree.export_text(max_terms=None)))
    assert used
    assert used <= set(frame)
    assert re.search(r"value: cost = \S+, stay = \S+", tree.export_text())


def test_what_is_no_tree_of_this_task_is_refused():
    told = FeatureTreeClassifier(**{**QUICK, "max_iter": 0}).fit(X, CODES).export_dict()
    with pytest.raises(DataError, match=r"^Got a tree for classification, but FeatureTreeRegressor"):
        FeatureTreeRegressor.from_dict(told)
    with pytest.raises(DataError, match="no exported tree"):
        FeatureTreeClassifier.from_dict({"nodes": []})
    with pytest.raises(DataError, match="no exported tree"):
        FeatureTreeClassifier.from_dict(json.dumps(told))
    for lost in ("exact", "classes", "selection"):
        with pytest.raises(DataError, match="not whole"):
            FeatureTreeClassifier.from_dict({name: part for name, part in told.items() if name != lost})
    with pytest.raises(DataError, match="not whole"):
        FeatureTreeClassifier.from_dict({**told, "exact": None})
    with pytest.raises(DataError, match="format 2, but this featlearn reads up to 1"):
        FeatureTreeClassifier.from_dict({**told, "version": 2})


def test_a_tree_read_from_a_file_keeps_no_search_and_can_be_fitted_anew():
    tree = FeatureTreeClassifier(**{**QUICK, "max_iter": 0}).fit(X, CODES)
    again = FeatureTreeClassifier.from_dict(tree.export_dict())
    with pytest.raises(DataError, match="keeps no search"):
        again.path_frame()
    again.set_params(**tree.get_params()).fit(X, CODES)
    assert len(again.path_frame().rows) == len(tree.path_frame().rows)
