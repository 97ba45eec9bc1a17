"""Growth on 100,000 rows x 30 features beside scikit-learn's tree, how it grows with both, and what a whole fit costs.

Growth: two classes, an exclusive or of two diagonals with a tenth of the labels turned, depth 5, leaves of at least
five rows; fuzzy (h = .1) and crisp (h = 0), compiled and in numpy, and scikit-learn's DecisionTreeClassifier of equal
depth and leaf size on the same rows in the same run. Contestants take turns; smallest of the repeats. Exponents of the
CPU time are between a quarter and the whole of the rows, a third and three times the features; peak memory is of
processes of their own. Whole fits are of the default FeatureTreeClassifier, by rows, inputs and features of a start; of
more than 20,000 rows it learns from that many, and grows its last tree on all.

Holds if compiled growth takes at most MOST seconds of CPU on 100,000 rows, in numpy MOST_IN_NUMPY at h = .1, grows no
faster than rows^MOST_GROWTH, and whole fits of 5,000 x 30 rows and of digits (depth 5) take at most 10 and 30 s.

Bound by: sorting each column once, then one walk over sorted breakpoints a column and level.

Arguments: --repeats (default 3); --quick, growth alone. About 5 minutes of CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from measuring import child_arguments, in_fresh_process, interleaved, peak_bytes, report
from sklearn.datasets import load_digits
from sklearn.tree import DecisionTreeClassifier

from featlearn.trees.estimators import FeatureTreeClassifier
from featlearn.trees.grow import grow

ROWS, FEATURES, DEPTH, LEAF = 100_000, 30, 5, 5
MOST, MOST_IN_NUMPY, MOST_GROWTH = 1.5, 5.0, 1.15
FITS = ((1000, 30, "auto"), (5000, 30, "auto"), (20_000, 30, "auto"), (100_000, 30, "auto"), (5000, 10, "auto"),
        (5000, 90, "auto"), (5000, 30, 2), (5000, 30, 8))  # fmt: skip
MOST_SECONDS = {"5000 x 30": 10.0, "digits": 30.0}


def drawn(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([n, d])
    X = random.standard_normal((n, d))
    y = (X[:, 0] + X[:, 1] > 0) ^ (X[:, 2] - X[:, 3] > 0) ^ (random.random(n) < 0.1)
    return X, y.astype(int)


def grower(X: np.ndarray, y: np.ndarray, h: float, backend: str) -> Callable[[], Any]:
    Y, w = np.eye(2)[y], np.ones(len(y))
    return lambda: grow(X, Y, w, h, max_depth=DEPTH, min_weight=LEAF, backend=backend)


def growers(n: int, d: int, *, numpy: bool) -> dict[str, Callable[[], Any]]:
    X, y = drawn(n, d)
    found = {"compiled, h = 0.1": grower(X, y, 0.1, "numba"), "compiled, h = 0": grower(X, y, 0.0, "numba")}
    if numpy:
        found |= {"numpy, h = 0.1": grower(X, y, 0.1, "numpy"), "numpy, h = 0": grower(X, y, 0.0, "numpy")}
    tree = DecisionTreeClassifier(max_depth=DEPTH, min_samples_leaf=LEAF, random_state=0)
    return found | {"scikit-learn": lambda: tree.fit(X, y)}


def exponents(low: dict[str, Any], high: dict[str, Any], ratio: float) -> dict[str, float]:
    """Of the CPU time, between two sizes."""
    return {name: math.log(high[name]["cpu"] / low[name]["cpu"]) / math.log(ratio) for name in low if name in high}


def peak(what: str, n: int) -> dict[str, float]:
    """Bytes a row above what is there before, in a process of its own."""
    growers(200, FEATURES, numpy=False)["compiled, h = 0.1"]()
    if what == "whole fit":
        X, y = drawn(n, FEATURES)
        before = peak_bytes()
        FeatureTreeClassifier(random_state=0).fit(X, y)
    else:
        run = growers(n, FEATURES, numpy=False)[what]
        before = peak_bytes()
        run()
    return {"bytes_a_row": (peak_bytes() - before) / n, "rows": n}


def whole_fits() -> dict[str, dict[str, Any]]:
    """Seconds, leaves and accuracy on 5,000 other rows (of whom a tenth have a turned label) of default fits."""
    FeatureTreeClassifier(max_iter=1).fit(*drawn(200, 5))  # compiles
    found = {}
    for n, d, features in FITS:
        X, y = drawn(n + 5000, d)
        name = f"{n} x {d}" + ("" if features == "auto" else f", {features} features")
        model = FeatureTreeClassifier(n_features=features, random_state=0)
        found[name] = timed(model, X[:n], y[:n]) | {"accuracy": float(model.score(X[n:], y[n:]))}
        print(name, found[name], flush=True)
    X, y = load_digits(return_X_y=True)
    model = FeatureTreeClassifier(max_depth=5, random_state=0)
    found["digits"] = timed(model, X, y)
    return found


def timed(model: Any, X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    model.fit(X, y)
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return spent | {"leaves": model.n_leaves_, "weights": model.n_weights_.tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    kinds = ("compiled, h = 0.1", "compiled, h = 0", "scikit-learn")
    # First, while this process is small: the peak of a child begins at what its parent holds.
    memory = {kind: in_fresh_process(__file__, what=kind, n=4 * ROWS) for kind in kinds}
    if not asked.quick:
        memory["whole fit"] = in_fresh_process(__file__, what="whole fit", n=ROWS)
    growth = {"100000 x 30": interleaved(growers(ROWS, FEATURES, numpy=True), asked.repeats)}
    for n, d in ((ROWS // 4, FEATURES), (ROWS, FEATURES // 3), (ROWS, 3 * FEATURES)):
        growth[f"{n} x {d}"] = interleaved(growers(n, d, numpy=False), asked.repeats)
    full = growth["100000 x 30"]
    by_rows = exponents(growth["25000 x 30"], full, 4)
    by_features = exponents(growth["100000 x 10"], growth["100000 x 90"], 9)
    fits = {} if asked.quick else whole_fits()
    holds = (
        all(full[kind]["cpu"] <= MOST for kind in kinds[:2])
        and full["numpy, h = 0.1"]["cpu"] <= MOST_IN_NUMPY
        and all(by_rows[kind] <= MOST_GROWTH for kind in kinds[:2])
        and all(name in fits and fits[name]["cpu"] <= most for name, most in MOST_SECONDS.items())
    )
    report(
        __file__, holds, growth=growth, exponent_of_rows=by_rows, exponent_of_features=by_features, memory=memory,
        whole_fits=fits,
    )  # fmt: skip


if __name__ == "__main__":
    arguments = child_arguments()
    if arguments is None:
        main()
    else:
        print(json.dumps(peak(**arguments)))
