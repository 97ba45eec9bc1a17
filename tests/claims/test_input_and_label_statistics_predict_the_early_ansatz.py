"""Inputs and labels alone tell where the centred ansatz of a wide network starts.

One closed form, twenty data sets and two activations, against gradient descent of networks of 4096 hidden units of
which the outputs at the start are subtracted: the values, and the order in which the data sets come. Derived for this
library.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from featlearn import FeatureTracker, early_alignment

SAMPLES, INPUTS, WIDTH = 200, 16, 4096
DECAYS = (0.0, 0.5, 1.0, 1.5)  # the standard deviation of input j is j ** -decay


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(white: Tensor) -> dict[str, Tensor]:
    """One function of the inputs each; two for the last."""
    found = {
        "linear": white[:, :1],
        "linear in the least": white[:, -1:],
        "product": white[:, :1] * white[:, 1:2],
        "size": white.abs().mean(1, keepdim=True),
        "two functions": torch.stack([white[:, 0] * white[:, 2], white[:, 1].square()], dim=1),
    }
    return {name: (y - y.mean(0)) / y.std(0) for name, y in found.items()}


class Square(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h.square()


def network(activation: str, outputs: int, seed: int) -> nn.Sequential:
    """One hidden layer, of the usual size."""
    net = nn.Sequential(
        nn.Linear(INPUTS, WIDTH, bias=False),
        nn.ReLU() if activation == "relu" else Square(),
        nn.Linear(WIDTH, outputs, bias=False),
    ).double()
    with torch.no_grad():
        net[0].weight.copy_(normal(WIDTH, INPUTS, seed=seed) / INPUTS**0.5)
        net[2].weight.copy_(normal(outputs, WIDTH, seed=seed + 1) / WIDTH**0.5)
    return net


def trained(X: Tensor, y: Tensor, activation: str, seed: int) -> float:
    """Centred ansatz of the first layer after five steps of gradient descent on the square loss."""
    net = network(activation, y.shape[1], seed)
    tracker = FeatureTracker(net, X.split(50), every=5, layers=["0"], statistic="cosine")
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-5)
    start = net(X).detach()
    for _ in range(5):
        optimizer.zero_grad()
        (net(X) - start - y).square().sum(1).mean().backward()
        optimizer.step()
        tracker.step()
    return float(tracker.history[-1][1]["0"].centered_nfa)


@pytest.fixture(scope="module", params=["relu", "quadratic"])
def pairs(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Predicted and measured, and the names of the data sets."""
    predicted, measured, names = [], [], []
    white = normal(SAMPLES, INPUTS, seed=0)
    for decay in DECAYS:
        X = white * torch.arange(1, INPUTS + 1) ** -decay
        for name, y in labels(white).items():
            predicted.append(early_alignment(X, y, activation=request.param).cosine)
            measured.append(np.mean([trained(X, y, request.param, seed) for seed in (10, 20)]))
            names.append(f"{name}, decay {decay:g}")
    return np.array(predicted), np.array(measured), names


def test_the_values_are_predicted(pairs: tuple[np.ndarray, np.ndarray, list[str]]) -> None:
    predicted, measured, names = pairs
    assert np.ptp(predicted) > 0.1  # not all the same
    worst = int(np.abs(predicted - measured).argmax())
    assert abs(predicted[worst] - measured[worst]) < 0.03, names[worst]


def test_so_is_the_order_of_the_data_sets(pairs: tuple[np.ndarray, np.ndarray, list[str]]) -> None:
    predicted, measured, _ = pairs
    assert spearmanr(predicted, measured).statistic > 0.97


def test_the_slope_is_one(pairs: tuple[np.ndarray, np.ndarray, list[str]]) -> None:
    """Not merely near, on average: how far the data sets lie apart is right too."""
    predicted, measured, _ = pairs
    slope, intercept = np.polyfit(predicted, measured, 1)
    assert slope == pytest.approx(1, abs=0.1)
    assert slope + intercept == pytest.approx(1, abs=0.01)
