"""Canonical representation relations: six correlations a layer of activations, loss gradients and weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from torch import nn

from ..agop.batches import Outputs, check_batches, parse_batch
from ..agop.finding import resolve_layers, unwrap
from ..agop.layers import Rows
from ..agop.losses import Loss
from ..agop.taps import guest
from ..exceptions import DataError
from .alignment import check_statistic
from .lossside import RELATIONS, LossSide, check_loss

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["CanonicalRelations", "canonical_relations"]

NAN = float("nan")


@dataclass(frozen=True, eq=False)
class CanonicalRelations:
    """Six correlations a layer between second moments of activations (h), of loss gradients (g), and weights (w).

    Attributes
    ----------
    layers : mapping of str to dict
        ``out_hg, out_hw, out_gw`` on the output side (k x k), ``in_hg, in_hw, in_gw`` on the input side (d x d).
    n_samples : int
    mean_loss : float
    """

    layers: Mapping[str, dict[str, float]]
    n_samples: int
    mean_loss: float

    def frame(self) -> pd.DataFrame:
        """One row a layer."""
        import pandas as pd

        return pd.DataFrame.from_dict(self.layers, orient="index", columns=list(RELATIONS)).rename_axis("layer")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "kind": "CanonicalRelations",
            "layers": {name: dict(values) for name, values in self.layers.items()},
            "n_samples": self.n_samples,
            "mean_loss": self.mean_loss,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> CanonicalRelations:
        """Inverse of :meth:`to_dict`."""
        layers = {
            name: {key: NAN if value is None else value for key, value in values.items()}
            for name, values in plain["layers"].items()
        }
        return cls(layers, plain["n_samples"], plain["mean_loss"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """The six correlations of every layer, in order of execution."""
        from ..plots.relations import plot_relations

        return plot_relations(self.to_dict(), ax=ax)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Write the table as a page."""
        from ..report.files import write_table

        write_table(self.frame(), path, title="Canonical representation relations")

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(float_format="{:.3f}".format))


def canonical_relations(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    *,
    layers: str | Rows | Sequence[str | Rows] = "auto",
    outputs: Outputs = "logits",
    normalize: bool = False,
    center: bool = False,
    statistic: str = "pearson",
) -> CanonicalRelations:
    r"""Six correlations of the canonical representation hypothesis, in every layer.

    ``out_*`` compare, in a layer's output space, :math:`H = E\,h h^\top` (without bias), :math:`G = E\,g g^\top` and
    :math:`W W^\top`; ``in_*`` compare in its input space :math:`E\,x x^\top`, :math:`E\,(W^\top g)(W^\top g)^\top` and
    :math:`W^\top W`. Expectations are means over samples and sums over positions.

    Parameters
    ----------
    model : torch.nn.Module
        Used in evaluation mode and given back exactly as it was.
    batches : iterable
        ``(inputs, targets)`` or mappings with "labels"; read once.
    loss : callable
        ``(outputs, targets) -> mean over the batch``.
    layers, outputs
        As in :func:`featlearn.measure_features`.
    normalize : bool, default False
        Scale every h, g, x and :math:`W^\top g` to unit norm first.
    center : bool, default False
        Moments about the mean over samples and positions.
    statistic : {"pearson", "cosine"}

    Returns
    -------
    CanonicalRelations

    Raises
    ------
    DataError, ModelError, UnmeasurableError
        Each says what was got, what was expected and what to do.

    Notes
    -----
    One forward and one backward pass a batch. Input-side relations with x are nan above d = 2048; convolutions unfold
    16 samples at a time.

    References
    ----------
    Canonical representation hypothesis: arXiv 2410.03006. Sides are named by where they live.
    """
    check_loss(loss)
    check_statistic(statistic)
    model = unwrap(model)
    chosen, _, _ = resolve_layers(model, layers)
    side = LossSide(model, chosen, loss, outputs, normalize=normalize, center=center)
    with guest(model):
        for i, batch in enumerate(check_batches(batches)):
            side.add(parse_batch(batch, model, i))
        if not side.n_samples:
            raise DataError("Got no batches, but expected at least one. A generator can be read only once.")
        reached = [layer for layer in chosen if side.gradient_moment(layer.name) is not None]
        found = {layer.name: side.relations(layer, statistic) for layer in reached}
    return CanonicalRelations(found, side.n_samples, side.mean_loss)
