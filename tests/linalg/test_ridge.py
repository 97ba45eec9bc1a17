"""Every solver gives the same dual coefficients, says how it stopped, and refuses bad input before any work."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from cases import normal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.linalg.gram import TiledGram
from featlearn.linalg.ridge import RidgeSolver, nystrom_preconditioner, solve_ridge

METHODS = ["cholesky", "eigh", "pcg", "eigenpro"]
PRECISE = {"tol": 1e-9, "max_iter": 2000}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_solves_the_system(make_system, method: str, weighted: bool) -> None:
    system = make_system(200)
    weights = system.weights if weighted else None
    solution = solve_ridge(system.gram, system.targets, 0.1, weights=weights, solver=RidgeSolver(method, **PRECISE))
    expected = system.dense_solution(0.1, weights)
    torch.testing.assert_close(solution.dual_coef, expected, rtol=0, atol=1e-6)
    points = new_points(system)
    torch.testing.assert_close(points @ solution.dual_coef, points @ expected, rtol=0, atol=1e-6)
    assert solution.method == method
    assert solution.reason == ("exact" if method in ("cholesky", "eigh") else "tolerance")
    assert (solution.n_iter == 0) == (method in ("cholesky", "eigh"))
    assert solution.relative_residual < 1e-9
    assert solution.jitter == 0
    assert solution.seconds > 0


def new_points(system: Any) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    z = torch.randn(30, system.x.shape[1], generator=generator, dtype=system.x.dtype)
    return system.kernel(z, system.x)


@pytest.mark.parametrize("method", ["cholesky", "eigh", "pcg"])
@pytest.mark.parametrize("outputs", [1, 2, 30])
def test_single_precision_agrees_with_double(make_system, method: str, outputs: int) -> None:
    system = make_system(150, outputs, dtype=torch.float32)
    solution = solve_ridge(system.gram, system.targets, 0.1, solver=RidgeSolver(method, tol=1e-5))
    assert solution.dual_coef.dtype == torch.float32
    assert solution.dual_coef.is_contiguous()
    torch.testing.assert_close(solution.dual_coef, system.dense_solution(0.1).float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_one_hot_and_sparse_targets_are_solved(make_system, method: str) -> None:
    system = make_system(120)
    labels = torch.arange(120) % 29
    targets = torch.nn.functional.one_hot(labels, 30).double()  # the last class has no member: a column of zeros
    solver = RidgeSolver(method, **PRECISE)
    solution = solve_ridge(system.gram, targets, 0.1, solver=solver)
    assert solution.reason in ("exact", "tolerance")
    assert torch.equal(solution.dual_coef[:, 29], torch.zeros(120, dtype=torch.float64))
    matrix = system.gram + 0.1 * torch.eye(120, dtype=torch.float64)
    torch.testing.assert_close(solution.dual_coef, torch.linalg.solve(matrix, targets), rtol=0, atol=1e-6)
    sparse = solve_ridge(system.gram, targets.to_sparse(), 0.1, solver=solver)
    assert torch.equal(sparse.dual_coef, solution.dual_coef)


@pytest.mark.parametrize("method", METHODS)
def test_all_zero_targets_give_zeros(make_system, method: str) -> None:
    system = make_system(50)
    solution = solve_ridge(system.gram, torch.zeros_like(system.targets), 0.1, solver=method)
    assert torch.equal(solution.dual_coef, torch.zeros_like(system.targets))
    assert solution.relative_residual == 0


@pytest.mark.parametrize("method", METHODS)
def test_weight_two_equals_a_duplicated_row(make_system, method: str) -> None:
    system = make_system(60)
    twice = torch.tensor([3, 17, 40])
    weights = torch.ones(60, dtype=torch.float64)
    weights[twice] = 2
    rows = torch.cat([torch.arange(60), twice])
    solver = RidgeSolver(method, tol=1e-12, max_iter=20_000)
    one = solve_ridge(system.gram, system.targets, 0.1, weights=weights, solver=solver)
    two = solve_ridge(system.gram[rows][:, rows], system.targets[rows], 0.1, solver=solver)
    merged = two.dual_coef[:60].clone()
    merged[twice] += two.dual_coef[60:]
    tolerance = 1e-12 if method in ("cholesky", "eigh") else 1e-9
    torch.testing.assert_close(one.dual_coef, merged, rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_weights_of_one_change_nothing(make_system, method: str) -> None:
    system = make_system(60)
    ones = torch.ones(60, dtype=torch.float64)
    plain = solve_ridge(system.gram, system.targets, 0.1, solver=method)
    weighted = solve_ridge(system.gram, system.targets, 0.1, weights=ones, solver=method)
    assert torch.equal(plain.dual_coef, weighted.dual_coef)


@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_recomputed_tiles_give_the_numbers_of_the_stored_matrix(make_system, method: str) -> None:
    system = make_system(130)
    asked = []

    def rows(index: Tensor | slice) -> Tensor:
        asked.append(index)
        return system.gram[index]

    solver = RidgeSolver(method, **PRECISE)
    stored = solve_ridge(system.gram, system.targets, 0.1, weights=system.weights, solver=solver)
    tiled = solve_ridge(TiledGram(rows, 130, 37), system.targets, 0.1, weights=system.weights, solver=solver)
    torch.testing.assert_close(tiled.dual_coef, stored.dual_coef, rtol=1e-9, atol=1e-9)
    assert (tiled.method, tiled.reason) == (stored.method, stored.reason)
    assert asked


def test_auto_follows_the_number_of_rows_alone(make_system, monkeypatch: pytest.MonkeyPatch) -> None:
    system = make_system(60)
    assert solve_ridge(system.gram, system.targets, 0.1).method == "cholesky"
    monkeypatch.setattr("featlearn.linalg.ridge.DIRECT_ROWS", 59)
    assert solve_ridge(system.gram, system.targets, 0.1).method == "pcg"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_matrix_is_left_as_it_was(make_system, method: str, dtype: torch.dtype) -> None:
    system = make_system(70, dtype=dtype)
    for overwrite in (False, True):
        before = system.gram.clone()
        solve_ridge(system.gram, system.targets, 0.1, solver=method, overwrite=overwrite)
        assert torch.equal(system.gram, before)


class LargestAllocation(TorchDispatchMode):
    """The most numbers any operation returned outside the storage of one tensor."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.known, self.numbers = known.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = function(*args, **(kwargs or {}))
        for tensor in returned if isinstance(returned, (tuple, list)) else [returned]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() != self.known:
                self.numbers = max(self.numbers, tensor.numel())
        return returned


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("method", ["pcg", "cholesky"])
def test_nothing_else_of_size_n_squared_is_made(make_system, method: str, weighted: bool) -> None:
    n = 1500
    system = make_system(n, 2, dtype=torch.float32)
    weights = system.weights if weighted else None
    solver = RidgeSolver(method, rank=50, tol=1e-3)
    with LargestAllocation(system.gram) as watch:
        solution = solve_ridge(system.gram, system.targets, 1.0, weights=weights, solver=solver, overwrite=True)
    assert solution.reason in ("exact", "tolerance")
    assert 0 < watch.numbers < n * n / 5
    with LargestAllocation(system.gram) as watch:
        solve_ridge(system.gram, system.targets, 1.0, weights=weights, solver=RidgeSolver("cholesky"))
    assert watch.numbers == n * n


