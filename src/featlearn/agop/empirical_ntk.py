r"""The empirical neural tangent kernel of a model: inner products of the outputs' gradients by all its parameters.

Weights and biases of layers go through :func:`~featlearn.agop.tangent_gram.tangent_gram`, which needs no gradients
sample by sample; what is left (scales of normalisations, embeddings, attention, tied and computed weights) is
differentiated one sample at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..exceptions import DataError, UnmeasurableError
from .accumulate import accumulation_dtype
from .batches import Outputs, check_outputs, flat_outputs, raw_outputs
from .finding import find_layers, unwrap
from .layers import Layer
from .probes import check_random_state
from .samples import Samples, take_samples
from .tangent_gram import Cotangents, tangent_gram
from .taps import Taps, guest

__all__ = ["empirical_ntk"]

BLOCK = 2**24  # numbers of gradients held at once, unless one parameter has more


def empirical_ntk(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    outputs: Outputs = "logits",
    probes: int | str = "exact",
    random_state: int = 0,
) -> Tensor:
    r"""Neural tangent kernel between samples, summed over outputs, of all parameters that require a gradient.

    .. math:: K_{ij} = \sum_c \Big\langle \frac{\partial f_c(x_i)}{\partial \theta},
              \frac{\partial f_c(x_j)}{\partial \theta} \Big\rangle

    Parameters
    ----------
    model : torch.nn.Module
        Used in evaluation mode and given back exactly as it was.
    batches : iterable
        Tensors, tuples ``(x, y, ...)`` or mappings; read once, all samples count.
    outputs : "logits" or callable
        ``(model, batch) -> tensor (n, ...)`` replaces the whole call.
    probes : "exact" or int
        Every output; or the mean over that many random combinations of signs of the outputs, shared by all samples,
        whose expectation is the same kernel.
    random_state : int
        Seed of the signs: kernels of two models that are compared need the same.

    Returns
    -------
    Tensor of shape (n, n)
        float64, on the model's device, in (output unit)^2 per (parameter unit)^2.

    Raises
    ------
    DataError, MixingError, ModelError, UnmeasurableError
        No parameter that requires a gradient; batches whose samples cannot be told apart.

    Notes
    -----
    Layers cost what ``tangent_gram`` says. The parameters left over cost ``n`` forward and ``n C`` backward passes of
    single samples, and ``n C`` times the size of the largest of them in memory. A weight that the model uses outside of
    the module that holds it, while that module runs too, is counted in the module alone.
    Provenance: definition; checked against autograd output by output.

    References
    ----------
    Jacot, Gabriel and Hongler, "Neural tangent kernel", arXiv 1806.07572.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    >>> empirical_ntk(torch.nn.Linear(2, 3), [x]).tolist()
    [[18.0, -3.0], [-3.0, 6.0]]
    """
    check_outputs(outputs)
    check_random_state(random_state)
    if probes != "exact" and (not isinstance(probes, int) or isinstance(probes, bool) or probes < 1):
        raise DataError(f"Got probes={probes!r}, but expected 'exact' or an integer >= 1.")
    model = unwrap(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise UnmeasurableError("Got a model without parameters that require a gradient. Use requires_grad_(True).")
    with guest(model):
        samples = take_samples(model, batches, outputs)
        layers = _running(model, samples, outputs, _whole_layers(model, trained))
        inside = {id(parameter) for layer in layers for parameter in _own(layer)}
        rest = [parameter for parameter in trained if id(parameter) not in inside]
        total = sum(n for _, n in samples)
        gram = torch.zeros(total, total, dtype=torch.float64, device=trained[0].device)
        if layers:
            gram += tangent_gram(model, samples, layers, outputs=outputs, probes=probes, random_state=random_state)
        if rest:
            _add_rest(gram, model, samples, rest, outputs, probes, random_state)
    return gram


def _own(layer: Layer) -> list[Tensor]:
    bias = layer.rule.bias(layer.module)
    return [layer.parameter()] if bias is None else [layer.parameter(), bias]


def _whole_layers(model: nn.Module, trained: Sequence[nn.Parameter]) -> list[Layer]:
    """Layers whose weight and bias are trained parameters that no other module holds."""
    holders = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    single = {id(parameter) for parameter in trained if holders[id(parameter)] == 1}
    layers = find_layers(model)[0].values()
    return [layer for layer in layers if not layer.part and all(id(tensor) in single for tensor in _own(layer))]


def _running(model: nn.Module, samples: Samples, outputs: Outputs, layers: Sequence[Layer]) -> list[Layer]:
    """Those whose outputs are seen: the weight of a module that is never called may be used all the same."""
    seen: set[str] = set()
    for batch, _ in samples:
        with Taps(layers, on_forward=lambda layer, *_: seen.add(layer.name)) as taps:
            taps.forward(lambda batch=batch: raw_outputs(model, batch, outputs))  # type: ignore[misc]
    return [layer for layer in layers if layer.name in seen]


def _add_rest(
    gram: Tensor,
    model: nn.Module,
    samples: Samples,
    rest: Sequence[nn.Parameter],
    outputs: Outputs,
    probes: int | str,
    random_state: int,
) -> None:
    with torch.no_grad():
        width = flat_outputs(raw_outputs(model, samples[0][0], outputs)).shape[1]
    cotangents = Cotangents.of(width, probes, random_state)
    for group in _groups(rest, len(gram) * cotangents.passes):
        for parameter in group:
            parameter.requires_grad_(True)
        rows = torch.stack([_gradients(flat, group, cotangents) for flat in _single(model, samples, outputs)]).flatten(
            1
        )
        for parameter in group:
            parameter.requires_grad_(False)
        gram += (rows @ rows.mT).to(gram) / (1 if cotangents.exact else cotangents.passes)


def _groups(parameters: Sequence[nn.Parameter], rows: int) -> list[list[nn.Parameter]]:
    groups: list[list[nn.Parameter]] = []
    held = 0
    for parameter in parameters:
        size = rows * parameter.numel()
        if not groups or held + size > BLOCK:
            groups.append([])
            held = 0
        groups[-1].append(parameter)
        held += size
    return groups


def _single(model: nn.Module, samples: Samples, outputs: Outputs) -> Iterator[Tensor]:
    """Outputs (1, C) of one sample after the other."""
    for batch, n in samples:
        for i in range(n):
            part = batch if n == 1 else batch.part(model, i, i + 1, n)
            if part is None:
                raise DataError(f"Got a batch of {n} samples that cannot be cut. Pass batches of one sample.")
            yield flat_outputs(raw_outputs(model, part, outputs))


def _gradients(flat: Tensor, group: Sequence[nn.Parameter], cotangents: Cotangents) -> Tensor:
    """(passes, numbers of the group's parameters)."""
    dtype = accumulation_dtype(flat.dtype)
    if not flat.requires_grad:
        return flat.new_zeros(cotangents.passes, sum(parameter.numel() for parameter in group), dtype=dtype)
    rows = []
    for j in range(cotangents.passes):
        retain = j + 1 < cotangents.passes
        found = torch.autograd.grad(flat, group, cotangents.like(flat, j), retain_graph=retain, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(parameter) if gradient is None else gradient.to_dense()).flatten().to(dtype)
                    for parameter, gradient in zip(group, found, strict=True)
                ]
            )
        )
    return torch.stack(rows)
