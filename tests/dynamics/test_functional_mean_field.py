from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import softmax

from featlearn.dynamics.functional_dual import grid_rules, sobol_rules
from featlearn.dynamics.functional_mean_field import FunctionalMeanField
from featlearn.exceptions import ConvergenceWarning, DataError


def problem(n=3, M=12, seed=0, **options):
    rng = np.random.default_rng(seed)
    return FunctionalMeanField(
        rng.standard_normal((n, M)), rng.uniform(-0.6, 0.6, n), np.arange(1.0, M + 1) ** -2, **options
    )


def primal_by_descent_on_distributions(model, atoms, log_prior):
    """Minimum over all weights of the atoms, found from the definition of the objective."""
    h = model.activation.function(atoms @ model.X.T)

    def objective(logits):
        q = softmax(logits)
        f = q @ h
        ratio = np.log(q) - log_prior
        first = h @ (f - model.y) / len(f) + model.temperature * ratio
        value = np.mean((f - model.y) ** 2) / 2 + model.temperature * q @ ratio
        return value, q * (first - q @ first)

    found = minimize(
        objective, log_prior, jac=True, method="L-BFGS-B", options={"maxiter": 1500, "ftol": 0.0, "gtol": 1e-11}
    )
    return found.fun, softmax(found.x) @ h


@pytest.mark.parametrize(
    ("activation", "temperature"), [("tanh", 0.03), ("tanh", 0.3), ("erf", 0.1), ("sin", 0.1), ("sigmoid", 0.1)]
)
def test_the_optimum_is_the_minimum_over_all_distributions(activation, temperature):
    model = FunctionalMeanField(
        [[1.0, 0.3], [-0.4, 0.8]], [0.5, -0.2], [1.0, 0.5], activation=activation, temperature=temperature
    )
    found = model.theory(n_points=20)
    nodes, log_prior = next(grid_rules(2, 20))
    value, f = primal_by_descent_on_distributions(model, nodes * np.sqrt(model.prior), log_prior)
    assert found.objective == pytest.approx(value, abs=2e-6)
    np.testing.assert_allclose(found.f, f, atol=2e-4)


def test_the_optimum_solves_its_own_equation_over_drawn_neurons():
    model = problem(seed=1)
    found = model.theory()
    np.testing.assert_allclose(found.dual, found.f - model.y, atol=1e-12)
    w = np.random.default_rng(0).standard_normal((200_000, 12)) * np.sqrt(model.prior)
    h = np.tanh(w @ model.X.T)
    ratio = np.exp(-h @ found.dual / (3 * model.temperature))
    q = ratio / ratio.sum()
    f = q @ h
    error = np.sqrt(np.sum((q[:, np.newaxis] * (h - f)) ** 2, axis=0))
    assert (np.abs(f - found.f) < 3 * error).all()
    kl = np.sum(q * np.log(q * len(q)))
    assert found.kl == pytest.approx(kl, rel=0.02)
    assert found.objective == pytest.approx(found.loss + model.temperature * found.kl)
    assert found.loss == pytest.approx(np.mean((found.f - model.y) ** 2) / 2)


def test_drawn_neurons_compute_what_the_optimum_predicts_also_at_new_inputs():
    model = problem(seed=2)
    found = model.theory("sobol", random_state=0)
    new = np.concatenate([model.X, np.random.default_rng(5).standard_normal((3, 12)), np.zeros((1, 12))])
    predicted = found.predict(new)
    np.testing.assert_allclose(predicted[:3], found.f, atol=1e-8)
    assert predicted[-1] == pytest.approx(0.0, abs=1e-12)
    w = found.draw(100_000, random_state=1)
    h = np.tanh(w @ new.T)
    error = h.std(axis=0) / np.sqrt(len(h)) + 1e-12
    assert (np.abs(h.mean(axis=0) - predicted) < 4 * error).all()
    spread = w.std(axis=0) / np.sqrt(len(w))
    assert (np.abs(w.mean(axis=0) - found.mean_neuron) < 4 * spread).all()
    # What no input sees stays as the prior drew it.
    unseen = np.linalg.svd(model.X * np.sqrt(model.prior))[2][3:]
    np.testing.assert_allclose((w / np.sqrt(model.prior) @ unseen.T).std(axis=0), 1.0, atol=0.02)


