from __future__ import annotations

import math

import pytest
import torch
from cases import normal

from featlearn.agop import of_kernel
from featlearn.agop.definition import agop_of_function
from featlearn.agop.of_kernel import agop_of_expansion, principal_outputs
from featlearn.exceptions import DataError
from featlearn.kernels import ArcCosNTK, GaussianKernel, LaplaceKernel, LpqKernel, Metric, QuadraticKernel

KERNELS = [
    LaplaceKernel(2.0),
    GaussianKernel(1.5),
    LpqKernel(3.0),
    QuadraticKernel(),
    QuadraticKernel(general=True),
    ArcCosNTK(2),
]
FACTORS = {"thin": normal(5, 3, seed=7), "diagonal": normal(5, seed=8), "none": None}


@pytest.fixture
def data():
    return normal(30, 5, seed=1), normal(30, 4, seed=2), normal(12, 5, seed=3)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_equals_the_agop_of_the_same_function_by_autograd(kernel, factor, center, data):
    x, dual, z = data
    metric = Metric(kernel, FACTORS[factor])
    expected = agop_of_function(lambda points: metric.definition(x, points).mT @ dual, z, center_gradients=center)
    found = agop_of_expansion(kernel, FACTORS[factor], x, dual, z, center=center)
    torch.testing.assert_close(found.matrix, expected, rtol=1e-9, atol=1e-11)
    assert found.n_points == 12


def test_a_kernel_with_its_metric_needs_no_factor(data):
    x, dual, z = data
    kernel, factor = LaplaceKernel(2.0), FACTORS["thin"]
    inside = agop_of_expansion(Metric(kernel, factor), None, x, dual, z)
    torch.testing.assert_close(inside.matrix, agop_of_expansion(kernel, factor, x, dual, z).matrix)


@pytest.mark.parametrize("diagonal", [False, True])
def test_slabs_change_nothing(diagonal, data, monkeypatch):
    x, dual, z = data
    whole = agop_of_expansion(LaplaceKernel(2.0), None, x, dual, z, diagonal=diagonal)
    monkeypatch.setattr(of_kernel, "SLAB", 400)
    parts = agop_of_expansion(LaplaceKernel(2.0), None, x, dual, z, diagonal=diagonal)
    torch.testing.assert_close(parts.matrix, whole.matrix, rtol=1e-12, atol=0)


def test_diagonal_is_the_diagonal(data):
    x, dual, z = data
    full = agop_of_expansion(LaplaceKernel(2.0), None, x, dual, z, center=True).matrix
    part = agop_of_expansion(LaplaceKernel(2.0), None, x, dual, z, center=True, diagonal=True).matrix
    torch.testing.assert_close(part, full.diagonal(), rtol=1e-10, atol=1e-12)


def test_outside_the_blocks_is_zero(data):
    x, dual, z = data
    blocks = [torch.tensor([0, 3]), torch.tensor([1, 2])]
    full = agop_of_expansion(LaplaceKernel(2.0), None, x, dual, z).matrix
    kept = agop_of_expansion(LaplaceKernel(2.0), None, x, dual, z, blocks=blocks).matrix
    for i in range(5):
        for j in range(5):
            together = any(i in block and j in block for block in blocks)
            assert kept[i, j] == (full[i, j] if together else 0)


@pytest.mark.parametrize("kernel", [LaplaceKernel(2.0), QuadraticKernel()], ids=repr)
def test_a_weight_of_two_is_a_point_given_twice(kernel, data):
    x, dual, z = data
    weights = torch.ones(12, dtype=torch.float64)
    weights[4] = 2
    twice = torch.cat([z, z[4:5]])
    found = agop_of_expansion(kernel, None, x, dual, z, weights=weights, center=True).matrix
    torch.testing.assert_close(found, agop_of_expansion(kernel, None, x, dual, twice, center=True).matrix)


def test_rotated_outputs_have_the_same_agop(data):
    x, dual, z = data
    rotation = torch.linalg.qr(normal(4, 4, seed=9)).Q
    first = agop_of_expansion(LaplaceKernel(2.0), None, x, dual, z).matrix
    torch.testing.assert_close(agop_of_expansion(LaplaceKernel(2.0), None, x, dual @ rotation, z).matrix, first)


def test_centred_classes_have_one_output_less():
    labels = torch.arange(30) % 5
    targets = torch.nn.functional.one_hot(labels).double()
    dual = normal(30, 30, seed=4) @ (targets - targets.mean(dim=0))
    reduced = principal_outputs(dual)
    assert reduced.shape == (30, 4)
    torch.testing.assert_close(reduced @ reduced.mT, dual @ dual.mT)


def test_training_points_leave_their_own_term_out(data):
    x, dual, _ = data
    rows = torch.tensor([3, 7, 20])
    found = agop_of_expansion(LaplaceKernel(2.0), None, x, dual, x[rows], rows=rows).matrix
    total = torch.zeros(5, 5, dtype=torch.float64)
    for row in rows.tolist():
        others = [i for i in range(30) if i != row]
        total += agop_of_expansion(LaplaceKernel(2.0), None, x[others], dual[others], x[[row]]).matrix / 3
    torch.testing.assert_close(found, total)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("kernel", [LaplaceKernel(2.0), LaplaceKernel(2.0, 0.7), GaussianKernel(1.5)], ids=repr)
def test_the_kernel_matrix_gives_the_same_agop(kernel, factor, monkeypatch):
    monkeypatch.setattr("featlearn.kernels.base.TILE", 13)
    x, dual = normal(30, 5, seed=1), normal(30, 4, seed=2)
    metric = Metric(kernel, FACTORS[factor])
    gram = metric.matrix(x, x)
    before, rows = gram.clone(), torch.arange(30)
    expected = agop_of_expansion(kernel, FACTORS[factor], x, dual, x, rows=rows, center=True).matrix
    found = agop_of_expansion(kernel, FACTORS[factor], x, dual, x, rows=rows, center=True, gram=gram).matrix
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    assert torch.equal(gram, before)


def test_standard_error_is_the_spread_over_draws():
    x, dual = normal(400, 3, seed=5), normal(400, 2, seed=6)
    kernel = LaplaceKernel(2.0)
    whole = agop_of_expansion(kernel, None, x, dual, x, rows=torch.arange(400))
    assert whole.standard_error == 0.0
    generator = torch.Generator().manual_seed(0)
    errors, claimed = [], []
    for _ in range(300):
        rows = torch.randperm(400, generator=generator)[:50]
        drawn = agop_of_expansion(kernel, None, x, dual, x[rows], rows=rows)
        errors.append(float((drawn.matrix - whole.matrix).square().sum()))
        claimed.append(drawn.standard_error)
    found = math.sqrt(sum(errors) / len(errors)) / float(whole.matrix.norm())
    assert found == pytest.approx(sum(claimed) / len(claimed), rel=0.1)


def test_refusals(data):
    x, dual, z = data
    with pytest.raises(DataError, match="Got no points"):
        agop_of_expansion(LaplaceKernel(1.0), None, x, dual, z[:0])
    with pytest.raises(DataError, match="positive sum"):
        agop_of_expansion(LaplaceKernel(1.0), None, x, dual, z, weights=torch.zeros(12))
