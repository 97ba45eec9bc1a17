from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from cases import CASES, fill, normal
from torch import nn

from featlearn.dynamics.diagnose import Diagnosis, diagnose, diagnose_weights
from featlearn.dynamics.evidence import hyperbola_residual
from featlearn.dynamics.run_recorder import RunRecorder
from featlearn.dynamics.verdict import advice_for, kind_of, regime_of
from featlearn.exceptions import DataError, ModelError, UnmeasurableError


def relu_net(seed: int = 0, bias: bool = True) -> nn.Sequential:
    return fill(nn.Sequential(nn.Linear(4, 12, bias=bias), nn.ReLU(), nn.Linear(12, 3, bias=bias)), seed)


def kernel(model, x):
    """Output by output, over all parameters."""
    rows = []
    for output in model(x):
        gradients = [torch.autograd.grad(value, list(model.parameters()), retain_graph=True) for value in output]
        rows.append(torch.stack([torch.cat([g.flatten() for g in some]) for some in gradients]))
    jacobian = torch.stack(rows)
    return torch.einsum("icp,jcp->ij", jacobian, jacobian)


# --- measures against oracles -----------------------------------------------------------------------------------------


def test_kernel_distance_and_growth_are_those_of_the_tangent_kernels():
    before, after, x = relu_net(), relu_net(7), normal(10, 4)
    k0, k1 = kernel(before, x), kernel(after, x)
    evidence = diagnose(before, after, x).evidence
    expected = 1 - float((k0 * k1).sum() / k0.norm() / k1.norm())
    assert evidence["kernel_distance"].value == pytest.approx(expected, rel=1e-10)
    assert evidence["kernel_growth"].value == pytest.approx(float(k1.norm() / k0.norm()), rel=1e-12)


def test_hamming_counts_signs_before_the_activation():
    before, after, x = relu_net(), relu_net(7), normal(30, 4)
    changed = ((before[0](x) > 0) != (after[0](x) > 0)).double().mean()
    found = diagnose(before, after, x).evidence["hamming"]
    assert found.value == float(changed)
    assert found.parts == {"1": float(changed)}


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 12), nn.Linear(12, 3)

    def forward(self, x):
        return self.fc2(torch.relu_(self.fc1(x)))


def test_activations_that_are_functions_are_seen_at_the_layer_before():
    before, after, x = fill(Functional()), fill(Functional(), 7), normal(30, 4)
    found = diagnose(before, after, x).evidence["hamming"]
    assert found.parts == {"fc1": float(((before.fc1(x) > 0) != (after.fc1(x) > 0)).double().mean())}
    assert "hidden layers" in found.caveat


def test_weights_moved_relative_to_their_start():
    before, x = relu_net(), normal(30, 4)
    after = copy.deepcopy(before)
    with torch.no_grad():
        after[0].weight.mul_(3)
    found = diagnose(before, after, x).evidence["weights_moved"]
    assert found.parts == pytest.approx({"0.weight": 2.0, "2.weight": 0.0})
    assert found.value == pytest.approx(2.0)
    with torch.no_grad():
        before[0].weight.zero_()
    assert diagnose(before, after, x).evidence["weights_moved"].value == math.inf


def test_balance_is_that_of_every_unit():
    before, after, x = relu_net(), relu_net(7), normal(30, 4)

    def units(net):
        out = net[2].weight.detach().square().sum(dim=0)
        into = net[0].weight.detach().square().sum(dim=1) + net[0].bias.detach().square()
        return out - into, out + into

    (d0, s0), (d1, s1) = units(before), units(after)
    evidence = diagnose(before, after, x).evidence
    assert evidence["balance_start"].value == pytest.approx(float((d0 / s0).mean()), rel=1e-12)
    assert evidence["balance_end"].value == pytest.approx(float((d1 / s1).mean()), rel=1e-12)
    drift = float((d1 - d0).abs().max() / max(s0.max(), s1.max()))
    assert evidence["balance_drift"].value == pytest.approx(drift, rel=1e-12)


