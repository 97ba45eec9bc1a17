"""Ridge regression on random features before and after one gradient step on the first layer: risk in closed form."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..exceptions import DataError, RegimeWarning
from .hermite import ACTIVATIONS, Activation, Function, HermiteNumbers, activation_named, hermite_numbers, smoothed_fit
from .one_step_draws import OneStepDraws, check_sizes, draw_risks
from .short_repr import short_repr
from .solvable import Agreement, as_floats, broadcast, statistical_agreement

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["OneStepCK", "OneStepTheory"]

Floats = NDArray[np.float64]

_LARGEST_STEP = 0.3  # in units of the square root of the width
_NUMBERS = ("psi1", "psi2", "ridge", "noise", "eta")
_MOST_ITERATIONS = 100  # of a safeguarded Newton method, which takes about seven


@short_repr
@dataclass(frozen=True, eq=False)
class OneStepTheory:
    """Risks of ridge regression on the features of a two-layer network, ``E (f - f*)^2`` on fresh inputs.

    Attributes
    ----------
    risk0, risk : array of the batch's shape
        Without the step and after it.
    gain : array
        ``risk0 - risk``, computed without cancellation.
    floor : float
        Energy of the teacher beyond its linear part; no kernel that is invariant under rotations does better.
    tau_star : float
        What the best large step can leave.
    kap, df2 : array
        Effective ridge, and second-order degrees of freedom over the number of samples.
    """

    risk0: Floats
    risk: Floats
    gain: Floats
    floor: float
    tau_star: float
    kap: Floats
    df2: Floats

    def frame(self) -> pd.DataFrame:
        """One row an element of the batch."""
        import pandas as pd

        return pd.DataFrame({name: np.ravel(value) for name, value in self._arrays().items()}).assign(
            floor=self.floor, tau_star=self.tau_star
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, nested lists for a batch."""
        arrays = {name: value.tolist() for name, value in self._arrays().items()}
        return {"kind": "OneStepTheory", "schema": 1, **arrays, "floor": self.floor, "tau_star": self.tau_star}

    def _arrays(self) -> dict[str, Floats]:
        return {name: getattr(self, name) for name in ("risk0", "risk", "gain", "kap", "df2")}

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(float_format=lambda value: format(value, ".4g")))


