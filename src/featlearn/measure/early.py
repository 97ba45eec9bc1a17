r"""The centred ansatz as training starts, from inputs and labels alone: no network is built.

In a wide random network whose outputs are (nearly) zero, a layer's first weight change is ``-N`` with
``N = sum_ic R_ic g_ic a_i^T``, where ``a_i`` is the layer's input, R the residuals and ``g_ic`` the gradient of output
c. Gradients of different outputs are orthogonal, and those of one output have the Gram matrix P, the same for all.
So with ``Sigma`` the Gram matrix of the ``a_i``,

.. math:: N^\top N \propto a^\top A a, \quad A = (R R^\top) \circ P, \qquad
    N^\top K N \propto a^\top B a, \quad B = (R R^\top) \circ P^2,

.. math:: \cos(N^\top N, N^\top K N) = \frac{\mathrm{tr}\, \Sigma A \Sigma B}
    {\sqrt{\mathrm{tr}\, \Sigma A \Sigma A \;\; \mathrm{tr}\, \Sigma B \Sigma B}}.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._arrays import as_tensor
from ..exceptions import DataError
from ..kernels.arccos import relu_activations
from ..linalg.psd import fix_signs
from ..linalg.spectrum import Spectrum
from .alignment import check_statistic
from .coordinates import combine
from .early_results import EarlyAlignment

__all__ = ["ACTIVATIONS", "early_alignment", "tangent_statistics"]

ACTIVATIONS = ("relu", "linear", "erf", "quadratic")
WIDEST_SHOWN = 1024  # inputs up to which the predicted matrices themselves are in the result
DIRECTIONS = 10
ROUND_OFF = 1e-12  # coherence below which the first change is made of rounding errors


def early_alignment(
    X: Any,
    Y: Any,
    *,
    activation: str = "relu",
    depth: int = 1,
    layer: int = 1,
    weight_scale: float = 1.0,
    statistic: str = "pearson",
) -> EarlyAlignment:
    r"""Predict where the centred ansatz of a wide random network starts, from its inputs and labels.

    .. math:: \rho\big(a^\top [(R R^\top) \circ P]\, a,\;\; a^\top [(R R^\top) \circ P^2]\, a\big)

    Parameters
    ----------
    X : array or Tensor of shape (n, d)
        Inputs; more axes are flattened.
    Y : array or Tensor of shape (n,) or (n, C)
        Residuals at the start, up to one factor: the targets, for the square loss and outputs that start at zero;
        one-hot labels minus 1/C, for cross-entropy; otherwise the gradient of the loss by the outputs.
    activation : {"relu", "linear", "erf", "quadratic"}, default "relu"
        Of every hidden layer; "quadratic" is :math:`\phi(h) = h^2`.
    depth : int, default 1
        Hidden layers.
    layer : int, default 1
        Hidden layer whose weight is meant, 1 (which reads X) to ``depth``.
    weight_scale : float, default 1.0
        Standard deviation of the entries of every weight times the root of its number of inputs. Decides where the
        error function saturates; drops out for the other activations, which are homogeneous.
    statistic : {"pearson", "cosine"}, default "pearson"
        Which of the two ``nfa`` is; the result has both.

    Returns
    -------
    EarlyAlignment

    Raises
    ------
    DataError
        Bad values, or a first change that is zero.

    Notes
    -----
    Independent Gaussian weights, no biases, an independent random readout of C outputs, and widths well above the
    spread of P. The error falls with the width (tested at 4096 units: below .03), and grows where the samples'
    gradients cancel and ``coherence`` is near 0. It is the ansatz of the *first* change: training leaves it when P, K
    or the residuals have moved; from a tiny readout, as soon as that has changed by its own size. Above the first layer
    Sigma and P are infinite-width limits, and the Pearson correlation uses the mean activation of each sample.
    ``O(n^3)`` time and ``O(n^2)`` memory; no d x d matrix when d > max(n, 1024).

    For quadratic activation in one hidden layer, with :math:`B_y = \sum_i y_i x_i x_i^\top` and
    :math:`C = X^\top X`, the two matrices are :math:`B_y^2` and :math:`B_y C B_y`: only label-weighted and plain second
    moments of the inputs matter, and the ansatz holds at the start when these inputs are white.

    Derived for this library, and checked against networks; not taken from a paper.

    Examples
    --------
    >>> import torch
    >>> X = torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    >>> steep = X * torch.arange(1, 11)**-1.0
    >>> early_alignment(X, X[:, 0], statistic="cosine").nfa > early_alignment(steep, X[:, 9], statistic="cosine").nfa
    True
    """
    _check_structure(activation, depth, layer, weight_scale)
    check_statistic(statistic)
    inputs, residuals = _data(X, Y)
    sigma, means, tangent = tangent_statistics(
        inputs, activation=activation, depth=depth, layer=layer, weight_scale=weight_scale
    )
    shared = residuals @ residuals.mT
    frame = _Frame.of_inputs(inputs) if layer == 1 else _Frame.of_gram(sigma)
    changes = [shared * gram for gram in (tangent, tangent @ tangent)]  # A and B
    first, second = (frame.rows.mT @ change @ frame.rows for change in changes)
    norms = first.norm(), second.norm()
    apart = len(inputs) * float((sigma.diagonal() * changes[0].diagonal()).sum())
    coherence = float(first.trace()) / apart if apart > 0 else 0.0
    if not coherence > ROUND_OFF:
        raise DataError(
            "Got inputs and residuals of which the first weight change is zero: there is nothing to predict. Pass "
            "targets that are not all zero, and with an odd activation none that is even in the inputs."
        )
    first, second = first / norms[0], second / norms[1]
    sums = [means @ change @ means / norm for change, norm in zip(changes, norms, strict=True)]
    values, vectors = zip(*(torch.linalg.eigh(matrix) for matrix in (first, second)), strict=True)
    directions = [frame.directions(v) for v in vectors]
    matrices = [frame.matrix(matrix) for matrix in (first, second)]
    one = first.new_ones(())
    inner = (first * second).sum()
    return EarlyAlignment(
        cosine=float(inner),
        pearson=float(combine(inner, one, one, sums[0], sums[1], 1, "pearson")),
        coherence=coherence,
        statistic=statistic,
        activation=activation,
        depth=depth,
        layer=layer,
        weight_scale=float(weight_scale),
        n_samples=len(inputs),
        n_inputs=inputs.shape[1],
        n_outputs=residuals.shape[1],
        nfm_spectrum=Spectrum(values[0].cpu().numpy()),
        agop_spectrum=Spectrum(values[1].cpu().numpy()),
        nfm_directions=directions[0],
        agop_directions=directions[1],
        nfm=matrices[0],
        agop=matrices[1],
    )


def tangent_statistics(
    inputs: Tensor, *, activation: str, depth: int, layer: int, weight_scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Covariance of a hidden layer's inputs, their means, and the Gram matrix of its tangent features.

    With :math:`\Lambda_1 = \sigma^2 X X^\top / d` and (u, v) Gaussian of covariance :math:`\Lambda_l`,
    :math:`\Lambda_{l+1} = \sigma^2 E\, \phi(u) \phi(v)`; :math:`\Sigma = \Lambda_l / \sigma^2` is that of layer l's
    inputs, and :math:`P = \prod_{j \ge l} E\, \phi'(u) \phi'(v)` over this layer and those above it.

    Parameters
    ----------
    inputs : Tensor of shape (n, d)
    activation, depth, layer, weight_scale
        As in :func:`early_alignment`.

    Returns
    -------
    sigma : Tensor of shape (n, n)
        Mean over the layer's inputs of their products.
    means : Tensor of shape (n,)
        Mean over the layer's inputs.
    tangent : Tensor of shape (n, n)
        P, for unit readout weights and up to powers of ``weight_scale``.
    """
    sigma, means = inputs @ inputs.mT / inputs.shape[1], inputs.mean(dim=1)
    below = sigma, means
    tangent = torch.ones_like(sigma)
    for level in range(1, depth + 1):
        if level == layer:
            below = sigma, means
        sigma, means, slopes = _through(weight_scale**2 * sigma, activation)
        if level >= layer:
            tangent = tangent * slopes
    return *below, tangent


