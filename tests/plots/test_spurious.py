"""Figures of data with a spurious attribute show the groups that they name."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from featlearn.datasets import make_colored, make_dominoes, make_spurious_tabular
from featlearn.exceptions import DataError
from featlearn.plots.spurious import plot_examples


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_four_examples_a_group_with_name_size_and_share():
    data = make_dominoes()
    ax = data.plot()
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[0] == "y=3\ntop=0\nn = 57 (47.5%)"
    assert labels[1] == "y=3\ntop=1\nn = 3 (2.5%)"
    sheet = np.asarray(ax.images[0].get_array())
    first = data.train.X[data.train.groups == 0][:4, 0]
    for place, image in enumerate(first):
        shown = sheet[:16, 9 * place : 9 * place + 8]
        np.testing.assert_allclose(shown, np.repeat(image[..., None], 3, axis=-1))
    # The second group has three images; the fourth place is paper.
    assert (sheet[17:33, 27:35] == 1).all()


def test_labels_lie_inside_the_figure():
    ax = make_dominoes(top=(4, 7)).plot()
    ax.figure.canvas.draw()
    box = ax.get_tightbbox()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= ax.figure.bbox.x1
    assert box.y1 <= ax.figure.bbox.y1


def test_two_channels_are_two_colours_and_flat_rows_are_images_again():
    flat, square = make_colored(flat=True).plot("e=0.9"), make_colored().plot("e=0.9")
    sheet = np.asarray(flat.images[0].get_array())
    np.testing.assert_array_equal(sheet, np.asarray(square.images[0].get_array()))
    blue, orange = sheet[:8, :8], sheet[9:17, :8]
    assert (blue[..., 2] >= blue[..., 0]).all()
    assert (orange[..., 0] >= orange[..., 2]).all()
    assert flat.get_title().startswith("e=0.9: coloured images")


def test_images_are_drawn_into_the_given_axes():
    ax = plt.subplots()[1]
    assert plot_examples(np.zeros((3, 3, 4, 4)), np.zeros(3, dtype=int), ["a", "b"], ax=ax) is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a\nn = 3 (100.0%)", "b\nn = 0 (0.0%)"]


def test_rows_of_numbers_are_points_of_core_and_spurious_column():
    data = make_spurious_tabular(n_train=200, correlation=0.9)
    ax = data.plot()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "y=0, a=1: n = 10 (5.0%)" in labels
    points = {entry.get_label(): entry.get_offsets() for entry in ax.collections}
    rows = data.train.X[data.train.groups == 1]
    np.testing.assert_allclose(
        points["y=0, a=1: n = 10 (5.0%)"],
        np.stack([rows @ data.exact.core_direction.astype(np.float32), rows[:, 5]], axis=1),
        atol=1e-5,
    )


def test_unknown_split_is_refused():
    with pytest.raises(DataError, match="split='dev', but expected one of 'train', 'validation', 'test'"):
        make_spurious_tabular(n_train=4).plot("dev")
