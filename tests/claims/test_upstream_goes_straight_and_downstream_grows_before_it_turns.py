"""One linear neuron: the balance of its layers decides the path, upstream straight, downstream radial and then around.

Published (abstract of arXiv 2406.06158): the balance of the layers, conserved by gradient flow, decides between lazy
and rich, and upstream, balanced and downstream starts differ. The paths below are derived here from the metric
``M = (R + delta)/2 I + (R - delta)/2 bh bh^T``, and measured on integrated weights, not on the closed form.
"""

from __future__ import annotations

import numpy as np
import pytest

from featlearn.dynamics.single_neuron import SingleNeuron

TARGET = np.array([1.0, 0.0])
START = np.array([0.5, np.sqrt(0.75)])  # 60 degrees away


def neuron(delta: float, output: float = 1e-2) -> SingleNeuron:
    """With the given balance and ``|beta0| = output``."""
    R = np.hypot(delta, 2 * output)
    a, w = np.sqrt((R + delta) / 2), np.sqrt((R - delta) / 2)
    return SingleNeuron(a, w * START, TARGET)


def angle(vectors: np.ndarray) -> np.ndarray:
    """Degrees to the target."""
    return np.degrees(np.arccos(vectors[0] / np.linalg.norm(vectors, axis=0)))


def test_upstream_beta_goes_straight_while_the_kernel_stays() -> None:
    model = neuron(30.0)
    t = np.linspace(0, 10 / 30, 200)
    beta = model.simulate(t).beta
    straight = TARGET[:, None] + np.exp(-30 * t) * (beta[:, :1] - TARGET[:, None])
    assert np.abs(beta - straight).max() < 0.01
    assert model.kernel_distance(np.inf)[0] < 1e-3


def test_upstream_only_the_first_layer_changes_and_it_changes_much() -> None:
    model = neuron(30.0)
    end = model.simulate([10 / 30])
    assert abs(end.a[0] / model.a0 - 1) < 0.01
    assert np.linalg.norm(end.w[:, 0]) / np.linalg.norm(model.w0) > 50


def test_downstream_beta_first_grows_along_the_initial_direction() -> None:
    model = neuron(-30.0)
    early = model.simulate(np.linspace(0, 8 / 30, 50))
    turned = angle(early.w)[0] - angle(early.w)
    assert np.abs(turned).max() < 1.0
    # as far as this direction can fit the target
    assert np.linalg.norm(early.beta[:, -1]) == pytest.approx(0.5, abs=0.01)


def test_downstream_beta_then_turns_slowly_on_a_circle_through_the_target() -> None:
    model = neuron(-30.0)
    t = np.linspace(8 / 30, 200.0, 200)
    beta = model.simulate(t).beta
    size = np.linalg.norm(beta, axis=0)
    np.testing.assert_allclose(beta[0] / size, size, atol=0.01)  # |beta| = target . direction
    half = t[np.argmax(angle(beta) < 30)]
    assert half > 50 * (8 / 30)
    assert angle(beta[:, -1]) < 1.0
    assert model.kernel_distance(np.inf)[0] > 0.5


def test_balanced_small_starts_turn_while_small_and_then_grow() -> None:
    model = neuron(0.0, output=1e-6)
    path = model.simulate(np.linspace(0, 12, 2000))
    size = np.linalg.norm(path.beta, axis=0)
    assert angle(path.beta[:, size > 0.1]).max() < 1.0
    kernel = path.a**2 + (path.w**2).sum(axis=0)
    assert kernel[-1] / kernel[0] > 1e5


@pytest.mark.parametrize("delta", [-30.0, -1.0, 0.0, 1.0, 30.0])
def test_each_stays_on_its_hyperbola(delta: float) -> None:
    path = neuron(delta).simulate(np.linspace(0, 5, 50))
    kernel = path.a**2 + (path.w**2).sum(axis=0)
    np.testing.assert_allclose(kernel, np.sqrt(delta**2 + 4 * (path.beta**2).sum(axis=0)), rtol=1e-8)
