"""Groups of rows: classes crossed with attributes, or masks that may overlap, with every empty group named."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError, FeatlearnWarning
from .label_columns import check_order, label_column, plain_array

__all__ = [
    "FEW",
    "GroupLabels",
    "as_groups",
    "balance_groups",
    "check_order",
    "common_groups",
    "few_rows",
    "label_column",
]

FEW = 10  # rows of a group below which a balanced fit depends on which they are

MOST_GROUPS = 1000  # of crossing; more come from columns that are no attributes: an index, a score


@dataclass(frozen=True, eq=False)
class GroupLabels:
    """Which group, or groups, every row is in.

    Attributes
    ----------
    names : list of str
        One a group, empty groups included: ``"y=0, background=1"``.
    codes : integer array of shape (n,), or None
        Index of the only group of every row; None when rows are in several groups or in none.
    levels : dict of str to list
        Values of every attribute in ascending order, in the order of crossing: the last one changes fastest from group
        to group. Empty for masks.
    """

    names: list[str]
    codes: NDArray[np.int64] | None
    levels: dict[str, list[Any]]
    _masks: NDArray[np.bool_] | None = field(default=None, repr=False)

    @property
    def overlapping(self) -> bool:
        """Whether the groups are not a partition: some row is in several of them, or in none."""
        return self.codes is None

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Membership of shape (n, G)."""
        if self._masks is not None:
            return self._masks
        return np.equal(np.asarray(self.codes)[:, None], np.arange(len(self.names)))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of every group, of shape (G,)."""
        return self.count(slice(None))

    @property
    def memberships(self) -> NDArray[np.int64]:
        """Groups of every row, of shape (n,)."""
        return np.ones_like(self.codes) if self.codes is not None else self.masks.sum(axis=1, dtype=np.int64)

    def count(self, rows: NDArray[np.bool_] | slice) -> NDArray[np.int64]:
        """Rows of every group among some rows, of shape (G,)."""
        if self.codes is None:
            return self.masks[rows].sum(axis=0, dtype=np.int64)
        return np.bincount(self.codes[rows], minlength=len(self.names)).astype(np.int64)

    @property
    def empty(self) -> list[str]:
        """Names of the groups without rows."""
        return [name for name, count in zip(self.names, self.counts, strict=True) if not count]

    def table(self) -> str:
        """Counts in words, for messages: ``"y=0, s=0: 120 rows; y=0, s=1: 0 rows"``."""
        return "; ".join(f"{name}: {count} rows" for name, count in zip(self.names, self.counts, strict=True))

    def __len__(self) -> int:
        return len(self.names)


def as_groups(groups: Any, n: int | None = None, *, names: Sequence[str] | None = None) -> GroupLabels:
    """Groups from whatever describes them.

    Parameters
    ----------
    groups : array, tuple of arrays, mapping, DataFrame, or boolean matrix
        Of ``n`` rows: one column of whole numbers, words or booleans, each value a group; a tuple of such columns,
        crossed in order (``(y, s)``); a mapping of names to columns, or a DataFrame, crossed likewise; or boolean masks
        of shape (n, G), which may overlap. Groups that only crossing makes, without rows, are kept, and so are
        categories (pandas) without rows. A DataFrame of booleans is columns to cross; its ``to_numpy()`` is masks.
    n : int, optional
        Rows there must be.
    names : sequence of str, optional
        For a tuple, names of its columns (by default those of its Series, else ``y`` and ``s`` for two, ``a1``, ``a2``,
        ... for any other number). For one column of numbers from 0 to ``len(names) - 1``, and for masks, names of the
        groups, of which some may be empty.

    Returns
    -------
    GroupLabels

    Raises
    ------
    DataError
        Another number of rows, a missing value, numbers that are not whole, columns that cannot be sorted, columns
        whose indices (pandas) are in different orders, names that do not fit, more than 1000 crossed groups, or another
        kind of object.

    Notes
    -----
    Costs a sort of every column.

    Examples
    --------
    >>> labels = as_groups(([0, 0, 1], ["land", "water", "land"]))
    >>> labels.names
    ['y=0, s=land', 'y=0, s=water', 'y=1, s=land', 'y=1, s=water']
    >>> labels.counts.tolist(), labels.empty
    ([1, 1, 1, 0], ['y=1, s=water'])
    """
    return common_groups([groups], [n], names=names)[0]


def common_groups(
    sets: Sequence[Any], sizes: Sequence[int | None], *, names: Sequence[str] | None = None
) -> list[GroupLabels]:
    """The same groups in several sets of rows: what one of them has, all of them name.

    Parameters
    ----------
    sets : sequence of groups
        Each as for :func:`as_groups`, all of one kind and with the same attributes.
    sizes : sequence of int or None
        Rows each of them must have.
    names : sequence of str, optional
        As for :func:`as_groups`.

    Returns
    -------
    list of GroupLabels
        With equal ``names`` and ``levels``.

    Raises
    ------
    DataError
        As for :func:`as_groups`, or sets that differ in kind or attributes.
    """
    for groups in sets:
        check_order(groups=groups)
    masks = [_mask_matrix(groups) for groups in sets]
    if all(mask is not None for mask in masks):
        return _masked([mask for mask in masks if mask is not None], sizes, names)
    if any(mask is not None for mask in masks):
        raise DataError("Got masks for some rows and columns for others, but expected groups of one kind for all.")
    given = [_columns(groups, names) for groups in sets]
    tables = [{name: label_column(column, f"groups ({name})") for name, column in table.items()} for table in given]
    attributes = list(tables[0])
    for table, size in zip(tables, sizes, strict=True):
        if list(table) != attributes:
            raise DataError(
                f"Got groups with the attributes {', '.join(table)}, but expected {', '.join(attributes)} in this "
                "order, as for the other rows. Groups are matched by the values of their attributes."
            )
        for name, column in table.items():
            _check_rows(len(column), size if size is not None else len(table[attributes[0]]), f"groups ({name})")
    levels = {
        name: _levels([*(table[name] for table in tables), *(_categories(table[name]) for table in given)], name)
        for name in attributes
    }
    own_names = None if names is None or any(isinstance(groups, tuple) for groups in sets) else list(names)
    return _crossed(tables, levels, own_names)


def balance_groups(groups: Any, how: Literal["subsample", "reweight"] = "subsample", random_state: Any = 0) -> Any:
    r"""Rows, or weights of the rows, under which every group counts alike.

    .. math:: w_i = \frac{n}{G \, n_{g(i)}}

    Parameters
    ----------
    groups : array, tuple of arrays, mapping, DataFrame, or boolean matrix
        As for :func:`as_groups`; every row must be in exactly one group.
    how : {"subsample", "reweight"}, default "subsample"
        Draw as many rows from every group as the smallest has (the baseline SUBG), or weigh all rows (RWG).
    random_state : int, Generator or None, default 0
        What draws the subsample; reweighting draws nothing.

    Returns
    -------
    array
        "subsample": row indices in ascending order, without repetition. "reweight": weights of shape (n,), of mean one.

    Raises
    ------
    DataError
        Rows in several groups or in none; a group without rows, to subsample; another ``how``.

    Warns
    -----
    FeatlearnWarning
        A group without rows, to reweight: no weight brings it back, and ``G`` counts the others.

    Examples
    --------
    >>> balance_groups([0, 0, 0, 1], how="reweight").round(2).tolist()
    [0.67, 0.67, 0.67, 2.0]
    >>> len(balance_groups([0, 0, 0, 1]))
    2
    """
    if how not in ("subsample", "reweight"):
        raise DataError(f"Got how={how!r}, but expected 'subsample' or 'reweight'.")
    labels = as_groups(groups)
    codes, counts = labels.codes, labels.counts
    if codes is None:
        raise DataError(
            "Got groups that overlap or leave rows out, but expected every row in exactly one group. "
            "Cross the attributes instead: pass them as a tuple or DataFrame."
        )
    if how == "reweight":
        if labels.empty:
            warnings.warn(
                f"No rows in {'; '.join(labels.empty)}: no weight brings a missing group back.",
                FeatlearnWarning,
                stacklevel=2,
            )
        weights: NDArray[np.float64] = len(codes) / (np.count_nonzero(counts) * counts[codes])
        return weights
    smallest = int(counts.min())
    if smallest == 0:
        raise DataError(
            f"Got no rows in {'; '.join(labels.empty)} ({labels.table()}), so no subsample is balanced. "
            "Add rows of these groups, or use data of another set."
        )
    rng = np.random.default_rng(random_state)
    chosen = [rng.choice(np.flatnonzero(codes == g), smallest, replace=False) for g in range(len(counts))]
    return np.sort(np.concatenate(chosen))


def few_rows(labels: GroupLabels) -> list[str]:
    """Groups of fewer than ``FEW`` rows, with their number: ``["y=0, s=1: 3"]``."""
    return [f"{name}: {count}" for name, count in zip(labels.names, labels.counts, strict=True) if count < FEW]


# --- what groups are made of ------------------------------------------------------------------------------------------


def _mask_matrix(groups: Any) -> NDArray[np.bool_] | None:
    """The masks if ``groups`` is a boolean matrix; a DataFrame is columns to cross, whatever its dtype."""
    if isinstance(groups, tuple | Mapping) or hasattr(groups, "columns"):
        return None
    array = plain_array(groups, "groups")
    return array if array.ndim == 2 and array.dtype == np.bool_ else None


def _columns(groups: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """Attributes by name, as they were given."""
    if isinstance(groups, Mapping) or hasattr(groups, "columns"):
        keys = list(groups.columns if hasattr(groups, "columns") else groups)
        if not keys:
            raise DataError("Got groups without columns, but expected at least one.")
        return _named([str(key) for key in keys], [groups[key] for key in keys])
    if isinstance(groups, tuple):
        if not groups or any(np.ndim(column) == 0 for column in groups):
            raise DataError("Got a tuple of single values as groups, but expected a tuple of columns to cross.")
        return _named(list(names) if names is not None else _attribute_names(groups), groups)
    if plain_array(groups, "groups").ndim != 1:
        raise DataError(
            f"Got groups of shape {np.shape(groups)}, but expected one column, a tuple of columns or a DataFrame to "
            "cross, or a boolean matrix of masks. Pass tuple(groups.T) for a matrix with one attribute a column."
        )
    name = getattr(groups, "name", None)
    return {"group" if name is None else str(name): groups}


def _named(names: list[str], columns: Sequence[Any]) -> dict[str, Any]:
    if len(names) != len(columns) or len(set(names)) < len(names):
        raise DataError(f"Got the names {names} for {len(columns)} columns, but expected one each, all different.")
    return dict(zip(names, columns, strict=True))


def _attribute_names(columns: tuple[Any, ...]) -> list[str]:
    defaults = ["y", "s"] if len(columns) == 2 else [f"a{place + 1}" for place in range(len(columns))]
    own = [getattr(column, "name", None) for column in columns]
    return [default if name is None else str(name) for name, default in zip(own, defaults, strict=True)]


def _categories(column: Any) -> NDArray[Any]:
    """Values that a column of categories may have; none of any other column."""
    declared = getattr(getattr(column, "dtype", None), "categories", None)
    return np.array([]) if declared is None or not len(declared) else label_column(declared.to_numpy(), "categories")


def _levels(columns: Sequence[NDArray[Any]], name: str) -> list[Any]:
    try:
        levels: list[Any] = sorted(set().union(*(column.tolist() for column in columns)))
    except TypeError as error:
        raise DataError(
            f"Got values of different kinds in groups ({name}), but expected values that can be sorted ({error})."
        ) from None
    return levels


def _crossed(
    tables: Sequence[Mapping[str, NDArray[Any]]], levels: dict[str, list[Any]], names: list[str] | None
) -> list[GroupLabels]:
    if names is not None:
        levels = {next(iter(levels)): _numbered(levels, names)}
    sizes = [len(values) for values in levels.values()]
    if math.prod(sizes) > MOST_GROUPS:
        raise DataError(
            f"Got {math.prod(sizes)} groups from {' x '.join(map(str, sizes))} values of {', '.join(levels)}, but "
            f"expected at most {MOST_GROUPS}. Bin a column, leave one out, or pass a boolean matrix of masks."
        )
    if names is None:
        names = [_name(levels, values) for values in product(*levels.values())]
    made = []
    for table in tables:
        codes = np.zeros(len(next(iter(table.values()))), dtype=np.int64)
        for name, column in table.items():
            place = {value: index for index, value in enumerate(levels[name])}
            codes = codes * len(place) + np.fromiter((place[value] for value in column.tolist()), np.int64, len(codes))
        made.append(GroupLabels(list(names), codes, levels))
    return made


def _name(levels: Mapping[str, Sequence[Any]], values: Sequence[Any]) -> str:
    if list(levels) == ["group"]:  # a column without a name
        return values[0] if isinstance(values[0], str) else f"group {values[0]}"
    return ", ".join(f"{name}={value}" for name, value in zip(levels, values, strict=True))


def _numbered(levels: Mapping[str, list[Any]], names: Sequence[str]) -> list[int]:
    """0, 1, ... for names of groups, of which the rows may have a part."""
    found = next(iter(levels.values()))
    expected = list(range(len(names)))
    if len(levels) > 1 or not set(found) <= set(expected) or len(set(names)) < len(names):
        raise DataError(
            f"Got {len(names)} names of groups for the values {found} of {', '.join(levels)}, but expected different "
            f"names and one column of numbers from 0 to {len(names) - 1}."
        )
    return expected


def _masked(
    masks: Sequence[NDArray[np.bool_]], sizes: Sequence[int | None], names: Sequence[str] | None
) -> list[GroupLabels]:
    width = masks[0].shape[1]
    own = [f"mask {place}" for place in range(width)] if names is None else list(names)
    if len(own) != width or not width or len(set(own)) < width:
        raise DataError(f"Got {len(own)} names for {width} masks, but expected one each, all different.")
    made = []
    for mask, size in zip(masks, sizes, strict=True):
        _check_rows(len(mask), len(mask) if size is None else size, "groups")
        if mask.shape[1] != width:
            raise DataError(f"Got {mask.shape[1]} masks, but expected {width}, as for the other rows.")
        if bool((mask.sum(axis=1) == 1).all()):
            made.append(GroupLabels(own, mask.argmax(axis=1).astype(np.int64), {}))
        else:
            made.append(GroupLabels(own, None, {}, mask))
    return made


def _check_rows(got: int, expected: int, name: str) -> None:
    if not got:
        raise DataError(f"Got no rows in {name}, but expected at least one.")
    if got != expected:
        raise DataError(f"Got {got} rows in {name}, but expected {expected}, one for every label. Check their order.")
