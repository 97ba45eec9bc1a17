from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import check_grad, minimize

from featlearn.dynamics.absolute_kernel import absolute_kernel
from featlearn.dynamics.late_features import LateFeatures
from featlearn.exceptions import ConvergenceWarning, DataError

OWN = 1 - 2 / np.pi
TEACHER = {"teacher_weights": np.eye(3)[:2], "teacher_scales": [1.0, 0.8]}


def model(**changes):
    return LateFeatures(**({**TEACHER, "n_neurons": 8, "schedule": [(3e-2, 1500)], "random_state": 0} | changes))


def test_the_kernel_against_a_million_gaussian_samples():
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((2, 3)), rng.standard_normal((3, 3))
    x = rng.standard_normal((1_000_000, 3))
    of_u, of_v = (np.abs(x @ rows.T) - np.sqrt(2 / np.pi) * np.linalg.norm(rows, axis=1) for rows in (u, v))
    for i in range(2):
        for j in range(3):
            products = of_u[:, i] * of_v[:, j]
            error = products.std() / np.sqrt(len(x))
            assert abs(absolute_kernel(u, v)[i, j] - products.mean()) < 4 * error


@given(st.floats(-1.0, 1.0))
def test_no_direction_pays_more_than_the_teachers_own(rho):
    """The bound behind the optimum: K <= (1 - 2/pi) rho^2, with equality at 0 and 1 only."""
    kernel = absolute_kernel([[1.0, 0.0]], [[rho, np.sqrt(1 - rho**2)]])[0, 0]
    assert 0 <= kernel <= OWN * rho**2 + 1e-15
    assert absolute_kernel([[1.0, 0.0]], [[-3.0, 0.0]])[0, 0] == pytest.approx(3 * OWN, rel=1e-12)


def test_small_cosines_lose_no_digits_and_vectors_without_direction_are_harmless():
    assert absolute_kernel([[1.0, 0.0]], [[1e-9, 1.0]])[0, 0] == pytest.approx(1e-18 / np.pi, rel=1e-9)
    assert absolute_kernel([[0.0, 0.0]], [[1.0, 0.0]])[0, 0] == 0.0
    start = model()
    of_a, of_W = start.gradient(np.zeros(2), np.zeros((2, 3)), 0.1)
    assert np.isfinite(of_a).all()
    assert not of_W.any()


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_gradient_against_finite_differences(decay):
    net, rng = model(teacher_weights=np.array([[1.0, 0.2, 0.0], [0.5, 1.0, -1.0]])), np.random.default_rng(1)

    def split(x):
        return x[:4], x[4:].reshape(4, 3)

    def gradient(x):
        of_a, of_W = net.gradient(*split(x), decay)
        return np.concatenate([of_a, of_W.ravel()])

    start = rng.standard_normal(16)
    error = check_grad(lambda x: float(net.objective(*split(x), decay)), gradient, start)
    assert error < 1e-5 * np.linalg.norm(gradient(start))


def test_the_objective_is_the_error_on_samples_plus_the_decay():
    net, rng = model(), np.random.default_rng(2)
    a, W, x = rng.standard_normal(4), rng.standard_normal((4, 3)), rng.standard_normal((400_000, 3))
    output = np.abs(x @ W.T) @ a - np.abs(x @ net.teacher_weights.T) @ net.teacher_scales
    errors = (output - output.mean()) ** 2 / 2
    norms = np.sum(a**2) + np.sum(W**2)
    assert abs(errors.mean() + 0.05 * norms - net.objective(a, W, 0.1)) < 4 * errors.std() / np.sqrt(len(x))


@pytest.mark.parametrize("scales", [[1.0, 0.8], [1.0, -0.7], [1.0, 0.05]])
def test_the_optimum_against_a_minimiser(scales):
    """L-BFGS-B on the objective; the last teacher is too weak and is given up."""
    net, rng = (
        model(teacher_weights=[[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]], teacher_scales=scales),
        np.random.default_rng(0),
    )

    def objective(x):
        a, W = x[:6], x[6:].reshape(6, 3)
        of_a, of_W = net.gradient(a, W, 0.05)
        return float(net.objective(a, W, 0.05)), np.concatenate([of_a, of_W.ravel()])

    runs = [minimize(objective, 0.5 * rng.standard_normal(24), jac=True, method="L-BFGS-B") for _ in range(5)]
    best = net.theory(0.05)
    assert min(run.fun for run in runs) == pytest.approx(float(best.objective), rel=1e-4)
    assert (best.mass[1] == 0) == (scales[1] == 0.05)
    assert np.sign(best.mass).tolist() in ([1.0, np.sign(scales[1])], [1.0, 0.0])


def test_the_certificate_of_the_optimum_touches_the_decay_at_the_teachers_only():
    net = model(schedule=[(0.02, 10)])
    directions = np.random.default_rng(0).standard_normal((2000, 3))
    values = net.certificate(directions)
    assert (np.abs(values) < 0.02).all()
    np.testing.assert_allclose(net.certificate(5 * net.teacher_weights), 0.02, rtol=1e-12)
    assert np.abs(net.certificate(directions, np.zeros(2), np.eye(3)[:2])).max() > 0.1


