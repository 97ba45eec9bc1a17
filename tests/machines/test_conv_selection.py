"""Ridge and iterate of convolutional machines are chosen on images that the scored machine has not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featlearn import ConvRFMClassifier, ConvRFMRegressor
from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.kernels import ConvNTK
from featlearn.machines import conv_fitting
from featlearn.machines.calibration import log_loss
from featlearn.machines.fitting import possible_folds
from featlearn.machines.loop import LeaveOneOut, run
from featlearn.machines.rules import MetricRule
from featlearn.machines.selection import cross_validation, hold_out

RANDOM = np.random.default_rng(1)
N = 48
X = RANDOM.normal(size=(N, 5, 6))
NEW = RANDOM.normal(size=(10, 5, 6))
Y = X[:, 2, 2] * X[:, 2, 3] + X[:, 3, 3] + 0.3 * RANDOM.normal(size=N)
LABELS = np.digitize(Y, [-0.5, 0.5])
SEED = 7
ALPHAS = (1e-3, 1e-2, 1e-1)
BASE = {"depth": 1, "alpha": ALPHAS, "max_iter": 2, "random_state": SEED, "tol": 0.0}


def scores(machine):
    """Score of each iterate in the table."""
    return {entry["iteration"]: entry["score"] for entry in machine.selection_.table}


# leave-one-out -----------------------------------------------------------------------------------------------------


def largest(machine):
    """Largest k(x, x), the unit of the ridge."""
    return machine.kernel_.scale


def refit_score(estimator, targets, predict, errors, weights, alpha):
    """Weighted mean of errors of N refits, each with the ridge of the whole machine in units of its own."""
    whole = estimator(depth=1, alpha=alpha, max_iter=0, selection=None).fit(X, targets, sample_weight=weights)
    total = np.zeros(N)
    for i in range(N):
        others = np.delete(np.arange(N), i)
        fit = {} if weights is None else {"sample_weight": weights[others]}
        part = estimator(depth=1, alpha=alpha, max_iter=0, selection=None).fit(X[others], targets[others], **fit)
        part.set_params(alpha=alpha * largest(whole) / largest(part)).fit(X[others], targets[others], **fit)
        total[i] = errors(targets[i], predict(part, X[i : i + 1])[0])
    return np.average(total, weights=weights)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("alphas", [ALPHAS, (1e-2,)], ids=["three", "one"])
def test_leave_one_out_is_n_refits_of_a_regressor(weighted, alphas):
    weights = np.linspace(0.5, 2, N) if weighted else None
    machine = ConvRFMRegressor(depth=1, alpha=alphas, max_iter=0, selection="loo").fit(X, Y, sample_weight=weights)
    expected = refit_score(
        ConvRFMRegressor, Y, lambda part, x: part.predict(x), lambda y, f: (y - f) ** 2, weights, machine.alpha_
    )
    unit = np.mean((Y - np.average(Y, weights=weights)) ** 2)
    assert machine.selection_.best["score"] * unit == pytest.approx(expected, rel=1e-4)
    assert machine.selection_.method == "loo"


def test_leave_one_out_is_n_refits_of_a_classifier():
    machine = ConvRFMClassifier(depth=1, alpha=ALPHAS, max_iter=0, selection="loo").fit(X, LABELS)
    one_hot = np.eye(3)
    expected = refit_score(
        ConvRFMClassifier, LABELS, lambda part, x: part.decision_function(x),
        lambda y, f: ((one_hot[y] - f) ** 2).sum(), None, machine.alpha_,
    )  # fmt: skip
    assert machine.selection_.best["score"] * (1 / 3) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_leave_one_out_with_landmarks_is_that_of_the_other_images(weighted):
    """Their refits keep the landmarks; a landmark's own refit would leave its kernel function without a hold."""
    weights = np.linspace(0.5, 2, N) if weighted else np.ones(N)
    machine = ConvRFMClassifier(depth=1, alpha=ALPHAS, max_iter=0, selection="loo", landmarks=15, random_state=2)
    machine.fit(X, LABELS, sample_weight=weights if weighted else None)
    kernel = ConvNTK(3, 1)
    images, basis = torch.tensor(X)[:, None], machine._basis.double()
    cross, own = kernel.definition(images, basis), kernel.definition(basis, basis)
    scale = float(kernel.diagonal(images).max())
    cross, own, one_hot = cross / scale, own / scale, torch.eye(3).double()[LABELS]
    others = [i for i in range(N) if not (images[i].float() == machine._basis).flatten(1).all(dim=1).any()]
    assert len(others) == N - 15
    errors = []
    for i in others:
        rest, mass = np.delete(np.arange(N), i), torch.tensor(np.delete(weights, i))[:, None]
        square = cross[rest].mT @ (mass * cross[rest]) + machine.alpha_ * own
        theta = torch.linalg.solve(square, cross[rest].mT @ (mass * one_hot[rest]))
        errors.append(float((one_hot[i] - cross[i] @ theta).square().sum()))
    best = machine.selection_.best
    assert best["score"] / 3 == pytest.approx(np.average(errors, weights=weights[others]), rel=2e-3)
    ((rows, values),) = machine.selection_.held_out
    assert rows.tolist() == others
    assert len(values) == len(others)
    # Where hardly any image is none, all are scored.
    machine = ConvRFMClassifier(depth=1, alpha=ALPHAS, max_iter=0, selection="loo", landmarks=40).fit(X, LABELS)
    assert len(machine.selection_.held_out[0][0]) == N


