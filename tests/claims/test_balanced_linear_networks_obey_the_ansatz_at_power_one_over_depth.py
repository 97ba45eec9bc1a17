"""In a balanced linear network of L layers, layer l obeys ``F = G^(1 / (L - l + 1))`` exactly; no one power is right.

Published for the first layer (arXiv 2510.15563). Gradient descent from a small balanced start keeps the balance.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from featlearn import measure_features


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def balanced(widths: list[int], spectrum: Tensor, seed: int = 0) -> nn.Sequential:
    """``W_l = U_(l+1) diag(s) U_l^T`` with orthonormal columns: ``W_(l+1)^T W_(l+1) = W_l W_l^T``."""
    bases = [torch.linalg.qr(normal(width, len(spectrum), seed=seed + i)).Q for i, width in enumerate(widths)]
    layers = [nn.Linear(a, b, bias=False, dtype=torch.float64) for a, b in itertools.pairwise(widths)]
    with torch.no_grad():
        for i, layer in enumerate(layers):
            layer.weight.copy_(bases[i + 1] * spectrum @ bases[i].mT)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("rank", [5, 3])
def test_layer_l_obeys_the_ansatz_at_one_over_the_layers_above(depth: int, rank: int) -> None:
    widths = [8, 6, 9, 7, 5, 6][: depth + 1]
    net = balanced(widths, torch.linspace(1.2, 0.5, rank, dtype=torch.float64))
    report = measure_features(net, normal(20, widths[0]).split(2))
    for number, layer in enumerate(report.layers.values(), start=1):
        power = 1 / (depth - number + 1)
        assert abs(layer.best_power - power) <= 0.01
        for statistic in ("cosine", "pearson"):
            assert layer.nfa_at(power, statistic) >= 1 - 1e-8
        if number < depth:
            assert layer.nfa_at(1.0, "cosine") < 0.995


def test_without_balance_no_power_is_perfect() -> None:
    net = balanced([8, 6, 9, 7], torch.linspace(1.2, 0.5, 5, dtype=torch.float64))
    with torch.no_grad():
        net[1].weight.add_(0.3 * normal(9, 6, seed=3))
    layer = measure_features(net, normal(20, 8).split(2))["0"]
    assert layer.nfa_at(layer.best_power, "cosine") < 0.999


@pytest.mark.parametrize("depth", [2, 3])
def test_training_from_a_balanced_start_keeps_the_power(depth: int) -> None:
    """The balance is conserved by gradient flow, hence nearly so by small steps, while the spectrum changes."""
    widths = [6, 8, 7, 6][-depth - 1 :]
    net = balanced(widths, torch.full((5,), 0.3, dtype=torch.float64))
    X = normal(100, widths[0], seed=9)
    Y = X @ torch.diag(torch.linspace(2.0, 0.2, widths[0], dtype=torch.float64))[:, : widths[-1]]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(1500):
        optimizer.zero_grad()
        (net(X) - Y).square().sum(dim=1).mean().backward()
        optimizer.step()
    report = measure_features(net, X.split(10))
    spectrum = report["0"].agop_spectrum.values
    assert spectrum[0] > 3 * spectrum[4]  # all equal at the start: it has learned directions
    for number, layer in enumerate(report.layers.values(), start=1):
        power = 1 / (depth - number + 1)
        assert abs(layer.best_power - power) <= 0.02
        assert layer.nfa_at(power, "cosine") > 1 - 1e-3