def test_overwriting_gives_the_same_numbers_for_any_memory_order(make_system) -> None:
    system = make_system(70)
    expected = solve_ridge(system.gram, system.targets, 0.1, weights=system.weights).dual_coef
    wide = torch.zeros(70, 140, dtype=torch.float64)
    wide[:, ::2] = system.gram
    columns = system.targets.mT.contiguous().mT
    for gram in (system.gram.clone(), system.gram.clone().mT, wide[:, ::2]):
        solution = solve_ridge(gram, columns, 0.1, weights=system.weights, overwrite=True)
        torch.testing.assert_close(solution.dual_coef, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["cholesky", "pcg", "eigenpro"])
def test_double_precision_on_request(make_system, method: str) -> None:
    system = make_system(150, dtype=torch.float32)
    solver = RidgeSolver(method, precision="float64", tol=1e-8, max_iter=3000)
    alpha = 1e-6 if method != "eigenpro" else 0.1
    expected = system.dense_solution(alpha)
    solution = solve_ridge(system.gram, system.targets, alpha, solver=solver)
    assert solution.dual_coef.dtype == torch.float32
    assert solution.reason in ("exact", "tolerance")
    assert solution.relative_residual < 1e-8
    torch.testing.assert_close(solution.dual_coef, expected.float(), rtol=1e-5, atol=1e-5)


