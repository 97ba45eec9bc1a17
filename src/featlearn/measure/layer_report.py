"""One layer's report from its accumulated kernel, its reference weight and its loss side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._random import generator
from ..agop.accumulate import TangentKernel
from ..agop.layers import Layer
from ..linalg.psd import fix_signs
from ..linalg.spectrum import Spectrum
from .alignment import STATISTICS, Aligned, Alignment, align
from .coordinates import Factors, factorise
from .lossside import WIDEST_INPUT, LossSide, fact
from .results import LayerReport

__all__ = ["Evidence", "Style", "report_layer"]

NAN = float("nan")
WIDEST_SHOWN = 1024  # side up to which F, G and K themselves are in the report
DIRECTIONS = 10
TRIVIAL = "it makes the measured outputs, so K is the identity and the ansatz holds by definition"


@dataclass(frozen=True, kw_only=True)
class Style:
    """Which correlation leads; without ``thorough``, no sampled nulls, no errors at other powers, no matrices."""

    power: float
    statistic: str
    random_state: int
    thorough: bool


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the data said of one layer."""

    kernel: TangentKernel | float
    positions: float
    calls: int
    n_samples: int
    probed: bool
    reference: Tensor | None
    side: LossSide | None
    speed: Mapping[str, float | bool] | None


@dataclass(frozen=True)
class LossFields:
    """Loss-side fields of one layer, and reasons for what is nan among them."""

    derivative: Alignment | None = None
    fact: float | None = None
    fact_root: float | None = None
    loss_nfa: float | None = None
    crh: dict[str, float] | None = None
    reasons: tuple[str, ...] = ()


def report_layer(layer: Layer, evidence: Evidence, style: Style) -> LayerReport:
    """Everything the report says of one layer."""
    weight = layer.weight()
    kernel, trivial = evidence.kernel, isinstance(evidence.kernel, float)
    factors = factorise(_in_coordinates(weight, kernel))
    powers = tuple(dict.fromkeys((float(style.power), 1.0, 0.5)))
    aligned = _align(layer, factors, evidence, style, powers, STATISTICS, "nfa")
    chosen = aligned.at(style.power, style.statistic)
    agop_directions, nfm_directions, overlap = _directions(aligned, factors)
    centered, energy_share = _centered(layer, aligned, evidence, style)
    loss = _loss_side(layer, factors, evidence, style)
    finished = None if isinstance(kernel, float) else kernel.finalize()
    shown, (groups, k, d) = style.thorough, weight.shape
    return LayerReport(
        name=layer.name,
        kind=layer.rule.kind,
        k=k,
        d=d,
        groups=groups,
        positions=evidence.positions,
        calls=evidence.calls,
        shared_with=layer.shared_with,
        patch_shape=layer.rule.patch_shape(layer.module),
        trivial=trivial,
        n_samples=evidence.n_samples,
        nfm=(weight.mT @ weight).cpu() if shown and groups * d <= WIDEST_SHOWN else None,
        agop=_agop(weight, kernel, finished).cpu() if shown and groups * d <= WIDEST_SHOWN else None,
        tangent_kernel=finished.cpu()
        if shown and finished is not None and _full(kernel) and k <= WIDEST_SHOWN
        else None,
        nfm_spectrum=Spectrum((aligned.coordinates.s**2)[aligned.coordinates.s > 0]),
        agop_spectrum=Spectrum(aligned.coordinates.lam[aligned.coordinates.s > 0]),
        tangent_spectrum=_tangent_spectrum(kernel, finished, aligned, groups * k),
        nfm_directions=nfm_directions,
        agop_directions=agop_directions,
        subspace_overlap=overlap,
        alignments=aligned.alignments,
        coordinates=aligned.coordinates,
        power=float(style.power),
        statistic=style.statistic,
        best_power=aligned.coordinates.best_power(),
        probe_error=aligned.probe_error,
        biased=evidence.probed and not trivial,
        centered=centered,
        energy_share=energy_share,
        derivative=loss.derivative,
        fact=loss.fact,
        fact_root=loss.fact_root,
        loss_nfa=loss.loss_nfa,
        crh=loss.crh,
        speed=None if evidence.speed is None else dict(evidence.speed),
        reason="; ".join([TRIVIAL if trivial else chosen.reason or "", *loss.reasons]).strip("; ") or None,
    )


def _in_coordinates(weight: Tensor, kernel: TangentKernel | float) -> Tensor:
    """The weight in the coordinates in which the kernel was accumulated."""
    if isinstance(kernel, float) or kernel.basis is None:
        return weight
    return kernel.basis.mT @ weight.to(kernel.basis)


