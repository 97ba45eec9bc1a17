"""Probabilities of a kernel machine as a softmax whose sharpness comes from rows left out, beside clipped scores.

Derived for this library: one number, chosen on honest scores, nearly halves the log loss on MNIST.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import log_loss

from featlearn.datasets import load_mnist
from featlearn.machines.calibration import fit_sharpness
from featlearn.machines.columns import Columns
from featlearn.machines.rfm import RFMClassifier


def test_one_sharpness_nearly_halves_the_log_loss_of_clipped_scores(data_folder):
    train, test = (
        load_mnist(split, n=n, folder=data_folder / "mnist") for split, n in (("train", 1000), ("test", 9000))
    )
    x, labels = train.images.flatten(1).double(), train.labels
    z, truth = test.images[-2000:].flatten(1).double(), test.labels[-2000:]
    machine = RFMClassifier(
        kernel="laplace", alpha=1e-2, max_iter=0, selection=None, columns=Columns(standardize=False), random_state=0
    ).fit(x, labels)
    scores = machine.decision_function(z).double()
    clipped = scores.numpy().clip(1e-3)
    clipped /= clipped.sum(axis=1, keepdims=True)
    soft = machine.predict_proba(z).numpy()
    assert log_loss(truth, soft) < 0.6 * log_loss(truth, clipped)
    np.testing.assert_array_equal(soft.argmax(axis=1), scores.numpy().argmax(axis=1))  # nothing else changes
    # No sharpness that knows the test labels does much better.
    best = torch.softmax(fit_sharpness(scores, truth) * scores, dim=1)
    assert log_loss(truth, soft) < log_loss(truth, best.numpy()) + 0.01