def test_leave_one_out_chooses_the_ridge_and_the_iterate_of_its_table():
    machine = ConvRFMRegressor(**BASE, patch_size=2, selection="loo").fit(X, Y)
    assert scores(machine) == {t: pytest.approx(entry["score"]) for t, entry in enumerate(machine.history_)}
    assert machine.n_iter_ == min(scores(machine), key=scores(machine).get)
    assert machine.alpha_ == machine.history_[machine.n_iter_]["alpha"]
    alone = [
        ConvRFMRegressor(**{**BASE, "alpha": alpha, "max_iter": 0}, patch_size=2, selection="loo").fit(X, Y)
        for alpha in ALPHAS
    ]
    assert machine.history_[0]["score"] == pytest.approx(min(scores(one)[0] for one in alone), rel=1e-5)


def test_leave_one_out_of_a_metric_with_many_numbers_warns():
    with pytest.warns(FeatlearnWarning, match=r"patch metric of 55 numbers learned from 48 images.*optimistic"):
        ConvRFMRegressor(**{**BASE, "patch_size": 1}, selection="loo").fit(np.repeat(X[:, None], 10, axis=1), Y)
    ConvRFMRegressor(**{**BASE, "max_iter": 0}, selection="loo").fit(X[:20], Y[:20])  # no metric is learned


# what "auto" is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "channels", "n", "method"),
    [
        ({"patch_size": 3}, 1, 45, "loo"),  # 9 * 10 / 2 numbers
        ({"patch_size": 3}, 1, 44, "cv"),
        ({"patch_size": 2}, 2, 36, "loo"),  # 8 * 9 / 2
        ({"patch_size": 2}, 2, 35, "cv"),
        ({"patch_size": 3, "max_iter": 0}, 2, 20, "loo"),
        ({"patch_size": 3, "landmarks": 10}, 1, 44, "holdout"),
        ({"patch_size": 2, "landmarks": 10}, 2, 36, "loo"),
    ],
)
def test_auto_leaves_one_out_while_the_metric_has_few_numbers(options, channels, n, method):
    images = np.random.default_rng(0).normal(size=(n, channels, 5, 5))
    machine = ConvRFMRegressor(**{**BASE, "max_iter": 1, **options}).fit(images, Y[:n])
    assert machine.selection_.method == method


