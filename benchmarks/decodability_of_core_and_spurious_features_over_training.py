"""How well a small CNN's features tell the core and the spurious attribute, epoch by epoch, beside two controls.

Dominoes of Fashion-MNIST (trouser or boot above pullover or coat) with correlation 1, .95 and .5 in training, and items
on striped backgrounds with the group sizes of Waterbirds. ERM for ten epochs; probes on the penultimate features are
fitted on held-out rows (dominoes: 500 of every group) and scored on test rows by their worst group. A seed is the draw
of the data, the initial weights and the order. The network's own start ("epoch 0"), another draw of its weights
("init") and the pixels are controls. The probe is the library's default, with an L1 penalty; beside it stands logistic
regression without a penalty, which also finds what is there at a small scale.

The claim: whether the core feature is learned depends on the correlation. It holds if, by two standard errors over the
seeds, the core attribute is less decodable after ten epochs at correlation 1 than from the same network before training
(suppressed), and more decodable than from either control at .95 and .5 (learned).

Needs the full Fashion-MNIST; without it digits are used, which are too few for the claim. About ten minutes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from measuring import report
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from spurious import EPOCHS, batches, cnn, mean_and_error, predicted, state_of, train

from featlearn import extract_features, feature_probe, probe_model
from featlearn.datasets import SpuriousDataset, make_dominoes, make_waterbirds_like
from featlearn.robust.probe_results import FeatureProbe

SEEDS = range(5)
SHOWN = (0, 1, 2, 3, 5, 10)
SETS: dict[str, Callable[..., SpuriousDataset]] = {
    **{f"dominoes, correlation {rho:g}": partial(make_dominoes, "auto", correlation=rho) for rho in (1.0, 0.95, 0.5)},
    "items on stripes": partial(make_waterbirds_like, "auto"),
}
VALUES = ("core_wga", "core_mean", "spurious_wga", "spurious_mean")
FIRST, LAST = "epoch 0", f"epoch {EPOCHS}"


class Run(NamedTuple):
    """One network: probes, probes without a penalty, and its own worst group by epoch."""

    probed: FeatureProbe
    without_penalty: FeatureProbe
    own: dict[str, float]


def one(data: SpuriousDataset, seed: int) -> Run:
    """Both probes of the shown epochs, and the worst group of the network's own predictions."""
    net = cnn(data.train.X.shape[1:], seed)
    states, own = {FIRST: state_of(net)}, {}
    for epoch in train(net, data.train, "ERM", seed):
        if epoch in SHOWN:
            right = predicted(net, data.test.X) == data.test.y
            states[f"epoch {epoch}"] = state_of(net)
            own[f"epoch {epoch}"] = min(float(right[data.test.groups == group].mean()) for group in range(4))
    held, test = batches(data.validation), batches(data.test)
    probed = probe_model(net, held, test, checkpoints=states, random_state=seed)
    return Run(probed, unpenalised(data, seed, {name: states[name] for name in (FIRST, LAST)}), own)


def unpenalised(data: SpuriousDataset, seed: int, states: dict[str, Any]) -> FeatureProbe:
    """The same by logistic regression without a penalty; no controls, which have more features than rows."""
    net, found = cnn(data.train.X.shape[1:], seed), []
    for split in (data.validation, data.test):
        features = {}
        for name, state in states.items():
            net.load_state_dict(state)
            features[name] = extract_features(net, torch.from_numpy(split.X).split(500))
        found += [features, split.y, split.s]
    head = make_pipeline(StandardScaler(), LogisticRegression(C=np.inf, max_iter=20_000))
    return feature_probe(*found, probe=head, baselines=False, random_state=seed)


def summary(runs: list[Run]) -> dict[str, Any]:
    """Means and standard errors over seeds; differences are paired."""
    tables, plain = [run.probed.table for run in runs], [run.without_penalty.table for run in runs]

    def over_seeds(of: list[Any], name: str) -> dict[str, Any]:
        return {key: mean_and_error([table.loc[name, key] for table in of]) for key in VALUES}

    def gain(of: list[Any], key: str, control: str) -> dict[str, float]:
        return mean_and_error([table.loc[LAST, key] - table.loc[control, key] for table in of])

    features = {name: over_seeds(tables, name) for name in tables[0].index}
    for name in runs[0].own:
        features[name]["worst group of the network itself"] = mean_and_error([run.own[name] for run in runs])
    first = runs[0].probed
    return {
        "features": features,
        "after training minus control": {
            key: {control: gain(tables, key, control) for control in ("pixels", "init", FIRST)}
            for key in ("core_wga", "spurious_wga")
        },
        "without a penalty": {name: over_seeds(plain, name) for name in (FIRST, LAST)},
        "without a penalty, after training minus before": {
            key: gain(plain, key, FIRST) for key in ("core_wga", "spurious_wga")
        },
        "probe": first.probe,
        "rows_of_the_smallest_group_fitted": first.n_per_group,
        "test_rows_of_groups": first.groups,
        "core_wga of each seed": {name: [table.loc[name, "core_wga"] for table in tables] for name in features},
    }


def holds(results: dict[str, Any]) -> bool:
    """As said above."""

    def sure(rho: float, control: str, sign: int) -> bool:
        gain = results[f"dominoes, correlation {rho:g}"]["after training minus control"]["core_wga"][control]
        return bool(sign * gain["mean"] > 2 * gain["standard_error"])

    learned = [sure(rho, control, 1) for rho in (0.95, 0.5) for control in ("pixels", "init")]
    return sure(1.0, FIRST, -1) and all(learned)


def main() -> None:
    torch.set_num_threads(1)
    results, seconds = {}, {}
    sources = set()
    for name, make in SETS.items():
        begun, runs = time.process_time(), []
        for seed in SEEDS:
            data = make(random_state=seed)
            sources.add(data.source)
            runs.append(one(data, seed))
            print(
                name,
                seed,
                runs[-1].probed.table[list(VALUES)].round(3),
                runs[-1].own,
                sep="\n",
                file=sys.stderr,
                flush=True,
            )
        results[name] = summary(runs)
        seconds[name] = (time.process_time() - begun) / len(SEEDS)
    report(
        __file__,
        holds(results),
        sets=results,
        source=sorted(sources),
        seeds=len(SEEDS),
        cpu_seconds_of_a_seed=seconds,
    )


if __name__ == "__main__":
    main()
