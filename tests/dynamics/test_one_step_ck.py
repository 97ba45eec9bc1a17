from __future__ import annotations

import json
import math
import warnings
from typing import Any

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from featlearn.dynamics.hermite import ACTIVATIONS, activation_named, hermite_numbers, smoothed_fit
from featlearn.dynamics.one_step_ck import OneStepCK
from featlearn.dynamics.one_step_draws import _ridge, gradient_step
from featlearn.exceptions import DataError, RegimeWarning

SMALL = {"psi1": 3.0, "psi2": 1.5, "ridge": 0.01, "noise": 0.25}


@pytest.fixture(autouse=True)
def _close_figures() -> Any:
    yield
    plt.close("all")


# --- Gaussian averages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mu0", "mu1", "mu2_squared"),
    [
        ("relu", 1 / math.sqrt(2 * math.pi), 0.5, 0.25 - 1 / (2 * math.pi)),
        ("erf", 0.0, 2 / math.sqrt(3 * math.pi), 2 / math.pi * math.asin(2 / 3) - 4 / (3 * math.pi)),
        ("sin", 0.0, math.exp(-0.5), (1 - math.exp(-2)) / 2 - math.exp(-1)),
        ("gelu", 1 / math.sqrt(4 * math.pi), 0.5, None),
        ("identity", 0.0, 1.0, 0.0),
        ("tanh", 0.0, 0.6057055096, 0.0274153260),
        ("softplus", 0.8060591833, 0.5, 0.0215145018),
        ("sigmoid", 0.5, None, None),
    ],
)
def test_hermite_numbers_are_exact(name: str, mu0: float, mu1: float | None, mu2_squared: float | None) -> None:
    found = hermite_numbers(ACTIVATIONS[name].function)
    assert found.mu0 == pytest.approx(mu0, abs=1e-10)
    if mu1 is not None:
        assert found.mu1 == pytest.approx(mu1, abs=1e-10)
    if mu2_squared is not None:
        assert found.mu2_squared == pytest.approx(mu2_squared, abs=1e-10)
    assert found.mu2_squared >= 0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_are_limits_of_differences(name: str) -> None:
    z, h = np.array([-3.0, -0.7, -0.1, 0.2, 1.0, 4.0]), 1e-5
    one = ACTIVATIONS[name]
    np.testing.assert_allclose(one.derivative(z), (one.function(z + h) - one.function(z - h)) / (2 * h), atol=1e-9)


def test_smoothed_fit_of_a_kink_agrees_with_monte_carlo() -> None:
    tanh, relu = ACTIVATIONS["tanh"].function, ACTIVATIONS["relu"].function
    found, k = smoothed_fit(tanh, relu)
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(400_000)
    grid = np.linspace(-6, 6, 4001)
    smoothed = np.tanh(k * grid[:, None] + nodes) @ weights / math.sqrt(2 * math.pi)
    draws = (relu(x) - 1 / math.sqrt(2 * math.pi) - np.interp(x, grid, smoothed)) ** 2
    assert abs(draws.mean() - found) < 3 * draws.std() / math.sqrt(len(x))
    assert found > hermite_numbers(relu).mu2_squared  # an odd activation cannot imitate the even part


def test_a_teacher_of_the_other_sign_is_imitated_by_a_negative_stretch() -> None:
    erf = ACTIVATIONS["erf"].function
    error, k = smoothed_fit(erf, lambda z: -erf(z))
    assert error < 1e-12
    assert k == pytest.approx(-math.sqrt(3), abs=1e-5)


# --- theory -----------------------------------------------------------------------------------------------------------


