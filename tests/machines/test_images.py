"""What machines of images take for images, and what they refuse with which advice."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.machines.images import as_images, as_shape, warn_of_blank, with_channels

IMAGES = np.random.default_rng(0).normal(size=(5, 3, 8, 7))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_become_single_precision_and_keep_their_numbers(dtype):
    found = as_images(IMAGES.astype(dtype))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), IMAGES.astype(dtype).astype(np.float32))


def test_images_without_channels_get_one():
    assert as_images(IMAGES[:, 0]).shape == (5, 1, 8, 7)
    np.testing.assert_array_equal(as_images(IMAGES[:, 0])[:, 0], IMAGES[:, 0].astype(np.float32))
    assert with_channels(torch.zeros(2, 3, 4)).shape == (2, 1, 3, 4)
    assert with_channels(torch.zeros(2, 3, 4, 5)).shape == (2, 3, 4, 5)


def test_lists_views_and_tensors_are_images_too():
    expected = as_images(IMAGES)
    assert torch.equal(as_images(IMAGES.tolist()), expected)
    assert torch.equal(as_images(IMAGES[:, :, ::-1]), expected.flip(2))
    leaf = torch.tensor(IMAGES, requires_grad=True)
    found = as_images(leaf)
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_what_is_given_is_not_changed():
    tensor = torch.tensor(IMAGES, dtype=torch.float32)
    before = tensor.clone()
    as_images(tensor)
    assert torch.equal(tensor, before)
    read_only = IMAGES.astype(np.float32)
    read_only.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_images(read_only)


def test_foreign_byte_orders_and_long_doubles_are_numbers():
    expected = as_images(IMAGES)
    assert torch.equal(as_images(IMAGES.astype(">f8")), expected)
    assert torch.equal(as_images(IMAGES.astype(np.longdouble)), expected)


def test_narrow_images_of_a_known_shape_are_not_taken_for_channels_last():
    narrow = np.ones((5, 8, 7, 3))
    assert as_images(narrow, shape=(8, 7, 3)).shape == (5, 8, 7, 3)
    with pytest.raises(DataError, match="channels seem to come last"):
        as_images(narrow, shape=(3, 8, 7))


BAD = {
    "channels last": (IMAGES.transpose(0, 2, 3, 1), r"channels seem to come last.*numpy.moveaxis\(X, -1, 1\)"),
    "channels last, tensor": (torch.zeros(5, 8, 7, 3), "channels seem to come last"),
    "one channel last": (np.zeros((5, 8, 7, 1)), "channels seem to come last"),
    "integers": ((IMAGES * 100).astype(np.uint8), r"uint8.*Cast it: X.astype\('float32'\) / 255"),
    "integer tensor": (torch.zeros(5, 8, 7, dtype=torch.int64), "int64.*Cast it"),
    "truth values": (IMAGES > 0, "bool.*Cast it"),
    "complex": (IMAGES + 1j, "complex128"),
    "text": (np.array([[["a"]]]), "dtype <U1"),
    "objects": (np.array([[[None, 1.0]]]), "dtype object"),
    "one axis": (IMAGES[0, 0, 0], r"shape \(7,\), but expected images"),
    "two axes": (IMAGES[0, 0], "image_shape"),
    "five axes": (IMAGES[None], r"shape \(1, 5, 3, 8, 7\)"),
    "no images": (IMAGES[:0], "at least one image"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused_with_advice(name):
    values, message = BAD[name]
    with pytest.raises(DataError, match=message):
        as_images(values)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_images_with_a_pixel_that_is_no_number_are_named(value):
    images = IMAGES.copy()
    images[3, 1, 2, 2] = value
    with np.errstate(over="ignore"), pytest.raises(DataError, match=r"Got Z with NaN or infinity \(image 3\)"):
        as_images(images, name="Z")


def test_large_finite_pixels_are_no_infinity():
    images = IMAGES.copy()
    images[3, :, :, :4] = 3e37  # their sum is beyond single precision
    assert torch.isfinite(as_images(images)).all()


@pytest.mark.parametrize(
    ("given", "shape"),
    [((8, 7), (1, 8, 7)), ([3, 8, 7], (3, 8, 7)), ((np.int64(3), 8, 7), (3, 8, 7)), ((1, 1, 1), (1, 1, 1))],
)
def test_shapes(given, shape):
    found = as_shape(given)
    assert found == shape
    assert all(type(side) is int for side in found)


@pytest.mark.parametrize("given", [64, "8x8", (8,), (1, 2, 3, 4), (8, 0), (8, -1), (8.0, 8), (True, 8), None, ()])
def test_other_shapes_are_refused(given):
    with pytest.raises(DataError, match=r"image_shape=.*positive whole numbers"):
        as_shape(given)


def test_blank_images_are_told_with_their_places():
    images = as_images(IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_blank(images, torch.arange(5))
    images[[1, 4]] = 0
    with pytest.warns(FeatlearnWarning, match=r"2 blank images \(at 1, 4\)"):
        warn_of_blank(images, torch.arange(5))
    with pytest.warns(FeatlearnWarning, match=r"2 blank images \(at 11, 14\)"):
        warn_of_blank(images, torch.arange(10, 15))
    with pytest.raises(DataError, match="blank images only"):
        warn_of_blank(0 * images, torch.arange(5))
    many = torch.zeros(9, 1, 2, 2)
    many[0] = 1
    with pytest.warns(FeatlearnWarning, match=r"8 blank images \(at 1, 2, 3, 4, 5, \.\.\.\)"):
        warn_of_blank(many, torch.arange(9))
