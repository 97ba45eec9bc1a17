"""Rescaled layers: the function stays, the speeds change as computed, and what would change the function is refused."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from cases import CASES, fill, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import featlearn
from featlearn.exceptions import DataError, FeatlearnError, ModelError, UnmeasurableError
from featlearn.training.balance import balance_of, layer_balance
from featlearn.training.balance_results import BalanceReport, LayerBalance

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def mlp() -> nn.Sequential:
    parts = [nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6, bias=False), nn.LeakyReLU(0.2), nn.Linear(6, 4), nn.ReLU()]
    return fill(nn.Sequential(*parts, nn.Linear(4, 3)))


def cnn() -> nn.Sequential:
    first = [nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1, groups=2)]
    second = [nn.PReLU(), nn.AvgPool2d(2, ceil_mode=True), nn.Dropout(0.5), nn.Flatten()]
    return fill(nn.Sequential(*first, *second, nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))


MODELS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "mlp": (mlp, (9, 5)),
    "cnn": (cnn, (9, 2, 6, 6)),
}


def weights(model: nn.Module) -> list[nn.Parameter]:
    return [module.weight for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]


def norms_of(model: nn.Module) -> list[float]:
    return [float(w.detach().norm()) for w in weights(model)]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def speeds(model: nn.Module, x: Tensor) -> list[float]:
    model = copy.deepcopy(model).eval()
    model(x).square().mean().backward()
    return [float(w.grad.norm() / w.detach().norm()) for w in weights(model)]


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tilt", [-1.3, 0.0, 1.0])
def test_function_stays_factors_multiply_to_one_and_speeds_scale_by_their_inverse_squares(name, tilt):
    make, shape = MODELS[name]
    model, x = make().eval(), normal(*shape)
    before, slow = model(x), speeds(model, x)
    balance = layer_balance(model, tilt, batch=x)
    assert float(((model(x) - before).norm() / before.norm()).detach()) < 1e-12
    assert balance.output_change < 1e-12
    factors = np.array(list(balance.factors.values()))
    assert factors.prod() == pytest.approx(1.0, rel=1e-12)
    assert np.abs(factors - 1).max() > 0.1
    np.testing.assert_allclose(np.array(speeds(model, x)) / slow, factors**-2.0, rtol=1e-10)
    depth = np.linspace(-1.0, 1.0, len(factors))
    norms = np.array(norms_of(model))
    np.testing.assert_allclose(norms / np.exp(tilt * depth), np.full(len(norms), norms.prod() ** (1 / len(norms))))


def test_tilt_one_makes_the_first_layer_e_squared_faster_and_the_last_slower_than_balanced():
    model, x = mlp(), normal(9, 5)
    layer_balance(model, 0.0)
    balanced = speeds(model, x)
    layer_balance(model, 1.0)
    ratio = np.array(speeds(model, x)) / balanced
    np.testing.assert_allclose(ratio, np.exp([2.0, 2 / 3, -2 / 3, -2.0]), rtol=1e-10)


@pytest.mark.parametrize("tilt", [-0.8, 0.3])
def test_two_layers_of_equal_products_have_the_delta_of_the_paper(tilt):
    tau, width = 0.3, 6
    model = nn.Sequential(nn.Linear(5, width, bias=False), nn.ReLU(), nn.Linear(width, 1, bias=False)).double()
    w = normal(width, 5)
    with torch.no_grad():
        model[0].weight.copy_(tau**2 * w / w.norm(dim=1, keepdim=True) / 0.7)
        model[2].weight.copy_(0.7 * normal(1, width, seed=3).sign())
    layer_balance(model, tilt)
    delta = model[2].weight[0] ** 2 - model[0].weight.square().sum(dim=1)
    torch.testing.assert_close(delta, torch.full_like(delta, 2 * tau**2 * math.sinh(2 * tilt)), rtol=1e-12, atol=0)


def test_rates_balance_what_gradient_flow_conserves():
    model, rates = mlp(), [0.1, 0.4, 0.2, 1.0]
    layer_balance(model, rates=rates)
    conserved = [norm**2 / rate for norm, rate in zip(norms_of(model), rates, strict=True)]
    np.testing.assert_allclose(conserved, conserved[0], rtol=1e-12)
    named = balance_of(model, rates=dict(zip(["6", "4", "2", "0"], rates[::-1], strict=True)))
    assert max(abs(pair.balance) for pair in named.pairs) < 1e-12


def test_layers_in_between_keep_their_weights_and_their_biases_follow():
    model, x = mlp(), normal(9, 5)
    middle, before = model[4].weight.clone(), model(x)
    bias = model[4].bias.clone()
    balance = layer_balance(model, 0.5, layers=["0", "6"], batch=x)
    assert list(balance.layers) == ["0", "6"]
    assert torch.equal(model[4].weight, middle)
    torch.testing.assert_close(model[4].bias, bias * balance.factors["0"])
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-13)


def test_bias_of_the_last_layer_and_layers_outside_keep_every_bit():
    model = mlp()
    kept = [model[0].weight.clone(), model[0].bias.clone(), model[6].weight.clone(), model[6].bias.clone()]
    last = model[4].bias.clone()
    layer_balance(model, 1.0, layers=["2", "4"])
    now = [model[0].weight, model[0].bias, model[6].weight, model[6].bias]
    assert all(torch.equal(a, b) for a, b in zip(now, kept, strict=True))
    assert torch.equal(model[4].bias, last)


class Backwards(nn.Module):
    """Registered from the output to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.middle, self.first = nn.Linear(4, 2), nn.Linear(6, 4), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x).relu()).relu())


