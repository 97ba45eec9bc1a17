"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["atomic_write", "moved_to", "write_table"]

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }}
body {{ max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }}
tbody th, thead th:first-child {{ text-align: left; }}
</style>
</head>
<body>
<h1>{title}</h1>
<div role="region" aria-label="{title}" tabindex="0">
{table}
</div>
</body>
</html>
"""


def atomic_write(path: str | PathLike[str], text: str) -> None:
    """Write a text file beside its place, then move it there: readers see the old file or the whole new one.

    Parameters
    ----------
    path : path-like
        Its folder must exist. A link is followed; a device or pipe is written to directly.
    text : str
        Written as UTF-8.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    IsADirectoryError
        ``path`` is a folder.
    OSError
        Anything else that keeps the file from being written; an earlier file is then left as it was.
    """
    place = Path(os.path.realpath(path))
    if not place.parent.is_dir():
        raise FileNotFoundError(f"Got {os.fspath(path)}, but there is no folder {place.parent}. Create it first.")
    if place.is_dir():
        raise IsADirectoryError(f"Got {os.fspath(path)}, which is a folder, but expected a file.")
    if place.exists() and not place.is_file():
        place.write_text(text, encoding="utf-8")
        return
    with moved_to(place) as beside, beside.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # or a crash soon after could leave the new name on an empty file


@contextmanager
def moved_to(place: Path) -> Iterator[Path]:
    """A free name beside ``place``, moved there at the end of the block; after an exception nothing is left of it."""
    beside = place.with_name(f".{place.name[:100]}.{uuid4().hex}.tmp")
    try:
        yield beside
        beside.replace(place)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_table(frame: pd.DataFrame, path: str | PathLike[str], *, title: str) -> None:
    """Write a table as a small self-contained page.

    Parameters
    ----------
    frame : DataFrame
        Shown with its index, numbers to four significant digits. Names are escaped.
    path : path-like
        As for :func:`atomic_write`.
    title : str
        Heading of the page.
    """
    table = frame.to_html(float_format="{:.4g}".format, na_rep="–", border=0)
    atomic_write(path, _PAGE.format(title=escape(title), table=table))