def exact(model: OneStepCK) -> dict[str, float]:
    """The textbook formulas with 60 digits, in which nothing is rearranged."""
    mp = mpmath.mp
    with mpmath.workdps(60):
        psi1, psi2, ridge, se, eta = (
            mp.mpf(float(getattr(model, n))) for n in ("psi1", "psi2", "ridge", "noise", "eta")
        )
        mu, star = model.student_numbers, model.teacher_numbers
        mu1, mu2, s1, s2 = (mp.mpf(x) for x in (mu.mu1, mu.mu2_squared, star.mu1, star.mu2_squared))
        z1 = mu2 / mu1**2

        def m(z: Any) -> Any:
            b = z + psi2 - 1
            return (mp.sqrt(b**2 + 4 * z) - b) / (2 * z)

        def excess(log_kap: Any) -> Any:
            kap = mp.exp(log_kap)
            z2 = z1 + kap / mu1**2
            return 1 - ridge / kap - psi2 / psi1 + kap / (psi1 * mu1**2) * ((psi2 - 1) / z2 + m(z2))

        low, high = mp.log(ridge / 2), mp.log(ridge + 1e4 * (1 + psi2) / psi1)
        for _ in range(220):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) < 0 else (low, middle)
        kap = mp.exp(low)
        z2 = z1 + kap / mu1**2
        M, b = m(z2), z2 + psi2 - 1
        dM = -(M**2 + M) / (2 * z2 * M + b)
        energy = s1**2 + (s1**2 + s2 + se**2) / psi1
        a_, b_ = (eta * mu1 * s1) ** 2, 1 + (eta * mu1) ** 2 * energy
        T1 = ((psi2 - 1) / z2 + M) / (psi1 * mu1**2)
        T2 = ((psi2 - 1) / z2**2 - dM) / (psi1 * mu1**4)
        df2 = psi2 / psi1 - 2 * kap * T1 + kap**2 * T2

        def risk(a: Any) -> Any:
            g = M - a * M**2 / (1 + b_ * M)
            dg = dM * (1 - a * M * (2 + b_ * M) / (1 + b_ * M) ** 2)
            return (se**2 + s2 + s1**2 * (z1 * g - (z2 - z1) * z2 * dg)) / (1 - df2) - se**2

        risks = {"risk0": risk(mp.mpf(0)), "risk": risk(a_), "gain": risk(mp.mpf(0)) - risk(a_)}
        return {name: float(value) for name, value in {**risks, "kap": kap, "df2": df2}.items()}


@pytest.mark.parametrize("psi1", [0.3, 1.0, 1e4])
@pytest.mark.parametrize("psi2", [0.2, 1.0, 3.0, 1e3])
@pytest.mark.parametrize("ridge", [1e-8, 1e-2, 1e4])
@pytest.mark.parametrize("names", [("tanh", "softplus"), ("identity", "tanh")])
def test_theory_has_twelve_digits_less_what_interpolation_costs(
    psi1: float, psi2: float, ridge: float, names: tuple[str, str]
) -> None:
    model = OneStepCK(*names, psi1=psi1, psi2=psi2, ridge=ridge, noise=0.1, eta=2.0)
    theory, expected = model.theory(), exact(model)
    condition = 1 / (1 - expected["df2"])  # 1 - df2 cancels where the fit interpolates
    assert float(theory.kap) == pytest.approx(expected["kap"], rel=1e-12 * max(1.0, condition))
    for name in ("risk0", "risk", "gain"):
        found = float(getattr(theory, name))
        assert found == pytest.approx(expected[name], rel=1e-12 * condition, abs=1e-15), name


@given(
    psi1=st.floats(0.1, 50), psi2=st.floats(0.1, 50), ridge=st.floats(1e-6, 10), noise=st.floats(0, 2),
    eta=st.floats(0.01, 20), student=st.sampled_from(["tanh", "erf", "sin"]),
)  # fmt: skip
def test_a_step_never_hurts(psi1: float, psi2: float, ridge: float, noise: float, eta: float, student: str) -> None:
    theory = OneStepCK(student, "relu", psi1=psi1, psi2=psi2, ridge=ridge, noise=noise, eta=eta).theory()
    assert float(theory.gain) > 0
    assert float(theory.risk) >= theory.floor * (1 - 1e-12)


def test_there_is_no_gain_without_a_step_or_without_a_linear_part_of_the_teacher() -> None:
    assert float(OneStepCK(**SMALL, eta=0).theory().gain) == 0
    even = (lambda z: z**2, lambda z: 2 * z)
    assert float(OneStepCK("tanh", even, **SMALL, eta=5).theory().gain) == pytest.approx(0, abs=1e-25)
    assert float(OneStepCK("tanh", "softplus", **SMALL, eta=5).theory().gain) > 0.01


def test_the_gain_grows_with_the_step_at_many_samples_and_vanishes_at_many_neurons() -> None:
    many = OneStepCK("tanh", "relu", psi1=1e4, psi2=2, ridge=1e-2, noise=0.1, eta=np.geomspace(0.1, 30, 40)).theory()
    assert (np.diff(many.gain) > 0).all()
    wide = OneStepCK("tanh", "relu", psi1=5, psi2=np.geomspace(2, 1e6, 30), ridge=1e-2, noise=0.1, eta=2).theory()
    assert (np.diff(wide.gain) < 0).all()
    assert 0 < wide.gain[-1] < 1e-9


