r"""Deep recursive feature machines: layers of a metric and random features, and how they collapse the classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from .._arrays import as_tensor
from .._random import generator
from ..exceptions import DataError
from .loop import HeldOut, Recipe, run
from .rules import KERNELS, MetricRule, as_bandwidth

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["DeepRFMLayer", "DeepRFMResult", "deep_rfm", "scatter_ratio", "simplex_distance"]

FEATURES = ("relu", "cos")
_STEP = MetricRule(power=1.0, normalize="max", points="all")


@dataclass(frozen=True, kw_only=True)
class DeepRFMLayer:
    r"""Collapse of the training rows at three places of one layer.

    Attributes
    ----------
    nc1, nc1_metric, nc1_features : float
        :func:`scatter_ratio` of the rows that enter (at unit length), after :math:`M^{1/2}`, and after the random
        features.
    nc2, nc2_metric, nc2_features : float
        :func:`simplex_distance` at the same places.
    test_accuracy : float or None
        Of the kernel predictor on the rows that enter, before it has a metric; None without test rows.
    """

    nc1: float
    nc1_metric: float
    nc1_features: float
    nc2: float
    nc2_metric: float
    nc2_features: float
    test_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class DeepRFMResult:
    """Neural collapse layer by layer.

    Attributes
    ----------
    layers : tuple of DeepRFMLayer
    n_samples, n_classes : int
    features : str
    """

    layers: tuple[DeepRFMLayer, ...]
    n_samples: int
    n_classes: int
    features: str

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self) | {"layers": [asdict(layer) for layer in self.layers]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DeepRFMResult:
        """Inverse of :meth:`to_dict`."""
        return cls(**{**plain, "layers": tuple(DeepRFMLayer(**layer) for layer in plain["layers"])})

    def frame(self) -> pd.DataFrame:
        """One row a layer, numbered from 1."""
        import pandas as pd

        index = pd.RangeIndex(1, len(self.layers) + 1, name="layer")
        return pd.DataFrame([asdict(layer) for layer in self.layers], index=index)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Both measures through the three places of every layer, on a logarithmic axis."""
        from ..plots.deep_rfm import plot_deep_rfm

        return plot_deep_rfm(self.to_dict(), ax=ax)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Write the table as a page."""
        from ..report.files import write_table

        write_table(self.frame(), path, title="Deep recursive feature machine")

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(float_format="{:.3g}".format))


def deep_rfm(
    X: Any,
    y: Any,
    *,
    X_test: Any = None,
    y_test: Any = None,
    depth: int = 6,
    width: int = 512,
    bandwidth: float = 2.0,
    features: str = "relu",
    scale: float = 0.05,
    standardize: bool = True,
    random_state: int = 0,
) -> DeepRFMResult:
    r"""Stack kernel predictors, their AGOP and random features, and measure neural collapse on the way.

    Each layer brings its rows to unit length, fits a Laplace kernel to them without a ridge (targets +1 for the class,
    -1 for the others), takes the AGOP of that predictor once, and maps the rows on:

    .. math:: M = G / \max G, \qquad x \mapsto \Phi(M^{1/2} x), \qquad
        \Phi(u) = \mathrm{relu}(W u) \;\text{ or }\; \sqrt{2/D} \cos(W u + b)

    Parameters
    ----------
    X : array, DataFrame or Tensor of shape (n, ...)
        Everything past the first axis is flattened.
    y : array of shape (n,)
        Class labels of any kind.
    X_test, y_test : like X and y, optional
        Rows to report accuracy on. Nothing else depends on them.
    depth : int, default 6
        Layers.
    width : int, default 512
        D, the number of random features of a layer.
    bandwidth : float, default 2.0
        L of the Laplace kernel exp(-r/L).
    features : {"relu", "cos"}, default "relu"
        "relu": W uniform between :math:`\pm 1/\sqrt d`. "cos": W Cauchy with ``scale``, b uniform on a circle.
    scale : float, default 0.05
        For "cos" only.
    standardize : bool, default True
        Subtract the mean of each column and divide by its standard deviation (constant columns become 0).
    random_state : int, default 0
        For W and b.

    Returns
    -------
    DeepRFMResult

    Raises
    ------
    DataError
        For data or parameters that cannot be used, before any work; for a layer whose rows have become equal.

    Notes
    -----
    A layer costs two solutions of n^3/3 flops in float64 and ``2 n^2 d r`` flops for the AGOP, r classes less one;
    memory is two n x n matrices.

    References
    ----------
    Beaglehole, Sukenik, Mondelli, Belkin (2024): Average gradient outer product as a mechanism for deep neural
    collapse, arXiv:2402.13728. Its public code divides the scatter within classes by the number of classes once more.

    Examples
    --------
    >>> from featlearn.datasets import load_fashion_mnist
    >>> data = load_fashion_mnist(n=200)
    >>> result = deep_rfm(data.normalized(), data.labels, depth=3, width=256)
    >>> [round(layer.nc1, 1) for layer in result.layers]
    [1.6, 0.5, 0.2]
    """
    _check(depth, width, features, scale)
    recipe = Recipe(
        KERNELS["laplace"], as_bandwidth(bandwidth), ((0.0,),), _STEP, max_iter=1, tol=0.0, selected=False
    )  # fmt: skip
    classes, train, test = _read(X, y, X_test, y_test)
    if standardize:
        mean, spread = train.rows.mean(dim=0), train.rows.std(dim=0, correction=0)
        inverse = torch.where(spread > 0, 1 / spread, torch.zeros_like(spread))
        train, test = (_Labelled((each.rows - mean) * inverse, each.labels) for each in (train, test))
    layers = []
    for number in range(1, depth + 1):
        train, test = (_Labelled(_unit(each.rows), each.labels) for each in (train, test))
        root, accuracy = _learned_root(recipe, train, test, len(classes), number)
        phi = _RandomFeatures.drawn(features, width, train.rows, scale, generator(random_state, "features", number))
        seen = train.rows @ root
        places = (train.rows, seen, phi(seen))
        (nc1, nc1_metric, nc1_features), (nc2, nc2_metric, nc2_features) = (
            [measure(place, train.labels) for place in places] for measure in (scatter_ratio, simplex_distance)
        )
        layers.append(
            DeepRFMLayer(
                nc1=nc1, nc1_metric=nc1_metric, nc1_features=nc1_features, nc2=nc2, nc2_metric=nc2_metric,
                nc2_features=nc2_features, test_accuracy=accuracy,
            )
        )  # fmt: skip
        train, test = _Labelled(places[2], train.labels), _Labelled(phi(test.rows @ root), test.labels)
    return DeepRFMResult(layers=tuple(layers), n_samples=len(train.rows), n_classes=len(classes), features=features)


class _Labelled(NamedTuple):
    """Rows (n, d) and the places of their classes (n,)."""

    rows: Tensor
    labels: Tensor


def _learned_root(
    recipe: Recipe, train: _Labelled, test: _Labelled, classes: int, number: int
) -> tuple[Tensor, float | None]:
    """``M^(1/2)`` after one AGOP, and the test accuracy of the predictor that it was taken of."""
    targets, truth = (2 * one_hot(each.labels, classes).to(train.rows) - 1 for each in (train, test))
    judge = HeldOut(test.rows, truth) if len(truth) else None
    done = run(recipe, train.rows, targets, judge=judge)
    factor = getattr(done.kernels[-1], "factor", None)
    if factor is None:
        raise DataError(f"Got rows that layer {number} cannot tell apart: its AGOP is zero. Use fewer layers.")
    # Columns of the factor are eigenvectors times roots of eigenvalues.
    root = (factor / factor.norm(dim=0)) @ factor.mT
    honest = done.honest[0]
    return root, None if honest is None else float((honest.argmax(dim=1) == test.labels).double().mean())


@dataclass(frozen=True, eq=False)
class _RandomFeatures:
    """``relu(W u)``, or ``sqrt(2/D) cos(W u + b)`` where there is a b."""

    weight: Tensor
    phase: Tensor | None

    @classmethod
    def drawn(cls, kind: str, width: int, rows: Tensor, scale: float, source: torch.Generator) -> _RandomFeatures:
        d = rows.shape[1]
        uniform = torch.rand(width, d, generator=source, dtype=torch.float64)
        if kind == "relu":
            return cls(((2 * uniform - 1) / math.sqrt(d)).to(rows), None)
        phase = 2 * math.pi * torch.rand(width, generator=source, dtype=torch.float64)
        return cls((scale * torch.tan(math.pi * (uniform - 0.5))).to(rows), phase.to(rows))

    def __call__(self, rows: Tensor) -> Tensor:
        values = rows @ self.weight.mT
        return values.relu() if self.phase is None else (values + self.phase).cos() * math.sqrt(2 / len(self.weight))


def scatter_ratio(rows: Tensor, labels: Tensor) -> float:
    r"""Scatter within classes over scatter between them, by traces; 0 when every class is one point.

    .. math:: \mathrm{NC1} = \frac{\frac{1}{n} \sum_i |x_i - \mu_{y_i}|^2}
                                 {\frac{1}{K} \sum_c |\mu_c - \bar\mu|^2}, \qquad
              \bar\mu = \frac{1}{K} \sum_c \mu_c

    Parameters
    ----------
    rows : Tensor of shape (n, d)
    labels : Tensor of shape (n,), int64
        0 to K - 1, each at least once.

    Returns
    -------
    float
        ``nan`` when all class means coincide.
    """
    means = _class_means(rows, labels)
    within = float((rows.double() - means[labels]).square().sum()) / len(rows)
    between = float((means - means.mean(dim=0)).square().sum()) / len(means)
    return within / between if between > 0 else math.nan


def simplex_distance(rows: Tensor, labels: Tensor) -> float:
    r"""How far the centred class means are from a regular simplex: 0 when all angles between them are equal.

    .. math:: \mathrm{NC2} = \frac{1}{K^2} \sum_{cd} (U U^\top - E)_{cd}^2, \qquad
              E = \left(1 + \tfrac{1}{K-1}\right) I - \tfrac{1}{K-1} 1 1^\top

    Rows of U are the :math:`\mu_c - \bar\mu` at unit length.

    Parameters
    ----------
    rows, labels :
        As of :func:`scatter_ratio`.

    Returns
    -------
    float
        ``nan`` when a class mean is the mean of all.
    """
    means = _class_means(rows, labels)
    centred, classes = means - means.mean(dim=0), len(means)
    directions = centred / centred.norm(dim=1, keepdim=True)
    simplex = (classes * torch.eye(classes, dtype=torch.float64, device=rows.device) - 1) / (classes - 1)
    return float((directions @ directions.mT - simplex).square().mean())


def _class_means(rows: Tensor, labels: Tensor) -> Tensor:
    members = one_hot(labels).double()
    return (members / members.sum(dim=0)).mT @ rows.double()


# input ----------------------------------------------------------------------------------------------------------------


def _read(X: Any, y: Any, X_test: Any, y_test: Any) -> tuple[NDArray[Any], _Labelled, _Labelled]:
    """Classes, training rows and test rows; the latter may be none."""
    rows = _rows(X, "X")
    classes = np.unique(_labels(y, len(rows), "y"))
    if len(classes) < 2:
        raise DataError(f"Got one class ({classes[0]}), but expected at least two.")
    train = _Labelled(rows, _places(y, classes, rows, "y"))
    if (X_test is None) != (y_test is None):
        raise DataError("Got X_test or y_test without the other, but expected both or neither.")
    if X_test is None:
        return classes, train, _Labelled(rows[:0], train.labels[:0])
    test = _rows(X_test, "X_test").to(rows)
    if test.shape[1] != rows.shape[1]:
        raise DataError(f"Got X_test with {test.shape[1]} columns, but expected {rows.shape[1]} as in X.")
    return classes, train, _Labelled(test, _places(y_test, classes, test, "y_test"))


def _rows(X: Any, name: str) -> Tensor:
    tensor, _ = as_tensor(X, name=name, min_rank=2)
    return tensor.detach().flatten(start_dim=1)


def _labels(y: Any, n: int, name: str) -> NDArray[Any]:
    labels = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if labels.shape != (n,):
        raise DataError(f"Got {name} of shape {labels.shape}, but expected ({n},), one label a row.")
    return labels


def _places(y: Any, classes: NDArray[Any], rows: Tensor, name: str) -> Tensor:
    """Which of the sorted classes each label is."""
    labels = _labels(y, len(rows), name)
    unknown = ~np.isin(labels, classes)
    if unknown.any():
        raise DataError(f"Got the class {labels[unknown][0]} in {name}, which y does not have. Drop these rows.")
    return torch.from_numpy(np.searchsorted(classes, labels)).to(rows.device)


def _unit(rows: Tensor) -> Tensor:
    """At unit length; rows of zeros stay."""
    norms = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, torch.ones_like(norms))


def _check(depth: Any, width: Any, features: Any, scale: Any) -> None:
    for name, value in (("depth", depth), ("width", width)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise DataError(f"Got {name}={value!r}, but expected a whole number of at least 1.")
    if features not in FEATURES:
        raise DataError(f"Got features={features!r}, but expected one of {', '.join(FEATURES)}.")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise DataError(f"Got scale={scale!r}, but expected a positive finite number.")
