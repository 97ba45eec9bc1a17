"""Figure of a fitted tree: what its splits look at, and what its leaves hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnnotationBbox, DrawingArea, OffsetBox, TextArea, VPacker
from matplotlib.patches import Circle, Rectangle

from ..exceptions import DataError
from .palette import ALIGNMENT, CENTERED, FAINT, INK, MUTED

__all__ = ["plot_tree"]

COLUMNS = 3  # of a split, at most
WEAK = 0.15  # of the strongest: below, a column is not named
LONGEST_NAME = 16  # characters
TRACK = (64.0, 7.0)  # points
FONT = 8.5


@dataclass(frozen=True)
class _Box:
    """A split, a leaf, or all that is deeper than what is drawn."""

    depth: int
    row: float
    lines: list[OffsetBox]
    children: tuple[_Box, ...] = ()


def plot_tree(tree: Mapping[str, Any], ax: Axes | None = None, *, max_depth: int = 3) -> Axes:
    """Splits and leaves from the root, on the left, down to ``max_depth``.

    A split shows its rows and its strongest input columns with their entries in the direction, per standard deviation:
    more of a "+" column, and less of a "-" column, leads up; columns of categories have no sign. A leaf shows its rows
    with the mean of their targets, and where it lies among the means of all leaves; or the largest share of a class.
    Splits that are deeper are drawn with all their leaves as one box.

    Parameters
    ----------
    tree : mapping
        ``to_dict()`` of a fitted tree, or its JSON read back.
    ax : Axes, optional
        Default: 9 x 5 inches for a full tree of depth 3.
    max_depth : int

    Raises
    ------
    DataError
        Not a tree, or a negative depth.
    """
    if not all(key in tree for key in ("nodes", "leaves", "features", "task")):
        raise DataError(f"Got {sorted(map(str, tree))[:5]}, but expected what to_dict() of a fitted tree says.")
    if max_depth < 0:
        raise DataError(f"Got max_depth={max_depth}, but expected at least 0.")
    root, n_rows = _boxes(tree, max_depth)
    depth = _deepest(root)
    if ax is None:
        size = (max(4.5, 2.25 * (depth + 1)), max(1.6, 0.625 * n_rows))
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    ax.set_axis_off()
    ax.set_xlim(0, depth + 0.8)
    ax.set_ylim(-0.6, n_rows - 0.4)
    _draw(ax, root)
    n_leaves = len(tree["leaves"])
    told = "one leaf" if n_leaves == 1 else f"{n_leaves:,} leaves; above the threshold: up, below: down"
    ax.set_title(f"{tree['rows']:,} rows in {told}", fontsize=10, loc="left", color=INK)
    return ax


def _boxes(tree: Mapping[str, Any], max_depth: int) -> tuple[_Box, int]:
    """The root, and the number of boxes at the ends of the branches."""
    nodes, leaves = tree["nodes"], tree["leaves"]
    describe, ends = _describer(tree), 0

    def under(place: int) -> list[Mapping[str, Any]]:
        if place < 0:
            return [leaves[-1 - place]]
        return under(nodes[place]["left"]) + under(nodes[place]["right"])

    def box(place: int, depth: int) -> _Box:
        nonlocal ends
        if place < 0 or depth == max_depth:
            ends += 1
            return _Box(depth, ends - 1, describe(under(place)))
        # Rows of the figure are counted from below.
        children = tuple(box(nodes[place][side], depth + 1) for side in ("left", "right"))
        middle = (children[0].row + children[1].row) / 2
        return _Box(depth, middle, _split_lines(nodes[place], tree), children)

    root = box(0 if nodes else -1, 0)
    return root, ends


def _split_lines(node: Mapping[str, Any], tree: Mapping[str, Any]) -> list[OffsetBox]:
    features, unordered = tree["features"], set(tree.get("unordered", ()))
    direction = np.asarray(node["direction"], dtype=np.float64)
    order = np.argsort(-np.abs(direction), kind="stable")[:COLUMNS]
    shown = [j for j in order if abs(direction[j]) >= WEAK * abs(direction[order[0]])]
    lines: list[OffsetBox] = [_line(f"{node['rows']:,} rows", MUTED)]
    for j in shown:
        if features[j] in unordered:
            sign, color = "\N{FIGURE SPACE}", INK  # levels have no order, so that neither up nor down is more of it
        else:
            sign, color = ("+", ALIGNMENT) if direction[j] >= 0 else ("\N{MINUS SIGN}", CENTERED)
        lines.append(_line(f"{sign}{abs(direction[j]):.2f} {_short(features[j])}", color))
    return lines


def _describer(tree: Mapping[str, Any]) -> Callable[[Sequence[Mapping[str, Any]]], list[OffsetBox]]:
    """What the lines of a box at the end of a branch are, given its leaves."""
    classes = tree.get("classes")
    means = np.array([leaf["mean"] for leaf in tree["leaves"]], dtype=np.float64)
    low, high = float(means.min()), float(means.max())

    def lines(leaves: Sequence[Mapping[str, Any]]) -> list[OffsetBox]:
        rows = np.array([leaf["rows"] for leaf in leaves], dtype=np.float64)
        mean = rows @ np.array([leaf["mean"] for leaf in leaves], dtype=np.float64) / rows.sum()
        many = f" in {len(leaves):,} leaves" if len(leaves) > 1 else ""
        head: list[OffsetBox] = [_line(f"{int(rows.sum()):,} rows{many}", MUTED)]
        if classes is not None:
            first = int(mean.argmax())
            return [*head, _line(f"{mean[first]:.0%} {_short(str(classes[first]))}", INK), _share(float(mean[first]))]
        if len(mean) > 1:
            more = ", …" if len(mean) > 2 else ""
            return [*head, _line(f"means {', '.join(map(_number, mean[:2]))}{more}", INK)]
        head.append(_line(f"mean {_number(mean[0])}", INK))
        return [*head, _place((float(mean[0]) - low) / (high - low))] if high > low else head

    return lines


def _draw(ax: Axes, box: _Box) -> None:
    packed = VPacker(children=[*box.lines], align="left", pad=0, sep=2.5)
    pad, edge = (0.25, FAINT) if box.children else (0.05, "none")
    frame = {"boxstyle": f"round,pad={pad}", "fc": ax.get_facecolor(), "ec": edge}
    ax.add_artist(
        AnnotationBbox(packed, (box.depth, box.row), box_alignment=(0.0, 0.5), pad=0.3, bboxprops=frame, zorder=2)
    )
    for child in box.children:
        bend = box.depth + 0.84
        # The part under the box is hidden by it.
        ax.plot(
            [box.depth + 0.05, bend, bend, child.depth], [box.row, box.row, child.row, child.row], color=FAINT, lw=1.2,
            zorder=1, solid_joinstyle="round",
        )  # fmt: skip
        _draw(ax, child)


def _share(share: float) -> DrawingArea:
    """A bar that is filled so far."""
    area, (width, height) = DrawingArea(*TRACK), TRACK
    area.add_artist(Rectangle((0, height / 2 - 1.5), width, 3, fc=FAINT, ec="none"))
    area.add_artist(Rectangle((0, height / 2 - 1.5), width * share, 3, fc=ALIGNMENT, ec="none"))
    return area


def _place(place: float) -> DrawingArea:
    """A dot on a line from the smallest to the largest."""
    area, (width, height) = DrawingArea(*TRACK), TRACK
    radius = height / 2 - 0.5
    area.add_artist(Rectangle((0, height / 2 - 0.5), width, 1, fc=FAINT, ec="none"))
    area.add_artist(Circle((radius + place * (width - 2 * radius), height / 2), radius, fc=ALIGNMENT, ec="none"))
    return area


def _line(text: str, color: str) -> TextArea:
    # A dollar in a name is no formula.
    return TextArea(text.replace("$", r"\$"), textprops={"color": color, "fontsize": FONT})


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", "\N{MINUS SIGN}")


def _short(name: str) -> str:
    """A long name keeps its two ends."""
    half = LONGEST_NAME // 2 - 1
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[-half:]}"


def _deepest(box: _Box) -> int:
    return max([box.depth, *(_deepest(child) for child in box.children)])
