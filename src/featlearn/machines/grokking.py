r"""Grokking modular arithmetic: the loop on pairs of residues, and how circulant its metric has become."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .._arrays import as_tensor
from .._random import generator
from ..exceptions import DataError
from ..kernels import Metric
from ..linalg.ridge import RidgeSolver
from .loop import HeldOut, Recipe, Run, metric_root, run
from .rules import KERNELS, RULES, MetricRule, as_bandwidth

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["GrokkingResult", "Task", "circulant_block", "circulant_deviation", "grok", "random_circulant_metric"]

KERNEL_NAMES = ("quadratic", "gaussian")
BY_LOGARITHM = ("mul", "div")  # circulant once residues are ordered by their discrete logarithm
FLIPPED = ("sub", "div")  # constant along the other diagonals
STRUCTURED = ("add", "sub", "mul", "div")


class Task(Protocol):
    """What :func:`grok` needs to know of a task; ``featlearn.datasets.modular_arithmetic`` makes them."""

    p: int
    operation: str

    @property
    def X_train(self) -> Tensor:
        """Rows (n, 2 p), float64."""

    @property
    def y_train(self) -> Tensor:
        """Residues (n,), int64."""

    @property
    def X_test(self) -> Tensor:
        """Rows (m, 2 p), float64."""

    @property
    def y_test(self) -> Tensor:
        """Residues (m,), int64."""


@dataclass(frozen=True, eq=False)
class GrokkingResult:
    """What :func:`grok` saw.

    Attributes
    ----------
    p : int
    operation, kernel : str
    history : list of dict
        One entry a step t, all about the metric M_t and the predictor that uses it: ``iteration``; ``train_loss`` and
        ``test_loss``, squared errors summed over classes; ``test_accuracy``; ``deviation`` of M_t from circulant
        structure (``nan`` at M = I, whose off-diagonal blocks are 0, and for operations without such a structure);
        ``alignment``, the cosine of M_t with the last metric; ``seconds``.
    metrics : list of Tensor of shape (2 p, 2 p)
        M_0, M_1, ...

    Notes
    -----
    A training pair that is classified wrongly has a squared error of at least 1/2, so that a ``train_loss`` below 1/2
    over the number of pairs says that none is. The block of M_1 is mostly a constant, which is circulant: its deviation
    is as low with shuffled labels. Read it from step 2 on.
    """

    p: int
    operation: str
    kernel: str
    history: list[dict[str, Any]]
    metrics: list[Tensor]

    @property
    def metric(self) -> Tensor:
        """The last one."""
        return self.metrics[-1]

    def first(self, accuracy: float = 0.5) -> int | None:
        """The first step with at least this test accuracy; None if there is none."""
        return next((entry["iteration"] for entry in self.history if entry["test_accuracy"] >= accuracy), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, without the metrics."""
        return {
            "p": self.p,
            "operation": self.operation,
            "kernel": self.kernel,
            "history": [dict(entry) for entry in self.history],
        }

    def frame(self) -> pd.DataFrame:
        """One row a step."""
        import pandas as pd

        return pd.DataFrame(self.history).set_index("iteration")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Accuracy, deviation and alignment over the steps."""
        from ..plots.grokking import plot_grokking

        return plot_grokking(self.to_dict(), ax=ax)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Write the table as a page."""
        from ..report.files import write_table

        write_table(self.frame(), path, title=f"Grokking {self.operation} modulo {self.p}")

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(float_format="{:.3g}".format))


def grok(
    data: Task,
    *,
    kernel: str = "quadratic",
    max_iter: int = 50,
    alpha: float = 1e-9,
    bandwidth: float = 2.5,
    start: Any = None,
    callback: Callable[[dict[str, Any]], object] | None = None,
) -> GrokkingResult:
    r"""Run the loop on modular arithmetic until it has grokked, and follow its metric.

    .. math:: M_{t+1} = \sqrt{G(f_t)} / \max \sqrt{G(f_t)}, \qquad
              f_t = \text{kernel ridge regression with } k(x M_t^{1/2}, z M_t^{1/2}) \text{ on one-hot residues}

    G is the centred AGOP over all training pairs. The test pairs are only scored: nothing depends on them.

    Parameters
    ----------
    data : Task
        Of :func:`featlearn.datasets.modular_arithmetic`.
    kernel : {"quadratic", "gaussian"}, default "quadratic"
        The Gaussian kernel keeps the scale of its metric (no division by the largest entry), since its bandwidth is a
        constant.
    max_iter : int, default 50
        AGOP steps.
    alpha : float, default 1e-9
        Ridge, in units of the kernel, which is at most 16 here for the quadratic kernel: a safeguard only.
    bandwidth : float, default 2.5
        Of the Gaussian kernel; the quadratic kernel has none.
    start : array of shape (2 p, 2 p), optional
        Positive semi-definite metric to start from, default the identity.
    callback : callable, optional
        Gets the loop's own record after each step; returning True stops.

    Returns
    -------
    GrokkingResult

    Raises
    ------
    DataError
        For parameters that cannot be used, before any work.

    Notes
    -----
    A step costs ``n^3/3`` flops for the solution and ``p (n d^2 + d^3)`` for the AGOP of the quadratic kernel, d = 2 p
    (``2 n^2 d p`` for the Gaussian); memory is one n x n matrix in float64.

    References
    ----------
    Mallinar, Beaglehole, Zhu, Radhakrishnan, Pandit, Belkin (2024): Emergence in non-neural models: grokking modular
    arithmetic via average gradient outer product, arXiv:2407.20199.

    Examples
    --------
    >>> from featlearn.datasets import modular_arithmetic
    >>> result = grok(modular_arithmetic(23, "add", train_fraction=0.65), max_iter=25)
    >>> [round(result.history[t]["test_accuracy"]) for t in (0, 25)]
    [0, 1]
    """
    recipe = _recipe(kernel, max_iter, alpha, bandwidth)
    x, targets = data.X_train, _one_hot(data.y_train, data.p)
    begin = None if start is None else [_start(start, data.p, recipe)]
    judge = HeldOut(data.X_test, _one_hot(data.y_test, data.p), name="squared error on test pairs")
    done = run(recipe, x, targets, judge=judge, start=begin, callback=callback)
    return _result(data, kernel, done)


