from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featlearn import neural_collapse
from featlearn.exceptions import DataError
from featlearn.measure.collapse import CollapseAccumulator, NeuralCollapse

NUMBERS = ("nc1_trace", "nc1", "nc2", "nc2_orthogonal", "nc3", "ncc")


def clusters(n=60, p=7, classes=4, spread=0.5, seed=0):
    """Features around random class means, classes of different sizes, every class at least twice."""
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(classes), 2), generator.integers(0, classes, n - 2 * classes)])
    features = generator.normal(size=(classes, p))[labels] + spread * generator.normal(size=(n, p))
    return features, labels


def simplex(classes, p, copies=3, seed=0):
    """A simplex of unit vectors in a random subspace, every corner several times."""
    corners = np.eye(classes) - 1 / classes
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(p, classes)))[0]
    corners = corners / np.linalg.norm(corners[0]) @ basis.T
    labels = np.tile(np.arange(classes), copies)
    return corners[labels], labels, corners


def by_definition(features, labels, weight=None):
    """Dense matrices, sample by sample."""
    names = sorted(set(labels.tolist()))
    C, n, p = len(names), *features.shape
    means = np.stack([features[labels == c].mean(axis=0) for c in names])
    center = means.mean(axis=0)
    between = sum(np.outer(m - center, m - center) for m in means) / C
    within = np.zeros((p, p))
    for x, y in zip(features, labels, strict=True):
        within += np.outer(x - means[names.index(y)], x - means[names.index(y)]) / n
    unit = np.stack([(m - center) / np.linalg.norm(m - center) for m in means])
    raw = np.stack([m / np.linalg.norm(m) for m in means])
    ideal = np.where(np.eye(C, dtype=bool), 1.0, -1 / (C - 1))
    nearest = [names[int(np.argmin([np.linalg.norm(x - m) for m in means]))] for x in features]
    cosines = (
        [
            weight[c] @ (m - center) / np.linalg.norm(weight[c]) / np.linalg.norm(m - center)
            for c, m in zip(names, means, strict=True)
        ]
        if weight is not None
        else [math.nan]
    )
    return {
        "nc1_trace": np.trace(within) / np.trace(between),
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / C,
        "nc2": np.mean((unit @ unit.T - ideal) ** 2),
        "nc2_orthogonal": np.mean((raw @ raw.T - np.eye(C)) ** 2),
        "nc3": np.mean(cosines),
        "ncc": np.mean(np.asarray(nearest) == labels),
    }


def assert_numbers(result, expected, tolerance=1e-10, names=NUMBERS):
    for name in names:
        assert getattr(result, name) == pytest.approx(expected[name], rel=tolerance, abs=tolerance, nan_ok=True), name


def streamed(features, labels, size, **options):
    accumulator = CollapseAccumulator(**options)
    for start in range(0, len(features), size):
        accumulator.add(features[start : start + size], labels[start : start + size])
    return accumulator


@pytest.mark.parametrize(("n", "p", "classes"), [(60, 7, 4), (40, 3, 6), (30, 2, 2), (12, 50, 5)])
def test_every_number_equals_its_dense_definition(n, p, classes):
    features, labels = clusters(n, p, classes)
    weight = np.random.default_rng(1).normal(size=(classes, p))
    result = neural_collapse(features, labels, weight=weight)
    assert_numbers(result, by_definition(features, labels, weight))
    assert (result.n_samples, result.n_classes, result.reason) == (n, classes, None)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_perfect_simplex_has_no_distance_from_collapse(classes):
    features, labels, corners = simplex(classes, 16)
    result = neural_collapse(features, labels, weight=5 * corners)
    assert max(result.nc1_trace, result.nc1, result.nc2) < 1e-12
    assert result.nc3 == pytest.approx(1.0, abs=1e-12)
    assert result.ncc == 1.0


def test_orthogonal_class_means_are_collapsed_in_the_orthogonal_sense_too():
    features = 3.0 * np.eye(5)[np.tile(np.arange(5), 2)]
    result = neural_collapse(features, np.tile(np.arange(5), 2))
    assert result.nc2_orthogonal < 1e-15
    assert result.nc2 < 1e-15


def test_without_a_weight_there_is_no_duality():
    assert math.isnan(neural_collapse(*clusters()).nc3)