def test_sobol_points_agree_with_quadrature():
    model = problem(seed=3, temperature=0.1)
    by_quadrature, by_sobol = model.theory("quadrature"), model.theory("sobol", random_state=0)
    np.testing.assert_allclose(by_sobol.f, by_quadrature.f, atol=5e-4)
    assert by_quadrature.method == "quadrature"
    assert by_sobol.effective_points > 1000
    assert np.abs(by_sobol.f - by_quadrature.f).max() < 10 * by_sobol.integration_error + 1e-5


def test_the_dual_rises_in_each_round_of_coordinate_ascent_and_stays_below_the_primal():
    model = problem(seed=4)
    points, log_prior = next(grid_rules(3, 20))
    h = np.tanh(points @ model.score_root.T)

    def dual(g):
        log_z = np.log(np.sum(np.exp(log_prior - h @ g / (3 * model.temperature))))
        return -np.mean(g**2 / 2 + g * model.y) - model.temperature * log_z

    best = model.theory(n_points=20)
    assert best.objective == pytest.approx(dual(best.dual), abs=1e-12)
    values = []
    for rounds in (1, 2, 4, 8, 16):
        with pytest.warns(ConvergenceWarning, match=f"after {rounds} iterations"):
            found = model.theory(solver="coordinate_ascent", n_points=20, max_iter=rounds)
        values.append(dual(found.dual))
        assert found.objective - values[-1] == pytest.approx(found.gap, abs=1e-13)
        assert len(found.gaps) == rounds + 1
    assert (np.diff(values) > 0).all()
    assert values[-1] < best.objective
    rng = np.random.default_rng(0)
    assert all(dual(best.dual + 0.1 * rng.standard_normal(3)) < best.objective for _ in range(20))


@pytest.mark.parametrize("temperature", [1e-3, 0.02, 5.0])
def test_both_solvers_find_the_same(temperature):
    model = problem(n=2, seed=5, temperature=temperature)
    newton = model.theory(n_points=60)
    slow = model.theory(solver="coordinate_ascent", n_points=60, tol=1e-9, max_iter=20_000)
    np.testing.assert_allclose(slow.f, newton.f, atol=1e-7)
    assert len(newton.gaps) < 30
    assert (np.diff(newton.gaps) < 0).all()


def test_hot_networks_are_their_prior_and_cold_ones_fit():
    hot, cold = problem(n=2, temperature=1e4).theory(), problem(n=2, temperature=1e-3).theory()
    np.testing.assert_allclose(hot.f, 0.0, atol=1e-4)
    assert hot.kl < 1e-6
    np.testing.assert_allclose(cold.f, cold.model.y, atol=0.03)
    assert cold.kl > 50 * hot.kl


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10.0))
def test_neither_basis_scale_order_nor_unused_coefficients_matter(seed, scale):
    rng = np.random.default_rng(seed)
    X, y, prior = rng.standard_normal((2, 5)), rng.uniform(-0.5, 0.5, 2), np.full(5, 0.7)
    base = FunctionalMeanField(X, y, prior).theory().f
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    same = (
        FunctionalMeanField(X @ rotation, y, prior),
        FunctionalMeanField(X * scale, y, prior / scale**2),
        FunctionalMeanField(np.pad(X, ((0, 0), (0, 4))), y, np.full(9, 0.7)),
    )
    for model in same:
        np.testing.assert_allclose(model.theory().f, base, atol=1e-9)
    flipped = FunctionalMeanField(X[::-1], y[::-1], prior).theory().f
    np.testing.assert_allclose(flipped[::-1], base, atol=1e-9)
    np.testing.assert_allclose(FunctionalMeanField(-X, y, prior).theory().f, base, atol=1e-9)


