"""Choice of the tree: prices, held-out rows, the guard, the smallest defensible tree, an interrupt."""

from __future__ import annotations

import math

import numpy as np
import pytest
from planted_rules import Task

from featlearn.trees import choice as choice_module
from featlearn.trees.choice import Penalty, choose, held_out_rows, mean_and_error, smallest_defensible
from featlearn.trees.features import LinearMap
from featlearn.trees.learn import LearnResult, learn
from featlearn.trees.problem import Settings, Start

TASK = Task("sum", 240, 3, seed=0)
ROUGH = Start("rough", LinearMap(np.array([[1.0, 0.7, 0.2]])), "direct")


def rough_starts(rows):
    return [ROUGH]


def test_prices_fall_with_the_number_of_rows():
    balanced = np.eye(2)[np.arange(400) % 2]
    alpha, l0 = Penalty(0.3).prices(balanced, np.ones(400), 20)
    assert l0 == pytest.approx(0.3 * 3 * 0.5 / 400)
    assert alpha == pytest.approx(0.002 + 0.3 * 8 * 0.5 * math.log(20) / 400)
    assert Penalty(0.3).prices(balanced, np.full(400, 2.0), 20)[1] == pytest.approx(l0 / 2)
    assert Penalty(1.0).prices(balanced, np.ones(400), 1, 0.3)[0] == pytest.approx(
        0.002 + 0.3 * 4 * math.log(2) / 400
    )  # fmt: skip
    assert Penalty(0.3, alpha=0.5).prices(balanced, np.ones(400), 20) == pytest.approx((0.5, l0))
    assert Penalty(0.3, l0=0.0).prices(balanced, np.ones(400), 20) == pytest.approx((alpha, 0.0))


def test_a_quarter_of_every_class_is_held_out():
    labels = np.repeat([0, 1, 2], [100, 40, 4])
    w = np.ones(144)
    w[::10] = 0
    rows, held = held_out_rows(w, labels, 0)
    assert sorted([*rows, *held]) == np.flatnonzero(w > 0).tolist()
    for label in range(3):
        count = ((labels == label) & (w > 0)).sum()
        assert abs((labels[held] == label).sum() - count / 4) < 1
    assert (held_out_rows(w, labels, 1)[1] != held).any()
    assert len(held_out_rows(np.ones(7), None, 0)[1]) == 1


def test_weights_count_as_repetitions_in_the_standard_error():
    values, w = np.array([1.0, 4.0, 2.0]), np.array([2.0, 1.0, 3.0])
    repeated = np.repeat(values, w.astype(int))
    mean, error = mean_and_error(values, w)
    assert mean == pytest.approx(repeated.mean())
    assert error == pytest.approx(repeated.std(ddof=1) / math.sqrt(6))


# the rule of the held-out rows ----------------------------------------------------------------------------------------


def errors_of(mean, spread, n=400, seed=0):
    noise = np.random.default_rng(seed).standard_normal(n)
    return mean + spread * (noise - noise.mean()) / noise.std(ddof=1) * math.sqrt(n)


def test_the_fewest_weights_within_one_standard_error_win():
    # Standard errors are .01; the best has loss .20.
    losses, sizes = [0.5, 0.20, 0.208, 0.209, 0.22], [0, 9, 4, 4, 1]
    errors = [errors_of(loss, 0.01) for loss in losses]
    assert smallest_defensible(errors, sizes, np.ones(400)) == (2, False)


def test_the_guard_asks_more_of_the_best_of_many():
    leaf, better = errors_of(0.44, 0.01), errors_of(0.4, 0.01, seed=1)
    gain, error = mean_and_error(leaf - better, np.ones(400))
    enough = math.exp((gain / error) ** 2 / 2)
    few, many = math.floor(enough * 0.9), math.ceil(enough * 1.1)
    poor = errors_of(0.9, 0.01)
    assert 2 < few < many < 5000
    for count, guarded in ((few, False), (many, True)):
        errors = [leaf, better, *[poor] * (count - 2)]
        assert smallest_defensible(errors, [0, *[2] * (count - 1)], np.ones(400)) == (0 if guarded else 1, guarded)


def test_no_candidate_but_the_leaf_is_a_single_leaf():
    assert smallest_defensible([errors_of(0.5, 0.01)], [0], np.ones(400)) == (0, True)


# choose ---------------------------------------------------------------------------------------------------------------


