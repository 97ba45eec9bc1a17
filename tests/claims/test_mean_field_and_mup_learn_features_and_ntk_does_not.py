"""A two-layer linear network learns features in mean-field, maximal-update and Xavier scaling, not in the other ones.

Published (abstract of arXiv 2401.07085): the model, that it is exactly solvable, and that alignment, disalignment and
rescaling belong to the feature-learning phase. The numbers are this package's, each for twenty random networks.
"""

from __future__ import annotations

import numpy as np
import pytest

from featlearn.dynamics.linear_net_1d import LinearNet1D
from featlearn.dynamics.parametrisations import NAMED_PARAMETRISATIONS
from featlearn.dynamics.phase_diagram import phase_diagram

WIDTHS = (10, 100, 1000, 10_000)
FEATURE = ("mean_field", "mup", "xavier")


def nets(name: str, width: int) -> LinearNet1D:
    return LinearNet1D.sample(width, name, random_state=0, draws=20)


@pytest.mark.parametrize("name", FEATURE)
def test_the_kernel_of_feature_learners_grows_by_root_two(name: str) -> None:
    rho = nets(name, 1000).hyperbola.rho
    assert rho.mean() == pytest.approx(np.sqrt(2) - 1, abs=0.02)
    # By the same factor draw by draw: the three are one model.
    np.testing.assert_allclose(rho, nets("mean_field", 1000).hyperbola.rho, rtol=1e-9)


def test_the_growth_falls_to_root_two_with_the_width() -> None:
    means = [nets("mean_field", width).hyperbola.rho.mean() for width in WIDTHS]
    np.testing.assert_allclose(means, [0.514, 0.434, 0.419, 0.415], atol=0.06)
    assert abs(means[-1] - (np.sqrt(2) - 1)) < 0.005


@pytest.mark.parametrize("name", ["ntk", "kaiming", "kaiming_slow"])
def test_the_kernel_of_the_others_stays(name: str) -> None:
    for width in WIDTHS[1:]:
        assert abs(nets(name, width).hyperbola.rho.mean()) < 2e-3


def test_kaiming_at_rate_one_has_a_kernel_as_large_as_the_width() -> None:
    means = [nets("kaiming", width).hyperbola.Theta0.mean() for width in WIDTHS]
    np.testing.assert_allclose(means, [10.4, 101, 1001, 9976], rtol=0.15)


@pytest.mark.parametrize("name", NAMED_PARAMETRISATIONS)
def test_mechanisms_are_seen_in_the_feature_phase_only(name: str) -> None:
    labels = set(nets(name, 10_000).mechanisms().labels.tolist())
    assert labels == ({("alignment", "rescaling")} if name in FEATURE else {("kernel-like",)})
    phase = phase_diagram(width=10_000, resolution=2).frame().loc[name, "phase"]
    assert phase == ("feature" if name in FEATURE else "kernel")
