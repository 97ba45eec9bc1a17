"""OODHead: what it minimises, where it starts, what it records, and what it refuses."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime
from scipy.special import logsumexp
from scipy.special import softmax as softmax_of
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from torch import nn

from featlearn.datasets.tabular import make_spurious_tabular
from featlearn.exceptions import ConvergenceWarning, DataError, FeatlearnError, FeatlearnWarning
from featlearn.robust import head_starts
from featlearn.robust.environments import EnvironmentRows
from featlearn.robust.last_layer import install_head
from featlearn.robust.ood import OODHead


def data(classes: int = 2, n: int = 300, seed: int = 0):
    """Column 0 is the class, column 1 follows it in most rows of environment 0 and fewer of 1, column 2 is noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    environments = (np.arange(n) % 3 == 0).astype(int)
    follows = rng.random(n) < np.where(environments == 0, 0.95, 0.7)
    spurious = np.where(follows, y, rng.integers(0, classes, n))
    Z = np.stack([1.2 * y, 2.0 * spurious, np.zeros(n)], axis=1) + rng.normal(size=(n, 3))
    return Z - Z.mean(axis=0), y, environments


def losses_and_slopes(head: OODHead, Z, y, environments):
    """Loops over environments and rows: mean loss, and D by a central difference in the factor on the logits."""
    codes = np.searchsorted(head.classes_, y)
    found = []
    for name in head.environments_:
        rows = np.flatnonzero(environments == name)

        def loss(factor, rows=rows):
            total = 0.0
            for i in rows:
                z = factor * (head.coef_ @ Z[i] + head.intercept_)
                z = np.array([0.0, z[0]]) if len(z) == 1 else z
                total += logsumexp(z) - z[codes[i]]
            return total / len(rows)

        found.append((loss(1.0), (loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5))
    return np.array(found).T


# --- the objective ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_erm_is_logistic_regression_in_which_environments_count_alike(classes):
    Z, y, environments = data(classes)
    head = OODHead("erm", alpha=0.01).fit(Z, y, environments)
    weight = 1 / (2 * np.bincount(environments)[environments])
    reference = LogisticRegression(C=1 / 0.02, tol=1e-10, max_iter=1000).fit(Z, y, sample_weight=weight)
    np.testing.assert_allclose(head.coef_, reference.coef_, atol=1e-4)
    np.testing.assert_allclose(head.intercept_, reference.intercept_, atol=1e-4)
    np.testing.assert_allclose(head.predict_proba(Z), reference.predict_proba(Z), atol=1e-4)
    assert [entry["step"] for entry in head.history_] == [0]


@pytest.mark.parametrize(
    ("objective", "weight", "classes"),
    [("irm", 5.0, 2), ("irm", 0.3, 3), ("vrex", 0.5, 2), ("vrex", 20.0, 3), ("irmx", (3.0, 8.0), 2)],
)
def test_history_and_stationarity_of_the_objective_written_as_loops(objective, weight, classes):
    Z, y, environments = data(classes, n=90)
    head = OODHead(objective, weight, alpha=0.01, max_iter=600, learning_rate=0.03, tol=1e-6)
    head.fit(Z, y, environments)
    losses, slopes = losses_and_slopes(head, Z, y, environments)
    last = head.history_[-1]
    np.testing.assert_allclose(last["loss"], losses, rtol=1e-9)
    np.testing.assert_allclose(last["penalty"], slopes**2, rtol=1e-5, atol=1e-11)

    irm, vrex = weight if isinstance(weight, tuple) else (weight, weight)
    irm, vrex = irm * (objective != "vrex"), vrex * (objective != "irm")

    def J(flat):
        coef, intercept = flat[: head.coef_.size].reshape(head.coef_.shape), flat[head.coef_.size :]
        z = Z @ coef.T + intercept
        z = np.hstack([np.zeros((len(z), 1)), z]) if z.shape[1] == 1 else z
        one_hot = np.eye(classes)[y]
        point = logsumexp(z, axis=1) - (one_hot * z).sum(1)
        slope = ((softmax_of(z, axis=1) - one_hot) * z).sum(1)
        L, D = (np.array([v[environments == e].mean() for e in (0, 1)]) for v in (point, slope))
        return (L.mean() + irm * (D**2).mean() + vrex * L.var() + 0.01 * (coef**2).sum()) / max(1, irm, vrex)

    flat = np.concatenate([head.coef_.ravel(), head.intercept_])
    assert last["objective"] == pytest.approx(J(flat), rel=1e-9)
    assert np.abs(approx_fprime(flat, J, 1e-6)).max() < 5e-5


def test_shares_of_group_dro_follow_the_losses_of_the_step():
    Z, y, environments = data()
    head = OODHead("groupdro", max_iter=20, group_step=0.7).fit(Z, y, environments)
    shares = np.array([0.5, 0.5])
    for entry in head.history_:
        np.testing.assert_allclose(entry["share"], shares, rtol=1e-12)
        assert entry["objective"] > shares @ entry["loss"]  # by the ridge
        shares = shares * np.exp(0.7 * np.array(entry["loss"]))
        shares /= shares.sum()
    assert shares[1] > 0.6  # the environment in which the spurious column helps less


def test_sample_weights_count_within_environments_as_repetitions_do():
    Z, y, environments = data()
    rng = np.random.default_rng(1)
    times = rng.integers(0, 3, len(y))
    options = {"objective": "vrex", "penalty_weight": 2.0, "max_iter": 30}
    weighted = OODHead(**options).fit(Z, y, environments, sample_weight=times)
    repeated = np.repeat(np.arange(len(y)), times)
    given_often = OODHead(**options).fit(Z[repeated], y[repeated], environments[repeated])
    np.testing.assert_allclose(weighted.coef_, given_often.coef_, atol=1e-7)


# --- the steps --------------------------------------------------------------------------------------------------------


def test_annealing_has_weight_one_at_first_and_then_a_fresh_adam():
    Z, y, environments = data()
    options = {"objective": "irm", "learning_rate": 0.003, "init": "given"}
    start = {"coef_init": [[0.3, 0.2, 0.1]], "intercept_init": [0.1]}
    warm = OODHead(**options, penalty_weight=1.0, max_iter=40).fit(Z, y, environments, **start)
    both = OODHead(**options, penalty_weight=50.0, max_iter=41, anneal_steps=40).fit(Z, y, environments, **start)
    for first, second in zip(warm.history_[:40], both.history_[:40], strict=True):
        assert first == second
    # The first step of Adam has the length of the learning rate in every coordinate.
    moved = np.concatenate([both.coef_ - warm.coef_, [both.intercept_ - warm.intercept_]], axis=1)
    np.testing.assert_allclose(np.abs(moved), 0.003, rtol=1e-4)
    weak = OODHead(**options, penalty_weight=0.2, max_iter=41, anneal_steps=40).fit(Z, y, environments, **start)
    assert weak.history_[0]["objective"] < both.history_[0]["objective"]


def test_a_given_head_is_where_the_steps_start():
    Z, y, environments = data(3)
    erm = OODHead("erm").fit(Z, y, environments)
    coef, intercept = 0.7 * erm.coef_, erm.intercept_ + 0.1
    head = OODHead("irm", 1.0, init="given", learning_rate=1e-12, max_iter=1)
    for kind in (np.asarray, torch.as_tensor):
        head.fit(Z, y, environments, coef_init=kind(coef), intercept_init=kind(intercept))
        np.testing.assert_allclose(head.coef_, coef, atol=1e-9)
        np.testing.assert_allclose(head.intercept_, intercept, atol=1e-9)


def test_tol_stops_where_the_gradient_is_small():
    Z, y, environments = data()
    head = OODHead("vrex", 5.0, tol=1e-4).fit(Z, y, environments)
    assert 0 < head.n_iter_ < 2000
    assert head.n_iter_ == head.history_[-1]["step"]
    assert OODHead("vrex", 5.0, max_iter=30).fit(Z, y, environments).n_iter_ == 30


def test_tol_does_not_stop_group_dro_where_it_starts():
    """At the minimum for equal shares the gradient is zero, but the shares are to move."""
    Z, y, environments = data()
    options = {"group_step": 1.0, "max_iter": 800}
    stopped, whole = (OODHead("groupdro", tol=tol, **options).fit(Z, y, environments) for tol in (1e-4, 0.0))
    assert 10 < stopped.n_iter_ < 800
    np.testing.assert_allclose(stopped.coef_, whole.coef_, atol=0.02)
    last = stopped.history_[-1]
    assert max(last["loss"]) - np.dot(last["share"], last["loss"]) < 1e-4
    assert np.abs(stopped.coef_ - OODHead("erm").fit(Z, y, environments).coef_).max() > 0.1


@pytest.mark.filterwarnings("ignore:The head is degenerate:featlearn.exceptions.FeatlearnWarning")
def test_random_starts_are_small_and_seeded():
    Z, y, environments = data()
    options = {"init": "random", "max_iter": 1, "learning_rate": 1e-12, "penalty_weight": 1.0}
    draws = [OODHead(**options, random_state=seed).fit(Z, y, environments).coef_ for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 1e-3
    wide = np.random.default_rng(0).normal(size=(20, 2000))
    coef = OODHead(**options, random_state=0).fit(wide, np.arange(20) % 2, np.arange(20) // 10).coef_
    assert abs(coef.std() - 0.01) < 0.01 * 3 / np.sqrt(2 * coef.size)


def test_a_fit_that_diverges_says_so():
    Z, y, environments = data()
    with pytest.raises(FeatlearnError, match="learning_rate"):
        OODHead("irm", learning_rate=1e300).fit(1e10 * Z, y, environments)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_whatever_the_mode_of_the_caller(mode):
    Z, y, environments = data()
    with mode():
        inside = OODHead("vrex", max_iter=5).fit(torch.as_tensor(Z) + 0, y, environments)
    np.testing.assert_array_equal(inside.coef_, OODHead("vrex", max_iter=5).fit(Z, y, environments).coef_)
    assert torch.is_grad_enabled()


# --- held-out rows ----------------------------------------------------------------------------------------------------


def test_held_out_rows_train_nothing_and_are_measured():
    Z, y, environments = data()
    head = OODHead("irm", 5.0, max_iter=15, validation_fraction=0.25, random_state=3)
    head.fit(Z, y, environments)
    # The same draws, in loops.
    kept = np.ones(len(y), dtype=bool)
    rng = np.random.RandomState(3)
    for e in (0, 1):
        for k in (0, 1):
            cell = np.flatnonzero((environments == e) & (y == k))
            kept[rng.permutation(cell)[: round(0.25 * len(cell))]] = False
    plain = OODHead("irm", 5.0, max_iter=15).fit(Z[kept], y[kept], environments[kept])
    np.testing.assert_array_equal(head.coef_, plain.coef_)
    losses, slopes = losses_and_slopes(head, Z[~kept], y[~kept], environments[~kept])
    np.testing.assert_allclose(head.history_[-1]["held_out_loss"], losses, rtol=1e-9)
    np.testing.assert_allclose(head.history_[-1]["held_out_penalty"], slopes**2, rtol=1e-5, atol=1e-11)
    assert set(plain.history_[0]) == {"step", "objective", "loss", "penalty", "share"}


def test_penalties_of_held_out_rows_stay_where_noise_met_those_of_training():
    made = [make_spurious_tabular(n_train=300, correlation=rho, random_state=i) for i, rho in enumerate((0.95, 0.8))]
    Z, y = (np.concatenate([getattr(part.train, name) for part in made]) for name in ("X", "y"))
    head = OODHead("irm", max_iter=300, validation_fraction=0.3, random_state=0).fit(Z, y, np.repeat([0, 1], 300))
    assert max(head.history_[-1]["penalty"]) < 1e-5
    assert max(head.history_[-1]["held_out_penalty"]) > 1e-3


def test_frame_has_a_row_for_every_step_environment_and_part():
    Z, y, environments = data()
    names = np.array(["north", "south"])[environments]
    head = OODHead("irm", 5.0, max_iter=4, validation_fraction=0.2, random_state=0).fit(Z, y, names)
    frame = head.frame()
    assert len(frame) == 5 * 2 * 2
    chosen = frame[(frame.step == 3) & (frame.environment == "south") & (frame.part == "held out")]
    assert chosen.loss.item() == head.history_[3]["held_out_loss"][1]
    assert chosen.penalty.item() == head.history_[3]["held_out_penalty"][1]


# --- degenerate heads -------------------------------------------------------------------------------------------------


def two_environments(n: int, seed: int):
    parts = [
        make_spurious_tabular(n_train=n, n_noise=0, correlation=rho, random_state=100 * seed + i)
        for i, rho in enumerate((0.95, 0.8))
    ]
    Z, y = (np.concatenate([getattr(part.train, name) for part in parts]) for name in ("X", "y"))
    return Z.astype(np.float64), y, np.repeat([0, 1], n), parts[0].exact


@pytest.mark.parametrize("seed", [0, 1])
def test_the_flag_tells_a_collapsed_head_from_one_that_starts_at_erm(seed):
    Z, y, environments, exact = two_environments(2000, seed)
    with pytest.warns(FeatlearnWarning, match=r"start from ERM"):
        collapsed = OODHead(init="random", max_iter=500, random_state=seed).fit(Z, y, environments)
    assert collapsed.degenerate_ is True
    assert np.mean(collapsed.history_[-1]["loss"]) > 0.68
    found = OODHead(max_iter=500).fit(Z, y, environments)
    assert found.degenerate_ is False
    assert np.mean(found.history_[-1]["loss"]) < 0.2
    assert np.min(exact.linear_group_accuracy(found.coef_[0], found.intercept_[0])) > 0.84


def test_the_best_constant_knows_the_frequencies_of_the_classes():
    """With one label in ten, a constant has loss 0.325: that of log 2 would call this head fine."""
    rng = np.random.default_rng(0)
    y = (np.arange(400) % 10 == 0).astype(int)
    with pytest.warns(FeatlearnWarning, match=r"best constant 0\.3251"):
        head = OODHead("erm").fit(rng.normal(size=(400, 2)), y)
    assert head.degenerate_
    assert np.mean(head.history_[-1]["loss"]) < 0.9 * np.log(2)


@pytest.mark.parametrize("objective", ["erm", "irm", "groupdro"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_head_that_makes_the_most_of_weak_features_is_not_degenerate(objective, classes):
    """A loss above 0.9 of the constant's is all that there is, and predictions are right more often than guesses."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, 4000)
    Z = np.eye(classes)[y] * 0.4 + rng.normal(size=(4000, classes))
    head = OODHead(objective, penalty_weight=1.0, max_iter=50).fit(Z, y, np.arange(4000) % 2)
    assert np.mean(head.history_[-1]["loss"]) > 0.9 * np.log(classes)
    assert head.score(Z, y) > 1 / classes + 0.07
    assert head.degenerate_ is False


def test_the_same_features_with_a_collapsed_head_are_degenerate():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 4000)
    Z = np.eye(2)[y] * 0.6 + rng.normal(size=(4000, 2))
    with pytest.warns(FeatlearnWarning, match="logits vary by 0.0"):
        head = OODHead("irm", init="random", max_iter=100, random_state=0).fit(Z, y, np.arange(4000) % 2)
    assert head.degenerate_


def test_how_much_logits_vary_counts_rows_by_their_weight_and_environments_alike():
    Z, y, environments = data()
    times = np.random.default_rng(1).integers(1, 4, len(y))
    coef, intercept = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    rows = EnvironmentRows.of(Z, y, environments, 2, times.astype(float), split=False)
    logits = Z @ coef[0].numpy()
    shares = [np.repeat(logits[environments == e], times[environments == e]) for e in (0, 1)]
    mean = np.mean([part.mean() for part in shares])
    expected = np.mean([((part - mean) ** 2).mean() for part in shares]) ** 0.5
    assert rows.spread(coef, intercept) == pytest.approx(expected, rel=1e-12)
    several = torch.cat([torch.zeros_like(coef), coef])  # two logits, of which the difference is the one above
    assert rows.spread(several, torch.zeros(2, dtype=torch.float64)) == pytest.approx(expected / 2, rel=1e-12)


# --- one environment --------------------------------------------------------------------------------------------------


def test_one_environment_is_told_and_variance_and_group_dro_are_erm():
    Z, y, _ = data()
    erm = OODHead("erm").fit(Z, y)
    assert erm.environments_.tolist() == ["all"]
    for objective, words in (("vrex", "variance"), ("groupdro", "is ERM"), ("irm", "compares nothing")):
        with pytest.warns(FeatlearnWarning, match=words):
            head = OODHead(objective, 10.0, max_iter=100).fit(Z, y)
        close = np.abs(head.coef_ - erm.coef_).max() < 1e-3
        assert close == (objective != "irm")


# --- invariances and kinds --------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_order_of_rows_and_names_change_nothing(seed):
    Z, y, environments = data()
    head = OODHead("irmx", 3.0, max_iter=20).fit(Z, y, environments)
    order = np.random.default_rng(seed).permutation(len(y))
    named = np.array(["b", "a"])[environments]  # the other way round
    words = np.array(["no", "yes"])[y]
    other = OODHead("irmx", 3.0, max_iter=20).fit(Z[order], words[order], named[order])
    np.testing.assert_allclose(other.coef_, head.coef_, atol=1e-6)
    assert other.classes_.tolist() == ["no", "yes"]
    assert other.environments_.tolist() == ["a", "b"]
    np.testing.assert_allclose(other.history_[5]["loss"][::-1], head.history_[5]["loss"], atol=1e-6)
    np.testing.assert_array_equal(other.predict(Z), np.array(["no", "yes"])[head.predict(Z)])


def test_kinds_and_precisions_of_features():
    Z, y, environments = data()
    options = {"objective": "vrex", "penalty_weight": 3.0, "max_iter": 20}
    head = OODHead(**options).fit(Z, y, environments)
    table = OODHead(**options).fit(pd.DataFrame(Z, columns=["a", "b", "c"]), y, environments)
    assert table.feature_names_in_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(table.coef_, head.coef_)
    tensors = OODHead(**options).fit(*(torch.as_tensor(part) for part in (Z, y, environments)))
    np.testing.assert_array_equal(tensors.coef_, head.coef_)
    for method in ("predict", "predict_proba", "decision_function"):
        answer = getattr(head, method)(torch.as_tensor(Z))
        assert isinstance(answer, torch.Tensor)
        np.testing.assert_array_equal(answer.numpy(), getattr(head, method)(Z))
        if method != "predict":
            assert getattr(head, method)(torch.as_tensor(Z, dtype=torch.float32)).dtype == torch.float32
    single = OODHead(**options).fit(Z.astype(np.float32), y, environments)
    assert single.coef_.dtype == np.float32
    np.testing.assert_allclose(single.coef_, head.coef_, atol=1e-4)
    np.testing.assert_array_equal(
        OODHead(**options).fit(torch.as_tensor(Z, dtype=torch.float32), y, environments).coef_, single.coef_
    )


def test_copies_and_pickles_predict_the_same():
    Z, y, environments = data(3)
    head = OODHead("vrex", max_iter=10).fit(Z, y, environments)
    again = clone(head).fit(Z, y, environments)
    np.testing.assert_array_equal(again.coef_, head.coef_)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(head)).predict(Z), head.predict(Z))


CHANGES = {
    "objective": "irmx",
    "penalty_weight": 20.0,
    "alpha": 0.1,
    "init": "random",
    "anneal_steps": 5,
    "max_iter": 12,
    "learning_rate": 0.1,
    "penalty_estimator": "split",
    "validation_fraction": 0.3,
    "tol": 1.0,
}


@pytest.mark.filterwarnings("ignore:The head is degenerate:featlearn.exceptions.FeatlearnWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_every_parameter_changes_the_result(name):
    Z, y, environments = data()
    options = {"objective": "irm", "penalty_weight": 5.0, "max_iter": 10, "random_state": 0}
    before = OODHead(**options).fit(Z, y, environments)
    after = OODHead(**(options | {name: CHANGES[name]})).fit(Z, y, environments)
    assert np.abs(before.coef_ - after.coef_).max() > 1e-6


def test_the_step_of_group_dro_and_the_seed_change_the_result():
    Z, y, environments = data()
    slow, fast = (OODHead("groupdro", group_step=s, max_iter=10).fit(Z, y, environments) for s in (0.01, 1.0))
    assert np.abs(slow.coef_ - fast.coef_).max() > 1e-6
    first, second = (
        OODHead("erm", validation_fraction=0.3, random_state=seed).fit(Z, y, environments) for seed in (0, 1)
    )
    assert np.abs(first.coef_ - second.coef_).max() > 1e-6


# --- reports and networks ---------------------------------------------------------------------------------------------


def test_a_report_must_say_how_the_head_was_chosen():
    Z, y, environments = data()
    head = OODHead("vrex", max_iter=10).fit(Z, y, environments)
    s = (Z[:, 1] > 0).astype(int)
    with pytest.raises(TypeError, match="selection"):
        head.report(Z, y, (y, s))
    report = head.report(Z, y, (y, s), selection="oracle (test)", n_boot=20)
    assert report.selection == "oracle (test)"
    assert report.information == "environment labels on 300 training rows"
    assert report.mean_accuracy_test == pytest.approx(head.score(Z, y))
    with pytest.raises(DataError, match="selection"):
        head.report(Z, y, (y, s), selection="the best one")
    with pytest.raises(NotFittedError):
        OODHead().report(Z, y, (y, s), selection="none")
    told = head.report(torch.as_tensor(Z), torch.as_tensor(y), (y, s), selection="none", information="colour", n_boot=9)
    assert told.information == "colour"
    assert OODHead("erm").fit(Z, y).report(Z, y, (y, s), selection="none", n_boot=9).information == "none"


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_works_as_the_last_layer_of_a_network(classes):
    torch.manual_seed(0)
    Z, y, environments = data(classes)
    body = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
    model = nn.Sequential(body, nn.Linear(8, classes))
    x = torch.as_tensor(Z, dtype=torch.float32)
    features = body(x).detach()
    head = OODHead("vrex", max_iter=20).fit(features, y, environments)
    logits = install_head(model, head, layer="1")(x).detach()
    probabilities = head.predict_proba(features)
    torch.testing.assert_close(logits.softmax(1), probabilities, rtol=1e-4, atol=1e-5)
    if classes == 2:
        one = head.as_linear(outputs=1)(features)[:, 0]
        torch.testing.assert_close(one.detach(), head.decision_function(features), rtol=1e-5, atol=1e-5)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "coral"}, "objective='coral'"),
        ({"init": "zero"}, "init='zero'"),
        ({"penalty_estimator": "half"}, "penalty_estimator='half'"),
        ({"penalty_weight": -1.0}, "penalty_weight=-1"),
        ({"penalty_weight": float("nan")}, "penalty_weight=nan"),
        ({"penalty_weight": (1.0, 2.0)}, "irmx"),
        ({"objective": "irmx", "penalty_weight": (1.0, 2.0, 3.0)}, "pair"),
        ({"objective": "irmx", "penalty_weight": (1.0, -2.0)}, "penalty_weight=-2"),
        ({"alpha": -1}, "alpha=-1"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"group_step": "fast"}, "group_step='fast'"),
        ({"max_iter": 0}, "max_iter=0"),
        ({"max_iter": 1.5}, r"max_iter=1\.5"),
        ({"anneal_steps": 2000}, "never be switched on"),
        ({"validation_fraction": 1.0}, "less than 1"),
        ({"validation_fraction": 0.001}, "holds out none"),
        ({"tol": -1e-3}, r"tol=-0\.001"),
        ({"init": "given"}, "without coef_init"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_parameters_are_refused(options, message):
    Z, y, environments = data()
    head = OODHead(**options)
    with pytest.raises(DataError, match=message):
        head.fit(Z, y, environments)
    assert not hasattr(head, "coef_")


def test_group_dro_takes_groups_of_one_class_as_environments():
    """On Gaussian rows with a spurious column; worst groups by the closed form."""
    rows = make_spurious_tabular(n_noise=0, random_state=0)
    Z, y, s = rows.train.X, rows.train.y, rows.train.s
    worst = {}
    for name, environments in {"erm": y * 0, "groupdro": 2 * y + s}.items():
        head = OODHead(name, max_iter=400, group_step=1.0).fit(Z, y, environments)
        worst[name] = rows.exact.linear_group_accuracy(head.coef_, head.intercept_).min()
    assert worst["erm"] < 0.75
    assert worst["groupdro"] > 0.9  # .933 is the best there is


def test_bad_environments_are_refused():
    Z, y, environments = data()
    head = OODHead(max_iter=1)
    with pytest.raises(DataError, match="1 row of positive weight in environment 7"):
        head.fit(Z, y, np.where(np.arange(len(y)) == 5, 7, environments))
    with pytest.raises(DataError, match=r"one class only \(1\) in environment 0"):
        head.fit(Z, y, np.where(y == 1, 0, 1))
    with pytest.raises(DataError, match="environments of 299 rows"):
        head.fit(Z, y, environments[:-1])
    with pytest.raises(DataError, match="missing"):
        head.fit(Z, y, np.where(environments == 0, np.nan, 1.0))
    with pytest.raises(DataError, match="environments of shape"):
        head.fit(Z, y, np.stack([environments, environments], axis=1))
    with pytest.raises(DataError, match="different kinds"):
        head.fit(Z, y, np.array([1, "a", *environments[2:]], dtype=object))
    weights = np.where((environments == 1) & (y == 0), 0.0, 1.0)
    with pytest.raises(DataError, match="in environment 1"):
        head.fit(Z, y, environments, sample_weight=weights)


def test_rows_in_different_orders_are_refused():
    Z, y, environments = data()
    table, mixed = pd.DataFrame(Z), pd.Series(environments).sample(frac=1, random_state=0)
    with pytest.raises(DataError, match="different orders"):
        OODHead("erm").fit(table, y, mixed)
    head = OODHead("erm").fit(table, y, environments)
    with pytest.raises(DataError, match="different orders"):
        head.report(table, pd.Series(y).loc[mixed.index], environments, selection="none")


def test_a_fit_that_fails_leaves_the_one_before_it_whole():
    Z, y, environments = data()
    head = OODHead("erm").fit(Z, y, environments)
    before = dict(vars(head))
    head.set_params(objective="irm", learning_rate=1e300)
    with pytest.raises(FeatlearnError, match="learning_rate"):
        head.fit(1e10 * Z[:, :2], y, environments)
    with pytest.raises(DataError, match="missing"):
        head.fit(Z[:, :2], y, np.where(environments == 0, np.nan, 1.0))
    after = vars(head)
    assert {name for name in before if after[name] is not before[name]} == {"objective", "learning_rate"}
    with pytest.raises(FeatlearnError, match="learning_rate"):
        (new := clone(head)).fit(1e10 * Z, y, environments)
    with pytest.raises(NotFittedError):
        new.predict(Z)


def test_starts_that_do_not_fit_are_refused():
    Z, y, environments = data()
    with pytest.raises(DataError, match='Pass init="given"'):
        OODHead().fit(Z, y, environments, coef_init=np.zeros((1, 3)))
    head = OODHead(init="given")
    for start in (
        {"coef_init": np.zeros((2, 3))},
        {"coef_init": np.zeros((1, 4))},
        {"coef_init": np.zeros((1, 3)), "intercept_init": [0.0, 1.0]},
    ):
        with pytest.raises(DataError, match=r"expected \(1, 3\) and \(1,\)"):
            head.fit(Z, y, environments, **start)
    with pytest.raises(DataError, match="intercept_init with 1 of 1 entries NaN or infinite"):
        head.fit(Z, y, environments, coef_init=np.zeros((1, 3)), intercept_init=[np.inf])
    with pytest.raises(DataError, match="coef_init with 1 of 3 entries NaN"):
        head.fit(Z, y, environments, coef_init=[[np.nan, 0, 0]])


def test_an_erm_start_that_does_not_converge_is_told(monkeypatch):
    monkeypatch.setattr(head_starts, "LBFGS_STEPS", 2)
    with pytest.warns(ConvergenceWarning, match="after 2 steps"):
        OODHead("erm").fit(*data())
