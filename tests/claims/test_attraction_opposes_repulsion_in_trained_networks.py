"""Weight decay brings attraction and repulsion of the hidden features against one another: their cosine rises.

Forces of Jacot, Golikov, Hongler and Gabriel (arXiv 2205.15809), published. With fewer units than N (N + 1) they need
not cancel, and in ReLU networks of this size they do not: the cosine is the number to read. Eight samples in ten
dimensions, two hidden layers of 12, lam = 3e-3.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from featlearn.dynamics.attraction_repulsion import attraction_repulsion

N, LAM, SHAPES = 8, 3e-3, [(12, 11), (12, 13), (2, 13)]
ENDS = np.cumsum([rows * columns for rows, columns in SHAPES])


def split(x):
    return [part.reshape(shape) for part, shape in zip(np.split(x, ENDS[:-1]), SHAPES, strict=True)]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_cosine_rises_in_both_layers(seed):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((N, 10)), torch.tensor(rng.standard_normal((2, N)))
    one = torch.ones((1, N), dtype=torch.float64)

    def objective(x):
        weights = [torch.tensor(part, requires_grad=True) for part in split(x)]
        Z = torch.tensor(X.T)
        for i, weight in enumerate(weights):
            Z = weight @ torch.cat([torch.relu(Z) if i else Z, one])
        loss = (Z - Y).square().sum() / N
        gradients = torch.autograd.grad(loss, weights)
        flat = np.concatenate([gradient.numpy().ravel() for gradient in gradients])
        return loss.item() + LAM * float(x @ x), flat + 2 * LAM * x

    start = np.concatenate([rng.standard_normal(rows * n) / np.sqrt(n) for rows, n in SHAPES])
    end = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 3000, "ftol": 1e-13}).x
    before, after = (attraction_repulsion(split(x), X) for x in (start, end))
    assert max(layer.cosine for layer in before.layers) < 0.5
    assert min(layer.cosine for layer in after.layers) > 0.65
