"""Convolutional recursive feature machines as scikit-learn estimators: regression and classification of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from torch import Tensor

from .calibration import fit_sharpness, probabilities
from .conv_estimator import ConvRFMBase, honest_at_identity
from .conv_fitting import ImagePlan, ImageProblem
from .estimator import like
from .parameters import document
from .rfm import take
from .selection import Selection
from .targets import ClassCoding, RegressionCoding

__all__ = ["ConvRFMClassifier", "ConvRFMRegressor"]

COMMON = r"""
    Kernel ridge regression with the tangent kernel of an infinitely wide convolutional network
    (:class:`~featlearn.kernels.ConvNTK`), whose metric between patches is learned from the predictor's own gradients:

    .. math::

        (K_M + \alpha I)\, \beta = Y, \qquad
        G = \frac1m \sum_{j, p, o} \nabla_{v_p} f_o(z_j)^\top \nabla_{v_p} f_o(z_j), \qquad
        M \leftarrow G^s / \operatorname{tr} G^s

    Iterate 0, the fixed kernel, is always a candidate. Ridge and iterate are chosen from the training images alone: by
    leave-one-out while the metric has no more numbers than there are images, q (q + 1) / 2 <= n for patches of q
    numbers (n <= 5,000, or with landmarks); else by five folds (n <= 2,000) or a hold-out of one fifth, each with the
    metric learned anew without the images that it is scored on.

    Parameters
    ----------
    patch_size : int, default=3
        Side of the windows.
    depth : int, default=3
        Convolutional layers of the kernel.
    padding : int, default=0
        Zeros around the image, in the first layer.
    alpha : float or sequence, optional
        Ridge, in units of the largest ``k(x, x)``. Default: decades from 1e-6 to 1e-1.
    max_iter : int, optional
        AGOP steps. Default 3.
    rule : {{"convrfm", "public"}} or MetricRule, default="convrfm"
        What None stands for. "public": ridges 1e-8, 1e-5, 1e-3, 20 images, 5 steps, as in the public code, which chose
        among them on test data. A MetricRule sets the power s and the normalisation, which only scales the metric.
    agop_images : int, optional
        Random training images at which gradients are taken. Default 100. The standard error is in ``history_``.
    landmarks : int, optional
        Use the kernel functions of so many random training images only (as many of each class), fitted to all images:
        for tens of thousands of them.
    selection : {{"auto", "loo", "cv", "holdout", "validation"}} or None, default="auto"
        "validation" scores on ``fit(..., X_val=, y_val=)``. None: nothing is chosen; the last iterate, with the first
        ridge that was asked for, or else 1e-3.
    image_shape : (c, H, W) or (H, W), optional
        Lets X be rows of pixels (n, c H W), as pipelines want them. Without it a row can only be one pixel of many
        channels, with ``patch_size=1``: then this is a recursive feature machine with the tangent kernel of a fully
        connected network.
    {own}tol : float, default=1e-3
        Stop when the metric changes by no more than this, relatively.
    warm_start : bool, default=False
        Go on from the metric of the last fit with its ridge, for ``max_iter`` more steps and without selection.
    callback : callable, optional
        Called with the entry of ``history_`` after each step of the final fit; returning True stops it.
    n_jobs : int, optional
        Folds that run at once, in threads.
    random_state : int, RandomState or None
        Draws folds, landmarks and the images of the AGOP. The same seed gives the same machine.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    patch_agop_ : array of shape (q, q)
        Of the fitted predictor, in (output units / pixel unit)^2; ``patch_agop_se_``: its relative standard error.
    patch_factor_ : array of shape (q, q)
        Symmetric root of the metric of the kernel.
    directions_ : array of shape (k, c, patch_size, patch_size)
        Leading eigenvectors of the patch AGOP, and ``direction_shares_`` (k,) of its trace.
    dual_coef_ : array of shape (n, C), or (landmarks, C)
    kernel_, alpha_, n_iter_ :
        What was chosen; ``n_iter_`` is the iterate.
    selection_ : Selection or None
        The table of candidates: ``selection_.frame()``.
    history_ : list of dict
        Every step of the final fit.
    image_shape_, n_features_in_ :
        Channels, height and width of an image, and their product.
    {attributes}

    Notes
    -----
    A step costs ``n^2 / 2`` pairs of images, each about ``2 q + 33 depth`` flops a position (5e8 positions of pairs a
    second on one core), an eigendecomposition of the n x n kernel matrix for leave-one-out (9 n^3), and the reverse of
    ``n agop_images`` pairs; memory is the kernel matrix and a copy of the images. With p landmarks: ``n p`` pairs,
    ``4 n p^2`` flops and ``4 n p`` bytes. Everything is in single precision, but for the ridge systems.

    The machine sees images up to a common factor: the kernel is homogeneous, and divided by its largest entry.

    References
    ----------
    Beaglehole, Radhakrishnan, Pandit, Belkin (2023). Mechanism of feature learning in convolutional neural networks.
    arXiv:2309.00570.

    Examples
    --------
    {example}
