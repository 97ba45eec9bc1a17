"""Numbers as a page shows them: rounded for the eye, whole in the markup, so that what is read can be checked."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup, escape

from ..plots.alignments import number

__all__ = ["NOTHING", "count", "fixed", "fixed_text", "general", "measured", "name", "percent", "with_error"]

SMALLEST_ERROR = 6  # digits
NOTHING = Markup('<span class="none" title="not measured, or not defined">–</span>')


def fixed(value: Any, digits: int = 3) -> Markup:
    """``0.6391`` as ``<data value="0.6391">0.639</data>``; a dash for ``None`` and nan."""
    return _data(value, fixed_text(value, digits))


def fixed_text(value: Any, digits: int = 3) -> str:
    """The text alone, for labels: a dash for what is not finite, and no minus before a zero."""
    if not math.isfinite(number(value)):
        return "–"
    text = f"{number(value):.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def general(value: Any) -> Markup:
    """Three significant digits, of any size: ``0.0123``, ``1.2e−5``."""
    mantissa, _, exponent = f"{number(value):.3g}".partition("e")
    return _data(value, f"{mantissa}e{int(exponent)}".replace("-", "−") if exponent else mantissa.replace("-", "−"))


def count(value: Any) -> Markup:
    """A whole number with its thousands apart; one decimal when it is not whole."""
    digits = 0 if number(value).is_integer() else 1
    return _data(value, f"{number(value):,.{digits}f}".replace("-", "−"))


def with_error(value: Any, error: Any, digits: int = 3) -> Markup:
    """A value and, when it is known, its standard error, with more digits where it would round to zero."""
    if not (math.isfinite(number(value)) and math.isfinite(number(error))):
        return fixed(value, digits)
    vanishes = 0 < error < 0.5 * 10**-digits
    shown = min(SMALLEST_ERROR, math.ceil(-math.log10(error))) if vanishes else digits
    return Markup('{}&nbsp;<span class="pm">±&nbsp;{}</span>').format(fixed(value, digits), fixed(error, shown))


def measured(value: Any, error: Any) -> Markup:
    """A value of any size and its standard error, both to the second digit of the error; without one like general."""
    if not (math.isfinite(number(value)) and math.isfinite(number(error))) or error <= 0:
        return general(value)
    digits = 1 - math.floor(math.log10(error))
    if digits > SMALLEST_ERROR:
        return general(value)
    return with_error(value, error, max(0, digits))


def percent(value: Any, digits: int = 0) -> Markup:
    """A share in percent, ``0.4713`` as ``<data value="0.4713">47%</data>``; what would round to zero is below one."""
    if not math.isfinite(number(value)):
        return NOTHING
    share = 100 * number(value)
    if 0 < share < 0.5 * 10**-digits:
        return Markup('<data value="{}">{}</data>').format(repr(float(value)), f"<{fixed_text(10**-digits, digits)}%")
    return Markup('<data value="{}">{}%</data>').format(repr(float(value)), fixed_text(share, digits))


def name(text: str) -> Markup:
    """A layer's name, escaped, which may break after its dots and underscores."""
    breakable = str(escape(text)).replace(".", ".<wbr>").replace("_", "_<wbr>")
    return Markup('<span class="name">{}</span>').format(Markup(breakable))


def _data(value: Any, text: str) -> Markup:
    if not math.isfinite(number(value)):
        return NOTHING
    whole = repr(float(value)) if isinstance(value, float) else str(int(value))
    return Markup('<data value="{}">{}</data>').format(whole, text)
