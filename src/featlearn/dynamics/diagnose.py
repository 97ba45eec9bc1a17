"""Which regime is a run in? From a model before and after training, and a batch of inputs; or from weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..agop.batches import Outputs
from ..agop.finding import unwrap
from ..agop.reference_model import named_weights, reference_model, reference_state
from ..exceptions import ModelError
from .diagnose_results import Diagnosis, Evidence
from .evidence import conclude
from .layer_mechanisms import collect_weights, pair_state
from .layer_pairs import Names, parse_pairs, weight_pair
from .run_inspection import Optimizer
from .run_measures import Snapshot, unit_balance, weight_distances
from .run_recorder import Run
from .shared_storage import refuse_shared

__all__ = ["Diagnosis", "Evidence", "diagnose", "diagnose_weights"]


def diagnose(
    before: Any,
    after: nn.Module,
    X: Any,
    *,
    pairs: Sequence[Names] | None = None,
    optimizer: Optimizer = None,
    outputs: Outputs = "logits",
    ntk_samples: int = 64,
    random_state: int = 0,
) -> Diagnosis:
    r"""Is a trained network lazy, or did it learn features, from which end, and by which mechanism?

    Lazy: kernel distance below .01 and Hamming below .03. Feature learning: kernel distance of at least .05. Else
    intermediate. Unless lazy, the mean initial balance of the hidden units tells upstream (above .5: the early layer is
    the fast one), downstream (below -.5) and balanced.

    Parameters
    ----------
    before : Module or state_dict
        The same architecture at initialisation: a copy made before training, ``copy.deepcopy(model)``. A
        ``state_dict()`` alone is no copy, its tensors are those that training changes.
    after : torch.nn.Module
        The trained model; run in evaluation mode and given back exactly as it was.
    X : Tensor or array of shape (n, ...)
        Inputs, one row a sample; at least 32 of them.
    pairs : sequence of (str, str), optional
        Layers, or their weights, whose mechanisms are measured, as for
        :func:`~featlearn.dynamics.layer_mechanisms.layer_mechanisms`; by default consecutive layers, in order of
        execution, whose widths match.
    optimizer : Optimizer or str, optional
        What trained the model, or the name of a class in ``torch.optim``: flags raised by Adam and by weight decay, and
        the rates that the balance is weighted by.
    outputs : "logits" or callable
        ``(model, X) -> tensor (n, ...)`` replaces the whole call.
    ntk_samples : int
        Rows of X for the kernel, drawn at random.
    random_state : int
        Seed of these rows, and of the signs that stand for more than ten outputs.

    Returns
    -------
    Diagnosis
        Frozen; ``.regime``, ``.kind``, ``.evidence``, ``.mechanisms``, ``.flags``, ``.advice``, ``.plot()``.

    Raises
    ------
    DataError
        Bad input; a start that shares memory with the trained model.
    MixingError, ModelError, UnmeasurableError

    Notes
    -----
    Kernel distance: :math:`1 - \langle K_0, K_t \rangle / (\|K_0\| \|K_t\|)` of the tangent kernels of all trained
    parameters. Hamming: share of (unit, sample) pre-activation signs that changed. Balance of a hidden unit with
    positively homogeneous neighbours: squared outgoing minus squared incoming weights and bias, each over its rate.
    The measures are published or derived, the thresholds conventions of this library that come from one family of toy
    problems. Lazy does not mean bad, and a kernel that turned far is no promise of useful features.

    Costs two tangent kernels of ``ntk_samples`` rows, a few forward passes over X, and the mechanisms.
    Provenance: derived here, checked on two-layer ReLU networks of known scale and balance.

    References
    ----------
    Kunin et al., "Get rich quick", arXiv 2406.06158, for kernel distance, Hamming distance and balance.

    Examples
    --------
    >>> import copy, torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 50), torch.nn.ReLU(), torch.nn.Linear(50, 1))
    >>> before, X = copy.deepcopy(net), torch.randn(40, 3)
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    >>> net(X).square().mean().backward()
    >>> optimizer.step()
    >>> diagnosis = diagnose(before, net, X, optimizer=optimizer)
    >>> diagnosis.regime, diagnosis.mechanisms.pairs[0].labels
    ('lazy', ('kernel-like',))
    """
    after = unwrap(after)
    refuse_shared(before, after)
    start = reference_model(after, reference_state(after, before))
    run = Run(
        start,
        X,
        rated=after,
        pairs=pairs,
        optimizer=optimizer,
        outputs=outputs,
        ntk_samples=ntk_samples,
        random_state=random_state,
    )
    return run.conclude([run.meter.start(), run.meter.measure(after, 1)])


def diagnose_weights(before: Any, after: Any, pairs: Sequence[Names]) -> Diagnosis:
    """What two checkpoints say without data: how far weights moved, balance, mechanisms; not the regime.

    Parameters
    ----------
    before, after : Module or state_dict
        The same keys and shapes, in memory of their own.
    pairs : sequence of (str, str)
        Layers, or their weights: ``("fc1", "fc2")`` or ``("fc1.weight", "fc2.weight")``.

    Returns
    -------
    Diagnosis
        With ``regime`` None.

    Raises
    ------
    DataError
        A start that shares memory with the trained weights.
    ModelError, UnmeasurableError
        Missing or unequal weights, pairs whose widths do not match.

    Notes
    -----
    What stands between two layers cannot be seen: that a change of scale passes is assumed for the balance. The first
    layer of a pair is taken as one without groups.

    Examples
    --------
    >>> import torch
    >>> start = {"a.weight": torch.eye(3), "b.weight": torch.eye(3)}
    >>> end = {"a.weight": 2 * torch.eye(3), "b.weight": torch.eye(3)}
    >>> diagnose_weights(start, end, [("a", "b")]).mechanisms.pairs[0].labels
    ('rescaling',)
    """
    states = [named_weights(before), named_weights(after)]
    _check_equal(*states)
    names = parse_pairs(pairs)
    refuse_shared(before, after)
    weights = [[weight_pair(state, pair) for pair in names] for state in states]
    balances = [
        [unit_balance(some, _bias(state, pair[0]), (1.0, 1.0, 1.0)) for some, pair in zip(each, names, strict=True)]
        for state, each in zip(states, weights, strict=True)
    ]
    snapshots = [
        Snapshot(
            step=step,
            moved=weight_distances(states[0], state),
            balances=balances[step],
            states=[pair_state(some, True) for some in weights[step]],
        )
        for step, state in enumerate(states)
    ]
    return conclude(
        snapshots,
        balances[0],
        [f"{first} | {second}" for first, second in names],
        collect_weights(names, weights[1], [snapshot.states for snapshot in snapshots], (0, 1)),
        ["weights alone: no kernel distance, no Hamming, and nothing is known of what stands between the layers"],
        first_weight=None,
        n_samples=0,
    )


def _bias(state: dict[str, Any], name: str) -> Tensor | None:
    bias = state.get(f"{name.removesuffix('.weight')}.bias")
    return bias if isinstance(bias, Tensor) else None


def _check_equal(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name, tensor in before.items():
        if not isinstance(tensor, Tensor):
            continue
        if not isinstance(after.get(name), Tensor) or after[name].shape != tensor.shape:
            raise ModelError(f"Got {name!r} before, but after training it is missing or of another shape.")
        if not bool(torch.isfinite(after[name]).all() & torch.isfinite(tensor).all()):
            raise ModelError(f"Got {name!r} with NaN or infinity, but expected finite weights.")
