"""How a classifier does on every group: accuracies with intervals, both means, and the worst group beside chance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError, FeatlearnWarning
from .group_intervals import (
    Floats,
    Metric,
    equal_draws,
    metric_draws,
    minimum_interval,
    shuffled_draws,
    value_of,
    wilson_interval,
)
from .group_results import GroupReport, GroupScore
from .groups import GroupLabels, common_groups
from .label_columns import check_order, label_column
from .selection import check_selection

__all__ = ["group_report"]

ACCURACY, ALL = "accuracy", "all groups"
EQUAL_DRAWS = 4000  # of the minimum of equal groups: its mean is then sure to a few 1e-4


def group_report(
    y_true: Any,
    y_pred: Any,
    groups: Any,
    *,
    metric: Metric | None = None,
    train_groups: Any = None,
    group_names: Sequence[str] | None = None,
    confidence: float = 0.95,
    n_boot: int = 1000,
    random_state: int = 0,
    information: str | None = None,
    selection: str | None = None,
) -> GroupReport:
    r"""Accuracy of every group, the worst of them, and what the worst would be by chance.

    .. math:: \mathrm{WGA} = \min_{g : n_g > 0} \mathrm{acc}_g, \qquad
              \sum_g \pi_g \, \mathrm{acc}_g, \qquad \frac{1}{n} \sum_i 1[\hat y_i = y_i]

    Parameters
    ----------
    y_true, y_pred : array, Series, tensor or sequence of shape (n,)
        Labels and predicted labels: whole numbers, booleans or words.
    groups : array, tuple of arrays, mapping, DataFrame, or boolean matrix
        Of the same rows, as for :func:`~featlearn.robust.groups.as_groups`: usually the pair ``(y, s)`` of label and
        attribute. Masks may overlap. A DataFrame is crossed, also one of booleans; pass its ``to_numpy()`` for masks.
    metric : callable, optional
        ``metric(y_true, y_pred) -> float``, larger is better, in place of accuracy. Both columns may then hold any
        numbers.
    train_groups : groups, optional
        Of the training rows, given in the same way; their shares ``pi_g`` weigh the mean that papers report.
    group_names : sequence of str, optional
        Names, as for :func:`~featlearn.robust.groups.as_groups`.
    confidence : float, default 0.95
        Of all intervals.
    n_boot : int, default 1000
        Bootstrap samples of a metric; accuracy needs none.
    random_state : int, default 0
        What draws them.
    information : str, optional
        Which labels the method used, printed in the report: ``"none"``, ``"group labels on 1199 held-out rows"``.
    selection : str, optional
        How its hyperparameters were chosen, one of ``SELECTION_RULES``, printed in the report.

    Returns
    -------
    GroupReport

    Raises
    ------
    DataError
        Lengths or orders of indices (pandas) that differ, missing values, labels that are not whole or of two kinds,
        predictions of two axes, no row in any group, another selection rule, a metric that is no function, or one that
        is not finite on a group.

    Warns
    -----
    FeatlearnWarning
        Groups without rows, by name: they are listed, and left out of the worst group and the balanced mean.

    Notes
    -----
    A group's interval is Wilson's. That of the worst group holds the smallest of the groups' accuracies with at least
    ``confidence``: exact bounds of all groups, combined (:func:`~featlearn.robust.group_intervals.minimum_interval`).
    Percentiles of bootstrap samples, the usual choice, hold less: they call three rows of three certain.
    A minimum is biased down: ``expected_min_if_equal`` is the mean of the smallest accuracy when all groups have the
    pooled one (4000 simulated outcomes).

    With a metric there are no such bounds: intervals are percentiles of bootstrap samples, rows resampled within each
    group (all together where groups overlap), without samples in which it is nan, and too narrow in small groups. The
    minimum of equal groups comes from ``n_boot`` shuffles of the rows over the groups. A metric is called
    ``2 n_boot G`` times; accuracy costs little. The means are those of the literature; the interval of the worst group
    and the simulation of equal groups are this library's own.

    References
    ----------
    Sagawa, Koh, Hashimoto and Liang, "Distributionally robust neural networks for group shifts", ICLR 2020.

    Examples
    --------
    >>> y, s = [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 0]
    >>> report = group_report(y, [0, 0, 0, 1, 1, 0], (y, s), information="none", selection="none")
    >>> report.worst_group, report.worst_group_accuracy
    ('y=1, s=0', 0.0)
    >>> round(report.mean_accuracy_test, 3), report.mean_accuracy_balanced
    (0.833, 0.75)
    """
    check_selection(selection)
    _check_settings(metric, confidence, n_boot, random_state, information)
    check_order(y_true=y_true, y_pred=y_pred, groups=groups)
    y_true, y_pred = _labels(y_true, y_pred, metric)
    sets, sizes = ([groups], [len(y_true)]) if train_groups is None else ([groups, train_groups], [len(y_true), None])
    labels, *training = common_groups(sets, sizes, names=group_names)
    if not labels.counts.any():
        raise DataError("Got no row in any group, but expected at least one. Check the masks.")
    shares = None
    if training and not labels.overlapping and not training[0].overlapping:
        shares = training[0].counts / training[0].counts.sum()
    _warn_of_empty(labels, shares)
    if metric is None:
        scores = _accuracy_scores(np.asarray(y_true == y_pred, dtype=np.bool_), labels, confidence, random_state)
    else:
        scores = _metric_scores(metric, y_true, y_pred, labels, confidence, n_boot, random_state)
    return _assemble(
        scores,
        labels,
        shares,
        metric=ACCURACY if metric is None else _name_of(metric),
        n_classes=len({*y_true.tolist(), *y_pred.tolist()}) if metric is None else None,
        confidence=confidence,
        n_boot=int(n_boot),
        random_state=int(random_state),
        information=information,
        selection=selection,
    )


@dataclass(frozen=True)
class _Scores:
    """Values of the groups with their ends, the ends of the smallest, and draws of the smallest of equal groups."""

    overall: float
    values: Floats
    n_correct: NDArray[np.int64] | None
    ends: tuple[Floats, Floats]
    smallest_ends: tuple[float, float]
    smallest_if_equal: Floats


def _accuracy_scores(correct: NDArray[np.bool_], labels: GroupLabels, confidence: float, random_state: int) -> _Scores:
    hits, counts = labels.count(correct), labels.counts
    # Rows of no group say nothing about how the groups differ.
    pooled = float(correct[labels.memberships > 0].mean())
    return _Scores(
        overall=float(correct.mean()),
        values=np.divide(hits, counts, out=np.full(len(counts), np.nan), where=counts > 0),
        n_correct=hits,
        ends=wilson_interval(hits, counts, confidence),
        smallest_ends=minimum_interval(hits, counts, confidence),
        smallest_if_equal=_smallest(equal_draws(pooled, labels, EQUAL_DRAWS, np.random.default_rng(random_state))),
    )


def _metric_scores(
    metric: Metric, y_true: Any, y_pred: Any, labels: GroupLabels, confidence: float, n_boot: int, random_state: int
) -> _Scores:
    boot, chance = np.random.default_rng(random_state).spawn(2)
    named = list(zip(labels.names, labels.masks.T, strict=True))
    overall = value_of(metric, y_true, y_pred, ALL)
    values = np.array([value_of(metric, y_true[mask], y_pred[mask], name) for name, mask in named])
    undefined = [
        name for (name, mask), value in zip(named, values, strict=True) if mask.any() and not math.isfinite(value)
    ]
    undefined += [] if math.isfinite(overall) else [ALL]
    if undefined:
        raise DataError(
            f"Got a metric that is not finite in {'; '.join(undefined)}, but expected a number in every group. "
            "Choose a metric that is defined on each of them and on all rows, or other groups."
        )
    draws = metric_draws(metric, y_true, y_pred, labels, n_boot, boot)
    low, high = _percentiles(draws, confidence)
    worst_low, worst_high = _percentiles(_smallest(draws)[:, None], confidence)[:, 0]
    return _Scores(
        overall=overall,
        values=values,
        n_correct=None,
        ends=(low, high),
        smallest_ends=(float(worst_low), float(worst_high)),
        smallest_if_equal=_smallest(shuffled_draws(metric, y_true, y_pred, labels, n_boot, chance)),
    )


def _assemble(scores: _Scores, labels: GroupLabels, shares: Floats | None, **about: Any) -> GroupReport:
    """The report of the scores; ``about`` are the fields that are told, not computed."""
    (low, high), confidence = scores.ends, about["confidence"]
    counts, memberships = labels.counts, labels.memberships
    filled = counts > 0
    worst = int(np.nanargmin(scores.values))
    entries = tuple(
        GroupScore(
            label=name,
            n=int(counts[g]),
            n_correct=None if scores.n_correct is None else int(scores.n_correct[g]),
            accuracy=float(scores.values[g]),
            low=float(low[g]),
            high=float(high[g]),
            train_share=math.nan if shares is None else float(shares[g]),
        )
        for g, name in enumerate(labels.names)
    )
    weighted = math.nan
    if shares is not None and not (shares[~filled] > 0).any():
        weighted = float(shares[filled] @ scores.values[filled])
    equal_ends = _percentiles(scores.smallest_if_equal[:, None], confidence)[:, 0]
    return GroupReport(
        entries=entries,
        n=len(memberships),
        n_in_no_group=int((memberships == 0).sum()),
        overlapping=bool((memberships > 1).any()),
        worst_group=labels.names[worst],
        worst_group_accuracy=float(scores.values[worst]),
        worst_group_low=scores.smallest_ends[0],
        worst_group_high=scores.smallest_ends[1],
        expected_min_if_equal=float(scores.smallest_if_equal.mean()),
        min_if_equal_low=float(equal_ends[0]),
        min_if_equal_high=float(equal_ends[1]),
        mean_accuracy_test=scores.overall,
        mean_accuracy_train_weighted=weighted,
        mean_accuracy_balanced=float(scores.values[filled].mean()),
        **about,
    )


def _smallest(draws: Floats) -> Floats:
    """Smallest value of each draw, over groups that have one; draws in which no group has any are left out."""
    return np.nanmin(draws[~np.isnan(draws).all(axis=1)], axis=1)


def _percentiles(draws: Floats, confidence: float) -> Floats:
    """Both ends of the central interval of every column; nan for a column of nan."""
    ends = np.full((2, draws.shape[1]), np.nan)
    known = ~np.isnan(draws).all(axis=0)
    ends[:, known] = np.nanquantile(draws[:, known], [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    return ends


def _labels(y_true: Any, y_pred: Any, metric: Metric | None) -> tuple[NDArray[Any], NDArray[Any]]:
    whole = metric is None
    true, predicted = label_column(y_true, "y_true", whole=whole), label_column(y_pred, "y_pred", whole=whole)
    if len(true) != len(predicted):
        raise DataError(f"Got {len(true)} rows in y_true and {len(predicted)} in y_pred, but expected as many of both.")
    if _words(true) is not _words(predicted):
        raise DataError(
            f"Got {true[0]!r} in y_true and {predicted[0]!r} in y_pred, but expected labels of one kind. "
            "Encode both in the same way."
        )
    return true, predicted


def _words(column: NDArray[Any]) -> type | None:
    """Of which type the words of a column are; None for numbers."""
    if column.dtype.kind in "biuf":
        return None
    return next((kind for kind in (str, bytes) if any(isinstance(label, kind) for label in column)), None)


def _name_of(metric: Metric) -> str:
    """Its name; "accuracy" alone would promise exact intervals."""
    name = str(getattr(metric, "__name__", "metric"))
    return name if name != ACCURACY else f"{name}()"


def _check_settings(metric: Any, confidence: Any, n_boot: int, random_state: int, information: str | None) -> None:
    if metric is not None and not callable(metric):
        raise DataError(
            f"Got metric={metric!r}, but expected a function of y_true and y_pred, such as sklearn.metrics.f1_score."
        )
    if not isinstance(confidence, int | float | np.floating) or not 0 < confidence < 1:
        raise DataError(f"Got confidence={confidence!r}, but expected a number between 0 and 1, such as 0.95.")
    for name, value, least in (("n_boot", n_boot, 1), ("random_state", random_state, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise DataError(f"Got {name}={value!r}, but expected a whole number of at least {least}.")
    if information is not None and not isinstance(information, str):
        raise DataError(f"Got information={information!r}, but expected text that says which labels were used.")


def _warn_of_empty(labels: GroupLabels, shares: Floats | None) -> None:
    if not labels.empty:
        return
    text = f"No rows in {'; '.join(labels.empty)}: listed, but left out of the worst group and the balanced mean."
    if shares is not None and (shares[labels.counts == 0] > 0).any():
        text += " Training rows are in them, so the train-weighted mean is not defined."
    warnings.warn(text, FeatlearnWarning, stacklevel=3)
