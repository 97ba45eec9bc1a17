"""A linear head on frozen features, trained over environments for those it has not seen."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from .._arrays import as_tensor
from ..exceptions import ConvergenceWarning, DataError, FeatlearnWarning
from .environments import EnvironmentRows, check_environments, code_environments, hold_out
from .group_report import group_report
from .group_results import GroupReport
from .head_training import Recipe, descend
from .kinds import like, plain
from .last_layer import as_linear
from .logistic import LinearFit, PenalisedLogistic, probabilities
from .penalties import OBJECTIVES, penalty_weights

__all__ = ["OODHead"]

INITS = ("erm", "random", "given")
ESTIMATORS = ("full", "split")
FLOATS = [np.float64, np.float32]
# Shares of the best constant's loss above which a head is degenerate: if its logits hardly vary, and in any case.
DEGENERATE, HOPELESS = 0.9, 0.99
FLAT = 0.1  # standard deviation of logits that hardly vary: probabilities within 0.025
RANDOM_SCALE = 0.01  # standard deviation of the coefficients that init="random" draws
LBFGS_TOL, LBFGS_STEPS = 1e-6, 1000  # of the start at ERM: largest gradient of the mean loss, and most steps


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
        Stop when the largest entry of the gradient of the objective is below it.
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
    A step costs ``4 n d K + 4 n E`` flops (K = 1 for two classes).

    Logits of zero satisfy IRMv1 exactly, and beside them lies a local minimum with logits of size 1/p, behind a barrier
    whose height grows with p. With ``penalty_weight=1e4`` a head that starts from small random coefficients stays there
    for more than a thousand steps, and its accuracy is noise. A head that starts from ERM, or from the mean of heads of
    :class:`~featlearn.robust.feat.FeATPretrainer`, does not go there.
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
        Z, y = validate_data(self, _array(Z), plain(y), dtype=FLOATS, ensure_min_samples=2)
        check_classification_targets(y)
        row_weights = _check_sample_weight(plain(sample_weight), Z, dtype=Z.dtype, ensure_non_negative=True)
        codes, names = code_environments(environments, len(Z))
        there = row_weights > 0
        Z, y, row_weights, codes = Z[there], y[there], row_weights[there], codes[there]
        classes, labels = np.unique(y, return_inverse=True)
        # The groups (y, s) of group DRO have one class each; penalties ask for environments.
        check_environments(codes, labels, names, classes, one_class=self.objective == "groupdro")
        start = self._given_start(coef_init, intercept_init, len(classes), Z.shape[1])
        rng = check_random_state(self.random_state)
        aside = hold_out(codes, labels, names, float(self.validation_fraction), rng)
        split = self.penalty_estimator == "split"
        parts = [
            EnvironmentRows.of(Z[at], labels[at], codes[at], len(names), row_weights[at], split=split)
            for at in (~aside, aside)
            if at.any()
        ]
        rows, held_out = parts[0], parts[1] if len(parts) == 2 else None
        if len(names) == 1 and self.objective != "erm":
            _warn_of_one_environment(self.objective)

        if self.init == "random":
            outputs = 1 if len(classes) == 2 else len(classes)
            start = LinearFit(rng.normal(0.0, RANDOM_SCALE, (outputs, Z.shape[1])), np.zeros(outputs), 0, True)
        elif start is None:
            start = _erm_start(rows, len(classes), recipe.alpha)
        if self.objective == "erm" and self.init == "erm":
            recipe = replace(recipe, max_iter=0, anneal_steps=0)
        coef, intercept = (torch.from_numpy(part.astype(Z.dtype)) for part in (start.coef, start.intercept))
        coef, intercept, history = descend(rows, held_out, (coef, intercept), recipe, verbose=int(self.verbose))
        self.classes_, self.environments_ = classes, names
        self.coef_, self.intercept_, self.history_ = coef.numpy(), intercept.numpy(), history
        self.n_iter_ = history[-1]["step"] if recipe.max_iter else start.n_iter
        self._information = "none" if len(names) == 1 else f"environment labels on {len(rows.labels)} training rows"
        self.degenerate_ = _is_degenerate(rows, history[-1]["loss"], rows.spread(coef, intercept), self.init)
        return self

    def _recipe(self) -> Recipe:
        """The parameters, checked."""
        for name, allowed in (("objective", OBJECTIVES), ("init", INITS), ("penalty_estimator", ESTIMATORS)):
            if getattr(self, name) not in allowed:
                shown = ", ".join(map(repr, allowed))
                raise DataError(f"Got {name}={getattr(self, name)!r}, but expected one of {shown}.")
        for name in ("alpha", "group_step", "tol", "validation_fraction"):
            _check_number(name, getattr(self, name))
        _check_number("learning_rate", self.learning_rate, positive=True)
        if self.validation_fraction >= 1:
            raise DataError(f"Got validation_fraction={self.validation_fraction!r}, but expected less than 1.")
        for name, least in (("max_iter", 1), ("anneal_steps", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
                raise DataError(f"Got {name}={value!r}, but expected a whole number of at least {least}.")
        if 0 < self.anneal_steps >= self.max_iter:
            raise DataError(
                f"Got anneal_steps={self.anneal_steps} and max_iter={self.max_iter}, but expected fewer: the penalty "
                "would never be switched on."
            )
        pair = isinstance(self.penalty_weight, tuple | list)
        if pair and (self.objective != "irmx" or len(self.penalty_weight) != 2):
            raise DataError(
                f"Got penalty_weight={self.penalty_weight!r} for objective={self.objective!r}, but expected one "
                'number, or for "irmx" a pair (IRM, V-REx).'
            )
        for value in self.penalty_weight if pair else (self.penalty_weight,):
            _check_number("penalty_weight", value)
        weight = tuple(map(float, self.penalty_weight)) if pair else float(self.penalty_weight)
        irm, vrex = penalty_weights(self.objective, weight)  # type: ignore[arg-type]  # the pair was counted above
        return Recipe(
            irm=irm,
            vrex=vrex,
            dro=self.objective == "groupdro",
            alpha=float(self.alpha),
            anneal_steps=int(self.anneal_steps),
            max_iter=int(self.max_iter),
            learning_rate=float(self.learning_rate),
            group_step=float(self.group_step),
            tol=float(self.tol),
        )

    def _given_start(self, coef_init: Any, intercept_init: Any, n_classes: int, width: int) -> LinearFit | None:
        """The start that the user gave, with an intercept and of the right shape; None for another ``init``."""
        if self.init != "given":
            if coef_init is not None or intercept_init is not None:
                raise DataError(f'Got coef_init or intercept_init with init={self.init!r}. Pass init="given".')
            return None
        if coef_init is None:
            raise DataError('Got init="given" without coef_init, but expected coefficients to start from.')
        outputs = 1 if n_classes == 2 else n_classes
        coef = np.atleast_2d(as_tensor(coef_init, name="coef_init")[0].detach().cpu().numpy())
        intercept = np.zeros(outputs)
        if intercept_init is not None:
            intercept = as_tensor(intercept_init, name="intercept_init")[0].detach().cpu().numpy()
        if coef.shape != (outputs, width) or intercept.shape != (outputs,):
            raise DataError(
                f"Got coef_init of shape {coef.shape} and intercept_init of shape {intercept.shape}, but expected "
                f"{(outputs, width)} and {(outputs,)} for {n_classes} classes and {width} features."
            )
        return LinearFit(coef, intercept, 0, True)

    # using ------------------------------------------------------------------------------------------------------------

    def decision_function(self, Z: Any) -> Any:
        """Logits (m,) of the second of two classes, (m, K) of several. A tensor for a tensor."""
        logits = self._logits(Z)
        return like(Z, logits[:, 0] if len(self.coef_) == 1 else logits)

    def predict(self, Z: Any) -> Any:
        """Classes (m,). A tensor for a tensor, if classes are numbers."""
        logits = self._logits(Z)
        return like(Z, self.classes_[(logits[:, 0] > 0).astype(int) if len(self.coef_) == 1 else logits.argmax(axis=1)])

    def predict_proba(self, Z: Any) -> Any:
        """Probabilities (m, K), in double precision. A tensor for a tensor."""
        return like(Z, probabilities(self._logits(Z).astype(np.float64), one_vs_rest=False))

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
        check_is_fitted(self)
        return as_linear(self.coef_, self.intercept_, outputs=outputs, dtype=dtype)

    def plot(self, ax: Any = None) -> Any:
        """Losses and penalties of every environment over the steps; dashed on held-out rows. Returns the Axes."""
        from ..plots.ood import plot_head

        check_is_fitted(self)
        return plot_head(self.history_, [str(name) for name in self.environments_.tolist()], ax)

    def frame(self) -> Any:
        """``history_`` as a DataFrame: one row a step, environment and part ("training", "held out")."""
        import pandas as pd

        check_is_fitted(self)
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
        check_is_fitted(self)
        features = validate_data(self, _array(Z), reset=False, dtype=FLOATS)
        return np.asarray(features @ self.coef_.T + self.intercept_)


def _array(Z: Any) -> Any:
    """A tensor as an array, in single precision if it is: half the memory and time of a step."""
    return Z.detach().cpu().numpy() if isinstance(Z, Tensor) and Z.dtype == torch.float32 else plain(Z)


def _check_number(name: str, value: Any, *, positive: bool = False) -> None:
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not np.isfinite(value) or value < 0 or (positive and value == 0):
        expected = "a positive finite number" if positive else "a finite number of at least 0"
        raise DataError(f"Got {name}={value!r}, but expected {expected}.")


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


def _erm_start(rows: EnvironmentRows, n_classes: int, alpha: float) -> LinearFit:
    """Minimiser of the mean loss over environments plus the ridge."""
    # The solver minimises C sum_i s_i loss_i + |coef|^2 / 2; the weights of all environments together sum to 1.
    solver = PenalisedLogistic(n_classes, l1_ratio=0.0, max_iter=LBFGS_STEPS, tol=LBFGS_TOL)
    strength = 1 / (2 * alpha) if alpha else np.inf
    weights = rows.weights.mean(dim=0).numpy()
    found = solver.fit(rows.features.numpy(), rows.labels.numpy(), strength, 0, weights)
    if not found.converged:
        warnings.warn(
            f"The start at ERM is where L-BFGS was after {LBFGS_STEPS} steps, short of the minimum. Standardise the "
            "features, or raise alpha.",
            ConvergenceWarning,
            stacklevel=3,
        )
    return found


def _is_degenerate(rows: EnvironmentRows, losses: list[float], spread: float, init: str) -> bool:
    """Whether the head is as good as constant; warns if it is."""
    reached, constant = float(np.mean(losses)), rows.constant_loss()
    if reached <= (DEGENERATE if spread < FLAT else HOPELESS) * constant:
        return False
    advice = {
        "random": "The penalty is met by logits near 0, where accuracy is noise: start from ERM or from heads of FeAT.",
        "given": "Start from a head that works, or from ERM.",
        "erm": 'The features hold little about the labels, or the penalty leaves little: compare with objective="erm".',
    }
    warnings.warn(
        f"The head is degenerate: its mean training loss is {reached:.4f}, that of the best constant {constant:.4f}, "
        f"and its logits vary by {spread:.2g}. "
        f"{advice[init]}",
        FeatlearnWarning,
        stacklevel=3,
    )
    return True
