"""Pictures of small trees on learned features: every rule as a chart of its weights, and accuracy against size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter

from .palette import ALIGNMENT, CENTERED, COMPARISON, FAINT, INK, MUTED, diverging
from .panels import panels
from .tree_rules import (
    REACH,
    check_image,
    check_terms,
    check_tree,
    condition,
    largest_weight,
    leaf_classes,
    leaf_value,
    shortened,
    terms_of,
    three_digits,
    weight_maps,
)

__all__ = ["plot_feature_tree", "plot_tree_path"]

# All lengths are inches, so that text fits whatever the size of the tree.
ROW, PAD, GAP = 0.165, 0.07, 0.62
BARS, LONGEST_NAME, LETTER = 0.95, 20, 0.064
PICTURE = 0.92
LEAF_BARS = 0.6
ABOVE, BELOW, MARGIN = 0.42, 0.46, 0.16
BETWEEN = 0.12  # boxes of one column
THINNEST, THICKEST = 0.8, 9.0  # edges, in points
FONT, SMALL = 7.5, 6.8
NARROWEST = 5.2
MOST_OUTPUTS = 4
GROUND = "#eef1f4"  # of a bar that is not full


def plot_feature_tree(
    told: Mapping[str, Any],
    *,
    max_terms: int = 6,
    image_shape: tuple[int, ...] | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Rules and leaves from the root, on the left.

    A linear rule is a chart of its weights per standard deviation of the inputs, on one scale for all rules: what is
    to the right of the line speaks for yes. A prototype is a dot an input at its centre, in standard deviations from
    the mean, with a bar as far as this input alone may be from it. With ``image_shape`` both are maps of pixels. A leaf
    shows the shares of its classes, or its value between the smallest and the largest of all leaves. The thickness of a
    branch is the share of the rows that take it; yes is drawn above no.

    Parameters
    ----------
    told : mapping
        ``export_dict()`` of a fitted tree, or its JSON read back.
    max_terms : int, default=6
        Inputs of a rule that are drawn, the largest weights first; how many are not is said.
    image_shape : (height, width), optional
        Inputs are pixels, row by row.
    figure : Figure, optional
        Drawn into and resized; by default a new one.

    Returns
    -------
    Figure
        As large as the tree needs: about 2.8 inches a level and half an inch a leaf.

    Raises
    ------
    DataError
        Not a tree, another number of pixels than of inputs, or ``max_terms`` below 1.
    """
    check_tree(told)
    picture = _Picture(told, check_terms(max_terms), check_image(told, image_shape))
    root = picture.layout(0, 0, ABOVE)
    width = max(NARROWEST, picture.left(picture.deepest) + picture.leaf_width + MARGIN)
    height = root.bottom + BELOW
    figure = plt.figure() if figure is None else figure
    figure.set_size_inches(width, height)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_axis_off()
    picture.draw(ax, root, (width, height))
    return figure


@dataclass(frozen=True)
class _Block:
    """A node with all that is under it: its own middle, and the room that it takes from top to bottom."""

    node: Mapping[str, Any]
    depth: int
    middle: float
    top: float
    bottom: float
    children: tuple[_Block, ...] = ()  # yes, no


