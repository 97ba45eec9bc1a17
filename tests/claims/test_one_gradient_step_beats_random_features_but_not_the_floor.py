"""One gradient step of order 1 on the first layer beats ridge regression on random features, and stays above the floor.

Published (arXiv 2205.01445): no random features and no kernel that is invariant under rotations do better than the
floor, and a step of order the square root of the width has a risk bounded by the teacher's best fit, tau_star. The
closed form for steps of order 1, and every number below, are derived here and checked by Monte Carlo.
"""

from __future__ import annotations

import numpy as np
import pytest

from featlearn.dynamics.one_step_ck import OneStepCK
from featlearn.exceptions import RegimeWarning

RELU = {"ridge": 1e-2, "noise": 0.1}


def test_risk_falls_with_the_step() -> None:
    theory = OneStepCK("tanh", "softplus", psi1=3, psi2=1.5, ridge=1e-2, noise=0.25, eta=[0, 2, 6]).theory()
    np.testing.assert_allclose(theory.risk, [0.112944, 0.105509, 0.090133], atol=5e-7)
    assert theory.floor == pytest.approx(0.0215145, abs=5e-8)
    nearly_without_ridge = OneStepCK("tanh", "softplus", psi1=4, psi2=2, ridge=1e-4, noise=0.25, eta=0).theory()
    assert float(nearly_without_ridge.risk) == pytest.approx(0.136769, abs=5e-7)


def test_the_gain_vanishes_with_the_width() -> None:
    theory = OneStepCK("tanh", "relu", psi1=5, psi2=[1, 2, 4, 16, 64], eta=2, **RELU).theory()
    np.testing.assert_allclose(theory.gain, [1.506e-2, 3.27e-3, 8.06e-4, 4.7e-5, 3.4e-6], rtol=1.1e-2)
    np.testing.assert_allclose(theory.risk[[0, 2]], [0.169327, 0.162250], atol=5e-7)
    assert theory.risk0[0] == pytest.approx(0.184386, abs=5e-7)


def test_at_any_number_of_samples_the_floor_is_not_reached() -> None:
    theory = OneStepCK("tanh", "relu", psi1=1e4, psi2=2, eta=[0, 1, 2, 4, 8], **RELU).theory()
    np.testing.assert_allclose(theory.risk, [0.10744, 0.10675, 0.10500, 0.10067, 0.09527], atol=5.1e-6)
    assert theory.floor == pytest.approx(0.0908451, abs=5e-8)
    assert (theory.risk > theory.floor).all()


def test_the_best_large_step_recovers_a_teacher_of_the_students_kind() -> None:
    assert OneStepCK("erf", "erf", psi1=1, psi2=1, ridge=1).tau_star < 1e-12
    assert OneStepCK("tanh", "tanh", psi1=1, psi2=1, ridge=1).tau_star == pytest.approx(9.4527e-5, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("eta", "drawn"), [(0.0, (0.1149, 0.0011)), (2.0, (0.1060, 0.0011))])
def test_draws_agree_with_theory(eta: float, drawn: tuple[float, float]) -> None:
    model = OneStepCK("tanh", "softplus", psi1=3, psi2=1.5, ridge=1e-2, noise=0.25, eta=eta)
    draws = model.simulate(128, 24, 4000, random_state=0).summary()
    assert abs(draws.risk - float(model.theory().risk)) < 3 * draws.risk_error
    # Mean and error of 24 draws in 256 dimensions, by other code.
    assert abs(draws.risk - drawn[0]) < 3 * np.hypot(draws.risk_error, drawn[1])
    assert draws.risk_error < 0.003
    if eta:
        assert draws.gain > 5 * draws.gain_error


@pytest.mark.slow
def test_a_step_of_the_square_root_of_the_width_goes_below_the_floor_and_beyond_the_theory() -> None:
    model = OneStepCK("erf", "erf", psi1=10, psi2=2, ridge=1e-3, noise=0.1, eta=[1, 512**0.25, 512**0.5])
    theory = model.theory()
    np.testing.assert_allclose(theory.risk, [0.0913, 0.0688, 0.0572], atol=5e-5)
    assert (theory.risk > theory.floor).all()
    risks = {}
    for exponent in (0.0, 0.25):
        one = OneStepCK("erf", "erf", psi1=10, psi2=2, ridge=1e-3, noise=0.1, eta=256**exponent)
        risks[exponent] = one.simulate(128, 4, 4000, random_state=0).summary()
    large = OneStepCK("erf", "erf", psi1=10, psi2=2, ridge=1e-3, noise=0.1, eta=256**0.5)
    with pytest.warns(RegimeWarning, match="the theory breaks"):
        risks[0.5] = large.simulate(128, 4, 4000, random_state=0).summary()
    assert risks[0.0].risk > risks[0.25].risk > theory.floor > risks[0.5].risk + 5 * risks[0.5].risk_error
    assert float(large.theory().risk) > risks[0.5].risk + 5 * risks[0.5].risk_error
