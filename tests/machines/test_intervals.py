"""Order statistics of residuals against sorting by hand, and coverage of new targets against the level asked for."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from cases import normal
from hypothesis import given
from hypothesis import strategies as st

from featlearn.exceptions import DataError
from featlearn.machines.intervals import (
    adaptive_scale,
    conformal_rank,
    cv_plus_interval,
    residual_quantile,
    split_interval,
)

LEVELS = (0.5, 0.8, 0.9, 0.95)


@given(n=st.integers(1, 2000), percent=st.integers(1, 99))
def test_the_rank_is_that_of_exact_fractions(n: int, percent: int) -> None:
    exact = math.ceil(Fraction(percent, 100) * (n + 1))
    assert conformal_rank(n, percent / 100) == exact


def test_half_widths_are_order_statistics() -> None:
    residuals = torch.tensor([[3.0, -1.0], [-2.0, 0.5], [1.0, 4.0], [-5.0, 2.0]])
    # ceil(0.5 * 5) = 3, ceil(0.8 * 5) = 4, ceil(0.81 * 5) = 5 > 4.
    assert residual_quantile(residuals, 0.5).tolist() == [3.0, 2.0]
    assert residual_quantile(residuals, 0.8).tolist() == [5.0, 4.0]
    assert residual_quantile(residuals, 0.81).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("n", [9, 10, 19, 200])
@pytest.mark.parametrize("level", LEVELS)
def test_split_intervals_equal_sorting_by_hand(n: int, level: float) -> None:
    predictions, residuals = normal(6, 2, seed=1), normal(n, 2, seed=2)
    scale, residual_scale = normal(6, seed=3).exp(), normal(n, seed=4).exp()
    got = split_interval(predictions, residuals, level, scale=scale, residual_scale=residual_scale)
    rank = math.ceil(Fraction(str(level)) * (n + 1))
    for j in range(6):
        for c in range(2):
            ratios = sorted(abs(float(residuals[i, c])) / float(residual_scale[i]) for i in range(n))
            half = float(scale[j]) * (ratios[rank - 1] if rank <= n else math.inf)
            middle = float(predictions[j, c])
            np.testing.assert_allclose(got[j, c].tolist(), [middle - half, middle + half], rtol=1e-12)


@pytest.mark.parametrize("n", [9, 10, 23, 57])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scaled", [False, True])
def test_cv_plus_intervals_equal_their_definition(n: int, level: float, scaled: bool) -> None:
    fold_predictions, residuals, folds = normal(5, 4, 2, seed=1), normal(n, 2, seed=2), torch.arange(n) % 5
    scales = {"scale": normal(4, seed=3).exp(), "residual_scale": normal(n, seed=4).exp()} if scaled else {}
    got = cv_plus_interval(fold_predictions, folds, residuals, level, **scales)
    a = 1 - Fraction(str(level))
    low, high = math.floor(a * (n + 1)), math.ceil((1 - a) * (n + 1))
    for j in range(4):
        for c in range(2):
            reach = [
                abs(float(residuals[i, c])) * (float(scales["scale"][j] / scales["residual_scale"][i]) if scaled else 1)
                for i in range(n)
            ]
            middle = [float(fold_predictions[folds[i], j, c]) for i in range(n)]
            lower = sorted(m - r for m, r in zip(middle, reach, strict=True))
            upper = sorted(m + r for m, r in zip(middle, reach, strict=True))
            expected = [lower[low - 1] if low else -math.inf, upper[high - 1] if high <= n else math.inf]
            np.testing.assert_allclose(got[j, c].tolist(), expected, rtol=1e-12)


def test_cv_plus_with_equal_fold_models_is_split() -> None:
    predictions, residuals = normal(7, 3, seed=1), normal(40, 3, seed=2)
    split = split_interval(predictions, residuals, 0.9)
    cv_plus = cv_plus_interval(predictions.expand(4, -1, -1), torch.arange(40) % 4, residuals, 0.9)
    torch.testing.assert_close(cv_plus, split, rtol=1e-14, atol=1e-14)


def test_cv_plus_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = normal(3, 11, 2, seed=1), torch.arange(20) % 3, normal(20, 2, seed=2), 0.8
    whole = cv_plus_interval(*arguments)
    monkeypatch.setattr("featlearn.machines.intervals.CHUNK_NUMBERS", 100)
    assert torch.equal(cv_plus_interval(*arguments), whole)


def coverage(interval: torch.Tensor, truth: torch.Tensor) -> float:
    return float(((interval[..., 0] <= truth) & (truth <= interval[..., 1])).double().mean())


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_split_covers_as_often_as_asked(level: float) -> None:
    """Heavy tails and a model that is wrong: over data sets the coverage is rank/(n + 1), to 3 standard errors."""
    rng, n, covered = np.random.default_rng(0), 49, []
    for _ in range(400):
        noise = torch.from_numpy(rng.standard_t(2, size=(n + 200, 1)))
        x = torch.from_numpy(rng.normal(size=(n + 200, 1)))
        y, predictions = x**2 + noise, x  # the model misses the shape altogether
        interval = split_interval(predictions[n:], (y - predictions)[:n], level)
        covered.append(coverage(interval, y[n:]))
    expected = conformal_rank(n, level) / (n + 1)
    error = np.std(covered) / np.sqrt(len(covered))
    assert expected >= level
    assert abs(np.mean(covered) - expected) < 3 * error


def test_cv_plus_covers_about_as_often_as_asked() -> None:
    """Ridge with more columns than rows differs across folds, the hard case; 0.9 is met to 3 standard errors."""
    rng, n, d, covered = np.random.default_rng(0), 40, 60, []
    folds = torch.arange(n) % 5
    for _ in range(200):
        x = torch.from_numpy(rng.normal(size=(n + 100, d)))
        y = x[:, :1] + torch.from_numpy(rng.normal(size=(n + 100, 1)))
        predictions = torch.stack(
            [
                x @ x[:n][folds != k].mT @ torch.linalg.solve(gram(x[:n][folds != k]), y[:n][folds != k])
                for k in range(5)
            ]
        )
        residuals = y[:n] - predictions[folds, torch.arange(n)]
        covered.append(coverage(cv_plus_interval(predictions[:, n:], folds, residuals, 0.9), y[n:]))
    error = np.std(covered) / np.sqrt(len(covered))
    assert np.mean(covered) > 0.9 - 3 * error
    assert np.mean(covered) < 0.97  # not by intervals that are far too wide


def gram(x: torch.Tensor) -> torch.Tensor:
    return x @ x.mT + torch.eye(len(x), dtype=x.dtype)


def test_scales_make_coverage_even_where_noise_is_not() -> None:
    rng = np.random.default_rng(1)
    uncertain = torch.from_numpy(rng.uniform(0.1, 3.0, size=20_000))
    noise = torch.from_numpy(rng.normal(size=(20_000, 1))) * uncertain[:, None]
    constant = split_interval(torch.zeros(10_000, 1).double(), noise[:10_000], 0.9)
    scaled = split_interval(
        torch.zeros(10_000, 1).double(),
        noise[:10_000],
        0.9,
        scale=uncertain[10_000:],
        residual_scale=uncertain[:10_000],
    )
    noisy = uncertain[10_000:] > 2
    assert abs(coverage(scaled[noisy], noise[10_000:][noisy]) - 0.9) < 0.02
    assert coverage(constant[noisy], noise[10_000:][noisy]) < 0.8


def test_the_adaptive_scale_is_its_formula() -> None:
    variance = torch.tensor([0.0, 0.21, -1e-9, 1.0]).double()
    torch.testing.assert_close(adaptive_scale(variance, 0.04), torch.tensor([0.2, 0.5, 0.2, 1.04**0.5]).double())
    with pytest.raises(DataError, match="median variance of 0"):
        adaptive_scale(variance, 0.0)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 90, math.nan])
def test_levels_outside_0_and_1_are_refused(level: float) -> None:
    with pytest.raises(DataError, match="expected a number between 0 and 1"):
        split_interval(normal(2, 1), normal(5, 1), level)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": normal(3)}, "expected \\(m, C\\) and \\(n, C\\)"),
        ({"residuals": normal(5, 3)}, "expected \\(m, C\\) and \\(n, C\\)"),
        ({"residuals": torch.full((5, 2), math.nan)}, "not finite"),
        ({"residuals": torch.zeros(0, 2)}, "Got no residuals"),
        ({"scale": torch.ones(3)}, "both or neither"),
        ({"scale": torch.ones(3), "residual_scale": torch.zeros(5)}, "residual_scale of shape"),
        ({"scale": torch.ones(2), "residual_scale": torch.ones(5)}, "Got scale of shape"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, torch.Tensor], message: str) -> None:
    arguments = {"predictions": normal(3, 2), "residuals": normal(5, 2), "level": 0.5} | change
    with pytest.raises(DataError, match=message):
        split_interval(**arguments)


def test_folds_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="a number from 0 to 2"):
        cv_plus_interval(normal(3, 4, 1), torch.tensor([0, 1, 2, 3]), normal(4, 1), 0.5)
    with pytest.raises(DataError, match="at least two folds"):
        cv_plus_interval(normal(1, 4, 1), torch.zeros(4, dtype=torch.int64), normal(4, 1), 0.5)
