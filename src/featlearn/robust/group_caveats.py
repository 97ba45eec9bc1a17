"""What to beware of in numbers about groups, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .group_results import GroupReport

__all__ = ["caveats_of", "comparison_caveats"]

FEW = 30  # rows: one more or less moves the accuracy by three points


def caveats_of(report: GroupReport) -> list[str]:
    """Of one report, the most specific first."""
    return [
        *_of_selection(report),
        *_of_groups(report),
        *_of_means(report),
        "Intervals cover the choice of the evaluated rows, not another training run: report several seeds.",
    ]


def comparison_caveats(reports: Mapping[str, GroupReport]) -> list[str]:
    """Of a comparison: what differs between the methods besides their names, then what any report has to beware of."""
    found = []
    for key, word in (("information", "information"), ("selection", "selection rule")):
        if len({getattr(report, key) for report in reports.values()}) > 1:
            found.append(
                f"The methods do not have the same {word}: part of a difference may come from that, not from them."
            )
    counts = {tuple(entry.n for entry in report.entries) for report in reports.values()}
    if len(counts) > 1:
        found.append("The methods were not evaluated on the same rows: the sizes of their groups differ.")
    if len({report.confidence for report in reports.values()}) > 1:
        found.append("Intervals do not have the same confidence.")
    own = {name: caveats_of(report) for name, report in reports.items()}
    for name, caveats in own.items():
        for caveat in caveats:
            shared = all(caveat in others for others in own.values())
            line = caveat if shared else f"{name}: {caveat}"
            if line not in found:
                found.append(line)
    return found


def _of_selection(report: GroupReport) -> list[str]:
    found = []
    if report.selection == "oracle (test)":
        found.append(
            "Hyperparameters were chosen on the test rows: these numbers say what is possible, not what to expect."
        )
    if report.selection is None:
        found.append("It was not told how hyperparameters were chosen; some gains exist under one rule only.")
    if report.information is None:
        found.append("It was not told which labels the method used; one that sees group labels has an advantage.")
    return found


def _of_groups(report: GroupReport) -> list[str]:
    found = []
    empty = [entry.label for entry in report.entries if not entry.n]
    if empty:
        found.append(f"No rows in {'; '.join(empty)}: nothing is known about {_them(empty)}.")
    few = [f"{entry.label} ({entry.n})" for entry in report.entries if 0 < entry.n < FEW]
    if few:
        found.append(f"Fewer than {FEW} rows in {'; '.join(few)}: one row more or less shows.")
    if report.overlapping:
        found.append("Groups overlap: their accuracies share rows, and there is no mean weighted by training groups.")
    if report.n_in_no_group:
        found.append(f"{report.n_in_no_group} of {report.n} rows are in no group; the mean over all rows counts them.")
    if not report.beyond_chance:
        found.append("The worst group is no lower than chance makes the lowest of equal groups.")
    return found


def _of_means(report: GroupReport) -> list[str]:
    if not math.isnan(report.mean_accuracy_train_weighted) or report.overlapping:
        return []
    unknown = all(math.isnan(entry.train_share) for entry in report.entries)
    why = "Shares of the training groups are not known" if unknown else "Training rows are in groups without rows here"
    return [f"{why}, so the gap is to the mean over all rows, and the mean that papers report is missing."]


def _them(labels: list[str]) -> str:
    return "it" if len(labels) == 1 else "them"
