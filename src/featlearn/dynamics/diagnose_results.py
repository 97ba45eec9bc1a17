"""What diagnose returns: a verdict, the evidence that it rests on, and what to beware of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from os import PathLike
from typing import TYPE_CHECKING, Any

from .mechanism_results import LayerMechanisms

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Diagnosis", "Evidence"]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One measure.

    Attributes
    ----------
    value : float
        nan when it could not be computed; ``reason`` says why.
    meaning, caveat : str
        What it says, and what it does not.
    parts : mapping of str to float
        By layer, parameter or pair, where there are several.
    reason : str or None
    """

    value: float
    meaning: str
    caveat: str
    parts: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Diagnosis:
    """Which regime a run is in, and which mechanism it learned by.

    Attributes
    ----------
    regime : {"lazy", "intermediate", "feature learning"} or None
        None when only weights were given.
    kind : {"upstream", "balanced", "downstream"} or None
        None for lazy runs, and where no pair of layers has a balance.
    evidence : mapping of str to Evidence
        ``kernel_distance``, ``kernel_growth``, ``hamming``, ``weights_moved``, ``balance_start``, ``balance_end``,
        ``balance_drift``, ``hyperbola_residual``, ``theta_growth``.
    mechanisms : LayerMechanisms or None
        None when the model has no two consecutive layers.
    flags : tuple of str
        What weakens the evidence in this model or run.
    advice : str
        One sentence that names a knob.
    history : tuple of mapping
        One row a snapshot of :class:`~featlearn.dynamics.run_recorder.RunRecorder`; the last step alone otherwise.
    n_samples : int
        Inputs.
    """

    regime: str | None
    kind: str | None
    evidence: Mapping[str, Evidence] = field(repr=False)
    mechanisms: LayerMechanisms | None = field(repr=False)
    flags: tuple[str, ...]
    advice: str
    history: tuple[Mapping[str, float], ...] = field(default=(), repr=False)
    n_samples: int = 0

    @property
    def verdict(self) -> str:
        """Regime and kind in one phrase."""
        return ", ".join(word for word in (self.regime or "regime unknown", self.kind) if word)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return {
            "kind": "Diagnosis",
            "schema": 1,
            "regime": self.regime,
            "run_kind": self.kind,
            "evidence": {name: asdict(evidence) for name, evidence in self.evidence.items()},
            "mechanisms": None if self.mechanisms is None else self.mechanisms.to_dict(),
            "flags": list(self.flags),
            "advice": self.advice,
            "history": [dict(row) for row in self.history],
            "n_samples": self.n_samples,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Diagnosis:
        """Inverse of :meth:`to_dict`; values that are ``None`` read as ``nan``."""
        evidence = {
            name: Evidence(**{**entry, "value": _float(entry["value"]), "parts": _floats(entry["parts"])})
            for name, entry in plain["evidence"].items()
        }
        mechanisms = plain["mechanisms"]
        return cls(
            regime=plain["regime"],
            kind=plain["run_kind"],
            evidence=evidence,
            mechanisms=None if mechanisms is None else LayerMechanisms.from_dict(mechanisms),
            flags=tuple(plain["flags"]),
            advice=plain["advice"],
            history=tuple(_floats(row) for row in plain["history"]),
            n_samples=plain["n_samples"],
        )

    def frame(self) -> pd.DataFrame:
        """One row a measure: value, meaning, caveat, reason."""
        import pandas as pd

        rows = {name: asdict(evidence) for name, evidence in self.evidence.items()}
        columns = ["value", "meaning", "caveat", "reason"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("measure")

    def plot(self, ax: Any = None) -> list[Axes]:
        """A dashboard of four panels: regime, weights, balance, mechanisms; one Axes gets the regime alone."""
        from ..plots.diagnosis import plot_diagnosis

        return plot_diagnosis(self.to_dict(), ax)

    def to_html(self, path: str | PathLike[str], *, title: str | None = None) -> None:
        """Write one page that needs no network and no other file; whole or not at all."""
        from ..report.diagnosis import write_diagnosis_report

        write_diagnosis_report(self.to_dict(), path, title=title)

    def _repr_html_(self) -> str:
        flags = "".join(f"<li>{escape(flag)}</li>" for flag in self.flags)
        table = self.frame().to_html(float_format="{:.3g}".format)
        return f"<p><b>{escape(self.verdict)}</b>. {escape(self.advice)}</p><ul>{flags}</ul>{table}"


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _floats(plain: Mapping[str, Any]) -> dict[str, float]:
    return {name: _float(value) for name, value in plain.items()}
