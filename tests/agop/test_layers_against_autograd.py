"""Oracle 1: ``W^T K W`` is the AGOP by autograd on unfolded patches or plain inputs, for every kind of layer."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Case
from reference import layer_agop
from torch import nn

from featlearn import agop_of_module


def locate(model: nn.Module, name: str) -> tuple[str, str]:
    """Module and part of a reported name."""
    owner, _, part = name.rpartition(".")
    modules = dict(model.named_modules())
    return (owner, part) if isinstance(modules.get(owner), nn.MultiheadAttention) else (name, "")


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_agop_equals_autograd_on_patches(case: Case) -> None:
    model, batches = case.model(), case.batches()
    measured = agop_of_module(model, batches, outputs=case.outputs)
    assert tuple(measured) == case.layers
    for name in case.layers:
        module, part = locate(model, name)
        expected = layer_agop(model, batches, module, call=case.call, part=part)
        expected = expected[0] if len(expected) == 1 else expected
        torch.testing.assert_close(measured[name].agop(), expected, rtol=1e-10, atol=1e-12)
        assert (measured[name].isotropic is not None) == (name in case.trivial)
