"""The page of a small tree on learned features: rules that fold, and a box in which a reader moves one row."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from ..exceptions import DataError
from ..plots.palette import diverging
from ..plots.tree_rules import (
    REACH,
    check_image,
    check_terms,
    check_tree,
    condition,
    largest_weight,
    leaf_classes,
    leaf_value,
    positions,
    terms_of,
    three_digits,
    weight_maps,
)
from ..trees.export import rule_text, tree_to_text
from ..trees.path import TreePath
from .charts import Scale, Tick
from .environment import environment
from .files import atomic_write
from .json import dump_json
from .numbers import count, fixed, measured
from .tables import Column, Row, Table, make_table

__all__ = ["write_tree_page"]

DIGITS = 4  # significant ones of a rule in words
IMPORTANT = 12  # inputs that are listed
MOST_SIZES = 24  # rows of the table of sizes


def write_tree_page(
    told: Mapping[str, Any],
    path: str | PathLike[str],
    *,
    title: str | None = None,
    curve: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
    max_terms: int = 6,
    image_shape: tuple[int, ...] | None = None,
    examples: Sequence[tuple[str, Sequence[float]]] = (),
    about: Mapping[str, str] | None = None,
) -> None:
    """Write the tree as one page that needs no network, no server and no other file.

    Parameters
    ----------
    told : mapping
        ``export_dict()`` of a fitted tree, or its JSON read back.
    path : path-like
        Written whole or not at all; the folder must exist.
    title : str, optional
        Heading of the page.
    curve : mapping, optional
        ``TreePath.to_dict()``, for the section on accuracy against size.
    scores : mapping, optional
        ``metric``; ``rows`` that it was measured on, none of which the fit saw; ``table``: mappings with ``name``,
        ``value``, ``standard_error``, ``leaves`` and ``weights``, the tree first (None: a dash).
    max_terms : int, default=6
        Bars of a rule. The rule in words has all terms.
    image_shape : (height, width), optional
        Inputs are pixels, row by row: rules are drawn as maps.
    examples : sequence of (str, sequence of float)
        Rows that a reader can start from, and what they are called; the first is there when the page opens. By default
        there is the mean of the training rows.
    about : mapping of str to str, optional
        Said under where the tree comes from: data, target, command.

    Raises
    ------
    DataError
        Not a tree, another number of pixels or of values in a row than of inputs.
    OSError
        The file cannot be written.
    """
    check_tree(told)
    shape = check_image(told, image_shape)
    max_terms = check_terms(max_terms)
    rows = _checked_examples(told, examples)
    splits = [node for node in told["nodes"] if node["left"] is not None]
    drawn = _Drawn(told, max_terms, shape)
    page = {
        "title": title or _title(told),
        "told": told,
        "nodes": [drawn.card(node) for node in told["nodes"]],
        "splits": len(splits),
        "leaves": len(told["nodes"]) - len(splits),
        "depth": max(drawn.depths.values()),
        "prototypes": any(node["rule"] == "prototype" for node in splits),
        "shape": shape,
        "scale": largest_weight(told),
        "reach": REACH,
        "words": tree_to_text(told, decimals=DIGITS, max_terms=None),
        "important": _important(told),
        "scores": None if scores is None else _score_table(scores),
        "tested": scores,
        "chart": None if curve is None else _chart(curve),
        "sizes": None if curve is None else _size_table(curve),
        "about": about or {},
        "used": _used(told),
        "embedded": Markup(dump_json(_embedded(told, rows)).replace("<", "\\u003c")),
    }
    atomic_write(path, environment().get_template("tree.html").render(page))


def _title(told: Mapping[str, Any]) -> str:
    leaves = sum(node["left"] is None for node in told["nodes"])
    return f"A tree of {leaves} leaves on learned features" if leaves > 1 else "A tree of one leaf"


def _checked_examples(
    told: Mapping[str, Any], examples: Sequence[tuple[str, Sequence[float]]]
) -> list[tuple[str, list[float]]]:
    found = [(str(label), [float(value) for value in values]) for label, values in examples]
    for label, values in found:
        if len(values) != len(told["features"]) or not np.isfinite(values).all():
            raise DataError(
                f"Got {len(values)} values for the row {label!r}, but expected {len(told['features'])} finite numbers, "
                "one an input."
            )
    # The mean comes rounded, as a reader would type it.
    mean = [float(f"{value:.{DIGITS}g}") for value in told["exact"]["inputs"]["mean"]]
    return [*found, ("mean of the training rows", mean)]


def _used(told: Mapping[str, Any]) -> list[int]:
    """Inputs of rules, in the order of the columns."""
    return sorted({i for node in told["nodes"] if node["left"] is not None for i in node["inputs"]})


def _embedded(told: Mapping[str, Any], rows: Sequence[tuple[str, list[float]]]) -> dict[str, Any]:
    """What the script walks down the tree with: numbers that Python predicts from."""
    inputs = told["exact"]["inputs"]
    nodes = [
        {"left": node["left"], "right": node["right"], "value": node["value"]}
        | (
            {}
            if node["left"] is None
            else {
                "kind": node["rule"],
                "inputs": node["inputs"],
                "weights": node["standardized"]["weights"],
                "centers": node["standardized"]["centers"],
                "threshold": node["standardized"]["threshold"],
                "rule": rule_text(node, "original", DIGITS, None),
            }
        )
        for node in told["nodes"]
    ]
    return {
        "task": told["task"],
        "outputs": told["outputs"],
        "features": told["features"],
        "bandwidth": told["bandwidth"],
        "mean": inputs["mean"],
        "scale": inputs["scale"],
        "low": inputs["low"],
        "high": inputs["high"],
        "used": _used(told),
        "nodes": nodes,
        "rows": [{"label": label, "values": values} for label, values in rows],
    }


# --- the tree ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TermBar:
    """One input of a rule: a bar from ``start``, in percent of its track; ``at`` is the dot of a prototype."""

    name: str
    start: float
    width: float
    positive: bool
    at: float | None
    label: str


@dataclass(frozen=True)
class Share:
    """A class with its share, or an output with its place among the leaves, in percent."""

    name: str
    number: Markup
    at: float


@dataclass(frozen=True)
class Card:
    """What a node shows; ``children`` are yes and no."""

    id: int
    depth: int
    n: float
    share: float
    children: tuple[int, ...]
    condition: str
    alone: str
    bars: list[TermBar]
    hidden: int
    pictures: list[tuple[str, str]]
    shares: list[Share]
    label: str


class _Drawn:
    """Cards of one tree, all on one scale."""

    def __init__(self, told: Mapping[str, Any], max_terms: int, shape: tuple[int, int] | None) -> None:
        self.told, self.max_terms, self.shape = told, max_terms, shape
        self.scale, self.depths = largest_weight(told), positions(told)

    def card(self, node: Mapping[str, Any]) -> Card:
        leaf = node["left"] is None
        terms, hidden = ([], 0) if leaf or self.shape else terms_of(node, self.max_terms)
        single = not leaf and node["rule"] == "linear" and len(node["terms"]) == 1
        said = "" if leaf else condition(node)
        return Card(
            id=node["id"],
            depth=self.depths[node["id"]],
            n=node["n"],
            share=round(node["n"] / self.told["nodes"][0]["n"], 4),
            children=() if leaf else (node["right"], node["left"]),
            condition=said,
            alone=node["terms"][0][0] if single else "",
            bars=[self._bar(node, term) for term in terms],
            hidden=hidden,
            pictures=[] if leaf or self.shape is None else self._pictures(node),
            shares=self._shares(node) if leaf else [],
            label=self._label(node, said),
        )

    def _bar(self, node: Mapping[str, Any], term: Any) -> TermBar:
        if node["rule"] != "prototype":
            end = 50 + 50 * term.weight / self.scale
            label = f"{term.name}: weight {term.weight:.3g} per standard deviation"
            return TermBar(term.name, min(50.0, end), abs(end - 50), term.weight > 0, None, label)
        axis = Scale(-REACH, REACH)
        low, high = axis.at(term.center - term.reach), axis.at(term.center + term.reach)
        label = f"{term.name}: centre {term.center:.3g}, up to {term.reach:.3g} away, in standard deviations"
        return TermBar(term.name, low, round(high - low, 2), True, axis.at(term.center), label)

    def _pictures(self, node: Mapping[str, Any]) -> list[tuple[str, str]]:
        assert self.shape is not None
        return [
            (what, _picture(pixels / (self.scale if what == "weights" else REACH)))
            for what, pixels in weight_maps(node, self.shape).items()
        ]

    def _shares(self, node: Mapping[str, Any]) -> list[Share]:
        if self.told["task"] == "classification":
            return [
                Share(name, fixed(share, 2), round(100 * share, 2)) for name, share in leaf_classes(self.told, node)
            ]
        one = len(node["value"]) == 1
        return [
            Share("" if one else name, _shown(value), round(100 * place, 2))
            for name, value, place in leaf_value(self.told, node)
        ]

    def _label(self, node: Mapping[str, Any], said: str) -> str:
        rows = f"{node['n']:,.6g} rows"
        if node["left"] is not None:
            names = ", ".join(term.name for term in terms_of(node, 3)[0])
            return f"Rule of {names}: {said}; {rows}"
        if self.told["task"] == "classification":
            return (
                "Leaf: "
                + ", ".join(f"{name} {share:.2f}" for name, share in leaf_classes(self.told, node))
                + f"; {rows}"
            )
        values = ", ".join(f"{name} {value:.4g}" for name, value, _ in leaf_value(self.told, node))
        return f"Leaf: {values}; {rows}"


def _shown(value: float) -> Markup:
    return Markup('<data value="{}">{}</data>').format(repr(float(value)), three_digits(value))


def _picture(scaled: NDArray[np.float64]) -> str:
    """Pixels in [-1, 1] as an image, white where there is none or 0."""
    colors = diverging(np.nan_to_num(scaled))
    colors[np.isnan(scaled) | (scaled == 0)] = 255
    file = BytesIO()
    Image.fromarray(colors).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


# --- tables and the curve ---------------------------------------------------------------------------------------------


def _important(told: Mapping[str, Any]) -> list[tuple[str, float]]:
    pairs = sorted(zip(told["features"], told["importances"], strict=True), key=lambda pair: -pair[1])
    return [pair for pair in pairs[:IMPORTANT] if pair[1] > 0]


def _score_table(scores: Mapping[str, Any]) -> Table:
    columns = [
        Column(
            scores["metric"],
            "On rows that the fit did not see, ± one standard error.",
            lambda x: measured(x["value"], x["standard_error"]),
        ),
        Column("leaves", "Different answers that it gives.", lambda x: _whole(x["leaves"])),
        Column(
            "weights",
            "Numbers in all rules together; of an axis-aligned tree one a rule.",
            lambda x: _whole(x["weights"]),
        ),
    ]
    return make_table("Scores", columns, {entry["name"]: entry for entry in scores["table"]})


def _whole(value: Any) -> Markup:
    return count(float("nan") if value is None else value)


def _size_table(curve: Mapping[str, Any]) -> Table:
    columns = [
        Column("leaves", "Of the tree.", lambda x: count(x["leaves"])),
        Column("weights", "Of all rules.", lambda x: count(x["weights"])),
        Column(curve["metric"], f"On {curve['score_of']}.", lambda x: fixed(x["score"])),
    ]
    best = [("feature tree, chosen" if row["chosen"] else "feature tree", row) for row in _best(curve)]
    cart = [("axis-aligned tree", row) for row in curve["cart"][:MOST_SIZES]]
    rows = [Row(name, Markup("{}").format(name), [c.cell(row) for c in columns], False) for name, row in [*best, *cart]]
    return Table("Trees of all sizes", columns, rows)


def _best(curve: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of every size the tree of lowest objective, with the one that was chosen in the place of its size."""
    best = TreePath(list(curve["rows"]), [], curve["metric"], curve["score_of"]).best_by_leaves()
    chosen = {row["leaves"]: row for row in curve["rows"] if row["chosen"]}
    return [chosen.get(row["leaves"], row) for row in best]