@short_repr
@dataclass(frozen=True, eq=False, init=False)
class OneStepCK:
    r"""What one gradient step on the first layer buys for ridge regression on its features.

    .. math::
        f(x) = \frac{1}{\sqrt N} a^\top \sigma(W^\top x), \quad
        y = \sigma^*(\beta \cdot x) - E\,\sigma^* + \text{noise}, \quad
        n/d \to \psi_1, \; N/d \to \psi_2

    with ``W_ij ~ N(0, 1/d)``, ``a_j ~ N(0, 1/N)``, ``x ~ N(0, I)``, ``|beta| = 1``. One step of gradient descent on
    ``(1/2) E (f - y)^2`` over n samples at rate ``eta sqrt(N)`` moves W. Ridge regression of ``n`` fresh samples on
    ``sigma(W^T x) / sqrt(N)`` with penalty ``(ridge / N) |b|^2`` of the mean squared error then fits the output layer.

    Parameters
    ----------
    activation, teacher : str or (function, derivative), default "tanh" and "softplus"
        "identity", "tanh", "erf", "sin", "relu", "softplus", "sigmoid", "gelu", or functions over arrays. The
        activation has to be odd; the teacher's mean is removed.
    psi1, psi2 : array_like
        Samples and neurons per input dimension, positive.
    ridge : array_like
        Positive. scikit-learn's ``Ridge(alpha=n * ridge)`` on ``sigma(W^T x)``.
    noise : array_like, default 0.0
        Standard deviation of the label noise.
    eta : array_like, default 1.0
        Rate of the step, at least 0, of order 1: beyond 0.3 sqrt(N) the theory breaks.

    Raises
    ------
    DataError
        Numbers out of range, or an activation with ``E s(z) != 0`` or ``E z s(z) = 0`` under a standard normal.

    Notes
    -----
    Provenance: setting, floor and tau_star are published; the risk is derived here and checked against Monte Carlo.

    References
    ----------
    Ba et al., arXiv 2205.01445.

    Examples
    --------
    >>> model = OneStepCK("tanh", "softplus", psi1=3, psi2=1.5, ridge=0.01, noise=0.25, eta=[0, 2, 6])
    >>> model.theory().risk.round(6).tolist()
    [0.112944, 0.105509, 0.090133]

    Draws are of one model, of a batch by its index:

    >>> draws = model[1].simulate(d=32, n_repeats=3, n_test=500, random_state=0)
    >>> draws.risk.shape
    (3,)
    """

    activation: Activation
    teacher: Activation
    psi1: Floats
    psi2: Floats
    ridge: Floats
    noise: Floats
    eta: Floats

    def __init__(
        self,
        activation: str | tuple[Function, Function] = "tanh",
        teacher: str | tuple[Function, Function] = "softplus",
        *,
        psi1: ArrayLike,
        psi2: ArrayLike,
        ridge: ArrayLike,
        noise: ArrayLike = 0.0,
        eta: ArrayLike = 1.0,
    ) -> None:
        numbers = {
            **{name: as_floats(x, name, positive=True) for name, x in (("psi1", psi1), ("psi2", psi2))},
            "ridge": as_floats(ridge, "ridge", positive=True),
            **{name: as_floats(x, name) for name, x in (("noise", noise), ("eta", eta))},
        }
        for name in ("noise", "eta"):
            if (numbers[name] < 0).any():
                raise DataError(f"Got {name}={numbers[name].min():g}, but expected at least 0.")
        student = activation_named(activation, "activation")
        _check_student(student)
        functions = {"activation": student, "teacher": activation_named(teacher, "teacher")}
        for name, value in {**functions, **broadcast(**numbers)}.items():
            object.__setattr__(self, name, value)

    def __getitem__(self, index: Any) -> OneStepCK:
        """One model of a batch, or a part of it."""
        return self._with(**{name: getattr(self, name)[index] for name in _NUMBERS})

    # --- theory -------------------------------------------------------------------------------------------------------

    @property
    def student_numbers(self) -> HermiteNumbers:
        """Hermite numbers of the activation."""
        return hermite_numbers(self.activation.function)

    @property
    def teacher_numbers(self) -> HermiteNumbers:
        """Hermite numbers of the teacher."""
        return hermite_numbers(self.teacher.function)

    @property
    def floor(self) -> float:
        """Energy of the teacher beyond its linear part."""
        return self.teacher_numbers.mu2_squared

    @cached_property
    def tau_star(self) -> float:
        """``min_k E (f*(x1) - E_x2 sigma(k x1 + x2))^2``."""
        return smoothed_fit(self.activation.function, self.teacher.function)[0]

    def theory(self) -> OneStepTheory:
        """Risks in the limit of many dimensions.

        Returns
        -------
        OneStepTheory

        Notes
        -----
        Under a millisecond for one set of parameters once the Hermite numbers of both functions are known. Warns
        (RegimeWarning) when the activation is centred but not odd.
        """
        if not _is_odd(self.activation.function):
            warnings.warn(
                f"Got activation={self.activation.name!r}, which is not odd; the theory was derived for odd ones.",
                RegimeWarning,
                stacklevel=2,
            )
        mu, star = self.student_numbers, self.teacher_numbers
        z1 = mu.mu2_squared / mu.mu1**2
        kap, df2 = self._effective_ridge(z1)
        y = kap / mu.mu1**2
        z2 = z1 + y
        m, root = _companion_transform(z2, self.psi2)
        steep = y * z2 * (m**2 + m) / root
        # Energy of the gradient's direction: what is signal in it (step) and its whole length (length).
        step = (self.eta * mu.mu1 * star.mu1) ** 2
        energy = star.mu1**2 + (star.mu1**2 + star.mu2_squared + self.noise**2) / self.psi1
        length = 1 + (self.eta * mu.mu1) ** 2 * energy
        missed = star.mu2_squared + star.mu1**2 * (z1 * m + steep)
        risk0 = (missed + self.noise**2 * df2) / (1 - df2)
        moved = z1 * m / (1 + length * m) + steep * (2 + length * m) / (1 + length * m) ** 2
        gain = star.mu1**2 * step * m * moved / (1 - df2)
        return OneStepTheory(risk0, risk0 - gain, gain, self.floor, self.tau_star, kap, df2)

    def _effective_ridge(self, z1: float) -> tuple[Floats, Floats]:
        """Solution of ``1 - ridge / kap = df1(kap)``, whose two sides cross once, and df2 there."""
        scale = self.student_numbers.mu1**2
        # First-order degrees of freedom are at most trace / kap, which brackets the root.
        low = np.log(self.ridge)
        high = np.log(self.ridge + self.psi2 * scale * (1 + z1) / self.psi1)
        x = (low + high) / 2
        for _ in range(_MOST_ITERATIONS):
            kap = np.exp(x)
            df1, df2 = self._degrees_of_freedom(kap / scale, z1)
            excess = 1 - self.ridge / kap - df1
            low, high = np.where(excess < 0, x, low), np.where(excess < 0, high, x)
            step = excess / (self.ridge / kap + df1 - df2)
            if (np.abs(step) <= 1e-15 * np.maximum(1.0, np.abs(x))).all():
                break
            newton = x - step
            x = np.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
        return kap, df2

    def _degrees_of_freedom(self, y: Floats, z1: float) -> tuple[Floats, Floats]:
        """``tr K (K + kap)^-1`` and the trace of its square, over n, at ``y = kap / mu1^2``."""
        # psi2 - y ((psi2 - 1) / z + m) and its like, rearranged by the equation of m until no large terms cancel.
        z = z1 + y
        m, root = _companion_transform(z, self.psi2)
        share = self.psi2 / (1 + m)
        first = share * (z1 / z + m)
        second = (share * m) ** 2 + share * m * (2 * z1 * m + z1**2 / z**2 * (z + self.psi2 - 1) + y**2 * m**2 / root)
        return first / self.psi1, second / self.psi1

    # --- the independent path -----------------------------------------------------------------------------------------

    def simulate(
        self, d: int = 256, n_repeats: int = 10, n_test: int = 20000, random_state: int | None = None
    ) -> OneStepDraws:
        """Monte Carlo: draws the data and both layers, takes the step, solves the ridge regression, measures the risk.

        Parameters
        ----------
        d : int, default 256
            Inputs; ``n = round(psi1 d)`` samples and ``N = round(psi2 d)`` neurons.
        n_repeats : int, default 10
            Independent draws of everything.
        n_test : int, default 20000
            Fresh inputs over which the risk is averaged.
        random_state : int, optional
            Seed; by default a fresh one.

        Returns
        -------
        OneStepDraws

        Raises
        ------
        DataError
            A batch of models, or sizes that are no positive integers.

        Notes
        -----
        O(n N^2 + n_test d N) a draw, below a second at d = 256. A step too large for the theory is a RegimeWarning.
        """
        model = self._scalars()
        n, N = check_sizes(d, n_repeats, n_test, model["psi1"], model["psi2"])
        if model["eta"] > _LARGEST_STEP * np.sqrt(N):
            warnings.warn(
                f"Got eta={model['eta']:g} with N={N} neurons; beyond {_LARGEST_STEP} sqrt(N) = "
                f"{_LARGEST_STEP * np.sqrt(N):.3g} the theory breaks. What is drawn is right.",
                RegimeWarning,
                stacklevel=2,
            )
        centred = self.teacher_numbers.mu0
        return draw_risks(
            self.activation,
            lambda z: self.teacher.function(z) - centred,
            (d, n, N),
            ridge=model["ridge"],
            noise=model["noise"],
            eta=model["eta"],
            n_repeats=n_repeats,
            n_test=n_test,
            random_state=random_state,
        )

    def verify(self, d: int = 256, n_repeats: int = 10, n_test: int = 20000, random_state: int | None = 0) -> Agreement:
        """How many standard errors :meth:`theory` and the mean of :meth:`simulate` are apart, for both risks.

        Finite sizes differ from the limit by O(1/d); enough repeats at a small d resolve that. Costs ``n_repeats``
        draws of :meth:`simulate`: about seven seconds of one core at the default sizes, one at ``d=64``.

        Raises
        ------
        DataError
            A batch of models: index one. A single repeat, which has no standard error.
        """
        if n_repeats == 1:
            raise DataError("Got n_repeats=1, but expected at least 2: one draw has no standard error.")
        draws = self.simulate(d, n_repeats, n_test, random_state)
        theory = self.theory()
        return statistical_agreement(
            {"risk0": float(theory.risk0), "risk": float(theory.risk)}, {"risk0": draws.risk0, "risk": draws.risk}
        )

    def _scalars(self) -> dict[str, float]:
        if self.psi1.ndim:
            raise DataError(
                f"Got a batch of models of shape {self.psi1.shape}, but expected one: draws are of one model. "
                f"Index the batch, as in model[{', '.join('0' * self.psi1.ndim)}]."
            )
        return {name: float(getattr(self, name)) for name in _NUMBERS}

    # --- showing ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Parameters as plain numbers, and the theory."""
        numbers = {name: getattr(self, name).tolist() for name in _NUMBERS}
        names = {"activation": self.activation.name, "teacher": self.teacher.name}
        return {"kind": "OneStepCK", "schema": 1, **names, **numbers, "theory": self.theory().to_dict()}

    def frame(self) -> pd.DataFrame:
        """One row an element of the batch: parameters and theory."""
        import pandas as pd

        numbers = {name: np.ravel(getattr(self, name)) for name in _NUMBERS}
        return pd.DataFrame(numbers).join(self.theory().frame())

    def plot(
        self,
        ratios: Sequence[float] = (1, 3, 6, 10),
        ax: Axes | None = None,
        *,
        exponents: Sequence[float] = (0.0, 0.25, 0.5),
        d: int = 128,
        n_repeats: int = 4,
        random_state: int = 0,
    ) -> Axes:
        """Risk against samples per dimension for steps ``eta = N^exponent``: theory as lines, Monte Carlo as dots.

        Parameters
        ----------
        ratios : sequence of float
            ``n / d`` of the dots; the lines span them. ``psi1`` and ``eta`` of the model itself are not used, so that
            a batch of them is one figure.
        ax : Axes, optional
            Drawn into; by default a new figure.
        exponents : sequence of float, default (0, 1/4, 1/2)
            Of the step. At 1/2 the theory breaks, which the figure shows.
        d, n_repeats, random_state
            Of the Monte Carlo; ``n_repeats=0`` draws lines only.
        """
        from ..plots.one_step_ck import plot_one_step

        as_floats(ratios, "ratios", positive=True)
        one = self._shared()
        N = round(one._scalars()["psi2"] * d)
        lines = np.geomspace(min(ratios), max(ratios), 60)
        curves = [one._curve(lines, ratios, exponent, d, N, n_repeats, random_state) for exponent in exponents]
        return plot_one_step({"ratios": lines.tolist(), "curves": curves, "floor": self.floor, "N": N}, ax)

    def _shared(self) -> OneStepCK:
        """The one model of a batch in which only psi1 and eta differ."""
        if all(np.ptp(getattr(self, name)) == 0 for name in ("psi2", "ridge", "noise")):
            return self[(0,) * self.psi1.ndim]
        return self

    def _with(self, **changes: ArrayLike) -> OneStepCK:
        numbers = {name: getattr(self, name) for name in _NUMBERS} | changes
        activation, teacher = (
            one.name if ACTIVATIONS.get(one.name) == one else (one.function, one.derivative)
            for one in (self.activation, self.teacher)
        )
        return OneStepCK(activation, teacher, **numbers)

    def _curve(
        self, lines: Floats, ratios: Sequence[float], exponent: float, d: int, N: int, n_repeats: int, seed: int
    ) -> dict[str, Any]:
        eta = N**exponent
        theory = self._with(psi1=lines, eta=eta).theory()
        dots = []
        for ratio in ratios if n_repeats else ():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RegimeWarning)  # to show where the theory breaks is the figure's point
                draws = self._with(psi1=ratio, eta=eta).simulate(d, n_repeats, 4000, seed)
            dots.append({"ratio": ratio, **asdict(draws.summary())})
        beyond = eta > _LARGEST_STEP * np.sqrt(N)
        return {"exponent": exponent, "eta": eta, "beyond": bool(beyond), "risk": theory.risk.tolist(), "dots": dots}


