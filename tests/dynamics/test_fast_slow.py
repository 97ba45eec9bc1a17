from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featlearn.dynamics.critical_manifold import CriticalManifold
from featlearn.dynamics.fast_slow import FastSlow
from featlearn.dynamics.fast_slow_network import train_neurons
from featlearn.exceptions import DataError

UNLEARNS = {"sigma": [1.0, 0.5], "tau": [1.0, -0.5]}
BISTABLE = {"sigma": [1.0, 0.5, 0.5], "tau": [1.0, -0.1, 0.8], "R0": 0.02}
FOLDED = {"sigma": [1.0, 0.2, 0.2], "tau": [0.2, -0.2, 1.0]}


def random_model(seed: int, eps: float = 1e-4) -> FastSlow:
    """Any signs, now and then a missing coefficient."""
    rng = np.random.default_rng(seed)
    K = int(rng.integers(2, 5))
    sigma, tau = rng.normal(size=(2, K))
    if rng.random() < 0.3:
        sigma[rng.integers(K)] = 0
    if rng.random() < 0.3:
        tau[rng.integers(K)] = 0
    a0 = rng.choice([-1, 1]) * rng.uniform(0.1, 4)
    return FastSlow(sigma, tau, a0=a0, R0=rng.uniform(-0.9, 0.9), eps=eps)


@pytest.fixture(autouse=True)
def _close_figures() -> Any:
    yield
    plt.close("all")


# --- verdict against the equations ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_the_verdict_is_what_the_equations_come_to(seed: int) -> None:
    result = random_model(seed).verify()
    assert result.ok, result.frame()


@pytest.mark.parametrize(
    "arguments",
    [
        UNLEARNS,
        {"sigma": [1, 0, 0.5], "tau": [1, 0, -0.5]},
        {"sigma": [0, 1, 0.5], "tau": [0, 1, -0.5]},
        {"sigma": [1, 0.5, 0.3], "tau": [1, 0, 0.1]},  # fades by the student's own second coefficient
        {"sigma": [1, 0.5], "tau": [-1, -0.5], "R0": 0.3},  # through R = 0 to the other side
        {"sigma": [1, 0.5], "tau": [-1, 0.5], "a0": -1},
    ],
)
def test_the_law_gives_exponents_and_prefactors(arguments: dict[str, Any]) -> None:
    model, t = FastSlow(**arguments), np.geomspace(1e10, 1e12, 20)
    law, end = model.law(), model.simulate(t)
    assert str(model.verdict().outcome) == "unlearn"
    assert bool(law.unlearns)
    slopes = [np.polyfit(np.log(t), np.log(np.abs(x)), 1)[0] for x in (end.a, end.R)]
    assert slopes[0] == pytest.approx(float(law.exponent), abs=2e-3)
    assert slopes[1] == pytest.approx(-float(law.exponent / law.order), abs=2e-3)
    np.testing.assert_allclose(law.at(t).a, end.a, rtol=1e-2)
    np.testing.assert_allclose(law.at(t).R, end.R, rtol=1e-2)
    # It starts from wherever it is told to.
    np.testing.assert_allclose(law.at(t - t[0], a_start=abs(end.a[0])).a, end.a, rtol=5e-3)


def test_there_is_no_law_where_nothing_fades() -> None:
    for arguments in (
        {"sigma": [1, 0.5], "tau": [1, 0.1]},
        {"sigma": [1, 0.5], "tau": [0, 1]},
        {"sigma": [1], "tau": [1]},
    ):
        law = FastSlow(**arguments).law()
        assert not law.unlearns
        assert math.isnan(law.exponent)
        assert np.isnan(law.at([1.0, math.inf]).R).all()
    assert FastSlow(**UNLEARNS).law().at(math.inf).R[0] == 0