def test_many_inputs_of_low_rank_need_few_dimensions():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 2)) @ rng.standard_normal((2, 30))
    model = FunctionalMeanField(X, np.tanh(X[:, 0]), np.full(30, 0.1), temperature=0.05)
    found = model.theory()
    assert model.rank == 2
    assert found.method == "quadrature"
    assert found.points.shape == (1600, 2)
    np.testing.assert_allclose(found.f, model.theory("sobol", random_state=0).f, atol=1e-3)


def test_more_than_three_dimensions_take_sobol_points():
    model = problem(n=6, M=30, temperature=0.1)
    found = model.theory(random_state=0)
    assert found.method == "sobol"
    run = model.simulate(n_particles=400, random_state=0)
    assert model.verify(run).ok
    with pytest.raises(DataError, match="at most 3: use 'sobol'"):
        model.theory("quadrature")


@pytest.mark.parametrize("method", ["preconditioned", "semi_implicit"])
def test_particles_end_at_the_optimum_whatever_the_dimension(method):
    options = {"step": 0.05} if method == "preconditioned" else {"step": 0.5, "n_steps": 1500}
    model = problem(n=2, M=40, seed=6)
    run = model.simulate(method=method, random_state=0, **options)
    found = model.verify(run)
    assert found.ok
    assert float(found) == pytest.approx(np.abs(model.theory().f - run.f).max())
    assert found.tolerance == 0.02
    assert not model.verify(run, tolerance=1e-9).ok
    assert run.trajectory.f.shape == (2, len(run.trajectory.t))
    steps = len(run.trajectory.t) - 1
    np.testing.assert_allclose(run.f, run.trajectory.f[:, (steps + 1) // 2 :].mean(axis=1))
    np.testing.assert_allclose(run.trajectory.f[:, -1], np.tanh(run.W @ model.X.T).mean(axis=0))
    assert run.trajectory.loss[-1] == pytest.approx(np.mean((run.trajectory.f[:, -1] - model.y) ** 2) / 2)


def test_a_step_of_each_method_moves_a_particle_by_its_gradient_by_finite_differences():
    model = problem(n=3, M=4, seed=7)
    W = model.simulate(n_particles=5, n_steps=1, step=1e-9, random_state=0).W

    def risk(flat):
        f = np.tanh(flat.reshape(W.shape) @ model.X.T).mean(axis=0)
        return 5 * np.mean((f - model.y) ** 2) / 2  # a particle counts for a fifth

    eye = 1e-6 * np.eye(W.size)
    gradient = np.array([(risk(W.ravel() + e) - risk(W.ravel() - e)) / 2e-6 for e in eye]).reshape(W.shape)
    starts = {}
    for step in (0.1, 0.3):
        for method in ("preconditioned", "semi_implicit"):
            starts[method, step] = model.simulate(5, step, 1, method, random_state=0).W
    noise = np.random.default_rng(0)
    start, xi = noise.standard_normal(W.shape) * np.sqrt(model.prior), noise.standard_normal(W.shape)
    np.testing.assert_allclose(start, W, atol=1e-3)
    C, T = model.prior, model.temperature
    for step in (0.1, 0.3):
        kept = np.exp(-step)
        expected = kept * start - (1 - kept) * C / T * gradient + np.sqrt(1 - kept**2) * np.sqrt(C) * xi
        np.testing.assert_allclose(starts["preconditioned", step], expected, atol=2e-2 * step)
        expected = (start - step * gradient + np.sqrt(2 * step * T) * xi) / (1 + step * T / C)
        np.testing.assert_allclose(starts["semi_implicit", step], expected, atol=1e-4)


def test_modes_without_data_have_the_variance_that_their_method_says():
    M, step, T = 400, 0.7, 0.05
    C = np.geomspace(1e-3, 1.0, M)
    X = np.zeros((1, M))
    X[0, -1] = 1.0
    model = FunctionalMeanField(X, [0.3], C, temperature=T)
    free = slice(0, M - 1)
    exact = model.simulate(400, step, 60, random_state=0)
    ratio = exact.W.var(axis=0)[free] / C[free]
    assert ratio.mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / 400 / M))
    assert exact.biased_modes == 0
    biased = model.simulate(400, step, 600, "semi_implicit", random_state=0)
    said = 2 * step * T / ((1 + step * T / C) ** 2 - 1)
    ratio = (biased.W.var(axis=0) / said)[free]
    slow = C[free] > 0.3  # these have not forgotten the prior after 600 steps of .035 / C
    assert ratio[~slow].mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / 400 / (~slow).sum()))
    assert biased.biased_modes == np.sum(step * T > C)
    assert said[0] < 0.1 * C[0]


