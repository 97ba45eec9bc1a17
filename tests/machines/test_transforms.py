"""Curves: their values on training rows by ranks and quantiles of others, and what they do beyond."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm, rankdata
from sklearn.preprocessing import QuantileTransformer, RobustScaler

from featlearn.machines.transforms import Curves, Sample, curves_from_dict, fit_curves

CURVES = ("robust", "quantile", "uniform")


def fitted(transform: str, x: np.ndarray, weights: np.ndarray | None = None) -> Curves:
    return fit_curves(transform, [Sample.of(column, weights) for column in x.T])


def skewed(n: int, q: int = 3, seed: int = 0) -> np.ndarray:
    return np.exp(2 * np.random.default_rng(seed).normal(size=(n, q)))


@given(
    values=arrays(np.float64, st.integers(1, 30), elements=st.integers(-5, 5).map(float)),
    level=st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]),
)
def test_quantiles_are_those_of_numpy(values: np.ndarray, level: float) -> None:
    expected = np.quantile(values, level, method="averaged_inverted_cdf")
    assert Sample.of(values).quantile(level) == pytest.approx(expected, abs=1e-12)
    assert Sample.of(values).quantile(0.5) == pytest.approx(np.median(values), abs=1e-12)


@given(
    values=arrays(np.float64, 12, elements=st.integers(-5, 5).map(float)),
    repeats=arrays(np.int64, 12, elements=st.integers(0, 3)).filter(lambda r: r.any()),
    unit=st.sampled_from([1.0, 0.1, 1 / 3, 1e6]),
)
def test_weighted_quantiles_are_those_of_repeated_values(values: np.ndarray, repeats: np.ndarray, unit: float) -> None:
    weighted, repeated = Sample.of(values, repeats * unit), Sample.of(values.repeat(repeats))
    np.testing.assert_array_equal(weighted.values, repeated.values)
    np.testing.assert_allclose(weighted.ranks(), repeated.ranks(), rtol=1e-12)
    for level in (0.1, 0.25, 0.5, 0.75):
        assert weighted.quantile(level) == pytest.approx(repeated.quantile(level), abs=1e-12)


def test_robust_curves_clip_what_robust_scaler_gives() -> None:
    x = skewed(201)  # 201 = 4 * 50 + 1: every definition of quartiles agrees
    scaled = RobustScaler().fit_transform(x)
    np.testing.assert_allclose(fitted("robust", x)(x), scaled / np.sqrt(1 + (scaled / 3) ** 2), rtol=1e-12, atol=1e-14)


def test_robust_curves_survive_a_column_that_is_mostly_one_value() -> None:
    x = np.array([0.0] * 9 + [5.0])[:, None]
    # The quartiles meet; the mean distance from the median is 0.5.
    y = fitted("robust", x)(x)[:, 0]
    assert y[0] == 0
    assert y[-1] == pytest.approx(10 / np.sqrt(1 + (10 / 3) ** 2))


def test_ranks_are_those_of_scipy_with_ties_in_their_middle() -> None:
    x = np.stack([skewed(500, 1)[:, 0], np.random.default_rng(1).integers(0, 7, 500)], axis=1).astype(float)
    ranks = (rankdata(x, axis=0) - 0.5) / 500
    np.testing.assert_allclose(fitted("uniform", x)(x), ranks, rtol=1e-12)
    np.testing.assert_allclose(fitted("quantile", x)(x), norm.ppf(ranks), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [300, 5000])
def test_scores_are_close_to_those_of_quantile_transformer(n: int) -> None:
    x, between = skewed(n), skewed(2000, seed=1)
    theirs = QuantileTransformer(n_quantiles=n, subsample=None).fit(x).transform(between)
    knots = min(n, 1000)
    np.testing.assert_allclose(fitted("uniform", x)(between), theirs, rtol=0, atol=1.5 / knots)


def test_at_most_a_thousand_knots_are_kept() -> None:
    plain = fitted("quantile", skewed(20_000, 2)).to_dict()
    assert [len(knots) for knots in plain["knots"]] == [1000, 1000]


def test_a_spike_among_many_values_keeps_its_rank() -> None:
    x = np.where(np.arange(5000) < 3000, 0.0, skewed(5000, 1)[:, 0] + 1)[:, None]
    y = fitted("uniform", x)(np.array([[0.0]]))
    assert y[0, 0] == pytest.approx(0.3)


@pytest.mark.parametrize("transform", CURVES)
@pytest.mark.parametrize("n", [5, 50, 3000])
def test_curves_rise_and_stay_bounded_far_beyond_the_data(transform: str, n: int) -> None:
    x = np.random.default_rng(0).standard_t(3, size=(n, 1))
    curves = fitted(transform, x)
    low, high = x.min(), x.max()
    points = np.concatenate(
        [low - np.geomspace(1e3, 1e-3, 50), np.linspace(low, high, 500), high + np.geomspace(1e-3, 1e3, 50)]
    )
    y = curves(points[:, None])[:, 0]
    assert (np.diff(y) > 0).all()
    ends = curves(np.array([[-1e308], [low], [high], [1e308]]))[:, 0]
    if transform == "robust":
        np.testing.assert_allclose(ends[[0, 3]], [-3, 3])
    elif transform == "quantile":
        np.testing.assert_allclose(ends[[0, 3]], ends[[1, 2]] + [-1, 1])
    else:
        np.testing.assert_allclose(ends[[0, 3]], [0, 1], atol=1e-12)


@given(power=st.sampled_from([1 / 3, 0.5, 2.0, 3.0]))
def test_ranks_do_not_see_monotone_changes_of_a_column(power: float) -> None:
    x = skewed(200, 2)
    for transform in ("quantile", "uniform"):
        np.testing.assert_allclose(
            fitted(transform, x**power)(x**power), fitted(transform, x)(x), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("transform", CURVES)
def test_plain_values_keep_every_bit(transform: str) -> None:
    x = skewed(2000)
    curves = fitted(transform, x)
    np.testing.assert_array_equal(curves_from_dict(curves.to_dict())(x), curves(x))
