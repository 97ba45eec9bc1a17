"""Convolutional machines against the loop written out in double precision, and what must not change their answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from featlearn import ConvRFMClassifier, ConvRFMRegressor
from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.kernels import ConvNTK
from featlearn.machines.loop import LeaveOneOut, Recipe, run
from featlearn.machines.rules import Bandwidth, MetricRule, Part

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(36, 2, 7, 6))
NEW = RANDOM.normal(size=(9, 2, 7, 6))
Y = np.stack([X[:, 0, 2, 2] * X[:, 1, 2, 3] + X[:, 0, 4, 4], np.sin(2 * X[:, 1, 3, 3])], axis=1)
LABELS = np.array(["ant", "bee", "cat"])[np.digitize(Y[:, 0], [-0.5, 0.5])]
PLAIN = {"depth": 2, "alpha": 1e-2, "max_iter": 2, "selection": None, "tol": 0.0}


# the loop, written out --------------------------------------------------------------------------------------------


class ByHand:
    """Kernel ridge regression and the patch AGOP in float64: the kernel's definition, ``solve`` and autograd."""

    def __init__(self, x: np.ndarray, targets: np.ndarray, alpha: float, size: int = 3, depth: int = 2) -> None:
        self.kernel = ConvNTK(size, depth)
        self.x, self.targets, self.alpha = torch.tensor(x), torch.tensor(targets), alpha
        self.metric = torch.eye(x.shape[1] * size**2, dtype=torch.float64)

    def values(self, patches: Tensor) -> Tensor:
        """Expansions (m, C) at images given by their patches (m, h, w, q)."""
        return self.matrix(self.kernel.patches(self.x), patches).mT @ self.dual / self.scale

    def matrix(self, u: Tensor, v: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(self.metric)
        root = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
        return self.kernel.of_patches(u @ root, v @ root, self.x.shape[1])

    def solve(self) -> None:
        patches = self.kernel.patches(self.x)
        gram = self.matrix(patches, patches)
        self.scale = float(gram.diagonal().max())
        system = gram / self.scale + self.alpha * torch.eye(len(gram), dtype=torch.float64)
        self.dual = torch.linalg.solve(system, self.targets)

    def agop(self) -> Tensor:
        total = torch.zeros_like(self.metric)
        for output in range(self.targets.shape[1]):
            patches = self.kernel.patches(self.x).requires_grad_()
            (gradient,) = torch.autograd.grad(self.values(patches)[:, output].sum(), patches)
            rows = gradient.flatten(0, 2)
            total += rows.mT @ rows / len(self.x)
        return total


@pytest.fixture(scope="module")
def by_hand() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Metric, predictions of the new images and patch AGOP of three iterates."""
    loop, found = ByHand(X, Y - Y.mean(axis=0), alpha=1e-2), []
    new = loop.kernel.patches(torch.tensor(NEW))
    for _ in range(3):
        loop.solve()
        agop = loop.agop()
        found.append((loop.metric, loop.values(new) + torch.tensor(Y.mean(axis=0)), agop))
        loop.metric = agop / agop.trace()
    return found


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_the_loop_is_kernel_ridge_and_the_agop_of_its_patches(by_hand, steps):
    machine = ConvRFMRegressor(**{**PLAIN, "max_iter": steps}).fit(X, Y)
    metric, predictions, agop = (value.numpy() for value in by_hand[steps])
    np.testing.assert_allclose(machine.predict(NEW), predictions, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(machine.patch_agop_, agop, rtol=0, atol=2e-3 * np.abs(agop).max())
    for t in range(steps + 1):
        expected = by_hand[t][0].numpy()
        np.testing.assert_allclose(machine.metric_at(t), expected / np.trace(expected), rtol=0, atol=1e-3)
    np.testing.assert_allclose(machine.patch_factor_ @ machine.patch_factor_, metric, rtol=0, atol=1e-3)
    np.testing.assert_allclose(machine.patch_factor_, machine.patch_factor_.T, rtol=0, atol=1e-6)
    assert machine.n_iter_ == steps
    assert machine.dual_coef_.shape == (36, 2)
    assert [entry["iteration"] for entry in machine.history_] == list(range(steps + 1))
    assert machine.selection_ is None


def test_the_power_of_a_rule_is_that_of_the_agop(by_hand):
    machine = ConvRFMRegressor(**{**PLAIN, "max_iter": 1}, rule=MetricRule(0.5, "none", points="all")).fit(X, Y)
    values, vectors = torch.linalg.eigh(by_hand[0][2])
    expected = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
    np.testing.assert_allclose(machine.metric_at(1), (expected / expected.trace()).numpy(), rtol=0, atol=2e-3)


def test_a_classifier_is_the_regression_of_its_classes_on_one_hot_rows():
    one_hot = (LABELS[:, None] == np.unique(LABELS)).astype(float)
    loop = ByHand(X, one_hot, alpha=1e-2)
    loop.solve()
    scores = loop.values(loop.kernel.patches(torch.tensor(NEW)))
    machine = ConvRFMClassifier(**{**PLAIN, "max_iter": 0}).fit(X, LABELS)
    np.testing.assert_allclose(machine.decision_function(NEW), scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(machine.predict(NEW), machine.classes_[scores.argmax(dim=1).numpy()])
    logits = machine.sharpness_ * scores
    np.testing.assert_allclose(machine.predict_proba(NEW), logits.softmax(dim=1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(machine.predict_proba(NEW).sum(axis=1), 1, rtol=1e-12)


def test_two_classes_have_one_score():
    labels = Y[:, 0] > 0
    machine = ConvRFMClassifier(**PLAIN).fit(X, labels)
    scores = machine.decision_function(NEW)
    assert scores.shape == (9,)
    np.testing.assert_array_equal(machine.predict(NEW), scores > 0)
    odds = np.diff(np.log(machine.predict_proba(NEW)), axis=1)[:, 0]
    np.testing.assert_allclose(odds, machine.sharpness_ * scores, rtol=1e-5, atol=1e-6)


def test_landmarks_are_the_minimiser_over_their_kernel_functions():
    machine = ConvRFMClassifier(**{**PLAIN, "max_iter": 0}, landmarks=12, random_state=3).fit(X, LABELS)
    basis = machine._basis.double()
    places = [int((torch.tensor(X) - row).abs().amax(dim=(1, 2, 3)).argmin()) for row in basis]
    assert len(set(places)) == 12
    counts = [int((LABELS[places] == label).sum()) for label in machine.classes_]
    assert counts == [4, 4, 4]  # as many of each class
    kernel = ConvNTK(3, 2)
    own, cross = kernel.definition(basis, basis), kernel.definition(torch.tensor(X), basis)
    scale = float(kernel.diagonal(torch.tensor(X)).max())
    own, cross = own / scale, cross / scale
    one_hot = torch.tensor((LABELS[:, None] == machine.classes_).astype(float))
    theta = torch.linalg.solve(cross.mT @ cross + 1e-2 * own, cross.mT @ one_hot)
    expected = kernel.definition(torch.tensor(NEW), basis) @ theta / scale
    np.testing.assert_allclose(machine.decision_function(NEW), expected, rtol=1e-3, atol=1e-3)
    assert machine.dual_coef_.shape == (12, 3)


@pytest.mark.parametrize("landmarks", [36, 100])
def test_as_many_landmarks_as_images_are_no_landmarks(landmarks):
    machine = ConvRFMRegressor(**PLAIN, landmarks=landmarks).fit(X, Y)
    np.testing.assert_array_equal(machine.predict(NEW), ConvRFMRegressor(**PLAIN).fit(X, Y).predict(NEW))


@pytest.mark.parametrize("weighted", [False, True])
def test_all_images_as_landmarks_are_the_machine_without(weighted):
    recipe = Recipe((Part(ConvNTK(3, 2)),), Bandwidth(None), ((1e-2,),), MetricRule(1.0, "trace", points="all"), 2, 0.0)
    images, targets = torch.tensor(X).float(), torch.tensor(Y).float()
    weights = torch.linspace(0.5, 2, 36) if weighted else None
    exact = run(recipe, images, targets, weights=weights, judge=LeaveOneOut())
    reduced = run(recipe, images, targets, weights=weights, judge=LeaveOneOut(), landmarks=torch.arange(36))
    torch.testing.assert_close(reduced.dual, exact.dual, rtol=0, atol=2e-2)
    for t in range(3):
        for name, tolerance in {"train_score": 1e-2, "score": 1e-3, "score_se": 1e-3}.items():
            assert reduced.history[t][name] == pytest.approx(exact.history[t][name], rel=tolerance)
        torch.testing.assert_close(reduced.honest[t], exact.honest[t], rtol=0, atol=5e-3)


# what the machine shows --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine() -> ConvRFMRegressor:
    return ConvRFMRegressor(**PLAIN, padding=1).fit(X, Y)


def test_directions_are_eigenvectors_with_their_shares(machine):
    agop, directions = machine.patch_agop_.astype(float), machine.directions_.reshape(-1, 18).astype(float)
    assert machine.directions_.shape == (18, 2, 3, 3)
    np.testing.assert_allclose(directions @ directions.T, np.eye(18), rtol=0, atol=1e-5)
    eigenvalues = machine.direction_shares_ * np.trace(agop)
    np.testing.assert_allclose(directions @ agop, eigenvalues[:, None] * directions, rtol=0, atol=1e-5 * np.trace(agop))
    assert (np.diff(machine.direction_shares_) <= 1e-7).all()
    assert machine.direction_shares_.sum() == pytest.approx(1, abs=1e-5)


def test_transform_is_the_product_of_patches_with_weighted_directions(machine):
    padded = np.pad(NEW, ((0, 0), (0, 0), (1, 1), (1, 1)))
    maps = machine.transform(NEW)
    assert maps.shape == (9, 18, 7, 6)
    for row, column in [(0, 0), (3, 2), (6, 5)]:
        patches = padded[:, :, row : row + 3, column : column + 3].reshape(9, 18)
        expected = patches @ machine.directions_.reshape(-1, 18).T * np.sqrt(machine.direction_shares_)
        np.testing.assert_allclose(maps[:, :, row, column], expected, rtol=1e-4, atol=1e-5)


def test_saliency_is_the_size_of_the_gradient_of_the_outputs(machine):
    images = torch.tensor(NEW, requires_grad=True)
    metric = machine.kernel_
    root = metric.factor.double()
    kernel, basis = metric.kernel, machine._basis.double()
    gram = kernel.of_patches(kernel.patches(basis) @ root, kernel.patches(images) @ root, 2) / metric.scale
    outputs = gram.mT @ torch.tensor(machine.dual_coef_).double()
    squares = sum(torch.autograd.grad(outputs[:, o].sum(), images, retain_graph=True)[0] ** 2 for o in range(2))
    expected = squares.sum(dim=1).sqrt().numpy()
    found = machine.saliency(NEW)
    assert found.shape == (9, 7, 6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.max())


def test_metrics_have_steps(machine):
    assert all(np.trace(machine.metric_at(t)) == pytest.approx(1, abs=1e-5) for t in range(3))
    np.testing.assert_allclose(machine.metric_at(0), np.eye(18) / 18, rtol=1e-6)
    for t in (-1, 3, 1.0, True):
        with pytest.raises(DataError, match=r"a step from 0 to 2"):
            machine.metric_at(t)


def test_the_standard_error_falls_with_more_images_and_vanishes_with_all():
    few, more, every = (ConvRFMRegressor(**PLAIN, agop_images=m, random_state=0).fit(X, Y) for m in (5, 20, 36))
    assert few.patch_agop_se_ > more.patch_agop_se_ > every.patch_agop_se_ == 0
    assert few.history_[0]["agop_se"] > more.history_[0]["agop_se"] > 0
    assert np.isnan(few.history_[-1]["agop_se"])  # no metric is learned from the last iterate


# what must not change the answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [7.0, 1e-3, 1e4])
@pytest.mark.parametrize("options", [{}, {"landmarks": 20, "random_state": 0}], ids=["all", "landmarks"])
def test_a_common_factor_of_all_images(scale, options):
    plain = ConvRFMRegressor(**PLAIN, **options).fit(X, Y)
    scaled = ConvRFMRegressor(**PLAIN, **options).fit(scale * X, Y)
    np.testing.assert_allclose(scaled.predict(scale * NEW), plain.predict(NEW), rtol=0, atol=2e-3)
    np.testing.assert_allclose(scaled.patch_agop_ * scale**2, plain.patch_agop_, rtol=0, atol=5e-3)
    np.testing.assert_allclose(scaled.saliency(scale * NEW) * scale, plain.saliency(NEW), rtol=0, atol=5e-3)


def test_a_factor_and_an_offset_of_the_targets():
    plain, moved = ConvRFMRegressor(**PLAIN).fit(X, Y), ConvRFMRegressor(**PLAIN).fit(X, 100 * Y - 7)
    np.testing.assert_allclose(moved.predict(NEW), 100 * plain.predict(NEW) - 7, rtol=0, atol=0.1)
    np.testing.assert_allclose(moved.metric_at(2), plain.metric_at(2), rtol=0, atol=1e-4)


@given(seed=st.integers(0, 1000))
@settings(max_examples=5)
def test_rotated_outputs_rotate_and_leave_the_metric(seed):
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(2, 2)))[0]
    plain, rotated = ConvRFMRegressor(**PLAIN).fit(X, Y), ConvRFMRegressor(**PLAIN).fit(X, Y @ rotation)
    np.testing.assert_allclose(rotated.predict(NEW), plain.predict(NEW) @ rotation, rtol=0, atol=2e-3)
    np.testing.assert_allclose(rotated.metric_at(2), plain.metric_at(2), rtol=0, atol=1e-3)


@given(seed=st.integers(0, 1000))
@settings(max_examples=5)
def test_rotated_colours_rotate_the_patches(seed):
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(2, 2)))[0]
    plain = ConvRFMRegressor(**PLAIN).fit(X, Y)
    rotated = ConvRFMRegressor(**PLAIN).fit(np.einsum("cd,ndhw->nchw", rotation, X), Y)
    new = np.einsum("cd,ndhw->nchw", rotation, NEW)
    np.testing.assert_allclose(rotated.predict(new), plain.predict(NEW), rtol=0, atol=2e-3)
    mixing = np.kron(rotation, np.eye(9))
    np.testing.assert_allclose(rotated.metric_at(2), mixing @ plain.metric_at(2) @ mixing.T, rtol=0, atol=1e-3)


def test_mirrored_images_mirror_the_directions():
    plain, mirrored = ConvRFMRegressor(**PLAIN).fit(X, Y), ConvRFMRegressor(**PLAIN).fit(X[..., ::-1], Y)
    np.testing.assert_allclose(mirrored.predict(NEW[..., ::-1]), plain.predict(NEW), rtol=0, atol=2e-3)
    flip = np.arange(18).reshape(2, 3, 3)[..., ::-1].ravel()
    np.testing.assert_allclose(mirrored.metric_at(2), plain.metric_at(2)[flip][:, flip], rtol=0, atol=1e-3)
    np.testing.assert_allclose(mirrored.saliency(NEW[..., ::-1])[..., ::-1], plain.saliency(NEW), rtol=0, atol=1e-2)


def test_the_order_of_images_does_not_matter():
    order = RANDOM.permutation(36)
    plain, other = ConvRFMClassifier(**PLAIN).fit(X, LABELS), ConvRFMClassifier(**PLAIN).fit(X[order], LABELS[order])
    np.testing.assert_allclose(other.decision_function(NEW), plain.decision_function(NEW), rtol=0, atol=1e-3)


def test_names_of_classes_do_not_matter():
    names = {"ant": 30, "bee": 10, "cat": 20}
    renamed = ConvRFMClassifier(**PLAIN).fit(X, np.array([names[label] for label in LABELS]))
    plain = ConvRFMClassifier(**PLAIN).fit(X, LABELS)
    np.testing.assert_array_equal(renamed.classes_, [10, 20, 30])
    order = [1, 2, 0]  # bee, cat, ant
    np.testing.assert_allclose(
        renamed.decision_function(NEW), plain.decision_function(NEW)[:, order], rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(renamed.predict_proba(NEW), plain.predict_proba(NEW)[:, order], rtol=0, atol=1e-3)
    assert [names[label] for label in plain.predict(NEW)] == renamed.predict(NEW).tolist()


@pytest.mark.parametrize("estimator", [ConvRFMRegressor, ConvRFMClassifier])
@pytest.mark.parametrize("options", [{}, {"landmarks": 50}], ids=["all", "landmarks"])
def test_weight_zero_is_left_out_and_weight_two_is_given_twice(estimator, options):
    targets = Y if estimator is ConvRFMRegressor else LABELS
    weights = np.ones(36)
    weights[[3, 20]], weights[[5, 6, 30]] = 0, 2
    rows = np.repeat(np.arange(36), weights.astype(int))
    weighted = estimator(**PLAIN, **options).fit(X, targets, sample_weight=weights)
    repeated = estimator(**PLAIN, **options).fit(X[rows], targets[rows])
    outputs = [
        fitted.predict(NEW) if estimator is ConvRFMRegressor else fitted.decision_function(NEW)
        for fitted in (weighted, repeated)
    ]
    np.testing.assert_allclose(*outputs, rtol=0, atol=2e-3)
    np.testing.assert_allclose(weighted.metric_at(2), repeated.metric_at(2), rtol=0, atol=1e-3)
    np.testing.assert_allclose(weighted.patch_agop_, repeated.patch_agop_, rtol=0, atol=5e-3)


def test_the_label_of_an_image_of_weight_zero_is_not_a_class():
    labels = LABELS.astype(object)
    labels[4] = "dog"
    weights = np.ones(36)
    weights[4] = 0
    machine = ConvRFMClassifier(**PLAIN).fit(X, labels, sample_weight=weights)
    assert machine.classes_.tolist() == ["ant", "bee", "cat"]
    others = np.delete(np.arange(36), 4)
    expected = ConvRFMClassifier(**PLAIN).fit(X[others], LABELS[others]).decision_function(NEW)
    np.testing.assert_array_equal(machine.decision_function(NEW), expected)


def test_class_weights_are_sample_weights():
    factors = {"ant": 3.0, "cat": 0.5}
    by_class = ConvRFMClassifier(**PLAIN, class_weight=factors).fit(X, LABELS)
    by_image = ConvRFMClassifier(**PLAIN).fit(X, LABELS, sample_weight=[factors.get(label, 1.0) for label in LABELS])
    np.testing.assert_array_equal(by_class.decision_function(NEW), by_image.decision_function(NEW))
    counts = {label: int((label == LABELS).sum()) for label in np.unique(LABELS)}
    balanced = ConvRFMClassifier(**PLAIN, class_weight="balanced").fit(X, LABELS)
    weights = [36 / (3 * counts[label]) for label in LABELS]
    by_image = ConvRFMClassifier(**PLAIN).fit(X, LABELS, sample_weight=weights)
    np.testing.assert_array_equal(balanced.decision_function(NEW), by_image.decision_function(NEW))


# going on, stopping, repeating -------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_warm_starts_add_up_to_one_longer_run(weighted):
    weights = np.linspace(0.5, 2, 36) if weighted else None
    once = ConvRFMRegressor(**{**PLAIN, "max_iter": 4}).fit(X, Y, sample_weight=weights)
    twice = ConvRFMRegressor(**{**PLAIN, "max_iter": 2}, warm_start=True).fit(X, Y, sample_weight=weights)
    twice.fit(X, Y, sample_weight=weights)
    np.testing.assert_allclose(twice.predict(NEW), once.predict(NEW), rtol=0, atol=1e-4)
    np.testing.assert_allclose(twice.metric_at(2), once.metric_at(4), rtol=0, atol=1e-5)
    np.testing.assert_allclose(twice.metric_at(0), once.metric_at(2), rtol=0, atol=1e-5)


def test_a_warm_start_keeps_the_ridge_that_was_chosen_and_selects_nothing():
    machine = ConvRFMRegressor(2, 2, max_iter=1, warm_start=True, random_state=0).fit(X[:, :1], Y)
    chosen = machine.alpha_
    assert machine.selection_ is not None
    machine.fit(X[:, :1], Y)
    assert machine.selection_ is None
    assert {entry["alpha"] for entry in machine.history_} == {chosen}


def test_a_warm_start_of_another_kernel_or_other_channels_is_refused():
    machine = ConvRFMRegressor(**PLAIN, warm_start=True).fit(X, Y)
    with pytest.raises(DataError, match="warm_start=True with another kernel or other channels"):
        machine.fit(X[:, :1], Y)
    machine = ConvRFMRegressor(**PLAIN, warm_start=True).fit(X, Y).set_params(depth=1)
    with pytest.raises(DataError, match="warm_start=True with another kernel"):
        machine.fit(X, Y)


def test_the_callback_sees_each_step_and_can_stop():
    seen = []
    ConvRFMRegressor(**PLAIN, callback=seen.append).fit(X, Y)
    assert [entry["iteration"] for entry in seen] == [0, 1, 2]
    stopped = ConvRFMRegressor(**PLAIN, callback=lambda entry: entry["iteration"] == 1).fit(X, Y)
    assert stopped.n_iter_ == 1
    shorter = ConvRFMRegressor(**{**PLAIN, "max_iter": 1}).fit(X, Y)
    np.testing.assert_array_equal(stopped.predict(NEW), shorter.predict(NEW))


def test_an_interrupted_fit_keeps_what_it_has():
    def interrupt(entry):
        if entry["iteration"] == 1:
            raise KeyboardInterrupt

    with pytest.warns(FeatlearnWarning, match="Interrupted at step 1 of 2"):
        machine = ConvRFMRegressor(**PLAIN, callback=interrupt).fit(X, Y)
    assert machine.n_iter_ == 1


def test_a_metric_that_stays_stops_the_loop():
    machine = ConvRFMRegressor(**{**PLAIN, "max_iter": 50, "tol": 0.05}).fit(X, Y)
    changes = [entry["metric_change"] for entry in machine.history_]
    assert len(changes) < 51
    assert all(change >= 0.05 for change in changes[:-1])
    assert changes[-1] < 0.05
    assert machine.history_[-1]["stop_reason"] == "converged"


def test_the_seed_decides_and_the_global_one_is_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    options = {**PLAIN, "agop_images": 10, "landmarks": 20}
    first, again, other = (ConvRFMRegressor(**options, random_state=seed).fit(X, Y).predict(NEW) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)
    drawn = [ConvRFMRegressor(**options, random_state=np.random.RandomState(4)).fit(X, Y).predict(NEW) for _ in "ab"]
    np.testing.assert_array_equal(*drawn)


def test_equal_targets_are_predicted_with_a_warning():
    with pytest.warns(FeatlearnWarning, match="equal targets for all images"):
        machine = ConvRFMRegressor(**PLAIN).fit(X, np.full(36, 2.5))
    np.testing.assert_array_equal(machine.predict(NEW), np.full(9, 2.5))
    assert machine.n_iter_ == 0
    assert not machine.patch_agop_.any()
    assert not machine.direction_shares_.any()
    np.testing.assert_array_equal(machine.patch_factor_, np.eye(18))
    assert machine.history_[0]["stop_reason"] == "The AGOP is zero or not finite"
    assert not machine.saliency(NEW).any()
