from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from featlearn.exceptions import DataError, ModelError
from featlearn.robust.dfr import DFRClassifier
from featlearn.robust.features import extract_features
from featlearn.robust.last_layer import as_linear, install_head


class ConvNet(nn.Module):
    """The last layer stands first, under a name of its own, and one hidden layer takes as many features."""

    def __init__(self, outputs=10):
        super().__init__()
        self.verdict = nn.ModuleDict({"of the jury": nn.Linear(6, outputs)})
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.mixing = nn.Linear(6, 6)

    def forward(self, x):
        return self.verdict["of the jury"](torch.relu(self.mixing(self.body(x).flatten(1))))


JURY = "verdict.of the jury"


class Block(nn.Module):
    """Attention, of which the last projection is a linear layer that never runs as a module."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.top = nn.Linear(8, 3)

    def forward(self, x):
        return self.top(self.attention(x, x, x)[0].mean(dim=1))


def seeded(build, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().to(dtype)


def images(n=60, dtype=torch.float64):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=dtype)


def states(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def fitted(Z, classes=2):
    y = np.arange(len(Z)) % classes
    return DFRClassifier(C=1.0, n_refits=2, l1_ratio=0.0, random_state=0).fit(Z, y)


# --- as_linear --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [None, 1, 2])
def test_a_binary_head_in_one_row_or_two(outputs):
    linear = as_linear([[1.0, -2.0, 0.5]], [0.25], outputs=outputs, dtype=torch.float64)
    z = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    logits = torch.tensor([1 - 4 + 1.5 + 0.25, 0.5 + 0.25], dtype=torch.float64)
    expected = logits[:, None] if outputs == 1 else torch.stack([torch.zeros(2), logits], dim=1)
    torch.testing.assert_close(linear(z), expected)


def test_making_a_layer_draws_no_random_number():
    before = torch.get_rng_state()
    as_linear(np.ones((3, 4)), np.zeros(3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1.0, 2.0], [0.0]), {}, r"coef of shape \(2,\)"),
        (([[1.0, 2.0]], [0.0, 1.0]), {}, r"intercept of shape \(2,\)"),
        (([[1.0, 2.0]], [0.0]), {"outputs": 3}, "outputs=3, but expected 2 or 1 for 1 rows"),
        ((np.ones((3, 2)), np.ones(3)), {"outputs": 2}, "outputs=2, but expected 3"),
        (([[1e5, 2.0]], [0.0]), {"dtype": torch.float16}, "1e[+]05, which torch.float16 cannot hold"),
        (([[np.nan, 2.0]], [0.0]), {}, "NaN or infinity"),
    ],
    ids=["rank", "intercept", "binary", "several", "half", "nan"],
)
def test_heads_that_are_no_layer(arguments, options, message):
    with pytest.raises(DataError, match=message):
        as_linear(*arguments, **options)


# --- install_head -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("how", ["layer", "batch"])
def test_logits_of_the_network_are_those_of_the_head(classes, how):
    model, x = seeded(ConvNet), images()
    before, mode = states(model), model.training
    head = fitted(extract_features(model, [x], dtype=torch.float64), classes)
    new = install_head(model, head, **{"layer": {"layer": JURY}, "batch": {"batch": (x[:4], torch.zeros(4))}}[how])
    own = new.eval()(x).detach()
    decision = head.decision_function(extract_features(model, [x], dtype=torch.float64))
    if classes == 2:
        torch.testing.assert_close(own[:, 0], torch.zeros(len(x), dtype=torch.float64))
        own = own[:, 1]
    torch.testing.assert_close(own, decision, rtol=1e-12, atol=1e-12)
    # The guest is as it was, down to its batch statistics.
    assert model.training == mode
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.verdict["of the jury"].out_features == 10
    assert new.verdict["of the jury"].out_features == (2 if classes == 2 else 3)


def test_a_network_of_one_logit_keeps_one():
    model, x = seeded(lambda: ConvNet(outputs=1)).eval(), images()
    Z = extract_features(model, [x], dtype=torch.float64)
    head = fitted(Z)
    new = install_head(model, head, layer=JURY)
    torch.testing.assert_close(new(x)[:, 0].detach(), head.decision_function(Z))
    probability = torch.from_numpy(np.asarray(head.predict_proba(Z.numpy())))[:, 1]
    torch.testing.assert_close(torch.sigmoid(new(x)[:, 0].detach()), probability)


@pytest.mark.parametrize(
    ("dtype", "digits"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2), (torch.float16, 5e-3)], ids=str
)
def test_the_head_takes_the_precision_of_the_layer(dtype, digits):
    model, x = seeded(ConvNet, dtype).eval(), images(dtype=dtype)
    Z = extract_features(model, [x]).double()
    head = fitted(Z)
    new = install_head(model, head, layer=JURY)
    assert new.verdict["of the jury"].weight.dtype == dtype
    found = new(x)[:, 1].detach().double()
    scale = float((head.raw_coef_ @ Z.numpy().T).max() + abs(head.raw_intercept_[0]))
    assert float((found - head.decision_function(Z)).abs().max()) < digits * scale
    if dtype != torch.float32:  # as the docstring says: the same features in float32 have all the digits
        wide = install_head(model.float(), head, layer=JURY)
        Z_wide = extract_features(model, [x.float()]).double()
        assert float((wide(x.float())[:, 1].detach().double() - head.decision_function(Z_wide)).abs().max()) < 1e-4


def test_mode_and_frozen_parameters_follow_the_layer():
    model = seeded(ConvNet).eval().requires_grad_(False)
    new = install_head(model, as_linear(np.ones((1, 6)), [0.0]), layer=JURY)
    assert not any(parameter.requires_grad for parameter in new.parameters())
    assert not any(module.training for module in new.modules())
    trained = install_head(seeded(ConvNet).train(), as_linear(np.ones((1, 6)), [0.0]), layer=JURY)
    trained(images()).sum().backward()
    assert trained.verdict["of the jury"].weight.grad is not None


def test_the_only_layer_of_that_width_needs_no_name():
    model = seeded(Block)
    with pytest.raises(ModelError, match=r"2 linear layers that take 8 features: 'attention.out_proj', 'top'"):
        install_head(model, as_linear(np.ones((1, 8)), [0.0]))
    x = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    head = fitted(extract_features(model, [x.repeat(8, 1, 1)], dtype=torch.float64))
    new = install_head(model, head, batch=x)
    Z = extract_features(model, [x], dtype=torch.float64)
    torch.testing.assert_close(new.eval()(x)[:, 1].detach(), head.decision_function(Z))
    plain = seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
    assert install_head(plain, as_linear(np.ones((3, 5)), np.zeros(3)))[2].out_features == 3


def test_a_module_at_two_names_is_replaced_at_both():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 4)
            self.top = nn.Linear(4, 2)
            self.heads = nn.ModuleList([self.top])

        def forward(self, x):
            return self.heads[0](self.first(x))

    new = install_head(seeded(Twice), as_linear(np.ones((3, 4)), np.zeros(3)))
    assert new.heads[0] is new.top
    assert new(torch.ones(1, 3, dtype=torch.float64)).shape == (1, 3)


def test_a_module_in_a_plain_list_is_replaced_there_too():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.top = nn.Linear(4, 2)
            self.steps = [torch.tanh, self.top]

        def forward(self, x):
            return self.steps[1](self.steps[0](x))

    model = seeded(Listed, torch.float32)
    new = install_head(model, as_linear(np.ones((3, 4)), [0.0, 1.0, 2.0]))
    assert new.steps[1] is new.top
    assert new(torch.zeros(1, 4)).tolist() == [[0.0, 1.0, 2.0]]
    assert model.steps[1] is model.top
    assert model.top.out_features == 2


def test_coefficients_may_be_parameters():
    layer = nn.Linear(4, 3)
    assert torch.equal(as_linear(layer.weight, layer.bias).weight, layer.weight)


def test_a_model_that_is_one_layer_becomes_the_head():
    new = install_head(nn.Linear(3, 7), as_linear([[1.0, 2.0, 3.0]], [0.5]))
    assert new(torch.ones(1, 3)).tolist() == [[0.0, 6.5]]


def test_wrappers_stay_outside():
    model = seeded(ConvNet).eval()
    new = install_head(nn.DataParallel(model), as_linear(np.ones((1, 6)), [0.0]), batch=images(2))
    assert isinstance(new, ConvNet)
    assert new(images(2)).shape == (2, 2)


def test_a_forward_pass_that_fails_leaves_the_model_as_it_was():
    model = seeded(ConvNet)
    hooks = copy.copy(model.mixing._forward_hooks)
    with pytest.raises(RuntimeError):
        install_head(model, as_linear(np.ones((1, 6)), [0.0]), batch=torch.zeros(2, 3, 8, 8))
    assert model.training
    assert model.mixing._forward_hooks == hooks


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.Linear(3, 3)

    def forward(self, x):
        return self.cell(torch.tanh(self.cell(x)))


@pytest.mark.parametrize(
    ("build", "head", "options", "message"),
    [
        (ConvNet, as_linear(np.ones((1, 5)), [0.0]), {}, "has no linear layer that takes as many"),
        (lambda: nn.Conv2d(1, 2, 3), as_linear(np.ones((1, 5)), [0.0]), {}, "has no layer"),
        (ConvNet, as_linear(np.ones((1, 5)), [0.0]), {"layer": JURY}, "takes 6. Fit the head on the input"),
        (ConvNet, as_linear(np.ones((1, 6)), [0.0]), {"layer": "verdict.jury"}, "closest names: 'verdict"),
        (ConvNet, as_linear(np.ones((1, 6)), [0.0]), {"layer": "body.0"}, "of type Conv2d"),
        (ConvNet, as_linear(np.ones((1, 6)), [0.0]), {}, "of the jury', 'mixing'. Name the one that runs last"),
        (ConvNet, np.ones((1, 6)), {}, "head of type ndarray"),
        (Recurrent, as_linear(np.ones((3, 3)), np.zeros(3)), {"batch": torch.ones(2, 3)}, "runs 2 times a batch"),
        (lambda: nn.Flatten(), as_linear(np.ones((1, 4)), [0.0]), {"batch": torch.ones(2, 4)}, "no torch.nn.Linear"),
    ],
    ids=["width", "none", "named width", "unknown", "kind", "ambiguous", "no head", "recurrent", "never runs"],
)
def test_heads_that_find_no_place(build, head, options, message):
    with pytest.raises(ModelError, match=message):
        install_head(seeded(build, torch.float32), head, **options)


def test_a_fitted_head_makes_its_layer_and_half_of_one_is_refused():
    Z = np.random.default_rng(0).normal(size=(60, 4)) * [1.0, 5.0, 0.2, 1.0] + 3
    head = fitted(Z)
    made = as_linear(head, outputs=1, dtype=torch.float64)
    np.testing.assert_allclose(made(torch.from_numpy(Z)).detach()[:, 0], head.decision_function(Z), atol=1e-12)
    by_hand = as_linear(head.raw_coef_, head.raw_intercept_, outputs=1, dtype=torch.float64)
    assert torch.equal(made.weight, by_hand.weight)
    with pytest.raises(DataError, match="raw_coef_"):
        as_linear(head.coef_)
    with pytest.raises(DataError, match="a fitted head alone"):
        as_linear(head, head.intercept_)
