"""Tables encoded for kernels, and what was learned in encoded columns told of the input columns."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..exceptions import DataError, FeatlearnWarning
from ..linalg.psd import fix_signs
from .categories import CategoryBlock, fit_category
from .numeric import NumericBlock, fit_numeric, read_numbers
from .tables import Kind, Table, as_table, column_place, row_chunks
from .weights import as_weights

__all__ = ["Columns", "FittedColumns"]

MISSING = ("error", "indicator")
TRANSFORMS = ("none", "robust", "quantile", "uniform")


@dataclass(frozen=True)
class Columns:
    """How the columns of a table become the numbers that a kernel sees.

    Parameters
    ----------
    standardize : bool, default=True
        Centre numeric columns and divide them by their standard deviation (with denominator n), after ``transform``.
    categorical : "auto" or sequence of str or int, default="auto"
        Columns that become one-hot blocks, by name or by position. "auto": pandas columns of category, text, object
        and bool type, and columns of text or truth values in arrays of objects; not columns of plain numbers.
    missing : {"error", "indicator"}, default="error"
        "indicator": gaps in numeric columns become the training median, and a column that had gaps in training gets a
        second column that is 1 in them; in categorical columns missing is a level of its own.
    transform : {"none", "robust", "quantile", "uniform"}, default="none"
        Increasing curve for every numeric column, learned from its training values: "robust", a smooth clip of
        (x - median) / interquartile range to (-3, 3); "quantile", normal scores of ranks; "uniform", ranks between 0
        and 1. The last three tame heavy tails, which rule the distances otherwise.
    max_levels : int or None, default=256
        Levels of one categorical column that get a column of their own, the most frequent ones (ties: the smaller).
        All others share the zero block, as levels do that training never saw. None: no limit.

    Raises
    ------
    DataError
        One of the values is not among those above.

    Notes
    -----
    Numeric columns that do not vary, and categorical ones with one level, are dropped; ``FittedColumns.notes`` says so.
    One-hot columns and indicators are 0 and 1, not standardised: two different levels are sqrt(2) apart. An ordered
    pandas category is one-hot too; its codes, given as numbers, keep the order.

    Examples
    --------
    >>> import numpy as np
    >>> fitted = Columns().fit(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> fitted.transform(np.array([[3.0, 7.0]]))
    tensor([[1.]], dtype=torch.float64)
    >>> fitted.notes
    ('Dropped column 1: it does not vary in training.',)
    """

    standardize: bool = True
    categorical: str | Sequence[str | int] = "auto"
    missing: str = "error"
    transform: str = "none"
    max_levels: int | None = 256

    def __post_init__(self) -> None:
        if not isinstance(self.standardize, bool | np.bool_):
            raise DataError(f"Got standardize={self.standardize!r}, but expected True or False.")
        for name, allowed in (("missing", MISSING), ("transform", TRANSFORMS)):
            if getattr(self, name) not in allowed:
                shown = ", ".join(map(repr, allowed))
                raise DataError(f"Got {name}={getattr(self, name)!r}, but expected one of {shown}.")
        if self.max_levels is not None and not (_is_integer(self.max_levels) and self.max_levels >= 1):
            raise DataError(
                f"Got max_levels={self.max_levels!r}, but expected a positive integer, or None for no limit."
            )
        if isinstance(self.categorical, str):
            if self.categorical != "auto":
                raise DataError(
                    f"Got categorical={self.categorical!r}, but expected 'auto' or a list. Pass [{self.categorical!r}]."
                )
            return
        chosen = tuple(self.categorical)
        bad = [item for item in chosen if not (isinstance(item, str) or _is_integer(item))]
        if bad:
            raise DataError(f"Got {bad[0]!r} in categorical, but expected names or positions of columns.")
        object.__setattr__(self, "categorical", tuple(item if isinstance(item, str) else int(item) for item in chosen))

    def fit(self, X: Any, sample_weight: Any = None) -> FittedColumns:
        """Learn levels, medians, curves, means and deviations from X of shape (n, d).

        Parameters
        ----------
        X : array, memmap, DataFrame, Tensor or sequence of rows, of shape (n, d)
            Read in chunks of rows; no copy of the whole is made. For curves and medians one group of columns at a time
            is held (256 MB).
        sample_weight : array of shape (n,), optional
            Weight 2 means the same as the row given twice, 0 the same as left out.

        Raises
        ------
        DataError
            Infinity; a gap where ``missing="error"``; a column of dates, of mixed kinds, or of text that is not in
            ``categorical``; fewer than two rows; no column that varies. Column and row are named.
        """
        table = as_table(X)
        weights = as_weights(sample_weight, table.n_rows)
        weight = None if weights is None else weights.numpy()
        rows = table.n_rows if weight is None else int(np.count_nonzero(weight))
        if rows < 2:
            raise DataError(
                f"Got X with 1 sample{'' if weight is None else ' of positive weight'} (shape="
                f"{(table.n_rows, table.n_columns)}) while a minimum of 2 is required."
            )
        kinds = [table.kind(j) for j in range(table.n_columns)]
        chosen = self._categorical_positions(table, kinds)
        numbers = np.array([j for j in range(table.n_columns) if j not in chosen], dtype=np.int64)
        numeric = fit_numeric(
            table,
            numbers,
            weight,
            standardize=bool(self.standardize),
            missing=self.missing,
            transform=self.transform,
        )
        blocks = [
            fit_category(table, j, kinds[j], weight, missing=self.missing, max_levels=self.max_levels) for j in chosen
        ]
        # The zero block is a level too: a single column beside rare others still tells rows apart.
        categories = tuple(block for block in blocks if block.width + (block.others > 0) > 1)
        fitted = FittedColumns(self, table.n_columns, table.labels, numeric, categories)
        if not fitted.names:
            raise DataError(
                f"Got X of shape {(table.n_rows, table.n_columns)} in which no column varies, but expected rows that "
                "differ. Nothing can be learned from equal rows."
            )
        return fitted

    def _categorical_positions(self, table: Table, kinds: list[Kind]) -> list[int]:
        if self.categorical == "auto":
            return [j for j, kind in enumerate(kinds) if kind != "number"]
        positions = sorted({_position(item, table) for item in self.categorical})
        for j, kind in enumerate(kinds):
            if kind == "text" and j not in positions:
                raise DataError(
                    f"Got text in {column_place(j, table.labels)} of X, but expected numbers in all columns but "
                    f"categorical={list(self.categorical)}. List the column there, or convert or drop it."
                )
        return positions


@dataclass(frozen=True, eq=False, repr=False)
class FittedColumns:
    """Columns with what they learned: encodes further rows, and reads encoded quantities back as input columns.

    Needs no scikit-learn, and pandas only for what pandas made. d input columns, p encoded ones: first the numeric
    block (columns that vary, then indicators of gaps), then one block a categorical column.

    Attributes
    ----------
    config : Columns
    n_features_in : int
        Input columns d.
    feature_names : tuple of str, or None
        Their names, if X was a DataFrame whose labels are all text.
    numeric : NumericBlock
    categories : tuple of CategoryBlock
    names : tuple of str
        Of the p encoded columns: "age", "age is missing", "colour=red".
    input_of : Tensor of shape (p,), int64
        Input column of each encoded one.
    blocks : list of Tensor, int64
        Encoded columns of each block; the numeric block first, unless it is empty.
    spread : Tensor of shape (p,), float64
        Standard deviation of each encoded column over the training rows; 1 for standardised ones.
    dropped : tuple of int
        Input columns that have no encoded column.
    notes : tuple of str
        What was dropped and shortened, and why.
    """

    config: Columns
    n_features_in: int
    feature_names: tuple[str, ...] | None
    numeric: NumericBlock
    categories: tuple[CategoryBlock, ...]
    names: tuple[str, ...] = field(init=False)
    input_of: Tensor = field(init=False)
    blocks: list[Tensor] = field(init=False)
    spread: Tensor = field(init=False)
    dropped: tuple[int, ...] = field(init=False)
    notes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        numeric, categories = self.numeric, self.categories
        values, gaps = numeric.positions[numeric.kept].tolist(), numeric.positions[numeric.gaps].tolist()
        names = [self._name(j) for j in values] + [f"{self._name(j)} is missing" for j in gaps]
        widths = [len(names)] + [block.width for block in categories]
        for block in categories:
            names += block.names(self._name(block.position))
        input_of = values + gaps + [block.position for block in categories for _ in range(block.width)]
        blocks = torch.arange(len(names)).split(widths)
        derived = {
            "names": tuple(names),
            "input_of": torch.tensor(input_of, dtype=torch.int64),
            "blocks": [block for block in blocks if len(block)],
            "spread": torch.from_numpy(np.concatenate([numeric.spread, *(block.spread for block in categories)])),
            "dropped": tuple(j for j in range(self.n_features_in) if j not in set(input_of)),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "notes", tuple(self._make_notes()))

    def __repr__(self) -> str:
        return (
            f"FittedColumns({self.n_features_in} columns -> {len(self.names)} numbers, {len(self.categories)} of the "
            f"columns categorical, {len(self.dropped)} dropped)"
        )

    def transform(self, X: Any, dtype: torch.dtype = torch.float64) -> Tensor:
        """Encoded rows (n, p) of X (n, d), on the device of X if that is a tensor.

        Levels that training never saw become a block of zeros. Rows are read in chunks; each is encoded by itself, in
        float64, so that the answer depends neither on chunks nor on the other rows.

        Raises
        ------
        DataError
            Other columns than in ``fit``; infinity; a gap where ``missing="error"``; text among numbers; a number too
            large for ``dtype``.

        Warns
        -----
        FeatlearnWarning
            With ``missing="indicator"``, gaps in a column that had none in training: numbers become the median,
            categories the zero block.
        """
        if dtype not in (torch.float32, torch.float64):
            raise DataError(f"Got dtype={dtype}, but expected torch.float32 or torch.float64.")
        table = as_table(X)
        self._check_columns(table)
        encoded = torch.zeros(table.n_rows, len(self.names), dtype=dtype)
        surprising: set[int] = set()
        for rows in row_chunks(table.n_rows, max(table.n_columns, len(self.names))):
            surprising |= self._encode_into(encoded[rows], table, rows)
        if surprising:
            places = ", ".join(column_place(j, self.feature_names) for j in sorted(surprising))
            warnings.warn(
                f"Got gaps in {places} of X, where training had none. Numbers were set to the training median, "
                "categories to the zero block.",
                FeatlearnWarning,
                stacklevel=2,
            )
        return encoded.to(X.device) if isinstance(X, Tensor) else encoded

    def input_importances(self, diagonal: Tensor) -> Tensor:
        r"""Shares (d,) of the input columns in a diagonal (p,), in standardised units; zeros if all of it is 0.

        .. math:: I_j = \frac{\sum_{a \in j} s_a^2 G_{aa}}{\sum_b s_b^2 G_{bb}}

        with ``s`` the ``spread``: a squared gradient counts per standard deviation of the column, so that a rare
        level does not look important for its rarity.
        """
        diagonal = self._checked(diagonal, "diagonal", 1)
        parts = diagonal * self.spread.to(diagonal) ** 2
        sums = parts.new_zeros(self.n_features_in).index_add_(0, self.input_of.to(parts.device), parts)
        total = sums.sum()
        return sums / total if total > 0 else sums

    def input_directions(self, vectors: Tensor) -> Tensor:
        """Directions (k, d) among the input columns of encoded directions (p, k), rows of norm 1.

        Entries are per standard deviation. A categorical column gets the norm of its block, since its levels have no
        order; a numeric column with an indicator the norm of both, with the sign of the number. Signs are such that
        the largest entry with a sign is positive. A zero vector stays zero.
        """
        vectors = self._checked(vectors, "vectors", 2)
        scaled = vectors * self.spread.to(vectors)[:, None]
        shape, place = (self.n_features_in, vectors.shape[1]), self.input_of.to(vectors.device)
        norms = vectors.new_zeros(shape).index_add_(0, place, scaled**2).sqrt()
        numbers = int(self.numeric.kept.sum())
        signs = vectors.new_zeros(shape)
        signs[place[:numbers]] = scaled[:numbers].sign()
        mapped = torch.where(signs != 0, fix_signs(norms * signs), norms)
        lengths = mapped.norm(dim=0)
        return (mapped / torch.where(lengths > 0, lengths, 1.0)).mT

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, from which :meth:`from_dict` makes the same columns."""
        config = asdict(self.config)
        if self.config.categorical != "auto":
            config["categorical"] = list(self.config.categorical)
        return {
            "config": config,
            "n_features_in": self.n_features_in,
            "feature_names": None if self.feature_names is None else list(self.feature_names),
            "numeric": self.numeric.to_dict(),
            "categories": [block.to_dict() for block in self.categories],
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> FittedColumns:
        """Columns that :meth:`to_dict` described; their encoding is the same to the last bit."""
        names = plain["feature_names"]
        return cls(
            config=Columns(**plain["config"]),
            n_features_in=plain["n_features_in"],
            feature_names=None if names is None else tuple(names),
            numeric=NumericBlock.from_dict(plain["numeric"]),
            categories=tuple(CategoryBlock.from_dict(block) for block in plain["categories"]),
        )

    def _name(self, column: int) -> str:
        return f"x{column}" if self.feature_names is None else self.feature_names[column]

    def _make_notes(self) -> list[str]:
        notes = []
        categorical = {block.position: block for block in self.categories}
        values, gaps = self.numeric.positions[self.numeric.kept], self.numeric.positions[self.numeric.gaps]
        for j in range(self.n_features_in):
            place = column_place(j, self.feature_names)
            if j in self.dropped:
                notes.append(f"Dropped {place}: it does not vary in training.")
            elif j in gaps and j not in values:
                notes.append(f"Kept of {place} only where it is missing: its numbers do not vary in training.")
            elif j in categorical and categorical[j].others:
                block = categorical[j]
                notes.append(
                    f"Encoded the {len(block.levels)} most frequent levels of {place}: the {block.others} others share "
                    "the zero block."
                )
        return notes

    def _check_columns(self, table: Table) -> None:
        if table.n_columns != self.n_features_in:
            raise DataError(
                f"X has {table.n_columns} features, but FittedColumns is expecting {self.n_features_in} features as "
                "input. Pass the columns that were given to fit."
            )
        if table.labels is None or self.feature_names is None or table.labels == self.feature_names:
            return
        missing = [name for name in self.feature_names if name not in table.labels]
        new = [name for name in table.labels if name not in self.feature_names]
        told = [
            f"{what} {', '.join(map(repr, names[:5]))}" for what, names in (("without", missing), ("new", new)) if names
        ]
        raise DataError(
            f"Got X with other column names than in fit ({'; '.join(told) or 'in another order'}), but expected the "
            "same names in the same order. Select them: X[names]."
        )

    def _encode_into(self, out: Tensor, table: Table, rows: slice) -> set[int]:
        """Write the encoded ``rows`` into ``out``; the input columns with gaps that training had not."""
        numbers = read_numbers(table, rows, self.numeric.positions, missing=self.config.missing)
        block = torch.from_numpy(self.numeric.encode(numbers))
        if out.dtype != torch.float64 and bool((block.abs() > torch.finfo(out.dtype).max).any()):
            column = int((block.abs() > torch.finfo(out.dtype).max).any(dim=0).nonzero()[0])
            raise DataError(
                f"Got a number in {self.names[column]!r} that is too large for {out.dtype}. Use standardize=True, a "
                "transform, or float64."
            )
        out[:, : block.shape[1]] = block
        surprising = set(self.numeric.new_gaps(numbers).tolist())
        start = block.shape[1]
        for category in self.categories:
            place = column_place(category.position, self.feature_names)
            values = table.values(rows, category.position)
            if None in values and not category.missing:
                if self.config.missing == "error":
                    raise DataError(
                        f"Got a missing entry in row {rows.start + values.index(None)}, {place} of X, but expected a "
                        "category. Name the missing category, or fit with columns=Columns(missing='indicator')."
                    )
                surprising.add(category.position)
            codes = torch.from_numpy(category.codes(values, place))
            known = (codes >= 0).nonzero()[:, 0]
            out[known, start + codes[known]] = 1.0
            start += category.width
        return surprising

    def _checked(self, values: Tensor, name: str, rank: int) -> Tensor:
        if values.ndim != rank or values.shape[0] != len(self.names):
            expected = "(p,)" if rank == 1 else "(p, k)"
            raise DataError(
                f"Got {name} of shape {tuple(values.shape)}, but expected {expected} with p = {len(self.names)} "
                "encoded columns."
            )
        return values


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _position(item: str | int, table: Table) -> int:
    if isinstance(item, str):
        if table.labels is None:
            raise DataError(
                f"Got {item!r} in categorical, but X has no column names. Give positions, or pass a DataFrame whose "
                "labels are text."
            )
        if item not in table.labels:
            raise DataError(f"Got {item!r} in categorical, but expected one of the columns {_some(table.labels)}.")
        return table.labels.index(item)
    if not -table.n_columns <= item < table.n_columns:
        raise DataError(f"Got {item} in categorical, but expected positions below {table.n_columns}.")
    return item % table.n_columns


def _some(labels: tuple[str, ...]) -> str:
    return ", ".join(map(repr, labels[:10])) + (", ..." if len(labels) > 10 else "")
