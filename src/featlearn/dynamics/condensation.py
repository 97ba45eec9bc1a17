"""Do neurons group? Lines and orientations of the input weights of a layer, and how many there are in effect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import as_tensor
from ..exceptions import DataError
from .short_repr import short_repr

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Condensation", "condensation"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@short_repr
@dataclass(frozen=True, eq=False)
class Condensation:
    """Neurons of a layer, grouped by the line on which their input weights lie.

    Attributes
    ----------
    lines : array of int, shape (m,)
        Line of a neuron; 0 is that of the heaviest neuron, -1: too small to have a direction.
    orientations : array of int, shape (m,)
        ``2 * line``, one more if the neuron points against the heaviest one of its line; -1: too small.
    mass : array of shape (m,)
        What a neuron counts for: the norm of its input weights, times that of its output weights if these were given.
    directions : array of shape (n_lines, d)
        Unit input weights of the heaviest neuron of each line.
    cosine : array of shape (m, m)
        Cosines of the input weights of all neurons, nan for those that are too small.
    aligned_share : float
        Share of the pairs of neurons whose absolute cosine exceeds the tolerance; nan for a single neuron.
    effective_directions : float
        ``1 / sum_i e_i^2`` with the eigenvalues e of the mean of ``v v^T`` over unit input weights v, weighted by mass:
        1 if all lie on one line, d if they fill the space evenly.
    """

    lines: Integers
    orientations: Integers
    mass: Floats
    directions: Floats = field(repr=False)
    cosine: Floats = field(repr=False)
    aligned_share: float
    effective_directions: float

    @property
    def n_lines(self) -> int:
        """Number of lines."""
        return len(self.directions)

    @property
    def n_orientations(self) -> int:
        """Number of directions: a line counts twice if neurons point both ways."""
        return len(np.unique(self.orientations[self.lines >= 0]))

    def frame(self) -> pd.DataFrame:
        """One row a line: neurons that point with its heaviest one and against it, and its share of the mass."""
        import pandas as pd

        kept = self.lines >= 0
        against = self.orientations[kept] % 2
        columns = {"along": 1 - against, "against": against, "share": self.mass[kept] / self.mass[kept].sum()}
        return pd.DataFrame({"line": self.lines[kept]} | columns).groupby("line").sum()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        names = ("n_lines", "n_orientations", "aligned_share", "effective_directions")
        arrays = ("lines", "orientations", "mass", "directions", "cosine")
        numbers = {name: getattr(self, name) for name in names}
        return {"kind": "Condensation", "schema": 1} | numbers | {name: getattr(self, name).tolist() for name in arrays}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Matrix of the cosines, neurons sorted by line and orientation."""
        from ..plots.phase_slope import plot_condensation

        return plot_condensation(self.to_dict(), ax)

    def _repr_html_(self) -> str:
        text = (
            f"{self.n_orientations} orientations on {self.n_lines} lines; in effect {self.effective_directions:.2f} "
            f"lines; {self.aligned_share:.0%} of the pairs aligned"
        )
        return f"<p>{text}</p>{self.frame().to_html(float_format=lambda value: format(value, '.3f'))}"