class _Picture:
    """Sizes and drawing of the parts of one tree."""

    def __init__(self, told: Mapping[str, Any], max_terms: int, shape: tuple[int, int] | None) -> None:
        self.told, self.max_terms, self.shape = told, max_terms, shape
        self.nodes = told["nodes"]
        self.splits = [node for node in self.nodes if node["left"] is not None]
        self.scale = largest_weight(told)
        names = [term.name for node in self.splits for term in terms_of(node, max_terms)[0]]
        self.names = LETTER * min(LONGEST_NAME, max(map(len, names), default=0)) + 0.05
        feet = [LETTER * len(self._said(node)) + 0.055 * len(_rows(node)) + 3 * PAD for node in self.splits]
        self.rule_width = max(*feet, 0.0, self._pictures_wide() if shape else self.names + BARS + 2 * PAD)
        self.labels = LETTER * max(len(label) for node in self.nodes for label in self._labels(node)) + 0.06
        self.leaf_width = self.labels + LEAF_BARS + (0.42 if told["task"] == "classification" else 0.1)
        self.deepest = 0

    def _said(self, node: Mapping[str, Any]) -> str:
        """The line under a rule; of a single input that the bars do not name its name, too."""
        alone = node["rule"] == "linear" and len(node["terms"]) == 1
        return f"{shortened(node['terms'][0][0], 16)} {condition(node)}" if alone else condition(node)

    def _labels(self, node: Mapping[str, Any]) -> list[str]:
        """What stands beside the bars of a leaf."""
        if node["left"] is not None:
            return []
        if self.told["task"] == "classification":
            return [shortened(name, LONGEST_NAME) for name, _ in leaf_classes(self.told, node)]
        values = leaf_value(self.told, node)[:MOST_OUTPUTS]
        names = [f"{shortened(name, 8)} " if len(node["value"]) > 1 else "" for name, _, _ in values]
        return [f"{name}{three_digits(value)}" for name, (_, value, _) in zip(names, values, strict=True)]

    def _pictures_wide(self) -> float:
        assert self.shape is not None
        count = 2 if any(node["rule"] == "prototype" for node in self.splits) else 1
        return count * (PICTURE * self.shape[1] / self.shape[0] + PAD) + PAD

    # where ------------------------------------------------------------------------------------------------------------

    def left(self, depth: int) -> float:
        """Left side of the boxes of a depth."""
        return MARGIN + depth * (self.rule_width + GAP)

    def height(self, node: Mapping[str, Any]) -> float:
        """Of the box of a node."""
        if node["left"] is None:
            return ROW * (1 + len(self._labels(node)))
        if self.shape is not None:
            return PICTURE + ROW + 2.5 * PAD
        terms, hidden = terms_of(node, self.max_terms)
        return ROW * (len(terms) + (hidden > 0) + 1) + 2.2 * PAD

    def layout(self, place: int, depth: int, top: float) -> _Block:
        """Children beside their parent, each in a room of its own."""
        node = self.nodes[place]
        self.deepest = max(self.deepest, depth)
        own = self.height(node) + BETWEEN
        if node["left"] is None:
            return _Block(node, depth, top + own / 2, top, top + own)
        yes = self.layout(node["right"], depth + 1, top)
        no = self.layout(node["left"], depth + 1, yes.bottom)
        lack = own - (no.bottom - top)
        if lack > 0:  # a chart of many bars before two small leaves
            yes, no = _moved(yes, lack / 2), _moved(no, lack / 2)
        bottom = max(no.bottom, top + own)
        middle = min(max((yes.middle + no.middle) / 2, top + own / 2), bottom - own / 2)
        return _Block(node, depth, middle, top, bottom, (yes, no))

    # what -------------------------------------------------------------------------------------------------------------

    def draw(self, ax: Axes, root: _Block, size: tuple[float, float]) -> None:
        """Everything, in inches from the upper left corner."""
        self._block(ax, root)
        leaves, rows = len(self.nodes) - len(self.splits), self.nodes[0]["n"]
        told = f"{leaves} leaves" if leaves > 1 else "one leaf"
        soft = "; soft: rows near a threshold count on both sides" if self.told["predict_mode"] == "fuzzy" else ""
        _text(ax, MARGIN, 0.2, f"{told} from {rows:,.6g} rows{soft}", INK, 10)
        if self.splits:
            for line, text in enumerate(self._legend()):
                _text(ax, MARGIN, size[1] - BELOW + 0.16 + 0.14 * line, text, MUTED, SMALL)
        ax.set_xlim(0, size[0])
        ax.set_ylim(size[1], 0)

    def _legend(self) -> list[str]:
        prototypes = any(node["rule"] == "prototype" for node in self.splits)
        if self.shape is not None and prototypes:
            return ["Maps: how much a pixel counts, and the prototype (red: above the mean of the pixel, blue: below).",
                    "yes: the image is closer to it than said"]  # fmt: skip
        if self.shape is not None:
            return [
                "Maps: weight per standard deviation, red positive, blue negative, white 0, darkest "
                f"±{three_digits(self.scale)}.",
                "yes: the weighted sum is above the threshold",
            ]
        if prototypes:
            return [
                f"Dot: centre, up to {three_digits(REACH)} standard deviations from the mean on either side.",
                "Bar: how far this input alone may be away for yes",
            ]
        return [
            f"Bars: weight per standard deviation of the input, one scale for all rules, ±{three_digits(self.scale)}.",
            "yes: the weighted sum is above the threshold",
        ]

    def _block(self, ax: Axes, block: _Block) -> None:
        x, node = self.left(block.depth), block.node
        if not block.children:
            self._leaf(ax, x, block.middle, node)
            return
        height = self.height(node)
        top = block.middle - height / 2
        box = FancyBboxPatch((x, top), self.rule_width, height, boxstyle="round,pad=0,rounding_size=0.06")
        box.set(fc="white", ec=FAINT, lw=0.9, zorder=2)
        ax.add_patch(box)
        (self._maps if self.shape is not None else self._bars)(ax, x, top + PAD, node)
        foot = top + height - ROW / 2 - 0.4 * PAD
        _text(ax, x + PAD, foot, self._said(node), INK, FONT, weight="bold")
        _text(ax, x + self.rule_width - PAD, foot, _rows(node), MUTED, SMALL, ha="right")
        for child, answer in zip(block.children, ("yes", "no"), strict=True):
            self._edge(ax, (x + self.rule_width, block.middle), (self.left(child.depth), child.middle), child, answer)
            self._block(ax, child)

    def _edge(self, ax: Axes, start: tuple[float, float], end: tuple[float, float], child: _Block, answer: str) -> None:
        share = child.node["n"] / self.nodes[0]["n"]
        width = THINNEST + (THICKEST - THINNEST) * share
        bend = (start[0] + end[0]) / 2
        curve = Path([start, (bend, start[1]), (bend, end[1]), end], [Path.MOVETO, *[Path.CURVE4] * 3])
        ax.add_patch(PathPatch(curve, fc="none", ec=FAINT, lw=width, zorder=1, capstyle="butt"))
        # Outside of the bend: yes comes from below, no from above.
        lift = (0.075 + width / 144) * (-1 if answer == "yes" else 1)
        _text(ax, end[0] - 0.05, end[1] + lift, answer, MUTED, SMALL, ha="right")

    def _bars(self, ax: Axes, x: float, top: float, node: Mapping[str, Any]) -> None:
        """Signed bars of a linear rule, or dots with their reach of a prototype."""
        terms, hidden = terms_of(node, self.max_terms)
        axis = x + PAD + self.names + 0.04
        prototype = node["rule"] == "prototype"
        reach = REACH if prototype else self.scale
        signed = prototype or any(
            term.weight < 0 for other in self.splits for term in terms_of(other, self.max_terms)[0]
        )
        zero = axis + (BARS - 0.04) / 2 if signed else axis
        unit = (axis + BARS - 0.04 - zero) / reach
        ax.plot([zero, zero], [top - 0.01, top + ROW * len(terms) + 0.01], color=FAINT, lw=0.8, zorder=3)
        for line, term in enumerate(terms):
            y = top + ROW * (line + 0.5)
            _text(ax, axis - 0.06, y, shortened(term.name, LONGEST_NAME), INK, FONT, ha="right")
            if prototype:
                low, high = np.clip([term.center - term.reach, term.center + term.reach], -REACH, REACH)
                _bar(ax, zero + unit * low, zero + unit * high, y, FAINT)
                at = zero + unit * float(np.clip(term.center, -REACH, REACH))
                ax.plot([at], [y], "o", color=ALIGNMENT, markersize=4, zorder=4)
            else:
                _bar(ax, zero, zero + unit * term.weight, y, ALIGNMENT if term.weight > 0 else CENTERED)
        if hidden:
            y = top + ROW * (len(terms) + 0.5)
            _text(ax, axis - 0.06, y, f"+ {hidden} smaller", MUTED, SMALL, ha="right")

    def _maps(self, ax: Axes, x: float, top: float, node: Mapping[str, Any]) -> None:
        assert self.shape is not None
        width = PICTURE * self.shape[1] / self.shape[0]
        for place, (what, pixels) in enumerate(weight_maps(node, self.shape).items()):
            scaled = pixels / (self.scale if what == "weights" else REACH)
            colors = diverging(np.nan_to_num(scaled))
            colors[np.isnan(scaled) | (scaled == 0)] = 255
            left = x + (self.rule_width - self._pictures_wide()) / 2 + PAD + place * (width + PAD)
            extent = (left, left + width, top + PICTURE, top)
            ax.imshow(colors, extent=extent, aspect="auto", interpolation="nearest", zorder=3)
            ax.add_patch(Rectangle((left, top), width, PICTURE, fc="none", ec=FAINT, lw=0.8, zorder=4))

    def _leaf(self, ax: Axes, x: float, middle: float, node: Mapping[str, Any]) -> None:
        x, top = x + 0.04, middle - self.height(node) / 2
        start, classes = x + self.labels, self.told["task"] == "classification"
        _text(ax, x, top + ROW / 2, _rows(node), MUTED, SMALL)
        ends: list[float] = (
            [share for _, share in leaf_classes(self.told, node)]
            if classes
            else [place for _, _, place in leaf_value(self.told, node)]
        )
        for line, (label, share) in enumerate(zip(self._labels(node), ends, strict=False)):
            y, first = top + ROW * (line + 1.5), line == 0 or not classes
            _text(ax, x, y, label, INK if first else MUTED, FONT, weight="bold" if first else "normal")
            if classes:
                _bar(ax, start, start + LEAF_BARS, y, GROUND)
                _bar(ax, start, start + LEAF_BARS * share, y, COMPARISON if first else FAINT)
                _text(ax, start + LEAF_BARS + 0.04, y, _percent(share), MUTED, SMALL)
            else:
                ax.plot([start, start + LEAF_BARS], [y, y], color=FAINT, lw=1.2, zorder=3)
                ax.plot([start + LEAF_BARS * share], [y], "o", color=COMPARISON, markersize=4.5, zorder=4)


