r"""What three parametrisations of ReLU networks prescribe, and the sensitivity of the last features that follows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..agop.feature_speed import bfa_theory
from ..exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LayerScale", "ScalingRule", "bfa_theory", "scaling_rule"]


@dataclass(frozen=True, kw_only=True)
class LayerScale:
    """Standard deviation of the initial weights of a layer, and its rate for gradient descent."""

    std: float
    rate: float


@dataclass(frozen=True, kw_only=True)
class ScalingRule:
    """Scales of one parametrisation at one depth and width.

    Attributes
    ----------
    rule : str
        "ntk", "mup" or "fsc".
    input, hidden, readout : LayerScale
        Of the first layer, of those between, and of the last one.
    sensitivity : float
        Expected ``rms(df) / S`` of the last hidden layer: change of its output a unit of loss decay.
    """

    rule: str
    depth: int
    width: int
    input: LayerScale
    hidden: LayerScale
    readout: LayerScale
    sensitivity: float

    def layers(self) -> list[LayerScale]:
        """One entry a layer, in order."""
        return [self.input, *[self.hidden] * (self.depth - 2), self.readout]

    def frame(self) -> pd.DataFrame:
        """Three rows: input, hidden, readout."""
        import pandas as pd

        rows = {role: asdict(getattr(self, role)) for role in ("input", "hidden", "readout")}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(float_format=lambda value: format(value, ".3g")))


def scaling_rule(rule: Literal["ntk", "mup", "fsc"], depth: int, width: int, inputs: int) -> ScalingRule:
    r"""Initial scales and rates of a ReLU network of L weight layers, width m and d inputs, in closed form.

    ====== ==================== ==================== ================= ================
    rule   readout std          input rate           hidden rate       readout rate
    ====== ==================== ==================== ================= ================
    ntk    :math:`m^{-1/2}`     :math:`1/(Ld)`       :math:`1/(Lm)`    :math:`1/(Lm)`
    mup    :math:`1/m`          :math:`m/(Ld)`       :math:`1/L`       :math:`1/(Lm)`
    fsc    :math:`L^{1/2}/m`    :math:`m/(L^2d)`     :math:`1/L^2`     :math:`1/(Lm)`
    ====== ==================== ==================== ================= ================

    Input weights have a standard deviation of :math:`d^{-1/2}`, hidden ones of :math:`(2/m)^{1/2}`, in each rule.
    Rates are for gradient descent, up to one common factor for all layers. In each rule every layer contributes the
    same to the decay of the loss, which does not depend on L and m; the rules differ in how far features move for it.

    Parameters
    ----------
    rule : {"ntk", "mup", "fsc"}
        Neural tangent, maximal update (mean field), feature-speed corrected.
    depth : int
        Weight layers L, at least 2.
    width, inputs : int
        m and d, for inputs of unit rms. The number of outputs is taken to be of order 1.

    Returns
    -------
    ScalingRule

    Raises
    ------
    DataError
        Unknown rule or a size out of range.

    Notes
    -----
    The sensitivity of the last features is :math:`\sqrt{4L/(3m)}` (ntk), :math:`\sqrt{4L/3}` (mup) and
    :math:`\sqrt{4/3}` (fsc). Entries and sensitivities are derived here for one sample, one output and large widths,
    and agree with simulation; that arXiv 2311.18718 tabulates such rules is all that is taken from it. At fixed depth
    mup and fsc are the same rule up to constants. For other architectures
    :func:`featlearn.rescale_init` and :func:`featlearn.feature_speed_groups` measure what is written here.

    Examples
    --------
    >>> scaling_rule("fsc", depth=4, width=256, inputs=32).hidden.rate
    0.0625
    """
    powers = {"ntk": (0.5, 0.0), "mup": (1.0, 0.0), "fsc": (1.0, 0.5)}
    if rule not in powers:
        raise DataError(f"Got rule={rule!r}, but expected 'ntk', 'mup' or 'fsc'.")
    for name, value, least in (("depth", depth, 2), ("width", width, 1), ("inputs", inputs, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DataError(f"Got {name}={value!r}, but expected an integer of at least {least}.")
    narrow, deep = powers[rule]
    readout = depth**deep * width**-narrow
    # A hidden layer's squared gradient is m readout^2, that of its output, times m, the squared size of its input.
    hidden = 1 / (depth * (readout * width) ** 2)
    return ScalingRule(
        rule=rule,
        depth=depth,
        width=width,
        input=LayerScale(std=inputs**-0.5, rate=hidden * width / inputs),
        hidden=LayerScale(std=math.sqrt(2 / width), rate=hidden),
        readout=LayerScale(std=readout, rate=1 / (depth * width)),
        sensitivity=math.sqrt(4 / 3) * depth ** (0.5 - deep) * width ** (narrow - 1),
    )