def test_a_batch_is_its_elements() -> None:
    psi1, eta = np.array([[1.0], [4.0]]), np.array([0.0, 1.0, 3.0])
    batch = OneStepCK("erf", "tanh", psi1=psi1, psi2=2, ridge=1e-3, eta=eta).theory()
    assert batch.risk.shape == (2, 3)
    alone = OneStepCK("erf", "tanh", psi1=4, psi2=2, ridge=1e-3, eta=3).theory()
    assert batch.risk[1, 2] == pytest.approx(float(alone.risk), rel=1e-13)
    assert len(batch.frame()) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "erf"},
        {"teacher": "relu"},
        {"psi1": 4},
        {"psi2": 2},
        {"ridge": 0.1},
        {"noise": 0.5},
        {"eta": 0.5},
    ],
)
def test_every_parameter_changes_theory_and_simulation(change: dict[str, Any]) -> None:
    model, other = OneStepCK(**SMALL), OneStepCK(**SMALL | change)
    assert float(model.theory().risk) != pytest.approx(float(other.theory().risk), rel=1e-4)
    risks = [one.simulate(24, 2, 100, 0).risk for one in (model, other)]
    assert abs(risks[0] - risks[1]).min() > 0


# --- Monte Carlo ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_the_step_is_that_of_autograd(name: str) -> None:
    rng = np.random.default_rng(0)
    d, n, N, eta = 5, 9, 7, 1.7
    W, a, X, y = rng.normal(size=(d, N)), rng.normal(size=N), rng.normal(size=(n, d)), rng.normal(size=n)
    weights = torch.tensor(W, requires_grad=True)
    activation = getattr(torch, name)
    outputs = activation(torch.tensor(X) @ weights) @ torch.tensor(a) / math.sqrt(N)
    (0.5 * (outputs - torch.tensor(y)).square().mean()).backward()
    expected = W - eta * math.sqrt(N) * weights.grad.numpy()
    np.testing.assert_allclose(gradient_step(ACTIVATIONS[name], W, a, X, y, eta), expected, rtol=1e-12)


def test_the_fit_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    features, y, ridge = rng.normal(size=(30, 12)), rng.normal(size=30), 0.07
    expected = Ridge(alpha=30 * ridge, fit_intercept=False, solver="cholesky").fit(features, y).coef_
    np.testing.assert_allclose(_ridge(features, y, 30 * ridge), expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (("tanh", "softplus"), {**SMALL, "eta": 2.0}),
        (("erf", "relu"), {"psi1": 2.0, "psi2": 3.0, "ridge": 0.05, "noise": 0.1, "eta": 1.5}),
        (("sin", "tanh"), {"psi1": 4.0, "psi2": 1.0, "ridge": 0.1, "eta": 1.0}),
    ],
)
def test_theory_agrees_with_monte_carlo(names: tuple[str, str], numbers: dict[str, float]) -> None:
    result = OneStepCK(*names, **numbers).verify(128, 12, 4000, random_state=0)
    assert result.ok, result.frame()
    assert result.kind == "statistical"
    # A theory that is wrong by a tenth would have been noticed.
    worst_error = max(row["standard_error"] / row["theory"] for row in result.table)
    assert worst_error < 0.03


