"""scikit-learn's own checks of the estimators, in several configurations."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from featlearn.machines.conv_rfm import ConvRFMClassifier, ConvRFMRegressor
from featlearn.machines.deep_conv_rfm import DeepConvRFMClassifier
from featlearn.machines.rfm import RFMClassifier, RFMRegressor
from featlearn.machines.tree import RFMTreeClassifier, RFMTreeRegressor

FAST = {"kernel": "laplace", "alpha": 1e-2, "max_iter": 1}
ONE_POWER = {"alpha": 1e-2, "power": 1.0, "max_iter": 1}

ROWS = "a median distance, knots and folds are properties of the rows: a row given twice counts in them as two"
CALIBRATION = "the sharpness comes from leaving one row out, and the second copy of a row given twice stays in"
STEPS = "n_iter_ is the chosen iterate, and 0, plain kernel ridge regression, is a legitimate choice"
FAR = "the published rule has L = 1 and scales no columns: on blobs 20 wide the nearest row decides, of any weight"


def expected_failures(machine: Any) -> dict[str, str]:
    """Checks that ask for what the machine does not promise, with the reason."""
    found = {}
    published = machine.rule == "pip"
    if not published and machine.bandwidth is None:
        found["check_sample_weight_equivalence_on_dense_data"] = ROWS
    elif isinstance(machine, RFMClassifier):
        found["check_sample_weight_equivalence_on_dense_data"] = CALIBRATION
    if not published and machine.selection is not None:
        found["check_transformer_n_iter"] = STEPS
    if published and isinstance(machine, RFMClassifier):
        found["check_class_weight_classifiers"] = FAR
    return found


# Checks have few rows, or a rare class: there are fewer folds then, with a warning.
fewer_folds = pytest.mark.filterwarnings("ignore:.*selection uses . folds:featlearn.exceptions.FeatlearnWarning")


@fewer_folds
@parametrize_with_checks(
    [
        RFMRegressor(**FAST, selection=None),
        RFMClassifier(**FAST, selection=None),
        RFMRegressor(**FAST, bandwidth=1.0, selection=None),
        RFMRegressor(rule="pip"),
        RFMClassifier(rule="pip"),
        RFMRegressor(kernel="laplace", alpha=(1e-2, 1.0), power=1.0, max_iter=1),
    ],
    expected_failed_checks=expected_failures,
)
def test_contract(estimator, check):
    check(estimator)


@fewer_folds
@pytest.mark.slow
@parametrize_with_checks(
    [
        RFMRegressor(**ONE_POWER),  # all kernels and transforms race
        RFMClassifier(kernel="laplace", alpha=(1e-2, 1.0), power=1.0, max_iter=1),
        RFMRegressor(kernel="rotated+coordinates", **ONE_POWER, selection=None, metric_samples=10),
        RFMRegressor(**FAST, selection=None, intervals="cv_plus"),
    ],
    expected_failed_checks=expected_failures,
)
def test_contract_of_machines_that_take_longer(estimator, check):
    check(estimator)


FIXED = {**FAST, "bandwidth": 1.0, "selection": None}

DISTANCES = (
    "the median distance of a split, and sizes of nodes, are properties of the rows: one given twice counts twice"
)


def expected_failures_of_trees(tree: Any) -> dict[str, str]:
    """Checks that ask for what a tree, or the machine in its leaves, does not promise, with the reason."""
    found = (
        {"check_sample_weight_equivalence_on_dense_data": ROWS} if tree.leaf is None else expected_failures(tree.leaf)
    )
    found.pop("check_transformer_n_iter", None)  # trees transform nothing
    if tree.max_leaf_size < 100:
        found["check_sample_weight_equivalence_on_dense_data"] = DISTANCES
    return found


# Rounded data have more equal rows than a small leaf holds.
equal_rows = pytest.mark.filterwarnings("ignore:.*rows that no direction divides:featlearn.exceptions.FeatlearnWarning")


@fewer_folds
@equal_rows
@parametrize_with_checks(
    [
        RFMTreeRegressor(RFMRegressor(**FAST, selection=None), max_leaf_size=20),
        RFMTreeClassifier(RFMClassifier(**FAST, selection=None), max_leaf_size=20),
        RFMTreeClassifier(RFMClassifier(**FIXED), max_leaf_size=10, routing=0.1, split_samples=10),
        RFMTreeRegressor(RFMRegressor(**FIXED)),
        RFMTreeClassifier(RFMClassifier(**FIXED)),
    ],
    expected_failed_checks=expected_failures_of_trees,
)
def test_contract_of_trees(estimator, check):
    check(estimator)


@fewer_folds
@equal_rows
@pytest.mark.slow
@parametrize_with_checks(
    [
        RFMTreeRegressor(),
        RFMTreeClassifier(),
        RFMTreeRegressor(RFMRegressor(**FIXED), max_leaf_size=10, routing="hard"),
        RFMTreeRegressor(
            RFMRegressor(kernel="laplace", alpha=(1e-2, 1.0), power=1.0, max_iter=1), max_leaf_size=50, n_jobs=1
        ),
    ],
    expected_failed_checks=expected_failures_of_trees,
)
def test_contract_of_trees_that_take_longer(estimator, check):
    check(estimator)


# A row is one pixel of many channels.
PIXEL = {"patch_size": 1, "depth": 1}


SINGLE = "images are seen in single precision: equal to its rounding, 1e-6, where the check asks for 1e-7"


def expected_failures_of_images(machine: Any) -> dict[str, str]:
    """Checks that ask for what a convolutional machine does not promise, with the reason."""
    found = {"check_methods_subset_invariance": SINGLE, "check_sample_weight_equivalence_on_dense_data": SINGLE}
    if machine.selection is not None:
        found["check_sample_weight_equivalence_on_dense_data"] = ROWS
    elif not isinstance(machine, ConvRFMRegressor):
        found["check_sample_weight_equivalence_on_dense_data"] = CALIBRATION
    if machine.selection == "cv" or (machine.selection and isinstance(machine, DeepConvRFMClassifier)):
        found["check_transformer_n_iter"] = STEPS
    if machine.selection and isinstance(machine, DeepConvRFMClassifier):
        found["check_non_transformer_estimators_n_iter"] = STEPS
    return found


@fewer_folds
@parametrize_with_checks(
    [
        ConvRFMRegressor(**PIXEL, alpha=1e-2, max_iter=1, selection=None),
        ConvRFMClassifier(**PIXEL, alpha=1e-2, max_iter=1, selection=None),
        ConvRFMRegressor(patch_size=1, depth=2, selection="cv"),
        DeepConvRFMClassifier(patch_size=1, layers=2, width=8, alpha=1e-2, max_iter=1, selection=None),
    ],
    expected_failed_checks=expected_failures_of_images,
)
def test_contract_of_machines_of_images(estimator, check):
    check(estimator)


@fewer_folds
@pytest.mark.slow
@parametrize_with_checks(
    [
        ConvRFMRegressor(**PIXEL),
        ConvRFMClassifier(**PIXEL, max_iter=1, selection="holdout", landmarks=10),
        DeepConvRFMClassifier(patch_size=1, layers=2, width=8, max_iter=2, filters="directions", selection="holdout"),
    ],
    expected_failed_checks=expected_failures_of_images,
)
def test_contract_of_machines_of_images_that_take_longer(estimator, check):
    check(estimator)
