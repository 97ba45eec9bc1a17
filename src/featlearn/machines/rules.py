"""What a machine repeats: published conventions by name, and the candidates that ours chooses among."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from ..exceptions import DataError
from ..kernels import GaussianKernel, Kernel, LaplaceKernel, LpqKernel, QuadraticKernel

__all__ = ["KERNELS", "RULES", "Bandwidth", "MetricRule", "Part", "Rule", "as_bandwidth", "as_rule", "parts_of"]

SHAPES = ("full", "block", "diagonal", "fixed")
NORMALIZATIONS = ("max", "trace", "frobenius", "none")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class MetricRule:
    r"""How the next metric follows from the AGOP: ``M = normalize(G^power)``.

    Parameters
    ----------
    power : float, default 1.0
        s. Larger powers forget weak directions faster.
    normalize : {"max", "trace", "frobenius", "none"}, default "max"
        Divide by the largest entry, the trace or the Frobenius norm. Matters for a constant bandwidth only.
    center : bool, default False
        Subtract each output's mean gradient first.
    points : {"auto", "all"} or int, default "auto"
        Training rows at which gradients are taken, drawn at random. "auto": all of them for one output, else
        ``max(1000, n / outputs)``, at most 20,000.
    replacement : bool, default False
        Draw them with replacement.
    """

    power: float = 1.0
    normalize: str = "max"
    center: bool = False
    points: str | int = "auto"
    replacement: bool = False

    def __post_init__(self) -> None:
        if not _is_number(self.power) or not 0 < self.power < math.inf:
            raise DataError(f"Got power={self.power!r}, but expected a positive finite number.")
        if self.normalize not in NORMALIZATIONS:
            raise DataError(f"Got normalize={self.normalize!r}, but expected one of {', '.join(NORMALIZATIONS)}.")
        points: Any = self.points
        whole = isinstance(points, int | np.integer) and not isinstance(points, bool) and points >= 1
        if points not in ("auto", "all") and not whole:
            raise DataError(f'Got points={self.points!r}, but expected "auto", "all" or a positive number of rows.')


@dataclass(frozen=True)
class Part:
    """One kernel of a machine, and what of its metric is learned.

    Parameters
    ----------
    kernel : Kernel
        Its bandwidth is set by the loop.
    shape : {"full", "block", "diagonal", "fixed"}
        Of the learned metric. "block": one block for all numeric columns and one for every categorical column.
    warp : bool
        Learn a monotone map of every column too.
    """

    kernel: Kernel
    shape: str = "full"
    warp: bool = False

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise DataError(f"Got metric={self.shape!r}, but expected one of {', '.join(SHAPES)}.")


@dataclass(frozen=True)
class Bandwidth:
    """``multiple`` times the median distance of the current rows, or a constant; neither for kernels that have none."""

    multiple: float | None = 1.0
    constant: float | None = None

    def __str__(self) -> str:
        if self.constant is None and self.multiple is None:
            return "none"
        return f"{self.constant:g}" if self.constant is not None else f"median x {self.multiple:g}"


@dataclass(frozen=True)
class Rule:
    """Everything that a user's ``None`` stands for.

    Attributes
    ----------
    kernels : tuple of str
        Names in ``KERNELS`` to choose among.
    bandwidths, alphas, powers, transforms : tuple
        Candidates.
    metric : MetricRule
        All but the power.
    max_iter : int
        AGOP steps.
    selected : bool
        Whether the iterate is chosen by its score; else it is the last.
    standardize, center : bool
        Of columns, and of targets (classes: coding "prevalence").
    prevalence : bool
        Coding of classes where ``center`` is False.
    precision : {"auto", "float64"}
    blend : int
        Most machines that are averaged.
    """

    kernels: tuple[str, ...]
    bandwidths: tuple[Bandwidth, ...]
    alphas: tuple[float, ...]
    powers: tuple[float, ...]
    metric: MetricRule
    max_iter: int
    selected: bool
    transforms: tuple[str, ...] = ("none",)
    standardize: bool = False
    center: bool = False
    prevalence: bool = False
    precision: str = "auto"
    blend: int = 1


# Laplace kernels with bandwidths of 1: the loop sets them.
_ROTATED = Part(LaplaceKernel(1.0), "full", warp=True)
_ALIGNED = Part(LaplaceKernel(1.0), "diagonal", warp=True)
_COORDINATES = Part(LpqKernel(1.0, p=1.0, q=1.0), "diagonal", warp=True)

KERNELS: dict[str, tuple[Part, ...]] = {
    "laplace": (Part(LaplaceKernel(1.0)),),
    "gaussian": (Part(GaussianKernel(1.0)),),
    "lpq": (Part(LpqKernel(1.0, p=1.0, q=1.0), "diagonal"),),
    "quadratic": (Part(QuadraticKernel()),),
    "rotated": (_ROTATED,),
    "aligned": (_ALIGNED,),
    "coordinates": (_COORDINATES,),
    "rotated+coordinates": (_ROTATED, _COORDINATES),
}

_TEN = (Bandwidth(constant=10.0),)
_DECADES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)

RULES: dict[str, Rule] = {
    "featlearn": Rule(
        kernels=("rotated+coordinates", "rotated", "aligned", "coordinates", "gaussian"),
        bandwidths=(Bandwidth(1.0),),
        alphas=_DECADES,
        powers=(1.0, 0.5),
        metric=MetricRule(),
        max_iter=5,
        selected=True,
        transforms=("none", "quantile"),
        standardize=True,
        center=True,
        prevalence=True,
        blend=3,
    ),
    "science": Rule(
        ("laplace",), _TEN, (1e-3,), (1.0,), MetricRule(1.0, "none", True, 20_000, True), 5, selected=False
    ),
    "uci": Rule(
        ("laplace",), _TEN, (10.0, 1.0, 1e-1, 1e-2, 1e-3), (1.0,), MetricRule(1.0, "none", False, 20_000, True), 5,
        selected=True,
    ),
    "pip": Rule(
        ("laplace",), (Bandwidth(constant=1.0),), (1e-3,), (1.0,), MetricRule(1.0, "max", False, 50_000), 3,
        selected=False,
    ),
    "grokking": Rule(
        ("quadratic",), (Bandwidth(constant=2.5),), (1e-9,), (0.5,), MetricRule(0.5, "none", True, "all"), 50,
        selected=False, precision="float64",
    ),
    "xrfm": Rule(
        ("laplace",), _TEN, (1e-3,), (1.0,), MetricRule(1.0, "max", False, 20_000), 5, selected=True, prevalence=True
    ),
}  # fmt: skip


def as_rule(rule: Any) -> Rule:
    """The rule of a name; a :class:`MetricRule` replaces that of "featlearn", power included."""
    if isinstance(rule, MetricRule):
        base = RULES["featlearn"]
        return Rule(**{**vars(base), "metric": rule, "powers": (rule.power,)})
    if isinstance(rule, str) and rule in RULES:
        return RULES[rule]
    raise DataError(f"Got rule={rule!r}, but expected a MetricRule or one of {', '.join(RULES)}.")


def as_bandwidth(value: Any) -> Bandwidth:
    """A float is constant, ``("median", multiple)`` a multiple of the median distance."""
    if isinstance(value, Bandwidth):
        return value
    if _is_number(value) and 0 < float(value) < math.inf:
        return Bandwidth(None, float(value))
    pair = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2 and value[0] == "median"
    if pair and _is_number(value[1]) and 0 < float(value[1]) < math.inf:
        return Bandwidth(float(value[1]))
    raise DataError(f'Got bandwidth={value!r}, but expected a positive finite number or ("median", multiple).')


def parts_of(kernel: Any, metric: str | None = None) -> dict[str, tuple[Part, ...]]:
    """Candidate machines of ``kernel=``: a name, a kernel, or a sequence of them; ``metric`` sets the shape of all."""
    if isinstance(kernel, str | Kernel):
        kernel = (kernel,)
    if not isinstance(kernel, Sequence) or not kernel:
        raise DataError(f"Got kernel={kernel!r}, but expected a name, a kernel or a sequence of them.")
    found: dict[str, tuple[Part, ...]] = {}
    for item in kernel:
        if isinstance(item, Kernel):
            shape = "full" if item.rotation_invariant else "diagonal"
            found[repr(item)] = (Part(item, shape),)
        elif isinstance(item, str) and item in KERNELS:
            found[item] = KERNELS[item]
        else:
            raise DataError(f"Got kernel={item!r}, but expected a Kernel or one of {', '.join(KERNELS)}.")
    if metric is None:
        return found
    return {name: tuple(Part(p.kernel, metric, p.warp) for p in parts) for name, parts in found.items()}
