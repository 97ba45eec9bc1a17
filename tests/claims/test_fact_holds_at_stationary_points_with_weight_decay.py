"""At a stationary point of loss + (lambda / 2) ||W||^2, ``W^T W = -W^T N / lambda`` exactly, so FACT is 1.

Published (arXiv 2507.05644): low during most of training, near 1 only at convergence. Without weight decay nothing
makes the two proportional.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor, nn

from featlearn import measure_features
from featlearn._random import preserved_rng

DECAY = 1e-2


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data() -> tuple[Tensor, Tensor]:
    X = normal(60, 6)
    return X, torch.stack([X[:, 0] * X[:, 1], X[:, 2].tanh()], dim=1)


def network() -> nn.Sequential:
    """Three layers with a smooth activation."""
    with preserved_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 6), nn.Softplus(), nn.Linear(6, 2)).double()


def mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(dim=1).mean()


def converge(net: nn.Sequential, decay: float) -> float:
    """Quasi-Newton, then Newton steps to a stationary point; returns the largest entry of the gradient."""
    X, Y = data()
    shapes = {name: parameter.shape for name, parameter in net.named_parameters()}

    def objective(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes.values()])
        parameters = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        weights = sum(part.square().sum() for name, part in parameters.items() if name.endswith("weight"))
        return mean_square(torch.func.functional_call(net, parameters, (X,)), Y) + decay / 2 * weights

    def of_numpy(function):
        return lambda vector: function(torch.from_numpy(vector)).detach().numpy()

    start = torch.nn.utils.parameters_to_vector(net.parameters()).detach().numpy()
    value, gradient = of_numpy(objective), of_numpy(torch.func.grad(objective))
    hessian = of_numpy(torch.func.jacrev(torch.func.grad(objective)))
    options = {"maxiter": 20_000, "maxfun": 100_000, "maxcor": 50, "ftol": 0.0, "gtol": 1e-12}
    point = scipy.optimize.minimize(value, start, jac=gradient, method="L-BFGS-B", options=options).x
    for _ in range(15):  # differences of values are round-off by now: Newton's method looks at the gradient alone
        point = point - np.linalg.lstsq(hessian(point), gradient(point), rcond=1e-12)[0]
    torch.nn.utils.vector_to_parameters(torch.from_numpy(point), net.parameters())
    return float(abs(gradient(point)).max())


def batches() -> list[tuple[Tensor, Tensor]]:
    X, Y = data()
    return list(zip(X.split(6), Y.split(6), strict=True))


@pytest.fixture(scope="module")
def converged() -> nn.Sequential:
    net = network()
    assert converge(net, DECAY) < 1e-8
    return net


@pytest.mark.parametrize("statistic", ["cosine", "pearson"])
def test_fact_is_one_at_a_stationary_point_and_not_before(converged: nn.Sequential, statistic: str) -> None:
    start = measure_features(network(), batches(), loss=mean_square, statistic=statistic)
    assert max(layer.fact for layer in start.layers.values()) < 0.9
    end = measure_features(converged, batches(), loss=mean_square, statistic=statistic)
    for layer in end.layers.values():
        assert layer.nfm_spectrum.values[0] > 1e-3  # the weights have not decayed to nothing
        assert layer.fact >= 1 - 1e-6
        assert layer.fact_root >= 1 - 1e-4  # N = -lambda W: the root of F^2 is F


def test_the_proportionality_is_the_weight_decay(converged: nn.Sequential) -> None:
    X, Y = data()
    weights = [layer.weight for layer in converged if isinstance(layer, nn.Linear)]
    for W, N in zip(weights, torch.autograd.grad(mean_square(converged(X), Y), weights), strict=True):
        torch.testing.assert_close(W.mT @ W, -W.mT @ N / DECAY, rtol=1e-6, atol=1e-6)


def test_without_weight_decay_it_says_nothing() -> None:
    """After as long a training without decay, the gradient that is left has no such direction."""
    net, (X, Y) = network(), data()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for _ in range(1500):
        optimizer.zero_grad()
        mean_square(net(X), Y).backward()
        optimizer.step()
    report = measure_features(net, batches(), loss=mean_square)
    assert max(layer.fact for layer in report.layers.values()) < 0.9