def test_rates_of_the_layers_weigh_the_balance():
    before, after, x = relu_net(bias=False), relu_net(7, bias=False), normal(30, 4)
    groups = [{"params": after[0].parameters(), "lr": 0.1}, {"params": after[2].parameters(), "lr": 0.4}]
    out = before[2].weight.detach().square().sum(dim=0) / 0.4
    into = before[0].weight.detach().square().sum(dim=1) / 0.1
    found = diagnose(before, after, x, optimizer=torch.optim.SGD(groups)).evidence["balance_start"].value
    assert found == pytest.approx(float(((out - into) / (out + into)).mean()), rel=1e-12)
    assert found != pytest.approx(diagnose(before, after, x).evidence["balance_start"].value, rel=1e-3)


def descend(model, x, y, lr, steps, see):
    for step in range(steps):
        loss = (model(x) - y).square().sum() / (2 * len(x))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.sub_(lr * gradient)
        see(step + 1)


def test_gradient_flow_conserves_the_balance_and_decay_does_not():
    drifts = []
    for decay in (0.0, 0.02):
        model, x = relu_net(), normal(40, 4)
        start, y = copy.deepcopy(model), normal(40, 3, seed=4)

        def shrink(step, model=model, decay=decay):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1 - decay)

        descend(model, x, y, 0.01, 150, shrink)
        diagnosis = diagnose(start, model, x)
        drifts.append(diagnosis.evidence["balance_drift"].value)
        assert any("drifted" in flag for flag in diagnosis.flags) == (decay > 0)
    assert drifts[0] < 0.01
    assert drifts[1] > 0.3


def test_linear_networks_that_fit_one_direction_stay_on_a_hyperbola():
    residuals = []
    for rate in (1e-3, 1e-4):
        model = fill(nn.Sequential(nn.Linear(1, 6, bias=False), nn.Linear(6, 1, bias=False)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.6)
        x = normal(40, 1)
        recorder = RunRecorder(model, x, 2 * x)
        recorder(0)
        steps = round(0.04 / rate)
        for k in range(6):
            descend(model, x, 2 * x, rate, steps, lambda step: None)
            recorder(k + 1)
        evidence = recorder.diagnose().evidence
        residuals.append(evidence["hyperbola_residual"].value)
    # What is left is the step of gradient descent: it falls with its rate.
    assert residuals[1] < residuals[0] / 5
    assert residuals[1] < 1e-5


def test_hyperbola_residual_needs_targets_and_four_snapshots():
    model, x = relu_net(), normal(40, 4)
    assert "needs targets" in diagnose(copy.deepcopy(model), model, x).evidence["hyperbola_residual"].reason
    recorder = RunRecorder(model, x, torch.arange(40) % 3)
    for step in range(3):
        recorder(step)
    evidence = recorder.diagnose().evidence["hyperbola_residual"]
    assert evidence.reason == "needs 4 snapshots, got 3"
    assert math.isnan(evidence.value)
    recorder(3)
    assert recorder.diagnose().evidence["hyperbola_residual"].value == pytest.approx(0, abs=1e-12)


def test_hyperbola_residual_is_exact_on_it_in_any_unit_and_positive_off_it():
    F = np.array([0.0, 0.2, 0.5, 0.9, 1.1])
    theta = np.sqrt(0.3 + 7 * F**2)
    assert hyperbola_residual(F, theta) < 1e-12
    assert hyperbola_residual(1e9 * F, 1e-9 * theta) < 1e-12
    assert hyperbola_residual(F, theta * np.array([1, 1, 1.1, 1, 1])) > 0.02
    assert math.isnan(hyperbola_residual(F, 0 * theta))


def test_theta_is_the_squared_gradient_along_the_targets():
    model, x, y = relu_net(), normal(40, 4), torch.arange(40) % 3
    seen = []
    recorder = RunRecorder(model, x, y, log=seen.append)
    recorder(0)
    onehot = nn.functional.one_hot(y, 3).double()
    v = (onehot - onehot.mean(dim=0)) / (onehot - onehot.mean(dim=0)).norm()
    along = (model(x) * v).sum()
    theta = sum(g.square().sum() for g in torch.autograd.grad(along, list(model.parameters())))
    assert seen[0]["F"] == pytest.approx(float(along.detach()), rel=1e-12)
    assert seen[0]["Theta"] == pytest.approx(float(theta), rel=1e-12)


# --- rules, flags, advice ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "hamming", "regime"),
    [
        (0.0099, 0.029, "lazy"),
        (0.0099, math.nan, "lazy"),
        (0.01, 0.0, "intermediate"),
        (0.001, 0.03, "intermediate"),
        (0.049, 0.5, "intermediate"),
        (0.05, 0.0, "feature learning"),
        (math.nan, 0.5, None),
    ],
)
def test_regime(distance, hamming, regime):
    assert regime_of(distance, hamming) == regime