def test_descent_ends_at_the_optimum():
    found = model(schedule=[(3e-2, 1500), (1e-2, 1500)]).verify()
    assert found.ok, found.table
    assert {row["quantity"] for row in found.table} == {"loss / decay^2", "mass", "angle", "certificate"}


def test_descent_follows_the_flow_of_the_raw_weights():
    """Half the step, twice the steps: the same curve up to the step; and the objective falls."""
    fine = model(lr=0.01, schedule=[(3e-2, 400)]).simulate([0, 200, 400])
    coarse = model(lr=0.02, schedule=[(3e-2, 200)]).simulate([0, 100, 200])
    np.testing.assert_allclose(coarse.W, fine.W, atol=2e-2)
    assert (np.diff(model(init_scale=0.7).trajectory.objective) < 1e-12).all()


def test_steps_in_any_order_and_stages_in_turn():
    net = model(schedule=[(3e-2, 30), (0.0, 20)])
    run = net.simulate([50, 10, 30])
    assert run.decay.tolist() == [0.0, 3e-2, 3e-2]
    np.testing.assert_array_equal(run.W[..., 1], net.simulate(10).W[..., 0])
    assert run.W.shape == (8, 3, 3)
    assert run.units == "steps"
    assert run.total_mass == pytest.approx(np.abs(run.a * np.linalg.norm(run.W, axis=1)).sum(axis=0))


def test_every_parameter_changes_the_answer():
    base = model(schedule=[(3e-2, 50)]).simulate(50)
    same = model(schedule=[(3e-2, 50)]).simulate(50)
    assert base.loss == same.loss
    changes = [
        {"teacher_weights": np.array([[1.0, 0.1, 0.0], [0.0, 1.0, 0.0]])}, {"teacher_scales": [1.0, 0.7]},
        {"n_neurons": 9}, {"init_scale": 0.06}, {"lr": 0.09}, {"schedule": [(2e-2, 50)]}, {"random_state": 1},
    ]  # fmt: skip
    for change in changes:
        assert model(**({"schedule": [(3e-2, 50)]} | change)).simulate(50).loss != base.loss


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_weights": [1.0, 0.0]}, "shape"),
        ({"teacher_weights": [[0.0, 0.0], [1.0, 0.0]]}, "zeros"),
        ({"teacher_scales": [1.0]}, "shape"),
        ({"teacher_scales": [1.0, np.nan]}, "finite"),
        ({"n_neurons": 0}, "n_neurons"),
        ({"init_scale": 0.0}, "init_scale"),
        ({"lr": -1.0}, "lr"),
        ({"schedule": []}, "schedule"),
        ({"schedule": 5}, "schedule=5, but expected pairs"),
        ({"schedule": [0.1, 10]}, "expected pairs"),
        ({"schedule": [("a", 10)]}, "weight decay of the schedule"),
        ({"init_scale": [0.1, 0.2]}, "array as init_scale"),
        ({"schedule": [(-1.0, 5)]}, "weight decay"),
        ({"schedule": [(0.1, 0)]}, "steps"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        model(**change)


def test_a_stage_that_is_too_short_is_said_to_be():
    with pytest.warns(ConvergenceWarning, match=r"decay 0\.03 had not converged at step 150.*more steps"):
        assert not model(schedule=[(3e-2, 150)]).verify().ok
    assert model(schedule=[(3e-2, 1500)]).verify(tolerance=1e-2).ok  # warnings are errors


def test_questions_that_have_no_answer_are_refused():
    slanted = model(teacher_weights=[[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    for question in (slanted.theory, slanted.verify):
        with pytest.raises(DataError, match=r"cosine of 0\.707"):
            question()
    for arguments, message in (({"t": 1501}, "1500 steps"), ({"method": "ode"}, "descent")):
        with pytest.raises(DataError, match=message):
            model().simulate(**arguments)
    with pytest.raises(DataError, match="without weight decay"):
        model(schedule=[(0.0, 5)]).verify()
    with pytest.raises(DataError, match="both or neither"):
        model().certificate(np.eye(3), a=[1.0])
    with pytest.raises(DataError, match="circle"):
        model().plot_certificate()


def test_tables_and_figures():
    net = model(schedule=[(0.0, 20), (3e-2, 30)])
    frame = net.frame()
    assert frame["step"].is_monotonic_increasing
    assert frame["loss"].iloc[-1] == net.trajectory.loss[-1]
    assert net.theory([1e-2, 3e-2]).frame()["mass_0"].tolist() == pytest.approx([1 - 1e-2 / OWN, 1 - 3e-2 / OWN])
    assert net.to_dict()["schedule"] == [[0.0, 20], [3e-2, 30]]
    ax = net.plot()
    assert ax.get_yscale() == "log"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), net.trajectory.angle)
    flat = model(teacher_weights=np.eye(2)).plot_certificate()
    assert np.abs(flat.lines[-1].get_ydata()).max() == pytest.approx(3e-2, rel=1e-2)
