"""What becomes of a fast alignment under a slow second layer: the verdict, and the law by which it fades."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .short_repr import short_repr
from .solvable import Trajectory, as_floats, as_times

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["UnlearningLaw", "Verdict"]

Floats = NDArray[np.float64]


@short_repr
@dataclass(frozen=True, eq=False)
class Verdict:
    """What the flow comes to in the end, in the limit of a fast alignment; arrays of the batch's shape.

    Attributes
    ----------
    outcome : array of str
        "learn" (alignment of size 1), "partial", "unlearn" (alignment 0), or "separatrix" (the start is on the border).
    R, a : array
        Limits of alignment and second layer; the latter may be infinite.
    jumps : array of int
        Jumps between branches after the first approach.
    """

    outcome: NDArray[np.str_]
    R: Floats
    a: Floats
    jumps: NDArray[np.int64]

    def frame(self) -> pd.DataFrame:
        """One row an element of the batch."""
        import pandas as pd

        return pd.DataFrame({name: np.ravel(getattr(self, name)) for name in ("outcome", "R", "a", "jumps")})

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        arrays = {name: getattr(self, name).tolist() for name in ("outcome", "R", "a", "jumps")}
        return {"kind": "Verdict", "schema": 1, **arrays}


@short_repr
@dataclass(frozen=True, eq=False)
class UnlearningLaw:
    r"""How alignment fades where it does: the second layer grows like a root of time, and takes its place.

    .. math:: |a(t)|^{q+1} = |a_m|^{q+1} + (q + 1) \, \mathrm{rate} \; t, \quad R = \pm (\mathrm{limit} / |a|)^{1/m}

    Attributes
    ----------
    power, order : array
        q and m; the latter is 1 when student and teacher have a first coefficient.
    rate : array
        Of the law; not positive where the alignment does not fade.
    limit : array
        Of ``|a| |R|^m``.
    sign_a, sign_R : array
        Of the two on this branch.
    """

    power: Floats
    order: Floats
    rate: Floats
    limit: Floats
    sign_a: Floats
    sign_R: Floats

    @property
    def unlearns(self) -> NDArray[np.bool_]:
        """Whether the flow near R = 0 goes there."""
        return self.rate > 0

    @property
    def exponent(self) -> Floats:
        """``a ~ t^exponent`` and ``R ~ t^(-exponent / order)``; nan where the alignment does not fade."""
        return np.where(self.unlearns, 1 / (np.where(self.unlearns, self.power, 0) + 1), np.nan)

    def at(self, t: ArrayLike, a_start: ArrayLike = 0.0) -> Trajectory:
        """Values of a and R at times t after the second layer had the size ``a_start``; nan where nothing fades."""
        times = as_times(t)
        start = np.abs(as_floats(a_start, "a_start"))[..., np.newaxis]
        numbers = np.broadcast_arrays(self.power, self.order, self.rate, self.limit, self.sign_a, self.sign_R)
        power, order, rate, limit, sign_a, sign_R = (
            np.where(self.unlearns, x, np.nan)[..., np.newaxis] for x in numbers
        )
        with np.errstate(divide="ignore", over="ignore"):
            size = (start ** (power + 1) + (power + 1) * rate * times) ** (1 / (power + 1))
            return Trajectory(times, {"a": sign_a * size, "R": sign_R * (limit / size) ** (1 / order)})
