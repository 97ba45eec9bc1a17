from __future__ import annotations

import json
import math
from typing import Any

import matplotlib.pyplot as plt
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featlearn.dynamics.hyperbola import Hyperbola
from featlearn.exceptions import DataError


def exact(A: float, B: float, f: float, Exx: float, t: float) -> dict[str, Any]:
    """60 digits: Z is the ratio of the two solutions of a linear system, so that no case is special but a zero rate."""
    with mp.workdps(60):
        A, B, f, Exx, t = (mp.mpf(float(x)) for x in (A, B, f, Exx, t))
        rate = mp.sqrt(f * f + A * B) * Exx / 2
        even, odd = (mp.cosh(rate * t), mp.sinh(rate * t) / rate) if rate else (mp.mpf(1), t)
        Z = (even + odd * Exx * (f + B) / 2) / (even + odd * Exx * (A - f) / 2)
        output = (A * Z - B / Z) / 2
        return {"Z": Z, "Theta": (A * Z + B / Z) / 2, "residual": f - output, "F": output}


def apart(value: Any, truth: Any) -> float:
    with mp.workdps(60):
        return float(abs(mp.mpf(float(value)) - truth) / abs(truth)) if truth else abs(float(value))


def cases(count: int) -> list[tuple[float, float, float, float, float]]:
    rng = np.random.default_rng(0)
    drawn = []
    for i in range(count):
        A, B = 10 ** rng.uniform(-8, 4, 2)
        f, Exx = rng.choice([-1, 1]) * 10 ** rng.uniform(-6, 4), 10 ** rng.uniform(-2, 2)
        zero = ("", "A", "B", "f", "", "AB", "Af", "Bf")[i % 8]
        A, B, f = (0.0 if name in zero else x for name, x in zip("ABf", (A, B, f), strict=True))
        rate = Exx * math.hypot(f, math.sqrt(A * B)) or Exx * (A + B)
        drawn.append((A, B, f, Exx, 10 ** rng.uniform(-3, 1.3) / rate))
    return drawn


def test_sixty_digits_agree_to_1e_12_in_every_case_with_zeros() -> None:
    worst = dict.fromkeys(("Z", "Theta", "residual"), 0.0)
    for A, B, f, Exx, t in cases(600):
        model, truth = Hyperbola.from_sums(A, B, f, Exx), exact(A, B, f, Exx, t)
        for name in worst:
            worst[name] = max(worst[name], apart(getattr(model, name)(t)[0], truth[name]))
        assert abs(model.F(t)[0] - float(truth["F"])) <= 1e-14 * float(truth["Theta"] + abs(f))
    assert max(worst.values()) < 1e-12, worst


positive = st.floats(-12, 6).map(lambda power: 10.0**power)


@given(positive, positive, positive, st.sampled_from([-1.0, 1.0]), positive, st.floats(1e-4, 30.0))
def test_any_sums_agree_with_sixty_digits(A: float, B: float, f: float, sign: float, Exx: float, decays: float) -> None:
    model = Hyperbola.from_sums(A, B, sign * f, Exx)
    t = decays / float(model.rate)
    truth = exact(A, B, sign * f, Exx, t)
    assert apart(model.Z(t)[0], truth["Z"]) < 1e-12
    assert apart(model.Theta(t)[0], truth["Theta"]) < 1e-12
    start = A / 2 - B / 2
    # The first residual is a difference of the inputs, and as exact as they are.
    conditioning = max(abs(start), f) / abs(sign * f - start) if sign * f != start else math.inf
    assert apart(model.residual(t)[0], truth["residual"]) < 1e-12 * max(1.0, conditioning)


@given(positive, positive, positive, st.floats(0.05, 12.0))
def test_the_time_to_an_output_is_the_time_of_that_output(A: float, B: float, f: float, decays: float) -> None:
    model = Hyperbola.from_sums(A, B, f)
    t = decays / float(model.rate)
    F, speed = model.F(t)[0], float(exact(A, B, f, 1.0, t)["Theta"] * exact(A, B, f, 1.0, t)["residual"])
    rounding = 4e-15 * max(abs(F), abs(f), 1e-300) / abs(speed)  # of F itself, in time
    if model.F0 != F != f:
        assert float(model.time_to(F)) == pytest.approx(t, rel=1e-9, abs=rounding)


def test_times_of_outputs_off_the_path_are_infinite() -> None:
    model = Hyperbola(F0=0.5, Theta0=2.0, omega=2.0, F_inf=1.0)
    np.testing.assert_array_equal(model.time_to([0.5, 1.0, 1.5, 0.4]), [0.0, np.inf, np.inf, np.inf])
    assert 0 < model.time_to(0.75) < np.inf
    assert Hyperbola(F0=-0.5, Theta0=1.0, omega=2.0, F_inf=1.0).time_to(0.5) == np.inf


