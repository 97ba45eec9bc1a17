"""Oracle 8: measuring changes nothing, bitwise, whatever happens in it."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, Case, convnet, fill, integers, mlp, normal
from torch import Tensor, nn

from featlearn import agop_of_function, agop_of_module
from featlearn.agop.finding import find_layers
from featlearn.agop.taps import guest

HOOKS = [name for name in vars(nn.Linear(1, 1)) if "hooks" in name]


def photograph(model: nn.Module) -> dict[str, Any]:
    """Everything that a measurement could disturb."""
    return {
        "tensors": {name: tensor.detach().clone() for name, tensor in model.state_dict(keep_vars=True).items()},
        "identities": {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()},
        "gradients": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {name: {kind: dict(getattr(m, kind)) for kind in HOOKS} for name, m in model.named_modules()},
        "classes": {name: type(module) for name, module in model.named_modules()},
        "torch_rng": torch.get_rng_state(),
        "numpy_rng": np.random.get_state()[1].copy(),  # noqa: NPY002 (the global state is what must not move)
        "python_rng": random.getstate(),
        "grad_mode": torch.is_grad_enabled(),
        "fast_path": torch.backends.mha.get_fastpath_enabled(),
    }


def assert_same(before: Any, after: Any, path: str = "") -> None:
    if isinstance(before, dict):
        assert before.keys() == after.keys(), path
        for key in before:
            assert_same(before[key], after[key], f"{path}/{key}")
    elif isinstance(before, Tensor):
        assert before.dtype == after.dtype, path
        assert torch.equal(before.nan_to_num(7.0), after.nan_to_num(7.0)), path
    elif isinstance(before, np.ndarray):
        assert np.array_equal(before, after), path
    else:
        assert before == after, path


def disturbed(model: nn.Module) -> nn.Module:
    """A model in the middle of training: modes and requires_grad mixed, gradients present, hooks of the user's."""
    model.train()
    for i, (module, parameter) in enumerate(zip(model.modules(), model.parameters(), strict=False)):
        module.training = i % 3 != 1
        parameter.requires_grad_(i % 2 == 0)
        parameter.grad = torch.full_like(parameter, float(i)) if i % 2 == 0 else None
        module.register_forward_hook(lambda module, args, output: None)
    return model


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_nothing_changes(case: Case) -> None:
    model, batches = disturbed(case.model()), case.batches()
    before = photograph(model)
    agop_of_module(model, batches, outputs=case.outputs)
    agop_of_module(model, batches, outputs=case.outputs, probes=2)
    assert_same(before, photograph(model))


class Interrupts(nn.Module):
    """Raises in the forward or the backward pass, of the second batch."""

    def __init__(self, error: type[BaseException], where: str) -> None:
        super().__init__()
        self.inner, self.where, self.error, self.calls = convnet(), where, error, 0
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.count += 1
        x = self.inner[:3](x)
        if self.calls > 2 and self.where == "forward":
            raise self.error("stop")
        if self.calls > 2 and self.where == "backward":
            x.register_hook(self._stop)
        return self.inner[3:](x)

    def _stop(self, gradient: Tensor) -> None:
        raise self.error("stop")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["forward", "backward", "loader"])
@pytest.mark.parametrize("probes", ["exact", 2])
def test_nothing_changes_when_it_fails(error: type[BaseException], where: str, probes: Any) -> None:
    model = disturbed(fill(Interrupts(error, where)))
    before = photograph(model)

    def batches() -> Any:
        yield from normal(8, 2, 7, 6).split(4)
        raise error("stop")

    with pytest.raises(error, match="stop"):
        agop_of_module(model, batches(), probes=probes)
    assert_same(before, photograph(model))


def test_the_generator_of_a_shuffling_loader_is_given_back() -> None:
    data = torch.utils.data.TensorDataset(normal(6, 5))
    model = fill(mlp())
    before = photograph(model)
    agop_of_module(model, torch.utils.data.DataLoader(data, batch_size=3, shuffle=True))
    assert_same(before, photograph(model))


def test_a_spectral_norm_in_training_mode_takes_no_step() -> None:
    torch_norm = nn.utils.parametrizations.spectral_norm
    model = nn.Sequential(torch_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 2)).double().train()
    before = photograph(model)
    find_layers(model)
    agop_of_module(model, [normal(4, 5)])
    assert_same(before, photograph(model))


def test_an_embedding_that_renormalises_its_rows_is_given_back() -> None:
    model = fill(nn.Sequential(nn.Embedding(7, 4, max_norm=0.1), nn.Flatten(), nn.Linear(12, 2)))
    before = photograph(model)
    agop_of_module(model, [integers(7, 4, 3)])
    assert_same(before, photograph(model))


class Counts(nn.Module):
    """Buffers changed in every way that torch allows; the last one is replaced by another tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 2)
        for name in ("in_place", "hidden", "replaced"):
            self.register_buffer(name, torch.tensor([1.0, float("nan")]))

    def forward(self, x: Tensor) -> Tensor:
        self.in_place += 1
        self.hidden.data += 1
        self.replaced = self.replaced + 1
        return self.head(x).tanh()


def test_buffers_that_change_in_evaluation_mode_are_given_back() -> None:
    model = Counts().double()
    before = photograph(model)
    agop_of_module(model, [normal(4, 5)])
    assert_same(before, photograph(model))


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter_and_is_kept(context: Any) -> None:
    model, X = fill(mlp()), normal(6, 5)
    expected = agop_of_module(model, [X])["0"].agop()
    total = agop_of_function(model.eval(), X)
    with context():
        assert torch.equal(agop_of_module(model, [X.clone()])["0"].agop(), expected)
        torch.testing.assert_close(agop_of_function(model, X.clone()), total)
        assert torch.is_inference_mode_enabled() == (context is torch.inference_mode)
        assert torch.is_grad_enabled() == (context is torch.enable_grad)


def test_a_training_step_that_was_begun_before_can_be_finished_afterwards() -> None:
    model, X = fill(convnet()).train(), normal(4, 2, 7, 6)
    twin = copy.deepcopy(model)
    rng = torch.get_rng_state()
    loss = model(X).square().mean()
    agop_of_module(model, [X])
    loss.backward()
    torch.set_rng_state(rng)
    twin(X).square().mean().backward()
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad)


def test_guest_freezes_and_evaluates_inside() -> None:
    model = disturbed(fill(convnet()))
    with guest(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not torch.backends.mha.get_fastpath_enabled()
        assert torch.is_grad_enabled()
