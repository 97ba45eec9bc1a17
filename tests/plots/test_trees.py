"""The figure of a tree: what boxes say, and that none covers another."""

from __future__ import annotations

import itertools
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.offsetbox import AnnotationBbox, TextArea
from sklearn.linear_model import LinearRegression

from featlearn.exceptions import DataError
from featlearn.machines import RFMClassifier, RFMRegressor
from featlearn.machines.tree import RFMTreeClassifier, RFMTreeRegressor
from featlearn.plots.trees import plot_tree

FAST = {"kernel": "laplace", "alpha": 1e-2, "max_iter": 1, "selection": None}
MINUS = "\N{MINUS SIGN}"
X = np.random.default_rng(0).normal(size=(600, 4))
Y = X[:, 0] * 2 - X[:, 1] + 0.1 * X[:, 2] ** 2


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def texts(ax):
    """Lines of every box."""
    boxes = [artist for artist in ax.artists if isinstance(artist, AnnotationBbox)]
    return [[part.get_text() for part in box.offsetbox.get_children() if isinstance(part, TextArea)] for box in boxes]


def regressor(most=80, **parameters):
    return RFMTreeRegressor(LinearRegression(), max_leaf_size=most, random_state=0, **parameters)


def long_names():
    names = ["median_income_of_the_district", "price in $ or € (which $?)", "a_column_with_a_long_name", "x" * 60]
    return pd.DataFrame(X, columns=names)


@pytest.mark.parametrize("max_depth", [1, 3])
@pytest.mark.parametrize("most", [80, 30])
def test_no_box_covers_another_or_leaves_the_figure(most, max_depth):
    own = plt.subplots(figsize=(9, 5), layout="constrained")[1]
    ax = regressor(most).fit(long_names(), Y * 1e6).plot_tree(own, max_depth)
    ax.figure.canvas.draw()
    boxes = [artist.get_window_extent() for artist in ax.artists]
    assert len(boxes) == 2 ** (max_depth + 1) - 1
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    whole = ax.figure.bbox
    assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 for box in boxes)
    assert all(whole.y0 <= box.y0 and box.y1 <= whole.y1 for box in boxes)


def test_a_full_tree_of_depth_three_has_nine_by_five_inches():
    ax = regressor().fit(X, Y).plot_tree()
    assert ax.figure.get_size_inches().tolist() == [9.0, 5.0]
    assert ax.get_title(loc="left").startswith("600 rows in 8 leaves")


def test_signs_are_those_of_the_split_so_that_up_is_above_the_threshold():
    tree = regressor(300).fit(X, Y)
    root, low, high = texts(tree.plot_tree())
    assert [line[:1] for line in root[1:3]] == ["+", MINUS]
    assert root[0] == "600 rows"
    above = X @ np.array([2.0, -1, 0, 0]) > 0
    assert np.mean(tree.leaf_of(X)[above] == 1) > 0.9
    assert low[0] == high[0] == "300 rows"
    assert float(high[1].removeprefix("mean ")) > 0 > float(low[1].removeprefix("mean ").replace(MINUS, "-"))


def test_signs_hold_whatever_the_spread_of_the_columns():
    for seed in range(8):
        slopes = np.random.default_rng(seed).normal(size=4)
        tree = regressor(300).fit(X, X @ slopes)
        (node,) = tree.to_dict()["nodes"]
        spread = tree.routing_.columns.spread.numpy()
        np.testing.assert_array_equal(np.sign(node["direction"]), np.sign(tree.nodes_[0].direction.numpy() * spread))


def test_categories_have_no_sign():
    frame = pd.DataFrame(X[:, :2], columns=["a", "b"]).assign(kind=np.where(X[:, 2] > 0, "one", "other"))
    leaf = RFMRegressor(**FAST)
    tree = RFMTreeRegressor(leaf, max_leaf_size=300, random_state=0).fit(frame, 3 * (frame["kind"] == "one") + Y * 0.3)
    assert tree.to_dict()["unordered"] == ["kind"]
    (line,) = [line for line in texts(tree.plot_tree())[0] if "kind" in line]
    assert line[:1] not in ("+", MINUS)


def test_leaves_of_classes_show_the_largest_share():
    labels = np.where(Y > 0, "dear", "cheap")
    tree = RFMTreeClassifier(RFMClassifier(**FAST), max_leaf_size=300, random_state=0).fit(X, labels)
    shares = [np.mean(labels[tree.leaf_of(X) == leaf] == name) for leaf, name in ((0, "cheap"), (1, "dear"))]
    assert [lines[1] for lines in texts(tree.plot_tree())[1:]] == [f"{shares[0]:.0%} cheap", f"{shares[1]:.0%} dear"]


def test_what_is_deeper_is_one_box_with_all_its_leaves():
    tree = regressor().fit(X, Y)
    boxes = texts(tree.plot_tree(max_depth=1))
    assert [lines[0] for lines in boxes[1:]] == ["300 rows in 4 leaves"] * 2
    ends = [[leaf for leaf in tree.leaves_ if bin(leaf.heap).startswith(start)] for start in ("0b10", "0b11")]
    means = [np.average([float(leaf.mean) for leaf in side], weights=[leaf.n for leaf in side]) for side in ends]
    assert [lines[1].replace(MINUS, "-") for lines in boxes[1:]] == [f"mean {mean:#.3g}" for mean in means]
    assert texts(tree.plot_tree(max_depth=0))[0][0] == "600 rows in 8 leaves"


def test_means_are_those_of_the_training_targets_of_a_leaf():
    weights = np.random.default_rng(1).uniform(0.5, 2, 600)
    tree = regressor().fit(X, Y, sample_weight=weights)
    for leaf, told in enumerate(tree.to_dict()["leaves"]):
        own = tree.leaf_of(X) == leaf
        np.testing.assert_allclose(told["mean"], [np.average(Y[own], weights=weights[own])], rtol=1e-9)
        assert told["rows"] == own.sum()


def test_a_tree_of_one_leaf_and_one_of_several_outputs_are_drawn():
    assert texts(regressor(1000).fit(X, Y).plot_tree())[0][0] == "600 rows"
    lines = texts(regressor(300).fit(X, np.c_[Y, Y, Y]).plot_tree())[1]
    assert lines[1].startswith("means ")
    assert lines[1].endswith(", …")


def test_plain_values_survive_json_and_are_drawn_alike():
    tree = RFMTreeRegressor(RFMRegressor(**FAST), max_leaf_size=200, random_state=0).fit(X, Y)
    told = tree.to_dict()
    again = json.loads(json.dumps(told, allow_nan=False))
    assert again == told
    assert again["leaves"][0]["chosen"]["kernel"] == "laplace"
    assert texts(plot_tree(again)) == texts(tree.plot_tree())
    assert regressor().fit(X, Y).to_dict()["importances"] is None  # of leaves that have none


def test_what_is_no_tree_is_refused():
    with pytest.raises(DataError, match="to_dict"):
        plot_tree({"machine": "RFMRegressor"})
    with pytest.raises(DataError, match="max_depth=-1"):
        regressor().fit(X, Y).plot_tree(max_depth=-1)
