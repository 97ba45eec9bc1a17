"""One sharpness: the minimum of the log loss against a grid, and what it does for probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import normal
from scipy.optimize import brentq
from sklearn.metrics import log_loss as sklearn_log_loss

from featlearn.exceptions import DataError
from featlearn.machines.calibration import SHARPNESS_RANGE, fit_sharpness, log_loss, probabilities


def sampled(sharpness: float, n: int = 20_000, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, and labels drawn from their softmax with a known sharpness."""
    scores = normal(n, k, seed=5) / 3
    drawn = torch.multinomial(torch.softmax(sharpness * scores, dim=1), 1, generator=torch.Generator().manual_seed(0))
    return scores, drawn[:, 0]


def test_log_loss_is_that_of_scikit_learn() -> None:
    scores, labels = sampled(2.0, n=200)
    weights = normal(200, seed=6).exp()
    shares = probabilities(scores, 3.0)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(200, dtype=torch.float64))
    assert log_loss(scores, labels, 3.0) == pytest.approx(sklearn_log_loss(labels, shares), rel=1e-12)
    expected = sklearn_log_loss(labels, shares, sample_weight=weights)
    assert log_loss(scores, labels, 3.0, weights) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_sharpness_is_where_the_derivative_of_the_log_loss_is_zero(weighted: bool) -> None:
    scores, labels = sampled(4.0, n=500)
    weights = normal(500, seed=6).exp() if weighted else None

    def slope(b: float) -> float:
        sharpness = torch.tensor(b, dtype=torch.float64, requires_grad=True)
        losses = torch.nn.functional.cross_entropy(sharpness * scores, labels, reduction="none")
        losses = losses if weights is None else losses * weights
        (gradient,) = torch.autograd.grad(losses.sum(), sharpness)
        return float(gradient)

    assert fit_sharpness(scores, labels, weights) == pytest.approx(brentq(slope, *SHARPNESS_RANGE), rel=1e-4)


@pytest.mark.parametrize("sharpness", [0.7, 4.0, 30.0])
def test_a_known_sharpness_is_found_again(sharpness: float) -> None:
    assert fit_sharpness(*sampled(sharpness)) == pytest.approx(sharpness, rel=0.1)


def test_weight_two_is_a_row_given_twice() -> None:
    scores, labels = sampled(4.0, n=60)
    weights = torch.ones(60).double()
    weights[:20] = 2.0
    twice = torch.cat([scores, scores[:20]]), torch.cat([labels, labels[:20]])
    assert fit_sharpness(scores, labels, weights) == pytest.approx(fit_sharpness(*twice), rel=1e-6)


def test_the_ends_of_the_range_are_reached() -> None:
    labels = torch.tensor([0, 1, 2, 0])
    right = torch.nn.functional.one_hot(labels, 3).double()
    assert fit_sharpness(right, labels) == pytest.approx(SHARPNESS_RANGE[1])
    assert fit_sharpness(-right, labels) == pytest.approx(SHARPNESS_RANGE[0])
    assert fit_sharpness(torch.zeros(4, 3), labels) == 1.0


def test_sharpness_keeps_the_order_of_the_classes_and_their_dtype() -> None:
    scores = normal(50, 4).float()
    for sharpness in (0.1, 1.0, 100.0):
        shares = probabilities(scores, sharpness)
        assert shares.dtype == torch.float32
        assert torch.equal(shares.argmax(dim=1), scores.argmax(dim=1))
        assert bool((shares >= 0).all())


def test_it_beats_clipping_scores_at_a_thousandth() -> None:
    """Least-squares scores of three noisy classes: the usual clipping punishes every confident error."""
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 3, size=4000))
    x = torch.nn.functional.one_hot(labels, 3).double() + torch.from_numpy(rng.normal(size=(4000, 3)))
    design = torch.cat([x, torch.ones(4000, 1)], dim=1)
    targets = torch.nn.functional.one_hot(labels, 3).double()
    scores = design @ torch.linalg.lstsq(design[:1000], targets[:1000]).solution
    honest, test = slice(1000, 2000), slice(2000, 4000)
    sharpness = fit_sharpness(scores[honest], labels[honest])
    clipped = scores[test].clamp(1e-3, 1)
    usual = sklearn_log_loss(labels[test], clipped / clipped.sum(dim=1, keepdim=True))
    assert log_loss(scores[test], labels[test], sharpness) < 0.98 * usual


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "at least one row"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), "expected \\(m, K\\)"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), "one class index a row"),
        (torch.eye(2), torch.tensor([0, 2]), "class indices from 0 to 2"),
        (torch.tensor([[0.0, float("nan")]]), torch.tensor([0]), "NaN or infinite"),
    ],
)
def test_scores_that_cannot_be_calibrated_are_refused(scores: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_sharpness(scores, labels)
