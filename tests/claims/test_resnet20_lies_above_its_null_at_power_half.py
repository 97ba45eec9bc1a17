"""A public ResNet-20 for CIFAR-10: at power 1/2 every convolution lies above its chance level, at power 1 three do not.

A raw correlation of .95 means little where chance gives .9: the excess and the power matter. Numbers of this project,
on the first 1,000 test images of a recompressed CIFAR-10, exact, Pearson.
"""

from __future__ import annotations

import pytest

from featlearn import FeatureReport, measure_features
from featlearn.datasets import CIFAR_MEAN, CIFAR_STD, load_cifar10_jpeg, load_cifar_resnet

pytestmark = pytest.mark.slow

# Layer: k, d; power 1, its null, excess; power 1/2, its null (draws), excess.
TABLE = {
    "conv1": (16, 27, 0.639, 0.518, 0.25, 0.839, 0.762, 0.32),
    "layer1.0.conv1": (16, 144, 0.739, 0.515, 0.46, 0.908, 0.756, 0.62),
    "layer1.1.conv1": (16, 144, 0.764, 0.764, 0.00, 0.918, 0.895, 0.22),
    "layer1.2.conv1": (16, 144, 0.951, 0.881, 0.58, 0.959, 0.902, 0.58),
    "layer2.0.conv1": (32, 144, 0.855, 0.873, -0.14, 0.969, 0.916, 0.63),
    "layer3.0.conv2": (64, 576, 0.958, 0.949, 0.17, 0.975, 0.957, 0.42),
    "layer3.2.conv1": (64, 576, 0.881, 0.869, 0.09, 0.947, 0.930, 0.25),
    "layer3.2.conv2": (64, 576, 0.948, 0.791, 0.75, 0.985, 0.863, 0.89),
}


@pytest.fixture(scope="module")
def report(data_folder) -> FeatureReport:
    model = load_cifar_resnet("resnet20", folder=data_folder / "cifar_resnet")
    data = load_cifar10_jpeg("test", n=1000, folder=data_folder / "cifar10_jpeg")
    return measure_features(model, data.batches(50, mean=CIFAR_MEAN, std=CIFAR_STD))


@pytest.mark.parametrize("name", list(TABLE))
def test_table(report: FeatureReport, name: str) -> None:
    k, d, one, null, excess, half, null_half, excess_half = TABLE[name]
    layer = report[name]
    assert (layer.k, layer.d) == (k, d)
    assert layer.nfa == pytest.approx(one, abs=0.001)
    assert layer.nfa_null == pytest.approx(null, abs=0.001)
    assert layer.nfa_excess == pytest.approx(excess, abs=0.01)
    assert layer.nfa_half.value == pytest.approx(half, abs=0.001)
    assert layer.nfa_half.null == pytest.approx(null_half, abs=0.03)
    assert layer.nfa_half.excess == pytest.approx(excess_half, abs=0.05)
    assert layer.nfa_standard_error <= 0.002


def test_every_convolution_is_above_its_null_at_power_half_and_three_are_not_at_power_one(
    report: FeatureReport,
) -> None:
    convolutions = [layer for layer in report.layers.values() if layer.patch_shape]
    assert len(convolutions) == 19
    half = [layer.nfa_half.excess for layer in convolutions]
    assert min(half) > 0.15
    assert max(half) < 0.95
    errors = [layer.nfa_half.excess_standard_error for layer in convolutions]
    assert all(excess > 2 * error for excess, error in zip(half, errors, strict=True))
    below = [layer.name for layer in convolutions if layer.nfa_excess < 2 * layer.alignment().excess_standard_error]
    assert len(below) == 3
    assert set(below) >= {"layer1.1.conv1", "layer2.0.conv1"}


def test_a_high_raw_value_proves_nothing(report: FeatureReport) -> None:
    """Values at power 1/2 are .81 to .99 everywhere, and so is chance, nearly."""
    convolutions = [layer for layer in report.layers.values() if layer.patch_shape]
    assert min(layer.nfa_half.value for layer in convolutions) > 0.8
    assert min(layer.nfa_half.null for layer in convolutions) > 0.7
    assert max(layer.nfa_half.null for layer in convolutions) > 0.93


def test_the_head_is_trivial_and_left_out(report: FeatureReport) -> None:
    assert report["linear"].trivial
    assert report["linear"].nfa == 1.0
    assert "linear" not in report.summary()["strongest"]
    assert report.summary()["n_layers"] == 19
