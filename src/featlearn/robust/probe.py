r"""Did the network learn the feature? Decodability of the core and the spurious attribute, against two controls.

One protocol for both attributes: a linear head on frozen features, fitted on rows balanced over the groups (y, s), and
scored by the accuracy of its worst group. Features that were never trained decode much already, so each value stands
beside that of the raw input and of an untrained network.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from sklearn.utils.validation import has_fit_parameter

from .._parameters import check_count
from ..exceptions import DataError, FeatlearnWarning
from .excess_interval import excess_interval
from .group_intervals import equal_draws, minimum_interval
from .groups import FEW, GroupLabels, balance_groups, common_groups, few_rows
from .label_columns import check_order, label_column
from .probe_results import CONTROLS, FeatureProbe, ProbePoint

__all__ = ["Prober", "Source", "check_settings", "feature_probe"]

CONFIDENCE = 0.95
DRAWS = 4000  # of the worst group of guesses


def feature_probe(
    features: Mapping[str, Any],
    y: Any,
    s: Any,
    test_features: Mapping[str, Any],
    test_y: Any,
    test_s: Any,
    *,
    probe: Any = None,
    n_refits: int = 5,
    baselines: bool = True,
    names: Sequence[str] = ("y", "s"),
    random_state: int = 0,
    verbose: int = 0,
) -> FeatureProbe:
    r"""How well features tell the core label y and the spurious attribute s, beside what was there before training.

    .. math:: \mathrm{core} = \min_{g = (y, s)} \mathrm{acc}_g(\hat y), \qquad
              \mathrm{spurious} = \min_{g = (y, s)} \mathrm{acc}_g(\hat s), \qquad
              \mathrm{excess} = \mathrm{core} - \max(\mathrm{core}_{\mathrm{pixels}}, \mathrm{core}_{\mathrm{init}})

    Parameters
    ----------
    features : mapping of str to array or Tensor of shape (n, d)
        By layer ("conv2") or epoch ("epoch 3"), in the order in which they are to be joined; and the controls "pixels"
        (the raw input, flattened) and "init" (the same layer of an untrained network).
    y, s : array of shape (n,)
        Core label and spurious attribute of the rows that fit the probes: rows that did not train the network, with at
        least some of every group (y, s).
    test_features : mapping of str to array or Tensor of shape (m, d)
        The same of other rows, with the same keys.
    test_y, test_s : array of shape (m,)
        Their labels.
    probe : classifier, optional
        Any of scikit-learn's. One whose ``fit`` takes ``groups`` is given the pair (y, s); any other is fitted on rows
        balanced by :func:`~featlearn.robust.groups.balance_groups`. By default ``DFRClassifier(n_refits=n_refits)``.
    n_refits : int, default 5
        Balanced samples that the default probe averages; without effect on another.
    baselines : bool, default True
        Demand the two controls.
    names : pair of str, default ("y", "s")
        What groups and messages call the label and the attribute.
    random_state : int, default 0
        Of the default probe, the balancing and the guesses.
    verbose : int, default 0
        Show a progress bar if positive.

    Returns
    -------
    FeatureProbe

    Raises
    ------
    DataError
        Missing controls, other keys or widths among the test features, rows that do not match, indices (pandas) in
        other orders, values that are not finite, one class or attribute only, a group without rows to fit on, or a
        probe that is no classifier.

    Warns
    -----
    FeatlearnWarning
        Groups without test rows, and groups of few rows to fit on, by name.

    Notes
    -----
    Costs two fits of the probe a set of features. Intervals of a worst group are those of
    :func:`~featlearn.robust.group_intervals.minimum_interval`, exact bounds combined; that of the excess is
    :func:`~featlearn.robust.excess_interval.excess_interval`, which is paired row by row and allows for any number of
    groups. The pair of decodabilities is the published evaluation; controls, their excess and the intervals are this
    library's own.

    Chance is no 1/2: the worst of several groups of guesses is lower (``core_chance``), and a head that says the same
    of every row has 0 (``core_constant``, as where a penalty leaves no coefficient).

    In :func:`~featlearn.robust.model_probe.probe_model` layers may have been pooled; features that were made otherwise
    than the raw input (means over positions beside all pixels) differ from it in more than training.

    Decodability is that of this probe: a penalised head does not read a feature of small variance beside a large one,
    and a head without penalty digs it out. Compare values of one probe only.

    References
    ----------
    Izmailov, Kirichenko, Gruver and Wilson, "On feature learning in the presence of spurious correlations",
    arXiv 2210.11369.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> y, s = rng.integers(2, size=(2, 400))
    >>> pixels = np.column_stack([y, s]) + rng.normal(size=(400, 2))
    >>> learned = np.column_stack([y, s]) + rng.normal(size=(400, 2)) * [0.2, 1.0]
    >>> sets = {"pixels": pixels, "init": pixels[:, ::-1], "epoch 3": learned}
    >>> first, second = ({name: X[rows] for name, X in sets.items()} for rows in (slice(200), slice(200, None)))
    >>> result = feature_probe(first, y[:200], s[:200], second, y[200:], s[200:], probe=LogisticRegression())
    >>> bool(result.table.loc["epoch 3", "excess_core"] > 0.2)
    True
    """
    keys = _check_names(features, test_features, baselines)
    check_order(features=features, y=y, s=s)
    check_order(test_features=test_features, test_y=test_y, test_s=test_s)
    prober = Prober(y, s, test_y, test_s, probe=probe, n_refits=n_refits, names=names, random_state=random_state)
    arrays = {name: prober.checked(name, features[name], test_features[name]) for name in keys}
    controls = tuple(name for name in keys if name in CONTROLS) if baselines else ()
    for name in _shown(keys, verbose):
        is_control = name in controls
        source = Source(name, control=name if is_control else None, against=() if is_control else controls)
        prober.add(source, *arrays[name])
    return prober.result()


@dataclass(frozen=True)
class Source:
    """Where a set of features comes from, and which controls it is held against."""

    name: str
    control: str | None = None
    layer: str | None = None
    checkpoint: str | None = None
    pool: str | None = None
    against: tuple[str, ...] = ()


class Prober:
    """Probes sets of features one after the other, on the same rows and by one protocol; none of them is kept.

    Parameters
    ----------
    y, s, test_y, test_s, probe, n_refits, names, random_state
        As for :func:`feature_probe`.
    """

    def __init__(
        self,
        y: Any,
        s: Any,
        test_y: Any,
        test_s: Any,
        *,
        probe: Any,
        n_refits: int,
        names: Sequence[str],
        random_state: int,
    ) -> None:
        check_settings(probe, n_refits, names, random_state)
        core, spurious = self.names = (names[0], names[1])
        # As given: categories without rows are groups that a probe misses, and an order of rows is that of an index.
        pairs = [{core: y, spurious: s}, {core: test_y, spurious: test_s}]
        self.y, self.s = label_column(y, core), label_column(s, spurious)
        self.test_y, self.test_s = label_column(test_y, f"test_{core}"), label_column(test_s, f"test_{spurious}")
        groups, self.groups = common_groups(pairs, [len(self.y), len(self.test_y)])
        self.n_values = [len(levels) for levels in groups.levels.values()]
        self.n_per_group = int(groups.counts.min())
        self.random_state = int(random_state)
        self.probe = _default_probe(n_refits, random_state) if probe is None else probe
        _check_groups(groups, self.groups)
        # Drawn once: all features and both attributes are probed on the same rows.
        takes_groups = has_fit_parameter(self.probe, "groups")
        self.rows = None if takes_groups else balance_groups(pairs[0], random_state=random_state)
        self.selection = "none"
        self._sources: list[tuple[Source, int]] = []
        self._correct: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] = []
        self._constant: list[tuple[bool, bool]] = []

    def checked(self, name: str, Z: Any, Z_test: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Both sets of rows as arrays.

        Raises
        ------
        DataError
            Another number of rows, of axes, or of columns in the two; values that are not finite.
        """
        arrays = [_matrix(name, Z, len(self.y)), _matrix(f"test {name}", Z_test, len(self.test_y))]
        widths = [array.shape[1] for array in arrays]
        if widths[0] != widths[1]:
            raise DataError(f"Got {widths[0]} features {name!r} to fit and {widths[1]} to test, but expected the same.")
        return arrays[0], arrays[1]

    def has_rows(self, y: Any, s: Any, test_y: Any, test_s: Any) -> bool:
        """Whether these are the labels of the rows that are probed."""
        own = (self.y, self.s, self.test_y, self.test_s)
        return all(
            np.array_equal(mine, label_column(other, "y"))
            for mine, other in zip(own, (y, s, test_y, test_s), strict=True)
        )

    def add(self, source: Source, Z: NDArray[Any], Z_test: NDArray[Any]) -> None:
        """Probe one set of features for y and for s."""
        told = self._predicted(Z, self.y, Z_test), self._predicted(Z, self.s, Z_test)
        self._sources.append((source, Z.shape[1]))
        self._correct.append((told[0] == self.test_y, told[1] == self.test_s))
        self._constant.append((_is_constant(told[0]), _is_constant(told[1])))

    def result(self) -> FeatureProbe:
        """All that was added, with intervals."""
        points = [
            _point(source, d, correct, constant, self.groups)
            for (source, d), correct, constant in zip(self._sources, self._correct, self._constant, strict=True)
        ]
        places = {source.name: place for place, (source, _) in enumerate(self._sources)}
        for place, (source, _) in enumerate(self._sources):
            against = [places[name] for name in source.against]
            if against:
                better = max(points[control].core_wga for control in against)
                core, *controls = (self._correct[one][0] for one in (place, *against))
                low, high = excess_interval(core, controls, np.asarray(self.groups.codes), CONFIDENCE)
                points[place] = replace(
                    points[place], excess_core=points[place].core_wga - better, excess_low=low, excess_high=high
                )
        chance_rngs = np.random.default_rng(self.random_state).spawn(2)
        chance = [
            float(np.nanmin(equal_draws(1 / values, self.groups, DRAWS, rng), axis=1).mean())
            for values, rng in zip(self.n_values, chance_rngs, strict=True)
        ]
        return FeatureProbe(
            points=tuple(points),
            groups=dict(zip(self.groups.names, self.groups.counts.tolist(), strict=True)),
            n_train=len(self.y),
            n_per_group=self.n_per_group,
            n_test=len(self.test_y),
            n_classes=self.n_values[0],
            n_attributes=self.n_values[1],
            core_chance=chance[0],
            spurious_chance=chance[1],
            confidence=CONFIDENCE,
            names=self.names,
            probe=" ".join(str(self.probe).split()),
            information=f"group labels ({', '.join(self.names)}) on {len(self.y)} rows",
            selection=self.selection,
            random_state=self.random_state,
        )

    def _predicted(self, Z: NDArray[Any], target: NDArray[Any], Z_test: NDArray[Any]) -> NDArray[Any]:
        probe = clone(self.probe)
        with warnings.catch_warnings():
            # Told once, before the first fit.
            warnings.filterwarnings("ignore", f"Fewer than {FEW} rows in ", FeatlearnWarning)
            if self.rows is None:
                probe.fit(Z, target, groups=(self.y, self.s))
            else:
                probe.fit(Z[self.rows], target[self.rows])
        self.selection = getattr(probe, "selection_", self.selection)
        return np.asarray(probe.predict(Z_test))


