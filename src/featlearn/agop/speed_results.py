"""What feature speed returns: one frozen record a layer, one result an update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from .speed_pass import LayerSums

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FeatureSpeed", "LayerSpeed", "layer_speed"]

NAN = float("nan")

# Relative to the whole loss decay.
CUT_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class LayerSpeed:
    r"""Speed of one layer's output ``f`` (the pre-activation) under one update. Undefined values are nan.

    Attributes
    ----------
    name, kind : str
        Layer and its type.
    size, calls : int
        Numbers in ``f`` over the whole batch, and times the layer ran.
    feature_rms, feature_change_rms, relative_change : float
        ``rms(f)``, ``rms(df)`` and their ratio.
    backward_norm : float
        ``||b||``, the norm of the loss gradient at the layer's output.
    loss_decay, loss_decay_share : float
        ``S = -<b, df>``, the first-order decrease of the loss through this layer's output, and its share of the whole;
        negative where the update raises the loss.
    own_decay : float
        ``-<g, dw>`` of the layer's own parameters, and of parameters outside of layers (norm gains, free vectors) that
        are first used after this layer and before the next one. A tied parameter counts in every layer that holds it.
    cos_theta : float
        Backward-feature angle, ``S / (||b|| ||df||)``.
    sensitivity : float
        ``rms(df) / S``: change of the features per unit of loss decay.
    is_cut : bool
        Whether S equals the ``-<g, dw>`` of all parameters used up to this layer's output (to 1e-3 of the whole
        decay), as it does when every path from them to the loss passes through ``f``: not inside a residual branch.
    finite_ratio : float or None
        ``||f(w + dw) - f(w)|| / ||df||``: 1 in the linear regime.
    reason : str or None
        Why a value is nan.
    """

    name: str
    kind: str
    size: int
    calls: int
    feature_rms: float
    feature_change_rms: float
    relative_change: float
    backward_norm: float
    loss_decay: float
    loss_decay_share: float
    own_decay: float
    cos_theta: float
    sensitivity: float
    is_cut: bool
    finite_ratio: float | None = None
    reason: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureSpeed:
    """Speed of every layer's features under one update, in the order in which the layers ran.

    Attributes
    ----------
    layers : mapping of str to LayerSpeed
        One record a layer.
    skipped : mapping of str to str
        Layers that were not measured, each with the reason.
    loss, total_decay, output_decay : float
        Mean loss; its predicted decrease ``-<g, dw>`` over all parameters; the same found at the model's outputs.
    update, method, mode : str
        What moved the parameters, how ``df`` was found, and in which mode the model ran.
    """

    layers: Mapping[str, LayerSpeed]
    skipped: Mapping[str, str]
    loss: float
    total_decay: float
    output_decay: float
    update: str
    method: str
    mode: str

    @property
    def check(self) -> float:
        """``|S_out - S_total| / |S_total|``, round-off if every parameter's effect was seen."""
        return abs(self.output_decay - self.total_decay) / abs(self.total_decay) if self.total_decay else NAN

    def __getitem__(self, name: str) -> LayerSpeed:
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def frame(self) -> pd.DataFrame:
        """One row a layer, indexed by name."""
        import pandas as pd

        return pd.DataFrame([asdict(layer) for layer in self.layers.values()]).set_index("name")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dictionaries (JSON-ready once ``nan`` is allowed or replaced)."""
        return {
            "kind": "FeatureSpeed",
            "schema": 1,
            "layers": {name: asdict(layer) for name, layer in self.layers.items()},
            "skipped": dict(self.skipped),
            "loss": self.loss,
            "total_decay": self.total_decay,
            "output_decay": self.output_decay,
            "check": self.check,
            "update": self.update,
            "method": self.method,
            "mode": self.mode,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FeatureSpeed:
        """Inverse of :meth:`to_dict`."""
        values = {key: value for key, value in plain.items() if key not in ("kind", "schema", "check", "layers")}
        return cls(layers={name: LayerSpeed(**layer) for name, layer in plain["layers"].items()}, **values)

    def plot(self, ax: Any = None, *, theory: Sequence[float] | None = None) -> Any:
        """Cosine of the angle, share of the loss decay and sensitivity against depth.

        Parameters
        ----------
        ax : Axes or three Axes, optional
            Where to draw; one Axes gets the cosine alone. By default a new figure.
        theory : sequence of float, optional
            Cosines expected, one a layer and nan where there is none, drawn dashed: see :func:`bfa_theory`.

        Returns
        -------
        list of Axes
        """
        from ..plots.speed import plot_speed

        return plot_speed(self.to_dict(), ax, theory=theory)

    def _repr_html_(self) -> str:
        columns = ("relative_change", "loss_decay_share", "cos_theta", "sensitivity", "is_cut", "finite_ratio")
        shown = self.frame()[list(columns)].dropna(axis="columns", how="all")
        caption = f"Update: {self.update}. Loss {self.loss:.4g}, predicted decrease {self.total_decay:.3g}."
        return f"<p>{escape(caption)}</p>{shown.to_html(float_format=lambda value: format(value, '.3g'))}"


def layer_speed(sums: LayerSums, total: float) -> LayerSpeed:
    """The record of one layer, given the predicted loss decay of the whole update."""
    backward, change = math.sqrt(sums.backward), math.sqrt(sums.change)
    root = math.sqrt(sums.size)
    reasons = []
    if backward == 0:
        reasons.append("no loss gradient reaches its output")
    if change == 0:
        reasons.append("the update does not move its output")
    if math.isnan(change) or (sums.finite is not None and math.isnan(sums.finite)):
        reasons.append("other rows ran through it after the step, or they overflowed")
    if total == 0:
        reasons.append("the update does not change the loss to first order")
    if math.isnan(sums.own):
        reasons.append("its weight is computed from other parameters, so its rows own none")
    return LayerSpeed(
        name=sums.layer.name,
        kind=sums.layer.rule.kind,
        size=sums.size,
        calls=sums.calls,
        feature_rms=_ratio(math.sqrt(sums.features), root),
        feature_change_rms=_ratio(change, root),
        relative_change=_ratio(change, math.sqrt(sums.features)),
        backward_norm=backward,
        loss_decay=sums.decay,
        loss_decay_share=_ratio(sums.decay, total),
        own_decay=sums.own,
        cos_theta=_ratio(sums.decay, backward * change),
        sensitivity=_ratio(_ratio(change, root), sums.decay),
        is_cut=bool(total) and abs(sums.decay - sums.before) <= CUT_TOLERANCE * abs(total),
        finite_ratio=None if sums.finite is None else _ratio(math.sqrt(sums.finite), change),
        reason="; ".join(reasons) or None,
    )


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else NAN
