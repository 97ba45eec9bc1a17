"""The page of a feature probe: core and spurious decodability of every layer beside its controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from markupsafe import Markup

from ..exceptions import DataError
from ..plots.alignments import number
from .charts import Scale
from .environment import environment
from .files import atomic_write
from .numbers import NOTHING, count, fixed, fixed_text, name
from .tables import Column, Row, Table, make_table

__all__ = ["write_probe_report"]

PARTS = ("probe", "rows", "provenance")
CONTROLS = {"pixels": "raw input", "init": "untrained network"}
KINDS = ("core", "spurious")
MOST_NAMED = 8
LETTER, LINE = 1.5, 4.0  # width and height of a letter beside a dot, in percent of the plane


@dataclass(frozen=True)
class Track:
    """Worst-group accuracy of one probe, places in percent: the value, its interval, and those of the controls."""

    kind: str
    label: str
    at: float
    whisker: tuple[float, float] | None
    controls: dict[str, float]


@dataclass(frozen=True)
class Dot:
    """A set of features on the plane of spurious and core decodability, places in percent from the top left."""

    name: str
    control: str | None
    x: float
    y: float
    label: str


def write_probe_report(told: Mapping[str, Any], path: str | PathLike[str], *, title: str | None = None) -> None:
    """Write a feature probe as one page that needs no network and no other file.

    Parameters
    ----------
    told : mapping
        "probe" is ``FeatureProbe.to_dict()``, "rows" counts every group, "provenance" names features, label,
        attribute and version: what ``featlearn probe --json`` writes, and ``FeatureProbe.to_html`` in short.
    path : path-like
        Written whole or not at all; the folder must exist.
    title : str, optional
        Heading of the page.

    Raises
    ------
    DataError
        Not such a probe.
    OSError
        The file cannot be written.
    """
    missing = [part for part in PARTS if part not in told]
    if missing:
        raise DataError(f"Got a probe without {', '.join(missing)}, but expected what featlearn probe writes.")
    probe = told["probe"]
    points = probe["points"]
    scale = Scale(0.0, 1.0)
    lowest = min(number(point[f"{kind}_wga"]) for point in points for kind in KINDS)
    plane = Scale(max(0.0, math.floor(10 * lowest - 0.5) / 10), 1.0)
    dots = [_dot(point, plane) for point in points]
    page = {
        "title": title or "Is the right feature in the network?",
        "about": told["provenance"],
        "probe": probe,
        "summary": probe["summary"].splitlines(),
        "controlled": any(point["control"] for point in points),
        "scale": scale,
        "tracks": {point["name"]: [_track(kind, point, points, scale) for kind in KINDS] for point in points},
        "plane": plane,
        "dots": dots,
        "lines": _lines(points, plane),
        "named": _named(dots),
        "chance": {kind: scale.at(number(probe[f"{kind}_chance"])) for kind in KINDS},
        "values": _value_table(points, told["provenance"]),
        "used": _rows_table(told["rows"]),
    }
    atomic_write(path, environment().get_template("probe.html").render(page))


# --- figures ----------------------------------------------------------------------------------------------------------


def _track(kind: str, point: Mapping[str, Any], points: Sequence[Mapping[str, Any]], scale: Scale) -> Track:
    low, high = number(point[f"{kind}_low"]), number(point[f"{kind}_high"])
    value = number(point[f"{kind}_wga"])
    return Track(
        kind,
        f"{point['name']}, {kind}: {fixed_text(value)}, interval {fixed_text(low)} to {fixed_text(high)}",
        scale.at(value),
        (scale.at(low), scale.at(high)) if math.isfinite(low) and math.isfinite(high) else None,
        {control["control"]: scale.at(number(control[f"{kind}_wga"])) for control in _controls_of(point, points)},
    )


def _controls_of(point: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The raw input, and the untrained network at the same layer (or at its only one); none for a control itself."""
    if point["control"]:
        return []
    inits = [other for other in points if other["control"] == "init"]
    own = [other for other in inits if other["layer"] == point["layer"]] or inits
    return [other for other in points if other["control"] == "pixels"] + own[:1]