BASE = {"X": [[1.0, 0.3], [-0.4, 0.8]], "y": [0.5, -0.2], "prior": [1.0, 0.5]}


@pytest.mark.parametrize(
    "change",
    [
        {"X": [[1.0, 0.3], [-0.4, 0.7]]},
        {"y": [0.5, -0.3]},
        {"prior": [1.0, 0.6]},
        {"activation": "erf"},
        {"temperature": 0.03},
    ],
)
def test_every_parameter_of_the_model_changes_the_answer(change):
    assert (
        np.abs(FunctionalMeanField(**(BASE | change)).theory().f - FunctionalMeanField(**BASE).theory().f).max() > 1e-4
    )


def test_every_parameter_of_the_methods_changes_the_answer():
    model = problem(n=2)
    base = model.theory("sobol", n_points=2**10, random_state=0)
    assert not np.array_equal(model.theory("sobol", n_points=2**11, random_state=0).f, base.f)
    assert not np.array_equal(model.theory("sobol", n_points=2**10, random_state=1).f, base.f)
    assert len(model.theory(tol=1e-2).gaps) < len(model.theory().gaps)
    run = model.simulate(20, n_steps=20, random_state=0)
    changes = ({"n_particles": 21}, {"n_steps": 21}, {"step": 0.06}, {"method": "semi_implicit"}, {"random_state": 1})
    for change in changes:
        other = model.simulate(**({"n_particles": 20, "n_steps": 20, "random_state": 0} | change))
        assert not np.array_equal(other.f, run.f)
    np.testing.assert_array_equal(model.simulate(20, n_steps=20, random_state=0).W, run.W)
    assert model.optimum is model.optimum


def test_own_activations_are_welcome_if_bounded():
    own = FunctionalMeanField(**BASE, activation=(np.tanh, lambda z: 1 - np.tanh(z) ** 2))
    np.testing.assert_array_equal(own.theory().f, FunctionalMeanField(**BASE).theory().f)
    for unbounded in ("relu", "identity"):
        with pytest.raises(DataError, match="expected at most 1"):
            FunctionalMeanField(**BASE, activation=unbounded)


def test_rough_averages_are_told():
    rng = np.random.default_rng(0)
    cold = FunctionalMeanField(
        3 * rng.standard_normal((8, 20)), rng.choice([-0.95, 0.95], 8), np.ones(20), temperature=1e-4
    )
    with pytest.warns(ConvergenceWarning, match="averages are rough"):
        found = cold.theory(n_points=2**10, random_state=0)
    assert found.effective_points < 100 or found.integration_error > 5e-3
    with pytest.warns(ConvergenceWarning, match="averages are rough"):
        problem(n=2, temperature=1e-3).theory(n_points=6)


