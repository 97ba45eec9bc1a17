"""Reading a page as a reader does: what it shows, and which numbers stand behind."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "img", "wbr", "br", "link", "input", "rect", "line", "circle", "path"}
# Prose of the page that has digits without reporting a number.
PROSE = ("(NFA − chance) / (1 − chance)", "95% interval")


class Page(HTMLParser):
    """Elements, reported numbers and prose of a page.

    ``data`` holds (value, text) of every number; ``prose`` the text outside of numbers, names, quoted strings and
    figures; ``elements`` every (tag, attributes); ``texts`` the text of every element by tag and class.
    """

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.data: list[tuple[str, str]] = []
        self.prose = ""
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, dict[str, str], str]] = []
        self.problems: list[str] = []
        self._open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(markup)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag, _, _ in self._open]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        entry = {name: value or "" for name, value in attributes}
        self.elements.append((tag, entry))
        if tag not in VOID:
            self._open.append((tag, entry, []))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            self.problems.append(f"</{tag}> closes {self._open[-1][0] if self._open else 'nothing'}")
            return
        tag, attributes, texts = self._open.pop()
        text = "".join(texts)
        self.texts.append((tag, attributes, text))
        if tag == "data":
            self.data.append((attributes["value"], text))
        if self._open:
            self._open[-1][2].append(text)

    def handle_data(self, text: str) -> None:
        if self._open:
            self._open[-1][2].append(text)
        apart = {"data", "svg", "style", "script", "title", "h1"}
        quoted = {"name", "verbatim"}
        if not any(tag in apart or quoted & set(a.get("class", "").split()) for tag, a, _ in self._open):
            self.prose += text

    def of_class(self, name: str) -> list[str]:
        """Texts of the elements of a class."""
        return [text for _, attributes, text in self.texts if name in attributes.get("class", "").split()]

    def loose_digits(self) -> list[str]:
        """Numbers in the prose that no ``<data>`` holds."""
        prose = self.prose
        for known in PROSE:
            prose = prose.replace(known, "")
        return re.findall(r".{0,30}\d.{0,30}", prose)


def numbers_in(tree: Any) -> Iterator[float]:
    """Every number of a nested dictionary, and how many entries its lists of layers have."""
    if isinstance(tree, bool) or tree is None or isinstance(tree, str):
        return
    if isinstance(tree, int | float):
        yield float(tree)
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from numbers_in(value)
    else:
        yield float(len(tree))
        for value in tree:
            yield from numbers_in(value)


def rounds_to(value: str, text: str) -> bool:
    """Whether ``text`` is the number ``value``, rounded at its last digit."""
    plain = text.replace("−", "-").replace(",", "")
    mantissa, _, exponent = plain.partition("e")
    digits = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return math.isclose(float(plain), float(value), rel_tol=1e-9, abs_tol=0.5000001 * 10.0**-digits)
