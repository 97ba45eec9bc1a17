"""Plain dictionaries as ``to_dict()`` of a fitted machine makes them, without fitting one."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

NAN = float("nan")


def score(value: float, error: float, constant: float) -> dict[str, float]:
    return {"value": value, "standard_error": error, "constant": constant}


def regression_scores(shift: float = 0.0) -> dict[str, Any]:
    return {
        "r2": score(0.61234 + shift, 0.0412, 0.0),
        "rmse": score(56.2891 + shift, 2.3015, 90.3),
        "mae": score(46.1079 + shift, 2.0439, 72.6),
    }


def class_scores(shift: float = 0.0) -> dict[str, Any]:
    return {
        "accuracy": score(0.9231 - shift, 0.0123, 0.4444),
        "log_loss": score(0.2345 + shift, 0.0301, 1.0345),
        "brier": score(0.1213 + shift, 0.0151, 0.6321),
    }


def selection(kernels: int = 2, steps: int = 4, *, folds: int = 5, dropped: bool = True) -> dict[str, Any]:
    """A race of ``4 * kernels`` candidates; those of power 1/2 left it after two folds, where ``dropped``."""
    table = []
    names = ["rotated+coordinates", "rotated", "aligned", "coordinates"][:kernels]
    for place, (kernel, columns, power) in enumerate(product(names, ["none", "quantile"], [1.0, 0.5])):
        for t in range(steps):
            early = dropped and power == 0.5
            table.append(
                {
                    "kernel": kernel,
                    "columns": columns,
                    "bandwidth": "median x 1",
                    "power": power,
                    "iteration": t,
                    "alpha": 10.0 ** -(place % 3),
                    "score": 0.5 + 0.013 * place + 0.07 * abs(t - 1.4) + (0.3 if early else 0.0),
                    "standard_error": 0.0412 + 0.001 * place,
                    "splits": 2 if early else folds,
                    "rows": 210,
                }
            )
    chosen = min(range(len(table)), key=lambda i: table[i]["score"])
    return {
        "method": "cv",
        "score_name": "held-out squared error",
        "chosen": chosen,
        "alphas": [1.0, 1.0],
        "table": table,
    }


def history(steps: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "iteration": t,
            "alpha": 0.125,
            "bandwidth": [4.1279 / (t + 1), 10.613] if t else 4.1279,
            "score": NAN,
            "score_se": NAN,
            "score_name": None,
            "train_score": 0.30128 / (t + 1),
            "metric_change": 0.9613 if t + 1 < steps else NAN,
            "agop_se": NAN,
            "solver_reason": "exact",
            "solver_iterations": 0,
            "stop_reason": None,
            "seconds": 0.05123,
        }
        for t in range(steps)
    ]


def machine(features: int = 5, **changes: Any) -> dict[str, Any]:
    """A regressor with everything but a test; importances fall by a third from one column to the next."""
    names = [f"column_{j}" for j in range(features)]
    raw = np.array([(2 / 3) ** j for j in range(features)])
    random = np.random.default_rng(0)
    count = min(features, 6)
    vectors = np.linalg.qr(random.normal(size=(features, features)))[0][:count]
    shares = np.array([0.5**j for j in range(1, count + 1)])
    told: dict[str, Any] = {
        "machine": "RFMRegressor",
        "task": "regression",
        "rows": 262,
        "features": names,
        "encoded": features,
        "outputs": 1,
        "classes": None,
        "chosen": {
            "kernel": "rotated+coordinates",
            "columns": "none",
            "standardize": True,
            "bandwidth": [2.5134, 5.3327],
            "alpha": 0.125,
            "power": 1.0,
            "iteration": 1,
        },
        "importances": (raw / raw.sum()).tolist(),
        "directions": vectors.tolist(),
        "direction_shares": shares.tolist(),
        "selection": selection(),
        "scores": {"how": "5-fold cross-validation", "rows": 262, "scores": regression_scores()},
        "history": history(),
        "solver": {"method": "cholesky", "reason": "exact", "iterations": 0, "relative_residual": NAN},
        "intervals": None,
        "notes": [],
        "provenance": {
            "random_state": 0,
            "dtype": "float64",
            "device": "cpu",
            "versions": {"featlearn": "0.1.0", "torch": "2.6.0"},
        },
    }
    return told | changes


def from_the_command_line() -> dict[str, Any]:
    told = machine(intervals="split", notes=["Dropped column 'constant': it does not vary in training."])
    coverage = {"level": 0.9, "value": 0.9123, "standard_error": 0.0301}
    told["test"] = {"rows": 65, "scores": regression_scores(0.0333), "coverage": coverage}
    told["provenance"] |= {
        "data": "houses.csv",
        "target": "price",
        "command": "featlearn fit houses.csv --target price",
        "date": "2030-01-02T03:04:05+00:00",
        "seconds": 12.345,
        "notes": ["17 rows were left out"],
    }
    return told


def classifier() -> dict[str, Any]:
    scores = {"how": "5-fold cross-validation", "rows": 262, "scores": class_scores()}
    return machine(8, machine="RFMClassifier", task="classification", classes=["no", "yes"], outputs=2, scores=scores)


def nothing_selected() -> dict[str, Any]:
    return machine(selection=None, scores=None)


def nothing_learned() -> dict[str, Any]:
    """Constant targets: the AGOP is zero."""
    told = machine(3, history=history(1), importances=[0.0] * 3, direction_shares=[0.0] * 3)
    told["chosen"] |= {"iteration": 0, "bandwidth": []}
    told["scores"]["scores"] = {"rmse": score(0.0, 0.0, 0.0), "mae": score(0.0, 0.0, 0.0)}
    told["selection"] = selection(1, 1)
    for entry in told["selection"]["table"]:
        entry |= {"score": 0.0, "standard_error": NAN}
    told["selection"]["chosen"] = 0
    return told


def one_column() -> dict[str, Any]:
    told = machine(1, directions=[[1.0]], direction_shares=[1.0], selection=selection(1, 6, dropped=False))
    entries = told["selection"]["table"]
    for entry in entries:  # over two decades: a logarithmic axis
        entry["score"] *= math.exp(-entry["iteration"])
    told["selection"]["chosen"] = min(range(len(entries)), key=lambda i: entries[i]["score"])
    return told


def wide() -> dict[str, Any]:
    return machine(300, selection=selection(4, 6), history=history(6))


MACHINES = {
    "plain": machine(),
    "from the command line": from_the_command_line(),
    "classes": classifier(),
    "nothing selected": nothing_selected(),
    "nothing learned": nothing_learned(),
    "one column": one_column(),
    "wide": wide(),
}
