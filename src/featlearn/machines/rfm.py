"""Recursive feature machines as scikit-learn estimators: regression and classification."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from torch import Tensor

from .._random import generator
from ..exceptions import DataError, FeatlearnWarning
from .calibration import fit_sharpness, probabilities
from .estimator import RFMBase, blend_of, like
from .fitting import Plan, Problem, honest_at_identity, refit
from .intervals import cv_plus_interval, split_interval
from .parameters import document
from .rules import Rule
from .selection import FOLDS, Selection, fold_of
from .targets import ClassCoding, RegressionCoding

__all__ = ["RFMClassifier", "RFMRegressor", "take"]

UNLIKE = 30  # ratio of the outputs' standard deviations from which one is told that their units matter
_ASIDE = 0.2  # share of the rows that split intervals keep

_COMMON = """
    A kernel machine that learns its metric from its own gradients (Radhakrishnan et al., 2024): solve kernel ridge
    regression, take the average gradient outer product of the predictor (AGOP), make it the metric of the kernel,
    repeat.

    .. math::

        (K_M + \\alpha I)\\, \\beta = Y, \\qquad
        G = \\frac1n \\sum_{i,o} \\nabla f_o(x_i) \\nabla f_o(x_i)^\\top, \\qquad
        M \\leftarrow G^s / \\max_{jk} |G^s|_{jk}

    With all parameters at their defaults everything is chosen from the training data: kernel and shape of the metric,
    columns (standardised as they are, or as normal scores of their ranks), bandwidth, power s, ridge and iterate. The
    candidates race on rows that they have not seen: five folds for n <= 2,000 (two for all candidates, the others for
    the best four), else one fifth of the rows with ever more training rows for ever fewer candidates. The winner is
    refitted on all rows, or up to three machines where their weighted average does better on the held-out rows (greedy
    ensemble selection, Caruana et al., 2004). Test data are never involved.

    Parameters
    ----------
    kernel : str, Kernel or sequence of them, optional
        What to choose among. "laplace", "gaussian", "lpq" (product of Laplace kernels), "quadratic": one kernel, full
        metric ("lpq": diagonal). "rotated": Laplace, full metric, warped columns; "aligned": the same with a diagonal
        metric; "coordinates": product of Laplace kernels, diagonal, warped; "rotated+coordinates": the mean of two
        kernels, each with a metric of its own. Default: the last four, and "gaussian" for smooth targets.
    metric : {"full", "block", "diagonal", "fixed"}, optional
        Shape of the metric of every kernel. "block": numeric columns and every categorical column apart.
    bandwidth : float, ("median", multiple) or sequence, optional
        A constant, or a multiple of the median distance between rows in the current metric. Default ("median", 1).
    alpha : float or sequence, optional
        Ridge, as in :class:`~sklearn.kernel_ridge.KernelRidge`. Default: decades from 1e-3 to 10.
    power : float or sequence, optional
        The exponent s. Default 1/2 and 1: with 1, weak directions are forgotten faster, which can hurt.
    max_iter : int, optional
        AGOP steps; iterate 0 is plain kernel ridge regression and always a candidate. Default 5.
    rule : {{"featlearn", "science", "uci", "pip", "grokking", "xrfm"}} or MetricRule, default="featlearn"
        What None stands for in all the others. The last five are conventions of published code: Laplace kernel, no
        scaling of columns, and mostly the last iterate.
    columns : Columns or sequence of them, optional
        How columns are encoded. Default: both transforms above; text and categories become one-hot blocks. Tables with
        gaps need ``Columns(missing="indicator")``.
    solver : str or RidgeSolver, default="auto"
        Of the ridge systems: Cholesky for n <= 4,000, else preconditioned conjugate gradients.
    selection : {{"auto", "cv", "holdout", "loo", "validation"}} or None, default="auto"
        "validation" scores on ``fit(..., X_val=, y_val=)``. "loo" is honest for ``max_iter=0`` alone: after the metric
        has seen the labels it is badly optimistic. None: nothing is held out; the last iterate of the first kernel,
        columns, bandwidth and power is taken, with the first ridge that was asked for, or else 0.1.
    metric_samples : int, optional
        Learn the metric on so many random rows, then solve once on all. It saves time and costs accuracy.
    blend : int, optional
        Most machines that are averaged; 1: the best alone. Default 3, and 1 for the conventions of published code.
    {own}
    tol : float, default=1e-3
        Stop when no metric changed by more than this, relatively.
    warm_start : bool, default=False
        Start from the metric of the last fit, with its kernel, columns and ridge, and without selection; after a blend,
        from its first machine alone.
    callback : callable, optional
        Called with the entry of ``history_`` after each step of the final fit (of every machine that is averaged);
        returning True stops it.
    n_jobs : int, optional
        Candidates that run at once, in threads.
    random_state : int, RandomState or None
        Draws folds, the rows of the median distance and of the AGOP. The same seed gives the same machine.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    dual_coef_ : array of shape (n, C)
    agop_ : array of shape (p, p)
        Of the fitted predictor, in encoded columns (see ``columns_``).
    feature_importances_ : array of shape (d,)
        Diagonal of the AGOP summed over the encoded columns of an input column, in standardised units, as shares.
    directions_ : array of shape (k, d)
        Leading eigenvectors of the AGOP among the input columns, and ``direction_shares_`` (k,) of its trace.
    metric_factor_ : array of shape (p, k) or (p,)
        A with M = A A^T, of the first kernel; see ``metric_at``.
    kernel_, kernel_name_, bandwidth_, alpha_, power_, n_iter_ :
        What was chosen; ``n_iter_`` is the iterate.
    members_ : list of dict
        The machines that are averaged, with their weights. All attributes but ``feature_importances_``, which is the
        mean of theirs, are those of the first, which has the largest weight.
    selection_ : Selection or None
        The table of candidates: ``selection_.frame()``.
    history_ : list of dict
        Every step of the final fit.
    solution_ : RidgeSolution
        How the last system was solved, and why the solver stopped.
    predictor_, columns_, coding_ :
        The parts of which predictions are made.
    n_features_in_, feature_names_in_ :
        As everywhere in scikit-learn.
    {attributes}

    Notes
    -----
    A step costs ``n^2 p`` flops for the kernel matrix, ``n^3/3`` for its Cholesky factor (or some 10 products with it
    above 4,000 rows) and ``2 n^2 p`` for the AGOP; memory is one n x n matrix. Up to 500 rows everything is in double
    precision, above in single.

    Several outputs share one metric, which is learned from the sum of their gradients' outer products, and one ridge:
    outputs in unlike units should be standardised first.

    Warps are not from the paper. A warp is a monotone map of one column, steep where the predictor changes; it is
    learned from the squared gradients given the column's value, as the metric is from their mean.

    References
    ----------
    Caruana, Niculescu-Mizil, Crew, Ksikes (2004). Ensemble selection from libraries of models. ICML.

    Radhakrishnan, Beaglehole, Pandit, Belkin (2024). Mechanism for feature learning in neural networks and
    backpropagation-free machine learning models. Science 383. arXiv:2212.13881.

    Examples
    --------
    {example}
