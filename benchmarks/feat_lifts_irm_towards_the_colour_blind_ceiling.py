"""Heads for new environments on features of plain training and of rounds, beside what a colour-blind model reaches.

Coloured Fashion-MNIST, 10,000 training rows, five seeds (draw of the data, initial weights). Colour predicts the label
better than shape does in training where label noise is .25 (colour noise .1 and .2), and worse where it is .1 (.2 and
.25). Positive are shoes.

The claim was made before the run. It holds if, at label noise .25, IRMv1 and V-REx on two rounds of FeAT exceed the
same heads on features of plain training at colour noise .9 (reversed) by two standard errors of the difference, paired
by seed; and if whatever exceeds there the colour-blind ceiling by three sampling errors is better there than at colour
noise .1, which makes it a predictor that bets against the colour. At label noise .1 FeAT is expected to add nothing.
Other starts, other rows and heads without further training were added after two seeds, to see where the gain is from.
The row of ERM for twice as many steps was added then, too: after two seeds had been seen.

- Features, frozen: two layers of 128 ReLUs; ERM (one round of 150 steps), ERM for as many steps as two rounds have,
  FeAT in up to three rounds with the default stop margin, FeAT in two with margin 0, the untrained network. Where the
  third round is rejected, and that alone, both kinds of FeAT are one, and its seconds include that round.
- Heads: 600 steps of Adam from the features' own head (untrained: from logistic regression), on the rows that trained
  the features. Two of them also from logistic regression on all features, and one from random weights, since the start
  matters; and "other rows", on as many that the features have not seen, which tells features that lack the shape from
  features that know the noisy labels of their own rows.
- No further training: the own head (mean of those of the rounds), and that of the last round, which was not told the
  environments.
- Oracle: ERM on images without their colour.
- Constants are those of the test in ``tests/claims``, the same everywhere; no rows choose them. What the held-out rows
  of the training environments would have chosen among all heads is shown beside; test rows choose nothing.

Seconds are CPU seconds of features and head, of one thread. Needs the original files of Fashion-MNIST.

    python feat_lifts_irm_towards_the_colour_blind_ceiling.py [runs.jsonl]

Finished draws are appended to the file, if there is one, and not run again. Twenty minutes of one busy core.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from measuring import report
from numpy.typing import NDArray
from spurious import mean_and_error
from torch import nn

from featlearn.datasets import Split, SpuriousDataset, load_fashion_mnist, make_colored
from featlearn.exceptions import FeatlearnWarning
from featlearn.robust.feat import FeATPretrainer
from featlearn.robust.ood import OODHead

SEEDS, ROWS, WIDTH, STEPS = range(5), 10_000, 128, 150
HEAD: dict[str, Any] = {"alpha": 5e-4, "max_iter": 600, "learning_rate": 1e-3}
SETTINGS: dict[str, dict[str, Any]] = {
    "label noise 0.25": {"rule": "footwear", "label_noise": 0.25, "train_noise": (0.1, 0.2)},
    "label noise 0.1": {"rule": "footwear", "label_noise": 0.1, "train_noise": (0.2, 0.25)},
}
HEADS: dict[str, dict[str, Any]] = {
    "ERM": {"objective": "erm"},
    "IRM": {"objective": "irm", "penalty_weight": 5e3},
    "V-REx": {"objective": "vrex", "penalty_weight": 1e4},
    "IRMX": {"objective": "irmx", "penalty_weight": (5e3, 1e4)},
    "group DRO": {"objective": "groupdro"},
    "IRM, random start": {"objective": "irm", "penalty_weight": 5e3, "init": "random"},
}
CLAIMED, FEW, MANY = ("IRM", "V-REx"), ("ERM", "IRM", "V-REx"), tuple(HEADS)
LOGISTIC, OTHER = ", logistic start", ", other rows"
HEADS |= {how + LOGISTIC: HEADS[how] | {"init": "erm"} for how in CLAIMED}
HEADS |= {how + OTHER: HEADS[how] for how in CLAIMED}
PLAIN, LONGER, TWO, MORE = "ERM", "ERM, twice as long", "FeAT, two rounds", "FeAT, up to three rounds"
UNTRAINED, ORACLE = "untrained", "oracle: ERM without colour"
HEADS_ON = {LONGER: FEW, UNTRAINED: MANY, ORACLE: ("ERM",)}  # of the others all
OWN, LAST = "own head", "head of the last round"
TRAINING, REVERSED = "training environments", "e=0.9"


class Draw(NamedTuple):
    """Rows that train features, rows that do not, and rows to test on: held out, and at each colour noise."""

    train: Split
    other: Split
    tests: dict[str, Split]


class Features(NamedTuple):
    """Frozen features of the same rows, a head to start from, and what they took."""

    train: NDArray[Any]
    other: NDArray[Any]
    tests: dict[str, NDArray[Any]]
    head: tuple[NDArray[Any], NDArray[Any]] | None
    seconds: float


def network(inputs: int, draws: torch.Generator) -> nn.Sequential:
    layers = [nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, WIDTH)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight, generator=draws)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU())


def without_colour(X: NDArray[np.float32]) -> NDArray[np.float32]:
    return X.reshape(len(X), 2, -1).sum(axis=1)


# --- one draw ---------------------------------------------------------------------------------------------------------


def draw(images: Any, setting: dict[str, Any], seed: int) -> dict[str, Any]:
    """Accuracies of every head on all features, in training environments and at each colour noise."""
    data = make_colored(images, **setting, n_train=ROWS, flat=True, random_state=seed)
    made = Draw(data.train, other_rows(images, setting, seed, data), {TRAINING: data.validation, **data.environments})
    rows: dict[str, dict[str, Any]] = {}
    rounds: dict[str, Any] = {}

    def learn(name: str, **options: Any) -> FeATPretrainer:
        X = without_colour(data.train.X) if name == ORACLE else data.train.X
        machine = FeATPretrainer(lambda draws: network(X.shape[1], draws), random_state=seed, **options)
        begun = time.process_time()
        machine.fit(X, data.train.y)
        spent = time.process_time() - begun
        rounds[name] = told(machine)
        features = features_of(machine, made, spent, colour=name != ORACLE)
        rows[name] = {how: trained(how, features, made, seed) for how in HEADS_ON.get(name, HEADS)}
        rows[name] |= {
            OWN: untouched(machine.head_, features, made),
            LAST: untouched(machine.heads_[-1], features, made),
        }
        return machine

    learn(PLAIN, n_rounds=1, steps_per_round=STEPS)
    learn(LONGER, n_rounds=1, steps_per_round=2 * STEPS)
    if learn(MORE, n_rounds=3, steps_per_round=STEPS).n_rounds_ == 2:
        rows[TWO], rounds[TWO] = rows[MORE], rounds[MORE]
    else:
        learn(TWO, n_rounds=2, steps_per_round=STEPS, stop_margin=0.0)
    learn(ORACLE, n_rounds=1, steps_per_round=STEPS)
    fresh = features_of(network(data.train.X.shape[1], torch.Generator().manual_seed(seed)), made, 0.0)
    rows[UNTRAINED] = {how: trained(how, fresh, made, seed) for how in HEADS_ON[UNTRAINED]}
    return {"rows": rows, "rounds": rounds, **sample(data)}


def other_rows(images: Any, setting: dict[str, Any], seed: int, data: SpuriousDataset) -> Split:
    """As many rows made of images that are neither among the training rows nor among the held-out ones."""
    more = make_colored(images, **setting, n_train=2 * ROWS, flat=True, random_state=len(SEEDS) + seed).train
    seen = np.isin(more.index, np.concatenate([data.train.index, data.validation.index]))
    return more.select(np.flatnonzero(~seen)[:ROWS])


def told(machine: FeATPretrainer) -> dict[str, Any]:
    """What rounds have reached."""
    sets = machine.rounds_[["round", "role", "set", "n", "accuracy", "gain", "accepted"]]
    return {
        "accepted": machine.n_rounds_,
        "stopped": machine.stop_reason_,
        "sets": json.loads(sets.to_json(orient="records")),
    }


def features_of(machine: Any, made: Draw, seconds: float, *, colour: bool = True) -> Features:
    @torch.no_grad()
    def of(split: Split) -> NDArray[Any]:
        X = split.X if colour else without_colour(split.X)
        return machine.transform(X) if isinstance(machine, FeATPretrainer) else machine(torch.from_numpy(X)).numpy()

    head = machine.get_head() if isinstance(machine, FeATPretrainer) else None
    tests = {name: of(split) for name, split in made.tests.items()}
    return Features(of(made.train), of(made.other), tests, head, seconds)


def trained(how: str, features: Features, made: Draw, seed: int) -> dict[str, Any]:
    """Accuracies of a head."""
    Z, rows = (features.other, made.other) if how.endswith(OTHER) else (features.train, made.train)
    options = {"init": "erm" if features.head is None else "given"} | HEADS[how]
    start = {}
    if features.head is not None and options["init"] == "given":
        start = dict(zip(("coef_init", "intercept_init"), features.head, strict=True))
    head = OODHead(**options, **HEAD, random_state=seed)
    begun = time.process_time()
    with warnings.catch_warnings():
        # A degenerate head is a result here, and is counted.
        warnings.simplefilter("ignore", FeatlearnWarning)
        head.fit(Z, rows.y, rows.environment, **start)
    spent = time.process_time() - begun
    scores = {name: head.score(features.tests[name], split.y) for name, split in made.tests.items()}
    return {**scores, "degenerate": head.degenerate_, "seconds": features.seconds + spent}


@torch.no_grad()
def untouched(head: nn.Linear, features: Features, made: Draw) -> dict[str, Any]:
    """Accuracies of a head as it is."""
    scores = {}
    for name, split in made.tests.items():
        logits = head(torch.from_numpy(features.tests[name]))[:, 0].numpy()
        scores[name] = float(((logits > 0) == split.y).mean())
    return {**scores, "degenerate": False, "seconds": features.seconds}


def sample(data: SpuriousDataset) -> dict[str, Any]:
    """What the draw itself allows."""
    test, commonest = data.test, np.bincount(data.train.y).argmax()
    return {
        "ceilings": data.ceilings,
        "shape_on_test_rows": float((test.y == test.y_clean).mean()),
        "constant_on_test_rows": float((test.y == commonest).mean()),
        "test_rows": len(test),
        "held_out_rows": len(data.validation),
    }


# --- all draws --------------------------------------------------------------------------------------------------------


def summary(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, gains over plain training, what held-out rows choose, and what exceeds the ceiling."""
    tables = [found["rows"] for found in draws]
    methods = {
        features: {how: method(features, how, [table[features][how] for table in tables]) for how in heads}
        for features, heads in tables[0].items()
    }
    gains = {
        f"{features} minus {other}": {
            how: mean_and_error([table[features][how][REVERSED] - table[other][how][REVERSED] for table in tables])
            for how in tables[0][features]
            if how in tables[0][other]
        }
        for features, other in ((TWO, PLAIN), (MORE, PLAIN), (TWO, LONGER), (TWO, UNTRAINED), (PLAIN, UNTRAINED))
    }
    return {
        "ceilings": draws[0]["ceilings"],
        "rows": {"training": ROWS, **{key: draws[0][f"{key}_rows"] for key in ("held_out", "test")}},
        "always the commonest class": mean_and_error([found["constant_on_test_rows"] for found in draws]),
        "shape on the test rows drawn": mean_and_error([found["shape_on_test_rows"] for found in draws]),
        "methods": methods,
        "gains at colour noise 0.9": gains,
        "chosen by held-out rows of training environments": chosen(tables),
        "above the ceiling at colour noise 0.9": above(draws),
        "rounds": {name: [found["rounds"][name] for found in draws] for name in (TWO, MORE)},
    }


