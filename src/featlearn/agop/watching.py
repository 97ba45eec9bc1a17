"""Values that pass modules in a plain forward pass: any module, its input or its output, without a gradient in sight.

:class:`~featlearn.agop.taps.Taps` sees gradients, and for that has autograd keep what lies above the layers. Who wants
numbers only looks from here, under ``torch.no_grad``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

__all__ = ["See", "watching"]

See = Callable[[Any], None]


@contextmanager
def watching(
    inputs: Iterable[tuple[nn.Module, See]] = (), outputs: Iterable[tuple[nn.Module, See]] = ()
) -> Iterator[None]:
    """Call ``see(value)`` at every call of the modules while the context is open.

    Parameters
    ----------
    inputs : iterable of (Module, callable)
        The first argument (the first of ``forward``, where all are passed by name) is seen, as the module is about to
        read it: after the user's own hooks, and before the module can change it in place.
    outputs : iterable of (Module, callable)
        What the module returned is seen, before the user's own hooks or an in-place activation can change it.

    Notes
    -----
    Nothing is copied: a value that is wanted later must be copied when it is seen.
    """
    with ExitStack() as stack:
        for module, see in inputs:
            stack.callback(module.register_forward_pre_hook(_before(see), with_kwargs=True).remove)
        for module, see in outputs:
            stack.callback(module.register_forward_hook(_after(see), prepend=True).remove)
        yield


def _before(see: See) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(args[0] if args else _first_named(module, kwargs))

    return hook


def _first_named(module: nn.Module, kwargs: dict[str, Any]) -> Any:
    given = [name for name in inspect.signature(module.forward).parameters if name in kwargs] or list(kwargs)
    return kwargs[given[0]] if given else None


def _after(see: See) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        see(output)

    return hook
