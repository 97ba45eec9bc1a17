r"""Did two consecutive layers of a network learn by turning, by growing, or not at all?

The mechanisms of a solvable linear network (alignment, disalignment, rescaling), defined here for any two weight layers
through the Gram matrices of the hidden units between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..agop.finding import unwrap
from ..agop.reference_model import reference_model, reference_state, twin_layers
from ..exceptions import DataError
from .layer_pairs import Names, Pair, WeightPair, find_pairs
from .mechanism_results import LayerMechanisms, PairMechanisms
from .shared_storage import refuse_shared

__all__ = ["LayerMechanisms", "MechanismRecorder", "PairMechanisms", "layer_mechanisms"]

State = tuple[float, float, float]  # c, cmax, n


def layer_mechanisms(
    model: nn.Module, pairs: Sequence[Names] | None = None, *, before: Any = None, spectra: bool = True
) -> LayerMechanisms:
    r"""Split what two consecutive layers pass on into rotation, concentration of their spectra, and rescaling.

    .. math:: \log \frac{\|W_2 W_1\|_F(t)}{\|W_2 W_1\|_F(0)}
              = \Delta \log \frac{c}{c_{\max}} + \Delta \log c_{\max} + \Delta \log n

    with :math:`M_1 = W_1 W_1^\top`, :math:`M_2 = W_2^\top W_2`, :math:`n^2 = \operatorname{tr} M_1 \operatorname{tr}
    M_2`, :math:`c^2 = \operatorname{tr}(M_1 M_2) / n^2` and :math:`c_{\max}` the largest c that rotations of the hidden
    units allow, :math:`c_{\max}^2 = \sum_i \lambda_i(M_1) \lambda_i(M_2) / n^2` with both spectra in decreasing order.

    Parameters
    ----------
    model : torch.nn.Module
        The network now; nothing is changed and nothing is run.
    pairs : sequence of (str, str), optional
        Names of two layers, or of their weights, the second reading the first; by default all consecutive linear and
        convolution layers, in order of registration, whose widths match. What was taken is listed in the result: give
        the pairs when the order of registration is not that of execution, or when the outputs of a linear layer are
        flattened.
    before : Module or state_dict, optional
        The same architecture with earlier weights, a copy; without it only c, cmax and n of now are given.
    spectra : bool
        Compute cmax. Without it rotation and concentration are not told apart.

    Returns
    -------
    LayerMechanisms
        Frozen; ``.pairs``, ``.frame()``, ``.curves()``, ``.plot()``, ``.to_dict()``.

    Raises
    ------
    DataError
        A start that shares memory with the model.
    ModelError, UnmeasurableError
        Other weights before than now, unknown layers, widths that do not match.

    Notes
    -----
    Convolutions: W as (out, in k k); M_2 summed over outputs and kernel positions, and over places when a flatten
    follows; groups give block-diagonal matrices. Labels are conventions of this library: with
    ``S = log((c_t^2 + k/h) / (c_0^2 + k/h))``, h the width and k = 3 when the first has one input or the second one
    output, else 1, S > log 2 is alignment, S < -log 2 disalignment, and a factor of n above 1.25 or below 0.8
    rescaling; none of them is kernel-like. c of independent random layers is about ``h^-1/2``.

    What it does not see: biases and the nonlinearity are ignored; a residual sum between the layers is, too; weight
    decay alone produces rescaling; after a normalisation layer the size of the weight means nothing, so that only c is
    given; initialisations in which pairs of units cancel have c = 0, so that log c is infinite and S is not.

    Costs ``h`` times the number of weights, and two eigenvalue problems of size h for cmax.
    Provenance: derived here, checked against the product of the weights. Which wording the paper has for its three
    mechanisms is not claimed.

    References
    ----------
    Xu and Ziyin, arXiv 2401.07085, sees alignment, disalignment and rescaling in a solvable model and in deep networks.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 9, bias=False), torch.nn.ReLU(), torch.nn.Linear(9, 2, bias=False))
    >>> start = {name: weight.clone() for name, weight in net.state_dict().items()}
    >>> with torch.no_grad():
    ...     _ = net[0].weight.mul_(3.0)
    >>> pair = layer_mechanisms(net, before=start).pairs[0]
    >>> pair.labels, round(pair.rescaling, 6), abs(round(pair.rotation, 6))
    (('rescaling',), 1.098612, 0.0)
    """
    model = unwrap(model)
    chosen = find_pairs(model, pairs)
    states = [_states(chosen, spectra)]
    if before is not None:
        refuse_shared(before, model)
        earlier = _at_reference(chosen, reference_model(model, reference_state(model, before)))
        states.insert(0, _states(earlier, spectra))
        chosen = [
            replace(now, flags=(*now.flags, *_unmoved(then, now))) for then, now in zip(earlier, chosen, strict=True)
        ]
    return _collect(chosen, states, range(len(states)))


class MechanismRecorder:
    """The same over training: call it with the number of the step, and read curves.

    Parameters
    ----------
    model : torch.nn.Module
        Read at each call, never run.
    pairs, spectra
        As for :func:`layer_mechanisms`.
    log : callable, optional
        Gets ``{"step": ..., "<first>-<second>/cosine": ..., ...}`` at each call.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.ReLU(), torch.nn.Linear(9, 2))
    >>> recorder = MechanismRecorder(net)
    >>> recorder(0)
    >>> recorder(10)
    >>> recorder.result().steps
    (0, 10)
    """

    def __init__(
        self,
        model: nn.Module,
        pairs: Sequence[Names] | None = None,
        *,
        spectra: bool = True,
        log: Callable[[dict[str, float]], Any] | None = None,
    ) -> None:
        self._pairs = find_pairs(unwrap(model), pairs)
        self._spectra = spectra
        self._log = log
        self._steps: list[int] = []
        self._states: list[list[State]] = []

    def __call__(self, step: int) -> None:
        """Record the weights as they are now.

        Raises
        ------
        DataError
            A step that does not come after the last one.
        """
        if self._steps and step <= self._steps[-1]:
            raise DataError(f"Got step {step} after step {self._steps[-1]}, but expected a later one.")
        self._states.append(_states(self._pairs, self._spectra))
        self._steps.append(step)
        if self._log is not None:
            numbers: dict[str, float] = {"step": step}
            for pair, state in zip(self._pairs, self._states[-1], strict=True):
                named = zip(("cosine", "largest", "norm"), state, strict=True)
                numbers |= {f"{'-'.join(pair.names)}/{name}": value for name, value in named if value == value}
            self._log(numbers)

    def result(self) -> LayerMechanisms:
        """Everything recorded so far.

        Raises
        ------
        DataError
            Nothing was recorded.
        """
        if not self._steps:
            raise DataError("Got no recorded step, but expected at least one. Call recorder(step) while training.")
        return _collect(self._pairs, self._states, self._steps)


def _at_reference(pairs: Sequence[Pair], other: nn.Module) -> list[Pair]:
    """The same pairs in a copy of their model."""
    twins = [twin_layers([pair.first, pair.second], other) for pair in pairs]
    return [replace(pair, first=first, second=second) for pair, (first, second) in zip(pairs, twins, strict=True)]


def collect_weights(
    names: Sequence[Names],
    weights: Sequence[WeightPair],
    states: Sequence[Sequence[State]],
    steps: Sequence[int],
    *,
    flags: Sequence[tuple[str, ...]] | None = None,
    normalised: Sequence[bool] | None = None,
) -> LayerMechanisms:
    """A result from the states of every pair at every step; of the weights only the shapes are read."""
    found = []
    for i, (first, second) in enumerate(names):
        cosine, largest, norm = np.array([state[i] for state in states]).T
        if normalised is not None and normalised[i]:
            norm = np.full_like(norm, math.nan)
        found.append(
            PairMechanisms(
                first=first,
                second=second,
                width=weights[i].width,
                chance=weights[i].chance,
                cosine=cosine,
                largest=largest,
                norm=norm,
                flags=() if flags is None else flags[i],
            )
        )
    return LayerMechanisms(steps=tuple(int(step) for step in steps), pairs=tuple(found))


def _collect(pairs: Sequence[Pair], states: Sequence[Sequence[State]], steps: Sequence[int]) -> LayerMechanisms:
    return collect_weights(
        [pair.names for pair in pairs],
        [pair.weights() for pair in pairs],
        states,
        steps,
        flags=[pair.flags for pair in pairs],
        normalised=[pair.normalised for pair in pairs],
    )


def _unmoved(before: Pair, after: Pair) -> tuple[str, ...]:
    """A flag for a pair neither of whose weights has changed."""
    weights = ((getattr(pair, which).weight() for pair in (before, after)) for which in ("first", "second"))
    return ("both weights are those of the start",) if all(torch.equal(*each) for each in weights) else ()


def _states(pairs: Sequence[Pair], spectra: bool) -> list[State]:
    return [pair_state(pair.weights(), spectra) for pair in pairs]


@torch.no_grad()
def pair_state(weights: WeightPair, spectra: bool) -> State:
    """``c``, ``cmax`` (nan without spectra) and ``n`` of one pair; c is nan when a weight is zero."""
    incoming, outgoing = weights.incoming(), weights.outgoing()
    sizes = [math.sqrt(float(gram.trace())) for gram in (incoming, outgoing)]
    if 0 in sizes:
        return math.nan, math.nan, 0.0
    # Of trace one: products neither overflow nor underflow, whatever the weights' scale.
    incoming, outgoing = incoming / sizes[0] ** 2, outgoing / sizes[1] ** 2
    squared = float((incoming * outgoing).sum())
    # Units that cancel exactly leave the rounding of the sum behind, which is no cosine.
    noise = torch.finfo(torch.float64).eps * weights.width * float(incoming.norm() * outgoing.norm())
    cosine = math.sqrt(squared) if squared > noise else 0.0
    largest = _largest_cosine(incoming, outgoing) if spectra else math.nan
    return cosine, largest, sizes[0] * sizes[1]


def _largest_cosine(incoming: Tensor, outgoing: Tensor) -> float:
    spectra = [torch.linalg.eigvalsh(gram).clamp_min(0.0) for gram in (incoming, outgoing)]
    return math.sqrt(float(spectra[0] @ spectra[1]))
