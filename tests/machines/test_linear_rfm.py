from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.machines.linear_rfm import LinearRFM

EXACT = {"tol": 0.0, "validation_fraction": 0.0}


def low_rank(rows: int = 40, columns: int = 40, rank: int = 2, share: float = 0.3, seed: int = 0):
    """A matrix of unit mean square, and the same with gaps."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
    truth /= np.sqrt((truth**2).mean())
    return truth, np.where(rng.random(truth.shape) < share, truth, np.nan)


def by_definition(X, power, alpha, epsilon, decay, updates):
    """The formulas row by row; the matrix square root by eigenvalues."""
    seen = ~np.isnan(X)
    size = np.sqrt(np.mean(X[seen] ** 2))
    metric = np.eye(X.shape[1])
    for t in range(updates + 1):
        filled = np.zeros_like(X)
        for i, row in enumerate(X):
            own = np.flatnonzero(seen[i])
            system = metric[np.ix_(own, own)] + alpha * np.eye(len(own))
            filled[i] = metric[:, own] @ np.linalg.solve(system, row[own] / size)
        if t == updates:
            return np.where(seen, X, filled * size), filled.T @ filled / len(X) * size**2, metric
        values, vectors = np.linalg.eigh(
            filled.T @ filled / len(X) + max(epsilon * decay**t, 1e-9) * np.eye(len(metric))
        )
        values = np.maximum(values, 0) ** (2 * power)
        metric = (vectors * values / values.mean()) @ vectors.T
    raise AssertionError


@parametrize_with_checks(
    [
        LinearRFM(max_iter=30),
        LinearRFM(0.25, max_iter=10, validation_fraction=0.0),
        LinearRFM(0.3, alpha=0.1, epsilon=0.1, decay=0.5, validation_fraction=0.2, random_state=1),
    ]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("power", [0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("updates", [0, 1, 4])
def test_updates_follow_the_formulas(power, updates):
    _, X = low_rank(12, 9, share=0.5, seed=3)
    machine = LinearRFM(power, alpha=1e-3, epsilon=0.7, decay=0.8, max_iter=updates, **EXACT).fit(3 * X)
    completed, gram, metric = by_definition(3 * X, power, 1e-3, 0.7, 0.8, updates)
    np.testing.assert_allclose(machine.completed_, completed, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(machine.gram_, gram, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(machine.metric_, metric, rtol=1e-8, atol=1e-10)
    assert machine.n_iter_ == updates
    assert machine.stop_reason_ == "max_iter"


def test_golden_numbers():
    truth, X = low_rank()
    gaps = np.isnan(X)
    assert (~gaps).sum() == 469

    def error(**options):
        machine = LinearRFM(**options, **EXACT).fit(X)
        return np.mean((machine.completed_ - truth)[gaps] ** 2), machine

    found, machine = error(power=0.5)
    assert found < 1e-16
    assert machine.rank_ == 2
    assert error(power=1e-9, max_iter=3)[0] == pytest.approx(0.99, abs=5e-3)
    nuclear, machine = error(power=0.25, max_iter=1500)
    assert nuclear == pytest.approx(1.6e-3, abs=5e-5)
    assert np.linalg.norm(machine.completed_, "nuc") == pytest.approx(56.073, abs=5e-4)


def test_defaults_recover_and_stop_by_themselves():
    truth, X = low_rank(50, 30, rank=3, share=0.5, seed=1)
    machine = LinearRFM(random_state=0).fit(X)
    assert machine.rank_ == 3
    assert machine.stop_reason_ in ("tolerance", "validation")
    assert machine.n_iter_ < 400
    np.testing.assert_allclose(machine.completed_, truth, atol=1e-3)
    errors = [entry["validation_error"] for entry in machine.history_]
    assert errors[0] > 0.5
    assert machine.n_iter_ <= np.argmin(errors)
    assert [entry["iteration"] for entry in machine.history_] == list(range(len(errors)))


def test_held_out_entries_stop_before_noise_is_fitted():
    truth, X = low_rank()
    gaps = np.isnan(X)
    noisy = X + 0.3 * np.random.default_rng(1).normal(size=X.shape)
    chosen, last = (LinearRFM(validation_fraction=share, random_state=0).fit(noisy) for share in (0.05, 0.0))
    assert chosen.stop_reason_ == "validation"
    assert chosen.n_iter_ < last.n_iter_
    assert chosen.n_iter_ == np.argmin([entry["validation_error"] for entry in chosen.history_])
    errors = [np.mean((machine.completed_ - truth)[gaps] ** 2) for machine in (chosen, last)]
    assert errors[0] < 0.6 * errors[1]


def test_the_validation_error_is_that_of_entries_the_run_does_not_see():
    _, X = low_rank(12, 9, share=0.6, seed=5)
    machine = LinearRFM(max_iter=5, tol=0.0, validation_fraction=0.1, random_state=4)
    reference = machine.fit(X)
    held = machine._held_out(torch.from_numpy(~np.isnan(X))).numpy()
    assert held.sum() == int(0.1 * (~np.isnan(X)).sum())
    assert not np.isnan(X[held]).any()
    rows, size = np.where(held, np.nan, X), np.sqrt(np.nanmean(X**2))
    for t in (0, 3):
        # `by_definition` divides by the mean square of what it is given, which lacks the held-out entries.
        epsilon = size**2 / np.nanmean(rows**2)
        completed, _, _ = by_definition(rows, 0.5, 1e-9, epsilon, 0.95, t)
        expected = np.mean((completed - X)[held] ** 2)
        assert reference.history_[t]["validation_error"] == pytest.approx(expected, rel=1e-6)


def test_random_state_draws_the_held_out_entries():
    _, X = low_rank(share=0.5)
    errors = [LinearRFM(max_iter=2, random_state=seed).fit(X).history_[0]["validation_error"] for seed in (0, 0, 1)]
    assert errors[0] == errors[1] != errors[2]
    from_state = [LinearRFM(max_iter=2, random_state=np.random.RandomState(3)).fit(X).history_ for _ in range(2)]
    assert from_state[0][0]["validation_error"] == from_state[1][0]["validation_error"]


@settings(max_examples=15)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_units_and_orders_do_not_matter(scale, seed):
    _, X = low_rank(10, 8, share=0.6, seed=7)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(10), rng.permutation(8)
    machine = LinearRFM(max_iter=20, alpha=1e-6, **EXACT)
    plain, moved = machine.fit_transform(X), clone(machine).fit_transform(scale * X[rows][:, columns])
    np.testing.assert_allclose(moved, scale * plain[rows][:, columns], rtol=1e-6, atol=1e-8 * scale)


def test_transform_completes_other_rows_with_the_learned_metric():
    truth, X = low_rank(80, 20, share=0.5, seed=2)
    machine = LinearRFM(random_state=0).fit(X[:60])
    np.testing.assert_allclose(machine.transform(X[:60]), machine.completed_, rtol=1e-9, atol=1e-12)
    enough = (~np.isnan(X[60:])).sum(axis=1) >= 5
    np.testing.assert_allclose(machine.transform(X[60:])[enough], truth[60:][enough], atol=1e-3)


def test_many_rows_are_solved_in_several_batches(monkeypatch):
    _, X = low_rank(40, 12, share=0.5, seed=8)
    whole = LinearRFM(max_iter=5, **EXACT).fit(X).completed_
    monkeypatch.setattr("featlearn.machines.linear_rfm.NUMBERS", 100)
    np.testing.assert_allclose(LinearRFM(max_iter=5, **EXACT).fit(X).completed_, whole, rtol=1e-10)


def test_complete_matrices_come_back_and_teach_the_metric():
    truth, X = low_rank(30, 10, share=0.5)
    machine = LinearRFM().fit(truth)
    assert machine.stop_reason_ == "complete"
    assert machine.history_ == []
    np.testing.assert_array_equal(machine.completed_, truth)
    np.testing.assert_allclose(machine.gram_, truth.T @ truth / 30)
    enough = (~np.isnan(X)).sum(axis=1) >= 3
    np.testing.assert_allclose(machine.transform(X)[enough], truth[enough], atol=1e-4)


def test_rows_and_columns_without_entries_become_zero_with_a_warning():
    _, X = low_rank(12, 9, share=0.6)
    X[3], X[:, 5] = np.nan, np.nan
    with pytest.warns(FeatlearnWarning) as caught:
        completed = LinearRFM(max_iter=20, random_state=0).fit_transform(X)
    assert [str(each.message)[:36] for each in caught] == [
        "Got 1 rows of X without any observed",
        "Got 1 columns of X without any obser",
    ]
    assert not completed[3].any()
    assert not completed[:, 5].any()
    assert np.isfinite(completed).all()
    # An empty row says nothing about the others.
    with pytest.warns(FeatlearnWarning, match="columns"):
        others = LinearRFM(max_iter=20, **EXACT).fit(np.delete(X, 3, axis=0)).completed_
    with pytest.warns(FeatlearnWarning):
        together = LinearRFM(max_iter=20, **EXACT).fit(X)
    assert np.abs(np.delete(together.completed_, 3, axis=0) - others).max() < 0.1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_answer_has_the_kind_of_the_data(dtype):
    _, X = low_rank(10, 6, share=0.6)
    X = X.astype(dtype)
    machine = LinearRFM(max_iter=10, random_state=0)
    array = machine.fit_transform(X)
    assert array.dtype == machine.gram_.dtype == dtype
    frame = pd.DataFrame(X, columns=list("abcdef"), index=range(5, 15))
    completed = clone(machine).fit_transform(frame)
    pd.testing.assert_frame_equal(completed, pd.DataFrame(array, columns=frame.columns, index=frame.index))
    tensor = clone(machine).fit(torch.from_numpy(X))
    assert tensor.gram_.dtype == tensor.completed_.dtype == torch.from_numpy(X).dtype
    np.testing.assert_array_equal(tensor.completed_.numpy(), array)
    assert list(clone(machine).fit(frame).get_feature_names_out()) == list("abcdef")


def test_pickled_machines_transform_alike():
    _, X = low_rank(10, 6, share=0.6)
    machine = LinearRFM(max_iter=5, random_state=0).fit(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(machine)).transform(X), machine.transform(X))


def test_verbose_shows_progress(capsys):
    _, X = low_rank(10, 6, share=0.6)
    LinearRFM(max_iter=5, verbose=1).fit(X)
    assert "Completing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": 0}, "power=0, but expected a positive finite number"),
        ({"alpha": -1.0}, r"alpha=-1\.0, but expected a finite number of at least 0"),
        ({"epsilon": np.inf}, "epsilon=inf, but expected a positive"),
        ({"decay": 1.5}, r"decay=1\.5, but expected at most 1"),
        ({"tol": None}, "tol=None, but expected a finite number"),
        ({"max_iter": -1}, "max_iter=-1, but expected a whole number"),
        ({"validation_fraction": 1.0}, r"validation_fraction=1\.0, but expected"),
    ],
)
def test_bad_parameters_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        LinearRFM(**options).fit(low_rank()[1])


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor])
def test_bad_matrices_are_refused(convert):
    with pytest.raises(ValueError, match="infin"):
        LinearRFM().fit(convert([[1.0, np.inf], [1.0, 2.0]]))
    with pytest.raises(DataError, match="NaN in every entry"):
        LinearRFM().fit(convert([[np.nan] * 3] * 2))
    machine = LinearRFM().fit(convert([[1.0, 2.0], [2.0, 4.0]]))
    with pytest.raises(ValueError, match="features"):
        machine.transform(convert([[1.0, 2.0, 3.0]]))


def test_a_metric_that_cannot_be_solved_with_names_alpha():
    _, X = low_rank(30, 12, share=0.8)
    with pytest.raises(DataError, match="alpha=0, with which the metric of"):
        LinearRFM(2.0, alpha=0.0, **EXACT).fit(X)