@dataclass(frozen=True)
class SizeChart:
    """Score against leaves, in percent of the frame, from its upper left corner."""

    x_ticks: list[Tick]
    y_ticks: list[Tick]
    path: str
    cart: str
    considered: list[tuple[float, float]]
    best: list[tuple[float, float, str]]
    chosen: tuple[float, float] | None
    y_label: str


def _chart(curve: Mapping[str, Any]) -> SizeChart:
    rows, cart, best = curve["rows"], curve["cart"], _best(curve)
    most = max(row["leaves"] for row in [*rows, *cart])
    values = [row["score"] for row in [*rows, *cart]]
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    x, y = Scale(1, max(2, most), "log"), Scale(low - 0.06 * spread, high + 0.06 * spread)

    def place(row: Mapping[str, Any]) -> tuple[float, float]:
        return x.at(row["leaves"]), round(100 - y.at(row["score"]), 2)

    def path(line: Sequence[Mapping[str, Any]]) -> str:
        return "M" + "L".join(f"{left:g} {top:g}" for left, top in map(place, line)) if len(line) > 1 else ""

    ticks = [2**k for k in range(11) if 2**k <= most]
    chosen = next((row for row in rows if row["chosen"]), None)
    return SizeChart(
        [Tick(x.at(tick), f"{tick}") for tick in ticks[:: 1 + len(ticks) // 8]],
        [Tick(round(100 - tick.at, 2), tick.label) for tick in y.ticks],
        path(best),
        path(cart),
        sorted({place(row) for row in rows}),
        [(*place(row), f"{row['leaves']} leaves, {row['weights']} weights: {row['score']:.3f}") for row in best],
        None if chosen is None else place(chosen),
        f"{curve['metric']} on {curve['score_of']}",
    )
