"""Starts: the kernel's AGOP against autograd and the core's, varimax, directions and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from featlearn.agop.of_kernel import agop_of_expansion
from featlearn.exceptions import DataError
from featlearn.kernels import LaplaceKernel
from featlearn.trees import starts
from featlearn.trees.starts import directions_from_agop, kernel_agop, varimax

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4))
Y = np.eye(3)[RNG.integers(0, 3, 60)]
W = RNG.integers(1, 4, 60).astype(float)
ONE = np.ones(60)


def plain_dual(X, Y, w):
    """Dual coefficients from the formula, with numpy alone."""
    distances = np.sqrt(((X[:, None] - X) ** 2).sum(axis=2))
    gram = np.exp(-distances / (3 * math.sqrt(X.shape[1] / 10)))
    centred = Y - (w[:, None] * Y).sum(axis=0) / w.sum()
    return np.linalg.solve(gram + 0.01 * np.diag(1 / w), centred)


def autograd_agop(X, Y, w):
    """Gradients by autograd, row by row, without the term of the row itself."""
    dual, rows = torch.from_numpy(plain_dual(X, Y, w)), torch.from_numpy(X)
    total = torch.zeros(X.shape[1], X.shape[1], dtype=torch.float64)
    for i in range(len(X)):
        others = torch.arange(len(X)) != i

        def outputs(z, others=others):
            distances = (rows[others] - z).square().sum(dim=1).sqrt()
            return torch.exp(-distances / (3 * math.sqrt(X.shape[1] / 10))) @ dual[others]

        jacobian = torch.autograd.functional.jacobian(outputs, rows[i])
        total += w[i] / w.sum() * jacobian.mT @ jacobian
    return total.numpy()


# the kernel's AGOP ----------------------------------------------------------------------------------------------------


def test_kernel_agop_equals_the_core_on_the_same_fit():
    kernel = LaplaceKernel(3 * math.sqrt(4 / 10))
    x, dual = torch.from_numpy(X), torch.from_numpy(plain_dual(X, Y, ONE))
    core = agop_of_expansion(kernel, None, x, dual, x, rows=torch.arange(60)).matrix.numpy()
    ours = kernel_agop(X, Y, ONE, random_state=0)
    np.testing.assert_allclose(ours, core, rtol=0, atol=1e-10 * np.abs(core).max())


@pytest.mark.parametrize("w", [ONE, W], ids=["unit", "weighted"])
def test_kernel_agop_equals_autograd(w):
    slow = autograd_agop(X, Y, w)
    np.testing.assert_allclose(kernel_agop(X, Y, w, random_state=0), slow, rtol=0, atol=1e-8 * np.abs(slow).max())


def test_a_weight_is_a_repetition():
    weighted = kernel_agop(X, Y, W, random_state=0)
    places = np.repeat(np.arange(60), W.astype(int))
    repeated = kernel_agop(X[places], Y[places], np.ones(len(places)), random_state=0)
    np.testing.assert_allclose(repeated, weighted, rtol=0, atol=1e-8 * np.abs(weighted).max())


def test_rows_of_weight_zero_do_not_count():
    w = np.where(np.arange(60) < 40, 1.0, 0.0)
    np.testing.assert_array_equal(
        kernel_agop(X, Y, w, random_state=0), kernel_agop(X[:40], Y[:40], ONE[:40], random_state=0)
    )
    with pytest.raises(DataError, match="no row of positive weight"):
        kernel_agop(X, Y, 0 * w, random_state=0)


def test_many_rows_are_drawn_by_the_random_state(monkeypatch):
    monkeypatch.setattr(starts, "MAX_ROWS", 30)
    first, again, other = (kernel_agop(X, Y, ONE, random_state=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-6


def test_the_leading_directions_span_a_planted_xor():
    points = np.random.default_rng(1).standard_normal((600, 10))
    labels = (points[:, 0] + points[:, 1] > 0) ^ (points[:, 2] - points[:, 3] > 0)
    truth = np.zeros((2, 10))
    truth[0, :2], truth[1, 2:4] = 1, (1, -1)
    truth /= math.sqrt(2)
    agop = kernel_agop(points, np.eye(2)[labels.astype(int)], np.ones(600), random_state=0)
    plane = directions_from_agop(agop, 2, rotate=None)
    cosines = np.linalg.svd(plane @ truth.T)[1]
    assert cosines.min() > 0.95


# varimax --------------------------------------------------------------------------------------------------------------


def sparse_basis():
    basis = np.zeros((12, 3))
    basis[:3, 0], basis[3:5, 1], basis[5:9, 2] = 1, (1, -1), (1, 1, -1, 1)
    return basis / np.linalg.norm(basis, axis=0)


@pytest.mark.parametrize("seed", range(5))
def test_varimax_recovers_a_mixed_sparse_basis(seed):
    basis = sparse_basis()
    mix = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]
    match = np.abs(basis.T @ varimax(basis @ mix))
    np.testing.assert_allclose(np.sort(match.max(axis=0)), 1, atol=1e-8)
    assert sorted(match.argmax(axis=0)) == [0, 1, 2]


def criterion(L):
    return ((L**2 - (L**2).mean(axis=0)) ** 2).sum()


def test_varimax_rotates_and_no_small_rotation_is_better():
    V = np.linalg.qr(np.random.default_rng(3).standard_normal((8, 3)))[0]
    L = varimax(V)
    np.testing.assert_allclose(L @ L.T, V @ V.T, atol=1e-12)
    assert criterion(L) > criterion(V)
    for plane in ([0, 1], [0, 2], [1, 2]):
        for angle in (-1e-2, 1e-2):
            turn = np.eye(3)
            turn[np.ix_(plane, plane)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            assert criterion(L @ turn) < criterion(L)


# directions -----------------------------------------------------------------------------------------------------------


def test_directions_are_leading_eigenvectors():
    basis = np.linalg.qr(RNG.standard_normal((6, 6)))[0]
    agop = basis @ np.diag([5.0, 4.0, 3.0, 1e-12, 0.0, -1e-14]) @ basis.T
    plain = directions_from_agop(agop, 2, rotate=None)
    np.testing.assert_allclose(np.abs(plain @ basis[:, :2]), np.eye(2), atol=1e-10)
    assert directions_from_agop(agop, 6, rotate=None).shape == (3, 6)  # what has no eigenvalue is no direction
    turned = directions_from_agop(torch.from_numpy(agop), 2)
    np.testing.assert_allclose(turned, varimax(plain.T).T, atol=1e-12)
    np.testing.assert_array_equal(directions_from_agop(agop, 2, rotate="both"), np.concatenate([plain, turned]))


def test_scaled_directions_act_on_inputs_in_their_own_units():
    scale = np.array([1.0, 10.0, 0.1])
    plain = directions_from_agop(np.diag([3.0, 2.0, 1.0]), 3, rotate=None)
    raw = directions_from_agop(np.diag([3.0, 2.0, 1.0]), 3, rotate=None, scale=scale)
    rows = RNG.standard_normal((5, 3)) * scale
    np.testing.assert_allclose(rows @ raw.T, (rows / scale) @ plain.T, rtol=1e-12)


@pytest.mark.parametrize(
    ("agop", "options", "message"),
    [
        (np.ones((2, 3)), {}, r"shape \(2, 3\)"),
        (np.ones(3), {}, r"shape \(3,\)"),
        (np.array([[1.0, 0.1], [0.0, 1.0]]), {}, "differs from its transpose"),
        (np.array([[np.nan, 0.0], [0.0, 1.0]]), {}, "an AGOP with 1 of 4 entries NaN or infinite"),
        ([["a"]], {}, "expected numbers"),
        (1j * np.eye(2), {}, "expected real numbers"),
        (np.zeros((0, 0)), {}, r"shape \(0, 0\)"),
        (np.zeros((2, 2)), {}, "zeros"),
        (-np.eye(2), {}, "positive eigenvalue"),
        (np.eye(2), {"n_directions": 0}, "n_directions=0"),
        (np.eye(2), {"n_directions": 1.5}, "n_directions=1.5"),
        (np.eye(2), {"rotate": "promax"}, "rotate='promax'"),
        (np.eye(2), {"scale": np.ones(3)}, r"scale of shape \(3,\)"),
        (np.eye(2), {"scale": [1.0, 0.0]}, "positive standard deviations"),
        (np.eye(2), {"scale": [1.0, np.inf]}, "scale with 1 of 2 entries NaN or infinite"),
    ],
    ids=[
        "oblong",
        "vector",
        "asymmetric",
        "nan",
        "words",
        "complex",
        "empty",
        "zero",
        "negative",
        "none",
        "half",
        "rotation",
        "width",
        "constant",
        "infinite",
    ],
)
def test_bad_agops_are_refused(agop, options, message):
    with pytest.raises(DataError, match=message):
        directions_from_agop(agop, **options)
