"""The page that compares machines on the same images: who is right how often, and what their patches look for."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from os import PathLike
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from ..exceptions import DataError
from ..plots.palette import diverging
from ..plots.patches import patch_image
from .environment import environment
from .files import atomic_write
from .numbers import count, fixed, general, percent
from .tables import Column, Row, Table, make_table

__all__ = ["MARGIN", "learned_matrix", "likenesses", "write_filters_report"]

COVARIANCE, AGOP, PCA = "CNN filter covariance", "CNN patch AGOP", "patch PCA"
MARGIN = 0.1  # of what counts as clearly closer: the numbers are of one fit and have no error bars
PARTS = ("data", "machines", "differences", "filters", "training")


def write_filters_report(told: Mapping[str, Any], path: str | PathLike[str], *, title: str | None = None) -> None:
    """Write the comparison as one page that needs no network, no server and no other file.

    Parameters
    ----------
    told : mapping
        What ``featlearn demo`` writes to ``filters.json``: ``data``, ``machines``, ``differences``, ``filters``
        (``EdgeReport.to_dict()`` with ``entries`` and ``edge_share`` of every matrix), ``training``, and, if there is
        one, ``provenance``.
    path : path-like
        Written whole or not at all; the folder must exist.
    title : str, optional
        Heading of the page.

    Raises
    ------
    DataError
        Not a comparison.
    OSError
        The file cannot be written.
    """
    missing = [part for part in PARTS if part not in told]
    if missing:
        raise DataError(f"Got a comparison without {', '.join(missing)}, but expected all of {', '.join(PARTS)}.")
    filters, learned = told["filters"], learned_matrix(told)
    page = {
        "title": title or "Four machines on the same images",
        "told": told,
        "about": told.get("provenance", {}),
        "machines": told["machines"],
        "machine_table": _machine_table(told["machines"]),
        "differences": told["differences"],
        "difference_table": _difference_table(told["differences"]),
        "filters": filters,
        "learned": learned,
        "margin": MARGIN,
        "likenesses": [(other, *likenesses(told, other)) for other in (AGOP, COVARIANCE)],
        "heatmaps": {name: _png(_heatmap(entries)) for name, entries in filters["entries"].items()},
        "patches": {name: _patches(filters, name) for name in filters["matrices"]},
        "similarity_table": _similarity_table(filters["similarity"]),
    }
    atomic_write(path, environment().get_template("filters.html").render(page))


def learned_matrix(told: Mapping[str, Any]) -> str:
    """Name of the matrix that stands for ConvRFM: its metric or, where the fixed kernel was chosen, its patch AGOP."""
    return next(name for name in told["filters"]["matrices"] if name.startswith("ConvRFM"))


def likenesses(told: Mapping[str, Any], other: str) -> tuple[Mapping[str, float], Mapping[str, float], str]:
    """Similarity to ``other`` of the matrix of ConvRFM, and of patch PCA, the null; which is closer, in words."""
    found = {frozenset((entry["first"], entry["second"])): entry for entry in told["filters"]["similarity"]}
    mine, null = found[frozenset((learned_matrix(told), other))], found[frozenset((PCA, other))]
    closer = mine["excess"] > null["excess"] + MARGIN, mine["overlap"] > null["overlap"] + MARGIN
    words = {
        (True, True): "clearly closer than patch PCA by both",
        (True, False): "clearly closer than patch PCA by the cosine, but not by its leading directions",
        (False, True): "clearly closer than patch PCA by its leading directions, but not by the cosine",
        (False, False): "not clearly closer than patch PCA by either, so that this likeness shows no learning",
    }
    return mine, null, words[closer]


def _machine_table(machines: Mapping[str, Any]) -> Table:
    columns = [
        Column(
            "correct",
            "Share of the test images that it named correctly, ± its binomial standard error.",
            lambda x: _share(x["accuracy"], x["standard_error"]),
        ),
        Column("chosen", "Hyperparameters, layer by layer where there are several.", _chosen),
        Column("by", "What chose them. The test images chose nothing.", _by),
        Column("seconds", "Choosing, fitting and predicting, on one thread.", lambda x: general(x["seconds"])),
    ]
    return make_table("Machines", columns, machines)


def _share(value: float, error: float) -> Markup:
    return Markup('{}&nbsp;<span class="pm">±&nbsp;{}</span>').format(percent(value, 1), percent(error, 1))


def _chosen(machine: Mapping[str, Any]) -> Markup:
    return Markup("<br>").join(_choice(one) for one in machine["chosen"])


def _choice(one: Mapping[str, Any]) -> Markup:
    if "learning_rate" in one:
        return Markup("learning rate {}, {} epochs").format(general(one["learning_rate"]), count(one["epochs"]))
    return Markup("ridge {}, iterate {}").format(general(one["ridge"]), count(one["iterate"]))


def _by(machine: Mapping[str, Any]) -> Markup:
    return Markup("<br>").join(escape(how) for how in machine["how"])


def _difference_table(differences: Sequence[Mapping[str, Any]]) -> Table:
    columns = [
        Column(
            "gain",
            "Accuracy of the first less that of the second, ± the standard error of the differences image by image.",
            lambda x: _share(x["gain"], x["standard_error"]),
        ),
        Column("verdict", "By two standard errors.", lambda x: escape(x["verdict"])),
    ]
    rows = [Row("", _pair(one["second"], "less", one["first"]), [c.cell(one) for c in columns], False) for one in
            differences]  # fmt: skip
    return Table("Differences of accuracy", columns, rows)


def _similarity_table(similarity: Sequence[Mapping[str, Any]]) -> Table:
    columns = [
        Column("cosine", "Of the entries of the two matrices.", lambda x: fixed(x["cosine"], 2)),
        Column("chance", "Its mean over random rotations of either matrix.", lambda x: fixed(x["chance"], 2)),
        Column("excess", "(cosine − chance) / (one − chance).", lambda x: fixed(x["excess"], 2)),
        Column(
            "overlap",
            "Mean squared cosine of the principal angles between the leading subspaces.",
            lambda x: fixed(x["overlap"], 2),
        ),
        Column("chance of overlap", "The same of random subspaces.", lambda x: fixed(x["overlap_chance"], 2)),
    ]
    rows = [Row("", _pair(one["first"], "and", one["second"]), [c.cell(one) for c in columns], False) for one in
            similarity]  # fmt: skip
    return Table("Similarity of the matrices", columns, rows)


def _pair(first: str, word: str, second: str) -> Markup:
    return Markup('{} <span class="quiet">{}</span> {}').format(first, word, second)


def _heatmap(entries: Sequence[Sequence[float]]) -> NDArray[np.uint8]:
    """A matrix in colours, scaled by its own largest magnitude."""
    values = np.nan_to_num(np.asarray(entries, dtype=np.float64))
    largest = np.abs(values).max()
    return diverging(values / largest if largest > 0 else values)


def _patches(filters: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Leading directions of a matrix as small pictures, with their numbers."""
    shape = (filters["channels"], filters["patch_size"], filters["patch_size"])
    keys = ("eigenvalues", "edge_energy", "constant_energy")
    numbers = zip(filters["directions"][name], *(filters[key][name] for key in keys), strict=True)
    return [
        {"picture": _png(patch_image(np.ravel(u).tolist(), shape)), "share": share, "edge": edge, "constant": constant}
        for u, share, edge, constant in numbers
    ]


def _png(image: NDArray[Any]) -> str:
    """A picture inside the page: one pixel a number, enlarged by the browser."""
    file = BytesIO()
    Image.fromarray(image).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
