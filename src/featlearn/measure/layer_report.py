"""One layer's report from its accumulated kernel, its reference weight and its loss side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._random import generator
from ..agop.accumulate import TangentKernel, accumulation_dtype
from ..agop.layers import Layer
from ..linalg.psd import congruence, fix_signs
from ..linalg.spectrum import Spectrum
from .alignment import STATISTICS, Aligned, Alignment, align, align_at_power_one, aligned_by_definition
from .coordinates import Factors, factorise
from .lossside import WIDEST_INPUT, LossSide, fact
from .parts import AlignmentParts, alignment_parts
from .results import LayerReport

__all__ = ["Evidence", "Style", "report_layer"]

NAN = float("nan")
WIDEST_SHOWN = 1024  # side up to which F, G and K themselves are in the report
DIRECTIONS = 10
TRIVIAL = "it makes the measured outputs, so K is the identity and the ansatz holds by definition"


@dataclass(frozen=True, kw_only=True)
class Style:
    """Which correlation leads, and how much is measured.

    Without ``thorough`` there are no sampled nulls, no errors at powers other than 1 and no matrices; without
    ``spectra`` power 1 alone.
    """

    power: float
    statistic: str
    random_state: int
    thorough: bool = True
    spectra: bool = True


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
    weight, kernel = layer.weight(), evidence.kernel
    trivial, (groups, k, d) = isinstance(kernel, float), weight.shape
    inside = _in_coordinates(weight, kernel)
    factors = factorise(inside) if style.spectra else None
    powers = tuple(dict.fromkeys((float(style.power), 1.0, 0.5)))
    aligned = _align(layer, inside, factors, evidence, style, powers, STATISTICS, "nfa")
    finished = None if isinstance(kernel, float) else kernel.finalize()
    centered, energy_share, change = _centered(layer, aligned, evidence, style)
    loss = _loss_side(layer, weight, factors, evidence, style)
    coordinates = aligned.coordinates
    agop_directions, nfm_directions, overlap = _directions(aligned, factors, d)
    reason = TRIVIAL if trivial else aligned.at(style.power, style.statistic).reason
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
        **_matrices(weight, inside, kernel, finished, style),
        nfm_spectrum=Spectrum((coordinates.s**2)[coordinates.s > 0]),
        agop_spectrum=Spectrum(coordinates.lam[coordinates.s > 0]),
        tangent_spectrum=_tangent_spectrum(kernel, finished, aligned, groups * k, style),
        nfm_directions=nfm_directions,
        agop_directions=agop_directions,
        subspace_overlap=overlap,
        alignments=aligned.alignments,
        coordinates=coordinates,
        power=float(style.power),
        statistic=style.statistic,
        best_power=coordinates.best_power(),
        probe_error=aligned.probe_error,
        biased=evidence.probed and not trivial,
        centered=centered,
        energy_share=energy_share,
        parts=None if finished is None else _parts(aligned, factors, finished, evidence, change),
        derivative=loss.derivative,
        fact=loss.fact,
        fact_root=loss.fact_root,
        loss_nfa=loss.loss_nfa,
        crh=loss.crh,
        speed=None if evidence.speed is None else dict(evidence.speed),
        reason="; ".join(filter(None, [reason, *loss.reasons])) or None,
    )


def _in_coordinates(weight: Tensor, kernel: TangentKernel | float) -> Tensor:
    """The weight in the coordinates in which the kernel was accumulated."""
    if isinstance(kernel, float) or kernel.basis is None:
        return weight
    return kernel.basis.mT @ weight.to(kernel.basis)


def _align(
    layer: Layer,
    weight: Tensor,
    factors: Factors | None,
    evidence: Evidence,
    style: Style,
    powers: tuple[float, ...],
    statistics: tuple[str, ...],
    purpose: str,
) -> Aligned:
    """Correlations of ``weight`` (of its ``factors``, where spectra are wanted) with the layer's kernel."""
    kernel = evidence.kernel
    trivial = isinstance(kernel, float)
    if factors is None:
        if isinstance(kernel, float):
            return aligned_by_definition(len(weight), weight.shape[2], statistics)
        return align_at_power_one(weight, kernel, statistics=statistics, probed=evidence.probed)
    return align(
        factors,
        kernel,
        powers=powers,
        statistics=statistics,
        generator=generator(style.random_state, layer.name, purpose) if style.thorough and not trivial else None,
        probed=evidence.probed and not trivial,
        thorough=style.thorough,
    )


