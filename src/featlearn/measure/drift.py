r"""Lazy or rich: how far weights, features and tangent kernel have moved from a reference checkpoint."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..agop.batches import Outputs
from ..agop.finding import resolve_layers, unwrap
from ..agop.layers import Rows
from ..agop.reference_model import reference_model, reference_state, twin_layers
from ..agop.samples import Samples, mean_loss, take_samples, targets_of
from ..agop.tangent_gram import tangent_gram
from ..agop.taps import guest
from ..exceptions import DataError, FeatlearnWarning
from ..linalg.similarity import double_center, matrix_correlation
from .comparison import Comparison
from .feature_change import relative, weight_changes
from .reference import reference_weights

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["KernelDrift", "LayerChange", "LazyRich", "kernel_drift", "lazy_rich"]

NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    r"""What changed in one layer ``h = W x + b`` since the reference ``h_0 = W_0 x_0 + b_0``.

    Attributes
    ----------
    weight_change : float
        :math:`\|W - W_0\|_F / \|W_0\|_F`.
    weight_change_spectral : float
        :math:`\|W - W_0\|_2`, the largest over groups; not divided by anything.
    feature_change : float
        ``rms(h - h_0) / rms(h_0)``.
    pattern_distance : float
        Share of entries of h whose sign differs: units that a ReLU after the layer would have switched.
    cka : float
        Debiased linear CKA of h and h_0: 1 for lazy, lower for rich.
    """

    weight_change: float
    weight_change_spectral: float
    feature_change: float
    pattern_distance: float
    cka: float


@dataclass(frozen=True, kw_only=True)
class LazyRich:
    """What changed since the reference, per layer and for the model.

    Attributes
    ----------
    layers : mapping of str to LayerChange
        In the order in which the layers ran.
    weight_change : float
        Of all these layers' weights together: ``sqrt(sum ||W - W_0||^2 / sum ||W_0||^2)``.
    feature_change : float
        ``rms(phi - phi_0) / rms(phi_0)`` of the last hidden features, the input of the last linear layer.
    d_lr : float
        Lazy-rich distance of the last hidden features at the model's own weights: 0 rich, 1 lazy. With Phi the
        centred features and Q an orthonormal basis of the centred outputs of the last linear layer, of rank r:
        ``1 - ||Q^T Phi||_F^2 / (sqrt(r) ||Phi^T Phi||_F)``.
    d_lr_targets : float or None
        The same with the targets in place of the outputs (needs ``labels=True``).
    n_samples : int
    reason : str or None
        Why a number is ``nan``.
    """

    layers: Mapping[str, LayerChange]
    weight_change: float
    feature_change: float
    d_lr: float
    n_samples: int
    d_lr_targets: float | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        model = {"weight_change": self.weight_change, "feature_change": self.feature_change, "d_lr": self.d_lr}
        if self.d_lr_targets is not None:
            model["d_lr_targets"] = self.d_lr_targets
        return {
            "layers": {name: asdict(change) for name, change in self.layers.items()},
            "model": model,
            "n_samples": self.n_samples,
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LazyRich:
        """Inverse of :meth:`to_dict`; ``None`` reads as ``nan``."""
        return cls(
            layers={name: LayerChange(**_floats(entry)) for name, entry in plain["layers"].items()},
            n_samples=plain["n_samples"],
            reason=plain.get("reason"),
            **_floats(plain["model"]),
        )

    def frame(self) -> pd.DataFrame:
        """One row a layer."""
        import pandas as pd

        columns = list(LayerChange.__dataclass_fields__)
        rows = {name: asdict(change) for name, change in self.layers.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("layer")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Change of weights, features and activation pattern, and CKA, layer by layer."""
        from ..plots.drift import plot_lazy_rich

        return plot_lazy_rich(self.to_dict(), ax=ax)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Write the table as a page."""
        from ..report.files import write_table

        write_table(self.frame(), path, title="Lazy or rich")

    def _repr_html_(self) -> str:
        model = "".join(f"<p>{name}: {value:.3f}</p>" for name, value in self.to_dict()["model"].items())
        return str(self.frame().to_html(float_format="{:.3f}".format)) + model


@dataclass(frozen=True, kw_only=True)
class KernelDrift:
    r"""How far the neural tangent kernel has turned since the reference.

    Attributes
    ----------
    distance : float
        :math:`1 - \langle \Theta, \Theta_0 \rangle / (\|\Theta\| \|\Theta_0\|)`: 0 for lazy training.
    distance_centered : float
        The same of the double-centred kernels.
    alignment, reference_alignment : float or None
        CKA of the kernel with :math:`Y Y^\top`, now and at the reference (need ``labels=True``).
    n_samples : int
    probes : "exact" or int
    loss, reference_loss : float or None
        Mean loss now and at the reference (need ``loss=``). A kernel that has turned far is not a good one for that:
        read the distance beside the loss.
    reason : str or None
        Why a number is ``nan``.
    """

    distance: float
    distance_centered: float
    alignment: float | None
    reference_alignment: float | None
    n_samples: int
    probes: int | str
    loss: float | None = None
    reference_loss: float | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> KernelDrift:
        """Inverse of :meth:`to_dict`; distances that are ``None`` read as ``nan``."""
        known = {name: plain[name] for name in cls.__dataclass_fields__ if name in plain}
        return cls(**(known | _floats({name: plain[name] for name in ("distance", "distance_centered")})))

    def frame(self) -> pd.DataFrame:
        """One row."""
        import pandas as pd

        return pd.DataFrame([self.to_dict()])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Distances and alignments as bars, the loss in the title."""
        from ..plots.drift import plot_kernel_drift

        return plot_kernel_drift(self.to_dict(), ax=ax)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Write the table as a page."""
        from ..report.files import write_table

        write_table(self.frame().T.set_axis(["value"], axis=1), path, title="Drift of the tangent kernel")

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(index=False, float_format="{:.3g}".format))


def _floats(plain: Mapping[str, Any]) -> dict[str, float]:
    return {name: NAN if value is None else float(value) for name, value in plain.items()}


def lazy_rich(
    model: nn.Module,
    reference: Any,
    batches: Iterable[Any],
    *,
    layers: str | Rows | Sequence[str | Rows] = "auto",
    outputs: Outputs = "logits",
    labels: bool = False,
) -> LazyRich:
    r"""Compare a model with a reference checkpoint: weights, features, activation patterns, and the last features.

    .. math:: D_{LR} = 1 - \frac{\|Q^\top \Phi\|_F^2}{\sqrt{r} \, \|\Phi^\top \Phi\|_F}

    Parameters
    ----------
    model : torch.nn.Module
        Used in evaluation mode and given back exactly as it was.
    reference : Module, state_dict or mapping of weights by parameter name
        The same architecture, usually at initialisation; every parameter is needed, since it is run too.
    batches : iterable
        Tensors, tuples ``(x, y, ...)`` or mappings; read once. CKA needs batches of at least four samples; smaller
        ones are left out of it.
    layers : "auto", names, globs or Rows
        What to compare; "auto" is every supported layer that runs.
    outputs : "logits" or callable
        ``(model, batch) -> tensor (n, ...)`` replaces the whole call.
    labels : bool
        Also compute ``d_lr_targets``: integer classes, or numbers, one row a sample.

    Returns
    -------
    LazyRich

    Raises
    ------
    DataError, ModelError, UnmeasurableError

    Notes
    -----
    Two forward passes a batch. Features are pre-activations, flattened to (n, k P) and summed over calls. Memory: one
    batch's pre-activations, a second copy of the weights, and ``p^2`` numbers for the last features; ``d_lr`` is
    ``nan`` when p > 8192.

    References
    ----------
    D_LR: arXiv 2410.04264. Debiased CKA: Nguyen, Raghu, Kornblith 2021.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    >>> with torch.no_grad():
    ...     _ = model[0].weight.mul_(1.5)
    >>> result = lazy_rich(model, start, torch.randn(64, 3).split(16))
    >>> result.layers["0"].weight_change
    0.5
    """
    model = unwrap(model)
    chosen, _, explicit = resolve_layers(model, layers)
    state = reference_state(model, reference)
    other = reference_model(model, state)
    with guest(model), guest(other):
        comparison = Comparison(model, other, chosen, outputs, labels=labels, explicit=explicit)
        comparison.read(batches)
    weights = weight_changes(comparison.layers, reference_weights(state, comparison.layers))
    changes = {
        name: LayerChange(
            weight_change=weights[name].relative,
            weight_change_spectral=weights[name].spectral,
            feature_change=change.feature_change,
            pattern_distance=change.pattern_distance,
            cka=change.similarity(),
        )
        for name, change in comparison.changes.items()
    }
    d_lr, d_lr_targets = comparison.distances()
    return LazyRich(
        layers=changes,
        weight_change=relative(sum(w.moved for w in weights.values()), sum(w.size for w in weights.values())),
        feature_change=comparison.last_feature_change,
        d_lr=d_lr,
        d_lr_targets=d_lr_targets,
        n_samples=comparison.n_samples,
        reason="; ".join(comparison.reasons) or None,
    )


def kernel_drift(
    model: nn.Module,
    reference: Any,
    batches: Iterable[Any],
    *,
    layers: str | Rows | Sequence[str | Rows] = "auto",
    outputs: Outputs = "logits",
    labels: bool = False,
    max_samples: int = 512,
    probes: int | str = "exact",
    random_state: int = 0,
    loss: Callable[[Any, Any], Tensor] | None = None,
) -> KernelDrift:
    r"""Distance of the neural tangent kernel from that of a reference checkpoint.

    .. math:: 1 - \frac{\langle \Theta, \Theta_0 \rangle}{\|\Theta\| \, \|\Theta_0\|}, \qquad
              \Theta_{ij} = \sum_c \langle \nabla f_c(x_i), \nabla f_c(x_j) \rangle

    with gradients by the weights and biases of the measured layers.

    Parameters
    ----------
    model : torch.nn.Module
        Used in evaluation mode and given back exactly as it was.
    reference : Module, state_dict or mapping of weights by parameter name
        The same architecture, usually at initialisation; every parameter is needed, since it is run too.
    batches : iterable
        Tensors, tuples ``(x, y, ...)`` or mappings; read until there are ``max_samples`` samples.
    layers : "auto", names, globs or Rows
        Whose weights count; "auto" is every supported layer that runs.
    outputs : "logits" or callable
        ``(model, batch) -> tensor (n, ...)`` replaces the whole call.
    labels : bool
        Also compare the kernels with the targets: integer classes, or numbers, one row a sample.
    max_samples : int
        The kernel has ``max_samples^2`` entries, and costs as many inner products.
    probes : "exact" or int
        One backward pass an output; or random projections of the outputs, shared by all samples.
    random_state : int
        Seed of the probes.
    loss : callable, optional
        ``(outputs, targets) -> mean over the batch``: reported beside the distance.

    Returns
    -------
    KernelDrift

    Raises
    ------
    DataError, MixingError, ModelError, UnmeasurableError

    Notes
    -----
    See :func:`featlearn.agop.tangent_gram.tangent_gram` for cost and memory, twice.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> drift = kernel_drift(model, model.state_dict(), torch.randn(20, 3).split(10))
    >>> round(abs(drift.distance), 6), drift.n_samples
    (0.0, 20)
    """
    _check_options(max_samples, probes, random_state, loss)
    model = unwrap(model)
    chosen, _, explicit = resolve_layers(model, layers)
    other = reference_model(model, reference_state(model, reference))
    twins = twin_layers(chosen, other)
    with guest(model), guest(other):
        samples = take_samples(model, batches, outputs, max_samples)
        target = _target_gram(samples) if labels else None
        grams = [
            tangent_gram(
                each, samples, some, outputs=outputs, probes=probes, random_state=random_state, explicit=explicit
            )
            for each, some in ((model, chosen), (other, twins))
        ]
        losses = [None if loss is None else mean_loss(each, samples, outputs, loss) for each in (model, other)]
    centred = [double_center(gram) for gram in grams]
    aligned = [None if target is None else matrix_correlation(gram, target.to(gram), "cosine") for gram in centred]
    distances = [1 - matrix_correlation(a, b, "cosine") for a, b in (grams, centred)]
    numbers = [*distances, *(value for value in aligned if value is not None)]
    return KernelDrift(
        distance=distances[0],
        distance_centered=distances[1],
        alignment=aligned[0],
        reference_alignment=aligned[1],
        n_samples=len(grams[0]),
        probes=probes,
        loss=losses[0],
        reference_loss=losses[1],
        reason="a kernel, or the targets, are constant" if any(map(math.isnan, numbers)) else None,
    )


def _check_options(max_samples: object, probes: object, random_state: object, loss: object) -> None:
    def whole(value: object, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    if not whole(max_samples, 2):
        raise DataError(f"Got max_samples={max_samples!r}, but expected an integer >= 2.")
    if probes != "exact" and not whole(probes, 1):
        raise DataError(f"Got probes={probes!r}, but expected 'exact' or an integer >= 1.")
    if not whole(random_state, 0):
        raise DataError(f"Got random_state={random_state!r}, but expected an integer >= 0.")
    if loss is not None and not callable(loss):
        raise DataError(f"Got loss={loss!r}, but expected a function (outputs, targets) -> mean over the batch.")


def _target_gram(samples: Samples) -> Tensor:
    """Double-centred ``Y Y^T``; classes count as one-hot rows, so equal labels give 1."""
    rows = [targets_of(batch, n, "labels=True") for batch, n in samples]
    targets = torch.cat(rows).flatten(1) if rows[0].dim() > 1 else torch.cat(rows)[:, None]
    if targets.is_floating_point():
        gram = targets.double() @ targets.double().mT
    else:
        gram = torch.zeros(len(targets), len(targets), dtype=torch.float64, device=targets.device)
        for column in targets.T:
            gram += column[:, None] == column
    centred = double_center(gram)
    if float(centred.abs().max()) <= 1e-12 * float(gram.abs().max()):
        warnings.warn("Got targets that are all equal, so alignments are nan.", FeatlearnWarning, stacklevel=3)
        return torch.zeros_like(centred)
    return centred
