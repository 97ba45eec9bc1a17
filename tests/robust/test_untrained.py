"""The untrained copy is the architecture at torch's own random weights; nothing of the model is touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from featlearn.exceptions import DataError, ModelError
from featlearn.robust.untrained import untrained_copy


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 200), nn.LayerNorm(200))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
        model[1].running_mean.fill_(3.0)
        model[1].num_batches_tracked.fill_(12)
    return model


def test_all_weights_are_drawn_anew_as_torch_draws_them() -> None:
    fresh = untrained_copy(network())
    weight = fresh[3].weight.detach()
    bound = 1 / np.sqrt(24)  # nn.Linear: uniform on +- 1 / sqrt(inputs)
    assert float(weight.abs().max()) <= bound
    spread = float(weight.var()) / (bound**2 / 3)
    assert abs(spread - 1) < 3 * np.sqrt(0.8 / weight.numel())  # 3 s.e. of a uniform variance
    assert torch.equal(fresh[4].weight, torch.ones(200))
    assert torch.equal(fresh[1].running_mean, torch.zeros(6))
    assert int(fresh[1].num_batches_tracked) == 0
    assert not any(bool((parameter == 7.0).any()) for parameter in fresh.parameters())


def test_the_model_and_the_global_generator_stay_as_they_are() -> None:
    model = network().eval()
    model[0].weight.requires_grad_(False)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    fresh = untrained_copy(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert not fresh.training
    assert [p.requires_grad for p in fresh.parameters()] == [p.requires_grad for p in model.parameters()]


def test_the_seed_decides() -> None:
    first, again, other = untrained_copy(network(), 1), untrained_copy(network(), 1), untrained_copy(network(), 2)
    assert torch.equal(first[3].weight, again[3].weight)
    assert not torch.equal(first[3].weight, other[3].weight)


@pytest.mark.parametrize("seed", [None, -1, 1.5])
def test_other_seeds_are_refused(seed: object) -> None:
    with pytest.raises(DataError, match="expected a whole number of at least 0"):
        untrained_copy(network(), seed)


def test_attention_is_drawn_as_torch_draws_it() -> None:
    block = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.fill_(7.0)
    fresh = untrained_copy(block)
    attention = fresh.self_attn
    assert float(attention.in_proj_weight.detach().abs().max()) <= np.sqrt(6 / (8 + 24))  # Xavier of (24, 8)
    assert torch.equal(attention.in_proj_bias, torch.zeros(24))
    assert torch.equal(attention.out_proj.bias, torch.zeros(8))  # set by the parent, after its child was drawn
    assert not any(bool((parameter == 7.0).any()) for parameter in fresh.parameters())


def test_a_parameter_that_nobody_can_draw_is_named() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(3))
            self.head = nn.Linear(3, 2)

    model = nn.Sequential(Tokens())
    with pytest.raises(ModelError, match=r"'0\.token' of a Tokens, which has no reset_parameters"):
        untrained_copy(model)
    weighted = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    with pytest.raises(ModelError, match="reset_parameters"):
        untrained_copy(weighted)


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    fresh = untrained_copy(model)
    assert fresh[1].weight is fresh[0].weight
    assert not torch.equal(fresh[0].weight, model[0].weight)
