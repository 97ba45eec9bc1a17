"""The parts of ``featlearn coordinate-check``: its options, its batch, its run, its table and its files."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn

from .._random import generator, seeded_rng
from ..agop.batches import parse_batch, raw_outputs
from ..exceptions import DataError, FeatlearnError, ModelError
from ..training.coordinate import CoordinateCheck, coordinate_check
from ..training.coordinate_results import QUANTITIES, verdict_in_words
from .data_loading import Preparation, load_data
from .figure_files import check_figure, write_figure
from .object_loading import blame, load_object
from .output_files import ReportFiles
from .progress import progress_bar
from .tables import UNLIMITED

__all__ = [
    "CheckFiles",
    "check_options",
    "choose_batch",
    "load_factory",
    "load_optimizer",
    "print_check",
    "run_check",
]

Factory = Callable[[int], nn.Module]
MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def check_options(
    widths: str | None,
    depths: str | None,
    steps: int,
    seeds: int,
    layers: list[str] | None,
    tolerance: float,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Arguments of :func:`featlearn.coordinate_check` that the options of the command stand for.

    Raises
    ------
    typer.BadParameter
        A value that no option can have.
    """
    if (widths is None) == (depths is None):
        got = "neither --widths nor --depths" if widths is None else "both --widths and --depths"
        raise typer.BadParameter(f"Got {got}, but expected one of them, such as --widths 64,128,256,512.")
    if not 0 < tolerance < math.inf:
        raise typer.BadParameter(f"Got --tolerance {tolerance:g}, but expected a positive number, such as 0.15.")
    if not 0 < confidence < 1:
        raise typer.BadParameter(f"Got --confidence {confidence:g}, but expected a number between 0 and 1.")
    over, text = ("widths", widths) if widths is not None else ("depths", depths)
    sizes = read_integers(str(text), f"--{over}")
    if len(sizes) < 3 or list(sizes) != sorted(set(sizes)):
        raise typer.BadParameter(f"Got --{over} {text}, but expected at least 3 ascending numbers.")
    return {
        over: sizes,
        "steps": steps,
        "seeds": seeds,
        "layers": layers or "auto",
        "tolerance": tolerance,
        "confidence": confidence,
        "random_state": seed,
    }


