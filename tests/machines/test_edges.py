"""Edge energies of filters that are known, and what chance gives."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featlearn import ConvRFMRegressor
from featlearn.exceptions import DataError
from featlearn.kernels import ConvNTK
from featlearn.machines.edges import derivative_filters, edge_report, patch_moment, sobel_magnitude

SOBEL_X = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / math.sqrt(12)
SIZES = [2, 3, 4, 5, 7, 11]


def matrix_of(*filters: np.ndarray, values: tuple[float, ...] | None = None) -> np.ndarray:
    """Symmetric matrix with these orthonormal eigenvectors, eigenvalues falling."""
    rows = np.stack([np.ravel(one) for one in filters])
    return rows.T @ np.diag(values or tuple(range(len(filters), 0, -1))) @ rows


# the derivatives ---------------------------------------------------------------------------------------------------


def test_three_pixels_have_the_filters_of_sobel():
    np.testing.assert_allclose(derivative_filters(3).numpy().reshape(2, 3, 3), [SOBEL_X, SOBEL_X.T], atol=1e-15)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_derivatives_are_orthonormal_without_a_mean_and_one_channel_each(size, channels):
    filters = derivative_filters(size, channels).numpy()
    np.testing.assert_allclose(filters @ filters.T, np.eye(2 * channels), atol=1e-14)
    by_channel = filters.reshape(2 * channels, channels, -1)
    np.testing.assert_allclose(by_channel.sum(axis=2), 0, atol=1e-14)
    np.testing.assert_array_equal((by_channel**2).sum(axis=2).round(12).argmax(axis=1), np.arange(2 * channels) // 2)
    assert np.count_nonzero(np.abs(by_channel).sum(axis=2)) == 2 * channels


@pytest.mark.parametrize("size", SIZES)
def test_derivatives_rise_to_the_right_and_downwards_and_turn_into_each_other(size):
    x, y = derivative_filters(size).numpy().reshape(2, size, size)
    ramp = np.arange(float(size))
    assert (x * ramp).sum() > 0
    assert (y * ramp[:, None]).sum() > 0
    np.testing.assert_allclose(x.T, y, atol=1e-15)
    np.testing.assert_allclose(x[:, ::-1], -x, atol=1e-15)
    np.testing.assert_allclose(x[::-1], x, atol=1e-15)


@pytest.mark.parametrize("size", [5, 7])
def test_larger_ones_are_those_of_a_gaussian_a_fifth_as_wide(size):
    place = np.arange(size) - (size - 1) / 2
    bell = np.exp(-(place**2) / 2 / (size / 5) ** 2)
    slope = np.outer(bell, place * bell)
    slope /= np.linalg.norm(slope)
    np.testing.assert_allclose(derivative_filters(size).numpy()[0].reshape(size, size), slope, atol=1e-12)


def test_a_pixel_has_no_derivative():
    with pytest.raises(DataError, match="patches of 1 pixel"):
        derivative_filters(1)


# the report --------------------------------------------------------------------------------------------------------


@given(
    angle=st.floats(0, 2 * math.pi),
    colour=st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    size=st.sampled_from(SIZES),
)
def test_a_derivative_of_any_angle_and_colour_has_edge_energy_one(angle, colour, size):
    colour = np.array(colour) + np.array([2.0, 0, 0])
    x, y = derivative_filters(size).numpy().reshape(2, size, size)
    oriented = np.multiply.outer(colour / np.linalg.norm(colour), math.cos(angle) * x + math.sin(angle) * y)
    report = edge_report({"one": matrix_of(oriented)}, 3, top=1)
    assert report.edge_energy["one"] == (pytest.approx(1, abs=1e-10),)
    assert report.constant_energy["one"] == (pytest.approx(0, abs=1e-10),)
    assert report.eigenvalues["one"] == (pytest.approx(1, abs=1e-10),)
    assert report.directions["one"].shape == (1, 3, size, size)
    assert abs((report.directions["one"][0] * oriented).sum()) == pytest.approx(1, abs=1e-10)


def test_constants_and_second_derivatives_are_no_edges():
    constant = np.full((3, 3), 1 / 3)
    second = np.array([[1, -2, 1]] * 3) / math.sqrt(18)
    report = edge_report({"one": matrix_of(constant, second, SOBEL_X, values=(5.0, 3.0, 2.0))}, 1, top=3)
    np.testing.assert_allclose(report.edge_energy["one"], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(report.constant_energy["one"], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(report.eigenvalues["one"], [0.5, 0.3, 0.2], atol=1e-12)


def test_a_mixture_has_the_square_of_its_share():
    constant = np.full((3, 3), 1 / 3)
    mixture = 0.6 * constant + 0.8 * SOBEL_X.T
    report = edge_report({"one": matrix_of(mixture)}, 1, top=1)
    assert report.edge_energy["one"][0] == pytest.approx(0.64)
    assert report.constant_energy["one"][0] == pytest.approx(0.36)


@pytest.mark.parametrize(("channels", "size"), [(1, 3), (3, 3), (2, 5)])
def test_random_directions_have_the_chances_that_are_told(channels, size):
    q, draw = channels * size**2, np.random.default_rng(0)
    edges, constants = [], []
    for _ in range(300):
        rotation = np.linalg.qr(draw.normal(size=(q, q)))[0]
        report = edge_report({"random": (rotation * np.arange(1.0, q + 1)) @ rotation.T}, channels, top=2)
        edges += report.edge_energy["random"]
        constants += report.constant_energy["random"]
    assert report.chance_of_edge == pytest.approx(2 * channels / q)
    assert report.chance_of_constant == pytest.approx(channels / q)
    for values, chance in [(edges, report.chance_of_edge), (constants, report.chance_of_constant)]:
        assert np.mean(values) == pytest.approx(chance, abs=4 * np.std(values) / math.sqrt(300))


def test_similarity_and_its_chance_over_random_rotations():
    draw = np.random.default_rng(1)
    a, b = (factor @ factor.T for factor in draw.normal(size=(2, 9, 4)))
    report = edge_report({"a": a, "b": b}, 1, top=2)
    found = report.similarity["a", "b"]
    assert found["cosine"] == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    leading = [np.linalg.eigh(one)[1][:, -2:] for one in (a, b)]
    assert found["overlap"] == pytest.approx(np.linalg.norm(leading[0].T @ leading[1]) ** 2 / 2)
    cosines, overlaps = [], []
    for _ in range(2000):
        rotation = np.linalg.qr(draw.normal(size=(9, 9)))[0]
        turned = rotation @ b @ rotation.T
        cosines.append((a * turned).sum() / np.linalg.norm(a) / np.linalg.norm(b))
        overlaps.append(np.linalg.norm(leading[0].T @ rotation @ leading[1]) ** 2 / 2)
    assert found["chance"] == pytest.approx(np.mean(cosines), abs=4 * np.std(cosines) / math.sqrt(2000))
    assert found["overlap_chance"] == pytest.approx(np.mean(overlaps), abs=4 * np.std(overlaps) / math.sqrt(2000))


def test_equal_matrices_are_alike_whatever_their_scale():
    a = matrix_of(SOBEL_X, SOBEL_X.T, np.full((3, 3), 1 / 3))
    report = edge_report({"a": a, "b": 7 * a, "c": torch.tensor(a).float()}, 1)
    assert list(report.similarity) == [("a", "b"), ("a", "c"), ("b", "c")]
    for entry in report.similarity.values():
        assert entry["cosine"] == pytest.approx(1, abs=1e-6)
        assert entry["overlap"] == pytest.approx(1, abs=1e-6)
    assert report.eigenvalues["a"] == pytest.approx(report.eigenvalues["b"])


def test_a_report_is_plain_values_and_a_table():
    report = edge_report({"a": matrix_of(SOBEL_X, SOBEL_X.T)}, 1, patch_moment=torch.eye(9))
    assert report.matrices == ("a", "patch PCA")
    told = json.loads(json.dumps(report.to_dict()))
    assert told["matrices"] == ["a", "patch PCA"]
    np.testing.assert_allclose(told["directions"]["a"], report.directions["a"])
    assert [(entry["first"], entry["second"]) for entry in told["similarity"]] == [("a", "patch PCA")]
    frame = report.frame()
    assert isinstance(frame, pd.DataFrame)
    assert frame.columns.tolist() == ["matrix", "direction", "share", "edge", "constant"]
    assert frame["matrix"].tolist() == ["a", "a", "patch PCA", "patch PCA"]
    np.testing.assert_allclose(frame["edge"][:2], 1)
    np.testing.assert_allclose(frame["share"], [2 / 3, 1 / 3, 1 / 9, 1 / 9])


@pytest.mark.parametrize(
    ("matrices", "channels"),
    [
        ({}, 1),
        ({"a": np.eye(9), "b": np.eye(18)}, 1),
        ({"a": np.eye(9)}, 2),
        ({"a": np.eye(8)}, 1),
        ({"a": np.ones((9, 4))}, 1),
        ({"a": np.ones(9)}, 1),
        ({"a": np.eye(9)}, 0),
    ],
)
def test_matrices_that_do_not_fit_are_refused(matrices, channels):
    with pytest.raises(DataError, match=r"expected all \(c s\^2, c s\^2\)"):
        edge_report(matrices, channels)


@pytest.mark.parametrize("top", [0, -1, 1.5, True])
def test_other_numbers_of_directions_are_refused(top):
    with pytest.raises(DataError, match="top="):
        edge_report({"a": np.eye(9)}, 1, top=top)


def test_there_are_no_more_directions_than_numbers():
    assert len(edge_report({"a": np.eye(9)}, 1, top=50).edge_energy["a"]) == 9


# moments and magnitudes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 1])
def test_the_patch_moment_is_the_mean_over_all_patches(padding):
    images = np.random.default_rng(0).normal(size=(300, 2, 5, 6))
    padded = np.pad(images, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    rows, columns = 3 + 2 * padding, 4 + 2 * padding
    patches = [padded[:, :, r : r + 3, c : c + 3].reshape(300, 18) for r in range(rows) for c in range(columns)]
    expected = sum(patch.T @ patch for patch in patches) / (300 * rows * columns)
    found = patch_moment(ConvNTK(3, 1, padding), torch.tensor(images))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_sobel_magnitude_is_the_size_of_the_slope():
    rows, columns = np.mgrid[:6, :7].astype(float)
    image = np.stack([3 * columns + 4 * rows, np.ones((6, 7))])
    found = sobel_magnitude(torch.tensor(image)[None])
    # Sobel filters of sum 4 on either side measure eight times the slope.
    np.testing.assert_allclose(found, np.full((1, 4, 5), 8 * 5.0), rtol=1e-12)
    np.testing.assert_allclose(sobel_magnitude(torch.tensor(np.stack([image[0]] * 2))[None]), 40 * math.sqrt(2))
    with pytest.raises(DataError, match="2 x 7 pixels"):
        sobel_magnitude(torch.zeros(1, 1, 2, 7))


# of a machine ------------------------------------------------------------------------------------------------------


def test_a_machine_reports_its_patch_agop_beside_patch_pca_and_others():
    images = np.random.default_rng(0).normal(size=(40, 2, 6, 6))
    targets = images[:, 0, 2, 2] * images[:, 1, 2, 3]
    machine = ConvRFMRegressor(depth=1, alpha=1e-2, max_iter=1, selection=None).fit(images, targets)
    weights = np.random.default_rng(1).normal(size=(7, 2, 3, 3)).reshape(7, 18)
    report = machine.edge_report({"network": weights.T @ weights}, top=3)
    assert report.matrices == ("ConvRFM", "network", "patch PCA")
    assert report.chance_of_edge == pytest.approx(4 / 18)
    np.testing.assert_allclose(report.directions["ConvRFM"], machine.directions_[:3], atol=1e-5)
    np.testing.assert_allclose(report.eigenvalues["ConvRFM"], machine.direction_shares_[:3], rtol=1e-4)
    moment = patch_moment(ConvNTK(3, 1), torch.tensor(images)).numpy()
    values = np.linalg.eigvalsh(moment)[::-1][:3]
    np.testing.assert_allclose(report.eigenvalues["patch PCA"], values / np.trace(moment), rtol=1e-4)
    assert len(machine.edge_report().edge_energy["ConvRFM"]) == 4  # all first derivatives of two channels


def test_a_machine_that_learns_a_slope_finds_it():
    """The target is a sum of squared slopes along x, of one channel: its AGOP lives on the derivative."""
    draw = np.random.default_rng(0)
    images = draw.normal(size=(150, 2, 3, 3))
    targets = np.abs((images[:, 1] * SOBEL_X).sum(axis=(1, 2)))
    machine = ConvRFMRegressor(depth=1, alpha=1e-2, max_iter=2, selection=None).fit(images, targets)
    report = machine.edge_report()
    assert report.edge_energy["ConvRFM"][0] > 0.95
    assert max(report.edge_energy["patch PCA"]) < 0.8
    assert abs((machine.directions_[0, 1] * SOBEL_X).sum()) > 0.97
