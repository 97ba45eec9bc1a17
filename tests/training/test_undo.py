"""The way back from changes in place is bitwise, whatever the bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from featlearn.training.undo import KeptParameters


def bits(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.detach().clone().view(torch.int32)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8))
def test_every_bit_comes_back(patterns: list[int]):
    """Subnormal numbers, signed zeros, infinities and payloads of NaN included."""
    parameter = nn.Parameter(torch.tensor(patterns, dtype=torch.int32).view(torch.float32))
    before, kept = bits(parameter), KeptParameters([parameter])
    with torch.no_grad():
        parameter.mul_(3.0).add_(1.0)
    kept.restore()
    assert torch.equal(bits(parameter), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_parameters_stay_the_same_objects_and_can_be_restored_again(dtype: torch.dtype):
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)
    net[1].requires_grad_(False)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before = {name: (p, p.data_ptr(), p.detach().clone(), p.grad) for name, p in net.named_parameters()}
    kept = KeptParameters(iter(net.parameters()))
    for _ in range(2):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
        kept.restore()
        for name, parameter in net.named_parameters():
            same, address, copy, grad = before[name]
            assert parameter is same
            assert parameter.data_ptr() == address
            assert torch.equal(parameter, copy)
            assert parameter.grad is grad
            assert parameter.requires_grad == name.startswith("0")


def test_what_is_not_kept_is_not_touched():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    kept = KeptParameters([net[0].weight])
    with torch.no_grad():
        net[0].weight.zero_()
        net[1].weight.zero_()
    kept.restore()
    assert net[0].weight.abs().sum() > 0
    assert net[1].weight.abs().sum() == 0