def test_a_jump_leaves_from_the_fold_and_lands_where_the_equations_do() -> None:
    fate = FastSlow(**FOLDED).fate()
    assert (fate.outcome, fate.jumps) == ("learn", 1)
    (_, _), (_, _), (fold, height), (landing, _), *_ = fate.corners
    assert np.abs(FastSlow(**FOLDED).manifold.folds - fold).min() < 1e-12
    assert landing == 1
    behind = []
    for eps in (1e-2, 1e-4):
        path = FastSlow(**FOLDED, eps=eps).simulate(np.linspace(80, 95, 30001) / eps)
        leaving = int(np.argmax(path.R - (1 + fold) / 2 > 0))
        behind.append(height - path.a[leaving])
    # The delay at a fold is of the order eps^(2/3).
    assert 0 < behind[1] < behind[0] / 8 < 0.02
    assert path.a[-1] == pytest.approx(fate.a, abs=1e-3)


def test_a_start_on_the_border_is_named() -> None:
    model = FastSlow(**BISTABLE)
    R = float(model.manifold.equilibria[0])
    on_border = FastSlow(**BISTABLE | {"R0": R}, a0=float(model.manifold.A(R)))
    assert str(on_border.verdict().outcome) == "separatrix"
    # R = 0 is kept by a student and teacher without a common first coefficient, though nothing holds it.
    assert FastSlow([0, 1], [0, 1], R0=0, a0=1).fate().outcome == "separatrix"
    assert FastSlow([1, 1], [0, 0.1], R0=0, a0=1).fate().outcome == "unlearn"


def test_a_teacher_that_is_the_student_is_learned() -> None:
    for factor in (1.0, -2.0, 0.3):
        model = FastSlow([1.0, 0.4, -0.3], factor * np.array([1.0, 0.4, -0.3]), a0=math.copysign(1.0, factor))
        verdict = model.verdict()
        assert str(verdict.outcome) == "learn"
        assert float(verdict.a) == pytest.approx(factor)
        assert float(model.verify()) < 1e-6


def test_a_linear_student_stops_where_its_output_fits() -> None:
    fate = FastSlow([2.0], [0.5]).fate()
    assert fate.outcome == "partial"
    assert math.isclose(fate.R, 0.25)
    end = FastSlow([2.0], [0.5], eps=1e-6).simulate([1e3])
    assert end.R[0] == pytest.approx(0.25, abs=1e-4)


def test_the_separatrix_divides_the_outcomes() -> None:
    model = FastSlow(**BISTABLE)
    border = float(model.separatrix(10.5, 11.5))
    for factor, outcome in ((1 - 1e-6, "learn"), (1 + 1e-6, "unlearn")):
        assert str(FastSlow(**BISTABLE, a0=border * factor).verdict().outcome) == outcome
    of_eps = [
        float(FastSlow(**BISTABLE, eps=eps).separatrix(10.5, 11.5, method="ode", xtol=1e-6)) for eps in (1.0, 0.1)
    ]
    assert abs(of_eps[0] - border) > 3 * abs(of_eps[1] - border) > 0
    batch = FastSlow(**BISTABLE | {"R0": [0.02, 0.05]}).separatrix(10.5, 11.5)
    assert batch.shape == (2,)
    with pytest.raises(DataError, match="both learn"):
        model.separatrix(1.0, 2.0)
    with pytest.raises(DataError, match="method='exact'"):
        model.separatrix(10.5, 11.5, method="exact")  # type: ignore[arg-type]


@given(seed=st.integers(0, 10_000))
def test_mirrored_models_have_mirrored_fates(seed: int) -> None:
    model = random_model(seed)
    fate = model.fate()
    flipped = FastSlow(model.sigma, -model.tau, a0=-model.a0, R0=model.R0).fate()
    parity = (-1.0) ** np.arange(1, model.sigma.shape[-1] + 1)
    other_side = FastSlow(model.sigma, model.tau * parity, a0=model.a0, R0=-model.R0).fate()
    assert fate.outcome == flipped.outcome == other_side.outcome
    assert (flipped.R, flipped.a) == pytest.approx((fate.R, -fate.a))
    assert (other_side.R, other_side.a) == pytest.approx((-fate.R, fate.a))


