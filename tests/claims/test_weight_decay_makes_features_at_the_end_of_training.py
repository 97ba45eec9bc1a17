"""Fitting a teacher does not need its directions; weight decay finds them, exactly, at any strength.

Model of Zhou and Ge (arXiv 2406.01766), solved here: d = 6, orthonormal teachers with scales 1, .8, 1.2. Published
(abstract): gradient descent on a regularised objective captures the teacher's directions once the loss is small.
"""

from __future__ import annotations

import numpy as np
import pytest

from featlearn.dynamics.late_features import LateFeatures

TEACHER = {"teacher_weights": np.eye(6)[:3], "teacher_scales": [1.0, 0.8, 1.2]}
OWN = 1 - 2 / np.pi


@pytest.mark.slow
def test_every_stage_of_a_falling_decay_ends_at_the_optimum():
    model = LateFeatures(**TEACHER, random_state=0)
    ends = model.simulate(model.stages[1])
    np.testing.assert_allclose(ends.loss / ends.decay**2, 1.5 / OWN, rtol=1e-3)  # 4.128
    np.testing.assert_allclose(ends.mass[:, 0], [0.917, 0.717, 1.117], atol=1e-3)
    assert ends.angle.max() < 1e-4
    assert float(model.verify()) < 1e-3


def test_without_decay_a_large_start_fits_without_features_and_decay_then_makes_them():
    schedule = [(0.0, 8000), (1e-2, 8000)]
    model = LateFeatures(**TEACHER, init_scale=1.5, lr=0.05, schedule=schedule, random_state=0)
    run = model.simulate(8000 + np.arange(9) * 1000)
    assert run.loss[0] < 1e-5
    assert run.angle[0] > 0.5
    assert run.total_mass[0] > 10 * 3.0  # the teacher's is 3
    assert (np.diff(run.angle) < 0).all()
    assert run.angle[-1] < 0.05
    best = model.theory()
    assert float(best.loss) == pytest.approx(4.13e-4, rel=1e-3)
    assert run.loss[-1] == pytest.approx(float(best.loss), rel=2e-2)
    assert run.loss[1:].max() > 1.5 * best.loss  # decay costs some of the fit before the directions are found