def test_batch_gives_the_order_of_execution():
    model, x = fill(Backwards()), normal(6, 3)
    before = model(x)
    balance = layer_balance(model, 1.0, batch=x)
    assert list(balance.layers) == ["first", "middle", "last"]
    assert balance.order == "execution"
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-13)
    assert model.first.weight.norm() < model.middle.weight.norm() < model.last.weight.norm()
    assert [pair.first for pair in balance_of(model).pairs] == ["last", "middle"]
    assert [pair.first for pair in balance_of(model, batch=x).pairs] == ["first", "middle"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_every_device_and_type(device, dtype):
    model = mlp().to(device, dtype)
    before = state(model)
    balance = layer_balance(model, 0.7, batch=normal(9, 5))
    assert balance.output_change < {torch.float32: 1e-5, torch.float64: 1e-14}.get(dtype, 0.03)
    assert model[0].weight.dtype == dtype
    balance.undo()
    assert same(model, before)


def test_measured_speeds_are_those_of_the_gradient_times_the_rate():
    model, x = mlp(), normal(9, 5)
    before = speeds(model, x)
    rates = [0.5, 1.0, 2.0, 3.0]
    balance = layer_balance(model, 0.4, batch=x, rates=rates, loss=lambda outputs, _: outputs.square().mean())
    layers = list(balance.layers.values())
    np.testing.assert_allclose([x.speed_before for x in layers], np.multiply(rates, before), rtol=1e-12)
    np.testing.assert_allclose([x.speed_after for x in layers], np.multiply(rates, speeds(model, x)), rtol=1e-12)
    np.testing.assert_allclose([x.speed_gain * x.speed_before / x.speed_after for x in layers], 1.0, rtol=1e-10)


# --- properties -------------------------------------------------------------------------------------------------------

TILTS = st.floats(-3, 3)


@settings(deadline=None, max_examples=40)
@given(tilt=TILTS, seed=st.integers(0, 99), widths=st.lists(st.integers(1, 6), min_size=3, max_size=6))
def test_undo_restores_every_bit(tilt, seed, widths):
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    model = fill(nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())]), seed)
    before, out = state(model), model(normal(4, widths[0]))
    balance = layer_balance(model, tilt)
    torch.testing.assert_close(model(normal(4, widths[0])), out, rtol=1e-10, atol=1e-12)
    balance.undo()
    assert same(model, before)


