"""The page of the phase diagram: two planes that answer to pointer and keyboard, with every number made here."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..exceptions import DataError
from ..plots.palette import diverging
from .charts import Scale, Tick
from .environment import environment
from .files import atomic_write
from .numbers import fixed, general
from .tables import Column, Row, Table

__all__ = ["write_phase_map"]

PARTS = ("exponents", "initialisation", "paths", "shown")
REACH = {"exponents": 3.0, "initialisation": 1.5}  # decades of rho, and slope, at which colours are at their darkest
WINDOW = 1.25  # of the target, on either side of the panel of output and kernel
DIGITS = 6  # significant ones, of the points of a trajectory
SCALES = {"g": "g", "eta_u": "η of u", "eta_w": "η of w", "var_u": "Var u", "var_w": "Var w"}


def write_phase_map(planes: Mapping[str, Any], path: str | PathLike[str], *, title: str | None = None) -> None:
    """Write both planes as one page that needs no network, no server and no other file.

    Parameters
    ----------
    planes : mapping
        ``exponents``: ``PhaseDiagram.to_dict()`` at several widths on the same axes; ``initialisation``: the same of
        the other plane; ``paths``: hyperbolas by ``log10 rho`` from ``low`` in steps of ``step``, for places without a
        point; ``shown``: the ``plane`` and the ``width`` that the page opens with.
    path : path-like
        Written whole or not at all; the folder must exist.
    title : str, optional
        Heading of the page.

    Raises
    ------
    DataError
        Not such planes.
    OSError
        The file cannot be written.
    """
    maps, initial, shown = _checked(planes)
    here = maps[shown["width"]]
    dots = [_dots(maps[shown["width"]]), _dots(initial)]
    chosen = next((names[0] for names in dots[0] if "mine" in names), "mean_field")
    embedded = {
        "shown": {**shown, "name": chosen},
        "exponents": {
            "axes": _rounded(here["axes"]),
            "phase": _coded(here["grids"]["phase"]),
            "speed": _coded(here["grids"]["speed"]),
            "widths": {str(width): _at_width(diagram) for width, diagram in maps.items()},
            "paths": {**planes["paths"], "members": [_path(member) for member in planes["paths"]["members"]]},
        },
        "initialisation": {
            "axes": _rounded(initial["axes"]),
            "phase": _coded(initial["grids"]["phase"]),
            "slope": _hundredths(initial["grids"]["slope"]),
            "points": initial["points"],
        },
    }
    page = {
        "title": title or "Lazy or rich: phase diagrams of two-layer networks",
        "target": here["settings"]["target"],
        "shown": embedded["shown"],
        "widths": list(maps),
        "reach": REACH,
        "maps": [_map(here, dots[0]), _map(initial, dots[1])],
        "panel": _panel(_named(here, chosen)),
        "way": _way(_named(here, chosen)),
        "chosen": _named(here, chosen),
        "points": _point_table(here["points"]),
        "by_width": _width_table(maps),
        "initial_points": _initial_table(initial["points"]),
        "embedded": _script(embedded),
    }
    atomic_write(path, environment().get_template("phase_map.html").render(page))


def _checked(planes: Mapping[str, Any]) -> tuple[dict[int, Mapping[str, Any]], Mapping[str, Any], Mapping[str, Any]]:
    missing = [part for part in PARTS if part not in planes]
    if missing:
        raise DataError(f"Got planes without {', '.join(missing)}, but expected all of {', '.join(PARTS)}.")
    maps = {diagram["settings"]["width"]: diagram for diagram in planes["exponents"]}
    if any(diagram["axes"] != planes["exponents"][0]["axes"] for diagram in maps.values()):
        raise DataError("Got planes of exponents with different axes, but expected the same ones at all widths.")
    if planes["shown"]["width"] not in maps:
        raise DataError(f"Got the width {planes['shown']['width']} to be shown, but expected one of {sorted(maps)}.")
    return maps, planes["initialisation"], planes["shown"]


# --- numbers in the page ----------------------------------------------------------------------------------------------


def _at_width(diagram: Mapping[str, Any]) -> dict[str, Any]:
    """What depends on the width: growth and kernel over the grid, colours, and the points."""
    width = float(diagram["settings"]["width"])
    return {
        "log10_rho": _hundredths(_decades(diagram)),
        "Theta0": [_significant(2 * width**eT, 3) for eT in diagram["axes"]["eT"]],
        "colors": _colors(diagram),
        "points": [_shortened(point) | {"panel": _panel(point)} for point in diagram["points"]],
    }


def _decades(diagram: Mapping[str, Any]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):  # no growth at all, to double precision, is shown as a hundred decades below one
        return np.clip(np.log10(np.asarray(diagram["grids"]["rho"], dtype=np.float64)), -100.0, 100.0)


def _hundredths(grid: ArrayLike) -> list[list[float]]:
    return (np.round(np.asarray(grid, dtype=np.float64), 2) + 0.0).tolist()


def _coded(grid: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Words of a grid, and their places in the list of words, one digit each."""
    words = sorted({word for row in grid for word in row})
    return {"words": words, "rows": ["".join(str(words.index(word)) for word in row) for row in grid]}


