"""What the convolutional machines share: parameters, images in and out, the fitted attributes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from .._random import generator
from ..agop.of_patches import patch_agop_of_expansion
from ..exceptions import DataError, FeatlearnWarning
from ..kernels import ConvNTK, PatchMetric
from ..linalg.psd import top_eigenvectors
from .conv_fitting import ImagePlan, ImageProblem, conv_rule, fit_images, landmarks_of
from .edges import EdgeReport, edge_report, patch_moment, sobel_magnitude
from .estimator import like
from .images import as_images, as_shape, from_array, warn_of_blank
from .loop import LeaveOneOut, Run, run
from .parameters import as_seed, checked_steps, is_whole, method_of, ridges, run_all
from .selection import Selection
from .weights import as_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ConvRFMBase", "axes_of", "honest_at_identity"]

DIRECTIONS = 20  # leading eigenvectors of the patch AGOP that are kept
CALIBRATED = 1500  # most images for calibration where nothing was selected
DRAWABLE = 4  # channels up to which directions make pictures
PCA_IMAGES = 5000  # most images whose patches are averaged for the null


class ConvRFMBase(TransformerMixin, BaseEstimator):
    """What regressor and classifier share."""

    coding_: Any

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
        tol: float = 1e-3,
        warm_start: bool = False,
        callback: Callable[[dict[str, Any]], object] | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.patch_size = patch_size
        self.depth = depth
        self.padding = padding
        self.alpha = alpha
        self.max_iter = max_iter
        self.rule = rule
        self.agop_images = agop_images
        self.landmarks = landmarks
        self.selection = selection
        self.image_shape = image_shape
        self.tol = tol
        self.warm_start = warm_start
        self.callback = callback
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    # fitting ------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None, X_val: Any = None, y_val: Any = None) -> Self:
        """Alternate kernel ridge regression and the patch AGOP; choose ridge and iterate without test data.

        Parameters
        ----------
        X : array or Tensor of shape (n, c, H, W), (n, H, W) or (n, c H W)
            Floating images as they are: nothing is scaled, and a common factor changes nothing.
        y : array of shape (n,); for regression (n, C) too
        sample_weight : array of shape (n,), optional
            2 means that the image was given twice, 0 that it was left out.
        X_val, y_val : like X and y, optional
            Images for ``selection="validation"``, used for nothing else.

        Returns
        -------
        self

        Raises
        ------
        DataError
            For data or parameters that cannot be used, before any work.
        """
        plan = self._plan()
        x = self._images(X, reset=True)
        plan.kernel.check_images(x)
        weights = as_weights(sample_weight, len(x))
        problem = self._problem(x, y, weights)
        _check_images(problem.x, plan, torch.arange(len(x)) if weights is None else (weights > 0).nonzero()[:, 0])
        validation = self._validation(X_val, y_val, problem)
        start = None
        if self.warm_start and hasattr(self, "kernel_"):
            start = self._resumed(plan, problem)
            plan = replace(plan, alphas=(self.alpha_,))
        with _Progress(self.verbose, plan.max_iter) as watched:
            fitted, chosen = fit_images(
                plan, problem, validation, start=start, callback=watched(self.callback), runner=self._runner
            )
        self._store(X, plan, problem, fitted, chosen)
        self._calibrate(plan, problem, chosen, y_val)
        return self

    def _plan(self) -> ImagePlan:
        """The parameters, checked and with the rule's answers for None."""
        rule = conv_rule(self.rule)
        kernel = ConvNTK(self.patch_size, self.depth, self.padding)
        method = method_of(self.selection)
        alphas = ridges(self.alpha, rule.alphas, method)
        steps, tol = checked_steps(rule.max_iter if self.max_iter is None else self.max_iter, self.tol)
        for name, least in (("agop_images", 1), ("landmarks", 2)):
            value = getattr(self, name)
            if value is not None and not (is_whole(value) and value >= least):
                raise DataError(f"Got {name}={value!r}, but expected None or a whole number of at least {least}.")
        if self.landmarks is not None and min(alphas) == 0:
            raise DataError("Got alpha=0 with landmarks, but expected alpha > 0.")
        metric = rule.metric if self.agop_images is None else replace(rule.metric, points=int(self.agop_images))
        seed = as_seed(self.random_state)
        return ImagePlan(kernel, alphas, metric, steps, tol, method, self._centers, self.landmarks, seed)

    _centers: bool = False

    def _images(self, X: Any, *, reset: bool) -> Tensor:
        """X as images; what a machine was fitted to is noted, or compared with."""
        if isinstance(X, Tensor) and X.dim() == 2:
            rows: Tensor | None = X.detach()
        elif hasattr(X, "iloc") or hasattr(X, "toarray") or axes_of(X) <= 2:
            rows = from_array(np.asarray(validate_data(self, X, reset=reset, dtype=[np.float32, np.float64])))
        else:
            rows = None
        shape = self._known_shape(reset)
        if rows is None:
            x = as_images(X, shape=shape)
            if reset and hasattr(self, "feature_names_in_"):
                del self.feature_names_in_  # of another fit, to a table
        else:
            shape = self._shape_of_rows(rows.shape[1], shape)
            x = as_images(rows.to(torch.float32).reshape(len(rows), *shape), shape=shape)
        if reset and shape is not None and tuple(x.shape[1:]) != shape:
            raise DataError(f"Got images of shape {tuple(x.shape[1:])}, but expected image_shape={shape}.")
        if reset:
            self.image_shape_ = (x.shape[1], x.shape[2], x.shape[3])
            self.n_features_in_ = int(np.prod(self.image_shape_))
        elif tuple(x.shape[1:]) != self.image_shape_:
            raise DataError(f"Got images of shape {tuple(x.shape[1:])}, but expected {self.image_shape_}, as in fit.")
        return x

    def _known_shape(self, reset: bool) -> tuple[int, int, int] | None:
        """That of the images of fit, or what they are declared to be."""
        if not reset:
            return self.image_shape_
        return None if self.image_shape is None else as_shape(self.image_shape)

    def _shape_of_rows(self, pixels: int, shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
        if shape is None and self.patch_size == 1:
            shape = (pixels, 1, 1)
        if shape is None:
            raise DataError(
                f"Got X with {pixels} numbers a row, but expected images. Pass image_shape=(channels, height, width), "
                "or reshape X; with patch_size=1 a row is one pixel of many channels."
            )
        if int(np.prod(shape)) != pixels:
            raise DataError(f"Got X with {pixels} features, but expected {int(np.prod(shape))} for images {shape}.")
        return shape

    def _problem(self, x: Tensor, y: Any, weights: Tensor | None) -> ImageProblem:
        """Images and coded targets; images of weight 0 are dropped."""
        n = len(x)
        if n < 2:
            raise DataError(f"Got {n} sample(s), but expected at least 2 images.")
        self.coding_, targets, weights, labels = self._targets(y, n, weights)
        if weights is not None:
            places = (weights > 0).nonzero()[:, 0]
            if len(places) < 2:
                raise DataError(f"Got {len(places)} image of positive weight, but expected at least 2.")
            x, targets, weights = x[places.to(x.device)], targets[places], weights[places]
            labels = None if labels is None else labels[places]
        if not bool(targets.any()):
            warnings.warn(
                "Got equal targets for all images: that is what is predicted, and no features are learned.",
                FeatlearnWarning,
                stacklevel=3,
            )
        scale = float(targets.square().mean().sqrt()) or 1.0
        weights = None if weights is None else weights.to(x)
        return ImageProblem(x, (targets / scale).to(x), weights, labels, scale)

    def _targets(self, y: Any, n: int, weights: Tensor | None) -> tuple[Any, Tensor, Tensor | None, Tensor | None]:
        """Coding, coded targets, weights of the images, class indices."""
        raise NotImplementedError

    def _validation(self, X_val: Any, y_val: Any, problem: ImageProblem) -> tuple[Tensor, Tensor] | None:
        if self.selection != "validation":
            if X_val is None and y_val is None:
                return None
            raise DataError(
                f'Got X_val or y_val, which selection={self.selection!r} does not use. Pass selection="validation".'
            )
        if X_val is None or y_val is None:
            raise DataError('Got selection="validation" without X_val and y_val. Pass both to fit.')
        x = self._images(X_val, reset=False).to(problem.x)
        return x, (self.coding_.encode(y_val, len(x)) / problem.scale).to(x)

    def _resumed(self, plan: ImagePlan, problem: ImageProblem) -> PatchMetric:
        if self.kernel_.kernel != plan.kernel or self._basis.shape[1] != problem.x.shape[1]:
            raise DataError(
                "Got warm_start=True with another kernel or other channels than in the last fit. Pass the same ones, "
                "or warm_start=False."
            )
        metric = PatchMetric(plan.kernel, self.kernel_.factor)
        return metric.to(problem.x)

    def _runner(self, calls: Sequence[Callable[[], Run]]) -> list[Run]:
        return run_all(calls, self.n_jobs, self.verbose)

    def _store(self, X: Any, plan: ImagePlan, problem: ImageProblem, fitted: Run, chosen: Selection | None) -> None:
        assert isinstance(fitted.kernel, PatchMetric)
        landmarks = landmarks_of(plan, len(problem.x), problem.labels)
        self._of_tensor = isinstance(X, Tensor)
        self._basis = problem.x if landmarks is None else problem.x[landmarks]
        self._dual = fitted.dual * problem.scale
        self.kernel_ = fitted.kernel
        self.alpha_ = fitted.alpha
        self.n_iter_ = fitted.step
        self.history_ = fitted.history
        self.selection_ = chosen
        self.solution_ = fitted.solution
        self._metrics = [kernel.factor for kernel in fitted.kernels if isinstance(kernel, PatchMetric)]
        found = self._final_agop(plan, problem)
        values, vectors = top_eigenvectors(found.matrix, min(len(found.matrix), DIRECTIONS))
        c, size = problem.x.shape[1], plan.kernel.patch_size
        total = float(found.matrix.double().trace())
        shares = values.clamp_min(0) / total if total > 0 else torch.zeros_like(values)
        self._filters = vectors.to(found.matrix)
        self.patch_agop_ = self._public(found.matrix)
        self.patch_agop_se_ = found.standard_error
        self.patch_factor_ = self._public(_symmetric(fitted.kernel.factor, found.matrix))
        self.directions_ = self._public(vectors.mT.reshape(-1, c, size, size).contiguous())
        self.direction_shares_ = self._public(shares)
        self.dual_coef_ = self._public(self._dual)

    def _final_agop(self, plan: ImagePlan, problem: ImageProblem) -> Any:
        """Patch AGOP of the fitted predictor at random training images."""
        wanted = min(len(problem.x), int(plan.metric.points) if is_whole(plan.metric.points) else len(problem.x))
        rows = torch.randperm(len(problem.x), generator=generator(plan.random_state, "final"))[:wanted].sort().values
        weights = None if problem.weights is None else problem.weights[rows]
        return patch_agop_of_expansion(
            self.kernel_, self._basis, self._dual, problem.x[rows], weights=weights, population=len(problem.x)
        )

    def _public(self, tensor: Tensor) -> Any:
        """A tensor where X was one, else an array."""
        return tensor if self._of_tensor else tensor.cpu().numpy()

    def _calibrate(self, plan: ImagePlan, problem: ImageProblem, chosen: Selection | None, y_val: Any) -> None:
        """What a classifier learns about its scores."""

    # use ----------------------------------------------------------------------------------------------------------

    def images_of(self, X: Any) -> Tensor:
        """X as the machine sees it: images (n, c, H, W) in single precision, checked against those of fit."""
        check_is_fitted(self, "dual_coef_")
        return self._images(X, reset=False)

    @torch.no_grad()
    def _expansion(self, X: Any) -> Tensor:
        check_is_fitted(self, "dual_coef_")
        x = self._images(X, reset=False)
        return self.kernel_.expansion(self._basis, x.to(self._basis), self._dual)

    @torch.no_grad()
    def transform(self, X: Any) -> Any:
        r"""Images filtered by the leading directions, (n, k, h, w): :math:`\sqrt{\lambda_j} \langle u_j, v_p \rangle`.

        Of rows X (n, pixels) the answer is rows too, (n, k h w). :math:`\lambda_j` is the direction's share of the
        patch AGOP's trace.
        """
        check_is_fitted(self, "dual_coef_")
        x = self._images(X, reset=False).to(self._basis)
        shares = torch.as_tensor(self.direction_shares_, device=x.device, dtype=x.dtype)
        maps = self.kernel_.kernel.filtered(x, self._filters * shares.sqrt()).permute(0, 3, 1, 2)
        return like(X, maps.flatten(1) if axes_of(X) == 2 else maps)

    @torch.no_grad()
    def saliency(self, X: Any) -> Any:
        r"""Where on its images the machine looks, (n, H, W).

        .. math:: \sqrt{\textstyle\sum_{o, c} (\partial f_o / \partial x_c)^2}

        In output units per pixel unit. Costs one reverse pass of the kernel for each pair of an image and a training
        image.
        """
        check_is_fitted(self, "dual_coef_")
        x = self._images(X, reset=False).to(self._basis)
        gradients = self.kernel_.expansion_gradient(self._basis, x, self._dual)
        return like(X, gradients.square().sum(dim=(1, 2)).sqrt())

    def metric_at(self, t: int) -> Any:
        """M (q, q) at step t of the final fit, of trace 1; the identity over q at t = 0."""
        check_is_fitted(self, "dual_coef_")
        if not is_whole(t) or not 0 <= t < len(self._metrics):
            raise DataError(f"Got t={t}, but expected a step from 0 to {len(self._metrics) - 1}.")
        factor = self._metrics[t]
        root = torch.eye(len(self.patch_agop_)).to(self._basis) if factor is None else factor
        square = root @ root.mT
        return self._public(square / square.trace())

    def edge_report(self, others: dict[str, Any] | None = None, *, top: int | None = None) -> EdgeReport:
        """How close the leading directions are to oriented derivatives, beside random directions and patch PCA.

        Parameters
        ----------
        others : dict of str to array (q, q), optional
            Matrices between the same patches to compare with, such as ``W^T W`` of a network's filters (k, q), or its
            patch AGOP.
        top : int, optional
            Directions; default twice the channels, the dimension of all first derivatives.

        Returns
        -------
        EdgeReport
        """
        check_is_fitted(self, "dual_coef_")
        matrices = {"ConvRFM": torch.as_tensor(self.patch_agop_), **(others or {})}
        moment = patch_moment(self.kernel_.kernel, self._basis[:PCA_IMAGES])
        return edge_report(matrices, self.image_shape_[0], patch_moment=moment, top=top)

    def to_dict(self) -> dict[str, Any]:
        """What was learned and chosen, in plain values: ready for JSON and figures.

        Returns
        -------
        dict
            ``depth``, ``channels`` and ``size`` of the images; ``iteration``, ``alpha`` and ``method`` of the choice;
            ``scores``, one entry an iterate; ``agop_se``, ``shares`` and ``directions`` of the patch AGOP (directions
            for up to four channels).
        """
        check_is_fitted(self, "dual_coef_")
        table = self.history_ if self.selection_ is None else self.selection_.table
        error = "score_se" if self.selection_ is None else "standard_error"
        return {
            "depth": self.depth,
            "channels": self.image_shape_[0],
            "size": list(self.image_shape_[1:]),
            "iteration": int(self.n_iter_),
            "alpha": float(self.alpha_),
            "method": None if self.selection_ is None else self.selection_.method,
            "scores": [
                {"iteration": entry["iteration"], "score": entry["score"], "standard_error": entry[error]}
                for entry in table
            ],
            "agop_se": float(self.patch_agop_se_),
            "shares": [float(share) for share in self.direction_shares_],
            "directions": np.asarray(self.directions_).tolist() if self.image_shape_[0] <= DRAWABLE else [],
        }

    def plot(self) -> Figure:
        """Scores of the iterates on images not seen, and the spectrum of the patch AGOP."""
        from ..plots.filters import plot_deep_conv_rfm

        return plot_deep_conv_rfm({"layers": [self.to_dict()]})

    def plot_filters(self, top: int = 8) -> Figure:
        """The leading directions as patches, beside those of patch PCA."""
        from ..plots.filters import plot_filters

        return plot_filters(self.edge_report(top=top).to_dict())

    def plot_saliency(self, X: Any, *, labels: Sequence[Any] | None = None) -> Figure:
        """Images, where the machine looks on them, and how edges and the leading direction answer."""
        from ..plots.filters import plot_saliency

        x = self._images(X, reset=False)
        leading = self.kernel_.kernel.filtered(x.to(self._basis), self._filters[:, :1])[..., 0].abs()
        maps = (x, self.saliency(x), leading, sobel_magnitude(x))
        return plot_saliency(*(torch.as_tensor(values).cpu() for values in maps), labels=labels)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.image_shape is not None or self.patch_size == 1
        tags.input_tags.three_d_array = True
        return tags


class _Progress:
    """A bar of the loop's steps, shown when asked for."""

    def __init__(self, verbose: int, steps: int) -> None:
        self.steps = steps
        self.bar: Any = None
        if verbose:
            from rich.console import Console
            from rich.progress import Progress

            self.bar = Progress(console=Console(stderr=True), transient=True)

    def __enter__(self) -> Callable[[Any], Any]:
        if self.bar is None:
            return lambda callback: callback
        self.bar.start()
        task = self.bar.add_task("Fitting", total=self.steps + 1)

        def watched(callback: Any) -> Any:
            def seen(record: dict[str, Any]) -> object:
                self.bar.update(task, completed=record["iteration"] + 1)
                return None if callback is None else callback(record)

            return seen

        return watched

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def axes_of(X: Any) -> int:
    """Axes of an array, or of what can be made one."""
    return int(X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim)


def _check_images(x: Tensor, plan: ImagePlan, rows: Tensor) -> None:
    """Refuse images that tell nothing; ``rows`` (n,) are what the user calls them."""
    warn_of_blank(x, rows)
    first = x[:1]
    same = (x == first).flatten(1).all(dim=1)
    if bool(same.all()):
        raise DataError(f"Got {len(x)} equal images, but expected different ones. Nothing can be told apart.")
    if min(plan.alphas) == 0:
        _, place, counts = torch.unique(x.flatten(1), dim=0, return_inverse=True, return_counts=True)
        if int(counts.max()) > 1:
            one, other = rows[(place == counts.argmax()).nonzero()[:2, 0].cpu()].tolist()
            raise DataError(
                f"Got alpha=0 with equal images ({one} and {other}), but expected alpha > 0 or distinct images: the "
                "kernel matrix is singular."
            )


def _symmetric(factor: Tensor | None, q: Tensor) -> Tensor:
    """The symmetric root of ``A A^T``, or of the identity."""
    if factor is None:
        return torch.eye(len(q)).to(q)
    values, vectors = torch.linalg.eigh((factor @ factor.mT).double())
    return ((vectors * values.clamp_min(0).sqrt()) @ vectors.mT).to(q)


def honest_at_identity(plan: ImagePlan, problem: ImageProblem) -> tuple[Tensor, Tensor]:
    """Images, and leave-one-out expansions at them of the machine before any metric was learned: honest there."""
    n = len(problem.x)
    rows = torch.randperm(n, generator=generator(plan.random_state, "calibration"))[:CALIBRATED]
    x, targets, weights, _ = problem.at(rows)
    recipe = plan.recipe([[max(plan.alphas[0], 1e-6)]], 0, selected=False)
    fitted = run(recipe, x, targets, weights=weights, judge=LeaveOneOut(plan.centered and len(rows) == n))
    assert fitted.honest[0] is not None
    return rows, fitted.honest[0]
