"""Geometry of the figures of a page, in percent of their frame: they fit any width while their text keeps its size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..plots.alignments import AlignmentRow, number
from ..plots.candidates import CandidateCurve
from ..plots.history import grows_geometrically, history_series
from ..plots.palette import layer_colors
from .comparison import Change
from .numbers import fixed_text

__all__ = [
    "Bar",
    "BarPanel",
    "Curve",
    "Dumbbell",
    "DumbbellPanel",
    "LineChart",
    "Scale",
    "ShareBar",
    "Tick",
    "bar_panel",
    "dumbbell_panel",
    "history_chart",
    "selection_chart",
    "share_bars",
    "spectrum_chart",
]

NEGLIGIBLE = 1e-8  # eigenvalues below this share of the largest are round-off in single precision
LOWEST_EXCESS = -1.0  # where chance is close to one, the excess has no lower bound: below this it is drawn at the edge
MOST_POINTS = 64  # of one curve: more are not seen on a page, and make it heavy


@dataclass(frozen=True)
class Tick:
    """Place in percent, and label."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """An axis from ``low`` to ``high``: linear, logarithmic, or logarithmic from zero (``log1p``)."""

    low: float
    high: float
    kind: Literal["linear", "log", "log1p"] = "linear"

    def at(self, x: float) -> float:
        """Percent of the way from low to high; what lies beyond an end is put there."""
        low, high, x = map(self._bend, (self.low, self.high, min(max(x, self.low), self.high)))
        return round(100 * (x - low) / (high - low), 2)

    def _bend(self, x: float) -> float:
        return {"linear": float, "log": math.log10, "log1p": math.log1p}[self.kind](x)

    @property
    def ticks(self) -> list[Tick]:
        """About five labelled places."""
        if self.kind == "linear":
            return self._linear_ticks()
        top = math.floor(math.log10(self.high) + 1e-9)
        bottom = 0 if self.kind == "log1p" else math.ceil(math.log10(self.low) - 1e-9)
        stride = max(1, math.ceil((top - bottom) / 4))
        places = [10.0**exponent for exponent in range(bottom, top + 1) if (top - exponent) % stride == 0]
        if top - bottom < 2:  # decades alone would leave the axis nearly bare
            places = [place * factor for place in places for factor in (1, 2, 5) if place * factor <= self.high]
        zero = [0.0] if self.kind == "log1p" and self.low == 0 else []
        return [Tick(self.at(x), _decade(x)) for x in [*zero, *places]]

    def _linear_ticks(self) -> list[Tick]:
        raw = (self.high - self.low) / 6
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * (1 - 1e-9))
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [Tick(self.at(i * step), fixed_text(i * step, digits)) for i in range(first, last + 1)]


def _decade(x: float) -> str:
    if 0.009 < x <= 1000 or x == 0:
        return f"{x:g}"
    return "10" + str(round(math.log10(x))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


# --- bars -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """One layer: all places in percent, ``None`` where there is nothing to draw."""

    row: AlignmentRow
    label: str
    start: float
    width: float
    band: tuple[float, float] | None
    null: float | None
    whisker: tuple[float, float] | None


@dataclass(frozen=True)
class BarPanel:
    """Bars on one axis."""

    bars: dict[str, Bar]
    ticks: list[Tick]
    zero: float


def bar_panel(rows: Sequence[AlignmentRow], what: str) -> BarPanel:
    """Bars from zero to the correlation; the axis reaches from zero, or below, to one."""
    shown = [x for row in rows for x in row.extent]
    scale = Scale(min(0.0, math.floor(10 * min([0.0, *shown])) / 10), max([1.0, *shown]))
    return BarPanel({row.layer: _bar(row, scale, what) for row in rows}, scale.ticks, scale.at(0.0))


def _bar(row: AlignmentRow, scale: Scale, what: str) -> Bar:
    start, end = sorted((scale.at(0.0), scale.at(row.value))) if math.isfinite(row.value) else (scale.at(0.0),) * 2
    numbers = f"{what} {fixed_text(row.value)}, chance {fixed_text(row.null)}"
    return Bar(
        row,
        f"{row.layer}: {numbers}, excess {fixed_text(row.excess, 2)} ± {fixed_text(row.error, 2)}",
        start,
        round(end - start, 2),
        _interval(scale, *row.band),
        scale.at(row.null) if math.isfinite(row.null) else None,
        _interval(scale, row.low, row.high),
    )


def _interval(scale: Scale, low: float, high: float) -> tuple[float, float] | None:
    return (scale.at(low), scale.at(high)) if math.isfinite(low) and math.isfinite(high) else None


@dataclass(frozen=True)
class Dumbbell:
    """Excess of one layer before and after, in percent of the frame; ``None`` where it is undefined."""

    layer: str
    label: str
    verdict: str
    before: float | None
    after: float | None
    whisker: tuple[float, float] | None


@dataclass(frozen=True)
class DumbbellPanel:
    """Dumbbells on one axis."""

    rows: list[Dumbbell]
    ticks: list[Tick]
    zero: float


def dumbbell_panel(changes: Sequence[Change]) -> DumbbellPanel:
    """Excess before and after, with two standard errors about the latter."""
    shown = [x for change in changes for x in (change.before.excess, change.after.excess) if math.isfinite(x)]
    low = max(LOWEST_EXCESS, min([0.0, *shown]))
    scale = Scale(math.floor(10 * low) / 10, max([1.0, *shown]))
    return DumbbellPanel([_dumbbell(change, scale) for change in changes], scale.ticks, scale.at(0.0))


def _dumbbell(change: Change, scale: Scale) -> Dumbbell:
    before, after = change.before, change.after
    return Dumbbell(
        after.layer,
        f"{after.layer}: excess {fixed_text(before.excess, 2)} before, {fixed_text(after.excess, 2)} after",
        change.verdict,
        scale.at(before.excess) if math.isfinite(before.excess) else None,
        scale.at(after.excess) if math.isfinite(after.excess) else None,
        _interval(scale, after.excess - 2 * after.error, after.excess + 2 * after.error),
    )


@dataclass(frozen=True)
class ShareBar:
    """A share by name, and its length in percent of the longest."""

    name: str
    share: float
    width: float


def share_bars(pairs: Sequence[tuple[str, float]]) -> list[ShareBar]:
    """Bars of shares, from zero, as long as the frame for the largest."""
    longest = max((share for _, share in pairs), default=1.0)
    return [ShareBar(name, share, round(100 * share / longest, 2)) for name, share in pairs]


# --- curves -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """One layer, or whatever a curve stands for: a path in percent of the frame, from the top left."""

    layer: str
    color: str
    path: str
    whiskers: str = ""
    mark: str = ""


@dataclass(frozen=True)
class LineChart:
    """One curve a layer, or whatever ``each`` says, on two axes."""

    title: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve]
    zero: float | None = None
    each: str = "layer"

    @property
    def label(self) -> str:
        """What a reader who cannot see it is told."""
        return f"{self.title}: {self.y_label} against {self.x_label}, one curve a {self.each}"


def spectrum_chart(layers: Mapping[str, Mapping[str, Any]], key: str, title: str) -> LineChart | None:
    """Spectra relative to their largest eigenvalue, on logarithmic axes; ``None`` when there is none."""
    spectra: dict[str, list[tuple[float, float]]] = {}
    for name, layer in layers.items():
        values = np.asarray(layer[key]["values"], dtype=np.float64)
        kept = values[values > NEGLIGIBLE * values.max(initial=0.0)]
        places = np.unique(np.geomspace(1, max(1, len(kept)), MOST_POINTS).round().astype(int))
        spectra[name] = [(float(j), float(kept[j - 1] / kept[0])) for j in places if len(kept)]
    points = [point for spectrum in spectra.values() for point in spectrum]
    if not points:
        return None
    x_scale = Scale(1.0, max(2.0, *(x for x, _ in points)), "log")
    lowest = min(0.1, *(y for _, y in points))
    y_scale = Scale(10.0 ** math.floor(math.log10(lowest) + 1e-9), 1.0, "log")
    return _line_chart(title, ("eigenvalue, by size", "relative to the largest"), (x_scale, y_scale), spectra)


def history_chart(rows: Sequence[Mapping[str, Any]], quantity: str, title: str) -> LineChart | None:
    """Curves of a tracked run; steps are spaced logarithmically when they were recorded so; ``None`` without values.

    Parameters
    ----------
    rows : sequence of mappings
        From :func:`featlearn.plots.history.history_rows`.
    quantity, title : str
        What to draw, and its name.
    """
    if not any(math.isfinite(number(row.get(quantity))) for row in rows):
        return None
    points = {name: list(zip(*pair, strict=True)) for name, pair in history_series(rows, quantity).items()}
    values = [y for pairs in points.values() for _, y in pairs if math.isfinite(y)]
    steps = sorted({x for pairs in points.values() for x, _ in pairs})
    kind: Literal["linear", "log1p"] = "log1p" if grows_geometrically(steps) else "linear"
    x_scale = Scale(steps[0], max(steps[-1], steps[0] + 1), kind)
    low, high = max(LOWEST_EXCESS, min([0.0, *values])), max([0.1, *values])
    margin = 0.03 * (high - low)
    y_scale = Scale(low - margin if low < 0 else low, high + margin)
    return _line_chart(title, ("optimiser step", title), (x_scale, y_scale), points)


def selection_chart(curves: Sequence[CandidateCurve], title: str) -> LineChart:
    """Held-out scores of candidates along their iterates, whiskers of one standard error, a dot on the chosen."""
    ends = [
        (score - error, score + error) if math.isfinite(error) else (score, score)
        for curve in curves
        for score, error in zip(curve.scores, curve.errors, strict=True)
    ]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    smallest = min(score for curve in curves for score in curve.scores)
    if smallest > 0 and high > 8 * smallest:
        y_scale = Scale(max(low, smallest / 2), high * 1.05, "log")
    else:
        y_scale = Scale(low - margin, high + margin)
    x_scale = Scale(-0.2, max(1, *(step for curve in curves for step in curve.steps)) + 0.2)
    x_ticks = [Tick(x_scale.at(t), str(t)) for t in range(int(x_scale.high) + 1)]
    made = []
    for place, (color, curve) in enumerate(zip(layer_colors(len(curves)), curves, strict=True)):
        shift = 0.05 * (place - (len(curves) - 1) / 2)  # whiskers of several candidates stay apart
        points = [(step + shift, score) for step, score in zip(curve.steps, curve.scores, strict=True)]
        whiskers = "".join(
            _path([(x, score - error), (x, score + error)], x_scale, y_scale)
            for (x, score), error in zip(points, curve.errors, strict=True)
            if error > 0
        )
        mark = "" if curve.chosen is None else _path([points[curve.chosen]], x_scale, y_scale)
        made.append(Curve(curve.label, color, _path(points, x_scale, y_scale), whiskers, mark))
    y_ticks = [Tick(round(100 - tick.at, 2), tick.label) for tick in y_scale.ticks]
    return LineChart(title, "AGOP steps", title, x_ticks, y_ticks, made, each="candidate")


def _line_chart(
    title: str,
    labels: tuple[str, str],
    scales: tuple[Scale, Scale],
    points: Mapping[str, Iterable[tuple[float, float]]],
) -> LineChart:
    x_scale, y_scale = scales
    y_ticks = [Tick(round(100 - tick.at, 2), tick.label) for tick in y_scale.ticks]
    curves = [
        Curve(name, color, _path(pairs, x_scale, y_scale))
        for color, (name, pairs) in zip(layer_colors(len(points)), points.items(), strict=True)
    ]
    zero = round(100 - y_scale.at(0.0), 2) if y_scale.kind == "linear" and y_scale.low < 0 else None
    return LineChart(title, *labels, x_scale.ticks, y_ticks, curves, zero)


def _path(points: Iterable[tuple[float, float]], x_scale: Scale, y_scale: Scale) -> str:
    """Lines through the points, broken where a value is undefined; a point alone is a dot (of its round cap)."""
    commands: list[str] = []
    drawing = False
    for x, y in points:
        if not math.isfinite(y):
            drawing = False
            continue
        place = f"{x_scale.at(x):g} {100 - y_scale.at(y):.4g}"
        commands.append(f"L{place}" if drawing else f"M{place}L{place}")
        drawing = True
    return "".join(commands)