def test_kind_is_of_runs_that_are_not_lazy():
    assert [kind_of("feature learning", d) for d in (-0.51, -0.5, 0.0, 0.5, 0.51)] == [
        "downstream",
        *["balanced"] * 3,
        "upstream",
    ]
    assert kind_of("lazy", 0.9) is None
    assert kind_of("intermediate", math.nan) is None


def test_every_verdict_has_its_own_advice():
    found = {
        advice_for(regime, kind, moved)
        for regime, kind, moved in [
            ("lazy", None, False),
            ("lazy", None, True),
            ("intermediate", "balanced", False),
            ("feature learning", "balanced", False),
            ("feature learning", "upstream", False),
            ("feature learning", "downstream", False),
            (None, None, False),
        ]
    }
    assert len(found) == 7


def test_weights_that_move_without_the_kernel_are_flagged():
    """Upstream and linear: the outer layer is so large that the inner one moves far while the kernel hardly turns."""
    torch.manual_seed(0)
    before = nn.Sequential(nn.Linear(5, 300, bias=False), nn.Linear(300, 1, bias=False)).double()
    with torch.no_grad():
        before[0].weight.normal_(std=1e-3)
        before[1].weight.normal_(std=1.0)
    after, x = copy.deepcopy(before), normal(40, 5)
    with torch.no_grad():
        after[0].weight.normal_(std=4e-3)
    diagnosis = diagnose(before, after, x)
    assert diagnosis.evidence["kernel_distance"].value < 0.01
    assert "the first layer's weights move, the kernel does not" in diagnosis.flags
    assert "kernel did not" in diagnosis.advice


def test_flags_name_what_weakens_the_evidence():
    layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 6), nn.ReLU()]
    model = fill(nn.Sequential(*layers, nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)))
    model[6].weight = model[4].weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    flags = "; ".join(diagnose(copy.deepcopy(model), model, normal(20, 4), optimizer=optimizer).flags)
    for word in (
        "BatchNorm1d: norms",
        "dropout",
        "tied weights",
        "Tanh: Hamming",
        "20 samples",
        "AdamW",
        "weight decay",
    ):
        assert word in flags
    (still,) = diagnose(relu_net(), relu_net(), normal(40, 4), optimizer="sgd").flags
    assert "nothing was trained" in still
    assert "weight decay" in "; ".join(diagnose(relu_net(), relu_net(), normal(40, 4), optimizer="adamw").flags)
    few = diagnose(relu_net(), relu_net(), normal(40, 4), ntk_samples=16)
    assert "16 samples" in few.flags[1]


def test_balance_is_given_where_a_scale_passes_only():
    model = fill(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)))
    evidence = diagnose(copy.deepcopy(model), model, normal(40, 4)).evidence
    assert list(evidence["balance_start"].parts) == ["2 | 4"]
    fresh = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).double()
    found = diagnose(copy.deepcopy(fresh), fresh, normal(40, 4)).evidence["balance_start"]
    assert math.isnan(found.value)
    assert "no two layers" in found.reason


def test_a_single_layer_has_no_mechanisms_and_no_signs():
    model = fill(nn.Linear(4, 2))
    diagnosis = diagnose(copy.deepcopy(model), model, normal(40, 4))
    assert diagnosis.mechanisms is None
    assert diagnosis.evidence["hamming"].reason == "no hidden layer was seen to run"
    assert diagnosis.regime == "lazy"


