"""A tree of recursive feature machines on 30,000 to 1,000,000 rows of a memory map: time, memory and error by rows.

Targets: a smooth function of five of 20 standard normal columns, with one product, and noise of variance .01; all
defaults of the tree, one leaf a core at a time. Gradient-boosted trees (HistGradientBoostingRegressor, its defaults) on
the same rows beside it. Every fit in a process of its own. Holds if, between the two largest, the time grows no faster
than rows^1.1, and the error on 20,000 other rows is no larger than that of the boosted trees.

Bound by: the fits of the leaves, each of which is products with kernel matrices of up to 10,000 rows. The
choices that all leaves share take the same time whatever the number of rows, and are measured apart, by a tree of as
many rows as one leaf holds.

Arguments: --rows, row counts (default 30000 100000 300000 1000000); --jobs, leaves at a time (default: one a core);
--leaf, most rows of one (default 10000, as that of the tree).
"""

import argparse
import json
import math
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from joblib.externals.loky import get_reusable_executor
from measuring import MEGABYTE, child_arguments, in_fresh_process, peak_bytes, report

ROWS = (30_000, 100_000, 300_000, 1_000_000)
D, TEST, LEAF, NOISE = 20, 20_000, 10_000, 0.1
CHUNK = 100_000
MOST = 1.1  # exponent of the time in the number of rows


def target(X: np.ndarray) -> np.ndarray:
    """Mean of y given the row: variance about 1.7."""
    return np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + np.exp(-(X[:, 3] ** 2)) + 0.5 * np.abs(X[:, 4])


def write(folder: str, n: int) -> None:
    """Rows and targets for training, then TEST more, as float32 files; chunk by chunk."""
    total = n + TEST
    X = np.lib.format.open_memmap(Path(folder) / "X.npy", "w+", np.float32, (total, D))
    y = np.lib.format.open_memmap(Path(folder) / "y.npy", "w+", np.float32, (total,))
    for start in range(0, total, CHUNK):
        random = np.random.default_rng([0, start])
        rows = slice(start, min(start + CHUNK, total))
        X[rows] = random.normal(size=(rows.stop - start, D))
        y[rows] = target(X[rows].astype(np.float64)) + NOISE * random.normal(size=rows.stop - start)
    X.flush()
    y.flush()


def child(contestant: str, folder: str, n: int, jobs: int, leaf: int) -> dict[str, object]:
    X, y = (np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in ("X", "y"))
    test = slice(len(X) - TEST, None)
    if contestant == "tree":
        from featlearn import RFMRegressor, RFMTreeRegressor

        # Imports and compiled loops are warmed up on a small problem.
        RFMTreeRegressor(RFMRegressor(max_iter=1, alpha=1.0, selection=None), max_leaf_size=100).fit(X[:150], y[:150])
        model = RFMTreeRegressor(max_leaf_size=leaf, n_jobs=jobs, random_state=0)
    else:
        from sklearn.ensemble import HistGradientBoostingRegressor

        HistGradientBoostingRegressor(max_iter=1).fit(X[:150], y[:150])
        model = HistGradientBoostingRegressor(random_state=0)
    before, spent = peak_bytes(), seconds()
    model.fit(X[:n], y[:n])
    wall = time.perf_counter() - spent[0]
    get_reusable_executor().shutdown(wait=True)  # workers count once they have ended
    cpu = seconds()[1] - spent[1]
    found = {"fit wall": wall, "fit cpu": cpu, "megabytes": (peak_bytes() - before) / MEGABYTE}
    found["megabytes of a worker"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / MEGABYTE
    start = time.perf_counter()
    error = float(np.mean((model.predict(X[test]) - y[test]) ** 2))
    found |= {"predict wall": time.perf_counter() - start, "error": error}
    if contestant == "tree":
        found |= {"leaves": len(model.leaves_), "temperature": model.temperature_}
    return found


def seconds() -> tuple[float, float]:
    """Wall and CPU clock, the latter with all workers that have ended."""
    spent = os.times()
    return time.perf_counter(), spent.user + spent.system + spent.children_user + spent.children_system


def exponent(runs: list[dict], contestant: str) -> float:
    """Of the wall time in the number of rows, between the two largest."""
    low, high = runs[-2:]
    return math.log(high[contestant]["fit wall"] / low[contestant]["fit wall"]) / math.log(high["rows"] / low["rows"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--leaf", type=int, default=LEAF)
    asked = parser.parse_args()
    runs = []
    for n in sorted(asked.rows):
        with tempfile.TemporaryDirectory() as folder:
            write(folder, n)
            entry = {"rows": n}
            for contestant in ("tree", "boosted trees"):
                entry[contestant] = in_fresh_process(
                    __file__, contestant=contestant, folder=folder, n=n, jobs=asked.jobs, leaf=asked.leaf
                )
            if not runs:
                one = in_fresh_process(
                    __file__, contestant="tree", folder=folder, n=min(asked.leaf, n), jobs=asked.jobs, leaf=asked.leaf
                )
        runs.append(entry)
        print(json.dumps(entry), flush=True)
    growth = {name: exponent(runs, name) for name in ("tree", "boosted trees")} if len(runs) > 1 else {}
    largest = runs[-1]
    better = largest["tree"]["error"] <= largest["boosted trees"]["error"]
    holds = better and bool(growth) and growth["tree"] <= MOST
    report(
        __file__, holds, runs=runs, one_leaf_with_all_choices=one, exponent_of_rows=growth, jobs=asked.jobs,
        leaf=asked.leaf, variance_of_noise=NOISE**2,
        error_ratio=largest["tree"]["error"] / largest["boosted trees"]["error"],
    )  # fmt: skip


if __name__ == "__main__":
    arguments = child_arguments()
    if arguments is None:
        main()
    else:
        print(json.dumps(child(**arguments)))
