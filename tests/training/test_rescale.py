"""Initial scales in any model: sizes of hidden outputs, the wanted sensitivity, and the bitwise way back."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, Decoder, half_squares, mlp, over_tokens
from cases import integers, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from featlearn import feature_speed, feature_speed_groups, rescale_init
from featlearn.exceptions import DataError, FeatlearnWarning, ModelError, UnmeasurableError
from featlearn.training.structure import read_structure

SCALABLE = ("mlp", "residual_cnn", "class_token", "decoder", "functional_norms", "checkpointed", "out_of_order")


def regression(n: int = 64, inputs: int = 8) -> tuple[Tensor, Tensor]:
    x = normal(n, inputs)
    return x, x[:, :1] * x[:, 1:2]


def network(depth: int = 4, width: int = 64, seed: int = 0, inputs: int = 8) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mlp(depth, width, inputs=inputs).double()


def rms_of(model: nn.Module, name: str, x: Tensor) -> float:
    found: list[float] = []
    hook = model.get_submodule(name).register_forward_hook(
        lambda module, args, output: found.append(float(output.square().mean().sqrt())), prepend=True
    )
    with torch.no_grad():
        model(x)
    hook.remove()
    return found[0]


def sensitivity(model: nn.Module, loss: Any, batch: Any, layer: str, rule: Any = "sgd") -> float:
    """Measured with a step of the optimiser whose rates make contributions equal."""
    groups = feature_speed_groups(model, loss, batch, rule=rule, max_ratio=math.inf)
    optimizer = torch.optim.SGD(groups) if rule == "sgd" else torch.optim.Adam(groups, eps=1e-30)
    return feature_speed(model, loss, batch, update=optimizer, layers=layer, finite=False)[layer].sensitivity


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# --- what it promises -------------------------------------------------------------------------------------------------


@given(
    depth=st.integers(2, 8),
    width=st.integers(16, 96),
    rms=st.floats(0.3, 3),
    wanted=st.floats(0.3, 3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=8)
def test_hidden_outputs_and_the_sensitivity_get_the_wanted_size(
    depth: int, width: int, rms: float, wanted: float, seed: int
):
    model, batch = network(depth, width, seed), regression()
    result = rescale_init(model, half_squares, batch, rms=rms, sensitivity=wanted, max_rounds=20)
    for name in (str(2 * i) for i in range(depth - 1)):
        assert rms_of(model, name, batch[0]) == pytest.approx(rms, rel=1e-3)
    last = str(2 * (depth - 2))
    assert result.features == last
    assert result.converged
    assert sensitivity(model, half_squares, batch, last) == pytest.approx(wanted, rel=0.06)
    assert result.sensitivities[-1] == pytest.approx(sensitivity(model, half_squares, batch, last), rel=1e-9)


@pytest.mark.parametrize("name", SCALABLE)
@pytest.mark.parametrize("steps", ["sgd", "adam"])
def test_the_sensitivity_is_one_after_fsc_in_any_network_and_undo_is_bitwise(name: str, steps: Any):
    architecture = ARCHITECTURES[name]
    model, batch = architecture.model(), architecture.batch()
    before, random = state(model), torch.get_rng_state()
    result = rescale_init(model, architecture.loss, batch, steps=steps, max_rounds=20)
    assert result.converged
    structure = read_structure(model, architecture.loss, batch)
    assert result.features == structure.last_features
    found = sensitivity(model, architecture.loss, batch, result.features, steps)
    assert found == pytest.approx(1.0, rel=0.06)
    assert set(result.factors) | set(result.left_alone) == set(architecture.layers)
    assert list(result.factors)[-1] == architecture.layers[-1]
    for layer in list(result.factors)[:-1]:
        assert structure.layers[layer].is_cut
        assert rms_of(model.eval(), layer, batch[0]) == pytest.approx(1.0, rel=1e-3)
    model.train()
    after = state(model)
    for key, tensor in after.items():
        if not tensor.is_floating_point():
            continue
        factor = result.factors.get(key.rpartition(".")[0], 1.0)
        torch.testing.assert_close(tensor, before[key] * factor, rtol=1e-9, atol=0.0)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    result.undo()
    assert same(model, before)


@pytest.mark.parametrize(("rule", "power"), [("mup", -1.0), ("ntk", -0.5)])
def test_readout_of_mup_and_ntk_has_exactly_the_size_of_its_width(rule: Any, power: float):
    for width in (16, 50, 128):
        model, batch = network(width=width), regression()
        result = rescale_init(model, half_squares, batch, rule=rule)
        assert float(model[-1].weight.detach().square().mean().sqrt()) == pytest.approx(width**power, rel=1e-12)
        assert rms_of(model, "4", batch[0]) == pytest.approx(1.0, rel=1e-3)
        assert result.features is None
        assert result.sensitivities == ()
        assert result.converged


def test_the_readout_of_a_convolution_counts_its_window():
    net = nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Conv1d(6, 2, 3, groups=2)).double()
    x, y = normal(8, 2, 9), normal(8, 2, 5, seed=3)
    rescale_init(net, half_squares, (x, y), rule="mup")
    assert float(net[2].weight.detach().square().mean().sqrt()) == pytest.approx(
        1 / 9
    )  # 3 channels of its group, 3 taps


def test_factors_multiply_weight_and_bias_and_nothing_else():
    model, batch = network(), regression()
    before = state(model)
    result = rescale_init(model, half_squares, batch)
    for name, factor in result.factors.items():
        for key in ("weight", "bias"):
            torch.testing.assert_close(model.get_parameter(f"{name}.{key}"), before[f"{name}.{key}"] * factor)


def test_rescaling_twice_does_nothing_the_second_time():
    model, batch = network(), regression()
    rescale_init(model, half_squares, batch)
    again = rescale_init(model, half_squares, batch)
    assert list(again.factors.values()) == pytest.approx([1.0] * 4, rel=1e-10)
    assert len(again.sensitivities) == 1


# --- branches, norms, names -------------------------------------------------------------------------------------------


class Branch(nn.Module):
    """``f + scale W relu(f)``."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(width, width, bias=False), scale
        nn.init.normal_(self.layer.weight, std=(2 / width) ** 0.5)

    def forward(self, f: Tensor) -> Tensor:
        return f + self.scale * self.layer(f.relu())


