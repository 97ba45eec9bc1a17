from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featlearn.dynamics.linear_net_1d import LinearNet1D
from featlearn.dynamics.parametrisations import NAMED_PARAMETRISATIONS
from featlearn.dynamics.solvable import agreement
from featlearn.exceptions import ConvergenceWarning, DataError

WEIGHTS = ([0.3, -0.2, 0.5], [0.1, 0.4, 0.2])
SCALES = {"g": 1.5, "eta_u": 2.0, "eta_w": 0.5, "Exx": 1.3, "Exy": 0.8}


def random_net(seed: int) -> LinearNet1D:
    rng = np.random.default_rng(seed)
    d, scale = int(rng.integers(1, 12)), 10 ** rng.uniform(-1.5, 0.5)
    sizes = {name: 10 ** rng.uniform(-0.7, 0.7) for name in ("g", "eta_u", "eta_w", "Exx")}
    sizes["g"] *= rng.choice([-1, 1])
    return LinearNet1D(*scale * rng.normal(size=(2, d)), **sizes, Exy=rng.normal())


@pytest.fixture(autouse=True)
def _close_figures() -> Any:
    yield
    plt.close("all")


def test_the_raw_equations_agree_on_forty_problems() -> None:
    for seed in range(40):
        result = random_net(seed).verify()
        assert result.ok, (seed, result.frame())


def test_the_error_of_a_trained_network_halves_with_its_step() -> None:
    for g in (1.5, -1.5):
        net, t = LinearNet1D(*WEIGHTS, **SCALES | {"g": g}), np.linspace(0.0, 2.4, 7)
        errors = [
            float(agreement(net.closed_form(t), net.simulate(t, method="network", lr=lr), 1.0))
            for lr in (0.04, 0.02, 0.01)
        ]
        assert errors[0] < 0.04
        assert all(1.7 < large / small < 2.3 for large, small in pairwise(errors)), errors


def test_steps_that_leave_the_flow_are_warned_of_before_they_overflow() -> None:
    net = LinearNet1D([1.0, 2.0], [1.0, 2.0])
    assert net.hyperbola.max_stable_lr == pytest.approx(0.2)
    with pytest.warns(ConvergenceWarning, match=r"The loss of descent with lr=10 rose"):
        assert net.simulate([0.0, 5.0], method="network", lr=10).F.max() > 1000
    with pytest.warns(ConvergenceWarning, match=r"Got lr=0\.21, but descent follows the flow up to 0\.2 only"):
        net.simulate([0.0, 5.0], method="network", lr=0.21)
    net.simulate([0.0, 5.0], method="network", lr=0.19)  # warnings are errors


def test_networks_of_a_batch_are_trained_one_beside_the_other() -> None:
    nets = LinearNet1D(*WEIGHTS, g=[1.0, -2.0], eta_u=[[1.0], [0.5], [2.0]], Exy=0.5)
    t = np.array([0.0, 0.35, 1.0])
    together = nets.simulate(t, method="network", lr=0.05)
    alone = LinearNet1D(*WEIGHTS, g=-2.0, eta_u=2.0, Exy=0.5).simulate(t, method="network", lr=0.05)
    np.testing.assert_allclose(together.w[2, 1], alone.w, rtol=1e-12)
    assert nets.closed_form(t).w.shape == (3, 2, 3, 3)


def test_what_gradient_flow_conserves_is_conserved() -> None:
    for seed in range(10):
        net = random_net(seed)
        t = net.hyperbola.horizon() * np.linspace(0.0, 1.0, 30)
        path = net.closed_form(t)
        for values in net.conserved(path).values():
            # Relative to the squares whose difference it is.
            scale = max((path.u**2 / net.eta_u).max(), (path.w**2 / net.eta_w).max(), (path.Theta**2).max())
            np.testing.assert_allclose(values, np.broadcast_to(values[..., :1], values.shape), atol=1e-12 * scale)
        p = path.u / np.sqrt(net.eta_u) + np.sign(net.g) * path.w / np.sqrt(net.eta_w)
        np.testing.assert_allclose(p / p[:1], np.broadcast_to((p / p[:1])[:, :1], p.shape), rtol=1e-6)


def test_the_final_kernel_is_known_before_training() -> None:
    net = LinearNet1D(*WEIGHTS, **SCALES)
    start, end = net.closed_form([0.0, np.inf]).Theta
    gain = 4 * net.g**2 * net.eta_u * net.eta_w * (net.F_inf**2 - net.F(0.0)[0] ** 2)
    assert end == pytest.approx(math.sqrt(start**2 + gain))
    assert net.F(np.inf)[0] == pytest.approx(0.8 / 1.3)


