"""Feature speed against finite differences, gradients of added zeros, and the identities that hold at cuts."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, Case, Custom, Experts, Tied, convnet, fill, integers, mlp, normal
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from featlearn.agop.batches import parse_batch
from featlearn.agop.feature_speed import FeatureSpeed, bfa_theory, feature_speed, speed_of_layers
from featlearn.agop.finding import resolve_layers
from featlearn.agop.layers import Rows
from featlearn.agop.taps import guest
from featlearn.exceptions import DataError, FeatlearnWarning, ModelError, UnmeasurableError

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def loss(outputs: Tensor, targets: Any) -> Tensor:
    return (outputs.sin() + outputs**2).mean()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.act(self.first(x)))


def residual_cnn() -> nn.Module:
    parts = [nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), Block(), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3)]
    return fill(nn.Sequential(*parts))


# --- oracles ----------------------------------------------------------------------------------------------------------


def gradients(model: nn.Module, run: Callable[[nn.Module], Tensor]) -> dict[str, Tensor]:
    model = copy.deepcopy(model).eval()
    loss(run(model), None).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def slow_vectors(
    model: nn.Module, run: Callable[[nn.Module], Tensor], name: str, change: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """``f``, ``b`` and ``df`` of one module: its outputs, the gradient of zeros added to them, central differences."""

    def outputs(step: float) -> Tensor:
        moved = copy.deepcopy(model).eval()
        found: list[Tensor] = []
        moved.get_submodule(name).register_forward_hook(lambda *a: found.append(a[2].detach().clone()), prepend=True)
        with torch.no_grad():
            for parameter, p in moved.named_parameters():
                p += step * change.get(parameter, torch.zeros(()))
            run(moved)
        return torch.cat([output.flatten() for output in found])

    still = copy.deepcopy(model).eval()
    zeros: list[Tensor] = []

    def add(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        zeros.append(torch.zeros_like(output, requires_grad=True))
        return output + zeros[-1]

    still.get_submodule(name).register_forward_hook(add, prepend=True)
    value = loss(run(still), None)
    before = list(zeros)  # a checkpoint adds more in backward
    found = torch.autograd.grad(value, before, allow_unused=True)
    b = torch.cat([(torch.zeros_like(z) if g is None else g).flatten() for z, g in zip(before, found, strict=True)])
    h = 1e-6
    return outputs(0.0), b, (outputs(h) - outputs(-h)) / (2 * h)


@pytest.mark.parametrize("case", [case for case in CASES.values() if "attention" not in case.name], ids=str)
def test_every_kind_of_layer_equals_finite_differences_and_gradients_of_added_zeros(case: Case):
    model, batch = case.model(), case.batches()[0]
    speed = feature_speed(model, loss, batch, outputs=case.outputs)

    def run(m: nn.Module) -> Tensor:
        return case.call(m, batch)

    change = {name: -gradient for name, gradient in gradients(model, run).items()}
    total = sum(float((delta**2).sum()) for delta in change.values())
    assert speed.total_decay == pytest.approx(total, rel=1e-10)
    assert speed.check < 1e-8
    assert set(case.layers) <= set(speed.layers)
    for name in (name for name in speed if "self_attn" not in name):
        f, b, df = slow_vectors(model, run, name, change)
        layer, decay = speed[name], -float(b @ df)
        close = {"rel": 1e-6, "abs": 1e-12}
        assert layer.size == len(f)
        rms = float(f.norm()) / len(f) ** 0.5 if len(f) else math.nan
        assert layer.feature_rms == pytest.approx(rms, nan_ok=True, **close)
        assert layer.backward_norm == pytest.approx(float(b.norm()), **close)
        assert layer.loss_decay == pytest.approx(decay, **close)
        assert layer.loss_decay_share == pytest.approx(decay / total, **close)
        if df.norm() > 0 and b.norm() > 0:
            rms = float(df.norm()) / len(f) ** 0.5
            assert layer.feature_change_rms == pytest.approx(rms, **close)
            assert layer.cos_theta == pytest.approx(decay / float(b.norm() * df.norm()), **close)
            assert layer.sensitivity == pytest.approx(rms / decay, **close)
            assert layer.reason is None
        else:
            assert math.isnan(layer.cos_theta)
            assert layer.reason


class WrittenOut(nn.Module):
    """One head of attention from four linear layers."""

    def __init__(self, attention: nn.MultiheadAttention, head: nn.Linear) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4).double() for _ in range(3))
        self.out_proj, self.head = copy.deepcopy(attention.out_proj), copy.deepcopy(head)
        with torch.no_grad():
            for i, part in enumerate((self.q, self.k, self.v)):
                part.weight.copy_(attention.in_proj_weight[4 * i : 4 * i + 4])
                part.bias.copy_(attention.in_proj_bias[4 * i : 4 * i + 4])

    def forward(self, x: Tensor) -> Tensor:
        scores = (self.q(x) @ self.k(x).mT / 2.0).softmax(dim=-1)
        return self.head(self.out_proj(scores @ self.v(x)).tanh()).sum(dim=1)


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 1, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].tanh()).sum(dim=1)


def test_parts_of_attention_equal_linear_layers_written_out():
    fused = fill(Fused())
    x = normal(5, 3, 4)
    speed = feature_speed(fused, loss, x)
    written = feature_speed(WrittenOut(fused.attention, fused.head), loss, x)
    assert speed.method == "forward mode"
    for name, layer in written.layers.items():
        found = speed[name if name == "head" else f"attention.{name}"]
        for key in ("feature_rms", "feature_change_rms", "backward_norm", "loss_decay", "own_decay", "finite_ratio"):
            assert getattr(found, key) == pytest.approx(getattr(layer, key), rel=1e-9), (name, key)


# --- cuts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "convnet", "embedding", "conv1d_of_hugging_face", "checkpointed", "lora"])
def test_decay_through_a_cut_is_that_of_all_parameters_before_it(name):
    case = CASES[name]
    model, batch = case.model(), case.batches()[0]
    speed = feature_speed(model, loss, batch)
    squares = {key: float((g**2).sum()) for key, g in gradients(model, lambda m: case.call(m, batch)).items()}
    # All parameters of these models stand in order of execution, norm gains behind the layer they normalise.
    passed, decay = iter(squares.items()), 0.0
    layers = list(speed)
    for layer in layers:
        own = {f"{layer}.{key}" for key, _ in model.get_submodule(layer).named_parameters()}
        while own:
            key, square = next(passed)
            decay += square
            own.discard(key)
        assert speed[layer].loss_decay == pytest.approx(decay, rel=1e-9)
        assert speed[layer].is_cut
    assert speed[layers[-1]].loss_decay == pytest.approx(speed.total_decay, rel=1e-12)


def test_identity_holds_at_stem_block_output_and_head_and_fails_inside_the_branch():
    speed = feature_speed(residual_cnn(), loss, normal(5, 2, 6, 6), layers=["0", "2.first", "2.second", "2", "5"])
    assert list(speed) == ["0", "2.first", "2.second", "2", "5"]
    own = {name: layer.own_decay for name, layer in speed.layers.items()}
    assert own["2"] == pytest.approx(own["2.first"] + own["2.second"], rel=1e-12)
    expected = {"0": own["0"], "2": own["0"] + own["2"], "5": own["0"] + own["2"] + own["5"]}
    for name, decay in expected.items():
        assert speed[name].loss_decay == pytest.approx(decay, rel=1e-9)
    assert {name: layer.is_cut for name, layer in speed.layers.items()} == {
        "0": True,
        "2.first": False,
        "2.second": False,
        "2": True,
        "5": True,
    }
    assert abs(speed["2.first"].loss_decay - own["0"] - own["2.first"]) > 0.01 * speed.total_decay


def test_norm_gains_belong_to_the_layer_they_follow_and_all_own_decays_add_up():
    model, x = fill(convnet()), normal(6, 2, 7, 6)
    speed = feature_speed(model, loss, x)
    squares = {name: float((g**2).sum()) for name, g in gradients(model, lambda m: m(x)).items()}
    assert speed["0"].own_decay == pytest.approx(squares["0.weight"] + squares["1.weight"] + squares["1.bias"])
    assert sum(layer.own_decay for layer in speed.layers.values()) == pytest.approx(speed.total_decay, rel=1e-12)
    # The gain acts behind the first layer's output: no decay of it passes there.
    assert speed["0"].loss_decay == pytest.approx(squares["0.weight"], rel=1e-9)
    assert speed["0"].is_cut


def test_vectors_used_before_any_layer_belong_to_the_first():
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.shift = mlp(), nn.Parameter(torch.zeros(5))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x + self.shift)

    model = fill(Shifted())
    speed = feature_speed(model, loss, normal(6, 5))
    assert sum(layer.own_decay for layer in speed.layers.values()) == pytest.approx(speed.total_decay, rel=1e-12)
    assert speed["body.0"].loss_decay == pytest.approx(speed["body.0"].own_decay, rel=1e-9)


def test_layer_whose_weight_is_used_again_later_is_no_cut():
    speed = feature_speed(fill(Tied(4)), loss, normal(6, 4))
    assert not speed["a"].is_cut
    assert speed["b"].is_cut
    assert speed["a"].own_decay != pytest.approx(speed["a"].loss_decay, rel=1e-2)


def test_decays_through_blocks_of_rows_add_up_to_that_of_the_layer():
    model, x = fill(mlp()), normal(6, 5)
    whole = feature_speed(model, loss, x)["0"]
    first, rest = feature_speed(model, loss, x, layers=[Rows("0", 0, 3), Rows("0", 3, 7)]).layers.values()
    assert first.size + rest.size == whole.size
    for key in ("loss_decay", "own_decay"):
        assert getattr(first, key) + getattr(rest, key) == pytest.approx(getattr(whole, key), rel=1e-12)
    assert math.hypot(first.backward_norm, rest.backward_norm) == pytest.approx(whole.backward_norm, rel=1e-12)


# --- updates ----------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


def trained(build: Callable[[Any], torch.optim.Optimizer], steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = residual_cnn()
    optimizer = build(model.parameters())
    for i in range(steps):
        optimizer.zero_grad()
        loss(model(normal(4, 2, 6, 6, seed=10 + i)), None).backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_of_an_optimiser_is_its_real_step(name, steps):
    x = normal(5, 2, 6, 6)
    model, optimizer = trained(OPTIMIZERS[name], steps)
    speed = feature_speed(model, loss, x, update=optimizer, layers=["0", "2.first", "2", "5"])
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    g = gradients(model, lambda m: m(x))
    optimizer.zero_grad()
    loss(model(x), None).backward()
    optimizer.step()
    change = {key: p.detach() - before[key] for key, p in model.named_parameters()}
    own = {key: -float((g[key] * change[key]).sum()) for key in g}
    assert speed.total_decay == pytest.approx(sum(own.values()), rel=1e-9)
    assert speed["0"].loss_decay == pytest.approx(own["0.weight"] + own["0.bias"], rel=1e-9)
    assert speed["2"].is_cut
    assert speed.check < 1e-9
    assert speed.update == type(optimizer).__name__
    model.load_state_dict(before)
    _, b, df = slow_vectors(model, lambda m: m(x), "2.first", change)
    assert speed["2.first"].loss_decay == pytest.approx(-float(b @ df), rel=1e-5)


def test_only_trained_parameters_move():
    model, x = fill(mlp()), normal(6, 5)
    free = feature_speed(model, loss, x)
    model[0].requires_grad_(False)
    speed = feature_speed(model, loss, x)
    assert speed["0"].feature_change_rms == 0.0
    assert math.isnan(speed["0"].cos_theta)
    assert speed["0"].reason == "the update does not move its output"
    assert speed["0"].backward_norm == pytest.approx(free["0"].backward_norm, rel=1e-12)
    assert speed.total_decay == pytest.approx(free.total_decay - free["0"].own_decay, rel=1e-12)


def test_given_changes_move_even_frozen_parameters_under_any_of_their_names():
    model, x = fill(Tied(4)), normal(6, 4)
    model.requires_grad_(False)
    delta = normal(4, 4, seed=5)
    speed = feature_speed(model, loss, x, update={"b.weight": delta})
    g = gradients(model.requires_grad_(True), lambda m: m(x))["a.weight"]
    assert speed.total_decay == pytest.approx(-float((g * delta).sum()), rel=1e-10)
    assert speed.check < 1e-12


def test_callable_gets_parameters_and_gradients():
    model, x = fill(mlp()), normal(6, 5)
    g = gradients(model, lambda m: m(x))

    def signs(parameters: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, Tensor]:
        assert parameters.keys() == found.keys() == g.keys()
        return {name: -0.01 * gradient.sign() + 0 * parameters[name] for name, gradient in found.items()}

    speed = feature_speed(model, loss, x, update=signs)
    assert speed.total_decay == pytest.approx(sum(0.01 * float(v.abs().sum()) for v in g.values()), rel=1e-10)
    assert speed.update == "signs"


@given(rate=st.floats(1e-4, 1e4), scale=st.floats(1e-3, 1e3))
def test_rate_and_scale_of_the_loss_leave_angles_and_shares_alone(rate, scale):
    model, x = fill(mlp()), normal(6, 5)
    plain = feature_speed(model, loss, x, finite=False)
    scaled = feature_speed(
        model,
        lambda outputs, targets: scale * loss(outputs, targets),
        x,
        update=lambda parameters, g: {name: -rate * gradient for name, gradient in g.items()},
        finite=False,
    )
    for name, layer in plain.layers.items():
        assert scaled[name].cos_theta == pytest.approx(layer.cos_theta, rel=1e-9)
        assert scaled[name].loss_decay_share == pytest.approx(layer.loss_decay_share, rel=1e-9)
        assert scaled[name].backward_norm == pytest.approx(scale * layer.backward_norm, rel=1e-9)
        assert scaled[name].sensitivity == pytest.approx(layer.sensitivity / scale, rel=1e-9)
        assert scaled[name].loss_decay == pytest.approx(rate * scale**2 * layer.loss_decay, rel=1e-9)


def test_first_order_decay_is_the_decrease_of_the_loss_in_a_small_step():
    model, x = fill(mlp()), normal(6, 5)
    rate = 1e-6
    g = gradients(model, lambda m: m(x))
    speed = feature_speed(model, loss, x, update={name: -rate * v for name, v in g.items()})
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in moved.named_parameters():
            p -= rate * g[name]
        assert speed.total_decay == pytest.approx(float(loss(model(x), None) - loss(moved(x), None)), rel=1e-4)
    assert all(layer.finite_ratio == pytest.approx(1.0, abs=1e-4) for layer in speed.layers.values())


def test_finite_ratio_is_that_of_the_full_step():
    model, x = fill(mlp()), normal(6, 5)
    change = {name: -g for name, g in gradients(model, lambda m: m(x)).items()}
    speed = feature_speed(model, loss, x)
    moved = copy.deepcopy(model)
    _, _, df = slow_vectors(model, lambda m: m(x), "2", change)
    with torch.no_grad():
        for name, p in moved.named_parameters():
            p += change[name]
        ratio = float((moved[:3](x) - model[:3](x)).norm() / df.norm())
    assert speed["2"].finite_ratio == pytest.approx(ratio, rel=1e-6)
    assert speed["0"].finite_ratio == pytest.approx(1.0, rel=1e-12)  # linear in the first layer's weights
    assert abs(ratio - 1) > 0.01
    assert feature_speed(model, loss, x, finite=False)["2"].finite_ratio is None


# --- methods, modes, kinds of models ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 2e-3)])
def test_central_differences_equal_forward_mode(dtype, tolerance):
    model = fill(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.GELU(), nn.Linear(6, 3))).to(dtype)
    x = normal(6, 5).to(dtype)
    forward, central = (feature_speed(model, loss, x, method=method) for method in ("forward", "central"))
    assert forward.method == "forward mode"
    assert central.method.startswith("central differences of step ")
    for name, layer in forward.layers.items():
        for key in ("feature_change_rms", "loss_decay", "cos_theta"):
            assert getattr(central[name], key) == pytest.approx(getattr(layer, key), rel=tolerance)


def test_operation_without_a_forward_rule_is_noted_and_done_by_central_differences():
    model, x = fill(Custom()), normal(6, 3)
    speed = feature_speed(model, loss, x)
    assert "jvp" in speed.method
    assert speed.method.startswith("central")
    with pytest.raises(UnmeasurableError, match="method='central'"):
        feature_speed(model, loss, x, method="forward")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_lower_precision_gives_the_same_angles(device, dtype, tolerance):
    x = normal(8, 5)
    exact = feature_speed(fill(mlp()), loss, x)
    speed = feature_speed(fill(mlp()).to(device, dtype), loss, x)
    for name, layer in exact.layers.items():
        assert speed[name].cos_theta == pytest.approx(layer.cos_theta, abs=tolerance)


def test_train_mode_draws_the_same_masks_in_every_pass_and_uses_batch_statistics():
    model, x = fill(convnet()), normal(6, 2, 7, 6)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        train = feature_speed(model, loss, x, mode="train")
        again = feature_speed(model, loss, x, mode="train")
    assert train.check < 1e-12
    assert train.to_dict() == again.to_dict()
    assert train["3"].is_cut
    evaluated = feature_speed(model, loss, x)
    assert abs(evaluated["3"].feature_rms / train["3"].feature_rms - 1) > 0.01


def test_module_without_parameters_can_be_named():
    speed = feature_speed(fill(mlp()), loss, normal(6, 5), layers=["1", "2"])
    assert speed["1"].kind == "relu"
    assert speed["1"].own_decay == 0.0
    assert speed["1"].is_cut


def test_recurrent_layer_is_skipped_and_its_parameters_belong_to_no_other_layer():
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.memory = nn.Embedding(7, 4), nn.LSTM(4, 5, batch_first=True)
            self.head = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.memory(self.words(x))[0][:, -1])

    model, x = fill(Reader()), integers(7, 6, 3)
    speed = feature_speed(model, loss, x)
    assert list(speed) == ["words", "head"]
    assert "recurrent" in speed.skipped["memory"]
    squares = {name: float((g**2).sum()) for name, g in gradients(model, lambda m: m(x)).items()}
    assert speed["words"].own_decay == pytest.approx(squares["words.weight"], rel=1e-9)
    assert speed["words"].loss_decay == pytest.approx(squares["words.weight"], rel=1e-6)
    assert speed["head"].loss_decay == pytest.approx(sum(squares.values()), rel=1e-6)
    assert all(a is b for a, b in zip(model.memory._flat_weights, model.memory.parameters(), strict=True))


def test_layers_that_do_not_run_are_skipped_or_refused():
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.spare = mlp(), nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    model, x = fill(Half()), normal(6, 5)
    assert feature_speed(model, loss, x).skipped == {"spare": "it did not run"}
    with pytest.raises(UnmeasurableError, match="'spare', which cannot be measured: it did not run"):
        feature_speed(model, loss, x, layers=["spare"])


def test_routing_that_changes_after_the_step_leaves_the_finite_ratio_undefined():
    class Routed(Experts):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.cat([self.gate(x), x[..., 1:]], dim=-1))

    model = Routed()
    model.gate = nn.Linear(3, 1)
    model, x = fill(model), normal(6, 3, 3)
    delta = torch.tensor([100.0], dtype=torch.float64)  # every token to one expert
    speed = feature_speed(model, loss, x, update={"gate.bias": delta})
    assert math.isnan(speed["high"].finite_ratio)
    assert "other rows" in speed["high"].reason


def test_dictionary_batches_and_targets_reach_the_loss():
    case = CASES["returns_dict"]
    model, batch = case.model(), case.batches()[0]
    speed = feature_speed(model, nn.functional.cross_entropy, batch)
    expected = nn.functional.cross_entropy(case.call(model, batch), batch["labels"])
    assert speed.loss == pytest.approx(expected.item(), rel=1e-12)


# --- for measure_features ---------------------------------------------------------------------------------------------


def test_speed_inside_a_guest_is_that_outside_and_leaves_parameters_frozen():
    model, x = fill(convnet()), normal(6, 2, 7, 6)
    outside = feature_speed(model, loss, x)
    layers = resolve_layers(model)[0]
    with guest(model):
        inside = speed_of_layers(model, layers, parse_batch(x, model), loss, "logits")
        some = speed_of_layers(model, layers, parse_batch(x, model), loss, "logits", trainable={"8.weight"})
        assert not any(parameter.requires_grad for parameter in model.parameters())
    for name, layer in inside.items():
        assert layer == {
            key: pytest.approx(getattr(outside[name], key), rel=1e-12)
            for key in (
                *("backward_norm", "loss_decay_share", "cos_theta"),
                *("feature_change_rms", "sensitivity", "is_cut"),
            )
        }
    assert some["0"]["feature_change_rms"] == 0.0
    assert some["8"]["loss_decay_share"] == pytest.approx(1.0)


# --- results ----------------------------------------------------------------------------------------------------------


def test_result_survives_a_dictionary_and_has_one_row_a_layer():
    speed = feature_speed(residual_cnn(), loss, normal(5, 2, 6, 6))
    plain = json.loads(json.dumps(speed.to_dict()))
    assert FeatureSpeed.from_dict(plain).to_dict() == speed.to_dict()
    assert list(speed.frame().index) == list(speed) == ["0", "2.first", "2.second", "5"]
    assert len(speed) == 4
    html = speed._repr_html_()
    assert "2.second" in html
    assert f"{speed['0'].cos_theta:.3g}" in html


def test_figure_shows_every_layer_cuts_filled_and_theory_dashed():
    speed = feature_speed(residual_cnn(), loss, normal(5, 2, 6, 6))
    axes = speed.plot(theory=[1.0, 0.9, 0.8, 0.7])
    assert len(axes) == 3
    curve, filled, hollow, dashed = axes[0].get_lines()
    np.testing.assert_allclose(curve.get_ydata(), [layer.cos_theta for layer in speed.layers.values()])
    assert list(filled.get_xdata()) == [0, 3]
    assert list(hollow.get_xdata()) == [1, 2]
    assert dashed.get_linestyle() == "--"
    assert [label.get_text() for label in axes[1].get_xticklabels()] == list(speed)
    assert speed.plot(axes[0]) == [axes[0]]
    with pytest.raises(DataError, match="3 expected cosines"):
        speed.plot(theory=[1.0, 0.9, 0.8])
    with pytest.raises(DataError, match="2 Axes"):
        speed.plot(axes[:2])
    import matplotlib.pyplot as plt

    plt.close(axes[0].figure)


# --- errors and warnings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"update": "newton"}, DataError, "update='newton'"),
        ({"update": 3}, DataError, "update of type int"),
        ({"update": {"9.weight": torch.zeros(1)}}, DataError, "no such parameter"),
        ({"update": {"0.bias": torch.zeros(3)}}, DataError, r"shape \(3,\), but expected a tensor of shape \(7,\)"),
        ({"update": {"0.bias": torch.full((7,), torch.nan)}}, DataError, "not finite"),
        ({"update": lambda parameters, gradients: None}, DataError, "returns NoneType"),
        ({"update": torch.optim.LBFGS([nn.Parameter(torch.zeros(1))])}, DataError, "LBFGS"),
        ({"update": torch.optim.SGD([nn.Parameter(torch.zeros(1))])}, ModelError, "none of the model's parameters"),
        ({"method": "backward"}, DataError, "method='backward'"),
        ({"mode": "test"}, DataError, "mode='test'"),
        ({"layers": "7"}, UnmeasurableError, "no such layer"),
        ({"layers": []}, UnmeasurableError, "at least one layer"),
        ({"outputs": lambda model, batch: torch.ones(6, 1)}, ModelError, "no trained parameter"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        feature_speed(fill(mlp()), loss, normal(6, 5), **options)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda outputs, targets: outputs.sum(dim=1), "one number"),
        (lambda outputs, targets: 1.0, "float"),
        (lambda outputs, targets: outputs.sum() / 0, "finite number"),
        (lambda outputs, targets: outputs.detach().sum(), "does not depend on the outputs"),
    ],
)
def test_loss_that_is_no_mean_is_refused(bad, message):
    with pytest.raises(DataError, match=message):
        feature_speed(fill(mlp()), bad, normal(6, 5))


def test_frozen_model_is_refused():
    with pytest.raises(ModelError, match="no trained parameter"):
        feature_speed(fill(mlp()).requires_grad_(False), loss, normal(6, 5))


def test_randomness_that_is_not_torchs_is_noticed():
    rng = np.random.default_rng(0)

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) * float(rng.uniform(0.5, 1.5))

    with pytest.warns(FeatlearnWarning, match="is not that of the parameters"):
        feature_speed(fill(Noisy()), loss, normal(6, 5))


def test_zero_update_moves_nothing_and_says_so():
    speed = feature_speed(fill(mlp()), loss, normal(6, 5), update={"0.bias": torch.zeros(7)})
    assert speed.total_decay == 0.0
    for layer in speed.layers.values():
        assert math.isnan(layer.loss_decay_share)
        assert "does not move its output" in layer.reason
        assert not layer.is_cut


# --- the angle at random initialisation -------------------------------------------------------------------------------


@given(
    kind=st.sampled_from(["relu", "linear", "resnet"]),
    weights=st.lists(st.floats(0.01, 10.0), min_size=1, max_size=9),
    beta=st.floats(0.0, 3.0),
)
def test_theory_is_the_double_sum(kind, weights, beta):
    q = {"relu": 2.0, "linear": 1.0, "resnet": 2 * beta**2 / (1 + beta**2)}[kind]
    found = bfa_theory(kind, len(weights), weights, beta if kind == "resnet" else None)
    for depth in range(1, len(weights) + 1):
        c = weights[:depth]
        pairs = [(v, u) for v in range(1, depth + 1) for u in range(1, depth + 1)]
        double = sum(c[v - 1] * c[u - 1] * (1 + q * min(depth - v, depth - u)) for v, u in pairs)
        assert found[depth - 1] == pytest.approx(sum(c) / math.sqrt(double), rel=1e-12)


def test_theory_has_its_limits():
    deep = 4000
    assert bfa_theory("linear", deep)[-1] == pytest.approx(math.sqrt(3 / deep), rel=1e-3)
    assert bfa_theory("relu", deep)[-1] == pytest.approx(math.sqrt(3 / (2 * deep)), rel=1e-3)
    for strength in (0.25, 1.0, 2.0):
        last = bfa_theory("resnet", deep, beta=strength / deep**0.5)[-1]
        assert last == pytest.approx(1 / math.sqrt(1 + 2 * strength**2 / 3), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tanh", 3), "kind='tanh'"),
        (("relu", 0), "depth=0"),
        (("relu", 2, [1.0]), "expected 2 non-negative numbers"),
        (("relu", 2, [0.0, 1.0]), "the first positive"),
        (("resnet", 2), "beta=None"),
        (("relu", 2, None, 1.0), "beta=1.0"),
        (("resnet", 2, None, math.inf), "finite"),
    ],
)
def test_theory_refuses_what_it_does_not_cover(arguments, message):
    with pytest.raises(DataError, match=message):
        bfa_theory(*arguments)


def test_labels_are_moved_with_the_batch():
    model, x, y = fill(mlp()), normal(6, 5), integers(3, 6)
    speed = feature_speed(model, nn.functional.cross_entropy, (x.float(), y))
    assert speed.loss == pytest.approx(nn.functional.cross_entropy(model(x.float().double()), y).item(), rel=1e-12)
