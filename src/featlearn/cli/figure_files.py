"""Figures as files: their kinds, and drawn beside their place and moved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..report.files import moved_to
from .output_files import check_writable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_figure", "write_figure"]

KINDS = (".png", ".svg", ".pdf")


def check_figure(path: Path, option: str) -> None:
    """Refuse a figure of unknown kind, or one that cannot be written.

    Raises
    ------
    typer.BadParameter
        Before any work starts.
    """
    if path.suffix.lower() not in KINDS:
        raise typer.BadParameter(f"Got {option} {path}, but expected a file ending in {', '.join(KINDS)}.")
    check_writable(path, option)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all; its kind follows from its name."""
    with moved_to(path) as beside:
        figure.savefig(beside, format=path.suffix[1:].lower(), dpi=150)
