from __future__ import annotations

import copy

import pytest
import torch
from cases import CASES, fill, normal
from torch import nn

from featlearn.agop.finding import resolve_layers
from featlearn.agop.layers import Rows
from featlearn.agop.samples import take_samples
from featlearn.agop.tangent_gram import tangent_gram
from featlearn.agop.taps import guest
from featlearn.exceptions import DataError, MixingError, UnmeasurableError

# Weights that are made from other parameters have no parameter of their own to differentiate; samples of the others
# cannot be told apart by layer (see the tests of refusals).
LEFT_OUT = ("weight_norm", "sample_by_sample", "square_time_first", "experts")
KERNELS = [name for name in CASES if name not in LEFT_OUT]


def gram_of(model, batches, *, layers="auto", outputs="logits", most=None, **options):
    chosen, _, explicit = resolve_layers(model, layers)
    with guest(model):
        samples = take_samples(model, batches, outputs, most)
        return tangent_gram(model, samples, chosen, outputs=outputs, explicit=explicit, **options)


def parameters_of(model, layers):
    """Weights and biases of the layers, each parameter once."""
    found = {}
    for name in layers:
        module = model.get_submodule(name.rsplit(".", 1)[0] if name.endswith((".q", ".k", ".v", ".out_proj")) else name)
        module = getattr(module, "base_layer", module)
        found |= {id(parameter): parameter for parameter in module.parameters()}
    return list(found.values())


def jacobians(model, batches, parameters, call):
    """(n, C, parameters): one autograd call for every output of every sample."""
    rows = []
    for batch in batches:
        outputs = call(model, batch)
        for sample in outputs.flatten(1) if outputs.dim() > 1 else outputs[:, None]:
            gradients = [
                torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True) for value in sample
            ]
            rows.append(
                torch.stack(
                    [
                        torch.cat(
                            [
                                (torch.zeros_like(p) if g is None else g).flatten()
                                for p, g in zip(parameters, some, strict=True)
                            ]
                        )
                        for some in gradients
                    ]
                )
            )
    return torch.stack(rows)


def by_autograd(case, batches=None):
    model = copy.deepcopy(case.model()).eval()
    batches = case.batches() if batches is None else batches
    found = jacobians(model, batches, parameters_of(model, case.layers), case.call)
    return torch.einsum("icp,jcp->ij", found, found)