def test_images_of_weight_zero_do_not_count():
    weights = np.ones(45)
    weights[7] = 0
    machine = ConvRFMRegressor(**{**BASE, "max_iter": 1}).fit(X[:45], Y[:45], sample_weight=weights)
    assert machine.selection_.method == "cv"


def test_many_images_are_held_out_once(monkeypatch):
    monkeypatch.setattr(conv_fitting, "CROSS_VALIDATED", 39)
    for n, method in [(39, "cv"), (40, "holdout")]:
        assert ConvRFMRegressor(**BASE).fit(X[:n], Y[:n]).selection_.method == method


# folds and hold-outs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"landmarks": 15}, {"agop_images": 9}], ids=["all", "landmarks", "few"])
@pytest.mark.parametrize("method", ["cv", "holdout"])
def test_scores_are_those_of_machines_that_were_never_given_the_held_out_images(method, options):
    machine = ConvRFMClassifier(**BASE, **options, selection=method).fit(X, LABELS)
    labels = torch.tensor(LABELS)
    if method == "cv":
        rungs = cross_validation(N, labels, 1, SEED, possible_folds(N, labels))
    else:
        rungs = hold_out(N, labels, 1, SEED)
    (splits,) = (rung.splits for rung in rungs)
    assert len(splits) == (5 if method == "cv" else 1)
    if method == "cv":
        assert torch.equal(torch.cat([split.test for split in splits]).sort().values, torch.arange(N))
    found = []
    for split, (rows, values) in zip(splits, machine.selection_.held_out, strict=True):
        assert not set(split.train.tolist()) & set(split.test.tolist())
        assert torch.equal(rows, split.test)
        train, test = split.train.numpy(), split.test.numpy()
        part = ConvRFMClassifier(**BASE, **options, selection="validation")
        part.fit(X[train], LABELS[train], X_val=X[test], y_val=LABELS[test])
        found.append([entry["score"] for entry in part.history_])
        if part.n_iter_ == machine.n_iter_:
            unit = (1 / 3) ** 0.5  # targets have the mean square 1
            torch.testing.assert_close(
                values * unit, torch.tensor(part.decision_function(X[test])).float(), rtol=0, atol=1e-3
            )
    assert scores(machine) == {t: pytest.approx(score, rel=1e-3) for t, score in enumerate(np.mean(found, axis=0))}
    assert machine.n_iter_ == min(scores(machine), key=scores(machine).get)


def test_one_class_never_trains_without_another_in_its_folds():
    labels = torch.tensor(LABELS)
    (rung,) = cross_validation(N, labels, 1, SEED, 5)
    counts = torch.stack([labels[split.test].bincount(minlength=3) for split in rung.splits])
    assert (counts.amax(dim=0) - counts.amin(dim=0) <= 1).all()


@pytest.mark.parametrize("method", ["cv", "holdout"])
def test_the_refit_follows_the_recorded_ridges_to_the_chosen_iterate(method):
    machine = ConvRFMRegressor(**BASE, selection=method).fit(X, Y)
    assert [entry["alpha"] for entry in machine.history_] == list(machine.selection_.alphas)
    assert len(machine.history_) == machine.n_iter_ + 1
    one = {**BASE, "alpha": 1e-2}
    machine = ConvRFMRegressor(**one, selection=method).fit(X, Y)
    again = ConvRFMRegressor(**{**one, "max_iter": machine.n_iter_}, selection=None).fit(X, Y)
    np.testing.assert_array_equal(machine.predict(NEW), again.predict(NEW))


def test_labels_of_noise_select_the_fixed_kernel_or_a_large_ridge():
    """Nothing can be learned, so that every honest score is near or above the variance of the labels, 1."""
    chosen = []
    for seed in range(4):
        draw = np.random.default_rng(seed)
        images, noise = draw.normal(size=(60, 1, 6, 6)), draw.normal(size=60)
        machine = ConvRFMRegressor(depth=2, max_iter=2, random_state=seed, selection="cv").fit(images, noise)
        chosen.append(machine.selection_.best["score"])
    assert np.mean(chosen) > 0.9