def residual(depth: int, width: int, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        blocks = [Branch(width, depth**-0.5) for _ in range(depth)]
        return nn.Sequential(nn.Linear(8, width, bias=False), *blocks, nn.Linear(width, 1, bias=False)).double()


@pytest.mark.parametrize("depth", [4, 16])
def test_residual_networks_reach_sensitivity_one_and_rates_of_branches_do_not_fall_with_depth(depth: int):
    model, batch = residual(depth, 64), regression()
    result = rescale_init(model, half_squares, batch, max_rounds=20)
    assert result.features == str(depth)
    assert set(result.left_alone) == {f"{i}.layer" for i in range(1, depth + 1)}
    assert all("residual branch" in reason for reason in result.left_alone.values())
    assert sensitivity(model, half_squares, batch, str(depth)) == pytest.approx(1.0, rel=0.06)
    rates = {group["name"]: group["lr"] for group in feature_speed_groups(model, half_squares, batch)}
    branches = [rates[f"{i}.layer"] for i in range(1, depth + 1)]
    assert max(branches) < 10 * min(branches)


def test_branches_can_be_given_a_size_of_their_own():
    model, batch = residual(4, 64), regression()
    result = rescale_init(model, half_squares, batch, layers={"0": 1.0, "*.layer": 0.25}, rule="mup")
    assert list(result.factors) == ["0", "1.layer", "2.layer", "3.layer", "4.layer", "5"]
    assert result.left_alone == {}
    assert rms_of(model, "0", batch[0]) == pytest.approx(1.0)
    for i in range(1, 5):
        assert rms_of(model, f"{i}.layer", batch[0]) == pytest.approx(0.25)


def test_named_layers_alone_are_rescaled():
    model, batch = network(), regression()
    before = state(model)
    result = rescale_init(model, half_squares, batch, layers=["2"], rms=0.5)
    assert list(result.factors) == ["2", "6"]
    assert result.left_alone == {"0": "not named in layers=", "4": "not named in layers="}
    assert torch.equal(model[0].weight, before["0.weight"])
    assert rms_of(model, "2", batch[0]) == pytest.approx(0.5)


def test_layers_before_a_norm_are_left_alone_with_the_reason():
    net = nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)
    ).double()
    for mode in ("eval", "train"):
        before = state(net)
        result = rescale_init(net, half_squares, regression(), mode=mode)  # type: ignore[arg-type]
        assert list(result.factors) == ["3", "5"]
        assert "normalisation" in result.left_alone["0"]
        assert torch.equal(net[1].running_mean, before["1.running_mean"])
        assert net[1].num_batches_tracked == 0
        result.undo()
        assert same(net, before)


def test_a_module_called_twice_is_sized_at_its_first_call():
    architecture = ARCHITECTURES["called_twice"]
    model, batch = architecture.model(), architecture.batch()
    result = rescale_init(model, architecture.loss, batch)
    assert "loop" in result.factors
    assert rms_of(model, "loop", batch[0]) == pytest.approx(1.0, rel=1e-3)


def test_an_embedding_is_rescaled():
    net = nn.Sequential(nn.Embedding(11, 16), nn.Flatten(), nn.Linear(96, 32), nn.ReLU(), nn.Linear(32, 3)).double()
    batch = integers(11, 24, 6), integers(3, 24)
    result = rescale_init(net, F.cross_entropy, batch, max_rounds=20)
    assert list(result.factors) == ["0", "2", "4"]
    assert rms_of(net, "0", batch[0]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["class_token", "decoder"])
