r"""Deep feature reweighting: the last layer, fitted anew to held-out rows in which every group counts alike."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import nn

from .._arrays import floats_like, like, plain
from ..exceptions import DataError, FeatlearnWarning
from .balanced_fits import BalancedFits, Rows, check_halves, grouped_rows, standard_scaler
from .group_report import group_report
from .group_results import GroupReport
from .groups import FEW, GroupLabels, balance_groups, check_order, few_rows
from .last_layer import as_linear
from .logistic import LinearFit, PenalisedLogistic, predicted_codes, probabilities

__all__ = ["DFRClassifier"]

MANY_REFITS = 20


class DFRClassifier(ClassifierMixin, BaseEstimator):
    r"""Last layer on frozen features, the mean of penalised logistic regressions on group-balanced samples.

    Fit it to features of rows that the network was *not* trained on. Every sample S has as many rows of each group as
    the smallest group; with z standardised,

    .. math::

        w_S = \arg\min_w \; C \sum_{i \in S} \ell(y_i, w \cdot z_i + b) + \rho \|w\|_1 + \tfrac{1 - \rho}{2} \|w\|_2^2,
        \qquad w = \frac{1}{R} \sum_{S} w_S

    Parameters
    ----------
    C : float or "tune", default "tune"
        Weight of the losses against the penalty; ``numpy.inf`` for no penalty. "tune": of ``C_grid``, the one with the
        highest worst-group accuracy on the half of the rows that it was not fitted to, or on ``Z_tune``; of equals the
        largest.
    C_grid : sequence of float
        Default (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01).
    l1_ratio : float, default 1.0
        :math:`\rho`. 1: fitted by liblinear, several classes one against the rest. 0: by lbfgs, and between by saga,
        several classes at once (multinomial).
    balance : {"subsample", "reweight"}, default "subsample"
        "reweight": one fit to all rows with weights ``n / (G n_g)`` instead of samples.
    n_refits : int, default 20
        R. Inactive with ``balance="reweight"``, where only the default and 1 are accepted.
    tune_splits : int, default 1
        Times that the rows are halved, and C scored; the mean counts.
    rescale_C : bool, default True
        Multiply a tuned C by ``n_tuned / n_fitted``, the ratio of rows in one fit: the losses are summed, so that the
        same C means half the penalty on twice the rows. False is the published procedure.
    scaler_fit_on : {"all", "balanced"} or array of shape (m, d), default "all"
        What means and deviations of the final features come from: the rows as they are, weighted by group, or other
        rows, such as the network's training features. While tuning, "all" and "balanced" mean the balanced sample.
    max_iter : int, default 1000
        Of the solver.
    tol : float, default 1e-4
        Of the solver.
    n_jobs : int, optional
        Workers (of joblib) that fit at once. The result does not depend on it, nor on their kind.
    random_state : int, RandomState or None, default None
        Draws halves and samples.
    verbose : int, default 0
        1 shows the groups and a bar.

    Attributes
    ----------
    classes_ : array of shape (K,)
    coef_ : array of shape (K, d), or (1, d) for two classes
        For standardised features (those of ``scaler_``), unlike scikit-learn's: sizes can be compared.
    intercept_ : array of shape (K,), or (1,)
    raw_coef_, raw_intercept_ : arrays
        The same function of features as they leave the network: what a layer of it needs (:meth:`as_linear`).
    scaler_ : StandardScaler
    best_C_ : float
        C as chosen, or as given.
    C_ : float
        C of the final fits: ``best_C_``, rescaled if it was tuned.
    tuning_ : DataFrame or None
        C, split and worst_group_accuracy of every tuning fit; None without.
    coefs_, intercepts_ : arrays of shape (R, K, d) and (R, K)
        Of every refit.
    n_iter_ : array of shape (R,)
        Iterations of the solver.
    group_table_ : DataFrame
        Group, rows, and rows in a sample or weight of a row. Look at it: balancing is between these groups only.
    n_per_group_ : int
        Rows of the smallest group.
    n_effective_ : float
        Rows of one sample, ``G n_per_group_``; with weights :math:`(\sum_i s_i)^2 / \sum_i s_i^2`.
    multi_class_ : {"binary", "one-vs-rest", "multinomial"}
    selection_ : str
        What chose C: "group-labelled validation", "class-balanced validation" or "none".
    information_ : str
        Which labels the fit saw; both are printed by :meth:`report`.
    n_features_in_, feature_names_in_

    Notes
    -----
    Baselines are options, not classes of their own. With features of the training rows or of held-out rows:

    ===================================  ============================================================================
    deep feature reweighting             ``DFRClassifier().fit(Z, y, (y, s))``
    subsampling (SUBG), last layer       ``DFRClassifier(C=1.0, n_refits=1).fit(Z, y, (y, s))``
    reweighting (RWG), last layer        ``DFRClassifier(C=np.inf, balance="reweight").fit(Z, y, (y, s))``
    class-balanced retraining            ``DFRClassifier().fit(Z, y)``, which needs no group labels
    ===================================  ============================================================================

    :func:`~featlearn.robust.groups.balance_groups` gives rows or weights to train a whole network with.

    Tuning, twenty averaged refits and the grid are the published procedure. Of this library: halves that hold half of
    every group (published: a plain shuffle), ``rescale_C``, reweighting, the ``l1_ratio`` and several classes.
    liblinear penalises the intercept too, which standardised features and as many rows of every class make harmless;
    groups that are not crossed with the label may have rare classes, whose share it then draws towards one half.
    One-against-the-rest logits are not those of a softmax: ``predict_proba`` divides their sigmoids by their sum, while
    the arg max is the same. With ``l1_ratio=0.99`` there is a multinomial fit with almost the penalty of 1, which takes
    longer.

    In scikit-learn's searches ``groups`` of their own ``fit`` go to the splitter, with a warning, and not to this
    class, which then balances the classes. Ask for them, in one column or a DataFrame with a row a sample (a tuple
    cannot be cut into folds), under ``sklearn.set_config(enable_metadata_routing=True)``:
    ``DFRClassifier(...).set_fit_request(groups=True)``, and a scorer with ``set_score_request(groups=True)``.

    Cost: ``len(C_grid) * tune_splits + n_refits`` fits, of 532 rows with 2048 features well under a second each. Z is
    held twice in double precision, and one sample a worker. The features still contain the spurious attribute
    afterwards; only the head ignores it, and groups that were not named may lose.

    References
    ----------
    Kirichenko, Izmailov, Wilson (2022): Last layer re-training is sufficient for robustness to spurious correlations,
    arXiv:2204.02937. Izmailov, Kirichenko, Gruver, Wilson (2022): On feature learning in the presence of spurious
    correlations, arXiv:2210.11369. LaBonte, Muthukumar, Kumar (2023): Towards last-layer retraining for group
    robustness with fewer annotations, arXiv:2309.08534.

    Examples
    --------
    Column 0 is the feature; column 1 is easier to read, and agrees with the label in nine rows of ten.

    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 200)
    >>> s = np.where(np.arange(400) % 10 == 0, 1 - y, y)
    >>> Z = np.column_stack([2 * y - 1, 4 * s - 2]) + rng.normal(size=(400, 2))
    >>> head = DFRClassifier(random_state=0).fit(Z, y, (y, s))
    >>> core, spurious = np.abs(head.raw_coef_[0])
    >>> bool(spurious < 0.2 * core), head.n_per_group_
    (True, 20)
    """

    def __init__(
        self,
        C: float | str = "tune",
        C_grid: Sequence[float] = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01),
        *,
        l1_ratio: float = 1.0,
        balance: str = "subsample",
        n_refits: int = MANY_REFITS,
        tune_splits: int = 1,
        rescale_C: bool = True,
        scaler_fit_on: Any = "all",
        max_iter: int = 1000,
        tol: float = 1e-4,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.C = C
        self.C_grid = C_grid
        self.l1_ratio = l1_ratio
        self.balance = balance
        self.n_refits = n_refits
        self.tune_splits = tune_splits
        self.rescale_C = rescale_C
        self.scaler_fit_on = scaler_fit_on
        self.max_iter = max_iter
        self.tol = tol
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, Z: Any, y: Any, groups: Any = None, *, Z_tune: Any = None, y_tune: Any = None, groups_tune: Any = None
    ) -> Self:
        """Choose C, fit the samples, and average.

        Parameters
        ----------
        Z : array, DataFrame or Tensor of shape (n, d)
            Features of held-out rows, as from ``extract_features``.
        y : array of shape (n,)
            Labels of two or more classes.
        groups : array, tuple of arrays, DataFrame or masks, optional
            What to balance, as :func:`~featlearn.robust.groups.as_groups` reads it, and mostly the pair ``(y, s)``;
            every row in exactly one group. By default the classes. Where something cuts the rows (cross-validation), a
            DataFrame or one column.
        Z_tune, y_tune, groups_tune : optional
            Rows to score C on; then nothing is halved.

        Returns
        -------
        self

        Raises
        ------
        DataError
            For parameters out of range, a single class, groups of another length or without rows or that overlap, a
            group too small to halve, and for samples that lack a class.

        Warns
        -----
        FeatlearnWarning
            For groups of fewer than ten rows, and groups without rows in ``Z_tune``.
        ConvergenceWarning
            For fits that stopped at ``max_iter``.
        """
        self._check_parameters()
        if (Z_tune is None) != (y_tune is None):
            raise DataError("Got one of Z_tune and y_tune, but expected both: features and labels of the same rows.")
        if Z_tune is not None and not self._tuned:
            raise DataError(f"Got Z_tune with C={self.C!r}, which chooses nothing. Pass C='tune', or leave Z_tune out.")
        check_order(Z=Z, y=y, groups=groups)
        check_order(Z_tune=Z_tune, y_tune=y_tune, groups_tune=groups_tune)
        door = copy.copy(self)  # it takes width and names, which a fit that is refused must not change
        features, y = validate_data(door, plain(Z), plain(y), dtype=np.float64)
        classes, codes = _classes(y)
        others = None if Z_tune is None else door._labelled(Z_tune, y_tune, classes)
        rows, tune, labels = grouped_rows((features, codes), groups, others, groups_tune, classes)
        if self._tuned and tune is None:
            check_halves(labels)
        table = self._table(labels)

        logistic = PenalisedLogistic(len(classes), float(self.l1_ratio), int(self.max_iter), float(self.tol))
        scaler, own = self._scaler(rows), isinstance(self.scaler_fit_on, str)
        fits = BalancedFits(logistic, self.balance, None if own else scaler, self.n_jobs, self.verbose)
        random = check_random_state(self.random_state)
        tuning, refitting = (random.randint(2**31 - 1, size=k).tolist() for k in (self.tune_splits, self.n_refits))
        best, C, scores = self._choose(fits, rows, tune, tuning)
        refits = fits.refit(rows.scaled(scaler), C, refitting[:1] if self._weighted else refitting)

        # All at the end: a fit that was refused leaves the one before it whole.
        validate_data(self, plain(Z), skip_check_array=True)
        self.classes_, self.scaler_, self.group_table_ = classes, scaler, table
        self.best_C_, self.C_, self.tuning_ = best, C, scores
        several = "one-vs-rest" if logistic.one_vs_rest(C) else "multinomial"
        self.multi_class_ = "binary" if len(classes) == 2 else several
        self._average(refits)
        self._describe(len(rows), labels.counts, by_class=groups is None, n_tune=0 if tune is None else len(tune))
        return self

    def decision_function(self, Z: Any) -> Any:
        """Logits: (n,) of the second of two classes, (n, K) of several. A tensor for a tensor, in its precision."""
        scores = self._scores(Z)
        return floats_like(Z, scores[:, 0] if len(self.classes_) == 2 else scores)

    def predict(self, Z: Any) -> Any:
        """Classes (n,). A tensor for a tensor, if classes are numbers."""
        codes = predicted_codes(self._scores(Z))
        return like(Z, self.classes_[codes])

    def predict_proba(self, Z: Any) -> Any:
        """Probabilities (n, K), in the order of ``classes_``. A tensor for a tensor, in its precision."""
        return floats_like(Z, probabilities(self._scores(Z), self.multi_class_ == "one-vs-rest"))

    def report(self, Z: Any, y: Any, groups: Any, **options: Any) -> GroupReport:
        """Accuracy by group on other rows.

        Parameters
        ----------
        Z : array, DataFrame or Tensor of shape (n, d)
            Features of rows that neither fit nor tuning saw.
        y : array of shape (n,)
        groups : groups
            As in :meth:`fit`; they may overlap.
        **options
            Of :func:`~featlearn.robust.group_report.group_report`. ``information`` and ``selection`` are filled in.

        Returns
        -------
        GroupReport
        """
        check_is_fitted(self)
        check_order(Z=Z, y=y, groups=groups)
        known = {"information": self.information_, "selection": self.selection_}
        return group_report(plain(y), plain(self.predict(Z)), groups, **(known | options))

    def as_linear(self, *, outputs: int | None = None, dtype: torch.dtype = torch.float32) -> nn.Linear:
        """The head as a linear layer on features as they leave the network.

        :func:`~featlearn.robust.last_layer.install_head` puts it into the network.

        Parameters
        ----------
        outputs : int, optional
            For two classes 2 (the default: logits 0 and w z + b) or 1.
        dtype : torch.dtype, default torch.float32

        Returns
        -------
        torch.nn.Linear
        """
        check_is_fitted(self)
        return as_linear(self.raw_coef_, self.raw_intercept_, outputs=outputs, dtype=dtype)

    # data -----------------------------------------------------------------------------------------------------------

    def _labelled(self, Z: Any, y: Any, classes: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Rows to tune on: features and classes, which training must know."""
        features, y = validate_data(self, plain(Z), plain(y), dtype=np.float64, reset=False)
        unknown = np.setdiff1d(y, classes)
        if len(unknown):
            raise DataError(f"Got the class {unknown.tolist()[0]!r} in y_tune only, but expected classes of y.")
        return features, np.searchsorted(classes, y)

    def _scaler(self, rows: Rows) -> Any:
        """Of the final fits."""
        if isinstance(self.scaler_fit_on, str):
            weights = balance_groups(rows.groups, "reweight") if self.scaler_fit_on == "balanced" else None
            return standard_scaler(rows.Z, weights)
        other = check_array(plain(self.scaler_fit_on), dtype=np.float64, input_name="scaler_fit_on")
        if other.shape[1] != rows.Z.shape[1]:
            raise DataError(
                f"Got scaler_fit_on with {other.shape[1]} features, but Z has {rows.Z.shape[1]}. Pass features of the "
                "same layer."
            )
        return standard_scaler(other)

    def _table(self, labels: GroupLabels) -> Any:
        """The groups that are balanced, shown if asked for."""
        import pandas as pd

        counts = labels.counts
        few = few_rows(labels)
        if few:
            meaning = (
                "they weigh as much as all rows of another group. Add held-out rows of these groups."
                if self._weighted
                else "every sample has as few of each group. Add held-out rows of these groups, or use "
                "balance='reweight'."
            )
            warnings.warn(
                f"Fewer than {FEW} rows in {'; '.join(few)}: {meaning}",
                FeatlearnWarning,
                stacklevel=3,
            )
        use = {"weight": counts.sum() / (len(counts) * counts)} if self._weighted else {"sampled": counts.min()}
        table = pd.DataFrame({"group": labels.names, "n": counts, **use})
        if self.verbose:
            from rich.console import Console

            Console(stderr=True).print(table.to_string(index=False))
        return table

    def _describe(self, n: int, counts: NDArray[np.int64], *, by_class: bool, n_tune: int) -> None:
        """Sizes, the labels that the fit saw, and what chose C."""
        n_groups, smallest = len(counts), int(counts.min())
        self.n_per_group_ = smallest
        self.n_effective_ = float(n_groups**2 / (1 / counts).sum() if self._weighted else n_groups * smallest)
        kind, chosen = ("class", "class-balanced") if by_class else ("group", "group-labelled")
        self.information_ = f"{kind} labels on {n} rows" + (f", and on {n_tune} to tune" if n_tune else "")
        self.selection_ = f"{chosen} validation" if self._tuned else "none"

    # fitting --------------------------------------------------------------------------------------------------------

    @property
    def _tuned(self) -> bool:
        return isinstance(self.C, str)

    @property
    def _weighted(self) -> bool:
        return self.balance == "reweight"

    def _choose(self, fits: BalancedFits, rows: Rows, tune: Rows | None, seeds: list[int]) -> tuple[float, float, Any]:
        """C as chosen or given, C of the final fits, and the scores of tuning."""
        if not self._tuned:
            return float(self.C), float(self.C), None
        import pandas as pd

        found, n_tuned = fits.tune(rows, tune, sorted(map(float, self.C_grid), reverse=True), seeds)
        scores = pd.DataFrame(found)
        means = scores.groupby("C", sort=False)["worst_group_accuracy"].mean()
        # The first of equals, which is the largest. Rounding of the mean over splits must not tell equals apart.
        best = float(means.round(12).idxmax())
        return best, best * (n_tuned / fits.size(rows) if self.rescale_C else 1.0), scores

    def _average(self, fits: list[LinearFit]) -> None:
        self.coefs_ = np.stack([fit.coef for fit in fits])
        self.intercepts_ = np.stack([fit.intercept for fit in fits])
        self.n_iter_ = np.array([fit.n_iter for fit in fits])
        self.coef_, self.intercept_ = self.coefs_.mean(axis=0), self.intercepts_.mean(axis=0)
        self.raw_coef_ = self.coef_ / self.scaler_.scale_
        self.raw_intercept_ = self.intercept_ - self.raw_coef_ @ self.scaler_.mean_

    def _scores(self, Z: Any) -> NDArray[np.float64]:
        check_is_fitted(self)
        features = validate_data(self, plain(Z), dtype=np.float64, reset=False)
        return self.scaler_.transform(features) @ self.coef_.T + self.intercept_

    # parameters -----------------------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        if not (self.C == "tune" if self._tuned else _is_positive(self.C)):
            raise DataError(f"Got C={self.C!r}, but expected 'tune' or a positive number.")
        grid = list(self.C_grid) if isinstance(self.C_grid, Iterable) else []
        if not grid or not all(_is_positive(C, finite=True) for C in grid):
            raise DataError(f"Got C_grid={self.C_grid!r}, but expected a sequence of positive finite numbers.")
        if not (self.l1_ratio == 0 or (_is_positive(self.l1_ratio) and self.l1_ratio <= 1)):
            raise DataError(f"Got l1_ratio={self.l1_ratio!r}, but expected a number from 0 to 1.")
        if self.balance not in ("subsample", "reweight"):
            raise DataError(f"Got balance={self.balance!r}, but expected 'subsample' or 'reweight'.")
        for name in ("n_refits", "tune_splits", "max_iter"):
            value = getattr(self, name)
            if type(value) is bool or not isinstance(value, Integral) or value < 1:
                raise DataError(f"Got {name}={value!r}, but expected a whole number of at least 1.")
        if self._weighted and self.n_refits not in (1, MANY_REFITS):
            raise DataError(
                f"Got n_refits={self.n_refits} with balance='reweight', which fits all rows once. Leave n_refits out."
            )
        if not _is_positive(self.tol, finite=True):
            raise DataError(f"Got tol={self.tol!r}, but expected a positive finite number.")
        if not isinstance(self.rescale_C, bool | np.bool_):
            raise DataError(f"Got rescale_C={self.rescale_C!r}, but expected True or False.")
        if isinstance(self.scaler_fit_on, str) and self.scaler_fit_on not in ("all", "balanced"):
            raise DataError(f"Got scaler_fit_on={self.scaler_fit_on!r}, but expected 'all', 'balanced' or features.")


def _classes(y: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"Got one class ({classes.tolist()[0]!r}) in y, but expected rows of at least two classes.")
    return classes, codes


def _is_positive(value: Any, *, finite: bool = False) -> bool:
    real = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return real and value > 0 and not (finite and math.isinf(value))
