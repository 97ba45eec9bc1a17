"""Figures of filters say what the reports say: directions, shares, edge energies, maps and their correlation."""

from __future__ import annotations

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from featlearn import ConvRFMClassifier, ConvRFMRegressor, DeepConvRFMClassifier
from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.machines.edges import edge_report
from featlearn.plots.filters import plot_deep_conv_rfm, plot_filters, plot_saliency
from featlearn.plots.patches import patch_image
from featlearn.report.json import dump_json

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(30, 3, 8, 9))
Y = X[:, 0, 2, 2] * X[:, 1, 2, 3] + X[:, 0, 4, 4]
FAST = {"alpha": 1e-2, "max_iter": 1, "selection": None, "random_state": 0}
SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / math.sqrt(12)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


@pytest.fixture(scope="module")
def machine() -> ConvRFMRegressor:
    return ConvRFMRegressor(depth=2, **FAST).fit(X, Y)


# directions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_one_row_a_matrix_and_one_column_a_direction_with_its_numbers(channels):
    q = 9 * channels
    factor = RANDOM.normal(size=(q, q))
    report = edge_report({"first": factor @ factor.T, "second": np.diag(np.arange(1.0, q + 1))}, channels, top=4)
    figure = plot_filters(report.to_dict())
    grid = np.array(figure.axes).reshape(2, 4)
    assert [row[0].get_ylabel() for row in grid] == ["first", "second"]
    for row, name in zip(grid, report.matrices, strict=True):
        for place, ax in enumerate(row):
            share, edge = report.eigenvalues[name][place], report.edge_energy[name][place]
            assert ax.get_xlabel() == f"{share:.1%}\nedge {edge:.2f}"
            shown = np.asarray(ax.images[0].get_array())
            direction = report.directions[name][place].ravel().tolist()
            np.testing.assert_array_equal(shown, np.asarray(patch_image(direction, (channels, 3, 3))))
    assert f"a random direction has {2 / 9:.2f}" in figure.get_suptitle()


def test_a_report_from_json_is_drawn_alike(machine):
    report = machine.edge_report()
    np.testing.assert_array_equal(pixels(report.plot()), pixels(plot_filters(json.loads(dump_json(report.to_dict())))))


def test_a_machine_draws_its_directions_beside_patch_pca(machine):
    figure = machine.plot_filters(top=3)
    assert len(figure.axes) == 6
    assert [figure.axes[0].get_ylabel(), figure.axes[3].get_ylabel()] == ["ConvRFM", "patch PCA"]
    assert figure.axes[0].get_xlabel().startswith(f"{machine.direction_shares_[0]:.1%}")


# maps --------------------------------------------------------------------------------------------------------------


def test_maps_stand_beside_their_image(machine):
    figure = machine.plot_saliency(X[:3], labels=["a", "b", 7])
    grid = np.array(figure.axes).reshape(3, 4)
    assert [ax.get_title() for ax in grid[0]] == ["image", "saliency", "leading direction", "Sobel"]
    assert [row[0].get_ylabel() for row in grid] == ["a", "b", "7"]
    saliency = machine.saliency(X[:3])
    windows = np.lib.stride_tricks.sliding_window_view(X[:3], (3, 3), axis=(2, 3))
    leading = np.abs(np.einsum("nchwrs,crs->nhw", windows, machine.directions_[0]))
    gradients = [np.einsum("nchwrs,rs->nchw", windows, kernel * math.sqrt(12)) for kernel in (SOBEL, SOBEL.T)]
    sobel = np.sqrt(sum((gradient**2).sum(axis=1) for gradient in gradients))
    for place, row in enumerate(grid):
        shown = [np.ma.filled(ax.images[0].get_array(), np.nan) for ax in row]
        assert shown[0].shape == (8, 9, 3)
        assert (shown[0].min(), shown[0].max()) == (0, 1)
        np.testing.assert_allclose(shown[1], saliency[place], rtol=1e-4)
        for framed, values in ((shown[2], leading[place]), (shown[3], sobel[place])):
            assert framed.shape == (8, 9)  # windows in the middle of the image, nothing around them
            np.testing.assert_allclose(framed[1:-1, 1:-1], values, rtol=1e-3, atol=1e-4)
            assert np.isnan(np.ma.filled(framed, np.nan)).sum() == 8 * 9 - values.size
        correlation = np.corrcoef(leading[place].ravel(), sobel[place].ravel())[0, 1]
        assert row[2].get_xlabel() == f"correlation with Sobel {correlation:.2f}"


