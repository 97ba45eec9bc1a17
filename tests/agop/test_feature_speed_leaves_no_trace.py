"""Measuring speed changes nothing, bitwise: neither the model nor the optimiser, also after an exception."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from cases import convnet, fill, integers, normal
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from featlearn.agop.batches import parse_batch
from featlearn.agop.feature_speed import feature_speed, speed_of_layers
from featlearn.agop.finding import resolve_layers
from featlearn.agop.taps import guest


class Interruption(BaseException):
    """As KeyboardInterrupt, but our own."""


def batch() -> tuple[Tensor, Tensor]:
    return normal(6, 2, 7, 6), integers(3, 6)


def model_in_training() -> nn.Module:
    """A model halfway: mixed modes, a frozen layer, gradients left from the last step."""
    model = fill(convnet())
    cross_entropy(model.eval()(batch()[0]), batch()[1]).backward()
    model.train()
    model[1].eval()
    model[3].bias.requires_grad_(False)
    return model


def state(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Everything a user could see, as copies."""
    seen: dict[str, Any] = {
        "values": {name: t.detach().clone() for name, t in model.state_dict().items()},
        "identity": {name: (id(t), t.data_ptr(), t._version) for name, t in model.state_dict(keep_vars=True).items()},
        "grads": {
            name: None if p.grad is None else (id(p.grad), p.grad.clone()) for name, p in model.named_parameters()
        },
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": {name: m.training for name, m in model.named_modules()},
        "hooks": {
            name: [list(vars(m)[key]) for key in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
            for name, m in model.named_modules()
        },
        "rng": torch.get_rng_state(),
    }
    if optimizer is not None:
        seen["optimizer"] = copy.deepcopy(optimizer.state_dict())
        seen["sizes"] = {key: len(v) for key, v in vars(optimizer).items() if isinstance(v, dict)}
        seen["attributes"] = {key: copy.deepcopy(v) for key, v in vars(optimizer).items() if isinstance(v, (int, list))}
        seen["state"] = {id(p): {k: id(v) for k, v in s.items()} for p, s in optimizer.state.items()}
    return seen


def assert_same(before: Any, after: Any, path: str = "") -> None:
    assert type(before) is type(after), path
    if isinstance(before, Tensor):
        assert torch.equal(before, after), path
    elif isinstance(before, dict):
        assert list(before) == list(after), path
        for key in before:
            assert_same(before[key], after[key], f"{path}/{key}")
    elif isinstance(before, (list, tuple)):
        assert len(before) == len(after), path
        for i, (one, other) in enumerate(zip(before, after, strict=True)):
            assert_same(one, other, f"{path}[{i}]")
    else:
        assert before == after, path


class Alternating(torch.optim.Optimizer):
    """A wrapper around another optimiser, with numbers, a list and a slow copy of its own; it assigns to ``.data``."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base, self.param_groups, self.steps, self.trace = base, base.param_groups, 0, [torch.zeros(2)]
        self.slow: dict[Any, Tensor] = {}

    def step(self, closure: Any = None) -> None:
        self.base.step()
        self.steps += 1
        self.trace[0] += 1
        self.trace.append(torch.ones(1))
        for group in self.param_groups:
            group["lr"] *= 0.9
            for p in group["params"]:
                p.data = 0.9 * p.data
                self.slow[p] = p.data.clone()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "wrapper": lambda p: Alternating(torch.optim.SGD(p, lr=0.1, momentum=0.9)),
}


def in_the_middle(name: str, steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = model_in_training()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(steps):
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("options", [{}, {"mode": "train"}, {"method": "central"}, {"layers": "0", "finite": False}])
def test_measuring_leaves_no_trace(options):
    model = model_in_training()
    before = state(model)
    feature_speed(model, cross_entropy, batch(), **options)
    assert_same(before, state(model))


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_step_of_an_optimiser_is_taken_back(name, steps):
    model, optimizer = in_the_middle(name, steps)
    twin, twin_optimizer = in_the_middle(name, steps)
    before = state(model, optimizer)
    speed = feature_speed(model, cross_entropy, batch(), update=optimizer)
    assert speed.total_decay != 0
    assert_same(before, state(model, optimizer))
    for each in (optimizer, twin_optimizer):  # training goes on as if nothing had been
        each.step()
    assert_same(state(twin, twin_optimizer)["values"], state(model, optimizer)["values"])
    assert_same(state(twin, twin_optimizer)["optimizer"], state(model, optimizer)["optimizer"])


def test_schedulers_that_count_steps_do_not_notice():
    model = model_in_training()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    feature_speed(model, cross_entropy, batch(), update=optimizer)
    with pytest.warns(UserWarning, match=r"before `optimizer.step\(\)`"):
        scheduler.step()


def test_a_graph_held_by_the_caller_stays_valid():
    model = model_in_training()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = copy.deepcopy(model)
    for each in (model, expected):
        each.zero_grad()
    value = cross_entropy(model.eval()(batch()[0]), batch()[1])
    feature_speed(model, cross_entropy, batch(), update=optimizer, method="central")
    value.backward()
    cross_entropy(expected.eval()(batch()[0]), batch()[1]).backward()
    torch.testing.assert_close(model[0].weight.grad, expected[0].weight.grad, rtol=0, atol=0)


class Failing(nn.Module):
    """Passes its input on, and raises at a given call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.fails_at = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fails_at:
            raise Interruption
        return x


# Gradient pass, forward mode, full step, and the point it is compared with; or the two sides of central differences.
@pytest.mark.parametrize("method", ["forward", "central"])
@pytest.mark.parametrize("call", [1, 2, 3, 4])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_interruption_in_any_pass_leaves_no_trace(method, call, mode):
    model = model_in_training()
    model.append(Failing())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    optimizer.step()
    before = state(model, optimizer)
    model[-1].fails_at = call
    with pytest.raises(Interruption):
        feature_speed(model, cross_entropy, batch(), update=optimizer, method=method, mode=mode)
    assert_same(before, state(model, optimizer))


def test_failing_step_or_loss_leaves_no_trace():
    class Broken(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            super().step()
            raise Interruption

    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        raise Interruption

    model = model_in_training()
    optimizer = Broken(model.parameters(), lr=0.1, momentum=0.9)
    before = state(model, optimizer)
    with pytest.raises(Interruption):
        feature_speed(model, cross_entropy, batch(), update=optimizer)
    with pytest.raises(Interruption):
        feature_speed(model, broken, batch())
    assert_same(before, state(model, optimizer))


def test_failing_loss_inside_a_guest_leaves_its_parameters_frozen():
    model = model_in_training()

    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        raise Interruption

    with guest(model):
        with pytest.raises(Interruption):
            speed_of_layers(model, resolve_layers(model)[0], parse_batch(batch(), model), broken, "logits")
        assert not any(p.requires_grad for p in model.parameters())
