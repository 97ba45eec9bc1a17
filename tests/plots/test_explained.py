"""Prediction against measurement: what is drawn is what was measured."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from cases import fill, mlp, normal
from torch import nn

from featlearn import FeatureTracker, early_alignment
from featlearn.exceptions import DataError
from featlearn.plots import plot_early, plot_explained


def train(**options: Any) -> FeatureTracker:
    model, X = fill(mlp()), normal(48, 5)
    Y = torch.stack([X[:, 0] * X[:, 1], X[:, 2], X[:, 3]], dim=1)
    batches = list(zip(X.split(8), Y.split(8), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with FeatureTracker(model, batches, schedule="log", **options) as tracker:
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(X), Y).backward()
            optimizer.step()
            tracker.step()
    return tracker


@pytest.fixture(scope="module")
def tracker() -> FeatureTracker:
    return train(loss=nn.functional.mse_loss, spectra=True)


@pytest.fixture(autouse=True)
def closed() -> Any:
    yield
    plt.close("all")


def lines(ax: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in ax.lines}


def test_every_panel_shows_its_columns(tracker: FeatureTracker) -> None:
    X = normal(48, 5)
    predicted = early_alignment(X, X[:, 0], statistic="cosine")
    axes = tracker.plot_explained({"0": predicted})
    assert axes.shape == (2, 3)
    frame = tracker.frame()
    for row, name in zip(axes, ("0", "2"), strict=True):
        own = frame[frame["layer"] == name]
        left, middle, right = (lines(ax) for ax in row)
        np.testing.assert_array_equal(left["measured"].get_ydata(), own["centered_nfa"])
        np.testing.assert_array_equal(left["its chance level"].get_ydata(), own["centered_null"])
        assert left["from the first gradient"].get_ydata()[0] == own["derivative_nfa"].iloc[0]
        assert ("from inputs and labels" in left) == (name == "0")
        np.testing.assert_array_equal(middle["ansatz (cosine)"].get_ydata(), own["nfa_cosine"])
        product = own["directional"] * own["spectral"]
        np.testing.assert_array_equal(right["their product"].get_ydata(), product)
        np.testing.assert_allclose(product, own["nfa_cosine"], atol=1e-9)
        assert row[0].get_ylabel() == f"layer {name}"
    # Of the tracker's statistic, which is Pearson.
    assert lines(axes[0, 0])["from inputs and labels"].get_ydata()[0] == predicted.pearson


def test_areas_add_up_to_the_line(tracker: FeatureTracker) -> None:
    axes = tracker.plot_explained(layers=["2"])
    assert axes.shape == (1, 3)
    areas: dict[str, float] = {}
    for area in axes[0, 1].collections:
        heights = area.get_paths()[0].vertices[:, 1]
        areas[area.get_label()] = max(areas.get(area.get_label(), 0), heights.max())
    own = tracker.frame().query("layer == '2'")
    positive = own[["nfa_initial", "nfa_mixed", "nfa_learned"]].clip(lower=0)
    assert areas["initial"] == pytest.approx(positive["nfa_initial"].max())
    assert areas["learned"] == pytest.approx(positive.sum(axis=1).max())


def test_without_loss_and_spectra_less_is_drawn() -> None:
    axes = train().plot_explained()
    assert "from the first gradient" not in lines(axes[0, 0])
    assert "shared directions" not in lines(axes[0, 2])
    assert "weights with kernel" in lines(axes[0, 2])


def test_it_draws_into_given_axes(tracker: FeatureTracker) -> None:
    own = plt.subplots(1, 3)[1]
    assert tracker.plot_explained(layers=["0"], axes=own)[0, 1] is own[1]
    with pytest.raises(DataError, match="Got 3 Axes, but expected three for each of the 2 layers"):
        tracker.plot_explained(axes=own)


def test_unknown_layers_and_other_histories_are_refused(tracker: FeatureTracker) -> None:
    with pytest.raises(DataError, match="Got layers 7, but expected some of 0, 2"):
        tracker.plot_explained(layers=["7"])
    with pytest.raises(DataError, match="Got layers 9"):
        plot_explained(tracker.frame(), {"9": 0.5})
    with pytest.raises(DataError, match="quantity='nfa_cosine'"):
        plot_explained(pd.DataFrame({"step": [0], "layer": ["0"], "nfa": [0.5]}))


def test_rows_are_a_history_too(tracker: FeatureTracker) -> None:
    frame = tracker.frame()
    first, second = plot_explained(frame), plot_explained(frame.to_dict("records")[::-1], layers=["0", "2"])
    for a, b in zip(first.flat, second.flat, strict=True):
        for one, other in zip(a.lines[:1], b.lines[:1], strict=True):
            np.testing.assert_array_equal(one.get_ydata(), other.get_ydata())


@pytest.mark.parametrize("layer", [1, 2])
def test_predicted_spectra(layer: int) -> None:
    X = normal(40, 5)
    found = early_alignment(X, X[:, 0] * X[:, 1], depth=2, layer=layer)
    ax = found.plot()
    drawn = lines(ax)["feature matrix"].get_ydata()
    np.testing.assert_array_equal(drawn, found.nfm_spectrum.values[: len(drawn)])
    assert f"{found.cosine:.3f}" in ax.get_title()
    own = plt.subplots()[1]
    assert plot_early(found.to_dict(), ax=own) is own
