from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featlearn.dynamics.hyperbola import Hyperbola
from featlearn.dynamics.phase_slope import kernel_regime_of, phase_slope, regime_of
from featlearn.exceptions import ConvergenceWarning, DataError, RegimeWarning

exponents = st.floats(-2.0, 3.0)


@pytest.mark.parametrize(
    ("place", "regime", "slope"),
    [
        ((0.5, 0.0), "linear", -0.5),
        ((0.5, 0.5), "linear", -1.5),
        ((1.0, 0.0), "critical", 0.0),
        ((1.0, -0.7), "critical", 0.0),
        ((1.5, 0.5), "critical", 0.0),
        ((1.5, 0.0), "condensed", 0.25),
        ((1.2, -0.5), "condensed", 0.2),
        ((0.75, 0.5), "linear", -1.25),
        ((1.5, 1.0), "linear", -1.0),
        ((1.0 + 0.1 * 3, 0.3), "critical", 0.0),
    ],
)
def test_regimes_and_slopes_of_known_points(place, regime, slope):
    found = regime_of(*place)
    assert str(found[0]) == regime
    assert float(found[1]) == pytest.approx(slope, abs=1e-12)


@given(exponents, exponents, st.floats(-1e-3, 1e-3), st.floats(-1e-3, 1e-3))
def test_the_slope_has_no_jump_and_the_sign_of_its_regime(gam, gamp, right, up):
    here, there = regime_of(gam, gamp), regime_of(gam + right, gamp + up)
    assert abs(here[1] - there[1]) <= 2 * (abs(right) + abs(up)) + 1e-8
    assert {"linear": -1, "critical": 0, "condensed": 1}[str(here[0])] == np.sign(here[1])


def test_both_broadcast():
    gam, gamp = np.linspace(0.0, 2.0, 5), np.linspace(-1.0, 1.0, 3)[:, np.newaxis]
    for rule in (regime_of, kernel_regime_of):
        regime, slope = rule(gam, gamp)
        assert regime.shape == slope.shape == (3, 5)
        one = rule(gam[3], gamp[1, 0])
        assert (str(one[0]), float(one[1])) == (str(regime[1, 3]), float(slope[1, 3]))


@pytest.mark.parametrize("place", [(0.5, 0.0), (1.25, -0.5), (1.25, 0.5), (2.0, -0.3), (2.0, 0.4), (1.5, 0.5)])
def test_kernel_exponents_are_those_of_the_exact_linear_network(place):
    gam, gamp = place
    m = np.array([1e6, 1e8])
    kappa, ratio = m**-gam, m**-gamp  # b1 b2 / alpha and b1 / b2; b2 = 1
    b1, alpha = ratio, ratio / kappa
    exact = Hyperbola(0.0, m * (b1**2 + 1) / alpha**2, 2 / alpha, 1.0).rho
    regime, slope = kernel_regime_of(gam, gamp)
    assert np.log(exact[1] / exact[0]) / np.log(100.0) == pytest.approx(float(slope), abs=0.02)
    assert (exact[1] < 1e-2, exact[1] > 1e2) == (str(regime) == "frozen", str(regime) == "growing")


def original_network(gam, gamp, a, w, inputs, targets, loss):
    """RD and kernel change of the unscaled network: gradient descent in small steps, tangent kernel by autograd."""
    m = len(a)
    b1 = float(m) ** -gamp
    alpha = b1 * float(m) ** gam
    x, y = torch.tensor(inputs), torch.tensor(targets)

    def output(A, W):
        return A @ torch.relu(W @ x.T) / alpha

    def kernel(*weights):
        jacobians = torch.autograd.functional.jacobian(output, weights)
        flat = torch.cat([jacobian.reshape(len(y), -1) for jacobian in jacobians], dim=1)
        return flat @ flat.T

    start = torch.tensor(b1 * a), torch.tensor(w)
    A, W = (weight.clone().requires_grad_() for weight in start)
    step = 0.05 / float(torch.linalg.eigvalsh(kernel(*start))[-1])
    while (error := ((output(A, W) - y) ** 2).mean() / 2) > loss:
        gradients = torch.autograd.grad(error, (A, W))
        with torch.no_grad():
            A -= step * gradients[0]
            W -= step * gradients[1]
    A, W = A.detach(), W.detach()
    moved = (W - start[1]).norm() / start[1].norm()
    before, after = kernel(*start), kernel(A, W)
    return float(moved), float((after - before).norm() / before.norm())