def test_the_sign_of_the_output_scale_is_a_sign_of_the_weights() -> None:
    net, t = LinearNet1D(*WEIGHTS, **SCALES), np.linspace(0.0, 3.0, 5)
    mirrored = LinearNet1D(WEIGHTS[0], -np.array(WEIGHTS[1]), **SCALES | {"g": -1.5})
    np.testing.assert_allclose(mirrored.F(t), net.F(t), rtol=1e-13)
    np.testing.assert_allclose(mirrored.closed_form(t).w, -net.closed_form(t).w, rtol=1e-12)


def test_in_the_basin_of_the_saddle_both_layers_vanish() -> None:
    net = LinearNet1D([1.0, -2.0], [-1.0, 2.0])
    path = net.closed_form([0.0, 1.0, 1e5, np.inf])
    assert not net.hyperbola.reaches_target
    assert (path.u[:, 2:] == 0).all()
    np.testing.assert_allclose(path.cos, [-1.0, -1.0, 0.0, 0.0])
    assert net.verify([0.0, 0.5, 1.0]).ok


# --- mechanisms -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.floats(0.0, 20.0))
def test_turning_and_growing_add_up_to_the_growth_of_the_output(seed: int, time: float) -> None:
    net = random_net(seed)
    for at in (time, None):
        found = net.mechanisms(at)
        path = net.closed_form([0.0, np.inf if at is None else at])
        growth = np.log(np.abs(path.F[1] / path.F[0]))
        total = np.ravel(found.D_cos + found.D_norm)
        # Where the output passes through 0, by its cosine or by a layer's norm, its logarithm has no accuracy left.
        lost = 1e-13 * (path.Theta / np.abs(net.hyperbola.omega * path.F)).max()
        assert (np.abs(total - growth) < 1e-12 + lost).all()


def worked(name: str, seed: int) -> LinearNet1D:
    rng = np.random.default_rng(seed)
    if name == "mean-field":
        return LinearNet1D.sample(1000, "mean_field", random_state=seed)
    if name == "ntk":
        return LinearNet1D.sample(1000, "ntk", random_state=seed)
    if name == "small":
        return LinearNet1D(*0.05 * rng.normal(size=(2, 10)))
    u, w = rng.uniform(0.8, 2.2, (2, 4))  # F_0 near 9, far above the target
    return LinearNet1D(u, w, Exy=0.1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("mean-field", ("alignment", "rescaling")),
        ("small", ("alignment", "rescaling")),
        ("ntk", ("kernel-like",)),
        ("overshoot", ("disalignment", "rescaling")),
    ],
)
def test_labels_of_the_worked_cases(name: str, labels: tuple[str, ...], seed: int) -> None:
    found = worked(name, seed).mechanisms()
    assert found.labels == labels, found.frame().T


def test_mean_field_turns_to_45_degrees_and_grows_by_root_two() -> None:
    found = LinearNet1D.sample(10_000, "mean_field", random_state=1, draws=10).mechanisms()
    assert found.cos.mean() == pytest.approx(1 / math.sqrt(2), abs=0.01)
    assert (found.norm / found.norm0).mean() == pytest.approx(math.sqrt(2), abs=0.02)


def test_labels_have_the_shape_of_batch_and_time() -> None:
    nets = LinearNet1D.sample(200, "mean_field", random_state=0, draws=3)
    assert nets.mechanisms().labels.shape == (3,)
    over_time = nets.mechanisms([0.0, np.inf])
    assert over_time.labels[:, 0].tolist() == [("kernel-like",)] * 3
    assert over_time.labels[:, 1].tolist() == nets.mechanisms().labels.tolist()


def test_an_output_that_starts_at_zero_grows_by_an_infinite_factor() -> None:
    found = LinearNet1D([1.0, 1.0], [1.0, -1.0]).mechanisms()
    assert found.D_cos == np.inf
    assert np.isfinite(found.D_norm)
    assert np.isfinite(found.score)
    still = LinearNet1D([0.0, 0.0], [0.0, 0.0]).mechanisms()
    assert (still.D_cos, still.D_norm, still.labels) == (0.0, 0.0, ("kernel-like",))
    assert still.frame()["labels"].tolist() == ["below the thresholds (kernel-like)"]


def test_growing_alone_is_rescaling() -> None:
    found = LinearNet1D([0.5, 0.5], [0.5, 0.5]).mechanisms()
    assert found.labels == ("rescaling",)
    assert found.D_norm == pytest.approx(math.log(2.0))


