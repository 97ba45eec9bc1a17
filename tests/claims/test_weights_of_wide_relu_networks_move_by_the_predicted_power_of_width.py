"""The relative change of the input weights over training follows the exponent that the initial scales predict.

Regimes of Luo, Xu, Ma and Zhang (arXiv 2007.07497), published (abstract); the exponents are derived here. Where they
approach their limit slowly (gamma' > 0 in the linear regime) nothing is claimed at these widths.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from featlearn.dynamics.phase_slope import kernel_regime_of, phase_slope, regime_of
from featlearn.exceptions import ConvergenceWarning


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "predicted"), [((0.5, 0.0), -0.5), ((1.0, 0.0), 0.0), ((1.5, 0.0), 0.25), ((1.5, 0.5), 0.0)]
)
def test_slopes(place, predicted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a narrow network may be caught above the loss
        found = phase_slope(*place, n_repeats=2, random_state=0)
    assert found.predicted == pytest.approx(predicted)
    assert found.reached.mean() >= 0.8
    assert found.slope == pytest.approx(predicted, abs=0.15)


def test_upstream_the_weights_move_farther_with_width_and_the_kernel_less():
    """(1.25, -.5): condensed for the weights, frozen for the kernel of the linear network; ReLU does the same here."""
    place = (1.25, -0.5)
    assert [str(rule(*place)[0]) for rule in (regime_of, kernel_regime_of)] == ["condensed", "frozen"]
    found = phase_slope(*place, widths=(16, 64), n_repeats=1, random_state=0)
    assert np.diff(found.rd[:, 0]) > 0
    assert np.diff(found.kernel_change[:, 0]) < 0
