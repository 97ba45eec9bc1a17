"""Figures of the balance of layers show the numbers of the result."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from cases import CASES, fill, normal
from torch import nn

from featlearn.plots.balance import plot_balance, plot_layer_balance
from featlearn.training.balance import balance_of, layer_balance


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def net(depth: int = 4) -> nn.Sequential:
    return fill(nn.Sequential(*[part for _ in range(depth) for part in (nn.Linear(5, 5), nn.ReLU())]))


def loss(outputs: torch.Tensor, _: object) -> torch.Tensor:
    return outputs.square().mean()


def test_relative_speeds_before_and_after_are_drawn_on_a_logarithmic_axis():
    balance = layer_balance(net(), 0.5, batch=normal(8, 5), loss=loss)
    ax = balance.plot()
    before, after = ax.lines
    layers = balance.layers.values()
    np.testing.assert_allclose(before.get_ydata(), [layer.speed_before for layer in layers])
    np.testing.assert_allclose(after.get_ydata(), [layer.speed_after for layer in layers])
    assert ax.get_yscale() == "log"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "2", "4", "6"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["before", "after, tilt 0.5"]


def test_without_a_loss_the_norms_are_drawn_into_the_axes_given():
    balance = layer_balance(net(), -0.5)
    _, given = plt.subplots()
    assert balance.plot(ax=given) is given
    assert r"\|W\|" in given.get_ylabel()
    np.testing.assert_allclose(given.lines[1].get_ydata(), [layer.norm_after for layer in balance.layers.values()])


def test_a_layer_without_gradient_keeps_the_axis_linear():
    model = net()
    with torch.no_grad():
        model[6].bias.fill_(-1e6)
    balance = layer_balance(model, 0.5, batch=normal(8, 5), loss=loss)
    assert all(layer.speed_before == 0 for layer in balance.layers.values())
    assert balance.plot().get_yscale() == "linear"


def test_bars_are_balances_and_diamonds_stand_where_the_matrix_version_is_defined():
    report = balance_of(CASES["encoder"].model())
    ax = report.plot()
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [pair.balance for pair in report.pairs])
    assert len(ax.lines) == 1  # the zero line alone: no pair of this model is known to be a chain
    assert ax.get_legend() is None
    chain = balance_of(net())
    ax = plot_balance(chain.to_dict())
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [pair.matrix for pair in chain.pairs])
    assert ax.get_ylim() == (-1.05, 1.05)


def test_many_layers_are_not_named_one_by_one():
    ax = plot_layer_balance(layer_balance(net(40)).to_dict())
    assert len(ax.get_xticklabels()) < 40
    assert ax.get_xlabel() == "layers, from the input to the output"
