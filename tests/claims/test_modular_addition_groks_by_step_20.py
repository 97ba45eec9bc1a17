"""Modular addition is grokked: about ten steps at zero test accuracy, then all pairs right by step 20 or so.

Half of the pairs modulo 61, training error zero throughout; and 31, three draws.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from featlearn.datasets import modular_arithmetic
from featlearn.machines.grokking import grok


@pytest.mark.slow
def test_addition_modulo_61() -> None:
    data = modular_arithmetic(61, "add")
    train = torch.zeros(len(data), dtype=torch.bool)
    train[np.random.default_rng(0).permutation(len(data))[: len(data) // 2]] = True
    history = grok(replace(data, train=train), max_iter=20).history
    accuracy = [entry["test_accuracy"] for entry in history]
    assert max(accuracy[:9]) < 0.002
    assert accuracy[9] < 0.01
    assert accuracy[10:18] == pytest.approx([0.02, 0.17, 0.47, 0.72, 0.86, 0.94, 0.97, 0.99], abs=6e-3)
    assert accuracy[20] > 0.995
    # Every training pair is right at every step: a wrong one has a squared error of at least 1/2.
    assert max(entry["train_loss"] for entry in history) * len(data) < 1e-9


@pytest.mark.parametrize("random_state", [0, 1, 2])
def test_addition_modulo_31(random_state: int) -> None:
    result = grok(modular_arithmetic(31, "add", train_fraction=0.6, random_state=random_state), max_iter=25)
    accuracy = [entry["test_accuracy"] for entry in result.history]
    assert max(accuracy[:7]) < 0.01
    assert 8 <= result.first(0.5) <= 14
    assert accuracy[25] > 0.9
    assert max(entry["train_loss"] for entry in result.history) < 1e-12


def test_shuffled_labels_are_never_grokked() -> None:
    data = modular_arithmetic(31, "add", train_fraction=0.6)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    history = grok(replace(data, labels=data.labels[order]), max_iter=15).history
    assert max(entry["test_accuracy"] for entry in history) < 0.1
    assert max(entry["train_loss"] for entry in history) < 1e-12
