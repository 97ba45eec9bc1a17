r"""Capture: a model as a guest, and hooks that see the gradient at every measured layer's output.

With all parameters frozen, autograd keeps no layer inputs and computes no weight gradients: the walk covers exactly
what lies above the lowest measured layers, and each gradient is used and freed where it appears.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .._random import preserved_rng
from ..exceptions import UnmeasurableError
from .attention import recompute_attention
from .layers import Layer

__all__ = ["Tapped", "Taps", "guest", "training_mode"]


@contextmanager
def guest(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and frozen parameters inside; everything as it was found afterwards, also after an exception.

    Restores train or eval mode of every submodule, ``requires_grad``, buffers, the global random generators and the
    attention fast path. ``.grad`` is never touched, since gradients are taken with ``torch.autograd.grad``.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    kept = [(tensor, tensor._version, tensor.detach().clone()) for tensor in _changing(model)]
    slots = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(preserved_rng())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules()) or any(
            hasattr(module, "_orig_mod") for module in model.modules()
        ):
            stack.enter_context(torch.compiler.set_stance("force_eager"))  # compiled code does not run hooks
        try:
            # Frozen weights would let nn.TransformerEncoderLayer take a fused path that never calls its layers.
            torch.backends.mha.set_fastpath_enabled(False)
            model.eval()
            for parameter, _ in wanted:
                parameter.requires_grad_(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for module, mode in modes:
                module.training = mode
            for parameter, requires_grad in wanted:
                parameter.requires_grad_(requires_grad)
            for module, name, buffer in slots:
                module._buffers[name] = buffer
            with torch.no_grad():
                for tensor, version, copy in kept:
                    # A change through .data leaves no trace in the version.
                    if tensor._version != version or not torch.equal(tensor, copy):
                        tensor.copy_(copy)


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Training mode inside an open :func:`guest`; running statistics are put back, whose updates leave no trace."""
    with ExitStack() as stack:
        for buffer in model.buffers():
            stack.enter_context(torch.autograd._unsafe_preserve_version_counter(buffer))  # type: ignore[attr-defined]
            stack.callback(buffer.data.copy_, buffer.detach().clone())
        model.train()
        yield


def _changing(model: nn.Module) -> list[Tensor]:
    """What a forward pass in evaluation mode may change: buffers, and embeddings that renormalise their rows."""
    embeddings = [
        module.weight
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None
    ]
    return [*model.buffers(), *embeddings]