@given(st.floats(1e-3, 1e3), st.integers(0, 10))
def test_scale_rotation_and_names_of_classes_change_nothing(scale, seed):
    features, labels = clusters(30, 5, 3, seed=seed)
    rotation = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(5, 5)))[0]
    names = np.array([40, -3, 7])
    moved = neural_collapse(scale * features @ rotation, names[labels])
    assert_numbers(moved, neural_collapse(features, labels).to_dict(), 1e-8)


def test_offset_changes_the_orthogonal_form_only():
    features, labels = clusters()
    plain, moved = neural_collapse(features, labels), neural_collapse(features + 10, labels)
    assert_numbers(moved, plain.to_dict(), 1e-9, ("nc1_trace", "nc1", "nc2", "ncc"))
    assert moved.nc2_orthogonal > plain.nc2_orthogonal


@pytest.mark.parametrize("kind", ["array", "tensor", "list", "frame", "single", "half"])
def test_any_kind_of_data_gives_the_same_numbers(kind):
    import pandas as pd

    features, labels = clusters()
    features = features.astype(np.float16).astype(np.float64)  # exact in every dtype below
    given_features, given_labels = {
        "array": (features, labels),
        "tensor": (torch.from_numpy(features).requires_grad_(), torch.from_numpy(labels)),
        "list": (features.tolist(), labels.tolist()),
        "frame": (pd.DataFrame(features), pd.Series(labels)),
        "single": (features.astype(np.float32), labels.astype(np.int8)),
        "half": (torch.from_numpy(features).half(), torch.from_numpy(labels)),
    }[kind]
    assert_numbers(neural_collapse(given_features, given_labels), by_definition(features, labels), 1e-5)


def test_slices_of_one_large_array_change_nothing(monkeypatch):
    features, labels = clusters()
    whole = neural_collapse(features, labels)
    monkeypatch.setattr("featlearn.measure.collapse.SLICE", 30)
    assert_numbers(neural_collapse(features, labels), whole.to_dict(), 1e-12)


# --- streaming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 60])
@pytest.mark.parametrize("keep", [10**6, 200, 0])
def test_stream_equals_the_whole_whether_features_are_kept_or_folded(size, keep):
    features, labels = clusters()
    weight = np.random.default_rng(1).normal(size=(4, 7))
    result = streamed(features, labels, size, keep=keep).finalize(weight)
    expected = by_definition(features, labels, weight)
    if keep < 60 * 7:
        assert "ncc: 60 samples were not kept" in result.reason
        expected["ncc"] = math.nan
    assert_numbers(result, expected)


@pytest.mark.parametrize("keep", [10**6, 250, 0])
def test_merging_in_either_order_equals_the_whole(keep):
    features, labels = clusters(seed=3)
    labels = np.sort(labels)  # the second part brings classes that the first has not seen
    whole = streamed(features, labels, 60, keep=keep).finalize()
    for order in ((0, 1, 2), (2, 1, 0)):
        parts = [streamed(features[20 * i : 20 * i + 20], labels[20 * i : 20 * i + 20], 7, keep=keep) for i in range(3)]
        merged = CollapseAccumulator(keep=keep)
        for i in order:
            assert merged.merge(parts[i]) is merged
        assert_numbers(merged.finalize(), whole.to_dict())
        assert merged.n_samples == 60


def test_merging_leaves_the_other_accumulator_as_it_was():
    features, labels = clusters()
    first, second = (streamed(features[part], labels[part], 30, keep=250) for part in (slice(30), slice(30, 60)))
    before = second.finalize().to_dict()
    first.merge(second)
    assert second.finalize().to_dict() == before


def test_nothing_cancels_at_a_large_offset():
    features, labels = clusters(spread=1e-3)
    exact = neural_collapse(features, labels)
    moved = streamed(features + 1e6, labels, 9, keep=0).finalize()
    assert_numbers(moved, exact.to_dict(), 1e-6, ("nc1_trace", "nc1", "nc2"))


def test_features_too_wide_for_their_second_moment_give_nan_with_a_reason(monkeypatch):
    monkeypatch.setattr("featlearn.measure.collapse.WIDEST", 6)
    features, labels = clusters()
    result = streamed(features, labels, 20, keep=0).finalize()
    assert math.isnan(result.nc1)
    assert math.isnan(result.ncc)
    assert "60 samples of 7 features were not kept" in result.reason
    assert_numbers(result, by_definition(features, labels), names=("nc1_trace", "nc2", "nc2_orthogonal"))


