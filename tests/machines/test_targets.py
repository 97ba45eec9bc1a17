"""Coded targets: means, the regular simplex, weights as repeated rows, and labels of every type back again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from cases import normal
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from featlearn.exceptions import DataError
from featlearn.machines.targets import ClassCoding, RegressionCoding
from featlearn.machines.weights import as_weights

LABELS = {
    "text": np.array(["b", "a", "c", "a", "b", "a"]),
    "objects": np.array(["b", "a", "c", "a", "b", "a"], dtype=object),
    "integers": np.array([7, -1, 9, -1, 7, -1]),
    "whole floats": np.array([2.0, 1.0, 3.0, 1.0, 2.0, 1.0]),
    "truth values": np.array([True, False, True, False, False, False]),
    "list": [1, 0, 2, 0, 1, 0],
    "tensor": torch.tensor([1, 0, 2, 0, 1, 0]),
    "category": pd.Series(pd.Categorical(["b", "a", "c", "a", "b", "a"])),
    "pandas text": pd.Series(["b", "a", "c", "a", "b", "a"]),
}


# --- regression


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 3)])
@pytest.mark.parametrize("center", [True, False])
def test_targets_are_centred_and_come_back(shape: tuple[int, ...], center: bool) -> None:
    y, weights = normal(*shape).numpy(), normal(6, seed=4).exp()
    coding = RegressionCoding.fit(y, 6, weights, center=center)
    coded = coding.encode(y, 6)
    assert coded.shape == (6, shape[1] if len(shape) == 2 else 1)
    expected = y.reshape(6, -1) - (np.average(y.reshape(6, -1), axis=0, weights=weights) if center else 0)
    np.testing.assert_allclose(coded, expected, rtol=1e-14, atol=1e-15)
    decoded = coding.decode(coded)
    assert decoded.shape == shape
    np.testing.assert_allclose(decoded, y, rtol=1e-14, atol=1e-15)
    assert coding.decode(coded.float()).dtype == torch.float32


@pytest.mark.parametrize(
    "y",
    [
        [1, 2, 3],
        np.array([1, 2, 3], dtype=np.int32),
        np.array([1, 2, 3], dtype=object),
        pd.Series([1, 2, 3]),
        torch.tensor([1.0, 2.0, 3.0], requires_grad=True),
    ],
    ids=lambda y: type(y).__name__,
)
def test_targets_of_any_kind_are_numbers(y: object) -> None:
    coding = RegressionCoding.fit(y, 3)
    assert coding.mean.tolist() == [2.0]
    assert coding.encode(y, 3)[:, 0].tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed"),
        ([1.0, np.nan, 2.0], "NaN or infinite"),
        ([1.0, np.inf, 2.0], "NaN or infinite"),
        ([1.0, 2.0], "y with 2 rows and X with 3"),
        (np.zeros((3, 2, 2)), "\\(n, outputs\\)"),
        (np.array([1j, 2, 3]), "expected real numbers"),
        (np.array(["a", "b", "c"], dtype=object), "Unknown label type"),
        (np.array(["a", "b", "c"]), "expected numbers"),
    ],
)
def test_targets_that_cannot_be_fitted_are_refused(y: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        RegressionCoding.fit(y, 3)


def test_other_outputs_than_in_fit_are_refused() -> None:
    coding = RegressionCoding.fit(normal(4, 2), 4)
    with pytest.raises(DataError, match="y with 3 outputs, but expected 2"):
        coding.encode(normal(4, 3), 4)


# --- classes


@pytest.mark.parametrize("y", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("coding", ["prevalence", "one_hot"])
def test_labels_of_any_type_come_back(y: object, coding: str) -> None:
    fitted = ClassCoding.fit(y, 6, coding=coding)
    labels = np.asarray(y)
    np.testing.assert_array_equal(fitted.classes, np.unique(labels))
    coded = fitted.encode(y, 6)
    one_hot = (labels[:, None] == fitted.classes).astype(float)
    shift = one_hot.mean(axis=0) if coding == "prevalence" else 0.0
    np.testing.assert_allclose(coded, one_hot - shift, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(fitted.scores(coded), one_hot, atol=1e-15)
    np.testing.assert_array_equal(fitted.decode(coded), labels)
    assert fitted.decode(coded).dtype == fitted.classes.dtype
    np.testing.assert_array_equal(fitted.classes[fitted.indices(y, 6)], labels)


def test_zero_predicts_the_prior_and_ties_go_to_the_first_class() -> None:
    fitted = ClassCoding.fit(["b", "b", "a", "c"], 4)
    assert fitted.scores(torch.zeros(1, 3)).tolist() == [[0.25, 0.5, 0.25]]
    assert fitted.decode(torch.zeros(1, 3)).tolist() == ["b"]
    assert fitted.decode(torch.tensor([[0.25, 0.0, 0.25], [-1.0, 0.0, 0.25]])).tolist() == ["a", "b"]
    uncentred = ClassCoding.fit(["b", "b", "a", "c"], 4, coding="one_hot")
    assert uncentred.decode(torch.zeros(1, 3)).tolist() == ["a"]


def simplex(k: int) -> Tensor:
    """Vertices (k, k - 1) of a regular simplex with edges of length sqrt(2): an orthonormal basis of sum = 0."""
    centred = torch.eye(k, dtype=torch.float64) - 1 / k
    return torch.linalg.svd(centred).U[:, : k - 1]


@pytest.mark.parametrize("k", [2, 3, 7])
def test_prevalence_coding_is_the_simplex_with_the_prior_as_origin(k: int) -> None:
    """Kernel ridge on both codes: the same distances to the classes, the same labels and the same beta beta^T."""
    n = 60
    x, z = normal(n, 4, seed=1), normal(30, 4, seed=2)
    labels = torch.randint(k, (n,), generator=torch.Generator().manual_seed(3))
    labels[:k] = torch.arange(k)
    fitted = ClassCoding.fit(labels, n)
    prior = torch.bincount(labels).double() / n
    vertices = simplex(k)
    kernel, cross = torch.exp(-torch.cdist(x, x)), torch.exp(-torch.cdist(z, x))
    kernel = kernel + 0.1 * torch.eye(n, dtype=torch.float64)
    ours = torch.linalg.solve(kernel, fitted.encode(labels, n))
    theirs = torch.linalg.solve(kernel, (vertices - prior @ vertices)[labels])
    torch.testing.assert_close(ours @ ours.mT, theirs @ theirs.mT, rtol=1e-12, atol=1e-12)
    points = cross @ theirs + prior @ vertices
    # Score k is affine in the projection on vertex k; all scores of a point add to 1.
    decoded = points @ vertices.mT + 1 / k
    scores = fitted.scores(cross @ ours)
    torch.testing.assert_close(scores, decoded, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(30, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    nearest = torch.cdist(points, vertices).argmin(dim=1)
    assert torch.equal(torch.from_numpy(fitted.decode(cross @ ours)), nearest)


@pytest.mark.parametrize("class_weight", [None, "balanced", {"a": 2.0, "b": 0.5}])
def test_weights_are_repeated_rows(class_weight: object) -> None:
    y, repeats = LABELS["text"], np.array([2, 1, 1, 0, 3, 2])
    weighted = ClassCoding.fit(y, 6, as_weights(repeats, 6), class_weight=class_weight)
    repeated = ClassCoding.fit(y.repeat(repeats), repeats.sum(), class_weight=class_weight)
    torch.testing.assert_close(weighted.origin, repeated.origin, rtol=1e-14, atol=0)
    rows = weighted.row_weights(y, 6, as_weights(repeats, 6))
    once = repeated.row_weights(y.repeat(repeats), repeats.sum())
    assert rows is not None
    expected = np.zeros(6) if once is not None else repeats
    if once is not None:
        np.add.at(expected, np.arange(6).repeat(repeats), once.numpy())
    np.testing.assert_allclose(rows, expected, rtol=1e-14)
    # The origin is the mean of the one-hot rows under the weights that the solver gets.
    one_hot = (y[:, None] == weighted.classes).astype(float)
    np.testing.assert_allclose(weighted.origin, np.average(one_hot, axis=0, weights=rows), rtol=1e-14)


def test_class_weights_are_those_of_scikit_learn() -> None:
    y = LABELS["text"]
    for class_weight in ("balanced", {"a": 2.0, "c": 0.1}):
        coding = ClassCoding.fit(y, 6, class_weight=class_weight)
        given = class_weight if class_weight == "balanced" else {"b": 1.0} | class_weight
        np.testing.assert_allclose(coding.factors, compute_class_weight(given, classes=coding.classes, y=y), rtol=1e-14)
    assert ClassCoding.fit(y, 6).row_weights(y, 6) is None


def test_a_class_without_weight_is_no_class() -> None:
    weights = as_weights([1, 1, 0, 1, 1, 1], 6)
    fitted = ClassCoding.fit(LABELS["text"], 6, weights, class_weight="balanced")
    assert fitted.classes.tolist() == ["a", "b"]
    rows = fitted.row_weights(LABELS["text"], 6, weights)
    assert rows is not None
    assert rows.tolist() == [1.25, pytest.approx(5 / 6), 0.0, pytest.approx(5 / 6), 1.25, pytest.approx(5 / 6)]
    assert weights is not None
    assert weights.tolist() == [1, 1, 0, 1, 1, 1]  # those of the caller stay as they were


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed"),
        (["a", "a", "a"], "one class only"),
        ([0.5, 1.5, 0.25], "Unknown label type: continuous"),
        ([1.0, np.nan, 0.0], "1 missing labels"),
        (np.array(["a", None, "b"], dtype=object), "1 missing labels"),
        (pd.Series(["a", None, "b"], dtype="string"), "1 missing labels"),
        ([1.0, np.inf, 0.0], "infinity"),
        (["a", "b"], "y with 2 rows and X with 3"),
        (np.array([1j, 2, 3]), "Complex data not supported"),
    ],
)
def test_labels_that_are_no_classes_are_refused(y: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ClassCoding.fit(y, 3)


def test_a_class_of_weight_zero_does_not_count_as_a_second_one() -> None:
    with pytest.raises(DataError, match="one class only"):
        ClassCoding.fit(["a", "a", "b"], 3, as_weights([1, 1, 0], 3))


def test_labels_in_a_column_are_flattened_with_the_usual_warning() -> None:
    with pytest.warns(DataConversionWarning):
        fitted = ClassCoding.fit(np.array([[0], [1], [1]]), 3)
    assert fitted.origin.tolist() == [pytest.approx(1 / 3), pytest.approx(2 / 3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coding": "simplex"}, "coding='simplex'"),
        ({"class_weight": "even"}, "class_weight='even'"),
        ({"class_weight": {"z": 1.0}}, "the label 'z'"),
        ({"class_weight": {"a": 0.0}}, "positive finite weights"),
        ({"class_weight": {"a": np.nan}}, "positive finite weights"),
    ],
)
def test_options_that_do_not_exist_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ClassCoding.fit(["a", "b", "a"], 3, **change)


def test_labels_that_fit_never_saw_are_named() -> None:
    fitted = ClassCoding.fit(["a", "b"], 2)
    with pytest.raises(DataError, match="the label 'z'"):
        fitted.indices(["a", "z"], 2)
    with pytest.raises(DataError, match="in fit"):
        fitted.indices(np.array([1, 2]), 2)