"""


class RFMRegressor(RegressorMixin, RFMBase):
    """Recursive feature machine for regression."""

    def __init__(
        self,
        *,
        kernel: Any = None,
        metric: str | None = None,
        bandwidth: Any = None,
        alpha: Any = None,
        power: Any = None,
        max_iter: int | None = None,
        rule: Any = "featlearn",
        columns: Any = None,
        solver: Any = "auto",
        selection: str | None = "auto",
        metric_samples: int | None = None,
        blend: int | None = None,
        intervals: str | None = None,
        tol: float = 1e-3,
        warm_start: bool = False,
        callback: Callable[[dict[str, Any]], object] | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            kernel=kernel, metric=metric, bandwidth=bandwidth, alpha=alpha, power=power, max_iter=max_iter, rule=rule,
            columns=columns, solver=solver, selection=selection, metric_samples=metric_samples, blend=blend,
            tol=tol, warm_start=warm_start, callback=callback, n_jobs=n_jobs, random_state=random_state,
            verbose=verbose,
        )  # fmt: skip
        self.intervals = intervals

    def predict(self, X: Any) -> Any:
        """Predictions (m,) or (m, C), of the kind of X."""
        values = self._expansion(X)
        return like(X, self.coding_.decode(values))

    def predict_interval(self, X: Any, level: float = 0.9) -> Any:
        """Intervals (m, 2), or (m, C, 2) for several outputs, that hold the target with probability ``level``.

        With ``intervals="split"`` the coverage is at least the level, on average over data; with "cv_plus" it is
        close to it, and no row is lost for training.

        Raises
        ------
        DataError
            For a machine fitted with ``intervals=None``, or a level outside (0, 1).
        """
        values = self._expansion(X)
        if self.intervals is None:
            raise DataError('Got a machine fitted without intervals. Fit it with intervals="split" or "cv_plus".')
        if self.intervals == "split":
            found = split_interval(values, self._residuals, level)
        else:
            fold_values = torch.stack([predictor.expansion(X) for predictor in self._fold_predictors])
            found = cv_plus_interval(fold_values, self._folds, self._residuals, level)
        found = found + self.coding_.mean.to(found)[:, None]
        return like(X, found[:, 0] if self.coding_.one_output else found)

    def _check_own(self) -> None:
        if self.intervals not in (None, "split", "cv_plus"):
            raise DataError(f'Got intervals={self.intervals!r}, but expected None, "split" or "cv_plus".')

    def _targets(
        self, y: Any, n: int, weights: Tensor | None, rule: Rule
    ) -> tuple[RegressionCoding, Tensor, Tensor | None, Tensor | None]:
        coding = RegressionCoding.fit(y, n, weights, center=rule.center)
        targets = coding.encode(y, n)
        spreads = targets.square().mean(dim=0).sqrt()
        spreads = spreads[spreads > 0]
        if len(spreads) > 1 and spreads.max() > UNLIKE * spreads.min():
            warnings.warn(
                f"Got outputs whose standard deviations range from {spreads.min():.3g} to {spreads.max():.3g}. They "
                "share one metric and count by their squares, so the small ones are neglected: standardise y first.",
                FeatlearnWarning,
                stacklevel=4,
            )
        return coding, targets, weights, None

    def _set_aside(self, weights: Tensor | None, n: int, plan: Plan) -> tuple[Tensor | None, Tensor | None]:
        rows = n if weights is None else int((weights > 0).sum())
        if self.intervals == "cv_plus" and rows < 4:
            raise DataError(f'Got {rows} sample(s), but intervals="cv_plus" fits to half of them: 4 is the minimum.')
        if self.intervals != "split":
            return weights, None
        aside = torch.randperm(n, generator=generator(plan.random_state, "intervals"))[: max(1, round(_ASIDE * n))]
        kept = torch.ones(n, dtype=torch.float64) if weights is None else weights.clone()
        kept[aside] = 0
        if int((kept > 0).sum()) < 2:
            raise DataError(f'Got {n} rows, but intervals="split" sets a fifth aside and needs 2 others with weight.')
        return kept, aside if weights is None else aside[weights[aside] > 0]

    def _finish(
        self,
        X: Any,
        y: Any,
        plan: Plan,
        problem: Problem,
        chosen: Selection | None,
        aside: Tensor | None,
        y_val: Any,
    ) -> None:
        if aside is not None:
            values = self.predictor_.expansion(take(X, aside))
            targets = self.coding_.encode(take(y, aside), len(aside))
            self._residuals = targets.to(values) - values
        if self.intervals == "cv_plus":
            n = len(problem.targets)
            folds = min(FOLDS, n // 2)
            self._folds = fold_of(n, None, folds, generator(plan.random_state, "intervals"))
            self._residuals = torch.empty_like(problem.targets)
            self._fold_predictors = []
            for fold in range(folds):
                own, left_out = (self._folds != fold).nonzero()[:, 0], (self._folds == fold).nonzero()[:, 0]
                part = problem.at(own)
                fitted = refit(plan, part, chosen)
                blend = blend_of(part, fitted)
                rows = [problem.encoded[member.candidate.transform].x[left_out] for member in fitted]
                values = blend.of_encoded(rows)
                self._residuals[left_out] = problem.targets[left_out] * problem.scale - values
                self._fold_predictors.append(blend)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class RFMClassifier(ClassifierMixin, RFMBase):
    """Recursive feature machine for classification, with calibrated probabilities."""

    def __init__(
        self,
        *,
        kernel: Any = None,
        metric: str | None = None,
        bandwidth: Any = None,
        alpha: Any = None,
        power: Any = None,
        max_iter: int | None = None,
        rule: Any = "featlearn",
        columns: Any = None,
        solver: Any = "auto",
        selection: str | None = "auto",
        metric_samples: int | None = None,
        blend: int | None = None,
        coding: str | None = None,
        class_weight: Any = None,
        tol: float = 1e-3,
        warm_start: bool = False,
        callback: Callable[[dict[str, Any]], object] | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            kernel=kernel, metric=metric, bandwidth=bandwidth, alpha=alpha, power=power, max_iter=max_iter, rule=rule,
            columns=columns, solver=solver, selection=selection, metric_samples=metric_samples, blend=blend,
            tol=tol, warm_start=warm_start, callback=callback, n_jobs=n_jobs, random_state=random_state,
            verbose=verbose,
        )  # fmt: skip
        self.coding = coding
        self.class_weight = class_weight

    @property
    def classes_(self) -> NDArray[Any]:
        """Labels (K,), ascending."""
        return np.asarray(self.coding_.classes)

    def decision_function(self, X: Any) -> Any:
        """Scores (m, K), or (m,) of the second class above the first where there are two."""
        values = self._expansion(X)
        scores = self.coding_.scores(values)
        return like(X, scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores)

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (m,); ties go to the first class."""
        values = self._expansion(X)
        return np.asarray(self.coding_.decode(values))

    def predict_proba(self, X: Any) -> Any:
        """Probabilities (m, K): the softmax of the scores, its sharpness chosen on rows not trained on."""
        values = self._expansion(X)
        # In double precision: rows that add to 1 to single precision only are refused where doubles are expected.
        return like(X, probabilities(self.coding_.scores(values).double(), self.sharpness_))

    def _coding(self, rule: Rule) -> str:
        return self.coding or ("prevalence" if rule.prevalence else "one_hot")

    def _centers(self, rule: Rule) -> bool:
        return self._coding(rule) == "prevalence"

    def _targets(
        self, y: Any, n: int, weights: Tensor | None, rule: Rule
    ) -> tuple[ClassCoding, Tensor, Tensor | None, Tensor | None]:
        coding = ClassCoding.fit(y, n, weights, coding=self._coding(rule), class_weight=self.class_weight)
        weights = coding.row_weights(y, n, weights)
        there = torch.arange(n) if weights is None else (weights > 0).nonzero()[:, 0]
        labels = torch.zeros(n, dtype=torch.int64)
        labels[there] = coding.indices(take(y, there), len(there))
        one_hot = torch.nn.functional.one_hot(labels, len(coding.classes)).double()
        return coding, one_hot - coding.origin, weights, labels

    def _finish(
        self,
        X: Any,
        y: Any,
        plan: Plan,
        problem: Problem,
        chosen: Selection | None,
        aside: Tensor | None,
        y_val: Any,
    ) -> None:
        assert problem.labels is not None
        if chosen is None:
            rows, honest = honest_at_identity(plan, problem, plan.candidates[0])
            labels = problem.labels[rows]
        else:
            rows = torch.cat([rows for rows, _ in chosen.held_out])
            honest = torch.cat([values for _, values in chosen.held_out])
            labels = problem.labels[rows] if len(rows) else self.coding_.indices(y_val, len(honest))
        weights = None if problem.weights is None or not len(rows) else problem.weights[rows]
        self.sharpness_ = fit_sharpness(self.coding_.scores(honest * problem.scale), labels.to(honest.device), weights)


