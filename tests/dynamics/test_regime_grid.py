from __future__ import annotations

from importlib import import_module

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from featlearn.dynamics.regime_grid import TeacherStudent, regime_grid
from featlearn.dynamics.relu_students import MEASURES, Students, balanced_students
from featlearn.exceptions import ConvergenceWarning, DataError

SMALL = TeacherStudent(n_features=5, n_samples=40, n_neurons=8, n_teacher=2, n_test=60)
TAUS, DELTAS = torch.tensor([0.3, 0.8, 1.5], dtype=torch.float64), torch.tensor([-0.7, 0.0, 2.0], dtype=torch.float64)


@pytest.fixture
def task():
    return SMALL.draw(np.random.default_rng(3))


def network(w, a):
    net = nn.Sequential(nn.Linear(w.shape[1], w.shape[0], bias=False), nn.ReLU(), nn.Linear(w.shape[0], 1, bias=False))
    net.double()
    with torch.no_grad():
        net[0].weight.copy_(w)
        net[2].weight.copy_(a.T)
    return net


def test_the_task_is_a_teacher_on_the_sphere(task):
    for rows in (task.X, task.X_test, task.directions):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows), dtype=torch.float64))
    assert task.X.shape == (40, 5)
    assert task.X_test.shape == (60, 5)
    assert task.directions.shape == (4, 5)
    # Two unit ReLU neurons: no target exceeds 2, and each is positively homogeneous, so some are 0 and some not.
    assert task.y.abs().max() <= 2
    assert 0 < task.y.count_nonzero() <= 40


