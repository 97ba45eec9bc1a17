"""Feature augmented training: rounds that must also classify what earlier rounds got wrong."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import assert_all_finite, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from .._arrays import as_tensor, like, plain
from .._parameters import check_amount, check_count
from .._random import generator, seeded_rng
from ..exceptions import DataError, ModelError
from .feat_network import default_featurizer, features_in_chunks, logits_of, mean_head, predicted
from .feat_rounds import RoundRule, point_mean
from .feat_training import train_rounds
from .groups import check_order

__all__ = ["FeATPretrainer"]


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
    classes_ : ndarray
        Labels, sorted.
    n_features_in_, feature_names_in_ :
        As everywhere in scikit-learn.

    Warns
    -----
    FeatlearnWarning
        The first round stays below the margin. It is kept, since nothing better was learned.

    Notes
    -----
    With full batches a step is one forward and one backward pass of all rows, in any round. Work happens where X is: on
    its device, with the default featurizer in its precision, at least single.

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
        check_order(X=X, y=y)
        door = copy.copy(self)  # it takes width and names, which a fit that is refused must not change
        # Gradients are taken whatever mode the caller is in.
        with torch.inference_mode(False), torch.enable_grad():
            x = door._rows(X, reset=True)
            classes, codes = self._codes(y, X)
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            with seeded_rng(seed, "featurizer"):
                featurizer = self._made(x, seed)
                x, codes = x.to(next(featurizer.parameters()).dtype), codes.to(x.device)
                sizes = features_in_chunks(featurizer, x[:2]).shape[1], 1 if len(classes) == 2 else len(classes)
            self._check_loss(rule, x, codes, sizes[1])
            trained = train_rounds(featurizer, (x, codes), sizes, rule, seed, verbose=int(self.verbose))
        # All at the end: a fit that was refused leaves the one before it whole.
        validate_data(self, X, skip_check_array=True)
        self.classes_, self._shape, self._n_features_out = classes, tuple(x.shape[1:]), sizes[0]
        self.featurizer_, self.heads_, self.head_ = trained.featurizer, trained.heads, mean_head(trained.heads)
        self.masks_: NDArray[np.bool_] = trained.masks.cpu().numpy()
        self.rounds_, self.history_ = _frame(trained.results), trained.history
        self.n_rounds_, self.stop_reason_ = len(trained.heads), trained.stop_reason
        return self

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
        check_is_fitted(self, "featurizer_")
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

        check_is_fitted(self, "featurizer_")
        return plot_rounds(self.rounds_.to_dict("records"), self.history_, ax)

    def _features(self, X: Any) -> Tensor:
        check_is_fitted(self, "featurizer_")
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
        if self.keep not in ("all", "latest"):
            raise DataError(f"Got keep={self.keep!r}, but expected 'all' or 'latest'.")
        if self.loss != "auto" and not callable(self.loss):
            raise DataError(f"Got loss={self.loss!r}, but expected 'auto' or a function of logits and codes.")
        return RoundRule(
            rounds=check_count("n_rounds", self.n_rounds, 1),
            steps=check_count("steps_per_round", self.steps_per_round, 1),
            margin=check_amount("stop_margin", self.stop_margin),
            latest_only=self.keep == "latest",
            retain_weight=check_amount("retain_weight", self.retain_weight),
            alpha=check_amount("alpha", self.alpha),
            learning_rate=check_amount("learning_rate", self.learning_rate, positive=True),
            batch_size=None if self.batch_size is None else check_count("batch_size", self.batch_size, 1),
            loss=point_mean if self.loss == "auto" else self.loss,
        )

    def _check_loss(self, rule: RoundRule, x: Tensor, codes: Tensor, outputs: int) -> None:
        value = rule.loss(x.new_zeros((len(codes),) if outputs == 1 else (len(codes), outputs)), codes)
        if not isinstance(value, Tensor) or value.ndim:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
            raise DataError(f"Got a loss of {got}, but expected a tensor that is one number, the mean over rows.")

    def _rows(self, X: Any, *, reset: bool) -> Tensor:
        if isinstance(X, Tensor):
            x, _ = as_tensor(X, min_rank=2)
            validate_data(self, X, skip_check_array=True, reset=reset)
            return x.clone() if x.is_inference() else x.detach()  # autograd saves no inference tensors
        array = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], allow_nd=True)
        return as_tensor(array)[0]

    def _codes(self, y: Any, X: Any) -> tuple[NDArray[Any], Tensor]:
        """Classes (K,), and the place of every row's among them."""
        if y is None:
            raise DataError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None.")
        labels = column_or_1d(plain(y), warn=True)
        check_consistent_length(X, labels)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise DataError(f"Got one class, {classes.tolist()[0]!r}, but expected two or more. Add rows of another.")
        return classes, torch.from_numpy(codes.astype(np.int64))

    def _made(self, x: Tensor, seed: int) -> nn.Module:
        """The featurizer of this fit, on the device of x."""
        draws = generator(seed, "featurizer")
        made: Any = self.featurizer
        if made is None:
            made = default_featurizer(x, draws)
        elif callable(made) and not isinstance(made, type | nn.Module):
            made = made(draws)
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
        return copy.deepcopy(made).to(x.device)  # of a function, too: it may hand out a network that it keeps


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
