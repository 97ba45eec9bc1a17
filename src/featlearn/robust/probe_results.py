"""What a feature probe returns: how well layers or epochs tell the core and the spurious attribute, and controls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from html import escape
from os import PathLike
from typing import TYPE_CHECKING, Any

from .text import folded, text_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CONTROLS", "FeatureProbe", "ProbePoint"]

NAN = float("nan")
CONTROLS = {"pixels": "raw input", "init": "untrained network"}
_COLUMNS = ("d", "pool", "core_wga", "core_mean", "spurious_wga", "spurious_mean", "excess_core", "n_per_group")


@dataclass(frozen=True, kw_only=True)
class ProbePoint:
    """One set of features: a layer, an epoch, or a control. Undefined values are nan.

    Attributes
    ----------
    name : str
        Key of the features.
    control : str or None
        "pixels" or "init", if it is one of the two.
    layer, checkpoint : str or None
        Where the features come from, when :func:`~featlearn.robust.probe.probe_model` made them.
    pool : str or None
        "flatten" or "mean": what made one row a sample of the layer.
    d : int
        Features.
    core_wga, core_low, core_high, core_mean : float
        Worst-group accuracy of the probe for y with its interval, and its mean accuracy over all test rows.
    spurious_wga, spurious_low, spurious_high, spurious_mean : float
        The same of the probe for s.
    core_constant, spurious_constant : bool
        Whether the probe says the same of every test row: then its worst group is 0, below chance.
    excess_core, excess_low, excess_high : float
        ``core_wga`` minus that of the better control, with its paired interval; nan without controls and for them.
    core_accuracies, spurious_accuracies : tuple of float
        Accuracy in every group; nan for groups without test rows.
    """

    name: str
    control: str | None = None
    layer: str | None = None
    checkpoint: str | None = None
    pool: str | None = None
    d: int
    core_wga: float
    core_low: float
    core_high: float
    core_mean: float
    core_constant: bool = False
    spurious_wga: float
    spurious_low: float
    spurious_high: float
    spurious_mean: float
    spurious_constant: bool = False
    excess_core: float = NAN
    excess_low: float = NAN
    excess_high: float = NAN
    core_accuracies: tuple[float, ...]
    spurious_accuracies: tuple[float, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureProbe:
    """Whether a network learned the core feature, the spurious one, or neither more than it began with.

    Attributes
    ----------
    points : tuple of ProbePoint
        Controls first, then layers or epochs in their order.
    groups : dict of str to int
        Test rows of every group (y, s).
    n_train, n_per_group, n_test : int
        Rows that probes were fitted on before balancing, rows of the smallest group among them, test rows.
    n_classes, n_attributes : int
        Values of y and of s.
    core_chance, spurious_chance : float
        Accuracy in the worst group of guesses, on average: below one over the number of values, which is the mean of
        each group.
    confidence : float
        Of the intervals.
    probe : str
        The classifier.
    information, selection : str
        Which labels the probes used, and how their hyperparameters were chosen.
    random_state : int
        Of the probes, the balancing and the guesses.
    names : pair of str
        What the label and the attribute are called.
    """

    points: tuple[ProbePoint, ...]
    groups: dict[str, int]
    n_train: int
    n_per_group: int
    n_test: int
    n_classes: int
    n_attributes: int
    core_chance: float
    spurious_chance: float
    confidence: float
    probe: str
    information: str
    selection: str
    random_state: int
    names: tuple[str, str] = ("y", "s")

    @property
    def table(self) -> pd.DataFrame:
        """One row a set of features: width, pooling, decodability of both attributes, excess over the better control.

        "pool" is what made one row a sample, None where it is not known.
        """
        return self.frame()[list(_COLUMNS)]

    def frame(self) -> pd.DataFrame:
        """As ``table``, with intervals, and where the features come from."""
        import pandas as pd

        rows = [
            {key: value for key, value in asdict(point).items() if not key.endswith("accuracies")}
            | {"n_per_group": self.n_per_group}
            for point in self.points
        ]
        return pd.DataFrame(rows).set_index("name")

    def accuracies(self) -> pd.DataFrame:
        """Accuracy of both probes in every group: one row a set of features, attribute (by its name) and group."""
        import pandas as pd

        rows = [
            {"name": point.name, "predicts": predicts, "group": group, "n": n, "accuracy": accuracy}
            for point in self.points
            for predicts, values in zip(self.names, (point.core_accuracies, point.spurious_accuracies), strict=True)
            for (group, n), accuracy in zip(self.groups.items(), values, strict=True)
        ]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """In words: what the controls reach, whether the core feature is above or below them, and on what rows."""
        controls = [point for point in self.points if point.control]
        shown = [point for point in self.points if not point.control]
        lines = []
        if controls:
            reach = "; ".join(
                f"{_called(point)} {point.core_wga:.3f} and {point.spurious_wga:.3f}" for point in controls
            )
            lines.append(f"Without any training, worst-group decodability of core and spurious feature is: {reach}.")
        else:
            lines.append("No controls were probed, so nothing here shows that anything was learned.")
        lines += _warnings(self)
        best, last = max(shown, key=lambda point: point.core_wga), shown[-1]
        for point in {point.name: point for point in (best, last)}.values():
            which = "Best" if point is best else "Last"
            lines.append(
                f"{which}: {point.name!r}, core {point.core_wga:.3f} ({point.core_low:.3f} to {point.core_high:.3f}), "
                f"spurious {point.spurious_wga:.3f} ({point.spurious_low:.3f} to {point.spurious_high:.3f})"
                f"{_verdict(point)}."
            )
        lines.append(
            f"Probes: {self.probe}; fitted on {self.n_train} rows, {self.n_per_group} of them in the smallest group; "
            f"{self.n_test} test rows in {len(self.groups)} groups; information: {self.information}; "
            f"selection: {self.selection}."
        )
        return "\n".join(lines)

    def __str__(self) -> str:
        """Table and summary in lines of at most 100 columns."""
        pools = any(point.pool for point in self.points)
        controlled = any(not math.isnan(point.excess_core) for point in self.points)
        head = ["", "d", *(["pool"] if pools else []), "core", "interval", "spurious", "interval"]
        rows = [
            [
                point.name,
                f"{point.d}",
                *([point.pool or ""] if pools else []),
                f"{point.core_wga:.3f}",
                f"{point.core_low:.3f}-{point.core_high:.3f}",
                f"{point.spurious_wga:.3f}",
                f"{point.spurious_low:.3f}-{point.spurious_high:.3f}",
                *([f"{point.excess_core:+.3f}" if not math.isnan(point.excess_core) else ""] if controlled else []),
            ]
            for point in self.points
        ]
        lines = text_rows([*head, *(["excess"] if controlled else [])], rows)
        return "\n".join([*lines, "", *folded(self.summary())])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries (JSON-ready once ``nan`` is allowed or replaced)."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        points = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(point).items()}
            for point in self.points
        ]
        plain |= {"points": points, "groups": dict(self.groups), "names": list(self.names)}
        return {"kind": "FeatureProbe", "schema": 1, "summary": self.summary(), **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FeatureProbe:
        """Inverse of :meth:`to_dict`; ``null`` in place of a number is nan."""
        values = {field.name: plain[field.name] for field in fields(cls)}
        values["points"] = tuple(_point(entry) for entry in plain["points"])
        values |= {"groups": dict(plain["groups"]), "names": tuple(plain["names"])}
        return cls(**values)

    def plot(self, ax: Any = None) -> Any:
        """Core against spurious decodability, and both over the layers or epochs beside it.

        Parameters
        ----------
        ax : Axes or two Axes, optional
            Where to draw; one Axes gets core against spurious. By default a new figure.

        Returns
        -------
        list of Axes
        """
        from ..plots.probe import plot_probe

        return plot_probe(self.to_dict(), ax)

    def to_html(self, path: str | PathLike[str], *, title: str | None = None) -> None:
        """Write one page that needs no network and no other file; whole or not at all."""
        from .. import __version__
        from ..report.probe import write_probe_report

        rows = [{"label": label, "test": n} for label, n in self.groups.items()]
        label, attribute = self.names
        about = {"features": "the network", "label": label, "attribute": attribute, "version": __version__}
        write_probe_report({"probe": self.to_dict(), "rows": rows, "provenance": about}, path, title=title)

    def _repr_html_(self) -> str:
        text = "".join(f"<p>{escape(line)}</p>" for line in self.summary().splitlines())
        return text + self.table.to_html(float_format=lambda value: format(value, ".3f"))


def _warnings(result: FeatureProbe) -> list[str]:
    """What keeps the values from being read as they stand: chance, heads that say nothing, other pooling."""
    found = [f"Guesses have {result.core_chance:.3f} and {result.spurious_chance:.3f} in the worst group, on average."]
    for key, what in (("core_constant", "core"), ("spurious_constant", "spurious")):
        constant = [point.name for point in result.points if getattr(point, key)]
        if constant:
            found.append(
                f"The probe of the {what} feature says the same of every row, so that its worst group is 0, for: "
                f"{', '.join(constant)}."
            )
    means = [point.name for point in result.points if point.pool == "mean" and not point.control]
    if means and any(point.control == "pixels" and point.pool == "flatten" for point in result.points):
        found.append(
            f"{', '.join(means)}: means over positions, beside all pixels of the raw input. What pooling loses counts "
            "against the network; pool='flatten' keeps it."
        )
    return found


def _called(point: ProbePoint) -> str:
    words = CONTROLS[point.control or "init"]
    return words if point.name == point.control else f"{words} ({point.name})"


def _verdict(point: ProbePoint) -> str:
    if math.isnan(point.excess_core):
        return ""
    interval = f"{point.excess_core:+.3f}, {point.excess_low:+.3f} to {point.excess_high:+.3f}"
    if point.excess_low > 0:
        return f"; the core feature is better decodable than from both controls ({interval})"
    if point.excess_high < 0:
        return f"; the core feature is worse decodable than from the better control ({interval})"
    return f"; not told apart from the better control ({interval})"


def _point(entry: Mapping[str, Any]) -> ProbePoint:
    texts = {"name", "control", "layer", "checkpoint", "pool"}
    values: dict[str, Any] = {
        key: tuple(NAN if item is None else item for item in value)
        if isinstance(value, list | tuple)
        else NAN
        if value is None and key not in texts
        else value
        for key, value in entry.items()
    }
    return ProbePoint(**values)
