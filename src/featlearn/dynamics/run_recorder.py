"""Diagnosis during training: snapshots of the measures, not of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..agop.batches import Outputs, check_outputs, flat_outputs, parse_batch, raw_outputs
from ..agop.execution import places
from ..agop.finding import find_layers, unwrap
from ..agop.probes import check_random_state
from ..agop.taps import guest
from ..exceptions import DataError
from .diagnose_results import Diagnosis
from .evidence import conclude
from .layer_mechanisms import collect_weights
from .layer_pairs import Names
from .run_inspection import (
    Optimizer,
    check_optimizer,
    flags_of_model,
    flags_of_optimizer,
    pairs_of_run,
    rates_of,
)
from .run_measures import Meter, Snapshot, target_direction

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run", "RunRecorder"]


class RunRecorder:
    r"""Measures a model while it is trained: built before training, called at some steps, asked at the end.

    Parameters
    ----------
    model : torch.nn.Module
        At its initial weights, with which everything is compared. In evaluation mode while it is measured, and given
        back exactly as it was.
    X : Tensor or array of shape (n, ...)
        Inputs, the same at every snapshot.
    y : Tensor or array, optional
        Targets: integer classes, or numbers of the outputs' shape. With them, and four snapshots, the hyperbola is
        fitted: :math:`F = v \cdot f` along the targets' unit vector v and :math:`\Theta = |\nabla (v \cdot f)|^2`.
    pairs, optimizer, outputs, ntk_samples, random_state
        As for :func:`~featlearn.dynamics.diagnose.diagnose`.
    log : callable, optional
        Gets one dictionary of numbers at each call.

    Notes
    -----
    :meth:`frame`, and ``.history`` of :meth:`diagnose`, have the numbers of every step at which it was called.
    Holds a copy of the initial weights, one kernel, and the signs of all activations on X. A snapshot costs a tangent
    kernel of ``ntk_samples`` rows, two forward passes, with targets one backward pass, and the mechanisms.
    Provenance: measures published or derived here, checked; thresholds are conventions of this library.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 20), torch.nn.ReLU(), torch.nn.Linear(20, 1))
    >>> recorder = RunRecorder(net, torch.randn(40, 3))
    >>> recorder(0)
    >>> recorder.diagnose().regime
    'lazy'
    >>> recorder.frame().columns.tolist()
    ['kernel_distance', 'kernel_growth', 'hamming', 'weights_moved']
    """

    def __init__(
        self,
        model: nn.Module,
        X: Any,
        y: Any = None,
        pairs: Sequence[Names] | None = None,
        *,
        optimizer: Optimizer = None,
        outputs: Outputs = "logits",
        ntk_samples: int = 64,
        random_state: int = 0,
        log: Callable[[dict[str, float]], Any] | None = None,
    ) -> None:
        self._model = unwrap(model)
        self._run = Run(
            self._model,
            X,
            y,
            rated=self._model,
            pairs=pairs,
            optimizer=optimizer,
            outputs=outputs,
            ntk_samples=ntk_samples,
            random_state=random_state,
        )
        self._log = log
        self._snapshots: list[Snapshot] = []

    def __call__(self, step: int) -> None:
        """Measure the model as it is now.

        Raises
        ------
        DataError
            A step that does not come after the last one; outputs that are not finite.
        """
        if self._snapshots and step <= self._snapshots[-1].step:
            raise DataError(f"Got step {step} after step {self._snapshots[-1].step}, but expected a later one.")
        snapshot = self._run.meter.measure(self._model, int(step))
        self._snapshots.append(snapshot)
        if self._log is not None:
            self._log(snapshot.row())

    def diagnose(self) -> Diagnosis:
        """The verdict at the last snapshot, with all of them as its ``history``.

        Raises
        ------
        DataError
            Nothing was recorded.
        """
        return self._run.conclude(self._recorded())

    def frame(self) -> pd.DataFrame:
        """One row a recorded step: the numbers of :meth:`diagnose`'s ``history``, with targets F and Theta among them.

        Raises
        ------
        DataError
            Nothing was recorded.
        """
        import pandas as pd

        return pd.DataFrame([snapshot.row() for snapshot in self._recorded()]).set_index("step")

    def _recorded(self) -> list[Snapshot]:
        if not self._snapshots:
            raise DataError("Got no recorded step, but expected at least one. Call recorder(step) while training.")
        return self._snapshots


class Run:
    """What stays the same over a run: inputs, pairs, rates, flags, and the start that everything is compared with."""

    def __init__(
        self,
        start: nn.Module,
        X: Any,
        y: Any = None,
        *,
        rated: nn.Module,
        pairs: Sequence[Names] | None,
        optimizer: Optimizer,
        outputs: Outputs,
        ntk_samples: int,
        random_state: int,
    ) -> None:
        check_outputs(outputs)
        check_optimizer(optimizer)
        check_random_state(random_state)
        if not isinstance(ntk_samples, int) or isinstance(ntk_samples, bool) or ntk_samples < 2:
            raise DataError(f"Got ntk_samples={ntk_samples!r}, but expected an integer >= 2.")
        if not isinstance(X, (Tensor, np.ndarray)) or X.ndim < 1 or len(X) < 2:
            got = f"shape {tuple(X.shape)}" if isinstance(X, (Tensor, np.ndarray)) else type(X).__name__
            raise DataError(f"Got X of {got}, but expected a tensor or array of at least two inputs, one a row.")
        batch = parse_batch(X, start)
        with guest(start), torch.no_grad():
            flat = flat_outputs(raw_outputs(start, batch, outputs))
        path = places(start, batch, outputs)
        found = pairs_of_run(start, pairs, path, batch, outputs)
        self._pairs = [pair for pair, _ in found]
        self._n_samples = len(flat)
        self._first_weight = _first_weight(start, [module for _, module in path])
        self._flags = [
            *flags_of_model(start, path, min(len(flat), ntk_samples)),
            *flags_of_optimizer(optimizer),
            *dict.fromkeys(flag for pair in self._pairs for flag in pair.flags if "shares its" not in flag),
        ]
        self.meter = Meter(
            start,
            batch,
            path,
            found,
            outputs=outputs,
            rates=rates_of(rated, optimizer),
            ntk_samples=ntk_samples,
            random_state=random_state,
            direction=None if y is None else target_direction(y, flat),
        )
        self._weights = [pair.weights() for pair in self._pairs]

    def conclude(self, snapshots: Sequence[Snapshot]) -> Diagnosis:
        """The verdict on the last of them."""
        mechanisms = None
        if self._pairs:
            mechanisms = collect_weights(
                [pair.names for pair in self._pairs],
                self._weights,
                [snapshot.states for snapshot in snapshots],
                [snapshot.step for snapshot in snapshots],
                flags=[pair.flags for pair in self._pairs],
                normalised=[pair.normalised for pair in self._pairs],
            )
        watched = "what the activation modules read" if self.meter.watched[1] else "the hidden layers' outputs"
        return conclude(
            snapshots,
            self.meter.start().balances,
            [" | ".join(pair.names) for pair in self._pairs],
            mechanisms,
            self._flags,
            first_weight=self._first_weight,
            n_samples=self._n_samples,
            hamming_of=watched,
        )


def _first_weight(model: nn.Module, path: Sequence[nn.Module]) -> str | None:
    """Name of the weight of the first layer that runs."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = {id(layer.module): layer for layer in find_layers(model)[0].values()}
    first = next((held[id(module)] for module in path if id(module) in held), None)
    return None if first is None else names.get(id(first.parameter()))