def _dot(point: Mapping[str, Any], scale: Scale) -> Dot:
    x, y = number(point["spurious_wga"]), number(point["core_wga"])
    label = f"{point['name']}: core {fixed_text(y)}, spurious {fixed_text(x)}"
    return Dot(point["name"], point["control"], scale.at(x), round(100 - scale.at(y), 2), label)


def _lines(points: Sequence[Mapping[str, Any]], scale: Scale) -> list[str]:
    """Paths through the checkpoints of each layer, or through all layers of one network."""
    joined: dict[Any, list[str]] = {}
    for point in points:
        if not point["control"]:
            dot = _dot(point, scale)
            joined.setdefault(point["layer"] if point["checkpoint"] else None, []).append(f"{dot.x:g} {dot.y:g}")
    return ["M" + "L".join(places) for places in joined.values() if len(places) > 1]


def _named(dots: Sequence[Dot]) -> set[str]:
    """Names beside dots: all of a few, else controls, the first and the last; none over one that is there."""
    shown = [dot for dot in dots if not dot.control]
    few = shown if len(shown) <= MOST_NAMED else [shown[0], shown[-1]]
    placed: dict[str, tuple[float, float, float]] = {}  # left end, right end, height
    for dot in [*(dot for dot in dots if dot.control), *few]:
        width = LETTER * len(dot.name)
        start = dot.x - width if dot.x > 70 else dot.x  # the side on which the page writes it
        if all(abs(dot.y - y) > LINE or start > right or left > start + width for left, right, y in placed.values()):
            placed[dot.name] = (start, start + width, dot.y)
    return set(placed)


# --- tables -----------------------------------------------------------------------------------------------------------


def _value_table(points: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> Table:
    columns = [Column("d", "Number of features.", lambda x: count(x["d"]))]
    for kind, what in (("core", about["label"]), ("spurious", about["attribute"])):
        columns += [
            Column(
                f"{kind}, worst group",
                f"Accuracy of the probe for {what} in its worst group.",
                lambda x, key=f"{kind}_wga": fixed(x[key]),  # type: ignore[misc]
            ),
            Column("interval", "Of this value.", lambda x, key=kind: _ends(x[f"{key}_low"], x[f"{key}_high"])),  # type: ignore[misc]
            Column("mean", "Over all test rows.", lambda x, key=f"{kind}_mean": fixed(x[key])),  # type: ignore[misc]
        ]
    if any(math.isfinite(number(point["excess_core"])) for point in points):
        columns += [
            Column(
                "excess", "Core, worst group, minus that of the better baseline.", lambda x: fixed(x["excess_core"])
            ),
            Column("interval", "Of the excess, paired.", lambda x: _ends(x["excess_low"], x["excess_high"])),
        ]
    rows = [Row(point["name"], _heading(point), [c.cell(point) for c in columns], False) for point in points]
    return Table("Decodability of every set of features", columns, rows)


def _heading(point: Mapping[str, Any]) -> Markup:
    if not point["control"]:
        return name(point["name"])
    return Markup('{} <span class="quiet">{}</span>').format(name(point["name"]), CONTROLS[point["control"]])


def _rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = [Column("to test", "Rows that judge the probes.", lambda x: count(x["test"]))]
    if all("fit" in row for row in rows):
        meaning = "Rows that the probes were fitted to, before they were balanced."
        columns.insert(0, Column("to fit", meaning, lambda x: count(x["fit"])))
    return make_table("Rows of every group", columns, {row["label"]: row for row in rows})


def _ends(low: Any, high: Any) -> Markup:
    if not (math.isfinite(number(low)) and math.isfinite(number(high))):
        return NOTHING
    return Markup("{} to {}").format(fixed(low), fixed(high))
