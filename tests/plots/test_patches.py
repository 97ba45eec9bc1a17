from __future__ import annotations

import feature_reports
import numpy as np
import pytest

from featlearn.plots.palette import diverging, layer_colors
from featlearn.plots.patches import drawable, first_patches, patch_image


def luminance(color: str) -> float:
    """WCAG relative luminance."""
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("count", [1, 2, 60])
def test_every_layer_has_a_colour_that_is_seen_on_white_and_on_near_black(count):
    colors = layer_colors(count)
    assert len(colors) == count
    assert min(contrast(color, ground) for color in colors for ground in ("#ffffff", "#14171c")) > 3


def test_one_channel_is_blue_below_zero_white_at_zero_and_red_above():
    negative, zero, positive = diverging(np.array([-1.0, 0.0, 1.0])).astype(int)
    assert negative[2] > negative[0]
    assert positive[0] > positive[2]
    assert zero.min() > 240


def test_three_channels_are_red_green_and_blue_about_grey():
    direction = np.zeros((3, 2, 2))
    direction[0, 0, 0], direction[2, 1, 1] = 0.5, -0.25
    image = patch_image(direction.ravel(), (3, 2, 2)).astype(int)
    assert image[0, 0].tolist() == [255, 128, 128]
    assert image[1, 1].tolist() == [128, 128, 64]
    assert image[0, 1].tolist() == [128, 128, 128]


def test_an_image_is_scaled_by_its_own_largest_magnitude_and_a_sign_turns_its_colours_about():
    direction = np.random.default_rng(0).normal(size=25)
    image = patch_image(direction, (1, 5, 5))
    np.testing.assert_array_equal(patch_image(1e-9 * direction, (1, 5, 5)), image)
    largest = np.unravel_index(np.abs(direction).argmax(), (5, 5))
    assert image[largest].tolist() == diverging(np.sign(direction[np.abs(direction).argmax()])).tolist()


def test_a_zero_or_undefined_direction_is_white():
    zero = patch_image([0.0] * 4, (1, 2, 2))
    assert zero.min() > 240
    np.testing.assert_array_equal(patch_image([None, float("nan"), 0.0, 0.0], (1, 2, 2)), zero)


def test_two_channels_stand_side_by_side():
    assert patch_image(np.arange(2 * 3 * 5.0), (2, 3, 5)).shape == (3, 10, 3)


@pytest.mark.parametrize(
    ("patch", "d", "image_shape", "expected"),
    [
        ([3, 5, 5], 75, None, (3, 5, 5)),
        ([1, 7], 7, None, (1, 1, 7)),
        ([16, 3, 3], 144, None, None),
        ([3, 1, 1], 3, None, None),
        ([1, 3, 3, 3], 27, None, None),
        (None, 784, None, None),
        (None, 784, (1, 28, 28), (1, 28, 28)),
        (None, 785, (1, 28, 28), None),
    ],
)
def test_only_directions_that_make_a_picture_are_drawn(patch, d, image_shape, expected):
    assert drawable({"patch_shape": patch, "d": d}, image_shape) == expected


def test_the_first_convolution_is_drawn_and_without_one_the_first_layer():
    assert first_patches(feature_reports.resnet()).layer == "conv1"
    assert first_patches(feature_reports.perceptron(), (1, 28, 28)).layer == "fc1"
    assert first_patches(feature_reports.perceptron()) is None
    assert first_patches(feature_reports.report([])) is None
    images = first_patches(feature_reports.one_channel(), top=3)
    assert (len(images.agop), len(images.nfm)) == (3, 3)