@pytest.mark.parametrize("tau", [1e-3, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("delta", [-50.0, -1.0, 0.0, 1e-3, 4.0])
def test_the_start_has_its_scale_and_its_balance(task, tau, delta):
    both = [torch.tensor([value], dtype=torch.float64) for value in (tau, delta)]
    w, a = balanced_students(*both, task.directions)
    a, norms = a[0, :, 0], w[0].norm(dim=1)
    torch.testing.assert_close(a.abs() * norms, torch.full_like(a, tau**2), rtol=1e-13, atol=0.0)
    size = max(abs(delta), 2 * tau**2)
    torch.testing.assert_close(a.square() - norms.square(), torch.full_like(a, delta), rtol=0.0, atol=1e-14 * size)
    assert (w[0] @ task.X.T).relu().T.mv(a).abs().max() < 1e-14 * tau**2 + 1e-300


def test_training_is_gradient_descent_by_autograd_on_a_network(task):
    students = Students(task, TAUS, DELTAS, lr=0.05)
    nets = [network(w, a) for w, a in zip(students.w, students.a, strict=True)]
    for net, tau in zip(nets, TAUS, strict=True):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05 / float(tau) ** 2)
        for _ in range(60):
            optimizer.zero_grad()
            (net(task.X)[:, 0] - task.y).square().mean().backward()
            optimizer.step()
    students.train(25)
    students.train(35)
    for net, w, a in zip(nets, students.w, students.a, strict=True):
        torch.testing.assert_close(net[0].weight.detach(), w, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(net[2].weight.detach().T, a, rtol=1e-9, atol=1e-12)


def kernel_by_autograd(net, X):
    rows = []
    for x in X:
        gradients = torch.autograd.grad(net(x), list(net.parameters()))
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def test_measures_against_their_definitions_on_networks(task):
    students = Students(task, TAUS, DELTAS, lr=0.05)
    starts = [network(w, a) for w, a in zip(students.w, students.a, strict=True)]
    students.train(200)
    found = students.measure()
    assert tuple(found) == MEASURES
    for i, (before, w, a) in enumerate(zip(starts, students.w, students.a, strict=True)):
        after = network(w, a)
        with torch.no_grad():
            train, test = (
                (after(X)[:, 0] - y).square().mean() for X, y in ((task.X, task.y), (task.X_test, task.y_test))
            )
            signs = [(net[0](task.X) > 0) for net in (before, after)]
        kernels = [kernel_by_autograd(net, task.X) for net in (before, after)]
        cosine = (kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())
        weights = [nn.utils.parameters_to_vector(net.parameters()).detach() for net in (before, after)]
        balances = [
            net[2].weight.detach()[0] ** 2 - (net[0].weight.detach() ** 2).sum(dim=1) for net in (before, after)
        ]
        expected = {
            "train": train,
            "test": test,
            "kernel_distance": 1 - cosine,
            "hamming": (signs[0] != signs[1]).double().mean(),
            "parameter_distance": (weights[1] - weights[0]).norm(),
            "balance_drift": (balances[1] - balances[0]).abs().max(),
        }
        for name, value in expected.items():
            assert float(found[name][i]) == pytest.approx(float(value), rel=1e-9, abs=1e-13), name


def test_a_large_student_is_kernel_regression_with_its_first_kernel(task):
    tau = torch.tensor([40.0], dtype=torch.float64)
    students = Students(task, tau, torch.zeros(1, dtype=torch.float64), lr=0.05)
    step = 2 * 0.05 / (float(tau) ** 2 * len(task.y)) * students.kernel()[0]
    left = torch.linalg.matrix_power(torch.eye(len(step), dtype=torch.float64) - step, 500) @ task.y
    students.train(500)
    torch.testing.assert_close(task.y - students.outputs(task.X)[0], left, rtol=0.0, atol=1e-3)
    assert float(students.measure()["kernel_distance"]) < 1e-6


def test_the_balance_is_kept_better_by_smaller_steps():
    drifts = [
        regime_grid(0.5, 0.3, SMALL, lr=lr, n_steps=round(20 / lr), n_repeats=1, random_state=0).at()["balance_drift"]
        for lr in (0.04, 0.02, 0.01)
    ]
    ratios = np.ravel(drifts[0] / drifts[1]), np.ravel(drifts[1] / drifts[2])
    np.testing.assert_allclose(ratios, 2.0, rtol=0.25)


@pytest.fixture(scope="module")
def grid():
    return regime_grid([0.3, 2.0], [-1.0, 0.0, 1.0], SMALL, n_steps=200, checkpoints=[0, 20, 100], random_state=1)


def test_shapes_and_what_is_zero_at_the_start(grid):
    assert grid.steps.tolist() == [0, 20, 100, 200]
    for name in MEASURES:
        assert getattr(grid, name).shape == (2, 3, 2, 4)
    for name in ("kernel_distance", "hamming", "parameter_distance", "balance_drift"):
        assert (getattr(grid, name)[..., 0] == 0).all()
        assert (getattr(grid, name)[..., 1:] >= 0).all()
    # f = 0 at every start: what is lost is the mean square of the targets, the same for all points of a repeat.
    assert (np.ptp(grid.train[..., 0], axis=(0, 1)) < 1e-15).all()
    assert (np.diff(grid.train, axis=-1) < 0).all()


def test_points_are_trained_as_if_alone(grid, monkeypatch):
    alone = regime_grid([2.0], [1.0], SMALL, n_steps=200, checkpoints=[20], random_state=1)
    module = import_module("featlearn.dynamics.regime_grid")  # the package's attribute of that name is the function
    monkeypatch.setattr(module, "_MOST_NUMBERS", 2 * SMALL.numbers_a_run)
    chunked = regime_grid(grid.tau, grid.delta, SMALL, n_steps=200, checkpoints=[20], random_state=1)
    for name in MEASURES:
        np.testing.assert_allclose(getattr(alone, name)[0, 0], getattr(grid, name)[1, 2][:, [1, 3]], rtol=1e-6)
        np.testing.assert_allclose(getattr(chunked, name), getattr(grid, name)[..., [1, 3]], rtol=1e-6, atol=1e-14)


def test_the_same_seed_gives_the_same_grid_and_none_a_fresh_one(grid):
    again = regime_grid(grid.tau, grid.delta, SMALL, n_steps=200, checkpoints=[0, 20, 100], random_state=1)
    np.testing.assert_array_equal(again.test, grid.test)
    fresh = [regime_grid(1.0, 0.0, SMALL, n_steps=5, n_repeats=1).test for _ in range(2)]
    assert not np.array_equal(*fresh)


BASE = {"tau": 0.5, "delta": 0.2, "problem": SMALL, "n_steps": 30, "n_repeats": 1, "random_state": 0}


@pytest.mark.parametrize(
    "change",
    [
        {"tau": 0.6},
        {"delta": 0.3},
        {"n_steps": 31},
        {"lr": 0.03},
        {"random_state": 1},
        *[{"problem": TeacherStudent(**({**vars(SMALL), name: 2 * getattr(SMALL, name)}))} for name in vars(SMALL)],
    ],
)
def test_every_parameter_changes_the_answer(change):
    base, other = regime_grid(**BASE), regime_grid(**(BASE | change))
    assert base.test[..., -1] != other.test[..., -1]


def test_default_checkpoints_lead_from_the_start_to_the_end():
    steps = regime_grid(1.0, 0.0, SMALL, n_steps=300, n_repeats=1).steps
    assert steps[0] == 0
    assert steps[-1] == 300
    assert (np.diff(steps) > 0).all()


def test_divergence_is_told_and_is_nan_in_every_measure():
    with pytest.warns(ConvergenceWarning, match=r"2 of 4 runs diverged, the first at tau=0.05, delta=2; lower lr"):
        grid = regime_grid([0.05, 1.0], 2.0, SMALL, lr=0.1, n_steps=400, checkpoints=[0], random_state=0)
    for name in MEASURES:
        assert np.isnan(getattr(grid, name)[0, ..., -1]).all()
        assert np.isfinite(getattr(grid, name)[0, ..., 0]).all()
        assert np.isfinite(getattr(grid, name)[1]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau": [0.1, 0.0]}, "tau"),
        ({"tau": [[0.1]]}, "one axis"),
        ({"delta": [np.nan]}, "delta"),
        ({"delta": []}, "delta"),
        ({"lr": 0.0}, "lr"),
        ({"n_steps": 0}, "n_steps"),
        ({"n_repeats": 1.5}, "n_repeats"),
        ({"checkpoints": [7000]}, "checkpoints"),
        ({"checkpoints": [0.5]}, "checkpoints"),
        ({"problem": {"n_features": 3}}, "TeacherStudent"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        regime_grid(**arguments)


@pytest.mark.parametrize("problem", [{"n_neurons": 7}, {"n_samples": 0}, {"n_test": 2.0}, {"n_features": True}])
def test_bad_problems_are_refused(problem):
    with pytest.raises(DataError, match=next(iter(problem))):
        TeacherStudent(**problem)


def test_table_dictionary_and_means(grid):
    frame = grid.frame()
    assert len(frame) == 2 * 3 * 2 * 4
    row = frame.query("tau == 2 and delta == 1 and repeat == 1 and step == 100")
    assert row["hamming"].item() == grid.hamming[1, 2, 1, 2]
    np.testing.assert_array_equal(grid.at(20)["test"], grid.test[..., 1].mean(axis=2))
    np.testing.assert_array_equal(grid.at()["test"], grid.test[..., -1].mean(axis=2))
    for missing in (21, 500):
        with pytest.raises(DataError, match=f"step={missing}"):
            grid.at(missing)
    plain = grid.to_dict()
    assert plain["problem"]["n_features"] == 5
    np.testing.assert_array_equal(plain["train"], grid.train)
    assert "After 200 steps" in grid._repr_html_()


def test_maps_show_the_means_with_small_scales_below_whatever_the_order():
    shuffled = regime_grid([2.0, 0.3], [1.0, -1.0, 0.0], SMALL, n_steps=50, random_state=1)
    axes = shuffled.plot()
    assert [ax.get_title() for ax in axes] == [
        "test loss",
        "distance of the kernel",
        "share of switched activations",
        "distance of the weights",
    ]
    shown = np.asarray(axes[2].images[0].get_array())
    np.testing.assert_allclose(shown, shuffled.at()["hamming"][::-1][:, [1, 2, 0]])
    assert [label.get_text() for label in axes[2].get_xticklabels()] == ["-1", "0", "1"]
    assert [label.get_text() for label in axes[2].get_yticklabels()] == ["0.3", "2"]
    assert axes[2].texts[0].get_text() == f"{shown[0, 0]:.2g}"
    one = plt.subplots()[1]
    assert shuffled.plot(one, measures=["balance_drift"], step=50) == [one]
    with pytest.raises(DataError, match="2 Axes for 4 maps"):
        shuffled.plot(plt.subplots(1, 2)[1])
    with pytest.raises(DataError, match="measures"):
        shuffled.plot(measures=["accuracy"])
    plt.close("all")


def test_large_maps_have_a_colour_bar_and_diverged_cells_are_named():
    from featlearn.plots.regime_grid import plot_regime_grid

    values = np.linspace(0.1, 1.0, 81).reshape(9, 9)
    axis = np.linspace(-1.0, 1.0, 9)
    (ax,) = plot_regime_grid({"tau": axis + 2, "delta": axis, "maps": {"test": values}})
    assert not ax.texts
    assert len(ax.figure.axes) == 2
    (ax,) = plot_regime_grid({"tau": [1.0], "delta": [0.0, 1.0], "maps": {"test": [[np.nan, 0.1]]}})
    assert [text.get_text() for text in ax.texts] == ["diverged", "0.1"]
    plt.close("all")
