"""A tree read from a file is the tree that was written."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.linear_model import LinearRegression

from featlearn.exceptions import DataError, ModelError
from featlearn.machines import RFMClassifier, RFMRegressor, load
from featlearn.machines.loaded_tree import ConstantRegressor
from featlearn.machines.tree import RFMTreeClassifier, RFMTreeRegressor

FAST = {"kernel": "laplace", "alpha": 1e-2, "max_iter": 1, "selection": None}
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(300, 4))
Y = np.where(X[:, 0] > 0, X[:, 1], np.sin(3 * X[:, 2]))
Z = np.random.default_rng(1).normal(size=(80, 4))


def table(rows):
    frame = pd.DataFrame(rows, columns=["width", "height", "depth", "age"])
    return frame.assign(colour=np.where(rows[:, 3] > 0.3, "red", "blue"))


def regressor(**parameters):
    settings = {"max_leaf_size": 60, "random_state": 0, **parameters}
    return RFMTreeRegressor(settings.pop("leaf", RFMRegressor(**FAST)), **settings)


def classifier(**parameters):
    return RFMTreeClassifier(RFMClassifier(**FAST), max_leaf_size=60, random_state=0, **parameters)


TREES = {
    "soft": lambda: regressor().fit(X, Y),
    "hard": lambda: regressor(routing="hard").fit(X, Y),
    "one leaf": lambda: regressor(max_leaf_size=500).fit(X, Y),
    "two metrics": lambda: regressor(
        max_leaf_size=200, leaf=RFMRegressor(**{**FAST, "kernel": "rotated+coordinates"})
    ).fit(X, Y),
    "several outputs": lambda: regressor(intervals="split").fit(X, np.c_[Y, -Y]),
    "single precision": lambda: regressor(intervals="split").fit(X.astype(np.float32), Y),
    "constant leaves": lambda: regressor().fit(X, np.where(X[:, 0] > 0, 2.0, Y)),
    "classes": lambda: classifier().fit(X, np.digitize(Y, [-0.4, 0.4])),
    "a class that leaves do not know": lambda: classifier().fit(X, np.where(X[:, 0] > 0.5, "a", "b")),
    "table": lambda: regressor().fit(table(X), Y),
}


@pytest.fixture
def through(tmp_path):
    def save_and_load(tree):
        tree.export(tmp_path / "tree.safetensors")
        return load(tmp_path / "tree.safetensors")

    return save_and_load


@pytest.mark.parametrize("name", TREES)
def test_a_loaded_tree_predicts_the_same_to_the_last_bit(name, through):
    tree = TREES[name]()
    loaded = through(tree)
    for rows in (Z, Z.astype(np.float32)):
        rows = table(rows) if name == "table" else rows
        found, expected = loaded.predict(rows), tree.predict(rows)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(loaded.leaf_of(rows), tree.leaf_of(rows))
        np.testing.assert_array_equal(loaded.shares(rows), tree.shares(rows))
        if isinstance(tree, RFMTreeClassifier):
            np.testing.assert_array_equal(loaded.predict_proba(rows), tree.predict_proba(rows))
            np.testing.assert_array_equal(loaded.classes_, tree.classes_)
        elif tree.intervals:
            np.testing.assert_array_equal(loaded.predict_interval(rows, 0.8), tree.predict_interval(rows, 0.8))
    assert loaded.to_dict() == tree.to_dict()
    assert loaded.n_features_in_ == tree.n_features_in_


def test_leaves_without_machine_are_constants(through):
    tree = TREES["constant leaves"]()
    constant = [leaf.heap for leaf in tree.leaves_ if not isinstance(leaf.estimator, RFMRegressor)]
    loaded = through(tree)
    assert constant
    assert [leaf.heap for leaf in loaded.leaves_ if isinstance(leaf.estimator, ConstantRegressor)] == constant


def test_the_file_is_read_only_in_its_names_and_holds_no_targets(through, tmp_path):
    loaded = through(TREES["table"]())
    assert loaded.feature_names_in_.tolist() == ["width", "height", "depth", "age", "colour"]
    assert not hasattr(loaded, "fit")
    with safe_open(tmp_path / "tree.safetensors", framework="pt") as file:
        held = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118  # no mapping
    assert not any(tensor.numel() == len(Y) and np.allclose(np.sort(tensor.flatten()), np.sort(Y)) for tensor in held)


def test_other_columns_are_refused(through):
    with pytest.raises(DataError, match="3 features"):
        through(TREES["soft"]()).predict(Z[:, :3])


def test_a_tree_without_intervals_says_so(through):
    with pytest.raises(DataError, match='intervals="split"'):
        through(TREES["soft"]()).predict_interval(Z)


def test_other_leaves_cannot_be_exported_and_nothing_is_written(tmp_path):
    tree = regressor(leaf=LinearRegression()).fit(X, Y)
    with pytest.raises(ModelError, match="LinearRegression in a leaf"):
        tree.export(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"left": 1', '"left": 0'),  # the root would be its own child
        ('"right": 2', '"right": 1'),
        ('"right": 2', '"right": 77'),
        ('"right": 2', '"right": null'),
        ('"class": "TreeLeaf"', '"class": "TreeNode"'),
        ('"temperature_": 0.5', '"temperature_": "warm"'),
    ],
)
def test_a_file_whose_parts_make_no_tree_is_refused(tmp_path, old, new):
    path = tmp_path / "tree.safetensors"
    regressor(routing=0.5).fit(X, Y).export(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    assert old in header["content"]
    save_file(tensors, path, {**header, "content": header["content"].replace(old, new, 1)})
    with pytest.raises(ModelError, match="do not fit together"):
        load(path)


def test_a_direction_of_another_width_is_refused(tmp_path):
    path = tmp_path / "tree.safetensors"
    regressor().fit(X, Y).export(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    (first, *_) = [name for name in tensors if name.endswith("direction")]
    save_file({**tensors, first: torch.ones(3, dtype=torch.float64)}, path, header)
    with pytest.raises(ModelError, match="do not fit together"):
        load(path)
