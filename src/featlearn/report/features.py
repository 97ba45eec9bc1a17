"""The page of a feature report: one self-contained file, made from a plain dictionary by templates."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from os import PathLike
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from ..exceptions import DataError
from ..plots.alignments import AlignmentRow, alignment_rows, check_report
from ..plots.history import history_rows
from ..plots.patches import Patches, check_image_shape, first_patches
from .charts import bar_panel, dumbbell_panel, history_chart, spectrum_chart
from .comparison import changes_between, comparison_table, differences_of_kind
from .environment import environment
from .files import atomic_write
from .tables import crh_table, layer_table, lazy_table, loss_table, speed_table

__all__ = ["feature_report_fragment", "write_feature_report"]

TRACKED = {"nfa_excess": "excess over chance", "nfa": "NFA", "centered_nfa": "centred NFA"}
SPECTRA = {"nfm_spectrum": "WᵀW", "agop_spectrum": "AGOP", "tangent_spectrum": "tangent kernel K"}


def write_feature_report(
    report: Mapping[str, Any],
    path: str | PathLike[str],
    *,
    image_shape: Sequence[int] | None = None,
    history: Any = None,
    comparison: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> None:
    """Write the report as one page that needs no network, no server and no other file.

    Every number on the page is one of ``report``, ``history`` or ``comparison``, whole in its markup
    (``<data value="...">``) and rounded for the eye.

    Parameters
    ----------
    report : mapping
        ``FeatureReport.to_dict()``, or its JSON read back (``null`` for nan).
    path : path-like
        Written whole or not at all; the folder must exist.
    image_shape : tuple of int, optional
        (height, width) or (channels, height, width) of the model's input: draws a plain first layer's directions.
    history : optional
        ``FeatureTracker.history``, its ``frame()``, or plain rows: curves along training.
    comparison : mapping, optional
        Another ``FeatureReport.to_dict()`` of the same network before: a section "before and after".
    title : str, optional
        Heading of the page.

    Raises
    ------
    DataError
        Not a report, an empty or unknown history, or an impossible ``image_shape``.
    OSError
        The file cannot be written.
    """
    shape = check_image_shape(image_shape)
    rows = None if history is None else history_rows(history)
    page = _context(report) | {
        "title": title or f"Feature learning in {check_report(report)['provenance']['model']}",
        "patches": _images(first_patches(report, shape)),
        "spectra": _spectra(report),
        "tracking": _tracking(rows),
        "comparison": None if comparison is None else _comparison(check_report(comparison), report),
        "loss_tables": _present(loss_table(report), crh_table(report)),
        "speed_table": speed_table(report),
        "lazy_table": lazy_table(report),
    }
    atomic_write(path, environment().get_template("page.html").render(page))


def feature_report_fragment(report: Mapping[str, Any]) -> str:
    """Headline, bars and table for a notebook cell; needs no script, and its styles stay within it.

    Parameters
    ----------
    report : mapping
        ``FeatureReport.to_dict()``, or its JSON read back.

    Raises
    ------
    DataError
        Not a report.
    """
    return environment().get_template("fragment.html").render(_context(report))


def _context(report: Mapping[str, Any]) -> dict[str, Any]:
    """What every form of the report shows."""
    rows = alignment_rows(report)
    centered = alignment_rows(report, "centered")
    layers = report["layers"]
    return {
        "report": report,
        "about": report["provenance"],
        "summary": report["summary"],
        "layers": layers,
        "rows": rows,
        "bars": bar_panel(rows, "NFA"),
        "centered": bar_panel(centered, "centred NFA") if centered else None,
        "table": layer_table(report),
        "caution": _caution(rows),
        "has_errors": any(math.isfinite(row.error) for row in rows),
        "trivial": [name for name, layer in layers.items() if layer["trivial"]],
        "undefined": _by_reason(
            {name: layer["reason"] for name, layer in layers.items() if layer["reason"] and not layer["trivial"]}
        ),
        "skipped": _by_reason(report["skipped"]),
        "shared": {name: layer["shared_with"] for name, layer in layers.items() if layer["shared_with"]},
    }


def _caution(rows: Sequence[AlignmentRow]) -> AlignmentRow | None:
    """The highest correlation that is no higher than chance: why the raw value alone means little."""
    misleading = [row for row in rows if row.verdict in ("at", "below")]
    return max(misleading, key=lambda row: row.value, default=None)


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        grouped.setdefault(reason, []).append(name)
    return grouped


def _spectra(report: Mapping[str, Any]) -> list[Any]:
    layers = {name: layer for name, layer in report["layers"].items() if not layer["trivial"]}
    return _present(*(spectrum_chart(layers, key, title) for key, title in SPECTRA.items()))


def _tracking(rows: Sequence[Mapping[str, Any]] | None) -> list[Any]:
    return [] if rows is None else _present(*(history_chart(rows, key, title) for key, title in TRACKED.items()))


def _comparison(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    changes = changes_between(before, after)
    if not changes:
        raise DataError("Got a comparison that shares no layer with the report. Compare two reports of one network.")
    moved = {verdict: [c.after.layer for c in changes if c.verdict == verdict] for verdict in ("rose", "fell")}
    return {
        "panel": dumbbell_panel(changes),
        "table": comparison_table(before, after),
        "moved": moved,
        "every": [change.after.layer for change in changes],
        "warnings": differences_of_kind(before, after),
        "about": before["provenance"],
    }


def _images(patches: Patches | None) -> dict[str, Any] | None:
    if patches is None:
        return None
    rows = {"AGOP": patches.agop, "WᵀW": patches.nfm}
    return {
        "layer": patches.layer,
        "channels": patches.shape[0],
        "rows": {label: [_png(image) for image in images] for label, images in rows.items()},
    }


def _png(image: NDArray[Any]) -> str:
    """A picture inside the page: one pixel a number, enlarged by the browser."""
    file = BytesIO()
    Image.fromarray(image).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def _present(*parts: Any) -> list[Any]:
    return [part for part in parts if part is not None]