@given(seed=st.integers(0, 10_000))
def test_loss_never_rises_along_the_corners(seed: int) -> None:
    model = random_model(seed)
    degrees = np.arange(1, model.sigma.shape[-1] + 1)
    losses = [
        np.sum((model.tau - a * model.sigma * R**degrees) ** 2) / 2 for R, a in model.fate().corners if math.isfinite(a)
    ]
    assert (np.diff(losses) <= 1e-9 * losses[0]).all()


# --- the manifold -----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000))
def test_the_manifold_is_where_the_fast_field_vanishes(seed: int) -> None:
    model = random_model(seed)
    manifold, k = model.manifold, np.arange(1, model.sigma.shape[-1] + 1)
    for R in (-0.8, -0.3, 0.2, 0.6, 0.95):
        a, h = float(manifold.A(R)), 1e-6

        def field(r: float, a: float = a) -> float:
            error = model.tau - a * model.sigma * r**k
            return a * float(np.sum(k * model.sigma * r ** (k - 1) * error))

        scale = 1 + a**2
        assert abs(field(R)) < 1e-9 * scale
        slope = (field(R + h) - field(R - h)) / (2 * h)
        if abs(slope) > 1e-3 * scale:
            assert bool(manifold.attracting(R)) == (slope < 0)
        drift = np.sum(model.sigma * R**k * (model.tau - a * model.sigma * R**k))
        assert float(manifold.G(R)) == pytest.approx(float(drift), abs=1e-9 * scale)


def test_folds_and_equilibria_are_turning_points_and_rests() -> None:
    manifold = FastSlow(**FOLDED).manifold
    R = np.linspace(1e-3, 1, 200_001)
    turns = R[1:-1][np.diff(np.sign(np.diff(manifold.A(R)))) != 0]
    np.testing.assert_allclose(manifold.folds[manifold.folds > 0], turns, atol=1e-5)
    rests = R[:-1][np.diff(np.sign(manifold.G(R))) != 0]
    np.testing.assert_allclose(manifold.equilibria[manifold.equilibria > 0], rests, atol=1e-5)
    assert len(turns) == 1


# --- simulation -------------------------------------------------------------------------------------------------------


def test_alignment_never_passes_one() -> None:
    for seed in range(8):
        path = random_model(seed, eps=0.05).simulate(np.geomspace(0.01, 1e7, 50))
        assert np.isfinite(path.a).all()
        assert (np.abs(path.R) <= 1).all()
        assert (np.diff(path.loss) <= 1e-8 * path.loss[0]).all()


def test_a_batch_is_its_elements() -> None:
    t = np.array([0.0, 5.0, 500.0, 1.0])
    batch = FastSlow([[1.0, 0.5], [1.0, 0.3]], [1.0, -0.5], a0=[[1.0], [2.0], [0.5]])
    path = batch.simulate(t)
    assert path.R.shape == (3, 2, 4)
    alone = FastSlow([1.0, 0.3], [1.0, -0.5], a0=2.0)
    np.testing.assert_allclose(path.R[1, 1], alone.simulate(t).R, rtol=1e-7)
    verdict = batch.verdict()
    assert verdict.outcome.shape == (3, 2)
    assert verdict.R[1, 1] == float(alone.verdict().R)
    assert batch.law().rate[1, 1] == float(alone.law().rate)
    assert len(batch.frame()) == 6


@pytest.mark.parametrize(
    "change", [{"sigma": [1.0, 0.6]}, {"tau": [1.0, -0.4]}, {"a0": 1.5}, {"R0": 0.1}, {"eps": 0.02}]
)
def test_every_parameter_changes_the_path(change: dict[str, Any]) -> None:
    t = [2.0, 200.0]
    paths = [FastSlow(**UNLEARNS | each).simulate(t).R for each in ({}, change)]
    assert (np.abs(paths[0] - paths[1]) > 1e-6).all()


