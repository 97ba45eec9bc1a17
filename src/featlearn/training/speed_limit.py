"""The speed limit itself: changes of many tensors, each scaled by its own norm, without waiting for the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["limit_", "local", "norms"]

_HALF = (torch.float16, torch.bfloat16)


def limit_(
    changes: Sequence[Tensor],
    speeds: Sequence[float],
    *,
    exponent: float,
    eps: float,
    rates: Sequence[float | Tensor] | None = None,
    weight_norms: Sequence[Tensor] | None = None,
) -> None:
    r"""Scale every change in place.

    .. math:: \Delta_l \leftarrow \frac{\mathrm{speed}_l \, s_l \, \Delta_l}{(\epsilon + \|\Delta_l\|_F/\eta_l)^p}

    Parameters
    ----------
    changes : sequence of Tensor
        Gradients, or changes of weights; any devices, floating types and shapes, sharded ones (DTensor) too.
    speeds : sequence of float
        One a change.
    exponent, eps : float
        ``p`` and the norm added to each.
    rates : sequence of float or 0-d Tensor, optional
        ``eta``; 1 when not given. At rate 0 the change is 0 too and stays so.
    weight_norms : sequence of 0-d Tensor, optional
        ``s``; 1 when not given.

    Notes
    -----
    Reads each change once for its norm and writes it once. Not finite stays not finite.
    """
    factors = norms(changes)
    if rates is not None:
        factors = [norm / _positive(rate) for norm, rate in zip(factors, rates, strict=True)]
    # A norm whose square underflows counts as the smallest one whose square does not: 0/0 at eps = 0 is a step of 0.
    for bucket in _buckets(factors):
        of_bucket = [factors[i] for i in bucket]
        torch._foreach_add_(of_bucket, eps)
        torch._foreach_clamp_min_(of_bucket, torch.finfo(of_bucket[0].dtype).tiny ** 0.5)
        torch._foreach_pow_(of_bucket, -exponent)
        torch._foreach_mul_(of_bucket, [float(speeds[i]) for i in bucket])
    if weight_norms is not None:
        factors = [factor * norm for factor, norm in zip(factors, weight_norms, strict=True)]
    for bucket in _buckets(changes):
        tensors, scales = [local(changes[i]) for i in bucket], [factors[i] for i in bucket]
        if tensors[0].dtype in _HALF:  # which cannot hold a factor above 65504, and rounds any other
            for tensor, scale in zip(tensors, scales, strict=True):
                tensor.copy_(tensor.float() * scale)
        else:
            torch._foreach_mul_(tensors, scales)


def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Frobenius norm of each tensor as a 0-d tensor on its device: float32 for half types, global for sharded ones."""
    found: dict[int, Tensor] = {}
    for bucket in _buckets(tensors):
        first = tensors[bucket[0]]
        dtype = torch.float32 if first.dtype in _HALF else None
        if _sharded(first):
            for i in bucket:
                found[i] = torch.linalg.vector_norm(tensors[i], dtype=dtype).full_tensor()
        else:
            measured = torch._foreach_norm([tensors[i] for i in bucket], 2, dtype)
            found |= dict(zip(bucket, measured, strict=True))
    return [found[i] for i in range(len(tensors))]


def local(tensor: Tensor) -> Tensor:
    """The piece of a sharded tensor that this process holds, in its memory; any other tensor as it is."""
    return tensor.to_local() if _sharded(tensor) else tensor  # type: ignore[attr-defined]


def _sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "to_local")


def _positive(rate: float | Tensor) -> float | Tensor:
    return rate.clamp_min(1e-19) if isinstance(rate, Tensor) else max(rate, 1e-19)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Indices of the tensors that one foreach kernel takes together."""
    found: dict[tuple[torch.device, torch.dtype, bool], list[int]] = {}
    for i, tensor in enumerate(tensors):
        found.setdefault((tensor.device, tensor.dtype, _sharded(tensor)), []).append(i)
    yield from found.values()
