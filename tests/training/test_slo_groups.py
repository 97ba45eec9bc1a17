"""Every trainable parameter falls into one group, with the speed that its layer was given."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from cases import CASES, Tied, fill, normal
from torch import Tensor, nn

from featlearn import SLO, slo_groups
from featlearn.exceptions import DataError, ModelError


class Block(nn.Module):
    """Attention and a feed-forward part; owns a free tensor beside its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)
        self.norm = nn.LayerNorm((4, 8))
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.token)
        return self.down(torch.relu(self.up(self.attention(x, x, x)[0])))


class Language(nn.Module):
    """Embedding tied to the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def speeds(groups: list[dict[str, Any]]) -> dict[str, float]:
    return {group["name"]: group["speed"] for group in groups if "speed" in group}


@pytest.mark.parametrize("case", CASES.values() if isinstance(CASES, dict) else CASES, ids=str)
def test_every_trainable_parameter_is_in_exactly_one_group(case: Any) -> None:
    model = case.model()
    list(model.parameters())[-1].requires_grad_(False)
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    groups = slo_groups(model, "*")
    count = Counter(id(parameter) for group in groups for parameter in group["params"])
    assert set(count) == trainable
    assert set(count.values()) == {1}
    assert all(len(group["params"]) == 1 for group in groups if "speed" in group)
    assert len(SLO(torch.optim.SGD(groups, lr=0.1)).param_groups) == len(groups)


def test_weights_have_speeds_and_everything_else_is_exempt() -> None:
    model = Language()
    groups = slo_groups(model, "blocks.1.up", constant=10.0, lr=0.3)
    assert speeds(groups) == {
        "blocks.0.attention.in_proj_weight": 0.1,
        "blocks.0.attention.out_proj.weight": 0.1,
        "blocks.0.up.weight": 0.1,
        "blocks.0.down.weight": 0.1,
        "blocks.1.attention.in_proj_weight": 0.1,
        "blocks.1.attention.out_proj.weight": 0.1,
        "blocks.1.up.weight": 10.0,
        "blocks.1.down.weight": 0.1,
    }
    assert groups[-1]["name"] == "exempt"
    assert groups[-1]["exempt"] is True
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    exempt = {names[id(parameter)].removeprefix("blocks.0.") for parameter in groups[-1]["params"]}
    assert {"words.weight", "token", "norm.weight", "up.bias", "attention.bias_k", "attention.in_proj_bias"} <= exempt
    assert {group["lr"] for group in groups} == {0.3}


@pytest.mark.parametrize(
    ("fast", "expected"),
    [
        ("blocks.*.up", {"blocks.0.up.weight", "blocks.1.up.weight"}),
        (["blocks.0.up", "blocks.1.down.weight"], {"blocks.0.up.weight", "blocks.1.down.weight"}),
        ("blocks.0.attention", {"blocks.0.attention.in_proj_weight"}),
        ("blocks.0.attention.q", {"blocks.0.attention.in_proj_weight"}),
        ("blocks.0.attention.out_proj", {"blocks.0.attention.out_proj.weight"}),
        ("blocks.0.attention.*", {"blocks.0.attention.in_proj_weight", "blocks.0.attention.out_proj.weight"}),
        ("words", {"words.weight"}),
        ("head", {"words.weight"}),
        ("blocks.1.norm.weight", {"blocks.1.norm.weight"}),
        ("blocks.1.up.bias", {"blocks.1.up.bias"}),
    ],
)
def test_fast_is_a_name_or_glob_of_layers_or_parameters(fast: Any, expected: set[str]) -> None:
    found = speeds(slo_groups(Language(), fast))
    assert {name for name, speed in found.items() if speed == 20.0} == expected
    assert set(found.values()) == {20.0, 0.05}


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), {"0.weight"}),
        (lambda: nn.LSTM(3, 4), {"weight_ih_l0", "weight_hh_l0"}),
        (lambda: nn.Sequential(nn.EmbeddingBag(5, 3), nn.Bilinear(3, 3, 2)), {"1.weight"}),
        (lambda: Tied(4), {"a.weight", "head.weight"}),
        (
            lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))),
            {"0.parametrizations.weight.original0", "0.parametrizations.weight.original1"},
        ),
    ],
    ids=["convolution", "recurrent", "bilinear", "tied", "parametrized"],
)
def test_what_counts_as_a_weight(build: Any, names: set[str]) -> None:
    assert set(speeds(slo_groups(build(), "*"))) == names


def test_a_parametrized_layer_has_its_own_name() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2))
    assert list(speeds(slo_groups(model, "0")).values()) == [20.0, 20.0, 0.05]


def test_the_second_name_of_a_tied_weight_is_known() -> None:
    assert speeds(slo_groups(Tied(4), "b")) == speeds(slo_groups(Tied(4), "a"))


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, partial(torch.compile, backend="eager")], ids=["parallel", "compiled"]
)
def test_wrappers_are_looked_through(wrap: Any) -> None:
    model = fill(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    assert speeds(slo_groups(wrap(model), "1")) == {"0.weight": 0.05, "1.weight": 20.0}


def test_one_linear_layer_alone_is_called_by_its_weight() -> None:
    assert speeds(slo_groups(nn.Linear(3, 2), "weight")) == {"weight": 20.0}


def test_groups_train() -> None:
    model = fill(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))
    optimizer = SLO(torch.optim.SGD(slo_groups(model, "0", lr=0.01)))
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = (model(normal(20, 3)) - normal(20, 1)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("fast", "options", "message"),
    [
        ("block.1.up", {}, r"Got fast='block.1.up', but .* The closest are 'blocks.1.up'"),
        ("blocks.1", {}, r"Got fast='blocks.1', but .* Use the glob 'blocks.1.\*'"),
        ("norm*", {}, r"Got fast='norm\*'"),
        ([], {}, r"Got fast=\[\], but expected at least one name"),
        ([3], {}, "Got fast=3, but expected a name or glob"),
        ("head", {"constant": 0.0}, "Got constant=0.0, but expected a positive finite number"),
        ("head", {"constant": math.nan}, "Got constant=nan"),
        ("head", {"lr": -1.0}, r"Got lr=-1.0"),
    ],
)
def test_what_no_group_can_be_made_of_is_refused(fast: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        slo_groups(Language(), fast, **options)


def test_frozen_lazy_and_other_models_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    assert speeds(slo_groups(model, "1")) == {"1.weight": 20.0}
    with pytest.raises(DataError, match=r"Got fast='0', but expected a layer that is trained: '0.weight' is frozen"):
        slo_groups(model, "0")
    with pytest.raises(ModelError, match=r"Got the lazy parameter '0\.weight'"):
        slo_groups(nn.Sequential(nn.LazyLinear(2)), "0")
    with pytest.raises(ModelError, match=r"Got list, but expected a torch\.nn\.Module"):
        slo_groups([nn.Linear(2, 2)], "0")
