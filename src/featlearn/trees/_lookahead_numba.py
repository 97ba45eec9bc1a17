"""The score of :mod:`featlearn.trees.lookahead`, compiled; imports numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .split import EQUAL

__all__ = ["gain_of_two_levels"]

# The machine code is kept beside this file, or where NUMBA_CACHE_DIR says.
compiled = numba.njit(nogil=True, error_model="numpy", cache=True)


@compiled
def gain_of_two_levels(
    values: Any, orders: Any, starts: Any, outputs: Any, targets: Any, w: Any, n_outputs: int, feature: int,
    threshold: float, min_weight: float,
) -> float:  # fmt: skip
    """Gain of a split of the rows plus the best gain of a split of each side; -inf when a side lacks weight.

    ``values`` and ``orders`` (q, r) are those of sorted rows. The targets are sparse: those of row i are
    ``targets[starts[i]:starts[i + 1]]``, of ``outputs`` at the same places. A step costs one operation for each stored
    target, because ``|C|^2`` of the running sums is updated, not computed: one for labels of any number of classes.
    """
    need = min_weight * (1 - 1e-9)
    side = np.empty(len(w), np.int8)
    sums, weights = np.zeros((2, n_outputs)), np.zeros(2)
    for k in range(len(w)):
        i = orders[feature, k]
        s = 1 if values[feature, k] > threshold else 0
        side[i] = s
        weights[s] += w[i]
        for e in range(starts[i], starts[i + 1]):
            sums[s, outputs[e]] += w[i] * targets[e]
    if min(weights[0], weights[1]) < need or min(weights[0], weights[1]) <= 0:
        return -np.inf
    total = weights[0] + weights[1]
    squares = np.zeros(2)
    gain = 0.0
    for c in range(n_outputs):
        squares[0] += sums[0, c] ** 2
        squares[1] += sums[1, c] ** 2
        gain += weights[0] * weights[1] / total * (sums[0, c] / weights[0] - sums[1, c] / weights[1]) ** 2

    best, inverse = np.zeros(2), 1 / weights
    running, held, square, product, last = np.empty((2, n_outputs)), np.empty(2), np.empty(2), np.empty(2), np.empty(2)
    for j in range(len(values)):
        same = EQUAL * max(-values[j, 0], values[j, -1])
        running[:], held[:], square[:], product[:], last[:] = 0.0, 0.0, 0.0, 0.0, np.inf
        for k in range(len(w)):
            i, z = orders[j, k], values[j, k]
            s = side[i]
            left, right = held[s], weights[s] - held[s]
            if z - last[s] > same and left >= need and right >= need:
                # |C_L - W_L / W C|^2 = gain W_L W_R / W; compared without a division, which would double the time.
                share = left * inverse[s]
                apart = square[s] - share * (2 * product[s] - share * squares[s])
                if apart > best[s] * left * right:
                    best[s] = apart / (left * right)
            last[s] = z
            held[s] += w[i]
            for e in range(starts[i], starts[i + 1]):
                c, y = outputs[e], w[i] * targets[e]
                square[s] += y * (2 * running[s, c] + y)
                product[s] += y * sums[s, c]
                running[s, c] += y
    return gain + best[0] * weights[0] + best[1] * weights[1]