@dataclass(eq=False)
class Tapped:
    """One call of one layer in the last forward pass."""

    layer: Layer
    edge: GradientEdge
    shape: torch.Size
    dtype: torch.dtype
    anchor: Tensor | None

    def made(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is this call's output itself, not a view, a copy or something modified in place."""
        if tensor.grad_fn is None or tensor.shape != self.shape:
            return False
        edge = get_gradient_edge(tensor)
        return edge.node is self.edge.node and edge.output_nr == self.edge.output_nr


@dataclass(eq=False)
class Taps:
    """Hooks on the modules of ``layers`` while the context is open.

    Parameters
    ----------
    layers : sequence of Layer
        What to see.
    on_gradient : callable, optional
        ``(layer, gradient)`` for each backward pass, once per call of the layer; ``gradient`` has the output's shape.
    on_forward : callable, optional
        ``(layer, input, output)`` at each call, detached.
    watched : sequence of Layer
        Whole layers whose calls are recorded in ``watched_calls``, but whose gradients are not wanted.

    Attributes
    ----------
    calls : list of Tapped
        Calls of the last forward pass, in order of execution.
    muted : set of str
        Names whose gradients are not wanted.
    """

    layers: Sequence[Layer]
    on_gradient: Callable[[Layer, Tensor], None] | None = None
    on_forward: Callable[[Layer, Tensor, Tensor], None] | None = None
    watched: Sequence[Layer] = ()
    calls: list[Tapped] = field(default_factory=list)
    watched_calls: list[Tapped] = field(default_factory=list)
    muted: set[str] = field(default_factory=set)
    unseen: dict[str, str] = field(default_factory=dict)
    _forwarding: bool = False
    _streaming: bool = True
    _handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> Taps:
        by_module: dict[int, tuple[nn.Module, list[Layer]]] = {}
        for layer in self.layers:
            by_module.setdefault(id(layer.module), (layer.module, []))[1].append(layer)
        for module, layers in by_module.values():
            # First in line: a later hook of the user's may change what the rest of the model sees, h is what W made.
            handle = module.register_forward_hook(self._hook(layers), with_kwargs=True, prepend=True)
            self._handles.append(handle)
        for layer in self.watched:
            if not layer.part:
                self._handles.append(layer.module.register_forward_hook(self._watch(layer)))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.calls.clear()
        self.watched_calls.clear()

    def forward(self, run: Callable[[], Tensor]) -> Tensor:
        """Run the model once and record every call of every layer."""
        self.calls.clear()
        self.watched_calls.clear()
        self._forwarding = True
        try:
            return run()
        finally:
            self._forwarding = False

    def backward(self, outputs: Tensor, cotangent: Tensor, *, retain: bool) -> None:
        """One walk from ``outputs`` to the lowest layers; gradients go to ``on_gradient`` as they appear."""
        _pull(outputs, self.roots(), cotangent, retain)

    def roots(self) -> list[Tensor]:
        """Where the walk ends."""
        return [call.anchor for call in self.calls if call.anchor is not None]

    def batched(self, outputs: Tensor, cotangents: Tensor) -> list[tuple[Tapped, Tensor]]:
        """Gradients of several cotangents (m, *outputs.shape) in one vectorised walk: (call, (m, *output)) pairs."""
        calls = [call for call in self.calls if call.layer.name not in self.muted]
        self._streaming = False
        try:
            gradients = torch.autograd.grad(
                outputs,
                [c.edge for c in calls],
                cotangents,
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=True,
            )
        finally:
            self._streaming = True
        return [(call, grad) for call, grad in zip(calls, gradients, strict=True) if grad is not None]

    def _hook(self, layers: list[Layer]) -> Callable[..., Any]:
        module = layers[0].module
        if isinstance(module, nn.MultiheadAttention):
            parts: dict[str, list[Layer]] = {}
            for layer in layers:
                parts.setdefault(layer.part, []).append(layer)

            def tap(part: str, tensor: Tensor, output: Tensor) -> Tensor:
                return self._tap(parts[part], tensor, output) if part in parts else output

            def attention_hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
                return recompute_attention(module, args, kwargs, output, tap, layers[0].module_name)

            return attention_hook

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if not isinstance(output, Tensor):
                raise UnmeasurableError(
                    f"Layer {layers[0].name!r} returned {type(output).__name__}, but its rule expects one tensor."
                )
            return self._tap(layers, args[0] if args else next(iter(kwargs.values())), output)

        return hook

    def _tap(self, layers: list[Layer], tensor: Tensor, output: Tensor) -> Tensor:
        hidden = _hidden(output)
        if hidden:
            for layer in layers:
                self.unseen.setdefault(layer.name, hidden)
            return output
        if self._forwarding and self.on_forward is not None:
            for layer in layers:
                self.on_forward(layer, tensor.detach(), output.detach())
        anchor = None
        if not output.requires_grad:
            # A root: nothing above needs a gradient. The sum is a fresh tensor, so in-place activations are legal.
            anchor = torch.zeros((), dtype=output.dtype, device=output.device, requires_grad=True)
            output = output.detach() + anchor
        if self._forwarding:  # a checkpoint's recomputation passes here again, during backward: not a new call
            edge = get_gradient_edge(output)
            for layer in layers:
                self.calls.append(Tapped(layer, edge, output.shape, output.dtype, anchor))
            # Registered before the output is returned: after an in-place activation it would see another tensor.
            output.register_hook(self._receiver(layers))
        return output

    def _watch(self, layer: Layer) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if self._forwarding and isinstance(output, Tensor) and output.requires_grad:
                edge = get_gradient_edge(output)
                self.watched_calls.append(Tapped(layer, edge, output.shape, output.dtype, None))

        return hook

    def _receiver(self, layers: list[Layer]) -> Callable[[Tensor], None]:
        def receive(gradient: Tensor) -> None:
            if self._streaming and self.on_gradient is not None:
                for layer in layers:
                    if layer.name not in self.muted:
                        self.on_gradient(layer, gradient)

        return receive


def _hidden(output: Tensor) -> str:
    """Why the gradient at an output that was just made cannot be seen, or nothing."""
    if not torch.is_grad_enabled():
        return "it ran under torch.no_grad (or reentrant checkpointing)"
    if torch._C._functorch.is_functorch_wrapped_tensor(output):
        return "it ran inside torch.vmap or another transform of torch.func"
    return ""


def _pull(outputs: Tensor, roots: Sequence[Tensor], cotangent: Tensor, retain: bool) -> None:
    try:
        torch.autograd.grad(outputs, roots, cotangent, retain_graph=retain, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" in str(error) or "Checkpointing is not compatible" in str(error):  # by version of torch
            raise UnmeasurableError(
                "Got reentrant checkpointing, which hides the layers inside it. Use use_reentrant=False."
            ) from error
        raise
