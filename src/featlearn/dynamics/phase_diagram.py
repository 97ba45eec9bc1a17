"""Maps of the phases: which scales of a two-layer network keep its kernel, and which learn features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DataError
from .hyperbola import Hyperbola
from .parametrisations import (
    NAMED_PARAMETRISATIONS,
    Parametrisation,
    as_parametrisation,
    phase_of,
    scaling_exponents,
    speed_of,
)
from .solvable import Agreement, as_floats, worst_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["PhaseDiagram", "phase_diagram"]

Floats = NDArray[np.float64]

_POINTS_A_PATH = 60
_PAGE_WIDTHS = (10, 100, 1_000, 10_000, 100_000)
_PAGE_RESOLUTION = 41
_PATHS = (-3.0, 0.15, 41)  # first log10 rho, step and number of the ways that the page can show for any place
_WIDEST, _STEEPEST = 10**9, 5.0
_MOST_DIGITS = 45.0  # of kernels and outputs, so that products of them are finite
_INITIALISATIONS = {
    "ntk": (0.5, 0.0, "ntk"),
    "kaiming": (0.5, 0.5, "kaiming / lecun"),
    "xavier": (1.0, 0.0, "xavier"),
    "mean_field": (1.0, 0.0, "mean field"),
}


@dataclass(frozen=True, eq=False)
class PhaseDiagram:
    """A plane of parametrisations, its phases, and the named ones on it.

    Attributes
    ----------
    plane : {"exponents", "initialisation"}
    axes : mapping of str to array of shape (resolution,)
        The two coordinates: "eT" and "eF", or "gamma" and "gamma_prime". The first varies along the columns of a grid.
    grids : mapping of str to array of shape (resolution, resolution)
        "rho", "phase" and "speed"; or "slope" and "phase". Each is an attribute too.
    points : tuple of mapping
        One for each named parametrisation, and for the user's own: its label, exponents, place and phase, and in the
        plane of exponents the numbers at this width, with its hyperbola and trajectory.
    settings : mapping
        "width" and "target" in the plane of exponents.
    """

    plane: Literal["exponents", "initialisation"]
    axes: Mapping[str, Floats] = field(repr=False)
    grids: Mapping[str, NDArray[Any]] = field(repr=False)
    points: tuple[Mapping[str, Any], ...] = field(repr=False)
    settings: Mapping[str, float]

    def __getattr__(self, name: str) -> NDArray[Any]:
        grids = self.__dict__.get("grids", {})
        if name not in grids:
            raise AttributeError(f"This phase diagram has no {name!r}; its grids are {', '.join(grids)}.")
        return grids[name]

    def frame(self) -> pd.DataFrame:
        """One row a point."""
        import pandas as pd

        nested = ("exponents", "hyperbola", "trajectory")
        rows = [
            {name: value for name, value in point.items() if name not in nested} | dict(point.get("exponents", {}))
            for point in self.points
        ]
        return pd.DataFrame(rows).set_index("name")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists: all that a figure or a page shows."""
        return {
            "kind": "PhaseDiagram",
            "schema": 1,
            "plane": self.plane,
            "axes": {name: axis.tolist() for name, axis in self.axes.items()},
            "grids": {name: grid.tolist() for name, grid in self.grids.items()},
            "points": [dict(point) for point in self.points],
            "settings": dict(self.settings),
        }

    def plot(self, ax: Axes | None = None) -> Axes:
        """The map in colour, with its lines and named points."""
        from ..plots.phase_diagram import plot_phase_diagram

        return plot_phase_diagram(self.to_dict(), ax)

    def to_html(self, path: str | PathLike[str], *, title: str | None = None) -> None:
        """Write one page that needs no network and no other file: both planes, at five widths and this one.

        Points answer to the pointer and to the keyboard; a click shows how output and kernel move. Without JavaScript
        the map of this width and tables of all numbers are there.

        Parameters
        ----------
        path : path-like
            Written whole or not at all; the folder must exist.
        title : str, optional
            Heading of the page.
        """
        from ..report.phase_map import write_phase_map

        write_phase_map(self._planes(), path, title=title)

    def verify(self, *, draws: int = 20, random_state: int = 0, tolerance: float = 0.02) -> Agreement:
        """How far the growth of the kernel at the points is from that of random networks of this width.

        The mean over the draws, of the exact solution from their weights. Points in the feature phase are compared in
        ``rho``, relative to its size. Points in the kernel phase are compared in ``Theta_inf / Theta_0 = 1 + rho``:
        that the kernel stays is what the map claims there; rho itself leaves out the initial output, which changes it
        by a factor of order 1. In the feature phase that output is small at large width: at small ones the two
        disagree.

        Parameters
        ----------
        draws : int, default 20
        random_state : int, default 0
        tolerance : float, default 0.02

        Raises
        ------
        DataError
            In the plane of initial scales, whose exponents :func:`phase_slope` verifies, one place at a time.
        """
        from .linear_net_1d import LinearNet1D

        if self.plane != "exponents":
            text = "Got the plane of initial scales, which has no numbers at one width"
            raise DataError(f"{text}; use phase_slope(gam, gamp).verify() for a place in it.")
        rows = []
        for point in self.points:
            scales = Parametrisation(**point["exponents"])
            nets = LinearNet1D.sample(
                int(self.settings["width"]), scales, self.settings["target"], random_state=random_state, draws=draws
            )
            rho = float(np.mean(nets.hyperbola.rho))
            name, size = ("rho", abs(rho)) if point["phase"] == "feature" else ("Theta_inf / Theta_0", 1 + rho)
            worst = abs(rho - point["rho"]) / size
            rows.append({"quantity": f"{name} of {point['name']}", "worst": worst, "at": self.settings["width"]})
        return worst_of(rows, tolerance)

    def _planes(self) -> dict[str, Any]:
        """Diagrams of the page: of the exponents at every width, and of the initial scales; and which is shown."""
        width, target = int(self.settings.get("width", 1000)), float(self.settings.get("target", 1.0))
        own = next((point for point in self.points if point["name"] == "mine"), None)
        mine: Parametrisation | None = None
        place: dict[str, float] | None = None
        if own is not None and self.plane == "exponents":
            mine = Parametrisation(**own["exponents"], label=own["label"])
        elif own is not None:
            place = {name: own[name] for name in ("gamma", "gamma_prime")}
        widths = sorted({*_PAGE_WIDTHS, width})
        return {
            "exponents": [_of_exponents(each, target, _PAGE_RESOLUTION, mine).to_dict() for each in widths],
            "initialisation": _of_initialisation(_PAGE_RESOLUTION, place).to_dict(),
            "paths": _paths(target),
            "shown": {"plane": self.plane, "width": width},
        }

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(float_format=lambda value: format(value, ".3g")))