def read_integers(text: str, option: str) -> tuple[int, ...]:
    """Positive whole numbers separated by commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"Got {option} {text}, but expected positive whole numbers separated by commas.")
    return tuple(int(part) for part in parts)


def load_factory(spec: str) -> Factory:
    """What ``spec`` names, called with a size; its failures are one line.

    Raises
    ------
    ModelError
        It cannot be found or is not callable; later, when a call fails or returns no module.
    """
    found = load_object(spec, "FACTORY", ModelError)
    if not callable(found) or isinstance(found, nn.Module):
        raise ModelError(
            f"Got FACTORY {spec!r}, a {type(found).__name__}, but expected a function of the width (or depth) that "
            "returns a new model."
        )

    def make(size: int) -> nn.Module:
        try:
            model = found(size)
        except Exception as problem:
            raise ModelError(f"Got FACTORY {spec!r}, but calling it with {size} failed: {blame(problem)}.") from problem
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"Got a {type(model).__name__} from FACTORY {spec!r} for {size}, but expected a torch.nn.Module."
            )
        return model

    return make


def load_optimizer(spec: str) -> MakeOptimizer:
    """``sgd:RATE``, ``adam:RATE`` or ``adamw:RATE``, or the user's ``MODULE:CALLABLE`` of the model.

    Raises
    ------
    typer.BadParameter
        Neither of these; later, when a call fails.
    """
    name, _, rate = spec.partition(":")
    if name in OPTIMIZERS:
        try:
            number = float(rate)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise typer.BadParameter(f"Got --optimizer {spec}, but expected a positive rate, such as {name}:0.01.")
        return lambda model: OPTIMIZERS[name](model.parameters(), lr=number)
    if ":" not in spec:
        raise typer.BadParameter(
            f"Got --optimizer {spec}, but expected {', '.join(f'{known}:RATE' for known in OPTIMIZERS)} or "
            "MODULE:CALLABLE."
        )
    found = load_object(spec, "--optimizer", typer.BadParameter)
    if not callable(found):
        raise typer.BadParameter(
            f"Got --optimizer {spec}, a {type(found).__name__}, but expected a function (model) -> optimiser."
        )

    def make(model: nn.Module) -> torch.optim.Optimizer:
        try:
            optimizer = found(model)
        except Exception as problem:
            raise typer.BadParameter(
                f"Got --optimizer {spec}, but calling it with the model failed: {blame(problem)}."
            ) from problem
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise typer.BadParameter(
                f"Got a {type(optimizer).__name__} from --optimizer {spec}, but expected a torch.optim.Optimizer."
            )
        return optimizer

    return make


# --- the batch --------------------------------------------------------------------------------------------------------


def choose_batch(
    data: str | None, input_shape: str | None, batch_size: int, options: Mapping[str, Any]
) -> tuple[Any, str]:
    """The one batch of all models, tried on the smallest of them, and what it is called.

    Raises
    ------
    typer.BadParameter
        Neither or both of ``--data`` and ``--input-shape``; a shape of no positive numbers.
    DataError
        Data that cannot be loaded, or that the model or the loss cannot process.
    """
    if (data is None) == (input_shape is None):
        got = "neither --data nor --input-shape" if data is None else "both --data and --input-shape"
        raise typer.BadParameter(f"Got {got}, but expected one of them.")
    shape = () if input_shape is None else read_integers(input_shape, "--input-shape")
    seed, size = options["random_state"], options.get("widths", options.get("depths"))[0]
    with seeded_rng(seed, "smallest model"):
        model = options["factory"](size)
        if data is not None:
            samples = load_data(data, Preparation(batch_size, batch_size, seed), model)
            batch, name = next(iter(samples.batches)), samples.name
        else:
            inputs = torch.randn(batch_size, *shape, generator=generator(seed, "inputs"))
            outputs = _try(f"--input-shape {input_shape}", partial(_outputs, model, inputs))
            batch = (inputs, _random_targets(outputs, seed))
            name = f"{batch_size} normal inputs of shape {input_shape}, random targets"
        outputs = _try(f"data that the model cannot process ({name})", partial(_outputs, model, batch))
        _try(
            f"a loss that cannot process the outputs and targets ({name})",
            partial(options["loss"], outputs, parse_batch(batch, model).targets),
        )
    return batch, name


def _outputs(model: nn.Module, batch: Any) -> Tensor:
    with torch.no_grad():
        return raw_outputs(model, parse_batch(batch, model), "logits")


def _random_targets(outputs: Tensor, seed: int) -> Tensor:
    """Signs for one output a sample, in its shape; class numbers for several."""
    draw = generator(seed, "targets")
    if outputs[0].numel() == 1:
        return torch.randint(0, 2, outputs.shape, generator=draw) * 2.0 - 1.0
    if outputs.ndim != 2:
        raise DataError(
            f"Got outputs of shape {tuple(outputs.shape)}, but random targets are for outputs of shape (n, classes). "
            "Pass --data."
        )
    return torch.randint(0, outputs.shape[1], outputs.shape[:1], generator=draw)


def _try(got: str, call: Callable[[], Tensor]) -> Tensor:
    try:
        return call()
    except FeatlearnError:
        raise
    except Exception as problem:
        raise DataError(f"Got {got}, but it fails with the smallest model: {blame(problem)}.") from problem


# --- the run and what it says -----------------------------------------------------------------------------------------


def run_check(options: Mapping[str, Any], quiet: bool) -> CoordinateCheck:
    """Run the check under a progress bar."""
    with progress_bar("Training", "models", quiet) as advance:
        return coordinate_check(progress=advance, **options)


@dataclass(frozen=True)
class CheckFiles:
    """Where the numbers and the figure go."""

    numbers: ReportFiles
    figure: Path | None

    @classmethod
    def plan(cls, json: str | None, figure: Path | None) -> CheckFiles:
        """Refuse files that cannot be written, figures of unknown kind, and one file for both.

        Raises
        ------
        typer.BadParameter
            Before any work starts.
        """
        numbers = ReportFiles.plan(None, json)
        if figure is not None:
            check_figure(figure, "--plot")
            if numbers.json is not None and figure.resolve() == numbers.json.resolve():
                raise typer.BadParameter(f"Got {figure} for both --plot and --json, but expected two files.")
        return cls(numbers, figure)

    def write(self, told: dict[str, Any]) -> list[Path]:
        """Write the files, each whole or not at all; return what was written."""
        written = self.numbers.write(told)
        if self.figure is not None:
            _draw(told, self.figure)
            written.append(self.figure)
        return written


def _draw(told: Mapping[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    from ..plots.coordinates import plot_coordinates

    figure = Figure(figsize=(13.5, 4.8), layout="constrained")  # no window system is asked for
    plot_coordinates(told, figure.subplots(1, 3))
    write_figure(figure, path)


def print_check(
    check: CoordinateCheck, told: Mapping[str, Any], files: CheckFiles, written: Sequence[Path], quiet: bool
) -> None:
    """Print the numbers where asked for, then the table, the verdict in words, and the names of the files.

    The table goes to stderr where standard output carries the numbers.
    """
    if files.numbers.to_stdout:
        from ..report.json import dump_json

        typer.echo(dump_json(told))
    if quiet:
        return
    stream = sys.stderr if files.numbers.to_stdout else sys.stdout
    width = shutil.get_terminal_size().columns if stream.isatty() else UNLIMITED
    lines = [textwrap.fill(line, width) for line in check.summary().splitlines()]
    typer.echo("\n".join([*slope_table(check), "", *lines]), file=stream)
    if written:
        typer.echo(f"Wrote {' and '.join(map(str, written))}.", file=stream)


def slope_table(check: CoordinateCheck) -> list[str]:
    """One row a layer and quantity: slope, interval, verdict; what is not judged has its verdict in brackets."""
    rows = [("layer", "quantity", "slope", f"{check.confidence:.0%} interval", "verdict")]
    for slope in check.slopes:
        defined = math.isfinite(slope.slope)
        verdict = verdict_in_words(slope.verdict, check.over)
        rows.append(
            (
                slope.layer,
                QUANTITIES[slope.quantity],
                f"{slope.slope:+.3f}" if defined else "-",
                f"{slope.low:+.3f} to {slope.high:+.3f}" if defined else "-",
                verdict if slope.judged else f"({verdict})",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ragged = (str.ljust, str.ljust, str.rjust, str.rjust, str.ljust)
    lines = [
        "  ".join(justify(cell, width) for justify, cell, width in zip(ragged, row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return [lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:], "", "(in brackets: shown, not judged)"]
