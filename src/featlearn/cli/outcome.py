"""What a command leaves: lines on the screen, a page, a figure and numbers, refused beforehand if they cannot be."""

from __future__ import annotations

import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..exceptions import FeatlearnWarning
from .figure_files import check_figure, write_figure
from .output_files import STANDARD_OUTPUT, check_writable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Outcome", "text_table", "wrapped"]

LINE = 100  # columns of prose, where no terminal is narrower
UNLIMITED = 10_000  # columns of a file or a pipe


@dataclass(frozen=True)
class Outcome:
    """Where page, figure and numbers go; lines go to stderr where standard output carries the numbers.

    Attributes
    ----------
    html, figure : Path or None
    json : str or None
        "-" for standard output.
    quiet : bool
        Tell nothing.
    others : mapping of str to Path
        More files that the command writes, by option.
    """

    html: Path | None = None
    figure: Path | None = None
    json: str | None = None
    quiet: bool = False
    others: Mapping[str, Path] = field(default_factory=dict)

    def check(self, reads: Iterable[Path | None] = ()) -> None:
        """Refuse files that cannot be written, one file for two things, and files that the command reads.

        Parameters
        ----------
        reads : iterable of Path or None

        Raises
        ------
        typer.BadParameter
            Before any work starts.
        """
        if self.figure is not None:
            check_figure(self.figure, "--png")
        files = self._files()
        read = {path.resolve() for path in reads if path is not None}
        for option, path in files.items():
            check_writable(path, option)
            if path.resolve() in read:
                raise typer.BadParameter(f"Got {option} {path}, which the command reads, but expected another file.")
        if len({path.resolve() for path in files.values()}) < len(files):
            raise typer.BadParameter(f"Got one file for two of {', '.join(files)}, but expected different files.")

    def tell(self, lines: Sequence[str]) -> None:
        """Print lines."""
        if not self.quiet:
            typer.echo("\n".join(lines), file=sys.stderr if self.json == STANDARD_OUTPUT else sys.stdout)

    def note(self, text: str) -> None:
        """Print a remark on stderr."""
        if not self.quiet:
            typer.echo(f"featlearn: note: {text}", err=True)

    @contextmanager
    def warned(self) -> Iterator[None]:
        """Tell each warning once, whatever changes the filters meanwhile; none of the package's own when quiet."""
        show, told = warnings.showwarning, set()

        def once(message: Warning | str, category: type[Warning], *place: Any, **rest: Any) -> None:
            if str(message) not in told:
                told.add(str(message))
                show(message, category, *place, **rest)

        with warnings.catch_warnings():
            if self.quiet:
                warnings.simplefilter("ignore", FeatlearnWarning)
            warnings.showwarning = once
            yield

    def write(
        self,
        told: Mapping[str, Any],
        page: Callable[[Path], None] | None = None,
        size: tuple[float, float] | None = None,
        draw: Callable[[Figure], object] | None = None,
    ) -> None:
        """Write what was asked for, each file whole or not at all, and say so.

        Parameters
        ----------
        told : mapping
            The numbers.
        page : callable, optional
            Writes the page, of a command that has one.
        size : tuple of float, optional
            Of the figure, in inches.
        draw : callable, optional
            Draws into it.
        """
        from ..report.json import dump_json, write_json

        if self.json == STANDARD_OUTPUT:
            typer.echo(dump_json(told))
        elif self.json is not None:
            write_json(told, self.json)
        if self.html is not None and page is not None:
            page(self.html)
        if self.figure is not None and draw is not None:
            from matplotlib.figure import Figure

            figure = Figure(figsize=size, layout="constrained")  # no window system is asked for
            draw(figure)
            write_figure(figure, self.figure)
        files = self._files()
        if files:
            self.tell([f"Wrote {' and '.join(str(path) for path in files.values())}."])

    def _files(self) -> dict[str, Path]:
        numbers = Path(self.json) if self.json not in (None, STANDARD_OUTPUT) else None
        named = {"--html": self.html, "--png": self.figure, "--json": numbers, **self.others}
        return {option: path for option, path in named.items() if path is not None}


def text_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int] = (0,), optional: Sequence[int] = ()
) -> list[str]:
    """Columns of equal width: those whose places are in ``texts`` to the left, numbers to the right.

    Where the terminal is too narrow, columns of ``optional`` are left out, the first first; a file gets all.
    """
    columns = [list(column) for column in zip(head, *rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    left, kept = {place % len(head) for place in texts}, list(range(len(head)))
    room = shutil.get_terminal_size((UNLIMITED, 24)).columns
    for place in optional:
        if sum(widths[k] + 2 for k in kept) - 2 > room:
            kept.remove(place % len(head))
    cells = [[c.ljust(widths[k]) if k in left else c.rjust(widths[k]) for c in columns[k]] for k in kept]
    lines = ["  ".join(line).rstrip() for line in zip(*cells, strict=True)]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def wrapped(sentences: Sequence[str], hanging: str = "") -> list[str]:
    """Prose in lines that a terminal holds, all but the first of a sentence indented by ``hanging``."""
    width = min(LINE, shutil.get_terminal_size((LINE, 24)).columns)
    return [textwrap.fill(sentence, width, subsequent_indent=hanging, break_on_hyphens=False) for sentence in sentences]
