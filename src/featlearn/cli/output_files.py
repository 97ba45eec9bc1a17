"""Files a command writes: refused before the work when they cannot be written, and whole or not there afterwards."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

__all__ = ["STANDARD_OUTPUT", "ReportFiles", "check_writable", "command_line"]

STANDARD_OUTPUT = "-"


def check_writable(path: Path, option: str) -> None:
    """Refuse a path that is a folder, or whose own folder is not there or may not be written to.

    Raises
    ------
    typer.BadParameter
        Before any work starts.
    """
    folder = path.parent
    if path.is_dir():
        raise typer.BadParameter(f"Got {option} {path}, which is a folder, but expected a file.")
    if not folder.is_dir():
        raise typer.BadParameter(f"Got {option} {path}, but there is no folder {folder}. Create it first.")
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise typer.BadParameter(f"Got {option} {path}, but it may not be written. Choose another folder.")


@dataclass(frozen=True)
class ReportFiles:
    """Where a report goes: a page, its numbers beside it, or the numbers to standard output."""

    html: Path | None
    json: Path | None
    to_stdout: bool = False

    @classmethod
    def plan(cls, html: Path | None, json: str | None) -> ReportFiles:
        """``--html`` implies a JSON file beside it; ``--json -`` is standard output."""
        if html is not None:
            check_writable(html, "--html")
        if json == STANDARD_OUTPUT:
            return cls(html, None, to_stdout=True)
        numbers = Path(json) if json is not None else None if html is None else html.with_suffix(".json")
        if numbers is not None:
            check_writable(numbers, "--json")
        if html is not None and numbers is not None and html.resolve() == numbers.resolve():
            raise typer.BadParameter(f"Got {html} for both --html and --json, but expected two files.")
        return cls(html, numbers)

    def write(self, report: dict[str, Any], image_shape: tuple[int, ...] | None = None, **page: Any) -> list[Path]:
        """Write the page and the numbers; return what was written.

        Parameters
        ----------
        report : dict
            ``FeatureReport.to_dict()``.
        image_shape : tuple of int or None
            (c, h, w) of the inputs, to draw a linear first layer's directions as images.
        **page
            Passed to :func:`featlearn.report.features.write_feature_report`.
        """
        from ..report.json import write_json

        written = []
        if self.json is not None:
            write_json(report, self.json)
            written.append(self.json)
        if self.html is not None:
            from ..report.features import write_feature_report

            write_feature_report(report, self.html, image_shape=image_shape, **page)
            written.insert(0, self.html)
        return written


def command_line(arguments: Sequence[str]) -> str:
    """The command as it can be typed again."""
    return shlex.join(["featlearn", *arguments])