def test_a_graph_does_not_follow_the_solution(make_system) -> None:
    system = make_system(40)
    gram, targets = system.gram.clone().requires_grad_(), system.targets.clone().requires_grad_()
    for method in METHODS:
        assert not solve_ridge(gram, targets, 0.1, solver=method).dual_coef.requires_grad


def test_the_generator_draws_the_preconditioner(make_system) -> None:
    system = make_system(200)
    solver = RidgeSolver("pcg", tol=1e-3)
    drawn = [
        solve_ridge(system.gram, system.targets, 0.1, solver=solver, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0].dual_coef, drawn[1].dual_coef)
    assert not torch.equal(drawn[0].dual_coef, drawn[2].dual_coef)
    state = torch.get_rng_state()
    default = [solve_ridge(system.gram, system.targets, 0.1, solver=solver).dual_coef for _ in range(2)]
    assert torch.equal(*default)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["pcg", "eigenpro"])
def test_a_warm_start_saves_iterations(make_system, method: str) -> None:
    system = make_system(200)
    solver = RidgeSolver(method, tol=1e-6, max_iter=2000)
    cold = solve_ridge(system.gram, system.targets, 0.1, weights=system.weights, solver=solver)
    warm = solve_ridge(system.gram, system.targets, 0.1, weights=system.weights, solver=solver, initial=cold.dual_coef)
    assert warm.reason == "tolerance"
    assert warm.n_iter <= 2 < cold.n_iter
    torch.testing.assert_close(warm.dual_coef, cold.dual_coef, rtol=0, atol=1e-4)


def test_single_precision_that_cannot_reach_the_tolerance_goes_on_in_double(make_system) -> None:
    """A bandwidth of 1000 typical distances: float32 products are only good to about 1e-3 of the targets."""
    system = make_system(400, 2)
    gram = (system.gram.log() / 1000).exp().float()
    targets = (system.targets + 1).float()
    matrix = gram.double() + 1e-3 * torch.eye(400, dtype=torch.float64)
    for method in ("cholesky", "pcg"):
        rough = solve_ridge(gram, targets, 1e-3, solver=RidgeSolver(method, tol=1e-2))
        fine = solve_ridge(gram, targets, 1e-3, solver=RidgeSolver(method, tol=1e-4))
        residual = targets.double() - matrix @ fine.dual_coef.double()
        assert fine.reason in ("exact", "tolerance")
        assert fine.relative_residual < 1e-4 < rough.relative_residual
        assert float((residual.norm(dim=0) / targets.double().norm(dim=0)).max()) < 1e-3


