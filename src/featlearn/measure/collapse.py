r"""Neural collapse: how far the features of a classifier have shrunk to one point a class, and to a simplex."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .._arrays import as_tensor
from ..exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["CollapseAccumulator", "NeuralCollapse", "neural_collapse"]

NAN = float("nan")
KEPT_NUMBERS = 2**26  # numbers of features held for the second pass
WIDEST = 4096  # feature dimension up to which a (p, p) second moment is held once the features are not
SLICE = 2**22  # numbers converted to float64 at once
ROUND_OFF = 1e-12  # relative size below which a difference of class means is none

_NUMBERS = ("nc1_trace", "nc1", "nc2", "nc2_orthogonal", "nc3", "ncc")


@dataclass(frozen=True, kw_only=True)
class NeuralCollapse:
    r"""Neural collapse of one set of features.

    With class means :math:`\mu_c`, their mean :math:`\mu_G`, :math:`m_c = \mu_c - \mu_G`,
    :math:`\Sigma_B = \frac{1}{C} \sum_c m_c m_c^\top` and
    :math:`\Sigma_W = \frac{1}{n} \sum_i (\phi_i - \mu_{y_i})(\phi_i - \mu_{y_i})^\top`:

    Attributes
    ----------
    nc1_trace : float
        :math:`\mathrm{tr}\,\Sigma_W / \mathrm{tr}\,\Sigma_B`; 0 when every class is one point.
    nc1 : float
        :math:`\mathrm{tr}(\Sigma_W \Sigma_B^+) / C`: the same in units of the spread between classes, direction by
        direction.
    nc2 : float
        Mean squared entry of :math:`U U^\top - E`, with rows of U the :math:`m_c` at unit length and
        :math:`E = (1 + \frac{1}{C-1}) I - \frac{1}{C-1} 1 1^\top`; 0 for a simplex.
    nc2_orthogonal : float
        The same with the :math:`\mu_c` and :math:`E = I`; 0 for orthogonal class means, the form that collapse takes
        after a ReLU.
    nc3 : float
        Mean cosine of the readout's rows with the :math:`m_c`; ``nan`` without ``weight=``.
    ncc : float
        Share of samples whose nearest class mean is that of their own class.
    n_classes, n_samples : int
    reason : str or None
        Why a number is ``nan``.
    """

    nc1_trace: float
    nc1: float
    nc2: float
    nc2_orthogonal: float
    nc3: float
    ncc: float
    n_classes: int
    n_samples: int
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> NeuralCollapse:
        """Inverse of :meth:`to_dict`; ``None`` reads as ``nan``."""
        numbers = {name: NAN if plain[name] is None else float(plain[name]) for name in _NUMBERS}
        return cls(**numbers, n_classes=plain["n_classes"], n_samples=plain["n_samples"], reason=plain.get("reason"))

    def frame(self) -> pd.DataFrame:
        """One row."""
        import pandas as pd

        return pd.DataFrame([self.to_dict()])

    def plot(self, ax: Axes | None = None) -> Axes:
        """The distances from collapse, on a logarithmic axis."""
        from ..plots.drift import plot_collapse

        return plot_collapse(self.to_dict(), ax=ax)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Write the table as a page."""
        from ..report.files import write_table

        write_table(self.frame().T.set_axis(["value"], axis=1), path, title="Neural collapse")

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(index=False, float_format="{:.3g}".format))


