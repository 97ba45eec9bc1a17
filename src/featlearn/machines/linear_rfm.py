r"""Completing low-rank matrices: the recursive feature machine of the linear kernel."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from .._arrays import Restore, as_tensor
from .._random import generator
from ..exceptions import DataError, FeatlearnWarning
from .parameters import as_seed

__all__ = ["LinearRFM"]

FLOOR = 1e-9  # of epsilon, in units of the mean square of the observed entries
PATIENCE = 100  # iterations without a better held-out error
RANK = 1e-6  # eigenvalues of the Gram matrix above this share of the largest count
NUMBERS = 2**24  # held at once in a batch of rows

_Group = tuple[Tensor, Tensor]  # rows (g,) and their observed columns (g, count)


class LinearRFM(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Fill the gaps of a matrix of low rank with a metric between its columns that is learned from the rows.

    Every row is a ridge regression on the columns with kernel P, from the entries O that were observed. The mean outer
    product of the coefficients is the next metric:

    .. math::

        x_i = P_{:,O} (P_{OO} + \alpha I)^{-1} y_{i,O}, \qquad G = \tfrac{1}{m} X^\top X, \qquad
        P \leftarrow (G + \varepsilon_t I)^{2s}, \qquad \varepsilon_t = \max(\varepsilon \gamma^t, 10^{-9})

    This is iteratively reweighted least squares for :math:`\sum_i \sigma_i(X)^{2 - 4 s}`: s = 1/4 minimises the nuclear
    norm, s = 1/2 the logarithm of the determinant, which needs fewer entries.

    Parameters
    ----------
    power : float, default 0.5
        s.
    alpha : float, default 1e-9
        Ridge, in units of the mean eigenvalue of P. Raise it for noisy entries.
    max_iter : int, default 500
    epsilon : float, default 1.0
        In units of the mean square of the observed entries.
    decay : float, default 0.95
        gamma. Without a decreasing epsilon the iteration sticks at poor solutions.
    tol : float, default 1e-6
        Stop when P changed by less than this, relatively in the Frobenius norm.
    validation_fraction : float, default 0.05
        Share of the observed entries, drawn at random, that is held out to choose the number of iterations; then
        everything starts anew with all entries. 0 iterates until ``tol`` or ``max_iter``.
    random_state : int, RandomState or None, default None
        For that draw.
    verbose : int, default 0
        1 shows progress.

    Attributes
    ----------
    completed_ : like X, of shape (m, d)
        X as given where it was observed, filled elsewhere.
    gram_ : array of shape (d, d)
        G of the completed rows, in squared units of X.
    metric_ : array of shape (d, d)
        P, divided by its mean eigenvalue.
    rank_ : int
        Eigenvalues of ``gram_`` above 1e-6 of the largest.
    n_iter_ : int
        Updates of P.
    stop_reason_ : {"complete", "tolerance", "validation", "max_iter"}
        "complete": X had no gap, so that one update suffices.
    history_ : list of dict
        One entry an iteration: iteration, epsilon, metric_change, validation_error (mean square of the held-out
        entries, in squared units of X), of the run that chose the number of iterations.
    n_features_in_, feature_names_in_

    Notes
    -----
    An iteration costs ``sum_i |O_i|^3/3`` flops for the rows, solved together where they have as many entries, and
    ``m d^2 + d^3`` for the metric; all of it in float64. A validated fit does up to twice ``max_iter`` iterations.
    Columns are not centred.

    References
    ----------
    Radhakrishnan, Belkin, Drusvyatskiy (2024): Linear Recursive Feature Machines provably recover low-rank matrices,
    arXiv:2401.04553. Mohan, Fazel (2012): Iterative reweighted algorithms for matrix rank minimization, JMLR 13.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 20))
    >>> X = np.where(rng.random(truth.shape) < 0.4, truth, np.nan)
    >>> machine = LinearRFM(random_state=0).fit(X)
    >>> machine.rank_, bool(np.abs(machine.completed_ - truth).max() < 1e-3)
    (2, True)
    """

    def __init__(
        self,
        power: float = 0.5,
        *,
        alpha: float = 1e-9,
        max_iter: int = 500,
        epsilon: float = 1.0,
        decay: float = 0.95,
        tol: float = 1e-6,
        validation_fraction: float = 0.05,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.power = power
        self.alpha = alpha
        self.max_iter = max_iter
        self.epsilon = epsilon
        self.decay = decay
        self.tol = tol
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the metric between columns from a matrix with gaps.

        Parameters
        ----------
        X : array, DataFrame or Tensor of shape (m, d)
            NaN where not observed.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        DataError
            For parameters out of range, infinite entries, or no observed entry at all, before any work; for an
            ``alpha`` too small to solve with.

        Warns
        -----
        FeatlearnWarning
            For rows and columns without any entry; they are filled with zeros.
        """
        self._check_parameters()
        values, restore = self._matrix(X, reset=True)
        seen = ~torch.isnan(values)
        _check_seen(seen)
        size = float(values[seen].square().mean().sqrt()) or 1.0
        last = self._learn(values.nan_to_num(0.0) / size, seen, size)
        gram = last.rows.mT @ last.rows / len(values)
        eigenvalues = torch.linalg.eigvalsh(gram)
        self._metric = last.metric.cpu().numpy()
        self.completed_ = restore(torch.where(seen, values, last.rows * size))
        self.gram_ = restore(gram * size**2, per_sample=False)
        self.metric_ = restore(last.metric, per_sample=False)
        self.rank_ = int((eigenvalues > RANK * eigenvalues[-1]).sum())
        self.n_iter_ = last.step
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """``fit(X).transform(X)``: X with its gaps filled."""
        return self.fit(X, y).completed_

    def transform(self, X: Any) -> Any:
        """Fill the gaps of rows with the learned metric.

        Parameters
        ----------
        X : array, DataFrame or Tensor of shape (n, d)
            The rows of ``fit`` or others.

        Returns
        -------
        like X, of shape (n, d)
            Observed entries as given.
        """
        check_is_fitted(self)
        values, restore = self._matrix(X, reset=False)
        seen = ~torch.isnan(values)
        # Linear in the row, so that the unit of `fit` is not needed here.
        metric = torch.from_numpy(self._metric).to(values.device)
        filled = _filled(values.nan_to_num(0.0), _groups(seen), metric, self.alpha)
        return restore(torch.where(seen, values, filled))

    # fitting --------------------------------------------------------------------------------------------------------

    def _learn(self, rows: Tensor, seen: Tensor, size: float) -> _Iterate:
        """The iterate to keep, with all observed entries."""
        self.history_: list[dict[str, Any]] = []
        if bool(seen.all()):
            self.stop_reason_ = "complete"
            return _Iterate(1, _power(rows, FLOOR, 2 * self.power), rows, math.nan, FLOOR)
        held = self._held_out(seen)
        if held is None:
            for iterate in self._tracked(self._iterates(rows, seen)):
                self._record(iterate, math.nan)
            self.stop_reason_ = self._reason(iterate)
            return iterate
        best, lowest = 0, math.inf
        for iterate in self._tracked(self._iterates(rows, seen & ~held)):
            error = float((iterate.rows - rows)[held].square().mean())
            self._record(iterate, error * size**2)
            if error < lowest:
                best, lowest = iterate.step, error
            elif iterate.step - best >= PATIENCE:
                break
        last = iterate.step
        for iterate in self._iterates(rows, seen):
            if iterate.step == best:
                break
        self.stop_reason_ = "validation" if iterate.step == best < last else self._reason(iterate)
        return iterate

    def _iterates(self, rows: Tensor, seen: Tensor) -> Iterator[_Iterate]:
        """P = I and its updates, each with the rows that it fills."""
        groups, known = _groups(seen), seen.any(dim=0)
        metric, change, epsilon = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device), math.nan, math.nan
        for step in range(self.max_iter + 1):
            filled = _filled(rows, groups, metric, self.alpha)
            yield _Iterate(step, metric, filled, change, epsilon)
            if change < self.tol:
                return
            epsilon = max(self.epsilon * self.decay**step, FLOOR)
            updated = _power(filled, epsilon, 2 * self.power)
            # Columns never observed stay apart from all others: rounding must not fill them.
            updated = torch.where(known[:, None] & known, updated, updated.diagonal().diag())
            change = float((updated - metric).norm() / metric.norm())
            metric = updated

    def _tracked(self, iterates: Iterator[_Iterate]) -> Iterable[_Iterate]:
        if not self.verbose:
            return iterates
        from rich.progress import track

        return track(iterates, description="Completing", total=self.max_iter + 1)

    def _record(self, iterate: _Iterate, error: float) -> None:
        self.history_.append(
            {
                "iteration": iterate.step,
                "epsilon": iterate.epsilon,
                "metric_change": iterate.change,
                "validation_error": error,
            }
        )

    def _reason(self, last: _Iterate) -> str:
        return "tolerance" if last.change < self.tol else "max_iter"

    def _held_out(self, seen: Tensor) -> Tensor | None:
        """Observed entries (m, d) to hold out: none that is the only one of its row or column."""
        wanted = int(self.validation_fraction * int(seen.sum()))
        spare = seen & (seen.sum(dim=1) > 1)[:, None] & (seen.sum(dim=0) > 1)
        places = spare.cpu().nonzero()
        if wanted == 0 or len(places) == 0:
            return None
        seed = as_seed(self.random_state)
        drawn = places[torch.randperm(len(places), generator=generator(seed, "held-out entries"))[:wanted]]
        held = torch.zeros(seen.shape, dtype=torch.bool)
        held[drawn[:, 0], drawn[:, 1]] = True
        return held.to(seen.device)

    # input ----------------------------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        for name, positive in (("power", True), ("epsilon", True), ("decay", True), ("alpha", False), ("tol", False)):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < math.inf or (positive and value == 0):
                kind = "positive finite number" if positive else "finite number of at least 0"
                raise DataError(f"Got {name}={value!r}, but expected a {kind}.")
        if self.decay > 1:
            raise DataError(f"Got decay={self.decay!r}, but expected at most 1: epsilon has to fall.")
        if isinstance(self.max_iter, bool) or not isinstance(self.max_iter, int | np.integer) or self.max_iter < 0:
            raise DataError(f"Got max_iter={self.max_iter!r}, but expected a whole number of at least 0.")
        if not _is_number(self.validation_fraction) or not 0 <= self.validation_fraction < 1:
            raise DataError(
                f"Got validation_fraction={self.validation_fraction!r}, but expected a number of at least 0, below 1."
            )

    def _matrix(self, X: Any, *, reset: bool) -> tuple[Tensor, Restore]:
        """X in float64 with its gaps, and the way back."""
        if isinstance(X, Tensor):
            values, restore = as_tensor(X, dtype=torch.float64, min_rank=2, finite=False)
            if values.dim() != 2 or bool(values.isinf().any()):
                raise DataError(
                    f"Got X of shape {tuple(X.shape)}, with {int(values.isinf().sum())} infinite entries, but expected "
                    "(m, d), finite or NaN."
                )
            validate_data(self, X, skip_check_array=True, reset=reset)
            return values.detach(), restore
        least = 2 if reset else 1
        array = validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan",
            ensure_min_samples=least,
        )
        _, restore = as_tensor(X if hasattr(X, "iloc") else array, finite=False)
        return as_tensor(array, dtype=torch.float64, finite=False)[0], restore

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


@dataclass(frozen=True, eq=False)
class _Iterate:
    """P after some updates, the rows it fills, and how it came about."""

    step: int
    metric: Tensor
    rows: Tensor
    change: float
    epsilon: float


def _groups(seen: Tensor) -> list[_Group]:
    """Rows with as many observed entries together, those columns beside them; rows without any are left out."""
    counts = seen.sum(dim=1)
    groups: list[_Group] = []
    for count in counts[counts > 0].unique().tolist():
        members = (counts == count).nonzero()[:, 0]
        for part in members.split(max(1, NUMBERS // (count * seen.shape[1]))):
            groups.append((part, seen[part].nonzero()[:, 1].view(len(part), count)))
    return groups


def _filled(rows: Tensor, groups: list[_Group], metric: Tensor, alpha: float) -> Tensor:
    """``P_:O (P_OO + alpha I)^-1 y_O`` of every row, (m, d); rows in no group are zero."""
    filled = torch.zeros_like(rows)
    for members, places in groups:
        columns = metric[places]
        system = columns.gather(2, places[:, None].expand(-1, places.shape[1], -1))
        system.diagonal(dim1=1, dim2=2).add_(alpha)
        factor, info = torch.linalg.cholesky_ex(system)
        if bool(info.any()):
            raise DataError(
                f"Got alpha={alpha:g}, with which the metric of {places.shape[1]} columns is not positive definite in "
                "double precision. Raise alpha (1e-9 suits noise-free entries), or lower power."
            )
        observed = rows[members].gather(1, places)
        dual = torch.cholesky_solve(observed[:, :, None], factor)
        filled[members] = (dual.mT @ columns)[:, 0]
    return filled


def _power(rows: Tensor, epsilon: float, exponent: float) -> Tensor:
    """``(X^T X / m + epsilon I)^exponent`` over its mean eigenvalue."""
    values, vectors = torch.linalg.eigh(rows.mT @ rows / len(rows))
    values = (values.clamp_min(0) + epsilon) ** exponent
    values = values / values.mean()
    root = vectors * values.sqrt()
    return root @ root.mT


def _check_seen(seen: Tensor) -> None:
    """Refuse a matrix of gaps alone; warn of empty rows and columns."""
    if not bool(seen.any()):
        raise DataError("Got X with NaN in every entry, but expected some that were observed.")
    for axis, kind in ((1, "rows"), (0, "columns")):
        empty = (~seen.any(dim=axis)).nonzero()[:, 0].tolist()
        if empty:
            warnings.warn(
                f"Got {len(empty)} {kind} of X without any observed entry (the first is {empty[0]}): nothing is known "
                "of them, and they are filled with zeros.",
                FeatlearnWarning,
                stacklevel=3,
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
