"""What convolutional machines refuse before any work, and the answers that follow the kind of what is given."""

from __future__ import annotations

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from featlearn import ConvRFMClassifier, ConvRFMRegressor, DeepConvRFMClassifier
from featlearn.exceptions import DataError, FeatlearnWarning
from featlearn.machines import conv_fitting
from featlearn.machines.rules import MetricRule

RANDOM = np.random.default_rng(2)
X = RANDOM.normal(size=(30, 2, 7, 6))
NEW = RANDOM.normal(size=(5, 2, 7, 6))
Y = X[:, 0, 2, 2] * X[:, 1, 2, 3] + X[:, 0, 4, 4]
LABELS = np.where(Y > 0, "up", "down")
FAST = {"alpha": 1e-2, "max_iter": 1, "selection": None, "random_state": 0}
REGRESSOR = ConvRFMRegressor(depth=2, **FAST)
CLASSIFIER = ConvRFMClassifier(depth=2, **FAST)
DEEP = DeepConvRFMClassifier(layers=2, width=5, **FAST)
MACHINES = {"regressor": REGRESSOR, "classifier": CLASSIFIER, "deep": DEEP}
every_machine = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)


@pytest.fixture
def no_work(monkeypatch):
    """Nothing is solved: a refusal comes before all work."""

    def work(*_, **__):
        raise AssertionError("work was done before the refusal")

    monkeypatch.setattr(conv_fitting, "run", work)


def targets_of(machine):
    return Y if isinstance(machine, ConvRFMRegressor) else LABELS


def with_pixel(value, image=7):
    changed = X.copy()
    changed[image, 1, 2, 2] = value
    return changed


BAD_X = {
    "channels last": (X.transpose(0, 2, 3, 1), r"channels seem to come last.*numpy.moveaxis\(X, -1, 1\)"),
    "integers": ((100 * X).astype(np.int32), r"int32.*Cast it: X.astype\('float32'\)"),
    "NaN": (with_pixel(np.nan), r"NaN or infinity \(image 7\)"),
    "infinity": (with_pixel(-np.inf), r"NaN or infinity \(image 7\)"),
    "NaN tensor": (torch.tensor(with_pixel(np.nan)), r"NaN or infinity \(image 7\)"),
    "no images": (X[:0], "at least one image"),
    "one image": (X[:1], "1 sample"),
    "small images": (X[:, :, :4, :], r"4 x 6 pixels, but depth=2 with patch_size=3 and padding=0 needs at least 5 x 5"),
    "rows": (X.reshape(30, -1), r"84 numbers a row, but expected images. Pass image_shape=\(channels"),
    "table": (pd.DataFrame(X.reshape(30, -1)), "84 numbers a row, but expected images"),
    "one axis": (X[:, 0, 0, 0], "Expected 2D array|expected images"),
    "five axes": (X[None], "expected images"),
    "complex": (X + 1j, "complex128"),
    "equal images": (np.tile(X[:1], (30, 1, 1, 1)), "30 equal images"),
    "blank images": (0 * X, "blank images only"),
    "too small numbers": (1e-30 * X, r"largest k\(x, x\) is 0"),
    "too large numbers": (1e25 * X, r"largest k\(x, x\) is inf"),
}


@pytest.mark.parametrize("name", BAD_X)
@every_machine
def test_images_that_are_refused(machine, name, request):
    images, message = BAD_X[name]
    if "numbers" not in name:  # the loop itself sees those
        request.getfixturevalue("no_work")
    machine = clone(machine)
    with pytest.raises(ValueError, match=message):
        machine.fit(images, targets_of(machine)[: len(images)])
    with pytest.raises(NotFittedError):
        machine.predict(NEW)


BAD_TARGETS = {
    "NaN": (REGRESSOR, np.r_[np.nan, Y[1:]], "NaN"),
    "infinity": (REGRESSOR, np.r_[np.inf, Y[1:]], "infinite"),
    "text": (REGRESSOR, LABELS, "y"),
    "None": (REGRESSOR, None, "requires y to be passed"),
    "other length": (REGRESSOR, Y[:-1], "29 rows and X with 30"),
    "three axes": (REGRESSOR, np.ones((30, 2, 2)), "Flatten the outputs"),
    "one class": (CLASSIFIER, np.zeros(30, dtype=int), "one class only"),
    "real-valued": (CLASSIFIER, Y, "Unknown label type: continuous"),
    "missing label": (CLASSIFIER, np.where(Y > 1, None, LABELS), "missing labels"),
    "labels of other length": (CLASSIFIER, LABELS[:-1], "29 rows and X with 30"),
    "one class, deep": (DEEP, np.zeros(30, dtype=int), "one class only"),
    "no labels": (DEEP, None, "requires y to be passed"),
}


