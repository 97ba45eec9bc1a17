"""How rates and scales of a two-layer linear network follow its width, and the phase that results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..exceptions import DataError
from .solvable import as_floats, broadcast

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NAMED_PARAMETRISATIONS", "Parametrisation", "ScalingExponents", "as_parametrisation", "scaling_exponents"]

Floats = NDArray[np.float64]

# Exponents that the user computed, such as 3 * 0.1 - 0.3, lie beside the lines between phases by rounding only.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Parametrisation:
    """Exponents of the width d in ``f(x) = g sum_i u_i w_i x``; u is the output layer, w the input layer.

    Attributes
    ----------
    g, eta_u, eta_w, var_u, var_w : float, default 0.0
        Of the output scale, the rates of the layers and the variances of their initial weights.
    label : str, default ""
        What it is called in figures.

    Examples
    --------
    >>> Parametrisation(g=-1.0, eta_u=1.0, eta_w=1.0).at(100)
    {'g': 0.01, 'eta_u': 100.0, 'eta_w': 100.0, 'var_u': 1.0, 'var_w': 1.0}
    """

    g: float = 0.0
    eta_u: float = 0.0
    eta_w: float = 0.0
    var_u: float = 0.0
    var_w: float = 0.0
    label: str = ""

    def __post_init__(self) -> None:
        for name, exponent in self.exponents().items():
            if as_floats(exponent, name).ndim:
                raise DataError(f"Got {name} of shape {np.shape(exponent)}, but expected one exponent.")

    def exponents(self) -> dict[str, float]:
        """The five of them."""
        return {name: getattr(self, name) for name in _EXPONENTS}

    def at(self, width: int) -> dict[str, float]:
        """The five numbers themselves at one width."""
        return {name: float(width) ** exponent for name, exponent in self.exponents().items()}


_EXPONENTS = tuple(field.name for field in fields(Parametrisation) if field.name != "label")

NAMED_PARAMETRISATIONS: Mapping[str, Parametrisation] = MappingProxyType(
    {
        "ntk": Parametrisation(g=-0.5, label="ntk"),
        "mean_field": Parametrisation(g=-1.0, eta_u=1.0, eta_w=1.0, label="mean field"),
        "mup": Parametrisation(eta_u=-1.0, eta_w=1.0, var_u=-2.0, label="mup"),
        "xavier": Parametrisation(var_u=-1.0, var_w=-1.0, label="xavier"),
        "kaiming": Parametrisation(var_u=-1.0, label="kaiming / lecun, rate 1"),
        "kaiming_slow": Parametrisation(eta_u=-1.0, eta_w=-1.0, var_u=-1.0, label="kaiming / lecun, rate 1/d"),
    }
)
"""Six parametrisations of the two-layer linear network on one-dimensional data, by name."""


def as_parametrisation(value: str | Parametrisation | Mapping[str, float]) -> Parametrisation:
    """A name of ``NAMED_PARAMETRISATIONS``, a Parametrisation or a mapping of its exponents (those left out are 0)."""
    if isinstance(value, Parametrisation):
        return value
    if isinstance(value, str):
        if value not in NAMED_PARAMETRISATIONS:
            raise DataError(
                f"Got the parametrisation {value!r}, but expected one of {', '.join(NAMED_PARAMETRISATIONS)}, "
                "or a mapping of exponents."
            )
        return NAMED_PARAMETRISATIONS[value]
    unknown = [name for name in value if name not in _EXPONENTS]
    if unknown:
        raise DataError(f"Got the exponent {unknown[0]!r}, but expected some of {', '.join(_EXPONENTS)}.")
    exponents: dict[str, Any] = dict(value)
    return Parametrisation(**exponents)


@dataclass(frozen=True, eq=False)
class ScalingExponents:
    """How kernel and output of the network scale with its width, and the phase; arrays of one shape.

    Attributes
    ----------
    eT : array
        Of the initial kernel.
    eF : array
        Of ``(omega F_inf)^2``: what the output adds to the square of the kernel.
    e0 : array
        Of the square of the initial output; above 0 it diverges.
    M : array
        ``max(eT, eF / 2)``, the exponent of the largest kernel: 0 trains in a time of order 1.
    phase : array of str
        "kernel" or "feature".
    speed : array of str
        "O(1)", "frozen" (M < 0) or "unstable" (M > 0: steps of order 1 diverge, the rate has to fall as ``d^-M``).
    """

    eT: Floats
    eF: Floats
    e0: Floats
    M: Floats
    phase: NDArray[np.str_]
    speed: NDArray[np.str_]

    def frame(self) -> pd.DataFrame:
        """One row a parametrisation."""
        import pandas as pd

        return pd.DataFrame({name: np.ravel(array) for name, array in vars(self).items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings (nested lists for arrays)."""
        return {"kind": "ScalingExponents", "schema": 1} | {
            name: array.tolist() for name, array in asdict(self).items()
        }


