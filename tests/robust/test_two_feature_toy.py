"""The toy of two features: exact weights, gradients by autograd of a plain network, and what its runs reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featlearn.exceptions import DataError
from featlearn.robust.two_feature_toy import TwoFeatureToy


def network(filters: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The toy's network, one filter at a time."""
    count = len(filters) // 2
    output = torch.zeros(len(x), dtype=torch.float64)
    for i, weight in enumerate(filters):
        z = x @ weight
        output = output + (1 if i < count else -1) * z / (1 + torch.exp(-z)) / count
    return output


def by_hand(toy: TwoFeatureToy, filters: torch.Tensor, penalty: float) -> torch.Tensor:
    """The toy's IRMv1 objective, point by point, with the penalty by autograd in a factor on the logits."""
    total = torch.zeros((), dtype=torch.float64)
    for noise in toy.spurious_noise:
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        loss = torch.zeros((), dtype=torch.float64)
        for y in (1, -1):
            for r1, p1 in ((1, 1 - toy.label_noise), (-1, toy.label_noise)):
                for r2, p2 in ((1, 1 - noise), (-1, noise)):
                    x = torch.tensor([[y * r1, y * r2]], dtype=torch.float64)
                    loss = loss + 0.5 * p1 * p2 * torch.log1p(torch.exp(-y * scale * network(filters, x)[0]))
        (slope,) = torch.autograd.grad(loss, scale, create_graph=True)
        total = total + loss + penalty * slope**2
    return total / max(1.0, penalty)


def trained_by_hand(toy: TwoFeatureToy, objective: str, steps: int) -> list[np.ndarray]:
    start = toy.train("erm", 1, learning_rate=1e-300)  # the initial filters
    filters = torch.tensor(start.weights, requires_grad=True)
    plain = objective == "erm"
    optimizer = torch.optim.SGD([filters], lr=0.5) if plain else torch.optim.Adam([filters], lr=0.005)
    found = [gamma(filters)]
    for _ in range(steps):
        optimizer.zero_grad()
        by_hand(toy, filters, 0.0 if plain else 1e4).backward()
        optimizer.step()
        found.append(gamma(filters))
    return found


def gamma(filters: torch.Tensor) -> np.ndarray:
    half = len(filters) // 2
    difference = filters[:half].mean(dim=0) - filters[half:].mean(dim=0)
    return difference.detach().numpy() / 2


@pytest.mark.parametrize("objective", ["erm", "irm"])
@pytest.mark.parametrize("noise", [(0.25, (0.1, 0.2)), (0.1, (0.2, 0.25))], ids=["easy_spurious", "easy_invariant"])
def test_every_step_is_that_of_the_objective_by_autograd(objective, noise):
    toy = TwoFeatureToy(*noise, n_filters=3, init_scale=0.5, random_state=2)
    run = toy.train(objective, 8)
    expected = np.array(trained_by_hand(toy, objective, 8))
    np.testing.assert_allclose(np.stack([run.invariant, run.spurious], axis=1), expected, rtol=1e-9, atol=1e-12)


def test_logits_of_zero_satisfy_the_penalty_exactly():
    run = TwoFeatureToy(init_scale=0.0).train("irm", 1)
    assert run.loss[0] == pytest.approx(np.log(2), rel=1e-12)
    assert run.penalty[0] == 0


def test_weights_are_those_of_the_two_flips():
    toy = TwoFeatureToy(0.3, (0.2,))
    weights = {tuple(point): weight for point, weight in zip(toy.points.tolist(), toy.weights_of(0.2), strict=True)}
    assert sum(weights.values()) == pytest.approx(1)
    assert weights[1, 1, 1] == pytest.approx(0.5 * 0.7 * 0.8)
    assert weights[-1, -1, 1] == pytest.approx(0.5 * 0.3 * 0.8)
    assert weights[-1, 1, -1] == pytest.approx(0.5 * 0.7 * 0.2)


@pytest.mark.parametrize(
    ("noise", "step", "expected", "tolerance"),
    [
        ((0.25, (0.1, 0.2)), 10, (0.113, 0.163), 0.01),  # the initial filters still count
        ((0.25, (0.1, 0.2)), 100, (0.610, 0.954), 0.005),
        ((0.25, (0.1, 0.2)), 500, (1.004, 1.625), 0.005),
        ((0.1, (0.2, 0.25)), 10, (0.184, 0.125), 0.01),
    ],
)
def test_erm_learns_both_features_and_the_better_correlated_one_faster(noise, step, expected, tolerance):
    run = TwoFeatureToy(*noise).train("erm", step)
    np.testing.assert_allclose((run.invariant[-1], run.spurious[-1]), expected, atol=tolerance)


def test_erm_answers_by_the_spurious_feature():
    toy = TwoFeatureToy()
    weights = toy.train("erm", 200).weights
    assert [toy.accuracy(weights, noise) for noise in (0.1, 0.2, 0.9)] == pytest.approx([0.9, 0.8, 0.1])


