"""A deep recursive feature machine collapses the classes of MNIST layer by layer, and the metric does it.

Within a layer the scatter falls by the square root of the AGOP and grows again by the random features. The collapse is
none of unseen images: test accuracy falls a little on the way.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featlearn.datasets import load_mnist
from featlearn.machines.deep_rfm import DeepRFMResult, deep_rfm

# From an independent implementation on another draw of 500 rows: the ratio of rows entering layers 1 to 6.
ONCE = [3.83, 0.51, 0.21, 0.092, 0.041, 0.018]


@pytest.fixture(scope="module", params=[0, 1])
def result(request: pytest.FixtureRequest, data_folder) -> DeepRFMResult:
    folder = data_folder / "mnist"
    train, test = load_mnist("train", folder=folder), load_mnist("test", n=1000, folder=folder)
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(request.param))[:500]
    return deep_rfm(
        train.images[rows].float(), train.labels[rows], X_test=test.images.float(), y_test=test.labels,
        random_state=request.param,
    )  # fmt: skip


def test_scatter_falls_by_half_or_more_in_every_layer(result: DeepRFMResult) -> None:
    entering = np.array([layer.nc1 for layer in result.layers])
    assert (entering[1:] < 0.6 * entering[:-1]).all()
    assert entering == pytest.approx(ONCE, rel=0.35)


def test_class_means_come_close_to_a_simplex(result: DeepRFMResult) -> None:
    assert result.layers[-1].nc2 < result.layers[0].nc2 / 10


def test_the_metric_collapses_and_random_features_do_not(result: DeepRFMResult) -> None:
    for layer in result.layers:
        assert layer.nc1_metric < 0.5 * layer.nc1
        assert 1.2 * layer.nc1_metric < layer.nc1_features < layer.nc1
    first = result.layers[0]
    assert (first.nc1_metric, first.nc1_features) == pytest.approx((0.38, 0.52), rel=0.25)


def test_collapse_is_not_generalisation(result: DeepRFMResult) -> None:
    assert 0.8 < result.layers[0].test_accuracy < 0.9
    assert result.layers[0].test_accuracy - 0.05 < result.layers[-1].test_accuracy < result.layers[0].test_accuracy