def phase_diagram(
    plane: Literal["exponents", "initialisation"] = "exponents",
    *,
    width: int | None = None,
    target: float | None = None,
    resolution: int = 81,
    mine: Parametrisation | Mapping[str, float] | None = None,
) -> PhaseDiagram:
    r"""Where parametrisations of a two-layer network keep their kernel, and where they learn features.

    In the plane of exponents, for the linear network on one-dimensional data at width d,

    .. math::
        \rho = \frac{\Theta_\infty}{\Theta_0} - 1
             = \sqrt{1 + \frac{4 g^2 \eta_u \eta_w F_\infty^2}{\Theta_0^2}} - 1, \quad
        \Theta_0 = g^2 d (\eta_u \mathrm{Var}\, w + \eta_w \mathrm{Var}\, u)

    which depends on :math:`e_\Theta` and :math:`e_F` of :func:`scaling_exponents` only, with
    :math:`\Theta_0 = 2 d^{e_\Theta}` on the grid. The points carry the numbers of their own parametrisation.

    Parameters
    ----------
    plane : {"exponents", "initialisation"}, default "exponents"
        The second is the plane of the initial scales of a ReLU network, at equal rates: gamma and gamma' are the
        exponents of 1/width in the product and in the ratio of the initial standard deviations of its layers.
    width : int, optional
        d of the plane of exponents, by default 1000.
    target : float, optional
        ``F_inf`` there, not 0, by default 1.
    resolution : int, default 81
        Points along each axis, at least 2.
    mine : Parametrisation or mapping, optional
        One more point: exponents g, eta_u, eta_w, var_u, var_w (0 where left out); or gamma and gamma_prime. The axes
        reach out to it.

    Returns
    -------
    PhaseDiagram

    Raises
    ------
    DataError
        Unknown plane or exponent, numbers out of range, or a width or target for the plane that has none.

    Notes
    -----
    The initial output is left out of rho. In the feature phase it vanishes with the width; in the kernel phase,
    where it may be of order 1, the growth of a random network is as small as rho, up to a factor of order 1. Costs a
    few flops a point of the grid. Provenance: that there are such diagrams is published (abstracts); the coordinates,
    boundaries and numbers of both planes are derived here and checked against simulation.

    References
    ----------
    Xu and Ziyin, arXiv 2401.07085. Luo, Xu, Ma and Zhang, arXiv 2007.07497.

    Examples
    --------
    >>> diagram = phase_diagram(width=1000, mine={"g": -1.0, "eta_u": 1.0, "eta_w": 0.5})
    >>> diagram.frame()["phase"].to_dict()
    {'ntk': 'kernel', 'mean_field': 'feature', 'mup': 'feature', 'xavier': 'feature', 'kaiming': 'kernel',
     'kaiming_slow': 'kernel', 'mine': 'kernel'}
    """
    _check_integer("resolution", resolution, 2)
    if plane == "exponents":
        return _of_exponents(1000 if width is None else width, 1.0 if target is None else target, resolution, mine)
    if plane != "initialisation":
        raise DataError(f"Got plane={plane!r}, but expected 'exponents' or 'initialisation'.")
    for name, value in (("width", width), ("target", target)):
        if value is not None:
            raise DataError(f"Got {name}={value} with plane='initialisation', which has no {name}; leave it out.")
    return _of_initialisation(resolution, mine)


