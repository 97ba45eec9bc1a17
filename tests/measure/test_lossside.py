"""Loss-side measures against plain autograd and dense matrices in float64 (oracle 6)."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from cases import CASES, Tied, fill, integers, mlp, normal
from reference import cosine, feature_matrix, pearson, power
from torch import Tensor, nn

from featlearn import FeatureReport, Rows, feature_speed, measure_features
from featlearn.agop.finding import find_layers
from featlearn.measure.lossside import fact

STATISTICS = {"pearson": pearson, "cosine": cosine}
cross_entropy = nn.functional.cross_entropy


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples of a sum over everything else, with targets of one number a sample."""
    return ((outputs.flatten(1) - targets[:, None]) ** 2).sum(dim=1).mean()


def targeted(name: str) -> list[tuple[Any, Tensor]]:
    found = CASES[name].batches()
    inputs = [batch[0] if isinstance(batch, tuple) else batch for batch in found]
    return [(x, normal(len(x), seed=10 + i)) for i, x in enumerate(inputs)]


def quiet(model: nn.Module, batches: Any, **options: Any) -> FeatureReport:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few samples: not what is tested here
        return measure_features(model, batches, **options)


def weight_gradient(model: nn.Module, batches: Any, name: str) -> Tensor:
    """``dL/dW`` (groups, k, d) of the mean over all samples, by ``backward`` on a copy."""
    model = copy.deepcopy(model).eval()
    total = sum(len(y) for _, y in batches)
    sum(squared(model(x), y) * len(y) for x, y in batches).backward()
    layer = find_layers(model)[0][name]
    return layer.matrix(layer.parameter().grad) / total


CASES_WITH_WEIGHTS = ["mlp", "sequence", "residual", "repeated", "tied", "convnet", "conv2d_grouped", "conv2d_circular",
                      "encoder", "conv1d_of_hugging_face", "time_first", "attention_other_keys"]  # fmt: skip


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("name", CASES_WITH_WEIGHTS)
def test_loss_fields_are_those_of_dense_matrices(name: str, statistic: str) -> None:
    case, batches, correlate = CASES[name], targeted(name), STATISTICS[statistic]
    model = case.model()
    report = quiet(model, batches, loss=squared, statistic=statistic)
    for layer in case.layers:
        W, N = find_layers(model)[0][layer].weight(), weight_gradient(model, batches, layer)
        F, found = feature_matrix(W), report[layer]
        assert found.fact == pytest.approx(correlate(F, -W.mT @ N), abs=1e-9)
        assert found.fact_root == pytest.approx(correlate(F, power(W.mT @ N @ N.mT @ W, 0.5)), abs=1e-6)
        K = found.tangent_kernel
        G = N.mT @ N if found.trivial else N.mT @ K @ N
        assert found.derivative_nfa == pytest.approx(correlate(feature_matrix(N), G), abs=1e-8)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_loss_gradients_in_place_of_output_gradients(statistic: str) -> None:
    """``rho(F, W^T G_b W)`` with ``g`` the gradient of each sample's own loss."""
    model, batches = fill(mlp()), targeted("mlp")
    report = quiet(model, batches, loss=squared, statistic=statistic)
    for name in ("0", "2", "4"):
        module: Any = model.get_submodule(name)
        rows = []
        for x, y in batches:
            for i in range(len(x)):
                found: list[Tensor] = []
                handle = module.register_forward_hook(lambda m, args, out, found=found: found.append(out))
                value = squared(model.eval()(x[i : i + 1]), y[i : i + 1])
                handle.remove()
                rows.append(torch.autograd.grad(value, found)[0][0])
        G_b = torch.stack(rows).mT @ torch.stack(rows) / len(rows)
        W = module.weight.detach()
        expected = STATISTICS[statistic](feature_matrix(W), W.mT @ G_b @ W)
        assert report[name].loss_nfa == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", ["mlp", "convnet", "encoder"])
def test_batch_size_does_not_matter_to_the_loss_side(name: str) -> None:
    """Batches of unequal sizes are weighted by their samples."""
    case, batches = CASES[name], targeted(name)
    whole = [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]
    split, joined = (quiet(case.model(), some, loss=squared) for some in (batches, whole))
    assert split.provenance["mean_loss"] == pytest.approx(joined.provenance["mean_loss"], rel=1e-12)
    for layer in case.layers:
        for key in ("fact", "fact_root", "loss_nfa", "derivative_nfa"):
            assert getattr(split[layer], key) == pytest.approx(getattr(joined[layer], key), abs=1e-8), key
        assert split[layer].crh == pytest.approx(joined[layer].crh, abs=1e-10)


def test_the_derivative_ansatz_has_a_null_and_an_error() -> None:
    model = fill(mlp())
    batches = list(zip(normal(48, 5).split(4), integers(3, 48).split(4), strict=True))
    report = measure_features(model, batches, loss=cross_entropy)
    for name in ("0", "2"):
        entry = report[name].derivative
        assert 0 < entry.null < 1
        assert entry.standard_error > 0
        assert entry.power == 1.0
    assert report["0"].loss_nfa != report["0"].nfa


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("shape", [(1, 5, 8), (1, 8, 5), (3, 4, 6)])
def test_fact_is_a_correlation_with_a_matrix_that_is_not_symmetric(shape: tuple[int, ...], statistic: str) -> None:
    W, N = normal(*shape, seed=0) + 0.2, normal(*shape, seed=1) - 0.1
    assert fact(W, N, statistic) == pytest.approx(STATISTICS[statistic](feature_matrix(W), -W.mT @ N), abs=1e-12)
    assert fact(W, -3.0 * W, statistic) == pytest.approx(1.0, abs=1e-12)  # N = -lambda W: a stationary point
    assert fact(W, 3.0 * W, statistic) == pytest.approx(-1.0, abs=1e-12)
    assert math.isnan(fact(W, torch.zeros_like(N), statistic))