def _companion_transform(z: Floats, psi2: Floats) -> tuple[Floats, Floats]:
    """Positive root m of ``z m^2 + b m = 1``, with ``b = z + psi2 - 1``; r = sqrt(b^2 + 4 z), m' = -(m^2 + m) / r."""
    b = z + psi2 - 1
    root = np.sqrt(b**2 + 4 * z)
    with np.errstate(divide="ignore", invalid="ignore"):
        m = np.where(b >= 0, 2 / (b + root), (root - b) / (2 * z))
    return m, root


def _check_student(activation: Activation) -> None:
    numbers = hermite_numbers(activation.function)
    if abs(numbers.mu0) > 1e-8:
        raise DataError(
            f"Got activation={activation.name!r} with mean {numbers.mu0:.3g} under a standard normal, but the theory "
            "assumes an odd activation such as 'tanh' or 'erf'; subtract the mean at least."
        )
    if abs(numbers.mu1) < 1e-8:
        raise DataError(
            f"Got activation={activation.name!r} without a linear part (E z s(z) = 0), but the theory needs one."
        )


@lru_cache(maxsize=256)
def _is_odd(function: Function) -> bool:
    z = np.linspace(0.01, 6.0, 97)
    value, mirrored = np.asarray(function(z)), np.asarray(function(-z))
    return bool(np.allclose(value, -mirrored, rtol=1e-8, atol=1e-10))
