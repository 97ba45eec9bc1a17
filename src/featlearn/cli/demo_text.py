"""What the demo found, in sentences: every one follows from the measured numbers, whatever they are."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .demo_run import Finding

__all__ = ["finding_text"]

LINE = 80
HEADER = (
    "             before training               after training           sqrt of AGOP\n"
    "  layer     NFA chance excess     NFA chance          excess          excess"
)


def finding_text(found: Finding) -> str:
    """Paragraphs of at most 80 columns around a table of the layers."""
    plan, after = found.plan, found.after["layers"]
    real = [name for name, layer in after.items() if not layer["trivial"]]
    before, now = ({name: report["layers"][name]["nfa"] for name in real} for report in (found.before, found.after))
    half = {name: after[name]["nfa_half"] for name in real}
    trivial = [name for name in after if name not in real]
    paragraphs = [
        f"A CNN of {len(after)} layers saw {plan.n_train:,} images of Fashion-MNIST {_times(plan.epochs)} and now "
        f"names {found.accuracy:.1%} of {plan.n_test:,} unseen ones correctly ({found.accuracy_before:.1%} before).",
        "Did its layers align with the input directions that its answers depend on? NFA is the correlation of a "
        "layer's W^T W with its AGOP on the unseen images; chance is what it would be if the gradients were turned at "
        "random; excess is 0 at chance and 1 at perfect alignment.",
        _verdict(before, now, half),
        *(f"({name} makes the answers themselves: there the NFA is 1 by definition.)" for name in trivial),
        f"Trained and measured in {found.seconds:.0f} s; tracking the features took {found.tracking_share:.0%} of the "
        "training loop.",
    ]
    rows = [_row(name, before[name], now[name], half[name]) for name in real]
    filled = [textwrap.fill(text, LINE) for text in paragraphs]
    return "\n\n".join([*filled[:2], "\n".join([HEADER, *rows]), *filled[2:]])


def _row(name: str, before: Mapping[str, Any], now: Mapping[str, Any], half: Mapping[str, Any]) -> str:
    then = f"{before['value']:6.3f} {before['null']:6.3f} {before['excess']:+6.2f}"
    return f"  {name:<8}{then}  {now['value']:6.3f} {now['null']:6.3f}  {_with_error(now)}  {_with_error(half)}"


def _with_error(nfa: Mapping[str, Any]) -> str:
    return f"{nfa['excess']:+.3f} ± {nfa['excess_standard_error']:.3f}"


def _verdict(before: Mapping[str, Any], now: Mapping[str, Any], half: Mapping[str, Any]) -> str:
    """How high the NFA was for nothing, where training raised the excess, and what the other power says."""
    highest = max(before, key=lambda name: before[name]["value"])
    most = max(nfa["excess"] for nfa in before.values())
    late = _above(now)
    sentences = [
        f"Before training {highest} has an NFA of {before[highest]['value']:.3f}, yet no excess is higher than "
        f"{most:+.2f}: a high NFA alone shows no learning.",
        f"Training raised the excess by more than two standard errors in {_names(_rose(before, now))}; after it "
        f"{_are(late)} above chance{_still(now)}.",
    ]
    if late:
        best = max(late, key=lambda name: now[name]["excess"])
        sentences.append(f"{best} went furthest: {now[best]['excess']:.0%} of the way to perfect alignment.")
    roots = [nfa["excess"] for nfa in half.values()]
    sentences.append(
        f"Compared with the square root of the AGOP the excess is {min(roots):+.2f} to {max(roots):+.2f}; the report "
        "shows both powers."
    )
    return " ".join(sentences)


def _above(layers: Mapping[str, Any]) -> list[str]:
    return [name for name, nfa in layers.items() if nfa["verdict"] == "above"]


def _still(layers: Mapping[str, Any]) -> str:
    """What is not above chance although its number may look so."""
    names = [name for name, nfa in layers.items() if nfa["verdict"] == "at"]
    if not names:
        return ""
    return f", and {_are(names)} within two standard deviations of what random turns give"


def _rose(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Layers whose excess grew by more than two standard errors of the difference."""
    key = "excess_standard_error"
    return [
        name
        for name in now
        if now[name]["excess"] - before[name]["excess"] > 2 * math.hypot(now[name][key], before[name][key])
    ]


def _times(epochs: int) -> str:
    return "once" if epochs == 1 else f"{epochs} times"


def _are(names: list[str]) -> str:
    return f"{_names(names)} {'are' if len(names) > 1 else 'is'}"


def _names(names: list[str]) -> str:
    if len(names) < 2:
        return names[0] if names else "no layer"
    return f"{', '.join(names[:-1])} and {names[-1]}"
