"""What a coordinate check returns: raw values, a slope and a verdict for each layer and quantity, and one for all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from .slopes import FEWEST_SIZES, Verdict, judge, power_law_slope

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["QUANTITIES", "CoordinateCheck", "CoordinateRecord", "CoordinateSlope", "Over", "RunFailure"]

NAN = float("nan")
Over = Literal["width", "depth"]

# In words, for sentences and figures.
QUANTITIES = {
    "feature_rms": "features",
    "feature_change_rms": "change of features",
    "cos_theta": "angle",
}
_MOST_NAMED = 6  # in a sentence; the table has all
_SHOWN = {
    "width": "The readout is shown, not judged: under muP its output starts at width^(-1/2), and from a readout that "
    "starts at zero it is not flat after the first step.",
    "depth": "Only the last hidden layer is judged: the share of the loss decay that passes through other layers, and "
    "the output of the readout, may depend on depth under a sound rule.",
}


@dataclass(frozen=True, kw_only=True)
class CoordinateRecord:
    """One layer after ``step`` steps of one run. Undefined values are nan.

    Attributes
    ----------
    size, seed, step : int
        Width (or depth) of the model, number of the run, steps made.
    layer, name : str
        Layer as it is compared between sizes, and its name in this model: over width they agree, over depth the first
        is a place.
    feature_rms, feature_change_rms, cos_theta : float
        ``rms(f(t))``, ``rms(f(t) - f(0))`` and the cosine of the angle of the last step.
    """

    size: int
    seed: int
    step: int
    layer: str
    name: str
    feature_rms: float
    feature_change_rms: float
    cos_theta: float


@dataclass(frozen=True, kw_only=True)
class RunFailure:
    """A run that met numbers that are not finite, and stopped."""

    size: int
    seed: int
    step: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class CoordinateSlope:
    """Exponent of one quantity of one layer after the last step, and what it says.

    Attributes
    ----------
    layer, quantity : str
        Which layer, and "feature_rms", "feature_change_rms" or "cos_theta".
    slope, low, high : float
        Estimate and interval of d log(quantity) / d log(size).
    n, left_out : int
        Values used; values that have no logarithm (zero, negative, undefined).
    judged : bool
        Whether the overall verdict counts it.
    verdict : "flat", "depends" or "undecided"
        Of the interval against the tolerance.
    note : str or None
        What is unusual about the values.
    """

    layer: str
    quantity: str
    slope: float
    low: float
    high: float
    n: int
    left_out: int
    judged: bool
    verdict: Verdict
    note: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class CoordinateCheck:
    """Whether a model behaves alike at every size, layer by layer, with intervals.

    Attributes
    ----------
    over : "width" or "depth"
        What the sizes are.
    sizes : tuple of int
        In ascending order.
    seeds, steps : int
        Runs a size, and steps a run.
    tolerance, confidence : float
        Largest slope that counts as none, and confidence of the intervals.
    slopes : tuple of CoordinateSlope
        One a layer and quantity, layers in the order of execution.
    measured : tuple of CoordinateRecord
        Raw values, also of the steps before the last.
    failures : tuple of RunFailure
        Runs that met numbers that are not finite.
    readout : str or None
        The layer whose output is only shown.
    optimizer, mode : str
        What made the steps, and in which mode the models ran.
    """

    over: Over
    sizes: tuple[int, ...]
    seeds: int
    steps: int
    tolerance: float
    confidence: float
    slopes: tuple[CoordinateSlope, ...]
    measured: tuple[CoordinateRecord, ...]
    failures: tuple[RunFailure, ...]
    readout: str | None
    optimizer: str
    mode: str

    @property
    def passed(self) -> bool | None:
        """True if all that is judged is flat, False if anything depends on size or is not finite, None if undecided."""
        judged = [slope for slope in self.slopes if slope.judged]
        if self.failures or any(slope.verdict == "depends" for slope in judged):
            return False
        return True if judged and all(slope.verdict == "flat" for slope in judged) else None

    def frame(self) -> pd.DataFrame:
        """One row a layer and quantity: slope, interval, number of values, verdict."""
        import pandas as pd

        rows = [asdict(slope) | {"verdict": verdict_in_words(slope.verdict, self.over)} for slope in self.slopes]
        return pd.DataFrame(rows).set_index(["layer", "quantity"])

    def records(self) -> pd.DataFrame:
        """Raw values, one row a size, seed, step and layer."""
        import pandas as pd

        return pd.DataFrame([asdict(record) for record in self.measured])

    def summary(self) -> str:
        """The verdict in words: what is flat, what is not, what cannot be said, and what to do about it."""
        sizes = f"{len(self.sizes)} {self.over}s from {self.sizes[0]} to {self.sizes[-1]}"
        runs = f"{sizes}, {_count(self.seeds, 'seed')}, {_count(self.steps, 'step')} of {self.optimizer}"
        limits = f"tolerance {self.tolerance:g}, {self.confidence:.0%} intervals"
        lines = [f"{_HEADLINES[self.passed].format(over=self.over)} ({runs}; {limits})."]
        lines += self._failed()
        judged = [slope for slope in self.slopes if slope.judged and math.isfinite(slope.slope)]
        for verdict, opening in (("depends", "Not flat"), ("undecided", "Interval across the tolerance")):
            found = [slope for slope in judged if slope.verdict == verdict]
            steepest = sorted(found, key=lambda slope: -abs(slope.slope))[:_MOST_NAMED]
            rest = f"; and {len(found) - _MOST_NAMED} less steep" if len(found) > _MOST_NAMED else ""
            if found:
                lines.append(f"{opening}: {'; '.join(_in_words(slope) for slope in steepest)}{rest}.")
        if self.passed is None:
            lines.append(f"More seeds, or {self.over}s over a longer range, narrow the intervals.")
        notes: dict[str, list[str]] = {}
        for slope in self.slopes:
            if slope.note:
                notes.setdefault(slope.note, []).append(f"{QUANTITIES[slope.quantity]} of {slope.layer!r}")
        for note, names in notes.items():
            rest = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            lines.append(f"Note: {', '.join(names[:_MOST_NAMED])}{rest}: {note}.")
        if self.readout is not None:
            lines.append(_SHOWN[self.over])
        return "\n".join(lines)

    def _failed(self) -> list[str]:
        """One line a size: which seeds, and what happened first."""
        by_size: dict[int, list[RunFailure]] = {}
        for failure in self.failures:
            by_size.setdefault(failure.size, []).append(failure)
        return [
            f"Not finite: {self.over} {size}, {len(found)} of {_count(self.seeds, 'seed')}: {found[0].reason} after "
            f"{_count(found[0].step, 'step')}."
            for size, found in sorted(by_size.items())
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries (JSON-ready once ``nan`` is allowed or replaced)."""
        plain = asdict(self)
        for key in ("sizes", "slopes", "measured", "failures"):
            plain[key] = list(plain[key])
        return {"kind": "CoordinateCheck", "schema": 1, "passed": self.passed, "summary": self.summary(), **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> CoordinateCheck:
        """Inverse of :meth:`to_dict`; ``null`` in place of a number is nan."""
        values = {field.name: plain[field.name] for field in fields(cls)}
        values["sizes"] = tuple(plain["sizes"])
        values["slopes"] = tuple(
            CoordinateSlope(**_undefined(entry, ("slope", "low", "high"))) for entry in plain["slopes"]
        )
        values["measured"] = tuple(CoordinateRecord(**_undefined(entry, QUANTITIES)) for entry in plain["measured"])
        values["failures"] = tuple(RunFailure(**entry) for entry in plain["failures"])
        return cls(**values)

    def plot(self, ax: Any = None) -> Any:
        """Every quantity against size on logarithmic axes, with the fitted slopes.

        Parameters
        ----------
        ax : Axes or three Axes, optional
            Where to draw: features, their change, the cosine; one Axes gets the change. By default a new figure.

        Returns
        -------
        list of Axes
        """
        from ..plots.coordinates import plot_coordinates

        return plot_coordinates(self.to_dict(), ax)

    def _repr_html_(self) -> str:
        text = "".join(f"<p>{escape(line)}</p>" for line in self.summary().splitlines())
        shown = self.frame()[["slope", "low", "high", "judged", "verdict"]]
        return text + shown.to_html(float_format=lambda value: format(value, "+.3f"))


_HEADLINES = {
    True: "Passed: nothing that is judged depends on {over}",
    False: "Broken: training does not carry from one {over} to another",
    None: "Undecided: some intervals over {over} reach across the tolerance",
}


def verdict_in_words(verdict: Verdict, over: Over) -> str:
    """``flat``, ``depends on width``, or ``undecided``."""
    return f"depends on {over}" if verdict == "depends" else verdict


def fit_slope(
    records: Sequence[CoordinateRecord], layer: str, quantity: str, tolerance: float, confidence: float, judged: bool
) -> CoordinateSlope:
    """Slope of one quantity of one layer, over all sizes and seeds of the records of one step.

    Values without a logarithm are left out, and a note says so. A layer that never moves has no exponent and no angle:
    it is not judged.
    """
    own = [record for record in records if record.layer == layer]
    rows = [(record.size, float(getattr(record, quantity))) for record in own]
    used = [(size, value) for size, value in rows if math.isfinite(value) and value > 0]
    still = quantity != "feature_rms" and bool(own) and all(record.feature_change_rms == 0 for record in own)
    slope = power_law_slope([size for size, _ in used], [value for _, value in used], confidence)
    notes = []
    if still:
        notes.append("never moves, so it is not judged")
    elif len(used) < len(rows):
        notes.append(f"{len(rows) - len(used)} of {len(rows)} values are zero, negative or undefined, and left out")
    if not still and math.isnan(slope.value):
        notes.append(f"fewer than {FEWEST_SIZES} sizes have a value, so there is no slope")
    return CoordinateSlope(
        layer=layer,
        quantity=quantity,
        slope=slope.value,
        low=slope.low,
        high=slope.high,
        n=slope.n,
        left_out=len(rows) - len(used),
        judged=judged and not still,
        verdict=judge(slope, tolerance),
        note="; ".join(notes) or None,
    )


def _in_words(slope: CoordinateSlope) -> str:
    what = f"{QUANTITIES[slope.quantity]} of {slope.layer!r}"
    return f"{what} (slope {slope.slope:+.2f}, {slope.low:+.2f} to {slope.high:+.2f})"


def _undefined(entry: Mapping[str, Any], keys: Any) -> dict[str, Any]:
    return {key: NAN if key in keys and value is None else value for key, value in entry.items()}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun if number == 1 else noun + 's'}"
