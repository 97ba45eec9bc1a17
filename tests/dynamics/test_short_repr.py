from __future__ import annotations

import numpy as np
import pytest
from cases import fill, normal
from torch import nn

from featlearn.dynamics import (
    LinearNet1D,
    OneStepCK,
    RunRecorder,
    SingleNeuron,
    condensation,
    implicit_bias,
    phase_diagram,
)

RNG = np.random.default_rng(0)
NET = LinearNet1D.sample(300, "mean_field", random_state=0)


def recorded():
    recorder = RunRecorder(fill(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))), normal(40, 4))
    for step in range(60):
        recorder(step)
    return recorder.diagnose()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (phase_diagram, "PhaseDiagram(plane='exponents', settings={'width': 1000, 'target': 1.0})"),
        (lambda: NET, "LinearNet1D(u0=<array of shape (300,)>"),
        (lambda: NET.closed_form(np.arange(50.0)), "'u': <array of shape (300, 50)>"),
        (lambda: NET.mechanisms(np.arange(50.0)), "Mechanisms(width=300"),
        (lambda: SingleNeuron(1.0, np.ones(100), np.ones(100)), "a0=array(1.), w0=<array of shape (100,)>"),
        (lambda: OneStepCK(psi1=np.arange(1, 90), psi2=1, ridge=1).theory(), "risk0=<array of shape (89,)>"),
        (lambda: implicit_bias(1.0, np.ones(50), np.eye(50)[:3], np.ones(3)), "ImplicitBias(beta=<array"),
        (lambda: condensation(RNG.standard_normal((80, 3))), "Condensation(lines=<array of shape (80,)>"),
        (recorded, "Diagnosis(regime='lazy', kind=None, flags=("),
        (lambda: recorded().mechanisms, "steps=(0, 1, 2, 3, 4, 5, ...), pairs=(PairMechanisms(first='0'"),
    ],
)
def test_models_and_results_are_one_short_line(make, words) -> None:
    shown = repr(make())
    assert words in shown
    assert len(shown) < 500
    assert "\n" not in shown


def test_a_few_numbers_are_shown() -> None:
    assert "u0=array([0.5, 0.2]), w0=array([ 0.3, -0.1])" in repr(LinearNet1D([0.5, 0.2], [0.3, -0.1]))
