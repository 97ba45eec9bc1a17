"""Feature augmented training: rounds that must also classify what earlier rounds got wrong."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import assert_all_finite, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from .._arrays import as_tensor
from .._random import generator, seeded_rng
from ..exceptions import DataError, FeatlearnWarning, ModelError
from .feat_network import default_featurizer, features_in_chunks, logits_of, mean_head, predicted, xavier
from .feat_rounds import LearnSet, RetainSet, RoundRule, point_mean, results_of, right_rows, train_round
from .kinds import like, plain

__all__ = ["FeATPretrainer"]

ALL_ROUNDS = "all rounds"
NO_ERRORS = "no errors left"
BELOW_MARGIN = "set accuracy below the margin"
DIVERGED = "diverged"


class FeATPretrainer(ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseEstimator):
    r"""Learn richer features in rounds: each also classifies what the last got wrong, while old heads keep working.

    Training stops to learn features once the easiest of them explains the labels, and heads for new environments
    (:class:`~featlearn.robust.ood.OODHead`) cannot add any. Round k trains the featurizer :math:`\phi` with a new
    linear head :math:`w_k` on

    .. math::

        \max_{D \in A} L_D(w_k \circ \phi) + \frac{\lambda}{|R|} \sum_{(w_i, D) \in R} L_D(w_i \circ \phi)
        + \alpha (\|\phi\|^2 + \|w_k\|^2)

    where A begins with all rows and receives the rows that each finished round gets wrong, and R receives its frozen
    head with the rows that it gets right. A round is rejected, and :math:`\phi` is as before it, where on any set of A
    its accuracy exceeds that of the commonest class by less than ``stop_margin``, or where it diverges.

    Parameters
    ----------
    featurizer : Module or callable, optional
        A module, which is copied and never changed, or a function of a ``torch.Generator`` that makes one. Its output
        is flattened to (n, d): pass a network up to its penultimate layer. Of a whole classifier the logits are taken
        for features, which a new head follows in every round. Default: two ReLU layers of 256 on flattened rows, Xavier
        weights and zero biases.
    n_rounds : int, default=3
        Rounds at most; 1 is plain training.
    steps_per_round : int, default=150
        Steps of Adam, which begins anew in each round.
    retain_weight : float, default=0.01
        :math:`\lambda`.
    stop_margin : float, default=0.1
        Accuracy above the commonest class that a round must reach on every set.
    keep : {"all", "latest"}, default="all"
        Which sets remain after a round: all, or the set of all rows and the two sets of the last finished round.
    alpha : float, default=1e-3
        Of the sum of squares of all trained parameters, biases too.
    learning_rate : float, default=1e-3
    batch_size : int, optional
        Rows drawn from every set in each step, with replacement. Default: all rows in every step.
    loss : "auto" or callable, default="auto"
        "auto": logistic. Else a function of logits, (n,) for two classes or (n, K), and codes (n,) of the classes, 0 to
        K - 1, that returns a mean.
    random_state : int, RandomState or None, default=None
        Draws weights, rows, and whatever the featurizer draws.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    featurizer_ : Module
        :math:`\phi` after the last accepted round, in evaluation mode.
    heads_ : list of Linear
        One an accepted round; one output for two classes, else K.
    head_ : Linear
        Their mean, which makes predictions.
    masks_ : array of bool of shape (rounds, n)
        Which rows every accepted round got right at its end.
    rounds_ : DataFrame
        Round (also a rejected one), role ("learn", "retain"), set, n, accuracy, majority, gain, accepted.
    history_ : list of dict
        Round, step, and before that step loss, set_losses, set_accuracies, retention_losses, retention_accuracies.
    n_rounds_ : int
        Accepted rounds.
    stop_reason_ : str
        "all rounds", "no errors left", "set accuracy below the margin", "diverged".
    classes_, n_features_in_, feature_names_in_ :
        As everywhere in scikit-learn.

    Warns
    -----
    FeatlearnWarning
        The first round stays below the margin. It is kept, since nothing better was learned.

    Notes
    -----
    With full batches a step is one forward and one backward pass of all rows, in any round. Work happens where X is: on
    its device, in its precision with the default featurizer.

    The more often rows are seen, the more noisy labels are memorised, and memorised rows are not wrong any more: with
    few rows later rounds add little. Where plain training already learns what is wanted they add nothing.

    Provenance: rounds, sets and the averaged head are from the paper. The rule that rejects a round is the library's
    own: the one in the released code fires in every first round. So is the choice to keep all sets (released: latest).

    References
    ----------
    Chen, Huang, Zhou, Bian, Han, Cheng (2023). Understanding and improving feature learning for out-of-distribution
    generalization. NeurIPS. arXiv:2304.11327.

    Zhang, Lopez-Paz, Bottou (2022). Rich feature construction for the optimization-generalization dilemma. ICML.
    arXiv:2203.15516.

    Examples
    --------
    The first column agrees with nine labels in ten, the second with three in four. The rows that round 1 gets wrong
    are those where the first one lies, so round 2 learns the second:

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 2000)
    >>> easy, hard = (np.where(rng.random(2000) < noise, 1 - y, y) for noise in (0.1, 0.25))
    >>> X = np.column_stack([easy, hard]) + 0.05 * rng.normal(size=(2000, 2))
    >>> featurizer = torch.nn.Sequential(torch.nn.LazyLinear(16), torch.nn.ReLU())
    >>> machine = FeATPretrainer(featurizer, learning_rate=0.03, random_state=0).fit(X, y)
    >>> machine.n_rounds_, machine.stop_reason_
    (2, 'set accuracy below the margin')
    >>> machine.rounds_.query("round == 2 and role == 'learn'")["accuracy"].round(2).tolist()
    [0.74, 0.76]
    >>> Z, (coef, intercept) = machine.transform(X), machine.get_head()
    >>> Z.shape, coef.shape
    ((2000, 16), (1, 16))
    """

    def __init__(
        self,
        featurizer: Any = None,
        *,
        n_rounds: int = 3,
        steps_per_round: int = 150,
        retain_weight: float = 0.01,
        stop_margin: float = 0.1,
        keep: str = "all",
        alpha: float = 1e-3,
        learning_rate: float = 1e-3,
        batch_size: int | None = None,
        loss: Any = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.featurizer = featurizer
        self.n_rounds = n_rounds
        self.steps_per_round = steps_per_round
        self.retain_weight = retain_weight
        self.stop_margin = stop_margin
        self.keep = keep
        self.alpha = alpha
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.loss = loss
        self.random_state = random_state
        self.verbose = verbose

    # fitting --------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any) -> Self:
        """Train in rounds.

        Parameters
        ----------
        X : array, DataFrame or Tensor of shape (n, d), or (n, ...) for a featurizer of images
        y : array of shape (n,)
            Classes, of any kind that sorts.

        Returns
        -------
        self

        Raises
        ------
        DataError
            Parameters out of range, one class, or a first round that diverges.
        ModelError
            A featurizer that is none, has nothing to train, or returns no rows of numbers.
        """
        rule = self._rule()
        x = self._rows(X, reset=True)
        codes = self._codes(y, X).to(x.device)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with seeded_rng(seed, "featurizer"):
            featurizer = self._made(x, seed)
            x = x.to(next(featurizer.parameters()).dtype)
            self._n_features_out = features_in_chunks(featurizer, x[:2]).shape[1]
        self._shape = tuple(x.shape[1:])
        self._check_loss(rule, codes)
        self._train(featurizer, x, codes, rule, seed)
        return self

    def _train(self, featurizer: nn.Module, x: Tensor, codes: Tensor, rule: RoundRule, seed: int) -> None:
        learn = [LearnSet.of("all", torch.arange(len(x), device=x.device), codes)]
        retain: list[RetainSet] = []
        heads: list[nn.Linear] = []
        masks: list[Tensor] = []
        rows: list[dict[str, Any]] = []
        self.history_: list[dict[str, Any]] = []
        reason: str | None = None
        for k in range(1, self.n_rounds + 1):
            before = copy.deepcopy(featurizer)
            with seeded_rng(seed, "round", k):
                head = self._new_head(x, generator(seed, "head", k))
                draws = generator(seed, "rows", k)
                finite = self._record(k, train_round(featurizer, head, (x, codes), learn, retain, rule, draws))
            head.requires_grad_(False)
            right = right_rows(featurizer, head, x, codes)
            found = results_of(featurizer, (x, codes), right, learn, retain)
            reason = self._objection(found, finite and _is_finite(head) and _is_finite(featurizer))
            if k == 1 and reason is not None:
                self._warn_of_first(found[0], reason)
            accepted = reason is None or k == 1
            rows += [{"round": k, **result, "accepted": accepted} for result in found]
            if not accepted:
                featurizer = before
                break
            heads.append(head)
            masks.append(right)
            wrong = (~right).nonzero()[:, 0]
            if reason is None and len(wrong) == 0:
                reason = NO_ERRORS
            if reason is not None:
                break
            if self.keep == "latest":
                learn, retain = learn[:1], []
            learn.append(LearnSet.of(f"wrong after round {k}", wrong, codes))
            retain.append(RetainSet(f"right after round {k}", head, right.nonzero()[:, 0]))
        self.stop_reason_ = reason or ALL_ROUNDS
        self.featurizer_ = featurizer.eval()
        self.heads_ = heads
        self.head_ = mean_head(heads)
        self.masks_: NDArray[np.bool_] = torch.stack(masks).cpu().numpy()
        self.n_rounds_ = len(heads)
        self.rounds_ = _frame(rows)

    def _objection(self, found: Sequence[dict[str, Any]], finite: bool) -> str | None:
        """Why a round should be rejected, if it should."""
        if not finite:
            return DIVERGED
        gains = [row["gain"] for row in found if row["role"] == "learn"]
        return BELOW_MARGIN if min(gains) < self.stop_margin else None

    def _record(self, k: int, steps: Iterator[dict[str, Any]]) -> bool:
        """Whether all losses of round k are finite; they enter the history."""
        # Numbers are fetched at the end, so that a device need not wait for them in every step.
        entries = list(self._tracked(steps, f"Round {k}"))
        plain = [
            {"round": k, "step": i} | {name: _numbers(value) for name, value in entry.items()}
            for i, entry in enumerate(entries, start=1)
        ]
        self.history_ += plain
        return all(math.isfinite(entry["loss"]) for entry in plain)

    def _tracked(self, steps: Iterator[dict[str, Any]], name: str) -> Iterable[dict[str, Any]]:
        if not self.verbose:
            return steps
        from rich.console import Console
        from rich.progress import track

        return track(steps, description=name, total=self.steps_per_round, console=Console(stderr=True))

    def _warn_of_first(self, found: dict[str, Any], reason: str) -> None:
        if reason == DIVERGED:
            raise DataError(
                f"Got a loss that is not finite in the first {self.steps_per_round} steps, but expected training to "
                "settle. Use a smaller learning_rate, or bring the columns of X to a common scale."
            )
        warnings.warn(
            f"Got an accuracy of {found['accuracy']:.3f} from the first round where the commonest class gives "
            f"{found['majority']:.3f}, less than stop_margin={self.stop_margin:g} above it. The round is kept, but "
            "hardly anything was learned: train longer, or with another learning_rate.",
            FeatlearnWarning,
            stacklevel=4,
        )

    # use ------------------------------------------------------------------------------------------------------------

    def transform(self, X: Any) -> Any:
        """Features (n, d) of rows; a tensor for a tensor, else an array."""
        return _as_given(X, self._features(X))

    def decision_function(self, X: Any) -> Any:
        """Logits of the mean head: (n,) of ``classes_[1]`` for two classes, else (n, K)."""
        return _as_given(X, self._logits(X))

    def predict(self, X: Any) -> Any:
        """Classes (n,) by the mean head; a tensor for a tensor, unless classes are words."""
        codes = predicted(self._logits(X)).cpu().numpy()
        return like(X, self.classes_[codes])

    def get_head(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coefficients (1 or K, d) and intercepts (1 or K,) of the mean head.

        They start another head on the features:
        ``OODHead(init="given").fit(Z, y, environments, coef_init=coef, intercept_init=intercept)``.
        """
        check_is_fitted(self)
        weight, bias = (parameter.detach().cpu().double().numpy() for parameter in (self.head_.weight, self.head_.bias))
        return weight, bias

    def plot(self, ax: Any = None) -> Any:
        """Accuracy on every set at the end of each round beside that of its commonest class, and losses over steps.

        Parameters
        ----------
        ax : Axes or two Axes, optional
            Drawn into; one Axes gets the accuracies alone. By default a new figure.

        Returns
        -------
        list of Axes
        """
        from ..plots.feat import plot_rounds

        check_is_fitted(self)
        return plot_rounds(self.rounds_.to_dict("records"), self.history_, ax)

    def _features(self, X: Any) -> Tensor:
        check_is_fitted(self)
        x = self._rows(X, reset=False)
        if tuple(x.shape[1:]) != self._shape:
            raise DataError(f"Got rows of shape {tuple(x.shape[1:])}, but expected {self._shape} as in fit.")
        weight = self.head_.weight
        return features_in_chunks(self.featurizer_, x.to(device=weight.device, dtype=weight.dtype))

    def _logits(self, X: Any) -> Tensor:
        features = self._features(X)
        return logits_of(self.head_, features)

    # checks ---------------------------------------------------------------------------------------------------------

    def _rule(self) -> RoundRule:
        for name in ("n_rounds", "steps_per_round", "batch_size"):
            value = getattr(self, name)
            if name == "batch_size" and value is None:
                continue
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise DataError(f"Got {name}={value!r}, but expected a whole number of at least 1.")
        for name in ("retain_weight", "stop_margin", "alpha", "learning_rate"):
            value = getattr(self, name)
            real = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not real or not math.isfinite(value) or value < 0:
                raise DataError(f"Got {name}={value!r}, but expected a finite number >= 0.")
        if self.learning_rate == 0:
            raise DataError("Got learning_rate=0, but expected a positive number.")
        if self.keep not in ("all", "latest"):
            raise DataError(f"Got keep={self.keep!r}, but expected 'all' or 'latest'.")
        if self.loss != "auto" and not callable(self.loss):
            raise DataError(f"Got loss={self.loss!r}, but expected 'auto' or a function of logits and codes.")
        return RoundRule(
            steps=int(self.steps_per_round),
            retain_weight=float(self.retain_weight),
            alpha=float(self.alpha),
            learning_rate=float(self.learning_rate),
            batch_size=None if self.batch_size is None else int(self.batch_size),
            loss=point_mean if self.loss == "auto" else self.loss,
        )

    def _check_loss(self, rule: RoundRule, codes: Tensor) -> None:
        shape = (len(codes),) if len(self.classes_) == 2 else (len(codes), len(self.classes_))
        value = rule.loss(torch.zeros(shape, device=codes.device), codes)
        if not isinstance(value, Tensor) or value.ndim:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
            raise DataError(f"Got a loss of {got}, but expected a tensor that is one number, the mean over rows.")

    def _rows(self, X: Any, *, reset: bool) -> Tensor:
        if isinstance(X, Tensor):
            x, _ = as_tensor(X, min_rank=2)
            validate_data(self, X, skip_check_array=True, reset=reset)
            return x.detach()
        array = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], allow_nd=True)
        return as_tensor(array)[0]

    def _codes(self, y: Any, X: Any) -> Tensor:
        if y is None:
            raise DataError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None.")
        labels = column_or_1d(plain(y), warn=True)
        check_consistent_length(X, labels)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(
                f"Got one class, {self.classes_[0]!r}, but expected two or more. Add rows of another class."
            )
        return torch.from_numpy(codes.astype(np.int64))

    def _made(self, x: Tensor, seed: int) -> nn.Module:
        """The featurizer of this fit, on the device of x."""
        draws = generator(seed, "featurizer")
        if self.featurizer is None:
            made: Any = default_featurizer(x, draws)
        elif isinstance(self.featurizer, nn.Module):
            made = copy.deepcopy(self.featurizer)
        elif callable(self.featurizer) and not isinstance(self.featurizer, type):
            made = self.featurizer(draws)
        else:
            made = self.featurizer
        if not isinstance(made, nn.Module):
            raise ModelError(
                f"Got featurizer={self.featurizer!r}, but expected a Module (made, not its class), a function of a "
                "torch.Generator that makes one, or None."
            )
        if not any(weight.requires_grad for weight in made.parameters()):
            raise ModelError(
                "Got a featurizer without trainable parameters, but expected something to train. For fixed features "
                "fit a head instead: OODHead or DFRClassifier on extract_features(...)."
            )
        return made.to(x.device)

    def _new_head(self, x: Tensor, draws: torch.Generator) -> nn.Linear:
        outputs = 1 if len(self.classes_) == 2 else len(self.classes_)
        return xavier(nn.Linear(self._n_features_out, outputs, dtype=x.dtype), draws).to(x.device)


def _is_finite(module: nn.Module) -> bool:
    return all(bool(weight.isfinite().all()) for weight in module.parameters())


def _numbers(value: Any) -> Any:
    return [float(each) for each in value] if isinstance(value, list) else float(value)


def _frame(rows: Sequence[dict[str, Any]]) -> Any:
    import pandas as pd

    return pd.DataFrame(rows)


def _as_given(X: Any, values: Tensor) -> Any:
    """A tensor for a tensor, else an array; in the precision of X where that has one."""
    if isinstance(X, Tensor):
        return values.to(device=X.device, dtype=X.dtype if X.is_floating_point() else values.dtype)
    own = getattr(X, "dtype", None)
    single = own in (np.dtype(np.float32), np.dtype(np.float16))
    return values.cpu().numpy().astype(np.float32 if single else np.float64, copy=False)
