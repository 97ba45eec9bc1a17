"""The page of a diagnosis: verdict, evidence with what it means and what it does not, mechanisms, advice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from markupsafe import Markup, escape

from ..exceptions import DataError
from ..plots.alignments import number
from .environment import environment
from .files import atomic_write
from .numbers import count, fixed, general, name
from .tables import Column, Row, Table

__all__ = ["write_diagnosis_report"]

PARTS = ("regime", "run_kind", "evidence", "mechanisms", "flags", "advice")


def write_diagnosis_report(told: Mapping[str, Any], path: str | PathLike[str], *, title: str | None = None) -> None:
    """Write a diagnosis as one page that needs no network, no server and no other file.

    Parameters
    ----------
    told : mapping
        ``Diagnosis.to_dict()``, or its JSON read back.
    path : path-like
        Written whole or not at all; the folder must exist.
    title : str, optional
        Heading of the page.

    Raises
    ------
    DataError
        Not a diagnosis.
    OSError
        The file cannot be written.
    """
    missing = [part for part in PARTS if part not in told]
    if missing:
        raise DataError(f"Got a diagnosis without {', '.join(missing)}, but expected all of {', '.join(PARTS)}.")
    measured = {key: entry for key, entry in told["evidence"].items() if not math.isnan(number(entry["value"]))}
    mechanisms = told["mechanisms"]
    page = {
        "title": title or "Lazy or rich: diagnosis of a run",
        "verdict": ", ".join(word for word in (told["regime"] or "regime unknown", told["run_kind"]) if word),
        "told": told,
        "evidence": _evidence_table(measured),
        "parts": [_part_table(key, entry) for key, entry in measured.items() if len(entry["parts"]) > 1],
        "missing": {
            _words(key): entry["reason"]
            for key, entry in told["evidence"].items()
            if key not in measured and entry["reason"]
        },
        "mechanisms": None if mechanisms is None else _mechanism_table(mechanisms["pairs"], mechanisms["thresholds"]),
    }
    atomic_write(path, environment().get_template("diagnosis.html").render(page))


def _words(key: str) -> str:
    return key.replace("_", " ")


def _evidence_table(evidence: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = [
        Column("value", "A number without unit.", lambda x: general(x["value"])),
        Column("what it says", "Meaning of the measure.", lambda x: _text(x["meaning"])),
        Column("what it does not", "Caveat.", lambda x: _text(x["caveat"])),
    ]
    rows = [Row(key, escape(_words(key)), [c.cell(entry) for c in columns], False) for key, entry in evidence.items()]
    return Table("Evidence", columns, rows)


def _part_table(key: str, entry: Mapping[str, Any]) -> Table:
    columns = [Column("value", entry["meaning"], lambda x: general(x))]
    rows = [Row(part, name(part), [general(value)], False) for part, value in entry["parts"].items()]
    return Table(_words(key).capitalize(), columns, rows)


def _mechanism_table(pairs: Sequence[Mapping[str, Any]], most: Mapping[str, float]) -> Table:
    columns = [
        Column("width", "Hidden units or channels between the two layers.", lambda x: count(x["width"])),
        Column("score", "Of the alignment of the layers; zero: as before.", lambda x: fixed(x["score"], 2)),
        Column(
            "rotation", "Log growth because the layers turned towards each other.", lambda x: fixed(x["rotation"], 2)
        ),
        Column(
            "concentration",
            "Log growth because their spectra concentrated on fewer directions.",
            lambda x: fixed(x["concentration"], 2),
        ),
        Column("rescaling", "Log growth of their norms.", lambda x: fixed(x["rescaling"], 2)),
        Column("total", "Log growth of the norm of the product of the two, the sum.", lambda x: fixed(x["total"], 2)),
        Column(
            "mechanism",
            f"Conventions: score beyond ±{most['score']:.2f}, rescaling beyond ±{most['rescaling']:.2f}.",
            lambda x: escape(x["summary"] or "–"),
        ),
        Column("flags", "What weakens these numbers.", lambda x: _text("; ".join(x["flags"]))),
    ]
    if not any(pair["flags"] for pair in pairs):
        columns.pop()
    rows = [
        Row(
            pair["first"],
            Markup("{} | {}").format(name(pair["first"]), name(pair["second"])),
            [column.cell(pair) for column in columns],
            False,
        )
        for pair in pairs
    ]
    return Table("Mechanisms of pairs of layers", columns, rows)


def _text(sentence: str) -> Markup:
    return Markup('<span class="words">{}</span>').format(sentence)
