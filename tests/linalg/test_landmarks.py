"""Ridge regression on landmarks is the dense minimiser, and its leave-one-out residuals are those of n refits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from featlearn.exceptions import DataError
from featlearn.linalg import landmarks as module
from featlearn.linalg.landmarks import LandmarkPath

ALPHAS = [1e-4, 1e-2, 1.0, 1e3]
P = 12


def minimiser(gram: Tensor, cross: Tensor, targets: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Coefficients of the normal equations, written out."""
    square = cross.mT @ (weights[:, None] * cross) + alpha * gram
    return torch.linalg.solve(square, cross.mT @ (weights[:, None] * targets))


def parts(make_system, weighted: bool = False, **options):
    system = make_system(**options)
    weights = system.weights if weighted else torch.ones_like(system.weights)
    return system.gram[:P, :P], system.gram[:, :P], system.targets, weights


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_solution_is_the_minimiser(make_system, alpha: float, weighted: bool) -> None:
    gram, cross, targets, weights = parts(make_system, weighted)
    path = LandmarkPath(gram, cross.clone(), targets, weights if weighted else None)
    expected = minimiser(gram, cross, targets, weights, alpha)
    torch.testing.assert_close(path.solve(alpha), expected, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(path.residuals(alpha), targets - cross @ expected, rtol=1e-9, atol=1e-10)
    assert path.rank == P


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_all_rows_as_landmarks_are_kernel_ridge_regression(make_system, alpha: float, weighted: bool) -> None:
    system = make_system()
    weights = system.weights if weighted else None
    path = LandmarkPath(system.gram, system.gram.clone(), system.targets, weights)
    expected = system.dense_solution(alpha, weights)
    torch.testing.assert_close(path.solve(alpha), expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(path.residuals(alpha), system.targets - system.gram @ expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_left_out_residuals_are_those_of_n_refits(make_system, alpha: float, weighted: bool) -> None:
    gram, cross, targets, weights = parts(make_system, weighted)
    found = LandmarkPath(gram, cross.clone(), targets, weights if weighted else None).leave_one_out(alpha)
    expected = torch.empty_like(targets)
    for i in range(len(targets)):
        others = torch.arange(len(targets)) != i
        theta = minimiser(gram, cross[others], targets[others], weights[others], alpha)
        expected[i] = targets[i] - cross[i] @ theta
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_a_weight_of_two_is_a_row_given_twice(make_system) -> None:
    gram, cross, targets, weights = parts(make_system)
    weights[[3, 30]] = 2.0
    twice = torch.cat([torch.arange(40), torch.tensor([3, 30])])
    weighted = LandmarkPath(gram, cross.clone(), targets, weights)
    repeated = LandmarkPath(gram, cross[twice], targets[twice])
    torch.testing.assert_close(weighted.solve(0.1), repeated.solve(0.1), rtol=1e-9, atol=1e-10)


def test_rows_come_in_parts_and_the_parts_do_not_matter(make_system, monkeypatch) -> None:
    gram, cross, targets, weights = parts(make_system, True)
    whole = LandmarkPath(gram, cross.clone(), targets, weights)
    monkeypatch.setattr(module, "ROWS", 7)
    cut = LandmarkPath(gram, cross.clone(), targets, weights)
    torch.testing.assert_close(cut.solve(1e-3), whole.solve(1e-3), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(cut.leave_one_out(1e-3), whole.leave_one_out(1e-3), rtol=1e-9, atol=1e-10)


def test_a_landmark_given_twice_is_one_direction(make_system) -> None:
    gram, cross, targets, weights = parts(make_system)
    places = torch.cat([torch.arange(P), torch.tensor([5])])
    path = LandmarkPath(gram[places][:, places], cross[:, places].contiguous(), targets)
    assert path.rank == P
    theta = path.solve(1e-2)
    expected = cross @ minimiser(gram, cross, targets, weights, 1e-2)
    torch.testing.assert_close(cross[:, places] @ theta, expected, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(theta[5], theta[P], rtol=1e-6, atol=1e-8)


def test_directions_above_the_rounding_of_the_entries_are_kept() -> None:
    """Kernels have one large eigenvalue, of their mean: small ones need not be small against it."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(400, 400, generator=generator, dtype=torch.float64)).Q
    values = torch.full((400,), 2e-3, dtype=torch.float64)
    values[0] = 200.0
    gram = (rotation * values) @ rotation.mT
    targets = torch.randn(400, 1, generator=generator, dtype=torch.float64)
    path = LandmarkPath(gram.float(), gram.float(), targets.float())
    assert path.rank == 400
    expected = gram @ torch.linalg.solve(gram + 1e-3 * torch.eye(400, dtype=torch.float64), targets)
    torch.testing.assert_close(targets - path.residuals(1e-3).double(), expected, rtol=0, atol=0.02)


def test_directions_of_rounding_are_dropped(make_system) -> None:
    system = make_system(200, d=2)
    smooth = torch.exp(-torch.cdist(system.x, system.x).square() / 50)  # of numerical rank 20 or so
    path = LandmarkPath(smooth.float(), smooth.float(), system.targets.float())
    assert path.rank < 60
    expected = smooth @ torch.linalg.solve(smooth + 1e-2 * torch.eye(200, dtype=torch.float64), system.targets)
    torch.testing.assert_close(system.targets - path.residuals(1e-2).double(), expected, rtol=0, atol=1e-2)


def test_single_precision_is_close_to_double(make_system) -> None:
    gram, cross, targets, weights = parts(make_system, n=300, d=3)
    expected = cross @ minimiser(gram, cross, targets, weights, 1e-4)
    path = LandmarkPath(gram.float(), cross.float(), targets.float())
    assert path.solve(1e-4).dtype == path.leave_one_out(1e-4).dtype == torch.float32
    torch.testing.assert_close(cross.float() @ path.solve(1e-4), expected.float(), rtol=1e-3, atol=1e-4)


def test_only_the_workspace_is_written(make_system) -> None:
    gram, cross, targets, weights = parts(make_system, True)
    given = [values.clone() for values in (gram, targets, weights)]
    workspace = cross.clone()
    path = LandmarkPath(gram, workspace, targets, weights)
    path.leave_one_out(0.1)
    assert all(torch.equal(before, after) for before, after in zip(given, (gram, targets, weights), strict=True))
    # The workspace holds an orthogonal set of features of the weighted rows.
    square = workspace.mT @ (weights[:, None] * workspace)
    torch.testing.assert_close(square, torch.diag(square.diagonal()), rtol=0, atol=1e-10)


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf"), 0.0])
def test_bad_alphas_are_refused(make_system, alpha: float) -> None:
    gram, cross, targets, _ = parts(make_system)
    path = LandmarkPath(gram, cross.clone(), targets)
    for call in (path.solve, path.residuals, path.leave_one_out):
        with pytest.raises(DataError, match="alpha="):
            call(alpha)


def test_bad_systems_are_refused(make_system) -> None:
    gram, cross, targets, weights = parts(make_system)
    for system in [
        (gram[:5], cross, targets),
        (gram, cross[:, :5], targets),
        (gram, cross[:5], targets),
        (gram, cross, targets[:, 0]),
        (gram[:0, :0], cross[:, :0], targets),
    ]:
        with pytest.raises(DataError, match=r"expected \(p, p\), \(n, p\) and \(n, C\)"):
            LandmarkPath(*system)
    with pytest.raises(DataError, match="weights"):
        LandmarkPath(gram, cross, targets, weights[:-1])
    with pytest.raises(DataError, match="weight"):
        LandmarkPath(gram, cross, targets, 0 * weights)
    for place in range(3):
        system = [gram.clone(), cross.clone(), targets.clone()]
        system[place][0, 0] = torch.nan
        with pytest.raises(DataError, match="NaN or infinity"):
            LandmarkPath(*system)
