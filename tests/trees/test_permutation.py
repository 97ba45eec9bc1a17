"""The permutation report: what is refitted, the p value, and the answer for a rule and for noise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.tree import DecisionTreeRegressor

from featlearn.exceptions import DataError
from featlearn.trees.permutation import permutation_report

RNG = np.random.default_rng(0)
X = RNG.standard_normal((80, 3))
RULE = (X[:, 0] > 0).astype(float)
NOISE = RNG.permutation(RULE)


class Stump(BaseEstimator):
    """A tree of scikit-learn's with the two attributes that are read; remembers every fit."""

    fits = ()
    interrupted_ = False

    def fit(self, X, y, sample_weight=None):
        Stump.fits += ((np.array(y), None if sample_weight is None else np.array(sample_weight)),)
        self.tree_ = DecisionTreeRegressor(max_depth=1, random_state=0).fit(X, y, sample_weight).tree_
        leaves = self.tree_.children_left < 0
        share = self.tree_.weighted_n_node_samples[leaves] / self.tree_.weighted_n_node_samples[0]
        self.objective_ = float(share @ self.tree_.impurity[leaves])
        return self


def test_a_rule_is_told_from_noise():
    rule, noise = (permutation_report(Stump(), X, y, n_permutations=9) for y in (RULE, NOISE))
    assert rule.explained == pytest.approx(1)
    assert rule.permuted.max() < 0.5
    assert rule.p_value == pytest.approx(0.1)
    assert noise.p_value > 0.1
    expected = (1 + sum(value >= noise.explained for value in noise.permuted)) / 10
    assert noise.p_value == pytest.approx(expected)


def test_targets_and_weights_are_permuted_together():
    Stump.fits = ()
    weights = RULE + 1 + np.arange(80) / 100
    permutation_report(Stump(), X, RULE, sample_weight=weights, n_permutations=3)
    pairs = [sorted(zip(y, w, strict=True)) for y, w in Stump.fits]
    assert len(pairs) == 4
    assert all(each == pairs[0] for each in pairs)
    np.testing.assert_array_equal(Stump.fits[0][0], RULE)
    assert len({tuple(w) for _, w in Stump.fits}) == 4


def test_the_random_state_draws_the_permutations():
    first, again, other = (permutation_report(Stump(), X, RULE, n_permutations=3, random_state=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.permuted, again.permuted)
    assert (first.permuted != other.permuted).any()


def test_the_report_is_a_table_and_plain_values():
    report = permutation_report(Stump(), X, RULE, n_permutations=2)
    assert report.to_dict() == {
        "explained": report.explained, "permuted": list(report.permuted), "p_value": report.p_value,
    }  # fmt: skip
    assert report.frame()["targets"].tolist() == ["given", "permuted", "permuted"]


@pytest.mark.parametrize("count", [0, 1.5])
def test_a_number_of_permutations_that_is_none_is_refused(count):
    with pytest.raises(DataError, match=f"n_permutations={count}"):
        permutation_report(Stump(), X, RULE, n_permutations=count)


def test_a_fit_cut_short_is_no_part_of_a_report():
    """Ctrl-C ends a fit with the best tree until then, which explains less: among permuted fits p would be too low."""

    class Stopped(Stump):
        def fit(self, X, y, sample_weight=None):
            super().fit(X, y, sample_weight)
            self.interrupted_ = len(Stump.fits) == 3
            return self

    Stump.fits = ()
    with pytest.raises(KeyboardInterrupt):
        permutation_report(Stopped(), X, RULE, n_permutations=9)
    assert len(Stump.fits) == 3
