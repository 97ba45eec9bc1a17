"""``featlearn doctor``: what this installation computes with, and whether it computes the right number."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["doctor"]


def doctor(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")] = False,
) -> int:
    """Check this installation.

    Versions, devices, threads, data, and one identity against autograd.

    Exit code 0 when everything that is needed is there and right, 1 otherwise.
    """
    from .doctor_run import run

    return run()
