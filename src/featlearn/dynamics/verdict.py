"""From measures to words: regime, kind, and one sentence that names a knob. All thresholds are conventions."""

from __future__ import annotations

import math

__all__ = ["FEATURES", "LAZY", "LAZY_SIGNS", "advice_for", "kind_of", "regime_of"]

LAZY = 0.01  # kernel distance below which a run is lazy, when its signs stay, too
LAZY_SIGNS = 0.03  # share of activation signs that changed
FEATURES = 0.05  # kernel distance from which on a run learns features
TILTED = 0.5  # mean initial balance of the units beyond which a run is upstream or downstream
DRIFTED = 0.05  # relative drift of the balance beyond which gradient flow is an approximation


def regime_of(kernel_distance: float, hamming: float) -> str | None:
    """Lazy, intermediate or feature learning; None without a kernel distance.

    Examples
    --------
    >>> regime_of(0.001, 0.01), regime_of(0.02, 0.01), regime_of(0.2, 0.3), regime_of(0.001, 0.2)
    ('lazy', 'intermediate', 'feature learning', 'intermediate')
    """
    if math.isnan(kernel_distance):
        return None
    if kernel_distance >= FEATURES:
        return "feature learning"
    signs_stay = math.isnan(hamming) or hamming < LAZY_SIGNS
    return "lazy" if kernel_distance < LAZY and signs_stay else "intermediate"


def kind_of(regime: str | None, balance: float) -> str | None:
    """Upstream, balanced or downstream, by the mean initial balance; None for lazy runs, or without a balance."""
    if regime == "lazy" or math.isnan(balance):
        return None
    if abs(balance) <= TILTED:
        return "balanced"
    return "upstream" if balance > 0 else "downstream"


def advice_for(regime: str | None, kind: str | None, moved_without_kernel: bool) -> str:
    """One sentence that names a knob."""
    if moved_without_kernel:
        return (
            "The first weights moved far and the kernel did not: give the later layers a larger rate relative to the "
            "first, or smaller initial weights at larger ones of the first, to let the kernel move too."
        )
    if regime == "lazy":
        return (
            "To learn features, divide the outputs by a constant (and raise the rate by its square), or shrink the "
            "initial weights."
        )
    if regime == "intermediate":
        return (
            "A smaller output scale, or smaller initial weights, move this run to feature learning, larger ones away."
        )
    if kind == "upstream":
        return (
            "Early layers are the fast ones: to slow them, lower their rate relative to the later layers', or enlarge "
            "their initial weights at the later layers' expense."
        )
    if kind == "downstream":
        return (
            "Late layers are the fast ones: to let early layers learn, raise their rate relative to the later layers', "
            "or shrink their initial weights at the later layers' expense."
        )
    if regime == "feature learning":
        return "To make the run lazier, multiply the outputs by a constant, or enlarge the initial weights."
    return "Pass inputs to diagnose(), which measures the kernel that tells the regime; weights alone do not."
