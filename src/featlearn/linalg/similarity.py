r"""Similarity of matrices and of representations: correlations, debiased HSIC and centred kernel alignment (CKA)."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import torch
from torch import Tensor

from ..exceptions import DataError, FeatlearnWarning

__all__ = ["DebiasedCKA", "debiased_hsic", "double_center", "linear_gram", "matrix_correlation", "u_center"]

FEWEST = 4  # samples below which the debiased estimator divides by zero
COLUMNS = 2**22  # numbers converted to float64 at once


def matrix_correlation(A: Tensor, B: Tensor, statistic: Literal["pearson", "cosine"] = "pearson") -> float:
    r"""Correlation of two matrices over all their entries.

    .. math:: \rho(A, B) = \frac{\langle A - a, B - b \rangle}{\|A - a\|_F \, \|B - b\|_F},

    with ``a`` and ``b`` the means of the entries for ``"pearson"``, zero for ``"cosine"``.

    Parameters
    ----------
    A, B : Tensor of equal shape
        Any shape, dtype and device; computed in float64.
    statistic : "pearson" or "cosine"

    Returns
    -------
    float
        In [-1, 1]; ``nan`` when either is zero (constant, for ``"pearson"``).

    Raises
    ------
    DataError
        Shapes differ, or the statistic is unknown.

    Examples
    --------
    >>> import torch
    >>> matrix_correlation(torch.eye(2), torch.eye(2) + 1, "cosine")
    0.894...
    """
    if A.shape != B.shape:
        raise DataError(f"Got matrices of shapes {tuple(A.shape)} and {tuple(B.shape)}, but expected equal ones.")
    if statistic not in ("pearson", "cosine"):
        raise DataError(f"Got statistic={statistic!r}, but expected 'pearson' or 'cosine'.")
    a, b = _unit(A, statistic == "pearson"), _unit(B, statistic == "pearson")
    return math.nan if a is None or b is None else float((a * b).sum().clamp(-1.0, 1.0))


def _unit(matrix: Tensor, center: bool) -> Tensor | None:
    """Entries in float64, without their mean if asked, of norm one; None when only round-off is left."""
    entries = matrix.double()
    largest = entries.abs().max() if entries.numel() else entries.new_zeros(())
    if largest == 0:
        return None
    entries = entries / largest  # squares neither overflow nor underflow
    if center:
        entries = entries - entries.mean()
        if entries.abs().max() <= 4 * torch.finfo(torch.float64).eps:
            return None
    return entries / entries.norm()


def double_center(gram: Tensor) -> Tensor:
    r"""``H K H`` with ``H = I - 11^T/n``: the Gram matrix of the features without their mean, in float64."""
    gram = gram.double()
    rows = gram.mean(dim=1, keepdim=True)
    return gram - rows - gram.mean(dim=0, keepdim=True) + rows.mean()


def u_center(gram: Tensor) -> Tensor:
    r"""Centre the off-diagonal entries of a Gram matrix; the diagonal becomes zero.

    With ``K'`` the matrix with a ZERO diagonal,

    .. math:: \tilde K_{ij} = K'_{ij} - \frac{(K' 1)_i + (K' 1)_j}{n - 2} + \frac{1^\top K' 1}{(n - 1)(n - 2)}
              \quad (i \ne j).

    Parameters
    ----------
    gram : Tensor of shape (n, n)
        Symmetric.

    Returns
    -------
    Tensor of shape (n, n)
        In float64; every row sums to zero.

    Raises
    ------
    DataError
        Not square, or fewer than four samples.
    """
    if gram.dim() != 2 or gram.shape[0] != gram.shape[1]:
        raise DataError(f"Got a Gram matrix of shape {tuple(gram.shape)}, but expected (n, n).")
    n = len(gram)
    if n < FEWEST:
        raise DataError(f"Got {n} samples, but expected at least {FEWEST}. Pass larger batches.")
    centred = gram.double().clone().fill_diagonal_(0.0)
    rows = centred.sum(dim=1)
    centred = centred - (rows[:, None] + rows) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    return centred.fill_diagonal_(0.0)


def debiased_hsic(K: Tensor, L: Tensor) -> float:
    r"""Unbiased estimate of the Hilbert-Schmidt independence criterion of two kernels.

    .. math:: \mathrm{HSIC}_1 = \frac{1}{n (n - 3)} \left[ \mathrm{tr}(K' L')
              + \frac{1^\top K' 1 \; 1^\top L' 1}{(n - 1)(n - 2)} - \frac{2}{n - 2} 1^\top K' L' 1 \right]
              = \frac{\langle \tilde K, \tilde L \rangle}{n (n - 3)},

    where ``K'`` and ``L'`` have zeroed diagonals and the tilde is :func:`u_center`.

    Parameters
    ----------
    K, L : Tensor of shape (n, n)
        Symmetric Gram matrices of the same n >= 4 samples.

    Returns
    -------
    float
        Zero on average for independent features; never negative for ``K = L``.

    Raises
    ------
    DataError
        Fewer than four samples, or other shapes.

    References
    ----------
    Song, Smola, Gretton, Bedo, Borgwardt: Feature selection via dependence maximization, JMLR 2012, eq. 5.
    """
    if K.shape != L.shape:
        raise DataError(f"Got Gram matrices of shapes {tuple(K.shape)} and {tuple(L.shape)}, but expected equal ones.")
    n = len(K)
    return float((u_center(K) * u_center(L)).sum() / (n * (n - 3)))


def linear_gram(features: Tensor) -> Tensor:
    r"""``X X^T`` of the features without their mean, in float64.

    Removing the mean changes no HSIC or CKA, and keeps their digits when the features have a large offset.

    Parameters
    ----------
    features : Tensor of shape (n, ...)
        Everything after the sample axis is flattened.

    Returns
    -------
    Tensor of shape (n, n)
        Zero for features that are constant up to the round-off of their dtype.

    Notes
    -----
    Costs ``n^2 p`` flops; features are converted in slices of columns, so memory stays at ``n^2`` and one slice.
    """
    n = len(features)
    rows = features.detach().reshape(n, -1)
    gram = torch.zeros(n, n, dtype=torch.float64, device=rows.device)
    noise = 4 * torch.finfo(rows.dtype if rows.is_floating_point() else torch.float64).eps
    for columns in rows.split(max(1, COLUMNS // max(n, 1)), dim=1):
        wide = columns.double()
        centred = wide - wide.mean(dim=0)
        constant = centred.abs().amax(dim=0) <= noise * wide.abs().amax(dim=0)
        centred[:, constant] = 0.0
        gram.addmm_(centred, centred.mT)
    return gram


class DebiasedCKA:
    r"""Streaming debiased linear CKA of two representations of the same samples.

    .. math:: \mathrm{CKA}(X, Y) = \frac{\overline{\mathrm{HSIC}_1(K, L)}}
              {\sqrt{\overline{\mathrm{HSIC}_1(K, K)} \; \overline{\mathrm{HSIC}_1(L, L)}}},
              \qquad K = X X^\top, \; L = Y Y^\top,

    where each of the three is averaged over batches on its own, weighted by the number of samples: an average of
    ratios would not be consistent.

    Parameters
    ----------
    name : str
        What the warning about constant features calls them.

    Notes
    -----
    One for equal representations up to rotation, offset and scale; about zero for independent ones, where the biased
    CKA depends on p/n (.67 for 100 samples of 200 independent features). ``add`` costs ``n^2 (p + q)`` flops.

    References
    ----------
    Kornblith et al. 2019 (CKA); Nguyen, Raghu, Kornblith 2021, eq. 3 (over batches).

    Examples
    --------
    >>> import torch
    >>> cka = DebiasedCKA()
    >>> features = torch.arange(12.0).reshape(6, 2).sin()
    >>> cka.add(features, 3 * features + 1)
    >>> cka.finalize()
    1.0
    """

    def __init__(self, name: str = "features") -> None:
        self.name = name
        self.n_samples = 0
        self._sums = torch.zeros(3, dtype=torch.float64)  # n HSIC1 of (K, L), (K, K), (L, L)
        self._scales = torch.zeros(2, dtype=torch.float64)  # n max(diag)^2 of K and L: what round-off is measured by

    def add(self, features_a: Tensor, features_b: Tensor) -> None:
        """Add a batch of n >= 4 samples, of shapes (n, ...) and (n, ...).

        Raises
        ------
        DataError
            Different numbers of samples, fewer than four, or values that are not finite.
        """
        self.add_grams(linear_gram(features_a), linear_gram(features_b))

    def add_grams(self, gram_a: Tensor, gram_b: Tensor) -> None:
        """Add a batch by its Gram matrices (n, n): sums over layers or positions of :func:`linear_gram`."""
        if gram_a.shape != gram_b.shape:
            raise DataError(f"Got {len(gram_a)} and {len(gram_b)} samples, but expected the same ones.")
        if not (gram_a.isfinite().all() and gram_b.isfinite().all()):
            raise DataError(f"Got {self.name} that are not finite. Remove the samples with NaN or infinity.")
        n = len(gram_a)
        a, b = u_center(gram_a), u_center(gram_b)
        hsic = torch.stack([(a * b).sum(), (a * a).sum(), (b * b).sum()]) / (n * (n - 3))
        self._sums += n * hsic.cpu()
        self._scales += n * torch.stack([gram_a.diagonal().max() ** 2, gram_b.diagonal().max() ** 2]).cpu()
        self.n_samples += n

    def merge(self, other: DebiasedCKA) -> DebiasedCKA:
        """Add the batches of another accumulator; returns self."""
        self._sums += other._sums
        self._scales += other._scales
        self.n_samples += other.n_samples
        return self

    def finalize(self) -> float:
        """CKA; ``nan`` with a :class:`FeatlearnWarning` when one side is constant over the samples.

        Raises
        ------
        DataError
            Nothing was added.
        """
        if self.n_samples == 0:
            raise DataError("Got no batches, but expected at least one with four samples.")
        both, a, b = (float(value) for value in self._sums)
        noise = (1e3 * torch.finfo(torch.float64).eps) ** 2 * self._scales
        if a <= float(noise[0]) or b <= float(noise[1]):
            warnings.warn(
                f"Got {self.name} that do not differ between samples (or only in one of them), so CKA is nan.",
                FeatlearnWarning,
                stacklevel=2,
            )
            return math.nan
        return both / math.sqrt(a) / math.sqrt(b)