def test_threads_change_nothing():
    one, two = (ConvRFMClassifier(**BASE, selection="cv", n_jobs=jobs, landmarks=20).fit(X, LABELS) for jobs in (1, 2))
    assert one.selection_.table == two.selection_.table
    np.testing.assert_array_equal(one.decision_function(NEW), two.decision_function(NEW))
    assert one.sharpness_ == two.sharpness_


def test_few_rows_make_fewer_folds_and_too_few_none():
    with pytest.warns(FeatlearnWarning, match="selection uses 3 folds instead of 5"):
        ConvRFMRegressor(**BASE, selection="cv").fit(X[:3], Y[:3])
    with pytest.warns(FeatlearnWarning, match="2 rows in the smallest class: selection uses 2 folds"):
        ConvRFMClassifier(**BASE, selection="cv").fit(X, np.r_[0, 0, np.ones(N - 2)])
    with (
        pytest.warns(FeatlearnWarning, match="uses 2 folds"),
        pytest.raises(DataError, match="2 images, too few to hold any out"),
    ):
        ConvRFMRegressor(**BASE, selection="cv").fit(X[:2], Y[:2])


NEARLY_EQUAL = np.repeat(RANDOM.normal(size=(12, 6, 6)), 4, axis=0) + 1e-5 * RANDOM.normal(size=(48, 6, 6))


@pytest.mark.parametrize("method", ["cv", "holdout", "validation", "loo"])
@pytest.mark.filterwarnings("ignore:.*optimistic:featlearn.exceptions.FeatlearnWarning")
def test_ridges_below_the_rounding_of_the_kernel_are_left_out(method):
    """Nearly equal images make a matrix that is not positive definite in single precision with the smallest ridge."""
    targets = NEARLY_EQUAL[:, 2, 2] * NEARLY_EQUAL[:, 2, 3]
    held = {"X_val": NEARLY_EQUAL[::4], "y_val": targets[::4]} if method == "validation" else {}
    with pytest.raises(DataError, match="not positive definite with alpha=1e-09"):
        ConvRFMRegressor(depth=1, alpha=1e-9, max_iter=0, selection=None).fit(NEARLY_EQUAL, targets)
    for steps in (0, 3):
        machine = ConvRFMRegressor(depth=1, alpha=(1e-9, 1e-3, 1e-2), max_iter=steps, random_state=0, selection=method)
        machine.fit(NEARLY_EQUAL, targets, **held)
        assert np.mean((machine.predict(NEARLY_EQUAL) - targets) ** 2) < 0.1 * targets.var()
        if steps == 0 and method in ("validation", "loo"):
            # Those that can be solved are solved as if they were alone.
            assert {entry["alpha"] for entry in machine.selection_.table} <= {1e-3, 1e-2}
            fewer = ConvRFMRegressor(depth=1, alpha=(1e-3, 1e-2), max_iter=0, random_state=0, selection=method)
            assert scores(machine)[0] == pytest.approx(scores(fewer.fit(NEARLY_EQUAL, targets, **held))[0], rel=1e-5)


def test_a_ridge_that_serves_folds_only_gives_way_to_the_next_one():
    """All images have nearly equal ones, and the images of a fold do not."""
    recipe = conv_fitting.ImagePlan(
        ConvNTK(3, 1), (1e-9, 1e-3, 1e-2), MetricRule(1.0, "trace", points="all"), 0, 0.0, "none", True, None, 0
    ).recipe([[1e-9, 1e-3, 1e-2]], 0, selected=False)
    images = torch.tensor(NEARLY_EQUAL).float()[:, None]
    targets = images[:, :, 2, 2] * images[:, :, 2, 3]
    assert run(recipe, images, targets).alpha == 1e-3
    assert run(recipe, images[::4], targets[::4]).alpha == 1e-9
    # Landmarks are whitened by what there is of their kernel matrix: any ridge can be solved.
    assert run(recipe, images, targets, landmarks=torch.arange(20)).alpha == 1e-9


