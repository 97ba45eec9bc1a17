"""The bodies of ``featlearn dynamics``: what is refused before the work, the tables, and the files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import typer

from ..exceptions import DataError
from .outcome import Outcome, text_table, wrapped

if TYPE_CHECKING:
    from ..dynamics.phase_diagram import PhaseDiagram

__all__ = ["every_pair", "run_diagnose", "run_phase_diagram", "run_verify"]

NUMBERS = ("eT", "eF", "e0", "Theta0", "rho", "gamma", "gamma_prime", "slope")


# --- phase-diagram ----------------------------------------------------------------------------------------------------


def run_phase_diagram(
    plane: str,
    width: int | None,
    target: float | None,
    mine: Sequence[str] | None,
    *,
    html: Path | None,
    png: Path | None,
    json: str | None,
) -> int:
    """Print the points of the diagram and write what was asked for; 0."""
    from ..dynamics.phase_diagram import phase_diagram

    outcome = Outcome(html, png, json)
    outcome.check()
    if mine and len(mine) > 1:
        raise typer.BadParameter(f"Got --mine {len(mine)} times, but expected it once: the map has one point of yours.")
    point = parse_exponents(mine[0]) if mine else None
    try:
        diagram = phase_diagram(
            cast(Literal["exponents", "initialisation"], plane), width=width, target=target, mine=point
        )
    except DataError as problem:  # here all of it is the command line's
        raise typer.BadParameter(str(problem)) from problem
    outcome.tell(_point_table(diagram))
    outcome.write(diagram.to_dict(), diagram.to_html, (6.6, 5.2), lambda figure: diagram.plot(figure.subplots()))
    return 0


def parse_exponents(text: str) -> dict[str, float]:
    """``g=-0.5,eta_u=0`` as a dictionary.

    Raises
    ------
    typer.BadParameter
        Not of this form; a name twice. Names are checked by :func:`featlearn.dynamics.phase_diagram`.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        try:
            exponent = float(value)
        except ValueError:
            exponent = math.nan
        if not equals or not math.isfinite(exponent):
            raise typer.BadParameter(f"Got --mine {text}, but expected name=number, apart by commas, not {part!r}.")
        if name in found:
            raise typer.BadParameter(f"Got --mine {text} with {name!r} twice.")
        found[name] = exponent
    return found


def _point_table(diagram: PhaseDiagram) -> list[str]:
    columns = [name for name in NUMBERS if name in diagram.points[0]]
    words = [name for name in ("phase", "speed") if name in diagram.points[0]]
    head = ["", *columns, *words]
    rows = [
        [point["label"], *(f"{point[name]:.4g}" for name in columns), *(point[name] for name in words)]
        for point in diagram.points
    ]
    about = "".join(f"{name} {value:g}, " for name, value in diagram.settings.items())
    return [
        f"Plane of {diagram.plane}, {about}phases at large width",
        "",
        *text_table(head, rows, texts=(0, *range(-len(words), 0))),
    ]


# --- verify -----------------------------------------------------------------------------------------------------------


def run_verify(names: Sequence[str], fast: bool, json: str | None) -> int:
    """Print every comparison as it is made; 0 when all agree, else 1."""
    from ..dynamics.verification import CASES, verify_models

    outcome = Outcome(json=json)
    outcome.check()
    try:
        comparisons = verify_models(names, fast=fast)
    except DataError as problem:
        raise typer.BadParameter(str(problem)) from problem
    cases = [case.about for name in CASES for case in CASES[name]]
    first, second = max(map(len, CASES)), max(map(len, cases))
    outcome.tell([f"     {'model'.ljust(first)}  {'case'.ljust(second)}  {'apart':>8}  {'allowed':>8}"])
    told, apart = [], []
    for name, case, agreement in comparisons:
        mark, unit = "ok  " if agreement.ok else "FAIL", " standard errors" if agreement.kind == "statistical" else ""
        row = f"{mark} {name.ljust(first)}  {case.about.ljust(second)}"
        outcome.tell([f"{row}  {agreement.worst:8.1e}  {agreement.tolerance:8.1e}{unit}"])
        told.append({"model": name, "case": case.about, **agreement.to_dict()})
        if not agreement.ok:
            apart.append(f"{name} ({case.about}) in {agreement.quantity} at {agreement.at:g}")
    outcome.tell([f"Closed form and simulation disagree: {'; '.join(apart)}." if apart else "All agree."])
    outcome.write({"kind": "Verification", "schema": 1, "comparisons": told})
    return 1 if apart else 0


# --- diagnose ---------------------------------------------------------------------------------------------------------


def every_pair(arguments: Sequence[str], last: tuple[str, str]) -> list[tuple[str, str]]:
    """All pairs on the command line: of an option with two words typer keeps the last only."""
    pairs = []
    for place, word in enumerate(arguments):
        name, equals, first = word.partition("=")
        if name == "--pair":
            words = [first, *arguments[place + 1 :]] if equals else arguments[place + 1 :]
            pairs.append((words[0], words[1]))
    return pairs or [last]


def run_diagnose(
    before: Path, after: Path, pairs: Sequence[tuple[str, str]], html: Path | None, json: str | None
) -> int:
    """Print evidence and mechanisms of two checkpoints, and write what was asked for; 0."""
    from ..dynamics.diagnose import diagnose_weights
    from .model_loading import read_weights

    outcome = Outcome(html, json=json)
    outcome.check()
    diagnosis = diagnose_weights(read_weights(before, "BEFORE"), read_weights(after, "AFTER"), pairs)
    told = diagnosis.to_dict()
    sentences = [*(f"Beware: {flag}." for flag in told["flags"]), told["advice"]]
    remarks = wrapped([sentence for sentence in sentences if sentence])
    outcome.tell([*_evidence_table(told), "", *_mechanism_table(told), "", *remarks])
    outcome.write(told, diagnosis.to_html)
    return 0


def _evidence_table(told: Mapping[str, Any]) -> list[str]:
    known = {name: entry for name, entry in told["evidence"].items() if math.isfinite(entry["value"])}
    rows = [[name.replace("_", " "), f"{entry['value']:.3g}", entry["meaning"]] for name, entry in known.items()]
    return text_table(["measure", "value", "meaning"], rows, texts=(0, 2))


def _mechanism_table(told: Mapping[str, Any]) -> list[str]:
    head = ["pair", "score", "rotation", "concentration", "rescaling", "mechanism"]
    rows = [
        [
            f"{pair['first']} | {pair['second']}",
            *("-" if math.isnan(pair[name]) else f"{pair[name]:+.3f}" for name in head[1:-1]),
            pair["summary"] or "-",
        ]
        for pair in told["mechanisms"]["pairs"]
    ]
    most = told["mechanisms"]["thresholds"]
    limits = f"Mechanisms: |score| above {most['score']:.3f}, |rescaling| above {most['rescaling']:.3f} (conventions)."
    return [*text_table(head, rows, texts=(0, -1)), "", limits]
