"""Where gradient flow of one linear neuron ends: against integration and minimisation, and how signs are found."""

from __future__ import annotations

import warnings
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.optimize import minimize

from featlearn.dynamics.implicit_bias import implicit_bias
from featlearn.dynamics.single_neuron import SingleNeuron
from featlearn.exceptions import ConvergenceWarning, DataError, RegimeWarning


def problems(count, seed=0, kinds=("any", "equal")):
    """Well-conditioned data of fewer points than features, at all scales, balances and rates."""
    rng = np.random.default_rng(seed)
    while count:
        n, d = int(rng.integers(1, 5)), int(rng.integers(5, 8))
        X = rng.normal(size=(n, d))
        if kinds[count % len(kinds)] == "equal":
            X = 1.7 * np.linalg.qr(X.T)[0].T
        a0, w0 = rng.normal() * 10 ** rng.uniform(-1.5, 0.5), rng.normal(size=d) * 10 ** rng.uniform(-1.5, 0.5)
        eta_a, eta_w = 10 ** rng.uniform(-0.5, 0.5, 2)
        if np.linalg.cond(X) < 8:
            count -= 1
            yield a0, w0, X, X @ rng.normal(size=d), {"eta_a": eta_a, "eta_w": eta_w}


def test_the_end_is_that_of_integration_and_every_sign_is_right():
    rules, flips, worst = Counter(), 0, 0.0
    for a0, w0, X, y, rates in problems(70):
        end = implicit_bias(a0, w0, X, y, **rates)
        worst = max(worst, end.verify().worst)
        np.testing.assert_allclose(X @ end.beta, y, atol=1e-11)
        np.testing.assert_allclose(end.a * end.w, end.beta, atol=1e-12)
        rules[str(end.sign_rule)] += 1
        flips += np.sign(a0) != np.sign(end.a)
    assert worst < 5e-7
    assert flips >= 10
    assert set(rules) == {"conserved", "low loss", "equal singular values", "integrated"}


@pytest.mark.parametrize("seed", range(6))
def test_the_end_minimises_the_potential_among_all_solutions(seed):
    for a0, w0, X, y, rates in problems(4, seed=100 + seed):
        end = implicit_bias(a0, w0, X, y, **rates)
        free = np.linalg.svd(X)[2][len(X) :].T
        found = minimize(
            lambda z, end=end, free=free: end.objective(end.min_norm + free @ z), np.zeros(free.shape[1]), tol=1e-12
        )
        np.testing.assert_allclose(end.min_norm + free @ found.x, end.beta, atol=2e-4 * (1 + np.abs(end.beta).max()))
        assert end.potential <= found.fun + 1e-9 * (1 + abs(found.fun))


def test_the_slope_of_the_potential_is_the_first_layer():
    for a0, w0, X, y, _ in problems(6, seed=7):
        end = implicit_bias(a0, w0, X, y)
        h = 1e-6 * np.eye(len(w0))
        slope = (end.objective(end.beta + h) - end.objective(end.beta - h)) / 2e-6
        expected = np.sqrt(2) * np.sign(end.a) * (end.w - w0)
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-5)
        # The difference is what the data pulled: a combination of their rows.
        assert np.abs(np.linalg.svd(X)[2][len(X) :] @ expected).max() < 1e-10


def test_with_whitened_inputs_it_is_the_end_of_the_single_neuron():
    rng = np.random.default_rng(3)
    for _ in range(20):
        X, w0, a0, b = np.linalg.qr(rng.normal(size=(4, 4)))[0], rng.normal(size=4), rng.normal(), rng.normal(size=4)
        end = implicit_bias(a0, w0, X, X @ b, eta_a=0.5, eta_w=2.0)
        late = SingleNeuron(a0, w0, b, eta_a=0.5, eta_w=2.0).final()
        np.testing.assert_allclose(end.beta, b, atol=1e-12)
        np.testing.assert_allclose([end.a, *end.w], [late.a[0], *late.w[:, 0]], rtol=1e-10, atol=1e-12)


# --- signs ------------------------------------------------------------------------------------------------------------

UNEQUAL = np.array([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0]])


