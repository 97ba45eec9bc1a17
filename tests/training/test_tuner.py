"""The tuner: what it decides, the way back from divergence, and continuing from a saved state."""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import pytest
import torch
from architectures import half_squares
from cases import normal
from torch import Tensor, nn

from featlearn import SLO, FeatureSpeedTuner, feature_speed_groups
from featlearn.exceptions import DataError, FeatlearnWarning

Trace = list[tuple[str, float]]


def regression(n: int = 64) -> tuple[Tensor, Tensor]:
    x = normal(n, 6)
    return x, x[:, :1] + x[:, 1:2].abs()


def network(seed: int = 0, norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        middle = [nn.BatchNorm1d(16)] if norm else []
        parts = [nn.Linear(6, 16), *middle, nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)]
        return nn.Sequential(*parts).double()


def tuned(net: nn.Module, optimizer: torch.optim.Optimizer | None = None, **options: Any) -> FeatureSpeedTuner:
    if optimizer is None:
        groups = feature_speed_groups(net, half_squares, regression(), budget=0.02, max_decay=0.02)
        optimizer = torch.optim.SGD(groups, momentum=0.5)
    return FeatureSpeedTuner(optimizer, net, half_squares, **options)


def train(tuner: FeatureSpeedTuner, steps: int, scheduler: Any = None) -> Trace:
    x, y = regression()
    trace = []
    for _ in range(steps):
        tuner.optimizer.zero_grad()
        value = half_squares(tuner.model(x), y)
        value.backward()
        word = tuner.step((x, y), value)
        if word == "step":
            tuner.optimizer.step()
            if scheduler is not None:
                scheduler.step()
        trace.append((word, value.item()))
    return trace


