"""Pictures of trees on learned features: bars are the weights, branches the rows, and nothing covers anything."""

from __future__ import annotations

import itertools
import json

import feature_trees
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle

from featlearn.exceptions import DataError
from featlearn.plots.feature_tree import plot_feature_tree, plot_tree_path
from featlearn.plots.palette import ALIGNMENT, CENTERED
from featlearn.plots.tree_rules import condition, leaf_value, shortened, terms_of, three_digits
from featlearn.trees.estimators import FeatureTreeClassifier
from featlearn.trees.path import TreePath
from featlearn.trees.picture import plot_tree


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def told_of(kind: str) -> dict:
    return feature_trees.fitted(kind).export_dict()


def drawn(kind: str, **options):
    """The Axes of a picture."""
    shape = (2, 3) if kind == "pixels" else None
    return plot_feature_tree(told_of(kind), **{"image_shape": shape, **options}).axes[0]


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def splits(told) -> list[dict]:
    return [node for node in told["nodes"] if node["left"] is not None]


def bars(ax, *colors: str) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle) and to_hex(patch.get_facecolor()) in colors]


def test_bars_are_the_standardised_weights_on_one_scale() -> None:
    told = told_of("classes")
    found = bars(drawn("classes"), ALIGNMENT, CENTERED)
    weights = [w for node in _drawing_order(told) for w in node["standardized"]["weights"]]
    assert len(found) == len(weights) > 4
    widths = np.array([bar.get_width() for bar in found])
    np.testing.assert_allclose(widths / np.abs(widths).max(), np.array(weights) / np.abs(weights).max(), atol=1e-12)
    assert [to_hex(bar.get_facecolor()) == ALIGNMENT for bar in found] == [w > 0 for w in weights]


def _drawing_order(told, place: int = 0) -> list[dict]:
    """Rules as the picture draws them: a rule, then what is under yes, then what is under no."""
    node = told["nodes"][place]
    if node["left"] is None:
        return []
    return [node, *_drawing_order(told, node["right"]), *_drawing_order(told, node["left"])]


def test_hidden_terms_are_counted_and_the_largest_are_kept() -> None:
    told = told_of("classes")
    widest = max(splits(told), key=lambda node: len(node["terms"]))
    assert len(widest["terms"]) == 3
    ax = drawn("classes", max_terms=1)
    assert "+ 2 smaller" in texts(ax)
    assert len(bars(ax, ALIGNMENT, CENTERED)) == len(splits(told))
    assert shortened(widest["terms"][0][0], 20) in texts(ax)


