"""What estimators check of their parameters, and how they run what can run at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed

from ..exceptions import DataError

__all__ = ["METHODS", "as_seed", "checked_steps", "document", "is_whole", "numbers", "ridges", "run_all", "method_of"]

METHODS = ("auto", "cv", "holdout", "loo", "validation", None)

Result = TypeVar("Result")


def is_whole(value: Any) -> bool:
    """Whether this is a whole number, of Python or numpy."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def numbers(name: str, value: Any, *, positive: bool) -> tuple[float, ...]:
    """A parameter that is a number or several; DataError for negative ones, or for 0 where they must be positive."""
    values = value if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else (value,)
    if not len(values):
        raise DataError(f"Got {name}=[], but expected a number or several.")
    for number in values:
        real = isinstance(number, int | float | np.number) and not isinstance(number, bool)
        if not real or not np.isfinite(number) or number < 0 or (positive and number == 0):
            raise DataError(
                f"Got {name}={number!r}, but expected a {'positive ' if positive else ''}finite number"
                f"{'' if positive else ' >= 0'}."
            )
    return tuple(float(number) for number in values)


def checked_steps(max_iter: Any, tol: Any) -> tuple[int, float]:
    """AGOP steps and the change below which they stop; DataError for others than at least 0."""
    if not is_whole(max_iter) or max_iter < 0:
        raise DataError(f"Got max_iter={max_iter!r}, but expected a whole number of at least 0.")
    if not 0 <= tol < np.inf:
        raise DataError(f"Got tol={tol!r}, but expected a finite number of at least 0.")
    return int(max_iter), float(tol)


def method_of(selection: Any) -> str:
    """How candidates are compared, "none" for None; DataError for an unknown way."""
    if selection not in METHODS:
        raise DataError(f"Got selection={selection!r}, but expected one of {', '.join(map(repr, METHODS))}.")
    return "none" if selection is None else str(selection)


def ridges(alpha: Any, default: tuple[float, ...], method: str) -> tuple[float, ...]:
    """Candidates; where none is chosen, the first that was asked for, or else the middle one of the rule."""
    alphas = default if alpha is None else numbers("alpha", alpha, positive=False)
    if method == "none":
        return (sorted(alphas)[len(alphas) // 2],) if alpha is None else alphas[:1]
    return alphas


def as_seed(random_state: Any) -> int:
    """A whole number as it is; one drawn from anything else that scikit-learn takes."""
    return int(random_state) if is_whole(random_state) else int(check_random_state(random_state).randint(2**31 - 1))


def run_all(calls: Sequence[Callable[[], Result]], n_jobs: int | None, verbose: int) -> list[Result]:
    """Results of calls that do not depend on one another, ``n_jobs`` at once in threads, with a bar if asked for."""
    results: Iterable[Result] = (call() for call in calls)
    if n_jobs not in (None, 1):
        parallel = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")
        results = parallel(delayed(call)() for call in calls)
    if verbose:
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        results = track(results, total=len(calls), description="Selecting", console=console, transient=True)
    return list(results)


def document(cls: type, common: str, **parts: str) -> None:
    """Complete the one line of a class with what it has in common with another."""
    text = common
    for name, part in parts.items():
        text = text.replace("{" + name + "}", part)
    cls.__doc__ = f"{cls.__doc__}\n" + text.replace("{{", "{").replace("}}", "}")