@pytest.mark.parametrize(
    ("a0", "w0", "X", "rule"),
    [
        (2.0, [0.5, -0.5, 1.0], UNEQUAL, "conserved"),
        (0.5, [0.6, 0.6, 0.0], UNEQUAL, "low loss"),
        (0.1, [-0.6, -0.6, 0.0], UNEQUAL, "integrated"),
        (0.1, [-0.6, -0.6, 0.0], np.eye(2, 3), "equal singular values"),
    ],
)
def test_the_rule_that_settles_the_sign_is_named(a0, w0, X, rule):
    end = implicit_bias(a0, w0, X, X @ [1.0, 1.0, 0.0])
    assert end.sign_rule == rule
    assert end.verify().ok


def test_a_given_sign_is_taken_and_gives_the_mirrored_end():
    arguments = (1.0, [0.3, 0.2, 0.9], UNEQUAL, [1.0, 2.0])
    plus, minus = (implicit_bias(*arguments, sign=sign) for sign in (1, -1))
    assert plus.sign_rule == minus.sign_rule == "given"
    assert plus.a == -minus.a > 0
    np.testing.assert_allclose(plus.beta + minus.beta, 2 * plus.min_norm, atol=1e-14)


def test_the_saddle_is_an_end_without_a_function_and_warns():
    with pytest.warns(RegimeWarning, match="saddle"):
        end = implicit_bias(0.5, [-0.5, 0.0], [[1.0, 0.0]], [1.0])
    assert end.a == 0
    assert (end.beta == 0).all()
    assert (end.w == 0).all()  # balanced: the layers fade together
    assert np.isnan(implicit_bias(0.1, [1.0, 0.3], [[1.0, 0.0]], [0.0]).w).all()  # it turns on its way


def test_a_sign_that_integration_cannot_settle_warns():
    # a = 0 and w orthogonal to what the data ask for: nothing moves.
    with pytest.warns() as caught:
        implicit_bias(0.0, [9.0, -1.0, 0.0], UNEQUAL, [1.0, 3.0])
    assert {ConvergenceWarning, RegimeWarning} <= {warning.category for warning in caught}


# --- what the start decides -------------------------------------------------------------------------------------------


def test_a_small_function_at_the_start_misses_the_least_norm_only_downstream():
    direction = np.array([0.6, 0.0, 0.8])
    small = 1e-6
    for delta, least_norm in ((1.0, True), (0.0, True), (-1.0, False)):
        a = np.sqrt((delta + np.hypot(delta, 2 * small)) / 2)
        end = implicit_bias(a, small / a * direction, UNEQUAL, [1.0, 1.0])
        assert (end.excess_norm < 0.01) == least_norm


def test_data_that_see_everything_leave_no_choice():
    rng = np.random.default_rng(5)
    X, beta = rng.normal(size=(6, 3)), rng.normal(size=3)
    end = implicit_bias(0.4, rng.normal(size=3), X, X @ beta)
    np.testing.assert_allclose(end.beta, beta, atol=1e-12)
    assert end.excess_norm < 1e-12


def test_inconsistent_targets_warn_and_give_least_squares():
    rng = np.random.default_rng(6)
    X, y = rng.normal(size=(6, 3)), rng.normal(size=6)
    with pytest.warns(RegimeWarning, match="least-squares"):
        end = implicit_bias(1.5, [0.1, 0.2, 0.3], X, y)
    np.testing.assert_allclose(end.beta, np.linalg.lstsq(X, y)[0], atol=1e-12)
    assert end.verify().ok


def test_a_target_of_zero_leaves_only_what_the_data_do_not_see():
    upstream = implicit_bias(1.0, [0.3, 0.2, 0.5], UNEQUAL, [0.0, 0.0])
    np.testing.assert_allclose(upstream.beta, [0, 0, 0.5 * np.sqrt(1 - 0.13)], atol=1e-14)
    downstream = implicit_bias(0.3, [1.0, 0.2, 0.5], UNEQUAL, [0.0, 0.0])
    assert downstream.a == 0
    assert (downstream.beta == 0).all()
    assert np.isnan(downstream.excess_norm)


def test_repeated_rows_count_once_and_rcond_says_what_is_zero():
    X = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1e-7]])
    y = [1.0, 1.0]
    assert implicit_bias(1.0, [0.1, 0.2, 0.7], X, y).beta[2] == pytest.approx(0.0, abs=1e-7)
    assert implicit_bias(1.0, [0.1, 0.2, 0.7], X, y, rcond=1e-6).beta[2] > 0.5


