from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featlearn.exceptions import DataError
from featlearn.linalg.similarity import DebiasedCKA
from featlearn.measure.feature_change import FeatureChange, LastFeatureScatter


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def d_lr_by_definition(features, outputs):
    """Centred arrays, an orthonormal basis from the singular vectors of the outputs."""
    phi, f = (np.asarray(array) - np.asarray(array).mean(axis=0) for array in (features, outputs))
    basis, spread, _ = np.linalg.svd(f, full_matrices=False)
    basis = basis[:, spread > 1e-8 * spread[0]]
    shared = np.linalg.norm(basis.T @ phi) ** 2
    return 1 - shared / (math.sqrt(basis.shape[1]) * np.linalg.norm(phi.T @ phi))


def scatter_of(features, targets=None, size=None):
    scatter = LastFeatureScatter()
    size = size or len(features)
    for start in range(0, len(features), size):
        part = slice(start, start + size)
        scatter.add(features[part], None if targets is None else targets[part])
    return scatter


# --- the lazy-rich distance -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "p", "outputs"), [(40, 6, 3), (40, 6, 9), (5, 12, 3), (50, 4, 1)])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_distance_from_outputs_equals_its_definition(n, p, outputs, size):
    features, readout = normal(n, p) + 2, normal(outputs, p, seed=1)
    bias = normal(outputs, seed=2)
    expected = d_lr_by_definition(features, features @ readout.mT + bias)
    assert scatter_of(features, size=size).distance_from_outputs(readout) == pytest.approx(expected, abs=1e-10)


def test_balanced_task_only_features_are_rich():
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(200) % 4
    means = torch.linalg.qr(torch.randn(10, 4, generator=generator, dtype=torch.float64))[0].mT
    features = means[labels]
    onehot = torch.nn.functional.one_hot(labels).double()
    scatter = scatter_of(features, onehot, size=50)
    assert scatter.distance_from_outputs(means) == pytest.approx(0.0, abs=1e-12)
    assert scatter.distance_from_targets() == pytest.approx(0.0, abs=1e-12)


def test_random_features_are_lazy():
    features, readout = normal(2000, 50), normal(4, 50, seed=1)
    # Isotropic features: Q^T Phi holds 4 of 50 equal directions, so D_LR = 1 - 4 / (2 sqrt(50)) on average.
    assert scatter_of(features).distance_from_outputs(readout) == pytest.approx(1 - 2 / math.sqrt(50), abs=0.02)


@given(st.floats(1e-6, 1e6), st.integers(0, 5))
def test_scale_of_outputs_and_rotation_of_features_change_nothing(scale, seed):
    features, readout = normal(30, 6, seed=seed), normal(3, 6, seed=seed + 10)
    rotation = torch.linalg.qr(normal(6, 6, seed=seed + 20))[0]
    plain = scatter_of(features).distance_from_outputs(readout)
    assert scatter_of(features).distance_from_outputs(scale * readout) == pytest.approx(plain, abs=1e-9)
    assert scatter_of(features @ rotation).distance_from_outputs(readout @ rotation) == pytest.approx(plain, abs=1e-9)


@pytest.mark.parametrize("targets", ["classes", "numbers"])
def test_distance_from_targets_equals_its_definition(targets):
    features = normal(40, 6)
    classes = torch.nn.functional.one_hot(torch.arange(40) % 3, 5)  # two classes are absent
    given_targets = classes if targets == "classes" else normal(40, 2, seed=4) + 3
    scatter = scatter_of(features, given_targets, size=7)
    assert scatter.distance_from_targets() == pytest.approx(d_lr_by_definition(features, given_targets), abs=1e-10)


def test_outputs_that_are_round_off_beside_the_others_do_not_count():
    features = normal(60, 6)
    readout = normal(2, 6, seed=1)
    noisy = torch.cat([readout, readout.sum(dim=0, keepdim=True) + 1e-9 * normal(1, 6, seed=2)])
    plain = scatter_of(features).distance_from_outputs(readout)
    assert scatter_of(features).distance_from_outputs(noisy) == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_merging_equals_the_whole_and_nothing_cancels(offset):
    features, targets = normal(40, 5), normal(40, 2, seed=1)
    whole = scatter_of(features, targets)
    parts = [scatter_of(features[part] + offset, targets[part]) for part in (slice(13), slice(13, 40))]
    merged = LastFeatureScatter().merge(parts[1]).merge(parts[0]).merge(LastFeatureScatter())
    assert merged.n_rows == 40
    assert merged.distance_from_targets() == pytest.approx(whole.distance_from_targets(), abs=1e-8)
    readout = normal(3, 5, seed=2)
    assert merged.distance_from_outputs(readout) == pytest.approx(whole.distance_from_outputs(readout), abs=1e-8)


def test_constant_features_or_targets_have_no_distance():
    constant = scatter_of(torch.ones(10, 3), torch.ones(10, 2))
    assert math.isnan(constant.distance_from_outputs(normal(2, 3)))
    assert math.isnan(constant.distance_from_targets())
    assert math.isnan(scatter_of(normal(10, 3)).distance_from_outputs(torch.zeros(2, 3)))


def test_scatter_refuses_nothing_and_other_widths():
    with pytest.raises(DataError, match="no features"):
        LastFeatureScatter().distance_from_outputs(normal(2, 3))
    scatter = scatter_of(normal(5, 3))
    with pytest.raises(DataError, match="width 4, but expected 3"):
        scatter.add(normal(5, 4))


# --- features ---------------------------------------------------------------------------------------------------------


def test_change_and_pattern_over_batches_and_calls_equal_their_definitions():
    h, h0 = normal(20, 3, 4), normal(20, 3, 4, seed=1)
    change = FeatureChange("layer")
    for start in (0, 8):
        part = slice(start, start + 12 if start else 8)
        for positions in (slice(2), slice(2, 4)):  # two calls of two positions
            change.add(h[part][..., positions], h0[part][..., positions])
        change.close()
    assert change.feature_change == pytest.approx(float((h - h0).norm() / h0.norm()), abs=1e-12)
    assert change.pattern_distance == float(((h > 0) != (h0 > 0)).double().mean())
    expected = DebiasedCKA()
    for part in (slice(8), slice(8, 20)):
        expected.add(h[part], h0[part])
    assert change.similarity() == pytest.approx(expected.finalize(), abs=1e-12)


def test_batches_of_fewer_than_four_samples_count_for_all_but_cka():
    h, h0 = normal(8, 3, 1), normal(8, 3, 1, seed=1)
    change = FeatureChange("layer")
    for part in (slice(3), slice(3, 8)):
        change.add(h[part], h0[part])
        change.close()
    alone = DebiasedCKA()
    alone.add(h[3:], h0[3:])
    assert change.similarity() == pytest.approx(alone.finalize(), abs=1e-14)
    assert change.feature_change == pytest.approx(float((h - h0).norm() / h0.norm()), abs=1e-12)


def test_unequal_layers_are_nan_and_unaligned_ones_have_no_cka():
    change = FeatureChange("layer")
    change.add(normal(6, 3, 1), normal(6, 3, 1, seed=1))
    change.close()
    change.unaligned = True
    assert math.isnan(change.similarity())
    assert change.feature_change > 0
    change.unequal = True
    assert math.isnan(change.feature_change)
    assert math.isnan(change.pattern_distance)


def test_zero_reference_features_have_no_relative_change():
    change = FeatureChange("layer")
    change.add(normal(6, 3, 1), torch.zeros(6, 3, 1))
    assert math.isnan(change.feature_change)
    assert change.pattern_distance == float((normal(6, 3, 1) > 0).double().mean())
