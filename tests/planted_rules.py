"""Planted tasks: rules that are known, and fits of them without estimators."""

from __future__ import annotations

import numpy as np

from featlearn._random import generator
from featlearn.trees.choice import Penalty, choose
from featlearn.trees.features import LinearMap, PrototypeMap
from featlearn.trees.problem import Settings, Start
from featlearn.trees.starts import directions_from_agop, kernel_agop

RULES = {
    "sum": lambda X: X[:, 0] + X[:, 1] > 0,
    "band": lambda X: np.abs(X[:, 0] - X[:, 1]) < 0.9,
    "xor": lambda X: (X[:, 0] + X[:, 1] > 0) ^ (X[:, 2] - X[:, 3] > 0),
    "three": lambda X: (X[:, 0] + X[:, 5] - X[:, 7] > 0) & (X[:, 1] - X[:, 2] > -0.5),
    "axis": lambda X: (X[:, 0] > 0) & (X[:, 1] > -0.3),
    "circle": lambda X: (X[:, 0] - 0.3) ** 2 + (X[:, 1] + 0.2) ** 2 < 1.2,
    "steps": lambda X: 2.0 * (X[:, 0] + X[:, 1] > 0) + 1.0 * (X[:, 2] - X[:, 3] > 0.5),
}


class Task:
    """Standardised training rows and 2000 new ones; ``labels=None`` for a regression."""

    def __init__(self, rule, n, d, seed):
        rng = np.random.default_rng(seed)
        X, new = rng.standard_normal((n, d)), rng.standard_normal((2000, d))
        self.mean, self.std = X.mean(axis=0), X.std(axis=0)
        self.X, self.new, self.w = (X - self.mean) / self.std, (new - self.mean) / self.std, np.ones(n)
        if rule == "noise":
            self.labels = np.random.default_rng(seed + 100).permutation(np.arange(n) % 2)
            self.Y = np.eye(2)[self.labels]
            return
        values, self.truth = RULES[rule](X), RULES[rule](new)
        self.labels = None if values.dtype == float else values.astype(int)
        if self.labels is None:
            values = values + 0.1 * rng.standard_normal(n)
            self.truth = self.truth + 0.1 * rng.standard_normal(2000)
            self.shift, self.scale = values.mean(), values.std()
            self.Y = ((values - self.shift) / self.scale)[:, None]
        else:
            self.Y = np.eye(2)[self.labels]

    def score(self, candidate):
        """Accuracy, or R2, on the new rows."""
        predicted = candidate.predict(self.new)
        if self.labels is not None:
            return float((predicted.argmax(axis=1) == self.truth).mean())
        errors = predicted[:, 0] * self.scale + self.shift - self.truth
        return float(1 - (errors**2).mean() / self.truth.var())

    def kernel_starts(self, rows):
        agop = kernel_agop(self.X[rows], self.Y[rows], self.w[rows], random_state=0)
        plain, turned = (directions_from_agop(agop, 4, rotate=rotate) for rotate in (None, "varimax"))
        return [Start("kernel", LinearMap(plain), "direct"), Start("kernel, varimax", LinearMap(turned), "direct")]

    def random_start(self, rows, kind=LinearMap, place=0, q=4):
        features = kind.start(self.X[rows], self.Y[rows], self.w[rows], q, generator(0, "start", place))
        return Start(f"random {place}", features, "learned")

    def prototype_starts(self, rows):
        return [self.random_start(rows, PrototypeMap, place, q=2) for place in range(3)]

    def choose(self, starts, *, scale=0.1, selection="penalty", **settings):
        return choose(
            self.X, self.Y, self.w, starts, Settings(**settings), Penalty(scale),
            selection=selection, labels=self.labels, random_state=0,
        )  # fmt: skip


def cosine(row, truth):
    """Of a learned rule and the planted one, up to sign."""
    return float(abs(row @ truth) / np.linalg.norm(row) / np.linalg.norm(truth))
