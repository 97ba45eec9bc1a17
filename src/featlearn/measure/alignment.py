r"""Alignment of a layer's weights with its AGOP: correlation, chance level and error bar at any power."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..agop.accumulate import TangentKernel
from ..exceptions import DataError
from .coordinates import Coordinates, Factors, Weight, correlation, eigen
from .null import closed_form_null, sampled_null
from .probes import PowerOne, jackknife, student_interval

__all__ = [
    "STATISTICS",
    "Aligned",
    "Alignment",
    "align",
    "align_at_power_one",
    "aligned_by_definition",
    "alignment_from_coordinates",
    "check_power",
    "check_statistic",
]

NAN = float("nan")
STATISTICS = ("pearson", "cosine")
MOST_EIGH = 512  # rank up to which errors and nulls at powers other than 1 are worth their eigendecompositions
ISOTROPIC = "the null is 1: K is isotropic in the column space of W, so there is no excess"
CERTAIN = 1 - 1e-6  # a null above this leaves no room for an excess


@dataclass(frozen=True)
class Alignment:
    r"""One correlation of ``W^T W`` with a power of the AGOP, beside its chance level and error.

    Attributes
    ----------
    power : float
        ``a`` in :math:`\rho(F, G^a)`.
    statistic : {"pearson", "cosine"}
        Pearson over all entries of the matrices, or cosine.
    value : float
        :math:`\rho`; at power 1 without the bias of random probes.
    null, null_sd : float
        Value expected when K is turned at random inside the column space of W, and its standard deviation.
    excess : float
        ``(value - null) / (1 - null)``.
    standard_error, excess_standard_error : float
        Jackknife over blocks of batches: sampling and probe noise.
    interval : tuple of float
        95% interval of ``value`` (Student's t).
    biased : bool
        Random probes make this a plug-in value, pulled down by their noise.
    reason : str or None
        Why a field is nan.
    """

    power: float
    statistic: str
    value: float
    null: float = NAN
    null_sd: float = NAN
    standard_error: float = NAN
    interval: tuple[float, float] = (NAN, NAN)
    biased: bool = False
    reason: str | None = None

    @property
    def excess(self) -> float:
        """``(value - null) / (1 - null)``: 0 at chance, 1 at perfect alignment; nan where chance is already 1."""
        return (self.value - self.null) / (1 - self.null) if self.null <= CERTAIN else NAN

    @property
    def excess_standard_error(self) -> float:
        """``standard_error / (1 - null)``."""
        return self.standard_error / (1 - self.null) if self.null <= CERTAIN else NAN

    @property
    def verdict(self) -> str:
        """Whether ``value`` is "above" chance, "below" it or "at" it; "unknown" without an excess or an error.

        It must leave chance by more than two standard deviations of everything that could put it there: its own error,
        and the spread of the null over rotations (where that was drawn). The error alone, tiny with many samples,
        would call several layers of an untrained network above chance.
        """
        if not (math.isfinite(self.excess) and math.isfinite(self.standard_error)):
            return "unknown"
        distance = self.value - self.null
        if abs(distance) <= 2 * math.hypot(self.standard_error, self.null_sd if self.null_sd >= 0 else 0.0):
            return "at"
        return "above" if distance > 0 else "below"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "power": self.power,
            "statistic": self.statistic,
            "value": self.value,
            "null": self.null,
            "null_sd": self.null_sd,
            "excess": self.excess,
            "excess_standard_error": self.excess_standard_error,
            "verdict": self.verdict,
            "standard_error": self.standard_error,
            "interval": list(self.interval),
            "biased": self.biased,
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Alignment:
        """Inverse of :meth:`to_dict`; ``None`` (JSON has no nan) reads as nan."""
        numbers = {
            key: NAN if plain[key] is None else plain[key]
            for key in ("power", "value", "null", "null_sd", "standard_error")
        }
        low, high = (NAN if end is None else end for end in plain["interval"])
        return cls(
            statistic=plain["statistic"],
            interval=(low, high),
            biased=plain["biased"],
            reason=plain["reason"],
            **numbers,
        )


def check_statistic(statistic: object) -> None:
    """Refuse anything but "pearson" and "cosine"."""
    if statistic not in STATISTICS:
        raise DataError(f"Got statistic={statistic!r}, but expected {' or '.join(map(repr, STATISTICS))}.")


def check_power(power: object) -> None:
    """Refuse anything but a positive finite number."""
    if isinstance(power, bool) or not isinstance(power, (int, float)) or not (math.isfinite(power) and power > 0):
        raise DataError(f"Got power={power!r}, but expected a positive finite number.")


@dataclass(frozen=True, eq=False)
class Aligned:
    """What one weight and one kernel give."""

    alignments: tuple[Alignment, ...]
    coordinates: Coordinates
    vectors: Tensor  # Q, (groups, r, r)
    reduced: Tensor  # U^T K U, (groups, r, r)
    norms: tuple[float, float]  # ||F|| and ||G||, the latter without the bias of probes
    probe_error: float | None
    inner: float = NAN  # <F, G>
    weight_kernel: tuple[float, float] = (NAN, NAN)  # cos(W W^T, K) in the column space of W, and its chance level

    def at(self, power: float, statistic: str) -> Alignment:
        """The alignment at one of the powers that were asked for."""
        return next(e for e in self.alignments if e.statistic == statistic and math.isclose(e.power, power))


def align(
    factors: Factors,
    kernel: TangentKernel | float,
    *,
    powers: Sequence[float],
    statistics: Sequence[str] = STATISTICS,
    generator: torch.Generator | None = None,
    probed: bool = False,
    thorough: bool = True,
) -> Aligned:
    """All correlations of one weight with one kernel.

    Parameters
    ----------
    factors : Factors
        Of the weight, in the kernel's coordinates.
    kernel : TangentKernel or float
        Its blocks give errors, its halves the debiased values; a number stands for that multiple of the identity.
    powers : sequence of float
        Powers of the AGOP.
    generator : torch.Generator or None
        For 32 Haar rotations: standard deviation of the null, and nulls at powers other than 1. ``None``: closed
        form only.
    probed : bool
        The kernel comes from random probes.
    thorough : bool
        Errors at powers other than 1 too.

    Notes
    -----
    ``O(r^3)`` a power, times the number of blocks for its error and 32 for its null.
    """
    blocks = _reduced_blocks(factors, kernel)  # (halves, blocks, groups, r, r)
    samples, probes = ([1], [1]) if isinstance(kernel, float) else (kernel.samples.tolist(), kernel.probes)
    blocks, samples = _without_empty(blocks, samples)
    total = sum(samples) * sum(probes)
    reduced = blocks.sum(dim=(0, 1)) / total
    eps = torch.finfo(torch.float64 if isinstance(kernel, float) else kernel.sums.dtype).eps
    floor = factors.s.shape[1] * eps
    lam, c, q, vectors = eigen(reduced, factors)
    arrays = [part.double().cpu().numpy() for part in (lam, c, q, factors.s, factors.t)]
    coordinates = Coordinates(factors.d, arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], floor)
    power_one = PowerOne.of(blocks, factors.at_power_one, samples, probes, probed)
    reason = _undefined(bool((factors.s > 0).any()), bool((lam > 0).any()))
    small = factors.s.shape[1] <= MOST_EIGH
    drawn = (
        sampled_null(reduced, factors, powers, statistics, generator, floor)
        if generator is not None and small and reason is None
        else {}
    )
    entries = []
    for power in powers:
        replicas = None if power == 1 or not (small and thorough) else _replicas(blocks, samples, probes, factors)
        for statistic in statistics:
            null, null_sd = drawn.get((power, statistic), (NAN, NAN))
            entry = Alignment(float(power), statistic, NAN, null, null_sd, biased=probed, reason=reason)
            if reason is None and power == 1:
                entry = _at_power_one(entry, factors.at_power_one, power_one)
            elif reason is None:
                entry = _at_other_power(entry, factors, coordinates, replicas)
            entries.append(entry)
    error = power_one.probe_error if probed else None
    return Aligned(
        tuple(entries),
        coordinates,
        vectors,
        reduced,
        power_one.norms,
        error,
        inner=float(power_one.inner[0]),
        weight_kernel=power_one.weight_kernel(factors.at_power_one),
    )


def align_at_power_one(
    weight: Tensor, kernel: TangentKernel, *, statistics: Sequence[str] = STATISTICS, probed: bool = False
) -> Aligned:
    """Power 1 alone, from ``M = W W^T`` and K as they are: a few matrix products, no eigendecomposition.

    Parameters
    ----------
    weight : Tensor of shape (groups, k, d)
        In the kernel's coordinates.

    Returns
    -------
    Aligned
        With empty coordinates. The null is nan where the rank of W cannot be told from a Cholesky factor.
    """
    blocks, samples = _without_empty(kernel.sums, kernel.samples.tolist())
    weight = weight.to(blocks)
    # Scales drop out of correlations, and float32 holds no fourth powers of a first step's weight change.
    of_weight, of_kernel = _scale(weight), _scale(blocks.diagonal(dim1=-2, dim2=-1))  # K >= 0: no entry is larger
    reason = _undefined(of_weight > 0, of_kernel > 0)
    of_weight, of_kernel = of_weight or 1.0, of_kernel or 1.0
    weight, blocks = weight / of_weight, blocks / of_kernel
    alive = weight.any(-1)
    # A row of zeros is outside the column space of W, whatever gradient its bias has.
    if bool(alive.any()) and not bool(alive.all()):
        kept = alive.any(0)  # in some group
        weight, alive = weight[:, kept], alive[:, kept]
        blocks = blocks[..., kept, :][..., kept] * (alive.unsqueeze(-1) & alive.unsqueeze(-2))
    if weight.shape[2] < weight.shape[1]:
        basis, weight = torch.linalg.qr(weight)
        blocks = basis.mT @ blocks @ basis
    dense = Weight.dense(weight)
    power_one = PowerOne.of(blocks, dense, samples, kernel.probes, probed)
    entries = [
        Alignment(1.0, statistic, NAN, reason=reason)
        if reason is not None
        else _at_power_one(Alignment(1.0, statistic, NAN), dense, power_one)
        for statistic in statistics
    ]
    empty, nothing = weight.new_zeros(len(weight), 0, 0), Coordinates.empty(len(weight), weight.shape[2])
    error = power_one.probe_error if probed else None
    square = of_weight * of_weight
    norms = power_one.norms[0] * square, power_one.norms[1] * square * of_kernel
    inner = float(power_one.inner[0]) * square * square * of_kernel
    own = power_one.weight_kernel(dense)
    return Aligned(tuple(entries), nothing, empty, empty, norms, error, inner=inner, weight_kernel=own)


def _scale(tensor: Tensor) -> float:
    """Largest magnitude."""
    low, high = tensor.aminmax()
    return max(-float(low), float(high))


def aligned_by_definition(groups: int, d: int, statistics: Sequence[str] = STATISTICS) -> Aligned:
    """Power 1 where K is the identity: G is F."""
    entries = tuple(Alignment(1.0, statistic, 1.0, null=1.0, reason=ISOTROPIC) for statistic in statistics)
    empty = torch.empty(groups, 0, 0)
    return Aligned(entries, Coordinates.empty(groups, d), empty, empty, (NAN, NAN), None)


def _at_power_one(entry: Alignment, weight: Weight, power_one: PowerOne) -> Alignment:
    """Value, null and error at power 1."""
    values = power_one.values(weight.size, entry.statistic)  # the whole, then without each block
    null = NAN
    if bool((weight.ranks >= 0).all()):
        null = closed_form_null(weight, *power_one.kernel_traces, entry.statistic)
    entry = _with_error(replace(entry, null=null, biased=power_one.biased), float(values[0]), values[1:])
    if power_one.says_nothing(entry.value, weight.size, entry.statistic):
        nothing = replace(entry, value=NAN, standard_error=NAN, interval=(NAN, NAN))
        return replace(nothing, reason="too few samples or probes: the AGOP's norm cannot be told from their noise")
    return _explained(entry, weight.ranks)


def _at_other_power(
    entry: Alignment, factors: Factors, coordinates: Coordinates, replicas: tuple[Tensor, Tensor, Tensor] | None
) -> Alignment:
    """Value and error at a power other than 1."""
    power, statistic = entry.power, entry.statistic
    left_out = torch.empty(0)
    if replicas is not None:
        left_out = correlation(*replicas, factors.s, factors.t, factors.d, power, statistic, coordinates.floor)
    entry = _with_error(entry, coordinates.correlation(power, statistic), left_out)
    return _explained(entry, factors.ranks)


def _with_error(entry: Alignment, value: float, left_out: Tensor) -> Alignment:
    error = jackknife(left_out)
    return replace(entry, value=value, standard_error=error, interval=student_interval(value, error, len(left_out)))


def _explained(entry: Alignment, ranks: Tensor) -> Alignment:
    """The alignment with a reason for what is nan, and without a null where there is nothing to turn."""
    if bool((ranks == 1).all()) and entry.null <= CERTAIN:  # several groups: chance and alignment are the same number
        entry = replace(entry, null=NAN, null_sd=NAN)
    return replace(entry, reason=_why(entry, ranks))


def _why(entry: Alignment, ranks: Tensor) -> str | None:
    """Why a field of the alignment is nan, the most important first."""
    if math.isnan(entry.value):
        return "its matrices have no variance, so no Pearson correlation exists"
    if bool((ranks == 1).all()):
        return "one effective direction (r = 1): the null equals the value, so there is no excess"
    if entry.null > CERTAIN:
        return ISOTROPIC
    if math.isnan(entry.null):
        return (
            "no null: the rank of the weight was not measured"
            if entry.power == 1
            else f"no null at power {entry.power:g}: it takes Haar draws, which were not made here"
        )
    if math.isnan(entry.standard_error):
        return "no standard error: it needs more batches"
    return None


def _undefined(weight: bool, agop: bool) -> str | None:
    """Why no correlation exists, unless the weight and the AGOP both differ from zero."""
    if not weight:
        return "its weights are zero"
    return None if agop else "its AGOP is zero: the outputs do not change with its input"


def _reduced_blocks(factors: Factors, kernel: TangentKernel | float) -> Tensor:
    """``U^T K_b U`` of every half and block, (halves, blocks, groups, r, r), unnormalised."""
    if isinstance(kernel, float):
        return kernel * torch.diag_embed((factors.s > 0).to(factors.s))[None, None]
    left = factors.left.to(kernel.sums.device)
    rows = [[left.mT @ block.to(left) @ left for block in half] for half in kernel.sums]
    return torch.stack([torch.stack(half) for half in rows])


def _without_empty(blocks: Tensor, samples: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Leave out blocks that no batch fell into (or whose batch was interrupted)."""
    kept = [b for b, n in enumerate(samples) if n > 0]
    if len(kept) == len(samples):
        return blocks, list(samples)
    return blocks[:, kept], [samples[b] for b in kept]


def _replicas(
    blocks: Tensor, samples: Sequence[int], probes: Sequence[int], factors: Factors
) -> tuple[Tensor, Tensor, Tensor]:
    """Eigencoordinates without each block in turn, (blocks, groups, r)."""
    if len(samples) < 2:
        empty = factors.s.new_zeros(0, *factors.s.shape)
        return empty, empty, empty
    pooled = blocks.sum(dim=0)
    counts = torch.tensor([sum(samples) - n for n in samples], dtype=pooled.dtype, device=pooled.device)
    left_out = (pooled.sum(dim=0) - pooled) / (counts * sum(probes)).reshape(-1, 1, 1, 1)
    lam, c, q, _ = eigen(left_out, factors)
    return lam, c, q


def alignment_from_coordinates(
    coordinates: Coordinates, power: float, statistic: str, *, biased: bool = False
) -> Alignment:
    """The correlation alone, at any power, from the stored coordinates: no null, no error."""
    check_statistic(statistic)
    check_power(power)
    value = coordinates.correlation(power, statistic)
    reason = "null and error were measured at other powers only"
    if not coordinates.lam.size:
        reason = "only power 1 was measured"
    return Alignment(float(power), statistic, value, biased=biased, reason=reason)