def everything(tuner: FeatureSpeedTuner) -> list[Tensor]:
    """Weights, buffers and state of the optimiser."""
    states = [v for state in tuner.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    return [t.detach().clone() for t in [*tuner.model.state_dict().values(), *states]]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def reasons(tuner: FeatureSpeedTuner) -> list[str]:
    return [event.reason for event in tuner.history]


# --- measurements -----------------------------------------------------------------------------------------------------


def test_rates_move_towards_the_measured_ones_by_at_most_the_factor():
    net = network()
    tuner = tuned(net, every=10, max_change=1.05)
    x, y = regression()
    for step in range(41):
        value = half_squares(net(x), y)
        tuner.optimizer.zero_grad()
        value.backward()
        before = tuner.rates
        if step % 10 == 0:
            groups = feature_speed_groups(net, half_squares, (x, y), budget=0.2, max_sharpness=None)
            targets = {group["name"]: group["lr"] for group in groups}
        assert tuner.step((x, y), value) == "step"
        if step in (10, 20, 30, 40):
            expected = {n: r * min(max(targets[n] / r, 1 / 1.05), 1.05) for n, r in before.items()}
            assert tuner.rates == pytest.approx(expected, rel=1e-12)
        else:
            assert tuner.rates == before
        tuner.optimizer.step()
    assert [event.step for event in tuner.history] == [0, 10, 20, 30, 40]
    assert reasons(tuner) == ["given", *["measured"] * 4]
    assert tuner.history[-1].rates == tuner.rates
    assert tuner.rollbacks == 0


def test_measuring_changes_nothing_but_the_rates():
    net = network(norm=True)
    tuner = tuned(net, every=1)
    train(tuner, 3)
    x, y = regression()
    tuner.optimizer.zero_grad()
    value = half_squares(net(x), y)
    value.backward()
    before, random = everything(tuner), torch.get_rng_state()
    grads = [p.grad.clone() for p in net.parameters()]
    tuner.step((x, y), value)
    assert equal(everything(tuner), before)
    assert equal([p.grad for p in net.parameters()], grads)
    assert torch.equal(torch.get_rng_state(), random)
    assert net.training


def test_no_rate_rises_above_the_cap():
    net = network()
    groups = feature_speed_groups(net, half_squares, regression(), budget=1e-4)
    tuner = tuned(net, torch.optim.SGD(groups), every=1, budget=0.2, max_change=1.5, cap=2.0)
    first = tuner.rates
    train(tuner, 20)
    assert max(tuner.rates[name] / first[name] for name in first) == pytest.approx(2.0)


def test_a_rate_of_zero_stays_zero_and_layers_without_a_group_are_left():
    net = network()
    groups = feature_speed_groups(net, half_squares, regression(), layers=["0", "4"], budget=0.02, max_decay=0.02)
    groups[0]["lr"] = 0.0
    tuner = tuned(net, torch.optim.SGD(groups), every=2)
    before = net[2].weight.detach().clone()
    train(tuner, 7)
    assert tuner.rates["0"] == 0.0
    assert set(tuner.rates) == {"0", "4"}
    assert reasons(tuner)[1:] == ["measured"] * 3
    assert torch.equal(net[2].weight, before)


def test_rates_of_a_part_of_the_layers_are_measured_for_that_part():
    net, batch = network(), regression()
    groups = feature_speed_groups(net, half_squares, batch, layers=["0", "4"])
    tuner = tuned(net, torch.optim.SGD(groups, lr=0.0), every=1, max_change=math.inf)
    value = half_squares(net(batch[0]), batch[1])
    for _ in range(2):
        tuner.step(batch, value)
    assert tuner.rates == pytest.approx({group["name"]: group["lr"] for group in groups}, rel=1e-12)


def test_rates_held_in_tensors_stay_the_same_tensors():
    net = network()
    groups = feature_speed_groups(net, half_squares, regression(), budget=0.02, max_decay=0.02)
    held = [torch.tensor(group["lr"], dtype=torch.float64) for group in groups]
    for group, rate in zip(groups, held, strict=True):
        group["lr"] = rate
    tuner = tuned(net, torch.optim.SGD(groups), every=2)
    train(tuner, 5)
    tuner.step(regression(), math.nan)
    assert all(group["lr"] is rate for group, rate in zip(tuner.optimizer.param_groups, held, strict=True))
    assert tuner.rates == pytest.approx(dict(zip(tuner.rates, map(float, held), strict=True)))


def test_a_measurement_that_fails_is_recorded_and_changes_no_rate():
    net, batch = network(), regression()
    tuner = tuned(net, every=1)
    with torch.no_grad():
        net[2].bias.fill_(-100.0)  # dead: nothing reaches the layers below
    rates = tuner.rates
    value = half_squares(net(batch[0]), batch[1])
    assert [tuner.step(batch, value) for _ in range(2)] == ["step", "step"]
    assert tuner.rates == rates
    assert reasons(tuner)[-1].startswith("not measured: Got a zero gradient in layer '0'")


# --- the way back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "with buffers"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "slo"])
@pytest.mark.parametrize(("loss", "divided"), [(math.nan, 4), (math.inf, 4), (1e6, 2)])
def test_a_divergence_brings_back_the_last_snapshot_bitwise(norm: bool, optimizer: str, loss: float, divided: int):
    net = network(norm=norm)
    groups = feature_speed_groups(net, half_squares, regression(), budget=0.02)
    made = {
        "sgd": lambda: torch.optim.SGD(groups, momentum=0.9),
        "adam": lambda: torch.optim.Adam([{**group, "lr": 1e-3} for group in groups]),
        "slo": lambda: SLO(torch.optim.SGD([{**group, "lr": 1e-3} for group in groups], momentum=0.9)),
    }[optimizer]()
    tuner = tuned(net, made, every=5)
    kept = None
    x, y = regression()
    for step in range(14):
        tuner.optimizer.zero_grad()
        value = half_squares(net(x), y)
        value.backward()
        if step == 10:
            forward = tuned(net, made)  # evaluates nothing; the state at the time of the snapshot is that of now
            kept = everything(forward)
        assert tuner.step((x, y), value) == "step"
        made.step()
    rates = tuner.rates
    assert not equal(everything(tuner), kept)
    assert tuner.step((x, y), loss) == "skip"
    assert equal(everything(tuner), kept)
    assert tuner.rates == pytest.approx({name: rate / divided for name, rate in rates.items()}, rel=1e-12)
    assert reasons(tuner)[-1] == "rolled back: the loss " + ("rose" if divided == 2 else "was not finite")
    made.step()  # what came back is one it can go on from
    assert all(p.isfinite().all() for p in net.parameters())


def test_before_the_first_measurement_it_goes_back_to_the_start():
    net = network()
    before = everything(tuner := tuned(net))
    train(tuner, 5)
    assert tuner.step(regression(), math.nan) == "skip"
    assert equal(everything(tuner), before)


def test_a_loss_that_is_nan_from_the_first_step_changes_nothing_and_warns_once():
    net = network()
    before = everything(tuner := tuned(net, max_rollbacks=3))
    with pytest.warns(FeatlearnWarning, match="rolled back 3 times") as caught:
        words = [tuner.step(regression(), torch.tensor(math.nan)) for _ in range(5)]
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert words == ["skip", "skip", "skip", "step", "step"]
    assert tuner.stopped
    assert equal(everything(tuner), before)
    assert len(tuner.history) == 4


def test_one_divergence_costs_one_roll_back_also_when_the_loss_had_fallen_far():
    """The weights put back have a loss far above the best since: that is no second divergence."""
    net, batch = network(), regression()
    tuner = tuned(net, every=50)
    assert [tuner.step(batch, value) for value in [1.0, *[0.01] * 40]] == ["step"] * 41
    assert tuner.step(batch, 100.0) == "skip"
    assert [tuner.step(batch, value) for value in (1.0, 0.9, 0.8)] == ["step"] * 3
    assert tuner.rollbacks == 1


def test_only_the_running_mean_decides():
    net, batch = network(), regression()
    tuner = tuned(net, rollback=1.5, every=1000)
    assert tuner.step(batch, 1.0) == "step"
    assert tuner.step(batch, 5.9) == "step"  # mean 1.49
    assert tuner.step(batch, 1.7) == "skip"  # mean 1.511


def test_losses_below_zero_are_no_divergence():
    net, batch = network(), regression()
    tuner = tuned(net, every=1000)
    assert [tuner.step(batch, value) for value in (-1.0, -2.0, -1.5, -3.0)] == ["step"] * 4


def test_after_a_roll_back_no_rate_grows_for_five_measurements():
    net = network()
    groups = feature_speed_groups(net, half_squares, regression(), budget=1e-3)
    tuner = tuned(net, torch.optim.SGD(groups), every=4, budget=0.2)
    train(tuner, 6)
    tuner.step(regression(), math.nan)
    low = tuner.rates
    train(tuner, 40)
    events = tuner.history[3:]
    held = [event for event in events if event.reason == "measured, growth held back"]
    assert [event.step for event in held] == [8, 12, 16, 20, 24]
    assert all(event.rates[name] <= low[name] for event in held for name in low)
    assert [event.reason for event in events[5:]] == ["measured"] * len(events[5:])
    assert any(events[-1].rates[name] > low[name] for name in low)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", [100.0, 1000.0])
def test_training_recovers_from_rates_far_too_large(factor: float, seed: int):
    # Leaky: units that die in the first steps are beyond what going back to weights of finite loss can undo.
    def fast() -> tuple[nn.Sequential, torch.optim.Optimizer]:
        net = network(seed)
        net[1], net[3] = nn.LeakyReLU(0.3), nn.LeakyReLU(0.3)
        groups = feature_speed_groups(net, half_squares, regression())
        return net, torch.optim.SGD([{**group, "lr": factor * group["lr"]} for group in groups])

    x, y = regression()
    net, optimizer = fast()
    start = half_squares(net(x), y).item()
    for _ in range(30):
        optimizer.zero_grad()
        half_squares(net(x), y).backward()
        optimizer.step()
    assert not half_squares(net(x), y).item() < 10 * start  # it diverges without
    net, optimizer = fast()
    tuner = tuned(net, optimizer, every=10, max_rollbacks=20)
    trace = train(tuner, 150)
    assert 0 < tuner.rollbacks < 20
    assert trace[-1][1] < 0.2 * start


def test_weights_that_diverge_already_are_not_what_it_goes_back_to():
    """The running mean lags behind one large loss, at the very step of a snapshot."""
    net, batch = network(), regression()
    tuner = tuned(net, every=5)
    assert [tuner.step(batch, 1.0) for _ in range(5)] == ["step"] * 5
    start = everything(tuner)
    with torch.no_grad():
        net[0].weight.mul_(2.0)
    assert tuner.step(batch, 4.0) == "step"  # mean 1.3
    assert reasons(tuner) == ["given", "measured"]
    assert tuner.step(batch, 9.0) == "skip"
    assert equal(everything(tuner), start)


def test_after_the_last_roll_back_it_lets_go():
    net = network()
    tuner = tuned(net, every=2, max_rollbacks=1)
    train(tuner, 3)
    with pytest.warns(FeatlearnWarning, match="rolled back 1 times and stops here"):
        assert tuner.step(regression(), math.nan) == "skip"
    rates, events = tuner.rates, len(tuner.history)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {word for word, _ in train(tuner, 10)} == {"step"}
    assert tuner.rates == rates
    assert len(tuner.history) == events


# --- with schedulers --------------------------------------------------------------------------------------------------


def test_a_scheduler_that_multiplies_keeps_the_smaller_rates_of_a_roll_back():
    net = network()
    tuner = tuned(net, every=1000)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(tuner.optimizer, 0.9)
    first = tuner.rates
    train(tuner, 3, scheduler)
    tuner.step(regression(), math.nan)
    assert tuner.rates == pytest.approx({name: rate * 0.9**3 / 4 for name, rate in first.items()})
    train(tuner, 2, scheduler)
    assert tuner.rates == pytest.approx({name: rate * 0.9**5 / 4 for name, rate in first.items()})


def test_a_scheduler_that_computes_rates_from_the_first_ones_overwrites_the_tuner_as_documented():
    net = network()
    tuner = tuned(net, every=1000)
    scheduler = torch.optim.lr_scheduler.LambdaLR(tuner.optimizer, lambda step: 0.9**step)
    first = tuner.rates
    train(tuner, 3, scheduler)
    tuner.step(regression(), math.nan)
    train(tuner, 1, scheduler)
    assert tuner.rates == pytest.approx({name: rate * 0.9**4 for name, rate in first.items()})
    assert "LambdaLR" in (FeatureSpeedTuner.__doc__ or "")


# --- saved states -----------------------------------------------------------------------------------------------------


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "slo"])
@pytest.mark.parametrize("stop", [0, 7, 20])
def test_continuing_from_a_file_equals_the_run_that_was_not_interrupted(optimizer: str, stop: int):
    def start() -> FeatureSpeedTuner:
        net = network(norm=True)
        groups = feature_speed_groups(net, half_squares, regression())
        groups = [{**group, "lr": group["lr"] * (1e-2 if optimizer == "adam" else 20)} for group in groups]
        made = {
            "sgd": lambda: torch.optim.SGD(groups, momentum=0.5),
            "adam": lambda: torch.optim.Adam(groups),
            "slo": lambda: SLO(torch.optim.SGD(groups), eps=1.0),
        }[optimizer]()
        return tuned(net, made, every=6, max_rollbacks=100)

    whole = start()
    expected = train(whole, 40)
    first = start()
    found = train(first, stop)
    state = through_a_file(
        {"model": first.model.state_dict(), "optimizer": first.optimizer.state_dict(), "tuner": first.state_dict()}
    )
    second = start()
    second.model.load_state_dict(state["model"])
    second.optimizer.load_state_dict(state["optimizer"])
    second.load_state_dict(state["tuner"])
    found += train(second, 40 - stop)
    assert found == expected
    assert second.history == whole.history
    assert equal(everything(second), everything(whole))
    if optimizer == "sgd":
        assert whole.rollbacks > 0  # the snapshot was part of it


