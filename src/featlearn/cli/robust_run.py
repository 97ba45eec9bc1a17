"""The body of ``featlearn robust``: features, the fits, the comparison, and the files."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray
from torch import nn

from ..exceptions import DataError
from ..robust.dfr import DFRClassifier
from ..robust.features import extract
from ..robust.group_report import group_report
from ..robust.group_results import GroupComparison, GroupReport
from ..robust.selection import check_selection
from .feature_source import FeatureSource
from .group_table import GroupTable, crossed_columns, label_of, read_groups
from .groups_run import caveat_lines, figure_size, fixed, interval
from .head_files import check_head_fits, save_head, save_network
from .outcome import Outcome, text_table, wrapped
from .progress import progress_bar
from .table_data import read_table

__all__ = ["RobustOptions", "run_robust"]

ERM, DFR = "ERM", "DFR"
PREDICTED = "predicted"  # the column that says so by itself
CONTROLS = ("pixels", "init")  # of featlearn probe, in the same folder
ABOUT = {
    ERM: "the network as it was trained",
    DFR: "deep feature reweighting: a new last layer, the mean of fits to samples with as many rows of every group",
    "SUBG": "one such sample, C = 1",
    "RWG": "all rows, weighted so that every group counts alike, no penalty",
    "class-balanced": "samples with as many rows of every class: no group labels",
}


@dataclass(frozen=True)
class RobustOptions:
    """The options as typed, but for those of the source and the outcome."""

    groups: Path
    label: str
    group: Sequence[str]
    layer: str | None
    split_column: str | None
    train_groups: Path | None
    predicted: str | None
    information: str | None
    selection: str | None
    save: Path | None
    save_network: Path | None


@dataclass(frozen=True, eq=False)
class Features:
    """What the methods are fitted to and judged on.

    Attributes
    ----------
    name : str
        In words.
    fit, test : array of shape (n, d)
    outputs : array of shape (n, K) or None
        Of the network itself for the test rows.
    network : Module or None
    batch : tensor or None
        A batch that the network takes.
    """

    name: str
    fit: NDArray[Any]
    test: NDArray[Any]
    outputs: NDArray[Any] | None = None
    network: nn.Module | None = field(default=None, repr=False)
    batch: Any = field(default=None, repr=False)


def run_robust(source: FeatureSource, wanted: RobustOptions, outcome: Outcome, command: str) -> int:
    """Print the comparison and write what was asked for; 0."""
    # Everything that can be refused is refused before the fits, the cheapest first.
    source.check({"--save-network": wanted.save_network})
    _check_options(wanted)
    outcome.check([*source.files, wanted.groups, wanted.train_groups])
    table = read_groups(wanted.groups, wanted.label, wanted.group, wanted.split_column, source.seed)
    if table.rows.note is not None:
        outcome.note(table.rows.note)
    training = _training_groups(wanted, table)
    told_own = _predictions(wanted.predicted, table)
    found = _from_model(source, wanted, table, outcome) if source.model else _from_files(source, wanted, table)
    own, taken = told_own, ""
    if own is None and found.outputs is not None:
        own, taken = _labels_of(found.outputs, table, outcome)
    if own is not None:
        _check_kind(own, table)

    y, groups = table.labels(table.rows.test), table.groups(table.rows.test)
    about: dict[str, Any] = {"train_groups": training, "random_state": source.seed}
    reports: dict[str, GroupReport] = {}
    if own is not None:
        reports[ERM] = group_report(y, own, groups, information=wanted.information, selection=wanted.selection, **about)
    with outcome.warned():
        heads = _fit_all(found, table, source.seed, outcome.quiet)
    for name, head in heads.items():
        reports[name] = head.report(found.test, y, groups, **about)
    comparison = GroupReport.compare(reports)
    told = _told(source, wanted, table, found, heads, comparison, command)
    if taken:
        told["methods"][ERM] += taken
    if wanted.save is not None:
        save_head(heads[DFR], wanted.save, {"method": DFR, "features": found.name, **told["head"]})
    if wanted.save_network is not None:
        assert found.network is not None  # --model was given
        save_network(found.network, heads[DFR], found.batch, wanted.save_network, told["head"])
    outcome.tell(_lines(told, comparison))
    outcome.write(
        told,
        lambda page: _write_page(told, page),
        figure_size([row["label"] for row in told["rows"]], len(reports)),
        lambda figure: comparison.plot(figure.subplots()),
    )
    return 0


def _check_options(wanted: RobustOptions) -> None:
    try:
        check_selection(wanted.selection)
    except DataError as problem:
        raise typer.BadParameter(str(problem).replace("selection=", "--selection ")) from problem
    for option, path in (("--save", wanted.save), ("--save-network", wanted.save_network)):
        if path is not None and path.suffix != ".safetensors":
            raise typer.BadParameter(f"Got {option} {path}, but expected a file ending in .safetensors.")
    if wanted.save_network is not None and wanted.layer is not None:
        raise typer.BadParameter(
            f"Got --save-network with --layer {wanted.layer}, but a new last layer reads what the old one read. Leave "
            "--layer out."
        )


def _training_groups(wanted: RobustOptions, table: GroupTable) -> dict[str, NDArray[Any]] | None:
    if wanted.train_groups is None:
        return table.groups(table.rows.train) if len(table.rows.train) else None
    if len(table.rows.train):
        raise typer.BadParameter(
            f"Got --train-groups {wanted.train_groups}, but {table.path} has training rows too. Leave one of them out."
        )
    option = f"({wanted.train_groups}) --group"
    return crossed_columns(read_table(wanted.train_groups), list(table.columns), option)


def _predictions(name: str | None, table: GroupTable) -> NDArray[Any] | None:
    if name is None and PREDICTED not in table.frame:
        return None
    # The other rows need no predictions.
    return label_of(table.frame.iloc[table.rows.test], name or PREDICTED, "--predicted")


def _check_kind(own: NDArray[Any], table: GroupTable) -> None:
    """Refuse predictions that no label could equal, before the fits."""
    if not np.isin(own, table.columns[table.label]).any():
        raise typer.BadParameter(
            f"Got predictions such as {own[0]}, but labels such as {table.columns[table.label][0]}: none is a label. "
            "Encode both in the same way, or name another column with --predicted."
        )


# --- features ---------------------------------------------------------------------------------------------------------


def _from_files(source: FeatureSource, wanted: RobustOptions, table: GroupTable) -> Features:
    saved = source.saved(table)
    layers = [name for name in saved.names if name not in CONTROLS] or saved.names
    chosen = layers if wanted.layer is None else saved.chosen([wanted.layer])
    if len(chosen) > 1:
        raise typer.BadParameter(
            f"Got {saved.path} with the features {', '.join(chosen)}, but expected one. Name it with --layer."
        )
    array = saved.read(chosen[0], len(table.frame))
    fit, test = array[table.rows.fit], array[table.rows.test]
    for kind, rows in (("held-out", fit), ("test", test)):
        if not np.isfinite(rows).all():
            raise DataError(f"Got features {chosen[0]!r} with NaN or infinity in {kind} rows, but expected numbers.")
    name = str(saved.path) if len(saved.names) == 1 else f"{chosen[0]} of {saved.path}"
    return Features(name, fit, test)


def _from_model(source: FeatureSource, wanted: RobustOptions, table: GroupTable, outcome: Outcome) -> Features:
    network, notes = source.network()
    for note in notes:
        outcome.note(f"{note}.")
    images = source.listed(table, network)
    verbose = int(sys.stderr.isatty() and not outcome.quiet)
    fit = extract(network, images.batches(table.rows.fit), layers=[wanted.layer], verbose=verbose)
    # "" is the network itself: its layer "" gives its outputs.
    test = extract(network, images.batches(table.rows.test), layers=[wanted.layer, ""], verbose=verbose)
    (fitted,), (judged, outputs) = fit.features.values(), test.features.values()
    batch, *_ = next(iter(images.batches(table.rows.fit[:2])))
    if wanted.save_network is not None:
        check_head_fits(network, fitted.shape[1], batch)
    what = "penultimate features" if wanted.layer is None else wanted.layer
    return Features(f"{what} of {source.name}", fitted.numpy(), judged.numpy(), outputs.numpy(), network, batch)


def _labels_of(outputs: NDArray[Any], table: GroupTable, outcome: Outcome) -> tuple[NDArray[Any] | None, str]:
    """What the network predicts, and what had to be supposed for it, in words that follow ``ABOUT[ERM]``.

    Class numbers, or words in sorted order; None where outputs are no classes of these. One output is the logit of the
    second of two classes.
    """
    values, width = np.unique(table.columns[table.label]), outputs.shape[1]
    codes = (outputs[:, 0] > 0).astype(int) if width == 1 else outputs.argmax(axis=1)
    classes = max(2, width)
    numbered = values.dtype.kind in "iub" and values.min() >= 0 and values.max() < classes
    if numbered and np.isin(codes, values).any():
        return codes, ""
    if not numbered and len(values) == classes:
        order = f"taken as {table.label} = {', '.join(map(str, values))}, in order"
        outcome.note(
            f"the outputs of the network were {order}. If theirs is another, give its predictions in a column with "
            "--predicted."
        )
        return np.asarray(values[codes]), f", its outputs {order}"
    outcome.note(
        f"the {width} outputs of the network do not stand for the {len(values)} values of {table.label}, so its own "
        "predictions are not compared. Give them in a column with --predicted."
    )
    return None, ""


# --- the fits ---------------------------------------------------------------------------------------------------------


def _fit_all(found: Features, table: GroupTable, seed: int, quiet: bool) -> dict[str, DFRClassifier]:
    """Every method fitted to the held-out rows."""
    methods = {
        "class-balanced": DFRClassifier(random_state=seed),
        "RWG": DFRClassifier(C=math.inf, balance="reweight", random_state=seed),
        "SUBG": DFRClassifier(C=1.0, n_refits=1, random_state=seed),
        DFR: DFRClassifier(random_state=seed),
    }
    y, groups = table.labels(table.rows.fit), table.groups(table.rows.fit)
    with progress_bar("Fitting", "methods", quiet) as advance:
        for done, (name, head) in enumerate(methods.items()):
            advance(done, len(methods))
            head.fit(found.fit, y, None if name == "class-balanced" else groups)
    return methods


# --- what it says -----------------------------------------------------------------------------------------------------


def _told(
    source: FeatureSource,
    wanted: RobustOptions,
    table: GroupTable,
    found: Features,
    heads: Mapping[str, DFRClassifier],
    comparison: GroupComparison,
    command: str,
) -> dict[str, Any]:
    from .. import __version__

    head = heads[DFR]
    return {
        "kind": "LastLayerRetraining",
        "schema": 1,
        "comparison": comparison.to_dict(),
        "rows": table.counts(),
        "methods": {name: ABOUT[name] for name in comparison.reports},
        "C": {name: {"chosen": fitted.best_C_, "used": fitted.C_} for name, fitted in heads.items()},
        "head": {
            "classes": head.classes_.tolist(),
            "label": table.label,
            "groups": list(table.columns),
            "C": head.best_C_,
            "information": head.information_,
            "selection": head.selection_,
        },
        "provenance": {
            "features": found.name,
            "n_features": int(found.fit.shape[1]),
            "groups": str(wanted.groups),
            "split": table.rows.how,
            "train_groups": None if wanted.train_groups is None else str(wanted.train_groups),
            "seed": source.seed,
            "command": command,
            "version": __version__,
        },
    }


def _lines(told: Mapping[str, Any], comparison: GroupComparison) -> list[str]:
    about, rows = told["provenance"], told["rows"]
    totals = {use: sum(row[use] for row in rows) for use in ("train", "fit", "test")}
    uses = {"train": "training", "fit": "held-out", "test": "test"}
    shown = [use for use in uses if totals[use]]
    counts = [[row["label"], *(f"{row[use]:,}" for use in shown)] for row in rows]
    train = f", {totals['train']:,} training rows weigh a mean" if totals["train"] else ""
    return [
        *wrapped(
            [
                f"{about['features']}: {about['n_features']:,} features; groups of {about['groups']}. "
                f"Rows split {about['split']}: {totals['fit']:,} held-out rows fit, {totals['test']:,} test rows "
                f"judge{train}."
            ]
        ),
        "",
        *text_table(["group", *(uses[use] for use in shown)], counts),
        "",
        *_method_table(comparison),
        "",
        *_method_lines(told, comparison),
        "",
        *caveat_lines(comparison.caveats),
    ]


def _method_table(comparison: GroupComparison) -> list[str]:
    first = next(iter(comparison.reports.values()))
    weighted = any(math.isfinite(report.mean_accuracy_train_weighted) for report in comparison.reports.values())
    means = {"mean_accuracy_train_weighted": "mean, training"} if weighted else {}
    means |= {"mean_accuracy_test": "mean, test", "mean_accuracy_balanced": "mean, groups"}
    head = ["method", "worst", f"{first.confidence:.0%} interval", "by chance", *means.values(), "worst group"]
    rows = [
        [
            name,
            fixed(report.worst_group_accuracy),
            interval(report.worst_group_low, report.worst_group_high),
            fixed(report.expected_min_if_equal),
            *(fixed(getattr(report, key)) for key in means),
            report.worst_group,
        ]
        for name, report in comparison.reports.items()
    ]
    return text_table(head, rows, texts=(0, -1), optional=[-2, -3, -1])


def _method_lines(told: Mapping[str, Any], comparison: GroupComparison) -> list[str]:
    sentences = []
    for name, report in comparison.reports.items():
        chosen = told["C"].get(name, {}).get("chosen")
        tuned = (
            f" C = {chosen:g} was chosen." if report.selection and "validation" in report.selection and chosen else ""
        )
        sentences.append(
            f"{name}: {told['methods'][name]}.{tuned} Information: {report.information or 'not told'}; selection: "
            f"{report.selection or 'not told'}."
        )
    return wrapped(sentences, "  ")


def _write_page(told: Mapping[str, Any], path: Path) -> None:
    from ..report.robust import write_robust_report

    write_robust_report(told, path)
