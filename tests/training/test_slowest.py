"""The layer whose ansatz lags gets the speed, and the training can be saved in between."""

from __future__ import annotations

import io
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import Tied, fill, normal
from torch import nn

from featlearn import SLO, FeatureTracker, SpeedUpSlowest, measure_features, slo_groups
from featlearn.exceptions import DataError, ModelError, UnmeasurableError
from featlearn.training.slowest import slowest_layer

NAN = math.nan


def report(**values: float | None) -> Any:
    """A report with these values; of a layer called ``last``, which is trivial, too."""
    layers = {
        name.replace("_", "."): SimpleNamespace(nfa_excess=value, nfa=-1.0 if value is None else -value, trivial=False)
        for name, value in values.items()
    }
    return SimpleNamespace(layers=layers | {"last": SimpleNamespace(nfa_excess=-9.0, nfa=-9.0, trivial=True)})


class Tracker:
    """Gives out reports one after the other."""

    def __init__(self, *reports: Any) -> None:
        self.reports = list(reports)

    def step(self) -> Any:
        return self.reports.pop(0)


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    fill(net)
    return net


def limited(net: nn.Module, fast: str = "0") -> SLO:
    return SLO(torch.optim.SGD(slo_groups(net, fast), lr=0.01))


def speeds(optimizer: SLO) -> dict[str, float | None]:
    return {group["name"]: group.get("speed") for group in optimizer.param_groups}


# --- which layer lags -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"a": 0.3, "b": 0.1, "c": 0.2}, "b"),
        ({"a": NAN, "b": 0.4, "c": None}, "b"),
        ({"a": 0.2, "b": -0.5}, "b"),
        ({"a": 0.2, "b": 0.2}, "a"),
    ],
)
def test_the_smallest_value_lags(values: dict[str, Any], expected: str) -> None:
    assert slowest_layer(report(**values)) == expected


def test_another_quantity_may_be_chosen() -> None:
    assert slowest_layer(report(a=0.3, b=0.1), "nfa") == "a"


def test_the_slowest_of_a_real_report() -> None:
    net = network()
    reference = net.state_dict() | {"0.weight": normal(6, 4)}  # the other layers have not moved
    measured = measure_features(net, normal(60, 4).split(15), reference=reference)
    values = {name: layer.nfa_excess for name, layer in measured.layers.items() if not layer.trivial}
    assert len(values) == 2
    assert slowest_layer(measured) == min(values, key=lambda name: values[name])
    assert slowest_layer(measured, "centered_nfa") == "0"


@pytest.mark.parametrize("field", ["nfa_exces", "trivial", "name"])
def test_what_is_no_number_of_a_layer_is_refused(field: str) -> None:
    measured = measure_features(network(), normal(60, 4).split(15))
    with pytest.raises(DataError, match=f"Got field='{field}', but expected a number"):
        slowest_layer(measured, field)


def test_a_report_without_any_value_is_refused() -> None:
    with pytest.raises(UnmeasurableError, match="'nfa_excess' is nan, not measured or trivial in every layer"):
        slowest_layer(report(a=NAN, b=None))


# --- speeds follow ----------------------------------------------------------------------------------------------------


def test_the_lagging_layer_becomes_fast_and_all_others_slow() -> None:
    net = network()
    optimizer = limited(net)
    reports = [None, report(**{"0": 0.5, "2": 0.1, "4": 0.3}), None, report(**{"0": 0.0, "2": 0.1, "4": 0.3})]
    auto = SpeedUpSlowest(optimizer, net, Tracker(*reports), constant=5.0)
    assert auto.step() is None
    assert speeds(optimizer) == {"0.weight": 20.0, "2.weight": 0.05, "4.weight": 0.05, "exempt": None}
    assert auto.step() is reports[1]
    assert speeds(optimizer) == {"0.weight": 0.2, "2.weight": 5.0, "4.weight": 0.2, "exempt": None}
    auto.step()
    auto.step()
    assert speeds(optimizer) == {"0.weight": 5.0, "2.weight": 0.2, "4.weight": 0.2, "exempt": None}
    assert auto.history == [(2, "2", 0.1), (4, "0", 0.0)]


def test_the_next_step_moves_at_the_new_speeds() -> None:
    net = network()
    optimizer = SLO(torch.optim.SGD(slo_groups(net, "0"), lr=0.01), eps=0.0)
    SpeedUpSlowest(optimizer, net, Tracker(report(**{"0": 0.5, "2": 0.1})), constant=4.0).step()
    before = [net[i].weight.detach().clone() for i in (0, 2, 4)]
    net(normal(8, 4)).square().mean().backward()
    optimizer.step()
    moved = [float((net[i].weight - b).detach().norm()) for i, b in zip((0, 2, 4), before, strict=True)]
    assert moved == pytest.approx([0.0025, 0.04, 0.0025])