"""


class ConvRFMRegressor(RegressorMixin, ConvRFMBase):
    """Convolutional recursive feature machine for regression on images."""

    _centers = True

    def predict(self, X: Any) -> Any:
        """Predictions (m,) or (m, C), of the kind of X."""
        values = self._expansion(X)
        return like(X, self.coding_.decode(values))

    def _targets(self, y: Any, n: int, weights: Tensor | None) -> tuple[Any, Tensor, Tensor | None, Tensor | None]:
        coding = RegressionCoding.fit(y, n, weights)
        return coding, coding.encode(y, n), weights, None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class ConvRFMClassifier(ClassifierMixin, ConvRFMBase):
    """Convolutional recursive feature machine for classification of images, with calibrated probabilities."""

    def __init__(
        self,
        patch_size: int = 3,
        depth: int = 3,
        *,
        padding: int = 0,
        alpha: Any = None,
        max_iter: int | None = None,
        rule: Any = "convrfm",
        agop_images: int | None = None,
        landmarks: int | None = None,
        selection: str | None = "auto",
        image_shape: Any = None,
        class_weight: Any = None,
        tol: float = 1e-3,
        warm_start: bool = False,
        callback: Callable[[dict[str, Any]], object] | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            patch_size, depth, padding=padding, alpha=alpha, max_iter=max_iter, rule=rule, agop_images=agop_images,
            landmarks=landmarks, selection=selection, image_shape=image_shape, tol=tol, warm_start=warm_start,
            callback=callback, n_jobs=n_jobs, random_state=random_state, verbose=verbose,
        )  # fmt: skip
        self.class_weight = class_weight

    @property
    def classes_(self) -> NDArray[Any]:
        """Labels (K,), ascending."""
        return np.asarray(self.coding_.classes)

    def decision_function(self, X: Any) -> Any:
        """Scores (m, K), or (m,) of the second class above the first where there are two."""
        scores = self._scores(X)
        return like(X, scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores)

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (m,); ties go to the first class."""
        expansion = self._expansion(X)  # which tells of a machine that was not fitted
        return np.asarray(self.coding_.decode(expansion))

    def predict_proba(self, X: Any) -> Any:
        """Probabilities (m, K): the softmax of the scores, its sharpness chosen on images not trained on."""
        # In double precision: rows that add to 1 to single precision only are refused where doubles are expected.
        return like(X, probabilities(self._scores(X).double(), self.sharpness_))

    def _scores(self, X: Any) -> Tensor:
        expansion = self._expansion(X)
        scores: Tensor = self.coding_.scores(expansion)
        return scores

    def _targets(self, y: Any, n: int, weights: Tensor | None) -> tuple[Any, Tensor, Tensor | None, Tensor | None]:
        coding = ClassCoding.fit(y, n, weights, coding="one_hot", class_weight=self.class_weight)
        weights = coding.row_weights(y, n, weights)
        there = torch.arange(n) if weights is None else (weights > 0).nonzero()[:, 0]
        labels = torch.zeros(n, dtype=torch.int64)
        labels[there] = coding.indices(take(y, there), len(there))
        return coding, torch.nn.functional.one_hot(labels, len(coding.classes)).double(), weights, labels

    def _calibrate(self, plan: ImagePlan, problem: ImageProblem, chosen: Selection | None, y_val: Any) -> None:
        assert problem.labels is not None
        if chosen is None:
            rows, honest = honest_at_identity(plan, problem)
        else:
            rows = torch.cat([rows for rows, _ in chosen.held_out])
            honest = torch.cat([values for _, values in chosen.held_out])
        labels = problem.labels[rows] if len(rows) else self.coding_.indices(y_val, len(honest))
        weights = None if problem.weights is None or not len(rows) else problem.weights[rows]
        self.sharpness_ = fit_sharpness(self.coding_.scores(honest * problem.scale), labels.to(honest.device), weights)


document(
    ConvRFMRegressor,
    COMMON,
    own="",
    attributes="",
    example=""">>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(60, 6, 6))
    >>> y = X[:, 2, 2] * X[:, 2, 3]
    >>> machine = ConvRFMRegressor(depth=1, random_state=0).fit(X, y)
    >>> machine.predict(X[:2]).shape
    (2,)
    >>> machine.directions_.shape
    (9, 1, 3, 3)""",
)
document(
    ConvRFMClassifier,
    COMMON,
    own="""class_weight : dict or "balanced", optional
        Factors on the sample weights.
    """,
    attributes="""classes_ : array of shape (K,)
    sharpness_ : float
        Of the softmax, by log loss on images that the machine had not seen.""",
    example=""">>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(60, 6, 6))
    >>> y = np.where(X[:, 2, 2] * X[:, 2, 3] > 0, "same", "other")
    >>> machine = ConvRFMClassifier(depth=1, random_state=0).fit(X, y)
    >>> machine.predict_proba(X[:2]).shape
    (2, 2)""",
)
