"""On the UCI protein table the metric's full power makes predictions worse than no metric; its root does not.

Derived for this library: the reason why the power is chosen, not assumed.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from featlearn.machines.columns import Columns
from featlearn.machines.rfm import RFMRegressor

FAST = {"kernel": "laplace", "columns": Columns(), "random_state": 0}


@pytest.fixture(scope="module")
def protein(data_folder):
    rows = np.loadtxt(data_folder / "tabular" / "uci" / "protein" / "data.csv.gz", delimiter=",")
    return rows[np.random.default_rng(0).permutation(len(rows))]


def squares(machine: RFMRegressor, train: NDArray[np.float64], test: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared errors on the test rows, in units of their variance."""
    machine.fit(train[:, :-1], train[:, -1])
    return (machine.predict(test[:, :-1]) - test[:, -1]) ** 2 / test[:, -1].var()


def significance(worse: NDArray[np.float64], better: NDArray[np.float64]) -> float:
    """Mean difference in its standard errors, row by row."""
    difference = worse - better
    return float(difference.mean() / (difference.std() / len(difference) ** 0.5))


def test_five_steps_of_the_full_power_hurt_and_of_its_root_do_not(protein):
    train, test = protein[:2000], protein[-3000:]
    plain, full, root = (
        squares(RFMRegressor(**FAST, alpha=0.1, power=power, max_iter=steps, tol=0.0, selection=None), train, test)
        for power, steps in ((1.0, 0), (1.0, 5), (0.5, 5))
    )
    assert significance(full, plain) > 2
    assert significance(full, root) > 4
    assert significance(root, plain) < 0


def test_what_is_chosen_is_not_worse_than_no_metric(protein):
    train, test = protein[:800], protein[-3000:]
    chosen = RFMRegressor(**FAST, alpha=(1e-2, 1e-1, 1.0), max_iter=3)
    found, plain = squares(chosen, train, test), squares(RFMRegressor(**FAST, alpha=0.1, max_iter=0), train, test)
    assert significance(found, plain) < 2