def assert_gram(gram, expected, tolerance=1e-10):
    torch.testing.assert_close(gram, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("name", KERNELS)
def test_gram_equals_autograd_sample_by_sample(name):
    case = CASES[name]
    assert_gram(gram_of(case.model(), case.batches(), outputs=case.outputs), by_autograd(case))


@pytest.mark.parametrize("name", ["mlp", "convnet", "conv2d_four_groups", "repeated", "attention", "tied"])
@pytest.mark.parametrize(("held", "block"), [(1, 1), (200, 64), (3000, 10**6)])
def test_memory_budgets_change_nothing(monkeypatch, name, held, block):
    monkeypatch.setattr("featlearn.agop.tangent_gram.HELD", held)
    monkeypatch.setattr("featlearn.agop.tangent_gram.BLOCK", block)
    case = CASES[name]
    assert_gram(gram_of(case.model(), case.batches(), outputs=case.outputs), by_autograd(case))


@pytest.mark.parametrize(("held", "gatherings"), [(1, 9), (1000, 6), (10**9, 1)])
def test_what_is_held_stays_within_the_budget_or_is_one_layer(monkeypatch, held, gatherings):
    from featlearn.agop import tangent_gram as module

    original, numbers = module._gather, []

    def recording(*args):
        found = original(*args)
        calls = [call for some in found.calls for calls in some.values() for call in calls]
        numbers.append(sum(call.input.numel() + call.gradient.numel() for call in calls))
        return found

    monkeypatch.setattr(module, "HELD", held)
    monkeypatch.setattr(module, "_gather", recording)
    case = CASES["convnet"]
    gram_of(case.model(), case.batches())
    first_convolution = 6 * (2 * 7 * 6 + 4 * 4 * 3)  # inputs and gradients of six samples
    assert len(numbers) == gatherings
    assert max(numbers) <= max(held, first_convolution)


def test_one_position_makes_no_weight_gradient(monkeypatch):
    def refuse(*args):
        raise AssertionError("a weight gradient was made")

    monkeypatch.setattr("featlearn.agop.tangent_gram._weight_gradient", refuse)
    case = CASES["mlp"]
    assert_gram(gram_of(case.model(), case.batches()), by_autograd(case))


def test_kernel_of_one_linear_layer_is_its_closed_form():
    model, x = fill(nn.Linear(4, 3)), normal(5, 4)
    assert_gram(gram_of(model, [x]), 3 * (x @ x.mT + 1), 1e-14)
    assert_gram(gram_of(fill(nn.Linear(4, 3, bias=False)), [x]), 3 * x @ x.mT, 1e-14)


def test_layers_restrict_the_parameters():
    case = CASES["mlp"]
    model = case.model()
    weights = jacobians(model, case.batches(), [model[0].weight, model[0].bias], case.call)
    expected = torch.einsum("icp,jcp->ij", weights, weights)
    assert_gram(gram_of(case.model(), case.batches(), layers=["0"]), expected)


def test_rows_of_a_layer_are_its_rows_of_weight_and_bias():
    case = CASES["fused_qkv"]
    model = case.model()
    found = jacobians(model, case.batches(), [model.qkv.weight, model.qkv.bias], case.call)
    weight, bias = found[..., : 12 * 4].unflatten(-1, (12, 4)), found[..., 12 * 4 :]
    expected = torch.einsum("ickd,jckd->ij", weight[:, :, 2:7], weight[:, :, 2:7])
    expected += torch.einsum("ick,jck->ij", bias[:, :, 2:7], bias[:, :, 2:7])
    assert_gram(gram_of(case.model(), case.batches(), layers=[Rows("qkv", 2, 7)]), expected)


def test_same_samples_in_other_batches_give_the_same_gram():
    case = CASES["convnet"]
    x = torch.cat([batch[0] for batch in case.batches()])
    assert_gram(gram_of(case.model(), x.split(1)), gram_of(case.model(), [x]), 1e-13)


def test_only_the_first_samples_are_read():
    case = CASES["mlp"]
    x = torch.cat(case.batches())

    def stream():
        yield x[:3]
        yield x[3:6]
        raise AssertionError("one batch too many was read")

    assert_gram(gram_of(case.model(), stream(), most=5), by_autograd(case, [x[:5]]))


def test_single_precision_agrees_to_its_digits():
    case = CASES["convnet"]
    assert_gram(gram_of(case.model().float(), case.batches()), by_autograd(case), 1e-5)


def test_model_that_overwrites_a_layers_input_in_place():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = torch.tanh(self.first(x)).clone()
            out = self.second(h)
            if not torch.is_grad_enabled() or not self.second.weight.requires_grad:
                h.mul_(0.0)  # legal while the weights are frozen: nothing has kept h
            return self.head(torch.tanh(out))

    model, x = fill(Overwrites()), normal(5, 3)
    found = jacobians(copy.deepcopy(model), [x], list(model.parameters()), lambda _, batch: model(batch))
    assert_gram(gram_of(model, [x]), torch.einsum("icp,jcp->ij", found, found))


def test_experts_count_while_each_takes_whole_samples():
    case = CASES["experts"]
    batches = case.batches()[:2]  # all tokens of a batch go to one expert, the other sees none
    assert_gram(gram_of(case.model(), batches), by_autograd(case, batches))


# --- probes -----------------------------------------------------------------------------------------------------------


def test_shared_probes_average_to_the_exact_gram():
    case = CASES["mlp"]
    exact = gram_of(case.model(), case.batches())
    errors = {}
    for probes in (50, 800):
        found = gram_of(case.model(), case.batches(), probes=probes)
        errors[probes] = float((found - exact).norm() / exact.norm())
    assert errors[800] < 0.1
    assert errors[800] < errors[50]


def test_one_output_needs_one_probe_and_is_exact():
    model, x = fill(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))), normal(6, 3)
    assert_gram(gram_of(model, [x], probes=1), gram_of(model, [x]), 1e-13)


def test_probes_depend_on_the_seed_and_not_on_the_batches():
    case = CASES["mlp"]
    x = torch.cat(case.batches())
    first = gram_of(case.model(), [x], probes=2, random_state=1)
    assert_gram(gram_of(case.model(), x.split(2), probes=2, random_state=1), first, 1e-13)
    assert not torch.allclose(gram_of(case.model(), [x], probes=2, random_state=2), first)


