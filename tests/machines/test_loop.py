from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import normal

from featlearn.agop.definition import agop_of_function
from featlearn.exceptions import FeatlearnWarning
from featlearn.kernels import GaussianKernel, LaplaceKernel, Metric
from featlearn.linalg.ridge import RidgeSolver
from featlearn.machines.loop import HeldOut, LeaveOneOut, Recipe, draw_points, metric_root, run
from featlearn.machines.rules import KERNELS, RULES, Bandwidth, MetricRule, Part


def golden_rows(numbers: torch.Tensor) -> torch.Tensor:
    primes = torch.tensor([2, 3, 5, 7, 11, 13], dtype=torch.float64)
    return 2 * ((numbers.double()[:, None] * primes.sqrt()) % 1) - 1


X = golden_rows(torch.arange(1, 65))
Y = torch.stack([X[:, 0] * X[:, 1], torch.sin(3 * X[:, 2])], dim=1)
Z = golden_rows(torch.tensor([101]))
GOLDEN = {
    "science": (
        [0.1276288652, 0.0726117196, 0.0426711348, 0.0253393519],
        [0.39538633, 0.84249936],
        [0.22170657, 0.76347938, 0.024414268, 1.1931310],
    ),
    "pip": (
        [0.1276288652, 0.0426212646, 0.0391406350, 0.0441423074],
        [0.35824351, 0.8890046],
        [0.01836829, 1.0, 0.0040039512, 1.0449322],
    ),
    "grokking": (
        [0.2418904916, 0.0895284840, 0.0149760599, 0.0054591792],
        [0.55880417, 0.8888663],
        [0.56844566, 2.19870814, -0.0053962061, 3.7051596],
    ),
}
GOLDEN["xrfm"] = GOLDEN["pip"]


def recipe(name: str = "pip", **changes) -> Recipe:
    rule = RULES[name]
    parts = (Part(GaussianKernel(1.0)),) if name == "grokking" else KERNELS["laplace"]
    made = Recipe(
        parts,
        Bandwidth(None, 2.5 if name == "grokking" else 10.0),
        ((1e-9 if name == "grokking" else 1e-3,),),
        replace(rule.metric, power=rule.powers[0], points="all", replacement=False),
        max_iter=3,
        tol=0.0,
        selected=False,
    )
    return replace(made, **changes)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers_of_the_published_conventions(name):
    scores, prediction, metric = GOLDEN[name]
    found = run(recipe(name), X, Y, judge=LeaveOneOut())
    assert [entry["score"] / 2 for entry in found.history] == pytest.approx(scores, rel=1e-6)
    assert found.kernel.expansion(X, Z, found.dual)[0].tolist() == pytest.approx(prediction, rel=1e-6)
    matrix = found.kernel.factor @ found.kernel.factor.mT
    entries = [matrix[0, 0], matrix[2, 2], matrix[0, 1], matrix.trace()]
    assert [float(entry) for entry in entries] == pytest.approx(metric, rel=1e-6)


@pytest.mark.parametrize("shape", ["full", "diagonal", "block"])
def test_one_step_is_ridge_regression_and_the_agop_of_its_predictor(shape):
    parts = (Part(LaplaceKernel(1.0), shape),)
    blocks = [torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])]
    found = run(recipe(parts=parts, max_iter=1), X, Y, blocks=blocks)
    kernel = LaplaceKernel(10.0)
    dual = torch.linalg.solve(kernel.definition(X, X) + 1e-3 * torch.eye(64, dtype=torch.float64), Y)
    agop = agop_of_function(lambda z: kernel.definition(X, z).mT @ dual, X)
    if shape == "diagonal":
        agop = agop.diagonal().diag()
    if shape == "block":
        agop[:3, 3:] = agop[3:, :3] = 0
    matrix = agop / agop.max()
    root = torch.linalg.cholesky(matrix)
    expected = Metric(kernel, root).definition(X, X)
    torch.testing.assert_close(found.kernel.matrix(X, X), expected, rtol=1e-7, atol=1e-9)


def test_weight_two_is_a_row_given_twice():
    weights = torch.ones(64, dtype=torch.float64)
    weights[5] = 2
    once = run(recipe(), X, Y, weights=weights)
    twice = run(recipe(), torch.cat([X, X[5:6]]), torch.cat([Y, Y[5:6]]))
    torch.testing.assert_close(
        once.kernel.expansion(X, Z, once.dual),
        twice.kernel.expansion(torch.cat([X, X[5:6]]), Z, twice.dual),
        rtol=1e-6,
        atol=0,
    )


@pytest.mark.parametrize("name", ["rotated", "aligned", "coordinates", "rotated+coordinates"])
def test_machines_with_warps_learn_a_threshold_and_repeat(name):
    x = normal(150, 4, seed=1)
    y = (x[:, :1] > 0.3).double() + 0.5 * x[:, 1:2]
    made = recipe(parts=KERNELS[name], bandwidth=Bandwidth(1.0), max_iter=3, alphas=((1e-2,),))
    first, second = (run(made, x, y, random_state=3) for _ in range(2))
    assert torch.equal(first.dual, second.dual)
    z = normal(200, 4, seed=2)
    truth = (z[:, :1] > 0.3).double() + 0.5 * z[:, 1:2]
    errors = [
        float((kernel.expansion(x, z, _solution(kernel, x, y)) - truth).square().mean()) for kernel in first.kernels
    ]
    assert min(errors[1:]) < 0.6 * errors[0]