# --- parameters, guests, results --------------------------------------------------------------------------------------


def test_every_argument_changes_something():
    before, after, x = relu_net(), relu_net(7), normal(40, 4)
    base = diagnose(before, after, x, ntk_samples=16).evidence["kernel_distance"].value
    assert diagnose(before, after, x, ntk_samples=17).evidence["kernel_distance"].value != base
    assert diagnose(before, after, x, ntk_samples=16, random_state=1).evidence["kernel_distance"].value != base
    one = diagnose(before, after, x, ntk_samples=16, outputs=lambda model, batch: model(batch)[:, :1])
    assert one.evidence["kernel_distance"].value != base
    deep = fill(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)))
    assert len(diagnose(copy.deepcopy(deep), deep, x).mechanisms.pairs) == 2
    assert len(diagnose(copy.deepcopy(deep), deep, x, pairs=[("2", "4")]).mechanisms.pairs) == 1


def test_more_than_ten_outputs_are_combined_by_the_same_signs_for_both_kernels():
    model = fill(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 12)))
    assert abs(diagnose(copy.deepcopy(model), model, normal(40, 4)).evidence["kernel_distance"].value) < 1e-12
    other = fill(copy.deepcopy(model), 3)
    x = normal(40, 4)
    k0, k1 = kernel(model, x), kernel(other, x)
    exact = 1 - float((k0 * k1).sum() / k0.norm() / k1.norm())
    found = [diagnose(model, other, x, random_state=seed).evidence["kernel_distance"].value for seed in range(8)]
    assert np.mean(found) == pytest.approx(exact, abs=0.5 * exact)
    assert np.std(found) > 0


def test_recorder_ends_where_two_checkpoints_do():
    model, x, y = relu_net(), normal(40, 4), normal(40, 3, seed=4)
    start = copy.deepcopy(model.state_dict())
    recorder = RunRecorder(model, x)
    recorder(0)
    descend(model, x, y, 0.05, 50, lambda step: recorder(step) if step % 25 == 0 else None)
    recorded, compared = recorder.diagnose(), diagnose(start, model, x)
    assert [row["step"] for row in recorded.history] == [0, 25, 50]
    for name, evidence in recorded.evidence.items():
        assert evidence.value == pytest.approx(compared.evidence[name].value, rel=1e-10, abs=1e-14, nan_ok=True)
    assert recorded.mechanisms.pairs[0].score == pytest.approx(compared.mechanisms.pairs[0].score, rel=1e-10)
    assert recorded.regime == compared.regime


def test_recorder_has_its_numbers_as_a_table():
    recorder = RunRecorder(relu_net(), normal(40, 4), normal(40, 3, seed=4))
    with pytest.raises(DataError, match="no recorded step"):
        recorder.frame()
    recorder(0)
    recorder(5)
    rows = recorder.diagnose().history
    assert recorder.frame().reset_index().to_dict("records") == [dict(row) for row in rows]
    assert recorder.frame().index.tolist() == [0, 5]


def test_model_is_a_guest():
    layers = [
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(16, 3),
    ]
    model = fill(nn.Sequential(*layers)).train()
    model[0].bias.requires_grad_(False)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    recorder = RunRecorder(model, normal(40, 1, 4, 4), torch.arange(40) % 3)
    recorder(0)
    recorder.diagnose()
    diagnose(before, model, normal(40, 1, 4, 4))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_weights_alone_give_everything_but_the_regime():
    before, after = relu_net(), relu_net(7)
    alone = diagnose_weights(before.state_dict(), after, [("0", "2")])
    full = diagnose(before, after, normal(40, 4))
    assert alone.regime is None
    assert "weights alone" in alone.flags[0]
    for name in ("weights_moved", "balance_start", "balance_end", "balance_drift"):
        assert alone.evidence[name].value == pytest.approx(full.evidence[name].value, rel=1e-12)
    assert alone.evidence["kernel_distance"].reason == "needs inputs"
    assert alone.mechanisms.to_dict() == full.mechanisms.to_dict()
    assert diagnose_weights(before, after, [("0.weight", "2.weight")]).mechanisms.pairs[0].score == pytest.approx(
        full.mechanisms.pairs[0].score
    )


