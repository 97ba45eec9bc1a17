"""What :mod:`featlearn.trees.refine` does with every row, compiled; imports numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .split import EQUAL

__all__ = ["below", "best_cut"]

# The machine code is kept beside this file, or where NUMBA_CACHE_DIR says.
compiled = numba.njit(nogil=True, error_model="numpy", cache=True)


@compiled
def below(
    children_left: Any, children_right: Any, feature: Any, threshold: Any, value: Any, Z: Any, Y: Any, w: Any
) -> tuple[Any, Any]:
    """What every row would lose in every subtree, and its leaf there: both (m, n)."""
    n_nodes, n_outputs = value.shape
    loss, leaf = np.empty((n_nodes, len(Z))), np.empty((n_nodes, len(Z)), np.int32)
    for i in range(len(Z)):
        for v in range(n_nodes - 1, -1, -1):  # children come after their parent
            if children_left[v] < 0:
                square = 0.0
                for k in range(n_outputs):
                    square += (Y[i, k] - value[v, k]) ** 2
                loss[v, i], leaf[v, i] = w[i] * square, v
            else:
                child = children_right[v] if Z[i, feature[v]] > threshold[v] else children_left[v]
                loss[v, i], leaf[v, i] = loss[child, i], leaf[child, i]
    return loss, leaf


@compiled
def best_cut(
    values: Any, orders: Any, left_loss: Any, right_loss: Any, left_leaf: Any, right_leaf: Any, w: Any, prices: Any,
    n_nodes: int, min_weight: float,
) -> tuple[int, float, float]:  # fmt: skip
    """The cut of lowest loss plus price that leaves every leaf ``min_weight``, as column, threshold and that sum.

    ``values`` and ``orders`` (q, r) are those of sorted rows, ``prices`` are (q,), the others (r,). More rows on the
    left never take from leaves on the left, so that allowed cuts are an interval of the order: it begins where no leaf
    on the left lacks weight, and ends where the first one on the right does. The sum is infinite when there is none.
    """
    need = min_weight * (1 - 1e-9) if min_weight > 0 else -np.inf
    total, full, wanted = 0.0, np.zeros(n_nodes), np.zeros(n_nodes, np.bool_)
    for i in range(len(w)):
        total += right_loss[i]
        full[right_leaf[i]] += w[i]
        wanted[left_leaf[i]] = True
    feature, threshold, best = 0, np.nan, np.inf
    for j in range(len(values)):
        z, order = values[j], orders[j]
        same = EQUAL * max(-z[0], z[-1])
        spare, held = full.copy(), np.zeros(n_nodes)
        lacking = wanted.sum() if min_weight > 0 else 0
        running = total + prices[j]
        for k in range(len(order) - 1):
            i = order[k]
            running += left_loss[i] - right_loss[i]
            lacked = held[left_leaf[i]] < need
            held[left_leaf[i]] += w[i]
            if lacked and held[left_leaf[i]] >= need:
                lacking -= 1
            spare[right_leaf[i]] -= w[i]
            if spare[right_leaf[i]] < need:
                break
            if lacking == 0 and running < best and z[k + 1] - z[k] > same:
                middle = z[k] + (z[k + 1] - z[k]) / 2
                feature, threshold, best = j, middle if middle < z[k + 1] else z[k], running
    return feature, threshold, best