@pytest.mark.parametrize("place", [(0.5, -0.3), (0.5, 0.3)])
def test_rd_and_kernel_change_are_those_of_the_network_before_any_rescaling(place):
    X, y = np.array([-1.0, 0.2, 0.8]), np.array([0.5, -0.2, 0.3])
    found = phase_slope(*place, (32, 48), X=X, y=y, n_repeats=1, loss=3e-2, random_state=0)
    rng = np.random.default_rng(0)
    inputs = np.stack([X, np.ones(3)], axis=1)
    for i, width in enumerate((32, 48)):
        a, w = rng.standard_normal(width // 2), rng.standard_normal((width // 2, 2))
        expected = original_network(*place, np.concatenate([a, -a]), np.concatenate([w, w]), inputs, y, 3e-2)
        assert (found.rd[i, 0], found.kernel_change[i, 0]) == pytest.approx(expected, rel=2e-2)


SHORT = {"widths": (16, 32), "n_repeats": 2, "loss": 5e-2, "random_state": 3}


def test_every_parameter_changes_the_answer_and_a_seed_repeats_it():
    base = phase_slope(0.5, 0.0, **SHORT)
    np.testing.assert_array_equal(base.rd, phase_slope(0.5, 0.0, **SHORT).rd)
    X, y = [[-1.0], [0.5]], [0.2, -0.3]
    for change in (
        {"widths": (16, 48)},
        {"n_repeats": 3},
        {"loss": 4e-2},
        {"random_state": 1},
        {"X": X, "y": y, "loss": 1e-2},
    ):
        assert phase_slope(0.5, 0.0, **(SHORT | change)).slope != base.slope
    assert phase_slope(0.6, 0.0, **SHORT).slope != base.slope
    assert phase_slope(0.5, 0.1, **SHORT).slope != base.slope


def test_a_run_that_gives_up_is_left_out_with_a_warning():
    with pytest.warns(ConvergenceWarning, match="4 of 4 runs"):
        stuck = phase_slope(0.5, 0.0, **SHORT, max_steps=1)
    assert np.isnan(stuck.slope)
    assert not stuck.reached.any()


def test_wide_stiff_points_warn_before_they_run():
    with pytest.warns(ConvergenceWarning), pytest.warns(RegimeWarning, match="stiff"):
        phase_slope(1.5, -0.5, (16, 514), n_repeats=1, max_steps=1, random_state=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gam": np.nan}, "gam"),
        ({"gam": [0.5, 1.0]}, "one exponent"),
        ({"widths": (32,)}, "widths"),
        ({"widths": (7, 16)}, "even"),
        ({"n_repeats": 0}, "n_repeats"),
        ({"loss": 0.0}, "loss"),
        ({"max_steps": 1.5}, "max_steps"),
        ({"X": [[1.0]]}, "both or neither"),
        ({"X": [[1.0]], "y": [1.0, 2.0]}, "shape"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        phase_slope(**({"gam": 0.5, "gamp": 0.0} | arguments))


def test_tables_and_figure():
    found = phase_slope(0.5, 0.0, **SHORT)
    frame = found.frame()
    assert frame.groupby("width")["rd"].mean().to_numpy() == pytest.approx(found.rd.mean(axis=1))
    plain = found.to_dict()
    assert (plain["widths"], plain["regime"], len(plain["rd"])) == ([16, 32], "linear", 2)
    ax = found.plot()
    drawn = {tuple(np.round(xy, 9)) for line in ax.lines for xy in line.get_xydata()}
    assert {(16.0, round(value, 9)) for value in found.rd[0]} <= drawn
    assert f"{found.slope:+.2f}" in ax.get_legend().get_texts()[0].get_text()
    assert "linear" in found._repr_html_()


def test_a_network_whose_neurons_are_all_dead_is_told_and_left_out() -> None:
    with pytest.warns(ConvergenceWarning, match="1 of 2 runs ended above the loss"):
        found = phase_slope(1.0, 0.0, (2, 8), X=[1.0, 0.3], y=[0.1, 0.2], n_repeats=1, random_state=2)
    assert found.reached.tolist() == [[False], [True]]
    assert (found.rd[0, 0], np.isnan(found.kernel_change[0, 0]), np.isnan(found.slope)) == (0.0, True, True)
