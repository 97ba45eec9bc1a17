"""Gaussian rows with a spurious column: exact counts, and closed forms against Monte Carlo and other quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from featlearn.datasets import SpuriousGaussian, make_spurious_tabular
from featlearn.exceptions import DataError

EXACT = SpuriousGaussian()


def draws(exact, y, a, n, seed=0):
    """Rows of one group, by the definition."""
    X = np.random.default_rng(seed).standard_normal((n, exact.n_features))
    X[:, : exact.n_core] += y * exact.core_margin / math.sqrt(exact.n_core)
    X[:, exact.n_core] += a * exact.spurious_margin
    return X


# Bayes aligned, minority, average; logistic v/u, aligned, minority; LDA v/u, minority.
@pytest.mark.parametrize(
    ("rho", "bayes", "logistic", "lda"),
    [
        (0.95, (0.9921, 0.7045, 0.9777), (0.3590, 0.9880, 0.7147), (0.6857, 0.4299)),
        (0.90, (0.9860, 0.7823, 0.9657), (0.2607, 0.9813, 0.7941), (0.4103, 0.6696)),
        (0.80, (0.9743, 0.8521, 0.9498), (0.1613, 0.9699, 0.8605), (0.2000, 0.8366)),
        (0.50, (0.9332, 0.9332, 0.9332), (0.0000, 0.9332, 0.9332), (0.0000, 0.9332)),
    ],
)
def test_accuracies_are_those_of_the_table(rho, bayes, logistic, lda):
    assert list(EXACT.bayes_group_accuracy(rho).values()) == pytest.approx(bayes, abs=6e-5)
    rule = EXACT.population_logistic(rho)
    assert (rule.ratio, rule.aligned, rule.minority) == pytest.approx(logistic, abs=6e-5)
    rule = EXACT.population_lda(rho)
    assert (rule.ratio, rule.minority) == pytest.approx(lda, abs=6e-5)


def test_linear_group_accuracy_is_that_of_many_rows():
    exact = SpuriousGaussian(1.2, 0.8, n_core=3, n_noise=2)
    w, b, n = np.array([0.7, 0.2, -0.1, 0.9, 0.3, -0.4]), 0.35, 200_000
    expected = exact.linear_group_accuracy(w, b)
    for group, (y, a) in enumerate([(-1, -1), (-1, 1), (1, -1), (1, 1)]):
        right = np.mean(y * (draws(exact, y, a, n, seed=group) @ w + b) > 0)
        assert abs(right - expected[group]) < 3 * math.sqrt(expected[group] * (1 - expected[group]) / n)


def test_a_rule_without_weights_predicts_one_class():
    w = np.zeros(EXACT.n_features)
    assert EXACT.linear_group_accuracy(w, 1.0).tolist() == [0, 0, 1, 1]
    assert EXACT.linear_group_accuracy(w, 0.0).tolist() == [1, 1, 0, 0]


def plane(step):
    """Points (core, spurious) of a square grid, as two arrays."""
    line = np.arange(-8, 8, step)
    return np.meshgrid(line, line, indexing="ij")


def density(y, t, x, rho, core, spurious):
    """Of core direction t and spurious column x, in class y."""
    return norm.pdf(t, y * core) * (rho * norm.pdf(x, y * spurious) + (1 - rho) * norm.pdf(x, -y * spurious))


def test_bayes_rule_is_the_likelihood_ratio_of_the_two_classes():
    """The mass of both groups of y = +1 where its density is the larger one, as a sum over a grid."""
    rho, core, spurious, step = 0.85, 0.8, 1.1, 0.02
    t, x = plane(step)
    predicted = density(1, t, x, rho, core, spurious) > density(-1, t, x, rho, core, spurious)
    bayes = SpuriousGaussian(core, spurious, 1, 0).bayes_group_accuracy(rho)
    for name, sign in (("aligned", 1), ("minority", -1)):
        mass = (norm.pdf(t, core) * norm.pdf(x, sign * spurious))[predicted].sum() * step**2
        assert bayes[name] == pytest.approx(mass, abs=1e-3)


@pytest.mark.parametrize(
    ("core", "spurious", "rho"), [(1.5, 2.5, 0.95), (0.1, 1.0, 0.95), (0.01, 3.0, 0.9), (1.5, 20.0, 0.999)]
)
def test_bayes_accuracies_are_those_of_adaptive_quadrature_also_with_a_weak_core(core, spurious, rho):
    def right(x, center):
        towards, against = (rho * math.exp(s * spurious * x) + (1 - rho) * math.exp(-s * spurious * x) for s in (1, -1))
        return norm.pdf(x, center) * norm.cdf(core + math.log(towards / against) / (2 * core))

    bayes = SpuriousGaussian(core, spurious).bayes_group_accuracy(rho)
    for name, center in (("aligned", spurious), ("minority", -spurious)):
        exact = sum(
            quad(right, low, high, args=(center,), points=[0, 0.5, -0.5], limit=500, epsabs=1e-12)[0]
            for low, high in ((-9 + center, center), (center, 9 + center))
        )
        assert bayes[name] == pytest.approx(exact, abs=1e-9)


def test_the_size_of_weights_does_not_matter_even_where_their_squares_are_no_numbers():
    w = np.linspace(-1, 2, EXACT.n_features)
    expected = EXACT.linear_group_accuracy(w, 0.5)
    for size in (1e200, 1e-200):
        np.testing.assert_allclose(EXACT.linear_group_accuracy(size * w, size * 0.5), expected, rtol=1e-12)


def test_population_logistic_is_where_the_gradient_of_the_expected_loss_vanishes():
    rho, core, spurious, step = 0.8, 1.0, 1.5, 0.05
    rule = SpuriousGaussian(core, spurious, 2, 1).population_logistic(rho)
    t, x = plane(step)
    pull = density(1, t, x, rho, core, spurious) * expit(-rule.u * t - rule.v * x) * step**2
    assert [(pull * t).sum(), (pull * x).sum()] == pytest.approx([0, 0], abs=1e-8)
    assert pull.sum() > 0.05


def test_logistic_regression_on_many_rows_finds_the_population_rule():
    train = make_spurious_tabular(n_train=60_000, n_noise=0, random_state=3).train
    fit = LogisticRegression(C=np.inf, tol=1e-8).fit(train.X.astype(float), train.y)
    exact = SpuriousGaussian(n_noise=0)
    found = fit.coef_[0, 5] / (fit.coef_[0, :5].sum() / math.sqrt(5))
    assert found == pytest.approx(exact.population_logistic(0.95).ratio, abs=0.02)
    aligned = exact.linear_group_accuracy(fit.coef_, fit.intercept_)[[0, 3]].mean()
    assert aligned == pytest.approx(exact.population_logistic(0.95).aligned, abs=0.003)


@given(rho=st.floats(0.0, 1.0), core=st.floats(0.3, 3.0), spurious=st.floats(0.0, 3.0))
@settings(max_examples=25)
def test_no_linear_rule_beats_bayes_and_bayes_is_symmetric(rho, core, spurious):
    exact = SpuriousGaussian(core, spurious, 2, 1)
    bayes, mirrored = exact.bayes_group_accuracy(rho), exact.bayes_group_accuracy(1 - rho)
    assert bayes["average"] >= norm.cdf(core) - 1e-6
    assert bayes["aligned"] == pytest.approx(mirrored["minority"], abs=1e-9)
    for rule in (exact.population_logistic(rho), exact.population_lda(rho)):
        assert rho * rule.aligned + (1 - rho) * rule.minority <= bayes["average"] + 1e-6


def test_perfect_correlation_is_one_gaussian_a_class():
    assert EXACT.bayes_group_accuracy(1)["aligned"] == pytest.approx(norm.cdf(math.hypot(1.5, 2.5)), abs=1e-12)
    assert EXACT.population_logistic(1).ratio == pytest.approx(2.5 / 1.5, abs=1e-6)


def test_counts_are_exact_and_rows_are_numbered_once():
    data = make_spurious_tabular(n_train=4000, n_validation=1200, n_test=400, validation_correlation=0.95)
    assert data.train.counts.tolist() == [1900, 100, 100, 1900]
    assert data.validation.counts.tolist() == [570, 30, 30, 570]
    assert data.test.counts.tolist() == [100] * 4
    assert sorted(np.concatenate([split.index for split in data.splits.values()])) == list(range(5600))
    assert data.train.X.dtype == np.float32
    np.testing.assert_array_equal(data.train.groups, 2 * data.train.y + data.train.s)
    assert data.ceilings["core_only"] == pytest.approx(0.9332, abs=1e-4)
    assert data.ceilings["bayes_minority"] == pytest.approx(0.7045, abs=1e-4)


def test_rows_have_the_means_and_variances_of_the_definition():
    train = make_spurious_tabular(n_train=20_000, n_noise=2, correlation=0.9, random_state=1).train
    mean = np.r_[np.full(5, 1.5 / math.sqrt(5)), 2.5, 0, 0]
    for y, s in ((0, 0), (0, 1), (1, 0), (1, 1)):
        X = train.X[(train.y == y) & (train.s == s)].astype(float)
        signs = np.r_[np.full(5, 2 * y - 1), 2 * s - 1, 1, 1]
        # Bonferroni over 4 groups and 8 columns: 4 standard errors where one test would have 3.
        assert np.abs(X.mean(axis=0) - signs * mean).max() < 4 / math.sqrt(len(X))
        assert np.abs(X.var(axis=0) - 1).max() < 4 * math.sqrt(2 / len(X))


def test_random_state_decides_the_rows_and_every_argument_changes_them():
    first, again = (make_spurious_tabular(n_train=40, random_state=5) for _ in range(2))
    assert first.train.X.tobytes() == again.train.X.tobytes()
    changes = (
        {"random_state": 6}, {"n_train": 42}, {"n_validation": 80}, {"n_test": 80}, {"n_core": 4}, {"n_noise": 3},
        {"core_margin": 1.0}, {"spurious_margin": 2.0}, {"correlation": 0.5}, {"validation_correlation": 0.9},
        {"test_correlation": 0.9},
    )  # fmt: skip
    for change in changes:
        other = make_spurious_tabular(**{"n_train": 40, "random_state": 5, **change})
        assert any(
            split.X.tobytes() != mine.X.tobytes()
            for split, mine in zip(other.splits.values(), first.splits.values(), strict=True)
        ), change


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_train": 401}, "n_train=401, but expected a multiple of 2"),
        ({"n_test": 0}, "n_test=0, but expected a multiple of 2 of at least 2"),
        ({"correlation": 1.2}, r"correlation=1\.2, but expected a number from 0 to 1"),
        ({"test_correlation": float("nan")}, "test_correlation=nan"),
        ({"core_margin": 0.0}, r"core_margin=0\.0, but expected a finite number above 0"),
        ({"n_core": 0}, "n_core=0, but expected a whole number of at least 1"),
        ({"random_state": -1}, "random_state=-1"),
        ({"random_state": True}, "random_state=True"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        make_spurious_tabular(**options)


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="Got 3 weights and 1 intercepts, but expected 56 and 1"):
        EXACT.linear_group_accuracy([1, 2, 3])
    with pytest.raises(DataError, match="weights that are no numbers, but expected 56"):
        EXACT.linear_group_accuracy("many")
    with pytest.raises(DataError, match="not finite"):
        EXACT.linear_group_accuracy(np.full(56, np.nan))


def test_counts_select_and_repr_tell_the_groups():
    data = make_spurious_tabular(n_train=40, n_validation=4, n_test=8, correlation=0.9)
    counts = data.counts()
    assert counts.columns.tolist() == ["train", "validation", "test"]
    assert counts.loc["y=1, a=0"].tolist() == [2, 1, 2]
    assert counts.index.tolist() == data.group_names
    minority = data.train.select(data.train.y != data.train.s)
    assert minority.counts.tolist() == [0, 2, 2, 0]
    np.testing.assert_array_equal(minority.X, data.train.X[data.train.y != data.train.s])
    assert "train 40, validation 4, test 8" in repr(data)