# --- the network ------------------------------------------------------------------------------------------------------


def test_the_network_follows_the_gradient_of_its_population_loss() -> None:
    sigma, tau = np.array([0.8, 0.5, -0.3]), np.array([0.5, -0.7, 0.2])
    N, dim, eps, t = 4, 6, 0.3, 1e-6
    numbers = (sigma, tau, np.array(0.7), np.array(0.4), np.array(eps))
    starts, ends = (
        np.stack(train_neurons(*numbers, np.array([s]), n_neurons=N, dim=dim, rng=np.random.default_rng(3)))[..., 0]
        for s in (0.0, t)
    )
    rng = np.random.default_rng(3)
    beside = rng.standard_normal((N, dim - 1))
    beside /= np.linalg.norm(beside, axis=1, keepdims=True)
    W = torch.tensor(np.hstack([np.full((N, 1), 0.4), math.sqrt(1 - 0.16) * beside]), requires_grad=True)
    a = torch.full((N,), 0.7, dtype=torch.float64, requires_grad=True)
    unit = W / W.norm(dim=1, keepdim=True)  # its gradient is that on the sphere
    loss = torch.zeros((), dtype=torch.float64)
    for k in range(1, 4):
        s, target = sigma[k - 1], tau[k - 1]
        loss = loss + (target**2 - 2 * target * s * (a * unit[:, 0] ** k).mean()) / 2
        loss = loss + s**2 * (a[:, None] * a * (unit @ unit.T) ** k).mean() / 2
    loss.backward()
    # Each neuron has the share 1/N in the loss, which the mean-field rate N gives back.
    np.testing.assert_allclose((ends[0] - starts[0]) / t, -eps * N * a.grad.numpy(), rtol=1e-4)
    np.testing.assert_allclose((ends[1] - starts[1]) / t, -N * W.grad[:, 0].numpy(), rtol=1e-4)


def test_a_network_approaches_its_limit_like_one_over_its_width() -> None:
    model, t = FastSlow(**UNLEARNS, eps=0.05), np.linspace(0, 60, 31)
    limit = model.simulate(t).R
    errors = []
    for n_neurons in (16, 32, 64):
        network = model.simulate(t, method="network", n_neurons=n_neurons, dim=64)
        assert network.R_i.shape == (n_neurons, 31)
        np.testing.assert_allclose(network.R, network.R_i.mean(axis=0))
        errors.append(np.abs(network.R - limit).max())
    assert errors[2] < 0.02
    assert all(1.5 < large / small < 2.7 for large, small in pairwise(errors)), errors


def test_networks_of_a_batch_are_trained_one_beside_the_other() -> None:
    t = [0.0, 1.0, 3.0]
    batch = FastSlow([1.0, 0.5], [1.0, -0.5], a0=[[1.0], [2.0]], R0=[0.05, 0.2, 0.3])
    together = batch.simulate(t, method="network", n_neurons=3, dim=5)
    assert together.a_i.shape == (2, 3, 3, 3)
    alone = FastSlow([1.0, 0.5], [1.0, -0.5], a0=2.0, R0=0.3).simulate(t, method="network", n_neurons=3, dim=5)
    np.testing.assert_allclose(together.R_i[1, 2], alone.R_i, rtol=1e-6)
    other = FastSlow([1.0, 0.5], [1.0, -0.5], a0=2.0, R0=0.3)
    seeds = [other.simulate(t, method="network", n_neurons=3, dim=5, random_state=seed).R_i for seed in (0, 1)]
    assert np.abs(seeds[0] - seeds[1]).max() > 1e-3


