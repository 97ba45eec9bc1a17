"""Very large and very small parameters and times: an answer without a numpy warning, or an error that names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from featlearn.dynamics import (
    FastSlow,
    Hyperbola,
    LambdaBalanced,
    LateFeatures,
    LinearNet1D,
    OneStepCK,
    SingleNeuron,
    Trajectory,
    implicit_bias,
)
from featlearn.dynamics.hermite import hermite_numbers
from featlearn.dynamics.riccati import march
from featlearn.exceptions import ConvergenceWarning, DataError

LATE = [0.0, 1e-300, 1.0, 1e300, np.inf]
SIZES = np.array([0.0, 1e-300, 1e-12, 1e-3, 1.0, 1e3, 1e12])


def finite(path: Trajectory) -> bool:
    return all(np.isfinite(array).all() for array in path.values.values())


@pytest.mark.parametrize("seed", range(60))
def test_scales_apart_by_many_orders_give_finite_answers(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def signed(*shape: int) -> Any:
        return rng.choice(SIZES, shape) * rng.choice([-1, 1], shape)

    def rate() -> float:
        return float(rng.choice(SIZES[2:]))

    net = LinearNet1D(signed(3), signed(3), g=-rate(), eta_u=rate(), eta_w=rate(), Exx=rate(), Exy=signed())
    assert finite(net.closed_form(LATE))
    assert not np.isnan([net.hyperbola.rho, net.hyperbola.max_stable_lr, net.mechanisms().score]).any()
    neuron = SingleNeuron(signed(), signed(2), signed(2), eta_a=rate(), eta_w=rate())
    assert finite(neuron.closed_form(LATE))
    assert np.isfinite(neuron.horizon())
    a0, output = rate(), rate() * rng.choice([-1, 1])
    core = Hyperbola(output, abs(output) * a0 * rng.choice([1.0, 1.5]), a0, signed(), rate())
    assert finite(core.closed_form(LATE))


def test_a_kernel_that_grows_from_almost_nothing_grows_without_bound() -> None:
    assert Hyperbola(0.0, 1e-300, 3.0, 1e20, 1e3).rho == np.inf


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SingleNeuron(1e160, [1.0], [1.0]), r"a0 of size 1e\+160, but expected at most 1e\+50"),
        (lambda: LinearNet1D([1.0], [-1e200]), r"w0 of size 1e\+200"),
        (lambda: LinearNet1D([1.0], [1.0], Exx=1e-300), "Exx=1e-300, but expected at least 1e-50"),
        (lambda: Hyperbola.from_sums(1e200, 1.0, 1.0), r"A of size 1e\+200, but expected at most 1e\+150"),
    ],
)
def test_numbers_whose_squares_are_none_are_refused_by_name(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        make()


def test_sums_of_products_may_be_larger_than_parameters() -> None:
    assert Hyperbola.from_sums(1e120, 1.0, 2.0).F(np.inf) == pytest.approx(2.0)


def test_rows_of_rate_zero_decay_exactly_over_any_time() -> None:
    rates, start = np.zeros(3), np.random.default_rng(0).standard_normal((3, 4))
    start[2] = 0.0
    end = march(start, rates, np.array([1e300, np.inf, 7.0]))
    assert np.all(end[1] == 0)
    # dG/dt = -G^2: the inverse of the Gram matrix grows by t, whatever it was.
    gram, values = end[0] @ end[0].T, np.linalg.eigvalsh(start @ start.T)
    np.testing.assert_allclose(np.linalg.eigvalsh(gram * 1e300), [0, 1, 1], atol=1e-12)
    np.testing.assert_allclose(np.linalg.eigvalsh(end[2] @ end[2].T), values / (1 + 7 * values), atol=1e-14)


def test_a_kernel_that_vanishes_has_no_distance() -> None:
    model = LambdaBalanced.sample(3, 1, 4, 0.0, scale=1e6, Syx=np.zeros((4, 3)), random_state=0)
    distance = model.kernel_distance([0.0, 1.0, np.inf])
    assert distance[0] == pytest.approx(0.0, abs=1e-15)
    assert np.isnan(distance[-1])


def test_the_unit_of_the_inputs_does_not_settle_the_sign() -> None:
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((2, 4)), rng.standard_normal(2)
    found = [implicit_bias(0.1, [0.4, -0.6, 0.3, 0.5], X=s * X, y=s * y) for s in (1e-40, 1.0, 1e40)]
    assert {str(each.sign_rule) for each in found} == {"integrated"}
    for each in found:
        np.testing.assert_allclose(each.beta, found[1].beta, rtol=1e-12)


def test_alignment_fades_to_nothing_at_the_end_of_time() -> None:
    path = FastSlow([1.0, 0.5], [1.0, -0.5], eps=1e3).law().at([1.0, 1e306, np.inf])
    assert path.R[-1] == 0
    assert path.a[-1] == np.inf


def test_activations_without_a_second_moment_are_refused() -> None:
    for grows in (lambda z: np.exp(z**2 / 4), lambda z: np.exp(z**2)):
        with pytest.raises(DataError, match="but expected finite ones"):
            hermite_numbers(grows)
    assert hermite_numbers(np.exp).mu2_squared == pytest.approx(np.exp(2) - 2 * np.e)


def test_a_search_of_no_width_ends_at_the_width_of_rounding() -> None:
    model = FastSlow([1.0, 0.5, 0.5], [1.0, -0.1, 0.8], R0=0.02)
    assert model.separatrix(10.5, 11.5, xtol=1e-40) == pytest.approx(float(model.separatrix(10.5, 11.5)), rel=1e-7)
    with pytest.raises(DataError, match="xtol=0"):
        model.separatrix(10.5, 11.5, xtol=0.0)


def test_settings_that_decide_nothing_are_refused() -> None:
    model = OneStepCK(psi1=3, psi2=1.5, ridge=0.01)
    with pytest.raises(DataError, match="n_repeats=1, but expected at least 2"):
        model.verify(d=20, n_repeats=1)
    with pytest.raises(DataError, match="ratios=-1"):
        model.plot(ratios=(-1, 1))
    for tol in (-1.0, np.nan):
        with pytest.raises(DataError, match="tol="):
            LambdaBalanced(np.eye(2), np.eye(2), np.eye(2), tol=tol)


@pytest.mark.parametrize(
    "train",
    [
        lambda: LinearNet1D([0.5, 0.2], [0.3, -0.1]).simulate([0.0, 500.0], method="network", lr=5.0)["F"],
        lambda: SingleNeuron(1.0, [0.1, 0.2], [1.0, 2.0]).simulate([0.0, 500.0], method="network", lr=5.0)["a"],
        lambda: LambdaBalanced.sample(3, 2, 4, 1.0, random_state=0).simulate([0.0, 500.0], method="network", lr=5.0)[
            "loss"
        ],
        lambda: LateFeatures(
            np.eye(2), np.array([1.0, 0.8]), lr=50.0, schedule=((0.1, 200),), random_state=0
        ).simulate()["loss"],
    ],
    ids=["LinearNet1D", "SingleNeuron", "LambdaBalanced", "LateFeatures"],
)
def test_training_that_diverges_says_so(train: Callable[[], Any]) -> None:
    with pytest.warns(ConvergenceWarning, match="diverged; take a smaller"):
        values = train()
    assert np.isfinite(values[0])
    assert not np.isfinite(values[-1])


def test_a_diverged_run_disagrees_with_the_optimum() -> None:
    model = LateFeatures(np.eye(2), np.array([1.0, 0.8]), lr=50.0, schedule=((0.1, 200),), random_state=0)
    with pytest.warns(ConvergenceWarning, match="diverged"):
        assert not model.verify().ok
