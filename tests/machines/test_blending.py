"""Averages of machines: their weights, and that an estimator is the weighted sum of what it says it is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featlearn import RFMClassifier, RFMRegressor
from featlearn.exceptions import DataError
from featlearn.machines import load
from featlearn.machines.blending import GAIN, greedy_weights

random = np.random.default_rng(0)
X = random.normal(size=(300, 4))
Y = np.abs(X[:, 0]) + np.sin(3 * X[:, 1]) * X[:, 0] + 0.3 * random.normal(size=300)
Z = random.normal(size=(50, 4))


def squared(weights, values, targets, rows=None):
    residuals = sum(w * v for w, v in zip(weights, values, strict=True)) - targets
    return float(np.average(residuals.square().sum(1).numpy(), weights=None if rows is None else rows.numpy()))


@pytest.fixture(scope="module")
def blend():
    """A machine of at least two members."""
    machine = RFMRegressor(kernel=["laplace", "coordinates"], alpha=(1e-2, 1e-1, 1.0), max_iter=2, random_state=0)
    machine.fit(X, Y)
    assert 2 <= len(machine.members_) <= 3
    return machine


# --- weights ----------------------------------------------------------------------------------------------------------


def test_opposite_errors_are_averaged_away():
    targets = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double()
    noise = torch.randn(40, 2, generator=torch.Generator().manual_seed(1)).double()
    assert greedy_weights([targets + noise, targets - noise], targets, None, 3) == [0.5, 0.5]


def test_the_best_is_taken_alone_where_others_do_not_help():
    targets = torch.randn(40, 1, generator=torch.Generator().manual_seed(0)).double()
    assert greedy_weights([targets + 0.1, targets + 0.2, targets + 0.3], targets, None, 3) == [1.0, 0.0, 0.0]


def test_two_members_come_close_to_the_best_of_all_weights():
    generator = torch.Generator().manual_seed(2)
    targets = torch.randn(60, 1, generator=generator).double()
    values = [targets + spread * torch.randn(60, 1, generator=generator).double() for spread in (0.5, 0.6)]
    values.sort(key=lambda value: squared([1], [value], targets))
    best = min(squared([w, 1 - w], values, targets) for w in np.linspace(0, 1, 201))
    assert squared(greedy_weights(values, targets, None, 2), values, targets) <= 1.01 * best


def test_rows_count_by_their_weights():
    generator = torch.Generator().manual_seed(3)
    targets = torch.randn(30, 1, generator=generator).double()
    values = [targets + torch.randn(30, 1, generator=generator).double() for _ in range(3)]
    rows = torch.randint(0, 3, (30,), generator=generator).double()
    again = rows.long()
    values.sort(key=lambda value: squared([1], [value], targets, rows))
    repeated = [value.repeat_interleave(again, 0) for value in values]
    expected = greedy_weights(repeated, targets.repeat_interleave(again, 0), None, 2)
    assert greedy_weights(values, targets, rows, 2) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 6), most=st.integers(1, 4))
def test_weights_are_shares_of_few_and_never_worse_than_the_best_alone(seed, count, most):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(25, 2, generator=generator).double()
    values = [targets + torch.randn(25, 2, generator=generator).double() for _ in range(count)]
    values.sort(key=lambda value: squared([1], [value], targets))
    weights = greedy_weights(values, targets, None, most)
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0
    assert np.count_nonzero(weights) <= most
    alone = squared([1], values[:1], targets)
    found = squared(weights, values, targets)
    assert found < (1 - GAIN) * alone if np.count_nonzero(weights) > 1 else weights[0] == 1


# --- estimators -------------------------------------------------------------------------------------------------------


def test_predictions_are_the_weighted_sum_of_machines_fitted_one_by_one(blend):
    compared, total = 0, np.zeros(len(Z))
    for member, place, predictor in zip(blend.members_, blend.selection_.members, blend.blend_.members, strict=True):
        if len(set(place.alphas)) > 1:
            continue  # a path whose ridge changed cannot be asked for by parameters
        own = RFMRegressor(
            kernel=member["kernel"], power=member["power"], alpha=member["alpha"], max_iter=member["iteration"],
            columns=predictor.columns.config, selection=None, random_state=0,
        ).fit(X, Y)  # fmt: skip
        alone = predictor.expansion(Z).numpy()[:, 0] + Y.mean()
        np.testing.assert_allclose(own.predict(Z), alone, rtol=1e-9, atol=1e-9)
        compared += 1
    assert compared
    for weight, predictor in zip(blend.blend_.weights, blend.blend_.members, strict=True):
        total += weight * predictor.expansion(Z).numpy()[:, 0]
    np.testing.assert_allclose(blend.predict(Z), total + Y.mean(), rtol=1e-12, atol=1e-12)


def test_the_leading_machine_is_what_attributes_are_of(blend):
    weights = [member["weight"] for member in blend.members_]
    assert sum(weights) == pytest.approx(1)
    assert weights == sorted(weights, reverse=True)
    first = blend.members_[0]
    told = (blend.kernel_name_, blend.power_, blend.alpha_, blend.n_iter_)
    assert told == (first["kernel"], first["power"], first["alpha"], first["iteration"])
    assert blend.predictor_ is blend.blend_.members[0]
    entry = blend.selection_.best
    assert (entry["kernel"], entry["iteration"]) == (first["kernel"], first["iteration"])
    assert blend.feature_importances_.sum() == pytest.approx(1)


def test_one_member_is_the_best_entry_of_the_table(blend):
    alone = blend.__class__(**{**blend.get_params(), "blend": 1}).fit(X, Y)
    assert len(alone.members_) == 1
    assert alone.members_[0]["weight"] == 1
    assert alone.selection_.best["score"] == min(entry["score"] for entry in alone.selection_.table)


def test_held_out_scores_are_those_of_the_average(blend):
    rows = torch.cat([rows for rows, _ in blend.selection_.held_out])
    values = torch.cat([values for _, values in blend.selection_.held_out])[:, 0] * blend.predictor_.scale
    assert rows.sort().values.tolist() == list(range(300))
    by_hand = np.mean((Y[rows] - Y.mean() - values.numpy()) ** 2)
    assert blend.held_out_scores_["rmse"]["value"] ** 2 == pytest.approx(by_hand, rel=1e-6)
    leading = blend.selection_.best["score"] * blend.predictor_.scale**2
    assert by_hand < leading


def test_published_conventions_do_not_average():
    for rule in ("uci", "xrfm"):
        machine = RFMRegressor(rule=rule, max_iter=1, random_state=0).fit(X, Y)
        assert len(machine.members_) == 1


def test_a_blend_is_exported_whole(blend, tmp_path):
    blend.export(tmp_path / "machine.safetensors")
    loaded = load(tmp_path / "machine.safetensors")
    np.testing.assert_array_equal(loaded.predict(Z), blend.predict(Z))
    assert loaded.to_dict()["members"] == blend.to_dict()["members"]
    assert len(loaded.blend.members) == len(blend.members_)


def test_intervals_are_of_the_blend(tmp_path):
    machine = RFMRegressor(
        kernel=["laplace", "coordinates"],
        alpha=(1e-2, 1e-1, 1.0),
        max_iter=2,
        intervals="cv_plus",
        random_state=0,
    ).fit(X, Y)
    assert len(machine.members_) > 1
    low, high = machine.predict_interval(Z, 0.8).T
    inside = (low < machine.predict(Z)) & (machine.predict(Z) < high)
    assert inside.mean() > 0.95
    machine.export(tmp_path / "machine.safetensors")
    np.testing.assert_array_equal(load(tmp_path / "machine.safetensors").predict_interval(Z, 0.8).T, [low, high])


def test_probabilities_of_a_blend_are_calibrated_on_its_own_scores():
    labels = np.where(np.median(Y) < Y, "high", "low")
    machine = RFMClassifier(kernel=["laplace", "coordinates"], alpha=(1e-1, 1.0), max_iter=2, random_state=0)
    machine.fit(X, labels)
    assert len(machine.members_) > 1
    chances = machine.predict_proba(Z)
    np.testing.assert_allclose(chances.sum(1), 1)
    scores = sum(
        weight * predictor.expansion(Z)
        for weight, predictor in zip(machine.blend_.weights, machine.blend_.members, strict=True)
    )
    logits = machine.sharpness_ * machine.coding_.scores(scores).double().numpy()
    np.testing.assert_allclose(chances, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=1e-9)


@pytest.mark.parametrize("blend", [0, -1, 1.5, "all", True])
def test_bad_numbers_of_members_are_refused(blend):
    with pytest.raises(DataError, match="blend"):
        RFMRegressor(blend=blend).fit(X, Y)


def test_every_member_learns_on_request_of_the_callback():
    seen = []
    machine = RFMRegressor(
        kernel=["laplace", "coordinates"], alpha=(1e-2, 1e-1), max_iter=2, random_state=0, callback=seen.append
    ).fit(X, Y)
    assert len(seen) == sum(member["iteration"] + 1 for member in machine.members_)
    steps = [list(group) for _, group in itertools.groupby(entry["iteration"] for entry in seen)]
    assert len(steps) == len(seen)
