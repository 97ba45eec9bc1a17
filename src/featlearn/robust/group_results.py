"""What a group report holds, and several of them side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from html import escape
from os import PathLike
from typing import TYPE_CHECKING, Any

from ..exceptions import DataError
from .group_caveats import caveats_of, comparison_caveats
from .selection import check_selection
from .text import folded, text_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["GroupComparison", "GroupReport", "GroupScore"]


@dataclass(frozen=True, kw_only=True)
class GroupScore:
    """One group.

    Attributes
    ----------
    label : str
        Its name.
    n : int
        Rows that were evaluated.
    n_correct : int or None
        Of these; None for another metric than accuracy.
    accuracy, low, high : float
        Value of the metric and its interval; nan without rows.
    train_share : float
        Share of the training rows; nan when it is not known.
    """

    label: str
    n: int
    n_correct: int | None
    accuracy: float
    low: float
    high: float
    train_share: float


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupReport:
    """Accuracy of every group, the worst of them beside chance, both means, and how the method came about.

    Attributes
    ----------
    entries : tuple of GroupScore
        Every group, also those without rows.
    n, n_in_no_group : int
        Rows that were evaluated, and how many of them no group contains.
    overlapping : bool
        Whether a row is in several groups.
    worst_group : str
        The first of those with the lowest accuracy.
    worst_group_accuracy, worst_group_low, worst_group_high : float
        Its value, and an interval of the minimum over the groups: of exact bounds; of percentiles for another metric.
    expected_min_if_equal, min_if_equal_low, min_if_equal_high : float
        What the minimum would be if all groups had the pooled accuracy: mean and central interval.
    mean_accuracy_test, mean_accuracy_train_weighted, mean_accuracy_balanced : float
        Over all rows; weighted by the groups' shares of the training rows (nan when these are not known); over groups.
    metric : str
        "accuracy", or the name of the function that all these values are of.
    n_classes : int or None
        Labels among truth and predictions; None for another metric than accuracy.
    confidence : float
        Of all intervals.
    n_boot, random_state : int
        Bootstrap samples of a metric, and what drew them and the minimum of equal groups.
    information, selection : str or None
        Which labels the method used, and how its hyperparameters were chosen; None when it was not told.
    """

    entries: tuple[GroupScore, ...]
    n: int
    n_in_no_group: int
    overlapping: bool
    worst_group: str
    worst_group_accuracy: float
    worst_group_low: float
    worst_group_high: float
    expected_min_if_equal: float
    min_if_equal_low: float
    min_if_equal_high: float
    mean_accuracy_test: float
    mean_accuracy_train_weighted: float
    mean_accuracy_balanced: float
    metric: str
    n_classes: int | None
    confidence: float
    n_boot: int
    random_state: int
    information: str | None
    selection: str | None

    @property
    def groups(self) -> pd.DataFrame:
        """One row a group, indexed by its label: n, n_correct, accuracy, low, high, train_share.

        With a metric, its column is called by its name in place of "accuracy".
        """
        import pandas as pd

        frame = pd.DataFrame([asdict(entry) for entry in self.entries]).set_index("label")
        return frame.astype({"n_correct": "Int64"}).rename(columns={"accuracy": self.metric})

    @property
    def gap(self) -> float:
        """Train-weighted mean (the plain one when the training groups are not known) minus worst group."""
        known = not math.isnan(self.mean_accuracy_train_weighted)
        mean = self.mean_accuracy_train_weighted if known else self.mean_accuracy_test
        return mean - self.worst_group_accuracy

    @property
    def beyond_chance(self) -> bool:
        """Whether the worst group is lower than equal groups would let it be, by their interval."""
        return self.worst_group_accuracy < self.min_if_equal_low

    @property
    def caveats(self) -> list[str]:
        """What to beware of in these numbers, in sentences."""
        return caveats_of(self)

    def frame(self) -> pd.DataFrame:
        """The same as ``groups``."""
        return self.groups

    def summary(self) -> str:
        """Worst group, chance, means, information and selection in words."""
        worst = next(entry for entry in self.entries if entry.label == self.worst_group)
        means = [f"over all rows {self.mean_accuracy_test:.3f}"]
        if not math.isnan(self.mean_accuracy_train_weighted):
            means.append(f"weighted by training groups {self.mean_accuracy_train_weighted:.3f}")
        means.append(f"over groups {self.mean_accuracy_balanced:.3f}")
        return "\n".join(
            [
                f"Worst group {self.worst_group}: {self.metric} {self.worst_group_accuracy:.3f} (n = {worst.n}); "
                f"the lowest of all groups is between {self.worst_group_low:.3f} and {self.worst_group_high:.3f}.",
                f"If all groups were equal, the worst would be {self.expected_min_if_equal:.3f} on average "
                f"({self.min_if_equal_low:.3f} to {self.min_if_equal_high:.3f}).",
                f"Means: {', '.join(means)}; gap {self.gap:.3f}.",
                f"Information used: {self.information or 'not told'}; selection: {self.selection or 'not told'}.",
            ]
        )

    def __str__(self) -> str:
        """Table and summary in lines of at most 100 columns."""
        head = ["", "n", "correct", self.metric, "interval", ""]
        rows = [
            [
                entry.label,
                f"{entry.n}",
                "" if entry.n_correct is None else f"{entry.n_correct}",
                _fixed(entry.accuracy),
                _interval(entry.low, entry.high),
                "worst" if entry.label == self.worst_group else "" if entry.n else "no rows",
            ]
            for entry in self.entries
        ]
        return "\n".join([*text_rows(head, rows), "", *folded(self.summary())])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries (JSON-ready once ``nan`` is allowed or replaced)."""
        plain = {key: value for key, value in asdict(self).items() if key != "entries"}
        told = {"gap": self.gap, "beyond_chance": self.beyond_chance, "caveats": self.caveats}
        groups = [asdict(entry) for entry in self.entries]
        return {"kind": "GroupReport", "schema": 1, "groups": groups, **plain, **told, "summary": self.summary()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> GroupReport:
        """Inverse of :meth:`to_dict`; ``null`` in place of a number is nan."""
        check_selection(plain["selection"])
        maybe = {"n_correct", "n_classes", "information", "selection"}

        def read(entry: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
            return {key: math.nan if entry[key] is None and key not in maybe else entry[key] for key in names}

        groups = [read(entry, [field.name for field in fields(GroupScore)]) for entry in plain["groups"]]
        values = read(plain, [field.name for field in fields(cls) if field.name != "entries"])
        return cls(entries=tuple(GroupScore(**entry) for entry in groups), **values)

    @staticmethod
    def compare(reports: Mapping[str, GroupReport]) -> GroupComparison:
        """Several methods side by side, each with its information and selection.

        Parameters
        ----------
        reports : mapping of str to GroupReport
            By name of the method, all of the same groups and metric.

        Returns
        -------
        GroupComparison

        Raises
        ------
        DataError
            No report, reports without names, or of other groups or of another metric.
        """
        return GroupComparison(reports=reports)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Bars of the groups with intervals and n; beside them worst group, its value by chance, and the means."""
        from ..plots.groups import plot_groups

        return plot_groups({"": self.to_dict()}, ax)

    def to_html(self, path: str | PathLike[str], *, title: str | None = None) -> None:
        """Write one page that needs no network and no other file; whole or not at all."""
        from ..report.groups import write_group_report

        write_group_report({"": self.to_dict()}, path, title=title)

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{escape(line)}</p>" for line in self.summary().splitlines())
        return lines + self.groups.to_html(float_format="{:.3f}".format, na_rep="–")


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupComparison:
    """Group reports of several methods on the same groups.

    Attributes
    ----------
    reports : mapping of str to GroupReport
        By name of the method.
    """

    reports: Mapping[str, GroupReport]

    def __post_init__(self) -> None:
        if not isinstance(self.reports, Mapping):
            raise DataError(
                f"Got reports as a {type(self.reports).__name__}, but expected them by name of the method: "
                '{"ERM": first, "DFR": second}.'
            )
        if not self.reports:
            raise DataError("Got no report to compare, but expected at least one.")
        for name, report in self.reports.items():
            if not isinstance(report, GroupReport):
                raise DataError(f"Got {type(report).__name__} as {name!r}, but expected what group_report returns.")
        (first, other), *rest = self.reports.items()
        labels = [entry.label for entry in other.entries]
        for name, report in rest:
            if [entry.label for entry in report.entries] != labels:
                raise DataError(
                    f"Got the groups {'; '.join(entry.label for entry in report.entries)} in {name!r} and "
                    f"{'; '.join(labels)} in {first!r}, but expected the same. Report both with the same groups, and "
                    "train_groups for both or for neither."
                )
            if report.metric != other.metric:
                raise DataError(
                    f"Got the metric {report.metric} in {name!r} and {other.metric} in {first!r}, but expected one."
                )

    @property
    def caveats(self) -> list[str]:
        """What to beware of in the comparison, in sentences."""
        return comparison_caveats(self.reports)

    def frame(self) -> pd.DataFrame:
        """One row a method: information, selection, worst group with interval and chance, means and gap."""
        import pandas as pd

        columns = [
            "information",
            "selection",
            "worst_group",
            "worst_group_accuracy",
            "worst_group_low",
            "worst_group_high",
            "expected_min_if_equal",
            "mean_accuracy_train_weighted",
            "mean_accuracy_test",
            "mean_accuracy_balanced",
            "gap",
        ]
        rows = {name: [getattr(report, key) for key in columns] for name, report in self.reports.items()}
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("method")
        told = frame[["information", "selection"]].astype(object)
        return frame.assign(**told.where(told.notna(), "not told"))

    def group_frame(self) -> pd.DataFrame:
        """One row a method and group, as in :meth:`GroupReport.frame`."""
        import pandas as pd

        return pd.concat({name: report.groups for name, report in self.reports.items()}, names=["method", "label"])

    def __str__(self) -> str:
        """Worst group and means of every method, and how each came about, in lines of at most 100 columns."""
        head = ["", "worst", "interval", "by chance", "mean, train", "mean, test", "gap"]
        rows = [
            [
                name,
                _fixed(report.worst_group_accuracy),
                _interval(report.worst_group_low, report.worst_group_high),
                _fixed(report.expected_min_if_equal),
                _fixed(report.mean_accuracy_train_weighted),
                _fixed(report.mean_accuracy_test),
                _fixed(report.gap),
            ]
            for name, report in self.reports.items()
        ]
        told = [  # what no table of this width has room for
            f"{name}: worst group {report.worst_group}; information {report.information or 'not told'}; "
            f"selection {report.selection or 'not told'}."
            for name, report in self.reports.items()
        ]
        return "\n".join([*text_rows(head, rows), "", *folded("\n".join(told))])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries (JSON-ready once ``nan`` is allowed or replaced)."""
        reports = {name: report.to_dict() for name, report in self.reports.items()}
        return {"kind": "GroupComparison", "schema": 1, "reports": reports, "caveats": self.caveats}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> GroupComparison:
        """Inverse of :meth:`to_dict`; ``null`` in place of a number is nan."""
        return cls(reports={name: GroupReport.from_dict(report) for name, report in plain["reports"].items()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Grouped bars: one a group and method; the legend tells information and selection of every method."""
        from ..plots.groups import plot_groups

        return plot_groups({name: report.to_dict() for name, report in self.reports.items()}, ax)

    def to_html(self, path: str | PathLike[str], *, title: str | None = None) -> None:
        """Write one page that needs no network and no other file; whole or not at all."""
        from ..report.groups import write_group_report

        write_group_report(self.to_dict()["reports"], path, title=title, caveats=self.caveats)

    def _repr_html_(self) -> str:
        return self.frame().to_html(float_format="{:.3f}".format, na_rep="–")


def _fixed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _interval(low: float, high: float) -> str:
    return "-" if math.isnan(low) or math.isnan(high) else f"{low:.3f}-{high:.3f}"