def test_alpha_zero_interpolates(make_system) -> None:
    system = make_system(50, dtype=torch.float32)
    solution = solve_ridge(system.gram, system.targets, 0.0)
    assert solution.reason == "exact"
    assert solution.method == "cholesky"
    torch.testing.assert_close(system.gram @ solution.dual_coef, system.targets, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["cholesky", "eigh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_zero_with_equal_rows_is_the_pseudo_inverse(make_system, method: str, dtype: torch.dtype) -> None:
    system = make_system(30, dtype=dtype)
    rows = torch.cat([torch.arange(30), torch.tensor([4, 4])])
    gram, targets = system.gram[rows][:, rows], system.targets[rows]
    with pytest.warns(FeatlearnWarning, match="pseudo_inverse.*alpha > 0"):
        solution = solve_ridge(gram, targets, 0.0, solver=method)
    assert solution.reason == "pseudo_inverse"
    assert solution.method == "eigh"
    assert 0 < solution.jitter < 1e-9
    expected = torch.linalg.pinv(gram.double(), hermitian=True, rtol=1e-10) @ targets.double()
    torch.testing.assert_close(
        solution.dual_coef.double(), expected, rtol=0, atol=1e-9 if dtype.itemsize == 8 else 1e-4
    )
    assert torch.equal(
        solution.dual_coef[4].isclose(solution.dual_coef[30], rtol=1e-4), torch.ones(3, dtype=torch.bool)
    )


def indefinite(n: int = 30) -> Tensor:
    gram = torch.ones(n, n, dtype=torch.float64)
    return gram.fill_diagonal_(0.5)  # eigenvalues -1/2, and n - 1/2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_that_is_not_positive_definite_is_refused_with_an_alpha_that_works(dtype: torch.dtype) -> None:
    gram, targets = indefinite().to(dtype), torch.arange(30).to(dtype)[:, None]
    with pytest.raises(DataError, match=r"pivot 2 of 30 .* float64 too. alpha=1 works") as caught:
        solve_ridge(gram, targets, 1e-3)
    assert "alpha=0.001" in str(caught.value)
    assert torch.equal(gram, indefinite().to(dtype))
    assert solve_ridge(gram, targets, 1.0).reason == "exact"
    with pytest.raises(DataError, match=r"smallest eigenvalue -5.0e-01.* above 5.0e-01 works"):
        solve_ridge(gram, targets, 1e-3, solver="eigh")
    assert solve_ridge(gram, targets, 0.501, solver="eigh").reason == "exact"


def test_iterations_on_an_indefinite_matrix_break_down_or_refuse() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    with pytest.warns(FeatlearnWarning, match="breakdown"):
        solution = solve_ridge(indefinite(), targets, 1e-3, solver=RidgeSolver("pcg", rank=0))
    assert solution.reason == "breakdown"
    assert torch.isfinite(solution.dual_coef).all()
    with pytest.raises(DataError, match="sampled rows"):
        solve_ridge(indefinite(), targets, 1e-3, solver="pcg")


@pytest.mark.parametrize(("method", "limit"), [("pcg", 3), ("eigenpro", 2)])
def test_max_iter_warns_and_gives_the_best_iterate(make_system, method: str, limit: int) -> None:
    system = make_system(200)
    with pytest.warns(FeatlearnWarning, match="max_iter.*relative residual"):
        solution = solve_ridge(system.gram, system.targets, 1e-4, solver=RidgeSolver(method, tol=1e-9, max_iter=limit))
    assert solution.reason == "max_iter"
    assert solution.n_iter == limit
    assert 1e-9 < solution.relative_residual < 1


@pytest.mark.parametrize("method", ["pcg", "eigenpro"])
def test_an_interrupt_gives_the_best_iterate(make_system, method: str) -> None:
    system = make_system(200)
    calls = 0

    def rows(index: Tensor | slice) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return system.gram[index]

    with pytest.warns(FeatlearnWarning, match="interrupted"):
        solution = solve_ridge(
            TiledGram(rows, 200, 200), system.targets, 1e-3, solver=RidgeSolver(method, tol=1e-9, rank=0)
        )
    assert solution.reason == "interrupted"
    residual = system.targets - (system.gram @ solution.dual_coef + 1e-3 * solution.dual_coef)
    relative = float((residual.norm(dim=0) / system.targets.norm(dim=0)).max())
    assert relative < 1
    if method == "pcg":
        assert relative == pytest.approx(solution.relative_residual, rel=1e-6)


class Untouchable:
    """A matrix that must not be looked at."""

    def __init__(self, n: int) -> None:
        self.shape = (n, n)

    def rows(self, index: Tensor | slice) -> Tensor:
        raise AssertionError("work began")

    def product(self, right: Tensor) -> Tensor:
        raise AssertionError("work began")


def bad_calls() -> dict[str, tuple[dict[str, Any], str]]:
    y = torch.ones(5, 2, dtype=torch.float64)
    nan = y.clone()
    nan[3, 1] = torch.nan
    return {
        "negative alpha": ({"alpha": -1.0}, r"alpha=-1.0.*>= 0"),
        "NaN alpha": ({"alpha": float("nan")}, "alpha=nan"),
        "infinite alpha": ({"alpha": float("inf")}, "alpha=inf"),
        "NaN targets": ({"targets": nan}, "targets with NaN"),
        "infinite targets": ({"targets": y / 0}, "targets with NaN or infinity"),
        "flat targets": ({"targets": y[:, 0]}, r"targets of shape \(5,\).*\(n >= 1, C >= 1\)"),
        "no targets": ({"targets": y[:, :0]}, r"shape \(5, 0\)"),
        "no rows": ({"targets": y[:0]}, r"shape \(0, 2\)"),
        "other length": ({"targets": y[:4]}, r"shape \(5, 5\) for 4 targets.*expected \(4, 4\)"),
        "half precision": ({"targets": y.half()}, "torch.float16"),
        "integers": ({"targets": y.long()}, "torch.int64"),
        "short weights": ({"weights": torch.ones(4)}, r"weights of shape \(4,\).*\(5,\)"),
        "weights in a column": ({"weights": torch.ones(5, 1)}, r"weights of shape \(5, 1\)"),
        "zero weight": ({"weights": torch.tensor([1.0, 1, 0, 1, 1])}, "weight 0"),
        "negative weight": ({"weights": torch.tensor([1.0, 1, -1, 1, 1])}, "negative"),
        "NaN weight": ({"weights": torch.tensor([1.0, 1, torch.nan, 1, 1])}, "not finite"),
        "short initial": ({"initial": y[:4]}, r"initial of shape \(4, 2\)"),
        "NaN initial": ({"initial": nan}, "finite"),
    }


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("case", bad_calls())
def test_bad_input_is_refused_before_any_work(case: str, method: str) -> None:
    change, message = bad_calls()[case]
    arguments = {"targets": torch.ones(5, 2, dtype=torch.float64), "alpha": 0.1, **change}
    with pytest.raises(DataError, match=message):
        solve_ridge(Untouchable(5), solver=method, **arguments)


@pytest.mark.parametrize("method", METHODS)
def test_a_matrix_that_is_not_square_finite_or_of_the_targets_dtype_is_refused(make_system, method: str) -> None:
    system = make_system(60)
    with pytest.raises(DataError, match=r"shape \(60, 59\)"):
        solve_ridge(system.gram[:, :59], system.targets, 0.1, solver=method)
    with pytest.raises(DataError, match=r"float64 on cpu and targets of torch\.float32"):
        solve_ridge(system.gram, system.targets.float(), 0.1, solver=method)
    for entry in ((7, 7), (50, 3)):
        for value in (torch.nan, torch.inf):
            gram = system.gram.clone()
            gram[entry] = gram[entry[::-1]] = value
            with pytest.raises(DataError, match=r"NaN or infinity|not finite"):
                solve_ridge(gram, system.targets, 0.1, solver=method)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "lu"}, "method='lu'.*cholesky"),
        ({"precision": "half"}, "precision='half'"),
        ({"tol": 0.0}, "tol=0.0"),
        ({"tol": 1.0}, "tol=1.0"),
        ({"tol": float("nan")}, "tol=nan"),
        ({"max_iter": 0}, "max_iter=0"),
        ({"rank": -1}, "rank=-1"),
    ],
)
def test_a_bad_solver_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        RidgeSolver(**change)


