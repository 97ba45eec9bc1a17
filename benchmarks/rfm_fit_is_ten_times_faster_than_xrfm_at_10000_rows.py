"""One fit of a recursive feature machine against xRFM 0.4.5 on CPU: time, error, peak memory.

Same kernel (Laplace, bandwidth 10), ridge 1e-3 and 5 steps; then ours with power 1/2, with power 1/2 and a metric
learned on half the rows, and with all defaults, which also choose. Targets: x0 x1 + sin x2 of standard normal rows, and
its ten quantile classes. Every fit in a process of its own. Needs xrfm==0.4.5. Bound by: products of the kernel matrix
with the right-hand sides, and the matrix product of the AGOP.

Arguments: row counts (default 1000 3000 10000).
"""

import math
import sys
import time

import numpy as np
from measuring import MEGABYTE, child_arguments, in_fresh_process, peak_bytes, report

TEST, VALIDATION = 2000, 500
CONTESTANTS = ("xrfm", "same algorithm", "power 1/2", "power 1/2, half the rows", "defaults")


def data(n: int, d: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).normal(size=(n + TEST + VALIDATION, d)).astype(np.float32)
    y = X[:, 0] * X[:, 1] + np.sin(X[:, 2])
    if outputs > 1:
        y = np.searchsorted(np.quantile(y[:n], np.arange(1, outputs) / outputs), y)
    return X, y


def fit_ours(contestant, X, y, outputs):
    from featlearn import RFMClassifier, RFMRegressor
    from featlearn.machines.columns import Columns

    kind = RFMRegressor if outputs == 1 else RFMClassifier
    settings = {}
    if contestant != "defaults":
        settings = {"kernel": "laplace", "bandwidth": 10.0, "alpha": 1e-3, "max_iter": 5, "selection": None}
        settings |= {"power": 1.0 if contestant == "same algorithm" else 0.5, "columns": Columns(standardize=False)}
    if contestant.endswith("half the rows"):
        settings["metric_samples"] = len(X) // 2
    return kind(random_state=0, **settings).fit(X, y).predict


def fit_xrfm(X, y, X_val, y_val, outputs):
    import torch
    from xrfm import xRFM

    parameters = {
        "model": {"kernel": "l2", "bandwidth": 10.0, "exponent": 1.0, "diag": False, "bandwidth_mode": "constant"},
        "fit": {"reg": 1e-3, "iters": 5, "verbose": False},
    }
    model = xRFM(rfm_params=parameters, random_state=0, verbose=False)
    dtype = torch.float32 if outputs == 1 else torch.int64
    pair = [torch.as_tensor(values, dtype=dtype) for values in (y, y_val)]
    model.fit(torch.as_tensor(X), pair[0], torch.as_tensor(X_val), pair[1])
    return lambda Z: np.asarray(model.predict(torch.as_tensor(Z))).ravel()


def child(contestant: str, n: int, d: int, outputs: int) -> dict[str, float]:
    X, y = data(n, d, outputs)
    test, val = slice(n, n + TEST), slice(n + TEST, None)
    # Imports, compiled loops and thread pools are warmed up on a small problem.
    small = data(120, 5, outputs)
    if contestant == "xrfm":
        fit = lambda X, y: fit_xrfm(X[:-20], y[:-20], X[-20:], y[-20:], outputs)  # noqa: E731
    else:
        fit = lambda X, y: fit_ours(contestant, X, y, outputs)  # noqa: E731
    fit(*(part[:120] for part in small))
    before = peak_bytes()
    wall, cpu = time.perf_counter(), time.process_time()
    rival = contestant == "xrfm"
    predict = fit_xrfm(X[:n], y[:n], X[val], y[val], outputs) if rival else fit(X[:n], y[:n])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = predict(X[test])
    error = float(np.mean((found - y[test]) ** 2) if outputs == 1 else np.mean(found != y[test]))
    return {"wall": wall, "cpu": cpu, "error": error, "megabytes": (peak_bytes() - before) / MEGABYTE}


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [1000, 3000, 10_000]
    runs = []
    for outputs in (1, 10):
        for d in (20, 100):
            for n in sizes:
                entry = {"n": n, "d": d, "outputs": outputs}
                for contestant in CONTESTANTS:
                    entry[contestant] = in_fresh_process(__file__, contestant=contestant, n=n, d=d, outputs=outputs)
                rival = entry["xrfm"]
                entry["ratios"] = {
                    name: {
                        "times faster (wall)": rival["wall"] / entry[name]["wall"],
                        "times faster (cpu)": rival["cpu"] / entry[name]["cpu"],
                        "error ratio": entry[name]["error"] / rival["error"],
                        "memory ratio": entry[name]["megabytes"] / rival["megabytes"],
                    }
                    for name in CONTESTANTS[1:]
                }
                runs.append(entry)
                print(n, d, outputs, entry["ratios"], flush=True)
    target = next((run for run in runs if (run["n"], run["d"], run["outputs"]) == (max(sizes), 100, 1)), runs[-1])
    same = target["ratios"]["same algorithm"]
    holds = same["times faster (wall)"] >= 10 and same["error ratio"] <= 1.02 and same["memory ratio"] <= 0.6
    report(__file__, holds, runs=runs, growth=growth(runs, sizes))


def growth(runs, sizes) -> dict[str, float]:
    """Exponents of wall time in n (largest two sizes, d = 100, one output) and in d (largest n)."""
    at = {(run["n"], run["d"], run["outputs"]): run for run in runs}
    exponents = {}
    for name in CONTESTANTS:
        if len(sizes) > 1:
            low, high = (at[n, 100, 1][name]["wall"] for n in sizes[-2:])
            exponents[f"{name}, in n"] = math.log(high / low) / math.log(sizes[-1] / sizes[-2])
        few, many = (at[sizes[-1], d, 1][name]["wall"] for d in (20, 100))
        exponents[f"{name}, in d"] = math.log(many / few) / math.log(5)
    return exponents


if __name__ == "__main__":
    arguments = child_arguments()
    if arguments is None:
        main()
    else:
        import json

        print(json.dumps(child(**arguments)))
