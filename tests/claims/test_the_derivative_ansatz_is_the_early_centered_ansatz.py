"""The derivative ansatz is the limit, as training starts, of the ansatz of the weight change ``W - W_0``.

Under gradient flow ``W(t) - W_0 = -t N + O(t^2)`` with ``N = dL/dW``; for one output and the square loss it is a number
of tangent features and residuals alone.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featlearn import measure_features
from featlearn._random import preserved_rng


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mlp(activation: type[nn.Module], outputs: int = 3) -> nn.Sequential:
    with preserved_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(8, 20), activation(), nn.Linear(20, 16), activation(), nn.Linear(16, outputs)
        ).double()


def convnet() -> nn.Sequential:
    with preserved_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Conv2d(6, 6, 3, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)
        ).double()


def mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(dim=1).mean()


PROBLEMS = {
    "tanh": (lambda: mlp(nn.Tanh), (120, 8)),
    "softplus": (lambda: mlp(nn.Softplus), (120, 8)),
    "grouped convolutions": (convnet, (60, 2, 6, 6)),
}


@pytest.mark.parametrize("statistic", ["pearson", "cosine"])
@pytest.mark.parametrize("problem", list(PROBLEMS))
def test_one_small_step_of_gradient_descent_gives_the_derivative_ansatz(problem: str, statistic: str) -> None:
    build, shape = PROBLEMS[problem]
    net, X, Y = build(), normal(*shape), normal(shape[0], 3, seed=5)
    batches = list(zip(X.split(12), Y.split(12), strict=True))
    before = measure_features(net, batches, loss=mean_square, statistic=statistic)
    start = copy.deepcopy(net.state_dict())
    for step in (1e-5, 1e-3):
        net.load_state_dict(start)
        net.zero_grad()
        mean_square(net(X), Y).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= step * parameter.grad
        after = measure_features(net, batches, reference=start, statistic=statistic)
        for name, layer in before.layers.items():
            assert after[name].centered_nfa == pytest.approx(layer.derivative_nfa, abs=10 * step)


def test_it_is_exact_while_no_relu_switches() -> None:
    """A two-layer ReLU network and one output: K, and with it the number, does not move with the first layer."""
    net = nn.Sequential(nn.Linear(6, 30, bias=False), nn.ReLU(), nn.Linear(30, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(normal(30, 6, seed=1))
        net[2].weight.copy_(normal(1, 30, seed=2))
    X, y = normal(80, 6, seed=3), normal(80, 1, seed=4)
    batches = list(zip(X.split(8), y.split(8), strict=True))
    derivative = measure_features(net, batches, loss=mean_square)["0"].derivative_nfa
    signs = net[0](X) > 0
    start = {"0.weight": net[0].weight.detach().clone(), "2.weight": net[2].weight.detach().clone()}
    mean_square(net(X), y).backward()
    with torch.no_grad():
        net[0].weight -= 1e-6 * net[0].weight.grad
    assert torch.equal(net[0](X) > 0, signs)
    assert measure_features(net, batches, reference=start)["0"].centered_nfa == pytest.approx(derivative, abs=1e-12)


def test_for_one_output_it_is_a_number_of_tangent_features_and_residuals() -> None:
    """``tr(S P S P^2) / sqrt(tr(S P S P) tr(S P^2 S P^2))``, P = Q Q^T of tangent features, S = R X X^T R."""
    net, X, y = mlp(nn.Tanh, outputs=1), normal(50, 8), normal(50, 1, seed=5)
    batches = list(zip(X.split(5), y.split(5), strict=True))
    found = measure_features(net, batches, loss=mean_square, statistic="cosine")["0"].derivative_nfa
    hidden = net[0](X).detach().requires_grad_(True)
    Q = torch.autograd.grad(net[1:](hidden).sum(), hidden)[0]  # one row a sample: the gradient at h
    R = torch.diag((net(X) - y).detach().flatten())
    P, S = Q @ Q.mT, R @ X @ X.mT @ R
    expected = torch.trace(S @ P @ S @ P @ P) / (torch.trace(S @ P @ S @ P) * torch.trace(S @ P @ P @ S @ P @ P)).sqrt()
    assert found == pytest.approx(float(expected), abs=1e-12)


def test_the_centred_ansatz_starts_at_the_derivative_ansatz_and_leaves_it() -> None:
    """Along a training run: equal at the start, apart later."""
    net, X = mlp(nn.Tanh), normal(120, 8)
    Y = torch.stack([X[:, 0] * X[:, 1], X[:, 2], X[:, 0]], dim=1)
    batches = list(zip(X.split(12), Y.split(12), strict=True))
    start = copy.deepcopy(net.state_dict())
    derivative = measure_features(net, batches, loss=mean_square)["0"].derivative_nfa
    optimizer, values = torch.optim.SGD(net.parameters(), lr=0.05), []
    for _ in range(400):
        optimizer.zero_grad()
        mean_square(net(X), Y).backward()
        optimizer.step()
        if len(values) < 1:
            values.append(measure_features(net, batches, reference=start)["0"].centered_nfa)
    values.append(measure_features(net, batches, reference=start)["0"].centered_nfa)
    apart = np.abs(np.array(values) - derivative)
    assert apart[0] < 0.05
    assert apart[1] > 2 * apart[0]
