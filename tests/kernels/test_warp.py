from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from cases import normal
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from featlearn.kernels import ColumnWarp


def learned(pieces: int = 6, power: float = 1.5) -> tuple[ColumnWarp, torch.Tensor]:
    x, squares = normal(80, 3, seed=1), normal(80, 3, seed=2) ** 2
    return ColumnWarp.identity(x, pieces).learned(x, squares, power), x


def test_a_new_warp_is_the_identity_up_to_a_shift():
    x = normal(50, 4)
    warp = ColumnWarp.identity(x)
    torch.testing.assert_close(warp(x), x - x.amin(dim=0))
    torch.testing.assert_close(warp.derivative(x), torch.ones_like(x))


def test_knots_of_a_column_with_few_values_are_its_values():
    x = torch.tensor([[0.0], [1.0], [1.0], [3.0]], dtype=torch.float64)
    assert ColumnWarp.identity(x, pieces=5).knots.tolist() == [[0.0, 1.0, 3.0, 3.0, 3.0, 3.0]]


def test_knots_lie_at_quantiles_of_the_data():
    x = normal(1001, 1, seed=3)
    knots = ColumnWarp.identity(x, pieces=4).knots[0].numpy()
    np.testing.assert_allclose(knots, np.quantile(x.numpy(), [0, 0.25, 0.5, 0.75, 1]))


@pytest.mark.parametrize("value", [-4.0, -0.3, 0.2, 0.9, 5.0])
def test_the_warp_is_the_integral_of_its_derivative(value):
    warp, x = learned()
    start = x.amin(dim=0)
    for column in range(3):

        def slope(t, column=column):
            return float(warp.derivative(torch.full((1, 3), t, dtype=torch.float64))[0, column])

        knots = np.clip(warp.knots[column].numpy(), *sorted((float(start[column]), value)))
        integral = quad(slope, float(start[column]), value, points=np.unique(knots), limit=200)[0]
        found = float(warp(torch.full((1, 3), value, dtype=torch.float64))[0, column])
        assert found == pytest.approx(integral, rel=1e-7, abs=1e-7)


def test_on_a_knot_the_derivative_is_the_mean_of_both_sides():
    warp, _ = learned()
    knot = warp.knots[:, 2]
    sides = [warp.derivative((knot + step)[None]) for step in (-1e-9, 1e-9)]
    torch.testing.assert_close(warp.derivative(knot[None]), (sides[0] + sides[1]) / 2)


def test_squared_slopes_are_shrunk_conditional_means():
    x, squares = normal(80, 1, seed=1), normal(80, 1, seed=2) ** 2
    warp = ColumnWarp.identity(x, 5).learned(x, squares, power=2.0, prior=7.0)
    knots, wanted, counts = warp.knots[0].tolist(), [], []
    for low, high in itertools.pairwise(knots):
        # Points on a knot count half on either side, and double in all.
        weights = [(low < v < high) * 2 + (v == low) + (v == high) for v in x[:, 0].tolist()]
        weights = [
            w + (v == low == knots[0]) + (v == high == knots[-1])
            for w, v in zip(weights, x[:, 0].tolist(), strict=True)
        ]
        counts.append(sum(weights))
        total = sum(w * s for w, s in zip(weights, squares[:, 0].tolist(), strict=True))
        wanted.append((total + 7 * float(squares.mean())) / (counts[-1] + 7) / float(squares.mean()))
    slopes = np.array(wanted) + 1e-6
    slopes /= np.sqrt((slopes**2 * counts).sum() / sum(counts))
    np.testing.assert_allclose(warp.slopes[0].numpy(), slopes, rtol=1e-12)


def test_columns_of_two_values_are_left_alone():
    x = torch.stack([normal(30, seed=1), (normal(30, seed=2) > 0).double(), torch.zeros(30)], dim=1)
    warp = ColumnWarp.identity(x, 4).learned(x, normal(30, 3, seed=3) ** 2, power=1.0)
    assert warp.columns.tolist() == [0]
    assert torch.equal(warp(x)[:, 1:], x[:, 1:])
    assert torch.equal(warp.derivative(x)[:, 1:], torch.ones(30, 2, dtype=torch.float64))


def test_power_zero_is_the_identity():
    warp, _ = learned(power=0.0)
    torch.testing.assert_close(warp.slopes, torch.ones_like(warp.slopes))


def test_a_column_without_gradient_keeps_its_shape():
    x = normal(40, 2)
    squares = torch.stack([normal(40, seed=5) ** 2, torch.zeros(40, dtype=torch.float64)], dim=1)
    slopes = ColumnWarp.identity(x, 4).learned(x, squares, power=1.0).slopes
    torch.testing.assert_close(slopes[1], torch.ones(4, dtype=torch.float64), rtol=1e-5, atol=0)


def test_a_step_becomes_the_steepest_piece():
    x = torch.linspace(-1, 1, 400, dtype=torch.float64)[:, None]
    slope = 1 / (0.1 + x.abs())  # a function that rises mostly around 0
    warp = ColumnWarp.identity(x, 10).learned(x, slope**2, power=1.0)
    assert int(warp.slopes[0].argmax()) in (4, 5)
    assert float(warp.slopes.max() / warp.slopes.min()) > 3


@given(st.integers(1, 30), st.integers(2, 40), st.integers(0, 1000))
def test_warps_keep_the_order_of_values(pieces, n, seed):
    x = normal(n, 2, seed=seed)
    warp = ColumnWarp.identity(x, pieces).learned(x, normal(n, 2, seed=seed + 1) ** 2, power=1.0)
    order = x.argsort(dim=0)
    assert (warp(x).gather(0, order).diff(dim=0) > 0).all()


def test_repeated_values_and_single_values_do_no_harm():
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]], dtype=torch.float64)
    warp = ColumnWarp.identity(x, 4).learned(x, torch.ones_like(x), power=1.0)
    assert warp(x).isfinite().all()
    assert warp(torch.tensor([[9.0, -9.0]], dtype=torch.float64)).isfinite().all()