def scaling_exponents(
    *, g: ArrayLike, eta_u: ArrayLike, eta_w: ArrayLike, var_u: ArrayLike, var_w: ArrayLike
) -> ScalingExponents:
    r"""Phase of ``f(x) = g sum_i u_i w_i x`` at large width, from the exponents of d in its five scales.

    .. math::
        e_\Theta = 2 c_g + 1 + \max(h_u + v_w, h_w + v_u), \quad e_F = 2 c_g + h_u + h_w, \quad
        e_0 = 2 c_g + 1 + v_u + v_w

    The kernel is constant at large width (kernel phase) if :math:`e_F < 2 e_\Theta`, and changes by a factor (feature
    phase) otherwise: by one of order 1 on the line, by a diverging one above it.

    Parameters
    ----------
    g, eta_u, eta_w, var_u, var_w : array_like
        Exponents of the width in the output scale, the rates and the variances of the initial weights; they broadcast.

    Returns
    -------
    ScalingExponents

    Raises
    ------
    DataError
        Exponents that are not finite, or do not broadcast.

    Notes
    -----
    Feature learning requires :math:`e_0 \le -1`: an initial output that vanishes at least as :math:`d^{-1/2}`, because
    :math:`2 e_\Theta \ge e_F + e_0 + 1`. Provenance: the model, and that there is a phase diagram of it, are published
    (abstract); this form of the diagram is derived here and checked against simulation.

    References
    ----------
    Xu and Ziyin, arXiv 2401.07085.

    Examples
    --------
    >>> ntk = scaling_exponents(g=-0.5, eta_u=0, eta_w=0, var_u=0, var_w=0)
    >>> float(ntk.eT), float(ntk.eF), str(ntk.phase), str(ntk.speed)
    (0.0, -1.0, 'kernel', 'O(1)')
    """
    given = {"g": g, "eta_u": eta_u, "eta_w": eta_w, "var_u": var_u, "var_w": var_w}
    c = broadcast(**{name: as_floats(value, name) for name, value in given.items()})
    eT = 2 * c["g"] + 1 + np.maximum(c["eta_u"] + c["var_w"], c["eta_w"] + c["var_u"])
    eF = 2 * c["g"] + c["eta_u"] + c["eta_w"]
    e0 = 2 * c["g"] + 1 + c["var_u"] + c["var_w"]
    return ScalingExponents(eT, eF, np.asarray(e0), largest(eT, eF), phase_of(eT, eF), speed_of(eT, eF))


def largest(eT: Floats, eF: Floats) -> Floats:
    """Exponent of the largest kernel on the way, ``max(eT, eF / 2)``."""
    return np.asarray(np.maximum(eT, eF / 2))


def phase_of(eT: Floats, eF: Floats) -> NDArray[np.str_]:
    """Whether the kernel stays at large width ("kernel") or changes ("feature")."""
    return np.where(eF >= 2 * np.asarray(eT) - _ROUNDING, "feature", "kernel")


def speed_of(eT: Floats, eF: Floats) -> NDArray[np.str_]:
    """Whether steps of order 1 train in "O(1)" time, leave the network "frozen" or are "unstable"."""
    M = largest(eT, eF)
    return np.where(M > _ROUNDING, "unstable", np.where(M < -_ROUNDING, "frozen", "O(1)"))