def test_good_solutions_do_not_warn_and_print_without_their_numbers(make_system) -> None:
    system = make_system(60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution = solve_ridge(system.gram, system.targets, 0.1)
    assert "dual_coef" not in repr(solution)
    assert "reason='exact'" in repr(solution)


@pytest.mark.parametrize("method", METHODS)
def test_one_row_is_solved(method: str) -> None:
    gram, targets = torch.tensor([[2.0]]), torch.tensor([[3.0, -1.0]])
    solution = solve_ridge(gram, targets, 1.0, solver=RidgeSolver(method, tol=1e-6))
    torch.testing.assert_close(solution.dual_coef, torch.tensor([[1.0, -1 / 3]]))


def test_a_shared_preconditioner_changes_nothing() -> None:
    x, y = normal(400, 6, seed=1), normal(400, 2, seed=2)
    gram = torch.exp(-torch.cdist(x, x) / 3)
    shared = nystrom_preconditioner(gram, 30)
    assert shared is not None
    for alpha in (1e-2, 1.0):
        solver = RidgeSolver("pcg", tol=1e-8, rank=30)
        own = solve_ridge(gram, y, alpha, solver=solver)
        found = solve_ridge(gram, y, alpha, solver=solver, preconditioner=shared)
        assert found.n_iter == own.n_iter
        torch.testing.assert_close(found.dual_coef, own.dual_coef)
