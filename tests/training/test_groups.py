"""Rates of equal contribution, against what optimisers really do in their first step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, Architecture, half_squares, mlp
from cases import integers, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from featlearn import SLO, feature_speed, feature_speed_groups
from featlearn.agop.speed_results import FeatureSpeed
from featlearn.exceptions import DataError, FeatlearnWarning, UnmeasurableError

ALL = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=str)
UNLIMITED = "ignore:No budget limits layer 'cells'"  # an LSTM returns several tensors
Groups = list[dict[str, Any]]

# What makes the first step of each rule; Adam's eps must be small against every gradient.
OPTIMIZERS: dict[str, Callable[[Groups], torch.optim.Optimizer]] = {
    "sgd": lambda groups: torch.optim.SGD(groups),
    "adam": lambda groups: torch.optim.Adam(groups, eps=1e-30),
    "slo": lambda groups: SLO(torch.optim.SGD(groups), eps=0.0),
}


def regression(n: int = 32, inputs: int = 5) -> tuple[Tensor, Tensor]:
    x = normal(n, inputs)
    return x, x[:, :1] * x[:, 1:2]


def network(depth: int = 4, width: int = 24, seed: int = 0, **options: Any) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mlp(depth, width, **options).double()


def first_step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, batch: Any) -> dict[str, float]:
    """``-<g, dw>`` of every parameter in one real step of the optimiser, which stays done."""
    model.eval()
    optimizer.zero_grad()
    loss(model(batch[0]), batch[1]).backward()
    before = {
        name: (p.detach().clone(), p.grad.to_dense().clone())
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    optimizer.step()
    parameters = dict(model.named_parameters())
    return {name: -float((g * (parameters[name].detach() - p)).sum()) for name, (p, g) in before.items()}


def by_group(model: nn.Module, groups: Groups, decay: dict[str, float]) -> dict[str, float]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {group["name"]: sum(decay[names[id(p)]] for p in group["params"]) for group in groups}


# --- equal contributions ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(UNLIMITED)
@ALL
@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_every_layer_contributes_the_same_to_the_loss_decay_in_the_first_step(architecture: Architecture, rule: Any):
    model, batch = architecture.model(), architecture.batch()
    groups = feature_speed_groups(model, architecture.loss, batch, rule=rule, max_ratio=math.inf)
    assert tuple(group["name"] for group in groups) == architecture.layers
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    decay = by_group(model, groups, first_step(model, OPTIMIZERS[rule](groups), architecture.loss, batch))
    mean = sum(decay.values()) / len(decay)
    assert decay == pytest.approx(dict.fromkeys(architecture.layers, mean), rel=1e-4)
    assert mean > 0


def test_the_decay_that_feature_speed_measures_is_equal_too():
    model, batch = network(), regression()
    groups = feature_speed_groups(model, half_squares, batch)
    speed = feature_speed(model, half_squares, batch, update=torch.optim.SGD(groups))
    own = [layer.own_decay for layer in speed.layers.values()]
    assert own == pytest.approx([speed.total_decay / len(own)] * len(own), rel=1e-4)


def test_contributions_are_those_asked_for():
    model, batch = network(), regression()
    wanted = {"0": 2.0, "2": 1.0, "4": 0.5, "6": 4.0}
    groups = feature_speed_groups(model, half_squares, batch, contributions=wanted)
    decay = by_group(model, groups, first_step(model, torch.optim.SGD(groups), half_squares, batch))
    total = sum(decay.values())
    assert decay == pytest.approx({name: share / 7.5 * total for name, share in wanted.items()}, rel=1e-10)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon")
def test_muon_contributes_equally_as_far_as_newton_schulz_goes():
    # Five steps of its iteration leave singular values between 0.7 and 1.2; it takes matrices alone.
    model, batch = network(bias=False), regression()
    groups = feature_speed_groups(model, half_squares, batch, rule="muon")
    for group in groups:
        rows, columns = group["params"][0].shape
        group["lr"] /= max(1.0, rows / columns) ** 0.5
    optimizer = torch.optim.Muon(groups, weight_decay=0.0, momentum=0.0, nesterov=False)
    decay = by_group(model, groups, first_step(model, optimizer, half_squares, batch))
    expected = sum(decay.values()) / len(decay)
    assert decay == pytest.approx(dict.fromkeys(decay, expected), rel=0.3)


def test_the_step_of_muon_is_the_nearest_orthogonal_matrix():
    model, batch = network(depth=2, width=6, bias=False), regression()
    groups = feature_speed_groups(model, half_squares, batch, rule="muon", budget=None, max_decay=0.5)
    x, y = batch
    value = half_squares(model(x), y)
    value.backward()
    nuclear = {name: float(torch.linalg.matrix_norm(p.grad, "nuc")) for name, p in model.named_parameters()}
    assert [group["lr"] * nuclear[f"{group['name']}.weight"] for group in groups] == pytest.approx(
        [0.25 * value.item()] * 2, rel=1e-10
    )


def test_a_callable_gives_any_other_step():
    model, batch = network(), regression()
    cubic = feature_speed_groups(model, half_squares, batch, rule=lambda g: g**3, budget=None)
    half_squares(model(batch[0]), batch[1]).backward()
    for group in cubic:
        fourth = sum(float((p.grad**4).sum()) for p in group["params"])
        assert group["lr"] * fourth == pytest.approx(
            cubic[0]["lr"] * sum(float((p.grad**4).sum()) for p in cubic[0]["params"])
        )
    doubled = feature_speed_groups(model, half_squares, batch, rule=lambda g: g.mul_(2.0))
    plain = feature_speed_groups(model, half_squares, batch, max_sharpness=None)
    assert [g["lr"] for g in doubled] == pytest.approx([g["lr"] / 2 for g in plain])


# --- limits -----------------------------------------------------------------------------------------------------------


def measured(model: nn.Module, groups: Groups, architecture: Architecture) -> FeatureSpeed:
    return feature_speed(model, architecture.loss, architecture.batch(), update=torch.optim.SGD(groups), finite=False)


@pytest.mark.filterwarnings(UNLIMITED)
@ALL
@pytest.mark.parametrize("budget", [0.01, 0.3])
def test_the_first_step_reaches_one_of_the_two_limits_and_passes_none(architecture: Architecture, budget: float):
    model = architecture.model()
    if architecture.name == "recurrent":
        pytest.skip("the output of an LSTM is several tensors, which have no budget")
    limits = {"budget": budget, "max_decay": 0.4, "max_sharpness": None, "max_ratio": math.inf}
    groups = feature_speed_groups(model, architecture.loss, architecture.batch(), **limits)
    speed = measured(model, groups, architecture)
    readout = "head" if architecture.tied else architecture.layers[-1]
    largest = max(layer.relative_change for name, layer in speed.layers.items() if name != readout)
    assert largest <= budget * (1 + 1e-3)
    assert speed.total_decay <= 0.4 * speed.loss * (1 + 1e-3)
    assert largest >= budget * (1 - 1e-3) or speed.total_decay >= 0.4 * speed.loss * (1 - 1e-3)


@given(budget=st.floats(1e-4, 10), scale=st.floats(0.1, 10), seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_rates_grow_with_the_budget_and_follow_the_units_of_the_loss(budget: float, scale: float, seed: int):
    model, batch = network(depth=3, width=8, seed=seed), regression()
    limits = {"max_decay": None, "max_sharpness": None, "max_ratio": 1e9}
    rates = [
        [group["lr"] for group in feature_speed_groups(model, loss, batch, budget=b, **limits)]
        for b, loss in [
            (budget, half_squares),
            (2 * budget, half_squares),
            (budget, lambda o, y: scale * half_squares(o, y)),
        ]
    ]
    assert rates[1] == pytest.approx([2 * rate for rate in rates[0]], rel=1e-6)
    assert rates[2] == pytest.approx([rate / scale for rate in rates[0]], rel=1e-6)


def test_each_limit_can_be_left_out_and_not_both():
    model, batch = network(), regression()
    value = half_squares(model(batch[0]), batch[1]).item()
    groups = feature_speed_groups(model, half_squares, batch, budget=None, max_decay=0.1, max_sharpness=None)
    assert sum(first_step(model, torch.optim.SGD(groups), half_squares, batch).values()) == pytest.approx(0.1 * value)
    feature_speed_groups(model, lambda o, y: o.mean() - 5.0, batch)  # a loss without a zero: the budget alone
    with pytest.raises(DataError, match="no limit applies"):
        feature_speed_groups(model, lambda o, y: o.mean() - 5.0, batch, budget=None)
    with pytest.raises(DataError, match="no limit applies"):
        feature_speed_groups(nn.Sequential(nn.Linear(5, 1)).double(), half_squares, batch, max_decay=None)


def test_the_tied_readout_has_no_budget_and_the_block_before_it_has():
    tied, functional = (
        feature_speed_groups(
            ARCHITECTURES[name].model(), ARCHITECTURES[name].loss, ARCHITECTURES[name].batch(), max_decay=None
        )
        for name in ("tied_decoder", "functional_decoder")
    )
    # The same function and the same numbers, written in two ways.
    for own, written in zip(tied, functional, strict=True):
        assert own["lr"] > 0
        assert own["name"] == written["name"]


def test_a_huge_rate_is_cut_with_a_warning_that_names_the_layer():
    model, batch = network(), regression()
    with torch.no_grad():
        model[4].weight.mul_(1e-4)  # layers below it receive next to nothing
        model[4].bias.fill_(1.0)
    free = feature_speed_groups(model, half_squares, batch, max_ratio=math.inf, max_sharpness=None)
    rates = {group["name"]: group["lr"] for group in free}
    middle = sum(sorted(rates.values())[1:3]) / 2
    fastest = max(rates, key=rates.__getitem__)
    with pytest.warns(FeatlearnWarning, match=f"rate of layer '{fastest}'.*cut") as caught:
        groups = feature_speed_groups(model, half_squares, batch, max_ratio=5.0, max_sharpness=None)
    assert caught[0].filename == __file__
    for group in groups:
        assert group["lr"] == pytest.approx(min(rates[group["name"]], 5.0 * middle))


class OwnLinear(nn.Module):
    """A layer that no rule knows."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(normal(*shape))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


