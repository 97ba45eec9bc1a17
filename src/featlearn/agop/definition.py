r"""The one definition of the average gradient outer product (AGOP), and conversions to other normalisations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ..exceptions import DataError

__all__ = ["accumulate_agop", "agop_of_function", "rescale"]


def accumulate_agop(gradients: Tensor) -> Tensor:
    r"""Average gradient outer product: mean over samples, sum over outputs.

    .. math:: G = \frac{1}{n} \sum_{i=1}^{n} \sum_{c=1}^{C} \nabla f_c(x_i) \, \nabla f_c(x_i)^\top

    Parameters
    ----------
    gradients : Tensor of shape (n, C, d)
        ``gradients[i, c]`` is the gradient of output ``c`` at sample ``i``, in output units per input unit.

    Returns
    -------
    Tensor of shape (d, d)
        Symmetric positive semi-definite, in (output units / input unit)^2.

    Raises
    ------
    DataError
        Unless ``gradients`` has three axes and at least one sample.

    Notes
    -----
    Costs ``2 n C d^2`` flops and ``d^2`` numbers of memory. Other papers divide by the largest entry;
    ``rescale(G, "max")`` gives theirs.

    Examples
    --------
    >>> import torch
    >>> accumulate_agop(torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]]]))
    tensor([[5., 1.],
            [1., 2.]])
    """
    if gradients.dim() != 3 or len(gradients) == 0:
        raise DataError(f"Got gradients of shape {tuple(gradients.shape)}, but expected (n >= 1, C, d).")
    rows = gradients.flatten(end_dim=1)
    return rows.mT @ rows / gradients.shape[0]


def rescale(agop: Tensor, to: Literal["max", "trace", "frobenius"]) -> Tensor:
    r"""Another paper's normalisation of an AGOP, by name.

    Parameters
    ----------
    agop : Tensor of shape (..., d, d)
        Symmetric positive semi-definite.
    to : {"max", "trace", "frobenius"}
        Divide by the largest absolute entry, the trace, or the Frobenius norm.

    Returns
    -------
    Tensor of shape (..., d, d)
        Dimensionless.

    Raises
    ------
    DataError
        For another name, or a matrix of zeros.

    Examples
    --------
    >>> import torch
    >>> rescale(torch.diag(torch.tensor([3.0, 1.0])), "trace").diagonal()
    tensor([0.7500, 0.2500])
    """
    sizes: dict[str, Callable[[Tensor], Tensor]] = {
        "max": lambda matrix: matrix.abs().amax(dim=(-2, -1)),
        "trace": lambda matrix: matrix.diagonal(dim1=-2, dim2=-1).sum(-1),
        "frobenius": lambda matrix: torch.linalg.matrix_norm(matrix),
    }
    if to not in sizes:
        raise DataError(f"Got to={to!r}, but expected one of {', '.join(sizes)}.")
    size = sizes[to](agop)
    if not (size > 0).all():
        raise DataError(
            "Got an AGOP of zeros (or NaN), which no factor can normalise. Do the outputs depend on the input?"
        )
    return agop / size[..., None, None]


def agop_of_function(
    f: Callable[[Any], Tensor], X: Any, *, center_gradients: bool = False, batch_size: int = 256
) -> Any:
    r"""AGOP of any differentiable function with respect to its whole input.

    .. math:: G = \frac{1}{n} \sum_i \sum_c (\nabla f_c(x_i) - m_c)(\nabla f_c(x_i) - m_c)^\top,

    with :math:`m_c = 0`, or the mean gradient of output c when ``center_gradients``. Unlike the AGOP of a layer, this
    is the total derivative: every path from the input counts.

    Parameters
    ----------
    f : callable
        Maps a tensor (n, ...) to (n, C) or (n,); samples must not interact. A module is called in the mode it is in.
    X : array or Tensor of shape (n, ...)
        Inputs; anything after the first axis is flattened to d numbers.
    center_gradients : bool, default False
        Subtract each output's mean gradient: the covariance of the gradient instead of its second moment.
    batch_size : int, default 256
        Samples per pass; changes memory, not the result.

    Returns
    -------
    array or Tensor of shape (d, d)
        Of the kind, dtype and device of ``X``.

    Raises
    ------
    DataError
        For no samples, values that are not finite, or outputs that are not (n, C).

    Notes
    -----
    One forward and C backward passes; ``2 n C d^2`` flops and ``d^2 + C d`` numbers beyond a batch's own.

    Examples
    --------
    >>> import torch
    >>> agop_of_function(lambda x: x @ torch.tensor([[1.0], [2.0]]), torch.randn(8, 2))
    tensor([[1., 2.],
            [2., 4.]])
    """
    from .._arrays import as_tensor
    from .accumulate import accumulation_dtype

    tensor, restore = as_tensor(X, name="X", min_rank=2)
    if batch_size < 1:
        raise DataError(f"Got batch_size={batch_size}, but expected at least 1.")
    total: Tensor | None = None
    means: Tensor | None = None
    for start in range(0, len(tensor), batch_size):
        gradients = _input_gradients(f, tensor[start : start + batch_size])  # (n, C, d)
        gradients = gradients.to(accumulation_dtype(gradients.dtype))
        rows = gradients.flatten(end_dim=1)
        total = rows.mT @ rows + (0 if total is None else total)
        means = gradients.sum(dim=0) + (0 if means is None else means)
    assert total is not None
    assert means is not None
    agop = total / len(tensor)
    if center_gradients:
        means = means / len(tensor)
        agop = agop - means.mT @ means
    return restore(agop, per_sample=False)


def _input_gradients(f: Callable[[Any], Tensor], inputs: Tensor) -> Tensor:
    """Per-sample gradients (n, C, d), one backward pass an output."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_(True)
        outputs = f(leaf)
        if not isinstance(outputs, Tensor) or outputs.dim() not in (1, 2) or len(outputs) != len(leaf):
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise DataError(
                f"Got outputs {got} for {len(leaf)} samples, but expected a tensor of shape (n, C) or (n,)."
            )
        outputs = outputs.reshape(len(leaf), -1)
        if outputs.shape[1] == 0 or not outputs.isfinite().all():
            raise DataError(
                f"Got outputs {tuple(outputs.shape)}, but expected finite numbers, at least one a sample. Check f."
            )
        if not outputs.requires_grad:
            raise DataError("Got outputs that do not depend on the inputs through autograd. Do not detach them in f.")
        columns = [
            torch.autograd.grad(outputs[:, c].sum(), leaf, retain_graph=c + 1 < outputs.shape[1])[0].flatten(1)
            for c in range(outputs.shape[1])
        ]
    return torch.stack(columns, dim=1)
