"""RFM trees: one recursive feature machine a leaf, for more rows than one kernel matrix can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin, is_classifier, is_regressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from torch import Tensor

from ..exceptions import DataError
from .columns import Columns
from .rfm import RFMClassifier, RFMRegressor
from .routing import take
from .targets import ClassCoding, RegressionCoding
from .tree_base import RFMTree
from .tree_growth import Targets
from .tree_intervals import Residuals, set_aside
from .tree_use import ClassificationTree, RegressionTree, sliceable

__all__ = ["RFMTreeClassifier", "RFMTreeRegressor"]

_COMMON = """
    For more rows than one kernel matrix can hold. A node with more than ``max_leaf_size`` rows is halved along the
    direction v in which a kernel machine, fitted to a sample of its rows, changes most: the leading eigenvector of its
    average gradient outer product (AGOP).

    .. math::

        G = \\frac1s \\sum_{i,o} \\nabla f_o(x_i) \\nabla f_o(x_i)^\\top, \\qquad
        G v = \\lambda_{\\max} v, \\qquad x \\to \\text{left if } x^\\top v \\le b

    with b the midpoint between the two distinct projections next to the median. Every leaf has a machine of its own.
    Near the thresholds several leaves answer, each with a share:

    .. math::

        f(x) = \\sum_l P(l \\mid x)\\, f_l(x), \\qquad
        P(l \\mid x) = \\prod_{j \\in \\mathrm{path}(l)} \\sigma\\Big(\\mp \\frac{x^\\top v_j - b_j}{T\\,
        \\mathrm{IQR}_j}\\Big)

    with the minus where the path goes left, and :math:`\\mathrm{IQR}_j` the interquartile range of the node's
    projections. The most probable leaves are kept, up to .99 of the mass but at most 12.

    Parameters
    ----------
    leaf : estimator, optional
        Unfitted machine of every leaf, {leaf}. Default:
        ``{machine}(kernel="rotated+coordinates", selection="holdout", max_iter=3)``. Where it has no ``random_state``
        every leaf gets one of its own.
    max_leaf_size : int, default=10000
        Nodes with more rows are split. Half of it fits somewhat faster, predicts in two thirds of the time and takes a
        quarter of the memory a leaf, with a larger error: leaves know fewer rows.
    split_samples : int, default=2000
        Random rows of a node, at most, whose machine gives its direction.
    routing : {"soft", "hard"} or float, default="soft"
        "soft" chooses the temperature T among 0 and 20 values from .025 to 4.5, on a tenth of the rows of every leaf,
        at most 1,500 a leaf and about 10,000 in all, which no leaf is fitted to. "hard" is T = 0, a number is T
        itself: nothing is held out then.
    selection : {"shared", "leaf"}, default="shared"
        Where the leaf has something to choose (kernel, columns, bandwidth, power, ridge, iterate): once for all leaves,
        by one machine on ``max_leaf_size`` rows drawn from all, or anew in every leaf.
    columns : Columns, optional
        How columns are encoded, for the splits and for leaves that do not say. Default: the (first) ``columns`` of the
        leaf, else ``Columns()``: standardised, text and categories as one-hot blocks.
    {own}n_jobs : int, optional
        Splits of a level, and leaves, that are worked on at once, through :class:`joblib.Parallel`. Any joblib backend
        will do: under ``joblib.parallel_config(backend="dask")`` the workers of a Dask cluster fit the leaves.
    random_state : int, RandomState or None
        Every node and leaf draws from a generator of its own, by its place in the tree: the same seed gives the same
        tree, whatever ``n_jobs``.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    leaves_ : list of TreeLeaf
        ``heap`` (place in the binary tree: 1 for the root, 2 i and 2 i + 1 for the children of i), ``depth``, ``n``
        (rows), ``estimator`` (the fitted machine; a constant where rows or targets do not differ, or are fewer than 5)
        and ``mean`` ({mean}).
    nodes_ : list of TreeNode
        The splits, the root first: ``heap``, ``depth``, ``n``, ``direction`` (v, in encoded columns), ``threshold``
        (b), ``iqr``, ``left`` and ``right`` (place of a node, or ``-1 - l`` for leaf l). Empty for a tree of one leaf.
    temperature_ : float
        T; 0 is hard routing.
    temperatures_ : list of dict
        The mean squared error{brier} of every T on the rows held out; empty where T was not chosen.
    routing_ : Routing
        The splits as one function of rows, with the encoding ``routing_.columns`` of the splits.
    feature_importances_ : array of shape (d,)
        Mean of those of the leaves, weighted by their rows; constant leaves do not count.
    coding_ :
        What turns targets into numbers and back.
    {attributes}n_features_in_, feature_names_in_ :
        As everywhere in scikit-learn.

    Notes
    -----
    Every level of the tree costs ``2 n p`` flops for the projections, and each of its nodes ``s^3 / 3 + 4 s^2 p`` for
    the direction; a leaf costs what its machine costs. With leaves of at most m rows that is some ``n / m`` fits to m
    rows: linear in n, where a single machine is quadratic or cubic.

    X is read in chunks of rows and never copied as a whole, so it can be a ``numpy.memmap`` larger than memory. Held
    are y, one index a row, one leaf at a time per worker, and the fitted leaves: some ``8 n (k + C)`` bytes, or half of
    that in single precision, for kernels that see k columns.

    A tree of one leaf predicts what the machine alone would, fitted to the same rows. Leaves see fewer rows than one
    machine would: a tree is worth it where that one is out of reach.

    The design of the tree (splits, mixing, temperature) is this package's own; the machine in a leaf is published.

    References
    ----------
    Radhakrishnan, Beaglehole, Pandit, Belkin (2024). Mechanism for feature learning in neural networks and
    backpropagation-free machine learning models. Science 383. arXiv:2212.13881.

    {references}Examples
    --------
    {example}