def _matrices(
    weight: Tensor, inside: Tensor, kernel: TangentKernel | float, finished: Tensor | None, style: Style
) -> dict[str, Tensor | None]:
    """F, G and K themselves, where they are small enough to show."""
    groups, k, d = weight.shape
    nfm = agop = tangent_kernel = None
    if style.thorough and groups * d <= WIDEST_SHOWN:
        wide = weight.to(accumulation_dtype(weight.dtype))  # half precision would round what is shown
        nfm = (wide.mT @ wide).cpu()
        agop = float(kernel) * nfm if isinstance(kernel, float) else None
        if finished is not None:
            agop = congruence(inside.to(finished), finished).cpu()
    if style.thorough and k <= WIDEST_SHOWN and not isinstance(kernel, float) and kernel.basis is None:
        tangent_kernel = None if finished is None else finished.cpu()
    return {"nfm": nfm, "agop": agop, "tangent_kernel": tangent_kernel}


def _directions(
    aligned: Aligned, factors: Factors | None, d: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Top directions (d, m) of G and F in the first group, and the overlap of the two subspaces."""
    if factors is None:
        return np.zeros((d, 0)), np.zeros((d, 0)), NAN
    m = max(1, min(DIRECTIONS, int(factors.ranks[0])))
    turns = aligned.vectors[0][:, :m]
    own = torch.eye(len(turns), m, dtype=turns.dtype, device=turns.device)
    agop, nfm = (fix_signs(factors.right(columns)).double().cpu().numpy() for columns in (turns, own))
    return agop, nfm, float((turns[:m] ** 2).sum() / m)


def _tangent_spectrum(
    kernel: TangentKernel | float, finished: Tensor | None, aligned: Aligned, outputs: int, style: Style
) -> Spectrum:
    """Eigenvalues of K; of its part in the column space of W when k is above 1024."""
    if not style.spectra:
        return Spectrum(np.zeros(0))
    if isinstance(kernel, float):
        return Spectrum(np.full(outputs, kernel))
    small = kernel.basis is None and kernel.k <= WIDEST_SHOWN
    matrix = finished if small and finished is not None else aligned.reduced
    return Spectrum(torch.linalg.eigvalsh(matrix.double()).flatten().cpu().numpy())


def _centered(
    layer: Layer, whole: Aligned, evidence: Evidence, style: Style
) -> tuple[Alignment | None, dict[str, float] | None, Aligned | None]:
    """The ansatz of ``D = W - W_0`` at power 1, how large D is, and all that D and the kernel gave."""
    if evidence.reference is None:
        return None, None, None
    change = layer.weight().to(evidence.reference) - evidence.reference
    inside = _in_coordinates(change, evidence.kernel)
    factors = factorise(inside) if style.spectra else None
    aligned = _align(layer, inside, factors, evidence, style, (1.0,), (style.statistic,), "centered")
    result = aligned.at(1.0, style.statistic)
    if not bool((change != 0).any()):
        result = replace(result, reason="its weights equal the reference's")
    shares = [a / b if b > 0 else NAN for a, b in zip(aligned.norms, whole.norms, strict=True)]
    return result, {"nfm": shares[0], "agop": shares[1]}, aligned


def _parts(
    whole: Aligned, factors: Factors | None, kernel: Tensor, evidence: Evidence, change: Aligned | None
) -> AlignmentParts:
    """The cosine at power 1, taken apart."""
    reference = None if evidence.reference is None else _in_coordinates(evidence.reference, evidence.kernel)
    return alignment_parts(whole, factors, kernel, reference, change)


def _loss_side(layer: Layer, weight: Tensor, factors: Factors | None, evidence: Evidence, style: Style) -> LossFields:
    """What the loss says of the layer; kernels of a loss are never in reduced coordinates."""
    side, statistic = evidence.side, style.statistic
    if side is None:
        return LossFields()
    gradient, moment = side.weight_gradient(layer.name), side.gradient_moment(layer.name)
    if moment is None:
        return LossFields(reasons=("no gradient of the loss reached it",))
    factors = factorise(weight) if factors is None else factors
    in_gw = align(factors, TangentKernel.of_matrix(moment), powers=(1.0,)).at(1.0, statistic)
    crh = {**side.relations(layer, statistic), "in_gw_null": in_gw.null}
    reasons = (f"in_hg and in_hw need d <= {WIDEST_INPUT}",) if weight.shape[2] > WIDEST_INPUT else ()
    if gradient is None:
        why = "its weight is made on the fly, so FACT and the derivative ansatz have no weight gradient"
        undefined = Alignment(1.0, statistic, NAN, reason=why)
        return LossFields(undefined, NAN, NAN, in_gw.value, crh, (*reasons, why))
    if not bool(gradient.any()):
        reasons = (*reasons, "the loss does not depend on it, so its loss-side measures are undefined")
    own = factorise(gradient) if style.spectra else None
    derivative = _align(layer, gradient, own, evidence, style, (1.0,), (statistic,), "derivative")
    root = align(factors, TangentKernel.of_matrix(gradient @ gradient.mT), powers=(0.5,))
    return LossFields(
        derivative.at(1.0, statistic),
        fact(weight, gradient, statistic),
        root.at(0.5, statistic).value,
        in_gw.value,
        crh,
        reasons,
    )