def test_layers_of_the_users_own_have_the_same_budget():
    own = nn.Sequential(OwnLinear(5, 6), nn.Tanh(), OwnLinear(6, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    usual = nn.Sequential(nn.Linear(5, 6, bias=False), nn.Tanh(), nn.Linear(6, 6, bias=False), nn.Tanh(), own[4])
    with torch.no_grad():
        for i in (0, 2):
            usual[i].weight = nn.Parameter(own[i].matrix.mT.clone())
    found = [
        feature_speed_groups(net, half_squares, regression(), max_decay=None, max_sharpness=None)
        for net in (own, usual)
    ]
    assert [g["lr"] for g in found[0]] == pytest.approx([g["lr"] for g in found[1]], rel=1e-10)


def test_a_layer_that_returns_several_tensors_has_no_budget_and_is_named():
    recurrent = ARCHITECTURES["recurrent"]
    with pytest.warns(FeatlearnWarning, match="No budget limits layer 'cells'") as caught:
        feature_speed_groups(recurrent.model(), recurrent.loss, recurrent.batch())
    assert caught[0].filename == __file__


# --- which layers -----------------------------------------------------------------------------------------------------


def test_only_the_layers_asked_for_learn():
    architecture = ARCHITECTURES["decoder"]
    model, batch = architecture.model(), architecture.batch()
    groups = feature_speed_groups(model, architecture.loss, batch, layers=["blocks.0.*", "head"])
    assert [group["name"] for group in groups] == [*(f"blocks.0.{p}" for p in ("qkv", "proj", "up", "down")), "head"]
    assert [g["name"] for g in feature_speed_groups(model, architecture.loss, batch, layers="blocks.1.up")] == [
        "blocks.1.up"
    ]
    decay = by_group(model, groups, first_step(model, torch.optim.SGD(groups), architecture.loss, batch))
    assert decay == pytest.approx(dict.fromkeys(decay, sum(decay.values()) / len(decay)), rel=1e-8)


def test_sparse_embeddings_get_a_rate():
    net = nn.Sequential(nn.EmbeddingBag(7, 5, sparse=True), nn.Linear(5, 3)).double()
    batch = integers(7, 8, 3), integers(3, 8)
    for rule in ("sgd", "adam", "slo", "muon"):
        groups = feature_speed_groups(net, F.cross_entropy, batch, rule=rule)  # type: ignore[arg-type]
        assert all(math.isfinite(group["lr"]) and group["lr"] > 0 for group in groups)
    groups = feature_speed_groups(net, F.cross_entropy, batch)
    decay = by_group(net, groups, first_step(net, torch.optim.SGD(groups), F.cross_entropy, batch))
    assert decay["0"] == pytest.approx(decay["1"], rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rule", ["sgd", "adam", "slo", "muon"])
def test_rates_in_lower_precision_are_near_those_in_double(dtype: torch.dtype, rule: Any):
    model, batch = network(), regression()
    precise = feature_speed_groups(model, half_squares, batch, rule=rule, max_sharpness=None)
    rough = feature_speed_groups(model.to(dtype), half_squares, batch, rule=rule, max_sharpness=None)
    tolerance = 1e-3 if dtype == torch.float32 else 0.15
    assert [group["lr"] for group in rough] == pytest.approx([group["lr"] for group in precise], rel=tolerance)


@pytest.mark.filterwarnings(UNLIMITED)
@ALL
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_nothing_of_the_model_changes(architecture: Architecture, mode: Any):
    model, batch = architecture.model(), architecture.batch()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    groups = feature_speed_groups(model, architecture.loss, batch, mode=mode)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(math.isfinite(group["lr"]) and group["lr"] > 0 for group in groups)


@pytest.mark.filterwarnings(UNLIMITED)
@ALL
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_training_with_the_rates_lowers_the_loss(architecture: Architecture, rule: Any):
    model, (x, y) = architecture.model().eval(), architecture.batch()
    optimizer = OPTIMIZERS[rule](
        feature_speed_groups(model, architecture.loss, (x, y), rule=rule, budget=0.05, max_decay=0.1)
    )
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        value = architecture.loss(model(x), y)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert all(math.isfinite(value) for value in losses)
    assert losses[-1] < losses[0]


def test_attention_with_dropout_cannot_be_measured_in_training_mode():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(32, 1)).double()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(UnmeasurableError, match=r"attention '0\.self_attn'"):
        feature_speed_groups(net, half_squares, (normal(6, 4, 8), normal(6, 1)), mode="train")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert len(feature_speed_groups(net, half_squares, (normal(6, 4, 8), normal(6, 1)))) == 5


# --- what is refused --------------------------------------------------------------------------------------------------


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lost, self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.lost(x).detach()).tanh())


