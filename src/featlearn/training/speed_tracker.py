"""Feature speed along training: what one step of the optimiser does to every layer's output, every so often."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..agop.feature_speed import FeatureSpeed, feature_speed
from ..agop.losses import Loss
from ..exceptions import DataError, FeatlearnError, FeatlearnWarning

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FeatureSpeedTracker"]

LOGGED = ("relative_change", "loss_decay_share", "cos_theta", "sensitivity")


class FeatureSpeedTracker:
    """Measure the next step of the optimiser on one batch along training, without making it.

    Parameters
    ----------
    model : torch.nn.Module
        The model that is trained; given back exactly as it was by every measurement.
    loss : callable
        ``(outputs, targets) -> Tensor``, the mean over the batch.
    batch : Tensor, (inputs, targets) or mapping
        The batch that every measurement uses.
    optimizer : torch.optim.Optimizer
        Its step is rehearsed, with its state and its rates as they are, and taken back bitwise.
    every : int
        Steps between measurements; the first one is made at construction.
    log : callable, optional
        ``log(dict)`` after each measurement, with ``"step"``, ``"loss"`` and ``"layer/relative_change"``, ...
    **speed_options
        ``layers``, ``outputs``, ``method``, ``mode``, ``finite`` (here False by default) of
        :func:`featlearn.feature_speed`.

    Attributes
    ----------
    history : list of (int, FeatureSpeed)
        Step and measurement.

    Raises
    ------
    DataError, ModelError, UnmeasurableError
        At construction. A measurement that fails later in the run is a warning, not the end of the training.

    Notes
    -----
    A measurement costs about three training steps: see :func:`featlearn.feature_speed`.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    >>> x = torch.randn(64, 3)
    >>> optimizer, loss = torch.optim.Adam(net.parameters()), torch.nn.functional.mse_loss
    >>> tracker = FeatureSpeedTracker(net, loss, (x, x[:, :1]), optimizer, every=10)
    >>> for _ in range(20):
    ...     optimizer.zero_grad()
    ...     loss(net(x), x[:, :1]).backward()
    ...     optimizer.step()
    ...     speed = tracker.step()
    >>> [step for step, _ in tracker.history]
    [0, 10, 20]
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batch: Any,
        optimizer: torch.optim.Optimizer,
        *,
        every: int = 50,
        log: Callable[[dict[str, Any]], object] | None = None,
        **speed_options: Any,
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise DataError(f"Got every={every!r}, but expected an integer of at least 1.")
        if log is not None and not callable(log):
            raise DataError(f"Got log={log!r}, but expected a function that takes a dictionary.")
        known = {"layers", "outputs", "method", "mode", "finite"}
        if unknown := sorted(set(speed_options) - known):
            raise TypeError(f"Got {', '.join(unknown)}, but expected options among {', '.join(sorted(known))}.")
        self.model, self.loss, self.batch, self.optimizer = model, loss, batch, optimizer
        self.every, self.log = every, log
        self._options = {"finite": False} | speed_options
        self.steps = 0
        self.history: list[tuple[int, FeatureSpeed]] = []
        self._measure()

    def step(self) -> FeatureSpeed | None:
        """Count one step of the optimiser; the measurement when one was due."""
        self.steps += 1
        if self.steps % self.every:
            return None
        try:
            return self._measure()
        except FeatlearnError as error:
            warnings.warn(f"Step {self.steps} was not measured: {error}", FeatlearnWarning, stacklevel=2)
            return None

    def _measure(self) -> FeatureSpeed:
        speed = feature_speed(self.model, self.loss, self.batch, update=self.optimizer, **self._options)
        self.history.append((self.steps, speed))
        if self.log is not None:
            flat = {f"{name}/{key}": getattr(layer, key) for name, layer in speed.layers.items() for key in LOGGED}
            self.log({"step": self.steps, "loss": speed.loss, **flat})
        return speed

    def frame(self) -> pd.DataFrame:
        """One row a measurement and layer, with the columns of ``FeatureSpeed.frame()`` and the loss."""
        import pandas as pd

        frames = {step: speed.frame().assign(loss=speed.loss) for step, speed in self.history}
        return pd.concat(frames, names=["step", "layer"]).reset_index()

    def plot(self, quantity: str = "relative_change", ax: Any = None) -> Any:
        """The loss, and beside it one curve a layer.

        Parameters
        ----------
        quantity : str
            A column of :meth:`frame`.
        ax : Axes or two Axes, optional
            Where to draw; one Axes gets the layers alone. By default a new figure.

        Returns
        -------
        list of Axes
        """
        from ..plots.speed import plot_speed_history

        return plot_speed_history(self.frame(), quantity, ax)

    def _repr_html_(self) -> str:
        columns = ["step", "layer", "loss", *LOGGED]
        return str(self.frame()[columns].to_html(float_format=lambda value: format(value, ".3g"), index=False))