def test_too_many_outputs_for_exact_passes_are_refused():
    model = fill(nn.Linear(2, 5000))
    with pytest.raises(DataError, match=r"5000 outputs a sample.*probes=8"):
        gram_of(model, [normal(2, 2)])
    expected = 5000 * (normal(2, 2) @ normal(2, 2).mT + 1)
    assert_gram(gram_of(model, [normal(2, 2)], probes=1), expected)  # a sum of squared signs has no error here


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sample_by_sample", "square_time_first", "experts"])
def test_rows_that_are_not_laid_out_by_sample_are_refused(name):
    case = CASES[name]
    with pytest.raises((MixingError, UnmeasurableError), match=r"leave the layer out|Leave it out"):
        gram_of(case.model(), case.batches())


def test_batch_statistics_are_refused():
    model = fill(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)))
    with pytest.raises(MixingError, match=r"'0'.*running statistics"):
        gram_of(model, [normal(6, 3)])


def test_only_a_later_batch_that_is_ambiguous_is_refused_too():
    case = CASES["time_first"]
    model, x = case.model(), normal(8, 5, 3)
    assert gram_of(model, [x]).shape == (8, 8)
    with pytest.raises(MixingError, match="read as other samples"):
        gram_of(model, [x, normal(5, 5, 3)])  # five samples of five steps


class Deeper(nn.Module):
    """A layer that runs on batches of more than three samples only, and one whose result is thrown away."""

    def __init__(self):
        super().__init__()
        self.first, self.extra, self.idle, self.head = (
            nn.Linear(3, 4),
            nn.Linear(4, 4),
            nn.Linear(4, 4),
            nn.Linear(4, 2),
        )

    def forward(self, x):
        h = torch.tanh(self.first(x))
        self.idle(h)
        if len(x) > 3:
            h = torch.tanh(self.extra(h))
        return self.head(h) ** 2


@pytest.mark.parametrize("held", [1, 10**9])
@pytest.mark.parametrize("first", ["with", "without"])
def test_layers_that_run_on_some_batches_count_there(monkeypatch, held, first):
    monkeypatch.setattr("featlearn.agop.tangent_gram.HELD", held)
    model = fill(Deeper())
    batches = [normal(4, 3), normal(2, 3, seed=3)]
    batches = batches if first == "with" else batches[::-1]
    found = jacobians(model, batches, list(model.parameters()), lambda model, batch: model(batch))
    assert_gram(gram_of(model, batches), torch.einsum("icp,jcp->ij", found, found))


class Partly(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle, self.cut, self.head = (nn.Linear(3, 3) for _ in range(4))

    def forward(self, x):
        with torch.no_grad():
            x = x + self.cut(x)
        return self.head(torch.tanh(self.used(x)))


def test_layers_that_do_not_run_are_left_out_or_refused_by_name():
    model, x = fill(Partly()), normal(5, 3)
    expected = gram_of(model, [x], layers=["used", "head"])
    assert_gram(gram_of(model, [x]), expected, 1e-14)
    with pytest.raises(UnmeasurableError, match="'idle' cannot be measured: it never ran"):
        gram_of(model, [x], layers=["used", "idle"])
    with pytest.raises(UnmeasurableError, match=r"'cut' cannot be measured: it ran under torch\.no_grad"):
        gram_of(model, [x], layers=["used", "cut"])


def test_outputs_without_a_gradient_are_refused():
    model = fill(nn.Linear(3, 2))
    with pytest.raises(UnmeasurableError, match="do not depend on any measured layer"):
        gram_of(model, [normal(5, 3)], outputs=lambda model, batch: model(batch).detach())


def test_outputs_of_another_width_are_refused():
    model = fill(nn.Linear(3, 2))
    with pytest.raises(DataError, match=r"outputs of shape \(5, 8\), but expected \(5, 6\)"):
        gram_of(model, [normal(5, 3, 3), normal(5, 4, 3)])


def test_batches_that_cannot_be_cut_are_refused():
    class FromList(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, samples):
            return self.layer(torch.stack(samples))

    with pytest.raises(DataError, match="4 samples in 1 batches that cannot be cut, but expected at most 3"):
        gram_of(fill(FromList()), [[list(normal(4, 3))]], most=3)