def take(values: Any, index: Tensor) -> Any:
    """Rows of an array, a tensor, a table or a sequence."""
    if isinstance(values, Tensor):
        return values[index.to(values.device)]
    if hasattr(values, "iloc"):
        return values.iloc[index.numpy()]
    if not isinstance(values, np.ndarray) and isinstance(values, Sequence):
        # As an array, one text would turn all numbers of all columns into text.
        return [values[i] for i in index.tolist()]
    return np.asarray(values)[index.numpy()]


document(
    RFMRegressor,
    _COMMON,
    own="""intervals : {"split", "cv_plus"}, optional
        Prepare ``predict_interval``. "split" sets a fifth of the rows aside before anything else; "cv_plus" fits five
        more machines, each without a fifth.""",
    attributes="",
    example=""">>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> y = X[:, 0] * X[:, 1]
    >>> machine = RFMRegressor(kernel="laplace", alpha=1e-3, random_state=0).fit(X, y)
    >>> machine.predict(X[:2]).shape
    (2,)
    >>> bool(machine.feature_importances_[:2].sum() > 0.9)
    True""",
)
document(
    RFMClassifier,
    _COMMON,
    own="""coding : {"prevalence", "one_hot"}, optional
        Targets: one-hot rows minus the class frequencies (default), or as they are.
    class_weight : dict or "balanced", optional
        Factors on the sample weights.""",
    attributes="""classes_ : array of shape (K,)
    sharpness_ : float
        Of the softmax, by log loss on rows that the machine had not seen.""",
    example=""">>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> y = np.where(X[:, 0] * X[:, 1] > 0, "same", "other")
    >>> machine = RFMClassifier(kernel="laplace", alpha=1e-2, random_state=0).fit(X, y)
    >>> machine.predict_proba(X[:2]).shape
    (2, 2)""",
)
