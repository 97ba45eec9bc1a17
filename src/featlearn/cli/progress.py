"""A progress bar on standard error: there when a person is watching, silent otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Advance", "progress_bar"]


# Called with what is done and what there is to do (None: unknown).
Advance = Callable[[int, int | None], None]


@contextmanager
def progress_bar(label: str, unit: str, quiet: bool = False) -> Iterator[Advance]:
    """Yield a function that moves the bar; nothing is drawn when stderr is no terminal or ``quiet`` is set.

    Parameters
    ----------
    label : str
        What is going on.
    unit : str
        What is counted: "batches", "steps".
    quiet : bool
        No bar even on a terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[counted]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None, counted=unit)

        def advance(done: int, total: int | None) -> None:
            counted = f"{done} of {total} {unit}" if total is not None else f"{done} {unit}"
            bar.update(task, completed=done, total=total, counted=counted)

        yield advance
