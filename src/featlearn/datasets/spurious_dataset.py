"""Data with a core and a spurious attribute: splits, groups, and the best accuracies that are possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd

    from .spurious_gaussian import SpuriousGaussian

__all__ = ["SpuriousDataset", "Split"]


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one split, with everything that is known about each.

    Attributes
    ----------
    X : ndarray of shape (n, d) or (n, C, H, W), float32
        Inputs.
    y : ndarray of shape (n,), int64
        Labels, 0 or 1, as a learner sees them: with label noise if there is any.
    s : ndarray of shape (n,), int64
        Spurious attribute, 0 or 1.
    groups : ndarray of shape (n,), int64
        ``2 y + s``.
    environment : ndarray of shape (n,), int64
        Where the row comes from; all 0 if there is one environment.
    y_clean : ndarray of shape (n,), int64
        Labels before label noise.
    index : ndarray of shape (n,) or (n, images a row), int64
        Rows of the source that were used; those of an official test split come after its training split. Two splits
        share none, except further test splits made of the rows of ``test``.
    """

    X: NDArray[np.float32]
    y: NDArray[np.int64]
    s: NDArray[np.int64]
    groups: NDArray[np.int64]
    environment: NDArray[np.int64]
    y_clean: NDArray[np.int64]
    index: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        X: NDArray[np.float32],
        y: NDArray[np.int64],
        s: NDArray[np.int64],
        index: NDArray[np.int64],
        *,
        environment: NDArray[np.int64] | None = None,
        y_clean: NDArray[np.int64] | None = None,
    ) -> Split:
        """Split with its groups; one environment and labels without noise unless they are given."""
        return cls(
            X=X,
            y=y,
            s=s,
            groups=2 * y + s,
            environment=np.zeros_like(y) if environment is None else environment,
            y_clean=y.copy() if y_clean is None else y_clean,
            index=index,
        )

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Split({len(self)} rows of shape {self.X.shape[1:]}, groups {self.counts.tolist()})"

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each of the four groups."""
        return np.bincount(self.groups, minlength=4)

    def select(self, rows: Any) -> Split:
        """The given rows (indices or a mask) as a split of their own.

        Examples
        --------
        >>> from featlearn.datasets import make_spurious_tabular
        >>> train = make_spurious_tabular(n_train=200, correlation=0.9).train
        >>> train.select(train.s == 1)
        Split(100 rows of shape (56,), groups [0, 10, 0, 90])
        """
        return Split(**{entry.name: getattr(self, entry.name)[rows] for entry in fields(self)})


@dataclass(frozen=True, eq=False)
class SpuriousDataset:
    """Three splits whose labels follow a core attribute always and a spurious attribute mostly.

    Attributes
    ----------
    train, validation, test : Split
    environments : dict of str to Split
        Further test splits by name, made of the rows of ``test`` under other conditions. Environments of the training
        rows are numbers in ``train.environment``.
    group_names : list of str
        Name of group ``2 y + s``, for the four groups.
    ceilings : dict of str to float
        Accuracies that are known exactly, by name; each maker lists its own.
    source : str
        Where the rows come from.
    description : str
        What was made of them.
    image_shape : tuple of int, optional
        (C, H, W) of each row, also where ``X`` is flat; None where rows are no images.
    exact : SpuriousGaussian, optional
        Group accuracies in closed form; only of :func:`make_spurious_tabular`.
    """

    train: Split
    validation: Split
    test: Split
    environments: Mapping[str, Split]
    group_names: list[str]
    ceilings: Mapping[str, float]
    source: str
    description: str
    image_shape: tuple[int, int, int] | None = None
    exact: SpuriousGaussian | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(split)}" for name, split in self.splits.items())
        return f"SpuriousDataset({self.description}; {self.source}; {sizes})"

    @property
    def splits(self) -> dict[str, Split]:
        """All splits by name: train, validation, test, then ``environments``."""
        return {"train": self.train, "validation": self.validation, "test": self.test, **self.environments}

    def counts(self) -> pd.DataFrame:
        """Rows of every group in every split; training rows of several environments also environment by environment.

        Returns
        -------
        DataFrame
            One row a group, one column a split.

        Examples
        --------
        >>> from featlearn.datasets import make_spurious_tabular
        >>> make_spurious_tabular(n_train=200, n_validation=40, n_test=40, correlation=0.9).counts()
                    train  validation  test
        group
        y=0, a=0       90          10    10
        y=0, a=1       10          10    10
        y=1, a=0       10          10    10
        y=1, a=1       90          10    10
        """
        import pandas as pd

        columns = {"train": self.train.counts}
        present = np.unique(self.train.environment)
        if len(present) > 1:
            for place in present:
                columns[f"train, environment {place}"] = self.train.select(self.train.environment == place).counts
        columns |= {name: split.counts for name, split in self.splits.items() if name != "train"}
        return pd.DataFrame(columns, index=pd.Index(self.group_names, name="group"))

    def plot(self, split: str = "train", ax: Any = None) -> Any:
        """Four examples a group, or, where rows are no images, the core direction against the spurious column.

        Parameters
        ----------
        split : str, default "train"
            A name of ``splits``.
        ax : Axes, optional
            Drawn into; by default a new figure.

        Returns
        -------
        Axes

        Raises
        ------
        DataError
            An unknown split.
        """
        from ..plots.spurious import plot_examples, plot_groups

        if split not in self.splits:
            raise DataError(f"Got split={split!r}, but expected one of {', '.join(map(repr, self.splits))}.")
        shown, title = self.splits[split], f"{split}: {self.description}"
        if self.image_shape is not None:
            images = shown.X.reshape(-1, *self.image_shape)
            return plot_examples(images, shown.groups, self.group_names, ax=ax, title=title)
        n_core = self.exact.n_core if self.exact is not None else shown.X.shape[1] - 1
        # The core columns carry the same signal each, so their sum over sqrt(n_core) is its unit direction.
        core = shown.X[:, :n_core].sum(axis=1) / np.sqrt(n_core)
        return plot_groups(core, shown.X[:, n_core], shown.groups, self.group_names, ax=ax, title=title)
