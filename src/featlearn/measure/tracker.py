"""Feature learning along a training run: a report every so often, at a bounded cost, without touching the run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from .._random import preserved_rng
from ..agop.accumulate import accumulation_dtype
from ..agop.batches import check_batches
from ..agop.finding import resolve_layers, unwrap
from ..exceptions import DataError, FeatlearnError, FeatlearnWarning
from .measurement import Options, run_measurement
from .results import FeatureReport

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from .early_results import EarlyAlignment

__all__ = ["FeatureTracker"]

LOGGED = ("nfa", "nfa_null", "nfa_excess", "nfa_standard_error", "centered_nfa")


class FeatureTracker:
    r"""Measure the same batches along training.

    Call :meth:`step` once after each optimiser step; as a context manager it also measures the end.

    Parameters
    ----------
    model : torch.nn.Module
        Its weights at construction are the ``W_0`` of the centred ansatz.
    batches : iterable
        Read once and kept: the fixed probe batches. A few hundred samples in four or more batches.
    every : int, optional
        Steps between measurements, 100 when not given; with "log" the longest gap, without limit when not given.
    log : callable, optional
        ``log(dict)`` after each measurement, with ``"step"`` and ``"layer/nfa_excess"``, ``"layer/nfa"``, ...:
        ``run.log`` of an experiment tracker, or ``print``.
    schedule : {"linear", "log"}
        Steps 0, every, 2 every, ...; or 0, 1, 2, 4, 8, ...
    budget : float, optional
        Largest share of the loop's time, such as 0.05. A measurement that is due waits until it fits.
    spectra : bool, default False
        Spectra, effective ranks, directions and powers other than 1 too: about ten times the statistics' time.
    **measure_options
        ``layers``, ``outputs``, ``loss``, ``probes``, ``power``, ``statistic``, ``random_state``, ``group``,
        ``reference`` of :func:`featlearn.measure_features`. ``probes=1`` costs little more than one training step.

    Attributes
    ----------
    history : list of (int, FeatureReport)
        Step and report. To be cheap, reports carry no matrices, closed-form nulls, errors at power 1 only, and (without
        ``spectra``) empty spectra.
    seconds, share : float
        Time spent measuring, and its share of the time since construction.

    Notes
    -----
    Never advances the training's random numbers nor touches ``.grad``. A measurement that fails later in the run (a
    diverged network, say) is a warning, not the end of the training.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> with FeatureTracker(net, X.split(16), every=10) as tracker:
    ...     for _ in range(20):
    ...         optimizer.zero_grad()
    ...         net(X).square().mean().backward()
    ...         optimizer.step()
    ...         report = tracker.step()
    >>> [step for step, _ in tracker.history]
    [0, 10, 20]
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        *,
        every: int | None = None,
        log: Callable[[dict[str, Any]], object] | None = None,
        schedule: Literal["linear", "log"] = "linear",
        budget: float | None = None,
        spectra: bool = False,
        **measure_options: Any,
    ) -> None:
        self._started = time.perf_counter()
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise DataError(f"Got every={every!r}, but expected an integer >= 1.")
        if schedule not in ("linear", "log"):
            raise DataError(f"Got schedule={schedule!r}, but expected 'linear' or 'log'.")
        if budget is not None and not 0 < budget <= 1:
            raise DataError(f"Got budget={budget!r}, but expected a share of the time in (0, 1].")
        if log is not None and not callable(log):
            raise DataError(f"Got log={log!r}, but expected a function that takes a dictionary.")
        known = set(Options.__dataclass_fields__) - {"thorough", "spectra", "kernel_samples"}
        if unknown := sorted(set(measure_options) - known):
            raise TypeError(f"Got {', '.join(unknown)}, but expected options among {', '.join(sorted(known))}.")
        self.model, self.log, self.schedule = model, log, schedule
        self.every = 100 if every is None and schedule == "linear" else every
        self.budget, self.spectra = budget, spectra
        with preserved_rng():
            self.batches = list(check_batches(batches))
        layers, _, _ = resolve_layers(unwrap(model), measure_options.get("layers", "auto"))
        self.initial_weights: dict[str, Tensor] = {
            layer.name: layer.weight().to(accumulation_dtype(layer.weight().dtype)).clone() for layer in layers
        }
        self._options = measure_options
        self.steps = 0
        self.seconds = self._earlier = 0.0
        self.history: list[tuple[int, FeatureReport]] = []
        self._last = 0.0
        self._measured_at = -1
        self._measure()

    # --- the loop -----------------------------------------------------------------------------------------------------

    def step(self) -> FeatureReport | None:
        """Count one optimiser step; the report when one was due and the budget allowed it."""
        self.steps += 1
        if not self._due() or not self._affordable():
            return None
        return self._try()

    def __enter__(self) -> FeatureTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and self._measured_at != self.steps:
            self._try()

    def _try(self) -> FeatureReport | None:
        """Measure; what goes wrong in the middle of a run is a warning."""
        try:
            return self._measure()
        except FeatlearnError as error:
            self._measured_at = self.steps
            warnings.warn(f"Step {self.steps} was not measured: {error}", FeatlearnWarning, stacklevel=3)
            return None

    def _due(self) -> bool:
        """Whether a scheduled step lies between the last measurement and now."""
        last, now = self._measured_at, self.steps
        if self.schedule == "log" and now.bit_length() > last.bit_length():
            return True
        if self.every is None:
            return False
        return now - last >= self.every if self.schedule == "log" else now // self.every > last // self.every

    def _affordable(self) -> bool:
        return self.budget is None or self.seconds + self._last <= self.budget * (self._elapsed() + self._last)

    def _elapsed(self) -> float:
        return self._earlier + time.perf_counter() - self._started

    @property
    def share(self) -> float:
        """Share of the time since construction that was spent measuring."""
        return self.seconds / self._elapsed()

    def _measure(self) -> FeatureReport:
        start = time.perf_counter()
        given = {"reference": self.initial_weights} | self._options
        options = Options(**given, kernel_samples=0, thorough=False, spectra=self.spectra)
        report, _ = run_measurement(self.model, self.batches, options)
        self.history.append((self.steps, report))
        self._measured_at = self.steps
        self._last = time.perf_counter() - start
        self.seconds += self._last
        if self.log is not None:
            self.log(self._flat(report))
        return report

    def _flat(self, report: FeatureReport) -> dict[str, Any]:
        flat: dict[str, Any] = {"step": self.steps}
        for name, layer in report.layers.items():
            if not layer.trivial:
                flat |= {f"{name}/{key}": getattr(layer, key) for key in LOGGED}
        return flat

    # --- results ------------------------------------------------------------------------------------------------------

    def frame(self) -> pd.DataFrame:
        """One row a measurement and layer, with the columns of ``FeatureReport.frame()``."""
        import pandas as pd

        frames = {step: report.frame() for step, report in self.history}
        return pd.concat(frames, names=["step"]).reset_index()

    def plot(self, quantity: str = "nfa_excess", ax: Axes | None = None) -> Axes:
        """One curve a layer over the steps."""
        from ..plots.tracking import plot_history

        return plot_history(self.frame(), quantity, ax=ax)

    def plot_explained(
        self,
        early: Mapping[str, EarlyAlignment] | None = None,
        *,
        layers: Sequence[str] | None = None,
        axes: Any = None,
    ) -> NDArray[np.object_]:
        """Three panels a layer: prediction against measurement, initial and learned parts, and the two factors.

        Parameters
        ----------
        early : mapping of str to EarlyAlignment, optional
            :func:`featlearn.early_alignment` by layer: where the centred ansatz should start. With ``loss=`` the
            tracker itself knows the exact start.
        layers : sequence of str, optional
            Which; the first four when not given.
        axes : array of Axes of shape (layers, 3), optional
            Drawn into; by default a new figure.

        Returns
        -------
        array of Axes of shape (layers, 3)

        Notes
        -----
        The factors need a tracker with ``spectra=True``; without, the plain cosine of weights and kernel is shown.
        """
        from ..plots.explained import plot_explained

        statistic = self._options.get("statistic", "pearson")
        predicted = {name: float(getattr(found, statistic)) for name, found in (early or {}).items()}
        return plot_explained(self.frame(), predicted, layers=layers, axes=axes)

    def to_html(self, path: str | PathLike[str], *, image_shape: tuple[int, ...] | None = None) -> None:
        """Write the page of the last report, with the curves of all of them."""
        from ..report.features import write_feature_report

        last = self.history[-1][1].to_dict()
        write_feature_report(last, path, image_shape=image_shape, history=list(self.history))

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(float_format="{:.3f}".format, index=False))

    # --- resuming -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Step, initial weights and history as tensors and plain numbers: goes through ``torch.save``."""
        return {
            "steps": self.steps,
            "initial_weights": dict(self.initial_weights),
            "history": [(step, report.to_dict()) for step, report in self.history],
            "seconds": self.seconds,
            "elapsed": self._elapsed(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another tracker of the same model stopped; what this one has measured is replaced."""
        missing = {"steps", "initial_weights", "history", "seconds", "elapsed"} - set(state)
        if missing:
            raise DataError(
                f"Got a state without {', '.join(sorted(missing))}, but expected FeatureTracker.state_dict()."
            )
        weights = state["initial_weights"]
        for name, own in self.initial_weights.items():
            if name not in weights or weights[name].shape != own.shape:
                raise DataError(f"Got a state of another model: layer {name!r} is missing or has another shape.")
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.initial_weights = {name: weights[name].to(own) for name, own in self.initial_weights.items()}
        self.history = [(step, FeatureReport.from_dict(plain)) for step, plain in state["history"]]
        self._measured_at = self.history[-1][0] if self.history else -1
        self._earlier, self._started = state["elapsed"], time.perf_counter()
