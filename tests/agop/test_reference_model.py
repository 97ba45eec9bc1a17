from __future__ import annotations

import math

import pytest
import torch
from cases import CASES, fill, normal
from torch import nn

from featlearn.agop.finding import resolve_layers
from featlearn.agop.reference_model import reference_model, reference_state, twin_layers
from featlearn.exceptions import FeatlearnWarning, ModelError

CASE = CASES["convnet"]


def models():
    return CASE.model(), fill(CASE.build(), seed=7)


def at(model, reference):
    return reference_model(model, reference_state(model, reference))


def outputs(model):
    with torch.no_grad():
        return model.eval()(normal(5, 2, 7, 6))


@pytest.mark.parametrize("kind", ["module", "state", "parallel", "data_parallel_keys", "compiled_keys", "single"])
def test_copy_computes_what_the_reference_computes(kind):
    model, other = models()
    state = other.state_dict()
    reference = {
        "module": other,
        "state": state,
        "parallel": nn.DataParallel(other),
        "data_parallel_keys": {f"module.{key}": value for key, value in state.items()},
        "compiled_keys": {f"_orig_mod.{key}": value for key, value in state.items()},
        "single": {key: value.float() if value.is_floating_point() else value for key, value in state.items()},
    }[kind]
    tolerance = 1e-6 if kind == "single" else 0
    copied = at(model, reference)
    torch.testing.assert_close(outputs(copied), outputs(other), rtol=0, atol=tolerance)
    assert {parameter.dtype for parameter in copied.parameters()} == {torch.float64}


def test_neither_model_is_touched_and_nothing_is_shared():
    model, other = models()
    before = [{key: value.clone() for key, value in each.state_dict().items()} for each in (model, other)]
    copied = at(model, other)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    for each, kept in zip((model, other), before, strict=True):
        assert all(torch.equal(value, kept[key]) for key, value in each.state_dict().items())


def test_tied_parameter_may_be_given_under_one_of_its_names():
    case = CASES["tied"]
    model, other = case.model(), fill(case.build(), seed=7)
    reference = dict(other.named_parameters())
    assert "b.weight" not in reference
    copied = at(model, reference)
    assert copied.b.weight is copied.a.weight
    assert torch.equal(copied.a.weight, other.a.weight)


def test_state_keeps_the_precision_of_the_reference():
    model, other = models()
    assert reference_state(model.half(), other)["0.weight"].dtype == torch.float64


def test_parameters_alone_keep_the_models_statistics_and_say_so():
    model, other = models()
    with pytest.warns(FeatlearnWarning, match=r"without the buffers 1\.running_mean, 1\.running_var"):
        copied = at(model, dict(other.named_parameters()))
    assert torch.equal(copied[1].running_var, model[1].running_var)
    assert torch.equal(copied[1].weight, other[1].weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("3.weight"), r"without '3\.weight'.*closest keys are '8\.weight'"),
        (lambda state: state.update({"3.bias": torch.ones(5)}), r"'3\.bias' of shape \(5,\).*expected \(6,\)"),
        (lambda state: state.update({"3.bias": "none"}), r"'3\.bias' of shape str"),
        (lambda state: state["3.bias"].fill_(math.nan), r"'3\.bias' in the reference with NaN"),
        (lambda state: state.clear(), "none: it is empty"),
    ],
)
def test_unusable_states_are_refused(change, message):
    model, other = models()
    state = other.state_dict()
    change(state)
    with pytest.raises(ModelError, match=message):
        reference_state(model, state)


def test_keys_of_no_use_are_ignored_and_other_kinds_are_refused():
    model, other = models()
    assert set(reference_state(model, other.state_dict() | {"extra": torch.ones(2)})) == set(model.state_dict())
    with pytest.raises(ModelError, match="Got reference=str"):
        reference_state(model, "start.pt")


def test_model_that_cannot_be_copied_says_why():
    model, other = models()
    model.cache = model(normal(5, 2, 7, 6))
    with pytest.raises(ModelError, match=r"cannot be copied .*Clear the tensors"):
        at(model, other)


@pytest.mark.parametrize("name", ["convnet", "attention", "encoder", "lora"])
def test_twins_are_the_same_layers_of_the_copy(name):
    model = CASES[name].model()
    other = at(model, fill(CASES[name].build(), seed=7))
    layers, _, _ = resolve_layers(model)
    expected, _, _ = resolve_layers(other)
    twins = twin_layers(layers, other)
    assert [twin.name for twin in twins] == [layer.name for layer in expected]
    for twin, layer in zip(twins, expected, strict=True):
        assert twin.module is layer.module
        assert torch.equal(twin.weight(), layer.weight())
