"""A feature report on a terminal: one row a layer, and under it what the rows say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["console_for", "count", "layer_table", "print_report", "summary_lines"]

ROOMY = 116  # columns of a terminal from which rank, best power and the excess at power 1/2 are shown too
UNLIMITED = 10_000


def console_for(stream: IO[str]) -> Console:
    """Console on a stream; a file or a pipe gets no colour, and lines as long as they are."""
    return Console(file=stream, highlight=False, width=None if stream.isatty() else UNLIMITED)


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print the table and the summary of ``FeatureReport.to_dict()``."""
    console.print(layer_table(report, roomy=console.width >= ROOMY))
    for line in summary_lines(report):
        console.print(Text(line))


def layer_table(report: Mapping[str, Any], roomy: bool = True) -> Table:
    """Rows of layers in the order in which they ran.

    A star marks an excess of more than two standard errors above zero; a trivial layer (the ansatz holds by definition)
    is dim and has no excess.
    """
    layers = list(report["layers"].values())
    starred = report["summary"]["above_chance"]
    columns: dict[str, list[str]] = {
        "k x d": [_size(layer) for layer in layers],
        "NFA": [_value(layer["nfa"]) for layer in layers],
        "null": [_unless_trivial(layer, _number(layer["nfa"]["null"], 3)) for layer in layers],
        "excess": [_unless_trivial(layer, _excess(layer["nfa"])) for layer in layers],
        "": ["*" if layer["name"] in starred else "" for layer in layers],
    }
    if any(layer["centered"] is not None for layer in layers):
        columns["centred"] = ["-" if layer["centered"] is None else _value(layer["centered"]) for layer in layers]
    if roomy:
        columns["excess at 1/2"] = [_unless_trivial(layer, _excess(layer["nfa_half"])) for layer in layers]
        columns["best power"] = [_unless_trivial(layer, _number(layer["best_power"], 2)) for layer in layers]
        columns["rank AGOP"] = [_number(layer["agop_spectrum"]["effective_rank"], 1) for layer in layers]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("layer", overflow="fold", min_width=8)
    for header in columns:
        table.add_column(header, justify="right", no_wrap=True)
    for layer, *cells in zip(layers, *columns.values(), strict=True):
        table.add_row(*map(Text, (layer["name"], *cells)), style="dim" if layer["trivial"] else None)
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
        f"{len(summary['above_chance'])} of {count(summary['n_layers'], 'layer')} above chance: excess over 2 standard "
        "errors (*)." + (f" Strongest: {strongest}." if strongest else ""),
    ]
    trivial = [name for name, layer in layers.items() if layer["trivial"]]
    if trivial:
        lines.append(f"Left out of this count: {', '.join(trivial)}, where the ansatz holds by definition.")
    lines += [
        f"{name}: {layer['reason']}" for name, layer in layers.items() if layer["reason"] and not layer["trivial"]
    ]
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
