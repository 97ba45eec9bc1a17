"""Oracle 8: measuring changes nothing, bitwise, of the model, of its reference, and of the random numbers."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, Case, convnet, fill, integers, normal
from torch import Tensor, nn

from featlearn import FeatureTracker, canonical_relations, kernel_drift, lazy_rich, measure_features

cross_entropy = nn.functional.cross_entropy
HOOKS = [name for name in vars(nn.Linear(1, 1)) if "hooks" in name]


def photograph(*models: nn.Module) -> dict[str, Any]:
    """Everything that a measurement could disturb."""
    modules = [module for model in models for module in model.modules()]
    parameters = [parameter for model in models for parameter in model.parameters()]
    tensors = [tensor for model in models for tensor in model.state_dict(keep_vars=True).values()]
    return {
        "tensors": [tensor.detach().clone() for tensor in tensors],
        "identities": [id(tensor) for tensor in tensors],
        "gradients": [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in parameters],
        "requires_grad": [p.requires_grad for p in parameters],
        "modes": [module.training for module in modules],
        "hooks": [{kind: dict(getattr(module, kind)) for kind in HOOKS} for module in modules],
        "attributes": [set(vars(module)) for module in modules],
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.random.get_state()[1].astype(np.int64)),  # noqa: NPY002 (must not move)
        "position": np.random.get_state()[2],  # noqa: NPY002
        "python": random.getstate(),
        "grad_mode": torch.is_grad_enabled(),
        "fast_path": torch.backends.mha.get_fastpath_enabled(),
    }


def assert_same(before: Any, after: Any, path: str = "") -> None:
    if isinstance(before, dict):
        assert before.keys() == after.keys(), path
        for key in before:
            assert_same(before[key], after[key], f"{path}/{key}")
    elif isinstance(before, (list, tuple)):
        assert len(before) == len(after), path
        for i, pair in enumerate(zip(before, after, strict=True)):
            assert_same(*pair, f"{path}/{i}")
    elif isinstance(before, Tensor):
        assert before.dtype == after.dtype, path
        assert torch.equal(before, after), path
    else:
        assert before == after, path


def disturbed(model: nn.Module) -> nn.Module:
    """A model in the middle of training: modes and requires_grad mixed, gradients present, hooks of the user's."""
    model.train()
    for i, module in enumerate(model.modules()):
        module.training = i % 3 != 1
        module.register_forward_hook(lambda module, args, output: None)
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 2 == 0)
        parameter.grad = torch.full_like(parameter, float(i)) if i % 2 == 0 else None
    return model


def squared(outputs: Tensor, targets: Any) -> Tensor:
    return outputs.square().mean()


def targeted(case: Case) -> list[Any]:
    """The batches of a case, with targets where they have none."""
    return [batch if isinstance(batch, (dict, tuple)) else (batch, torch.zeros(len(batch))) for batch in case.batches()]


MEASURES: dict[str, Callable[[nn.Module, nn.Module, list[Any], Any], object]] = {
    "measure": lambda model, other, batches, outputs: measure_features(model, batches, outputs=outputs),
    "loss and reference": lambda model, other, batches, outputs: measure_features(
        model, batches, outputs=outputs, loss=squared, reference=other
    ),
    "probes": lambda model, other, batches, outputs: measure_features(model, batches, outputs=outputs, probes=2),
    "relations": lambda model, other, batches, outputs: canonical_relations(
        model, batches, squared, outputs=outputs, normalize=True, center=True
    ),
    "drift": lambda model, other, batches, outputs: kernel_drift(model, other, batches, outputs=outputs),
    "lazy or rich": lambda model, other, batches, outputs: lazy_rich(model, other, batches, outputs=outputs),
    "tracker": lambda model, other, batches, outputs: FeatureTracker(model, batches, outputs=outputs, loss=squared),
}


@pytest.mark.parametrize("measure", list(MEASURES))
@pytest.mark.parametrize(
    "name", ["mlp", "mlp_labelled", "convnet", "encoder", "weight_norm", "lora", "tied", "returns_dict", "checkpointed"]
)
def test_nothing_changes(name: str, measure: str) -> None:
    case = CASES[name]
    model, other, batches = disturbed(case.model()), disturbed(fill(case.build(), seed=1)), targeted(case)
    before = photograph(model, other)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few samples: not what is tested here
        MEASURES[measure](model, other, batches, case.outputs)
    assert_same(before, photograph(model, other))


# --- failures ---------------------------------------------------------------------------------------------------------


class Fails(nn.Module):
    """Raises in the forward or the backward pass, from the third call on; draws random numbers meanwhile."""

    def __init__(self, error: type[BaseException], where: str) -> None:
        super().__init__()
        self.inner, self.where, self.error, self.calls = convnet(), where, error, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002 (as models do)
        x = self.inner[:3](x)
        if self.calls > 2 and self.where == "model":
            raise self.error("stop")
        if self.calls > 2 and self.where == "backward":
            x.register_hook(self._stop)
        return self.inner[3:](x)

    def _stop(self, gradient: Tensor) -> None:
        raise self.error("stop")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["model", "backward", "loader", "loss", "progress"])
@pytest.mark.parametrize("probes", ["exact", 2])
def test_nothing_changes_when_it_fails(error: type[BaseException], where: str, probes: Any) -> None:
    model, other = disturbed(fill(Fails(error, where))), disturbed(fill(Fails(error, "nowhere"), seed=1))
    before = photograph(model, other)
    losses = 0

    def batches() -> Any:
        for x in normal(12, 2, 7, 6).split(4):
            np.random.rand(), random.random(), torch.rand(1)  # noqa: NPY002 (as loaders do)
            yield x, integers(3, 4)
        if where == "loader":
            raise error("stop")

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal losses
        losses += 1
        if where == "loss" and losses > 2:
            raise error("stop")
        return cross_entropy(outputs, targets)

    def progress(done: int, total: int | None) -> None:
        if where == "progress" and done == 2:
            raise error("stop")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error):
            measure_features(model, batches(), probes=probes, loss=loss, reference=other, progress=progress)
    assert_same(before, photograph(model, other))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["model", "backward"])
def test_nothing_changes_when_relations_fail(error: type[BaseException], where: str) -> None:
    model = disturbed(fill(Fails(error, where)))
    before = photograph(model)
    batches = list(zip(normal(16, 2, 7, 6).split(4), integers(3, 16).split(4), strict=True))
    with pytest.raises(error, match="stop"):
        canonical_relations(model, batches, cross_entropy)
    assert_same(before, photograph(model))


def test_the_users_tensors_do_not_change() -> None:
    case = CASES["mlp_labelled"]
    batches = case.batches()
    kept = [(x.clone(), y.clone()) for x, y in batches]
    for x, _ in batches:
        x.requires_grad_(True)
    state = {name: tensor.clone() for name, tensor in fill(case.build(), seed=1).state_dict().items()}
    copies = {name: tensor.clone() for name, tensor in state.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measure_features(case.model(), batches, loss=cross_entropy, reference=state)
    for (x, y), (x0, y0) in zip(batches, kept, strict=True):
        assert torch.equal(x, x0)
        assert torch.equal(y, y0)
        assert x.grad is None
        assert x.requires_grad
    assert all(torch.equal(state[name], copies[name]) for name in copies)


def test_a_report_does_not_change_when_the_model_trains_on() -> None:
    """Results hold numbers of their own, not views of the weights."""
    case = CASES["mlp_labelled"]
    model = case.model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = measure_features(model, case.batches(), loss=cross_entropy)
    before = repr(report.to_dict(matrices=True))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert repr(report.to_dict(matrices=True)) == before
