"""The picture of a permutation report: every fit is counted once, and the real one is where it belongs."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from featlearn.trees.permutation import PermutationReport


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("explained", [0.93, 0.0, -0.04], ids=["a rule", "one leaf", "dearer than one leaf"])
def test_bars_count_the_permuted_fits_and_a_line_is_the_real_one(explained: float) -> None:
    permuted = np.array([0.011, 0.012, 0.06, 0.21, -0.03])
    ax = PermutationReport(explained, permuted, 0.5).plot()
    for bar in ax.patches:
        left, right = bar.get_x(), bar.get_x() + bar.get_width()
        assert bar.get_height() == ((left <= permuted) & (permuted < right)).sum()
    assert sum(bar.get_height() for bar in ax.patches) == len(permuted)
    (line,) = ax.lines
    assert set(line.get_xdata()) == {explained}
    low, high = ax.get_xlim()
    assert low < min(explained, *permuted)
    assert high > 1
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert sorted(told) == ["5 × permuted targets", "given targets, p = 0.5"]


def test_it_is_drawn_into_what_is_given() -> None:
    ax = plt.subplots()[1]
    assert PermutationReport(0.5, np.zeros(19), 0.05).plot(ax) is ax
    assert max(bar.get_height() for bar in ax.patches) == 19
