"""One call: how far every layer of a model has aligned with the directions its outputs depend on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from ..agop.batches import Outputs
from ..agop.layers import Rows
from ..agop.losses import Loss
from ..agop.probes import Probes
from ..exceptions import FeatlearnWarning
from .measurement import MeasurementInterrupted, Options, Progress, run_measurement
from .results import FeatureReport

__all__ = ["MeasurementInterrupted", "measure_features"]


def measure_features(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: str | Rows | Sequence[str | Rows] = "auto",
    reference: Any = None,
    outputs: Outputs = "logits",
    loss: Loss | None = None,
    probes: Probes = "exact",
    power: float = 1.0,
    statistic: str = "pearson",
    random_state: int = 0,
    group: Any = None,
    progress: Progress = False,
    kernel_samples: int = 64,
) -> FeatureReport:
    r"""Measure feature learning in every linear, convolution and attention layer of a model, in one pass.

    For a layer :math:`h_{ip} = W x_{ip} + b` with gradients :math:`g_{ipc} = \partial f_c(x_i)/\partial h_{ip}`:

    .. math:: F = W^\top W, \qquad K = \frac{1}{n}\sum_{i,p,c} g_{ipc}\, g_{ipc}^\top, \qquad G = W^\top K W,
              \qquad \mathrm{NFA}_a = \rho(F, G^a)

    beside the value expected when K is turned at random in the column space of W, and a jackknife error.

    Parameters
    ----------
    model : torch.nn.Module
        Used in evaluation mode and given back exactly as it was: modes, hooks, gradients, random state.
    batches : iterable
        Tensors, tuples ``(x, y, ...)`` or mappings (``model(**batch)`` without "labels"); read once. Ten or more
        batches give the best error bars.
    layers : "auto", names, globs or Rows
        What to measure; "auto" is every supported layer that runs, and the rest is in ``report.skipped``.
    reference : Module, state_dict or mapping of weights, optional
        Adds the centred ansatz of ``W - W_0``, and, when it covers the whole model, ``lazy_rich`` and
        ``kernel_drift``.
    outputs : "logits" or callable
        ``(model, batch) -> tensor (n, ...)`` replaces the model's own outputs: a logit difference, a softmax.
    loss : callable, optional
        ``(outputs, targets) -> mean over the batch``. Adds the derivative ansatz, FACT, the six canonical relations
        and feature speed.
    probes : "exact", "auto" or int
        One backward pass an output; or random projections, their number chosen for a relative error of 0.03.
    power : float, default 1.0
        ``a``. Powers 1 and 1/2 are always in the report.
    statistic : {"pearson", "cosine"}
        Both are always in the report; this one leads.
    random_state : int, default 0
        Seed of probes and of the null's draws.
    group : torch.distributed group, optional
        Processes that hold different batches; every rank gets the same report.
    progress : bool or callable
        A bar, or ``(done, total or None)`` after each batch.
    kernel_samples : int, default 64
        Samples of the tangent-kernel distance from the reference; 0 leaves it out.

    Returns
    -------
    FeatureReport

    Raises
    ------
    DataError, ModelError, UnmeasurableError, MixingError
        Each says what was got, what was expected and what to do.
    MeasurementInterrupted
        On KeyboardInterrupt, with the report of what was finished.

    Notes
    -----
    Time: one forward and C backward passes (or as many as probes) down to the lowest measured layer, ``2 n C P k^2``
    flops a layer, and ``O(r^3)`` for its statistics, 32 times for nulls at other powers (up to r = 512). Memory: one
    batch's activations and ten ``k x k`` matrices a layer, whatever the number of samples and (with probes) outputs.

    References
    ----------
    Radhakrishnan, Beaglehole, Pandit, Belkin, Science 2024 (AGOP and the neural feature ansatz). Released code for it
    compares F with G to the power 1/2.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> X = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    >>> report = measure_features(model, X.split(20))
    >>> list(report)
    ['0', '2']
    >>> report["2"].trivial
    True
    """
    options = Options(
        layers=layers,
        reference=reference,
        outputs=outputs,
        loss=loss,
        probes=probes,
        power=power,
        statistic=statistic,
        random_state=random_state,
        group=group,
        kernel_samples=kernel_samples,
    )
    report, complaints = run_measurement(model, batches, options, progress)
    for complaint in complaints:
        warnings.warn(complaint, FeatlearnWarning, stacklevel=2)
    return report
