"""The body of ``featlearn probe``: features or a model, the probes, the table and the files."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from torch import nn

from ..agop.reference_model import reference_model, reference_state
from ..exceptions import DataError, ModelError
from ..robust.model_probe import probe_model
from ..robust.pooling import POOLS
from ..robust.probe import feature_probe
from ..robust.probe_results import CONTROLS, FeatureProbe
from ..robust.untrained import untrained_copy
from .feature_source import FeatureSource
from .group_table import GroupTable, read_groups
from .groups_run import fixed, interval
from .model_loading import read_weights
from .outcome import Outcome, text_table, wrapped

__all__ = ["ProbeOptions", "run_probe"]

UNCONTROLLED = (
    "WITHOUT BASELINES. A linear probe reads much from raw pixels and from random features, so nothing below shows "
    "that the network learned anything."
)


@dataclass(frozen=True)
class ProbeOptions:
    """The options as typed, but for those of the source and the outcome."""

    groups: Path
    label: str
    group: str
    layers: Sequence[str]
    baselines: bool
    split_column: str | None
    refits: int
    checkpoints: Sequence[Path]
    untrained: Path | None
    pool: str


def run_probe(source: FeatureSource, wanted: ProbeOptions, outcome: Outcome, command: str) -> int:
    """Print the table and write what was asked for; 0."""
    source.check({"--checkpoint": wanted.checkpoints, "--untrained": wanted.untrained})
    if wanted.pool not in POOLS:
        raise typer.BadParameter(f"Got --pool {wanted.pool}, but expected one of {', '.join(POOLS)}.")
    if source.model is None and wanted.pool != "auto":
        raise typer.BadParameter(f"Got --pool {wanted.pool} without --model, but saved features are as they are.")
    if source.model is not None and not wanted.baselines:
        raise typer.BadParameter("Got --no-baselines with --model, but they are made from the model. Leave it out.")
    outcome.check([*source.files, wanted.groups, *wanted.checkpoints, wanted.untrained])
    table = read_groups(wanted.groups, wanted.label, [wanted.group], wanted.split_column, source.seed, single=True)
    if table.rows.note is not None:
        outcome.note(table.rows.note)
    verbose = int(sys.stderr.isatty() and not outcome.quiet)
    with outcome.warned():
        if source.model is None:
            result = _of_files(source, wanted, table, verbose)
        else:
            result = _of_model(source, wanted, table, verbose, outcome)
    told = _told(result, wanted, table, source.name, source.seed, command)
    outcome.tell(_lines(told, result))
    outcome.write(
        told, lambda page: _write_page(told, page), (11.0, 5.6), lambda figure: result.plot(figure.subplots(1, 2))
    )
    return 0


# --- the probes -------------------------------------------------------------------------------------------------------


def _of_files(source: FeatureSource, wanted: ProbeOptions, table: GroupTable, verbose: int) -> FeatureProbe:
    saved = source.saved(table)
    missing = [name for name in CONTROLS if name not in saved.names]
    if wanted.baselines and missing:
        raise DataError(
            f"Got {saved.path} without {' and '.join(map(repr, missing))}, but expected the raw input as 'pixels' and "
            "the features of an untrained network as 'init': without them a probe shows no learning. Save them too "
            "(extract_features with layer='input', and of untrained_copy(model)), or pass --no-baselines."
        )
    controls = list(CONTROLS) if wanted.baselines else []
    layers = saved.chosen(wanted.layers) or [name for name in saved.names if name not in controls]
    layers = [name for name in layers if name not in controls]
    if not layers:
        raise DataError(f"Got {saved.path} with nothing but baselines, but expected at least one layer.")
    fit, test = table.rows.fit, table.rows.test
    features, tests = {}, {}
    for name in [*controls, *layers]:
        array = saved.read(name, len(table.frame))
        features[name], tests[name] = array[fit], array[test]
    y, s = table.columns.values()
    return feature_probe(
        features, y[fit], s[fit], tests, y[test], s[test],
        n_refits=wanted.refits, baselines=wanted.baselines, names=list(table.columns),
        random_state=source.seed, verbose=verbose,
    )  # fmt: skip


def _of_model(
    source: FeatureSource, wanted: ProbeOptions, table: GroupTable, verbose: int, outcome: Outcome
) -> FeatureProbe:
    network, notes = source.network()
    checkpoints = {}
    for path in wanted.checkpoints:
        if path.stem in checkpoints or path.stem in CONTROLS:
            raise typer.BadParameter(
                f"Got --checkpoint {path}, whose name {path.stem!r} is taken, but expected different names, and none "
                f"of {', '.join(CONTROLS)}. Rename the file."
            )
        checkpoints[path.stem] = read_weights(path, "--checkpoint")
    control = _untrained(network, wanted.untrained, source.seed)
    for note in notes:
        outcome.note(f"{note}.")
    images = source.listed(table, network)
    y, s = table.columns.values()
    fit, test = ((rows, y[rows], s[rows]) for rows in (table.rows.fit, table.rows.test))
    return probe_model(
        network, images.batches(*fit), images.batches(*test), layers=list(wanted.layers) or None,
        checkpoints=checkpoints or None, untrained=control, pool=wanted.pool, n_refits=wanted.refits,
        names=list(table.columns), random_state=source.seed, verbose=verbose,
    )  # fmt: skip


def _untrained(network: nn.Module, weights: Path | None, seed: int) -> nn.Module:
    """The control: with the weights of a file, or with its own drawn anew."""
    if weights is not None:
        given = read_weights(weights, "--untrained")
        try:
            return reference_model(network, reference_state(network, given))
        except ModelError as problem:
            raise ModelError(f"--untrained {weights}: {problem}") from problem
    try:
        return untrained_copy(network, seed)
    except ModelError as problem:
        message = str(problem).partition(". Add that method")[0]
        raise ModelError(
            f"{message}. Add that method, or pass the weights at initialisation with --untrained."
        ) from problem


# --- what it says -----------------------------------------------------------------------------------------------------


def _told(
    result: FeatureProbe, wanted: ProbeOptions, table: GroupTable, name: str, seed: int, command: str
) -> dict[str, Any]:
    from .. import __version__

    return {
        "kind": "FeatureProbeRun",
        "schema": 1,
        "probe": result.to_dict(),
        "rows": table.counts(),
        "provenance": {
            "features": name,
            "groups": str(wanted.groups),
            "label": wanted.label,
            "attribute": wanted.group,
            "split": table.rows.how,
            "baselines": wanted.baselines,
            "seed": seed,
            "command": command,
            "version": __version__,
        },
    }


def _lines(told: Mapping[str, Any], result: FeatureProbe) -> list[str]:
    about = told["provenance"]
    excess = "; excess: core over the better baseline" if about["baselines"] else ""
    return [
        *wrapped(
            [
                f"{about['features']}: does it tell {about['label']} (core), or {about['attribute']} (spurious)? Rows "
                f"of {about['groups']} split {about['split']}: {result.n_train:,} fit the probes, {result.n_test:,} "
                "judge them."
            ]
        ),
        "",
        *([*wrapped([UNCONTROLLED]), ""] if not about["baselines"] else []),
        *_table(result),
        "",
        *wrapped(
            [f"Worst: accuracy in the worst group of label and attribute{excess}.", *result.summary().splitlines()]
        ),
    ]


def _table(result: FeatureProbe) -> list[str]:
    controlled = any(math.isfinite(point.excess_core) for point in result.points)
    span = f"{result.confidence:.0%} interval"
    head = ["features", "d", "core: worst", span, "mean", "spurious: worst", span, "mean"]
    rows = [
        [
            f"{point.name} ({CONTROLS[point.control]})" if point.control else point.name,
            f"{point.d:,}",
            fixed(point.core_wga),
            interval(point.core_low, point.core_high),
            fixed(point.core_mean),
            fixed(point.spurious_wga),
            interval(point.spurious_low, point.spurious_high),
            fixed(point.spurious_mean),
            *([_excess(point.excess_core)] if controlled else []),
        ]
        for point in result.points
    ]
    return text_table([*head, *(["excess"] if controlled else [])], rows, optional=[7, 4, 6, 1])


def _excess(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else ""


def _write_page(told: Mapping[str, Any], path: Path) -> None:
    from ..report.probe import write_probe_report

    write_probe_report(told, path)
