"""The four machines of the demo in sentences: every one follows from the measured numbers, whatever they are."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ..report.filters import MARGIN, learned_matrix, likenesses

__all__ = ["comparison_text"]

LINE = 80
NETWORK = ("CNN patch AGOP", "CNN filter covariance")


def comparison_text(told: Mapping[str, Any]) -> str:
    """Paragraphs of at most 80 columns around a table of the four.

    Parameters
    ----------
    told : mapping
        :func:`featlearn.cli.demo_images.compare_machines`.
    """
    data, machines = told["data"], told["machines"]
    paragraphs = [
        f"Four machines learned from the same {data['n_train']:,} images, two convolutional layers deep each, and "
        f"named the same {data['n_test']:,} unseen ones:",
        " ".join(_judged(entry) for entry in told["differences"] if _neighbours(entry)),
        f"Chosen by {_chosen_by(machines)}; the unseen images chose nothing.",
        f"What matters in a patch: is the {learned_matrix(told)} like the network's own matrices, beyond what patch "
        "PCA is, which knows no labels?",
        _patches(told),
    ]
    filled = [textwrap.fill(text, LINE) for text in paragraphs]
    return "\n\n".join(
        [filled[0], "\n".join(_table(machines)), *filled[1:-1], "\n".join(_likeness_rows(told)), filled[-1]]
    )


def _table(machines: Mapping[str, Any]) -> list[str]:
    header = ["machine", "correct", "chosen", "time"]
    rows = [
        [
            name,
            f"{one['accuracy']:.1%} ± {one['standard_error']:.1%}",
            ", then ".join(_choice(chosen) for chosen in one["chosen"]),
            f"{one['seconds']:.0f} s",
        ]
        for name, one in machines.items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1]])
        for row in (header, *rows)
    ]


def _choice(chosen: Mapping[str, Any]) -> str:
    if "learning_rate" in chosen:
        return f"learning rate {chosen['learning_rate']:g}"
    steps = chosen["iterate"]
    return f"ridge {chosen['ridge']:g}" + (f", {steps} step{'s' if steps > 1 else ''}" if steps else "")


def _neighbours(entry: Mapping[str, Any]) -> bool:
    """ConvRFM against the fixed kernel, then the others against ConvRFM."""
    return "ConvRFM" in (entry["first"], entry["second"])


def _judged(entry: Mapping[str, Any]) -> str:
    first, second = (_the(entry[side]) for side in ("first", "second"))
    points = f"{100 * entry['gain']:+.1f} ± {100 * entry['standard_error']:.1f} points"
    if entry["verdict"] == "not told apart":
        return f"{_capital(second)} did not beat {first} here, nor the other way round ({points})."
    beaten = "beat" if entry["verdict"] == "better" else "fell behind"
    return f"{_capital(second)} {beaten} {first} by more than two standard errors ({points})."


def _chosen_by(machines: Mapping[str, Any]) -> str:
    """Every way of choosing, and what was chosen so."""
    ways: dict[str, list[str]] = {}
    for name, one in machines.items():
        for how in dict.fromkeys(one["how"]):
            part = f" (layer {one['how'].index(how) + 1})" if len(set(one["how"])) > 1 else ""
            ways.setdefault(how, []).append(name + part)
    return "; by ".join(f"{how}: {_listed(names)}" for how, names in ways.items())


def _likeness_rows(told: Mapping[str, Any]) -> list[str]:
    top = len(told["filters"]["directions"][learned_matrix(told)])
    head = [
        f"                      excess of cosine   overlap of {top} directions",
        "  with the CNN's      metric        PCA   metric     PCA    chance",
    ]
    found = ((other, *likenesses(told, other)[:2]) for other in NETWORK)
    return head + [
        f"  {other.removeprefix('CNN '):<18}{mine['excess']:+8.2f}{null['excess']:+11.2f}{mine['overlap']:9.2f}"
        f"{null['overlap']:8.2f}{mine['overlap_chance']:10.2f}"
        for other, mine, null in found
    ]


def _patches(told: Mapping[str, Any]) -> str:
    """Whether the metric is like what the network has, beyond what patch PCA is, and whether either is edges."""
    filters = told["filters"]
    shares = [f"{share:.0%} of {_the(name)}" for name, share in filters["edge_share"].items()]
    return (
        f"{' '.join(_likeness(told, other) for other in NETWORK)} (Clearly: by more than {MARGIN:g}, for want of "
        f"error bars.) Edges, that is first derivatives, carry {_listed(shares)} by trace, and "
        f"{filters['chance_of_edge']:.0%} by chance."
    )


def _likeness(told: Mapping[str, Any], other: str) -> str:
    return f"To {_the(other)} the {learned_matrix(told)} is {likenesses(told, other)[2]}."


def _the(name: str) -> str:
    return name if name in ("ConvRFM", "Deep ConvRFM", "patch PCA") else f"the {name}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
