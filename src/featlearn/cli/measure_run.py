"""The parts of ``featlearn measure`` that are about the measurement: its options, its run, its outcome."""

from __future__ import annotations

import math
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn

from ..exceptions import DataError, FeatlearnError
from .data_loading import Data
from .loss_loading import load_loss, load_outputs
from .object_loading import blame
from .output_files import ReportFiles
from .progress import progress_bar
from .tables import print_report

__all__ = ["measure_data", "measure_options", "print_outcome"]

PACKAGE = str(Path(__file__).resolve().parents[1])


def measure_options(
    layers: list[str] | None,
    outputs: str | None,
    loss: str | None,
    probes: str,
    power: float,
    statistic: str,
    seed: int,
) -> dict[str, Any]:
    """Arguments of :func:`featlearn.measure_features` that the options of the command stand for.

    Raises
    ------
    typer.BadParameter
        A value that no option can have, or a function that cannot be imported.
    """
    if not (math.isfinite(power) and power > 0):
        raise typer.BadParameter(f"Got --power {power}, but expected a positive number.")
    if statistic not in ("pearson", "cosine"):
        raise typer.BadParameter(f"Got --statistic {statistic}, but expected pearson or cosine.")
    if probes not in ("exact", "auto") and not (probes.isdecimal() and int(probes) >= 1):
        raise typer.BadParameter(f"Got --probes {probes}, but expected exact, auto or a number of at least 1.")
    return {
        "layers": layers or "auto",
        "outputs": load_outputs(outputs),
        "loss": load_loss(loss),
        "probes": int(probes) if probes.isdecimal() else probes,
        "power": power,
        "statistic": statistic,
        "random_state": seed,
    }


def measure_data(model: nn.Module, data: Data, options: dict[str, Any], quiet: bool) -> dict[str, Any]:
    """``FeatureReport.to_dict()`` of the model on the data; of the batches until then when it is interrupted.

    Raises
    ------
    DataError
        The model's own ``forward`` refuses the data.
    """
    from ..measure.features import MeasurementInterrupted, measure_features

    try:
        with progress_bar("Measuring", "batches", quiet) as advance:
            return measure_features(model, data.batches, progress=advance, **options).to_dict()
    except MeasurementInterrupted as stop:
        return stop.report.to_dict()
    except KeyboardInterrupt:
        typer.echo("featlearn: interrupted before a batch was measured: nothing was written.", err=True)
        raise
    except FeatlearnError:
        raise
    except Exception as problem:
        if not _raised_by_model(problem):
            raise
        raise DataError(
            f"Got data that the model cannot process ({data.name}): {blame(problem)}. Check the number of channels, "
            "the image size and the dtype that the model expects."
        ) from problem


def print_outcome(report: dict[str, Any], files: ReportFiles, written: list[Path], quiet: bool) -> None:
    """Print the numbers where asked for, then the table and the names of the files, or what interrupted work left.

    The table goes to stderr where standard output carries the numbers.
    """
    if files.to_stdout:
        from ..report.json import dump_json

        typer.echo(dump_json(report))
    names, complete = " and ".join(str(path) for path in written), report["provenance"]["complete"]
    if not complete:
        done = report["provenance"]["n_samples"]
        kept = f" The report of the {done} samples measured until then is in {names}." if names else ""
        typer.echo(f"featlearn: interrupted.{kept}", err=True)
    if not quiet:
        stream = sys.stderr if files.to_stdout else sys.stdout
        print_report(report, stream)
        if names and complete:
            typer.echo(f"Wrote {names}.", file=stream)


def _raised_by_model(problem: Exception) -> bool:
    """Whether a ``forward`` raised, called by this package but not by way of its hooks, and not for lack of memory."""
    if isinstance(problem, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(problem):
        return False
    frames = traceback.extract_tb(problem.__traceback__)
    ours = max((i for i, frame in enumerate(frames) if frame.filename.startswith(PACKAGE)), default=-1)
    return any(frame.name == "_call_impl" for frame in frames[ours + 1 :])
