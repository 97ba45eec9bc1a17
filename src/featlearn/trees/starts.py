r"""Where features start: leading directions of an average gradient outer product (AGOP)."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from .._arrays import as_tensor
from .._parameters import check_count
from .._random import generator
from ..agop.of_kernel import agop_of_expansion
from ..exceptions import DataError
from ..kernels import LaplaceKernel
from ..linalg.psd import top_eigenvectors
from ..linalg.ridge import solve_ridge

__all__ = ["directions_from_agop", "kernel_agop", "varimax"]

Floats = NDArray[np.float64]

MAX_ROWS = 4000  # rows of the kernel fit
BANDWIDTH = 3.0  # for 10 inputs, in standard deviations; distances grow as the root of their number
RIDGE = 0.01
ASYMMETRY = 1e-6  # relative to the largest entry
NEGLIGIBLE = 1e-10  # eigenvalues below this share of the largest carry no direction
ROTATIONS = 200
STILL = 1e-10  # change of the rotation at which it has converged


def kernel_agop(X: Floats, Y: Floats, w: Floats, *, random_state: int) -> Floats:
    r"""AGOP of one kernel ridge fit with a Laplace kernel.

    .. math::

        \beta = (K + 0.01 \operatorname{diag}(1/\omega))^{-1} (Y - \bar Y), \qquad
        G = \frac{1}{\sum_i \omega_i} \sum_i \omega_i \sum_c \nabla f_c(x_i) \nabla f_c(x_i)^\top,

    with :math:`k(x, z) = \exp(-|x - z| / L)` and :math:`L = 3 \sqrt{d / 10}`.

    Parameters
    ----------
    X : array of shape (n, d)
        Standardised rows.
    Y : array of shape (n, K)
        One-hot labels, or standardised targets.
    w : array of shape (n,)
        Row weights, read as repetition counts.
    random_state : int
        Draws 4000 rows where more have a weight above 0.

    Returns
    -------
    array of shape (d, d)
        In (target units / standard deviation of an input)^2.

    Raises
    ------
    DataError
        If no row has a positive weight.

    Notes
    -----
    ``n^3 / 3 + 2 n^2 d K`` flops and one n x n matrix. Pairs of equal rows contribute nothing: the kernel has a kink
    there. One round of what a recursive feature machine iterates; that one is enough to start a tree from was measured
    for this library.

    References
    ----------
    Radhakrishnan, Beaglehole, Pandit, Belkin (2024), Science 383; arXiv:2212.13881.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((300, 4))
    >>> agop = kernel_agop(X, np.sign(X[:, :1] + X[:, 1:2]), np.ones(300), random_state=0)
    >>> np.abs(directions_from_agop(agop, 1, rotate=None)).round(1)
    array([[0.7, 0.7, 0. , 0. ]])
    """
    rows = np.flatnonzero(w > 0)
    if not len(rows):
        raise DataError("Got no row of positive weight, but expected at least one.")
    if len(rows) > MAX_ROWS:
        order = torch.randperm(len(rows), generator=generator(random_state, "trees", "kernel rows"))
        rows = np.sort(rows[order[:MAX_ROWS].numpy()])
    x, weights = torch.from_numpy(np.ascontiguousarray(X[rows])), torch.from_numpy(w[rows])
    targets = torch.from_numpy(Y[rows] - np.average(Y[rows], axis=0, weights=w[rows]))
    kernel = LaplaceKernel(BANDWIDTH * math.sqrt(X.shape[1] / 10))
    gram = kernel.fill_(x, x.new_empty(len(x), len(x)))
    dual = solve_ridge(gram, targets, RIDGE, weights=weights, solver="cholesky", overwrite=True).dual_coef
    own = torch.arange(len(x))
    return np.asarray(agop_of_expansion(kernel, None, x, dual, x, rows=own, weights=weights, gram=gram).matrix)


def directions_from_agop(
    agop: Any,
    n_directions: int = 4,
    *,
    rotate: Literal["varimax", "both"] | None = "varimax",
    scale: Any = None,
) -> Floats:
    r"""Leading directions of an AGOP, for ``init_directions`` of a feature tree.

    .. math:: G = \sum_j \lambda_j v_j v_j^\top, \qquad \lambda_1 \ge \lambda_2 \ge \dots

    Parameters
    ----------
    agop : array or Tensor of shape (d, d)
        Symmetric, for instance ``RFMClassifier().fit(X, y).agop_``.
    n_directions : int, default 4
        Most directions that are returned. A fixed number beats a share of the trace, which misses a second rule
        where the first one rules the AGOP.
    rotate : {"varimax", "both"} or None, default "varimax"
        "varimax" turns the eigenvectors inside of their space so that few inputs are large in each; None leaves them;
        "both" gives the eigenvectors, then the turned ones.
    scale : array of shape (d,), optional
        Standard deviations of the inputs, where the AGOP is of standardised inputs: the directions returned act on
        the inputs in their own units.

    Returns
    -------
    array of shape (k, d), or (2k, d) for "both"
        A direction a row; k is at most ``n_directions``, fewer where eigenvalues are below 1e-10 of the largest.

    Raises
    ------
    DataError
        For an AGOP that is not of real finite numbers, not square, not symmetric (beyond 1e-6 of its largest entry), or
        without a positive eigenvalue; ``n_directions`` that is not a whole number of at least 1; another ``rotate``; a
        scale that is not positive.

    Notes
    -----
    ``d^3`` flops. In cross-validation pass a callable that fits on the rows it is given: directions computed from all
    rows have seen the held-out ones.

    Examples
    --------
    >>> import numpy as np
    >>> directions_from_agop(np.diag([1.0, 4.0, 0.0]), 2)
    array([[0., 1., 0.],
           [1., 0., 0.]])
    """
    matrix = _checked_agop(agop)
    check_count("n_directions", n_directions, 1)
    if rotate not in (None, "varimax", "both"):
        raise DataError(f"Got rotate={rotate!r}, but expected None, 'varimax' or 'both'.")
    values, vectors = top_eigenvectors(torch.from_numpy(matrix), n_directions)
    if not values[0] > 0:
        raise DataError("Got an AGOP without a positive eigenvalue, but expected a positive semi-definite matrix.")
    basis = vectors[:, values > NEGLIGIBLE * values[0]].numpy()
    bases = {None: [basis], "varimax": [varimax(basis)], "both": [basis, varimax(basis)]}[rotate]
    directions = np.concatenate([vectors.T for vectors in bases])
    return directions if scale is None else directions / _checked_scale(scale, len(matrix))


def varimax(V: Floats) -> Floats:
    r"""Rotate columns inside of their space so that few entries are large in each.

    .. math:: \max_{R^\top R = I} \sum_{ij} \Big(L_{ij}^2 - \frac{1}{d} \sum_{i'} L_{i'j}^2\Big)^2, \qquad L = V R

    Parameters
    ----------
    V : array of shape (d, k)

    Returns
    -------
    array of shape (d, k)
        L, each column's largest entry positive.

    Notes
    -----
    At most 200 iterations of ``R <- U V'^T`` from the singular value decomposition of ``V^T (L^3 - L m)``, m the column
    means of ``L^2``; ``2 d k^2`` flops each. Equal eigenvalues leave their eigenvectors free, and this picks the
    sparse ones. Columns mixed by exactly 45 degrees stay as they are: there the slope is zero, too.

    Examples
    --------
    >>> import numpy as np
    >>> mixed = np.array([[0.8, -0.6], [0.6, 0.8], [0.0, 0.0]])
    >>> np.abs(varimax(mixed)).round(6)
    array([[1., 0.],
           [0., 1.],
           [0., 0.]])
    """
    rotation = np.eye(V.shape[1])
    for _ in range(ROTATIONS):
        L = V @ rotation
        left, _, right = np.linalg.svd(V.T @ (L**3 - L * (L**2).mean(axis=0)))
        turned = left @ right
        change = np.abs(turned - rotation).max()
        rotation = turned
        if change < STILL:
            break
    L = V @ rotation
    return L * np.where(L[np.abs(L).argmax(axis=0), np.arange(L.shape[1])] < 0, -1.0, 1.0)


def _checked_agop(agop: Any) -> Floats:
    matrix = _in_double(agop, "an AGOP")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"Got an AGOP of shape {matrix.shape}, but expected a square matrix (d, d).")
    largest = np.abs(matrix).max()
    if largest == 0:
        raise DataError("Got an AGOP of zeros, but expected one with a direction. Do the outputs depend on the input?")
    asymmetry = np.abs(matrix - matrix.T).max()
    if asymmetry > ASYMMETRY * largest:
        raise DataError(
            f"Got an AGOP that differs from its transpose by {asymmetry:.2g} (largest entry {largest:.2g}), but "
            "expected a symmetric matrix."
        )
    return (matrix + matrix.T) / 2


def _checked_scale(scale: Any, d: int) -> Floats:
    array = _in_double(scale, "scale")
    if array.shape != (d,) or not (array > 0).all():
        raise DataError(
            f"Got scale of shape {array.shape}, but expected {d} positive standard deviations, one for each input. "
            "Use 1 for an input that does not vary."
        )
    return array


def _in_double(values: Any, name: str) -> Floats:
    tensor, _ = as_tensor(values, name=name, dtype=torch.float64)
    return np.asarray(tensor.detach().cpu())
