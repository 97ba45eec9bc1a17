"""The sweeps of :mod:`featlearn.trees.split`, compiled for processors; imports numba."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from .split import EQUAL, LIGHTEST, WEIGHT_SLACK, SortedRows

__all__ = ["sweep"]

Array = NDArray[np.float64]
THREADS_FROM = 2**16  # rows times columns, below which starting threads costs more than they save

# Compiling takes seconds: the machine code is kept beside this file, or where NUMBA_CACHE_DIR says.
compiled = numba.njit(nogil=True, error_model="numpy", cache=True)


def sweep(ordered: SortedRows, moments: Array, total: Array, h: float, min_weight: float) -> tuple[Array, Array, Array]:
    """Largest gain of every column, and first and last of the neighbouring thresholds that reach it, (q,) each.

    Columns are independent: the numbers do not depend on how many threads share them. The threads are Python's, as many
    as torch has; numba's own must not be entered from two threads at once, or after a fork.
    """
    out = np.empty((len(ordered.values), 3))
    least = max(min_weight - WEIGHT_SLACK * total[-1], LIGHTEST * total[-1])

    def one(j: int) -> None:
        if h > 0:
            _fuzzy(ordered.values[j], ordered.orders[j], moments, total, float(h), float(min_weight), least, out[j])
        else:
            _crisp(ordered.values[j], ordered.orders[j], moments, total, least, out[j])

    threads = torch.get_num_threads()
    if threads == 1 or ordered.values.size < THREADS_FROM:
        for j in range(len(out)):
            one(j)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, range(len(out))))
    return out[:, 0], out[:, 1], out[:, 2]


@compiled
def _gain(right: Any, whole: float, least: float) -> float:
    """``|C_R|^2 (1 / W_R + 1 / W_L)``, as C is 0; 0 where a side is too light."""
    outputs = len(right) - 1
    weight = right[outputs]
    if min(weight, whole - weight) < least:
        return 0.0
    squares = 0.0
    for k in range(outputs):
        squares += right[k] * right[k]
    return squares * whole / (weight * (whole - weight))


@compiled
def _fuzzy(z: Any, order: Any, moments: Any, total: Any, h: float, min_weight: float, least: float, out: Any) -> None:
    """Two pointers walk through both lists of breakpoints, with the sums on the right and those within h."""
    n, width = len(z), len(total)
    whole = total[width - 1]
    members = moments[order]  # once: rows fetched from all over the memory would halve the speed of the walk
    right, within, between = total.copy(), np.zeros(width), np.empty(width)
    levels = (whole - min_weight, min_weight)
    crossed = 0 if min_weight > 0 else 2
    best, first, last, end_gain, end = 0.0, np.nan, np.nan, 0.0, np.nan
    runs = False
    entering, leaving, previous, scale = 0, 0, z[0] - h, 1 / (2 * h)
    for _ in range(2 * n):
        arrival = z[entering] - h if entering < n else np.inf
        departure = z[leaving] + h
        # A number and no branch: which of the two comes next cannot be predicted.
        enters = int(arrival <= departure)
        place, sign = leaving + enters * (entering - leaving), 2.0 * enters - 1.0
        t = min(arrival, departure)
        step, before = (t - previous) * scale, right[width - 1]
        for k in range(width):
            right[k] -= step * within[k]
        while crossed < 2 and right[width - 1] < levels[crossed]:
            back = step * (levels[crossed] - right[width - 1]) / (before - right[width - 1])
            for k in range(width):
                between[k] = right[k] + back * within[k]
            gain = _gain(between, whole, least)
            if gain * (1 - EQUAL) > end_gain:
                end_gain, end = gain, t - 2 * h * back
            crossed += 1
        gain = _gain(right, whole, least)
        if gain * (1 - EQUAL) > best:
            best, first, last, runs = gain, t, t, True
        elif runs and gain >= best * (1 - EQUAL):
            last = t
        else:
            runs = False
        for k in range(width):
            within[k] += sign * members[place, k]
        entering += enters
        leaving += 1 - enters
        previous = t
    if end_gain * (1 - EQUAL) > best:
        best, first, last = end_gain, end, end
    out[0], out[1], out[2] = best, first, last


@compiled
def _crisp(z: Any, order: Any, moments: Any, total: Any, least: float, out: Any) -> None:
    """Running sums from the lowest number to the highest."""
    n, width = len(z), len(total)
    whole, right = total[width - 1], total.copy()
    same = EQUAL * max(-z[0], z[n - 1])
    best, threshold = 0.0, np.nan
    for place in range(n - 1):
        row = order[place]
        for k in range(width):
            right[k] -= moments[row, k]
        if z[place + 1] - z[place] > same:
            gain = _gain(right, whole, least)
            if gain * (1 - EQUAL) > best:
                best, threshold = gain, (z[place] + z[place + 1]) / 2
    out[0], out[1], out[2] = best, threshold, threshold
