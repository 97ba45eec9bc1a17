from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from featlearn.dynamics.condensation import condensation
from featlearn.exceptions import DataError


def grouped(seed=0, n=30, spread=0.02):
    """Three groups of neurons around random lines, both ways."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.standard_normal((5, 3)))[0].T
    group, sign = rng.integers(0, 3, n), rng.choice([-1.0, 1.0], n)
    W = sign[:, np.newaxis] * centres[group] * rng.uniform(0.5, 2.0, (n, 1))
    return W + spread * rng.standard_normal(W.shape), group, sign


def same_partition(first, second):
    return np.array_equal(np.equal.outer(first, first), np.equal.outer(second, second))


def test_lines_and_orientations_of_known_groups():
    W, group, sign = grouped()
    found = condensation(W)
    assert found.n_lines == 3
    assert same_partition(found.lines, group)
    assert same_partition(found.orientations, 2 * group + (sign > 0))
    assert found.lines[np.argmax(np.linalg.norm(W, axis=1))] == 0
    assert found.effective_directions == pytest.approx(3.0, abs=0.4)


@given(st.integers(0, 50))
def test_order_scale_and_rotation_do_not_matter_and_a_sign_changes_the_orientation_only(seed):
    W, _, _ = grouped(seed)
    rng = np.random.default_rng(seed + 1)
    base, order = condensation(W), rng.permutation(len(W))
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    moved = condensation(3.7 * W[order] @ rotation)
    np.testing.assert_array_equal(moved.lines, base.lines[order])
    np.testing.assert_array_equal(moved.orientations, base.orientations[order])
    for name in ("aligned_share", "effective_directions"):
        assert getattr(moved, name) == pytest.approx(getattr(base, name), rel=1e-9)
    flipped = condensation(W * rng.choice([-1.0, 1.0], (len(W), 1)))
    np.testing.assert_array_equal(flipped.lines, base.lines)
    assert flipped.aligned_share == base.aligned_share


def test_the_two_numbers_against_their_definitions():
    rng = np.random.default_rng(0)
    W, a = rng.standard_normal((12, 4)), rng.standard_normal((12, 3))
    found = condensation(W, a, tol=0.5)
    units = W / np.linalg.norm(W, axis=1, keepdims=True)
    mass = np.linalg.norm(W, axis=1) * np.linalg.norm(a, axis=1)
    eigenvalues = np.linalg.eigvalsh(sum(m * np.outer(v, v) for m, v in zip(mass, units, strict=True)) / mass.sum())
    assert found.effective_directions == pytest.approx(1 / np.sum(eigenvalues**2), rel=1e-12)
    pairs = [abs(units[i] @ units[j]) > 0.5 for i in range(12) for j in range(i)]
    assert found.aligned_share == pytest.approx(np.mean(pairs))
    np.testing.assert_allclose(found.mass, mass)


@pytest.mark.parametrize("d", [1, 2, 7])
def test_effective_directions_from_one_to_d(d):
    assert condensation(np.eye(d)).effective_directions == pytest.approx(d)
    assert condensation(np.outer([1.0, -2.0, 0.5], np.arange(1, d + 1))).effective_directions == pytest.approx(1.0)


def test_every_parameter_changes_the_answer():
    W, _, _ = grouped()
    base = condensation(W)
    assert condensation(W, np.arange(len(W)) + 1.0).effective_directions != base.effective_directions
    assert condensation(W, tol=0.99999).n_lines > base.n_lines
    assert (condensation(W, min_norm=0.5).lines < 0).sum() > 0


def test_small_neurons_have_no_line_and_tensors_are_welcome():
    W = torch.tensor([[1.0, 0.0], [0.0, 1e-4], [0.0, 0.0]], requires_grad=True)
    found = condensation(W)
    assert found.lines.tolist() == found.orientations.tolist() == [0, -1, -1]
    assert np.isnan(found.cosine[1]).all()
    assert np.isnan(found.aligned_share)
    assert condensation(W, min_norm=0.0).lines.tolist() == [0, 1, -1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"W": [1.0, 2.0]}, "one row of input weights"),
        ({"W": [[np.nan, 1.0]]}, "W"),
        ({"W": nn.Linear(3, 2)}, r"Got a Linear as W, but expected weights: pass its \.weight"),
        ({"W": [[1.0, 0.0]], "a": nn.Linear(1, 1)}, "Got a Linear as a"),
        ({"W": [[0.0, 0.0]]}, "all zero"),
        ({"W": [[1.0, 0.0]], "a": [0.0]}, "all zero"),
        ({"W": [[1.0, 0.0]], "a": [1.0, 2.0]}, "one row for each"),
        ({"W": [[1.0, 0.0]], "tol": 1.0}, "tol"),
        ({"W": [[1.0, 0.0]], "min_norm": 1.0}, "min_norm"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        condensation(**arguments)


def test_tables_and_figure():
    W, group, _ = grouped()
    found = condensation(W)
    frame = found.frame()
    counts = np.sort(frame["along"] + frame["against"])
    np.testing.assert_array_equal(counts, np.sort(np.bincount(group)))
    assert frame["share"].sum() == pytest.approx(1.0)
    assert found.to_dict()["n_orientations"] == found.n_orientations
    ax = found.plot()
    shown = np.asarray(ax.images[0].get_array())
    assert len(ax.patches) == 3
    sizes = np.bincount(found.lines)
    assert (np.abs(shown[: sizes[0], : sizes[0]]) > 0.95).all()
    assert (np.abs(shown[: sizes[0], sizes[0] :]) < 0.3).all()
    assert "in effect" in found._repr_html_()


@pytest.mark.parametrize("unit", [1e-300, 1e300])
def test_the_unit_of_the_weights_does_not_matter(unit):
    rows = np.array([[2.0, 0.0], [-1.0, 0.1], [0.0, 1.0], [1e-3, 1e-3]])
    found, plain = condensation(unit * rows), condensation(rows)
    np.testing.assert_array_equal(found.orientations, plain.orientations)
    np.testing.assert_allclose(found.mass, unit * plain.mass, rtol=1e-12)
    assert found.effective_directions == pytest.approx(plain.effective_directions, rel=1e-12)
