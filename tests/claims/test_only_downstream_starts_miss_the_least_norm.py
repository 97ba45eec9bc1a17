"""Fewer data than features: from a function close to zero, only downstream starts end away from the least norm.

Published (arXiv 2406.06158): the potential that the end minimises, and what becomes of it as the start shrinks. The
size of the miss, ``|P_null w0| |a| / |min_norm|``, is derived here; every end is compared with integration.
"""

from __future__ import annotations

import numpy as np
import pytest

from featlearn.dynamics.implicit_bias import implicit_bias

X = np.array([[1.0, 0.5, 0.0, 0.2], [0.0, 1.5, 0.3, -0.4]])
Y = np.array([0.8, -0.5])


def misses(delta: float, outputs: tuple[float, ...], seed: int) -> list[float]:
    direction = np.random.default_rng(seed).normal(size=4)
    direction /= np.linalg.norm(direction)
    found = []
    for output in outputs:
        R = np.hypot(delta, 2 * output)
        # The smaller of the two layers cancels.
        large = np.sqrt((R + abs(delta)) / 2)
        a, w = (large, output / large) if delta >= 0 else (output / large, large)
        end = implicit_bias(a, w * direction, X, Y)
        assert end.verify().ok
        found.append(float(end.excess_norm))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_upstream_the_miss_shrinks_in_proportion_to_the_start(seed: int) -> None:
    large, small = misses(1.0, (1e-2, 1e-4), seed)
    assert large / small == pytest.approx(100, rel=0.05)
    assert small < 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_balanced_it_shrinks_with_the_root_of_the_start(seed: int) -> None:
    large, small = misses(0.0, (1e-2, 1e-4), seed)
    assert large / small == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_downstream_it_stays(seed: int) -> None:
    large, small = misses(-1.0, (1e-2, 1e-4), seed)
    assert small > 0.1
    assert small == pytest.approx(large, rel=0.1)