def _rounded(axes: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {name: [round(x, 4) + 0.0 for x in axis] for name, axis in axes.items()}


def _significant(value: float, digits: int = DIGITS) -> float:
    return float(f"{value:.{digits}g}")


def _shortened(point: Mapping[str, Any]) -> dict[str, Any]:
    trajectory = {name: [_significant(x) for x in values] for name, values in point["trajectory"].items()}
    return {**point, "trajectory": trajectory}


def _script(embedded: Mapping[str, Any]) -> Markup:
    """JSON that cannot end the element it stands in, whatever a label says."""
    compact = json.dumps(embedded, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return Markup(compact.replace("<", "\\u003c"))


# --- the maps ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dot:
    """One place with everything that lies there, in percent from the lower left corner."""

    x: float
    y: float
    names: list[str]
    labels: list[str]
    words: str
    mine: bool
    leftwards: bool


@dataclass(frozen=True)
class PhaseMap:
    """A map in percent of its frame; ``zero`` is where both exponents vanish, or gamma is one and gamma' zero."""

    plane: str
    colors: str
    overhang: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    zero: tuple[float, float]
    lines: list[str]
    dots: list[Dot]


def _dots(diagram: Mapping[str, Any]) -> list[list[str]]:
    """Names by place; the user's own first, so that a click shows it."""
    across, up = diagram["axes"]
    places: dict[tuple[float, float], list[str]] = {}
    for point in diagram["points"]:
        places.setdefault((point[across], point[up]), []).append(point["name"])
    return [sorted(names, key=lambda name: name != "mine") for names in places.values()]


def _map(diagram: Mapping[str, Any], dots: Sequence[list[str]]) -> PhaseMap:
    (across, x), (up, y) = diagram["axes"].items()
    x_scale, y_scale = Scale(x[0], x[-1]), Scale(y[0], y[-1])
    exponents = diagram["plane"] == "exponents"
    zero = (0.0, 0.0) if exponents else (1.0, 0.0)
    ends = [(y[0] / 2, y[0]), (y[-1] / 2, y[-1])] if exponents else [zero, (x[-1], x[-1] - 1)]
    made = []
    for names in dots:
        first = _named(diagram, names[0])
        at = x_scale.at(first[across])
        labels = [_named(diagram, name)["label"] for name in names]
        words = f"{', '.join(labels)}: {across} {first[across]:g}, {up} {first[up]:g}, {first['phase']}"
        made.append(Dot(at, y_scale.at(first[up]), names, labels, words, "mine" in names, at > 60))
    return PhaseMap(
        diagram["plane"],
        _colors(diagram),
        round(50 / (len(x) - 1), 3),
        x_scale.ticks,
        y_scale.ticks,
        (x_scale.at(zero[0]), y_scale.at(zero[1])),
        _segment(ends, (x[0], x[-1]), (y[0], y[-1])),
        made,
    )


def _segment(
    ends: Sequence[tuple[float, float]], x_range: tuple[float, float], y_range: tuple[float, float]
) -> list[str]:
    """Ends of a line in percent, x1 y1 x2 y2 from the upper left corner; they may lie outside of the frame."""
    places = []
    for x, y in ends:
        places += [(x - x_range[0]) / (x_range[1] - x_range[0]), 1 - (y - y_range[0]) / (y_range[1] - y_range[0])]
    return [f"{100 * place:.3f}%" for place in places]


def _colors(diagram: Mapping[str, Any]) -> str:
    """The grid as a picture, one pixel a point, its first row lowest."""
    exponents = diagram["plane"] == "exponents"
    values = _decades(diagram) if exponents else np.asarray(diagram["grids"]["slope"], dtype=np.float64)
    file = BytesIO()
    Image.fromarray(diverging(values / REACH[diagram["plane"]])[::-1].copy()).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def _named(diagram: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(point for point in diagram["points"] if point["name"] == name)


# --- the panel of output and kernel -----------------------------------------------------------------------------------


def _panel(point: Mapping[str, Any]) -> dict[str, Any]:
    """Frame of one hyperbola: ranges of output and kernel, ticks (the kernel's in units of its start), the curve."""
    core = point["hyperbola"]
    reach = WINDOW * abs(core["F_limit"])
    F = np.linspace(-reach, reach, 41)
    Theta = np.hypot(core["kappa"], core["omega"] * F)
    top = 1.12 * float(Theta.max())
    sides = [Scale(-reach, reach), Scale(0.0, top / point["Theta0"])]
    return {
        "F": [_significant(-reach), _significant(reach)],
        "Theta": [0.0, _significant(top)],
        "ticks": [[[tick.at, tick.label] for tick in side.ticks] for side in sides],
        "curve": {"F": [_significant(x, 4) for x in F], "Theta": [_significant(x, 4) for x in Theta]},
        "asymptote": _significant(core["omega"] * reach),
    }


def _path(member: Mapping[str, Any]) -> dict[str, Any]:
    """One hyperbola as a point has it; its curve is over the same outputs as that of every point."""
    panel, core = _panel(member), member["hyperbola"]
    F = core["F_limit"] * np.linspace(0.0, 1.0, 16) ** 2  # closer at the start, where the way bends
    Theta = np.hypot(core["kappa"], core["omega"] * F)
    ends = ("F0", "Theta0", "F_limit", "Theta_inf")
    return {
        "panel": {**panel, "curve": {"Theta": panel["curve"]["Theta"]}},
        "hyperbola": {name: _significant(core[name], 4) for name in ends},
        "trajectory": {name: [_significant(x, 4) for x in values] for name, values in (("F", F), ("Theta", Theta))},
    }


def _way(point: Mapping[str, Any]) -> dict[str, Any]:
    """What the script draws, drawn once here for readers without it: paths, start and end in percent."""
    panel, core = _panel(point), point["hyperbola"]

    def place(F: float, Theta: float) -> tuple[float, float]:
        low, high = panel["F"]
        return round(100 * (F - low) / (high - low), 2), round(100 - 100 * Theta / panel["Theta"][1], 2)

    def path(curve: Mapping[str, Sequence[float]]) -> str:
        places = (place(F, Theta) for F, Theta in zip(curve["F"], curve["Theta"], strict=True))
        return "".join(f"{'L' if k else 'M'}{x:g} {y:g}" for k, (x, y) in enumerate(places))

    (low, high), far = panel["F"], panel["asymptote"]
    return {
        "curve": path(panel["curve"]),
        "asymptotes": path({"F": [low, 0.0, high], "Theta": [far, 0.0, far]}),
        "way": path(_shortened(point)["trajectory"]),
        "start": place(core["F0"], core["Theta0"]),
        "end": place(core["F_limit"], core["Theta_inf"]),
    }


# --- tables -----------------------------------------------------------------------------------------------------------


def _point_table(points: Sequence[Mapping[str, Any]]) -> Table:
    columns = [
        Column(word, f"Exponent of the width in {word}.", lambda x, name=name: general(x["exponents"][name]))  # type: ignore[misc]
        for name, word in SCALES.items()
    ]
    columns += [
        Column("eT", "Exponent of the initial kernel Θ₀.", lambda x: general(x["eT"])),
        Column("eF", "Exponent of what learning adds to the square of the kernel.", lambda x: general(x["eF"])),
        Column("e0", "Exponent of the square of the initial output.", lambda x: general(x["e0"])),
        Column("phase", "Kernel: it stays at large width. Feature: it changes.", lambda x: escape(x["phase"])),
        Column(
            "speed",
            "Of steps of order one: trains in a time of order one (O(1)), frozen or unstable at large width.",
            lambda x: escape(x["speed"]),
        ),
        Column("Θ₀", "Initial kernel at this width.", lambda x: general(x["Theta0"])),
        Column("ρ", "Growth of the kernel at this width: Θ∞ / Θ₀ − 1.", lambda x: general(x["rho"])),
    ]
    return Table("Named points of the plane of exponents", columns, _rows(points, columns))


def _width_table(maps: Mapping[int, Mapping[str, Any]]) -> Table:
    columns = [
        Column(
            f"{sign}, width {width:,}",
            f"{meaning} at width {width:,}.",
            lambda x, width=width, key=key: general(_named(maps[width], x["name"])[key]),  # type: ignore[misc]
        )
        for sign, key, meaning in (("Θ₀", "Theta0", "Initial kernel"), ("ρ", "rho", "Growth of the kernel"))
        for width in maps
    ]
    points = next(iter(maps.values()))["points"]
    return Table("Kernel and its growth by width", columns, _rows(points, columns))


def _initial_table(points: Sequence[Mapping[str, Any]]) -> Table:
    columns = [
        Column("γ", "Exponent of one over the width in the product of the scales.", lambda x: general(x["gamma"])),
        Column("γ′", "The same in their ratio.", lambda x: general(x["gamma_prime"])),
        Column("regime", "Of the weights at large width.", lambda x: escape(x["phase"])),
        Column("slope", "Exponent of the width in the relative change of the weights.", lambda x: fixed(x["slope"], 2)),
    ]
    return Table("Named points of the plane of initial scales", columns, _rows(points, columns))


def _rows(points: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> list[Row]:
    return [
        Row(point["name"], escape(point["label"]), [column.cell(point) for column in columns], False)
        for point in points
    ]