def test_maps_of_other_sizes_are_compared_where_they_overlap():
    images = RANDOM.normal(size=(1, 1, 9, 9))
    sobel = RANDOM.uniform(size=(1, 7, 7))
    framed = np.pad(sobel, ((0, 0), (1, 1), (1, 1)), constant_values=99.0)
    for leading, expected in [(framed, 1.0), (1 - sobel[:, 1:-1, 1:-1], -1.0)]:
        figure = plot_saliency(images, images[:, 0], leading, sobel)
        assert figure.axes[2].get_xlabel() == f"correlation with Sobel {expected:.2f}"


@pytest.mark.parametrize("channels", [1, 2])
def test_images_without_colours_are_drawn_in_gray(channels):
    machine = ConvRFMRegressor(depth=1, padding=1, **FAST).fit(X[:, :channels], Y)
    figure = machine.plot_saliency(X[:1, :channels])
    shown = np.asarray(figure.axes[0].images[0].get_array())
    image = X[0, :channels].mean(axis=0)
    assert shown.shape == (8, 9)
    assert np.corrcoef(shown.ravel(), image.ravel())[0, 1] == pytest.approx(1, abs=1e-5)


def test_rows_of_pixels_are_drawn_as_images(machine):
    rows = ConvRFMRegressor(depth=2, image_shape=(3, 8, 9), **FAST).fit(X.reshape(30, -1), Y)
    np.testing.assert_array_equal(
        pixels(rows.plot_saliency(X[:2].reshape(2, -1))), pixels(machine.plot_saliency(X[:2]))
    )


def test_blank_images_have_maps_and_no_correlation(machine):
    figure = machine.plot_saliency(np.stack([np.zeros((3, 8, 9)), X[0]]))
    grid = np.array(figure.axes).reshape(2, 4)
    assert grid[0, 2].get_xlabel() == ""
    assert grid[1, 2].get_xlabel() != ""
    assert np.isfinite(pixels(figure)).all()


def test_pixels_have_no_sobel_gradient():
    machine = ConvRFMRegressor(1, 1, **FAST).fit(X.reshape(30, -1), Y)
    with pytest.raises(DataError, match="1 x 1 pixels"):
        machine.plot_saliency(X[:1].reshape(1, -1))


# scores and spectra ------------------------------------------------------------------------------------------------


def test_layers_show_scores_and_spectra():
    labels = np.where(Y > 0, "up", "down")
    machine = DeepConvRFMClassifier(2, 5, alpha=(1e-2, 1e-1), max_iter=2, selection="holdout", random_state=0)
    told = machine.fit(X, labels).to_dict()
    figure = machine.plot()
    grid = np.array(figure.axes).reshape(2, 2)
    for layer, (scores, spectrum) in zip(told["layers"], grid, strict=True):
        curve = scores.containers[0].lines[0]
        np.testing.assert_allclose(curve.get_ydata(), [entry["score"] for entry in layer["scores"]])
        np.testing.assert_array_equal(curve.get_xdata(), [0, 1, 2])
        chosen = next(line for line in scores.lines if line.get_linestyle() == ":")
        assert list(chosen.get_xdata()) == [layer["iteration"]] * 2
        np.testing.assert_allclose([bar.get_height() for bar in spectrum.patches], layer["shares"])
    assert [row[0].get_ylabel() for row in grid] == ["layer 1\n3 x 8 x 9", "layer 2\n5 x 6 x 7"]
    np.testing.assert_array_equal(pixels(figure), pixels(plot_deep_conv_rfm(json.loads(dump_json(told)))))


def test_a_single_machine_is_drawn_without_a_number_of_layers():
    machine = ConvRFMClassifier(depth=1, alpha=(1e-2, 1e-1), max_iter=1, selection="cv", random_state=0)
    figure = machine.fit(X, Y > 0).plot()
    assert len(figure.axes) == 2
    assert figure.axes[0].get_ylabel() == "3 x 8 x 9"
    assert np.isfinite(pixels(figure)).all()


def test_what_was_not_selected_or_not_learned_is_drawn_too(machine):
    assert len(machine.plot().axes) == 2  # no scores
    pixels(machine.plot())
    with pytest.warns(FeatlearnWarning, match="equal targets"):
        nothing = ConvRFMRegressor(depth=2, **FAST).fit(X, np.ones(30))
    for figure in (nothing.plot(), nothing.plot_filters(), nothing.plot_saliency(X[:1])):
        pixels(figure)
    told = nothing.edge_report().to_dict()
    assert "NaN" not in dump_json(told)
    pixels(plot_filters(json.loads(dump_json(told))))
    pixels(plot_deep_conv_rfm(json.loads(dump_json({"layers": [nothing.to_dict()]}))))