def _recipe(kernel: str, max_iter: int, alpha: float, bandwidth: float) -> Recipe:
    if kernel not in KERNEL_NAMES:
        raise DataError(f"Got kernel={kernel!r}, but expected one of {', '.join(KERNEL_NAMES)}.")
    if isinstance(max_iter, bool) or not isinstance(max_iter, int) or max_iter < 0:
        raise DataError(f"Got max_iter={max_iter!r}, but expected a whole number of at least 0.")
    if not 0 <= alpha < math.inf:
        raise DataError(f"Got alpha={alpha!r}, but expected a finite number of at least 0.")
    rule = RULES["grokking"]
    metric = replace(rule.metric, power=rule.powers[0])
    # Ridgeless predictors of the quadratic kernel do not depend on the scale of M, and a ridge of one size needs one.
    metric = replace(metric, normalize="max") if kernel == "quadratic" else metric
    return Recipe(
        KERNELS[kernel], as_bandwidth(bandwidth), ((float(alpha),),), metric, max_iter, tol=0.0,
        solver=RidgeSolver("cholesky"), selected=False,
    )  # fmt: skip


def _one_hot(labels: Tensor, p: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, p).double()


def _start(start: Any, p: int, recipe: Recipe) -> Metric:
    matrix, _ = as_tensor(start, name="start", dtype=torch.float64, min_rank=2)
    if matrix.shape != (2 * p, 2 * p):
        raise DataError(f"Got start of shape {tuple(matrix.shape)}, but expected ({2 * p}, {2 * p}).")
    lowest, highest = torch.linalg.eigvalsh(matrix)[[0, -1]].tolist()
    skew = float((matrix - matrix.mT).abs().max())
    if skew > 1e-9 * highest or lowest < -1e-9 * highest or highest <= 0:
        raise DataError("Got a start that is not symmetric and positive semi-definite, but expected such a metric.")
    factor = metric_root(matrix, MetricRule(1.0, recipe.metric.normalize))
    return Metric(recipe.parts[0].kernel, factor)


def _result(data: Task, kernel: str, done: Run) -> GrokkingResult:
    eye = torch.eye(2 * data.p, dtype=torch.float64)
    metrics = [_matrix(each, eye) for each in done.kernels]
    final, labels = metrics[-1], data.y_test
    history = []
    for record, metric, scores in zip(done.history, metrics, done.honest, strict=True):
        assert scores is not None
        history.append(
            {
                "iteration": record["iteration"],
                "train_loss": record["train_score"],
                "test_loss": record["score"],
                "test_accuracy": float((scores.argmax(dim=1) == labels).double().mean()),
                "deviation": _deviation(metric, data.operation),
                "alignment": float((metric * final).sum() / (metric.norm() * final.norm())),
                "seconds": record["seconds"],
            }
        )
    return GrokkingResult(data.p, data.operation, kernel, history, metrics)


def _matrix(kernel: Any, eye: Tensor) -> Tensor:
    assert isinstance(kernel, Metric)
    return eye if kernel.factor is None else kernel.factor @ kernel.factor.mT


def _deviation(metric: Tensor, operation: str) -> float:
    if operation not in STRUCTURED:
        return math.nan
    return circulant_deviation(circulant_block(metric, operation))


