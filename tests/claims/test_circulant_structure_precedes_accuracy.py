"""The metric becomes circulant while accuracy and loss on test pairs still show nothing.

Addition and multiplication modulo 31; the latter in the order of discrete logarithms. With shuffled labels the
deviation is that of a random matrix from step 2 on. At step 1 it tells nothing: the block is mostly a constant then,
which is circulant, whatever the labels are.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from featlearn.datasets import modular_arithmetic
from featlearn.machines.grokking import GrokkingResult, circulant_block, circulant_deviation, grok


@pytest.fixture(scope="module", params=["add", "mul"])
def result(request: pytest.FixtureRequest) -> GrokkingResult:
    return grok(modular_arithmetic(31, request.param, train_fraction=0.6), max_iter=20)


def test_deviation_has_fallen_before_accuracy_rises(result: GrokkingResult) -> None:
    first, sixth = result.history[0], result.history[6]
    assert sixth["test_accuracy"] < first["test_accuracy"] + 0.01
    assert sixth["test_loss"] > 0.95 * first["test_loss"]
    assert sixth["deviation"] < 0.2
    assert sixth["deviation"] < 0.3 * max(entry["deviation"] for entry in result.history[1:])
    assert result.first(0.5) >= 9


def test_structure_is_complete_in_the_end(result: GrokkingResult) -> None:
    assert result.history[-1]["deviation"] < 0.04
    assert result.history[-1]["test_accuracy"] > 0.85


def test_deviation_falls_from_step_two_on(result: GrokkingResult) -> None:
    deviations = [entry["deviation"] for entry in result.history[2:]]
    assert deviations == sorted(deviations, reverse=True)


def test_products_show_their_structure_in_one_order_only() -> None:
    metric = grok(modular_arithmetic(31, "mul", train_fraction=0.6), max_iter=20).metric
    assert circulant_deviation(circulant_block(metric, "mul")) < 0.04
    assert circulant_deviation(circulant_block(metric, "add")) > 0.85


def test_shuffled_labels_make_no_structure_but_look_like_it_at_step_one() -> None:
    data = modular_arithmetic(31, "add", train_fraction=0.6)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    history = grok(replace(data, labels=data.labels[order]), max_iter=15).history
    assert history[1]["deviation"] < 0.5
    assert min(entry["deviation"] for entry in history[2:]) > 0.9
