"""Accuracy and time of other libraries' defaults on the sets of `tables.py`, one JSON line a fit.

    OMP_NUM_THREADS=1 python benchmarks/rivals.py rivals.jsonl

Needs lightgbm, xgboost, catboost and xrfm==0.4.5 beside scikit-learn. What the file already holds is skipped, so a run
can be stopped and started again. Each fit runs in a process of its own: one that dies leaves a line with "failure".

Every method has its defaults; what differs is only what it cannot do without. Columns for kernels follow xRFM's own
recommendation: numbers standardised, categories as 0/1 columns that are not; targets of a regression are standardised
for them too (with the training rows), since neither of them fits an intercept. xRFM gets a fifth of the training rows
as its validation set. Kernel ridge stores n x n doubles and solves them: at most 10,000 training rows, random ones.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tables import NAMES, SPLITS, TabularSet, load

KERNEL_RIDGE_ROWS = 10_000
XRFM_SECONDS = 900  # a set whose first fit takes longer gets no second one
METHODS = ("lightgbm", "xgboost", "hist_gradient_boosting", "random_forest", "kernel_ridge", "catboost", "xrfm")
SLOW = ("catboost", "xrfm")
PACKAGES = {method: method for method in ("lightgbm", "xgboost", "catboost", "xrfm")}  # others: scikit-learn
Predict = Callable[[pd.DataFrame], np.ndarray]
load_once = lru_cache(maxsize=None)(load)


class Columns:
    """Numbers (standardised or as they are), then one 0/1 column a level of the training rows."""

    def __init__(self, X: pd.DataFrame, *, standardise: bool):
        self.words = list(X.select_dtypes("category"))
        self.numbers = [c for c in X if c not in self.words]
        self.scaler = StandardScaler(with_mean=standardise, with_std=standardise).fit(
            X[self.numbers].to_numpy(dtype=float)
        )
        self.encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(X[self.words])

    def __call__(self, X: pd.DataFrame) -> np.ndarray:
        numbers = self.scaler.transform(X[self.numbers].to_numpy(dtype=float))
        return np.hstack([numbers, self.encoder.transform(X[self.words])]) if self.words else numbers


class Target:
    """Regression targets standardised for methods without an intercept, and predictions in the units of y."""

    def __init__(self, y: np.ndarray):
        self.mean, self.scale = y.mean(), y.std()

    def forward(self, y: np.ndarray) -> np.ndarray:
        return (y - self.mean) / self.scale

    def backward(self, z: np.ndarray) -> np.ndarray:
        return self.mean + self.scale * z.ravel()


def boosted(method: str, X: pd.DataFrame, y: np.ndarray, task: str, threads: int, seed: int) -> Predict:
    """The four ensembles of trees that read categories themselves, or (random forest) get 0/1 columns."""
    classes = task != "regression"
    columns: Callable[[pd.DataFrame], Any] = lambda X: X  # noqa: E731
    if method == "lightgbm":
        import lightgbm

        kind = lightgbm.LGBMClassifier if classes else lightgbm.LGBMRegressor
        model = kind(n_jobs=threads, verbosity=-1)
    elif method == "xgboost":
        import xgboost

        kind = xgboost.XGBClassifier if classes else xgboost.XGBRegressor
        model = kind(n_jobs=threads, enable_categorical=True)
    elif method == "catboost":
        import catboost

        kind = catboost.CatBoostClassifier if classes else catboost.CatBoostRegressor
        words = list(X.select_dtypes("category"))
        model = kind(thread_count=threads, cat_features=words, verbose=False, allow_writing_files=False)
    elif method == "hist_gradient_boosting":
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
        model = kind(categorical_features="from_dtype", random_state=seed)
    else:
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        kind = RandomForestClassifier if classes else RandomForestRegressor
        model, columns = kind(n_jobs=threads, random_state=seed), Columns(X, standardise=False)
    model.fit(columns(X), y)
    predict = model.predict_proba if classes else model.predict
    return lambda X: predict(columns(X))


def kernel_ridge(X: pd.DataFrame, y: np.ndarray, task: str) -> Predict:
    """Laplacian kernel ridge without feature learning; for classes on 0/1 targets, whose largest output wins."""
    columns, model = Columns(X, standardise=True), KernelRidge(kernel="laplacian")
    if task != "regression":
        model.fit(columns(X), np.eye(y.max() + 1)[y])
        return lambda X: model.predict(columns(X))
    target = Target(y)
    model.fit(columns(X), target.forward(y))
    return lambda X: target.backward(model.predict(columns(X)))


def xrfm(X: pd.DataFrame, y: np.ndarray, task: str, seed: int) -> Predict:
    """`xRFM()` as it stands, with its documented preprocessing; a fifth of the rows for validation."""
    import torch
    from xrfm import xRFM

    classes = task != "regression"
    strata = y if classes else None
    train, held = train_test_split(np.arange(len(y)), test_size=0.2, random_state=seed, stratify=strata)
    columns, target = Columns(X.iloc[train], standardise=True), Target(y[train])

    def targets(rows: np.ndarray) -> Any:
        return torch.as_tensor(y[rows]) if classes else torch.as_tensor(target.forward(y[rows]), dtype=torch.float32)

    model = xRFM(categorical_info=categorical_info(columns), random_state=seed, verbose=False)
    model.fit(columns(X.iloc[train]), targets(train), columns(X.iloc[held]), targets(held))
    if classes:
        return lambda X: model.predict_proba(columns(X))
    return lambda X: target.backward(model.predict(columns(X)))


def categorical_info(columns: Columns) -> dict[str, Any] | None:
    """Which columns belong together, in the form that xRFM documents (its default kernel makes no use of it)."""
    import torch

    if not columns.words:
        return None
    sizes = [len(levels) for levels in columns.encoder.categories_]
    ends = len(columns.numbers) + np.cumsum(sizes)
    return {
        "numerical_indices": torch.arange(len(columns.numbers)),
        "categorical_indices": [torch.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)],
        "categorical_vectors": [torch.eye(size) for size in sizes],
    }


def errors(method: str, task: str, y: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """RMSE / std(y) of the test rows, or 1 - accuracy; log loss of probabilities and 1 - AUC where they exist."""
    if task == "regression":
        return {"error": float(np.sqrt(np.mean((predicted.ravel() - y) ** 2)) / y.std())}
    result = {"error": float(np.mean(predicted.argmax(1) != y))}
    if method != "kernel_ridge":
        shares = predicted.astype(float) / predicted.sum(1, keepdims=True, dtype=float)
        result["log_loss"] = float(log_loss(y, shares, labels=np.arange(predicted.shape[1])))
    if task == "binary":
        result["one_minus_auc"] = float(1 - roc_auc_score(y, predicted[:, 1] - predicted[:, 0]))
    return result


def measure(data: TabularSet, split: int, method: str, threads: int) -> dict[str, Any]:
    """One fit and one prediction of the test rows."""
    train, test = data.splits[split]
    record: dict[str, Any] = {"train_rows": len(train), "test_rows": len(test)}
    if method == "kernel_ridge" and len(train) > KERNEL_RIDGE_ROWS:
        train = np.random.default_rng(split).choice(train, KERNEL_RIDGE_ROWS, replace=False)
        record |= {"train_rows": KERNEL_RIDGE_ROWS, "note": f"{KERNEL_RIDGE_ROWS} random training rows"}
    X, y, task = data.X.iloc[train], data.y[train], data.task
    importlib.import_module(PACKAGES.get(method, "sklearn.ensemble"))  # loading a library is not fitting
    start, cpu = time.perf_counter(), time.process_time()
    if method == "kernel_ridge":
        predict = kernel_ridge(X, y, task)
    elif method == "xrfm":
        predict = xrfm(X, y, task, split)
    else:
        predict = boosted(method, X, y, task, threads, split)
    record |= {"fit_seconds": time.perf_counter() - start, "fit_cpu_seconds": time.process_time() - cpu}
    start = time.perf_counter()
    predicted = predict(data.X.iloc[test])
    record["predict_seconds"] = time.perf_counter() - start
    return errors(method, task, data.y[test], predicted) | record


def in_own_process(data: TabularSet, split: int, method: str, threads: int) -> dict[str, Any]:
    """`measure` in a fork, whose death (out of memory, an exception) becomes a record as well."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(measure(data, split, method, threads)))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        child.join()
        return {"failure": f"the process ended with exit code {child.exitcode}"}
    finally:
        child.join()


