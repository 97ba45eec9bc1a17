"""Test errors with nothing but defaults, on 14 tables with 5 splits each, against seven other methods with theirs.

    FEATLEARN_DATA=... OMP_NUM_THREADS=1 python benchmarks/defaults_have_the_best_mean_rank_on_fourteen_tables.py FITS

FITS holds one JSON line a fit: those of `tabular_rivals.py`, to which this script appends the fits of featlearn that
are missing (cheap sets first; `--splits 1` for the first split alone), and which it then ranks. Nothing is tuned on
test rows.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pandas as pd
from measuring import report
from tabular_rivals import errors, load_once
from tabular_sets import NAMES, SPLITS

import featlearn

OURS = "featlearn"


def fit(name: str, split: int) -> dict[str, object]:
    data = load_once(name)
    train, test = data.splits[split]
    machine = (featlearn.RFMRegressor if data.task == "regression" else featlearn.RFMClassifier)(random_state=split)
    start, cpu = time.perf_counter(), time.process_time()
    machine.fit(data.X.iloc[train], data.y[train])
    spent = {"fit_seconds": time.perf_counter() - start, "fit_cpu_seconds": time.process_time() - cpu}
    start = time.perf_counter()
    X = data.X.iloc[test]
    predicted = machine.predict(X) if data.task == "regression" else machine.predict_proba(X)
    spent["predict_seconds"] = time.perf_counter() - start
    best = machine.selection_.best
    chosen = {key: best[key] for key in ("kernel", "columns", "power", "iteration", "alpha")}
    return {
        "set": name, "task": data.task, "split": split, "method": OURS, "version": featlearn.__version__,
        **errors(OURS, data.task, data.y[test], predicted), **spent, "train_rows": len(train), "chosen": chosen,
    }  # fmt: skip


def ranked(records: list[dict[str, object]]) -> dict[str, object]:
    """Mean errors and ranks over the sets and splits on which every method that is ranked has a fit."""
    table = pd.DataFrame([record for record in records if "error" in record])
    wide = table.pivot_table(index=["set", "split"], columns="method", values="error")
    complete = wide.dropna()
    ranks = complete.rank(axis=1)
    by_set = complete.groupby("set").mean()
    log_losses = table.pivot_table(index=["set", "split"], columns="method", values="log_loss").groupby("set").mean()
    return {
        "compared": [list(pair) for pair in complete.index],
        "mean_rank": ranks.mean().sort_values().to_dict(),
        "mean_rank_of_sets": by_set.rank(axis=1).mean().sort_values().to_dict(),
        "wins": (ranks == 1).sum().to_dict(),
        "error_over_best": complete.div(complete.min(axis=1), axis=0).groupby("set").mean().mean().to_dict(),
        "mean_errors": {name: row.to_dict() for name, row in wide.groupby("set").mean().iterrows()},
        "log_losses": {name: row.dropna().to_dict() for name, row in log_losses.iterrows()},
        "fit_cpu_seconds": {
            name: row.dropna().to_dict()
            for name, row in table.pivot_table(index="set", columns="method", values="fit_cpu_seconds").iterrows()
        },
        "where_another_is_better": {
            name: by_set.loc[name].sort_values().head(3).to_dict()
            for name in by_set.index
            if by_set.loc[name].idxmin() != OURS
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fits", type=Path)
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--sets", nargs="*", default=NAMES)
    arguments = parser.parse_args()
    lines = arguments.fits.read_text().splitlines() if arguments.fits.exists() else []
    records = [json.loads(line) for line in lines]
    done = {(record["set"], record["split"]) for record in records if record["method"] == OURS}
    wanted = [(name, split) for split in range(arguments.splits) for name in arguments.sets]
    for name, split in sorted(wanted, key=lambda job: (job[1], len(load_once(job[0]).y))):
        if (name, split) in done:
            continue
        record = fit(name, split)
        records.append(record)
        with arguments.fits.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)
    found = ranked(records)
    best = min(found["mean_rank"], key=found["mean_rank"].get) if found["mean_rank"] else None
    report(__file__, best == OURS and len(found["compared"]) == len(NAMES) * SPLITS, **found)


if __name__ == "__main__":
    main()
