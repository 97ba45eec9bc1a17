"""What holds the features of a network under weight decay in place: attraction from below, repulsion from above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._arrays import as_tensor
from ..exceptions import DataError, ModelError
from .condensation import condensation
from .short_repr import short_repr
from .solvable import Agreement, worst_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["BipartiteExample", "Forces", "LayerForces", "attraction_repulsion", "bipartite_example"]

Floats = NDArray[np.float64]
Activation = Literal["relu", "tanh", "linear"]

_RCOND = 3e-5  # of the singular values, so 1e-9 of the Gram matrix: trained units that merged differ by rounding only
_RAY = 0.999  # cosine above which neurons count as one


@short_repr
@dataclass(frozen=True, eq=False)
class LayerForces:
    """The two parts of the gradient of the norm of the weights in the pre-activations of one hidden layer.

    Attributes
    ----------
    Z : array of shape (n_neurons, N)
        Pre-activations.
    attr, rep : array of shape (n_neurons, N)
        Gradients; the forces point against them.
    cosine : float
        ``-<attr, rep> / (|attr| |rep|)``: 1 when they point against one another.
    residual : float
        ``|attr + rep| / |attr|``: 0 when they cancel.
    rank : int
        Of the activations with the row of the bias, without directions that drown in the ridge.
    n_rays : int
        Directions of the activations of the neurons that are not dead.
    resolved : bool
        Whether these activations and those of the layer below have rank N. Otherwise the loss acts inside of the two
        forces as well, and they need not cancel.
    """

    Z: Floats = field(repr=False)
    attr: Floats = field(repr=False)
    rep: Floats = field(repr=False)
    cosine: float
    residual: float
    rank: int
    n_rays: int
    resolved: bool


@short_repr
@dataclass(frozen=True, eq=False)
class Forces:
    """Attraction and repulsion of every hidden layer, from the input on.

    Attributes
    ----------
    layers : tuple of LayerForces
    inputs : array of shape (d, N)
    outputs : array of shape (n_outputs, N)
        Pre-activations of the last layer.
    bias, ridge : float
    activation : str
        As they were given.
    """

    layers: tuple[LayerForces, ...]
    inputs: Floats = field(repr=False)
    outputs: Floats = field(repr=False)
    bias: float
    activation: Activation
    ridge: float

    def __getitem__(self, index: int) -> LayerForces:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def frame(self) -> pd.DataFrame:
        """One row a hidden layer, from 1."""
        import pandas as pd

        return pd.DataFrame(_numbers(self.layers), index=pd.RangeIndex(1, len(self) + 1, name="layer"))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        layers = [
            numbers | {name: getattr(layer, name).tolist() for name in ("Z", "attr", "rep")}
            for numbers, layer in zip(_numbers(self.layers), self.layers, strict=True)
        ]
        return {"kind": "Forces", "schema": 1, "layers": layers}

    def verify(self, *, tolerance: float = 1e-6) -> Agreement:
        """How far attraction and repulsion together are from the gradient that autograd finds.

        Of the norm of the weights that produce the pre-activations, which are the variables: of sums of
        ``|Z_l S_(l-1)^+|^2``, or of ``tr Z_l K^-1 Z_l^T`` with a ridge. Relative to the attraction of the layer.
        """
        gradients = _gradients_of_the_norm(self)
        rows = [
            {
                "quantity": f"layer {i}",
                "worst": float(np.abs(layer.attr + layer.rep - gradient).max() / max(np.abs(layer.attr).max(), 1e-300)),
                "at": float("nan"),
            }
            for i, (layer, gradient) in enumerate(zip(self.layers, gradients, strict=True), start=1)
        ]
        return worst_of(rows, tolerance)

    def plot(self, ax: Axes | None = None, *, layer: int = 1) -> Axes:
        """Both forces on every sample, on the two principal axes of the pre-activations of a hidden layer (from 1)."""
        from ..plots.attraction_repulsion import plot_forces

        if not 1 <= layer <= len(self):
            raise DataError(f"Got layer={layer}, but expected a hidden layer from 1 to {len(self)}.")
        return plot_forces(self.to_dict()["layers"][layer - 1], ax)

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(float_format=lambda value: format(value, ".3g")))


def _numbers(layers: Sequence[LayerForces]) -> list[dict[str, Any]]:
    names = ("cosine", "residual", "rank", "n_rays", "resolved")
    return [{name: getattr(layer, name) for name in names} for layer in layers]


def attraction_repulsion(
    weights_or_model: Any, X: Any, *, bias: float = 1.0, activation: Activation = "relu", ridge: float = 1e-6
) -> Forces:
    r"""Forces that the norm of the weights exerts on the features of each hidden layer.

    With pre-activations :math:`Z_l` and activations :math:`S_l = (\sigma(Z_l); \beta 1^\top)`,
    :math:`S_0 = (X^\top; \beta 1^\top)`, weights of least norm are :math:`W_l = Z_l S_{l-1}^+`, so that

    .. math::
        |W|^2 = \sum_l |Z_l S_{l-1}^+|_F^2, \quad
        \text{attr}_l = 2 Z_l (S_{l-1}^\top S_{l-1})^{-1}, \quad
        \text{rep}_l = -2 \left[S_l K_l^{-1} Z_{l+1}^\top Z_{l+1} K_l^{-1}\right] \odot \sigma'(Z_l), \quad
        K_l = S_l^\top S_l

    without the row of the bias. Attraction pulls a layer towards the one below, repulsion spreads it to serve the one
    above.

    Parameters
    ----------
    weights_or_model : sequence of array_like or torch.nn.Sequential
        Matrices (n_out, n_in + 1) of each layer, the last column for the bias, or (n_out, n_in) with ``bias=0``; or a
        chain of ``Linear`` layers and activations of the kind named.
    X : array_like or Tensor of shape (N, d)
        Inputs.
    bias : float, default 1.0
        Value of the unit that the last column multiplies; 0: there is none. It decides how much weight decay makes of a
        bias.
    activation : {"relu", "tanh", "linear"}, default "relu"
    ridge : float, default 1e-6
        Added to the Gram matrices, relative to the mean of their diagonal; 0: pseudo-inverse.

    Returns
    -------
    Forces

    Raises
    ------
    DataError
        Numbers that are not finite, or shapes that do not fit.
    ModelError
        A model that is no such chain.

    Notes
    -----
    One SVD of the activations of each layer, O(n N min(n, N)). At a stationary point of a loss with weight decay lam
    :math:`\text{attr} + \text{rep} = \frac1\lambda ([W_{l+1}^\top D_{l+1} \Pi_l] \odot \sigma' - D_l \Pi_{l-1})` with
    the gradients D of the loss in Z and the projections Pi on the rows of S: they cancel where all ranks are N. With
    fewer neurons than samples, or badly conditioned activations, the residual is not 0 at a perfect optimum either
    (``resolved=False``); read the cosine. Provenance: the two forces are published; what is left of their sum is
    derived here, checked.

    References
    ----------
    Jacot, Golikov, Hongler and Gabriel, "Feature learning in L2-regularized DNNs: attraction/repulsion and sparsity",
    arXiv 2205.15809.

    Examples
    --------
    >>> example = bipartite_example(4)
    >>> forces = attraction_repulsion(example.weights, example.X, bias=0.0, ridge=0.0)
    >>> round(forces[0].cosine, 9), forces[0].n_rays
    (1.0, 4)
    """
    for name, value in (("bias", bias), ("ridge", ridge)):
        if not (np.isfinite(value) and value >= 0):
            raise DataError(f"Got {name}={value}, but expected a finite number of at least 0.")
    if activation not in _ACTIVATIONS:
        raise DataError(f"Got activation={activation!r}, but expected one of {', '.join(_ACTIVATIONS)}.")
    if isinstance(weights_or_model, Sequence | np.ndarray):
        weights = [_matrix(weight, f"weights[{i}]") for i, weight in enumerate(weights_or_model)]
    else:
        weights = _of_model(weights_or_model, bias, activation)
    return _forces(weights, _matrix(X, "X"), bias, activation, ridge)


def _forces(weights: list[Floats], X: Floats, bias: float, activation: Activation, ridge: float) -> Forces:
    if len(weights) < 2:
        raise DataError(f"Got {len(weights)} layers, but expected at least two: the forces act on hidden ones.")
    function, derivative = _ACTIVATIONS[activation]
    features, before = X.T, [_with_bias(X.T, bias)]
    pre: list[Floats] = []
    for i, weight in enumerate(weights):
        if weight.shape[1] != len(before[-1]):
            raise DataError(
                f"Got weights[{i}] of shape {weight.shape}, but expected {len(before[-1])} columns: "
                f"{len(features)} inputs{' and the bias' if bias else ''}."
            )
        pre.append(weight @ before[-1])
        features = function(pre[-1])
        before.append(_with_bias(features, bias))
    grams = [_Gram.of(S, ridge) for S in before[:-1]]
    layers = []
    for i, Z in enumerate(pre[:-1]):
        attr = 2 * grams[i].solve(Z)
        rep = -2 * grams[i + 1].pushed(pre[i + 1])[: len(Z)] * derivative(Z)
        layers.append(_layer(Z, attr, rep, function(Z), grams[i], grams[i + 1]))
    return Forces(tuple(layers), X.T, pre[-1], bias, activation, ridge)


def _layer(Z: Floats, attr: Floats, rep: Floats, features: Floats, below: _Gram, own: _Gram) -> LayerForces:
    norms = float(np.linalg.norm(attr)), float(np.linalg.norm(rep))
    alive = features.any()
    return LayerForces(
        Z=Z,
        attr=attr,
        rep=rep,
        cosine=-float(np.sum(attr / norms[0] * (rep / norms[1]))) if min(norms) > 0 else float("nan"),
        residual=float(np.linalg.norm(attr + rep)) / norms[0] if norms[0] > 0 else float("nan"),
        rank=own.rank,
        n_rays=condensation(features, tol=_RAY, min_norm=1e-3).n_orientations if alive else 0,
        resolved=own.rank == below.rank == Z.shape[1],
    )


def _gradients_of_the_norm(forces: Forces) -> list[Floats]:
    import torch

    function = {"relu": torch.relu, "tanh": torch.tanh, "linear": lambda Z: Z}[forces.activation]
    pre = [torch.tensor(Z, requires_grad=True) for Z in (*(layer.Z for layer in forces.layers), forces.outputs)]
    norm, features = torch.zeros((), dtype=torch.float64), torch.from_numpy(forces.inputs)
    for Z in pre:
        S = torch.cat([features, torch.full((1, features.shape[1]), forces.bias)]) if forces.bias else features
        if forces.ridge:
            shift = forces.ridge * S.detach().square().sum() / S.shape[1] * torch.eye(S.shape[1], dtype=S.dtype)
            norm = norm + (Z * torch.linalg.solve(S.T @ S + shift, Z.T).T).sum()
        else:
            norm = norm + (Z @ torch.linalg.pinv(S, rtol=_RCOND)).square().sum()
        features = function(Z)
    return [gradient.numpy() for gradient in torch.autograd.grad(norm, pre[:-1])]


@dataclass(frozen=True, eq=False)
class _Gram:
    """``S^T S`` with its ridge, by the singular values of S: its condition is the root of the Gram matrix's."""

    left: Floats  # (n, r)
    values: Floats  # (r,)
    right: Floats  # (r, N)
    ridge: float

    @classmethod
    def of(cls, S: Floats, ridge: float) -> _Gram:
        left, values, right = np.linalg.svd(S, full_matrices=False)
        kept = values > _RCOND * values[0]
        return cls(left[:, kept], values[kept], right[kept], ridge * float(np.sum(values**2)) / S.shape[1])

    @property
    def rank(self) -> int:
        return int(np.sum(self.values**2 > self.ridge))

    def solve(self, Z: Floats) -> Floats:
        """``Z K^-1`` for Z in the row space of S."""
        return (Z @ self.right.T / (self.values**2 + self.ridge)) @ self.right

    def pushed(self, Z: Floats) -> Floats:
        """``S K^-1 Z^T Z K^-1`` for Z in the row space of S."""
        onto = Z @ self.right.T
        return (self.left * (self.values / (self.values**2 + self.ridge))) @ (onto.T @ self.solve(Z))