# --- refusals, showing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": [1, 2], "tau": [1]}, r"sigma of shape \(2,\) and tau of shape \(1,\)"),
        ({"sigma": 1, "tau": [1]}, r"expected \(..., K\)"),
        ({"sigma": [0, 0], "tau": [1, 1]}, "sigma=0"),
        ({"R0": 1}, "R0=1"),
        ({"R0": [-1.5, 0]}, "inside"),
        ({"eps": 0}, "eps=0"),
        ({"a0": math.inf}, "a0"),
        ({"sigma": []}, "empty sigma"),
        ({"a0": [1, 2], "R0": [0.1, 0.2, 0.3]}, r"R0 of shape \(3,\)"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        FastSlow(**UNLEARNS | arguments)


def test_bad_simulations_are_refused() -> None:
    model = FastSlow(**UNLEARNS)
    for arguments, message in (
        ({"t": math.inf}, "t=inf"),
        ({"t": -1}, "t=-1"),
        ({"t": 1, "method": "sgd"}, "method='sgd'"),
        ({"t": 1, "method": "network", "n_neurons": 0}, "n_neurons=0"),
        ({"t": 1, "method": "network", "dim": 1}, "dim=1"),
    ):
        with pytest.raises(DataError, match=message):
            model.simulate(**arguments)
    with pytest.raises(DataError, match="batch of models"):
        FastSlow(**UNLEARNS, a0=[1, 2]).fate()
    batch = FastSlow(**UNLEARNS, a0=[[1, 2], [3, 4]])
    with pytest.raises(DataError, match=r"Index the batch, as in model\[0, 0\]"):
        batch.plot()
    assert batch[1, 0].fate() == FastSlow(**UNLEARNS, a0=3).fate()
    assert batch[..., 1].a0.tolist() == batch[:, 1].a0.tolist() == [2, 4]
    assert batch[0].sigma.shape == (2, 2)


def test_dictionaries_are_plain_and_tables_have_a_row_a_model() -> None:
    model = FastSlow(**UNLEARNS, a0=[1.0, 2.0])
    for result in (model, model.verdict(), model.simulate([0.0, 1.0])):
        assert json.loads(json.dumps(result.to_dict()))["schema"] == 1
    assert model.frame()["outcome"].tolist() == ["unlearn", "unlearn"]


@pytest.mark.parametrize("arguments", [UNLEARNS, FOLDED, {"sigma": [1, 0.5], "tau": [-1, -0.5], "R0": 0.3}])
def test_the_figure_shows_the_manifold_and_the_path(arguments: dict[str, Any]) -> None:
    model = FastSlow(**arguments)
    portrait, over_time = model.plot(np.geomspace(0.01, 1e4, 60))
    path = model.simulate([1e4])
    star = next(line for line in portrait.lines if line.get_marker() == "*")
    np.testing.assert_allclose(star.get_xydata()[0], [path.R[0], path.a[0]], rtol=1e-6)
    manifold = model.manifold
    for collection in portrait.collections:
        for segment in collection.get_segments():
            R, a = segment.T
            np.testing.assert_allclose(a, manifold.A(R), rtol=1e-9)
            assert len(set(np.sign(R))) == 1
    dashed = [c for c in portrait.collections if len(c.get_segments()) and c.get_linestyle()[0][1] is not None]
    assert bool(dashed) == (arguments is FOLDED)
    assert over_time.get_xscale() == over_time.get_yscale() == "log"
    assert ("law of fading" in over_time.get_legend_handles_labels()[1]) == (arguments is not FOLDED)
    assert len(model.plot(np.geomspace(0.01, 10, 20), ax=portrait)) == 1


def test_the_manifold_has_its_own_example() -> None:
    manifold = CriticalManifold(np.array([1.0, 0.5]), np.array([1.0, 0.3]))
    np.testing.assert_allclose(manifold.equilibria, [0.6])
    assert manifold.folds.size == 0
