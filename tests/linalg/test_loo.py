"""Closed-form leave-one-out residuals equal n explicit refits, and are sensitive to every row of the ridge."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from featlearn.exceptions import DataError
from featlearn.linalg.loo import (
    intercept_leave_one_out,
    landmark_leave_one_out,
    leave_one_out_predictions,
    leave_one_out_residuals,
    recentred_leave_one_out,
    ridge_with_leave_one_out,
    with_intercept,
)
from featlearn.linalg.ridge import RidgePath, RidgeSolver

Fit = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
EXACT = {"rtol": 0, "atol": 1e-12}


def plain_fit(gram: Tensor, targets: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor]:
    return torch.linalg.solve(gram + torch.diag(ridge), targets), torch.zeros_like(targets[0])


def recentred_fit(gram: Tensor, targets: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor]:
    weights = 1 / ridge  # up to a factor
    mean = (weights[:, None] * targets).sum(dim=0) / weights.sum()
    return plain_fit(gram, targets - mean, ridge)[0], mean


def intercept_fit(gram: Tensor, targets: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor]:
    """The whole saddle-point system: (K + diag(ridge)) beta + b = Y, 1^T beta = 0."""
    n = len(gram)
    system = torch.ones(n + 1, n + 1, dtype=gram.dtype)
    system[:n, :n] = gram + torch.diag(ridge)
    system[n, n] = 0
    solved = torch.linalg.solve(system, torch.cat([targets, torch.zeros_like(targets[:1])]))
    return solved[:n], solved[n]


def refits(fit: Fit, gram: Tensor, targets: Tensor, ridge: Tensor) -> Tensor:
    residuals = torch.empty_like(targets)
    for i in range(len(gram)):
        kept = torch.arange(len(gram)) != i
        dual, offset = fit(gram[kept][:, kept], targets[kept], ridge[kept])
        residuals[i] = targets[i] - gram[i, kept] @ dual - offset
    return residuals


FITS: dict[str, Fit] = {"plain": plain_fit, "recentred": recentred_fit, "intercept": intercept_fit}


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("alpha", [0.05, 1.0])
@pytest.mark.parametrize("variant", FITS)
def test_every_variant_equals_n_refits(make_system, variant: str, alpha: float, weighted: bool) -> None:
    system = make_system()
    assert system.targets.shape == (40, 3)
    weights = system.weights if weighted else None
    ones = torch.ones(40, dtype=torch.float64)
    ridge = alpha / (ones if weights is None else weights)
    targets = system.targets + 2
    if variant == "recentred":
        targets = targets - (targets / ridge[:, None]).sum(dim=0) / (1 / ridge).sum()
    expected = refits(FITS[variant], system.gram, targets, ridge)
    found = ridge_with_leave_one_out(system.gram, targets, alpha, weights=weights, variant=variant)
    torch.testing.assert_close(found.residuals, expected, **EXACT)
    dual, offset = FITS[variant](system.gram, targets, ridge)
    torch.testing.assert_close(found.solution.dual_coef, dual, **EXACT)
    assert found.solution.reason == "exact"
    if variant == "intercept":
        torch.testing.assert_close(found.intercept, offset, **EXACT)
    else:
        assert found.intercept is None
        path = RidgePath(system.gram, targets, weights)
        residuals = path.leave_one_out(alpha, recentred=variant == "recentred")
        torch.testing.assert_close(residuals, expected, **EXACT)


@pytest.mark.parametrize("variant", FITS)
def test_alpha_changed_in_any_one_row_moves_the_residuals_as_refits_do(make_system, variant: str) -> None:
    """A ridge larger in one row is a smaller weight there."""
    system = make_system()
    ones = torch.ones(40, dtype=torch.float64)
    centred = system.targets - system.targets.mean(dim=0)
    before = ridge_with_leave_one_out(system.gram, centred, 0.1, variant=variant).residuals
    for row in range(40):
        weights = ones.clone()
        weights[row] = 1 / 1.01
        targets = system.targets - (weights[:, None] * system.targets).sum(dim=0) / weights.sum()
        after = ridge_with_leave_one_out(system.gram, targets, 0.1, weights=weights, variant=variant).residuals
        assert float((after - before).abs().max()) > 1e-6
        if row % 13 == 0:
            torch.testing.assert_close(after, refits(FITS[variant], system.gram, targets, 0.1 / weights), **EXACT)


def test_the_building_blocks_agree_with_the_whole(make_system) -> None:
    system = make_system()
    inverse = torch.linalg.inv(system.gram + torch.diag(0.1 / system.weights))
    diagonal, sums = inverse.diagonal(), inverse.sum(dim=1)
    dual = inverse @ system.targets
    with_b, intercept = with_intercept(dual, sums)
    whole = {
        name: ridge_with_leave_one_out(system.gram, system.targets, 0.1, weights=system.weights, variant=name)
        for name in ("plain", "intercept")
    }
    torch.testing.assert_close(leave_one_out_residuals(dual, diagonal), whole["plain"].residuals, **EXACT)
    torch.testing.assert_close(intercept_leave_one_out(with_b, diagonal, sums), whole["intercept"].residuals, **EXACT)
    torch.testing.assert_close(intercept, whole["intercept"].intercept, **EXACT)
    torch.testing.assert_close(with_b.sum(dim=0), torch.zeros(3).double(), **EXACT)


def test_recentring_is_not_ignored(make_system) -> None:
    system = make_system()
    targets = system.targets - system.targets.mean(dim=0)
    plain = ridge_with_leave_one_out(system.gram, targets, 1.0).residuals
    recentred = ridge_with_leave_one_out(system.gram, targets, 1.0, variant="recentred").residuals
    assert float((plain - recentred).abs().max()) > 1e-3


def test_leave_one_out_predictors_anywhere(make_system) -> None:
    system = make_system()
    z = torch.randn(7, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    cross = system.kernel(z, system.x)
    inverse = torch.linalg.inv(system.gram + torch.diag(0.1 / system.weights))
    dual = inverse @ system.targets
    found = leave_one_out_predictions(cross @ dual, cross @ inverse, dual, inverse.diagonal())
    assert found.shape == (7, 40, 3)
    for i in range(40):
        kept = torch.arange(40) != i
        refit, _ = plain_fit(system.gram[kept][:, kept], system.targets[kept], 0.1 / system.weights[kept])
        torch.testing.assert_close(found[:, i], cross[:, kept] @ refit, **EXACT)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("p", [1, 9, 60])
def test_landmark_models_equal_n_refits(make_system, p: int, weighted: bool) -> None:
    system = make_system()
    features = torch.randn(40, p, generator=torch.Generator().manual_seed(p), dtype=torch.float64)
    weights = system.weights if weighted else torch.ones(40, dtype=torch.float64)
    expected = torch.empty_like(system.targets)
    for i in range(40):
        kept = torch.arange(40) != i
        phi, w = features[kept], weights[kept, None]
        theta = torch.linalg.solve(
            phi.mT @ (w * phi) + 0.3 * torch.eye(p, dtype=torch.float64), phi.mT @ (w * system.targets[kept])
        )
        expected[i] = system.targets[i] - features[i] @ theta
    found = landmark_leave_one_out(features, system.targets, 0.3, system.weights if weighted else None)
    torch.testing.assert_close(found, expected, **EXACT)


def test_landmarks_at_every_row_are_the_kernel_model(make_system) -> None:
    system = make_system()
    features = torch.linalg.cholesky(system.gram)
    found = landmark_leave_one_out(features, system.targets, 0.1, system.weights)
    expected = ridge_with_leave_one_out(system.gram, system.targets, 0.1, weights=system.weights).residuals
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("precision", ["same", "float64"])
def test_single_precision(make_system, precision: str, overwrite: bool) -> None:
    system = make_system(300, dtype=torch.float32)
    before = system.gram.clone()
    found = ridge_with_leave_one_out(
        system.gram, system.targets, 1e-2, solver=RidgeSolver(precision=precision), overwrite=overwrite
    )
    assert torch.equal(system.gram, before)
    assert found.residuals.dtype == found.solution.dual_coef.dtype == torch.float32
    expected = RidgePath(system.gram, system.targets).leave_one_out(1e-2)
    tolerance = 1e-3 if precision == "same" else 1e-6
    torch.testing.assert_close(found.residuals, expected, rtol=tolerance, atol=tolerance)


def test_bad_input_is_refused(make_system) -> None:
    system = make_system()
    gram, y, ones = system.gram, system.targets, torch.ones(40, dtype=torch.float64)
    with pytest.raises(DataError, match="variant='weighted'"):
        ridge_with_leave_one_out(gram, y, 0.1, variant="weighted")
    with pytest.raises(DataError, match=r"alpha=0.*RidgePath"):
        ridge_with_leave_one_out(gram, y, 0.0)
    with pytest.raises(DataError, match=r"weighted mean .* expected 0"):
        ridge_with_leave_one_out(gram, y + 1, 0.1, variant="recentred")
    with pytest.raises(DataError, match="not positive"):
        ridge_with_leave_one_out(gram - 5 * torch.eye(40, dtype=torch.float64), y, 0.1)
    with pytest.raises(DataError, match="at least two"):
        recentred_leave_one_out(y[:1], ones[:1], ones[:1], 0 * y[:1])
    with pytest.raises(DataError, match="weights of shape"):
        recentred_leave_one_out(y, ones, ones, y, ones[:3])
    with pytest.raises(DataError, match="alpha > 0"):
        landmark_leave_one_out(gram, y, 0.0)
    with pytest.raises(DataError, match="alpha=-1"):
        landmark_leave_one_out(gram, y, -1.0)
    with pytest.raises(DataError, match=r"shapes \(39, 40\)"):
        landmark_leave_one_out(gram[:39], y, 0.1)
    with pytest.raises(DataError, match="NaN"):
        landmark_leave_one_out(gram * torch.nan, y, 0.1)