def _moved(block: _Block, by: float) -> _Block:
    children = tuple(_moved(child, by) for child in block.children)
    return _Block(block.node, block.depth, block.middle + by, block.top + by, block.bottom + by, children)


def _text(ax: Axes, x: float, y: float, text: str, color: str, size: float, **how: Any) -> None:
    # A dollar in a name is no formula.
    ax.text(x, y, text.replace("$", r"\$"), color=color, fontsize=size, va="center_baseline", zorder=5, **how)


def _bar(ax: Axes, start: float, end: float, y: float, color: Any) -> None:
    ax.add_patch(Rectangle((start, y - 0.33 * ROW), end - start, 0.66 * ROW, fc=color, ec="none", zorder=3))


def _rows(node: Mapping[str, Any]) -> str:
    return f"n = {node['n']:,.6g}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share in (0, 1) or 0.005 <= share < 0.995 else f"{share:.1%}"


# --- accuracy against size --------------------------------------------------------------------------------------------


def plot_tree_path(
    told: Mapping[str, Any], best: Sequence[Mapping[str, Any]], *, ax: Axes | Iterable[Axes] | None = None
) -> list[Axes]:
    """Score against leaves, and against the weights of all rules; scikit-learn's pruned trees behind.

    Small dots are all trees that were considered, large ones the best of each number of leaves by the training
    objective; the star is the tree that was chosen.

    Parameters
    ----------
    told : mapping
        ``TreePath.to_dict()``.
    best : sequence of mappings
        ``TreePath.best_by_leaves()``.
    ax : Axes, or two of them, optional
        Into one alone the first panel is drawn; by default two in a new figure.

    Returns
    -------
    list of Axes
    """
    axes = panels(ax, 2, (9.6, 3.8))
    for place, (key, label) in enumerate((("leaves", "leaves"), ("weights", "weights of all rules"))[: len(axes)]):
        panel, rows = axes[place], told["rows"]
        if told["cart"]:
            cart = [[row[what] for row in told["cart"]] for what in (key, "score")]
            panel.plot(*cart, "o-", color=COMPARISON, markersize=3, lw=1.2, label="axis-aligned tree (CART)", zorder=1)
        how: dict[str, Any] = {"color": ALIGNMENT, "ls": ""}
        panel.plot(
            *_places(rows, key), ".", **how, alpha=0.25, markersize=5, label="all that were considered", zorder=2
        )
        if key == "leaves":
            how["ls"] = "-"
        label_of_best = "of each size that of lowest objective"
        panel.plot(*_places(best, key), marker="o", **how, markersize=5, lw=1.4, label=label_of_best, zorder=3)
        chosen = [row for row in rows if row["chosen"]]
        panel.plot(*_places(chosen, key), "*", color=CENTERED, markersize=13, mec="white", label="chosen", zorder=4)
        panel.set_xscale("log" if key == "leaves" else "symlog", base=2)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
        panel.minorticks_off()
        panel.set_xlabel(label)
        panel.set_ylabel(f"{told['metric']} on {told['score_of']}")
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False)
    return axes


def _places(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    return [row[key] for row in rows], [row["score"] for row in rows]