def test_weights_alone_read_convolutions_groups_and_flattened_places():
    layers = [nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 2, groups=3), nn.Flatten(), nn.Linear(24, 2)]
    before, after = fill(nn.Sequential(*layers)), fill(copy.deepcopy(nn.Sequential(*layers)), 5)
    pairs = [("0", "1"), ("1", "3")]
    alone = diagnose_weights(before, after, pairs).mechanisms
    full = diagnose(before, after, normal(40, 2, 5, 5), pairs=pairs).mechanisms
    np.testing.assert_allclose(alone.pairs[0].cosine, full.pairs[0].cosine)
    # The second pair's first layer has groups, which the weights do not tell: the product is another.
    assert alone.pairs[1].norm == pytest.approx(full.pairs[1].norm)
    assert alone.pairs[1].cosine != pytest.approx(full.pairs[1].cosine, rel=1e-6)


def test_results_survive_a_dictionary_and_become_tables():
    recorder = RunRecorder(relu_net(), normal(40, 4), normal(40, 3, seed=4))
    for step in range(4):
        recorder(step)
    diagnosis = recorder.diagnose()
    plain = diagnosis.to_dict()
    again = Diagnosis.from_dict(plain).to_dict()
    assert again["history"] == plain["history"]
    assert again["mechanisms"] == plain["mechanisms"]
    assert {key: again[key] for key in ("regime", "flags", "advice")} == {
        key: plain[key] for key in ("regime", "flags", "advice")
    }
    assert diagnosis.frame().loc["kernel_distance", "value"] == diagnosis.evidence["kernel_distance"].value
    assert diagnosis.verdict in diagnosis._repr_html_()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"X": [1, 2]}, DataError, "Got X of list"),
        ({"X": normal(1, 4)}, DataError, "at least two inputs"),
        ({"X": torch.full((5, 4), math.nan)}, DataError, "not finite"),
        ({"ntk_samples": 1}, DataError, "Got ntk_samples=1"),
        ({"random_state": -1}, DataError, "non-negative"),
        ({"optimizer": 3}, DataError, "Got optimizer=int"),
        ({"outputs": "probabilities"}, DataError, "Got outputs="),
        ({"pairs": [("0", "7")]}, UnmeasurableError, "no such layer"),
        ({"before": {"0.weight": torch.zeros(1)}}, ModelError, "0.weight"),
    ],
)
def test_bad_input_is_refused(options, error, message):
    given = {"before": relu_net(), "after": relu_net(), "X": normal(40, 4)} | options
    with pytest.raises(error, match=message):
        diagnose(**given)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "keep",
    [lambda model: model, nn.Module.state_dict, lambda model: dict(model.named_parameters()), copy.copy],
    ids=["itself", "state_dict", "parameters", "shallow copy"],
)
def test_a_start_in_the_memory_of_the_trained_model_is_refused(keep, frozen):
    """It would read as lazy: training has changed both."""
    model = relu_net()
    before = keep(model)
    fill(model, 7).requires_grad_(not frozen)
    with pytest.raises(DataError, match=r"shares the memory of '0\.weight'.*copy\.deepcopy\(model\)"):
        diagnose(before, model, normal(40, 4))
    with pytest.raises(DataError, match="shares the memory"):
        diagnose_weights(before, model, [("0", "2")])


def test_a_frozen_part_may_be_shared_and_a_trained_one_may_not():
    before, after = relu_net(), relu_net(7)
    before[0].weight = after[0].weight
    with pytest.raises(DataError, match=r"shares the memory of '0\.weight' with"):
        diagnose(before, after, normal(40, 4))
    after[0].weight.requires_grad_(False)
    assert diagnose(before, after, normal(40, 4)).evidence["weights_moved"].parts["0.weight"] == 0


def test_equal_weights_are_flagged_and_moved_ones_are_not():
    pairs = [("0", "2")]
    for still in (diagnose_weights(relu_net(), relu_net(), pairs), diagnose(relu_net(), relu_net(), normal(40, 4))):
        assert "all weights are those of the start" in still.flags[0]
    assert "all weights" not in "".join(diagnose_weights(relu_net(), relu_net(7), pairs).flags)


