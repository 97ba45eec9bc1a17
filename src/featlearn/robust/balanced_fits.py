"""Group-balanced samples of rows, and the penalised logistic regressions that are fitted to them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils.parallel import Parallel, delayed

from ..exceptions import ConvergenceWarning, DataError, FeatlearnWarning
from .groups import GroupLabels, balance_groups, common_groups
from .logistic import LinearFit, PenalisedLogistic

__all__ = ["BalancedFits", "Rows", "check_halves", "grouped_rows", "halves", "standard_scaler"]

ATTEMPTS = 20  # draws until every class is there: groups need not contain the label (regions of a map do not)

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Rows:
    """Features (n, d), classes and groups of rows, both as indices."""

    Z: Floats
    codes: Codes
    groups: Codes

    def __len__(self) -> int:
        return len(self.Z)

    def take(self, index: Codes) -> Rows:
        """Some of the rows."""
        return Rows(self.Z[index], self.codes[index], self.groups[index])

    def scaled(self, scaler: Any) -> Rows:
        """The same rows with other features."""
        return Rows(scaler.transform(self.Z), self.codes, self.groups)

    def worst_group_accuracy(self, predicted: Codes) -> float:
        """Lowest accuracy of the groups that have rows."""
        counts, hits = np.bincount(self.groups), np.bincount(self.groups, self.codes == predicted)
        return float((hits[counts > 0] / counts[counts > 0]).min())


@dataclass(frozen=True, eq=False)
class BalancedFits:
    """How rows are balanced, scaled while tuning, and fitted.

    Parameters
    ----------
    logistic : PenalisedLogistic
    balance : {"subsample", "reweight"}
    scaler : StandardScaler, optional
        Of other rows. By default every tuning fit has that of the rows it sees.
    n_jobs : int, optional
        Workers at once. Processes, as by default, help; threads wait for each other in liblinear.
    verbose : int
        1 shows bars.
    """

    logistic: PenalisedLogistic
    balance: str
    scaler: Any
    n_jobs: int | None
    verbose: int

    def tune(
        self, rows: Rows, others: Rows | None, grid: Sequence[float], seeds: Sequence[int]
    ) -> tuple[list[dict[str, float]], float]:
        """Score every C of a grid once a seed.

        Parameters
        ----------
        rows : Rows
            Fitted to; or, without ``others``, halved to be fitted to and to score on.
        others : Rows, optional
            To score on.
        grid : sequence of float
        seeds : sequence of int

        Returns
        -------
        scores : list of dict
            C, split and worst_group_accuracy.
        n_fitted : float
            Rows in one fit, on average over the seeds.
        """
        scores, sizes = [], []
        for split, seed in enumerate(seeds):
            random = np.random.default_rng(seed)
            fitted, scored = (rows, others) if others is not None else map(rows.take, halves(rows, random))
            index, weights = self._sample(fitted, random)
            sample = fitted.take(index)
            scaler = standard_scaler(sample.Z, weights) if self.scaler is None else self.scaler
            sample, scored = sample.scaled(scaler), scored.scaled(scaler)
            fits = self._run(((sample.Z, sample.codes, C, seed, weights) for C in grid), len(grid), "Tuning")
            for C, fit in zip(grid, fits, strict=True):
                accuracy = scored.worst_group_accuracy(fit.codes(scored.Z))
                scores.append({"C": C, "split": split, "worst_group_accuracy": accuracy})
            sizes.append(len(sample))
        return scores, float(np.mean(sizes))

    def refit(self, rows: Rows, C: float, seeds: Sequence[int]) -> list[LinearFit]:
        """Fit one balanced sample a seed of standardised rows; all rows, once, when they are weighted."""
        drawn = [(*self._sample(rows, np.random.default_rng(seed)), seed) for seed in seeds]
        # Copies are made as they are fitted: all at once would be many times the rows.
        calls = ((rows.Z[index], rows.codes[index], C, seed, weights) for index, weights, seed in drawn)
        return self._run(calls, len(drawn), "Refitting")

    def size(self, rows: Rows) -> int:
        """Rows in one fit to these."""
        counts = np.bincount(rows.groups)
        return len(rows) if self.balance == "reweight" else len(counts) * int(counts.min())

    def _sample(self, rows: Rows, random: np.random.Generator) -> tuple[Codes, Floats | None]:
        """Rows under which all groups count alike, and their weights: a subsample without weights, or all rows."""
        if self.balance == "reweight":
            return np.arange(len(rows)), balance_groups(rows.groups, "reweight")
        return _with_every_class(lambda: balance_groups(rows.groups, "subsample", random), rows.codes), None

    def _run(self, calls: Iterable[tuple[Any, ...]], total: int, description: str) -> list[LinearFit]:
        """Fits in the order of the calls."""
        parallel = Parallel(n_jobs=self.n_jobs, return_as="generator")
        found: Iterable[LinearFit] = parallel(delayed(self.logistic.fit)(*call) for call in calls)
        if self.verbose:
            from rich.console import Console
            from rich.progress import track

            console = Console(stderr=True)
            found = track(found, total=total, description=description, console=console, transient=True)
        fits = list(found)
        stopped = sum(not fit.converged for fit in fits)
        if stopped:
            warnings.warn(
                f"{stopped} of {len(fits)} fits ({description.lower()}) stopped at max_iter={self.logistic.max_iter}. "
                "Raise max_iter or tol, or lower C.",
                ConvergenceWarning,
                stacklevel=4,
            )
        return fits


def grouped_rows(
    own: tuple[Floats, Codes],
    groups: Any,
    others: tuple[Floats, Codes] | None,
    groups_tune: Any,
    classes: NDArray[Any],
) -> tuple[Rows, Rows | None, GroupLabels]:
    """Rows to fit to and rows to tune on, with their groups, and the groups of the first by name.

    Parameters
    ----------
    own : pair of arrays
        Features and classes (as indices) of the rows to fit to.
    groups : groups, optional
        Theirs, as :func:`~featlearn.robust.groups.as_groups` reads them; by default the classes.
    others, groups_tune : optional
        The same of the rows to tune on.
    classes : array of shape (K,)
        What the indices stand for.

    Raises
    ------
    DataError
        For groups of only one of the two, that overlap, of another length, or without rows to fit to.

    Warns
    -----
    FeatlearnWarning
        For groups without rows to tune on.
    """
    if (groups_tune is not None) != (groups is not None and others is not None):
        raise DataError(
            "Got groups for the rows to fit to or for those to tune on, but not for both. Pass groups and groups_tune, "
            "or neither to balance the classes."
        )
    sets = [own] if others is None else [own, others]
    if isinstance(groups, tuple) and any(np.ndim(part) and len(part) != len(own[1]) for part in groups):
        raise DataError(
            f"Got groups as a tuple of columns of {' and '.join(str(np.size(part)) for part in groups)} rows for "
            f"{len(own[1])} rows of Z. Cross-validation cuts a DataFrame or one column to its rows, but no tuple: pass "
            "pandas.DataFrame({'y': y, 's': s}) there."
        )
    given = [{"y": classes[codes]} for _, codes in sets] if groups is None else [groups, groups_tune][: len(sets)]
    labels = common_groups(given, [len(codes) for _, codes in sets])
    if any(each.codes is None for each in labels):
        raise DataError(
            "Got groups that overlap or leave rows out, but expected every row in exactly one group. Cross the "
            "attributes instead: pass them as a tuple or DataFrame."
        )
    if labels[0].empty:
        raise DataError(
            f"Got no rows in {'; '.join(labels[0].empty)}, so no sample is balanced ({labels[0].table()}). Add "
            "held-out rows of these groups, or balance other groups; without groups the classes are balanced."
        )
    missing = labels[-1].empty
    if missing:
        warnings.warn(
            f"No rows to tune on in {'; '.join(missing)}: C is chosen by the worst of the other groups. Add rows of "
            "these groups to Z_tune, or leave it out.",
            FeatlearnWarning,
            stacklevel=3,
        )
    found = [Rows(*part, np.asarray(each.codes)) for part, each in zip(sets, labels, strict=True)]
    return found[0], None if others is None else found[1], labels[0]


def check_halves(labels: GroupLabels) -> None:
    """Refuse groups that cannot be in both halves, by name.

    Raises
    ------
    DataError
        For groups with a single row.
    """
    single = [name for name, count in zip(labels.names, labels.counts, strict=True) if count < 2]
    if single:
        raise DataError(
            f"Got a single row in {'; '.join(single)}, which cannot be in the half that is fitted to and in the half "
            "that scores C. Add rows of these groups, pass rows to tune on (Z_tune), or a number as C."
        )


def halves(rows: Rows, random: np.random.Generator) -> Iterator[Codes]:
    """Rows to fit, and rows to score on: half of every group each.

    Raises
    ------
    DataError
        For a class that is missing from the first half twenty times in turn.
    """
    whole, state = np.arange(len(rows)), np.random.RandomState(random.integers(2**31))
    fitted = _with_every_class(
        lambda: train_test_split(whole, train_size=0.5, stratify=rows.groups, random_state=state)[0], rows.codes
    )
    return iter((fitted, np.setdiff1d(whole, fitted)))


def standard_scaler(Z: Floats, weights: Floats | None = None) -> Any:
    """Scaler to mean zero and variance one, of weighted rows.

    Raises
    ------
    DataError
        For features so large that their variance is no number.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaler = StandardScaler().fit(Z, sample_weight=weights)
    if not np.isfinite(scaler.var_).all():
        raise DataError(
            f"Got features up to {np.abs(Z).max():.3g}, the squares of which overflow. Divide all features by one "
            "number that brings them near 1."
        )
    return scaler


def _with_every_class(draw: Callable[[], Codes], codes: Codes) -> Codes:
    wanted = np.unique(codes)
    for _ in range(ATTEMPTS):
        index = draw()
        if np.array_equal(np.unique(codes[index]), wanted):
            return index
    raise DataError(
        f"Got {len(wanted)} classes of which a balanced sample lacked one in {ATTEMPTS} draws. Cross the groups with "
        "the label, groups=(y, s), merge rare classes, or use balance='reweight'."
    )