def test_kept_features_do_not_follow_later_changes_of_the_batch():
    features, labels = clusters()
    accumulator = CollapseAccumulator()
    batch = torch.from_numpy(features.copy())
    accumulator.add(batch, labels)
    batch.zero_()
    assert_numbers(accumulator.finalize(), by_definition(features, labels))


# --- refusals and undefined numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.ones((4, 2)), [1, 1, 1, 1], r"one class \(1\)"),
        (np.eye(5), [0, 0, 1, 1, 7], "one sample of class 7"),
        (np.eye(4), [0.0, 0.0, 1.0, 1.0], "labels of dtype float64, but expected integers"),
        (np.eye(4), torch.tensor([0.0, 0.0, 1.0, 1.0]), "labels of dtype torch.float32"),
        (np.eye(4), ["a", "a", "b", "b"], "expected integers"),
        (np.eye(4), [0, 0, 1], r"labels of shape \(3,\), but expected \(4,\)"),
        (np.ones((4, 2, 2)), [0, 0, 1, 1], r"expected \(n, p\)"),
        (np.array([[math.nan], [0.0], [1.0], [1.0]]), [0, 0, 1, 1], "NaN or infinite"),
    ],
)
def test_unusable_data_are_refused(features, labels, message):
    with pytest.raises(DataError, match=message):
        neural_collapse(features, labels)


@pytest.mark.parametrize(
    ("weight", "message"),
    [(np.ones((4, 3)), r"expected \(classes, 7\)"), (np.ones((3, 7)), "labels from 0 to 3 and a weight of 3 rows")],
)
def test_weights_that_do_not_fit_are_refused(weight, message):
    with pytest.raises(DataError, match=message):
        neural_collapse(*clusters(), weight=weight)


def test_accumulator_refuses_nothing_and_batches_of_another_width():
    accumulator = CollapseAccumulator()
    with pytest.raises(DataError, match="no samples"):
        accumulator.finalize()
    accumulator.add(*clusters())
    with pytest.raises(DataError, match="Got 3 features, but expected 7"):
        accumulator.add(*clusters(p=3))
    assert_numbers(accumulator.finalize(), by_definition(*clusters()))


def test_coinciding_class_means_give_nan_with_a_reason():
    features = np.array([[0.1, 0.2], [0.3, 0.4], [0.1, 0.2], [0.3, 0.4]])
    result = neural_collapse(features, [0, 0, 1, 1])
    assert math.isnan(result.nc1_trace)
    assert math.isnan(result.nc1)
    assert math.isnan(result.nc2)
    assert result.reason == "all class means coincide"


def test_class_mean_at_the_global_mean_has_no_direction():
    features = np.array([[-1.0, 0.1], [-1.0, -0.1], [0.0, 0.1], [0.0, -0.1], [1.0, 0.1], [1.0, -0.1]])
    result = neural_collapse(features, [0, 0, 1, 1, 2, 2])
    assert math.isnan(result.nc2)
    assert "mean of one class" in result.reason
    assert result.nc1_trace == pytest.approx(0.01 / (2 / 3))


# --- the result -------------------------------------------------------------------------------------------------------


def test_dictionary_round_trip_and_null_as_nan():
    result = neural_collapse(*clusters(), weight=np.ones((4, 7)))
    assert NeuralCollapse.from_dict(result.to_dict()) == result
    plain = result.to_dict() | {"nc3": None}
    del plain["reason"]
    assert math.isnan(NeuralCollapse.from_dict(plain).nc3)


def test_frame_figure_and_notebook_show_the_numbers():
    from matplotlib import pyplot as plt

    result = neural_collapse(*clusters())
    assert result.frame().loc[0, "nc1"] == result.nc1
    axes = result.plot()
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([result.nc1_trace, result.nc1, result.nc2, result.nc2_orthogonal])
    assert result.plot(ax=axes) is axes
    plt.close(axes.figure)
    assert f"{result.ncc:.3g}" in result._repr_html_()


def test_result_is_frozen():
    with pytest.raises(AttributeError):
        neural_collapse(*clusters()).nc1 = 0.0
