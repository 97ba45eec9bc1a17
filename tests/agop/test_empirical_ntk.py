from __future__ import annotations

import copy

import pytest
import torch
from cases import CASES, fill, normal
from torch import nn

from featlearn.agop.empirical_ntk import empirical_ntk
from featlearn.exceptions import DataError, UnmeasurableError

# Samples of the others cannot be told apart by layer, which the kernel of the layers refuses.
LEFT_OUT = ("sample_by_sample", "square_time_first", "experts")
KERNELS = [name for name in CASES if name not in LEFT_OUT]


def by_autograd(model, batches, call):
    """One autograd call for every output of every sample, all parameters that require a gradient."""
    model = copy.deepcopy(model).eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    samples = []
    for batch in batches:
        outputs = call(model, batch)
        for sample in outputs.flatten(1) if outputs.dim() > 1 else outputs[:, None]:
            rows = [
                torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True) for value in sample
            ]
            samples.append(torch.stack([torch.cat([gradient.flatten() for gradient in row]) for row in rows]))
    jacobian = torch.stack(samples)
    return torch.einsum("icp,jcp->ij", jacobian, jacobian)


def assert_gram(gram, expected, tolerance=1e-10):
    torch.testing.assert_close(gram, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_equals_autograd_over_all_parameters(name):
    case = CASES[name]
    found = empirical_ntk(case.model(), case.batches(), outputs=case.outputs)
    assert_gram(found, by_autograd(case.model(), case.batches(), case.call))


def normalised():
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.LayerNorm(12)]
    return fill(nn.Sequential(*layers, nn.Linear(12, 2)))


@pytest.mark.parametrize("frozen", [(), ("0",), ("1",), ("0", "4"), ("5",)])
def test_frozen_parameters_do_not_count(frozen):
    model, x = normalised(), normal(5, 1, 4, 4)
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    assert_gram(empirical_ntk(model, x.split(2)), by_autograd(model, [x], lambda m, batch: m(batch)))


def test_a_weight_frozen_beside_its_bias_does_not_count():
    model, x = fill(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))), normal(5, 3)
    model[0].weight.requires_grad_(False)
    assert_gram(empirical_ntk(model, [x]), by_autograd(model, [x], lambda m, batch: m(batch)))


class UsesAWeightItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.never_called, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.nn.functional.linear(x, self.never_called.weight).tanh())


def test_the_weight_of_a_module_that_never_runs_counts_where_it_is_used():
    model, x = fill(UsesAWeightItself()), normal(5, 3)
    assert_gram(empirical_ntk(model, [x]), by_autograd(model, [x], lambda m, batch: m(batch)))


def test_small_blocks_change_nothing(monkeypatch):
    monkeypatch.setattr("featlearn.agop.empirical_ntk.BLOCK", 1)
    model, x = normalised(), normal(5, 1, 4, 4)
    assert_gram(empirical_ntk(model, [x]), by_autograd(model, [x], lambda m, batch: m(batch)))


def test_signs_are_unbiased_shared_by_all_parameters_and_seeded():
    model, x = normalised(), normal(4, 1, 4, 4)
    exact = empirical_ntk(model, [x])
    draws = torch.stack([empirical_ntk(model, [x], probes=1, random_state=seed) for seed in range(200)])
    error = draws.std(dim=0) / len(draws) ** 0.5
    assert bool(((draws.mean(dim=0) - exact).abs() <= 4 * error).all())
    assert torch.equal(draws[3], empirical_ntk(model, [x], probes=1, random_state=3))
    # One combination of two outputs, s.f with s = (+-1, +-1): four kernels, two of them different.
    assert len({tuple(draw.flatten().tolist()) for draw in draws.round(decimals=10)}) == 2


def test_model_is_a_guest():
    model, x = normalised().train(), normal(4, 1, 4, 4)
    model[1].bias.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    empirical_ntk(model, [x])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_computed_is_refused():
    model, x = fill(nn.Linear(3, 2)), normal(4, 3)
    with pytest.raises(DataError, match="Got probes=0"):
        empirical_ntk(model, [x], probes=0)
    with pytest.raises(DataError, match="non-negative integer"):
        empirical_ntk(model, [x], random_state=-1)
    with pytest.raises(UnmeasurableError, match="without parameters that require a gradient"):
        empirical_ntk(model.requires_grad_(False), [x])
