"""SLO moves every weight as its formula says, and is an optimiser like any other around that."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from cases import fill, integers, normal
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from featlearn import SLO, feature_speed, slo_groups
from featlearn.exceptions import DataError
from featlearn.training.speed_limit import limit_

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": partial(torch.optim.SGD, lr=0.05),
    "SGD with momentum and decay": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1),
    "Adam": partial(torch.optim.Adam, lr=0.01),
    "AdamW": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.3),
}
every_optimizer = pytest.mark.parametrize("make", list(OPTIMIZERS.values()), ids=list(OPTIMIZERS))
cross_entropy = nn.functional.cross_entropy


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3))
    fill(net)
    return net


def backward(net: nn.Module, step: int = 0, factor: float = 1.0) -> Tensor:
    """Fresh gradients of a batch that depends on the step."""
    weight = next(net.parameters())
    x, y = normal(12, 5, seed=step + 1).to(weight), integers(3, 12, seed=step).to(weight.device)
    net.zero_grad()
    loss = cross_entropy(net(x).double(), y) * factor
    loss.backward()
    return loss.detach()


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> list[Tensor]:
    for step in steps:
        backward(net, step)
        optimizer.step()
    return [parameter.detach().clone() for parameter in net.parameters()]


def assert_bitwise(first: list[Tensor], second: list[Tensor]) -> None:
    assert len(first) == len(second) > 0
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def moved(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Change of every parameter in one step."""
    backward(net)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    optimizer.step()
    return {name: parameter.detach() - before[name] for name, parameter in net.named_parameters()}