@settings(deadline=None, max_examples=30)
@given(first=TILTS, second=TILTS)
def test_only_the_last_tilt_counts(first, second):
    twice, once = mlp(), mlp()
    layer_balance(twice, first)
    again = layer_balance(twice, second)
    layer_balance(once, second)
    for a, b in zip(twice.parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
    np.testing.assert_allclose(
        list(again.factors.values()), np.exp((second - first) * np.linspace(-1, 1, 4)), rtol=1e-12
    )
    np.testing.assert_allclose(list(layer_balance(twice, second).factors.values()), 1.0, rtol=1e-12)


# --- refusals ---------------------------------------------------------------------------------------------------------


class Functional(nn.Module):
    """What happens between the layers is written in forward, where it shows on a batch only."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return self.head(self.between(self.second(h) if self.between is not torch.abs else h + self.second(h)))


def sequential(*between: nn.Module) -> nn.Sequential:
    return fill(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), *between, nn.Linear(6, 2)))


@pytest.mark.parametrize(
    "module",
    [
        *(nn.Tanh(), nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.ELU(), nn.Softplus(), nn.ReLU6(), nn.Softmax(dim=-1)),
        *(nn.BatchNorm1d(6), nn.LayerNorm(6), nn.GroupNorm(2, 6), nn.RMSNorm(6)),
    ],
    ids=lambda module: type(module).__name__,
)
@pytest.mark.parametrize("with_batch", [False, True])
def test_known_obstacles_are_named_before_anything_changes(module, with_batch):
    model = sequential(module)
    before = state(model)
    with pytest.raises(ModelError, match=rf"Got '3'.*{type(module).__name__}"):
        layer_balance(model, 0.5, batch=normal(8, 5) if with_batch else None)
    assert same(model, before)


@pytest.mark.parametrize("between", [torch.tanh, torch.nn.functional.gelu, torch.abs], ids=["tanh", "gelu", "residual"])
def test_obstacles_in_forward_are_found_by_the_outputs_and_everything_is_put_back(between):
    model = fill(Functional(between))
    before = state(model)
    pair = "'first' to 'second'" if between is torch.abs else "'second' to 'head'"
    with pytest.raises(ModelError, match=pair):
        layer_balance(model, 0.5, batch=normal(8, 5))
    assert same(model, before)
    # Without a batch the sum cannot be seen, as the documentation says.
    outputs = model(normal(8, 5))
    layer_balance(model, 0.5)
    assert not torch.allclose(model(normal(8, 5)), outputs, rtol=1e-3)


def test_obstacles_outside_of_the_chain_do_not_matter_on_a_batch():
    model = fill(nn.Sequential(nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.LogSoftmax(dim=-1)))
    with pytest.raises(ModelError, match=r"Got '0'.*Pass batch="):
        layer_balance(model, 0.5)
    x = normal(8, 5)
    before = model(x)
    layer_balance(model, 0.5, batch=x)
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-13)


def test_branch_of_two_layers_inside_a_residual_sum_can_be_balanced():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(5, 9), nn.Linear(9, 5)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(self.up(x).relu())

    model, x = fill(Residual()), normal(8, 5)
    before = model(x)
    assert layer_balance(model, -0.5, batch=x).output_change < 1e-12
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-13)


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x


def test_unknown_modules_need_a_batch():
    with pytest.raises(ModelError, match=r"a Half, of which it is not known.*Pass batch="):
        layer_balance(sequential(Half()))
    assert layer_balance(sequential(Half()), 0.5, batch=normal(8, 5)).output_change < 1e-12
    model = sequential(Square())
    before = state(model)
    with pytest.raises(ModelError, match="'2' to '4'"):
        layer_balance(model, 0.5, batch=normal(8, 5))
    assert same(model, before)


def test_shared_and_computed_weights_are_refused():
    tied = sequential()
    tied[3] = nn.Linear(6, 6)
    tied[3].weight = tied[2].weight
    with pytest.raises(ModelError, match="'2', which shares its weight with '3'"):
        layer_balance(tied)
    twice = sequential()
    twice[3] = twice[2]
    for batch in (None, normal(8, 5)):
        with pytest.raises(ModelError, match="'2', which runs 2 times"):
            layer_balance(twice, batch=batch)
    normed = sequential()
    nn.utils.parametrizations.weight_norm(normed[2])
    with pytest.raises(ModelError, match="'2', which has a weight that is computed"):
        layer_balance(normed)
    one_bias = sequential()
    one_bias[2].bias = one_bias[0].bias
    with pytest.raises(ModelError, match="'2', which has a bias that is shared"):
        layer_balance(one_bias)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_weights_without_a_usable_norm_are_refused(value):
    model = sequential()
    with torch.no_grad():
        model[2].weight.fill_(value)
    before = state(model)
    with pytest.raises(ModelError, match="'2', which has a weight of norm"):
        layer_balance(model)
    assert all(torch.equal(v.nan_to_num(7), before[k].nan_to_num(7)) for k, v in model.state_dict().items())


def test_attention_and_single_layers_are_refused():
    case = CASES["attention"]
    with pytest.raises(ModelError, match="part of attention"):
        layer_balance(case.model())
    with pytest.raises(UnmeasurableError, match="Got 1 of the layers"):
        layer_balance(sequential(), layers=["2"])
    with pytest.raises(UnmeasurableError, match="Got 1 of the layers"):
        layer_balance(nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(UnmeasurableError, match="closest"):
        layer_balance(sequential(), layers=["2", "nine"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tilt": math.nan}, "Got tilt=nan"),
        ({"tilt": "up"}, "Got tilt='up'"),
        ({"tilt": 1e3}, "out of the range of torch.float64"),
        ({"rates": [1.0]}, "Got 1 rates, but expected one for each of the 3"),
        ({"rates": {"0": 1.0}}, "'2' is odd"),
        ({"rates": [1.0, -1.0, 1.0]}, "positive finite"),
        ({"loss": nn.functional.mse_loss}, "without batch="),
        ({"batch": torch.full((2, 5), math.nan)}, "not finite"),
        ({"batch": torch.zeros(2, 5), "outputs": 3}, "Got outputs=3"),
        ({"batch": torch.zeros(2, 5), "loss": lambda outputs, _: outputs}, "one finite number"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "+".join(value),
)
def test_bad_arguments_are_refused_and_nothing_changes(arguments, words):
    model = sequential()
    before = state(model)
    with pytest.raises(DataError, match=words) as caught:
        layer_balance(model, **arguments)
    assert isinstance(caught.value, (FeatlearnError, ValueError))
    assert same(model, before)


def test_model_is_put_back_when_a_later_step_fails():
    model, calls = sequential(), 0

    def loss(outputs: Tensor, _: object) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return outputs.mean()

    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        layer_balance(model, 0.5, batch=normal(8, 5), loss=loss)
    assert same(model, before)


def test_guest_is_left_as_it_came():
    model = cnn().train()
    model[0].weight.requires_grad_(False)
    torch.manual_seed(3)
    rng = torch.get_rng_state()
    layer_balance(model, 0.5, batch=normal(9, 2, 6, 6), loss=lambda outputs, _: outputs.square().mean())
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(module.training for module in model.modules())
    assert not model[0].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# --- measuring --------------------------------------------------------------------------------------------------------


def test_balance_of_written_out():
    model = mlp()
    report = balance_of(model)
    norms = [norm**2 for norm in norms_of(model)]
    for pair, a, b in zip(report.pairs, norms, norms[1:], strict=False):
        assert pair.balance == pytest.approx((b - a) / (a + b), rel=1e-12)
        assert pair.conserved is None
    w = [weight.detach().numpy() for weight in weights(model)]
    for pair, a, b in zip(report.pairs, w, w[1:], strict=False):
        inner, outer = b.T @ b, a @ a.T
        total = np.linalg.norm(inner) + np.linalg.norm(outer)
        assert pair.matrix == pytest.approx(np.linalg.norm(inner - outer) / total, rel=1e-12)
        assert pair.reason is None
    assert balance_of(model, batch=normal(9, 5)).pairs[0].conserved is True


def test_matrix_balance_is_zero_for_layers_that_share_their_singular_vectors():
    u, _, v = torch.linalg.svd(normal(6, 6))
    s = torch.linspace(0.5, 2.0, 6, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(u @ torch.diag(s) @ v)
        model[1].weight.copy_(v @ torch.diag(s) @ u.T)
    pair = balance_of(model).pairs[0]
    assert pair.matrix < 1e-14
    assert abs(pair.balance) < 1e-14
    turned = copy.deepcopy(model)
    with torch.no_grad():
        turned[1].weight.copy_(turned[1].weight @ v)
    assert abs(balance_of(turned).pairs[0].balance) < 1e-14
    assert balance_of(turned).pairs[0].matrix > 0.1


def test_gradient_descent_of_linear_convolutions_conserves_the_matrix_of_channels():
    model = fill(nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.Conv2d(3, 2, 2, bias=False)))
    x = normal(6, 2, 6, 6)

    def difference() -> Tensor:
        first, second = weights(model)
        inner = sum(second[:, :, i, j].T @ second[:, :, i, j] for i in range(2) for j in range(2))
        return (inner - first.flatten(1) @ first.flatten(1).T).detach()

    start, before = difference(), [w.detach().clone() for w in weights(model)]
    report = balance_of(model).pairs[0]
    outer = before[0].flatten(1) @ before[0].flatten(1).T
    total = float((start + outer).norm() + outer.norm())
    assert report.matrix == pytest.approx(float(start.norm()) / total, rel=1e-12)
    for _ in range(400):
        gradients = torch.autograd.grad((model(x) - 1).square().mean(), weights(model))
        with torch.no_grad():
            for w, g in zip(weights(model), gradients, strict=True):
                w -= 1e-3 * g
    moved = sum(float((a.detach() - b).norm()) for a, b in zip(weights(model), before, strict=True))
    assert moved > 0.1
    assert float((difference() - start).norm()) < 1e-3 * moved


@pytest.mark.parametrize("name", ["encoder", "residual", "convnet", "attention", "tied", "repeated", "lora", "mlp"])
def test_any_model_is_measured_and_every_missing_matrix_has_a_reason(name):
    case = CASES[name]
    model = case.model()
    before = state(model)
    for batch in (None, case.batches()[0]):
        report = balance_of(model, batch=batch)
        assert len(report.pairs) == len(case.layers) - 1
        for pair in report.pairs:
            assert -1 <= pair.balance <= 1
            assert (pair.matrix is None) == (pair.reason is not None)
            assert pair.matrix is None or 0 <= pair.matrix <= 1
            assert (pair.conserved is None) == (batch is None)
    assert same(model, before)


def test_pairs_that_are_no_chain_are_told_apart_on_a_batch():
    case = CASES["mlp"]  # its second activation is a tanh
    report = balance_of(case.model(), batch=case.batches()[0])
    assert [pair.conserved for pair in report.pairs] == [True, False]
    assert "no chain" in report.pairs[1].reason

    class Siblings(nn.Module):
        """Without biases the product of both outputs stays when one doubles and the other halves."""

        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.left(x) * self.right(x)

    assert balance_of(fill(Siblings()), batch=normal(6, 4)).pairs[0].conserved is False
    assert "pass batch=" in balance_of(fill(Siblings())).pairs[0].reason


# --- results ----------------------------------------------------------------------------------------------------------


def test_results_are_frozen_tables_dictionaries_and_pages():
    assert featlearn.layer_balance is layer_balance
    assert featlearn.balance_of is balance_of
    model, x = mlp(), normal(9, 5)
    balance = layer_balance(model, 0.5, batch=x, loss=lambda outputs, _: outputs.square().mean())
    report = balance_of(model, batch=x)
    for result, cls in ((balance, LayerBalance), (report, BalanceReport)):
        plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert cls.from_dict(plain).to_dict() == result.to_dict()
        assert "<table" in result._repr_html_()
        with pytest.raises(AttributeError, match="cannot assign"):
            result.order = "other"
    assert balance.frame().loc["0", "factor"] == balance.factors["0"]
    assert report.frame().loc[("0", "2"), "balance"] == report.pairs[0].balance
    LayerBalance.from_dict(balance.to_dict()).undo()  # holds no copy: does nothing
    assert norms_of(model)[0] == pytest.approx(balance.layers["0"].norm_after)
