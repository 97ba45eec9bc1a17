"""What a user does not see of ``DFRClassifier`` while it works: states, workers, memory, ties, kinds of numbers."""

from __future__ import annotations

import tracemalloc

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit

from featlearn._arrays import plain
from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.robust.balanced_fits import BalancedFits, Rows
from featlearn.robust.dfr import DFRClassifier
from featlearn.robust.logistic import LinearFit, PenalisedLogistic


def rows(n=40, width=6, classes=2, seed=0):
    """``n`` rows of every group (y, s)."""
    rng = np.random.default_rng(seed)
    y, s = np.repeat(np.arange(classes), 2 * n), np.tile(np.repeat([0, 1], n), classes)
    Z = rng.normal(size=(len(y), width))
    Z[np.arange(len(y)), y] += 1.5
    Z[:, -1] += 2.0 * s
    return Z, y, s


def head(**options):
    return DFRClassifier(**({"C": 0.3, "n_refits": 2, "random_state": 0} | options))


# --- the optimum ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", ["subsample", "reweight"])
def test_every_class_against_the_rest_is_optimal_with_a_penalised_intercept(balance):
    """Classes of equal size, of which a sample is every row; or of 30 to 60 rows, weighted."""
    Z, y, _ = rows(classes=4, width=12)
    if balance == "reweight":
        kept = np.concatenate([np.flatnonzero(y == k)[: 30 + 10 * k] for k in range(4)])
        Z, y = Z[kept], y[kept]
    fitted = head(n_refits=1, balance=balance, tol=1e-9, max_iter=10_000).fit(Z, y)
    columns = np.column_stack([(Z - Z.mean(axis=0)) / Z.std(axis=0), np.ones(len(Z))])
    share = 1 / (4 * np.bincount(y)[y] / len(y))
    for k in range(4):
        w = np.append(fitted.coef_[k], fitted.intercept_[k])
        slope = 0.3 * columns.T @ (share * (expit(columns @ w) - (y == k)))
        assert (w[:-1] == 0).any()
        assert w[-1] < 0  # one class against three
        assert np.abs(slope[w == 0]).max() <= 1 + 1e-3
        np.testing.assert_allclose(slope[w != 0], -np.sign(w[w != 0]), atol=1e-3)


def test_equal_scores_are_equal_whatever_their_mean_rounds_to(monkeypatch):
    """Of (0.6, 0.7, 0.8) and (0.7, 0.5, 0.9), the means of which differ in the last bit."""
    scores = {1.0: (0.6, 0.7, 0.8), 0.1: (0.7, 0.5, 0.9)}
    assert sum(scores[1.0]) / 3 < sum(scores[0.1]) / 3
    found = [{"C": C, "split": k, "worst_group_accuracy": each[k]} for C, each in scores.items() for k in range(3)]
    monkeypatch.setattr(BalancedFits, "tune", lambda *_: (found, 80.0))
    Z, y, s = rows()
    assert head(C="tune", C_grid=(1.0, 0.1), tune_splits=3).fit(Z, y, (y, s)).best_C_ == 1.0


# --- workers and memory -----------------------------------------------------------------------------------------------


def test_threads_do_not_change_what_liblinear_draws():
    Z, y, s = rows(n=200, width=60)
    alone = head(C=1.0, n_refits=8).fit(Z, y, (y, s))
    with joblib.parallel_config(backend="threading"):  # also what a search with processes of its own leaves to its fits
        together = head(C=1.0, n_refits=8, n_jobs=4).fit(Z, y, (y, s))
    np.testing.assert_array_equal(alone.coefs_, together.coefs_)


def test_samples_are_not_all_in_memory_at_once(monkeypatch):
    Z, y, s = rows(n=500, width=50)
    monkeypatch.setattr(PenalisedLogistic, "fit", lambda *_: LinearFit(np.zeros((1, 50)), np.zeros(1), 1, True))
    fits = BalancedFits(PenalisedLogistic(2, 1.0, 10, 1e-4), "subsample", None, None, 0)
    tracemalloc.start()
    try:
        fits.refit(Rows(Z, y, 2 * y + s), 1.0, range(20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * Z.nbytes


# --- a fit that is refused --------------------------------------------------------------------------------------------


def refuse(fitted, Z, y, groups, message, **options):
    before = dict(vars(fitted))
    with pytest.raises(ValueError, match=message):
        fitted.fit(Z, y, groups, **options)
    assert vars(fitted) == before


def test_a_refused_fit_changes_no_attribute():
    Z, y, s = rows()
    frame = pd.DataFrame(Z, columns=list("abcdef"))
    fitted = head().fit(frame, y, (y, s))
    refuse(fitted, Z[:, :3], y, (y, (y == 0) * s), "no rows in y=1, s=1")
    refuse(fitted, np.where(Z > 2, np.nan, Z), y, (y, s), "NaN")
    refuse(fitted, Z * 1e200, y, (y, s), r"Got features up to \d.*e\+200, the squares of which overflow")
    assert fitted.predict(frame).shape == (len(y),)
    fitted.fit(Z[:, :3], y, (y, s))
    assert fitted.n_features_in_ == 3
    assert not hasattr(fitted, "feature_names_in_")


@pytest.mark.parametrize("options", [{"C_grid": 0.1}, {"C_grid": None}, {"C": np.array([0.1, 1.0])}], ids=repr)
def test_parameters_of_another_kind(options):
    Z, y, s = rows()
    with pytest.raises(DataError, match=rf"Got {next(iter(options))}=.* but expected .*positive"):
        head(**options).fit(Z, y, (y, s))


def test_rows_of_a_report_must_be_in_one_order():
    Z, y, s = rows()
    fitted = head().fit(Z, y, (y, s))
    with pytest.raises(DataError, match="Got Z and y with the same index in different orders"):
        fitted.report(pd.DataFrame(Z), pd.Series(y)[::-1], (y, s))


def test_groups_without_rows_to_tune_on_are_named():
    Z, y, s = rows()
    kept = (y == 0) | (s == 0)
    groups = (y[kept], s[kept])
    with pytest.warns(FeatlearnWarning, match="No rows to tune on in y=1, s=1: C is chosen by the worst of the other"):
        head(C="tune").fit(Z, y, (y, s), Z_tune=Z[kept], y_tune=y[kept], groups_tune=groups)


# --- kinds of numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_real_numbers_come_in_the_precision_of_the_features(dtype, classes):
    Z, y, s = rows(classes=classes)
    fitted = head().fit(Z, 1000.0 + y, (y, s))
    given = torch.from_numpy(Z).to(dtype)
    exact = plain(given)
    for method in ("decision_function", "predict_proba"):
        found = getattr(fitted, method)(given)
        assert found.dtype == dtype
        assert torch.equal(found, torch.from_numpy(getattr(fitted, method)(exact)).to(dtype))
    # Labels are no measurements: 1001 is none of bfloat16.
    np.testing.assert_array_equal(fitted.predict(given).numpy(), fitted.predict(exact))
    assert set(fitted.predict(given).tolist()) == {1000.0 + k for k in range(classes)}


def test_arrays_in_single_precision_and_labels_of_another_byte_order():
    Z, y, s = rows()
    fitted = head().fit(Z, y.astype(">i8"), (y, s))
    assert fitted.decision_function(Z.astype(np.float32)).dtype == np.float32
    assert fitted.decision_function(Z.tolist()).dtype == np.float64
    np.testing.assert_array_equal(fitted.predict(torch.from_numpy(Z)).numpy(), fitted.predict(Z))
