r"""The best split of weighted rows, exact for crisp and for piecewise linear fuzzy sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError
from .tree import share_right

__all__ = ["Backend", "SortedRows", "Split", "backend_for", "best_sorted_split", "best_split", "gain_at"]

Array = NDArray[np.float64]
Backend = Literal["auto", "numpy", "numba"]
Sweep = Callable[["SortedRows", Array, Array, float, float], tuple[Array, Array, Array]]

EQUAL = 1e-12  # gains, and neighbouring numbers of a column, that differ by less count as the same
COMPILED_FROM = 2000  # rows times columns: below, numpy is done before numba is even loaded
# Sums over the rows of a side carry rounding errors of the sum over all rows: weights are compared up to the first
# share of the whole, and a side whose weight is below the second has no mean that means anything.
WEIGHT_SLACK, LIGHTEST = 1e-11, 1e-10


@dataclass(frozen=True)
class Split:
    """A test of one column.

    Attributes
    ----------
    feature : int
    threshold : float
        Rows above it go right, rows within h of it go both ways if the split is fuzzy.
    gain : float
        What the split takes off the sum of weighted squared errors.
    """

    feature: int
    threshold: float
    gain: float


@dataclass(frozen=True, eq=False)
class SortedRows:
    """Rows in the order of every column, so that a tree sorts once and then only filters.

    Attributes
    ----------
    rows : int array of shape (n,)
        Which rows of the original arrays these are, ascending.
    orders : int32 array of shape (q, n)
        Places in ``rows``, by ascending value of each column.
    values : array of shape (q, n)
        The sorted columns.

    Examples
    --------
    >>> ordered = SortedRows.of(np.array([[2.0], [9.0], [1.0]]), np.array([1.0, 0.0, 1.0]))
    >>> ordered.rows.tolist(), ordered.orders.tolist(), ordered.values.tolist()
    ([0, 2], [[1, 0]], [[1.0, 2.0]])
    """

    rows: NDArray[np.intp]
    orders: NDArray[np.int32]
    values: Array

    @classmethod
    def of(cls, Z: Array, w: Array) -> SortedRows:
        """Rows of Z (n, q) whose weight w (n,) is positive."""
        rows = np.flatnonzero(w > 0)
        orders = np.empty((Z.shape[1], len(rows)), np.int32)
        values = np.empty(orders.shape)
        for j in range(len(orders)):
            column = Z[rows, j]
            orders[j] = np.argsort(column, kind="stable")
            values[j] = column[orders[j]]
        return cls(rows, orders, values)

    def only(self, keep: NDArray[np.bool_]) -> SortedRows:
        """Those rows for which ``keep`` (n,) holds, still sorted; costs O(n q) and no sort."""
        kept, shape = np.flatnonzero(keep[self.orders]), (len(self.orders), int(keep.sum()))
        place = np.cumsum(keep, dtype=np.int32) - np.int32(1)
        orders, values = place[self.orders.ravel()[kept]], self.values.ravel()[kept]
        return SortedRows(self.rows[keep], orders.reshape(shape), values.reshape(shape))


def best_split(
    Z: Array, Y: Array, w: Array, h: float, min_weight: float = 0.0, *, backend: Backend = "auto"
) -> Split | None:
    r"""The column and threshold of largest gain.

    .. math:: Q(t) = \frac{|C_L|^2}{W_L} + \frac{|C_R|^2}{W_R} - \frac{|C|^2}{W}, \qquad
        C_R = \sum_i w_i s_i Y_i, \quad W_R = \sum_i w_i s_i, \quad
        s_i = \min(1, \max(0, (z_i - t + h) / 2h))

    Parameters
    ----------
    Z : array of shape (n, q)
        Columns of standard deviation about 1.
    Y : array of shape (n, K)
        Targets.
    w : array of shape (n,)
        Weights, read as numbers of repetitions; rows of weight 0 do not exist.
    h : float
        Half-width of the fuzzy transition, at least 1e-3; 0 for crisp sides (CART).
    min_weight : float, default 0
        Least weight of either side.
    backend : {"auto", "numpy", "numba"}
        Who sweeps over the thresholds; "auto" takes numba from 2000 numbers in Z on.

    Returns
    -------
    Split or None
        None when no admissible threshold has a gain. Ties go to the first column, then to the lowest threshold.

    Raises
    ------
    DataError
        Unknown backend.

    Notes
    -----
    Between neighbouring breakpoints :math:`z_i \pm h` both sums are affine in t, and Q, a convex function of them, has
    its maximum at an end: only breakpoints are tested, and the two thresholds where a side weighs exactly
    ``min_weight``. Crisp thresholds are midpoints between distinct neighbours. Where Q is flat between breakpoints, the
    threshold is the middle. Targets are centred first, which makes C zero and Q free of cancellation.

    Costs O(n q log n) for sorting and O(n q K) for the sweeps; memory is 12 bytes a number of Z, and a few arrays of
    the size of Y for a column in work.

    References
    ----------
    Good, Miller, Dubrawski, "Kernel Density Decision Trees" (optimal thresholds of piecewise linear fuzzy splits).

    Examples
    --------
    >>> Z = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 4.0]])
    >>> best_split(Z, np.array([[0.0], [0.0], [1.0], [1.0]]), np.ones(4), h=0.1)
    Split(feature=1, threshold=2.5, gain=1.0)
    """
    ordered = SortedRows.of(Z, w)
    return best_sorted_split(ordered, Y[ordered.rows], w[ordered.rows], h, min_weight, backend=backend)


def best_sorted_split(
    ordered: SortedRows, Y: Array, w: Array, h: float, min_weight: float = 0.0, *, backend: Backend = "auto"
) -> Split | None:
    """:func:`best_split` of rows that are sorted already.

    Parameters
    ----------
    ordered : SortedRows
    Y : array of shape (n, K)
        Targets of ``ordered.rows``.
    w : array of shape (n,)
        Their weights, all positive; for members of a fuzzy node, weight times membership.
    h, min_weight, backend
        As in :func:`best_split`.

    Returns
    -------
    Split or None
    """
    sweep = _sweep_of(backend, ordered)
    if ordered.values.size == 0:
        return None
    moments, total, spread = _moments(Y, w)
    if spread == 0 or total[-1] * (1 + WEIGHT_SLACK) < 2 * min_weight:
        return None
    gains, first, last = sweep(ordered, moments, total, h, min_weight)
    if gains.max() <= EQUAL * spread:
        return None
    feature = int(np.argmax(gains >= gains.max() * (1 - EQUAL)))
    z, members = ordered.values[feature], moments[ordered.orders[feature]]
    # Both backends end here, with sums of their own rounding behind them: the gain is evaluated anew.
    low, high = float(first[feature]), float(last[feature])
    gain = _gain(z, members, total, low, h)
    if high > low:
        at_middle = _gain(z, members, total, (low + high) / 2, h)
        if at_middle >= gain * (1 - EQUAL):  # Q is convex: between two equal maxima that a row separates it sags
            return Split(feature, (low + high) / 2, at_middle)
    return Split(feature, low, gain)


def gain_at(z: Array, Y: Array, w: Array, threshold: float, h: float) -> float:
    """Gain Q of one threshold for one column z (n,), straight from its definition; 0 if a side is empty."""
    moments, total, _ = _moments(Y, w)
    return _gain(z, moments, total, threshold, h)


def backend_for(rows: int, columns: int) -> Literal["numpy", "numba"]:
    """What "auto" means for so many rows and columns: their number alone decides, never what is loaded already."""
    return "numba" if rows * columns >= COMPILED_FROM else "numpy"


def _sweep_of(backend: Backend, ordered: SortedRows) -> Sweep:
    if backend == "auto":
        backend = backend_for(ordered.values.shape[1], ordered.values.shape[0])
    if backend == "numpy":
        return _sweep
    if backend == "numba":
        from ._split_numba import sweep  # numba loads at first use

        return sweep
    raise DataError(f"Got backend={backend!r}, but expected 'auto', 'numpy' or 'numba'.")


def _moments(Y: Array, w: Array) -> tuple[Array, Array, float]:
    """Weighted centred targets and weights (n, K + 1), their sums (K + 1,), and the sum of weighted squares.

    The last is 0 when targets differ by rounding errors only.
    """
    weight = w.sum()
    centred = Y - (w[:, None] * Y).sum(axis=0) / weight
    spread = float((w * np.square(centred).sum(axis=1)).sum())
    if spread <= EQUAL**2 * float((w * np.square(Y).sum(axis=1)).sum()):
        spread = 0.0
    moments = np.column_stack([w[:, None] * centred, w])
    return moments, np.append(moments[:, :-1].sum(axis=0), weight), spread


def _gain(z: Array, moments: Array, total: Array, threshold: float, h: float) -> float:
    right = (share_right(z, threshold, h)[:, None] * moments).sum(axis=0)
    left = total - right
    if min(left[-1], right[-1]) <= LIGHTEST * total[-1]:
        return 0.0
    return float(np.square(left[:-1]).sum() / left[-1] + np.square(right[:-1]).sum() / right[-1])


def _sweep(
    ordered: SortedRows, moments: Array, total: Array, h: float, min_weight: float
) -> tuple[Array, Array, Array]:
    """Largest gain of every column, and first and last of the neighbouring thresholds that reach it, (q,) each."""
    one_column = _fuzzy_gains if h > 0 else _crisp_gains
    out = np.empty((len(ordered.values), 3))
    for j, (z, order) in enumerate(zip(ordered.values, ordered.orders, strict=True)):
        thresholds, gains, n_ends = one_column(z, moments[order], total, h, min_weight)
        out[j] = _first_best(thresholds, gains, n_ends, runs=h > 0)
    return out[:, 0], out[:, 1], out[:, 2]


def _fuzzy_gains(z: Array, moments: Array, total: Array, h: float, min_weight: float) -> tuple[Array, Array, int]:
    """Breakpoints in ascending order, then the ends where a side weighs ``min_weight``, their gains, and how many ends.

    From one breakpoint to the next, sums on the right fall by the sums over rows within h, times the step, over 2 h.
    """
    breaks = np.concatenate([z - h, z + h])
    arrival = np.argsort(breaks, kind="stable")  # two sorted halves: one merge
    breaks = breaks[arrival]
    steps = np.diff(breaks) / (2 * h)

    def right_of_breaks(column: Array, whole: float) -> Array:
        within = np.cumsum(np.concatenate([column, -column])[arrival])
        return np.concatenate([[whole], whole - np.cumsum(within[:-1] * steps)])

    weights = right_of_breaks(moments[:, -1], total[-1])
    before, share = np.empty(0, np.intp), np.empty(0)
    if min_weight > 0:
        levels = np.array([total[-1] - min_weight, min_weight])
        before = np.array([np.argmax(weights < level) - 1 for level in levels])
        share = (weights[before] - levels) / (weights[before] - weights[before + 1])

    def with_ends(numbers: Array) -> Array:
        return np.append(numbers, numbers[before] + share * (numbers[before + 1] - numbers[before]))

    squares = np.zeros(len(breaks) + len(before))
    for k in range(moments.shape[1] - 1):
        squares += np.square(with_ends(right_of_breaks(moments[:, k], total[k])))
    return with_ends(breaks), _gains(squares, with_ends(weights), total[-1], min_weight), len(before)


def _crisp_gains(z: Array, moments: Array, total: Array, h: float, min_weight: float) -> tuple[Array, Array, int]:
    """Midpoints between neighbours, and their gains: 0 between equal numbers."""
    weights = total[-1] - np.cumsum(moments[:-1, -1])
    squares = np.zeros(len(weights))
    for k in range(moments.shape[1] - 1):
        squares += np.square(total[k] - np.cumsum(moments[:-1, k]))
    gains = _gains(squares, weights, total[-1], min_weight)
    # Products of matrices give equal rows numbers that differ in the last digit; no split goes between those.
    gains[np.diff(z) <= EQUAL * max(-z[0], z[-1])] = 0
    return (z[:-1] + z[1:]) / 2, gains, 0


def _gains(squares: Array, right: Array, whole: float, min_weight: float) -> Array:
    """``|C_R|^2 (1 / W_R + 1 / W_L)``, as C is 0; 0 where a side is too light."""
    left = whole - right
    least = max(min_weight - WEIGHT_SLACK * whole, LIGHTEST * whole)
    gains = np.zeros(len(squares))
    np.divide(squares * whole, right * left, out=gains, where=np.minimum(left, right) >= least)
    return gains


def _first_best(thresholds: Array, gains: Array, n_ends: int, runs: bool) -> tuple[float, float, float]:
    """The largest gain, with first and last threshold of the first run of it; an end only if no breakpoint has it."""
    if len(gains) == 0:
        return 0.0, np.nan, np.nan
    best = float(gains.max())
    reached = gains >= best * (1 - EQUAL)
    first = int(np.argmax(reached))
    last, stop = first, len(gains) - n_ends
    while runs and last + 1 < stop and reached[last + 1]:
        last += 1
    return best, float(thresholds[first]), float(thresholds[last])