def _full(kernel: TangentKernel | float) -> bool:
    return not isinstance(kernel, float) and kernel.basis is None


def _align(
    layer: Layer,
    factors: Factors,
    evidence: Evidence,
    style: Style,
    powers: tuple[float, ...],
    statistics: tuple[str, ...],
    purpose: str,
) -> Aligned:
    trivial = isinstance(evidence.kernel, float)
    return align(
        factors,
        evidence.kernel,
        powers=powers,
        statistics=statistics,
        generator=generator(style.random_state, layer.name, purpose) if style.thorough and not trivial else None,
        probed=evidence.probed and not trivial,
        thorough=style.thorough,
    )


def _agop(weight: Tensor, kernel: TangentKernel | float, finished: Tensor | None) -> Tensor:
    if isinstance(kernel, float) or finished is None:
        return float(kernel) * (weight.mT @ weight) if isinstance(kernel, float) else weight.new_zeros(0)
    inside = _in_coordinates(weight, kernel).to(finished)
    return inside.mT @ finished @ inside


def _directions(aligned: Aligned, factors: Factors) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Top directions (d, m) of G and F in the first group, and the overlap of the two subspaces."""
    m = max(1, min(DIRECTIONS, int(factors.ranks[0])))
    turns = aligned.vectors[0][:, :m]
    own = torch.eye(len(turns), m, dtype=turns.dtype, device=turns.device)
    agop, nfm = (fix_signs(factors.right(columns)).double().cpu().numpy() for columns in (turns, own))
    return agop, nfm, float((turns[:m] ** 2).sum() / m)


def _tangent_spectrum(
    kernel: TangentKernel | float, finished: Tensor | None, aligned: Aligned, outputs: int
) -> Spectrum:
    """Eigenvalues of K; of its part in the column space of W when k is above 1024."""
    if isinstance(kernel, float):
        return Spectrum(np.full(outputs, kernel))
    small = _full(kernel) and kernel.k <= WIDEST_SHOWN
    matrix = finished if small and finished is not None else aligned.reduced
    return Spectrum(torch.linalg.eigvalsh(matrix.double()).flatten().cpu().numpy())


def _centered(
    layer: Layer, whole: Aligned, evidence: Evidence, style: Style
) -> tuple[Alignment | None, dict[str, float] | None]:
    """The ansatz of ``D = W - W_0`` at power 1, and how large D is."""
    if evidence.reference is None:
        return None, None
    change = layer.weight().to(evidence.reference) - evidence.reference
    factors = factorise(_in_coordinates(change, evidence.kernel))
    aligned = _align(layer, factors, evidence, style, (1.0,), (style.statistic,), "centered")
    result = aligned.at(1.0, style.statistic)
    if not bool((change != 0).any()):
        result = replace(result, reason="its weights equal the reference's")
    mine, all_of_it = aligned.coordinates, whole.coordinates
    norms = ("nfm", mine.s**2, all_of_it.s**2), ("agop", mine.lam, all_of_it.lam)
    share = {key: _ratio(np.linalg.norm(a), np.linalg.norm(b)) for key, a, b in norms}
    return result, share


def _ratio(a: np.floating, b: np.floating) -> float:
    return float(a / b) if b > 0 else NAN


def _loss_side(layer: Layer, factors: Factors, evidence: Evidence, style: Style) -> LossFields:
    """What the loss says of the layer; kernels of a loss are never in reduced coordinates."""
    side, statistic = evidence.side, style.statistic
    if side is None:
        return LossFields()
    gradient, moment = side.weight_gradient(layer.name), side.gradient_moment(layer.name)
    if moment is None:
        return LossFields(reasons=("no gradient of the loss reached it",))
    in_gw = align(factors, TangentKernel.of_matrix(moment), powers=(1.0,)).at(1.0, statistic)
    crh = {**side.relations(layer, statistic), "in_gw_null": in_gw.null}
    reasons = (f"in_hg and in_hw need d <= {WIDEST_INPUT}",) if layer.weight().shape[2] > WIDEST_INPUT else ()
    if gradient is None:
        why = "its weight is made on the fly, so FACT and the derivative ansatz have no weight gradient"
        undefined = Alignment(1.0, statistic, NAN, reason=why)
        return LossFields(undefined, NAN, NAN, in_gw.value, crh, (*reasons, why))
    derivative = _align(layer, factorise(gradient), evidence, style, (1.0,), (statistic,), "derivative")
    root = align(factors, TangentKernel.of_matrix(gradient @ gradient.mT), powers=(0.5,))
    return LossFields(
        derivative.at(1.0, statistic),
        fact(layer.weight(), gradient, statistic),
        root.at(0.5, statistic).value,
        in_gw.value,
        crh,
        reasons,
    )
