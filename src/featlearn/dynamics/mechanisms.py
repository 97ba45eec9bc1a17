"""Alignment, disalignment and rescaling of two layers, as conventions of this library define them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .short_repr import short_repr

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GREW", "NEITHER", "TURNED", "Mechanisms", "log_ratio", "safe_cosine", "words_for"]

Floats = NDArray[np.float64]

TURNED = math.log(2.0)  # of the score S
GREW = math.log(1.25)  # of the norms
NEITHER = "kernel-like"


def log_ratio(after: Floats, before: Floats) -> Floats:
    """``log(after / before)`` of numbers of at least 0: infinite where one is 0, and 0 where they are equal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(after == before, 0.0, np.log(after) - np.log(before))


def safe_cosine(product: Floats, norm: Floats) -> Floats:
    """``product / norm``, and 0 where a layer is 0."""
    return np.divide(product, norm, out=np.zeros_like(product), where=norm > 0)


def words_for(labels: Sequence[str]) -> str:
    """Labels in one phrase; the absence of any as what it is, changes below thresholds.

    Examples
    --------
    >>> words_for(("alignment", "rescaling")), words_for(("kernel-like",))
    ('alignment, rescaling', 'below the thresholds (kernel-like)')
    """
    return ", ".join(f"below the thresholds ({label})" if label == NEITHER else label for label in labels)


@short_repr
@dataclass(frozen=True, eq=False)
class Mechanisms:
    r"""How the product of two layers changed; arrays of one shape.

    .. math:: S = \log \frac{\cos_t^2 + 3/d}{\cos_0^2 + 3/d}

    whose 3/d is a soft floor at the level of chance. Defined here as alignment :math:`S > \log 2`, disalignment
    :math:`S < -\log 2`, rescaling :math:`|D_\mathrm{norm}| > \log 1.25`, and kernel-like if none of them: changes
    below the thresholds, which a network that learned a little has, too.

    Attributes
    ----------
    width : int
        d.
    cos0, cos : array
        Cosine between the layers at the start and now; 0 where a layer is 0.
    norm0, norm : array
        Product of their norms.
    D_cos, D_norm : array
        Changes of the logarithms of the absolute cosine and of the norms; their sum is ``log|F_t / F_0|``. Infinite
        where F is 0.
    """

    width: int
    cos0: Floats
    cos: Floats
    norm0: Floats
    norm: Floats
    D_cos: Floats
    D_norm: Floats

    @property
    def score(self) -> Floats:
        """S."""
        chance = 3 / self.width
        return np.asarray(np.log((self.cos**2 + chance) / (self.cos0**2 + chance)))

    @property
    def alignment(self) -> NDArray[np.bool_]:
        """Whether the layers turned towards each other, or towards opposite directions."""
        return np.asarray(self.score > TURNED)

    @property
    def disalignment(self) -> NDArray[np.bool_]:
        """Whether they became more orthogonal."""
        return np.asarray(self.score < -TURNED)

    @property
    def rescaling(self) -> NDArray[np.bool_]:
        """Whether their norms changed."""
        return np.asarray(np.abs(self.D_norm) > GREW)

    @property
    def labels(self) -> tuple[str, ...] | NDArray[np.object_]:
        """Alignment or disalignment, and rescaling, or "kernel-like": a tuple; for a batch an array of tuples."""
        found: tuple[str, ...] | NDArray[np.object_] = self._labels[()]
        return found

    @property
    def _labels(self) -> NDArray[np.object_]:
        named = {"alignment": self.alignment, "disalignment": self.disalignment, "rescaling": self.rescaling}
        found = np.empty(self.score.size, dtype=object)
        for i, holds in enumerate(zip(*map(np.ravel, named.values()), strict=True)):
            found[i] = tuple(name for name, held in zip(named, holds, strict=True) if held) or (NEITHER,)
        return found.reshape(self.score.shape)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, and the labels as lists of strings (nested lists for a batch)."""
        return {
            "kind": "Mechanisms",
            "schema": 1,
            **{item.name: np.asarray(getattr(self, item.name)).tolist() for item in fields(self)},
            "score": self.score.tolist(),
            "labels": np.vectorize(list, otypes=[object])(self._labels).tolist(),
        }

    def frame(self) -> pd.DataFrame:
        """One row an element of the batch and time."""
        import pandas as pd

        names = ("cos0", "cos", "norm0", "norm", "D_cos", "D_norm", "score")
        words = {"labels": [words_for(labels) for labels in self._labels.ravel().tolist()]}
        return pd.DataFrame({name: np.ravel(getattr(self, name)) for name in names} | words)
