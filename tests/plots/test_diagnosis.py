from __future__ import annotations

import copy

import matplotlib.pyplot as plt
import pytest
import torch
from cases import fill, normal
from torch import nn

from featlearn.dynamics.diagnose import diagnose, diagnose_weights
from featlearn.exceptions import DataError


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def nets():
    build = lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))  # noqa: E731
    return fill(build()), fill(build(), 3)


def test_dashboard_shows_the_numbers_of_the_diagnosis():
    diagnosis = diagnose(*nets(), normal(40, 4))
    regime, weights, balance, terms = diagnosis.plot()
    assert regime.figure.get_suptitle() == diagnosis.verdict
    evidence = diagnosis.evidence
    star = regime.lines[-1]
    assert float(star.get_xdata()[0]) == evidence["kernel_distance"].value
    assert float(star.get_ydata()[0]) == evidence["hamming"].value
    assert [bar.get_width() for bar in weights.patches] == list(evidence["weights_moved"].parts.values())
    starts = next(line for line in balance.lines if line.get_label() == "start")
    assert list(starts.get_xdata()) == list(evidence["balance_start"].parts.values())
    assert len(terms.containers[0]) == len(diagnosis.mechanisms.pairs)


def test_the_start_itself_stands_on_the_edge():
    before, _ = nets()
    regime = diagnose(copy.deepcopy(before), before, normal(40, 4)).plot()[0]
    assert float(regime.lines[-1].get_xdata()[0]) == 1e-5


def test_what_was_not_measured_is_said():
    before, after = nets()
    regime, *_ = diagnose_weights(before, after, [("0", "2")]).plot()
    assert any("not measured" in text.get_text() for text in regime.texts)
    single = fill(nn.Linear(4, 2))
    panels = diagnose(copy.deepcopy(single), single, normal(40, 4)).plot()
    assert [text.get_text() for ax in panels[2:] for text in ax.texts] == [
        "no two layers between which a change of scale passes",
        "no two consecutive layers",
    ]


def test_one_axes_gets_the_regime_and_three_are_refused():
    diagnosis = diagnose(*nets(), normal(40, 4))
    figure, ax = plt.subplots()
    assert diagnosis.plot(ax) == [ax]
    assert ax.get_xscale() == "log"
    with pytest.raises(DataError, match="one or four"):
        diagnosis.plot(figure.subplots(1, 3))
    assert torch.is_grad_enabled()
