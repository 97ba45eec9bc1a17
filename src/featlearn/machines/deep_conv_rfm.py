"""Deep convolutional recursive feature machine: layer after layer of filters, each learned by a kernel machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .._random import generator
from ..exceptions import DataError
from ..kernels import ConvNTK
from .conv_estimator import axes_of
from .conv_rfm import ConvRFMClassifier
from .estimator import like
from .parameters import as_seed, is_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DeepConvRFMClassifier"]

NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "none": lambda x: x}
FILTERS = ("random", "directions")


class DeepConvRFMClassifier(TransformerMixin, ClassifierMixin, BaseEstimator):
    r"""Filters learned layer after layer by convolutional recursive feature machines, and the last of them predicts.

    .. math::

        M_l = \text{patch metric of a ConvRFM of kernel depth } L - l \text{ on } X_l, \qquad
        X_{l+1} = \phi(F_l * X_l), \quad \text{rows of } F_l \sim N(0, M_l)

    Parameters
    ----------
    layers : int, default=3
        L machines: the first has a kernel of L layers on the images, the last one of 1 layer on the filtered images.
    width : int, default=64
        Filters of a layer.
    nonlinearity : {"relu", "none"}, default="relu"
        phi. "none", all layers linear, is what the public code does.
    filters : {"random", "directions"}, default="random"
        "random": drawn with the learned covariance. "directions": the leading eigenvectors of M times the roots of
        their eigenvalues, at most as many as a patch has numbers; with a ReLU each of them with both signs, so that
        nothing is lost.
    patch_size, padding : int
        Of the windows, and of the images in the first layer.
    alpha, max_iter, rule, agop_images :
        Of every layer's machine, as in :class:`ConvRFMClassifier`.
    selection : {"auto", "loo", "cv", "holdout"} or None, default="auto"
        Of ridge and iterate in each layer. "auto": as ConvRFM in the first layer; in the others, whose metrics have
        many more numbers, a hold-out of one fifth.
    image_shape, class_weight, tol, n_jobs, random_state, verbose :
        As in :class:`ConvRFMClassifier`.

    Attributes
    ----------
    layers_ : list of ConvRFMClassifier
        What each layer learned: their ``patch_agop_``, ``directions_``, ``history_``, ``selection_``. Each is a
        predictor of its own on the images of its layer.
    filters_ : list of array of shape (width, c, patch_size, patch_size)
        L - 1 of them.
    n_iter_ : int
        AGOP steps of all layers together; ``frame()`` has the chosen iterate of each.
    classes_ : array of shape (K,)
    image_shape_, n_features_in_ :
        Channels, height and width of an image, and their product.

    Notes
    -----
    A machine behind the first sees patches of ``q = width patch_size^2`` numbers: a step costs ``n^2 q`` flops a
    position, and ``2 n q`` an output, position and image of the AGOP; the metric has ``q^2`` numbers. Scores of later
    layers are a little optimistic: their images were made by filters that were learned from all labels. Scale is
    irrelevant, since the kernel is homogeneous. Drawing rows as ``N(0, I)`` times the root of M, or from
    ``N(0, M / tr M)``, is the same up to a factor that no later layer sees.

    References
    ----------
    Beaglehole, Radhakrishnan, Pandit, Belkin (2023). Mechanism of feature learning in convolutional neural networks.
    arXiv:2309.00570. The nonlinearity between layers is that of this library.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(60, 8, 8))
    >>> y = np.where(X[:, 2, 2] * X[:, 2, 3] > 0, "same", "other")
    >>> machine = DeepConvRFMClassifier(layers=2, width=8, random_state=0).fit(X, y)
    >>> machine.transform(X).shape
    (60, 8, 6, 6)
    """

    def __init__(
        self,
        layers: int = 3,
        width: int = 64,
        *,
        nonlinearity: str = "relu",
        filters: str = "random",
        patch_size: int = 3,
        padding: int = 0,
        alpha: Any = None,
        max_iter: int | None = None,
        rule: Any = "convrfm",
        agop_images: int | None = None,
        selection: str | None = "auto",
        image_shape: Any = None,
        class_weight: Any = None,
        tol: float = 1e-3,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.layers = layers
        self.width = width
        self.nonlinearity = nonlinearity
        self.filters = filters
        self.patch_size = patch_size
        self.padding = padding
        self.alpha = alpha
        self.max_iter = max_iter
        self.rule = rule
        self.agop_images = agop_images
        self.selection = selection
        self.image_shape = image_shape
        self.class_weight = class_weight
        self.tol = tol
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn filters layer after layer, then fit the last machine.

        Parameters
        ----------
        X : array or Tensor of shape (n, c, H, W), (n, H, W) or (n, c H W)
            Floating images.
        y : array of shape (n,)
        sample_weight : array of shape (n,), optional

        Raises
        ------
        DataError
            For data or parameters that cannot be used, before any work.
        """
        self._check()
        seed = as_seed(self.random_state)
        images: Any = X
        fitted: list[ConvRFMClassifier] = []
        filters: list[Tensor] = []
        for layer in range(self.layers):
            shape = tuple(images.shape[1:]) if layer else self.image_shape
            machine = self._machine(layer, seed, shape).fit(images, y, sample_weight)
            fitted.append(machine)
            if layer == 0:
                self.image_shape_, self.n_features_in_ = machine.image_shape_, machine.n_features_in_
                if hasattr(machine, "feature_names_in_"):
                    self.feature_names_in_ = machine.feature_names_in_
                images = machine.images_of(X)
            if layer < self.layers - 1:
                filters.append(self._drawn(machine, seed, layer))
                images = self._filtered(images, filters[-1], layer)
        self.layers_, self._filters = fitted, filters
        self.n_iter_ = sum(machine.n_iter_ for machine in fitted)
        self.filters_ = [self._public(one.mT.unflatten(1, (-1, *(self.patch_size,) * 2)), X) for one in filters]
        return self

    def _check(self) -> None:
        for name in ("layers", "width"):
            value = getattr(self, name)
            if not is_whole(value) or value < 1:
                raise DataError(f"Got {name}={value!r}, but expected a whole number of at least 1.")
        if self.nonlinearity not in NONLINEARITIES:
            raise DataError(f"Got nonlinearity={self.nonlinearity!r}, but expected one of {', '.join(NONLINEARITIES)}.")
        if self.filters not in FILTERS:
            raise DataError(f"Got filters={self.filters!r}, but expected one of {', '.join(FILTERS)}.")
        if self.selection == "validation":
            raise DataError('Got selection="validation", which layers do not share. Use "holdout".')

    def _machine(self, layer: int, seed: int, image_shape: Any) -> ConvRFMClassifier:
        first = layer == 0
        return ConvRFMClassifier(
            self.patch_size, self.layers - layer, padding=self.padding if first else 0, alpha=self.alpha,
            max_iter=self.max_iter, rule=self.rule, agop_images=self.agop_images,
            selection="holdout" if self.selection == "auto" and not first else self.selection,
            image_shape=image_shape, class_weight=self.class_weight, tol=self.tol,
            n_jobs=self.n_jobs, random_state=seed + layer, verbose=self.verbose,
        )  # fmt: skip

    def _drawn(self, machine: ConvRFMClassifier, seed: int, layer: int) -> Tensor:
        """Filters (q, width) of a layer."""
        root = torch.as_tensor(machine.patch_factor_)
        q = len(root)
        if self.filters == "random":
            normal = torch.randn(self.width, q, generator=generator(seed, "filters", layer)).to(root)
            return (normal @ root / q**0.5).mT
        values, vectors = torch.linalg.eigh(root)
        signs = 2 if self.nonlinearity == "relu" else 1
        count = min(q, max(1, self.width // signs))
        leading = (vectors * values).flip(1)[:, :count]
        return torch.cat([leading, -leading], dim=1) if signs == 2 else leading

    def _filtered(self, images: Tensor, filters: Tensor, layer: int) -> Tensor:
        kernel = ConvNTK(self.patch_size, 1, 0 if layer else self.padding)
        maps = kernel.filtered(images, filters.to(images)).permute(0, 3, 1, 2).contiguous()
        return NONLINEARITIES[self.nonlinearity](maps)

    def _public(self, tensor: Tensor, X: Any) -> Any:
        return tensor if isinstance(X, Tensor) else tensor.cpu().numpy()

    # use ----------------------------------------------------------------------------------------------------------

    @property
    def classes_(self) -> NDArray[Any]:
        """Labels (K,), ascending."""
        return self.layers_[-1].classes_

    @torch.no_grad()
    def _features(self, X: Any) -> Tensor:
        """Images that the last machine sees."""
        check_is_fitted(self, "layers_")
        images = self.layers_[0].images_of(X)
        for layer, filters in enumerate(self._filters):
            images = self._filtered(images, filters, layer)
        return images

    def transform(self, X: Any) -> Any:
        """Images (n, width, h, w) that the last machine sees; of rows X (n, pixels) rows too."""
        features = self._features(X)
        return like(X, features.flatten(1) if axes_of(X) == 2 else features)

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (m,)."""
        features = self._features(X)  # which tells of a machine that was not fitted
        return self.layers_[-1].predict(features)

    def predict_proba(self, X: Any) -> Any:
        """Probabilities (m, K), as those of :class:`ConvRFMClassifier`."""
        features = self._features(X).double()
        return like(X, self.layers_[-1].predict_proba(features))

    def decision_function(self, X: Any) -> Any:
        """Scores (m, K), or (m,) for two classes."""
        features = self._features(X)
        return like(X, self.layers_[-1].decision_function(features))

    def to_dict(self) -> dict[str, Any]:
        """What each layer learned, in plain values: ready for JSON and figures."""
        check_is_fitted(self, "layers_")
        layers = [machine.to_dict() for machine in self.layers_]
        return {"nonlinearity": self.nonlinearity, "filters": self.filters, "layers": layers}

    def frame(self) -> Any:
        """One row a layer: kernel depth, channels, the chosen iterate and ridge, its score on images not seen."""
        import pandas as pd

        rows = []
        for layer, machine in enumerate(self.layers_):
            best = {} if machine.selection_ is None else machine.selection_.best
            rows.append(
                {
                    "layer": layer + 1,
                    "depth": machine.depth,
                    "channels": machine.image_shape_[0],
                    "iteration": machine.n_iter_,
                    "alpha": machine.alpha_,
                    "score": best.get("score", np.nan),
                    "standard_error": best.get("standard_error", np.nan),
                }
            )
        return pd.DataFrame(rows)

    def plot(self) -> Figure:
        """Of every layer: the scores of its iterates, and the spectrum of its patch AGOP."""
        from ..plots.filters import plot_deep_conv_rfm

        return plot_deep_conv_rfm(self.to_dict())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.image_shape is not None or self.patch_size == 1
        tags.input_tags.three_d_array = True
        return tags