def jobs() -> Iterator[tuple[str, int, str]]:
    """Split by split, cheap before slow; CatBoost on 26 classes and xRFM on the largest sets at the very end."""

    def cost(job: tuple[str, int, str]) -> tuple[Any, ...]:
        name, split, method = job
        n = len(load_once(name).y)
        last = (name, method) == ("letter", "catboost") or (method == "xrfm" and n > 20_000)  # the longest
        return last, split, method in SLOW, n, METHODS.index(method)

    every = [(name, split, method) for name in NAMES for split in range(SPLITS) for method in METHODS]
    return iter(sorted(every, key=cost))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit every rival with its defaults; append one JSON line a fit.")
    parser.add_argument("records", type=Path)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    arguments = parser.parse_args()
    path = arguments.records
    if "OMP_NUM_THREADS" not in os.environ:
        raise SystemExit("OMP_NUM_THREADS is unset, but expected the number of threads for every method: set it.")
    threads = int(os.environ["OMP_NUM_THREADS"])
    lines = path.read_text().splitlines() if path.exists() else []
    done = {(r["set"], r["split"], r["method"]): r for r in map(json.loads, lines)}
    for name, split, method in jobs():
        first = done.get((name, 0, method), {})
        if method == "xrfm" and split and ("failure" in first or first.get("fit_seconds", 0) > XRFM_SECONDS):
            continue
        if (name, split, method) in done or method not in arguments.methods:
            continue
        data, package = load_once(name), PACKAGES.get(method, "scikit-learn")
        record = {"set": name, "task": data.task, "split": split, "method": method}
        record |= {"version": importlib.metadata.version(package), "threads": threads}
        record |= in_own_process(data, split, method, threads)
        done[name, split, method] = record
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
