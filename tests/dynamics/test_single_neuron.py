"""One linear neuron: its closed form against many digits, integration and descent; its limits, basins and kernel."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featlearn.dynamics.single_neuron import SingleNeuron
from featlearn.exceptions import DataError

INF = float("inf")


def neurons(count, n=3, seed=0, spread=1.5):
    """A batch at all scales and balances, with unequal rates."""
    rng = np.random.default_rng(seed)
    scales = 10 ** rng.uniform(-spread, 0.5, (2, count))
    rates = 10 ** rng.uniform(-0.5, 0.5, (2, count))
    return SingleNeuron(
        scales[0] * rng.normal(size=count),
        scales[1][:, None] * rng.normal(size=(count, n)),
        rng.normal(size=(count, n)),
        eta_a=rates[0],
        eta_w=rates[1],
    )


def many_digits(a, w, b, eta_a, eta_w, t):
    """a and w by hyperbolic functions, in 400 digits."""
    with mp.workdps(400):
        a, eta_a, eta_w, t = (mp.mpf(float(x)) for x in (a, eta_a, eta_w, t))
        w, b = ([mp.mpf(float(x)) for x in vector] for vector in (w, b))
        ratio, T = (eta_w / eta_a) ** mp.mpf("0.25"), mp.sqrt(eta_a * eta_w) * t
        A, W = a * ratio, [x / ratio for x in w]
        delta = A**2 - mp.fsum(x * x for x in W)
        k = mp.sqrt(delta**2 + 4 * mp.fsum(x * x for x in b)) / 2
        slope = (mp.fsum(x * y for x, y in zip(W, b, strict=True)) + delta * A / 2) / k
        P, Q = (A + slope) / 2, (A - slope) / 2
        alpha = mp.exp(delta * T / 2) * (A * mp.cosh(k * T) + slope * mp.sinh(k * T))

        def integral(rate):
            return mp.expm1(rate * T) / rate if rate else T

        cross = 2 * P * Q * integral(delta)
        N = mp.sqrt(1 + 2 * (P**2 * integral(delta + 2 * k) + Q**2 * integral(delta - 2 * k) + cross))
        pulled = P * integral(delta / 2 + k) + Q * integral(delta / 2 - k)
        return float(alpha / N / ratio), np.array(
            [float((x + y * pulled) / N * ratio) for x, y in zip(W, b, strict=True)]
        )


def test_closed_form_equals_hyperbolic_functions_in_400_digits():
    rng = np.random.default_rng(0)
    longest = 0.0
    for _ in range(200):
        n = int(rng.integers(1, 5))
        a, w, b = rng.normal() * 10 ** rng.uniform(-3, 2), rng.normal(size=n), rng.normal(size=n)
        w, b = w * 10 ** rng.uniform(-3, 2), b * 10 ** rng.uniform(-2, 1)
        eta_a, eta_w = 10 ** rng.uniform(-1, 1, 2)
        neuron = SingleNeuron(a, w, b, eta_a=eta_a, eta_w=eta_w)
        K = np.hypot(neuron.delta, 2 * np.linalg.norm(b) * np.sqrt(eta_a * eta_w))
        t = 10 ** rng.uniform(-3, np.log10(2e5)) / K
        longest = max(longest, K * t)
        path, (a_true, w_true) = neuron.closed_form(t), many_digits(a, w, b, eta_a, eta_w, t)
        # a passes through zero, where only the scale of its path is a measure of error.
        assert abs(path.a[0] - a_true) <= 1e-12 * max(abs(a_true), 1e-3 * abs(a))
        assert np.abs(path.w[:, 0] - w_true).max() <= 1e-12 * np.abs(w_true).max()
    assert longest > 1e5


def test_closed_form_equals_integration_of_the_raw_weights():
    batch = neurons(40)
    assert batch.verify(np.linspace(0, 20, 40)).ok
    assert set(batch.regime) == {"upstream", "downstream"}


@pytest.mark.parametrize("delta", [-3.0, 0.0, 3.0])
def test_verify_covers_the_whole_way(delta):
    a = np.hypot(0.5, np.sqrt(max(delta, 0)))
    w = np.sqrt(a**2 - delta)
    neuron = SingleNeuron(a, [0.6 * w, -0.8 * w], [1.0, 0.5])
    assert neuron.delta == pytest.approx(delta, abs=1e-12)
    assert neuron.verify().ok
    assert neuron.closed_form(neuron.horizon()).loss[0] < 1e-4 * neuron.closed_form(0).loss[0]


def test_descent_on_the_network_approaches_in_proportion_to_its_step():
    batch, times = neurons(4, spread=0.5), [0.0, 0.35, 1.0]
    exact = batch.closed_form(times)
    coarse, fine = (batch.simulate(times, method="network", lr=lr) for lr in (4e-3, 2e-3))
    for name in ("a", "w", "beta"):
        ratio = np.abs(coarse[name] - exact[name]).max() / np.abs(fine[name] - exact[name]).max()
        assert 1.7 < ratio < 2.3


@settings(max_examples=60, deadline=None)
@given(
    a=st.floats(-3, 3),
    w=st.lists(st.floats(-3, 3), min_size=2, max_size=2),
    b=st.lists(st.floats(-3, 3), min_size=2, max_size=2),
    eta=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
)
def test_balance_and_the_hyperbola_are_conserved_and_the_loss_falls(a, w, b, eta):
    neuron = SingleNeuron(a, w, b, eta_a=eta[0], eta_w=eta[1])
    path = neuron.closed_form([0.0, 1e-3, 0.1, 1.0, 10.0, 1e3, 1e6, INF])
    first, second = eta[1] * path.a**2, eta[0] * (path.w**2).sum(axis=0)
    scale = (first + second)[0] + abs(neuron.delta) + np.hypot(*b)
    np.testing.assert_allclose(first - second, neuron.delta, atol=1e-11 * scale)
    R = np.sqrt(neuron.delta**2 + 4 * eta[0] * eta[1] * (path.beta**2).sum(axis=0))
    np.testing.assert_allclose(first + second, R, atol=1e-6 * scale)
    assert (np.diff(path.loss) <= 1e-9 * path.loss[0]).all()


# --- degenerate cases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 1000])
def test_weights_of_a_float32_model_are_balanced_up_to_their_rounding(n):
    torch.manual_seed(n)
    unit = torch.nn.functional.normalize(torch.randn(n), dim=0)
    neuron = SingleNeuron(torch.tensor(1.0), unit, unit)
    assert neuron.delta != 0
    assert neuron.regime == "balanced"
    assert SingleNeuron(1.00001, unit, unit).regime == "upstream"
    assert SingleNeuron(0.99999, unit, unit).regime == "downstream"


def test_on_the_boundary_of_the_basins_the_flow_ends_in_the_saddle():
    balanced = SingleNeuron(0.6, [-0.6, 0.0], [1.0, 0.0])
    assert balanced.sign == 0
    end = balanced.final()
    assert end.a == 0
    assert (end.w == 0).all()
    downstream = SingleNeuron(0.0, [0.0, 0.7], [1.0, 0.0])
    np.testing.assert_array_equal(downstream.closed_form([0.0, 1e6, INF]).w, [[0.0] * 3, [0.7] * 3])


@pytest.mark.parametrize(("a", "w"), [(0.6, 0.7), (0.8, 0.7)])
def test_without_a_target_the_smaller_layer_decays_and_the_balance_stays(a, w):
    neuron = SingleNeuron(a, [0.0, w], [0.0, 0.0])
    assert neuron.verify().ok
    end = neuron.final()
    assert end.a[0] ** 2 == pytest.approx(max(a**2 - w**2, 0), abs=1e-14)
    assert (end.w**2).sum() == pytest.approx(max(w**2 - a**2, 0), abs=1e-14)


def test_without_target_and_imbalance_both_layers_decay_as_a_power():
    t = np.array([0.0, 1.0, 1e3, 1e9])
    path = SingleNeuron(0.7, [0.7], [0.0]).closed_form(t)
    np.testing.assert_allclose(path.a, 0.7 / np.sqrt(1 + 2 * 0.49 * t), rtol=1e-14)
    np.testing.assert_allclose(path.w[0], path.a, rtol=1e-14)
    assert SingleNeuron(0.7, [0.7], [0.0]).final().a == 0


def test_weights_of_zero_never_move():
    neuron = SingleNeuron(0.0, [0.0, 0.0], [1.0, 2.0])
    assert (neuron.closed_form([0.0, 1.0, INF]).w == 0).all()
    assert neuron.verify().ok
    assert np.isnan(neuron.kernel_distance([0.0, 1.0])).all()


def test_nothing_overflows_at_any_time_and_scale():
    rng = np.random.default_rng(2)
    batch = SingleNeuron(
        rng.normal(size=60) * 10 ** rng.uniform(-80, 8, 60),
        rng.normal(size=(60, 2)) * 10 ** rng.uniform(-80, 8, (60, 1)),
        rng.normal(size=(60, 2)) * 10 ** rng.uniform(-8, 8, (60, 1)),
    )
    path = batch.closed_form([0.0, 1e-30, 1.0, 1e30, 1e300, INF])
    assert all(np.isfinite(path[name]).all() for name in ("a", "w", "beta"))


# --- limits and basins ------------------------------------------------------------------------------------------------


def test_the_end_reaches_the_target_and_the_sign_is_that_of_integration():
    batch = neurons(40, seed=1)
    np.testing.assert_allclose(batch.final().beta[..., 0], batch.target, atol=1e-12)
    late = batch.simulate([60.0])
    np.testing.assert_array_equal(np.sign(late.a[:, 0]), batch.sign)
    assert (np.sign(batch.a0) != batch.sign).sum() >= 5


def test_the_boundary_of_the_basins_is_where_the_sign_flips():
    a, target, norm = 0.2, np.array([1.5, 0.0]), 0.7
    boundary = SingleNeuron(a, [norm, 0.0], target, eta_a=2.0).basin_boundary()
    for nudge, sign in ((1e-6, 1), (-1e-6, -1)):
        overlap = boundary / 1.5 + nudge
        w = np.array([overlap, np.sqrt(norm**2 - overlap**2)])
        neuron = SingleNeuron(a, w, target, eta_a=2.0)
        assert neuron.sign == sign
        assert np.sign(neuron.simulate([40.0]).a[0]) == sign


def test_upstream_of_a_keeps_its_sign_whatever_the_weights():
    batch = SingleNeuron(1.0, np.array([[-0.99, 0.0], [0.0, 0.99]]), [3.0, 0.0])
    assert (batch.regime == "upstream").all()
    assert (batch.sign == 1).all()
    assert (batch.basin_boundary() < -0.99 * 3).all()


# --- the kernel -------------------------------------------------------------------------------------------------------


def test_the_metric_is_the_flow_of_beta():
    batch = neurons(5, seed=3)
    t, h = np.array([0.3, 1.0]), 1e-5
    slope = (batch.closed_form(t + h).beta - batch.closed_form(t - h).beta) / (2 * h)
    residual = batch.target[..., None] - batch.closed_form(t).beta
    np.testing.assert_allclose(np.einsum("bijt,bjt->bit", batch.metric(t), residual), slope, rtol=1e-6, atol=1e-8)


def test_the_metric_is_a_function_of_beta_and_the_balance():
    batch, t = neurons(5, seed=4), np.array([0.0, 0.5, 3.0])
    beta = np.moveaxis(batch.closed_form(t).beta, 1, -1)
    size = np.linalg.norm(beta, axis=-1)
    delta = batch.delta[:, None]
    R = np.sqrt(delta**2 + 4 * (batch.eta_a * batch.eta_w)[:, None] * size**2)
    unit = beta / size[..., None]
    expected = (R + delta)[..., None, None] / 2 * np.eye(3) + (R - delta)[..., None, None] / 2 * (
        unit[..., :, None] * unit[..., None, :]
    )
    np.testing.assert_allclose(np.moveaxis(batch.metric(t), -1, 1), expected, rtol=1e-11, atol=1e-12)


def test_kernel_distance_is_that_of_the_dense_kernels_at_the_same_time():
    batch, t = neurons(6, seed=5), np.array([0.0, 0.4, 2.0])
    inputs = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 3)))[0]
    kernels = np.einsum("pi,bijt,qj->btpq", inputs, batch.metric(t), inputs)
    first = kernels[:, :1]
    inner, sizes = (kernels * first).sum((-2, -1)), np.sqrt((kernels**2).sum((-2, -1)))
    np.testing.assert_allclose(batch.kernel_distance(t), 1 - inner / (sizes * sizes[:, :1]), atol=2e-15)


def test_kernel_distance_is_the_tangent_kernel_of_autograd_at_equal_rates():
    import torch

    neuron, x = SingleNeuron(0.4, [0.3, -0.2], [1.0, 0.5]), torch.eye(2, dtype=torch.float64)

    def kernel(a, w):
        weights = [torch.tensor(a, requires_grad=True), torch.tensor(w, requires_grad=True)]
        rows = [
            torch.cat([g.ravel() for g in torch.autograd.grad(weights[0] * (row @ weights[1]), weights)]) for row in x
        ]
        return torch.stack(rows) @ torch.stack(rows).T

    late = neuron.closed_form(1.5)
    first, second = kernel(neuron.a0[()], neuron.w0.copy()), kernel(late.a[0], late.w[:, 0].copy())
    expected = 1 - (first * second).sum() / (first.norm() * second.norm())
    assert neuron.kernel_distance(1.5)[0] == pytest.approx(float(expected), rel=1e-12)


def test_small_kernel_distances_are_resolved():
    lazy = SingleNeuron(1e5, [0.0, 0.0], [1e-6, 0.0]).kernel_distance([0.0, 1.0])
    # w ends at 1e-11, so that w w^T is 1e-22 beside a^2 = 1e10: the distance is (1e-32)^2 / 8 beside roundings of a.
    assert lazy[0] == 0
    assert lazy[1] < 1e-30


# --- interface --------------------------------------------------------------------------------------------------------


def test_parameters_broadcast_and_every_one_changes_the_answer():
    grid = SingleNeuron(np.linspace(0.1, 1, 4)[:, None], np.ones((3, 2)), [1.0, 0.0])
    assert grid.closed_form([0.0, 1.0]).w.shape == (4, 3, 2, 2)
    assert grid.delta.shape == grid.regime.shape == grid.basin_boundary().shape == (4, 3)
    base = {"a0": 0.3, "w0": [0.2, 0.1], "target": [1.0, 0.5], "eta_a": 1.0, "eta_w": 1.0}
    reference = SingleNeuron(**base).closed_form(1.0).beta
    for name, value in {"a0": 0.4, "w0": [0.2, 0.2], "target": [1.0, 0.6], "eta_a": 2.0, "eta_w": 2.0}.items():
        assert np.abs(SingleNeuron(**{**base, name: value}).closed_form(1.0).beta - reference).max() > 1e-3


def test_a_batch_is_its_elements_in_any_order_of_time():
    batch = neurons(5)
    t = np.array([2.0, 0.0, INF, 0.5])
    whole = batch.closed_form(t)
    for i in range(5):
        one = SingleNeuron(batch.a0[i], batch.w0[i], batch.target[i], eta_a=batch.eta_a[i], eta_w=batch.eta_w[i])
        np.testing.assert_array_equal(one.closed_form(t).beta, whole.beta[i])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"a0": np.nan}, "a0"),
        ({"eta_w": 0.0}, "eta_w"),
        ({"w0": 1.0}, "w0 of shape"),
        ({"w0": [1.0]}, "last axes must agree"),
        ({"target": []}, "target"),
        ({"a0": [1.0, 2.0], "w0": np.ones((3, 2))}, "does not broadcast"),
    ],
)
def test_bad_input_is_refused_by_name(bad, words):
    with pytest.raises(DataError, match=words):
        SingleNeuron(**{"a0": 1.0, "w0": [1.0, 0.0], "target": [1.0, 0.0], **bad})


def test_bad_times_and_methods_are_refused():
    neuron = SingleNeuron(1.0, [1.0], [1.0])
    with pytest.raises(DataError, match="at least 0"):
        neuron.closed_form(-1.0)
    with pytest.raises(DataError, match="'ode' or 'network'"):
        neuron.simulate(1.0, method="euler")
    with pytest.raises(DataError, match="finite times"):
        neuron.simulate(INF, method="network")
    with pytest.raises(DataError, match="lr"):
        neuron.simulate(1.0, method="network", lr=0.0)


def test_results_leave_as_plain_numbers_and_tables():
    batch = neurons(3)
    numbers = batch.to_dict()
    assert numbers["kind"] == "SingleNeuron"
    np.testing.assert_allclose(numbers["beta_inf"], batch.target, atol=1e-12)
    assert len(batch.frame()) == 3


def test_the_figure_shows_every_problem_as_line_and_dots():
    import matplotlib.pyplot as plt

    batch = neurons(3)
    axes = batch.plot()
    assert len(axes) == 3
    assert len([line for line in axes[0].lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 100]) == 3
    assert len(batch.plot(np.linspace(0, 3, 20), ax=plt.subplots()[1])) == 1
    plt.close("all")
