"""IRMv1 from small filters learns nothing; after some fifty steps of plain training it finds the invariant feature.

Published (Chen et al., 2023): IRMv1 hardly learns features itself and needs features from plain training. The toy, the
number of steps and the values are this package's, computed with exact weights of eight points.
"""

from __future__ import annotations

import pytest

from featlearn.robust.two_feature_toy import TwoFeatureToy

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("pretrain_steps", "steps"), [(0, 1500), (10, 3000)])
def test_too_few_steps_of_erm_end_at_filters_of_zero(pretrain_steps, steps):
    run = TwoFeatureToy().train("irm", steps, pretrain_steps=pretrain_steps)
    assert abs(run.invariant[-1]) < 1e-3
    assert abs(run.spurious[-1]) < 1e-3
    assert run.loss[-1] == pytest.approx(0.6931, abs=1e-3)  # log 2, that of knowing nothing


@pytest.mark.parametrize(("pretrain_steps", "steps"), [(50, 3000), (500, 4000)])
def test_enough_steps_of_erm_end_at_the_invariant_feature_alone(pretrain_steps, steps):
    toy = TwoFeatureToy()
    run = toy.train("irm", steps, pretrain_steps=pretrain_steps)
    assert run.spurious[pretrain_steps] > 1.3 * run.invariant[pretrain_steps]  # ERM prefers the other one
    assert run.invariant[-1] == pytest.approx(1.114, abs=5e-3)
    assert run.spurious[-1] == pytest.approx(0.0176, abs=5e-3)
    for noise in (0.1, 0.9):
        assert toy.accuracy(run.weights, noise) == pytest.approx(0.75)


def test_erm_alone_follows_the_spurious_feature():
    toy = TwoFeatureToy()
    assert toy.accuracy(toy.train("erm", 500).weights, 0.9) == pytest.approx(0.1)
