"""Results of layer_mechanisms: per pair of layers, what turned, what concentrated and what grew."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import UnmeasurableError
from .mechanisms import GREW, NEITHER, TURNED, words_for
from .short_repr import short_repr

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["LayerMechanisms", "PairMechanisms"]

Floats = NDArray[np.float64]


@short_repr
@dataclass(frozen=True, kw_only=True, eq=False)
class PairMechanisms:
    r"""Two consecutive layers over the recorded steps. Changes are from the first step to the last.

    Attributes
    ----------
    first, second : str
        Names of the layers.
    width : int
        Hidden units or channels between them.
    chance : float
        Soft floor of ``cosine**2``, ``k / width``.
    cosine : array of shape (T,)
        :math:`c = \|W_2 W_1\|_F / (\|W_1\|_F \|W_2\|_F)`; nan where a weight is zero.
    largest : array of shape (T,)
        :math:`c_{\max}`, the largest c that rotations of the hidden units allow; nan without spectra.
    norm : array of shape (T,)
        :math:`n = \|W_1\|_F \|W_2\|_F`; nan where a normalisation layer between them makes it meaningless.
    flags : tuple of str
    """

    first: str
    second: str
    width: int
    chance: float
    cosine: Floats
    largest: Floats
    norm: Floats
    flags: tuple[str, ...] = ()

    @property
    def rotation(self) -> float:
        r""":math:`\Delta \log (c / c_{\max})`: hidden directions turned towards each other."""
        return _change(self.cosine / self.largest)

    @property
    def concentration(self) -> float:
        r""":math:`\Delta \log c_{\max}`: the spectra concentrated on fewer directions."""
        return _change(self.largest)

    @property
    def rescaling(self) -> float:
        r""":math:`\Delta \log n`: the weights grew."""
        return _change(self.norm)

    @property
    def total(self) -> float:
        r""":math:`\Delta \log \|W_2 W_1\|_F`, the sum of the three terms."""
        return _change(self.cosine * self.norm)

    @property
    def score(self) -> float:
        r"""Alignment score :math:`S = \log \frac{c_t^2 + k/h}{c_0^2 + k/h}`."""
        return _change(self.cosine**2 + self.chance)

    @property
    def labels(self) -> tuple[str, ...]:
        """Alignment or disalignment, and rescaling; "kernel-like" when neither; empty where nothing can be said.

        Kernel-like are changes below the thresholds of :attr:`LayerMechanisms.thresholds`, not none: read score and
        total, too.
        """
        found = []
        if abs(self.score) > TURNED:
            found.append("alignment" if self.score > 0 else "disalignment")
        if abs(self.rescaling) > GREW:
            found.append("rescaling")
        known = not math.isnan(self.score) and not math.isnan(self.rescaling)
        return tuple(found) or ((NEITHER,) if known else ())

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        changes = ("score", "rotation", "concentration", "rescaling", "total")
        return {
            "first": self.first,
            "second": self.second,
            "width": self.width,
            "chance": self.chance,
            "cosine": self.cosine.tolist(),
            "largest": self.largest.tolist(),
            "norm": self.norm.tolist(),
            **{name: getattr(self, name) for name in changes},
            "labels": list(self.labels),
            "summary": words_for(self.labels),
            "flags": list(self.flags),
        }


@short_repr
@dataclass(frozen=True, kw_only=True, eq=False)
class LayerMechanisms:
    """Mechanisms of every pair.

    Attributes
    ----------
    steps : tuple of int
        Of the recorder; (0, 1) for before and now, (0,) for now alone.
    pairs : tuple of PairMechanisms
    """

    steps: tuple[int, ...]
    pairs: tuple[PairMechanisms, ...]

    @property
    def thresholds(self) -> dict[str, float]:
        """Sizes of "score" and "rescaling" beyond which a pair gets a label; conventions of this library."""
        return {"score": TURNED, "rescaling": GREW}

    def __getitem__(self, names: tuple[str, str]) -> PairMechanisms:
        for pair in self.pairs:
            if (pair.first, pair.second) == tuple(names):
                return pair
        known = ", ".join(str((pair.first, pair.second)) for pair in self.pairs)
        raise UnmeasurableError(f"Got the pair {tuple(names)!r}, but the result has {known}.")

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LayerMechanisms:
        """Inverse of :meth:`to_dict`; ``None`` reads as ``nan``."""
        pairs = [
            PairMechanisms(
                first=entry["first"],
                second=entry["second"],
                width=entry["width"],
                chance=entry["chance"],
                cosine=np.array(entry["cosine"], dtype=np.float64),
                largest=np.array(entry["largest"], dtype=np.float64),
                norm=np.array(entry["norm"], dtype=np.float64),
                flags=tuple(entry["flags"]),
            )
            for entry in plain["pairs"]
        ]
        return cls(steps=tuple(plain["steps"]), pairs=tuple(pairs))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "kind": "LayerMechanisms",
            "schema": 1,
            "steps": list(self.steps),
            "thresholds": self.thresholds,
            "pairs": [pair.to_dict() for pair in self.pairs],
        }

    def frame(self) -> pd.DataFrame:
        """One row a pair: c, cmax and n at the last step, the three terms, score, labels and flags."""
        import pandas as pd

        rows = []
        for pair in self.pairs:
            plain = pair.to_dict()
            last = {name: plain[name][-1] for name in ("cosine", "largest", "norm")}
            words = {"labels": plain.pop("summary"), "flags": ", ".join(plain["flags"])}
            rows.append(plain | last | words)
        return pd.DataFrame(rows).set_index(["first", "second"])

    def curves(self) -> pd.DataFrame:
        """Tidy: one row a pair and step."""
        import pandas as pd

        rows = [
            {"step": step, "first": pair.first, "second": pair.second, "cosine": c, "largest": most, "norm": n}
            for pair in self.pairs
            for step, c, most, n in zip(self.steps, pair.cosine, pair.largest, pair.norm, strict=True)
        ]
        return pd.DataFrame(rows)

    def plot(self, ax: Any = None) -> list[Axes]:
        """c/cmax and n over the steps, and the three terms of every pair as stacked bars; one Axes gets the bars."""
        from ..plots.mechanisms import plot_mechanisms

        return plot_mechanisms(self.to_dict(), ax)

    def _repr_html_(self) -> str:
        limits = f"Labels: |score| above {TURNED:.3g}, |rescaling| above {GREW:.3g}; conventions."
        return f"{self.frame().to_html(float_format='{:.3g}'.format)}<p>{limits}</p>"


def _change(values: Floats) -> float:
    """Logarithm of the last over the first; nan for a single value, infinite from or to zero."""
    if len(values) < 2:
        return math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.log(values[-1]) - np.log(values[0]))