def test_penalty_takes_the_lowest_objective_and_tells_the_table():
    choice = TASK.choose(rough_starts)
    alpha, l0 = Penalty(0.1).prices(TASK.Y, TASK.w, 3)
    best = learn(TASK.X, TASK.Y, TASK.w, [ROUGH], Settings(alpha=alpha, l0=l0), 0).best
    assert choice.candidate.objective == best.objective
    assert (choice.selection, choice.alpha, choice.l0, choice.scale) == ("penalty", alpha, l0, 0.1)
    (chosen,) = [entry for entry in choice.table if entry["chosen"]]
    assert chosen["objective"] == best.objective == min(entry["objective"] for entry in choice.table)
    assert chosen["held_out"] is None
    assert len(choice.table) == len(choice.candidates)


def test_validation_learns_again_on_all_rows_with_no_more_weights():
    seen = []

    def starts(rows):
        seen.append(rows)
        return [ROUGH]

    choice = choose(
        TASK.X, TASK.Y, TASK.w, starts, Settings(), Penalty(), selection="validation", labels=TASK.labels
    )  # fmt: skip
    held = np.setdiff1d(np.arange(240), seen[0])
    assert [len(rows) for rows in seen] == [180, 240]
    assert {entry["kappa"] for entry in choice.table} == {0.03, 0.1, 0.3, 1.0}
    for entry, candidate in zip(choice.table, choice.candidates, strict=True):
        errors = ((candidate.predict(TASK.X[held]) - TASK.Y[held]) ** 2).sum(axis=1)
        assert entry["held_out"] == pytest.approx(errors.mean(), abs=1e-12)
    (place,) = [i for i, entry in enumerate(choice.table) if entry["chosen"]]
    assert choice.candidate.largest_rule <= choice.candidates[place].largest_rule
    assert choice.candidate.tree.n_node_weight[0] == 240
    assert not choice.guarded
    assert TASK.score(choice.candidate) > 0.97
    assert choice.l0 == Penalty().prices(TASK.Y, TASK.w, 3, choice.scale)[1]


def test_given_prices_are_tried_once():
    choice = choose(
        TASK.X, TASK.Y, TASK.w, rough_starts, Settings(), Penalty(0.7, alpha=0.01, l0=0.001),
        selection="validation", labels=TASK.labels,
    )  # fmt: skip
    assert {entry["kappa"] for entry in choice.table} == {0.7}


@pytest.mark.parametrize("selection", ["penalty", "validation"])
def test_an_interrupt_gives_the_best_tree_so_far(monkeypatch, selection):
    def interrupted(*arguments, **options):
        calls.append(arguments)
        result = learn(*arguments, **options)
        return result if len(calls) < 2 and selection == "validation" else stopped(result)

    def stopped(result):
        return LearnResult(result.candidates[:3], [], interrupted=True)

    calls = []
    monkeypatch.setattr(choice_module, "learn", interrupted)
    choice = TASK.choose(rough_starts, selection=selection)
    assert choice.interrupted
    assert len(calls) == (1 if selection == "penalty" else 2)
    assert choice.candidate.tree.n_node_weight[0] == 240
    assert choice.candidate.tree.n_leaves > 1


@pytest.mark.parametrize("where", ["starts", "learning"])
def test_what_held_out_rows_chose_is_kept_when_learning_again_is_interrupted(monkeypatch, where):
    """Before there is a tree of all rows, the best so far is the chosen rules with a tree grown on all rows."""
    calls = []

    def starts(rows):
        calls.append(rows)
        if where == "starts" and len(calls) == 2:
            raise KeyboardInterrupt
        return [ROUGH]

    def stopped(*arguments, **options):
        result = learn(*arguments, **options)
        return result if len(calls) == 1 else LearnResult(result.candidates[:1], [], interrupted=True)

    monkeypatch.setattr(choice_module, "learn", stopped)
    choice = TASK.choose(starts, selection="validation")
    assert len(calls) == 2
    assert choice.interrupted
    assert choice.selection == "validation"
    assert choice.candidate.tree.n_leaves > 1
    assert choice.candidate.tree.n_node_weight[0] == 240
    assert TASK.score(choice.candidate) > 0.97
    assert sum(entry["chosen"] for entry in choice.table) == 1


def test_an_interrupt_before_there_is_any_tree_is_passed_on():
    def starts(rows):
        raise KeyboardInterrupt

    for selection in ("penalty", "validation"):
        with pytest.raises(KeyboardInterrupt):
            TASK.choose(starts, selection=selection)
