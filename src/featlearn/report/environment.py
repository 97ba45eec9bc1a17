"""The templates of every page, and how they show numbers."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..plots import palette
from . import numbers

__all__ = ["environment"]


@cache
def environment() -> Environment:
    """Templates that escape what they are given, and refuse what they are not."""
    made = Environment(
        loader=PackageLoader("featlearn.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["palette"] = palette
    made.filters |= {
        "count": numbers.count,
        "fixed": numbers.fixed,
        "general": numbers.general,
        "layer": numbers.name,
        "percent": numbers.percent,
    }
    made.globals["measured"] = numbers.measured
    made.globals["with_error"] = numbers.with_error
    return made
