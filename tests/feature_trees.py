"""Small fitted trees of every kind, for pictures and pages: each is fitted once."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from featlearn.trees.estimators import FeatureTreeClassifier, FeatureTreeRegressor

NAMES = [
    "worst concave points of all",
    "price in $ or € (which $?)",
    "x",
    "a_column_with_a_rather_long_name_of_its_own",
]
KINDS = ("classes", "numbers", "outputs", "prototype", "soft", "leaf", "many", "pixels")


def rows(n: int = 160, d: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d))


def plain(**more: Any) -> dict[str, Any]:
    """A tree on two mixed directions and the rest as they are, without learning."""
    directions = np.eye(4)
    directions[0, :3] = 1.0, -0.5, 0.2
    directions[1, 1:] = 0.3, 1.0, -0.4
    return {"init_directions": directions, "n_init": 0, "max_iter": 0, "max_depth": 3, "random_state": 0, **more}


@cache
def fitted(kind: str) -> Any:
    """A tree of this kind, fitted to :func:`rows`."""
    X = rows()
    first, second = X[:, 0] - 0.5 * X[:, 1] + 0.2 * X[:, 2], 0.3 * X[:, 1] + X[:, 2] - 0.4 * X[:, 3]
    labels = np.array(["north", "south", "west"])[(first > 0) * 1 + (second > 0.3)]
    frame = pd.DataFrame(X, columns=NAMES)
    numbers = 3 * (first > 0) - 40.0 * (second > 0.3) + 0.1 * X[:, 3]
    match kind:
        case "classes":
            return FeatureTreeClassifier(**plain()).fit(frame, labels)
        case "numbers":
            return FeatureTreeRegressor(**plain()).fit(frame, numbers)
        case "outputs":
            return FeatureTreeRegressor(**plain()).fit(X, np.c_[numbers, -2000 * (first > 0)])
        case "prototype":
            inside = np.where(X[:, 0] ** 2 + (X[:, 1] - 0.3) ** 2 < 1.2, "inside", "outside")
            return FeatureTreeClassifier(features="prototype", max_iter=2, random_state=0).fit(frame, inside)
        case "soft":
            return FeatureTreeClassifier(**plain(predict_mode="fuzzy", bandwidth=0.5)).fit(frame, labels)
        case "leaf":
            return FeatureTreeClassifier(**plain(penalty_scale=20.0)).fit(frame, labels)
        case "many":
            noisy = np.sin(3 * first) + np.cos(4 * second)
            options = plain(max_depth=4, penalty_scale=0.0, min_weight_leaf=2.0)
            return FeatureTreeRegressor(**options).fit(frame, noisy)
        case "pixels":
            images = np.random.default_rng(1).normal(size=(160, 6))
            directions = np.array([[1.0, 0, -1, 0, 0, 0.5], [0, 0, 0, 1, 1, 0]])
            marks = (images @ directions.T > 0) @ [1, 2]
            return FeatureTreeClassifier(**plain(init_directions=directions)).fit(images, marks)
    raise ValueError(kind)
