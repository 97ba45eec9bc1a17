from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.exceptions import NotFittedError
from torch import Tensor

from featlearn.exceptions import DataError, FeatlearnWarning, ModelError
from featlearn.kernels import ArcCosNTK, GaussianKernel, Kernel, LaplaceKernel, LpqKernel, MeanKernel, QuadraticKernel
from featlearn.machines import Columns, RFMClassifier, RFMRegressor, load

QUICK = {"alpha": 1e-2, "max_iter": 2, "selection": None, "random_state": 0}
KERNELS = {
    "one metric": "laplace",
    "diagonal metric": "lpq",
    "warped": "rotated",
    "two metrics": "rotated+coordinates",
    "inner products": "quadratic",
    "given": LpqKernel(1.0, p=1.5, q=0.5),
    "given Gaussian": GaussianKernel(2),
    "given network kernel": ArcCosNTK(2),
    "given mean": MeanKernel((LaplaceKernel(2.0, exponent=0.7), QuadraticKernel(general=True))),
}


def table(n: int = 60, *, gaps: bool = False, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(random.normal(size=(n, 4)) ** 3, columns=["size", "weight", "age", "constant"])
    frame["constant"] = 7.0
    frame["colour"] = random.choice(["red", "green", "blue"], n)
    frame["old"] = frame["age"] > 0
    if gaps:
        frame.loc[::7, "size"] = np.nan
        frame.loc[3::11, "colour"] = None
    return frame


def numbers(frame: pd.DataFrame) -> np.ndarray:
    return np.asarray(np.tanh(frame["size"].fillna(0)) * frame["weight"] + (frame["colour"] == "red"))


@pytest.fixture
def through(tmp_path):
    """The machine after a file."""

    def save_and_load(machine):
        machine.export(tmp_path / "machine.safetensors")
        return load(tmp_path / "machine.safetensors")

    return save_and_load


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_predictions_are_the_same_to_the_last_bit(kernel, through):
    train, new = table(), table(31, seed=1)
    machine = RFMRegressor(kernel=kernel, **QUICK).fit(train, numbers(train))
    np.testing.assert_array_equal(through(machine).predict(new), machine.predict(new))


@pytest.mark.parametrize("transform", ["none", "robust", "quantile", "uniform"])
@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "gaps"])
def test_every_encoding_of_columns_is_kept(transform, gaps, through):
    columns = Columns(transform=transform, missing="indicator", categorical=["colour", "old"], max_levels=2)
    train, new = table(gaps=gaps), table(40, gaps=gaps, seed=1)
    new.loc[0, "colour"] = "never seen"
    machine = RFMRegressor(kernel="laplace", columns=columns, **QUICK).fit(train, numbers(train))
    np.testing.assert_array_equal(through(machine).predict(new), machine.predict(new))


def test_wide_float32_rows_and_several_outputs(through):
    random = np.random.default_rng(0)
    X, Y = random.normal(size=(30, 90)).astype(np.float32), random.normal(size=(30, 3))
    machine = RFMRegressor(kernel="laplace", **QUICK).fit(X, Y)
    loaded = through(machine)
    assert loaded.predict(X).dtype == np.float32
    np.testing.assert_array_equal(loaded.predict(X), machine.predict(X))
    torch.testing.assert_close(
        loaded.predict(torch.from_numpy(X)), machine.predict(torch.from_numpy(X)), rtol=0, atol=0
    )


