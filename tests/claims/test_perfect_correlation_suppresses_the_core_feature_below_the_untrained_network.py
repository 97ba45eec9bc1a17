"""An easier feature that predicts the label perfectly leaves the core feature less readable than before training.

Dominoes of Fashion-MNIST: pullover or coat below (the label), trouser or boot above. Where both always agree, a ridge
head reads the label worse from the trained network than from the untrained one; where they are independent, far better.
It is suppressed, not erased: a head without penalty reads it about as well as before training.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn.functional import cross_entropy

from featlearn._random import preserved_rng
from featlearn.datasets.dominoes import make_dominoes
from featlearn.datasets.fashion_mnist import has_fashion_mnist
from featlearn.robust.model_probe import probe_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_fashion_mnist(), reason="needs the 70,000 images of Fashion-MNIST, which are not here"),
]

SEEDS = range(3)
EPOCHS = 2


def network(seed: int) -> nn.Sequential:
    with preserved_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=2, padding=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * 14 * 7, 64), nn.ReLU(), nn.Linear(64, 2),
        )  # fmt: skip


def head(C: float):
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=20_000))


def batches(split):
    X, y, s = (torch.from_numpy(np.asarray(part)) for part in (split.X, split.y, split.s))
    return list(zip(X.split(500), y.split(500), s.split(500), strict=True))


@cache
def trained(correlation: float, seed: int):
    data = make_dominoes("fashion-mnist", correlation=correlation, n_train=4000, random_state=seed)
    model = network(seed)
    X, y = torch.from_numpy(data.train.X), torch.from_numpy(data.train.y).long()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    order = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(X), generator=order).split(64):
            optimizer.zero_grad()
            cross_entropy(model(X[rows]), y[rows]).backward()
            optimizer.step()
    return model, data


@cache
def decodability(correlation: float, seed: int, C: float = 1.0):
    """Table of the probe with a penalty of weight 1 / C."""
    model, data = trained(correlation, seed)
    return probe_model(model, batches(data.validation), batches(data.test), probe=head(C), random_state=seed).table


def worst_group(correlation: float, seed: int) -> float:
    """Of the network's own head."""
    model, data = trained(correlation, seed)
    with torch.no_grad():
        predicted = model(torch.from_numpy(data.test.X)).argmax(1).numpy()
    right = predicted == data.test.y
    return min(float(right[(data.test.y == a) & (data.test.s == b)].mean()) for a in (0, 1) for b in (0, 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_perfect_shortcut_leaves_the_core_feature_below_both_controls(seed: int) -> None:
    table = decodability(1.0, seed)
    core = table["core_wga"]
    assert worst_group(1.0, seed) < 0.05  # nothing in the loss asked for the label's own image
    assert table.loc["penultimate", "spurious_wga"] > 0.98
    assert core["penultimate"] < core["init"] - 0.02
    assert core["penultimate"] < core["pixels"] - 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_without_a_shortcut_the_core_feature_is_learned(seed: int) -> None:
    core = decodability(0.5, seed)["core_wga"]
    assert worst_group(0.5, seed) > 0.7
    assert core["penultimate"] > core["init"] + 0.08


def test_the_gap_to_the_untrained_network_is_that_of_a_penalised_head() -> None:
    def gap(C: float, control: str) -> float:
        cores = [decodability(1.0, seed, C)["core_wga"] for seed in SEEDS]
        return float(np.mean([core["penultimate"] - core[control] for core in cores]))

    assert gap(1.0, "init") < -0.05
    assert gap(1.0, "pixels") < -0.1
    assert abs(gap(np.inf, "init")) < 0.06
