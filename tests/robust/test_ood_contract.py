"""scikit-learn's own checks of the head, in several configurations."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from featlearn.robust.ood import OODHead

HELD_OUT = "which rows are held out depends on how many there are: a row given twice may be on both sides"


def expected_failures(head: Any) -> dict[str, str]:
    """Checks that ask for what the head does not promise, with the reason."""
    return {"check_sample_weight_equivalence_on_dense_data": HELD_OUT} if head.validation_fraction else {}


# The checks know no environments, and some of their labels are noise.
@pytest.mark.filterwarnings("ignore:Got one environment:featlearn.exceptions.FeatlearnWarning")
@pytest.mark.filterwarnings("ignore:The head is degenerate:featlearn.exceptions.FeatlearnWarning")
@parametrize_with_checks(
    [
        OODHead("erm"),
        OODHead("irm", max_iter=10),
        OODHead("groupdro", max_iter=10),
        OODHead("irmx", penalty_weight=(10.0, 1.0), max_iter=10, anneal_steps=2, validation_fraction=0.2),
    ],
    expected_failed_checks=expected_failures,
)
def test_contract(estimator, check):
    check(estimator)
