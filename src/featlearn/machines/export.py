"""Fitted machines in one file of tensors and plain values: safe to load, and all that predicting needs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .. import __version__
from ..exceptions import DataError, ModelError
from ..kernels import (
    ArcCosNTK,
    ColumnWarp,
    GaussianKernel,
    LaplaceKernel,
    LpqKernel,
    MeanKernel,
    Metric,
    QuadraticKernel,
)
from .blending import Blend
from .calibration import probabilities
from .categories import CategoryBlock
from .columns import Columns, FittedColumns
from .estimator import like
from .intervals import cv_plus_interval, split_interval
from .loaded_tree import (
    ConstantClassifier,
    ConstantRegressor,
    LoadedTree,
    LoadedTreeClassifier,
    LoadedTreeRegressor,
    loaded_tree,
)
from .numeric import NumericBlock
from .packing import Classes, Packer, unpack
from .predictor import Predictor
from .routing import Routing, TreeNode
from .shown import Shown
from .targets import ClassCoding, RegressionCoding
from .transforms import RankCurves, RobustCurves
from .tree_base import RFMTree
from .tree_intervals import Residuals
from .tree_leaves import TreeLeaf

__all__ = ["FORMAT", "VERSION", "LoadedClassifier", "LoadedMachine", "LoadedRegressor", "load", "save_machine"]

FORMAT = "featlearn machine"
VERSION = 1  # of the file; raised when a file of before could be read wrongly


@dataclass(frozen=True, eq=False, repr=False)
class LoadedMachine(Shown):
    """What a file holds: a machine that predicts, and cannot be fitted.

    Attributes
    ----------
    blend : Blend
        Of each machine that is averaged: encoded columns, kernels and their metrics, transformed training rows, dual
        coefficients.
    coding : RegressionCoding or ClassCoding
    told : dict
        What ``to_dict`` of the estimator said.
    """

    blend: Blend
    coding: Any
    told: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values of the fitted estimator, as at its export."""
        return dict(self.told)

    @property
    def columns(self) -> FittedColumns:
        """How the leading machine encodes rows."""
        return self.blend.leading.columns

    @property
    def n_features_in_(self) -> int:
        """Columns that predictions need."""
        return self.columns.n_features_in

    @property
    def feature_names_in_(self) -> NDArray[Any] | None:
        """Their names, if the machine was fitted to a DataFrame."""
        names = self.columns.feature_names
        return None if names is None else np.array(names, dtype=object)

    def __repr__(self) -> str:
        rows, columns = len(self.blend.leading.dual), self.n_features_in_
        return f"{type(self).__name__}({rows:,} training rows, {columns:,} columns)"


@dataclass(frozen=True, eq=False, repr=False)
class LoadedRegressor(LoadedMachine):
    """An :class:`~featlearn.RFMRegressor` read from a file.

    Attributes
    ----------
    intervals : "split", "cv_plus" or None
        How ``predict_interval`` was prepared, with residuals (m, C) of rows that were left out, the fold (m,) of each,
        and the machine of each fold.
    """

    intervals: str | None = None
    residuals: Tensor | None = None
    folds: Tensor | None = None
    fold_predictors: tuple[Blend, ...] = field(default=())

    @property
    def has_intervals(self) -> bool:
        """Whether ``predict_interval`` was prepared."""
        return self.intervals is not None

    def predict(self, X: Any) -> Any:
        """Predictions (m,) or (m, C), of the kind of X; DataError for other columns than in ``fit``."""
        return like(X, self.coding.decode(self.blend.expansion(X)))

    def predict_interval(self, X: Any, level: float = 0.9) -> Any:
        """Intervals (m, 2), or (m, C, 2), that hold the target with probability ``level``.

        Raises
        ------
        DataError
            For a machine fitted with ``intervals=None``, or a level outside (0, 1).
        """
        if self.intervals is None or self.residuals is None:
            raise DataError('Got a machine fitted without intervals. Fit it with intervals="split" or "cv_plus".')
        if self.folds is None:
            found = split_interval(self.blend.expansion(X), self.residuals, level)
        else:
            values = torch.stack([predictor.expansion(X) for predictor in self.fold_predictors])
            found = cv_plus_interval(values, self.folds, self.residuals, level)
        found = found + self.coding.mean.to(found)[:, None]
        return like(X, found[:, 0] if self.coding.one_output else found)


