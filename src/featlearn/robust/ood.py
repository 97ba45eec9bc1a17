"""A linear head on frozen features, trained over environments for those it has not seen."""

from __future__ import annotations

import copy
import warnings
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from .._arrays import floats_like, like, plain
from .._parameters import check_amount, check_count
from ..exceptions import DataError, FeatlearnWarning
from .environments import EnvironmentRows, check_environments, code_environments, hold_out
from .group_report import group_report
from .group_results import GroupReport
from .groups import check_order
from .head_starts import erm_start, given_start, random_start
from .head_training import Recipe, descend, is_degenerate
from .last_layer import as_linear
from .logistic import LinearFit, predicted_codes, probabilities
from .penalties import OBJECTIVES, penalty_weights

__all__ = ["OODHead"]

INITS = ("erm", "random", "given")
ESTIMATORS = ("full", "split")
FLOATS = [np.float64, np.float32]


class OODHead(ClassifierMixin, BaseEstimator):
    r"""Linear classifier trained over environments: ERM, IRMv1, V-REx, IRMX or group DRO.

    With logits ``z``, mean loss ``L_e`` of environment ``e = 1..E`` and ``D_e = d/dw L_e(w z)`` at ``w = 1``:

    .. math::

        \text{erm}&: \tfrac1E \sum_e L_e &
        \text{irm}&: \tfrac1E \sum_e L_e + p \, \tfrac1E \sum_e D_e^2 \\
        \text{vrex}&: \tfrac1E \sum_e L_e + p \, \mathrm{Var}_e L_e &
        \text{irmx}&: \tfrac1E \sum_e L_e + p_1 \, \tfrac1E \sum_e D_e^2 + p_2 \, \mathrm{Var}_e L_e \\
        \text{groupdro}&: \sum_e q_e L_e, & q_e &\leftarrow q_e e^{\eta L_e} \text{, renormalised, after each step}

    plus ``alpha`` times the sum of the squared coefficients; the whole is divided by the largest penalty weight where
    that exceeds 1. All features are in memory and every step sees all rows (Adam).

    Parameters
    ----------
    objective : {"erm", "irm", "vrex", "irmx", "groupdro"}, default="irm"
    penalty_weight : float or pair of float, default=1e4
        p; for "irmx" one number for both penalties, or (IRM, V-REx). Not used by "erm" and "groupdro".
    alpha : float, default=1e-3
        Ridge on the coefficients, not on the intercept.
    init : {"erm", "given", "random"}, default="erm"
        Where the steps start: at the minimiser of "erm" with the same ``alpha`` (L-BFGS); at ``coef_init`` of ``fit``;
        at coefficients from N(0, 0.01^2), which collapses with large IRM penalties (see Notes).
    anneal_steps : int, default=0
        First steps, during which penalty weights above 1 are 1. Adam starts afresh after them.
    max_iter : int, default=2000
        Steps of Adam in all. ``objective="erm", init="erm"`` is the L-BFGS solution and takes none.
    learning_rate : float, default=1e-2
        Of Adam, in units of a coefficient.
    group_step : float, default=0.1
        eta of group DRO; 0.01 is too slow for 3000 steps.
    penalty_estimator : {"full", "split"}, default="full"
        Of D_e^2: the square over all rows, or the product over even and odd rows, which is unbiased but may be
        negative.
    validation_fraction : float, default=0
        Share of every class of every environment on which ``history_`` is measured too. These rows train nothing and
        choose nothing.
    tol : float, default=0
        Stop when the largest entry of the gradient of the objective is below it, and with group DRO also what the worst
        environment's loss exceeds the objective's by.
    random_state : int, RandomState or None
        Draws the held-out rows and the random start.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    coef_ : array of shape (1, d) or (K, d)
        One row for two classes, one a class for more.
    intercept_ : array of shape (1,) or (K,)
    classes_ : array of shape (K,)
    environments_ : array of shape (E,)
        Labels of the environments, ascending; the order of all lists in ``history_``.
    history_ : list of dict
        Before the first step and after each: ``step``, ``objective``, and lists over environments: ``loss``,
        ``penalty`` (D_e^2, whatever the objective), ``share`` (q_e); with ``validation_fraction`` also
        ``held_out_loss`` and ``held_out_penalty``.
    degenerate_ : bool
        Predictions are as good as constant: the mean training loss exceeds 0.9 of the best constant's and logits vary
        by less than 0.1 (standard deviation), or it exceeds 0.99. Weak features alone, of which a head makes what there
        is, are no collapse.
    n_iter_ : int
        Steps taken; of L-BFGS for ``objective="erm", init="erm"``, which needs no others.
    n_features_in_, feature_names_in_ :
        As everywhere in scikit-learn.

    Notes
    -----
    A step costs ``4 n d K + 8 n E`` flops (K = 1 for two classes).

    Logits of zero satisfy IRMv1 exactly, and beside them lies a local minimum with logits of size 1/p, behind a barrier
    whose height grows with p. With ``penalty_weight=1e4`` a head that starts from small random coefficients is still
    there after hundreds of steps, with an accuracy that is noise, and short of the other minimum after thousands. A
    head that starts from ERM, or from the mean of heads of :class:`~featlearn.robust.feat.FeATPretrainer`, does not go
    there.
    V-REx and group DRO do not depend on the start. Group DRO converges to the ERM solution of its worst environment;
    its environments may have one class each, and are usually the groups (y, s): ``fit(Z, y, 2 * y + s)``. A head cannot
    add features: where the invariant feature is not in Z, no objective finds it. With many columns of noise the
    penalties are met by noise: compare them with those of held-out rows (``validation_fraction``).

    Normalisations differ between codes. Where the losses a + b of two environments are added, beside alpha and a weight
    p, ours are alpha/2 and, for p times the mean of D_e^2, p/2; for p (a - b)^2, 2 p; for p times the unbiased variance
    (a - b)^2 / 2, p.

    Published are the objectives. The choice of the start, the test of degeneracy and the facts above on minima and
    their depth are this library's, from closed forms and quadrature.

    References
    ----------
    Arjovsky, Bottou, Gulrajani, Lopez-Paz (2019). Invariant risk minimization. arXiv:1907.02893.

    Krueger et al. (2021). Out-of-distribution generalization via risk extrapolation. arXiv:2003.00688.

    Sagawa, Koh, Hashimoto, Liang (2020). Distributionally robust neural networks for group shifts. arXiv:1911.08731.

    Examples
    --------
    Column 0 causes the label. Column 1 follows it in 95% and in 80% of the rows of two environments.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y, environment = rng.integers(0, 2, 4000), np.arange(4000) % 2
    >>> agrees = rng.random(4000) < np.where(environment == 0, 0.95, 0.8)
    >>> spurious = np.where(agrees, 2 * y - 1, 1 - 2 * y)
    >>> Z = np.stack([1.5 * (2 * y - 1), 2.5 * spurious], axis=1) + rng.normal(size=(4000, 2))
    >>> erm = OODHead("erm").fit(Z, y, environment)
    >>> head = OODHead("vrex", max_iter=500).fit(Z, y, environment)
    >>> bool(abs(head.coef_[0, 1]) < 0.3 < 0.6 < erm.coef_[0, 1])
    True
    """

    def __init__(
        self,
        objective: str = "irm",
        penalty_weight: Any = 1e4,
        alpha: float = 1e-3,
        init: str = "erm",
        anneal_steps: int = 0,
        max_iter: int = 2000,
        learning_rate: float = 1e-2,
        group_step: float = 0.1,
        penalty_estimator: str = "full",
        validation_fraction: float = 0.0,
        tol: float = 0.0,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.objective = objective
        self.penalty_weight = penalty_weight
        self.alpha = alpha
        self.init = init
        self.anneal_steps = anneal_steps
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.group_step = group_step
        self.penalty_estimator = penalty_estimator
        self.validation_fraction = validation_fraction
        self.tol = tol
        self.random_state = random_state
        self.verbose = verbose

    # fitting ----------------------------------------------------------------------------------------------------------

    def fit(
        self,
        Z: Any,
        y: Any,
        environments: Any = None,
        *,
        sample_weight: Any = None,
        coef_init: Any = None,
        intercept_init: Any = None,
    ) -> Self:
        """Train the head.

        Parameters
        ----------
        Z : array, DataFrame or Tensor of shape (n, d)
            Features, best of similar scale: the steps of Adam are of equal size in all of them. Single precision stays
            single.
        y : array of shape (n,)
            Labels that sort.
        environments : array of shape (n,), optional
            Whole numbers, words or booleans. None: all rows are one environment.
        sample_weight : array of shape (n,), optional
            Weights of rows within their environment; environments count alike. 0 leaves a row out.
        coef_init, intercept_init : array of shape (1 or K, d) and (1 or K,), optional
            For ``init="given"``; the intercept is 0 by default.

        Returns
        -------
        self

        Raises
        ------
        DataError
            For parameters or data that cannot be used: among others an environment with one row or one class.

        Warns
        -----
        FeatlearnWarning
            A single environment, over which penalties say little; a degenerate head.
        """
        recipe = self._recipe()
        check_order(Z=Z, y=y, environments=environments, sample_weight=sample_weight)
        features, y, row_weights = self._read(Z, y, sample_weight)
        codes, names = code_environments(environments, len(features))
        there = row_weights > 0
        features, y, row_weights, codes = features[there], y[there], row_weights[there], codes[there]
        classes, labels = np.unique(y, return_inverse=True)
        # The groups (y, s) of group DRO have one class each; penalties ask for environments.
        check_environments(codes, labels, names, classes, one_class=self.objective == "groupdro")
        start = self._given(coef_init, intercept_init, len(classes), features.shape[1])
        rng = check_random_state(self.random_state)
        aside = hold_out(codes, labels, names, float(self.validation_fraction), rng)
        split = self.penalty_estimator == "split"

        def part(at: NDArray[np.bool_]) -> EnvironmentRows:
            return EnvironmentRows.of(features[at], labels[at], codes[at], len(names), row_weights[at], split=split)

        # Gradients are taken whatever mode the caller is in.
        with torch.inference_mode(False), torch.enable_grad():
            rows, held_out = part(~aside), part(aside) if aside.any() else None
            if len(names) == 1 and self.objective != "erm":
                _warn_of_one_environment(self.objective)
            if self.init == "random":
                start = random_start(len(classes), features.shape[1], rng)
            elif start is None:
                start = erm_start(rows, len(classes), recipe.alpha)
            coef, intercept, history = descend(rows, held_out, start, recipe, verbose=int(self.verbose))
            degenerate = is_degenerate(rows, coef, intercept, self.init)
        # All at the end: a fit that was refused leaves the one before it whole.
        validate_data(self, _array(Z), skip_check_array=True)
        self.classes_, self.environments_ = classes, names
        self.coef_, self.intercept_, self.history_ = coef.numpy(), intercept.numpy(), history
        self.n_iter_ = history[-1]["step"] if recipe.max_iter else start.n_iter
        self.degenerate_ = degenerate
        self._information = "none" if len(names) == 1 else f"environment labels on {len(rows.labels)} training rows"
        return self

    def _read(self, Z: Any, y: Any, sample_weight: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Features (n, d), labels (n,) and weights (n,) of rows."""
        door = copy.copy(self)  # it takes width and names, which a fit that is refused must not change
        features, labels = validate_data(door, _array(Z), plain(y), dtype=FLOATS, ensure_min_samples=2)
        check_classification_targets(labels)
        weights = _check_sample_weight(plain(sample_weight), features, dtype=features.dtype, ensure_non_negative=True)
        return features, labels, weights

    def _recipe(self) -> Recipe:
        """The parameters, checked."""
        for name, allowed in (("objective", OBJECTIVES), ("init", INITS), ("penalty_estimator", ESTIMATORS)):
            if getattr(self, name) not in allowed:
                shown = ", ".join(map(repr, allowed))
                raise DataError(f"Got {name}={getattr(self, name)!r}, but expected one of {shown}.")
        fraction = check_amount("validation_fraction", self.validation_fraction)
        if fraction >= 1:
            raise DataError(f"Got validation_fraction={self.validation_fraction!r}, but expected less than 1.")
        steps, anneal = check_count("max_iter", self.max_iter, 1), check_count("anneal_steps", self.anneal_steps, 0)
        if 0 < anneal >= steps:
            raise DataError(
                f"Got anneal_steps={anneal} and max_iter={steps}, but expected fewer: the penalty would never be "
                "switched on."
            )
        irm, vrex = penalty_weights(self.objective, self.penalty_weight)
        solved = self.objective == "erm" and self.init == "erm"  # L-BFGS has found it
        return Recipe(
            irm=irm,
            vrex=vrex,
            dro=self.objective == "groupdro",
            alpha=check_amount("alpha", self.alpha),
            anneal_steps=0 if solved else anneal,
            max_iter=0 if solved else steps,
            learning_rate=check_amount("learning_rate", self.learning_rate, positive=True),
            group_step=check_amount("group_step", self.group_step),
            tol=check_amount("tol", self.tol),
        )

    def _given(self, coef_init: Any, intercept_init: Any, n_classes: int, width: int) -> LinearFit | None:
        """The start that the user gave; None for another ``init``."""
        if self.init == "given":
            return given_start(coef_init, intercept_init, n_classes, width)
        if coef_init is not None or intercept_init is not None:
            raise DataError(f'Got coef_init or intercept_init with init={self.init!r}. Pass init="given".')
        return None

    # using ------------------------------------------------------------------------------------------------------------

    def decision_function(self, Z: Any) -> Any:
        """Logits (m,) of the second of two classes, (m, K) of several. A tensor for a tensor, in its precision."""
        logits = self._logits(Z)
        return floats_like(Z, logits[:, 0] if len(self.coef_) == 1 else logits)

    def predict(self, Z: Any) -> Any:
        """Classes (m,). A tensor for a tensor, if classes are numbers."""
        codes = predicted_codes(self._logits(Z))
        return like(Z, self.classes_[codes])

    def predict_proba(self, Z: Any) -> Any:
        """Probabilities (m, K). A tensor for a tensor, in its precision."""
        return floats_like(Z, probabilities(self._logits(Z).astype(np.float64), one_vs_rest=False))

    def report(
        self, Z: Any, y: Any, groups: Any, *, selection: str, information: str | None = None, **options: Any
    ) -> GroupReport:
        """Accuracy of every group, with what the head was told and how it was chosen.

        Parameters
        ----------
        Z, y, groups
            Rows of a test set, and their groups as for :func:`~featlearn.robust.group_report.group_report`.
        selection : str
            One of ``SELECTION_RULES``: what chose objective, penalty weight and start. It is compulsory, because gains
            of these objectives are known that exist under "oracle (test)" alone.
        information : str, optional
            Labels that training used; by default "environment labels on ... training rows", or "none" for a single
            environment.
        **options
            Of :func:`~featlearn.robust.group_report.group_report`.

        Returns
        -------
        GroupReport
        """
        check_is_fitted(self, "coef_")
        check_order(Z=Z, y=y, groups=groups)
        information = self._information if information is None else information
        predicted = plain(self.predict(Z))
        return group_report(plain(y), predicted, groups, selection=selection, information=information, **options)

    def as_linear(self, *, outputs: int | None = None, dtype: torch.dtype = torch.float32) -> torch.nn.Linear:
        """The head as a layer of a network; see :func:`~featlearn.robust.last_layer.as_linear`.

        Parameters
        ----------
        outputs : int, optional
            For two classes 2 (default) or 1.
        dtype : torch.dtype, default torch.float32

        Returns
        -------
        torch.nn.Linear
        """
        check_is_fitted(self, "coef_")
        return as_linear(self.coef_, self.intercept_, outputs=outputs, dtype=dtype)

    def plot(self, ax: Any = None) -> Any:
        """Losses and penalties of every environment over the steps; dashed on held-out rows. Returns the Axes."""
        from ..plots.ood import plot_head

        check_is_fitted(self, "coef_")
        return plot_head(self.history_, [str(name) for name in self.environments_.tolist()], ax)

    def frame(self) -> Any:
        """``history_`` as a DataFrame: one row a step, environment and part ("training", "held out")."""
        import pandas as pd

        check_is_fitted(self, "coef_")
        names = self.environments_.tolist()
        rows = [
            {"step": entry["step"], "environment": name, "part": part}
            | {"loss": entry[f"{prefix}loss"][e], "penalty": entry[f"{prefix}penalty"][e], "share": entry["share"][e]}
            for entry in self.history_
            for part, prefix in (("training", ""), ("held out", "held_out_"))
            if f"{prefix}loss" in entry
            for e, name in enumerate(names)
        ]
        return pd.DataFrame(rows)

    def _logits(self, Z: Any) -> NDArray[Any]:
        """Logits (m, 1 or K)."""
        check_is_fitted(self, "coef_")
        features = validate_data(self, _array(Z), reset=False, dtype=FLOATS)
        return np.asarray(features @ self.coef_.T + self.intercept_)


def _array(Z: Any) -> Any:
    """A tensor as an array, in single precision if it is: half the memory and time of a step."""
    return Z.detach().cpu().numpy() if isinstance(Z, Tensor) and Z.dtype == torch.float32 else plain(Z)


def _warn_of_one_environment(objective: str) -> None:
    told = {
        "irm": "its penalty compares nothing",
        "vrex": "the variance over environments is 0",
        "irmx": "its penalties compare nothing",
        "groupdro": "group DRO is ERM",
    }
    warnings.warn(
        f"Got one environment for objective={objective!r}: {told[objective]}. Pass environments of shape (n,), or "
        'objective="erm".',
        FeatlearnWarning,
        stacklevel=3,
    )
