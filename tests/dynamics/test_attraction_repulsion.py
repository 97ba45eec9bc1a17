from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from featlearn.dynamics.attraction_repulsion import attraction_repulsion, bipartite_example
from featlearn.exceptions import DataError, ModelError


def random_net(widths=(3, 5, 4, 2), n_samples=4, seed=0):
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((m, n + 1)) / np.sqrt(n + 1) for n, m in pairwise(widths)]
    return weights, rng.standard_normal((n_samples, widths[0]))


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_forces_cancel_in_a_balanced_deep_linear_network(depth):
    rng = np.random.default_rng(depth)
    s, V = rng.uniform(0.5, 2.0, 6), np.linalg.qr(rng.standard_normal((6, 6)))[0]
    weights = [np.diag(s ** (1 / depth)) @ V.T, *[np.diag(s ** (1 / depth))] * (depth - 1)]
    forces = attraction_repulsion(weights, np.eye(6), bias=0.0, activation="linear", ridge=0.0)
    assert len(forces) == depth - 1
    for i, layer in enumerate(forces.layers, start=1):
        np.testing.assert_allclose(layer.attr, 2 * np.diag(s ** ((2 - i) / depth)) @ V.T, atol=1e-12)
        assert layer.residual < 1e-10
        assert layer.cosine == pytest.approx(1.0, abs=1e-12)
        assert layer.resolved


@pytest.mark.parametrize("n", [2, 4, 6, 8])
def test_forces_cancel_in_the_bipartite_example(n):
    (W1, W2), X, Y = bipartite_example(n)
    np.testing.assert_array_equal(W2 @ np.maximum(W1 @ X, 0), Y)
    assert np.sum(W1**2) + np.sum(W2**2) == n**2
    layer = attraction_repulsion([W1, W2], X, bias=0.0, ridge=0.0)[0]
    assert layer.residual < 1e-10
    assert (layer.n_rays, layer.rank) == (n**2 // 4, n - 1)


@pytest.mark.parametrize("activation", ["relu", "tanh", "linear"])
@pytest.mark.parametrize("bias", [0.0, 0.7])
def test_forces_are_the_gradient_of_the_least_norm(activation, bias):
    """Autograd through the pseudo-inverses, with full rank: four samples, at least four units."""
    weights, X = random_net((4, 5, 4, 2), seed=1)
    weights = weights if bias else [weight[:, :-1] for weight in weights]
    found = attraction_repulsion(weights, X, bias=bias, activation=activation, ridge=0.0)
    function = {"relu": torch.relu, "tanh": torch.tanh, "linear": lambda z: z}[activation]

    def features(Z):
        return torch.cat([Z, torch.full((1, 4), bias, dtype=Z.dtype)]) if bias else Z

    pre, S = [], features(torch.tensor(X.T))
    for weight in weights:
        pre.append((torch.tensor(weight) @ S).requires_grad_())
        S = features(function(pre[-1].detach()))
    for i, layer in enumerate(found.layers):
        below = features(torch.tensor(X.T)) if i == 0 else features(function(pre[i - 1].detach()))
        attr = torch.autograd.grad((pre[i] @ torch.linalg.pinv(below)).square().sum(), pre[i])[0]
        np.testing.assert_allclose(layer.attr, attr.numpy(), rtol=1e-7, atol=1e-9)
        if layer.rank == 4:
            above = features(function(pre[i]))
            inverse = torch.linalg.solve(above.T @ above, above.T)
            rep = torch.autograd.grad((pre[i + 1].detach() @ inverse).square().sum(), pre[i])[0]
            np.testing.assert_allclose(layer.rep, rep.numpy(), rtol=1e-6, atol=1e-8 * np.abs(layer.rep).max())
        assert layer.cosine == pytest.approx(
            -np.sum(layer.attr * layer.rep) / np.linalg.norm(layer.attr) / np.linalg.norm(layer.rep)
        )
        assert layer.residual == pytest.approx(np.linalg.norm(layer.attr + layer.rep) / np.linalg.norm(layer.attr))


def test_what_is_left_of_the_forces_at_an_optimum_is_the_loss():
    """attr + rep = ([W^T D Pi] o sigma' - D Pi) / lam at a stationary point, here with fewer units than samples."""
    rng, lam, N = np.random.default_rng(0), 0.005, 6
    X, Y, shapes = rng.standard_normal((N, 3)), rng.standard_normal((N, 2)), [(3, 4), (2, 4), (2, 3)]
    ends = np.cumsum([rows * columns for rows, columns in shapes])

    def split(x):
        return [part.reshape(shape) for part, shape in zip(np.split(x, ends[:-1]), shapes, strict=True)]

    def run(x, Z_only=False):
        one = torch.ones((1, N), dtype=torch.float64)
        S, pre, features = torch.cat([torch.tensor(X.T), one]), [], []
        parts = [part.clone().requires_grad_() for part in map(torch.tensor, split(x))]
        for weight in parts:
            features.append(S)
            pre.append(weight @ S)
            pre[-1].retain_grad()
            S = torch.cat([torch.tanh(pre[-1]), one])
        cost = (pre[-1] - torch.tensor(Y.T)).square().sum() / N
        cost.backward()
        if Z_only:
            return pre, features
        gradient = np.concatenate([part.grad.numpy().ravel() for part in parts]) + 2 * lam * x
        return cost.item() + lam * float(x @ x), gradient

    options = {"ftol": 1e-16, "gtol": 1e-12, "maxiter": 5000, "maxcor": 40}
    x = minimize(run, rng.standard_normal(ends[-1]), jac=True, method="L-BFGS-B", options=options).x
    assert np.abs(run(x)[1]).max() < 1e-7
    weights = split(x)
    forces = attraction_repulsion(weights, X, activation="tanh", ridge=0.0)
    pre, features = run(x, Z_only=True)
    D = [Z.grad.numpy() for Z in pre]
    Pi = [np.linalg.pinv(S.detach().numpy()) @ S.detach().numpy() for S in features]
    for i, layer in enumerate(forces.layers):
        slope = 1 - np.tanh(pre[i].detach().numpy()) ** 2
        left = ((weights[i + 1][:, :-1].T @ D[i + 1] @ Pi[i + 1]) * slope - D[i] @ Pi[i]) / lam
        np.testing.assert_allclose(layer.attr + layer.rep, left, atol=1e-4 * np.abs(layer.attr).max())
        assert not layer.resolved
        assert layer.residual > 0.01


def test_a_model_is_its_matrices():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Sequential(nn.Linear(3, 5), nn.ReLU()), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)
    )
    X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    found = attraction_repulsion(net.double(), X, bias=0.5)
    matrices = [
        np.concatenate([layer.weight.detach().numpy(), layer.bias.detach().numpy()[:, np.newaxis] / 0.5], axis=1)
        for layer in (net[0][0], net[1])
    ]
    matrices.append(np.concatenate([net[3].weight.detach().numpy(), np.zeros((2, 1))], axis=1))
    expected = attraction_repulsion(matrices, X.numpy(), bias=0.5)
    hidden = net[0][0](X.double()).detach().numpy().T
    np.testing.assert_allclose(found[0].Z, hidden, atol=1e-12)
    for one, other in zip(found.layers, expected.layers, strict=True):
        np.testing.assert_allclose(one.rep, other.rep, rtol=1e-9, atol=1e-9)