# --- interface --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["u0", "w0", *SCALES])
def test_every_parameter_changes_the_answer(name: str) -> None:
    base: dict[str, Any] = {"u0": WEIGHTS[0], "w0": WEIGHTS[1], **SCALES}
    changed = LinearNet1D(**base | {name: np.multiply(base[name], 1.1)})
    assert abs(changed.F(1.0) - LinearNet1D(**base).F(1.0))[0] > 1e-4


def test_samples_differ_by_seed_and_agree_by_seed() -> None:
    first, again, other = (LinearNet1D.sample(5, "xavier", random_state=seed).u0 for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    by_exponents = LinearNet1D.sample(5, {"var_u": -1.0, "var_w": -1.0}, random_state=0)
    np.testing.assert_array_equal(by_exponents.u0, first)
    assert LinearNet1D.sample(5, "ntk", target=[1.0, 2.0], random_state=0, draws=2).F_inf.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", NAMED_PARAMETRISATIONS)
def test_variances_and_rates_of_a_sample_are_those_of_its_parametrisation(name: str) -> None:
    net, scales = LinearNet1D.sample(4000, name, random_state=0), NAMED_PARAMETRISATIONS[name].at(4000)
    assert net.u0.var() == pytest.approx(scales["var_u"], rel=0.1)
    assert net.w0.var() == pytest.approx(scales["var_w"], rel=0.1)
    assert (net.g, net.eta_u, net.eta_w) == (scales["g"], scales["eta_u"], scales["eta_w"])


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: LinearNet1D([1.0, 2.0], [1.0]), r"u0 of shape \(2,\) and w0 of shape \(1,\)"),
        (lambda: LinearNet1D(1.0, [1.0]), "one d"),
        (lambda: LinearNet1D([1.0], [1.0], g=0.0), "g=0"),
        (lambda: LinearNet1D([1.0], [1.0], eta_u=0.0), "eta_u"),
        (lambda: LinearNet1D([1.0], [1.0], eta_w=-1.0), "eta_w"),
        (lambda: LinearNet1D([1.0], [1.0], Exx=0.0), "Exx"),
        (lambda: LinearNet1D([math.nan], [1.0]), "u0"),
        (lambda: LinearNet1D([[1.0]] * 2, [[1.0]] * 3), r"w0 of shape \(3,\)"),
        (lambda: LinearNet1D.sample(0, "ntk"), "width=0"),
        (lambda: LinearNet1D.sample(3, "ntk", draws=0), "draws=0"),
        (lambda: LinearNet1D.sample(3, "ntp"), "'ntp'"),
        (lambda: LinearNet1D.sample(3, {"rate": 1.0}), "'rate'"),
        (lambda: LinearNet1D(*WEIGHTS).simulate([1.0], method="adam"), "'adam'"),  # type: ignore[arg-type]
        (lambda: LinearNet1D(*WEIGHTS).simulate([1.0], lr=0.1), "leave lr out"),
        (lambda: LinearNet1D(*WEIGHTS).simulate([1.0], method="network", lr=0.0), "lr=0"),
        (lambda: LinearNet1D(*WEIGHTS).simulate([np.inf], method="network"), "finite times"),
        (lambda: LinearNet1D(*WEIGHTS).closed_form([-1.0]), "at least 0"),
    ],
)
def test_bad_input_is_refused(make: Any, word: str) -> None:
    with pytest.raises(DataError, match=word):
        make()


def test_it_is_plain_numbers_a_table_and_a_figure() -> None:
    net = LinearNet1D(*WEIGHTS, **SCALES)
    numbers = json.loads(json.dumps(net.to_dict()))
    assert numbers["hyperbola"]["F0"] == pytest.approx(1.5 * 0.05)
    assert numbers["mechanisms"]["labels"] == list(net.mechanisms().labels) == ["rescaling"]
    row = net.frame().iloc[0]
    assert (row["F_limit"], row["labels"]) == (pytest.approx(0.8 / 1.3), "rescaling")
    panels = net.plot(np.linspace(0.0, 5.0, 24))
    line, dots = panels[1].lines[:2]
    np.testing.assert_array_equal(line.get_ydata(), net.closed_form(np.linspace(0.0, 5.0, 24)).Theta)
    np.testing.assert_allclose(dots.get_ydata(), line.get_ydata()[::2], rtol=1e-8)
    assert len(net.plot(ax=plt.subplots()[1])) == 1
    with pytest.raises(DataError, match="Got 2 Axes, but expected one or four"):
        net.plot(ax=plt.subplots(1, 2)[1])
