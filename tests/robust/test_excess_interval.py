"""The interval of an excess holds it however many groups there are, and is the paired one where there is one group."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from featlearn.robust.excess_interval import excess_interval


def answers(shares: Any, sizes: Any, rng: np.random.Generator, common: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Right answers of several models, of shape (models, n): a part of the rows is equally hard for all of them."""
    codes = np.repeat(np.arange(len(sizes)), sizes)
    own, shared = rng.random((len(shares), len(codes))), rng.random(len(codes))
    hard = np.where(rng.random(len(codes)) < common, shared, own)
    return hard < np.array(shares)[:, codes], codes


def test_one_group_and_one_control_give_the_paired_interval_of_two_proportions() -> None:
    """Newcombe's tenth method by hand, with exact bounds."""
    a, b, c, d = 50, 12, 4, 14  # right in both, in the first, in the second, in neither
    right = np.repeat([True, True, False, False], [a, b, c, d])
    control = np.repeat([True, False, True, False], [a, b, c, d])
    n, k, m = a + b + c + d, a + b, a + c
    own, other = (binomtest(hits, n).proportion_ci(0.95, method="exact") for hits in (k, m))
    phi = (a * d - b * c - n / 2) / math.sqrt(k * (n - k) * m * (n - m))
    below, above = k / n - own.low, own.high - k / n
    other_below, other_above = m / n - other.low, other.high - m / n
    expected = (
        (k - m) / n - math.sqrt(below**2 - 2 * phi * below * other_above + other_above**2),
        (k - m) / n + math.sqrt(above**2 - 2 * phi * above * other_below + other_below**2),
    )
    assert excess_interval(right, [control], np.zeros(n, dtype=int)) == pytest.approx(expected, abs=1e-12)


# A layer and two controls: all alike; one bad group of the layer, and of a control, beside groups that are alike.
CASES = {
    "alike": ([[0.9] * 4] * 3, [60, 20, 20, 60]),
    "layer's bad group": ([[0.6] + [0.95] * 3, [0.8] * 4, [0.7] * 4], [100] * 4),
    "control's bad group": ([[0.8] * 20, [0.8] + [0.97] * 19, [0.5] + [0.97] * 19], [60] * 20),
    "layer's bad group of many": ([[0.5] + [0.9] * 29, [0.9] * 30, [0.5] + [0.9] * 29], [30] * 30),
    "few rows": ([[0.95, 0.9], [0.9, 0.95], [0.9, 0.9]], [10, 5]),
}


@pytest.mark.parametrize("common", [0.0, 0.6], ids=["independent", "correlated"])
@pytest.mark.parametrize("case", CASES)
def test_it_holds_the_excess_as_often_as_it_says(case: str, common: float) -> None:
    shares, sizes = CASES[case]
    worst = [min(share) for share in shares]
    truth, rng, repeats = worst[0] - max(worst[1:]), np.random.default_rng(0), 100
    held = 0
    for _ in range(repeats):
        (right, *controls), codes = answers(shares, sizes, rng, common)
        low, high = excess_interval(right, controls, codes)
        observed = [min(row[codes == g].mean() for g in range(len(sizes))) for row in (right, *controls)]
        assert low <= observed[0] - max(observed[1:]) <= high
        held += low <= truth <= high
    assert held / repeats > 0.95 - 3 * math.sqrt(0.05 * 0.95 / repeats)


def test_pairing_pays_and_a_poor_control_does_not_widen_it() -> None:
    rng = np.random.default_rng(1)
    shares = [[0.9] * 4, [0.8] * 4, [0.3] * 4]
    (right, good, _), codes = answers(shares, [300] * 4, rng, common=0.8)
    alone = answers(shares, [300] * 4, rng)[0]
    paired, unpaired = excess_interval(right, [good], codes), excess_interval(alone[0], [alone[1]], codes)
    assert paired[1] - paired[0] < 0.85 * (unpaired[1] - unpaired[0])
    _, _, poor = answers(shares, [300] * 4, rng)[0]
    both = excess_interval(right, [good, poor], codes)
    assert both[0] == paired[0]
    assert both[1] == pytest.approx(paired[1], abs=0.01)  # half the risk


def test_order_of_rows_names_of_groups_and_groups_without_rows_change_nothing() -> None:
    rng = np.random.default_rng(2)
    (right, *controls), codes = answers([[0.9, 0.7, 0.8], [0.6, 0.8, 0.7], [0.7, 0.7, 0.7]], [40, 30, 20], rng)
    expected = excess_interval(right, controls, codes)
    order = rng.permutation(len(codes))
    assert excess_interval(right[order], [control[order] for control in controls], 10 - 3 * codes[order]) == expected


def test_right_answers_alone_are_not_certain() -> None:
    everything, codes = np.ones(6, dtype=bool), np.repeat([0, 1], 3)
    low, high = excess_interval(everything, [~everything], codes)
    assert low < 0.5
    assert high == 1.0
    low, high = excess_interval(everything, [everything], codes)
    assert low < -0.5
    assert high > 0.5