def check_settings(probe: Any, n_refits: Any, names: Any, random_state: Any) -> None:
    """Refuse what is no classifier, no numbers, or no two names.

    Raises
    ------
    DataError
        It says which.
    """
    try:
        fine = probe is None or is_classifier(probe)
    except (AttributeError, TypeError):  # no estimator, or its class
        fine = False
    if not fine:
        raise DataError(f"Got probe={probe!r}, but expected a classifier with scikit-learn's methods, or None.")
    check_count("n_refits", n_refits, 1)
    check_count("random_state", random_state, 0)
    if not isinstance(names, tuple | list) or len(names) != 2 or names[0] == names[1]:
        raise DataError(f"Got names={names!r}, but expected two that differ, of the label and the attribute.")


def _default_probe(n_refits: int, random_state: int) -> Any:
    from .dfr import DFRClassifier

    return DFRClassifier(n_refits=n_refits, random_state=random_state)


def _check_names(features: Mapping[str, Any], test_features: Mapping[str, Any], baselines: bool) -> list[str]:
    for name, given in (("features", features), ("test_features", test_features)):
        if not isinstance(given, Mapping):
            raise DataError(f"Got {name} of type {type(given).__name__}, but expected a dict of arrays by name.")
        if not all(isinstance(key, str) for key in given):
            raise DataError(f"Got {name} called {list(given)}, but expected names: {{'epoch 3': array, ...}}.")
    if set(features) != set(test_features):
        raise DataError(
            f"Got features {', '.join(features)} to fit and {', '.join(test_features)} to test, but expected the same."
        )
    missing = [name for name in CONTROLS if name not in features]
    if baselines and missing:
        raise DataError(
            f"Got no features {' and '.join(map(repr, missing))}, but expected the raw input as 'pixels' and an "
            "untrained network's as 'init': without them decodability shows no learning. Add them (extract_features "
            "with layer='input', and of untrained_copy(model)), or pass baselines=False."
        )
    if not [name for name in features if not (baselines and name in CONTROLS)]:
        raise DataError("Got no features besides the controls, but expected at least one layer or epoch.")
    return sorted(features, key=lambda name: name not in CONTROLS) if baselines else list(features)