def circulant_deviation(block: Any) -> float:
    r"""How far a square matrix is from being circulant: 0 if each row is the one above moved right by one.

    .. math:: \frac{\sum_{lj} (S_{lj} - \bar S_j)^2}{\|C\|_F^2}, \qquad S_{lj} = C_{l, (j + l) \bmod p}, \qquad
              \bar S_j = \tfrac{1}{p} \sum_l S_{lj}

    Parameters
    ----------
    block : array or Tensor of shape (p, p)
        C.

    Returns
    -------
    float
        The share of the squared entries that the nearest circulant matrix leaves: 0 to 1, about ``1 - 1/p`` for a
        random matrix of mean 0; ``nan`` for a matrix of zeros.

    Raises
    ------
    DataError
        For a matrix that is not square, or not finite.

    Examples
    --------
    >>> circulant_deviation([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [2.0, 3.0, 1.0]])
    0.0
    >>> circulant_deviation([[1.0, 2.0, 3.0], [2.0, 3.0, 1.0], [3.0, 1.0, 2.0]]) > 0
    True
    """
    matrix, _ = as_tensor(block, name="block", dtype=torch.float64, min_rank=2)
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"Got a block of shape {tuple(matrix.shape)}, but expected a square matrix.")
    size = float(matrix.square().sum())
    if size == 0:
        return math.nan
    place = torch.arange(len(matrix))
    rolled = matrix.gather(1, (place + place[:, None]) % len(matrix))
    return float((rolled - rolled.mean(dim=0)).square().sum()) / size


def circulant_block(metric: Any, operation: str = "add") -> Tensor:
    r"""Lower left block of a metric, with rows and columns in the order in which it should be circulant.

    Parameters
    ----------
    metric : array or Tensor of shape (2 p, 2 p)
    operation : {"add", "sub", "mul", "div"}, default "add"
        "add" leaves the block as it is. For "mul" and "div" index 0 is dropped, and residues stand in the order
        ``1, g, g^2, ...`` of the powers of the smallest primitive root, in which multiplication adds exponents. For
        "sub" and "div" the order of the columns is reversed.

    Returns
    -------
    Tensor of shape (p, p) or (p - 1, p - 1), float64

    Raises
    ------
    DataError
        For another operation, of whose metric no such order is known; for a matrix of odd size; for a p that is not
        prime where there is no primitive root.
    """
    if operation not in STRUCTURED:
        raise DataError(f"Got operation={operation!r}, but expected one of {', '.join(STRUCTURED)}.")
    matrix, _ = as_tensor(metric, name="metric", dtype=torch.float64, min_rank=2)
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) % 2:
        raise DataError(f"Got a metric of shape {tuple(matrix.shape)}, but expected (2 p, 2 p).")
    p = len(matrix) // 2
    block = matrix[p:, :p]
    if operation in BY_LOGARITHM:
        order = torch.tensor(_powers_of_primitive_root(p))
        block = block[order][:, order]
    return block.flip(1) if operation in FLIPPED else block


def _powers_of_primitive_root(p: int) -> list[int]:
    """``[1, g, g^2, ...]`` modulo p, all p - 1 of them, for the smallest g that reaches all."""
    for root in range(1, p):
        powers = [pow(root, exponent, p) for exponent in range(p - 1)]
        if len({*powers, 0}) == p and 0 not in powers:
            return powers
    raise DataError(f"Got p={p}, which has no root whose powers reach all other residues. Expected a prime.")


def random_circulant_metric(p: int, random_state: int = 0, *, flat: bool = True) -> Tensor:
    r"""A metric with circulant blocks and nothing learned: with all frequencies alike, that solves modular addition.

    .. math:: M = \begin{pmatrix} P & C \\ C^\top & P \end{pmatrix}^{1/2}, \qquad P = I - \tfrac{1}{p} 1 1^\top

    The first row of the circulant C is normal, without its mean. Its Fourier coefficients are divided by their own
    moduli, so that all frequencies count alike and only the phases are random, or by the largest modulus. (A larger C
    would give the matrix under the root negative eigenvalues.)

    Parameters
    ----------
    p : int
        At least 2.
    random_state : int, default 0
    flat : bool, default True
        Divide each coefficient by its own modulus. Without it, the predictor hardly sees the weak frequencies, and how
        well it does depends on the draw.

    Returns
    -------
    Tensor of shape (2 p, 2 p), float64
        For ``grok(data, start=...)``.
    """
    if isinstance(p, bool) or not isinstance(p, int) or p < 2:
        raise DataError(f"Got p={p!r}, but expected a whole number of at least 2.")
    waves = torch.fft.rfft(torch.randn(p, generator=generator(random_state, "circulant"), dtype=torch.float64))
    waves[0] = 0
    waves[1:] /= waves[1:].abs() if flat else waves.abs().max()
    row, place = torch.fft.irfft(waves, p), torch.arange(p)
    block = row[(place - place[:, None]) % p]
    centred = torch.eye(p, dtype=torch.float64) - 1 / p
    values, vectors = torch.linalg.eigh(torch.cat([torch.cat([centred, block], 1), torch.cat([block.mT, centred], 1)]))
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
    return (root + root.mT) / 2
