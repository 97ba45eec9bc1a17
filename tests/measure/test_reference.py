"""Reference weights from a module, a state_dict, or a mapping: the same numbers, whatever they come in."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from cases import CASES, fill, mlp, normal
from torch import Tensor, nn

from featlearn import Rows, measure_features
from featlearn.agop.finding import find_layers, resolve_layers
from featlearn.exceptions import ModelError
from featlearn.measure.reference import covers_model, describe_reference, reference_weights

NAMES = ["mlp", "convnet", "conv2d_grouped", "encoder", "attention_other_keys", "weight_norm", "tied", "lora",
         "conv1d_of_hugging_face"]  # fmt: skip


def weights(name: str, reference: Any, model: nn.Module | None = None) -> dict[str, Tensor]:
    model = CASES[name].model() if model is None else model
    return reference_weights(reference, list(find_layers(model)[0].values()))


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_module_its_state_and_its_weights_say_the_same(name: str) -> None:
    other = fill(CASES[name].build(), seed=1)
    expected = {key: layer.weight() for key, layer in find_layers(other)[0].items()}
    same(weights(name, other), expected)
    same(weights(name, other.state_dict()), expected)
    same(weights(name, {key: weight.clone() for key, weight in expected.items()}), expected)
    same(weights(name, nn.DataParallel(other)), expected)
    same(weights(name, nn.DataParallel(other).state_dict()), expected)


def test_matrices_by_layer_name_may_have_the_modules_shape() -> None:
    other = fill(CASES["conv2d_grouped"].build(), seed=1)
    by_layer = {"0": other[0].weight.detach(), "3": other[3].weight.detach()}
    same(weights("conv2d_grouped", by_layer), weights("conv2d_grouped", other))


def test_keys_of_other_parameters_are_ignored() -> None:
    state = {**fill(mlp(), seed=1).state_dict(), "ema.decay": torch.tensor(0.9), "head.weight": torch.zeros(2, 2)}
    same(weights("mlp", state), weights("mlp", fill(mlp(), seed=1)))


def test_rows_take_their_rows_of_the_reference() -> None:
    case = CASES["fused_qkv"]
    model, other = case.model(), fill(case.build(), seed=1)
    layers, _, _ = resolve_layers(model, [Rows("qkv", 4, 8, "k")])
    for reference in (other, other.state_dict()):
        torch.testing.assert_close(reference_weights(reference, layers)["qkv.k"][0], other.qkv.weight.detach()[4:8])


def test_half_precision_is_widened_before_anything_is_subtracted() -> None:
    """bfloat16 holds three digits: a change of 1e-4 of the weights would vanish in it."""
    model, other = fill(mlp()).float(), fill(mlp()).bfloat16()
    found = weights("mlp", other, model)
    assert {weight.dtype for weight in found.values()} == {torch.float32}
    assert torch.equal(found["0"][0], other[0].weight.detach().float())
    with torch.no_grad():
        for key in ("0", "2", "4"):
            model.get_submodule(key).weight.copy_(other.get_submodule(key).weight.float() * (1 + 1e-4))
    report = measure_features(model, normal(24, 5).split(4), reference=other.state_dict())
    for name in ("0", "2"):
        # D is 1e-4 of W0: its ansatz is that of W, and its share 1e-8 of F.
        assert report[name].centered_nfa == pytest.approx(report[name].nfa, abs=1e-3)
        assert report[name].energy_share["nfm"] == pytest.approx(1e-8, rel=1e-2)


def test_a_half_precision_model_against_its_own_start() -> None:
    model = fill(mlp()).bfloat16()
    start = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model[0].weight += 0.25 * normal(7, 5, seed=3).bfloat16()
    report = measure_features(model, normal(24, 5).split(4), reference=start)
    D = model[0].weight.detach().float() - start["0.weight"].float()
    F = model[0].weight.detach().float()
    share = float((D.mT @ D).norm() / (F.mT @ F).norm())
    assert report["0"].energy_share["nfm"] == pytest.approx(share, rel=1e-5)
    assert "equal the reference's" in report["2"].centered.reason


def test_the_reference_is_a_copy() -> None:
    other = fill(mlp(), seed=1)
    found = weights("mlp", other)
    by_state = weights("mlp", other.state_dict())
    kept = found["0"].clone()
    with torch.no_grad():
        other[0].weight.mul_(2)
    assert torch.equal(found["0"], kept)
    assert torch.equal(by_state["0"], kept)


def test_without_a_reference_adapters_have_one() -> None:
    case = CASES["lora"]
    model = case.model()
    found = weights("lora", None, model)
    assert list(found) == ["0"]
    torch.testing.assert_close(found["0"][0], model[0].base_layer.weight.detach())
    assert weights("mlp", None) == {}


def test_a_reference_covers_the_model_when_it_has_every_tensor() -> None:
    model = CASES["convnet"].model()
    state = model.state_dict()
    assert covers_model(model, model)
    assert covers_model(state, model)
    assert covers_model({key: value for key, value in state.items() if "num_batches" not in key}, model)
    assert not covers_model({key: value for key, value in state.items() if "bias" not in key}, model)
    assert not covers_model(None, model)


def test_a_reference_is_described_in_a_few_words() -> None:
    assert describe_reference(None) is None
    assert describe_reference(nn.DataParallel(mlp())) == "the weights of another Sequential"
    assert describe_reference(mlp().state_dict()) == "a checkpoint of 5 tensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("2.weight"), r"without '2.weight'.*closest keys are"),
        (lambda state: state.update({"2.weight": torch.zeros(6, 6)}), r"shape \(6, 6\) for layer '2'.*\(6, 7\)"),
        (lambda state: state.update({"2.weight": "weights"}), "shape str for layer '2'"),
        (lambda state: state.update({"2.weight": torch.full((6, 7), float("nan"))}), "not finite for layer '2'"),
    ],
    ids=["missing", "shape", "kind", "nan"],
)
def test_a_reference_that_does_not_fit_is_refused(change: Any, message: str) -> None:
    state = dict(fill(mlp()).state_dict())
    change(state)
    with pytest.raises(ModelError, match=message):
        weights("mlp", state)


def test_another_architecture_is_refused_with_the_closest_names() -> None:
    with pytest.raises(ModelError, match=r"without the layer '2'.*The closest are '1', '0'"):
        weights("mlp", nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)))
    with pytest.raises(ModelError, match="none: it is empty"):
        weights("mlp", {})
    with pytest.raises(ModelError, match="reference=list"):
        weights("mlp", [1, 2])


def test_spectral_norm_in_training_mode_takes_no_step_in_the_reference() -> None:
    norm = nn.utils.parametrizations.spectral_norm
    other = nn.Sequential(norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 2)).double().train()
    before = copy.deepcopy(other.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measure_features(copy.deepcopy(other), normal(12, 5).split(4), reference=other)
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())
    assert other.training
