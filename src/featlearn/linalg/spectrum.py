r"""Spectra of positive semi-definite matrices and what one number says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spectrum"]


@dataclass(frozen=True, eq=False)
class Spectrum:
    r"""Eigenvalues of a positive semi-definite matrix, largest first, and its ranks.

    With :math:`p_j = \lambda_j / \sum_i \lambda_i`:

    ==================== ======================================================================
    effective_rank       :math:`\exp(-\sum_j p_j \log p_j)`
    stable_rank          :math:`\|A\|_F^2 / \|A\|_2^2 = \sum_j \lambda_j^2 / \lambda_1^2`
    participation_ratio  :math:`(\sum_j \lambda_j)^2 / \sum_j \lambda_j^2`
    top_share            :math:`\lambda_1 / \sum_j \lambda_j`
    ==================== ======================================================================

    Parameters
    ----------
    values : array of shape (r,)
        Eigenvalues; negative ones (round-off) count as zero. Sorted here.

    Notes
    -----
    All four ranks are ``nan`` for the zero matrix. ``numpy.asarray(spectrum)`` gives the values.
    """

    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        values = np.sort(np.clip(np.asarray(self.values, dtype=np.float64).reshape(-1), 0.0, None))[::-1].copy()
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.float64]:
        return np.array(self.values, dtype=dtype, copy=True if copy is None else copy)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def _shares(self) -> NDArray[np.float64] | None:
        top = self.values[0] if len(self.values) else 0.0
        if not top > 0:
            return None
        scaled = self.values / top
        return np.asarray(scaled / scaled.sum())

    @property
    def effective_rank(self) -> float:
        """Exponential of the entropy of the normalised spectrum."""
        shares = self._shares
        if shares is None:
            return float("nan")
        positive = shares[shares > 0]
        return float(np.exp(-(positive * np.log(positive)).sum()))

    @property
    def stable_rank(self) -> float:
        """Squared Frobenius norm over squared spectral norm."""
        shares = self._shares
        return float("nan") if shares is None else float(((shares / shares[0]) ** 2).sum())

    @property
    def participation_ratio(self) -> float:
        """Squared trace over squared Frobenius norm."""
        shares = self._shares
        return float("nan") if shares is None else float(1.0 / (shares**2).sum())

    @property
    def top_share(self) -> float:
        """Largest eigenvalue over the trace."""
        shares = self._shares
        return float("nan") if shares is None else float(shares[0])

    def to_dict(self) -> dict[str, Any]:
        """Eigenvalues and ranks as plain numbers."""
        return {
            "values": self.values.tolist(),
            "effective_rank": self.effective_rank,
            "stable_rank": self.stable_rank,
            "participation_ratio": self.participation_ratio,
            "top_share": self.top_share,
        }