def _check_groups(groups: GroupLabels, test: GroupLabels) -> None:
    for name, levels in groups.levels.items():
        if len(levels) < 2:
            raise DataError(f"Got one value of {name}, {levels[0]!r}, but expected at least two to tell apart.")
    if groups.empty:
        raise DataError(
            f"Got no rows to fit on in {'; '.join(groups.empty)} ({groups.table()}). A probe needs every group: add "
            "held-out rows of these."
        )
    few = few_rows(groups)
    if few:
        warnings.warn(
            f"Fewer than {FEW} rows to fit on in {'; '.join(few)}: every probe sees as few of each group, and values "
            "depend on which. Add held-out rows of these groups.",
            FeatlearnWarning,
            stacklevel=4,
        )
    if test.empty:
        warnings.warn(
            f"No test rows in {'; '.join(test.empty)}: the worst group is among the others.",
            FeatlearnWarning,
            stacklevel=4,
        )


def _matrix(name: str, rows: Any, n: int) -> NDArray[Any]:
    array = np.asarray(rows.detach().cpu() if hasattr(rows, "detach") else rows)
    if array.ndim != 2 or len(array) != n or not array.shape[1] or array.dtype.kind not in "fiub":
        raise DataError(
            f"Got features {name!r} of shape {array.shape} and type {array.dtype}, but expected numbers of shape "
            f"({n}, d), a row for every label."
        )
    if not np.isfinite(array).all():
        raise DataError(f"Got features {name!r} with NaN or infinity. Check the network, or leave this one out.")
    return array


