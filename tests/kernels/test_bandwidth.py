"""The median rule for the bandwidth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import normal

from featlearn.exceptions import DataError
from featlearn.kernels import median_bandwidth


@pytest.mark.parametrize("p", [0.7, 1.0, 1.6, 2.0])
@pytest.mark.parametrize("n", [2, 5, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_median_over_pairs_of_different_rows(n: int, p: float, dtype: torch.dtype) -> None:
    x = normal(n, 3).to(dtype)
    pairs = [float((x[i] - x[j]).double().abs().pow(p).sum() ** (1 / p)) for i in range(n) for j in range(n) if i != j]
    assert median_bandwidth(x, p=p) == pytest.approx(np.median(pairs), rel=1e-5)


def test_multiple_scales_it_and_rows_restrict_it() -> None:
    x = normal(30, 3)
    rows = torch.tensor([3, 17, 4, 29])
    assert median_bandwidth(x, rows) == pytest.approx(median_bandwidth(x[rows]))
    assert median_bandwidth(x, rows) != median_bandwidth(x)
    assert median_bandwidth(x, multiple=4.0) == pytest.approx(4 * median_bandwidth(x))
    assert isinstance(median_bandwidth(x.float()), float)


def test_scaling_the_rows_scales_it_and_moving_them_does_not() -> None:
    x = normal(30, 3)
    assert median_bandwidth(2.5 * x + 7) == pytest.approx(2.5 * median_bandwidth(x))


def test_a_zero_median_gives_the_mean_of_the_positive_distances() -> None:
    mostly_equal = torch.zeros(12, 1)
    mostly_equal[11], mostly_equal[10] = 3.0, 1.0
    assert median_bandwidth(mostly_equal, multiple=2.0) == pytest.approx(2 * (10 * 1 + 10 * 3 + 2) / 21)


def test_equal_rows_one_row_and_nan_are_refused() -> None:
    with pytest.raises(DataError, match="Got 4 equal rows"):
        median_bandwidth(torch.ones(4, 2))
    with pytest.raises(DataError, match=r"expected \(n >= 2, d\)"):
        median_bandwidth(torch.ones(1, 2))
    with pytest.raises(DataError, match=r"expected \(n >= 2, d\)"):
        median_bandwidth(normal(9, 2), torch.tensor([4]))
    x = normal(9, 2)
    x[3, 1] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        median_bandwidth(x)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_multiples_and_orders_that_are_not_positive_are_refused(value: float) -> None:
    with pytest.raises(DataError, match="Got multiple="):
        median_bandwidth(normal(4, 2), multiple=value)
    with pytest.raises(DataError, match="Got p="):
        median_bandwidth(normal(4, 2), p=value)