def test_every_parameter_changes_the_answer():
    weights, X = random_net()
    base = attraction_repulsion(weights, X)[0].residual
    for change in ({"bias": 0.5}, {"activation": "tanh"}, {"ridge": 1e-2}):
        assert attraction_repulsion(weights, X, **change)[0].residual != base
    assert attraction_repulsion(weights, X[:3])[0].residual != base


def test_dead_layers_have_no_rays_and_no_cosine():
    layer = attraction_repulsion([-np.ones((2, 2)), np.ones((1, 3))], np.ones((3, 1)))[0]
    assert layer.n_rays == 0
    assert np.isnan(layer.cosine)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weights_or_model": [np.ones((2, 4))]}, DataError, "at least two"),
        ({"weights_or_model": [np.ones((2, 3)), np.ones((2, 3))]}, DataError, "4 columns"),
        ({"weights_or_model": [np.ones(3), np.ones((2, 3))]}, DataError, "matrix"),
        ({"weights_or_model": nn.Linear(3, 2)}, ModelError, "Sequential"),
        (
            {"weights_or_model": nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))},
            ModelError,
            "activation='tanh'",
        ),
        (
            {"weights_or_model": nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)), "bias": 0.0},
            ModelError,
            "bias",
        ),
        ({"bias": -1.0}, DataError, "bias"),
        ({"ridge": np.nan}, DataError, "ridge"),
        ({"activation": "gelu"}, DataError, "activation"),
        ({"X": np.full((4, 3), np.nan)}, DataError, "X"),
    ],
)
def test_bad_input_is_refused(change, error, message):
    weights, X = random_net()
    with pytest.raises(error, match=message):
        attraction_repulsion(**({"weights_or_model": weights, "X": X} | change))


@pytest.mark.parametrize("n", [3, 0, 4.0])
def test_the_example_wants_an_even_number(n):
    with pytest.raises(DataError, match="even"):
        bipartite_example(n)


def test_tables_and_figure():
    weights, X = random_net()
    found = attraction_repulsion(weights, X)
    assert found.frame()["cosine"].tolist() == [layer.cosine for layer in found.layers]
    assert found.to_dict()["layers"][1]["Z"] == found[1].Z.tolist()
    ax = found.plot(layer=2)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["attraction", "repulsion"]
    attraction = ax.collections[0]
    axes = np.linalg.svd(found[1].Z - found[1].Z.mean(axis=1, keepdims=True))[0][:, :2].T
    pulls = -axes @ found[1].attr
    assert np.corrcoef(attraction.U, pulls[0])[0, 1] ** 2 == pytest.approx(1.0)
    with pytest.raises(DataError, match="layer=3"):
        found.plot(layer=3)
    narrow = attraction_repulsion([np.ones((1, 4)), np.ones((2, 2))], X).plot()
    assert len(narrow.lines[0].get_xdata()) == len(X)
