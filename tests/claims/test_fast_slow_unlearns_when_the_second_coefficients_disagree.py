"""Learned alignment fades again iff student and teacher disagree in the sign of their second coefficients.

Published (abstract of arXiv 2602.07378): in a two-time-scale flow with fast alignment and a slow second layer, the flow
on the critical manifold decides whether features are unlearned, and a larger second layer mitigates it. The equations
and every number below are derived here as the natural system of this kind, and checked numerically. In it a larger
second layer slows unlearning down, but can also be what causes it: both are shown.
"""

from __future__ import annotations

import numpy as np
import pytest

from featlearn.dynamics.fast_slow import FastSlow

OPPOSED = {"sigma": [1.0, 0.5], "tau": [1.0, -0.5]}
BISTABLE = {"sigma": [1.0, 0.5, 0.5], "tau": [1.0, -0.1, 0.8], "R0": 0.02}


@pytest.mark.parametrize(
    ("sigma", "tau", "until", "a", "R", "slopes", "theory", "predicted"),
    [
        ([1, 0.5], [1, -0.5], 1e7, 42.1240, 0.023455, (-0.328, 0.335), 1 / 3, 42.17),
        ([1, 0, 0.5], [1, 0, -0.5], 1e9, 66.8646, 0.0149531, (-0.24996, 0.25020), 1 / 4, 66.874),
    ],
)
def test_alignment_fades_like_a_root_of_time(
    sigma: list[float],
    tau: list[float],
    until: float,
    a: float,
    R: float,
    slopes: tuple[float, float],
    theory: float,
    predicted: float,
) -> None:
    model, t = FastSlow(sigma, tau, eps=0.01), np.geomspace(1e-2, until, 400)
    path = model.simulate(t)
    assert path.a[-1] == pytest.approx(a, rel=1e-5)
    assert path.R[-1] == pytest.approx(R, rel=1e-4)
    late = np.log(t[-60:])
    found = [np.polyfit(late, np.log(x[-60:]), 1)[0] for x in (path.R, path.a)]
    np.testing.assert_allclose(found, slopes, atol=5e-4)
    assert float(model.law().exponent) == pytest.approx(theory)
    assert model.law().at(until).a[0] == pytest.approx(predicted, abs=0.005)


def test_the_limit_of_two_coefficients_is_a_ratio_clipped_to_zero_and_one() -> None:
    for (s2, t1, t2), limit in {
        (0.5, 1, 0.1): 0.2,
        (0.5, 1, 0.3): 0.6,
        (0.8, 0.5, 0.2): 0.5,
        (0.3, 1, 0.6): 1.0,
    }.items():
        assert float(FastSlow([1, s2], [t1, t2]).verdict().R) == pytest.approx(limit)
    rng = np.random.default_rng(0)
    sigma = np.stack([np.ones(60), rng.uniform(0.2, 1, 60)], axis=-1)
    tau = np.stack([rng.uniform(0.3, 1, 60), rng.uniform(-0.5, 1, 60)], axis=-1)
    model = FastSlow(sigma, tau)
    expected = np.clip(tau[:, 1] / (sigma[:, 1] * tau[:, 0]), 0, 1)
    verdict = model.verdict()
    np.testing.assert_allclose(verdict.R, expected, atol=1e-12)
    np.testing.assert_array_equal(verdict.outcome == "unlearn", tau[:, 1] < 0)
    for i in range(0, 60, 10):
        end = FastSlow(sigma[i], tau[i]).simulate([1e6])
        assert end.R[0] == pytest.approx(expected[i], abs=0.06)


def test_a_larger_second_layer_slows_unlearning_down() -> None:
    t = np.linspace(0, 20_000, 20_001)
    halved = []
    for a0 in (1.0, 2.0, 4.0):
        R = FastSlow(**OPPOSED, a0=a0, eps=0.01).simulate(t).R
        peak = int(R.argmax())
        below = np.flatnonzero(R[peak:] < R[peak] / 2)
        halved.append(t[peak + below[0]] if below.size else np.inf)
    # From the start; counted from the peak it is a few units less.
    assert halved[0] == pytest.approx(3602, abs=4)
    assert halved[1] == pytest.approx(14636, abs=40)
    assert halved[2] == np.inf


def test_but_from_a_larger_second_layer_a_bistable_flow_unlearns() -> None:
    model = FastSlow(**BISTABLE)
    np.testing.assert_allclose(model.manifold.equilibria, [0.0914640], atol=5e-8)
    np.testing.assert_allclose(model.manifold.A(model.manifold.equilibria), [10.896871], atol=5e-7)
    outcomes = FastSlow(**BISTABLE, a0=[1.0, 10.5, 11.5]).verdict().outcome
    assert outcomes.tolist() == ["learn", "learn", "unlearn"]
    assert float(model.separatrix(10.5, 11.5)) == pytest.approx(10.896871, abs=5e-6)
    assert float(model.separatrix(10.5, 11.5, method="ode", xtol=1e-5)) == pytest.approx(10.8967, abs=3e-4)
    assert FastSlow(**BISTABLE, a0=10.5).simulate([1e8]).R[0] == pytest.approx(1)
    assert FastSlow(**BISTABLE, a0=11.5).simulate([1e8]).R[0] < 0.06


@pytest.mark.slow
def test_networks_of_finite_width_unlearn_too() -> None:
    model, t = FastSlow(**OPPOSED, eps=0.05), np.linspace(0, 200, 401)
    limit = model.simulate(t).R
    errors = []
    for n_neurons in (32, 64, 128):
        R = model.simulate(t, method="network", n_neurons=n_neurons, dim=256).R
        errors.append(np.abs(R - limit).max())
        assert R[-1] < 0.9 * R.max()
    np.testing.assert_allclose(errors, [0.0150, 0.0079, 0.0042], rtol=0.15)