def _through(covariance: Tensor, activation: str) -> tuple[Tensor, Tensor, Tensor]:
    r""":math:`E \phi(u) \phi(v)`, :math:`E \phi(u)` and :math:`E \phi'(u) \phi'(v)` for Gaussian u and v."""
    variance = covariance.diagonal()
    if activation == "linear":
        return covariance, torch.zeros_like(variance), torch.ones_like(covariance)
    if activation == "quadratic":
        return torch.outer(variance, variance) + 2 * covariance**2, variance, 4 * covariance
    if activation == "erf":
        spread = 1 + 2 * variance
        ratio = 2 * covariance / torch.outer(spread, spread).sqrt()
        slopes = 4 / math.pi / (torch.outer(spread, spread) - 4 * covariance**2).sqrt()
        return 2 / math.pi * ratio.asin(), torch.zeros_like(variance), slopes
    deviation = variance.clamp_min(0).sqrt()
    norms = torch.outer(deviation, deviation)
    cosines = (covariance / torch.where(norms > 0, norms, 1.0)).clamp(-1, 1)
    cosines.fill_diagonal_(1.0)  # which rounding would miss, and the arcus cosine is steep there
    slopes, products, _ = relu_activations(cosines)
    return norms * products / 2, deviation / math.sqrt(2 * math.pi), slopes / 2