"""


def _document(cls: type, **parts: str) -> None:
    """Complete the one line of a class with what both have in common."""
    text = _COMMON
    for name, part in parts.items():
        text = text.replace("{" + name + "}", part)
    cls.__doc__ = f"{cls.__doc__}\n{text}"


class RFMTreeRegressor(RegressorMixin, RegressionTree, RFMTree):
    """A tree with a recursive feature machine in every leaf, for regression."""

    _kind = "a regressor, such as RFMRegressor()"

    def __init__(
        self,
        leaf: Any = None,
        *,
        max_leaf_size: int = 10_000,
        split_samples: int = 2000,
        routing: Any = "soft",
        selection: str = "shared",
        columns: Columns | None = None,
        intervals: str | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            leaf, max_leaf_size=max_leaf_size, split_samples=split_samples, routing=routing, selection=selection,
            columns=columns, n_jobs=n_jobs, random_state=random_state, verbose=verbose,
        )  # fmt: skip
        self.intervals = intervals

    def _default_leaf(self) -> Any:
        return RFMRegressor(kernel="rotated+coordinates", selection="holdout", max_iter=3)

    def _constant(self) -> Any:
        return DummyRegressor()

    def _is_kind(self, leaf: Any) -> bool:
        return bool(is_regressor(leaf))

    def _check_own(self) -> None:
        if self.intervals == "cv_plus":
            raise DataError(
                'Got intervals="cv_plus", but a tree offers "split" alone: the other takes five more trees, and '
                'compares every row to predict with every training row. Pass intervals="split".'
            )
        if self.intervals not in (None, "split"):
            raise DataError(f'Got intervals={self.intervals!r}, but expected None or "split".')

    def _targets(self, y: Any, n: int, weights: Tensor | None) -> tuple[RegressionCoding, Targets]:
        coding = RegressionCoding.fit(y, n, weights, center=False)
        return coding, Targets(coding.encode(y, n))

    def _decoded(self, values: Tensor) -> NDArray[Any]:
        return np.asarray(self.coding_.decode(values))

    def _set_aside(self, rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        if self.intervals is None:
            return rows, rows[:0]
        aside = set_aside(rows, seed)
        kept = rows[~torch.isin(rows, aside)]
        if len(kept) < 2:
            raise DataError(
                f'Got {len(rows)} row(s) with weight, but intervals="split" sets a fifth aside and needs 2 others.'
            )
        return kept, aside

    def _calibrate(self, X: Any, targets: Targets, aside: Tensor) -> None:
        self.residuals_ = None
        if len(aside):
            rows = take(X, aside)
            found = targets.coded(aside) - self._mixed(rows)
            self.residuals_ = Residuals.of(found, self._leaf_of(rows), len(self.leaves_))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class RFMTreeClassifier(ClassifierMixin, ClassificationTree, RFMTree):
    """A tree with a recursive feature machine in every leaf, for classification."""

    _kind = "a classifier with predict_proba, such as RFMClassifier()"

    def _default_leaf(self) -> Any:
        return RFMClassifier(kernel="rotated+coordinates", selection="holdout", max_iter=3)

    def _constant(self) -> Any:
        return DummyClassifier()

    def _is_kind(self, leaf: Any) -> bool:
        return bool(is_classifier(leaf)) and hasattr(leaf, "predict_proba")

    def _targets(self, y: Any, n: int, weights: Tensor | None) -> tuple[ClassCoding, Targets]:
        coding = ClassCoding.fit(y, n, weights)
        there = torch.arange(n) if weights is None else weights.nonzero()[:, 0]
        labels = torch.zeros(n, dtype=torch.int64)
        labels[there] = coding.indices(take(sliceable(y), there), len(there))
        return coding, Targets(labels, len(coding.classes))

    def _decoded(self, values: Tensor) -> NDArray[Any]:
        return np.asarray(self.classes_[values.numpy()])


_document(
    RFMTreeRegressor,
    leaf="any regressor",
    machine="RFMRegressor",
    mean="of the targets",
    brier="",
    own="""intervals : {"split"}, optional
        Prepare ``predict_interval``: a fifth of the rows is set aside before anything else. One half of them gives
        every leaf the median of its absolute residuals as a unit, the other half the quantile in these units, so that
        widths follow the leaves and the coverage is guaranteed. ``"cv_plus"`` is not offered for trees.
    """,
    attributes="""residuals_ : Residuals or None
        Of the rows set aside for intervals.
    """,
    references="""Lei, G'Sell, Rinaldo, Tibshirani, Wasserman (2018). Distribution-free predictive inference for
    regression. Journal of the American Statistical Association 113.

    """,
    example=""">>> import numpy as np
    >>> from featlearn import RFMRegressor, RFMTreeRegressor
    >>> X = np.random.default_rng(0).normal(size=(400, 4))
    >>> y = np.where(X[:, 0] > 0, X[:, 1], np.sin(2 * X[:, 2]))
    >>> leaf = RFMRegressor(kernel="laplace", alpha=1e-2, max_iter=2, selection=None)
    >>> tree = RFMTreeRegressor(leaf, max_leaf_size=100, random_state=0).fit(X, y)
    >>> len(tree.leaves_), tree.predict(X[:2]).shape
    (4, (2,))
    >>> bool(tree.feature_importances_[3] < 0.1)
    True""",
)
_document(
    RFMTreeClassifier,
    leaf="any classifier with ``predict_proba``",
    machine="RFMClassifier",
    mean="the shares of the classes",
    brier=" of the probabilities (Brier score)",
    own="",
    attributes="""classes_ : array of shape (K,)
        Labels, ascending.
    """,
    references="",
    example=""">>> import numpy as np
    >>> from featlearn import RFMClassifier, RFMTreeClassifier
    >>> X = np.random.default_rng(0).normal(size=(400, 4))
    >>> y = np.where(X[:, 0] * X[:, 1] > 0, "same", "other")
    >>> leaf = RFMClassifier(kernel="laplace", alpha=1e-2, max_iter=2, selection=None)
    >>> tree = RFMTreeClassifier(leaf, max_leaf_size=100, random_state=0).fit(X, y)
    >>> len(tree.leaves_), tree.predict_proba(X[:2]).shape
    (4, (2, 2))""",
)