def test_a_layer_without_gradient_is_named_whether_dead_or_detached():
    detached, batch = Detached().double(), regression()
    with pytest.raises(UnmeasurableError, match="zero gradient in layer 'lost'"):
        feature_speed_groups(detached, half_squares, batch)
    with pytest.raises(UnmeasurableError, match="zero gradient in layer 'lost'"):
        feature_speed_groups(detached, half_squares, batch, layers=["lost", "head"])
    assert len(feature_speed_groups(detached, half_squares, batch, layers=["layer", "head"])) == 2
    detached.lost.requires_grad_(False)
    assert len(feature_speed_groups(detached, half_squares, batch)) == 2
    dead = network()
    with torch.no_grad():
        dead[2].bias.fill_(-100.0)
    with pytest.raises(UnmeasurableError, match="zero gradient in layer '0'"):
        feature_speed_groups(dead, half_squares, batch)


def test_a_rule_that_raises_the_loss_or_has_no_shape_is_refused():
    model, batch = network(), regression()
    with pytest.raises(DataError, match="lowers the loss"):
        feature_speed_groups(model, half_squares, batch, rule=lambda g: -g)
    with pytest.raises(DataError, match="shape"):
        feature_speed_groups(model, half_squares, batch, rule=lambda g: g.sum())
    with pytest.raises(DataError, match="returns float"):
        feature_speed_groups(model, half_squares, batch, rule=lambda g: 1.0)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "adagrad"}, "rule='adagrad'"),
        ({"budget": 0.0}, "budget=0.0"),
        ({"budget": -1.0}, "budget=-1.0"),
        ({"budget": math.nan}, "budget=nan"),
        ({"max_decay": 0.0}, "max_decay=0.0"),
        ({"max_decay": math.inf}, "max_decay=inf"),
        ({"budget": None, "max_decay": None}, "at least one limit"),
        ({"max_ratio": 0.5}, "max_ratio=0.5"),
        ({"max_ratio": math.nan}, "max_ratio=nan"),
        ({"contributions": "same"}, "contributions='same'"),
        ({"contributions": {"0": 1.0}}, "one of each layer"),
        ({"contributions": {"0": 1.0, "2": 1.0, "4": 1.0, "6": 0.0}}, r"contributions\['6'\]=0.0"),
        ({"contributions": {"0": 1.0, "2": 1.0, "4": 1.0, "6": math.nan}}, r"contributions\['6'\]=nan"),
        ({"layers": []}, r"layers=\[\]"),
        ({"layers": "9"}, "Got layer '9'"),
        ({"mode": "test"}, "mode='test'"),
        ({"outputs": "features"}, "outputs='features'"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str):
    with pytest.raises((DataError, UnmeasurableError), match=message):
        feature_speed_groups(network(), half_squares, regression(), **options)