def test_each_step_tries_the_neighbours_of_the_ridge_that_was_the_best():
    alphas = (1e-9, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    targets = NEARLY_EQUAL[:, 2, 2]
    recipe = conv_fitting.ImagePlan(
        ConvNTK(3, 1), alphas, MetricRule(1.0, "trace", points="all"), 3, 0.0, "loo", True, None, 0
    ).recipe([alphas], 3, selected=True)
    images = torch.tensor(NEARLY_EQUAL).float()[:, None]
    fitted = run(recipe, images, torch.tensor(targets - targets.mean()).float()[:, None], judge=LeaveOneOut(True))
    for step in range(1, 4):
        tried = [alpha for t, alpha, _ in fitted.scores if t == step]
        place = alphas.index(fitted.history[step - 1]["alpha"])
        first = min(max(place - 1, 0), 3)
        assert set(tried) <= set(alphas[first : first + 3])


# given validation images, and nothing chosen -----------------------------------------------------------------------


def test_given_validation_images_score_and_train_nothing():
    machine = ConvRFMRegressor(**BASE, selection="validation").fit(X[:30], Y[:30], X_val=X[30:], y_val=Y[30:])
    assert machine.selection_.method == "validation"
    unit = np.mean((Y[:30] - Y[:30].mean()) ** 2)
    own = np.mean((machine.predict(X[30:]) - Y[30:]) ** 2) / unit
    assert machine.selection_.best["score"] == pytest.approx(own, rel=1e-4)
    assert machine.dual_coef_.shape == (30, 1)
    single = {**BASE, "alpha": 1e-2}
    machine = ConvRFMRegressor(**single, selection="validation").fit(X[:30], Y[:30], X_val=X[30:], y_val=Y[30:])
    plain = ConvRFMRegressor(**{**single, "max_iter": machine.n_iter_}, selection=None).fit(X[:30], Y[:30])
    np.testing.assert_allclose(machine.predict(NEW), plain.predict(NEW), rtol=0, atol=1e-4)


def test_nothing_is_chosen_without_selection():
    machine = ConvRFMRegressor(**BASE, selection=None).fit(X, Y)
    assert {entry["alpha"] for entry in machine.history_} == {ALPHAS[0]}
    assert machine.n_iter_ == 2
    assert machine.selection_ is None
    assert ConvRFMRegressor(depth=1, max_iter=0, selection=None).fit(X, Y).alpha_ == 1e-3


@pytest.mark.parametrize("method", ["loo", "cv", "holdout", "validation"])
@pytest.mark.filterwarnings("ignore:.*optimistic:featlearn.exceptions.FeatlearnWarning")
def test_sharpness_is_the_best_on_images_that_were_left_out(method):
    held = {"X_val": X[40:], "y_val": LABELS[40:]} if method == "validation" else {}
    machine = ConvRFMClassifier(**BASE, selection=method).fit(X[:40], LABELS[:40], **held)
    outputs = machine.selection_.held_out
    honest = torch.cat([values for _, values in outputs]).double() / 3**0.5
    rows = torch.cat([rows for rows, _ in outputs])
    labels = torch.tensor(LABELS[40:]) if method == "validation" else torch.tensor(LABELS[:40])[rows]
    if method != "validation":
        assert len(set(rows.tolist())) == len(rows)
    best = log_loss(honest, labels, machine.sharpness_)
    assert best <= min(log_loss(honest, labels, machine.sharpness_ * factor) for factor in (0.95, 1.05)) + 1e-9


def test_the_rules_differ_in_what_none_stands_for():
    public = ConvRFMRegressor(depth=1, rule="public", selection=None).fit(X, Y)
    assert public.alpha_ == 1e-5
    assert len(public.history_) == 6
    own = ConvRFMRegressor(depth=1, selection=None, tol=0.0).fit(X, Y)
    assert len(own.history_) == 4