@dataclass(frozen=True, eq=False)
class _Frame:
    """Coordinates of a layer's inputs, with as few columns as there are samples or inputs."""

    rows: Tensor  # (n, r), with the Gram matrix sigma
    basis: Tensor | None  # (d, r), from these coordinates to those of the inputs; None for the identity
    d: int | None  # inputs; None where they have a Gram matrix alone

    @classmethod
    def of_inputs(cls, inputs: Tensor) -> _Frame:
        """Inputs (n, d) themselves."""
        n, d = inputs.shape
        scaled = inputs / math.sqrt(d)
        if d <= n:
            return cls(scaled, None, d)
        basis, upper = torch.linalg.qr(scaled.mT)
        return cls(upper.mT, basis, d)

    @classmethod
    def of_gram(cls, gram: Tensor) -> _Frame:
        """Random features of this Gram matrix."""
        values, vectors = torch.linalg.eigh(gram)
        return cls(vectors * values.clamp_min(0).sqrt(), None, None)

    def directions(self, vectors: Tensor) -> NDArray[np.float64] | None:
        """Last eigenvectors (r, r), the top ones, in the coordinates of the inputs (d, m)."""
        if self.d is None:
            return None
        top = vectors.flip(1)[:, :DIRECTIONS]
        return fix_signs(top if self.basis is None else self.basis @ top).double().cpu().numpy()

    def matrix(self, matrix: Tensor) -> Tensor | None:
        """The matrix (d, d) in the coordinates of the inputs, where it is small enough to show."""
        if self.d is None or self.d > WIDEST_SHOWN:
            return None
        return (matrix if self.basis is None else self.basis @ matrix @ self.basis.mT).cpu()


def _data(X: Any, Y: Any) -> tuple[Tensor, Tensor]:
    """Inputs (n, d) and residuals (n, C) in float64 (float32 where the device has nothing wider)."""
    inputs, residuals = as_tensor(X, name="X", min_rank=2)[0], as_tensor(Y, name="Y")[0]
    if len(inputs) != len(residuals):
        raise DataError(f"Got {len(inputs)} rows of X and {len(residuals)} of Y, but expected as many.")
    inputs, residuals = inputs.detach().flatten(1), residuals.detach().reshape(len(residuals), -1)
    wide = torch.float32 if inputs.device.type == "mps" else torch.float64
    return inputs.to(wide), residuals.to(inputs.device, wide)


def _check_structure(activation: object, depth: object, layer: object, weight_scale: object) -> None:
    if activation not in ACTIVATIONS:
        raise DataError(f"Got activation={activation!r}, but expected one of {', '.join(map(repr, ACTIVATIONS))}.")
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
        raise DataError(f"Got depth={depth!r}, but expected an integer of at least 1.")
    if not isinstance(layer, int) or isinstance(layer, bool) or not 1 <= layer <= depth:
        raise DataError(f"Got layer={layer!r}, but expected a hidden layer from 1 to depth={depth}.")
    number = isinstance(weight_scale, int | float) and not isinstance(weight_scale, bool)
    if not (number and math.isfinite(weight_scale) and weight_scale > 0):  # type: ignore[operator, arg-type]
        raise DataError(f"Got weight_scale={weight_scale!r}, but expected a positive finite number.")
