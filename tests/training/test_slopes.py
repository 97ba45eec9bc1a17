"""The exponent of a power law and its interval, against scipy and against many draws of known exponent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from featlearn.training.slopes import Slope, judge, power_law_slope

SIZES = np.repeat([64, 128, 256, 512, 1024], 3)


def noisy(slope: float, seed: int, noise: float = 0.3) -> np.ndarray:
    return 2.0 * SIZES**slope * np.exp(noise * np.random.default_rng(seed).normal(size=len(SIZES)))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_slope_and_interval_are_those_of_a_linear_regression_of_logarithms(confidence):
    values = noisy(-0.5, 0)
    slope = power_law_slope(SIZES, values, confidence)
    line = stats.linregress(np.log(SIZES), np.log(values))
    half = stats.t.ppf(0.5 + confidence / 2, len(SIZES) - 2) * line.stderr
    np.testing.assert_allclose(
        [slope.value, slope.low, slope.high], [line.slope, line.slope - half, line.slope + half], rtol=1e-10
    )
    assert slope.n == len(SIZES)


def test_interval_covers_the_exponent_as_often_as_it_says():
    slopes = [power_law_slope(SIZES, noisy(-0.5, seed)) for seed in range(1000)]
    covered = np.mean([slope.low <= -0.5 <= slope.high for slope in slopes])
    assert 0.93 <= covered <= 0.97


@given(st.floats(-3, 3), st.floats(1e-6, 1e6), st.floats(0.1, 10))
def test_exact_power_laws_have_their_exponent_whatever_the_units(exponent, unit, stretch):
    slope = power_law_slope(stretch * SIZES, unit * (stretch * SIZES) ** exponent)
    np.testing.assert_allclose([slope.value, slope.low, slope.high], exponent, atol=1e-6)


@pytest.mark.parametrize("sizes", [[], [64], [64, 128], [64, 64, 128, 128]])
def test_fewer_than_three_sizes_have_no_slope_and_no_verdict(sizes):
    slope = power_law_slope(sizes, np.ones(len(sizes)))
    assert math.isnan(slope.value)
    assert judge(slope, 0.15) == "undecided"


def test_curvature_widens_the_interval():
    u = np.log(SIZES)
    straight, bent = np.exp(0.5 * u), np.exp(0.5 * u + 0.1 * (u - u.mean()) ** 2)
    widths = [slope.high - slope.low for slope in (power_law_slope(SIZES, straight), power_law_slope(SIZES, bent))]
    assert widths[0] < 1e-9
    assert widths[1] > 0.05


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.1, 0.1, "flat"),
        (-0.15, 0.15, "flat"),
        (0.1, 0.2, "undecided"),
        (-0.3, 0.3, "undecided"),
        (0.16, 0.3, "depends"),
        (-0.6, -0.4, "depends"),
    ],
)
def test_verdict_is_of_the_whole_interval(low, high, verdict):
    assert judge(Slope((low + high) / 2, low, high, 15), 0.15) == verdict
