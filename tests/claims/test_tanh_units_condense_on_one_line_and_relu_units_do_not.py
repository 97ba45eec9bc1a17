"""From small weights, all tanh units turn to one line within 100 epochs; ReLU units keep several.

Published rule (sequel of Luo, Xu, Ma and Zhang, arXiv 2007.07497): at most 2 p orientations, p the order of the first
derivative of the activation at 0 that is not 0. Setup as published: 5-50-1, 80 points in [-4, 2]^5, the targets a sum
of sines, all parameters N(0, .005^2), full-batch Adam at 1e-3.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from featlearn.dynamics.condensation import condensation


class XTanh(nn.Module):
    def forward(self, x):
        return x * torch.tanh(x)


def condensed(activation: nn.Module, seed: int, lr: float = 1e-3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((80, 5), generator=generator) * 6 - 4
    y = (3.5 * torch.sin(5 * x + 1)).sum(dim=1, keepdim=True)
    net = nn.Sequential(nn.Linear(5, 50), activation, nn.Linear(50, 1))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.005 * torch.randn(parameter.shape, generator=generator))
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(100):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    return condensation(torch.cat([net[0].weight, net[0].bias[:, None]], dim=1))


@pytest.mark.parametrize("seed", range(3))
def test_tanh(seed):
    found = condensed(nn.Tanh(), seed)
    assert found.aligned_share > 0.9
    assert found.effective_directions < 1.1


@pytest.mark.parametrize("seed", range(3))
def test_relu(seed):
    found = condensed(nn.ReLU(), seed)
    assert found.effective_directions > 1.5
    assert found.aligned_share < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_an_activation_of_second_order_keeps_more_lines_than_tanh(seed):
    assert condensed(XTanh(), seed).effective_directions > 1.5
