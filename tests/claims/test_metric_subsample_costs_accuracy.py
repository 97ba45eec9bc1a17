"""A metric learned on some of the rows costs accuracy, even when all rows are fitted with it; less with power 1/2.

Derived for this library: the reason why ``metric_samples`` is None by default.
"""

from __future__ import annotations

import numpy as np

from featlearn.machines.columns import Columns
from featlearn.machines.rfm import RFMRegressor


def errors(power: float, seed: int) -> list[float]:
    """Test errors with the metric of all rows, of half of them and of a quarter."""
    random = np.random.default_rng(seed)
    x, z = random.normal(size=(2000, 50)), random.normal(size=(2000, 50))
    y, truth = (rows[:, 0] * rows[:, 1] + np.sin(rows[:, 2]) for rows in (x, z))
    machine = RFMRegressor(
        kernel="laplace", alpha=1e-2, power=power, max_iter=4, selection=None, columns=Columns(), random_state=0
    )
    fitted = (machine.set_params(metric_samples=rows).fit(x, y) for rows in (None, 1000, 500))
    return [float(np.mean((each.predict(z) - truth) ** 2)) for each in fitted]


def test_fewer_rows_for_the_metric_are_a_larger_error():
    of_all, half, quarter = errors(power=1.0, seed=0)
    assert half > 1.5 * of_all
    assert quarter > 1.5 * half
    of_all_root, half_root, _ = errors(power=0.5, seed=0)
    assert half_root / of_all_root < half / of_all
    assert half_root < half