def test_draws_depend_on_their_seed_only() -> None:
    model = OneStepCK(**SMALL)
    first, again, other = (model.simulate(16, 3, 50, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.risk, again.risk)
    assert not np.array_equal(first.risk, other.risk)
    assert len(set(first.risk)) == 3
    assert (first.d, first.n, first.N) == (16, 48, 24)
    longer = model.simulate(16, 4, 50, 0)
    np.testing.assert_array_equal(first.risk0, longer.risk0[:3])


def test_without_a_step_nothing_changes() -> None:
    draws = OneStepCK(**SMALL, eta=0).simulate(16, 2, 50, 0)
    np.testing.assert_array_equal(draws.risk0, draws.risk)
    assert math.isnan(OneStepCK(**SMALL).simulate(16, 1, 50, 0).summary().risk_error)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_large_step_is_warned_of() -> None:
    with pytest.warns(RegimeWarning, match=r"0.3 sqrt\(N\)"):
        OneStepCK(**SMALL, eta=5).simulate(16, 1, 50, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OneStepCK(**SMALL, eta=1).simulate(16, 1, 50, 0)


def test_a_centred_activation_that_is_not_odd_is_warned_of() -> None:
    relu, mean = ACTIVATIONS["relu"], 1 / math.sqrt(2 * math.pi)
    model = OneStepCK((lambda z: relu.function(z) - mean, relu.derivative), "tanh", **SMALL)
    with pytest.warns(RegimeWarning, match="not odd"):
        model.theory()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "relu"}, "mean 0.399"),
        ({"activation": (lambda z: z**2 - 1, lambda z: 2 * z)}, "linear part"),
        ({"activation": "relu6"}, "relu6"),
        ({"teacher": np.tanh}, "pair"),
        ({"psi1": 0}, "psi1=0"),
        ({"psi2": -1}, "psi2=-1"),
        ({"ridge": 0}, "ridge=0"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"eta": -1}, "eta=-1"),
        ({"eta": math.nan}, "eta"),
        ({"psi1": [1, 2], "psi2": [1, 2, 3]}, r"psi2 of shape \(3,\)"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        OneStepCK(**SMALL | arguments)


def test_bad_sizes_are_refused() -> None:
    model = OneStepCK(**SMALL)
    for sizes in ({"d": 0}, {"d": 1.5}, {"n_repeats": 0}, {"n_test": True}):
        with pytest.raises(DataError, match=next(iter(sizes))):
            model.simulate(**sizes)
    with pytest.raises(DataError, match="increase d"):
        OneStepCK(**SMALL | {"psi1": 0.001}).simulate(16)
    with pytest.raises(DataError, match="batch of models"):
        OneStepCK(**SMALL, eta=[1, 2]).simulate(16)
    batch = OneStepCK(**SMALL, eta=[1, 1.2])
    with pytest.raises(DataError, match=r"Index the batch, as in model\[0\]"):
        batch.verify()
    assert batch[1].to_dict() == OneStepCK(**SMALL, eta=1.2).to_dict()
    assert batch[1].verify(16, 4, 50).table[0]["theory"] == float(batch.theory().risk0[1])


# --- showing ----------------------------------------------------------------------------------------------------------


def test_dictionaries_are_plain_and_tables_have_a_row_a_model() -> None:
    model = OneStepCK(**SMALL, eta=[0.0, 1.0])
    for result in (model, model.theory(), OneStepCK(**SMALL).simulate(16, 2, 50, 0)):
        assert json.loads(json.dumps(result.to_dict()))["schema"] == 1
    table = model.frame()
    assert table["eta"].tolist() == [0.0, 1.0]
    assert table["gain"].iloc[0] == 0
    assert len(OneStepCK(**SMALL).simulate(16, 2, 50, 0).frame()) == 2
    assert "risk0" in model.theory()._repr_html_()


def test_the_figure_shows_theory_dots_and_floor() -> None:
    model = OneStepCK("erf", "erf", psi1=1, psi2=2, ridge=1e-3, noise=0.1)
    ax = model.plot((1, 4), exponents=(0.0, 0.5), d=16, n_repeats=2)
    labels = ax.get_legend_handles_labels()[1]
    assert labels[0] == "step of size 1"
    assert "beyond the theory" in labels[1]
    assert len(ax.containers) == 2
    line = ax.lines[0]
    expected = OneStepCK("erf", "erf", psi1=line.get_xdata(), psi2=2, ridge=1e-3, noise=0.1, eta=1).theory().risk
    np.testing.assert_allclose(line.get_ydata(), expected)
    floor = next(one for one in ax.lines if one.get_label() == "floor of fixed kernels")
    assert floor.get_ydata()[0] == model.floor
    assert model.plot((1, 4), n_repeats=0, ax=ax) is ax
    batch = OneStepCK("erf", "erf", psi1=[[1], [2]], psi2=2, ridge=1e-3, noise=0.1, eta=[0, 2])
    line = batch.plot((1, 4), exponents=(0.0, 0.5), d=16, n_repeats=0).lines[0]
    np.testing.assert_allclose(line.get_ydata(), expected)
    with pytest.raises(DataError, match="Index the batch"):
        OneStepCK(psi1=1, psi2=2, ridge=[1e-3, 1e-2]).plot()


def test_names_and_pairs_of_functions_are_the_same() -> None:
    tanh = activation_named("tanh", "activation")
    pair = OneStepCK((tanh.function, tanh.derivative), **SMALL)
    assert float(pair.theory().risk) == float(OneStepCK("tanh", **SMALL).theory().risk)
