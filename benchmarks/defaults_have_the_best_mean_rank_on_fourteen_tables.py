"""Test errors with nothing but defaults, on 14 tables with 5 splits each, against seven other methods with theirs.

    FEATLEARN_DATA=... OMP_NUM_THREADS=1 python benchmarks/rivals.py results/fits_on_fourteen_tables.jsonl
    FEATLEARN_DATA=... OMP_NUM_THREADS=1 python benchmarks/defaults_have_the_best_mean_rank_on_fourteen_tables.py

The file holds one JSON line a fit: those of `rivals.py`, to which this script appends the fits of featlearn that are
missing (cheap sets first; `--splits 1` for the first split alone), and which it then ranks. Nothing is tuned on test
rows.

"featlearn, four kernels" are fits from before the Gaussian kernel joined the race: of more splits, and beside the
others, to tell what it changed. They are ranked apart.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pandas as pd
from measuring import RESULTS, report
from rivals import errors, load_once
from tables import NAMES, SPLITS

import featlearn

OURS = "featlearn"
FOUR = "featlearn, four kernels"


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
    """Mean ranks, once of every method on the sets that all of them were fitted to, once on every set.

    A method that could not be fitted to some set (time or memory) is left out of the second.
    """
    table = pd.DataFrame([record for record in records if "error" in record])
    wide = table.pivot_table(index=["set", "split"], columns="method", values="error")
    means = {
        column: {
            name: row.dropna().to_dict()
            for name, row in table.pivot_table(index="set", columns="method", values=column).iterrows()
        }
        for column in ("error", "log_loss", "fit_cpu_seconds")
    }
    ours = [name for name in (OURS, FOUR) if name in wide]
    return {
        **{name: ranked_with(wide.drop(columns=[other for other in ours if other != name]), name) for name in ours},
        "both": {name: column.to_dict() for name, column in wide[ours].dropna().groupby("set").mean().items()},
        "means": means,
        "failures": [record for record in records if "failure" in record],
    }


def ranked_with(wide: pd.DataFrame, ours: str) -> dict[str, object]:
    """With every method, and on every set that ``ours`` was fitted to."""
    wide = wide.dropna(subset=[ours])
    everywhere = wide.loc[:, (wide.groupby("set").count() > 0).all()]
    return {"every_method": ranking(wide.dropna(), ours), "every_set": ranking(everywhere.dropna(), ours)}


def ranking(complete: pd.DataFrame, ours: str) -> dict[str, object]:
    """Of the methods (columns) on sets and splits (rows) that each has an error of; ranks are of means over splits."""
    errors = complete.groupby("set").mean()
    ranks = errors.rank(axis=1)
    return {
        "sets": complete.groupby("set").size().to_dict(),
        "mean_rank": ranks.mean().sort_values().to_dict(),
        "mean_rank_of_single_splits": complete.rank(axis=1).mean().sort_values().to_dict(),
        "wins": (ranks == 1).sum().to_dict(),
        "error_over_best": errors.div(errors.min(axis=1), axis=0).mean().sort_values().to_dict(),
        "where_another_is_better": {
            name: row.sort_values().head(3).to_dict() for name, row in errors.iterrows() if row.idxmin() != ours
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fits", type=Path, nargs="?", default=RESULTS / "fits_on_fourteen_tables.jsonl")
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
    parts = found[OURS]
    holds = all(min(part["mean_rank"], key=part["mean_rank"].get) == OURS for part in parts.values())
    holds = holds and parts["every_set"]["sets"] == dict.fromkeys(NAMES, SPLITS)
    report(__file__, holds, **found)


if __name__ == "__main__":
    main()