def _with_bias(features: Floats, bias: float) -> Floats:
    return np.concatenate([features, np.full((1, features.shape[1]), bias)]) if bias else features


_ACTIVATIONS: dict[str, Any] = {
    "relu": (lambda Z: np.maximum(Z, 0.0), lambda Z: (Z > 0).astype(np.float64)),
    "tanh": (np.tanh, lambda Z: 1 / np.cosh(np.minimum(np.abs(Z), 350.0)) ** 2),
    "linear": (lambda Z: Z, np.ones_like),
}


def _matrix(value: Any, name: str) -> Floats:
    array: Floats = as_tensor(value, name=name)[0].detach().double().cpu().numpy()
    if array.ndim != 2:
        raise DataError(f"Got {name} of shape {array.shape}, but expected a matrix.")
    return array


def _of_model(model: Any, bias: float, activation: Activation) -> list[Floats]:
    """Matrices of a chain of linear layers, biases as last columns."""
    from torch import nn

    kinds: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "linear": nn.Identity}
    kind = kinds[activation]
    if not isinstance(model, nn.Sequential):
        raise ModelError(f"Got a {type(model).__name__}, but expected matrices or a torch.nn.Sequential.")
    leaves = [module for module in model.modules() if not isinstance(module, nn.Sequential)]
    weights = []
    for i, module in enumerate(leaves):
        expected = nn.Linear if i % 2 == 0 or activation == "linear" else kind
        if isinstance(module, kind) and activation == "linear":
            continue
        if not isinstance(module, expected):
            text = f"Got a {type(module).__name__} as module {i}, but expected a {expected.__name__}"
            own = next((name for name, each in kinds.items() if isinstance(module, each)), None)
            remedy = f" Pass activation={own!r}." if own is not None and own != activation else ""
            raise ModelError(f"{text}: linear layers with {kind.__name__} between them.{remedy}")
        if isinstance(module, nn.Linear):
            weights.append(_linear(module, bias))
    return weights


