"""Two reports side by side: before and after, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..plots.alignments import AlignmentRow, alignment_rows
from .numbers import fixed, with_error
from .tables import Column, Table, make_table

__all__ = ["Change", "changes_between", "comparison_table", "differences_of_kind"]


@dataclass(frozen=True)
class Change:
    """One layer in two reports."""

    before: AlignmentRow
    after: AlignmentRow

    @property
    def verdict(self) -> str:
        """Whether the excess moved by more than two standard errors of the difference."""
        difference = self.after.excess - self.before.excess
        error = math.hypot(self.after.error, self.before.error)
        if not (math.isfinite(difference) and math.isfinite(error)):
            return "unknown"
        if abs(difference) <= 2 * error:
            return "unclear"
        return "rose" if difference > 0 else "fell"


def changes_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Layers that both reports have, in the order of the later one; trivial layers are left out."""
    earlier = {row.layer: row for row in alignment_rows(before)}
    return [Change(earlier[row.layer], row) for row in alignment_rows(after) if row.layer in earlier]


def comparison_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """Alignment and rank of every common layer, before and after."""
    pairs = {
        change.after.layer: {
            "before": before["layers"][change.after.layer],
            "after": after["layers"][change.after.layer],
        }
        for change in changes_between(before, after)
    }
    columns = []
    for when in ("before", "after"):
        columns += [
            Column(
                f"NFA {when}",
                f"NFA {when}, ± one standard error.",
                lambda x, when=when: _cell(x[when]["nfa"], "value", "standard_error", 3),  # type: ignore[misc]
            ),
            Column(
                f"excess {when}",
                f"Excess over chance {when}, ± one standard error.",
                lambda x, when=when: _cell(x[when]["nfa"], "excess", "excess_standard_error", 2),  # type: ignore[misc]
            ),
            Column(
                f"rank {when}",
                f"Effective rank of the AGOP {when}.",
                lambda x, when=when: fixed(x[when]["agop_spectrum"]["effective_rank"], 1),  # type: ignore[misc]
            ),
        ]
    return make_table("Before and after", columns, pairs)


def differences_of_kind(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What makes two reports hard to compare, in sentences."""
    words = {
        "data_sha256": "They were measured on different data.",
        "statistic": "They use different statistics.",
        "power": "They use different powers of the AGOP.",
        "model": "Their models are of different classes.",
    }
    mine, theirs = after["provenance"], before["provenance"]
    found = [sentence for key, sentence in words.items() if mine.get(key) != theirs.get(key)]
    if set(before["layers"]) != set(after["layers"]):
        found.append("Layers that only one of them has are left out.")
    if not theirs.get("complete", True):
        found.append("The earlier measurement was interrupted.")
    return found


def _cell(alignment: Mapping[str, Any], value: str, error: str, digits: int) -> Any:
    return with_error(alignment[value], alignment[error], digits)
