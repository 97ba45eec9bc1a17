"""Evidence from snapshots of a run, each measure with what it means and what it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .diagnose_results import Diagnosis, Evidence
from .mechanism_results import LayerMechanisms
from .run_measures import Snapshot, UnitBalance
from .verdict import DRIFTED, LAZY, advice_for, kind_of, regime_of

__all__ = ["conclude", "hyperbola_residual"]

FEWEST = 4  # snapshots that a curve of two constants needs to be tested
KERNEL_CAVEAT = "depends on the inputs and on the outputs before any softmax; thresholds come from one family of toys"
NORM_CAVEAT = "weights that a normalisation layer follows may move without any effect"
BALANCE_CAVEAT = "of gradient flow, at the given rates of the layers, in positively homogeneous networks"


def conclude(
    snapshots: Sequence[Snapshot],
    start: Sequence[UnitBalance | None],
    pairs: Sequence[str],
    mechanisms: LayerMechanisms | None,
    flags: Sequence[str],
    *,
    first_weight: str | None,
    n_samples: int,
    hamming_of: str = "activations",
) -> Diagnosis:
    """The verdict on the last snapshot.

    Parameters
    ----------
    snapshots : sequence of Snapshot
        In order of steps.
    start : sequence of UnitBalance or None
        Of every pair, at the start.
    pairs : sequence of str
        Their names.
    mechanisms : LayerMechanisms or None
    flags : sequence of str
    first_weight : str or None
        The parameter of the first layer.
    n_samples : int
    hamming_of : str
        What the signs are those of.
    """
    last = snapshots[-1]
    evidence = {
        **_kernel(last),
        "hamming": _hamming(last, hamming_of),
        "weights_moved": Evidence(
            value=max(last.moved.values(), default=math.nan),
            meaning="largest ||W - W_0|| / ||W_0|| over the weights",
            caveat=NORM_CAVEAT,
            parts=last.moved,
        ),
        **_balance(last, start, pairs),
        **_hyperbola(snapshots),
    }
    distance, drift = evidence["kernel_distance"].value, evidence["balance_drift"].value
    regime = regime_of(distance, evidence["hamming"].value)
    kind = kind_of(regime, evidence["balance_start"].value)
    found = list(flags)
    if last.moved and not any(last.moved.values()):
        found.insert(0, "all weights are those of the start: nothing was trained, or both are one checkpoint")
    if drift > DRIFTED:
        found.append(f"the balance of the units drifted by {drift:.2g}: the flow picture is approximate")
    moved = first_weight is not None and last.moved.get(first_weight, 0.0) > 1 and distance < LAZY
    if moved:
        found.append("the first layer's weights move, the kernel does not")
    return Diagnosis(
        regime=regime,
        kind=kind,
        evidence=evidence,
        mechanisms=mechanisms,
        flags=tuple(found),
        advice=advice_for(regime, kind, moved),
        history=tuple(snapshot.row() for snapshot in snapshots),
        n_samples=n_samples,
    )


def hyperbola_residual(F: Sequence[float], Theta: Sequence[float]) -> float:
    r"""Largest relative misfit of :math:`\Theta^2 = \kappa^2 + \omega^2 F^2` over a run, fitted by least squares.

    .. math:: \min_{\kappa^2, \omega^2} \sum_t \Big( \frac{\kappa^2 + \omega^2 F_t^2}{\Theta_t^2} - 1 \Big)^2

    Parameters
    ----------
    F, Theta : sequence of float
        The output along the target, and the squared gradient of it, at the same steps; Theta > 0.

    Returns
    -------
    float
        Zero up to the step of the optimiser in linear networks that fit one direction; nan when a Theta is not
        positive.

    Notes
    -----
    Provenance: derived here, checked on linear networks.

    Examples
    --------
    >>> F = [0.0, 0.5, 0.8, 1.0]
    >>> Theta = [(0.25 + 4 * f**2) ** 0.5 for f in F]
    >>> hyperbola_residual(F, Theta) < 1e-12
    True
    """
    squares, sizes = np.square(np.asarray(F, dtype=np.float64)), np.asarray(Theta, dtype=np.float64)
    if not (np.isfinite(squares).all() and np.isfinite(sizes).all() and (sizes > 0).all()):
        return math.nan
    # Relative to the largest, so that neither column of the fit outweighs the other by its units.
    squares, sizes = squares / (squares.max() or 1.0), np.square(sizes / sizes.max())
    rows = np.stack([np.ones_like(squares), squares], axis=1) / sizes[:, None]
    fitted, *_ = np.linalg.lstsq(rows, np.ones_like(squares), rcond=None)
    return float(np.abs(rows @ fitted - 1).max())


def _kernel(last: Snapshot) -> dict[str, Evidence]:
    reason = "needs inputs" if math.isnan(last.kernel_distance) and last.hamming is None else None
    return {
        "kernel_distance": Evidence(
            value=last.kernel_distance,
            meaning="how far the tangent kernel turned: 1 - cosine; 0 is lazy",
            caveat=KERNEL_CAVEAT,
            reason=reason,
        ),
        "kernel_growth": Evidence(
            value=last.kernel_growth,
            meaning="size of the tangent kernel relative to the start",
            caveat="a kernel that only grows has learned no direction",
            reason=reason,
        ),
    }


def _hamming(last: Snapshot, what: str) -> Evidence:
    reason = None
    if last.hamming is None:
        reason = "needs inputs"
    elif not last.hamming:
        reason = "no hidden layer was seen to run"
    return Evidence(
        value=last.mean_hamming,
        meaning="share of (unit, sample) pre-activation signs that changed, mean over layers",
        caveat=f"signs of {what}; smooth activations have no switch at zero",
        parts=last.hamming or {},
        reason=reason,
    )


def _balance(last: Snapshot, start: Sequence[UnitBalance | None], pairs: Sequence[str]) -> dict[str, Evidence]:
    before = {name: units.mean for name, units in zip(pairs, start, strict=True) if units is not None}
    after = {name: units.mean for name, units in zip(pairs, last.balances, strict=True) if units is not None}
    drift = {
        name: units.drift_from(earlier)
        for name, units, earlier in zip(pairs, last.balances, start, strict=True)
        if units is not None and earlier is not None
    }
    reason = None if before else "no two layers between which a change of scale passes"
    meaning = "mean over hidden units of (out - in) / (out + in), squared weights: above 0 the early layer is fast"
    return {
        "balance_start": Evidence(
            value=_mean(before), meaning=f"at the start, {meaning}", caveat=BALANCE_CAVEAT, parts=before, reason=reason
        ),
        "balance_end": Evidence(
            value=_mean(after), meaning=f"at the end, {meaning}", caveat=BALANCE_CAVEAT, parts=after, reason=reason
        ),
        "balance_drift": Evidence(
            value=max(drift.values(), default=math.nan),
            meaning="largest change of a unit's out - in, relative to the largest unit: gradient flow conserves it",
            caveat="decay, momentum, Adam and large steps all make it drift",
            parts=drift,
            reason=reason,
        ),
    }


def _hyperbola(snapshots: Sequence[Snapshot]) -> dict[str, Evidence]:
    along = [snapshot.along_target for snapshot in snapshots if snapshot.along_target is not None]
    reason = None
    if not along:
        reason = "needs targets, and a recorder that was called during training"
    elif len(along) < FEWEST:
        reason = f"needs {FEWEST} snapshots, got {len(along)}"
    residual = growth = math.nan
    if reason is None:
        F, theta = zip(*along, strict=True)
        residual = hyperbola_residual(F, theta)
        growth = theta[-1] / theta[0] - 1 if theta[0] > 0 else math.inf
    return {
        "hyperbola_residual": Evidence(
            value=residual,
            meaning="largest relative misfit of Theta^2 = kappa^2 + omega^2 F^2 along the targets",
            caveat="exact for linear networks that fit one direction; elsewhere it says how far that picture carries",
            reason=reason,
        ),
        "theta_growth": Evidence(
            value=growth,
            meaning="Theta_T / Theta_0 - 1: growth of the tangent kernel along the targets",
            caveat="along the targets of this batch only",
            reason=reason,
        ),
    }


def _mean(parts: Mapping[str, float]) -> float:
    known = [value for value in parts.values() if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
