"""The routes and their parts: steps of Adam, supports, moved features, polish, interrupts and rows drawn."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from planted_rules import Task

from featlearn.trees import learn as learn_module
from featlearn.trees.adam import Adam
from featlearn.trees.crisp import objective_of
from featlearn.trees.features import LinearMap, PrototypeMap
from featlearn.trees.gradient import loss_and_gradient
from featlearn.trees.grow import grow
from featlearn.trees.learn import learn, on_all_rows
from featlearn.trees.polish import polish
from featlearn.trees.problem import Problem, Settings, Start
from featlearn.trees.refine import refine
from featlearn.trees.sparsify import supports
from featlearn.trees.tree import leaf_tree

TASK = Task("sum", 200, 4, seed=0)
SETTINGS = Settings(alpha=0.01, l0=0.001)
ROUGH = Start("rough", LinearMap(np.array([[1.0, 0.6, 0.3, 0.0], [0.0, 0.3, 0.0, 1.0]])), "direct")
RANDOM = TASK.random_start(np.arange(200))


def problem_of(task, settings=SETTINGS):
    return Problem(task.X, task.Y, task.w, settings)


def learned(starts, settings=SETTINGS, task=TASK, random_state=0):
    return learn(task.X, task.Y, task.w, starts, settings, random_state)


@pytest.fixture(scope="module")
def both_routes():
    return learned([ROUGH, RANDOM])


# parts ----------------------------------------------------------------------------------------------------------------


def test_adam_walks_like_torch():
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((2, 3)), rng.standard_normal(4))
    tensors = [torch.tensor(value, requires_grad=True) for value in values]
    reference, ours = torch.optim.Adam(tensors, lr=0.05, betas=(0.9, 0.99), eps=1e-8), Adam(0.05)
    for _ in range(7):
        gradients = tuple(rng.standard_normal(value.shape) for value in values)
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = torch.tensor(gradient)
        reference.step()
        values = ours.step(values, gradients)
    for tensor, value in zip(tensors, values, strict=True):
        np.testing.assert_allclose(value, tensor.detach().numpy(), rtol=1e-10)


@pytest.mark.parametrize("d", [1, 2, 6, 7, 10, 64])
def test_supports_fall_by_a_third_and_then_by_one(d):
    sequence = supports(d)
    assert sequence[0] == d
    assert sequence[-1] == 1
    for s, after in pairwise(sequence):
        assert after == (int(np.floor(2 * s / 3)) if s > 6 else s - 1)


def test_steps_lower_the_loss_and_keep_rows_in_units_of_their_deviation():
    problem = problem_of(TASK)
    features = ROUGH.map.rescaled(TASK.X, TASK.w)
    tree = problem.crisp(features, sparse=False)
    moved = problem.moved(features, tree, 0.1, Adam(0.025))
    before, after = (
        loss_and_gradient(tree, each.forward(TASK.X), TASK.Y, TASK.w, 0.1)[0] for each in (features, moved)
    )
    assert after < before
    np.testing.assert_allclose(moved.forward(TASK.X).std(axis=0), 1, rtol=1e-12)


def test_a_shift_of_a_prototype_feature_moves_its_thresholds_along():
    """The first step of Adam is the sign of the slope: here that of the loss of centred features, by differences."""
    task = Task("circle", 200, 2, seed=0)
    problem = problem_of(task)
    features = PrototypeMap(np.array([[1.0, -0.5]]), np.ones((1, 2))).rescaled(task.X, task.w)
    tree = problem.crisp(features, sparse=False)
    centre = features.forward(task.X).mean(axis=0)

    def loss(prototypes):
        Z = features.with_parameters((prototypes, features.masks)).forward(task.X)
        return loss_and_gradient(tree, Z - Z.mean(axis=0) + centre, task.Y, task.w, 0.3)[0]

    slopes = np.zeros((1, 2))
    for i in range(2):
        step = np.eye(2)[None, i] * 1e-5
        slopes[0, i] = (loss(features.prototypes + step) - loss(features.prototypes - step)) / 2e-5
    adam = Adam(0.025)
    problem.moved(features, tree, 0.3, adam)
    first = Adam(0.025).step((features.prototypes,), (slopes,))[0]
    assert adam.steps == 20
    one_step = _first_gradient(problem, features, tree, 0.3)
    np.testing.assert_allclose(one_step, slopes, rtol=1e-5)
    np.testing.assert_allclose(first - features.prototypes, -0.025 * np.sign(slopes), rtol=1e-4)


def _first_gradient(problem, features, tree, h):
    """What the first of the twenty steps is given."""
    seen = []

    class Spy(Adam):
        def step(self, parameters, gradients):
            seen.append(gradients[0])
            return super().step(parameters, gradients)

    problem.moved(features, tree, h, Spy(0.025))
    return seen[0]


def test_polish_keeps_zeros_and_takes_the_better_of_two_trees():
    problem = problem_of(TASK)
    features = ROUGH.map.select(np.array([0])).rescaled(TASK.X, TASK.w)
    tree = problem.crisp(features)
    rounds = list(polish(problem, features, tree))
    assert len(rounds) == 4
    for moved, found in rounds:
        np.testing.assert_array_equal(moved.weights == 0, features.weights == 0)
        Z = moved.forward(TASK.X)
        objective = problem.crisp_loss(moved, found) + 0.013 * (found.n_leaves - 1)
        for other in (problem.crisp(moved), refine(found, Z, TASK.Y, TASK.w, min_weight=5.0)):
            assert objective <= problem.crisp_loss(moved, other) + 0.013 * (other.n_leaves - 1) + 1e-12


def test_polish_refines_for_the_objective_not_for_the_loss_alone(monkeypatch):
    problem = problem_of(TASK, replace(SETTINGS, alpha=0.03))
    features = ROUGH.map.rescaled(TASK.X, TASK.w)
    tree = grow(features.forward(TASK.X), TASK.Y, TASK.w, 0.0, max_depth=3, min_weight=5.0)
    monkeypatch.setattr(Problem, "crisp", lambda self, features: leaf_tree(self.Y, self.w))  # so that refined ones win
    moved, found = next(polish(problem, features, tree))
    Z, prices = moved.forward(TASK.X), problem.prices(moved)
    by_loss, best = (refine(tree, Z, TASK.Y, TASK.w, min_weight=5.0, costs=costs) for costs in (None, prices))
    one, other = (objective_of(each, problem.crisp_loss(moved, each), prices) for each in (found, by_loss))
    assert one < other - 1e-3
    np.testing.assert_array_equal(found.feature, best.feature)
    np.testing.assert_array_equal(found.threshold, best.threshold)


# routes ---------------------------------------------------------------------------------------------------------------


def test_candidates_tell_their_own_loss_and_objective(both_routes):
    for candidate in both_routes.candidates:
        errors = ((candidate.predict(TASK.X) - TASK.Y) ** 2).sum(axis=1)
        assert candidate.loss == pytest.approx(errors.mean(), rel=1e-10, abs=1e-12)
        tree = candidate.tree
        price = sum(0.01 + 0.001 * np.count_nonzero(candidate.map.weights[j]) for j in tree.feature if j >= 0)
        assert candidate.objective == pytest.approx(candidate.loss + price, rel=1e-10)
        np.testing.assert_array_equal(tree.used_features, np.arange(candidate.map.n_features))
        assert candidate.largest_rule <= (candidate.support or 0)


def test_the_single_leaf_is_a_candidate_and_the_best_has_the_lowest_objective(both_routes):
    first = both_routes.candidates[0]
    assert first.tree.n_leaves == 1
    assert first.objective == pytest.approx(TASK.Y.var(axis=0).sum())
    assert both_routes.best.objective == min(candidate.objective for candidate in both_routes.candidates)
    assert both_routes.best.n_weights == 2


def test_both_routes_leave_their_history(both_routes):
    direct = [entry for entry in both_routes.history if entry["route"] == "direct"]
    assert [entry["h"] for entry in direct[:3]] == pytest.approx([0.3, 0.15, 0.1])
    assert sorted({entry["s"] for entry in direct}) == [1, 2, 3, 4]
    random = [entry for entry in both_routes.history if entry["route"] == "learned"]
    first = [entry for entry in random if entry["stage"] == "start"]
    assert [entry["round"] for entry in first] == list(range(16))
    assert [entry["h"] for entry in first] == pytest.approx([0.1 ** min(1, r / 12) for r in range(16)])
    later = [entry for entry in random if entry["stage"] == "sparsify" and entry["s"] == 4]
    assert [entry["h"] for entry in later] == pytest.approx([0.3, 0.3 ** (2 / 3) * 0.1 ** (1 / 3),
                                                             0.3 ** (1 / 3) * 0.1 ** (2 / 3), 0.1, 0.1])  # fmt: skip


def test_no_rule_has_more_weights_than_allowed():
    result = learned([ROUGH], replace(SETTINGS, max_support=1))
    assert len(result.candidates) > 1
    assert max(candidate.largest_rule for candidate in result.candidates) == 1


@pytest.mark.parametrize("change", [{"max_iter": 0}, {"h": 0.0}], ids=["no rounds", "no bandwidth"])
def test_without_learning_there_is_one_tree_on_the_features_given(change):
    result = learned([ROUGH], replace(SETTINGS, **change))
    assert len(result.candidates) == 2
    assert not result.history
    rows, given = result.candidates[1].map.weights, ROUGH.map.weights[: result.candidates[1].map.n_features]
    np.testing.assert_allclose(rows / rows[:, :1], given / given[:, :1], atol=1e-12)


def test_the_same_random_state_gives_the_same_trees_whatever_else_is_tried():
    alone, after = learned([RANDOM]), learned([ROUGH, RANDOM])
    own = [candidate for candidate in after.candidates if candidate.start == RANDOM.name]
    for one, other in zip(alone.candidates[1:], own, strict=True):
        np.testing.assert_array_equal(one.map.weights, other.map.weights)
        np.testing.assert_array_equal(one.tree.threshold, other.tree.threshold)


def test_rows_without_a_split_are_drawn_again(monkeypatch):
    """Noise and a high price: once trees stay a single leaf, every round begins with other features."""
    task, drawn = Task("noise", 60, 3, seed=1), []

    class Drawn(LinearMap):
        @classmethod
        def start(cls, X, Y, w, q, rng):
            drawn.append(super().start(X, Y, w, q, rng))
            return drawn[-1]

    rows = task.random_start(np.arange(60)).map.weights
    result = learned([Start("drawn", Drawn(rows), "learned")], replace(SETTINGS, alpha=0.2), task)
    assert result.best.tree.n_leaves == 1
    single = [entry for entry in result.history if entry["leaves"] == 1]
    assert len(drawn) == len(single) > 0
    assert len({features.weights[0, 0] for features in drawn}) == len(drawn)
    assert all(entry["leaves"] == 1 for entry in result.history if entry["h"] == pytest.approx(0.1))


def test_a_weight_is_a_repetition():
    w = np.random.default_rng(1).integers(1, 3, 120).astype(float)
    X, Y = TASK.X[:120], TASK.Y[:120]
    X = (X - np.average(X, axis=0, weights=w)) / np.sqrt(np.cov(X.T, fweights=w.astype(int), ddof=0).diagonal())
    weighted = learn(X, Y, w, [ROUGH], SETTINGS, 0).best
    places = np.repeat(np.arange(120), w.astype(int))
    repeated = learn(X[places], Y[places], np.ones(len(places)), [ROUGH], SETTINGS, 0).best
    assert weighted.tree.n_leaves == repeated.tree.n_leaves
    np.testing.assert_allclose(weighted.map.weights, repeated.map.weights, atol=1e-6)
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), atol=1e-8)


def test_an_interrupt_keeps_what_was_found(monkeypatch):
    calls = []

    def stop(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return Problem.moved(*arguments, **options)

    class Interrupted(Problem):
        moved = stop

    monkeypatch.setattr(learn_module, "Problem", Interrupted)
    result = learned([ROUGH, RANDOM])
    assert result.interrupted
    # Three times 20 steps are one support: its candidate, the first tree and the single leaf are there.
    assert [(candidate.stage, candidate.support) for candidate in result.candidates] == [
        ("start", 0), ("start", 4), ("sparsify", 4),
    ]  # fmt: skip
    assert result.best.tree.n_leaves > 1


def test_an_error_is_no_interrupt(monkeypatch):
    def fail(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(Problem, "moved", fail)
    with pytest.raises(ZeroDivisionError):
        learned([ROUGH])


def test_features_are_learned_on_rows_drawn_and_the_tree_on_all(monkeypatch):
    monkeypatch.setattr(learn_module, "MAX_LEARN_ROWS", 120)
    result = learned([ROUGH])
    assert result.subsampled
    assert result.candidates[1].tree.n_node_weight[0] == 120
    whole = on_all_rows(result.best, TASK.X, TASK.Y, TASK.w, SETTINGS)
    assert whole.tree.n_node_weight[0] == 200
    errors = ((whole.predict(TASK.X) - TASK.Y) ** 2).sum(axis=1)
    assert whole.loss == pytest.approx(errors.mean(), rel=1e-10, abs=1e-12)
    np.testing.assert_allclose(whole.map.forward(TASK.X).std(axis=0), 1, rtol=1e-12)
    leaf = on_all_rows(result.candidates[0], TASK.X, TASK.Y, TASK.w, SETTINGS)
    assert leaf.tree.n_node_weight.tolist() == [200]
    other = learned([ROUGH], random_state=1)
    assert other.candidates[1].loss != result.candidates[1].loss


def test_a_bar_is_shown_when_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # or else nothing is drawn where there is no terminal
    learn(TASK.X, TASK.Y, TASK.w, [ROUGH], SETTINGS, 0)
    assert capsys.readouterr().err == ""
    learn(TASK.X, TASK.Y, TASK.w, [ROUGH], SETTINGS, 0, verbose=1)
    assert "rough" in capsys.readouterr().err


def test_prototypes_are_learned_too():
    task = Task("circle", 300, 3, seed=1)
    result = learned([task.random_start(np.arange(300), PrototypeMap)], task=task)
    assert result.best.predict(task.new).argmax(axis=1).tolist() != [0] * 2000
    assert task.score(result.best) > 0.9


def test_no_step_is_made_that_no_tree_sees(monkeypatch):
    """Features move between the rounds of the learned route, not after the last one."""
    moves, seen = Problem.moved, []

    def moved(*arguments):
        seen.append(arguments)
        return moves(*arguments)

    monkeypatch.setattr(Problem, "moved", moved)
    monkeypatch.setattr(learn_module, "POLISHED", 0)
    history = learned([RANDOM]).history
    stages = {(entry["stage"], entry["s"]) for entry in history}
    single = [entry for entry in history if entry["leaves"] == 1]
    assert not single
    assert len(seen) == len(history) - len(stages)
