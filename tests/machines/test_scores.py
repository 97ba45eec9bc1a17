"""Scores against scikit-learn, and their standard errors against repeated draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics

from featlearn.exceptions import DataError
from featlearn.machines import RFMClassifier, RFMRegressor
from featlearn.machines.scores import beats_constant, class_scores, coded_scores, regression_scores
from featlearn.machines.targets import ClassCoding, RegressionCoding


def drawn(seed: int, m: int = 200, outputs: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    y = 3 + random.normal(size=(m, outputs)) * np.arange(1, outputs + 1)
    f = 0.7 * y + 1 + 0.4 * random.standard_t(8, size=(m, outputs))
    return torch.from_numpy(y), torch.from_numpy(f), torch.from_numpy(random.integers(1, 4, m).astype(float))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_regression_scores_are_those_of_scikit_learn(weighted, outputs):
    y, f, w = drawn(0, outputs=outputs)
    weights = w if weighted else None
    found = regression_scores(y, f, weights)
    mse = metrics.mean_squared_error(y, f, sample_weight=weights)
    assert math.isclose(found["rmse"]["value"], math.sqrt(mse))
    assert math.isclose(found["mae"]["value"], metrics.mean_absolute_error(y, f, sample_weight=weights))
    r2 = metrics.r2_score(y, f, sample_weight=weights, multioutput="variance_weighted")
    assert math.isclose(found["r2"]["value"], r2)


@pytest.mark.parametrize("weighted", [False, True])
def test_class_scores_are_those_of_scikit_learn(weighted):
    random = np.random.default_rng(0)
    p, labels = random.dirichlet([1, 2, 3], 100), random.integers(3, size=100)
    w = random.integers(1, 4, 100).astype(float) if weighted else None
    found = class_scores(torch.from_numpy(labels), torch.from_numpy(p), None if w is None else torch.from_numpy(w))
    assert math.isclose(found["accuracy"]["value"], metrics.accuracy_score(labels, p.argmax(axis=1), sample_weight=w))
    assert math.isclose(found["log_loss"]["value"], metrics.log_loss(labels, p, sample_weight=w))
    brier = ((p - np.eye(3)[labels]) ** 2).sum(axis=1)
    assert math.isclose(found["brier"]["value"], np.average(brier, weights=w))


def test_whole_weights_are_rows_given_so_many_times():
    y, f, w = drawn(1)
    repeated = torch.repeat_interleave(torch.arange(len(y)), w.long())
    for name, entry in regression_scores(y[repeated], f[repeated]).items():
        assert math.isclose(regression_scores(y, f, w)[name]["value"], entry["value"])


def test_standard_errors_are_those_of_many_draws():
    found = [regression_scores(*drawn(seed, 300)[:2]) for seed in range(800)]
    for name in ("r2", "rmse", "mae"):
        spread = np.std([entry[name]["value"] for entry in found])
        told = np.mean([entry[name]["standard_error"] for entry in found])
        assert abs(told / spread - 1) < 0.12, name  # 800 draws know a deviation to 2.5 percent


def test_standard_error_of_an_accuracy_is_the_binomial_one():
    labels = torch.tensor([0] * 30 + [1] * 70)
    p = torch.tensor([[0.2, 0.8]]).expand(100, 2)
    found = class_scores(labels, p)["accuracy"]
    assert found["value"] == pytest.approx(0.7)
    assert found["constant"] == pytest.approx(0.7)
    assert found["standard_error"] == pytest.approx(math.sqrt(0.7 * 0.3 / 99))


def test_the_constant_prediction_scores_what_it_is_said_to():
    y, _, w = drawn(2)
    constant = (w @ y / w.sum()).expand_as(y)
    found = regression_scores(y, constant, w)
    assert found["r2"]["value"] == pytest.approx(0, abs=1e-12)
    assert found["rmse"]["value"] == pytest.approx(found["rmse"]["constant"])
    median = regression_scores(y[:99], y[:99].median(dim=0).values.expand(99, 1))
    assert median["mae"]["value"] == pytest.approx(median["mae"]["constant"])
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    shares = torch.tensor([[3, 1, 2]]).expand(6, 3) / 6
    for entry in class_scores(labels, shares).values():
        assert entry["value"] == pytest.approx(entry["constant"])


def test_better_than_a_constant_means_by_two_standard_errors():
    y, f, _ = drawn(3)
    assert beats_constant(regression_scores(y, f))
    assert not beats_constant(regression_scores(y, torch.randn(y.shape, generator=torch.Generator().manual_seed(0))))
    labels = torch.arange(60) % 2
    sure = torch.nn.functional.one_hot(labels, 2).double()
    assert beats_constant(class_scores(labels, 0.6 * sure + 0.2))
    assert not beats_constant(class_scores(labels, 1 - sure))
    assert not beats_constant(class_scores(labels[:1], sure[:1] * 0.9))


def test_one_sure_mistake_is_no_infinite_loss():
    found = class_scores(torch.tensor([0, 1]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert 17 < found["log_loss"]["value"] < 18


def test_equal_targets_have_no_share_of_variance():
    y = torch.full((5, 1), 2.0)
    assert set(regression_scores(y, y)) == {"rmse", "mae"}
    assert regression_scores(y, y)["rmse"] == {"value": 0.0, "standard_error": 0.0, "constant": 0.0}


@pytest.mark.parametrize(("y", "f"), [((3, 1), (2, 1)), ((0, 1), (0, 1)), ((3, 2), (3, 1))])
def test_shapes_that_do_not_match_are_refused(y, f):
    with pytest.raises(DataError, match="one prediction for each target"):
        regression_scores(torch.zeros(y), torch.zeros(f))


def test_coded_targets_score_as_decoded_ones():
    y, f, w = drawn(4)
    coding = RegressionCoding.fit(y[:, 0], len(y), w)
    assert coded_scores(coding, y - coding.mean, f - coding.mean, w) == regression_scores(y, f, w)
    labels = np.array(["no", "yes", "no", "maybe", "yes", "no"])
    coding = ClassCoding.fit(labels, 6)
    values = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = coded_scores(coding, coding.encode(labels, 6), values, sharpness=2.0)
    p = torch.softmax(2 * coding.scores(values), dim=1).numpy()
    assert found["log_loss"]["value"] == pytest.approx(metrics.log_loss(labels, p))


# --- of fitted machines -----------------------------------------------------------------------------------------------


def test_held_out_scores_are_those_of_the_score_that_chose():
    random = np.random.default_rng(0)
    X = random.normal(size=(90, 3))
    y = 10 * X[:, 0] + random.normal(size=90)
    machine = RFMRegressor(kernel="laplace", max_iter=2, random_state=0).fit(X, y)
    mse = machine.held_out_scores_["rmse"]["value"] ** 2
    assert mse == pytest.approx(machine.selection_.best["score"] * machine.predictor_.scale**2)  # folds of equal size
    assert RFMRegressor(kernel="laplace", alpha=0.1, selection=None).fit(X, y).held_out_scores_ is None


def test_scores_of_given_validation_rows_are_of_those():
    random = np.random.default_rng(0)
    X = random.normal(size=(80, 3))
    y = np.where(X[:, 0] > 0, "up", "down")
    machine = RFMClassifier(kernel="laplace", max_iter=0, alpha=0.1, selection="validation", random_state=0)
    machine.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    assert machine.held_out_scores_["accuracy"]["value"] == pytest.approx(np.mean(machine.predict(X[60:]) == y[60:]))
    assert machine.held_out_scores_["log_loss"]["value"] == pytest.approx(
        metrics.log_loss(y[60:], machine.predict_proba(X[60:]))
    )
