"""The penalties against autograd, finite differences, and loops over environments."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from featlearn.exceptions import DataError
from featlearn.robust.penalties import (
    environment_weights,
    group_shares,
    halves,
    irm_penalties,
    objective,
    penalty_weights,
    point_losses,
    point_slopes,
    vrex_penalty,
)

CODES = torch.tensor([0, 1, 1, 0, 2, 0, 2, 1, 0, 1, 2, 0])


def problem(outputs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    n = len(CODES)
    logits = 2 * torch.randn(n, outputs, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, max(outputs, 2), (n,), generator=rng)
    return (logits[:, 0] if outputs == 1 else logits), labels


def loss(logits, labels):
    """Mean loss, written with two columns for one logit."""
    columns = torch.stack([torch.zeros_like(logits), logits], dim=1) if logits.ndim == 1 else logits
    return functional.cross_entropy(columns, labels)


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_losses_and_slopes_equal_autograd_in_a_factor_on_the_logits(outputs):
    logits, labels = problem(outputs)
    weights = environment_weights(CODES, 3)
    losses, slopes = weights @ point_losses(logits, labels), weights @ point_slopes(logits, labels)
    for e in range(3):
        rows = e == CODES
        factor = torch.ones((), dtype=torch.float64, requires_grad=True)
        value = loss(factor * logits[rows], labels[rows])
        (slope,) = torch.autograd.grad(value, factor)
        torch.testing.assert_close(losses[e], value.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(slopes[e], slope, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("split", [False, True])
def test_gradients_of_the_penalty_equal_double_backward(outputs, split):
    logits, labels = problem(outputs)
    logits.requires_grad_(True)
    weights = environment_weights(CODES, 3)
    penalties = irm_penalties(logits, labels, weights, halves(weights) if split else None)
    (ours,) = torch.autograd.grad(penalties.mean(), logits)

    def slope(rows):
        factor = torch.ones((), dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(loss(factor * logits[rows], labels[rows]), factor, create_graph=True)[0]

    expected = []
    for e in range(3):
        rows = (e == CODES).nonzero()[:, 0]
        expected.append(slope(rows[::2]) * slope(rows[1::2]) if split else slope(rows) ** 2)
    torch.testing.assert_close(penalties, torch.stack(expected), rtol=1e-10, atol=1e-12)
    (double,) = torch.autograd.grad(torch.stack(expected).mean(), logits)
    torch.testing.assert_close(ours, double, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize(("irm", "vrex"), [(0.0, 0.0), (0.5, 0.0), (0.0, 30.0), (1e3, 1e2)])
def test_gradient_of_the_objective_equals_finite_differences(outputs, irm, vrex):
    logits, labels = problem(outputs)
    weights = environment_weights(CODES, 3)

    def value(z):
        losses = weights @ point_losses(z, labels)
        return objective(losses, irm_penalties(z, labels, weights), irm=irm, vrex=vrex, ridge=0.1 * z.square().sum())

    assert torch.autograd.gradcheck(value, logits.requires_grad_(True), eps=1e-6, atol=1e-6, rtol=1e-6)


def test_the_variance_over_environments_is_the_biased_one():
    losses = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(vrex_penalty(losses), losses.var(correction=0))
    two = losses[:2]
    torch.testing.assert_close(vrex_penalty(two), (two[0] - two[1]) ** 2 / 4)
    assert vrex_penalty(losses[:1]) == 0


def test_the_whole_objective_is_divided_by_the_largest_weight_above_one():
    losses, penalties = torch.tensor([0.2, 0.6]), torch.tensor([0.01, 0.03])
    variance = 0.04
    assert objective(losses, penalties).item() == pytest.approx(0.4)
    assert objective(losses, penalties, irm=0.5, ridge=0.1).item() == pytest.approx(0.4 + 0.5 * 0.02 + 0.1)
    assert objective(losses, penalties, irm=4.0, ridge=0.1).item() == pytest.approx((0.4 + 4 * 0.02 + 0.1) / 4)
    both = (0.4 + 4 * 0.02 + 10 * variance + 0.1) / 10
    assert objective(losses, penalties, irm=4.0, vrex=10.0, ridge=0.1).item() == pytest.approx(both)
    shares = torch.tensor([0.25, 0.75])
    assert objective(losses, penalties, shares=shares).item() == pytest.approx(0.25 * 0.2 + 0.75 * 0.6)


def test_weights_of_environments_weigh_rows_and_leave_out_those_of_weight_zero():
    logits, labels = problem(1)
    sample_weight = torch.arange(len(CODES), dtype=torch.float64)
    weights = environment_weights(CODES, 3, sample_weight)
    losses = weights @ point_losses(logits, labels)
    for e in range(3):
        repeated = torch.repeat_interleave((e == CODES).nonzero()[:, 0], sample_weight[e == CODES].long())
        torch.testing.assert_close(losses[e], loss(logits[repeated], labels[repeated]), rtol=1e-12, atol=1e-12)
    even, odd = halves(weights)
    assert not even[0, 0]  # weight 0: not counted
    assert not odd[0, 0]
    assert ((even > 0) ^ (odd > 0)).equal(weights > 0)
    torch.testing.assert_close(even.sum(1) + odd.sum(1), torch.full((3,), 2.0, dtype=torch.float64))


def test_an_environment_of_one_row_cannot_be_halved():
    with pytest.raises(DataError, match="one row"):
        halves(environment_weights(torch.tensor([0, 1, 0]), 2))


def test_the_split_penalty_is_unbiased_where_the_full_one_is_not():
    """Population slope D of logits that are correct on 3 of 4 rows; batches of 8 rows, 40,000 of them."""
    rng = torch.Generator().manual_seed(0)
    batches, n = 40_000, 8
    labels = (torch.rand(batches * n, generator=rng) < 0.75).long()
    logits = torch.full((batches * n,), 1.5, dtype=torch.float64)
    slope = 0.75 * (torch.sigmoid(logits[0]) - 1) * 1.5 + 0.25 * torch.sigmoid(logits[0]) * 1.5
    slopes = point_slopes(logits, labels).reshape(batches, n)
    full, split = slopes.mean(1) ** 2, slopes[:, ::2].mean(1) * slopes[:, 1::2].mean(1)
    for estimate, expected in ((split, slope**2), (full, slope**2 + slopes.var() / n)):
        error = estimate.std() / batches**0.5
        assert abs(estimate.mean() - expected) < 3 * error
    assert abs(full.mean() - slope**2) > 30 * full.std() / batches**0.5
    assert split.min() < 0
    one = environment_weights(torch.zeros(n, dtype=torch.long), 1)
    first = irm_penalties(logits[:n], labels[:n], one, halves(one))
    torch.testing.assert_close(first[0], split[0])


@given(
    losses=st.lists(st.floats(0, 50), min_size=1, max_size=6),
    step=st.floats(0, 10),
)
@settings(max_examples=50, deadline=None)
def test_shares_stay_a_distribution_that_favours_the_larger_loss(losses, step):
    values = torch.tensor(losses, dtype=torch.float64)
    uniform = torch.full_like(values, 1 / len(values))
    shares = group_shares(uniform, values, step)
    torch.testing.assert_close(shares.sum(), torch.ones((), dtype=torch.float64))
    tilted = (step * (values - values.max())).exp()
    torch.testing.assert_close(shares, tilted / tilted.sum())
    assert shares.argmax() == values.argmax() or torch.isclose(shares.max(), shares[values.argmax()])


@given(shift=st.floats(-5, 5), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_adding_a_constant_to_all_logits_of_a_row_changes_nothing(shift, seed):
    logits, labels = problem(3, seed)
    torch.testing.assert_close(point_slopes(logits + shift, labels), point_slopes(logits, labels), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(point_losses(logits + shift, labels), point_losses(logits, labels), rtol=1e-9, atol=1e-9)


def test_weights_of_penalties_follow_the_objective():
    names = ("erm", "groupdro", "irm", "vrex", "irmx")
    assert [penalty_weights(name, 7.0) for name in names] == [(0, 0), (0, 0), (7, 0), (0, 7), (7, 7)]
    assert penalty_weights("irmx", (3.0, 5.0)) == penalty_weights("irmx", [3, 5]) == (3.0, 5.0)
    for name, weight in (("irm", (3.0, 5.0)), ("irmx", (3.0,)), ("vrex", "much"), ("irmx", (1.0, -1.0)), ("erm", -1.0)):
        with pytest.raises(DataError, match="penalty_weight"):
            penalty_weights(name, weight)


@pytest.mark.parametrize(
    ("penalty", "ours"),
    [
        (lambda a, b, slopes: (slopes**2).mean(), {"irm": 0.1 / 2}),
        (lambda a, b, slopes: (a - b) ** 2, {"vrex": 2 * 0.1}),
        (lambda a, b, slopes: torch.stack([a, b]).var(), {"vrex": 0.1}),
    ],
    ids=["mean of squared slopes", "squared difference", "unbiased variance"],
)
def test_codes_that_add_the_losses_of_two_environments_are_twice_ours_with_converted_weights(penalty, ours):
    losses, slopes = torch.tensor([0.3, 0.7]), torch.tensor([0.2, -0.1])
    theirs = losses.sum() + 0.1 * penalty(*losses, slopes) + 0.01 * 5.0
    torch.testing.assert_close(2 * objective(losses, slopes**2, ridge=0.01 / 2 * 5.0, **ours), theirs)
