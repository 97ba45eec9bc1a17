"""What chooses a machine: folds, rungs, ties, and predictions of rows that were not seen."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cases import normal
from hypothesis import given
from hypothesis import strategies as st

from featlearn.exceptions import FeatlearnWarning
from featlearn.kernels import LaplaceKernel
from featlearn.linalg.solution import RidgeSolution
from featlearn.machines.columns import Columns
from featlearn.machines.loop import Run
from featlearn.machines.rfm import RFMClassifier, RFMRegressor
from featlearn.machines.rules import KERNELS, Bandwidth
from featlearn.machines.selection import Candidate, Rung, Split, cross_validation, fold_of, hold_out, race

X = normal(60, 4, seed=1).numpy()
Y = X[:, 0] * X[:, 1] + 0.3 * normal(60, 1, seed=2).numpy()[:, 0]
CONSTANT = {"kernel": "laplace", "bandwidth": 3.0, "power": 1.0, "columns": Columns()}


# folds and rungs ------------------------------------------------------------------------------------------------------


@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=80),
    folds=st.integers(2, 6),
    seed=st.integers(0, 100),
)
def test_folds_share_rows_and_classes_evenly(labels, folds, seed):
    classes = torch.tensor(labels)
    place = fold_of(len(labels), classes, folds, torch.Generator().manual_seed(seed))
    sizes = place.bincount(minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    for label in set(labels):
        members = place[classes == label].bincount(minlength=folds)
        assert members.max() - members.min() <= 1


def test_folds_are_drawn():
    first, second, again = (fold_of(100, None, 5, torch.Generator().manual_seed(seed)) for seed in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.arange(100) % 5)


@pytest.mark.parametrize(("candidates", "shape"), [(1, [5]), (4, [5]), (5, [2, 3]), (16, [2, 3])])
@pytest.mark.parametrize("labels", [None, torch.arange(53) % 3])
def test_cross_validation_scores_every_row_once(candidates, shape, labels):
    rungs = cross_validation(53, labels, candidates, random_state=0)
    assert [len(rung.splits) for rung in rungs] == shape
    splits = [split for rung in rungs for split in rung.splits]
    for split in splits:
        assert sorted(torch.cat([split.train, split.test]).tolist()) == list(range(53))
    assert sorted(torch.cat([split.test for split in splits]).tolist()) == list(range(53))


@pytest.mark.parametrize(
    ("n", "candidates", "sizes"),
    [
        (3, 16, [2]),
        (1500, 16, [1200]),
        (2500, 16, [1000, 2000]),
        (2500, 2, [2000]),
        (5000, 16, [1000, 4000]),
        (60_000, 16, [1000, 3000, 8000]),
        (60_000, 1, [8000]),
    ],
)
@pytest.mark.parametrize("classes", [1, 3])
def test_held_out_rows_stay_out_of_every_rung(n, candidates, sizes, classes):
    labels = torch.arange(n) % classes if classes > 1 else None
    rungs = hold_out(n, labels, candidates, random_state=0)
    splits = [rung.splits[0] for rung in rungs]
    assert [len(rung.splits) for rung in rungs] == [1] * len(sizes)
    assert [len(split.train) for split in splits] == sizes
    held = splits[0].test
    assert len(held) == min(max(n // 5, 1), 5000)
    seen: set[int] = set()
    for split in splits:
        rows = set(split.train.tolist())
        assert torch.equal(split.test, held)
        assert not rows & set(held.tolist())
        assert seen <= rows  # each rung adds rows to those of the last
        assert len(rows) == len(split.train)
        seen = rows
    assert [rung.survivors for rung in rungs] == sorted((rung.survivors for rung in rungs), reverse=True)
    if classes > 1 and n > 1000:
        shares = labels[held].bincount() / len(held)
        assert (shares - 1 / classes).abs().max() < 0.01


def test_held_out_rows_come_from_everywhere():
    held = hold_out(60_000, None, 1, random_state=0)[0].splits[0].test
    quarters = (held // 15_000).bincount()
    assert len(quarters) == 4
    assert quarters.min() > 800


# the race -------------------------------------------------------------------------------------------------------------


def candidate(name: str) -> Candidate:
    return Candidate(name, KERNELS["laplace"], "none", Bandwidth(1.0), 1.0)


def made_up(scores: list[float], alphas: list[float], rows: int = 2) -> Run:
    """A run whose iterates have these scores with these ridges; its honest predictions are the number of the step."""
    history = [
        {"iteration": t, "score": score, "score_se": 0.1, "score_name": "made up", "alpha": alpha}
        for t, (score, alpha) in enumerate(zip(scores, alphas, strict=True))
    ]
    honest = [torch.full((rows, 1), float(t)) for t in range(len(scores))]
    dual = torch.zeros(3, 1)
    solution = RidgeSolution(dual, "cholesky", "exact", 0, 0.0, 0.0, 0.0)
    return Run(LaplaceKernel(1.0), dual, 0, alphas[0], solution, [], history, [], honest)


def split(number: int, train: int = 4) -> Split:
    return Split(torch.arange(10, 10 + train), torch.tensor([2 * number, 2 * number + 1]))


def raced(table, rungs, *, method="cv", selected=True):
    """Race of candidates called by the keys of ``table``: {name: {number of the split: run}}; and who ran on what."""
    log = []

    def fit(entry, part):
        number = int(part.test[0]) // 2
        log.append((entry.kernel, number, len(part.train)))
        runs = table[entry.kernel]
        return runs[number, len(part.train)] if (number, len(part.train)) in runs else runs[number]

    found = race([candidate(name) for name in table], rungs, fit, method=method, selected=selected)
    return found, log


def test_the_smallest_mean_over_splits_wins():
    rungs = [Rung((split(0), split(1)), 1)]
    found, _ = raced(
        {
            "lucky once": {0: made_up([0.1, 0.2], [1, 1]), 1: made_up([0.9, 0.9], [1, 1])},
            "steady": {0: made_up([0.5, 0.3], [1, 1]), 1: made_up([0.5, 0.3], [1, 1])},
        },
        rungs,
    )
    assert (found.candidate.kernel, found.best["iteration"], found.best["score"]) == ("steady", 1, 0.3)
    assert [entry["score"] for entry in found.table] == pytest.approx([0.5, 0.55, 0.5, 0.3])
    assert found.table[0]["standard_error"] == pytest.approx(0.4)  # 0.8 / sqrt(2) / sqrt(2)
    assert found.best["splits"] == 2
    rows, values = zip(*found.held_out, strict=True)
    assert [part.tolist() for part in rows] == [[0, 1], [2, 3]]
    assert all(part.eq(1).all() for part in values)  # of the chosen iterate


def test_ties_go_to_the_earlier_iterate_then_to_the_larger_ridge_then_to_the_first():
    rungs = [Rung((split(0),), 1)]
    found, _ = raced(
        {"late": {0: made_up([0.5, 0.2], [10, 10])}, "early": {0: made_up([0.2, 0.2], [1, 1])}},
        [Rung((split(0),), 2)],
    )
    assert (found.candidate.kernel, found.best["iteration"]) == ("early", 0)
    found, _ = raced({"weak": {0: made_up([0.2], [1])}, "strong": {0: made_up([0.2], [10])}}, [Rung((split(0),), 2)])
    assert found.candidate.kernel == "strong"
    found, _ = raced({"first": {0: made_up([0.2], [1])}, "second": {0: made_up([0.2], [1])}}, rungs)
    assert found.candidate.kernel == "first"


def test_splits_of_later_rungs_add_up_in_cross_validation():
    rungs = [Rung((split(0), split(1)), 1), Rung((split(2),), 1)]
    found, log = raced(
        {
            "loser": {0: made_up([0.4], [1]), 1: made_up([0.6], [1])},
            "winner": {0: made_up([0.1], [1]), 1: made_up([0.2], [1]), 2: made_up([0.9], [1])},
        },
        rungs,
    )
    assert log == [("loser", 0, 4), ("loser", 1, 4), ("winner", 0, 4), ("winner", 1, 4), ("winner", 2, 4)]
    # The loser's 0.5 on the easier two splits does not compare with the winner's 0.4 on three.
    assert found.candidate.kernel == "winner"
    assert [entry["splits"] for entry in found.table] == [2, 3]
    assert [entry["score"] for entry in found.table] == pytest.approx([0.5, 0.4])


def test_only_finalists_can_be_chosen():
    rungs = [Rung((split(0),), 1), Rung((split(1),), 1)]
    found, _ = raced(
        {"easy rows": {0: made_up([0.2], [1])}, "finalist": {0: made_up([0.1], [1]), 1: made_up([0.9], [1])}}, rungs
    )
    assert found.candidate.kernel == "finalist"


def test_scores_at_fewer_rows_do_not_count_in_the_last_rung_of_a_hold_out():
    rungs = [Rung((split(0, 3),), 2), Rung((split(0, 6),), 2)]
    found, log = raced(
        {
            "out": {(0, 3): made_up([0.8], [1])},
            "grows": {(0, 3): made_up([0.6], [1]), (0, 6): made_up([0.3], [2])},
            "stays": {(0, 3): made_up([0.1], [1]), (0, 6): made_up([0.4], [1])},
        },
        rungs,
        method="holdout",
    )
    assert [entry[0] for entry in log] == ["out", "grows", "stays", "stays", "grows"]
    assert (found.candidate.kernel, found.alphas) == ("grows", (2,))
    assert {entry["kernel"]: entry["rows"] for entry in found.table} == {"out": 3, "grows": 6, "stays": 6}
    assert len(found.held_out) == 1


def test_rules_with_a_fixed_iterate_are_judged_by_the_last():
    table = {"turns": {0: made_up([0.1, 0.9], [1, 1])}, "falls": {0: made_up([0.5, 0.4], [1, 1])}}
    found, _ = raced(table, [Rung((split(0),), 1)], selected=False)
    assert (found.candidate.kernel, found.best["iteration"]) == ("falls", 1)
    found, _ = raced(table, [Rung((split(0),), 1)])
    assert (found.candidate.kernel, found.best["iteration"]) == ("turns", 0)


def test_ridges_are_upper_medians_over_splits_and_iterates_those_of_all_splits():
    runs = {
        0: made_up([0.5, 0.4, 0.3], [1, 10, 1]),
        1: made_up([0.5, 0.4, 0.3], [10, 1, 1]),
        2: made_up([0.5, 0.4], [1, 1]),  # converged one step earlier
        3: made_up([0.5, 0.4, 0.3], [10, 10, 1]),
    }
    found, _ = raced({"only": runs}, [Rung(tuple(split(number) for number in range(4)), 1)])
    assert [entry["iteration"] for entry in found.table] == [0, 1]
    assert found.best["iteration"] == 1
    assert found.alphas == (10, 10)


def test_a_selection_is_plain_values_and_a_sorted_table():
    found, _ = raced({"a": {0: made_up([0.5, 0.2], [1, 1])}, "b": {0: made_up([0.3], [1])}}, [Rung((split(0),), 1)])
    assert json.loads(json.dumps(found.to_dict()))["table"][found.chosen]["score"] == 0.2
    assert found.frame()["score"].tolist() == [0.2, 0.3, 0.5]


# estimators -----------------------------------------------------------------------------------------------------------


def predictions(x, y, z, alpha, bandwidth, step):
    """Laplace machine after 0 or 1 steps at the rows z, by definition, in numpy."""

    def distances(a, b):
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    root = np.eye(x.shape[1])
    for t in range(step + 1):
        xa, za = x @ root, z @ root
        kernel = np.exp(-distances(xa, xa) / bandwidth)
        dual = np.linalg.solve(kernel + alpha * np.eye(len(x)), y)
        if t == step:
            return np.exp(-distances(za, xa) / bandwidth) @ dual
        r = distances(x, x)
        np.fill_diagonal(r, np.inf)
        slopes = kernel / (bandwidth * r) * dual  # row j, column i
        gradients = slopes @ x - slopes.sum(1)[:, None] * x
        agop = gradients.T @ gradients / len(x)
        root = np.linalg.cholesky(agop / agop.max())
    raise AssertionError("unreachable")


def standardized(x):
    return (x - x.mean(0)) / x.std(0)


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("selection", ["cv", "holdout"])
def test_held_out_predictions_are_those_of_a_machine_that_never_saw_the_rows(selection, steps):
    machine = RFMRegressor(**CONSTANT, alpha=1e-2, max_iter=steps, selection=selection, random_state=3).fit(X, Y)
    x, y = standardized(X), Y - Y.mean()
    scale = np.sqrt((y**2).mean())
    t = machine.n_iter_
    covered = np.zeros(60, dtype=int)
    for rows, values in machine.selection_.held_out:
        out = rows.numpy()
        covered[out] += 1
        train = np.setdiff1d(np.arange(60), out)
        expected = predictions(x[train], y[train] / scale, x[out], 1e-2, 3.0, t)
        np.testing.assert_allclose(values[:, 0].numpy(), expected, rtol=1e-6, atol=1e-8)
    assert covered.sum() == (60 if selection == "cv" else 12)
    assert covered.max() == 1
    errors = [float(np.mean((y[r] / scale - v[:, 0].numpy()) ** 2)) for r, v in machine.selection_.held_out]
    assert machine.selection_.best["score"] == pytest.approx(np.mean(errors))
    np.testing.assert_allclose(
        machine.predict(X[:5] + 0.1),
        Y.mean() + scale * predictions(x, y / scale, (X[:5] + 0.1 - X.mean(0)) / X.std(0), 1e-2, 3.0, t),
        rtol=1e-6,
    )


@pytest.mark.parametrize("machine", [RFMRegressor, RFMClassifier])
def test_recorded_ridges_are_replayed_on_all_rows(machine):
    labels = Y if machine is RFMRegressor else (Y > 0).astype(int)
    made = machine(kernel="laplace", alpha=(1e-3, 1e-1, 10.0), power=(1.0, 0.5), max_iter=3, random_state=0)
    made.fit(X, labels)
    chosen = made.selection_
    assert made.n_iter_ == len(chosen.alphas) - 1 == chosen.best["iteration"]
    assert [entry["alpha"] for entry in made.history_] == list(chosen.alphas)
    assert (made.alpha_, made.power_) == (chosen.alphas[-1], chosen.best["power"])
    assert chosen.best["score"] == min(entry["score"] for entry in chosen.table)
    assert len(chosen.table) > 4
    for rows, values in chosen.held_out:
        assert len(rows) == len(values)


def test_scores_of_noise_promise_nothing():
    x, y = normal(200, 10, seed=5).numpy(), normal(200, 1, seed=6).numpy()[:, 0]
    machine = RFMRegressor(kernel="laplace", alpha=(1e-2, 1.0), power=1.0, max_iter=3, random_state=0).fit(x, y)
    # In units of the variance of y; leave-one-out falls to a half here.
    assert min(entry["score"] for entry in machine.selection_.table) > 0.9


def test_validation_scores_are_those_of_the_fitted_machine():
    x_val, y_val = X[:25] + 0.05, Y[:25] + 0.1
    machine = RFMRegressor(
        kernel="laplace", alpha=(1e-2, 1.0), power=1.0, max_iter=2, selection="validation", random_state=0
    ).fit(X, Y, X_val=x_val, y_val=y_val)
    error = np.mean((machine.predict(x_val) - y_val) ** 2) / Y.var()
    assert machine.selection_.best["score"] == pytest.approx(error)
    assert machine.selection_.method == "validation"


def test_leave_one_out_without_a_metric_equals_a_refit_for_every_row():
    machine = RFMRegressor(**CONSTANT, alpha=(1e-2, 1.0), max_iter=0, selection="loo").fit(X, Y)
    x = standardized(X)

    def score(alpha):
        residuals = []
        for i in range(60):
            rest = np.delete(np.arange(60), i)
            mean = Y[rest].mean()
            residuals.append(Y[i] - mean - predictions(x[rest], Y[rest] - mean, x[i : i + 1], alpha, 3.0, 0)[0])
        return np.mean(np.square(residuals)) / Y.var()

    scores = {alpha: score(alpha) for alpha in (1e-2, 1.0)}
    assert machine.alpha_ == min(scores, key=scores.get)
    assert machine.selection_.best["score"] == pytest.approx(scores[machine.alpha_])


def test_weights_count_in_scores_and_rows_of_weight_zero_are_in_no_split():
    weights = np.ones(60)
    weights[::3] = 0
    weights[1::3] = 5
    machine = RFMRegressor(**CONSTANT, alpha=1e-2, max_iter=0, random_state=0).fit(X, Y, sample_weight=weights)
    kept = np.flatnonzero(weights)
    mean = np.average(Y, weights=weights)
    scale = np.sqrt(np.mean((Y[kept] - mean) ** 2))
    errors = []
    for rows, values in machine.selection_.held_out:
        places = kept[rows.numpy()]
        errors.append(np.average(((Y[places] - mean) / scale - values[:, 0].numpy()) ** 2, weights=weights[places]))
    assert sum(len(rows) for rows, _ in machine.selection_.held_out) == 40
    assert machine.selection_.best["score"] == pytest.approx(np.mean(errors))


def test_rows_outside_the_metric_subsample_score_the_iterates():
    machine = RFMRegressor(kernel="laplace", alpha=1e-2, power=1.0, max_iter=3, metric_samples=40, random_state=0)
    machine.fit(X, Y)
    scores = [entry["score"] for entry in machine.history_]
    assert machine.n_iter_ == int(np.argmin(scores))
    assert machine.dual_coef_.shape == (60, 1)
    alone = RFMRegressor(
        kernel="laplace", alpha=1e-2, power=1.0, max_iter=3, metric_samples=60, selection=None, random_state=0
    ).fit(X, Y)
    assert np.isnan([entry["score"] for entry in alone.history_]).all()


def test_the_seed_draws_the_folds():
    def table(seed):
        machine = RFMRegressor(kernel="laplace", alpha=(1e-2, 1.0), power=1.0, max_iter=1, random_state=seed)
        return [entry["score"] for entry in machine.fit(X, Y).selection_.table]

    assert table(0) == table(0)
    assert table(0) != table(1)


def test_an_interrupt_ends_the_race(monkeypatch):
    calls = []

    def interrupting(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return solve(*args, **kwargs)

    from featlearn.machines import loop

    solve = loop.solve_ridge
    monkeypatch.setattr(loop, "solve_ridge", interrupting)
    machine = RFMRegressor(kernel="laplace", alpha=(1e-2, 1.0), power=1.0, max_iter=2)
    with pytest.raises(KeyboardInterrupt):
        machine.fit(X, Y)
    assert len(calls) == 4
    assert not hasattr(machine, "predictor_")


def test_progress_is_shown_on_request_and_counts_runs(capsys):
    machine = RFMRegressor(kernel="laplace", alpha=(1e-2, 1.0), power=1.0, max_iter=1, random_state=0)
    quiet = machine.fit(X, Y).predict(X)
    assert capsys.readouterr() == ("", "")
    shown = machine.set_params(verbose=1).fit(X, Y).predict(X)
    assert capsys.readouterr().out == ""
    np.testing.assert_array_equal(quiet, shown)


def test_a_single_member_of_a_class_is_held_out_of_one_fold():
    labels = np.repeat([0, 1, 2], [30, 29, 1])
    with pytest.warns(FeatlearnWarning, match="selection uses 2 folds"):
        machine = RFMClassifier(kernel="laplace", alpha=(1e-2, 1.0), power=1.0, max_iter=1).fit(X, labels)
    chances = machine.predict_proba(X)
    assert chances.shape == (60, 3)
    np.testing.assert_allclose(chances.sum(1), 1)
