"""A linear network with one hidden layer on one-dimensional data: exact at any width, rate and initialisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..exceptions import DataError
from .hyperbola import Hyperbola
from .integration import integrate
from .mechanisms import Mechanisms, log_ratio, safe_cosine
from .parametrisations import Parametrisation, as_parametrisation
from .short_repr import short_repr
from .solvable import Agreement, Trajectory, agreement, as_floats, as_times, broadcast

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.axes import Axes

__all__ = ["LinearNet1D"]

Floats = NDArray[np.float64]


@short_repr
@dataclass(frozen=True, eq=False, init=False)
class LinearNet1D:
    r"""``f(x) = g sum_i u_i w_i x`` under gradient flow of ``(1/2) E (f(x) - y)^2``, in closed form.

    .. math::
        \dot u_i = \eta_u r w_i, \quad \dot w_i = \eta_w r u_i, \quad
        r = g \left(E[xy] - g E[x^2] \textstyle\sum_j u_j w_j\right)

    In :math:`p, q = u/\sqrt{\eta_u} \pm \mathrm{sign}(g) \, w/\sqrt{\eta_w}` all neurons move alike,
    :math:`p(t) = p(0) \sqrt Z` and :math:`q(t) = q(0) / \sqrt Z` with the Z of a :class:`Hyperbola`.

    Parameters
    ----------
    u0, w0 : array_like of shape (..., d)
        Initial weights of the output and of the input layer.
    g : array_like of shape (...), default 1.0
        Output scale, not 0; may be negative.
    eta_u, eta_w : array_like, default 1.0
        Positive rates of the layers.
    Exx, Exy : array_like, default 1.0
        ``E[x^2]``, positive, and ``E[x y]``; the target is ``F_inf = Exy / Exx``.

    Raises
    ------
    DataError
        Numbers that are not finite, or out of range; shapes that do not broadcast.

    Notes
    -----
    Costs O(d) a time. :math:`u_i^2/\eta_u - w_i^2/\eta_w` is conserved for every neuron, and so are the ratios
    :math:`p_i/p_j` and :math:`q_i/q_j`. Provenance: that this model is exactly solvable is published (abstract); the
    solution here is derived and checked against integration of the raw equations and against a torch network.

    References
    ----------
    Xu and Ziyin, arXiv 2401.07085.

    Examples
    --------
    >>> net = LinearNet1D([0.1, 0.2], [0.3, -0.1])
    >>> net.F([0.0, 2.0, float("inf")]).round(3).tolist()
    [0.01, 0.715, 1.0]
    >>> net.mechanisms().labels
    ('rescaling',)

    A torch network of this kind, its layers at two rates: with the loss ``(1/2) mean (f - y)^2`` and plain SGD, the
    rates of the layers are ``eta_u`` and ``eta_w``, and a step is a unit of time. With one rate, leave both at 1;
    ``gradient_flow_time(lr, steps)`` is the time then, also for the loss without its 1/2.

    >>> import torch
    >>> x = torch.tensor([[-1.0], [1.0]])
    >>> first, last = torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1, bias=False)
    >>> u, w = last.weight[0], first.weight[:, 0]
    >>> exact = LinearNet1D(u, w, eta_u=0.01, eta_w=0.002, Exx=1.0, Exy=1.0)  # of y = x
    >>> groups = [{"params": first.parameters(), "lr": 0.002}, {"params": last.parameters(), "lr": 0.01}]
    >>> optimizer = torch.optim.SGD(groups)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     (0.5 * (last(first(x)) - x).square().mean()).backward()
    ...     optimizer.step()
    >>> bool(abs(last(first(x))[1, 0] - exact.F(100.0)[0]) < 0.01)
    True
    """

    u0: Floats
    w0: Floats
    g: Floats
    eta_u: Floats
    eta_w: Floats
    Exx: Floats
    Exy: Floats

    def __init__(
        self,
        u0: ArrayLike,
        w0: ArrayLike,
        *,
        g: ArrayLike = 1.0,
        eta_u: ArrayLike = 1.0,
        eta_w: ArrayLike = 1.0,
        Exx: ArrayLike = 1.0,
        Exy: ArrayLike = 1.0,
    ) -> None:
        u, w = as_floats(u0, "u0"), as_floats(w0, "w0")
        if u.ndim == 0 or w.ndim == 0 or u.shape[-1] != w.shape[-1]:
            raise DataError(f"Got u0 of shape {u.shape} and w0 of shape {w.shape}, but expected (..., d) with one d.")
        scalars = {
            "g": as_floats(g, "g"),
            "eta_u": as_floats(eta_u, "eta_u", positive=True),
            "eta_w": as_floats(eta_w, "eta_w", positive=True),
            "Exx": as_floats(Exx, "Exx", positive=True),
            "Exy": as_floats(Exy, "Exy"),
        }
        if (scalars["g"] == 0).any():
            raise DataError("Got g=0, but expected another number: such a network has no output and does not move.")
        # The neurons' axis takes no part in the broadcasting of the batch.
        batch = broadcast(u0=u[..., 0], w0=w[..., 0], **scalars)
        shape = (*batch["g"].shape, u.shape[-1])
        weights = {"u0": np.broadcast_to(u, shape), "w0": np.broadcast_to(w, shape)}
        for name, array in {**weights, **{name: batch[name] for name in scalars}}.items():
            object.__setattr__(self, name, array)

    @classmethod
    def sample(
        cls,
        width: int,
        parametrisation: str | Parametrisation | Mapping[str, float],
        target: ArrayLike = 1.0,
        random_state: int | None = None,
        *,
        draws: int | None = None,
    ) -> LinearNet1D:
        """Random network of a parametrisation; the same normal numbers for all of them.

        Parameters
        ----------
        width : int
            Hidden neurons d.
        parametrisation : str, Parametrisation or mapping
            A name of ``NAMED_PARAMETRISATIONS``, or exponents of d for g, eta_u, eta_w, var_u, var_w.
        target : array_like, default 1.0
            ``F_inf``, with ``E[x^2] = 1``; broadcasts with the draws.
        random_state : int, optional
            Seed; by default a fresh one.
        draws : int, optional
            Leading batch axis of so many independent networks; by default none.

        Examples
        --------
        >>> LinearNet1D.sample(100, "mean_field", random_state=0, draws=2).mechanisms().labels.tolist()
        [('alignment', 'rescaling'), ('alignment', 'rescaling')]
        """
        for name, count in (("width", width), ("draws", 1 if draws is None else draws)):
            if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
                raise DataError(f"Got {name}={count!r}, but expected a positive integer.")
        scale = as_parametrisation(parametrisation).at(width)
        shape = (width,) if draws is None else (draws, width)
        rng = np.random.default_rng(random_state)
        u, w = (np.sqrt(scale[name]) * rng.standard_normal(shape) for name in ("var_u", "var_w"))
        return cls(u, w, g=scale["g"], eta_u=scale["eta_u"], eta_w=scale["eta_w"], Exy=target)

    # --- the solution -------------------------------------------------------------------------------------------------

    @property
    def F_inf(self) -> Floats:
        """Target, ``Exy / Exx``."""
        return self.Exy / self.Exx

    @cached_property
    def hyperbola(self) -> Hyperbola:
        """On which output and kernel move."""
        p, q = self._modes
        scale = np.abs(self.g) * np.sqrt(self.eta_u) * np.sqrt(self.eta_w)
        A, B = (scale**2 * np.sum(mode**2, axis=-1) for mode in (p, q))
        return Hyperbola.from_sums(A, B, 2 * scale * self.F_inf, self.Exx, omega=2 * scale)

    @property
    def _modes(self) -> tuple[Floats, Floats]:
        U, W = self.u0 / np.sqrt(self.eta_u)[..., np.newaxis], self.w0 / np.sqrt(self.eta_w)[..., np.newaxis]
        W = np.sign(self.g)[..., np.newaxis] * W
        return U + W, U - W

    def weights(self, t: ArrayLike) -> tuple[Floats, Floats]:
        """Weights u and w at times t, each of shape (..., d, T)."""
        Z = self.hyperbola.Z(t)[..., np.newaxis, :]
        p, q = (mode[..., np.newaxis] for mode in self._modes)
        with np.errstate(divide="ignore", invalid="ignore"):
            # 0 times infinity: in the basin of the saddle every p is 0 and stays it, while Z grows beyond all bounds.
            p, q = np.where(p == 0, 0.0, p * np.sqrt(Z)), np.where(q == 0, 0.0, q / np.sqrt(Z))
        eta_u, eta_w = self.eta_u[..., np.newaxis, np.newaxis], self.eta_w[..., np.newaxis, np.newaxis]
        sign = np.sign(self.g)[..., np.newaxis, np.newaxis]
        return np.sqrt(eta_u) * (p + q) / 2, sign * np.sqrt(eta_w) * (p - q) / 2

    def F(self, t: ArrayLike) -> Floats:
        """Slope of the network, ``g sum_i u_i w_i``, shape (..., T)."""
        return self.hyperbola.F(t)

    def closed_form(self, t: ArrayLike) -> Trajectory:
        """u, w (..., d, T); F, Theta, residual ``F_inf - F``, cos and norm = ``|u||w|`` (..., T)."""
        core = self.hyperbola.closed_form(t)
        return Trajectory(core.t, self._with_directions(*self.weights(t), core.values))

    def _with_directions(self, u: Floats, w: Floats, outputs: Mapping[str, Floats]) -> dict[str, Floats]:
        norm = np.linalg.norm(u, axis=-2) * np.linalg.norm(w, axis=-2)
        return {"u": u, "w": w, **outputs, "cos": safe_cosine(np.sum(u * w, axis=-2), norm), "norm": norm}

    # --- the independent path -----------------------------------------------------------------------------------------

    def simulate(
        self, t: ArrayLike, *, method: Literal["ode", "network"] = "ode", lr: float | None = None
    ) -> Trajectory:
        """The same quantities from the raw equations, or from a torch network under gradient descent.

        Parameters
        ----------
        t : array_like
            Finite times.
        method : {"ode", "network"}, default "ode"
            DOP853 on the 2d weights; or autograd with steps ``lr eta_u``, ``lr eta_w``, and linear interpolation
            between the steps.
        lr : float, optional
            For "network" only; by default a hundredth of the largest stable one. The error is proportional to it.

        Warns
        -----
        ConvergenceWarning
            Steps above ``hyperbola.max_stable_lr``, steps with which the loss rises or training diverges, or an
            integration that gave up.
        """
        times = as_times(t)
        if method == "ode" and lr is None:
            u, w = integrate(self._flow, np.stack([self.u0, self.w0]), times)
        elif method == "network":
            from .descent import descend

            largest = float(self.hyperbola.max_stable_lr.min())
            step = largest / 100 if lr is None else lr
            rates = [self.eta_u[..., np.newaxis], self.eta_w[..., np.newaxis]]
            u, w = descend(self._network_loss, [self.u0, self.w0], times, step, rates, stable=largest)
        elif method == "ode":
            raise DataError(f"Got lr={lr} with method='ode', which chooses its own steps; leave lr out.")
        else:
            raise DataError(f"Got method={method!r}, but expected 'ode' or 'network'.")
        g, eta_u, eta_w, target = (x[..., np.newaxis] for x in (self.g, self.eta_u, self.eta_w, self.F_inf))
        F = g * np.sum(u * w, axis=-2)
        Theta = g**2 * (eta_u * np.sum(w**2, axis=-2) + eta_w * np.sum(u**2, axis=-2))
        return Trajectory(times, self._with_directions(u, w, {"F": F, "Theta": Theta, "residual": target - F}))

    def _flow(self, weights: Floats) -> Floats:
        u, w = weights
        r = self.g * (self.Exy - self.g * self.Exx * np.sum(u * w, axis=-1))
        return np.stack([(self.eta_u * r)[..., np.newaxis] * w, (self.eta_w * r)[..., np.newaxis] * u])

    def _network_loss(self, u: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Of two samples ``x = +-sqrt(E[x^2])`` with the labels that give ``E[xy]``, summed over the batch."""
        x = u.new_tensor([-1.0, 1.0]) * u.new_tensor(np.sqrt(self.Exx)).unsqueeze(-1)
        y = u.new_tensor(self.F_inf).unsqueeze(-1) * x
        outputs = ((w.unsqueeze(-2) * x.unsqueeze(-1)) @ u.unsqueeze(-1)).squeeze(-1)
        return 0.5 * (u.new_tensor(self.g).unsqueeze(-1) * outputs - y).square().mean(dim=-1).sum()

    def verify(self, t: ArrayLike | None = None, *, tolerance: float = 1e-9) -> Agreement:
        """How far the closed form is from :meth:`simulate`; by default over eight units of the slowest rate."""
        times = self.hyperbola.horizon() * np.linspace(0.0, 1.0, 60) if t is None else as_times(t)
        return agreement(self.closed_form(times), self.simulate(times), tolerance)

    def conserved(self, trajectory: Trajectory) -> dict[str, Floats]:
        """What gradient flow keeps constant, along a closed form or a simulation.

        Returns
        -------
        dict
            "balance": ``u_i^2 / eta_u - w_i^2 / eta_w`` of shape (..., d, T); "kernel": ``Theta^2 - omega^2 F^2`` of
            shape (..., T).
        """
        eta_u, eta_w = self.eta_u[..., np.newaxis], self.eta_w[..., np.newaxis]
        omega = self.hyperbola.omega[..., np.newaxis]
        return {
            "balance": trajectory["u"] ** 2 / eta_u[..., np.newaxis] - trajectory["w"] ** 2 / eta_w[..., np.newaxis],
            "kernel": trajectory["Theta"] ** 2 - (omega * trajectory["F"]) ** 2,
        }

    # --- mechanisms ---------------------------------------------------------------------------------------------------

    def mechanisms(self, t: ArrayLike | None = None) -> Mechanisms:
        r"""What the output grew by: the layers turned towards each other, or their norms changed.

        .. math:: \log |F_t / F_0| = \Delta \log |\cos| + \Delta \log (|u| |w|), \quad \cos = u \cdot w / (|u||w|)

        Parameters
        ----------
        t : array_like, optional
            Times; arrays of the answer are (..., T). By default at infinity, and they are (...).

        Returns
        -------
        Mechanisms
            With the labels "alignment", "disalignment", "rescaling" as defined in this library: ``labels`` is a tuple
            of them, and an array of tuples for a batch or for given times.

        Notes
        -----
        Provenance: the three mechanisms are published (abstract); this decomposition and the thresholds of the labels
        are those of this library.
        """
        now = self.closed_form(np.inf if t is None else t)
        start = self._with_directions(self.u0[..., np.newaxis], self.w0[..., np.newaxis], {})
        cos, norm = now["cos"], now["norm"]
        cos0, norm0 = np.broadcast_to(start["cos"], cos.shape), np.broadcast_to(start["norm"], norm.shape)
        arrays = (cos0, cos, norm0, norm, log_ratio(np.abs(cos), np.abs(cos0)), log_ratio(norm, norm0))
        if t is None:
            return Mechanisms(self.u0.shape[-1], *(array[..., 0] for array in arrays))
        return Mechanisms(self.u0.shape[-1], *arrays)

    # --- showing ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Parameters, hyperbola and mechanisms as plain numbers (nested lists for a batch)."""
        names = ("u0", "w0", "g", "eta_u", "eta_w", "Exx", "Exy")
        return {
            "kind": "LinearNet1D",
            "schema": 1,
            **{name: getattr(self, name).tolist() for name in names},
            "hyperbola": self.hyperbola.to_dict(),
            "mechanisms": self.mechanisms().to_dict(),
        }

    def frame(self) -> pd.DataFrame:
        """One row a network of the batch: where it starts and ends, and by which mechanisms."""
        return self.hyperbola.frame().join(self.mechanisms().frame())

    def plot(self, t: ArrayLike | None = None, ax: Any = None) -> list[Axes]:
        """Output, kernel, cosine and product of norms over time: closed form as lines, its integration as dots.

        Parameters
        ----------
        t : array_like, optional
            Times; by default eight units of the slowest rate.
        ax : Axes or four Axes, optional
            Drawn into; one Axes gets the output alone. By default a new figure.
        """
        from ..plots.dynamics import plot_linear_net

        times = np.linspace(0.0, self.hyperbola.horizon(), 200) if t is None else np.sort(as_times(t))
        dots = times[:: max(1, len(times) // 12)]
        return plot_linear_net(self.closed_form(times).to_dict(), self.simulate(dots).to_dict(), ax)