def _check_integer(name: str, value: int, least: int, most: int = 10_000) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise DataError(f"Got {name}={value!r}, but expected an integer between {least} and {most}.")


def _axis(low: float, high: float, resolution: int, places: list[float]) -> Floats:
    margin = 0.25
    return np.linspace(min(low, *(p - margin for p in places)), max(high, *(p + margin for p in places)), resolution)


# --- exponents --------------------------------------------------------------------------------------------------------


def _of_exponents(
    width: int, target: float, resolution: int, mine: Parametrisation | Mapping[str, float] | None
) -> PhaseDiagram:
    _check_integer("width", width, 1, _WIDEST)
    if as_floats(target, "target").ndim or float(target) == 0:
        raise DataError(f"Got target={target}, but expected a number other than 0: nothing has to move for it.")
    target = float(target)
    named = dict(NAMED_PARAMETRISATIONS) | ({} if mine is None else {"mine": _checked(mine, width)})
    points = tuple(_point(name, scales, width, target) for name, scales in named.items())
    eT = _axis(-1.5, 1.5, resolution, [point["eT"] for point in points])
    eF = _axis(-2.5, 1.5, resolution, [point["eF"] for point in points])
    x, y = np.meshgrid(eT, eF)
    grids = {
        "rho": _growth(abs(target) * float(width) ** (y / 2 - x)),
        "phase": phase_of(x, y),
        "speed": speed_of(x, y),
    }
    return PhaseDiagram("exponents", {"eT": eT, "eF": eF}, grids, points, {"width": width, "target": target})


def _paths(target: float) -> dict[str, Any]:
    """Hyperbolas from output 0 and kernel 1 by the growth of the kernel, on which alone their form depends."""
    low, step, count = _PATHS
    rho = 10 ** (low + step * np.arange(count))
    omega = np.sqrt(rho * (rho + 2)) / abs(target)
    return {
        "low": low,
        "step": step,
        "members": [{"Theta0": 1.0, "hyperbola": Hyperbola(0.0, 1.0, each, target).to_dict()} for each in omega],
    }


