"""What predicting the early ansatz returns: one frozen record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..linalg.spectrum import Spectrum

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["EarlyAlignment"]

_SETTING = ("activation", "depth", "layer", "weight_scale", "n_samples", "n_inputs", "n_outputs", "statistic")
_NUMBERS = ("cosine", "pearson", "coherence")


@dataclass(frozen=True, eq=False, kw_only=True)
class EarlyAlignment:
    r"""Where the centred ansatz of one layer starts, predicted from inputs and labels.

    Attributes
    ----------
    cosine, pearson : float
        Correlation of ``N^T N`` with ``N^T K N``, the first change's feature matrix and AGOP. Pearson is nan where
        the matrices have no variance.
    coherence : float
        ``||N||^2`` over n times the sum of the samples' shares in it: 1 when all samples push the weights the same
        way, 1/n when they push at random. Near 0 they cancel; then what a finite network does first is what its random
        weights leave over, and the prediction needs very large widths.
    statistic : {"pearson", "cosine"}
        Which of them :attr:`nfa` is.
    activation : str
    depth, layer : int
        Of the network that was predicted, and which of its hidden layers, from 1.
    weight_scale : float
    n_samples, n_inputs, n_outputs : int
        Shape of the data.
    nfm_spectrum, agop_spectrum : Spectrum
        Eigenvalues of the two matrices, each of unit Frobenius norm.
    nfm_directions, agop_directions : array of shape (d, m) or None
        Their top ``m <= 10`` eigenvectors, largest-magnitude entry positive. ``None`` above the first layer, whose
        inputs have no coordinates in the limit of infinite width.
    nfm, agop : Tensor of shape (d, d) or None
        The matrices, of unit Frobenius norm. ``None`` when ``d > 1024``, and above the first layer.
    """

    cosine: float
    pearson: float
    coherence: float
    statistic: str
    activation: str
    depth: int
    layer: int
    weight_scale: float
    n_samples: int
    n_inputs: int
    n_outputs: int
    nfm_spectrum: Spectrum
    agop_spectrum: Spectrum
    nfm_directions: NDArray[np.float64] | None
    agop_directions: NDArray[np.float64] | None
    nfm: torch.Tensor | None = None
    agop: torch.Tensor | None = None

    @property
    def nfa(self) -> float:
        """The predicted correlation, in the statistic asked for."""
        return self.pearson if self.statistic == "pearson" else self.cosine

    def frame(self) -> pd.DataFrame:
        """One row: the setting, both correlations and the effective ranks."""
        import pandas as pd

        ranks = {
            "nfm_effective_rank": self.nfm_spectrum.effective_rank,
            "agop_effective_rank": self.agop_spectrum.effective_rank,
        }
        row = {key: getattr(self, key) for key in _SETTING} | {key: getattr(self, key) for key in _NUMBERS}
        return pd.DataFrame([row | ranks])

    def to_dict(self, matrices: bool = False) -> dict[str, Any]:
        """Plain numbers, lists and strings; ``matrices=True`` adds the two matrices."""
        plain: dict[str, Any] = {"kind": "EarlyAlignment", "schema": 1}
        plain |= {key: getattr(self, key) for key in (*_SETTING, *_NUMBERS, "nfa")}
        for key in ("nfm_spectrum", "agop_spectrum"):
            plain[key] = getattr(self, key).to_dict()
        for key in ("nfm_directions", "agop_directions"):
            found = getattr(self, key)
            plain[key] = None if found is None else found.T.tolist()
        if matrices:
            for key in ("nfm", "agop"):
                matrix = getattr(self, key)
                plain[key] = None if matrix is None else matrix.tolist()
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> EarlyAlignment:
        """Inverse of :meth:`to_dict`, also through JSON, whose null stands for nan too."""
        values = {key: plain[key] for key in _SETTING}
        values |= {key: float("nan") if plain[key] is None else plain[key] for key in _NUMBERS}
        for key in ("nfm_spectrum", "agop_spectrum"):
            values[key] = Spectrum(np.asarray(plain[key]["values"]))
        for key in ("nfm_directions", "agop_directions"):
            values[key] = None if plain[key] is None else np.asarray(plain[key], dtype=np.float64).T
        for key in ("nfm", "agop"):
            matrix = plain.get(key)
            values[key] = None if matrix is None else torch.tensor(matrix, dtype=torch.float64)
        return cls(**values)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Spectra of the first change: of its feature matrix, and of its AGOP."""
        from ..plots.explained import plot_early

        return plot_early(self.to_dict(), ax=ax)

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(float_format="{:.3f}".format, index=False))