def _solution(kernel, x, y):
    return torch.linalg.solve(kernel.matrix(x, x) + 1e-2 * torch.eye(len(x), dtype=x.dtype), y)


def test_the_best_candidate_drives_the_next_metric_and_is_kept():
    x, z = normal(80, 5, seed=4), normal(60, 5, seed=5)
    y, truth = (rows[:, :1] * rows[:, 1:2] for rows in (x, z))
    made = recipe(bandwidth=Bandwidth(1.0), alphas=((1e-3, 1e-1, 10.0),), selected=True, max_iter=2)
    found = run(made, x, y, judge=HeldOut(z, truth))
    best = min(found.scores, key=lambda entry: entry[2])
    assert (found.step, found.alpha) == best[:2]
    assert float((found.honest[found.step] - truth).square().mean()) == pytest.approx(best[2])
    per_step = [min((e for e in found.scores if e[0] == t), key=lambda e: e[2])[1] for t in range(3)]
    replayed = run(replace(made, alphas=tuple((alpha,) for alpha in per_step), selected=False), x, y)
    torch.testing.assert_close(replayed.kernels[-1].matrix(x, z), found.kernels[-1].matrix(x, z))


def test_conjugate_gradients_lead_to_the_same_machine():
    exact = run(recipe(alphas=((1e-2,),)), X, Y)
    iterative = run(recipe(alphas=((1e-2,),), solver=RidgeSolver("pcg", tol=1e-9)), X, Y)
    found, expected = (each.kernel.expansion(X, Z, each.dual) for each in (iterative, exact))
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-3)  # metrics move at a tolerance of 1e-2


def test_constant_targets_stop_at_the_identity():
    found = run(recipe(), X, torch.zeros(64, 1, dtype=torch.float64))
    assert found.step == 0
    assert found.history[-1]["stop_reason"] == "The AGOP is zero or not finite"


def test_a_callback_sees_every_step_and_can_stop():
    seen = []
    found = run(recipe(), X, Y, callback=lambda entry: seen.append(entry["iteration"]) or entry["iteration"] == 1)
    assert seen == [0, 1]
    assert found.step == 1


def test_an_interrupt_keeps_the_best_iterate():
    def interrupt(entry):
        if entry["iteration"] == 1:
            raise KeyboardInterrupt

    with pytest.warns(FeatlearnWarning, match="Interrupted at step 1"):
        found = run(recipe(), X, Y, callback=interrupt)
    assert found.step == 1


def test_starting_from_a_metric_goes_on_where_it_left_off():
    whole = run(recipe(max_iter=3), X, Y)
    half = run(recipe(max_iter=2), X, Y)
    rest = run(recipe(max_iter=1), X, Y, start=[half.kernel])
    torch.testing.assert_close(rest.dual, whole.dual, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("normalize", ["max", "trace", "frobenius", "none"])
@pytest.mark.parametrize("diagonal", [False, True])
def test_the_root_squares_to_the_normalised_power(normalize, diagonal):
    root = normal(6, 4, seed=6)
    agop = root @ root.mT
    agop = agop.diagonal().diag() if diagonal else agop
    values, vectors = torch.linalg.eigh(agop)
    power = (vectors * values.clamp_min(0) ** 0.7) @ vectors.mT
    sizes = {"max": power.max(), "trace": power.trace(), "frobenius": power.norm(), "none": 1.0}
    factor = metric_root(agop.diagonal() if diagonal else agop, MetricRule(0.7, normalize), thin=normalize != "max")
    matrix = factor.square().diag() if diagonal else factor @ factor.mT
    torch.testing.assert_close(matrix, power / sizes[normalize], rtol=1e-6, atol=1e-6)


def test_points_are_random_rows_never_the_first():
    source = torch.Generator().manual_seed(0)
    assert draw_points(5000, 1, MetricRule(), source).tolist() == list(range(5000))
    several = draw_points(50_000, 10, MetricRule(), source)
    assert len(several) == 5000
    assert several.max() > 40_000
    assert len(set(several.tolist())) == 5000
    repeated = draw_points(1000, 1, MetricRule(points=500, replacement=True), source)
    assert len(set(repeated.tolist())) < len(repeated) == 500


@pytest.mark.parametrize("shape", ["full", "diagonal"])
def test_more_columns_than_rows_change_nothing(shape, monkeypatch):
    x, y, z = normal(20, 50, seed=7), normal(20, 2, seed=8), normal(9, 50, seed=9)
    truth = normal(9, 2, seed=10)
    made = recipe(parts=(Part(LaplaceKernel(1.0), shape),), bandwidth=Bandwidth(1.0), alphas=((1e-3, 1e-1),))
    found = run(replace(made, selected=True), x, y, judge=HeldOut(z, truth))
    monkeypatch.setattr("featlearn.machines.loop.lives_in_the_span", lambda parts: False)
    plain = run(replace(made, selected=True), x, y, judge=HeldOut(z, truth))
    assert [entry[2] for entry in found.scores] == pytest.approx([entry[2] for entry in plain.scores], rel=1e-7)
    for short, long in zip(found.kernels, plain.kernels, strict=True):
        torch.testing.assert_close(short.matrix(x, z), long.matrix(x, z), rtol=1e-7, atol=1e-9)
    if shape == "full":
        assert found.kernels[1].factor.shape[0] == 50
        assert found.kernels[1].factor.shape[1] <= 20