def condensation(W: Any, a: Any = None, *, tol: float = 0.95, min_norm: float = 1e-2) -> Condensation:
    r"""Group the neurons of a layer by the direction of their input weights.

    .. math::
        d_\mathrm{eff} = \frac{1}{\sum_i e_i^2}, \quad e_i \ \text{eigenvalues of} \
        \frac{\sum_k m_k v_k v_k^\top}{\sum_k m_k}, \quad v_k = \frac{w_k}{|w_k|}

    with the mass :math:`m_k = |w_k|`, or :math:`|a_k| |w_k|`. In order of decreasing mass, each neuron joins the first
    line whose heaviest neuron has an absolute cosine above ``tol`` with it, or opens a new line.

    Parameters
    ----------
    W : array_like or Tensor of shape (m, d)
        Input weights, one row a neuron; append the biases as a column, as what the neuron multiplies is (x, 1).
    a : array_like or Tensor of shape (m,) or (m, n_outputs), optional
        Output weights, one row a neuron.
    tol : float, default 0.95
        Between 0 and 1.
    min_norm : float, default 1e-2
        Neurons with input weights below this share of the largest norm have no direction; at least 0, below 1.

    Returns
    -------
    Condensation

    Raises
    ------
    DataError
        Numbers that are not finite, bad shapes, or weights that are all zero.

    Notes
    -----
    Costs O(m^2 d). Published rule for training from small weights: early on there are at most 2 p orientations, p the
    order of the first derivative of the activation at 0 that is not 0 (tanh, sigmoid, softplus 1; x tanh x 2;
    x^2 tanh x 3). It says nothing of ReLU, which has no derivative there. Provenance: rule published, the two summary
    numbers are conventions of this library.

    References
    ----------
    Luo, Xu, Ma and Zhang, arXiv 2007.07497, and its sequel on initial condensation.

    Examples
    --------
    >>> found = condensation([[2.0, 0.0], [-1.0, 0.1], [0.0, 1.0], [1e-3, 1e-3]])
    >>> found.lines.tolist(), found.orientations.tolist(), found.n_orientations
    ([0, 0, 1, -1], [0, 1, 2, -1], 3)
    """
    weights = _rows(W, "W")
    if weights.ndim != 2:
        raise DataError(f"Got W of shape {weights.shape}, but expected one row of input weights a neuron.")
    if not 0 < tol < 1:
        raise DataError(f"Got tol={tol}, but expected a number between 0 and 1.")
    if not 0 <= min_norm < 1:
        raise DataError(f"Got min_norm={min_norm}, but expected a number of at least 0 and below 1.")
    size = float(np.abs(weights).max(initial=0.0))
    weights = weights / (size or 1.0)  # squares of very small and of very large weights are no numbers
    norms = np.linalg.norm(weights, axis=1)
    mass = size * norms * (1.0 if a is None else _output_norms(a, len(weights)))
    kept = (norms > 0) & (norms >= min_norm * norms.max())
    if not mass[kept].any():
        raise DataError("Got weights that are all zero, but expected at least one neuron that does something.")
    units = weights[kept] / norms[kept, np.newaxis]
    cosines = np.clip(units @ units.T, -1.0, 1.0)
    leaders, lines = _lines(np.abs(cosines) > tol, mass[kept])
    against = np.take_along_axis(cosines, np.take(leaders, lines)[:, np.newaxis], axis=1)[:, 0] < 0
    pairs = np.triu_indices(len(units), 1)
    share = mass[kept] / mass[kept].max()
    spread = (units.T * share) @ units / share.sum()
    return Condensation(
        lines=_placed(lines, kept, -1),
        orientations=_placed(2 * lines + against, kept, -1),
        mass=mass,
        directions=units[leaders],
        cosine=_placed(cosines, np.ix_(kept, kept), np.nan, (len(kept), len(kept))),
        aligned_share=float((np.abs(cosines[pairs]) > tol).mean()) if len(units) > 1 else float("nan"),
        effective_directions=float(1.0 / np.sum(spread**2)),
    )


def _rows(value: Any, name: str) -> Floats:
    if callable(getattr(value, "parameters", None)):
        kind = type(value).__name__
        raise DataError(
            f"Got a {kind} as {name}, but expected weights: pass its .weight, filters as .weight.flatten(1)."
        )
    return as_tensor(value, name=name)[0].detach().double().cpu().numpy()


def _output_norms(a: Any, m: int) -> Floats:
    outputs = _rows(a, "a")
    if outputs.ndim not in (1, 2) or len(outputs) != m:
        raise DataError(f"Got a of shape {outputs.shape}, but expected one row for each of the {m} rows of W.")
    return np.linalg.norm(outputs.reshape(m, -1), axis=1)


def _lines(aligned: NDArray[np.bool_], mass: Floats) -> tuple[Integers, Integers]:
    """Leaders in order of decreasing mass, and the line of each neuron."""
    lines = np.full(len(mass), -1)
    leaders: list[int] = []
    for neuron in np.argsort(-mass, kind="stable"):
        if lines[neuron] < 0:
            lines[aligned[neuron] & (lines < 0)] = len(leaders)
            leaders.append(int(neuron))
    return np.array(leaders), lines


def _placed(values: NDArray[Any], where: Any, empty: float, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    whole = np.full(shape or where.shape, empty, dtype=values.dtype)
    whole[where] = values
    return whole
