"""A last layer retrained on held-out rows, beside what uses group labels while training: who saves the worst group?

Three built sets whose answers are known: Gaussian rows with a spurious column (the columns are the features, so every
method is a linear one), dominoes, and items on striped backgrounds with the group sizes of Waterbirds, both of
Fashion-MNIST (of digits where its files are not found). Five seeds: draw of the data, initial weights, order.

The claim is the published one (abstract of arXiv 2204.02937): retraining the last layer matches or outperforms methods
that are made against spurious correlation. It holds if in every set the worst group of DFR on held-out rows is above
that of ERM by two standard errors of the paired difference, and is below that of no other method by as much.

- Networks are trained for ten epochs of the training set, all methods for as many steps; nothing is chosen, and beside
  it stands the epoch chosen by the worst group of the held-out rows, which is a use of their group labels.
- Reweighting draws rows in inverse proportion to the size of their group; subsampling keeps the size of the smallest
  group of each; group DRO runs in the training loop, on group-balanced batches. The groups are (label, attribute).
- Held-out rows train no network, except where it is said: "held-out rows added" are more data, without (ERM) and with
  (reweighting) their group labels. "training shares": only as many held-out rows of each group as go with the shares
  of the training set, since balanced held-out rows are rarely to be had.
- "Pretrained": networks start from one that told the other eight classes apart on stripes that say nothing of them, ten
  epochs of 20,000 images, instead of from random weights. No part of the claim: published results start from
  pretrained networks, and this set was added after the others had been measured.
- Oracle: the same recipe on as many training rows whose groups are balanced. Controls: DFR on the features of the
  network at its start (an untrained draw, or the pretrained one), and on pixels.

Test rows choose nothing. Seconds are CPU seconds of training and head, of one thread. About a quarter of an hour.

    python dfr_beside_erm_reweighting_subsampling_and_group_dro.py [set ...]
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from measuring import report
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from spurious import EPOCHS, GROUP_STEP, TRAININGS, cnn, mean_and_error, predicted, train
from torch import Tensor, nn

from featlearn import DFRClassifier, extract_features, group_report
from featlearn.datasets import (
    Split,
    SpuriousDataset,
    make_dominoes,
    make_spurious_tabular,
    make_waterbirds_like,
)
from featlearn.datasets.fashion_mnist import has_fashion_mnist
from featlearn.exceptions import FeatlearnWarning
from featlearn.robust.group_results import GroupReport
from featlearn.robust.penalties import group_shares
from featlearn.robust.untrained import untrained_copy

SEEDS = range(5)
DFR, CHOSEN = "DFR, held-out rows", ", epoch chosen"
PRETRAINED = "items on stripes, pretrained"
MEASURED = (
    "worst_group_accuracy",
    "mean_accuracy_test",
    "mean_accuracy_train_weighted",
    "gap",
    "expected_min_if_equal",
)


@dataclass(frozen=True)
class Row:
    """A method on one draw: its report, what it cost, and what the closed form says of it."""

    report: GroupReport
    seconds: float
    rows_a_group: int | None = None  # of the smallest group that the fit balanced
    exact: float | None = None  # worst group in the population, of linear rules on Gaussian rows


def told(data: SpuriousDataset, labels: NDArray[Any], information: str, selection: str) -> GroupReport:
    """Report on the test rows, means weighted by the groups of the training rows."""
    return group_report(
        data.test.y,
        labels,
        (data.test.y, data.test.s),
        train_groups=(data.train.y, data.train.s),
        information=information,
        selection=selection,
    )


def retrained(
    head: DFRClassifier, Z: NDArray[Any], rows: Split, Z_test: NDArray[Any], data: SpuriousDataset,
    *, by_group: bool = True, rows_are: str = "held-out", seconds: float = 0.0,
) -> Row:  # fmt: skip
    """A head on frozen features; ``seconds`` is what they took."""
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Fewer than 10 rows", FeatlearnWarning)
        head.fit(Z, rows.y, (rows.y, rows.s) if by_group else None)
    spent = time.process_time() - begun
    information = head.information_.replace(" rows", f" {rows_are} rows")
    exact = None
    if data.exact is not None:
        exact = float(data.exact.linear_group_accuracy(head.raw_coef_, head.raw_intercept_).min())
    made = told(data, head.predict(Z_test), information, head.selection_)
    return Row(made, seconds + spent, head.n_per_group_, exact)


# --- Gaussian rows ----------------------------------------------------------------------------------------------------


def tabular(seed: int) -> SpuriousDataset:
    return make_spurious_tabular(validation_correlation=0.95, random_state=seed)


def linear_methods(data: SpuriousDataset, seed: int) -> dict[str, Row]:
    """Every method as a linear classifier of the columns."""
    train_rows, held, test = data.train, data.validation, data.test
    n = len(train_rows)

    def logistic(of: SpuriousDataset, information: str) -> Row:
        begun = time.process_time()
        model = LogisticRegression(C=np.inf, max_iter=1000).fit(of.train.X, of.train.y)
        return linear(of, model.coef_, model.intercept_, information, begun)

    def linear(of: SpuriousDataset, coef: Any, intercept: Any, information: str, begun: float) -> Row:
        spent = time.process_time() - begun
        labels = (of.test.X @ np.ravel(coef) + np.ravel(intercept) > 0).astype(int)
        exact = float(of.exact.linear_group_accuracy(coef, intercept).min()) if of.exact else None
        return Row(told(of, labels, information, "none"), spent, exact=exact)

    def head(**options: Any) -> DFRClassifier:
        return DFRClassifier(random_state=seed, **options)

    def on_training(model: DFRClassifier) -> Row:
        return retrained(model, train_rows.X, train_rows, test.X, data, rows_are="training")

    def on_held_out(by_group: bool) -> Row:
        return retrained(head(), held.X, held, test.X, data, by_group=by_group)

    begun = time.process_time()
    dro = linear(data, *group_dro_head(train_rows), f"group labels on {n} training rows", begun)
    balanced = make_spurious_tabular(correlation=0.5, random_state=seed)
    return {
        "ERM": logistic(data, "none"),
        "reweighting": on_training(head(C=np.inf, balance="reweight")),
        "subsampling": on_training(head(C=1.0, n_refits=1)),
        "group DRO": dro,
        "class-balanced retraining, held-out rows": on_held_out(False),
        DFR: on_held_out(True),
        "DFR, training rows": on_training(head()),
        "oracle": logistic(balanced, f"{n} training rows of balanced groups"),
    }


def group_dro_head(split: Split, steps: int = 3000, group_step: float = 0.1) -> tuple[NDArray[Any], NDArray[Any]]:
    """Group DRO of a linear classifier, all rows in every step; groups are (label, attribute), of one class each."""
    X, y, groups = torch.from_numpy(split.X), torch.from_numpy(split.y).float(), torch.from_numpy(split.groups)
    member = nn.functional.one_hot(groups).float()
    member /= member.sum(dim=0)
    model, shares = nn.Linear(X.shape[1], 1), torch.full((member.shape[1],), 1 / member.shape[1])
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        losses = nn.functional.binary_cross_entropy_with_logits(model(X)[:, 0], y, reduction="none") @ member
        optimizer.zero_grad(set_to_none=True)
        (shares @ losses).backward()
        optimizer.step()
        shares = group_shares(shares, losses.detach(), group_step)
    return model.weight.detach().double().numpy(), model.bias.detach().double().numpy()


# --- images -----------------------------------------------------------------------------------------------------------


def dominoes(seed: int, correlation: float = 0.95) -> SpuriousDataset:
    sizes = {"n_train": 4000, "n_validation": 1000, "n_test": 2000} if has_fashion_mnist() else {}
    return make_dominoes("auto", correlation=correlation, random_state=seed, **sizes)


def waterbirds(seed: int) -> SpuriousDataset:
    return make_waterbirds_like("auto", random_state=seed)


def balanced_dominoes(data: SpuriousDataset, seed: int) -> SpuriousDataset:
    return dominoes(seed, correlation=0.5)


def balanced_waterbirds(data: SpuriousDataset, seed: int) -> SpuriousDataset:
    n, counts = len(data.train), data.validation.counts.tolist()
    sizes = [n // 4 + (group < n % 4) for group in range(4)]
    return make_waterbirds_like("auto", sizes=sizes, validation_sizes=counts, random_state=seed)


def pretrained(seed: int) -> dict[str, Tensor]:
    """Weights of all layers but the last, of a network that told eight other classes on balanced stripes apart."""
    pairs = []
    for place, classes in enumerate(((0, 1), (3, 5), (6, 7), (8, 9))):
        sizes = {"sizes": (1250,) * 4, "validation_sizes": (1,) * 4}
        rows = make_waterbirds_like("auto", classes=classes, random_state=seed, **sizes).train
        pairs.append(replace(rows, y=rows.y + 2 * place))
    rows = joined(*pairs)
    net = cnn(rows.X.shape[1:], seed, outputs=2 * len(pairs))
    for _ in train(net, rows, "ERM", seed):
        pass
    return {name: tensor for name, tensor in net.state_dict().items() if not name.startswith(f"{len(net) - 1}.")}


def network_methods(
    data: SpuriousDataset,
    seed: int,
    balanced: Callable[[SpuriousDataset, int], SpuriousDataset],
    start: dict[str, Tensor] | None = None,
) -> dict[str, Row]:
    """Every method with a small CNN, from random weights or from those of ``start``."""
    held, test, n = data.validation, data.test, len(data.train)
    told_groups, both = f"group labels on {n} training rows", joined(data.train, held)
    rows: dict[str, Row] = {}
    erm: nn.Sequential | None = None
    for how in TRAININGS:
        information = "none" if how == "ERM" else told_groups
        net, last, chosen = trained(data, data.train, how, seed, information, start)
        rows |= {how: last, how + CHOSEN: chosen}
        erm = net if how == "ERM" else erm
    added = f"{len(held)} held-out rows added to training"
    _, rows["ERM, held-out rows added"], _ = trained(data, both, "ERM", seed, added, start)
    _, rows["reweighting, held-out rows added"], _ = trained(
        data, both, "reweighting", seed, f"group labels on {n} training rows and {added}", start
    )
    fair = balanced(data, seed)
    _, rows["oracle"], _ = trained(fair, fair.train, "ERM", seed, f"{n} training rows of balanced groups", start)

    spent, few = rows["ERM"].seconds, at_training_shares(held, data.train.counts, seed)
    Z, Z_few, Z_train, Z_test = (features(erm, split) for split in (held, few, data.train, test))

    def head() -> DFRClassifier:
        return DFRClassifier(random_state=seed)

    rows |= {
        DFR: retrained(head(), Z, held, Z_test, data, seconds=spent),
        "DFR, held-out rows at training shares": retrained(head(), Z_few, few, Z_test, data, seconds=spent),
        "class-balanced retraining, held-out rows": retrained(
            head(), Z, held, Z_test, data, by_group=False, seconds=spent
        ),
        "class-balanced retraining, held-out rows at training shares": retrained(
            head(), Z_few, few, Z_test, data, by_group=False, seconds=spent
        ),
        "DFR, training rows": retrained(head(), Z_train, data.train, Z_test, data, rows_are="training", seconds=spent),
    }
    fresh = untrained_copy(erm, random_state=seed)
    fresh.load_state_dict(start or {}, strict=False)
    rows["network at its start, DFR on held-out rows"] = retrained(
        head(), features(fresh, held), held, features(fresh, test), data
    )
    flat = [split.X.reshape(len(split), -1) for split in (held, test)]
    rows["pixels, DFR on held-out rows"] = retrained(head(), flat[0], held, flat[1], data)
    return rows


def trained(
    data: SpuriousDataset, rows: Split, how: str, seed: int, information: str, start: dict[str, Tensor] | None
) -> tuple[nn.Sequential, Row, Row]:
    """The network, its last epoch, and the epoch with the best worst group of held-out rows (the first of equals)."""
    net, held = cnn(data.train.X.shape[1:], seed), data.validation
    net.load_state_dict(start or {}, strict=False)
    spent, scored = 0.0, []
    begun = time.process_time()
    for _ in train(net, rows, how, seed):
        spent += time.process_time() - begun
        right = predicted(net, held.X) == held.y
        worst = min(float(right[held.groups == group].mean()) for group in range(4))
        scored.append((worst, predicted(net, data.test.X)))
        begun = time.process_time()
    best = max(scored, key=lambda entry: entry[0])[1]
    using = f"group labels on {len(held)} held-out rows"
    chosen = told(
        data, best, using if information == "none" else f"{information}, {using}", "group-labelled validation"
    )
    return net, Row(told(data, scored[-1][1], information, "none"), spent), Row(chosen, spent)


def features(net: nn.Module, split: Split) -> NDArray[Any]:
    """Penultimate features."""
    return extract_features(net, torch.from_numpy(split.X).split(500)).numpy()


def joined(*splits: Split) -> Split:
    """Rows of all."""
    names = [field.name for field in fields(Split)]
    return Split(**{name: np.concatenate([getattr(split, name) for split in splits]) for name in names})


def at_training_shares(held: Split, counts: NDArray[Any], seed: int) -> Split:
    """As many held-out rows as there are, with the groups in the shares of ``counts``."""
    factor = (held.counts / counts).min()
    draw = np.random.default_rng(seed)
    kept = [
        draw.choice(np.flatnonzero(held.groups == group), round(factor * count), replace=False)
        for group, count in enumerate(counts)
    ]
    return held.select(np.sort(np.concatenate(kept)))


# --- all of it --------------------------------------------------------------------------------------------------------

SETS: dict[str, tuple[Callable[[int], SpuriousDataset], Callable[[SpuriousDataset, int], dict[str, Row]]]] = {
    "Gaussian rows": (tabular, linear_methods),
    "dominoes": (dominoes, lambda data, seed: network_methods(data, seed, balanced_dominoes)),
    "items on stripes": (waterbirds, lambda data, seed: network_methods(data, seed, balanced_waterbirds)),
    PRETRAINED: (
        waterbirds,
        lambda data, seed: network_methods(data, seed, balanced_waterbirds, pretrained(seed)),
    ),
}


def summary(data: SpuriousDataset, draws: list[dict[str, Row]]) -> dict[str, Any]:
    """Means and standard errors over seeds of every method, and of its difference to DFR, paired."""
    methods: dict[str, Any] = {}
    for name, first in draws[0].items():
        rows = [draw[name] for draw in draws]
        measured = {key: mean_and_error([getattr(row.report, key) for row in rows]) for key in MEASURED}
        entries = [[entry.accuracy for entry in row.report.entries] for row in rows]
        methods[name] = {
            **measured,
            "worst_group_of_each_seed": [row.report.worst_group_accuracy for row in rows],
            "group_accuracies": dict(
                zip([entry.label for entry in first.report.entries], np.mean(entries, axis=0).tolist(), strict=True)
            ),
            "seconds": mean_and_error([row.seconds for row in rows]),
            "information": first.report.information,
            "selection": first.report.selection,
        }
        if first.rows_a_group is not None:
            methods[name]["rows_of_the_smallest_group_fitted"] = first.rows_a_group
        if first.exact is not None:
            methods[name]["worst_group_in_the_population"] = mean_and_error([row.exact for row in rows])
    against = {
        name: mean_and_error(
            [draw[DFR].report.worst_group_accuracy - draw[name].report.worst_group_accuracy for draw in draws]
        )
        for name in draws[0]
        if name != DFR
    }
    counts = data.counts()[["train", "validation", "test"]]
    return {
        "source": data.source,
        "groups": {split: counts[split].tolist() for split in counts},
        "group_names": data.group_names,
        "ceilings": dict(data.ceilings),
        "methods": methods,
        "worst group of DFR on held-out rows minus that of": against,
    }


def holds(results: dict[str, Any]) -> bool:
    """As said above."""
    met = []
    for found in (found for name, found in results.items() if name != PRETRAINED):
        for name, gain in found["worst group of DFR on held-out rows minus that of"].items():
            plain = name.removesuffix(CHOSEN)
            if plain in TRAININGS:
                least = 2 * gain["standard_error"] if name == "ERM" else -2 * gain["standard_error"]
                met.append(gain["mean"] > least)
    return len(results) == len(SETS) and all(met)


def main() -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    begun = time.perf_counter()
    for name in sys.argv[1:] or SETS:
        make, methods = SETS[name]
        draws = []
        for seed in SEEDS:
            data = make(seed)
            draws.append(methods(data, seed))
            scores = {how: round(row.report.worst_group_accuracy, 3) for how, row in draws[-1].items()}
            print(name, seed, scores, f"{time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        results[name] = summary(data, draws)
    report(
        __file__,
        holds(results),
        sets=results,
        seeds=len(SEEDS),
        epochs=EPOCHS,
        group_dro_step={"images": GROUP_STEP, "Gaussian rows": 0.1},
    )


if __name__ == "__main__":
    main()
