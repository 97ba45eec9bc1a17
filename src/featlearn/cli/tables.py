"""A feature report on a terminal: one row a layer, and under it what the rows say."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Mapping
from typing import IO, Any

import typer

__all__ = ["count", "layer_table", "print_report", "summary_lines"]

UNLIMITED = 10_000  # columns of a file or a pipe
SHORTEST, LONGEST = 8, 32  # columns that names of layers have at least, and at most


def print_report(report: Mapping[str, Any], stream: IO[str]) -> None:
    """Print the table and the summary of ``FeatureReport.to_dict()``, as wide as the terminal allows."""
    width = shutil.get_terminal_size().columns if stream.isatty() else UNLIMITED
    text = [*layer_table(report, width), "", *(textwrap.fill(line, width) for line in summary_lines(report))]
    typer.echo("\n".join(text), file=stream)


def layer_table(report: Mapping[str, Any], width: int = UNLIMITED) -> list[str]:
    """Lines of a table of the layers in the order in which they ran.

    A star marks the layers above chance; a trivial layer (the ansatz holds by definition) has no excess. Where the
    width does not allow all columns, the last ones are left out; a name that is too long takes a line of its own.
    """
    layers = list(report["layers"].values())
    starred = report["summary"]["above_chance"]
    columns = {
        "k x d": [_size(layer) for layer in layers],
        "NFA": [_value(layer["nfa"]) for layer in layers],
        "null": [_unless_trivial(layer, _number(layer["nfa"]["null"], 3)) for layer in layers],
        "excess  ": [
            _unless_trivial(layer, _excess(layer["nfa"])) + (" *" if layer["name"] in starred else "  ")
            for layer in layers
        ],
    }
    optional = {
        "centred": ["-" if layer["centered"] is None else _value(layer["centered"]) for layer in layers],
        "excess at 1/2": [_unless_trivial(layer, _excess(layer["nfa_half"])) for layer in layers],
        "best power": [_unless_trivial(layer, _number(layer["best_power"], 2)) for layer in layers],
        "rank AGOP": [_number(layer["agop_spectrum"]["effective_rank"], 1) for layer in layers],
    }
    if all(layer["centered"] is None for layer in layers):
        del optional["centred"]
    blocks = [_block(header, cells) for header, cells in columns.items()]
    longest = max(SHORTEST, min(LONGEST, max(len(layer["name"]) for layer in layers)))
    for header, cells in optional.items():
        block = _block(header, cells)
        if longest + sum(len(lines[0]) for lines in [*blocks, block]) <= width:
            blocks.append(block)
    room = max(SHORTEST, min(longest, width - sum(len(lines[0]) for lines in blocks)))
    head, *rows = ("".join(cells).rstrip() for cells in zip(*blocks, strict=True))
    table = ["layer".ljust(room) + head, "-" * (room + sum(len(lines[0]) for lines in blocks))]
    for layer, row in zip(layers, rows, strict=True):
        name = layer["name"]
        table += [name.ljust(room) + row] if len(name) <= room else [name, " " * room + row]
    return table


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """What the table says, in sentences: above chance, strongest, left out, undefined, cost."""
    summary, layers, about = report["summary"], report["layers"], report["provenance"]
    statistic = "Pearson correlation" if about["statistic"] == "pearson" else "cosine"
    power = "AGOP" if math.isclose(about["power"], 1.0) else f"AGOP^{about['power']:g}"
    strongest = ", ".join(f"{name} ({layers[name]['nfa']['excess']:.2f})" for name in summary["strongest"])
    lines = [
        f"NFA: {statistic} of W^T W and the {power}; null: its value by chance; excess: (NFA - null) / (1 - null); "
        "± one standard error.",
        f"{len(summary['above_chance'])} of {count(summary['n_layers'], 'layer')} above chance (*), by more than two "
        "standard deviations." + (f" Strongest: {strongest}." if strongest else ""),
    ]
    trivial = [name for name, layer in layers.items() if layer["trivial"]]
    if trivial:
        lines.append(f"Left out of this count: {', '.join(trivial)}, where the ansatz holds by definition.")
    lines += [f"{name}: {layer['reason']}" for name, layer in layers.items() if layer["reason"] and name not in trivial]
    lines += [f"Skipped {name}: {reason}" for name, reason in report["skipped"].items()]
    return [*lines, _cost_line(about)]


def count(number: int, noun: str) -> str:
    """``1 layer``, ``2 layers``, ``1,000 samples``."""
    plural = f"{noun}es" if noun.endswith(("ch", "ss")) else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def _cost_line(about: Mapping[str, Any]) -> str:
    probes = about["probes"]
    how = "every output" if probes == "exact" else count(int(probes), "random probe") + " a sample"
    return (
        f"{count(about['n_samples'], 'sample')} in {count(about['n_batches'], 'batch')}, {how}, "
        f"{count(about['backward_passes'], 'backward pass')}, {about['seconds']:.1f} s on {about['device']}."
    )


def _block(header: str, cells: list[str]) -> list[str]:
    """A column, right-justified, with two blanks before it."""
    width = 2 + max(map(len, [header, *cells]))
    return [text.rjust(width) for text in (header, *cells)]


def _size(layer: Mapping[str, Any]) -> str:
    groups = f"{layer['groups']} x " if layer["groups"] > 1 else ""
    return f"{groups}{layer['k']} x {layer['d']}"


def _value(alignment: Mapping[str, Any]) -> str:
    return _number(alignment["value"], 3, alignment["standard_error"])


def _excess(alignment: Mapping[str, Any]) -> str:
    return _number(alignment["excess"], 3, alignment["excess_standard_error"])


def _number(number: float, digits: int, error: float = math.nan) -> str:
    """The number with its standard error where it has one; a dash where it is undefined."""
    if not math.isfinite(number):
        return "-"
    return f"{number:.{digits}f}" + (f" ± {error:.{digits}f}" if math.isfinite(error) else "")


def _unless_trivial(layer: Mapping[str, Any], text: str) -> str:
    return "" if layer["trivial"] else text