def test_a_saved_state_does_not_follow_later_training():
    tuner = tuned(network(), every=2)
    train(tuner, 3)
    state = tuner.state_dict()
    weights = [t.clone() for t in state["snapshot"]["model"].values()]
    events = len(state["history"])
    train(tuner, 5)
    assert equal(list(state["snapshot"]["model"].values()), weights)
    assert len(state["history"]) == events


def test_states_of_other_tuners_are_refused_with_nothing_changed():
    tuner = tuned(network(), every=2)
    train(tuner, 3)
    state = tuner.state_dict()
    other = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    for bad, message in (
        ({key: value for key, value in state.items() if key != "snapshot"}, "without snapshot"),
        (tuned(other).state_dict(), "state of layers 0, 2"),
    ):
        with pytest.raises(DataError, match=message):
            tuner.load_state_dict(bad)
    assert tuner.state_dict().keys() == state.keys()
    assert tuner.steps == 3


def test_the_history_is_a_table():
    tuner = tuned(network(), every=2)
    train(tuner, 5)
    frame = tuner.frame()
    assert list(frame["step"]) == [0, 2, 4]
    assert list(frame["reason"]) == ["given", "measured", "measured"]
    for name in ("0", "2", "4"):
        assert list(frame[name]) == [event.rates[name] for event in tuner.history]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every=0"),
        ({"every": 2.5}, "every=2.5"),
        ({"every": True}, "every=True"),
        ({"max_rollbacks": 0}, "max_rollbacks=0"),
        ({"max_change": 0.9}, "max_change=0.9"),
        ({"cap": 0.5}, "cap=0.5"),
        ({"cap": math.nan}, "cap=nan"),
        ({"rollback": 0.0}, "rollback=0.0"),
        ({"budget": 0.0}, "budget=0.0"),
        ({"budget": math.nan}, "budget=nan"),
        ({"rule": "adagrad"}, "rule='adagrad'"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str):
    net = network()
    optimizer = torch.optim.SGD(feature_speed_groups(net, half_squares, regression()))
    with pytest.raises(DataError, match=message):
        FeatureSpeedTuner(optimizer, net, half_squares, **options)


def test_groups_without_names_are_refused():
    net = network()
    with pytest.raises(DataError, match="one named group a layer"):
        tuned(net, torch.optim.SGD(net.parameters(), lr=0.1))
    groups = [{"params": [p], "name": "same"} for p in net.parameters()]
    with pytest.raises(DataError, match="one named group a layer"):
        tuned(net, torch.optim.SGD(groups, lr=0.1))
    groups = [{"params": [p], "name": name} for name, p in net.named_parameters()]
    with pytest.raises(DataError, match=r"group named '0\.weight'"):
        tuned(net, torch.optim.SGD(groups, lr=0.1))