def test_pairs_are_read_alike_with_and_without_a_model():
    before, after, x = relu_net(), relu_net(7), normal(40, 4)
    scores = {
        found.mechanisms.pairs[0].score
        for pairs in (("0", "2"), [("0", "2")], [("0.weight", "2.weight")])
        for found in (diagnose(before, after, x, pairs=pairs), diagnose_weights(before, after, pairs))
    }
    assert len(scores) == 1
    with pytest.raises(UnmeasurableError, match="expected two names"):
        diagnose_weights(before, after, ["0", "2"])


def test_a_pair_with_a_layer_between_is_flagged_in_order_of_execution():
    class Shuffled(nn.Module):
        """Registered in another order than it runs in."""

        def __init__(self) -> None:
            super().__init__()
            self.last, self.first, self.middle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.last(self.middle(self.first(x).relu()).relu())

    def flags(*pair):
        return diagnose(fill(Shuffled()), fill(Shuffled(), 7), normal(40, 4), pairs=[pair]).flags

    assert any("not consecutive: 'middle' between 'first' and 'last'" in flag for flag in flags("first", "last"))
    assert any("'middle' comes before 'last'" in flag for flag in flags("last", "middle"))
    assert not any("consecutive" in flag for flag in (*flags("first", "middle"), *flags("middle", "last")))


@pytest.mark.parametrize("optimizer", ["foo", "", "Optimizer"])
def test_optimizers_of_an_unknown_name_are_refused(optimizer):
    with pytest.raises(DataError, match="expected a torch optimiser, or the name of one such as 'SGD'"):
        diagnose(relu_net(), relu_net(7), normal(40, 4), optimizer=optimizer)


def test_foreign_optimizers_targets_and_steps_are_refused():
    model, x = relu_net(), normal(40, 4)
    with pytest.raises(DataError, match="holds none"):
        diagnose(copy.deepcopy(model), model, x, optimizer=torch.optim.SGD(relu_net().parameters(), lr=0.1))
    for y, message in [
        (torch.zeros(40, dtype=torch.long), "all of one class"),
        (torch.arange(40), "classes up to 39"),
        (torch.ones(39, 3), "one row each"),
        (torch.ones(40, 2), "targets of 2 columns"),
        (torch.zeros(40, 3), "no direction"),
    ]:
        with pytest.raises(DataError, match=message):
            RunRecorder(model, x, y)
    recorder = RunRecorder(model, x)
    with pytest.raises(DataError, match="no recorded step"):
        recorder.diagnose()
    recorder(4)
    with pytest.raises(DataError, match="expected a later one"):
        recorder(4)


def test_weights_that_do_not_match_are_refused():
    state = relu_net().state_dict()
    with pytest.raises(ModelError, match="missing or of another shape"):
        diagnose_weights(state, {}, [("0", "2")])
    with pytest.raises(UnmeasurableError, match="the closest weights are"):
        diagnose_weights(state, copy.deepcopy(state), [("0", "9")])
    with pytest.raises(UnmeasurableError, match="3 outputs and whose second reads 4"):
        diagnose_weights(state, copy.deepcopy(state), [("2", "0")])
    broken = copy.deepcopy(state)
    broken["0.weight"][0, 0] = math.inf
    with pytest.raises(ModelError, match="NaN or infinity"):
        diagnose_weights(state, broken, [("0", "2")])


@pytest.mark.parametrize(
    "name", ["encoder", "weight_norm", "experts", "embedding", "tied", "checkpointed", "residual", "attention", "lora"]
)
def test_networks_of_any_kind_are_diagnosed(name):
    case = CASES[name]
    inputs = case.batches()[0]
    after, before = case.model(), fill(case.build(), 9)
    evidence = diagnose(before, after, inputs[0] if isinstance(inputs, tuple) else inputs).evidence
    assert 0 < evidence["kernel_distance"].value < 1
    assert 0 < evidence["weights_moved"].value < math.inf
