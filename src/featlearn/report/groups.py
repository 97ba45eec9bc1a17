"""The page of group reports: worst group beside chance, means, information and selection, bars, caveats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from markupsafe import Markup, escape

from ..exceptions import DataError
from ..plots.alignments import number
from ..plots.group_layout import interval_words
from ..plots.groups import method_colors
from .charts import Scale
from .environment import environment
from .files import atomic_write
from .numbers import NOTHING, count, fixed, fixed_text, name, percent
from .tables import Column, Row, Table

__all__ = ["group_page", "write_group_report"]

PARTS = ("groups", "worst_group", "expected_min_if_equal", "information", "selection", "caveats")
MEANS = {
    "mean_accuracy_test": "Mean over all rows",
    "mean_accuracy_train_weighted": "Mean weighted by training groups",
    "mean_accuracy_balanced": "Mean over groups",
}


@dataclass(frozen=True, kw_only=True)
class GroupTrack:
    """One line of the figure, places in percent: a bar, the mark of a worst group, or the tick of a mean."""

    method: str
    color: str
    label: str
    value: Markup
    bar: tuple[float, float] | None = None
    worst: bool = False
    mark: float | None = None
    tick: float | None = None
    whisker: tuple[float, float] | None = None
    chance: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class GroupPanel:
    """A group, or a summary of all, with a line a method."""

    name: str
    n: int | None
    tracks: list[GroupTrack]


def write_group_report(
    reports: Mapping[str, Mapping[str, Any]],
    path: str | PathLike[str],
    *,
    title: str | None = None,
    caveats: Sequence[str] | None = None,
) -> None:
    """Write one group report, or several side by side, as a page that needs no network and no other file.

    Parameters
    ----------
    reports : mapping of str to mapping
        ``GroupReport.to_dict()``, or its JSON read back, by method; a single one may have an empty name.
    path : path-like
        Written whole or not at all; the folder must exist.
    title : str, optional
        Heading of the page.
    caveats : sequence of str, optional
        Of the comparison; by default those of the first report.

    Raises
    ------
    DataError
        No report, or not a group report.
    OSError
        The file cannot be written.
    """
    page = group_page(reports, title=title, caveats=caveats)
    atomic_write(path, environment().get_template("groups.html").render(page))


def group_page(
    reports: Mapping[str, Mapping[str, Any]], *, title: str | None = None, caveats: Sequence[str] | None = None
) -> dict[str, Any]:
    """What the template shows, as :func:`write_group_report` is given it."""
    if not reports:
        raise DataError("Got no report, but expected at least one.")
    for report in reports.values():
        missing = [part for part in PARTS if part not in report]
        if missing:
            raise DataError(f"Got a group report without {', '.join(missing)}, but expected GroupReport.to_dict().")
    first = next(iter(reports.values()))
    scale = _scale(reports.values())
    single, classes = len(reports) == 1, first["n_classes"] or 0
    return {
        "title": title or ("Accuracy of every group" if first["metric"] == "accuracy" else "Every group"),
        "reports": reports,
        "first": first,
        "single": single,
        "weighted": math.isfinite(number(first["mean_accuracy_train_weighted"])),
        "methods": _method_table(reports),
        "scale": scale,
        "guessing": None if classes < 2 else (scale.at(1 / classes), classes),
        "interval": interval_words(first["confidence"]),
        "colors": dict(zip(reports, method_colors(len(reports)), strict=True)),
        "panels": _panels(reports, scale),
        "groups": [(method, _group_table(method, report)) for method, report in reports.items()],
        "caveats": first["caveats"] if caveats is None else caveats,
    }


# --- figure -----------------------------------------------------------------------------------------------------------


def _scale(reports: Any) -> Scale:
    """From zero to one for accuracy; over all ends of another metric."""
    if all(report["metric"] == "accuracy" for report in reports):
        return Scale(0.0, 1.0)
    found = [
        number(entry[key]) for report in reports for entry in report["groups"] for key in ("accuracy", "low", "high")
    ]
    found += [number(report[key]) for report in reports for key in ("worst_group_low", "worst_group_high", *MEANS)]
    ends = [0.0, *(value for value in found if math.isfinite(value))]
    low, high = min(ends), max(ends)
    return Scale(low, high if high > low else low + 1.0)


def _panels(reports: Mapping[str, Mapping[str, Any]], scale: Scale) -> list[GroupPanel]:
    colors = method_colors(len(reports))
    drawn = list(zip(reports.items(), colors, strict=True))
    first = next(iter(reports.values()))
    panels = [
        GroupPanel(
            entry["label"],
            entry["n"],
            [_bar(method, color, report, report["groups"][place], scale) for (method, report), color in drawn],
        )
        for place, entry in enumerate(first["groups"])
    ]
    panels.append(GroupPanel("Worst group", None, [_worst(method, color, x, scale) for (method, x), color in drawn]))
    for key, words in MEANS.items():
        tracks = [_mean(method, color, words, report[key], scale) for (method, report), color in drawn]
        panels.append(GroupPanel(words, None, tracks))
    return panels


def _bar(method: str, color: str, report: Mapping[str, Any], entry: Mapping[str, Any], scale: Scale) -> GroupTrack:
    value, low, high = (number(entry[key]) for key in ("accuracy", "low", "high"))
    told = ": ".join(part for part in (method, entry["label"]) if part)
    known = math.isfinite(value)
    start, end = sorted((scale.at(0.0), scale.at(value))) if known else (0.0, 0.0)
    words = f"{fixed_text(value)}, interval {fixed_text(low)} to {fixed_text(high)}" if known else "no rows"
    return GroupTrack(
        method=method,
        color=color,
        label=f"{told}: {words}, n = {entry['n']}",
        value=fixed(entry["accuracy"]),
        bar=(start, end - start) if known else None,
        worst=entry["label"] == report["worst_group"],
        whisker=_whisker(low, high, scale),
        note=None if known else "no rows",
    )


def _worst(method: str, color: str, report: Mapping[str, Any], scale: Scale) -> GroupTrack:
    low, high = number(report["worst_group_low"]), number(report["worst_group_high"])
    chance = number(report["expected_min_if_equal"])
    told = ": ".join(part for part in (method, f"worst group, {report['worst_group']}") if part)
    return GroupTrack(
        method=method,
        color=color,
        label=f"{told}: {fixed_text(report['worst_group_accuracy'])}, interval {fixed_text(low)} to "
        f"{fixed_text(high)}, {fixed_text(chance)} by chance if all groups were equal",
        value=fixed(report["worst_group_accuracy"]),
        mark=scale.at(number(report["worst_group_accuracy"])),
        whisker=_whisker(low, high, scale),
        chance=scale.at(chance) if math.isfinite(chance) else None,
    )


def _mean(method: str, color: str, words: str, value: Any, scale: Scale) -> GroupTrack:
    known = math.isfinite(number(value))
    told = ": ".join(part for part in (method, words) if part)
    return GroupTrack(
        method=method,
        color=color,
        label=f"{told}: {fixed_text(value) if known else 'not known'}",
        value=fixed(value),
        tick=scale.at(number(value)) if known else None,
        note=None if known else "not known",
    )


def _whisker(low: float, high: float, scale: Scale) -> tuple[float, float] | None:
    return (scale.at(low), scale.at(high)) if math.isfinite(low) and math.isfinite(high) else None


# --- tables -----------------------------------------------------------------------------------------------------------


def _method_table(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    metric = next(iter(reports.values()))["metric"]
    columns = [
        Column("information", "Labels that the method used.", lambda x: _words(x["information"])),
        Column("selection", "How its hyperparameters were chosen.", lambda x: _words(x["selection"])),
        Column("worst group", "With the lowest value of all groups with rows.", lambda x: name(x["worst_group"])),
        Column(metric, "Of the worst group.", lambda x: fixed(x["worst_group_accuracy"])),
        Column("interval", "Of the lowest value.", lambda x: _ends(x["worst_group_low"], x["worst_group_high"])),
        Column(
            "by chance",
            "Mean of the lowest value if all groups had the pooled one.",
            lambda x: fixed(x["expected_min_if_equal"]),
        ),
        Column(
            "mean, training groups",
            "Mean weighted by the groups' shares of the training rows.",
            lambda x: fixed(x["mean_accuracy_train_weighted"]),
        ),
        Column("mean, all rows", "Mean over the evaluated rows.", lambda x: fixed(x["mean_accuracy_test"])),
        Column("mean, groups", "Mean over groups with rows.", lambda x: fixed(x["mean_accuracy_balanced"])),
        Column(
            "gap",
            "Mean weighted by training groups (over all rows where these are not known) minus worst group.",
            lambda x: fixed(x["gap"]),
        ),
    ]
    rows = [
        Row(method, escape(method or "this one"), [column.cell(report) for column in columns], False)
        for method, report in reports.items()
    ]
    return Table("Methods", columns, rows)


def _group_table(method: str, report: Mapping[str, Any]) -> Table:
    columns = [
        Column("n", "Rows evaluated.", lambda x: count(x["n"])),
        Column(
            "correct",
            "Rows predicted correctly.",
            lambda x: NOTHING if x["n_correct"] is None else count(x["n_correct"]),
        ),
        Column(report["metric"], "Of the rows of the group.", lambda x: fixed(x["accuracy"])),
        Column("interval", "Of this value.", lambda x: _ends(x["low"], x["high"])),
        Column("of training rows", "Share of the group among them.", lambda x: percent(x["train_share"], 1)),
    ]
    rows = [
        Row(entry["label"], name(entry["label"]), [column.cell(entry) for column in columns], not entry["n"])
        for entry in report["groups"]
    ]
    return Table(method or "Groups", columns, rows)


def _ends(low: Any, high: Any) -> Markup:
    if not (math.isfinite(number(low)) and math.isfinite(number(high))):
        return NOTHING
    return Markup("{} to {}").format(fixed(low), fixed(high))


def _words(text: str | None) -> Markup:
    return (
        Markup('<span class="words">{}</span>').format(text) if text else Markup('<span class="none">not told</span>')
    )
