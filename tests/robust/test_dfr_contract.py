"""scikit-learn's own checks of the estimator, in several configurations."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from featlearn.robust.dfr import DFRClassifier


# The data of some checks have few rows.
@pytest.mark.filterwarnings("ignore:Fewer than 10 rows:featlearn.exceptions.FeatlearnWarning")
@parametrize_with_checks(
    [
        DFRClassifier(),
        # The default has all twenty refits and seven strengths. The others need no more than several of each.
        DFRClassifier(C=0.1, n_refits=2),
        DFRClassifier(balance="reweight"),
        DFRClassifier(C_grid=(1.0, 0.1), l1_ratio=0.0, scaler_fit_on="balanced", n_refits=2, tune_splits=2),
    ]
)
def test_contract(estimator, check):
    check(estimator)