def _checked(mine: Parametrisation | Mapping[str, float], width: int) -> Parametrisation:
    scales = as_parametrisation(mine)
    for name, exponent in scales.exponents().items():
        if abs(exponent) > _STEEPEST:
            raise DataError(f"Got the exponent {name}={exponent:g}, but expected one between -5 and 5.")
    place = scaling_exponents(**scales.exponents())
    digits = max(abs(float(place.eT)), abs(float(place.eF)) / 2) * math.log10(max(width, *_PAGE_WIDTHS))
    if digits > _MOST_DIGITS:
        raise DataError(
            f"Got exponents with which kernels reach 1e{digits:.0f} at width {max(width, *_PAGE_WIDTHS)}, but expected "
            f"at most 1e{_MOST_DIGITS:.0f}; take exponents nearer to 0."
        )
    return scales


def _growth(root: Floats) -> Floats:
    """``sqrt(1 + root^2) - 1`` without cancellation and without overflow."""
    return np.asarray(root * (root / (np.hypot(1.0, root) + 1)))


def _point(name: str, scales: Parametrisation, width: int, target: float) -> dict[str, Any]:
    place = scaling_exponents(**scales.exponents())
    at = scales.at(width)
    kernel = at["g"] ** 2 * width * (at["eta_u"] * at["var_w"] + at["eta_w"] * at["var_u"])
    omega = 2 * at["g"] * math.sqrt(at["eta_u"]) * math.sqrt(at["eta_w"])
    path = Hyperbola(0.0, kernel, omega, target)
    times = np.linspace(0.0, path.horizon(), _POINTS_A_PATH)
    curve = path.closed_form(times)
    return {
        "name": name,
        "label": scales.label or name,
        "exponents": scales.exponents(),
        **{key: float(getattr(place, key)) for key in ("eT", "eF", "e0", "M")},
        "phase": str(place.phase),
        "speed": str(place.speed),
        "Theta0": kernel,
        "rho": float(path.rho),
        "hyperbola": path.to_dict(),
        "trajectory": {"t": times.tolist(), "F": curve.F.tolist(), "Theta": curve.Theta.tolist()},
    }


# --- initialisation ---------------------------------------------------------------------------------------------------


def _of_initialisation(resolution: int, mine: Parametrisation | Mapping[str, float] | None) -> PhaseDiagram:
    from .phase_slope import regime_of

    places = dict(_INITIALISATIONS)
    if mine is not None:
        if isinstance(mine, Parametrisation) or set(mine) != {"gamma", "gamma_prime"}:
            raise DataError(f"Got mine={mine!r}, but expected the exponents gamma and gamma_prime in this plane.")
        if not all(np.abs(as_floats(value, name)).max() <= _STEEPEST for name, value in mine.items()):
            raise DataError(f"Got mine={mine!r}, but expected exponents between -5 and 5.")
        places["mine"] = (float(mine["gamma"]), float(mine["gamma_prime"]), "mine")
    gam = _axis(0.0, 2.0, resolution, [place[0] for place in places.values()])
    gamp = _axis(-1.0, 1.0, resolution, [place[1] for place in places.values()])
    phase, slope = regime_of(*np.meshgrid(gam, gamp))
    phases, slopes = regime_of(*(np.array(column) for column in list(zip(*places.values(), strict=True))[:2]))
    points = tuple(
        {
            "name": name,
            "label": place[2],
            "gamma": place[0],
            "gamma_prime": place[1],
            "phase": str(p),
            "slope": float(s),
        }
        for (name, place), p, s in zip(places.items(), phases, slopes, strict=True)
    )
    return PhaseDiagram(
        "initialisation", {"gamma": gam, "gamma_prime": gamp}, {"slope": slope, "phase": phase}, points, {}
    )