def test_integration_agrees_over_random_cases_and_signs() -> None:
    rng = np.random.default_rng(1)
    A, B = 10 ** rng.uniform(-2, 1, (2, 60))
    model = Hyperbola.from_sums(
        A, B, rng.normal(size=60), 10 ** rng.uniform(-0.5, 0.5, 60), omega=rng.uniform(0.2, 3, 60)
    )
    result = model.verify(np.linspace(0.0, 3.0, 30))
    assert result.ok, result.frame()


def test_output_and_kernel_stay_on_one_hyperbola() -> None:
    model = Hyperbola(F0=-0.3, Theta0=0.7, omega=2.0, F_inf=1.5, Exx=0.8)
    path = model.closed_form(np.linspace(0.0, 20.0, 100))
    np.testing.assert_allclose(path.Theta**2 - 4 * path.F**2, float(model.kappa) ** 2, rtol=1e-12)
    assert (np.diff(path.F) >= 0).all()
    assert path.Theta.max() <= max(model.Theta0, model.Theta_inf)


def test_the_flow_is_the_one_of_the_docstring() -> None:
    model = Hyperbola(F0=-0.3, Theta0=0.7, omega=2.0, F_inf=1.5, Exx=0.8)
    step = 1e-5
    before, now, after = model.closed_form([1.0 - step, 1.0, 1.0 + step]).F
    assert (after - before) / (2 * step) == pytest.approx(0.8 * model.Theta(1.0)[0] * (1.5 - now), rel=1e-8)


# --- special cases ----------------------------------------------------------------------------------------------------


def test_without_kappa_the_output_is_logistic() -> None:
    t = np.linspace(0.0, 12.0, 25)
    model = Hyperbola(F0=1e-4, Theta0=2e-4, omega=2.0, F_inf=0.7)
    np.testing.assert_allclose(model.F(t), 0.7 / (1 + (0.7 / 1e-4 - 1) * np.exp(-1.4 * t)), rtol=1e-12)


def test_with_a_large_kappa_the_output_is_exponential() -> None:
    t = np.linspace(0.0, 5.0, 11)
    model = Hyperbola(F0=0.2, Theta0=3.0, omega=1e-7, F_inf=1.0)
    np.testing.assert_allclose(model.residual(t), 0.8 * np.exp(-3 * t), rtol=1e-12)
    assert float(model.rho) == pytest.approx((1 - 0.04) * 1e-14 / 9 / 2, rel=1e-6)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_on_the_wrong_side_without_kappa_the_output_stops_in_the_saddle(sign: float) -> None:
    model = Hyperbola(F0=-sign * 0.5, Theta0=1.0, omega=2.0, F_inf=sign)
    assert not model.reaches_target
    assert (model.F_limit, model.Theta_inf, model.rho) == (0.0, 0.0, -1.0)
    path = model.closed_form([0.0, 3.0, 1e6, np.inf])
    np.testing.assert_allclose(sign * path.F, [-0.5, float(exact(0, 2, 2, 1, 3)["F"]) / 2, 0.0, 0.0], rtol=1e-12)
    np.testing.assert_allclose(sign * path.residual[2:], 1.0)
    assert (path.Theta[2:] == 0).all()
    assert model.time_to(-sign * 0.1) == pytest.approx(float(-np.log(0.1 / 0.5 * 1.5 / 1.1) / 2))


def test_a_target_of_zero_without_kappa_is_approached_as_one_over_time() -> None:
    t = np.array([0.0, 1.0, 1e9, np.inf])
    falling = Hyperbola(F0=1.0, Theta0=2.0, omega=2.0, F_inf=0.0, Exx=3.0)
    np.testing.assert_allclose(falling.F(t), 1 / (1 + 6 * t), rtol=1e-14)
    rising = Hyperbola(F0=-1.0, Theta0=2.0, omega=2.0, F_inf=0.0, Exx=3.0)
    np.testing.assert_allclose(rising.F(t), -1 / (1 + 6 * t), rtol=1e-14)
    assert falling.time_to(0.25) == rising.time_to(-0.25) == pytest.approx(0.5)
    assert falling.rate == 0
    assert falling.reaches_target


def test_without_any_weights_nothing_moves() -> None:
    for target in (0.0, 1.0, -1.0):
        model = Hyperbola(0.0, 0.0, 1.0, target)
        path = model.closed_form([0.0, 1.0, np.inf])
        assert (path.F == 0).all()
        assert (path.Theta == 0).all()
        np.testing.assert_array_equal(path.residual, target)
        assert (model.rho, model.max_stable_lr) == (0.0, np.inf)
        assert model.time_to(0.5) == np.inf