def test_a_second_round_of_feat_ignores_the_spurious_feature_and_a_third_is_rejected():
    toy = TwoFeatureToy()
    run = toy.train("feat", 150, n_rounds=3)
    first, second = run.round_ends
    erm = toy.train("erm", 150)
    np.testing.assert_array_equal(run.invariant[: first + 1], erm.invariant)
    assert run.spurious[first] > 1.3 * run.invariant[first]
    assert run.invariant[second] > run.invariant[first]
    assert abs(run.spurious[second]) < 0.05
    assert [toy.accuracy(run.weights, noise) for noise in (0.1, 0.9)] == pytest.approx([0.75, 0.75])
    assert run.stop_reason == "set accuracy below the margin"
    assert len(run.invariant) == second + 1
    np.testing.assert_array_equal(run.weights, toy.train("feat", 150, n_rounds=2).weights)


def test_where_the_invariant_feature_is_easier_the_second_round_turns_to_the_spurious_one():
    run = TwoFeatureToy(0.1, (0.2, 0.25)).train("feat", 150)
    first, second = run.round_ends
    assert run.invariant[first] > 1.3 * run.spurious[first]
    assert abs(run.invariant[second]) < 0.1 < run.spurious[first] < run.spurious[second]


def test_more_weight_on_retained_rows_keeps_more_of_the_first_feature():
    found = [TwoFeatureToy().train("feat", 150, retain_weight=weight).spurious[-1] for weight in (0.01, 1.0, 10.0)]
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.1


def test_each_parameter_changes_the_run():
    base = TwoFeatureToy().train("erm", 20).weights
    changed = [
        TwoFeatureToy(label_noise=0.2),
        TwoFeatureToy(spurious_noise=(0.1, 0.3)),
        TwoFeatureToy(init_scale=0.1),
        TwoFeatureToy(random_state=1),
    ]
    for toy in changed:
        assert not np.allclose(toy.train("erm", 20).weights, base)
    assert TwoFeatureToy(n_filters=4).train("erm", 20).weights.shape == (8, 2)
    penalised = TwoFeatureToy().train("irm", 20, pretrain_steps=20).weights
    for options in ({"pretrain_steps": 10}, {"penalty_weight": 10.0}, {"learning_rate": 0.01}):
        other = TwoFeatureToy().train("irm", 20, **{"pretrain_steps": 20, **options})
        assert not np.allclose(other.weights, penalised)
    assert not np.allclose(TwoFeatureToy().train("vrex", 20, pretrain_steps=20).weights, penalised)


def test_results_as_frame_and_dictionary():
    run = TwoFeatureToy().train("irm", 4, pretrain_steps=3)
    frame = run.frame()
    assert list(frame.columns) == ["invariant", "spurious", "loss", "penalty"]
    assert len(frame) == 8
    assert frame.index.name == "step"
    plain = run.to_dict()
    assert plain["pretrain_steps"] == 3
    assert plain["invariant"] == run.invariant.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_noise": 0.0}, "label_noise"),
        ({"spurious_noise": ()}, "spurious_noise"),
        ({"spurious_noise": (0.1, 1.0)}, "spurious_noise"),
        ({"spurious_noise": ("much",)}, "spurious_noise"),
        ({"n_filters": 0}, "n_filters"),
        ({"init_scale": -1.0}, "init_scale"),
        ({"random_state": -1}, "random_state"),
    ],
)
def test_bad_problems_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        TwoFeatureToy(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "groupdro"}, "objective"),
        ({"steps": 0}, "steps"),
        ({"pretrain_steps": -1}, "pretrain_steps"),
        ({"n_rounds": 1.5}, "n_rounds"),
        ({"penalty_weight": -1.0}, "penalty_weight"),
        ({"penalty_weight": (1.0, 2.0)}, "irmx"),
        ({"objective": "irmx", "penalty_weight": (1.0, 2.0, 3.0)}, "pair"),
        ({"objective": "irm", "penalty_weight": "much"}, "penalty_weight"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"retain_weight": float("nan")}, "retain_weight"),
    ],
)
def test_bad_training_is_refused(options, message):
    with pytest.raises(DataError, match=message):
        TwoFeatureToy().train(**options)


@pytest.mark.parametrize(
    ("weights", "noise", "message"),
    [(np.zeros((3, 2)), 0.9, r"weights of shape \(3, 2\)"), (np.zeros((20, 2)), 1.9, "probability")],
    ids=["shape", "noise"],
)
def test_accuracies_of_no_network_and_in_no_environment_are_refused(weights, noise, message):
    with pytest.raises(DataError, match=message):
        TwoFeatureToy().accuracy(weights, noise)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_whatever_the_mode_of_the_caller(mode):
    with mode():
        inside = TwoFeatureToy().train("irm", 3)
    np.testing.assert_array_equal(inside.weights, TwoFeatureToy().train("irm", 3).weights)


def test_one_environment_may_be_a_number_and_a_pair_of_weights_a_list():
    toy = TwoFeatureToy(spurious_noise=0.1)
    assert toy == TwoFeatureToy(spurious_noise=(0.1,))
    pair = [TwoFeatureToy().train("irmx", 3, penalty_weight=kind((10.0, 2.0))).weights for kind in (list, tuple)]
    np.testing.assert_array_equal(*pair)
