"""Alignment, disalignment and rescaling of two layers, as conventions of this library define them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Mechanisms", "log_ratio", "safe_cosine"]

Floats = NDArray[np.float64]

_TURNED = math.log(2.0)
_GREW = math.log(1.25)


def log_ratio(after: Floats, before: Floats) -> Floats:
    """``log(after / before)`` of numbers of at least 0: infinite where one is 0, and 0 where they are equal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(after == before, 0.0, np.log(after) - np.log(before))


def safe_cosine(product: Floats, norm: Floats) -> Floats:
    """``product / norm``, and 0 where a layer is 0."""
    return np.divide(product, norm, out=np.zeros_like(product), where=norm > 0)


@dataclass(frozen=True, eq=False)
class Mechanisms:
    r"""How the product of two layers changed; arrays of one shape.

    .. math:: S = \log \frac{\cos_t^2 + 3/d}{\cos_0^2 + 3/d}

    whose 3/d is a soft floor at the level of chance. Defined here as alignment :math:`S > \log 2`, disalignment
    :math:`S < -\log 2`, rescaling :math:`|D_\mathrm{norm}| > \log 1.25`, and kernel if none of them.

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
        return np.asarray(self.score > _TURNED)

    @property
    def disalignment(self) -> NDArray[np.bool_]:
        """Whether they became more orthogonal."""
        return np.asarray(self.score < -_TURNED)

    @property
    def rescaling(self) -> NDArray[np.bool_]:
        """Whether their norms changed."""
        return np.asarray(np.abs(self.D_norm) > _GREW)

    @property
    def labels(self) -> NDArray[np.str_]:
        """Either of "alignment" and "disalignment", then "rescaling", with a comma between; "kernel" if none."""
        turned = np.where(self.alignment, "alignment", np.where(self.disalignment, "disalignment", ""))
        both = np.char.add(np.where(turned == "", "", np.char.add(turned, ", ")), "rescaling")
        return np.where(self.rescaling, both, np.where(turned == "", "kernel", turned))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings (nested lists for a batch)."""
        return {
            "kind": "Mechanisms",
            "schema": 1,
            **{item.name: np.asarray(getattr(self, item.name)).tolist() for item in fields(self)},
            "score": self.score.tolist(),
            "labels": self.labels.tolist(),
        }

    def frame(self) -> pd.DataFrame:
        """One row an element of the batch and time."""
        import pandas as pd

        names = ("cos0", "cos", "norm0", "norm", "D_cos", "D_norm", "score", "labels")
        return pd.DataFrame({name: np.ravel(getattr(self, name)) for name in names})
