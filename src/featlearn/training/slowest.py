"""The automatic speed limit: the layer whose ansatz lags becomes the fast one, measurement after measurement."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from ..exceptions import DataError, ModelError, UnmeasurableError
from .slo import SLO
from .weight_groups import named_parameters

__all__ = ["SpeedUpSlowest", "slowest_layer"]


class _Tracker(Protocol):
    """What steps with the training and now and then has a report."""

    def step(self) -> Any: ...


def slowest_layer(report: Any, field: str = "nfa_excess") -> str:
    """Name of the layer that lags: the smallest value of one quantity.

    Parameters
    ----------
    report : FeatureReport
        Of :func:`featlearn.measure_features` or a tracker: ``report.layers`` maps names to records.
    field : str, default "nfa_excess"
        A number of each record, such as ``"nfa"``, ``"nfa_excess"`` or ``"centered_nfa"``.

    Returns
    -------
    str
        The first one of equals. Layers whose value is nan or was not measured, and the trivial last layer (whose
        ansatz holds by definition), are left out.

    Raises
    ------
    DataError
        No such number.
    UnmeasurableError
        No layer is left.

    Examples
    --------
    >>> import torch
    >>> from featlearn import measure_features
    >>> net = torch.nn.Sequential(*(torch.nn.Linear(6, 6) for _ in range(3)), torch.nn.Tanh(), torch.nn.Linear(6, 2))
    >>> _ = [torch.nn.init.eye_(layer.weight) for layer in net[:3]]
    >>> with torch.no_grad():
    ...     net[1].weight[0, 0] = -3.0  # this layer carries one direction far more than the outputs depend on it
    ...     _ = net[2].weight[:, 0].zero_()
    >>> X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    >>> slowest_layer(measure_features(net, X.split(16)), "nfa")
    '1'
    """
    values = _values(report, field)
    if not values:
        raise UnmeasurableError(
            f"Got a report in which {field!r} is nan, not measured or trivial in every layer, but expected a number in "
            "one of them at least."
        )
    return min(values, key=values.__getitem__)


class SpeedUpSlowest:
    r"""Give speed C to the layer whose ansatz lags, and 1/C to all others, whenever a tracker has a new report.

    Call :meth:`step` once after each ``optimizer.step()``, in place of ``tracker.step()``, which it calls.

    Parameters
    ----------
    optimizer : SLO
        Whose groups :func:`slo_groups` made: one a weight, so that speeds can move. The layer that is fast at first is
        the one named there.
    model : torch.nn.Module
        Whose layers the tracker's reports name.
    tracker : FeatureTracker
        Or any object whose ``step()`` returns a report or ``None``. How often it measures is how often speeds move.
    constant : float, default 20.0
        ``C``.
    field : str, default "nfa_excess"
        What lags: see :func:`slowest_layer`. The excess over its null is comparable between layers of other widths; the
        research code of arXiv 2402.13728 takes ``"nfa"``.

    Attributes
    ----------
    history : list of (int, str, float)
        Step, the layer that became (or stayed) fast, and its value.
    steps : int
        Calls of :meth:`step`.

    Raises
    ------
    DataError
        An optimiser that is not SLO, whose groups hold several layers each; a
        constant that is not positive; a quantity that the tracker's reports have not.
    ModelError
        No module, or an optimiser that limits fewer than two of its layers.

    Notes
    -----
    Exempt groups (biases, norms, embeddings) stay exempt, and layers of which the optimiser limits no weight are never
    chosen; neither are trivial layers, those whose value is nan, and ``Rows`` of a layer. When no layer is left, speeds
    stay as they are. The projections q, k and v of an attention layer are three layers of the report but one tensor,
    ``in_proj_weight``: if one of them lags, all three become fast, and ``history`` names the one that lagged. Layers
    that share a weight become fast together.

    With several processes give the tracker its ``group=``, so that all have the same report; else their speeds, and
    then their weights, come apart.

    A lagging layer is not always the one that should be faster: where the task sits in the first layer, speeding up
    another one does harm. Compare with a fixed choice on validation data. As measured in this library's
    benchmarks, on five tasks: the best of all methods where the task sits in five of 32 inputs, behind plain gradient
    descent on three of four tasks of images within 320 steps.

    Save with :meth:`state_dict` beside the states of the optimiser, which holds the speeds, and of the tracker.

    Examples
    --------
    >>> import torch
    >>> from featlearn import SLO, FeatureTracker, slo_groups
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
    ... )
    >>> X = torch.randn(128, 8, generator=torch.Generator().manual_seed(0))
    >>> optimizer = SLO(torch.optim.SGD(slo_groups(net, fast="0", constant=5), lr=0.01))
    >>> auto = SpeedUpSlowest(optimizer, net, FeatureTracker(net, X.split(32), every=20), constant=5)
    >>> for _ in range(60):
    ...     optimizer.zero_grad()
    ...     (net(X)[:, 0] - X[:, 0] * X[:, 1]).square().mean().backward()
    ...     optimizer.step()
    ...     report = auto.step()
    >>> [step for step, layer, value in auto.history]
    [20, 40, 60]
    >>> sorted(group["speed"] for group in optimizer.param_groups if not group.get("exempt"))
    [0.2, 0.2, 5]
    """

    def __init__(
        self,
        optimizer: SLO,
        model: nn.Module,
        tracker: _Tracker,
        *,
        constant: float = 20.0,
        field: str = "nfa_excess",
    ) -> None:
        if not isinstance(optimizer, SLO):
            raise DataError(f"Got an optimizer of type {type(optimizer).__name__}, but expected SLO, which has speeds.")
        if not callable(getattr(tracker, "step", None)):
            raise DataError(f"Got a tracker of type {type(tracker).__name__}, but expected a FeatureTracker.")
        if not (constant > 0 and math.isfinite(constant)):
            raise DataError(f"Got constant={constant!r}, but expected a positive finite number.")
        self.optimizer, self.model, self.tracker = optimizer, model, tracker
        self.constant, self.field = constant, field
        self.steps = 0
        self.history: list[tuple[int, str, float]] = []
        self._groups_of_layers()
        for _, report in list(getattr(tracker, "history", ()))[-1:]:
            _values(report, field)

    def step(self) -> Any:
        """Count one optimiser step; if the tracker has a report, move the speeds and return it."""
        report = self.tracker.step()
        self.steps += 1
        if report is None:
            return None
        groups = self._groups_of_layers()
        values = {name: value for name, value in _values(report, self.field).items() if name in groups}
        if values:
            slowest = min(values, key=values.__getitem__)
            for index, group in enumerate(self.optimizer.param_groups):
                if not group.get("exempt", False):
                    group["speed"] = self.constant if index in groups[slowest] else 1 / self.constant
            self.history.append((self.steps, slowest, values[slowest]))
        return report

    def _groups_of_layers(self) -> dict[str, set[int]]:
        """Indices of the groups that hold a layer's weights; found anew, for groups come and are replaced."""
        index_of = {
            id(parameter): index
            for index, group in enumerate(self.optimizer.param_groups)
            if not group.get("exempt", False)
            for parameter in group["params"]
        }
        found: dict[str, set[int]] = {}
        layers_of: dict[int, list[str]] = {}
        for named in named_parameters(self.model):
            if named.layers and id(named.parameter) in index_of:
                index = index_of[id(named.parameter)]
                layers_of.setdefault(index, []).append(named.layers[0])
                for layer in named.layers:
                    found.setdefault(layer, set()).add(index)
        if crowded := next((layers for layers in layers_of.values() if len(set(layers)) > 1), None):
            raise DataError(
                f"Got one parameter group with the layers {', '.join(map(repr, crowded))}, but expected a group for "
                "each layer, so that one can be faster than the other. Use slo_groups."
            )
        if len(layers_of) < 2:
            raise ModelError(
                f"Got an optimizer that limits {len(layers_of)} layers of the model, but expected two at least. Build "
                "it from slo_groups of this model."
            )
        return found

    def state_dict(self) -> dict[str, Any]:
        """Step and history as plain numbers and strings; speeds are in the optimiser's state."""
        return {"steps": self.steps, "history": [list(entry) for entry in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        if missing := {"steps", "history"} - set(state):
            raise DataError(
                f"Got a state without {', '.join(sorted(missing))}, but expected SpeedUpSlowest.state_dict()."
            )
        self.steps = state["steps"]
        self.history = [(step, layer, value) for step, layer, value in state["history"]]


def _values(report: Any, field: str) -> dict[str, float]:
    """Layers in which the quantity is a number, and not trivial."""
    values: dict[str, float] = {}
    for name, layer in report.layers.items():
        value = getattr(layer, field, ...)
        if value is ... or isinstance(value, bool) or not (value is None or isinstance(value, (int, float))):
            close = difflib.get_close_matches(
                field, ["nfa", "nfa_excess", "centered_nfa", "derivative_nfa", "fact"], n=3
            )
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise DataError(f"Got field={field!r}, but expected a number of a layer's report, such as 'nfa'.{hint}")
        if value is not None and not math.isnan(value) and not layer.trivial:
            values[name] = float(value)
    return values
