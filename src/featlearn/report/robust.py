"""The page of a retrained last layer: how every method does on every group, on which rows, and by what choice."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from markupsafe import Markup

from ..exceptions import DataError
from .environment import environment
from .files import atomic_write
from .groups import group_page
from .numbers import count
from .tables import Column, Table, make_table

__all__ = ["write_robust_report"]

PARTS = ("comparison", "rows", "methods", "C", "provenance")


def write_robust_report(told: Mapping[str, Any], path: str | PathLike[str], *, title: str | None = None) -> None:
    """Write the comparison as one page that needs no network and no other file.

    Parameters
    ----------
    told : mapping
        What ``featlearn robust --json`` writes.
    path : path-like
        Written whole or not at all; the folder must exist.
    title : str, optional
        Heading of the page.

    Raises
    ------
    DataError
        Not such a comparison.
    OSError
        The file cannot be written.
    """
    missing = [part for part in PARTS if part not in told]
    if missing:
        raise DataError(f"Got a comparison without {', '.join(missing)}, but expected what featlearn robust writes.")
    comparison = told["comparison"]
    page = group_page(
        comparison["reports"],
        title=title or "The last layer retrained: accuracy of every group",
        caveats=comparison["caveats"],
    )
    page |= {
        "about": told["provenance"],
        "used": _rows_table(told),
        "explained": {name: (words, _choice(told, name)) for name, words in told["methods"].items()},
    }
    atomic_write(path, environment().get_template("robust.html").render(page))


def _rows_table(told: Mapping[str, Any]) -> Table:
    columns = [
        Column("training", "Rows that trained the network: their shares weigh a mean.", lambda x: count(x["train"])),
        Column("held-out", "Rows that the last layers were fitted to.", lambda x: count(x["fit"])),
        Column("test", "Rows that judge them.", lambda x: count(x["test"])),
    ]
    if not any(row["train"] for row in told["rows"]):
        columns.pop(0)
    return make_table("Rows of every group", columns, {row["label"]: row for row in told["rows"]})


def _choice(told: Mapping[str, Any], method: str) -> Markup:
    """How strong the penalty is, where there was one."""
    C = told["C"].get(method)
    if (
        C is None
        or C["chosen"] is None
        or "validation" not in (told["comparison"]["reports"][method]["selection"] or "")
    ):
        return Markup("")
    return Markup(' C = <data value="{}">{}</data> was chosen.').format(repr(float(C["chosen"])), f"{C['chosen']:g}")