def test_nothing_overflows_at_any_time_or_scale() -> None:
    scales = 10.0 ** np.arange(-150.0, 151.0, 50.0)
    A, B, f = (x.ravel() for x in np.meshgrid(scales, scales, np.concatenate([scales, -scales])))
    model = Hyperbola.from_sums(A, B, f)
    path = model.closed_form([0.0, 1e-150, 1.0, 1e300, np.inf])
    for name in ("F", "Theta", "residual"):
        assert np.isfinite(path[name]).all(), name
    np.testing.assert_allclose(path.F[:, -1], model.F_limit, rtol=1e-13, atol=0)
    np.testing.assert_allclose(path.Theta[:, -1], model.Theta_inf, rtol=1e-13)


# --- interface --------------------------------------------------------------------------------------------------------


def test_sums_and_outputs_describe_the_same_model() -> None:
    by_sums = Hyperbola.from_sums(A=3.0, B=1.0, f=-1.5, Exx=0.5, omega=2.0)
    by_outputs = Hyperbola(F0=0.5, Theta0=2.0, omega=2.0, F_inf=-0.75, Exx=0.5)
    assert by_sums.to_dict() == by_outputs.to_dict()
    t = np.linspace(0.0, 9.0, 7)
    np.testing.assert_allclose(by_sums.F(t), by_outputs.F(t), rtol=1e-14)


def test_parameters_broadcast_to_a_batch_and_times_come_last() -> None:
    model = Hyperbola(F0=np.zeros((3, 1)), Theta0=[1.0, 2.0], omega=1.0, F_inf=1.0)
    t = np.array([2.0, 0.0, np.inf])
    assert model.F(t).shape == (3, 2, 3)
    np.testing.assert_array_equal(model.F(t)[0, 1], Hyperbola(0.0, 2.0, 1.0, 1.0).F(t))
    assert model.F(1.0).shape == (3, 2, 1)
    assert model.time_to(0.5).shape == (3, 2)
    assert len(model.frame()) == 6


@pytest.mark.parametrize("name", ["F0", "Theta0", "omega", "F_inf", "Exx"])
def test_every_parameter_changes_the_answer(name: str) -> None:
    base = {"F0": 0.1, "Theta0": 1.0, "omega": 1.5, "F_inf": 1.0, "Exx": 0.7}
    changed = base | {name: base[name] * 1.1}
    assert abs(Hyperbola(**base).F(1.0) - Hyperbola(**changed).F(1.0))[0] > 1e-3


def test_gradient_descent_follows_below_the_largest_stable_step_only() -> None:
    model = Hyperbola.from_sums(A=0.5, B=0.3, f=2.0)

    def limit(lr: float) -> float:
        u, w = (math.sqrt(0.5) + math.sqrt(0.3)) / 2, (math.sqrt(0.5) - math.sqrt(0.3)) / 2
        for _ in range(3000):
            r = 1.0 - u * w
            u, w = u + lr * r * w, w + lr * r * u
        return abs(1.0 - u * w)

    largest = float(model.max_stable_lr)
    assert largest == pytest.approx(2 / math.hypot(2.0, math.sqrt(0.15)))
    assert limit(0.9 * largest) < 1e-9
    assert limit(1.5 * largest) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((0.6, 1.0, 2.0, 1.0), "Theta0 >= omega"),
        ((0.0, 1.0, 0.0, 1.0), "omega"),
        ((0.0, 1.0, 1.0, 1.0, 0.0), "Exx"),
        ((0.0, math.nan, 1.0, 1.0), "Theta0"),
        (([0.0, 0.0], [1.0, 1.0, 1.0], 1.0, 1.0), r"Theta0 of shape \(3,\)"),
        (([], 1.0, 1.0, 1.0), "F0"),
    ],
)
def test_parameters_without_weights_are_refused(arguments: tuple[Any, ...], word: str) -> None:
    with pytest.raises(DataError, match=word):
        Hyperbola(*arguments)


def test_negative_sums_unknown_methods_and_infinite_simulations_are_refused() -> None:
    with pytest.raises(DataError, match="B=-1"):
        Hyperbola.from_sums(1.0, -1.0, 1.0)
    model = Hyperbola(0.0, 1.0, 1.0, 1.0)
    with pytest.raises(DataError, match="'network'"):
        model.simulate([1.0], method="network")
    with pytest.raises(DataError, match="finite times"):
        model.simulate([np.inf])


def test_rounding_of_the_kernel_at_the_asymptote_is_no_error() -> None:
    model = Hyperbola(F0=0.1 + 0.2, Theta0=0.6 * (1 - 1e-16), omega=2.0, F_inf=1.0)
    assert model.B == 0


def test_it_is_plain_numbers_and_a_picture() -> None:
    model = Hyperbola(F0=[0.0, 0.1], Theta0=1.0, omega=2.0, F_inf=1.0)
    assert json.loads(json.dumps(model.to_dict()))["rho"] == model.rho.tolist()
    ax = model.plot(labels=["a", "b"])
    ends = {tuple(line.get_xydata()[0]) for line in ax.lines if line.get_marker() == "*"}
    assert ends == {(1.0, float(value)) for value in np.hypot(model.kappa, 2.0)}
    plt.close("all")