def neural_collapse(features: Any, labels: Any, *, weight: Any = None) -> NeuralCollapse:
    r"""Measure neural collapse: within-class scatter, the simplex of class means, and their duality with the readout.

    .. math:: \mathrm{nc1} = \frac{1}{C} \mathrm{tr}(\Sigma_W \Sigma_B^+), \qquad
              \mathrm{nc2} = \overline{(U U^\top - E)^2}, \qquad
              \mathrm{nc3} = \frac{1}{C} \sum_c \cos(w_c, m_c)

    Parameters
    ----------
    features : array or Tensor of shape (n, p)
        Inputs of the last linear layer, usually on training samples.
    labels : array or Tensor of shape (n,)
        Integer classes, any integers; at least two classes of at least two samples.
    weight : array or Tensor of shape (classes, p), optional
        The readout's weight; row c belongs to label c.

    Returns
    -------
    NeuralCollapse

    Raises
    ------
    DataError
        One class, a class with one sample, labels that are no integers, NaN, or shapes that do not fit.

    Notes
    -----
    Costs ``O(n p C)`` flops, and ``O(C p + C^2)`` memory beside the features. :math:`\Sigma_W` is a mean over all
    samples; published code that divides by ``C n`` gives values C times smaller.

    References
    ----------
    Papyan, Han, Donoho: Prevalence of neural collapse during the terminal phase of deep learning training, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> corners = np.eye(3)[[0, 0, 1, 1, 2, 2]]
    >>> result = neural_collapse(corners, [0, 0, 1, 1, 2, 2])
    >>> result.nc1, round(result.nc2, 12), result.ncc
    (0.0, 0.0, 1.0)
    """
    tensor, classes = _checked(features, labels)
    accumulator = CollapseAccumulator(keep=tensor.numel())
    size = max(1, SLICE // tensor.shape[1])
    for rows, some in zip(tensor.split(size), classes.split(size), strict=True):
        accumulator._absorb(rows, some)
    return accumulator.finalize(weight)


class CollapseAccumulator:
    r"""Streaming neural collapse: ``add(features, labels)``, ``merge(other)``, ``finalize(weight)``.

    Class means and the scatter about them are updated batch by batch (Chan's rule: the scatter about a batch's own
    means, and that between the old and the new means), so nothing cancels, however large the offset of the features.
    ``nc1`` and ``ncc`` need the final class means, hence a second look at the features.

    Parameters
    ----------
    keep : int
        Numbers of features held for that second look, in their own dtype (256 MB of float32 by default).

    Notes
    -----
    Memory: the features up to ``keep`` numbers, and ``C p`` numbers of class means. Once there are more features they
    are folded into one (p, p) matrix of float64, from which ``nc1`` still is exact; ``ncc`` is ``nan`` then, and so is
    ``nc1`` if ``p > 4096``. Which of the two depends on the number of samples only, never on their order or on free
    memory.
    """

    def __init__(self, *, keep: int = KEPT_NUMBERS) -> None:
        self.keep = keep
        self._rows_of_label: dict[int, int] = {}
        self._counts = torch.zeros(0, dtype=torch.float64)
        self._means = torch.zeros(0, 0, dtype=torch.float64)
        self._trace = 0.0  # of the scatter about class means, summed over samples
        self._kept: list[tuple[Tensor, Tensor]] | None = []
        self._scatter: Tensor | None = None

    @property
    def n_samples(self) -> int:
        """Samples added so far."""
        return int(self._counts.sum())

    def add(self, features: Any, labels: Any) -> None:
        """Add a batch of features (n, p) with integer labels (n,).

        Raises
        ------
        DataError
            Labels that are no integers, values that are not finite, or shapes that do not fit; nothing is added then.
        """
        tensor, classes = _checked(features, labels)
        self._absorb(tensor.clone(), classes)

    def _absorb(self, features: Tensor, labels: Tensor) -> None:
        self._check_width(features.shape[1])
        rows = self._index(labels.tolist())
        wide = features.double()
        counts = torch.bincount(rows, minlength=len(self._rows_of_label)).double()
        sums = torch.zeros(len(counts), wide.shape[1], dtype=torch.float64).index_add_(0, rows, wide)
        means = sums / counts.clamp_min(1)[:, None]
        residual = wide - means[rows]
        shift = self._combine(counts, means)
        self._trace += float(residual.square().sum() + shift.square().sum())
        if self._kept is not None:
            self._kept.append((features, rows))
            if self.n_samples * features.shape[1] > self.keep:
                self._scatter, self._kept = self._second_moment(), None
        elif self._scatter is not None:
            self._scatter.addmm_(residual.mT, residual).addmm_(shift.mT, shift)

    def merge(self, other: CollapseAccumulator) -> CollapseAccumulator:
        """Add what another accumulator has seen; returns self."""
        if other.n_samples == 0:
            return self
        self._check_width(other._means.shape[1])
        total = (self.n_samples + other.n_samples) * other._means.shape[1]
        keeps = self._kept is not None and other._kept is not None and total <= self.keep
        moments = None if keeps else (self._second_moment(), other._second_moment())
        rows = self._index(list(other._rows_of_label))
        counts = torch.zeros(len(self._rows_of_label), dtype=torch.float64).index_copy_(0, rows, other._counts)
        means = torch.zeros(len(counts), other._means.shape[1], dtype=torch.float64)
        shift = self._combine(counts, means.index_copy_(0, rows, other._means))
        self._trace += other._trace + float(shift.square().sum())
        if self._kept is not None and other._kept is not None and moments is None:
            self._kept += [(features, rows[classes]) for features, classes in other._kept]
        elif moments is not None:
            mine, theirs = moments
            self._scatter = None if mine is None or theirs is None else mine + theirs + shift.mT @ shift
            self._kept = None
        return self

    def _check_width(self, width: int) -> None:
        if self._means.shape[1] not in (0, width):
            raise DataError(f"Got {width} features, but expected {self._means.shape[1]} as in the batches before.")
        if len(self._means) == 0:
            self._means = torch.zeros(0, width, dtype=torch.float64)

    def _index(self, labels: list[int]) -> Tensor:
        """Rows of the class means that belong to the labels; new labels get new rows."""
        known = self._rows_of_label
        rows = torch.tensor([known.setdefault(label, len(known)) for label in labels])
        fresh = len(known) - len(self._counts)
        self._counts = torch.cat([self._counts, self._counts.new_zeros(fresh)])
        self._means = torch.cat([self._means, self._means.new_zeros(fresh, self._means.shape[1])])
        return rows

    def _combine(self, counts: Tensor, means: Tensor) -> Tensor:
        """Update counts and means; returns rows whose outer products are the scatter that the update adds."""
        total = self._counts + counts
        delta = means - self._means
        share = (counts / total.clamp_min(1))[:, None]
        shift = (self._counts[:, None] * share).sqrt() * delta
        self._means = self._means + share * delta
        self._counts = total
        return shift

    def _second_moment(self) -> Tensor | None:
        """Sum of outer products about the class means, (p, p); None when p is too large for it."""
        width = self._means.shape[1]
        if self._kept is None:
            return self._scatter
        if width > WIDEST:
            return None
        scatter = torch.zeros(width, width, dtype=torch.float64)
        for features, rows in self._kept:
            residual = features.double() - self._means[rows]
            scatter.addmm_(residual.mT, residual)
        return scatter

    # --- results ------------------------------------------------------------------------------------------------------

    def finalize(self, weight: Any = None) -> NeuralCollapse:
        """Neural collapse of everything added.

        Parameters
        ----------
        weight : array or Tensor of shape (classes, p), optional
            The readout's weight; row c belongs to label c.

        Raises
        ------
        DataError
            Nothing was added, one class, a class with one sample, or a weight that does not fit.
        """
        self._refuse_too_few()
        readout = None if weight is None else self._readout(weight)
        classes, means = len(self._means), self._means
        reasons = []
        centred = means - means.mean(dim=0)
        if centred.abs().max() <= ROUND_OFF * means.abs().max():
            centred = torch.zeros_like(centred)
            reasons.append("all class means coincide")
        between = float(centred.square().sum()) / classes
        nc1, ncc, why = self._second_pass(centred)
        reasons += [why] if why else []
        eye = torch.eye(classes, dtype=torch.float64)
        simplex = (classes * eye - 1) / (classes - 1)
        nc2 = _distance(centred, simplex, ROUND_OFF * float(means.abs().max()))
        if math.isnan(nc2) and between > 0:
            reasons.append("the mean of one class is the mean of all")
        nc3 = NAN if readout is None else float(torch.cosine_similarity(readout, centred, eps=0.0).mean())
        if readout is not None and math.isnan(nc3):
            reasons.append("nc3: a row of the weight or a centred class mean is zero")
        return NeuralCollapse(
            nc1_trace=self._trace / self.n_samples / between if between > 0 else NAN,
            nc1=nc1 if between > 0 else NAN,
            nc2=nc2,
            nc2_orthogonal=_distance(means, eye, 0.0),
            nc3=nc3,
            ncc=ncc,
            n_classes=classes,
            n_samples=self.n_samples,
            reason="; ".join(reasons) or None,
        )

    def _refuse_too_few(self) -> None:
        if self.n_samples == 0:
            raise DataError("Got no samples, but expected at least two of each of two classes.")
        if len(self._counts) < 2:
            raise DataError(f"Got one class ({next(iter(self._rows_of_label))}), but expected at least two.")
        single = [label for label, row in self._rows_of_label.items() if self._counts[row] < 2]
        if single:
            raise DataError(
                f"Got one sample of class {', '.join(map(str, sorted(single)[:5]))}, but expected at least two a "
                "class. Pass more samples, or leave the class out."
            )

    def _readout(self, weight: Any) -> Tensor:
        tensor, _ = as_tensor(weight, name="weight", dtype=torch.float64)
        labels = list(self._rows_of_label)
        if tensor.dim() != 2 or tensor.shape[1] != self._means.shape[1]:
            raise DataError(
                f"Got a weight of shape {tuple(tensor.shape)}, but expected (classes, {self._means.shape[1]})."
            )
        if min(labels) < 0 or max(labels) >= len(tensor):
            raise DataError(
                f"Got labels from {min(labels)} to {max(labels)} and a weight of {len(tensor)} rows, but expected row "
                "c to belong to label c."
            )
        return tensor.detach().cpu()[labels]

    def _second_pass(self, centred: Tensor) -> tuple[float, float, str | None]:
        """``nc1`` and ``ncc`` from the features, or from their second moment, and why one is nan."""
        _, spread, directions = torch.linalg.svd(centred, full_matrices=False)
        real = spread[: len(centred) - 1] > 1e-10 * spread[0]
        basis = (directions[: len(real)][real] / spread[: len(real)][real, None]).mT  # (p, r)
        if self._kept is None and self._scatter is None:
            return NAN, NAN, f"nc1 and ncc: {self.n_samples} samples of {len(centred.mT)} features were not kept"
        if self._kept is None:
            assert self._scatter is not None
            within = float((basis * (self._scatter @ basis)).sum())
            return within / self.n_samples, NAN, f"ncc: {self.n_samples} samples were not kept for a second pass"
        within, agreeing = 0.0, 0
        center = self._means.mean(dim=0)
        relative = self._means - center
        for features, rows in self._kept:
            wide = features.double()
            within += float(((wide - self._means[rows]) @ basis).square().sum())
            distance = relative.square().sum(dim=1) - 2 * (wide - center) @ relative.mT
            agreeing += int((distance.argmin(dim=1) == rows).sum())
        return within / self.n_samples, agreeing / self.n_samples, None


def _distance(vectors: Tensor, ideal: Tensor, floor: float) -> float:
    """Mean squared difference of the cosines of the rows from the ideal ones; nan when a row is zero."""
    norms = vectors.norm(dim=1, keepdim=True)
    if float(norms.min()) <= floor:
        return NAN
    unit = vectors / norms
    return float((unit @ unit.mT - ideal).square().mean())


def _checked(features: Any, labels: Any) -> tuple[Tensor, Tensor]:
    tensor, _ = as_tensor(features, name="features")
    if tensor.dim() != 2:
        raise DataError(f"Got features of shape {tuple(tensor.shape)}, but expected (n, p). Flatten them first.")
    classes = labels.detach().cpu() if isinstance(labels, Tensor) else np.asarray(labels)
    if isinstance(classes, np.ndarray) and classes.dtype.kind in "iub":
        classes = torch.from_numpy(classes.astype(np.int64))
    if not isinstance(classes, Tensor) or classes.is_floating_point() or classes.is_complex():
        raise DataError(f"Got labels of dtype {classes.dtype}, but expected integers. Encode the classes first.")
    if classes.shape != tensor.shape[:1]:
        raise DataError(f"Got labels of shape {tuple(classes.shape)}, but expected ({len(tensor)},), one a sample.")
    return tensor.detach().cpu(), classes.long()
