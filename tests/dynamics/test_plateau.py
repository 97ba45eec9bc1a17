from __future__ import annotations

import numpy as np
import pytest

from featlearn.dynamics.attraction_repulsion import bipartite_example
from featlearn.dynamics.plateau import plateau
from featlearn.exceptions import DataError

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((4, 3)), RNG.standard_normal((4, 2))
SHORT = {"weight_decay": 1e-2, "n_restarts": 3, "random_state": 0}


def objective(W1, W2, weight_decay, bias=0.0, inputs=X, targets=Y):
    def with_bias(rows):
        return np.column_stack([rows, np.full(len(rows), bias)]) if bias else rows

    outputs = with_bias(np.maximum(with_bias(inputs) @ W1.T, 0)) @ W2.T
    return np.sum((targets - outputs) ** 2) / len(targets) + weight_decay * (np.sum(W1**2) + np.sum(W2**2))


@pytest.mark.parametrize("bias", [0.0, 0.8])
def test_the_losses_are_those_of_the_weights_and_local_minima(bias):
    found = plateau(X, Y, [2, 4], bias=bias, **SHORT)
    rng = np.random.default_rng(1)
    for loss, (W1, W2) in zip(found.loss, found.weights, strict=True):
        assert loss == pytest.approx(objective(W1, W2, 1e-2, bias), rel=1e-9)
        for size in (1e-4, 1e-3):
            moved = [weight + size * rng.standard_normal(weight.shape) for weight in (W1, W2)]
            assert objective(*moved, 1e-2, bias) > loss
        # At a minimum scales are balanced: each hidden unit's weights have the same norm on both sides.
        hidden = W2[:, : len(W1)]
        np.testing.assert_allclose(np.linalg.norm(W1, axis=1), np.linalg.norm(hidden, axis=0), atol=1e-2)


def test_no_width_is_below_the_bound_for_any_inputs():
    found = plateau(X, Y, [1, 3, 6], **SHORT)
    assert (found.loss >= found.lower_bound * (1 - 1e-9)).all()
    assert found.lower_bound > 0
    assert np.isnan(plateau(X, Y, [1], bias=1.0, **SHORT).lower_bound)


def test_the_bound_is_that_of_soft_thresholded_singular_values():
    N, lam = 6, 1e-3
    inputs, targets = np.eye(N), bipartite_example(N).Y
    found = plateau(inputs, targets, [1], weight_decay=lam, n_restarts=1, random_state=0)
    left, s, right = np.linalg.svd(targets)
    outputs = left @ np.diag(np.maximum(s - N * lam, 0)) @ right
    nuclear = np.linalg.svd(outputs, compute_uv=False).sum()
    assert found.lower_bound == pytest.approx(np.sum((targets - outputs) ** 2) / N + 2 * lam * nuclear, rel=1e-12)
    assert found.lower_bound / lam == pytest.approx(35.97, abs=1e-3)


def test_one_neuron_that_suffices_reaches_the_bound():
    found = plateau(np.eye(3), np.ones((3, 2)), [1, 2], **SHORT)
    np.testing.assert_allclose(found.loss, found.lower_bound, rtol=1e-6)
    assert found.n_rays.tolist() == [1, 1]
    assert found.found.tolist() == (found.losses <= found.loss[:, np.newaxis] * (1 + 1e-6)).sum(axis=1).tolist()


def test_a_loss_found_once_is_flagged():
    found = plateau(np.eye(4), bipartite_example(4).Y, [3], n_restarts=2, random_state=1)
    assert found.flagged.tolist() == [bool(np.ptp(found.losses[0]) > 1e-6 * found.loss[0])]
    assert not plateau(X, Y, [2], **(SHORT | {"n_restarts": 1})).flagged.any()


def test_every_parameter_changes_the_answer_and_a_seed_repeats_it():
    base = plateau(X, Y, [2], **SHORT)
    np.testing.assert_array_equal(base.losses, plateau(X, Y, [2], **SHORT).losses)
    for change in ({"weight_decay": 2e-2}, {"n_restarts": 4}, {"bias": 1.0}, {"random_state": 1}):
        other = plateau(X, Y, [2], **(SHORT | change)).losses
        assert other.shape != base.losses.shape or (other != base.losses).any()
    assert plateau(X, Y, [3], **SHORT).loss != base.loss


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": X[:3]}, "one row a sample"),
        ({"Y": Y[:, 0]}, "one row a sample"),
        ({"X": X * np.nan}, "X"),
        ({"widths": []}, "at least one"),
        ({"widths": 2.5}, "positive integers"),
        ({"weight_decay": [1e-3]}, "one number"),
        ({"widths": [0]}, "width"),
        ({"weight_decay": 0.0}, "weight_decay"),
        ({"n_restarts": 0}, "n_restarts"),
        ({"bias": -1.0}, "bias"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        plateau(**({"X": X, "Y": Y, "widths": [2]} | change))


def test_tables_and_figure():
    found = plateau(X, Y, [1, 3], **SHORT)
    assert found.frame()["loss"].tolist() == found.loss.tolist()
    assert found.to_dict()["widths"] == [1, 3]
    ax = found.plot()
    best = next(line for line in ax.lines if line.get_label() == "best")
    np.testing.assert_allclose(best.get_ydata(), found.loss / 1e-2)
    assert "loss" in found._repr_html_()


def test_the_figure_names_the_losses_that_its_axis_leaves_out():
    example = bipartite_example(4)
    found = plateau(example.X, example.Y, [1, 2, 3, 4], random_state=0, n_restarts=3)
    values = found.loss / found.weight_decay
    ax = found.plot()
    beyond = values > ax.get_ylim()[1]
    assert beyond.tolist() == [True, True, False, False]
    assert [text.get_text() for text in ax.texts] == [f"{value:.4g}" for value in values[beyond]]
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "^"] == [1, 2]