@pytest.mark.parametrize("intervals", ["split", "cv_plus"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_intervals_are_the_same_to_the_last_bit(intervals, outputs, through):
    train, new = table(80), table(20, seed=1)
    y = numbers(train) if outputs == 1 else np.stack([numbers(train), -train["age"]], axis=1)
    machine = RFMRegressor(kernel="coordinates", intervals=intervals, **QUICK).fit(train, y)
    loaded = through(machine)
    for level in (0.5, 0.9, 0.999):
        np.testing.assert_array_equal(loaded.predict_interval(new, level), machine.predict_interval(new, level))


def test_intervals_that_were_not_prepared_are_refused(through):
    machine = RFMRegressor(kernel="laplace", **QUICK).fit(table(), numbers(table()))
    with pytest.raises(DataError, match="without intervals"):
        through(machine).predict_interval(table(5))


LABELS = {
    "text": np.array(["no", "yes", "perhaps"]),
    "objects": np.array(["no", "yes", "perhaps"], dtype=object),
    "integers": np.array([-3, 0, 12]),
    "whole floats": np.array([1.0, 2.0, 5.0]),
    "truth": np.array([False, True]),
    "two": np.array(["a", "b"]),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_classes_scores_and_probabilities_are_the_same(labels, through):
    train, new = table(), table(25, seed=1)
    place = np.digitize(numbers(train), np.quantile(numbers(train), np.arange(1, len(labels)) / len(labels)))
    machine = RFMClassifier(kernel="laplace", **QUICK).fit(train, labels[place])
    loaded = through(machine)
    assert loaded.classes_.dtype == machine.classes_.dtype
    np.testing.assert_array_equal(loaded.classes_, machine.classes_)
    for name in ("predict", "predict_proba", "decision_function"):
        np.testing.assert_array_equal(getattr(loaded, name)(new), getattr(machine, name)(new))


def test_a_selected_machine_is_the_same_in_another_process(tmp_path):
    train, new = table(), table(25, seed=1)
    machine = RFMRegressor(kernel=["rotated", "coordinates"], max_iter=2, random_state=0).fit(train, numbers(train))
    machine.export(tmp_path / "m.safetensors")
    new.to_pickle(tmp_path / "new.pkl")
    code = (
        "import numpy, pandas, sys, featlearn.machines\n"
        "loaded = featlearn.machines.load(sys.argv[1] + '/m.safetensors')\n"
        "numpy.save(sys.argv[1] + '/predictions', loaded.predict(pandas.read_pickle(sys.argv[1] + '/new.pkl')))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "predictions.npy"), machine.predict(new))


def test_other_columns_are_refused_and_names_are_told(through):
    loaded = through(RFMRegressor(kernel="laplace", **QUICK).fit(table(), numbers(table())))
    assert loaded.n_features_in_ == 6
    assert loaded.feature_names_in_.tolist() == list(table())
    with pytest.raises(DataError, match="in another order"):
        loaded.predict(table()[list(table())[::-1]])
    with pytest.raises(DataError, match="5 features"):
        loaded.predict(table().drop(columns="age"))
    with pytest.raises(DataError, match="NaN in row 0"):
        loaded.predict(table(gaps=True))


def test_arrays_have_no_names(through):
    X = np.random.default_rng(0).normal(size=(30, 2))
    assert through(RFMRegressor(kernel="laplace", **QUICK).fit(X, X[:, 0])).feature_names_in_ is None


def test_the_loaded_machine_cannot_be_changed(through):
    loaded = through(RFMRegressor(kernel="laplace", **QUICK).fit(table(), numbers(table())))
    assert not hasattr(loaded, "fit")
    with pytest.raises(AttributeError, match="cannot assign"):
        loaded.predictor = None


def test_targets_and_given_rows_are_not_in_the_file(tmp_path):
    train = table()
    y = numbers(train)
    machine = RFMRegressor(kernel="laplace", **QUICK).fit(train, y)
    machine.export(tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        stored = [file.get_tensor(name).double().flatten().numpy() for name in file.keys()]  # noqa: SIM118
    stored = np.concatenate(stored)
    for column in (y, train["weight"]):
        assert not np.isclose(stored[:, None], np.asarray(column)[None], rtol=1e-9, atol=0).any()


def test_an_unfitted_machine_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(NotFittedError):
        RFMRegressor().export(tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class Own(Kernel):
    """A kernel that no file can hold."""

    def definition(self, x: Tensor, z: Tensor) -> Tensor:
        return x @ z.mT


def test_a_kernel_of_the_users_own_is_refused_and_nothing_written(tmp_path):
    machine = RFMRegressor(kernel=Own(), **QUICK).fit(table(), numbers(table()))
    with pytest.raises(ModelError, match="of type Own"):
        machine.export(tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "machine.safetensors"
    RFMRegressor(kernel="laplace", **QUICK).fit(table(), numbers(table())).export(path)
    return path


def test_what_cannot_be_written_leaves_the_earlier_file(saved, monkeypatch):
    before = saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    machine = RFMRegressor(kernel="lpq", **QUICK).fit(table(), numbers(table()))
    with pytest.raises(OSError, match="No space"):
        machine.export(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_link_is_followed_and_the_file_is_for_everyone_whom_the_umask_allows(saved):
    link = saved.with_name("link")
    link.symlink_to(saved)
    RFMRegressor(kernel="lpq", **QUICK).fit(table(), numbers(table())).export(link)
    assert link.is_symlink()
    assert "LpqKernel" in repr(load(saved).blend.leading.metrics[0].kernel)
    umask = os.umask(0)
    os.umask(umask)
    assert saved.stat().st_mode & 0o777 == 0o666 & ~umask


def test_folders_that_are_missing_or_in_the_place(tmp_path):
    machine = RFMRegressor(kernel="laplace", **QUICK).fit(table(), numbers(table()))
    with pytest.raises(FileNotFoundError, match="no folder"):
        machine.export(tmp_path / "nowhere" / "m.safetensors")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        machine.export(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_told(share, saved):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match=r"machine.safetensors, which cannot be read .* expected a whole file"):
        load(saved)


FOREIGN = {"text": b"a,b,c\n1,2,3\n" * 10, "pickle": b"\x80\x04\x95" + b"x" * 200, "zeros": bytes(1000)}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_told(content, tmp_path):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ModelError, match=r"Got .*m, which"):
        load(tmp_path / "m")


def test_weights_of_something_else_are_told(tmp_path):
    save_file({"layer.weight": torch.ones(2, 2)}, tmp_path / "net.safetensors")
    with pytest.raises(ModelError, match="no machine"):
        load(tmp_path / "net.safetensors")


def rewritten(path, change):
    """The file with another header, its tensors as they were."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        header = file.metadata()
    change(header, tensors)
    save_file(tensors, path, header)


def test_a_later_version_is_told(saved):
    rewritten(saved, lambda header, tensors: header.update(version="2", featlearn="9.9"))
    with pytest.raises(ModelError, match=r"format version '2', but expected 1. It was written by featlearn 9.9"):
        load(saved)


DAMAGE = {
    "no content": lambda header, tensors: header.pop("content"),
    "no JSON": lambda header, tensors: header.update(content="{"),
    "another class": lambda header, tensors: header.update(content='{"class": "Popen", "fields": {}}'),
    "no machine": lambda header, tensors: header.update(content="[]"),
    "other fields": lambda header, tensors: header.update(content='{"class": "LoadedRegressor", "fields": {"a": 1}}'),
    "a tensor less": lambda header, tensors: tensors.pop("machine.blend.members.0.dual"),
    "fewer rows": lambda header, tensors: tensors.update(
        {"machine.blend.members.0.dual": tensors["machine.blend.members.0.dual"][:-1].clone()}
    ),
    "a thinner factor": lambda header, tensors: tensors.update(
        {"machine.blend.members.0.metrics.0.factor": tensors["machine.blend.members.0.metrics.0.factor"][:-1].clone()}
    ),
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_contents_that_do_not_fit_together_are_told(change, saved):
    rewritten(saved, change)
    with pytest.raises(ModelError, match="xport it again"):
        load(saved)


def test_fields_of_the_format_change_only_with_its_version(saved):
    """Whoever changes a stored class has to raise VERSION, or to go on reading what is written here."""

    def names(plain):
        if isinstance(plain, dict) and "class" in plain:
            yield plain["class"], tuple(plain["fields"])
            for part in plain["fields"].values():
                yield from names(part)
        elif isinstance(plain, dict) and "tuple" in plain:
            for part in plain["tuple"]:
                yield from names(part)

    with saved.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))["__metadata__"]
    assert (header["format"], header["version"]) == ("featlearn machine", "1")
    assert dict(names(json.loads(header["content"]))) == {
        "LoadedRegressor": ("blend", "coding", "told", "intervals", "residuals", "folds", "fold_predictors"),
        "Blend": ("members", "weights"),
        "Predictor": ("columns", "metrics", "bases", "dual", "scale"),
        "FittedColumns": ("config", "n_features_in", "feature_names", "numeric", "categories"),
        "Columns": ("standardize", "categorical", "missing", "transform", "max_levels"),
        "NumericBlock": ("positions", "kept", "gaps", "fill", "curves", "mean", "scale", "spread"),
        "CategoryBlock": ("position", "kind", "levels", "missing", "shares", "others"),
        "Metric": ("kernel", "factor", "warp"),
        "LaplaceKernel": ("bandwidth", "exponent"),
        "RegressionCoding": ("mean", "one_output"),
    }


def test_many_columns_of_long_curves_fit_in_the_header(through):
    random = np.random.default_rng(0)
    X = random.normal(size=(150, 400))
    machine = RFMRegressor(kernel="laplace", columns=Columns(transform="quantile"), **QUICK).fit(X, X[:, 0])
    np.testing.assert_array_equal(through(machine).predict(X[:5]), machine.predict(X[:5]))


def test_a_gap_that_training_had_not_warns_after_loading_too(through):
    machine = RFMRegressor(kernel="laplace", columns=Columns(missing="indicator"), **QUICK)
    loaded = through(machine.fit(table(), numbers(table())))
    with pytest.warns(FeatlearnWarning, match="'size'"):
        loaded.predict(table(gaps=True).fillna({"colour": "red"}))