def _linear(module: Any, bias: float) -> Floats:
    weight = _matrix(module.weight, "weight")
    own = None if module.bias is None else module.bias.detach().double().cpu().numpy()
    if bias == 0:
        if own is not None and own.any():
            raise ModelError("Got a layer with biases and bias=0, but expected a positive bias for them to multiply.")
        return weight
    column = np.zeros(len(weight)) if own is None else own / bias
    return np.concatenate([weight, column[:, np.newaxis]], axis=1)


class BipartiteExample(NamedTuple):
    """Weights, inputs and targets of :func:`bipartite_example`."""

    weights: tuple[Floats, Floats]
    X: Floats
    Y: Floats


def bipartite_example(n_samples: int) -> BipartiteExample:
    r"""A task on N unit inputs whose optimum needs :math:`N^2 / 4` neurons, and that optimum.

    .. math:: Y = \begin{pmatrix} h I & 1 \\ 1 & h I \end{pmatrix}, \ h = N/2, \quad
              W_1 = (e_i + e_{h+j})_{i, j \le h}, \quad W_2 = W_1^\top, \quad W_2 \, \mathrm{relu}(W_1) = Y

    Parameters
    ----------
    n_samples : int
        N, even and positive.

    Returns
    -------
    BipartiteExample
        ``weights`` (W1 of shape (N^2/4, N), W2 its transpose), ``X`` the identity, ``Y``; ``|W|^2 = N^2``.

    Notes
    -----
    Provenance: published (rank); the layout here is derived, checked.

    References
    ----------
    Jacot, Golikov, Hongler and Gabriel, arXiv 2205.15809.

    Examples
    --------
    >>> bipartite_example(4).Y.tolist()
    [[2.0, 0.0, 1.0, 1.0], [0.0, 2.0, 1.0, 1.0], [1.0, 1.0, 2.0, 0.0], [1.0, 1.0, 0.0, 2.0]]
    """
    if isinstance(n_samples, bool) or not isinstance(n_samples, int) or n_samples < 2 or n_samples % 2:
        raise DataError(f"Got n_samples={n_samples!r}, but expected a positive even integer.")
    half = n_samples // 2
    rows = np.eye(n_samples)
    W1 = (rows[:half, np.newaxis] + rows[np.newaxis, half:]).reshape(-1, n_samples)
    return BipartiteExample((W1, W1.T.copy()), rows, W1.T @ W1)