# --- the formula ------------------------------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("on", ["auto", "gradient", "update"])
def test_exponent_zero_and_speed_one_is_the_base_optimizer_bitwise(make: Any, on: Any) -> None:
    net, twin = network(), network()
    limited = train(net, SLO(make(net.parameters()), exponent=0.0, on=on), range(20))
    assert_bitwise(limited, train(twin, make(twin.parameters()), range(20)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("on", ["gradient", "update"])
def test_a_weight_moves_by_rate_times_speed_whatever_its_gradient(on: Any, device: str) -> None:
    net = network().to(device)
    groups = slo_groups(net, "2", constant=20.0)
    change = moved(net, SLO(torch.optim.SGD(groups, lr=0.003), eps=0.0, on=on))
    speeds = {group["name"]: group["speed"] for group in groups if "speed" in group}
    assert speeds == {"0.weight": 0.05, "2.weight": 20.0, "5.weight": 0.05}
    for name, speed in speeds.items():
        assert float(change[name].norm()) == pytest.approx(0.003 * speed, rel=1e-5)


def test_adam_too_moves_by_rate_times_speed() -> None:
    net = network()
    change = moved(net, SLO(torch.optim.Adam(slo_groups(net, "2", constant=4.0), lr=0.003), eps=0.0))
    assert float(change["2.weight"].norm()) == pytest.approx(0.012, rel=1e-9)
    assert float(change["0.weight"].norm()) == pytest.approx(0.003 / 4, rel=1e-9)


@pytest.mark.parametrize("on", ["gradient", "update"])
def test_relative_is_lars(on: Any) -> None:
    net, twin = network(), network()
    optimizer = SLO(torch.optim.SGD(net.parameters(), lr=0.02), eps=1e-3, relative=True, on=on)
    found = train(net, optimizer, range(5))
    for step in range(5):
        backward(twin, step)
        with torch.no_grad():
            for parameter in twin.parameters():
                g = parameter.grad
                trust = math.sqrt((parameter**2).sum()) / (1e-3 + math.sqrt((g**2).sum()))
                parameter -= 0.02 * trust * g
    for a, b in zip(found, twin.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("on", ["gradient", "update"])
def test_exponent_two_makes_every_weight_contribute_the_same_loss_decay(on: Any) -> None:
    net = network()
    optimizer = SLO(torch.optim.SGD(slo_groups(net, "0", constant=1.0), lr=0.01), exponent=2.0, eps=1e-12, on=on)
    backward(net)
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    decays = [-float((g * d).sum()) for g, d in zip(gradients, _changes(net, optimizer), strict=True) if g.dim() == 2]
    assert decays == pytest.approx([0.01] * 3, rel=1e-6)


def _changes(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    before = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer.step()
    return [parameter.detach() - b for parameter, b in zip(net.parameters(), before, strict=True)]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("relative", [False, True])
def test_scaling_the_gradient_and_the_update_agree_for_plain_sgd(exponent: float, relative: bool) -> None:
    found = []
    for on in ("gradient", "update"):
        net = network()
        base = torch.optim.SGD(slo_groups(net, "2", constant=3.0), lr=0.001)
        found.append(train(net, SLO(base, exponent=exponent, relative=relative, on=on), range(5)))  # type: ignore[arg-type]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@every_optimizer
@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("relative", [False, True])
def test_all_tensors_at_once_move_as_in_a_loop_over_them(make: Any, exponent: float, relative: bool) -> None:
    """The loop: the base steps a copy from the same state; each weight's own change is then rescaled by hand."""
    net = network()
    base = make(slo_groups(net, "0", constant=2.0))
    optimizer = SLO(base, exponent=exponent, eps=0.02, relative=relative, on="update")
    for step in range(6):
        backward(net, step)
        twin, twin_base = copy.deepcopy((net, base))
        for parameter, copied_parameter in zip(net.parameters(), twin.parameters(), strict=True):
            copied_parameter.grad = parameter.grad.clone()
        twin_base.step()
        lr = base.param_groups[0]["lr"]
        decay = lr * base.param_groups[0]["weight_decay"] if isinstance(base, torch.optim.AdamW) else 0.0
        expected = []
        for (name, old), new in zip(net.named_parameters(), twin.parameters(), strict=True):
            old, new = old.detach().clone(), new.detach()
            if name.endswith("weight") and old.dim() == 2:
                change = new - (1 - decay) * old
                size = math.sqrt(float((change**2).sum())) / lr
                scale = (2.0 if name == "0.weight" else 0.5) / (0.02 + size) ** exponent
                scale *= math.sqrt(float((old**2).sum())) if relative else 1.0
                new = (1 - decay) * old + scale * change
            expected.append(new)
        optimizer.step()
        for a, b in zip(net.parameters(), expected, strict=True):
            torch.testing.assert_close(a.detach(), b, rtol=1e-10, atol=1e-12)


@given(
    scale=st.floats(1e-8, 1e8),
    eps=st.floats(0, 1e3),
    speed=st.floats(1e-3, 1e3),
)
def test_no_tensor_moves_faster_than_its_speed(scale: float, eps: float, speed: float) -> None:
    change = normal(3, 4) * scale
    limit_([change], [speed], exponent=1.0, eps=eps)
    assert float(change.norm()) <= speed * (1 + 1e-12)
    expected = speed * scale / (eps + scale * float(normal(3, 4).norm()))
    torch.testing.assert_close(change, normal(3, 4) * expected)


@given(scale=st.floats(1e-6, 1e6))
def test_without_eps_the_scale_of_the_loss_does_not_matter(scale: float) -> None:
    changes = []
    for factor in (1.0, scale):
        net = network()
        optimizer = SLO(torch.optim.SGD(net.parameters(), lr=0.01), eps=0.0)
        backward(net, factor=factor)
        changes.append(_changes(net, optimizer))
    for a, b in zip(*changes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-12)


def test_momentum_stays_inside_its_limit() -> None:
    net = network()
    optimizer = SLO(torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9), eps=0.0)
    sizes = []
    for _ in range(80):
        backward(net)
        sizes.append(max(float(change.norm()) for change in _changes(net, optimizer)))
    assert max(sizes) <= 0.01 / (1 - 0.9) * (1 + 1e-9)
    assert max(sizes) > 0.03  # and momentum does act


DECOUPLED: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "AdamW": torch.optim.AdamW,
    "NAdam": partial(torch.optim.NAdam, decoupled_weight_decay=True),
    "RAdam": partial(torch.optim.RAdam, decoupled_weight_decay=True),
    "Adafactor": torch.optim.Adafactor,
    **({"Muon": torch.optim.Muon} if hasattr(torch.optim, "Muon") else {}),
}


@pytest.mark.parametrize("make", list(DECOUPLED.values()), ids=list(DECOUPLED))
def test_decoupled_decay_is_applied_unscaled(make: Any) -> None:
    weight = nn.Parameter(normal(4, 3))
    weight.grad = torch.zeros_like(weight)
    before = weight.detach().clone()
    optimizer = SLO(make([{"params": [weight], "speed": 50.0}], lr=0.1, weight_decay=0.2))
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before * (1 - 0.1 * 0.2), rtol=1e-12, atol=0)


# --- numbers at the edge ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_norms_of_half_precision_are_taken_in_float32(dtype: torch.dtype, size: float) -> None:
    change = (normal(64, 64) * size).to(dtype)  # squares and factors beyond what float16 holds
    expected = 3.0 * change.float() / (1e-3 + change.double().norm().float())
    limit_([change], [3.0], exponent=1.0, eps=1e-3)
    assert change.dtype == dtype
    torch.testing.assert_close(change.float(), expected, rtol=2e-2, atol=1e-7)


def test_tensors_of_several_types_keep_their_order() -> None:
    changes = [normal(3, seed=i).to(t) for i, t in enumerate([torch.float64, torch.float32, torch.float64])]
    expected = [speed * change / change.norm() for speed, change in zip([1.0, 2.0, 3.0], changes, strict=True)]
    limit_(changes, [1.0, 2.0, 3.0], exponent=1.0, eps=0.0)
    for a, b in zip(changes, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("on", ["gradient", "update"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_gradient_makes_no_step_even_without_eps(on: Any, dtype: torch.dtype) -> None:
    weight = nn.Parameter(normal(4, 3).to(dtype))
    weight.grad = torch.zeros_like(weight)
    before = weight.detach().clone()
    SLO(torch.optim.SGD([{"params": [weight], "speed": 1e4}], lr=0.1), eps=0.0, on=on).step()
    assert torch.equal(weight.detach(), before)


def test_a_gradient_that_is_not_finite_shows_in_the_weights() -> None:
    weight = nn.Parameter(normal(4, 3))
    weight.grad = torch.full_like(weight, math.inf)
    SLO(torch.optim.SGD([weight], lr=0.1)).step()
    assert not weight.isfinite().any()


@pytest.mark.parametrize("rate", [0.0, torch.tensor(0.0)], ids=["float", "tensor"])
def test_a_rate_of_zero_moves_nothing(rate: Any) -> None:
    net = network()
    optimizer = SLO(torch.optim.Adam(net.parameters(), lr=rate, foreach=False), eps=0.0)
    assert all(not change.any() for change in moved(net, optimizer).values())


def test_a_rate_that_is_a_tensor_counts_as_its_number() -> None:
    found = []
    for rate in (0.05, torch.tensor(0.05, dtype=torch.float64)):
        net = network()
        found.append(train(net, SLO(torch.optim.Adam(net.parameters(), lr=rate, foreach=False)), range(3)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


class Recorder(TorchDispatchMode):
    """Names of the operations that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_the_limit_never_waits_for_the_device() -> None:
    changes, weights = [normal(3, 4), normal(5)], [normal(3, 4).norm(), normal(5).norm()]
    with Recorder() as recorder:
        limit_(changes, [1.0, 2.0], exponent=1.0, eps=0.1, rates=[0.1, torch.tensor(0.1)], weight_norms=weights)
    assert any("foreach_norm" in name for name in recorder.seen)
    assert not any("_local_scalar_dense" in name or "_to_copy" in name for name in recorder.seen)


# --- an optimiser like any other --------------------------------------------------------------------------------------


def copied(optimizer: SLO) -> SLO:
    return copy.deepcopy(optimizer)


def pickled(optimizer: SLO) -> SLO:
    return pickle.loads(pickle.dumps(optimizer))


def reloaded(optimizer: SLO) -> SLO:
    optimizer.load_state_dict(optimizer.state_dict())
    return optimizer


def base_reloaded(optimizer: SLO) -> SLO:
    optimizer.base.load_state_dict(optimizer.base.state_dict())
    return optimizer


@every_optimizer
@pytest.mark.parametrize("remake", [copied, pickled, reloaded, base_reloaded])
def test_groups_and_state_are_those_of_the_base_also_after_a_round_trip(make: Any, remake: Any) -> None:
    net = network()
    optimizer = SLO(make(slo_groups(net, "0")), exponent=0.5, eps=0.3, relative=True)
    train(net, optimizer, range(2))
    again = remake(optimizer)
    assert again.param_groups is again.base.param_groups
    assert again.state is again.base.state
    assert (again.exponent, again.eps, again.relative, again.on) == (0.5, 0.3, True, optimizer.on)
    assert [group.get("speed") for group in again.param_groups] == [20.0, 0.05, 0.05, None]
    assert isinstance(again, torch.optim.Optimizer)
    for group in again.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    before = [p.detach().clone() for group in again.param_groups for p in group["params"]]
    again.step()
    after = [p.detach() for group in again.param_groups for p in group["params"]]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@every_optimizer
def test_saved_and_loaded_training_continues_bitwise(make: Any) -> None:
    net = network()
    optimizer = SLO(make(slo_groups(net, "0")))
    train(net, optimizer, range(4))
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    expected = train(net, optimizer, range(4, 8))
    file.seek(0)
    saved = torch.load(file)
    other = network()
    other.load_state_dict(saved["net"])
    resumed = SLO(make(slo_groups(other, "5")))
    resumed.load_state_dict(saved["optimizer"])
    assert_bitwise(train(other, resumed, range(4, 8)), expected)


@pytest.mark.parametrize(
    ("option", "value"), [("exponent", 2.0), ("eps", 0.5), ("relative", True), ("on", "update")]
)  # fmt: skip
def test_the_state_of_another_rule_is_refused_and_changes_nothing(option: str, value: Any) -> None:
    net = network()
    state = SLO(torch.optim.SGD(slo_groups(net, "0"), lr=0.7), **{option: value}).state_dict()
    optimizer = SLO(torch.optim.SGD(slo_groups(net, "0"), lr=0.1))
    with pytest.raises(DataError, match=f"state of SLO with {option}="):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.1
    with pytest.raises(DataError, match="Got a state without base, eps, exponent"):
        optimizer.load_state_dict(optimizer.base.state_dict())


def test_schedulers_set_the_rates_and_momenta_of_the_base() -> None:
    net = network()
    optimizer = SLO(torch.optim.SGD(slo_groups(net, "0"), lr=0.1, momentum=0.9))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=10)
    rates, momenta = [], []
    for step in range(9):
        train(net, optimizer, [step])
        scheduler.step()
        rates.append(optimizer.base.param_groups[0]["lr"])
        momenta.append(optimizer.base.param_groups[1]["momentum"])
    assert max(rates) == pytest.approx(0.5, rel=0.05)
    assert rates[-1] < 1e-4
    assert min(momenta) < 0.87 < max(momenta)


def test_the_speed_follows_the_schedule_after_loading() -> None:
    net = network()
    optimizer = SLO(torch.optim.SGD([{"params": [net[0].weight], "speed": 3.0}], lr=0.1), eps=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for step in range(4):
        if step == 2:
            reloaded(optimizer)
        assert float(moved(net, optimizer)["0.weight"].norm()) == pytest.approx(0.3 * 0.5**step, rel=1e-9)
        scheduler.step()


def test_grad_scaler_unscales_first_and_skips_overflow() -> None:
    found = []
    for scaler in (torch.amp.GradScaler("cpu", enabled=False), torch.amp.GradScaler("cpu", init_scale=2.0**10)):
        net = network().float()
        optimizer = SLO(torch.optim.SGD(slo_groups(net, "0"), lr=0.01))
        for step in range(3):
            backward(net, step, factor=scaler.get_scale())
            scaler.scale(torch.zeros(1))  # the scaler wants to have seen a loss
            scaler.step(optimizer)
            scaler.update()
        found.append([parameter.detach().clone() for parameter in net.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    backward(net)
    net[0].weight.grad.fill_(math.inf)
    scaler.scale(torch.zeros(1))
    scaler.step(optimizer)
    scaler.update()
    assert_bitwise([parameter.detach() for parameter in net.parameters()], found[1])
    assert scaler.get_scale() == 2.0**9


@pytest.mark.parametrize("on", ["gradient", "update"])
def test_a_closure_is_evaluated_once_before_the_step(on: Any) -> None:
    net, twin = network(), network()
    losses: list[Tensor] = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        losses.append(backward(net))
        return losses[-1]

    optimizer, other = (SLO(torch.optim.SGD(n.parameters(), lr=0.1), on=on) for n in (net, twin))
    assert optimizer.step(closure) is losses[0]
    assert len(losses) == 1
    assert_bitwise([parameter.detach() for parameter in net.parameters()], train(twin, other, [0]))


def test_hooks_see_every_step_and_state_once() -> None:
    net = network()
    optimizer = SLO(torch.optim.SGD(net.parameters(), lr=0.1))
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: seen.append(f"before {opt is optimizer}"))
    optimizer.register_step_post_hook(lambda opt, args, kwargs: seen.append("after"))
    optimizer.base.register_step_post_hook(lambda opt, args, kwargs: seen.append("base"))
    optimizer.register_state_dict_pre_hook(lambda opt: seen.append("saving"))
    optimizer.register_state_dict_post_hook(lambda opt, state: {**state, "note": 1})
    optimizer.register_load_state_dict_pre_hook(lambda opt, state: seen.append(f"note {state['note']}"))
    optimizer.register_load_state_dict_post_hook(lambda opt: seen.append("loaded"))
    train(net, optimizer, [0])
    reloaded(optimizer)
    assert seen == ["before True", "base", "after", "saving", "note 1", "loaded"]


def test_added_groups_have_speed_one_unless_they_say_otherwise() -> None:
    net = network()
    optimizer = SLO(torch.optim.SGD([net[0].weight], lr=0.1), eps=0.0)
    optimizer.add_param_group({"params": [net[2].weight]})
    optimizer.add_param_group({"params": net[5].weight, "speed": 2.0})
    change = moved(net, optimizer)
    assert [float(change[f"{i}.weight"].norm()) for i in (0, 2, 5)] == pytest.approx([0.1, 0.1, 0.2])


@pytest.mark.parametrize("on", ["gradient", "update"])
def test_parameters_without_a_gradient_stay(on: Any) -> None:
    net = network()
    optimizer = SLO(torch.optim.SGD(slo_groups(net, "0"), lr=0.1), on=on)
    optimizer.step()  # no gradient anywhere
    backward(net)
    net[2].weight.grad = None
    before = net[2].weight.detach().clone()
    optimizer.step()
    assert torch.equal(net[2].weight.detach(), before)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("on", ["gradient", "update"])
def test_exempt_groups_are_left_to_the_base(on: Any) -> None:
    net, twin = network(), network()
    change = moved(net, SLO(torch.optim.SGD(slo_groups(net, "0"), lr=0.1), on=on))
    expected = moved(twin, torch.optim.SGD(twin.parameters(), lr=0.1))
    for name in ("0.bias", "2.bias", "3.weight", "3.bias", "5.bias"):
        assert torch.equal(change[name], expected[name])
    assert not torch.equal(change["0.weight"], expected["0.weight"])


@every_optimizer
def test_feature_speed_rehearses_the_step_and_takes_it_back(make: Any) -> None:
    net = network()
    optimizer = SLO(make(slo_groups(net, "0", constant=3.0)), eps=0.1)
    train(net, optimizer, range(2))
    batch = normal(12, 5, seed=3), integers(3, 12, seed=2)
    kept = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    speed = feature_speed(net, cross_entropy, batch, update=optimizer)
    assert_bitwise(list(net.state_dict().values()), list(kept[0].values()))
    for a, b in zip(_tensors(optimizer.state_dict()), _tensors(kept[1]), strict=True):
        assert torch.equal(a, b)
    assert optimizer.param_groups is optimizer.base.param_groups
    backward(net, 2)
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    decay = -sum(float((g * d).sum()) for g, d in zip(gradients, _changes(net, optimizer), strict=True))
    assert speed.update == "SLO"
    assert speed.total_decay == pytest.approx(decay, rel=1e-9)


def _tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return [tensor for value in values for tensor in _tensors(value)]


def test_equal_loss_decay_shows_in_feature_speed() -> None:
    net = nn.Sequential(nn.Linear(5, 6, bias=False), nn.Tanh(), nn.Linear(6, 6, bias=False), nn.Tanh(),
                        nn.Linear(6, 3, bias=False))  # fmt: skip
    fill(net)
    update = SLO(torch.optim.SGD(net.parameters(), lr=0.01), exponent=2.0, eps=1e-12)
    speed = feature_speed(net, cross_entropy, (normal(12, 5), integers(3, 12)), update=update)
    assert [layer.own_decay for layer in speed.layers.values()] == pytest.approx([0.01] * 3, rel=1e-6)


def test_its_text_says_rule_and_base() -> None:
    text = repr(SLO(torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)))
    assert text.startswith("SLO(exponent=1.0, eps=0.01, relative=False, on='gradient', base=SGD (")


# --- refusals ---------------------------------------------------------------------------------------------------------


def sgd(**group: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.ones(2, 2))], **group}], lr=0.1)


@pytest.mark.parametrize(
    ("base", "options", "message"),
    [
        (sgd, {"exponent": 3}, r"Got exponent=3, but expected a number in \[0, 2\]"),
        (sgd, {"exponent": math.nan}, "Got exponent=nan"),
        (sgd, {"eps": -1.0}, "Got eps=-1.0 with exponent=1.0, but expected a non-negative finite number"),
        (sgd, {"eps": 0.0, "exponent": 1.5}, "Got eps=0.0 with exponent=1.5, but expected a positive finite number"),
        (sgd, {"on": "weights"}, "Got on='weights'"),
        (partial(sgd, speed=0.0), {}, "Got speed=0.0, but expected a positive finite number"),
        (partial(sgd, speed="fast"), {}, "Got speed='fast'"),
        (partial(sgd, differentiable=True), {}, "Got differentiable=True"),
        (lambda: SLO(sgd()), {}, "Got SLO around SLO"),
        (lambda: "SGD", {}, "Got base of type str"),
        (lambda: torch.optim.LBFGS([nn.Parameter(torch.ones(2))]), {}, "Got LBFGS, whose step evaluates"),
    ],
)
def test_what_cannot_be_limited_is_refused(base: Any, options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SLO(base(), **options)


def test_a_speed_that_turns_bad_is_refused_before_anything_moves() -> None:
    net = network()
    optimizer = SLO(torch.optim.SGD(slo_groups(net, "0"), lr=0.1))
    backward(net)
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    optimizer.param_groups[1]["speed"] = -1.0
    with pytest.raises(DataError, match=r"Got speed=-1\.0"):
        optimizer.step()
    assert_bitwise([parameter.grad for parameter in net.parameters()], gradients)
    with pytest.raises(DataError, match="Got speed=nan"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "speed": math.nan})
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [net[0].weight]})


def test_a_sparse_gradient_is_refused_by_name_unless_exempt() -> None:
    embedding = nn.Embedding(6, 3, sparse=True)
    for groups, name in (
        ([{"params": [embedding.weight], "name": "words.weight"}], "words.weight"),
        ([{"params": [("table", embedding.weight)]}], "table"),
        ([{"params": [embedding.weight]}], "parameter 0 of group 0"),
    ):
        optimizer = SLO(torch.optim.SGD(groups, lr=0.1))
        embedding.zero_grad()
        embedding(torch.tensor([1, 4])).sum().backward()
        with pytest.raises(DataError, match=f"Got a sparse gradient of '{name}'"):
            optimizer.step()
    before = embedding.weight.detach().clone()
    SLO(torch.optim.SGD([{"params": [embedding.weight], "exempt": True}], lr=0.1)).step()
    assert (before != embedding.weight.detach()).any(dim=1).tolist() == [False, True, False, False, True, False]