# --- interface --------------------------------------------------------------------------------------------------------


def test_a_batch_is_its_elements():
    rng = np.random.default_rng(8)
    a0, w0, y = rng.normal(size=(4, 1)), rng.normal(size=(3, 3)), rng.normal(size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = implicit_bias(a0, w0, UNEQUAL, y, eta_w=2.0)
        assert batch.beta.shape == (4, 3, 3)
        for i in range(4):
            for j in range(3):
                one = implicit_bias(a0[i, 0], w0[j], UNEQUAL, y, eta_w=2.0)
                np.testing.assert_allclose(one.beta, batch.beta[i, j], atol=1e-14)
                assert one.sign_rule == batch.sign_rule[i, j]
    assert len(batch.frame()) == 12
    assert batch.to_dict()["kind"] == "ImplicitBias"
    assert "sign_rule" in batch._repr_html_()


def test_every_parameter_changes_the_answer():
    base = {"a0": 0.5, "w0": [0.3, 0.2, 0.9], "X": UNEQUAL, "y": [1.0, 2.0], "eta_a": 1.0, "eta_w": 1.0, "sign": "auto"}
    reference = implicit_bias(**base).beta
    changes = {
        "a0": 0.9,
        "w0": [0.3, 0.2, 0.8],
        "X": UNEQUAL + 0.1,
        "y": [1.0, 1.0],
        "eta_a": 2.0,
        "eta_w": 2.0,
        "sign": -1,
    }
    for name, value in changes.items():
        assert np.abs(implicit_bias(**{**base, name: value}).beta - reference).max() > 1e-3


def test_a_network_that_stays_where_it_is_keeps_its_weights():
    with pytest.warns(RegimeWarning, match="saddle"):
        still = implicit_bias(0.0, [[0.0, 0.0, 0.0], [0.5, 0.0, 0.7]], np.eye(3)[:2], [0.0, 1.0])
    np.testing.assert_array_equal(still.w, [[0.0, 0.0, 0.0], [0.5, 0.0, 0.7]])
    with pytest.warns(RegimeWarning, match="saddle"):
        falling = implicit_bias(0.6, [-0.6, 0.0, 0.3], np.eye(3)[:1], [1.0])  # balanced in what the data see
    np.testing.assert_array_equal(falling.w, [0.0, 0.0, 0.3])


def test_the_figure_shows_every_start_beside_the_solution_of_least_norm():
    found = implicit_bias([2.0, 0.1], [0.3, -0.2, 0.5], UNEQUAL, [1.0, -0.5])
    axes = found.plot()
    dots = [line for line in axes.lines if len(line.get_xdata()) == 3]
    np.testing.assert_array_equal([line.get_ydata() for line in dots], found.beta)
    assert dots[0].get_color() != dots[1].get_color()  # upstream, downstream
    heights = [bar.get_height() for bar in axes.patches[:6]]
    np.testing.assert_allclose(np.reshape(heights, (2, 3)), found.min_norm)
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    assert dots[0].get_xdata().mean() == pytest.approx(0.7)  # features 0, 1, 2, and a shift of -.3
    assert [line.get_label() for line in dots] == ["end from delta = 3.6", "end from delta = -0.37"]
    own = plt.subplots()[1]
    assert implicit_bias(1.0, [0.3, -0.2, 0.5], UNEQUAL, [1.0, -0.5]).plot(own) is own
    plt.close("all")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"X": [1.0, 2.0]}, "X of shape"),
        ({"y": [1.0]}, "y of shape"),
        ({"w0": [1.0, 2.0]}, "w0 of shape"),
        ({"a0": np.inf}, "a0"),
        ({"eta_a": -1.0}, "eta_a"),
        ({"sign": 2}, "sign"),
        ({"sign": "plus"}, "sign"),
        ({"rcond": 1.0}, "rcond"),
        ({"a0": [1.0, 2.0], "w0": np.ones((3, 3))}, "does not broadcast"),
    ],
)
def test_bad_input_is_refused_by_name(bad, words):
    with pytest.raises(DataError, match=words):
        implicit_bias(**{"a0": 1.0, "w0": [1.0, 0.0, 0.0], "X": UNEQUAL, "y": [1.0, 1.0], **bad})