def _is_constant(predicted: NDArray[Any]) -> bool:
    return bool((predicted == predicted[0]).all())


def _point(
    source: Source,
    d: int,
    correct: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    constant: tuple[bool, bool],
    groups: GroupLabels,
) -> ProbePoint:
    hits = [np.bincount(np.asarray(groups.codes)[right], minlength=len(groups)) for right in correct]
    accuracies = [
        np.divide(right, groups.counts, out=np.full(len(groups), np.nan), where=groups.counts > 0) for right in hits
    ]
    ends = [minimum_interval(right, groups.counts, CONFIDENCE) for right in hits]
    return ProbePoint(
        name=source.name,
        control=source.control,
        layer=source.layer,
        checkpoint=source.checkpoint,
        pool=source.pool,
        d=d,
        core_wga=float(np.nanmin(accuracies[0])),
        core_low=ends[0][0],
        core_high=ends[0][1],
        core_mean=float(correct[0].mean()),
        core_constant=constant[0],
        spurious_wga=float(np.nanmin(accuracies[1])),
        spurious_low=ends[1][0],
        spurious_high=ends[1][1],
        spurious_mean=float(correct[1].mean()),
        spurious_constant=constant[1],
        core_accuracies=tuple(accuracies[0].tolist()),
        spurious_accuracies=tuple(accuracies[1].tolist()),
    )


def _shown(names: Sequence[str], verbose: int) -> Iterable[str]:
    if not verbose:
        return names
    from rich.console import Console
    from rich.progress import track

    return track(names, description="Probes", console=Console(stderr=True), transient=True)
