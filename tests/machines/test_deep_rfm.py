from __future__ import annotations

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from cases import normal

from featlearn import neural_collapse
from featlearn._random import generator
from featlearn.agop.definition import agop_of_function
from featlearn.datasets import load_fashion_mnist
from featlearn.exceptions import DataError
from featlearn.machines.deep_rfm import (
    DeepRFMResult,
    _RandomFeatures,
    deep_rfm,
    scatter_ratio,
    simplex_distance,
)
from featlearn.report.json import dump_json


def clouds(n: int = 60, d: int = 8, classes: int = 3, seed: int = 0):
    """Overlapping normal clouds of unequal size."""
    labels = torch.arange(n) % (classes + 1) % classes
    return 1.5 * normal(classes, d, seed=seed)[labels] + normal(n, d, seed=seed + 1), labels


X, Y = clouds()
X_TEST, Y_TEST = clouds(40, seed=0)
X_TEST = X_TEST + normal(40, 8, seed=9)


def test_measures_are_those_of_neural_collapse():
    reference = neural_collapse(X, Y)
    assert scatter_ratio(X, Y) == pytest.approx(reference.nc1_trace, rel=1e-12)
    assert simplex_distance(X, Y) == pytest.approx(reference.nc2, rel=1e-12)


def test_measures_of_collapsed_classes_are_zero():
    corners = torch.eye(4, dtype=torch.float64)[Y]
    assert scatter_ratio(corners, Y) == pytest.approx(0, abs=1e-25)
    assert simplex_distance(corners, Y) == pytest.approx(0, abs=1e-25)
    assert math.isnan(scatter_ratio(torch.ones(60, 2), Y))
    assert math.isnan(simplex_distance(torch.ones(60, 2), Y))


