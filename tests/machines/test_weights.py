"""Weights are checked once, and mean what repeated rows mean."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from cases import normal

from featlearn.exceptions import DataError
from featlearn.machines.weights import as_weights, weighted_mean


def test_weights_become_float64_and_none_stays_none() -> None:
    assert as_weights(None, 3) is None
    for given in (
        [1, 0, 2],
        np.array([1.0, 0.0, 2.0], dtype=np.float32),
        torch.tensor([1, 0, 2]),
        pd.Series([1, 0, 2]),
    ):
        weights = as_weights(given, 3)
        assert weights is not None
        assert weights.dtype == torch.float64
        assert weights.tolist() == [1.0, 0.0, 2.0]
    constant = as_weights(2.5, 2)
    assert constant is not None
    assert constant.tolist() == [2.5, 2.5]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, -0.5, 1.0], "negative sample_weight \\(-0.5\\)"),
        ([0.0, 0.0, 0.0], "zero in every row"),
        ([1.0, np.nan, 1.0], "NaN or infinite"),
        ([1.0, np.inf, 1.0], "NaN or infinite"),
        ([1.0, 1.0], "shape \\(2,\\), but expected \\(3,\\)"),
        ([[1.0], [1.0], [1.0]], "shape \\(3, 1\\)"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_weights(weights, 3)


def test_weighted_mean_is_that_of_repeated_rows() -> None:
    values, repeats = normal(5, 3), torch.tensor([1, 0, 3, 2, 1])
    expected = values.repeat_interleave(repeats, dim=0).mean(dim=0)
    torch.testing.assert_close(weighted_mean(values, repeats.double()), expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(weighted_mean(values, None), values.mean(dim=0))