@dataclass(frozen=True, eq=False, repr=False)
class LoadedClassifier(LoadedMachine):
    """An :class:`~featlearn.RFMClassifier` read from a file.

    Attributes
    ----------
    sharpness : float
        Of the softmax that makes probabilities of scores.
    """

    sharpness: float = 1.0

    @property
    def classes_(self) -> NDArray[Any]:
        """Labels (K,), ascending."""
        return np.asarray(self.coding.classes)

    def decision_function(self, X: Any) -> Any:
        """Scores (m, K), or (m,) of the second class above the first where there are two."""
        scores = self._scores(X)
        return like(X, scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores)

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (m,); ties go to the first class."""
        return np.asarray(self.coding.decode(self.blend.expansion(X)))

    def predict_proba(self, X: Any) -> Any:
        """Probabilities (m, K): the softmax of the scores."""
        return like(X, probabilities(self._scores(X).double(), self.sharpness))

    def _scores(self, X: Any) -> Tensor:
        scores: Tensor = self.coding.scores(self.blend.expansion(X))
        return scores


_CLASSES: Classes = {
    cls.__name__: cls
    for cls in (
        ArcCosNTK, Blend, CategoryBlock, ClassCoding, ColumnWarp, Columns, ConstantClassifier, ConstantRegressor,
        FittedColumns, GaussianKernel, LaplaceKernel, LoadedClassifier, LoadedRegressor, LoadedTreeClassifier,
        LoadedTreeRegressor, LpqKernel, MeanKernel, Metric, NumericBlock, Predictor, QuadraticKernel, RankCurves,
        RegressionCoding, Residuals, RobustCurves, Routing, TreeLeaf, TreeNode,
    )
}  # fmt: skip


def save_machine(estimator: Any, path: str | PathLike[str], *, told: Mapping[str, Any] | None = None) -> None:
    """Write a fitted machine in the safetensors format, whole or not at all.

    Parameters
    ----------
    estimator : RFMRegressor, RFMClassifier, RFMTreeRegressor or RFMTreeClassifier
        Fitted.
    path : path-like
        Its folder must exist. An earlier file is replaced in one step.
    told : mapping, optional
        Plain values that ``to_dict()`` of the loaded machine gives, default those of the estimator.

    Raises
    ------
    NotFittedError
        Before ``fit``.
    ModelError
        A kernel that is not of this package; a leaf of a tree that is neither its machine nor a constant.
    OSError
        The file cannot be written; an earlier one is then left as it was.

    Notes
    -----
    The file holds the training rows as the kernels see them (warped, and multiplied by the metric's factor), not as
    they were given, and no targets but the residuals that intervals need. Plain values are JSON in the header. Nothing
    in it is code: reading it cannot run any.
    """
    check_is_fitted(estimator)
    packer = Packer(_CLASSES)
    content = json.dumps(packer.pack(_loaded(estimator, told), "machine"))
    header = {"format": FORMAT, "version": str(VERSION), "featlearn": __version__, "content": content}
    _write(Path(os.path.realpath(path)), safetensors.torch.save(packer.tensors, header), path)


def load(path: str | PathLike[str]) -> Any:
    """The machine that ``export`` wrote, ready to predict, on the processor.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    LoadedRegressor, LoadedClassifier, LoadedTreeRegressor or LoadedTreeClassifier
        Its predictions are those of the exported machine, to the last bit on the same computer.

    Raises
    ------
    ModelError
        The file was not written by ``export``, by a later version of it, or is not whole.
    OSError
        There is no such file, or it cannot be read.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from featlearn import RFMRegressor
    >>> from featlearn.machines import load
    >>> X = np.random.default_rng(0).normal(size=(30, 2))
    >>> machine = RFMRegressor(kernel="laplace", alpha=0.1, max_iter=1, selection=None).fit(X, X[:, 0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     machine.export(f"{folder}/machine.safetensors")
    ...     loaded = load(f"{folder}/machine.safetensors")
    >>> bool((loaded.predict(X) == machine.predict(X)).all())
    True
    """
    with Path(path).open("rb"):
        pass  # what keeps a file from being read at all is the system's to say
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            header = file.metadata() or {}
            plain = _content(header, path)
            # A copy of their own: the processor rounds a product by where in memory its numbers start.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no mapping
    except SafetensorError as error:
        raise ModelError(
            f"Got {os.fspath(path)}, which cannot be read as a machine ({error}), but expected a whole file that "
            "export wrote. Copy or export it again."
        ) from error
    try:
        machine = unpack(plain, tensors, _CLASSES)
        _try(machine)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"Got {os.fspath(path)}, whose contents do not fit together ({type(error).__name__}: {error}), but "
            "expected a file as export wrote it. Export it again."
        ) from error
    return machine


def _try(machine: Any) -> None:
    """Predict once, so that parts that do not fit fail here; TypeError for what is no machine."""
    if isinstance(machine, LoadedTree):
        machine.check()
        for leaf in machine.leaves_:
            if not isinstance(leaf.estimator, ConstantRegressor | ConstantClassifier):
                _try(leaf.estimator)
    elif isinstance(machine, LoadedRegressor | LoadedClassifier):
        for predictor in machine.blend.members:
            predictor.of_encoded(predictor.dual.new_zeros(1, len(predictor.columns.names)))
    else:
        raise TypeError(f"it holds {type(machine).__name__}")


def _loaded(estimator: Any, told: Mapping[str, Any] | None) -> LoadedMachine | LoadedTree:
    if isinstance(estimator, RFMTree):
        return loaded_tree(estimator, told, _loaded)
    blend, coding = estimator.blend_, estimator.coding_
    told = dict(estimator.to_dict() if told is None else told)
    if isinstance(coding, ClassCoding):
        return LoadedClassifier(blend, coding, told, float(estimator.sharpness_))
    if estimator.intervals is None:
        return LoadedRegressor(blend, coding, told)
    if estimator.intervals == "split":
        return LoadedRegressor(blend, coding, told, "split", estimator._residuals)
    folds, predictors = estimator._folds, tuple(estimator._fold_predictors)
    return LoadedRegressor(blend, coding, told, "cv_plus", estimator._residuals, folds, predictors)


def _content(header: dict[str, str], path: str | PathLike[str]) -> Any:
    """The plain values; ModelError for the header of another kind of file."""
    if header.get("format") != FORMAT:
        raise ModelError(
            f"Got {os.fspath(path)}, which holds tensors but no machine, but expected a file that "
            "export of a machine or a tree wrote."
        )
    version = header.get("version", "")
    if version != str(VERSION):
        raise ModelError(
            f"Got {os.fspath(path)} of format version {version!r}, but expected {VERSION}. It was written by featlearn "
            f"{header.get('featlearn', '?')}, this is {__version__}: use one that reads it, or export it again."
        )
    try:
        return json.loads(header["content"])
    except (KeyError, ValueError) as error:
        raise ModelError(f"Got {os.fspath(path)}, whose header is damaged ({error}). Export it again.") from error


def _write(place: Path, data: bytes, path: str | PathLike[str]) -> None:
    """Write beside the place and move: readers see the earlier file or the whole new one."""
    if not place.parent.is_dir():
        raise FileNotFoundError(f"Got {os.fspath(path)}, but there is no folder {place.parent}. Create it first.")
    if place.is_dir():
        raise IsADirectoryError(f"Got {os.fspath(path)}, which is a folder, but expected a file.")
    # A folder beside the place, not a file: files of tempfile could be read by their owner alone, and so could the
    # machine.
    with tempfile.TemporaryDirectory(prefix=f".{place.name[:100]}.", dir=place.parent) as folder:
        beside = Path(folder) / "machine"
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a crash soon after could leave the new name on an empty file
        beside.replace(place)