def test_layers_without_a_limited_weight_are_never_chosen() -> None:
    net = network()
    net[2].requires_grad_(False)
    optimizer = limited(net)
    values = {"0": 0.5, "2": -1.0, "4": 0.3, "stranger": -2.0}
    auto = SpeedUpSlowest(optimizer, net, Tracker(report(**values), report(**{"0": NAN, "2": -1.0})))
    auto.step()
    assert auto.history == [(1, "4", 0.3)]
    kept = speeds(optimizer)
    auto.step()  # nothing to go by: speeds stay
    assert speeds(optimizer) == kept
    assert len(auto.history) == 1


def test_the_parts_of_attention_become_fast_together() -> None:
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    optimizer = limited(block, "linear1")
    values = {"self_attn.k": 0.1, "self_attn.q": 0.5, "self_attn.v": 0.6, "self_attn.out_proj": 0.7, "linear1": 0.4}
    layers = {name: SimpleNamespace(nfa_excess=value, trivial=False) for name, value in values.items()}
    auto = SpeedUpSlowest(optimizer, block, Tracker(SimpleNamespace(layers=layers)))
    auto.step()
    assert {name for name, speed in speeds(optimizer).items() if speed == 20.0} == {"self_attn.in_proj_weight"}
    assert auto.history == [(1, "self_attn.k", 0.1)]


def test_tied_layers_become_fast_together() -> None:
    net = Tied(4)
    optimizer = limited(net, "head")
    SpeedUpSlowest(optimizer, net, Tracker(report(a=0.4, b=0.1, head=0.5))).step()
    assert speeds(optimizer)["a.weight"] == 20.0


def test_every_layer_of_attention_in_a_real_report_has_a_group() -> None:
    net = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), nn.Linear(8, 2))
    optimizer = limited(net, "1")
    tracker = FeatureTracker(net, torch.randn(40, 3, 8, generator=torch.Generator().manual_seed(0)).split(10), every=1)
    auto = SpeedUpSlowest(optimizer, net, tracker)
    auto.step()
    step, layer, value = auto.history[0]
    values = {name: entry.nfa_excess for name, entry in tracker.history[-1][1].layers.items() if not entry.trivial}
    values = {name: value for name, value in values.items() if not math.isnan(value)}
    assert {"0.self_attn.q", "0.self_attn.out_proj", "0.linear1"} <= set(values)
    assert (step, value) == (1, min(values.values()))
    assert values[layer] == value


# --- saving -----------------------------------------------------------------------------------------------------------


def test_a_saved_run_continues_as_if_it_had_not_stopped() -> None:
    def build() -> tuple[nn.Module, SLO, FeatureTracker, SpeedUpSlowest]:
        net = network()
        tracker = FeatureTracker(net, normal(40, 4).split(10), every=2)
        optimizer = limited(net)
        return net, optimizer, tracker, SpeedUpSlowest(optimizer, net, tracker)

    def train(net: nn.Module, optimizer: SLO, auto: SpeedUpSlowest, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            (net(normal(12, 4, seed=step)) - normal(12, 2, seed=step + 50)).square().mean().backward()
            optimizer.step()
            auto.step()

    net, optimizer, tracker, auto = build()
    train(net, optimizer, auto, range(3))
    states = [part.state_dict() for part in (net, optimizer, tracker, auto)]
    states = [torch.load(_saved(state), weights_only=False) for state in states]
    train(net, optimizer, auto, range(3, 8))
    resumed = build()
    for part, state in zip(resumed, states, strict=True):
        part.load_state_dict(state)
    train(resumed[0], resumed[1], resumed[3], range(3, 8))
    assert resumed[3].history == auto.history
    assert [step for step, _, _ in auto.history] == [2, 4, 6, 8]
    assert speeds(resumed[1]) == speeds(optimizer)
    for a, b in zip(resumed[0].parameters(), net.parameters(), strict=True):
        assert torch.equal(a, b)


def _saved(state: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_what_has_no_speeds_to_move_is_refused() -> None:
    net = network()
    tracker = Tracker()
    with pytest.raises(DataError, match="Got an optimizer of type SGD, but expected SLO"):
        SpeedUpSlowest(torch.optim.SGD(net.parameters(), lr=0.1), net, tracker)
    with pytest.raises(DataError, match="Got one parameter group with the layers '0', '2', '4'"):
        SpeedUpSlowest(SLO(torch.optim.SGD(net.parameters(), lr=0.1)), net, tracker)
    with pytest.raises(ModelError, match="Got an optimizer that limits 0 layers of the model"):
        SpeedUpSlowest(limited(network()), net, tracker)
    with pytest.raises(ModelError, match="Got an optimizer that limits 1 layers"):
        SpeedUpSlowest(SLO(torch.optim.SGD([net[0].weight], lr=0.1)), net, tracker)
    with pytest.raises(DataError, match="Got constant=0"):
        SpeedUpSlowest(limited(net), net, tracker, constant=0)
    with pytest.raises(DataError, match="Got a tracker of type Linear"):
        SpeedUpSlowest(limited(net), net, net[0])
    with pytest.raises(DataError, match="Got field='nfas'"):
        SpeedUpSlowest(limited(net), net, FeatureTracker(net, normal(40, 4).split(10)), field="nfas")
    with pytest.raises(DataError, match="Got a state without history, steps"):
        SpeedUpSlowest(limited(net), net, tracker).load_state_dict({})