def test_transformers_train_a_few_steps(name: str):
    architecture = ARCHITECTURES[name]
    model, (x, y) = architecture.model(), architecture.batch()
    rescale_init(model, architecture.loss, (x, y), steps="adam", max_rounds=20)
    groups = feature_speed_groups(model, architecture.loss, (x, y), rule="adam", budget=0.05, max_decay=0.1)
    optimizer = torch.optim.Adam(groups)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        value = architecture.loss(model(x), y)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.9 * losses[0]


# --- what is refused, and failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "he"}, "rule='he'"),
        ({"rms": 0.0}, "rms=0.0"),
        ({"rms": math.nan}, "rms=nan"),
        ({"sensitivity": -1.0}, "sensitivity=-1.0"),
        ({"sensitivity": math.inf}, "sensitivity=inf"),
        ({"tol": 0.0}, "tol=0.0"),
        ({"max_rounds": 0}, "max_rounds=0"),
        ({"max_rounds": 1.5}, "max_rounds=1.5"),
        ({"steps": "adagrad"}, "rule='adagrad'"),
        ({"layers": "9"}, "Got layer '9'"),
        ({"layers": ["0", "6"]}, "Got layer '6'"),  # the readout
        ({"layers": {"0": -1.0}}, "size of -1.0 for '0'"),
        ({"layers": {"0": math.inf}}, "size of inf"),
        ({"mode": "test"}, "mode='test'"),
        ({"outputs": "features"}, "outputs='features'"),
        ({"steps": lambda g: -g}, "lowers the loss"),
    ],
)
def test_bad_arguments_are_refused_with_the_weights_untouched(options: dict[str, Any], message: str):
    model = network()
    before = state(model)
    with pytest.raises((DataError, UnmeasurableError), match=message):
        rescale_init(model, half_squares, regression(), **options)
    assert same(model, before)


def test_models_that_cannot_be_rescaled_are_refused_untouched():
    tied = Decoder("tied").double()
    tokens = integers(11, 8, 6), integers(11, 8, 6, seed=3)
    parametrised = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 1)))
    transposed = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Unflatten(1, (4, 1)), nn.ConvTranspose1d(4, 1, 1))
    zero = network()
    nn.init.zeros_(zero[6].weight)
    dead = network()
    nn.init.zeros_(dead[2].weight)
    nn.init.zeros_(dead[2].bias)
    x, y = regression()
    refused: list[tuple[nn.Module, Any, Any, dict[str, Any], str]] = [
        (tied, over_tokens, tokens, {}, "shares its weight with the earlier layer 'tokens'"),
        (parametrised.double(), half_squares, (x, y), {}, "Got the readout '2'"),
        (transposed.double(), half_squares, (x, y[..., None]), {"rule": "mup"}, "Got the readout '3'"),
        (nn.Sequential(nn.Linear(8, 1)).double(), half_squares, (x, y), {}, "without hidden features"),
        (zero, half_squares, (x, y), {"rule": "ntk"}, "readout whose weights have rms 0"),
        (zero, half_squares, (x, y), {}, "zero gradient"),
        (dead, half_squares, (x, y), {}, "output of rms 0 in layer '2'"),
    ]
    for model, loss, batch, options, message in refused:
        before = state(model)
        with pytest.raises((ModelError, UnmeasurableError), match=message):
            rescale_init(model, loss, batch, **options)
        assert same(model, before)
        assert all(p.requires_grad for p in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())


def test_a_transposed_convolution_may_read_out_under_fsc():
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Unflatten(1, (16, 1)), nn.ConvTranspose1d(16, 1, 1)).double()
    x, y = regression()
    assert rescale_init(net, half_squares, (x, y[..., None]), max_rounds=20).converged


def test_a_loss_that_fails_halfway_leaves_the_weights():
    model, batch = network(), regression()
    before, calls = state(model), []

    def failing(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return half_squares(outputs, targets)

    with pytest.raises(KeyboardInterrupt):
        rescale_init(model, failing, batch)
    assert same(model, before)


def test_too_few_rounds_warn_with_the_trace():
    model, batch = network(depth=6), regression()
    with pytest.warns(FeatlearnWarning, match="after 1 rounds.*its trace is") as caught:
        result = rescale_init(model, half_squares, batch, max_rounds=1, tol=1e-6)
    assert caught[0].filename == __file__
    assert not result.converged
    assert len(result.sensitivities) == 2


def test_the_result_is_plain_and_shown():
    model, batch = network(), regression()
    result = rescale_init(model, half_squares, batch, layers=["0", "2"])
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["factors"] == dict(result.factors)
    assert plain["sensitivities"] == list(result.sensitivities)
    frame = result.frame()
    assert list(frame.index) == ["0", "2", "6", "4"]
    assert frame.loc["4", "factor"] == 1.0
    assert frame.loc["4", "left_alone"] == "not named in layers="
    assert "Sensitivity of 4" in result._repr_html_()