def method(features: str, how: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and errors over seeds, and what was known."""
    used = ["images without their colour"] if features == ORACLE else []
    used += [] if how in (OWN, LAST) else ["environments of the head's rows"]
    used += [f"{ROWS} rows more"] if how.endswith(OTHER) else []
    measured = {name: mean_and_error([run[name] for run in runs]) for name in runs[0] if name != "degenerate"}
    return {
        **measured,
        "of_each_seed_at_0.9": [run[REVERSED] for run in runs],
        "degenerate": sum(run["degenerate"] for run in runs),
        "information": ", ".join(used) or "none",
        "selection": "none",
    }


def chosen(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """The head with the best accuracy on held-out rows, on each kind of features and among all; the oracle is none."""
    options = {kind: [kind] for kind in tables[0] if kind != ORACLE}
    options["all"] = list(options)
    found = {}
    for name, kinds in options.items():
        best = [
            max(
                ((kind, how) for kind in kinds for how in table[kind] if not how.endswith(OTHER)),
                key=lambda at: table[at[0]][at[1]][TRAINING],
            )
            for table in tables
        ]
        runs = [table[kind][how] for table, (kind, how) in zip(tables, best, strict=True)]
        found[name] = {
            "picks": [", ".join(pair) for pair in best],
            **{where: mean_and_error([run[where] for run in runs]) for where in (TRAINING, REVERSED)},
            "selection": "train-environment validation",
        }
    return found


def above(draws: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every head on any seed that is better at colour noise 0.9 than a model that knows the shape and no colour."""
    ceiling, n = draws[0]["ceilings"]["shape"], draws[0]["test_rows"]
    error = (ceiling * (1 - ceiling) / n) ** 0.5
    return [
        {
            "features": features,
            "head": how,
            "seed": seed,
            "accuracy": run[REVERSED],
            "sampling_errors_above": (run[REVERSED] - ceiling) / error,
            "above_shape_on_these_rows": run[REVERSED] - found["shape_on_test_rows"],
            "against_the_colour": run[REVERSED] > run["e=0.1"],
        }
        for seed, found in zip(SEEDS, draws, strict=True)
        for features, heads in found["rows"].items()
        for how, run in heads.items()
        if run[REVERSED] > ceiling and (features != TWO or heads != found["rows"][MORE])  # each once
    ]


def holds(results: dict[str, Any]) -> bool:
    """As said above."""
    lifted = [
        gain["mean"] > 2 * gain["standard_error"]
        for name, found in results.items()
        if SETTINGS[name]["label_noise"] == 0.25
        for how, gain in found["gains at colour noise 0.9"][f"{TWO} minus {PLAIN}"].items()
        if how in CLAIMED
    ]
    bounded = [
        run["against_the_colour"]
        for found in results.values()
        for run in found["above the ceiling at colour noise 0.9"]
        if run["sampling_errors_above"] > 3
    ]
    return len(lifted) == len(CLAIMED) and all(lifted) and all(bounded)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if sys.argv[1:] else Path(folder) / "runs.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        done = {(line["setting"], line["seed"]): line["found"] for line in lines}
        images = tuple(load_fashion_mnist(split, full=True) for split in ("train", "test"))
        for name, setting in SETTINGS.items():
            for seed in SEEDS:
                if (name, seed) not in done:
                    done[name, seed] = draw(images, setting, seed)
                    line = json.dumps({"setting": name, "seed": seed, "found": done[name, seed]})
                    with path.open("a") as file:
                        file.write(line + "\n")
                    print(name, seed, f"{time.process_time():.0f} s", file=sys.stderr, flush=True)
        results = {name: summary([done[name, seed] for seed in SEEDS]) for name in SETTINGS}
    report(
        __file__,
        holds(results),
        settings=results,
        seeds=len(SEEDS),
        steps_a_round=STEPS,
        heads={how: HEAD | options for how, options in HEADS.items()},
    )


if __name__ == "__main__":
    main()