@pytest.mark.parametrize("kind", feature_trees.KINDS)
def test_no_box_covers_another_and_every_word_is_inside(kind: str) -> None:
    ax = drawn(kind)
    ax.figure.canvas.draw()
    boxes = [patch.get_window_extent() for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == len(splits(told_of(kind)))
    words = [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(one.overlaps(other) for one, other in itertools.combinations(words, 2))
    whole = ax.figure.bbox
    for box in [*boxes, *words]:
        assert whole.x0 <= box.x0
        assert box.x1 <= whole.x1
        assert whole.y0 <= box.y0
        assert box.y1 <= whole.y1
    leaves = len(told_of(kind)["nodes"]) - len(boxes)
    assert (leaves == 1) == (kind == "leaf")
    if kind == "many":
        assert leaves >= 12


def test_branches_are_as_thick_as_their_share_of_the_rows() -> None:
    told = told_of("classes")
    widths = [patch.get_linewidth() for patch in drawn("classes").patches if isinstance(patch, PathPatch)]
    shares = [
        told["nodes"][node[side]]["n"] / told["nodes"][0]["n"] for node in splits(told) for side in ("left", "right")
    ]
    assert len(widths) == len(shares)
    slope, offset = np.polyfit(sorted(shares), sorted(widths), 1)
    np.testing.assert_allclose(sorted(widths), slope * np.array(sorted(shares)) + offset, atol=1e-9)
    assert slope > 5


def test_thresholds_answers_and_rows_are_written() -> None:
    told, found = told_of("classes"), texts(drawn("classes"))
    assert found.count("yes") == found.count("no") == len(splits(told))
    assert sorted(text for text in found if text.startswith("n = ")) == sorted(f"n = {n['n']:g}" for n in told["nodes"])
    for node in splits(told):
        assert any(text.endswith(condition(node)) for text in found)
        if len(node["terms"]) > 1:
            assert condition(node) == f"sum > {three_digits(node['standardized']['threshold'])}"


def test_yes_is_above_no_and_leads_right() -> None:
    told = told_of("classes")
    ax = drawn("classes")
    leaf = told["nodes"][told["nodes"][0]["right"]]
    n = {text.get_text(): text.get_position() for text in ax.texts if text.get_text().startswith("n = ")}
    root = n[f"n = {told['nodes'][0]['n']:g}"]
    assert n[f"n = {leaf['n']:g}"][0] > root[0]
    assert n[f"n = {leaf['n']:g}"][1] < root[1]  # lengths count from the upper edge


def test_a_rule_of_one_input_says_its_threshold_in_its_own_units() -> None:
    told = told_of("numbers")
    X = feature_trees.rows()
    alone = [node for node in splits(told_of("many")) if len(node["terms"]) == 1]
    assert alone
    for node in alone:
        name, weight = node["terms"][0]
        column = X[:, feature_trees.NAMES.index(name)]
        yes = weight * column > node["threshold"]
        sign, _, number = condition(node).partition(" ")
        assert sign in "<>"
        near = float(number.replace("−", "-"))
        agree = (column > near) == yes if sign == ">" else (column < near) == yes
        assert agree.mean() > 0.97  # three digits
    assert told["task"] == "regression"


def test_a_threshold_far_from_zero_has_the_digits_that_it_needs() -> None:
    near = np.random.default_rng(0).standard_normal(200)
    far = pd.DataFrame({"longitude": -122.3 + 0.05 * near})
    tree = FeatureTreeClassifier(n_init=0, max_depth=1, random_state=0).fit(far, near > 0.3)
    sign, _, number = condition(tree.export_dict()["nodes"][0]).partition(" ")
    assert sign == ">"
    assert abs((float(number.replace("−", "-")) + 122.3) / 0.05 - 0.3) < 0.05


def test_leaves_show_shares_of_classes() -> None:
    told = told_of("classes")
    found = texts(drawn("classes"))
    for node in told["nodes"]:
        if node["left"] is None:
            assert told["outputs"][int(np.argmax(node["value"]))] in found
    assert "100%" in found


def test_leaves_of_numbers_lie_between_the_smallest_and_the_largest() -> None:
    told = told_of("outputs")
    leaves = [node for node in told["nodes"] if node["left"] is None]
    places = np.array([[place for _, _, place in leaf_value(told, node)] for node in leaves])
    values = np.array([node["value"] for node in leaves])
    np.testing.assert_allclose(places, (values - values.min(0)) / np.ptp(values, axis=0), atol=1e-12)
    dots = [line for line in drawn("outputs").lines if line.get_marker() == "o"]
    assert len(dots) == places.size


def test_a_prototype_shows_how_far_one_input_alone_may_be() -> None:
    fitted = feature_trees.fitted("prototype")
    told = fitted.export_dict()
    (node, *_) = splits(told)
    names, inputs = list(told["features"]), fitted.inputs_
    terms, _ = terms_of(node)
    centre = inputs.mean.copy()
    for term in terms:
        place = names.index(term.name)
        centre[place] += inputs.scale[place] * term.center
    for term in terms:
        place = names.index(term.name)
        for side, step in itertools.product((-1, 1), (0.999, 1.001)):
            row = centre.copy()
            row[place] += side * step * term.reach * inputs.scale[place]
            z = fitted.map_.forward(inputs.rows(row[None]))[0, node["feature"]]
            assert (z > node["standardized"]["threshold"]) == (step < 1)
    ax = drawn("prototype")
    assert any(text.startswith("closer than") for text in texts(ax))
    assert len([line for line in ax.lines if line.get_marker() == "o"]) == sum(len(n["terms"]) for n in splits(told))


def test_maps_are_white_where_nothing_counts_and_coloured_by_sign() -> None:
    told = told_of("pixels")
    images = drawn("pixels").images
    rules = _drawing_order(told)
    assert len(images) == len(rules)
    for image, node in zip(images, rules, strict=True):
        colors = np.asarray(image.get_array()).reshape(6, 3).astype(int)
        weights = np.zeros(6)
        weights[node["inputs"]] = node["standardized"]["weights"]
        assert (colors[weights == 0] == 255).all()
        assert (colors[weights > 0, 0] > colors[weights > 0, 2]).all()
        assert (colors[weights < 0, 0] < colors[weights < 0, 2]).all()


def test_prototypes_of_images_are_two_maps() -> None:
    told = told_of("prototype")
    ax = plot_feature_tree(told, image_shape=(2, 2)).axes[0]
    assert len(ax.images) == 2 * len(splits(told))


def test_json_and_the_methods_give_the_same_picture() -> None:
    fitted = feature_trees.fitted("classes")
    again = json.loads(json.dumps(fitted.export_dict()))
    wanted = texts(plot_feature_tree(again).axes[0])
    assert texts(fitted.plot().axes[0]) == texts(plot_tree(fitted).axes[0]) == wanted
    given = Figure()
    assert plot_feature_tree(again, figure=given) is given


def test_what_cannot_be_drawn_is_refused() -> None:
    told = told_of("classes")
    with pytest.raises(DataError, match="export_dict"):
        plot_feature_tree({"nodes": []})
    with pytest.raises(DataError, match="max_terms=0"):
        plot_feature_tree(told, max_terms=0)
    with pytest.raises(DataError, match="9 pixels, but expected 4"):
        plot_feature_tree(told, image_shape=(3, 3))
    with pytest.raises(DataError, match=r"expected \(height, width\)"):
        plot_feature_tree(told, image_shape=(4,))
    with pytest.raises(DataError, match=r"image_shape=4, but expected \(height, width\)"):
        plot_feature_tree(told, image_shape=4)
    assert plt.get_fignums() == []


# --- accuracy against size --------------------------------------------------------------------------------------------


def path() -> TreePath:
    shared = {"kappa": 0.1, "s": 2, "start": "kernel", "route": "direct", "stage": "start", "held_out": None}
    sizes = [(1, 0, 0.5, 0.9), (3, 4, 0.9, 0.3), (3, 6, 0.95, 0.4), (5, 5, 0.8, 0.2)]
    rows = [
        {**shared, "leaves": leaves, "weights": weights, "score": score, "objective": objective, "loss": objective,
         "chosen": place == 3}
        for place, (leaves, weights, score, objective) in enumerate(sizes)
    ]  # fmt: skip
    cart = [{"leaves": n, "weights": n - 1, "score": 0.5 + 0.1 * n / 8} for n in (1, 4, 8, 16)]
    return TreePath(rows, cart, "accuracy", "given rows")


def test_the_curve_shows_all_trees_the_best_of_each_size_cart_and_the_chosen_one() -> None:
    told = path()
    panels = told.plot()
    for ax, key in zip(panels, ("leaves", "weights"), strict=True):
        cart, considered, best, chosen = (np.c_[line.get_data()].tolist() for line in ax.lines)
        assert cart == [[row[key], row["score"]] for row in told.cart]
        assert considered == [[row[key], row["score"]] for row in told.rows]
        assert best == [[told.rows[i][key], told.rows[i]["score"]] for i in (0, 1, 3)]
        assert chosen == [[told.rows[3][key], 0.8]]
        assert ax.get_ylabel() == "accuracy on given rows"
        assert ax.get_xlabel().startswith(key)


def test_one_panel_is_enough_and_cart_is_left_out_where_there_is_none() -> None:
    told = path()
    own = plt.subplots()[1]
    assert plot_tree_path({**told.to_dict(), "cart": []}, told.best_by_leaves(), ax=own) == [own]
    assert len(own.lines) == 3
