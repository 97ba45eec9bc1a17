"""Slow, obvious oracles in float64: one autograd call per sample and output, dense d x d matrices.

Nothing here uses the identity ``G = W^T K W``, a tap, or a layer rule of the package.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

Array = NDArray[np.float64]
Call = Callable[[nn.Module, Any], Tensor]


# --- the AGOP of a layer ----------------------------------------------------------------------------------------------


def layer_agop(
    model: nn.Module,
    batches: Iterable[Any],
    name: str,
    *,
    call: Call | None = None,
    part: str = "",
    rows: slice | None = None,
) -> Tensor:
    """AGOP (groups, d, d) of the inputs of one layer, every patch perturbed on its own.

    A zero ``delta`` is added to each input of the layer (each unfolded patch of a convolution) at every call, and each
    output of each sample is differentiated by it. ``part`` is "q", "k", "v" or "out_proj" of an attention module;
    ``rows`` lets only some outputs of the layer see ``delta``.
    """
    model = copy.deepcopy(model).double().eval()
    total: Tensor | None = None
    n = 0
    for batch in batches:
        batch = as_double(batch)
        with perturbed(model.get_submodule(name), part, rows) as found:
            outputs = (call or plain_call)(model, batch)
            deltas = list(found)  # a checkpoint runs the layer again in backward, and adds deltas of no interest
            for output in outputs.flatten() if deltas else []:  # no delta: the layer did not run in this batch
                for gradient in torch.autograd.grad(output, deltas, retain_graph=True, allow_unused=True):
                    if gradient is not None:
                        outer = torch.einsum("pgd,pge->gde", gradient, gradient)
                        total = outer if total is None else total + outer
        n += len(outputs)
    assert total is not None
    return total / n


def plain_call(model: nn.Module, batch: Any) -> Tensor:
    """Outputs of a model that returns one tensor, for batches of every documented kind."""
    if isinstance(batch, dict):
        return model(**{key: value for key, value in batch.items() if key not in ("label", "labels")})
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def as_double(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch.double() if batch.is_floating_point() else batch
    if isinstance(batch, dict):
        return {key: as_double(value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(as_double(value) for value in batch)
    return batch


@contextmanager
def perturbed(module: nn.Module, part: str = "", rows: slice | None = None) -> Iterator[list[Tensor]]:
    """Zeros (positions, groups, d) added to the input of ``module``, one tensor a call, collected in the list."""
    deltas: list[Tensor] = []

    def zeros(*shape: int) -> Tensor:
        deltas.append(torch.zeros(shape, dtype=torch.float64, requires_grad=True))
        return deltas[-1]

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if isinstance(module, nn.MultiheadAttention):
            return _perturbed_attention(module, args, kwargs, output, part, zeros)
        x = args[0] if args else next(iter(kwargs.values()))
        if isinstance(module, nn.modules.conv._ConvNd):
            moved = _perturbed_convolution(module, x, zeros)
        else:
            d = x.shape[-1]
            moved = module.forward(x + zeros(x.numel() // d, 1, d).reshape(x.shape))
        torch.testing.assert_close(
            moved.detach(), output.detach(), rtol=1e-10, atol=1e-12
        )  # the unfolding is that of the layer
        if rows is None:
            return moved
        axis = 1 if isinstance(module, nn.modules.conv._ConvNd) else -1
        seen = torch.zeros(output.shape[axis], dtype=torch.bool)
        seen[rows] = True
        seen = seen.reshape(-1, *[1] * (output.dim() - 2)) if axis == 1 else seen
        return torch.where(seen, moved, output)

    handle = module.register_forward_hook(hook, with_kwargs=True, prepend=True)
    try:
        yield deltas
    finally:
        handle.remove()


def _perturbed_attention(
    module: nn.MultiheadAttention, args: Any, kwargs: Any, output: Any, part: str, zeros: Callable[..., Tensor]
) -> Any:
    """The module's own forward, with the input of one projection moved."""
    if part == "out_proj":
        shape = output[0].shape
        delta = zeros(shape.numel() // shape[-1], 1, shape[-1]).reshape(shape)
        return output[0] + F.linear(delta, module.out_proj.weight), output[1]
    names = ("query", "key", "value")
    inputs = {**kwargs, **dict(zip(names, args, strict=False))}
    names_of = {"q": "query", "k": "key", "v": "value"}
    moved = inputs[names_of[part]]
    d = moved.shape[-1]
    inputs[names_of[part]] = moved + zeros(moved.numel() // d, 1, d).reshape(moved.shape)
    return module.forward(**inputs, **dict(zip(("key_padding_mask", "need_weights"), args[3:], strict=False)))


def _perturbed_convolution(module: Any, x: Tensor, zeros: Callable[..., Tensor]) -> Tensor:
    """A convolution as one product of its filters with each patch, the patches being moved one by one."""
    spatial = len(module.kernel_size)
    single = x.dim() == spatial + 1
    patches, sizes = unfold(module, x.unsqueeze(0) if single else x)  # (n, P, groups, d)
    patches = patches + zeros(patches.shape[0] * patches.shape[1], *patches.shape[2:]).reshape(patches.shape)
    filters = module.weight.reshape(module.groups, module.out_channels // module.groups, -1)
    output = torch.einsum("npgd,gkd->ngkp", patches, filters).reshape(len(patches), module.out_channels, *sizes)
    if module.bias is not None:
        output = output + module.bias.reshape(-1, *[1] * spatial)
    return output[0] if single else output


def unfold(module: Any, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Patches (n, P, groups, channels / groups * kernel) of a convolution by slicing, and the sizes of its output."""
    spatial = len(module.kernel_size)
    padding = []
    for axis in range(spatial):
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1)
        if module.padding == "same":  # the odd one goes to the end
            padding.append((reach // 2, reach - reach // 2))
        else:
            padding.append((0, 0) if module.padding == "valid" else (module.padding[axis],) * 2)
    flat = [side for pair in reversed(padding) for side in pair]
    x = F.pad(x, flat, mode="constant" if module.padding_mode == "zeros" else module.padding_mode)
    sizes = tuple(
        (x.shape[2 + axis] - module.dilation[axis] * (module.kernel_size[axis] - 1) - 1) // module.stride[axis] + 1
        for axis in range(spatial)
    )
    offsets = []
    for offset in itertools.product(*map(range, module.kernel_size)):
        cut: list[Any] = [slice(None), slice(None)]
        for axis, at in enumerate(offset):
            start = at * module.dilation[axis]
            cut.append(slice(start, start + (sizes[axis] - 1) * module.stride[axis] + 1, module.stride[axis]))
        offsets.append(x[tuple(cut)])
    stacked = torch.stack(offsets, dim=2).flatten(3)  # (n, channels, kernel, P)
    grouped = stacked.unflatten(1, (module.groups, -1)).flatten(2, 3)  # (n, groups, d, P)
    return grouped.permute(0, 3, 1, 2), sizes


# --- functions of the whole input -------------------------------------------------------------------------------------


def function_agop(f: Callable[[Tensor], Tensor], X: Tensor, *, center: bool = False) -> Tensor:
    """AGOP (d, d) of the whole input by ``jacrev``, one sample at a time."""
    jacobians = torch.stack(
        [torch.func.jacrev(lambda x: f(x.unsqueeze(0)).reshape(-1))(x).flatten(1) for x in X.double()]
    )  # (n, C, d)
    if center:
        jacobians = jacobians - jacobians.mean(dim=0)
    return torch.einsum("ncd,nce->de", jacobians, jacobians) / len(X)


# --- statistics of dense matrices -------------------------------------------------------------------------------------


def feature_matrix(weight: Tensor) -> Tensor:
    """``F = W^T W`` of a weight (k, d), or the blocks (groups, d, d) of a weight (groups, k, d)."""
    weight = weight.detach().double()
    return weight.mT @ weight


def power(matrix: Tensor, exponent: float) -> Tensor:
    """Power of a symmetric positive semi-definite matrix; eigenvalues that are round-off count as zero."""
    values, vectors = torch.linalg.eigh(matrix.double())
    noise = values.abs().amax(dim=-1, keepdim=True) * matrix.shape[-1] * torch.finfo(torch.float64).eps
    values = torch.where(values > noise, values, 0.0) ** exponent
    return vectors @ torch.diag_embed(torch.where(values > 0, values, 0.0)) @ vectors.mT


def cosine(first: Tensor, second: Tensor) -> float:
    """Cosine of two matrices (or stacks of blocks) read as vectors."""
    first, second = first.double().flatten(), second.double().flatten()
    return float(first @ second / (first.norm() * second.norm()))


def pearson(first: Tensor, second: Tensor) -> float:
    """Correlation over all entries of two matrices (or stacks of blocks)."""
    return cosine(first - first.double().mean(), second - second.double().mean())


def probe_error(law: str, jacobians: Tensor, weight: Tensor) -> float:
    r"""Expected ``||G_probe - G||_F^2`` for one probe a sample, from Jacobians (n, C, k) and W (k, d)."""
    errors = []
    for jacobian in jacobians.detach().double():
        gradients = jacobian @ weight.detach().double()  # (C, d)
        S, H = gradients.mT @ gradients, gradients @ gradients.mT
        diagonal, squares, trace = (H.diagonal() ** 2).sum(), (S * S).sum(), S.trace()
        errors.append(
            {
                "rademacher": trace**2 + squares - 2 * diagonal,
                "gaussian": trace**2 + squares,
                "one-hot": len(H) * diagonal - squares,
            }[law]
        )
    return float(torch.stack(errors).sum()) / len(jacobians) ** 2


# --- the convolutional tangent kernel: arrays and loops over pairs, positions and layers ------------------------------


def image_patches(image: Array, size: int, padding: int = 0) -> Array:
    """Patches (h, w, q) of one image (c, H, W), q in the order (channel, row, column)."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding))
    padded[:, padding : padding + height, padding : padding + width] = image
    h, w = padded.shape[1] - size + 1, padded.shape[2] - size + 1
    patches = np.empty((h, w, channels * size**2))
    for y, x in np.ndindex(h, w):
        patches[y, x] = padded[:, y : y + size, x : x + size].reshape(-1)
    return patches


def conv_ntk_of_patches(u: Array, v: Array, channels: int, size: int, depth: int) -> float:
    """Kernel value of two images, given as projected patches (h, w, k)."""
    h, w, _ = u.shape
    s, a, b = (np.array([[float(one[y, x] @ other[y, x]) for x in range(w)] for y in range(h)]) / channels
               for one, other in ((u, v), (u, u), (v, v)))  # fmt: skip
    theta = s
    for layer in range(depth):
        n, t = np.zeros_like(s), np.zeros_like(s)
        for p in np.ndindex(s.shape):
            r = (a[p] * b[p]) ** 0.5
            if r > 0:
                rho = min(max(s[p] / r, -1.0), 1.0)
                rest = np.pi - np.arccos(rho)
                n[p] = r * ((1 - rho**2) ** 0.5 + rho * rest) / np.pi
                t[p] = theta[p] * rest / np.pi
        if layer < depth - 1:
            s, a, b = window_sums(n, size), window_sums(a, size), window_sums(b, size)
            theta = s + window_sums(t, size)
    return float((n + t).mean())


def window_sums(values: Array, size: int) -> Array:
    """Sums over all windows inside a map (h, w)."""
    sums = np.zeros((values.shape[0] - size + 1, values.shape[1] - size + 1))
    for y, x in np.ndindex(sums.shape):
        sums[y, x] = values[y : y + size, x : x + size].sum()
    return sums


def conv_ntk(x: Array, z: Array, size: int, depth: int, padding: int = 0, factor: Array | None = None) -> Array:
    """Kernel matrix (n, m) of images (n, c, H, W) and (m, c, H, W); patches times ``factor`` (q, k) if there is one."""
    square = np.eye(x.shape[1] * size**2) if factor is None else factor
    u, v = ([image_patches(image, size, padding) @ square for image in images] for images in (x, z))
    return np.array([[conv_ntk_of_patches(one, other, x.shape[1], size, depth) for other in v] for one in u])


def conv_ntk_patch_gradients(
    x: Array, z: Array, dual: Array, size: int, depth: int, padding: int = 0, factor: Array | None = None,
    step: float = 1e-5,
) -> Array:  # fmt: skip
    """Central differences (m, C, h, w, q) of a kernel expansion: every number of every patch of z moved on its own."""
    channels = x.shape[1]
    square = np.eye(channels * size**2) if factor is None else factor
    u = [image_patches(image, size, padding) @ square for image in x]

    def outputs(patches: Array) -> Array:
        values = [conv_ntk_of_patches(one, patches @ square, channels, size, depth) for one in u]
        return np.array(values) @ dual

    found = []
    for image in z:
        patches = image_patches(image, size, padding)
        gradient = np.empty((dual.shape[1], *patches.shape))
        for place in np.ndindex(patches.shape):
            ahead, behind = patches.copy(), patches.copy()
            ahead[place] += step
            behind[place] -= step
            gradient[(slice(None), *place)] = (outputs(ahead) - outputs(behind)) / (2 * step)
        found.append(gradient)
    return np.array(found)