@pytest.mark.parametrize("features", ["relu", "cos"])
def test_a_layer_is_interpolation_the_root_of_its_agop_and_random_features(features):
    def unit(rows):
        centred = (rows - X.mean(0)) / X.std(0, correction=0)
        return centred / centred.norm(dim=1, keepdim=True)

    def gram(rows, points):
        # Differences of zero get a gradient of zero.
        squares = (rows[:, None] - points).square().sum(dim=2)
        distances = torch.where(squares > 1e-20, squares, 1.0).sqrt() * (squares > 1e-20)
        return torch.exp(-distances / 1.5)

    rows, points = unit(X), unit(X_TEST)
    dual = torch.linalg.solve(gram(rows, rows), 2 * torch.eye(3, dtype=torch.float64)[Y] - 1)
    agop = agop_of_function(lambda z: gram(z, rows) @ dual, rows)
    values, vectors = torch.linalg.eigh(agop / agop.max())
    seen = rows @ (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
    result = deep_rfm(X, Y, X_test=X_TEST, y_test=Y_TEST, depth=2, width=30, bandwidth=1.5, features=features)
    found, second = result.layers
    expected, after = neural_collapse(rows, Y), neural_collapse(seen, Y)
    assert (found.nc1, found.nc2) == pytest.approx((expected.nc1_trace, expected.nc2), rel=1e-9)
    assert (found.nc1_metric, found.nc2_metric) == pytest.approx((after.nc1_trace, after.nc2), rel=1e-6)
    drawn = _RandomFeatures.drawn(features, 30, rows, 0.05, generator(0, "features", 1))(seen)
    entering = neural_collapse(drawn / drawn.norm(dim=1, keepdim=True), Y)
    drawn_too = neural_collapse(drawn, Y)
    assert (found.nc1_features, found.nc2_features) == pytest.approx((drawn_too.nc1_trace, drawn_too.nc2), rel=1e-6)
    assert (second.nc1, second.nc2) == pytest.approx((entering.nc1_trace, entering.nc2), rel=1e-6)
    accuracy = ((gram(points, rows) @ dual).argmax(dim=1) == Y_TEST).double().mean()
    assert found.test_accuracy == pytest.approx(float(accuracy))


def test_relu_features_are_those_of_uniform_weights():
    drawn = _RandomFeatures.drawn("relu", 4000, X, 0.05, generator(0))
    torch.testing.assert_close(drawn(X), (X @ drawn.weight.mT).relu())
    bound = 1 / math.sqrt(8)
    assert float(drawn.weight.abs().max()) <= bound
    assert float(drawn.weight.mean()) == pytest.approx(0, abs=0.02 * bound)
    assert float(drawn.weight.square().mean()) == pytest.approx(bound**2 / 3, rel=0.02)


def test_inner_products_of_cosine_features_are_a_laplace_kernel_of_l1_distances():
    width, scale = 40_000, 0.2
    features = _RandomFeatures.drawn("cos", width, X, scale, generator(0))(X)
    expected = torch.exp(-scale * torch.cdist(X, X, p=1))
    assert float((features @ features.mT - expected).abs().max()) < 5 / math.sqrt(width)


def test_every_parameter_matters_and_seeds_repeat():
    base = {"depth": 2, "width": 50}
    plain = deep_rfm(X, Y, **base).layers
    assert deep_rfm(X, Y, **base).layers == plain
    for change in (
        {"width": 51}, {"bandwidth": 3.0}, {"features": "cos"}, {"standardize": False}, {"random_state": 1},
    ):  # fmt: skip
        assert deep_rfm(X, Y, **{**base, **change}).layers[1] != plain[1]
    cosines = [deep_rfm(X, Y, **base, features="cos", scale=scale).layers[1] for scale in (0.05, 0.1)]
    assert cosines[0] != cosines[1]
    assert deep_rfm(X, Y, depth=1, width=50).layers == plain[:1]


def test_test_rows_change_nothing_but_accuracy():
    without = deep_rfm(X, Y, depth=2, width=50).frame()
    having = deep_rfm(X, Y, X_test=X_TEST, y_test=Y_TEST, depth=2, width=50).frame()
    assert without["test_accuracy"].isna().all()
    assert having["test_accuracy"].between(0.4, 1).all()
    pd.testing.assert_frame_equal(without.drop(columns="test_accuracy"), having.drop(columns="test_accuracy"))


def test_kinds_of_data_and_labels_do_not_matter():
    names = np.array(["b", "a", "c"])[Y.numpy()]
    plain = deep_rfm(X, Y, depth=2, width=50).layers
    framed = deep_rfm(pd.DataFrame(X.numpy()), list(names), depth=2, width=50).layers
    images = deep_rfm(X.view(60, 2, 2, 2).numpy(), Y.numpy() - 7, depth=2, width=50).layers
    for layer, one, other in zip(plain, framed, images, strict=True):
        assert one.nc1_features == pytest.approx(layer.nc1_features)
        assert other.nc1_features == pytest.approx(layer.nc1_features)


def test_result_as_numbers_table_page_and_figure(tmp_path):
    result = deep_rfm(X, Y, X_test=X_TEST, y_test=Y_TEST, depth=2, width=50)
    assert DeepRFMResult.from_dict(json.loads(dump_json(result.to_dict()))) == result
    frame = result.frame()
    assert list(frame.index) == [1, 2]
    assert frame.loc[2, "nc2_metric"] == result.layers[1].nc2_metric
    result.to_html(tmp_path / "page.html")
    assert "nc1_features" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "nc1_features" in result._repr_html_()
    ax = result.plot()
    curves = {line.get_label(): line.get_ydata() for line in ax.lines}
    expected = frame[["nc1", "nc1_metric", "nc1_features"]].to_numpy().ravel()
    np.testing.assert_allclose(curves["NC1: within over between"], expected)
    assert f"{frame.loc[1, 'test_accuracy']:.3f}" in ax.get_title()
    assert "accuracy" not in deep_rfm(X, Y, depth=1, width=5).plot().get_title()
    plt.close("all")


def test_blank_columns_and_rows_are_no_trouble():
    data = load_fashion_mnist(n=60)
    rows = data.normalized().flatten(1)
    rows[:, 5] = 0.3
    layer = deep_rfm(rows, data.labels, depth=1, width=20).layers[0]
    assert math.isfinite(layer.nc1_features)
    assert layer.nc1_metric < layer.nc1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth=0, but expected a whole number of at least 1"),
        ({"width": 2.5}, r"width=2\.5, but expected a whole number"),
        ({"bandwidth": -1.0}, r"bandwidth=-1\.0, but expected a positive"),
        ({"features": "tanh"}, "features='tanh', but expected one of relu, cos"),
        ({"scale": 0.0}, r"scale=0\.0, but expected a positive finite number"),
        ({"y": Y[:5]}, r"y of shape \(5,\), but expected \(60,\)"),
        ({"y": torch.zeros(60)}, "one class"),
        ({"X": X * math.nan}, "expected finite numbers"),
        ({"X_test": X_TEST}, "X_test or y_test without the other"),
        ({"X_test": X_TEST[:, :3], "y_test": Y_TEST}, "X_test with 3 columns, but expected 8"),
        ({"X_test": X_TEST, "y_test": Y_TEST + 1}, "the class 3 in y_test, which y does not have"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    arguments = {"X": X, "y": Y, **options}
    with pytest.raises(DataError, match=message):
        deep_rfm(arguments.pop("X"), arguments.pop("y"), **arguments)


def test_rows_that_cannot_be_told_apart_are_refused():
    with pytest.raises(DataError, match="layer 1 cannot tell apart"), pytest.warns(match="pseudo_inverse"):
        deep_rfm(torch.ones(6, 3), [0, 1, 0, 1, 0, 1])
