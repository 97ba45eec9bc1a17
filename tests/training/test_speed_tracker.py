"""Feature speed along training: the rehearsed step is the one that training makes, and training does not notice."""

from __future__ import annotations

import copy
import math

import matplotlib
import pytest
import torch
from torch import nn
from torch.nn import functional

from featlearn import SLO, FeatureSpeedTracker, slo_groups
from featlearn.exceptions import DataError, FeatlearnWarning

matplotlib.use("Agg")


def problem(seed: int = 0) -> tuple[nn.Sequential, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(32, 5, generator=generator, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return net, (x, x[:, :1] * x[:, 1:2])


def train(net: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], optimizer: torch.optim.Optimizer, tracker=None):
    for _ in range(12):
        optimizer.zero_grad()
        functional.mse_loss(net(batch[0]), batch[1]).backward()
        optimizer.step()
        if tracker is not None:
            tracker.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9),
        lambda net: torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1),
        lambda net: SLO(torch.optim.SGD(slo_groups(net, "0"), lr=1e-2)),
    ],
    ids=["momentum", "adamw", "slo"],
)
def test_training_is_bitwise_the_same_with_and_without(make) -> None:
    net, batch = problem()
    other = copy.deepcopy(net)
    optimizer = make(net)
    train(net, batch, optimizer, FeatureSpeedTracker(net, functional.mse_loss, batch, optimizer, every=3))
    train(other, batch, make(other))
    for mine, plain in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, plain)


def test_the_finite_change_is_that_of_the_next_step() -> None:
    net, batch = problem()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    tracker = FeatureSpeedTracker(net, functional.mse_loss, batch, optimizer, every=4, finite=True)
    train(net, batch, optimizer, tracker)
    layer = tracker.history[-1][1]["2"]
    before = net[:3](batch[0]).detach()
    optimizer.zero_grad()
    functional.mse_loss(net(batch[0]), batch[1]).backward()
    optimizer.step()
    change = (net[:3](batch[0]).detach() - before).square().mean().sqrt()
    assert layer.finite_ratio * layer.feature_change_rms == pytest.approx(change.item(), rel=1e-9)


def test_frame_log_and_figure_hold_every_measurement() -> None:
    net, batch = problem()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    seen: list[dict[str, object]] = []
    tracker = FeatureSpeedTracker(net, functional.mse_loss, batch, optimizer, every=5, log=seen.append)
    train(net, batch, optimizer, tracker)
    frame = tracker.frame()
    assert [step for step, _ in tracker.history] == [0, 5, 10]
    assert frame["layer"].tolist() == ["0", "2", "4"] * 3
    assert seen[1]["2/cos_theta"] == frame.loc[4, "cos_theta"]
    loss, layers = tracker.plot()
    assert loss.lines[0].get_ydata().tolist() == [speed.loss for _, speed in tracker.history]
    assert layers.lines[1].get_ydata().tolist() == [speed["2"].relative_change for _, speed in tracker.history]


def test_a_diverged_network_is_a_warning_and_training_goes_on() -> None:
    net, batch = problem()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    tracker = FeatureSpeedTracker(net, functional.mse_loss, batch, optimizer, every=1)
    with torch.no_grad():
        net[0].weight.fill_(math.nan)
    with pytest.warns(FeatlearnWarning, match="Step 1 was not measured"):
        assert tracker.step() is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 0}, DataError, "Got every=0"),
        ({"log": 3}, DataError, "Got log=3"),
        ({"update": "gradient"}, TypeError, "Got update"),
    ],
)
def test_bad_options_are_refused(options, error, message) -> None:
    net, batch = problem()
    with pytest.raises(error, match=message):
        FeatureSpeedTracker(net, functional.mse_loss, batch, torch.optim.SGD(net.parameters(), lr=0.1), **options)