def test_rules_integrate_under_the_standard_normal():
    for points, logs in (*grid_rules(2, 12), *sobol_rules(2, 2**14, 0)):
        weights = np.exp(logs)
        assert weights.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(weights @ points, 0.0, atol=1e-3)
        np.testing.assert_allclose((points.T * weights) @ points, np.eye(2), atol=3e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": [1.0, 2.0]}, r"X of shape \(2,\)"),
        ({"X": [[0.0, 0.0], [0.0, 0.0]]}, "all zero"),
        ({"y": [0.1]}, r"y of shape \(1,\)"),
        ({"prior": [1.0]}, r"prior of shape \(1,\)"),
        ({"prior": [1.0, 0.0]}, "positive"),
        ({"y": [np.nan, 0.0]}, "y"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": [0.1, 0.2]}, "temperature"),
        ({"activation": "soft"}, "activation"),
    ],
)
def test_bad_models_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        FunctionalMeanField(**(BASE | change))


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        ("theory", {"method": "exact"}, "method"),
        ("theory", {"solver": "descent"}, "solver"),
        ("theory", {"tol": 0.0}, "tol"),
        ("theory", {"max_iter": 0}, "max_iter"),
        ("theory", {"n_points": 1.5}, "n_points"),
        ("theory", {"n_points": 500}, "4 to 200"),
        ("theory", {"method": "sobol", "n_points": 100}, "power of 2"),
        ("simulate", {"method": "euler"}, "method"),
        ("simulate", {"step": -1.0}, "step"),
        ("simulate", {"step": [0.1]}, "step"),
        ("simulate", {"n_steps": 0}, "n_steps"),
        ("simulate", {"n_particles": True}, "n_particles"),
    ],
)
def test_bad_calls_are_refused(call, arguments, message):
    with pytest.raises(DataError, match=message):
        getattr(FunctionalMeanField(**BASE), call)(**arguments)


def test_bad_questions_to_an_optimum_are_refused():
    found = FunctionalMeanField(**BASE).theory()
    for call, message in (
        (lambda: found.predict([1.0, 2.0]), "X of shape"),
        (lambda: found.draw(0), "n_neurons"),
        (lambda: found.plot(np.ones((3, 5))), "basis of shape"),
        (lambda: found.plot(np.ones((2, 5)), at=[0.0]), "at of shape"),
    ):
        with pytest.raises(DataError, match=message):
            call()


def test_tables_and_dictionaries():
    model = problem(n=2)
    found, run = model.optimum, model.simulate(10, n_steps=4, random_state=0)
    assert found.frame()["f"].tolist() == found.f.tolist()
    assert found.model.frame().shape == found.frame().shape
    assert found.to_dict()["gap"] == found.gap == found.gaps[-1]
    assert model.to_dict()["activation"] == "tanh"
    assert run.to_dict()["f"] == run.f.tolist()
    assert set(run.frame()["quantity"]) == {"f", "loss"}
    assert "objective" in found._repr_html_()


def test_figures_show_the_neurons_the_outputs_and_the_gap():
    model = problem(n=2)
    s = np.linspace(0.0, 2.0, 30)
    basis = np.cos(np.outer(np.arange(12), s))
    run = model.simulate(10, n_steps=4, random_state=0)
    neurons, outputs, gap = model.plot(basis, at=s, run=run)
    mean = next(line for line in neurons.lines if line.get_label() == "their mean")
    np.testing.assert_allclose(mean.get_xydata(), np.stack([s, model.optimum.mean_neuron @ basis], axis=1))
    assert len(neurons.lines) == 31
    labels = {line.get_label(): line.get_ydata() for line in outputs.lines}
    np.testing.assert_array_equal(labels["target"], model.y)
    np.testing.assert_array_equal(labels["optimum"], model.optimum.f)
    np.testing.assert_array_equal(labels["particles"], run.f)
    gaps = model.optimum.gaps
    np.testing.assert_array_equal(gap.lines[0].get_ydata(), gaps[gaps > 0])
    one = plt.subplots()[1]
    assert model.plot(ax=one) == [one]
    assert one.get_xscale() == "log"
    with pytest.raises(DataError, match="2 Axes"):
        model.plot(ax=plt.subplots(1, 2)[1])
    plt.close("all")
