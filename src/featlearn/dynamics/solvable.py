"""What every solvable model returns and offers: trajectories, agreement of theory and simulation, units of time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..exceptions import DataError
from .short_repr import short_repr

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Agreement",
    "Solvable",
    "Trajectory",
    "agreement",
    "as_floats",
    "as_times",
    "as_widths",
    "broadcast",
    "gradient_flow_time",
    "statistical_agreement",
    "worst_of",
]

Floats = NDArray[np.float64]


@short_repr
@dataclass(frozen=True, eq=False)
class Trajectory:
    """Quantities over time; each is an attribute too.

    Attributes
    ----------
    t : array of shape (T,)
        Times, in the order in which they were asked for.
    values : mapping of str to array
        Time is the last axis; batch axes come first, then one for neurons or inputs where there is one.
    units : str
        Of the time.
    """

    t: Floats
    values: Mapping[str, Floats]
    units: str = "gradient flow"

    def __getattr__(self, name: str) -> Floats:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(f"Trajectory has no quantity {name!r}.") from None

    def __getitem__(self, name: str) -> Floats:
        return self.values[name]

    def frame(self) -> pd.DataFrame:
        """Tidy: one row a quantity, index of the other axes (a tuple) and time."""
        import pandas as pd

        rows = [
            {"quantity": name, "index": index, "t": time, "value": float(value)}
            for name, array in self.values.items()
            for index in np.ndindex(array.shape[:-1])
            for time, value in zip(self.t, array[index], strict=True)
        ]
        return pd.DataFrame(rows, columns=["quantity", "index", "t", "value"])

    def to_dict(self) -> dict[str, Any]:
        """Plain lists."""
        values = {name: array.tolist() for name, array in self.values.items()}
        return {"kind": "Trajectory", "schema": 1, "t": self.t.tolist(), "values": values, "units": self.units}


@short_repr
@dataclass(frozen=True, eq=False)
class Agreement:
    """How far a closed form and its independent simulation are apart; ``float(agreement)`` is ``worst``.

    Attributes
    ----------
    worst : float
        "deterministic": largest ``|closed - simulated| / max(1, max_t |simulated|)`` over quantities and times;
        "statistical": largest ``|theory - mean| / standard error``.
    quantity : str
        Where.
    at : float
        At which time, or other abscissa.
    tolerance : float
        Up to which they agree.
    kind : {"deterministic", "statistical"}
    table : tuple of mapping
        One row a quantity: its worst disagreement, and where.
    """

    worst: float
    quantity: str
    at: float
    tolerance: float
    kind: Literal["deterministic", "statistical"]
    table: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    def __float__(self) -> float:
        return self.worst

    @property
    def ok(self) -> bool:
        """Whether they agree; nan does not."""
        return bool(self.worst <= self.tolerance)

    def frame(self) -> pd.DataFrame:
        """One row a quantity."""
        import pandas as pd

        return pd.DataFrame(list(self.table))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "kind": "Agreement",
            "schema": 1,
            "worst": self.worst,
            "quantity": self.quantity,
            "at": self.at,
            "tolerance": self.tolerance,
            "how": self.kind,
            "ok": self.ok,
            "table": [dict(row) for row in self.table],
        }

    def _repr_html_(self) -> str:
        verdict = "agree" if self.ok else "disagree"
        return (
            f"<p>Theory and simulation {verdict}: {self.worst:.2g} of {self.tolerance:.2g}.</p>{self.frame().to_html()}"
        )


class Solvable(Protocol):
    """A model in time: a frozen dataclass of its parameters."""

    def closed_form(self, t: ArrayLike) -> Trajectory:
        """The exact solution."""

    def simulate(self, t: ArrayLike, *, method: str = "ode") -> Trajectory:
        """The same by a path that uses none of the reduced formulas."""

    def verify(self, t: ArrayLike | None = None) -> Agreement:
        """How far the two are apart; never raises on disagreement."""

    def to_dict(self) -> dict[str, Any]:
        """Parameters as plain numbers."""


def agreement(closed: Trajectory, simulated: Trajectory, tolerance: float) -> Agreement:
    """Deterministic agreement of two trajectories at the same times, over the quantities that both have."""
    rows: list[dict[str, Any]] = []
    for name in closed.values:
        if name not in simulated.values:
            continue
        a, b = closed[name], simulated[name]
        scale = np.maximum(1.0, np.abs(b).max(axis=-1, keepdims=True))
        worst = (np.abs(a - b) / scale).reshape(-1, len(closed.t)).max(axis=0)
        place = int(np.argmax(worst))  # a nan is the worst there is, and argmax finds it
        rows.append({"quantity": name, "worst": float(worst[place]), "at": float(closed.t[place])})
    if not rows:
        raise DataError("Got two trajectories without a quantity in common, so that there is nothing to compare.")
    return worst_of(rows, tolerance)


def worst_of(rows: Sequence[Mapping[str, Any]], tolerance: float) -> Agreement:
    """Deterministic agreement of rows that carry "quantity", "worst" and "at"."""
    row = max(rows, key=_badness)
    return Agreement(row["worst"], row["quantity"], row["at"], tolerance, "deterministic", tuple(rows))


def statistical_agreement(
    theory: Mapping[str, float], samples: Mapping[str, ArrayLike], tolerance: float = 3.0
) -> Agreement:
    """Agreement of numbers with the means of independent draws, in standard errors of these means."""
    rows: list[dict[str, Any]] = []
    for name, drawn in samples.items():
        values = np.asarray(drawn, dtype=np.float64)
        mean, error = float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
        expected = float(theory[name])
        apart = abs(expected - mean)
        worst = apart / error if error > 0 else (math.inf if apart else 0.0)
        rows.append({"quantity": name, "theory": expected, "mean": mean, "standard_error": error, "worst": worst})
    row = max(rows, key=_badness)
    return Agreement(row["worst"], row["quantity"], math.nan, tolerance, "statistical", tuple(rows))


def _badness(row: Mapping[str, Any]) -> float:
    return math.inf if math.isnan(row["worst"]) else row["worst"]


def gradient_flow_time(
    lr: float, steps: ArrayLike, loss: Literal["half_mse", "mse"] = "half_mse", momentum: float = 0.0
) -> Any:
    r"""Time of gradient flow of ``(1/2) E (f - y)^2`` that steps of gradient descent stand for.

    .. math:: t = \frac{c \cdot \mathrm{lr} \cdot \mathrm{steps}}{1 - \mathrm{momentum}}, \quad c = 1, 2

    for the loss with and without its 1/2. Adam has no such time.

    Examples
    --------
    >>> gradient_flow_time(0.01, 100, loss="mse")
    2.0
    """
    if not (lr > 0 and math.isfinite(lr)):
        raise DataError(f"Got lr={lr}, but expected a positive finite number.")
    if loss not in ("half_mse", "mse"):
        raise DataError(f"Got loss={loss!r}, but expected 'half_mse' or 'mse'.")
    if not 0 <= momentum < 1:
        raise DataError(f"Got momentum={momentum}, but expected a number in [0, 1).")
    time = lr * np.asarray(steps, dtype=np.float64) * (1 if loss == "half_mse" else 2) / (1 - momentum)
    return float(time) if np.ndim(steps) == 0 else time


# --- input ------------------------------------------------------------------------------------------------------------


def as_floats(
    value: ArrayLike, name: str, *, positive: bool = False, allow_empty: bool = False, largest: float = 1e50
) -> Floats:
    """A finite float64 array, or an error that names the argument.

    Products of a few numbers up to ``largest`` in size do not overflow, nor do they after a division by those that are
    positive, which have to be at least its inverse.
    """
    detach = getattr(value, "detach", None)  # weights of a torch model are parameters
    try:
        array = np.asarray(value if detach is None else detach().cpu(), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"Got {name} of type {type(value).__name__}, but expected numbers.") from error
    if array.size == 0 and not allow_empty:
        raise DataError(f"Got an empty {name} of shape {array.shape}, but expected at least one number.")
    if not np.isfinite(array).all():
        raise DataError(f"Got {name} with values that are not finite, but expected finite numbers.")
    if positive and not (array > 0).all():
        raise DataError(f"Got {name}={array.min():g}, but expected positive numbers.")
    size = np.abs(array)
    if (size > largest).any():
        raise DataError(f"Got {name} of size {size.max():g}, but expected at most {largest:g}; use other units.")
    if positive and (size < 1 / largest).any():
        raise DataError(f"Got {name}={size.min():g}, but expected at least {1 / largest:g}; use other units.")
    return array


def as_times(t: ArrayLike) -> Floats:
    """Times of shape (T,), at least zero, infinity allowed; a scalar becomes one time."""
    try:
        times = np.atleast_1d(np.asarray(t, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise DataError(f"Got t of type {type(t).__name__}, but expected times.") from error
    if times.ndim != 1 or times.size == 0:
        raise DataError(f"Got t of shape {times.shape}, but expected one time or a non-empty sequence of times.")
    if np.isnan(times).any() or (times < 0).any():
        raise DataError(f"Got t={times[~(times >= 0)][0]:g}, but expected times of at least 0.")
    return times


def as_widths(widths: Any) -> tuple[int, ...]:
    """Numbers of neurons, at least one of them."""
    sizes = tuple(np.atleast_1d(np.asarray(widths)).ravel().tolist())
    if not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise DataError(f"Got widths={widths!r}, but expected positive integers, at least one.")
    return sizes


def broadcast(**arrays: Floats) -> dict[str, Floats]:
    """All of them at their common batch shape, or an error that names the two that do not fit."""
    names: Sequence[str] = list(arrays)
    shape: tuple[int, ...] = ()
    seen = ""
    for name in names:
        try:
            shape = np.broadcast_shapes(shape, arrays[name].shape)
        except ValueError as error:
            raise DataError(
                f"Got {name} of shape {arrays[name].shape}, which does not broadcast with {seen} of shape {shape}."
            ) from error
        seen = f"{seen}, {name}" if seen else name
    return {name: np.broadcast_to(arrays[name], shape) for name in names}