def test_one_parameter_in_two_modules_has_one_gradient() -> None:
    model = fill(Tied(4))
    report = quiet(model, targeted("tied"), loss=squared)
    assert report["a"].fact == report["b"].fact
    assert report["a"].loss_nfa != report["b"].loss_nfa


def test_rows_of_a_layer_have_rows_of_its_gradient() -> None:
    case, batches = CASES["fused_qkv"], targeted("fused_qkv")
    model = case.model()
    report = quiet(model, batches, loss=squared, layers=[Rows("qkv", 4, 8, "k"), "qkv"])
    N = weight_gradient(model, batches, "qkv")[:, 4:8]
    W = model.qkv.weight.detach()[4:8].unsqueeze(0)
    assert report["qkv.k"].fact == pytest.approx(pearson(feature_matrix(W), -W.mT @ N), abs=1e-10)
    assert report["qkv.k"].crh != report["qkv"].crh


def test_a_weight_made_on_the_fly_has_its_own_gradient() -> None:
    """Weight normalisation: N is the gradient with respect to the weight that is used."""
    case, batches = CASES["weight_norm"], targeted("weight_norm")
    model = case.model()
    plain = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2), nn.Tanh()).double()
    with torch.no_grad():
        for name in ("0", "2"):
            plain.get_submodule(name).weight.copy_(model.get_submodule(name).weight)
            plain.get_submodule(name).bias.copy_(model.get_submodule(name).bias)
    made, held = quiet(model, batches, loss=squared), quiet(plain, batches, loss=squared)
    for name in ("0", "2"):
        for key in ("fact", "fact_root", "loss_nfa", "derivative_nfa"):
            assert getattr(made[name], key) == pytest.approx(getattr(held[name], key), abs=1e-8), key


def test_an_adapted_layer_has_relations_but_no_weight_gradient() -> None:
    report = quiet(CASES["lora"].model(), targeted("lora"), loss=squared)
    assert math.isnan(report["0"].fact)
    assert math.isnan(report["0"].derivative_nfa)
    assert "made on the fly" in report["0"].reason
    assert math.isfinite(report["0"].loss_nfa)
    assert math.isfinite(report["0"].crh["in_hg"])
    assert math.isfinite(report["2"].fact)


def test_a_layer_that_no_gradient_of_the_loss_reaches_says_so() -> None:
    """The outputs depend on both branches, the loss on one of them."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(5, 2), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.used(x).tanh(), self.unused(x).tanh()], dim=1)

    batches = list(zip(normal(24, 5).split(4), normal(24).split(4), strict=True))
    report = measure_features(fill(Branches()), batches, loss=lambda o, t: squared(o[:, :2], t))
    assert math.isfinite(report["used"].fact)
    assert math.isfinite(report["unused"].nfa)
    fields = [report["unused"].fact, report["unused"].loss_nfa]
    assert all(value is None or not math.isfinite(value) or value == 0 for value in fields)
    assert "the loss does not depend on it" in report["unused"].reason
    assert report["used"].reason is None


def test_frozen_weights_have_a_loss_side_too() -> None:
    model, batches = fill(mlp()), targeted("mlp")
    expected = quiet(model, batches, loss=squared)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = quiet(model, batches, loss=squared)
    for name in ("0", "2"):
        assert found[name].fact == expected[name].fact
        assert found[name].derivative_nfa == expected[name].derivative_nfa


def test_feature_speed_of_the_first_batch_is_in_the_report() -> None:
    model = fill(mlp())
    batches = list(zip(normal(24, 5).split(4), integers(3, 24).split(4), strict=True))
    report = measure_features(model, batches, loss=cross_entropy)
    speed = feature_speed(model, cross_entropy, batches[0], layers=["0", "2", "4"], finite=False)
    for name in ("0", "2", "4"):
        for key in ("backward_norm", "loss_decay_share", "cos_theta", "feature_change_rms", "sensitivity"):
            expected = getattr(speed.layers[name], key)
            assert report[name].speed[key] == pytest.approx(expected, rel=1e-6, nan_ok=True), key
    assert measure_features(model, batches)["0"].speed is None


def test_without_a_loss_the_fields_are_none() -> None:
    layer = quiet(fill(mlp()), targeted("mlp"))["0"]
    assert [layer.fact, layer.fact_root, layer.loss_nfa, layer.crh, layer.speed] == [None] * 5
    assert layer.derivative is None
    assert layer.derivative_nfa is None


def test_single_precision_losses_are_accumulated_in_single_precision() -> None:
    model, batches = fill(mlp()), targeted("mlp")
    exact = quiet(model, batches, loss=squared)
    single = quiet(copy.deepcopy(model).float(), batches, loss=squared)
    for name in ("0", "2"):
        for key in ("fact", "fact_root", "loss_nfa", "derivative_nfa"):
            assert getattr(single[name], key) == pytest.approx(getattr(exact[name], key), abs=1e-4), key
