"""Balanced two-layer linear networks: closed form against integration and descent for all shapes; kernel and modes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featlearn.dynamics.lambda_balanced import LambdaBalanced
from featlearn.dynamics.riccati import march
from featlearn.exceptions import DataError

INF = float("inf")
SHAPES = [
    (3, 4, 5, 1.5),
    (5, 3, 3, 0.0),
    (4, 6, 4, 0.0),
    (5, 4, 3, 0.0),
    (3, 2, 4, 1.0),
    (3, 2, 4, -1.0),
    (5, 5, 2, -3.0),
    (2, 2, 2, 3.0),
    (4, 1, 6, 0.5),
    (6, 2, 6, 0.0),
]


def rotation(size, rng):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def aligned(lam, features=(3.0, 1.0, 1.0, 0.5), overlaps=(0.3, 0.1, 0.02), seed=0):
    """Layers (3 hidden units, 4 inputs, 5 outputs) with the singular vectors of their target, and these vectors."""
    rng = np.random.default_rng(seed)
    U, V, R = rotation(5, rng)[:, :4], rotation(4, rng), rotation(3, rng)
    small = np.array(overlaps)
    large = np.sqrt(small**2 + abs(lam))
    w1, w2 = (small, large) if lam >= 0 else (large, small)
    return LambdaBalanced((R * w1) @ V[:, :3].T, (U[:, :3] * w2) @ R.T, (U * features) @ V.T), U, V


# --- the closed form --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_in", "n_hidden", "n_out", "lam"), SHAPES)
def test_closed_form_equals_integration_of_the_raw_layers(n_in, n_hidden, n_out, lam):
    model = LambdaBalanced.sample(n_in, n_hidden, n_out, lam, random_state=1)
    assert model.verify([0.0, 0.3, 1.0, 3.0, 30.0, 300.0]).ok
    assert model.verify().ok


@pytest.mark.parametrize(("n_in", "n_hidden", "n_out", "lam"), SHAPES)
def test_the_end_is_the_best_product_that_the_hidden_units_allow(n_in, n_hidden, n_out, lam):
    model = LambdaBalanced.sample(n_in, n_hidden, n_out, lam, random_state=1)
    u, s, v = np.linalg.svd(model.Syx)
    k = min(n_in, n_hidden, n_out)
    best = (u[:, :k] * s[:k]) @ v[:k]
    for end in (model.closed_form(1e4), model.final()):
        np.testing.assert_allclose(end.product[..., 0], best, atol=1e-13)


def test_descent_on_the_network_approaches_in_proportion_to_its_step():
    model, times = LambdaBalanced.sample(4, 3, 5, [0.5, 2.0], random_state=0), [0.0, 0.35, 1.0]
    exact = model.closed_form(times)
    coarse, fine = (model.simulate(times, method="network", lr=lr) for lr in (1e-2, 5e-3))
    for name in exact.values:
        ratio = np.abs(coarse[name] - exact[name]).max() / np.abs(fine[name] - exact[name]).max()
        assert 1.7 < ratio < 2.3


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 5)] * 3), lam=st.floats(-3, 3), scale=st.floats(0.05, 3), seed=st.integers(0, 99)
)
def test_balance_is_conserved_the_loss_falls_and_steps_add_up(sizes, lam, scale, seed):
    n_in, n_hidden, n_out = sizes
    lam = 0.0 if (lam > 0 and n_out < n_hidden) or (lam < 0 and n_in < n_hidden) else lam
    model = LambdaBalanced.sample(n_in, n_hidden, n_out, lam, scale=scale, random_state=seed)
    path = model.closed_form([0.0, 0.2, 1.0, 5.0, 100.0])
    # W2^T W2 - W1 W1^T = lambda I, seen from outside: P^T P = gram_in^2 + lambda gram_in.
    product, inner = np.moveaxis(path.product, -1, 0), np.moveaxis(path.gram_in, -1, 0)
    size = 1 + np.abs(inner).max() ** 2
    np.testing.assert_allclose(product.mT @ product, inner @ inner + model.lam * inner, atol=1e-11 * size)
    assert (np.diff(path.loss) <= 1e-12 * size).all()
    np.testing.assert_allclose(model.closed_form(1.0).product[..., 0], path.product[..., 2], atol=1e-12 * size)


def test_times_may_come_in_any_order_and_a_batch_is_its_elements():
    batch = LambdaBalanced.sample(4, 3, 5, [0.0, 0.5, 4.0], random_state=3)
    t = [3.0, 0.0, INF, 0.5, 3.0]
    whole = batch.closed_form(t)
    assert whole.product.shape == (3, 5, 4, 5)
    np.testing.assert_array_equal(whole.product[..., 0], whole.product[..., 4])
    np.testing.assert_allclose(whole.product[..., 1], batch.W2 @ batch.W1, atol=1e-14)
    for i in range(3):
        one = LambdaBalanced(batch.W1[i], batch.W2[i], batch.Syx[i])
        np.testing.assert_allclose(one.closed_form(t).gram_out, whole.gram_out[i], atol=1e-12)


def test_no_scale_of_the_start_overflows_or_is_too_small():
    large = LambdaBalanced.sample(4, 3, 5, 0.0, scale=30.0, random_state=0)
    assert large.verify([0.0, 1e-3, 1e-2, 0.1, 1.0]).ok
    wide = LambdaBalanced.sample(4, 3, 5, 1e4, random_state=0)
    assert wide.verify([0.0, 1e-5, 1e-4, 1e-3]).ok
    # Features that wait at 1e-18 while others are learned are not taken for settled.
    tiny = LambdaBalanced.sample(4, 4, 4, 0.0, scale=1e-9, Syx=np.diag([3.0, 1.0, 0.3, 0.01]), random_state=0)
    np.testing.assert_allclose(tiny.final().product[..., 0], np.diag([3.0, 1.0, 0.3, 0.01]), atol=1e-13)


def test_what_the_target_lacks_decays_as_a_power_of_time_at_balance_zero():
    target = np.outer([1.0, 2.0, 3.0], [1.0, 0.0, 1.0, 0.0, 1.0]) / 3
    model = LambdaBalanced.sample(5, 4, 3, 0.0, Syx=target, random_state=0)
    assert model.verify([0.0, 1.0, 10.0, 100.0]).ok
    loss = model.closed_form([1e3, 1e4, 1e8]).loss
    np.testing.assert_allclose(loss * np.array([1e3, 1e4, 1e8]) ** 2, loss[2] * 1e16, rtol=0.05)
    np.testing.assert_allclose(model.final().product[..., 0], target, atol=1e-14)


def test_without_a_target_everything_decays():
    model = LambdaBalanced.sample(3, 2, 3, 0.0, Syx=np.zeros((3, 3)), random_state=0)
    assert model.verify([0.0, 1.0, 10.0]).ok
    assert (model.final().product == 0).all()


def test_many_features_for_few_units_are_sorted_out_late_at_large_balance():
    batch = LambdaBalanced.sample(3, 2, 4, [0.0, 1.0, 1000.0], random_state=0)
    best = (np.linalg.svd(batch.Syx[0], compute_uv=False)[2:] ** 2).sum() / 2
    np.testing.assert_allclose(batch.final().loss[:, 0], best, rtol=1e-10)
    assert batch.closed_form(20.0).loss[2, 0] > 1.01 * best


def test_the_march_is_the_riccati_flow_of_any_rates():
    rng = np.random.default_rng(0)
    Q, rates, h = rng.normal(size=(5, 3)), np.array([1.3, 0.4, 0.0, -0.2, -1.0]), 1e-5
    G = (lambda state: state @ state.mT)(march(Q, rates, np.array([0.7 - h, 0.7, 0.7 + h])))
    slope = (G[2] - G[0]) / (2 * h)
    np.testing.assert_allclose(slope, rates[:, None] * G[1] + G[1] * rates - G[1] @ G[1], atol=1e-8)


# --- kernel and modes -------------------------------------------------------------------------------------------------


def test_kernel_distance_is_that_of_the_dense_tangent_kernel():
    model, inputs = LambdaBalanced.sample(4, 3, 5, 0.5, random_state=0), np.random.default_rng(1).normal(size=(4, 6))
    t = [0.0, 1.0, 5.0]
    path = model.closed_form(t)
    dense = [
        np.kron(np.eye(5), inputs.T @ path.gram_in[..., i] @ inputs) + np.kron(path.gram_out[..., i], inputs.T @ inputs)
        for i in range(3)
    ]
    expected = [1 - (dense[0] * K).sum() / np.sqrt((dense[0] ** 2).sum() * (K**2).sum()) for K in dense]
    np.testing.assert_allclose(model.kernel_distance(t, inputs), expected, atol=1e-14)
    assert model.kernel_distance(1.0)[0] != pytest.approx(model.kernel_distance(1.0, inputs)[0], rel=1e-3)


def test_the_dense_tangent_kernel_is_that_of_autograd():
    import torch

    model = LambdaBalanced.sample(3, 2, 4, 0.5, random_state=2)
    weights = [torch.tensor(model.W1.copy(), requires_grad=True), torch.tensor(model.W2.copy(), requires_grad=True)]
    inputs = torch.tensor(np.random.default_rng(0).normal(size=(3, 2)))
    outputs = (weights[1] @ weights[0] @ inputs).flatten()
    rows = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(out, weights, retain_graph=True)]) for out in outputs]
    )
    x, path = inputs.numpy(), model.closed_form(0.0)
    dense = np.kron(np.eye(4), x.T @ path.gram_in[..., 0] @ x) + np.kron(path.gram_out[..., 0], x.T @ x)
    np.testing.assert_allclose((rows @ rows.T).numpy(), dense, atol=1e-13)


@pytest.mark.parametrize("lam", [-1.0, 0.0, 0.01, 2.0])
def test_aligned_features_move_on_hyperbolas_of_their_own(lam):
    model, U, V = aligned(lam)
    t = np.array([0.0, 0.5, 2.0, 8.0])
    modes = model.modes()
    strengths = np.einsum("oi,oct,ci->it", U, model.closed_form(t).product, V)
    np.testing.assert_allclose(np.sort(modes.F(t), axis=0), np.sort(strengths, axis=0), atol=1e-13)
    with_unit = np.abs(modes.F0) > 1e-12
    np.testing.assert_allclose(modes.kappa[with_unit], abs(lam), atol=1e-12)


def test_far_from_balance_zero_a_feature_is_an_exponential_and_at_zero_a_sigmoid():
    t = np.linspace(0, 3, 20)
    rich, lazy = (aligned(lam, features=(2.0, 0, 0, 0), overlaps=(0.1, 0, 0))[0].modes() for lam in (0.0, 400.0))
    first = int(rich.F_inf.argmax())
    sigmoid = 2 / (1 + (2 / 0.01 - 1) * np.exp(-4 * t))
    np.testing.assert_allclose(rich.F(t)[first], sigmoid, rtol=1e-12)
    start, fast = lazy.F0[int(lazy.F_inf.argmax())], t / 100
    np.testing.assert_allclose(lazy.F(fast)[int(lazy.F_inf.argmax())], 2 - (2 - start) * np.exp(-400 * fast), rtol=1e-3)


def test_coupled_features_are_refused_by_modes():
    with pytest.raises(DataError, match="couple"):
        LambdaBalanced.sample(4, 3, 5, 0.5, random_state=0).modes()


# --- interface --------------------------------------------------------------------------------------------------------


def test_layers_that_are_not_balanced_are_refused_with_the_worst_entry():
    model = LambdaBalanced.sample(4, 3, 5, 0.5, random_state=0)
    off = model.W1.copy()
    off[1] *= 1.5
    with pytest.raises(DataError, match=r"hidden units \(1, 1\)"):
        LambdaBalanced(off, model.W2, model.Syx)
    assert LambdaBalanced(off, model.W2, model.Syx, tol=10.0).lam < 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3, 4, 2, 1.0), "n_out=2 < n_hidden=4"),
        ((2, 4, 5, -1.0), "n_in=2 < n_hidden=4"),
        ((0, 4, 5, 0.0), "n_in"),
        ((3, 2.0, 5, 0.0), "n_hidden"),
        ((3, 2, 5, np.nan), "lam"),
        ((3, 2, 5, 0.0, 0.0), "scale"),
        ((3, 2, 5, 0.0, 0.3, np.ones((3, 5))), "Syx of shape"),
    ],
)
def test_samples_that_do_not_exist_are_refused(arguments, words):
    with pytest.raises(DataError, match=words):
        LambdaBalanced.sample(*arguments)


def test_bad_input_is_refused_by_name():
    model = LambdaBalanced.sample(4, 3, 5, 0.5, random_state=0)
    for bad, words in (
        ((model.W1[0], model.W2, model.Syx), "expected matrices"),
        ((model.W1, model.W2.T, model.Syx), "W2 of shape"),
        ((model.W1[None].repeat(2, 0), model.W2[None].repeat(3, 0), model.Syx), "do not broadcast"),
        ((model.W1 * np.inf, model.W2, model.Syx), "W1"),
    ):
        with pytest.raises(DataError, match=words):
            LambdaBalanced(*bad)
    with pytest.raises(DataError, match="X of shape"):
        model.kernel_distance(1.0, np.ones((3, 2)))
    with pytest.raises(DataError, match="'ode' or 'network'"):
        model.simulate(1.0, method="euler")
    with pytest.raises(DataError, match="finite times"):
        model.simulate(INF)


def test_every_parameter_changes_the_answer_and_the_same_state_draws_the_same():
    base = {"n_in": 3, "n_hidden": 2, "n_out": 4, "lam": 0.5, "scale": 0.3, "Syx": None, "random_state": 0}
    reference = LambdaBalanced.sample(**base).closed_form(1.0)
    np.testing.assert_array_equal(LambdaBalanced.sample(**base).closed_form(1.0).product, reference.product)
    for name, value in {"lam": 0.6, "scale": 0.4, "Syx": np.ones((4, 3)), "random_state": 1, "n_hidden": 3}.items():
        changed = LambdaBalanced.sample(**{**base, name: value}).closed_form(1.0)
        assert np.abs(changed.product - reference.product).max() > 1e-3


def test_results_leave_as_plain_numbers_tables_and_figures():
    import matplotlib.pyplot as plt

    batch = LambdaBalanced.sample(4, 3, 5, [0.0, 2.0], random_state=0)
    assert batch.to_dict()["kind"] == "LambdaBalanced"
    np.testing.assert_allclose(batch.frame()["lam"], [0.0, 2.0], atol=1e-12)
    axes = batch.plot()
    assert len([line for line in axes[0].lines if line.get_marker() == "o"]) == 2 * 4
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["2", "0"]
    assert len(batch.plot([0.0, 1.0], ax=plt.subplots()[1])) == 1
    plt.close("all")


def test_equal_features_and_missing_targets_have_modes_too():
    rng = np.random.default_rng(0)
    U, V = rotation(3, rng), rotation(3, rng)
    model = LambdaBalanced((np.diag([0.3, 0.2, 0.1]) @ V.T), U * [0.3, 0.2, 0.1], U @ V.T)
    np.testing.assert_allclose(np.sort(model.modes().F0), [0.01, 0.04, 0.09], atol=1e-14)
    lost = LambdaBalanced(model.W1, model.W2, np.zeros((3, 3))).modes()
    np.testing.assert_allclose(np.sort(lost.F(2.0)[:, 0]), [0.01 / 1.04, 0.04 / 1.16, 0.09 / 1.36], atol=1e-14)


def test_layers_that_use_different_hidden_units_for_a_feature_are_coupled():
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(DataError, match="couple"):
        LambdaBalanced(np.eye(2), swap, np.diag([2.0, 1.0])).modes()
