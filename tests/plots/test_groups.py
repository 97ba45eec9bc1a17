"""Figures of group reports: room for names, and words that hold at the ends of what a report can be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from featlearn.plots.group_layout import figure_size, in_lines, interval_words
from featlearn.robust.group_report import group_report
from featlearn.robust.group_results import GroupReport

pyplot = pytest.importorskip("matplotlib.pyplot")


def report_of(names: list[str], **told: object) -> GroupReport:
    """Ten rows a group, the first of each wrong."""
    groups = np.repeat(names, 10)
    return group_report(np.tile([0, 1], len(groups) // 2), np.tile([1, *[0, 1] * 4, 1], len(names)), groups, **told)


@pytest.fixture
def axes():
    drawn = []

    def draw(report):
        drawn.append(report.plot())
        drawn[-1].figure.canvas.draw()
        return drawn[-1]

    yield draw
    for ax in drawn:
        pyplot.close(ax.figure)


LONG = [f"land use={a}, region of the world={b}" for a, b in itertools.product("0123", ("Africa", "Asia and Pacific"))]


@pytest.mark.parametrize("names", [LONG, LONG[:4], ["a", "b"]], ids=["slanted", "upright", "short"])
def test_names_leave_the_bars_most_of_the_height(axes, names) -> None:
    ax = axes(report_of(names))
    assert ax.get_position().height * ax.figure.get_size_inches()[1] > 2.3
    edge = min(label.get_window_extent().x0 for label in ax.get_xticklabels())
    assert edge >= 0


def test_upright_names_do_not_touch(axes) -> None:
    boxes = [label.get_window_extent() for label in axes(report_of(LONG[:6])).get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_size_grows_with_names_and_methods_and_stays_on_a_page() -> None:
    assert figure_size(["a"] * 8, 1)[0] > figure_size(["a"] * 7, 1)[0]
    assert figure_size(LONG, 1)[1] > figure_size(["a"] * 8, 1)[1]
    assert figure_size(["a"] * 4, 5) > figure_size(["a"] * 4, 2)
    assert figure_size(["a" * 500] * 900, 9) == (24.0, 12.0)


def test_names_break_at_attributes_then_at_the_equals_sign() -> None:
    assert in_lines("y=0, background=water") == "y=0\nbackground=\nwater"


def test_an_interval_is_called_by_the_confidence_that_was_asked_for(axes, tmp_path) -> None:
    assert [interval_words(x) for x in (0.95, 0.975, 0.999, 0.9)] == [
        "95% interval", "97.5% interval", "99.9% interval", "90% interval",
    ]  # fmt: skip
    report = report_of(["a", "b"], confidence=0.999)
    assert "99.9% interval" in [text.get_text() for text in axes(report).get_legend().get_texts()]
    report.to_html(tmp_path / "page.html")
    assert "99.9% interval" in (tmp_path / "page.html").read_text()


def test_one_class_is_no_guess(axes, tmp_path) -> None:
    report = group_report([0] * 9, [0] * 9, [0, 1, 2] * 3)
    ax = axes(report)
    assert [line for line in ax.lines if line.get_linestyle() == "--"] == []
    assert ax.get_ylim() == (0.0, 1.03)
    report.to_html(tmp_path / "page.html")
    assert "guessing" not in (tmp_path / "page.html").read_text().split("<body")[1]


def test_a_number_stands_on_a_ground_where_a_whisker_runs_through(axes) -> None:
    ax = axes(group_report([0] * 60, np.repeat([0, 1], [30, 30]), np.repeat(["all", "none"], 30)))
    grounds = {text.get_text(): bool(text.get_path_effects()) for text in ax.texts}
    assert (grounds["1.00"], grounds[".00"]) == (False, True)