@pytest.mark.parametrize("name", BAD_TARGETS)
@pytest.mark.usefixtures("no_work")
def test_targets_that_are_refused(name):
    machine, targets, message = BAD_TARGETS[name]
    with pytest.raises(DataError, match=message):
        clone(machine).fit(X, targets)


BAD_WEIGHTS = {
    "negative": (-np.ones(30), "negative sample_weight"),
    "all zero": (np.zeros(30), "zero in every row"),
    "NaN": (np.full(30, np.nan), "NaN"),
    "infinite": (np.full(30, np.inf), "infinite"),
    "other length": (np.ones(29), r"expected \(30,\)"),
    "one image": (np.eye(30)[3], "1 image of positive weight|one class only"),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
@pytest.mark.usefixtures("no_work")
@every_machine
def test_weights_that_are_refused(machine, name):
    weights, message = BAD_WEIGHTS[name]
    with pytest.raises(DataError, match=message):
        clone(machine).fit(X, targets_of(machine), sample_weight=weights)


BAD_PARAMETERS = [
    ({"alpha": -1e-3}, "alpha=-0.001"),
    ({"alpha": np.nan}, "alpha=nan"),
    ({"alpha": "auto"}, "alpha='auto'"),
    ({"alpha": []}, r"alpha=\[\]"),
    ({"max_iter": -1}, "max_iter=-1"),
    ({"max_iter": 1.5}, "max_iter=1.5"),
    ({"selection": "best"}, "selection='best'"),
    ({"rule": "science"}, "rule='science', but expected a MetricRule or one of convrfm, public"),
    ({"rule": MetricRule(1.0, "trace", center=True)}, "center=True"),
    ({"tol": -1e-3}, "tol=-0.001"),
    ({"tol": np.nan}, "tol=nan"),
    ({"patch_size": 0}, "patch_size=0"),
    ({"patch_size": 2.0}, "patch_size=2.0"),
    ({"patch_size": 8}, "7 x 6 pixels"),
    ({"padding": 3}, "padding=3 with patch_size=3, but expected at most 2"),
    ({"padding": -1}, "padding=-1"),
    ({"patch_size": 2, "padding": 1}, "patch_size=2 with padding=1, but expected an odd patch size"),
    ({"agop_images": 0}, "agop_images=0"),
    ({"agop_images": 1.5}, "agop_images=1.5"),
    ({"image_shape": (7, 6)}, r"images of shape \(2, 7, 6\), but expected image_shape=\(1, 7, 6\)"),
    ({"image_shape": "2x7x6"}, "image_shape='2x7x6'"),
]
OF_CONV = [
    ({"depth": 0}, "depth=0"),
    ({"depth": 4}, "depth=4 with patch_size=3 and padding=0 needs at least 9 x 9"),
    ({"landmarks": 1}, "landmarks=1"),
    ({"landmarks": 5, "alpha": 0}, "alpha=0 with landmarks"),
    ({"selection": "validation"}, "without X_val and y_val"),
]
OF_DEEP = [
    ({"layers": 0}, "layers=0"),
    ({"layers": 4}, "depth=4 with patch_size=3"),
    ({"width": 0}, "width=0"),
    ({"width": 2.5}, "width=2.5"),
    ({"nonlinearity": "tanh"}, "nonlinearity='tanh', but expected one of relu, none"),
    ({"filters": "root"}, "filters='root', but expected one of random, directions"),
    ({"selection": "validation"}, 'Use "holdout"'),
]


@pytest.mark.parametrize(
    ("machine", "parameters", "message"),
    [(machine, *bad) for machine in MACHINES.values() for bad in BAD_PARAMETERS]
    + [(machine, *bad) for machine in (REGRESSOR, CLASSIFIER) for bad in OF_CONV]
    + [(DEEP, *bad) for bad in OF_DEEP]
    + [
        (CLASSIFIER, {"class_weight": {"left": 2.0}}, "class_weight for the label 'left'"),
        (DEEP, {"class_weight": "even"}, "class_weight='even'"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_parameters_that_are_refused(machine, parameters, message):
    with pytest.raises(DataError, match=message):
        clone(machine).set_params(**parameters).fit(X, targets_of(machine))


@pytest.mark.usefixtures("no_work")
@every_machine
def test_equal_images_without_a_ridge_are_named_as_the_user_counts(machine):
    images = X.copy()
    images[25] = images[4]
    weights = np.ones(30)
    weights[:3] = 0
    with pytest.raises(DataError, match=r"alpha=0 with equal images \(4 and 25\)"):
        clone(machine).set_params(alpha=0).fit(images, targets_of(machine), sample_weight=weights)


def test_distinct_images_are_interpolated_without_a_ridge():
    machine = clone(REGRESSOR).set_params(alpha=0).fit(X, Y)
    np.testing.assert_allclose(machine.predict(X), Y, rtol=0, atol=1e-3)


def test_blank_images_warn_and_get_the_mean():
    images = X.copy()
    images[[5, 9]] = 0
    weights = np.ones(30)
    weights[:2] = 0
    with pytest.warns(FeatlearnWarning, match=r"2 blank images \(at 5, 9\)"):
        machine = clone(REGRESSOR).fit(images, Y, sample_weight=weights)
    np.testing.assert_allclose(machine.predict(images[[5, 9]]), Y[2:].mean(), rtol=1e-5)
    assert np.isfinite(machine.predict(NEW)).all()


@pytest.mark.usefixtures("no_work")
def test_validation_images_that_are_refused():
    machine = clone(CLASSIFIER).set_params(selection="validation")
    for options, message in [
        ({"X_val": NEW}, "without X_val and y_val"),
        ({"X_val": NEW[:, :, :6], "y_val": LABELS[:5]}, r"\(2, 6, 6\), but expected \(2, 7, 6\), as in fit"),
        ({"X_val": NEW, "y_val": LABELS[:4]}, "4 rows and X with 5"),
        ({"X_val": NEW, "y_val": ["up", "down", "left", "up", "up"]}, "label 'left'"),
    ]:
        with pytest.raises(DataError, match=message):
            machine.fit(X, LABELS, **options)
    with pytest.raises(DataError, match="which selection=None does not use"):
        clone(CLASSIFIER).fit(X, LABELS, X_val=NEW, y_val=LABELS[:5])


@every_machine
def test_other_images_than_in_fit_are_refused(machine):
    machine = clone(machine).fit(X, targets_of(machine))
    for images, message in [
        (NEW[:, :1], r"images of shape \(1, 7, 6\), but expected \(2, 7, 6\), as in fit"),
        (NEW[:, 0], r"images of shape \(1, 7, 6\)"),
        (NEW.transpose(0, 2, 3, 1), "channels seem to come last"),
        (NEW.reshape(5, -1)[:, :-1], "83 features"),
        ((100 * NEW).astype(int), "Cast it"),
    ]:
        with pytest.raises(ValueError, match=message):
            machine.predict(images)


# kinds -------------------------------------------------------------------------------------------------------------


OUTPUTS = {
    "regressor": ("predict", "transform", "saliency"),
    "classifier": ("decision_function", "predict_proba", "transform", "saliency"),
    "deep": ("decision_function", "predict_proba", "transform"),
}


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("single", [False, True], ids=["double", "single"])
def test_answers_have_the_kind_and_precision_of_the_images(name, single):
    dtype = np.float32 if single else np.float64
    targets = targets_of(MACHINES[name])
    of_arrays = clone(MACHINES[name]).fit(X.astype(dtype), targets)
    of_tensors = clone(MACHINES[name]).fit(torch.tensor(X.astype(dtype)), targets)
    for method in OUTPUTS[name]:
        array = getattr(of_arrays, method)(NEW.astype(dtype))
        tensor = getattr(of_tensors, method)(torch.tensor(NEW.astype(dtype)))
        assert isinstance(array, np.ndarray)
        assert array.dtype == dtype
        assert isinstance(tensor, torch.Tensor)
        assert tensor.dtype == (torch.float32 if single else torch.float64)
        np.testing.assert_array_equal(array, tensor.numpy())
        # A machine fitted to one kind answers the other.
        np.testing.assert_array_equal(getattr(of_arrays, method)(torch.tensor(NEW.astype(dtype))).numpy(), array)
    if name == "deep":
        assert isinstance(of_tensors.filters_[0], torch.Tensor)
        assert isinstance(of_arrays.filters_[0], np.ndarray)
    else:
        for attribute in ("patch_agop_", "patch_factor_", "directions_", "direction_shares_", "dual_coef_"):
            assert isinstance(getattr(of_tensors, attribute), torch.Tensor)
            assert isinstance(getattr(of_arrays, attribute), np.ndarray)
        assert isinstance(of_tensors.metric_at(1), torch.Tensor)


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("kind", ["array", "table", "tensor", "list"])
def test_rows_of_pixels_are_images_of_the_given_shape(name, kind):
    kinds = {
        "array": lambda x: x.reshape(len(x), -1),
        "table": lambda x: pd.DataFrame(x.reshape(len(x), -1)).add_prefix("pixel"),
        "tensor": lambda x: torch.tensor(x).flatten(1),
        "list": lambda x: x.reshape(len(x), -1).tolist(),
    }
    targets = targets_of(MACHINES[name])
    rows = clone(MACHINES[name]).set_params(image_shape=(2, 7, 6)).fit(kinds[kind](X), targets)
    images = clone(MACHINES[name]).fit(X, targets)
    assert rows.n_features_in_ == images.n_features_in_ == 84
    assert rows.image_shape_ == images.image_shape_ == (2, 7, 6)
    for method in OUTPUTS[name]:
        found, expected = getattr(rows, method)(kinds[kind](NEW)), getattr(images, method)(NEW)
        assert isinstance(found, torch.Tensor if kind == "tensor" else np.ndarray)
        if method == "transform":
            expected = expected.reshape(5, -1)
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5, atol=1e-6)
    if kind == "table":
        assert rows.feature_names_in_.tolist() == [f"pixel{j}" for j in range(84)]
        with pytest.raises(ValueError, match="feature names"):
            rows.predict(kinds[kind](NEW).add_prefix("other"))


def test_a_fit_to_images_forgets_the_names_of_a_table():
    machine = clone(REGRESSOR).set_params(image_shape=(2, 7, 6))
    machine.fit(pd.DataFrame(X.reshape(30, -1)).add_prefix("pixel"), Y).fit(X, Y)
    assert not hasattr(machine, "feature_names_in_")
    assert machine.predict(NEW.reshape(5, -1)).shape == (5,)


@every_machine
def test_gray_images_need_no_channels(machine):
    targets = targets_of(machine)
    with_axis, without = clone(machine).fit(X[:, :1], targets), clone(machine).fit(X[:, 0], targets)
    np.testing.assert_array_equal(with_axis.predict(NEW[:, :1]), without.predict(NEW[:, 0]))


@every_machine
def test_declared_narrow_images_are_no_channels_that_come_last(machine):
    images = RANDOM.normal(size=(30, 5, 9, 4))
    targets = targets_of(machine)
    small = {"layers": 1} if machine is DEEP else {"depth": 1}
    with pytest.raises(DataError, match=r"pass image_shape=\(5, 9, 4\)"):
        clone(machine).set_params(**small).fit(images, targets)
    fitted = clone(machine).set_params(**small, image_shape=(5, 9, 4)).fit(images, targets)
    assert fitted.predict(images).shape == (30,)


# the life of an estimator ------------------------------------------------------------------------------------------


@every_machine
def test_copies_predict_alike(machine, tmp_path):
    fitted = clone(machine).fit(X, targets_of(machine))
    joblib.dump(fitted, tmp_path / "machine.joblib")
    copies = [pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "machine.joblib"), copy.deepcopy(fitted)]
    for one in copies:
        np.testing.assert_array_equal(one.predict(NEW), fitted.predict(NEW))
        np.testing.assert_array_equal(one.transform(NEW), fitted.transform(NEW))
    again = clone(fitted)
    assert again.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        again.predict(NEW)


@every_machine
def test_fitting_changes_neither_images_nor_parameters(machine):
    machine, images = clone(machine), X.copy()
    before = copy.deepcopy(machine.get_params())
    machine.fit(images, targets_of(machine))
    np.testing.assert_array_equal(images, X)
    assert machine.get_params() == before


@every_machine
def test_a_refit_is_a_fresh_fit(machine):
    targets = targets_of(machine)
    used = clone(machine).fit(X[:, :1, :6], targets).fit(X, targets)
    np.testing.assert_array_equal(used.predict(NEW), clone(machine).fit(X, targets).predict(NEW))


def test_pipelines_and_searches_of_scikit_learn():
    rows = X.reshape(30, -1)
    line = make_pipeline(MinMaxScaler(), clone(CLASSIFIER).set_params(image_shape=(2, 7, 6)))
    search = GridSearchCV(line, {"convrfmclassifier__alpha": [1e-3, 1e-1], "convrfmclassifier__depth": [1, 2]}, cv=2)
    search.fit(rows, LABELS)
    assert len(search.cv_results_["params"]) == 4
    assert 0 <= search.best_score_ <= 1
    assert set(search.predict(NEW.reshape(5, -1))) <= {"up", "down"}
    scaled = MinMaxScaler().fit(rows)
    own = clone(line[-1]).fit(scaled.transform(rows), LABELS)
    expected = own.predict_proba(scaled.transform(NEW.reshape(5, -1)))
    np.testing.assert_allclose(line.fit(rows, LABELS).predict_proba(NEW.reshape(5, -1)), expected, rtol=1e-6)


def test_a_bar_is_shown_when_asked_for_and_nothing_else_is_said(capsys):
    for verbose, machine in [(0, REGRESSOR), (1, REGRESSOR), (1, clone(REGRESSOR).set_params(selection="cv"))]:
        fitted = clone(machine).set_params(verbose=verbose).fit(X, Y)
        out, _ = capsys.readouterr()
        assert out == ""
        np.testing.assert_array_equal(fitted.predict(NEW), clone(machine).fit(X, Y).predict(NEW))
