"""The command line ``featlearn measure | fit | predict | tree | coordinate-check | dynamics | groups | probe | robust |
demo | doctor``: exit codes, short errors.

Nothing here, nor in the modules that only declare a command's options, imports torch, pandas, matplotlib or rich: they
load inside the body of a command, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from .. import __version__
from ..exceptions import DataError, FeatlearnError, MixingError, ModelError, UnmeasurableError
from .coordinate_check import coordinate_check
from .demo import demo
from .doctor import doctor
from .dynamics import dynamics
from .fit import fit
from .groups import groups
from .measure import measure
from .predict import predict
from .probe import probe
from .robust import robust
from .tree import tree

__all__ = ["app", "main"]

UNEXPECTED, USAGE, MODEL, DATA, UNMEASURABLE, INTERRUPTED = 1, 2, 3, 4, 5, 130

app = typer.Typer(
    name="featlearn",
    epilog="Exit codes: 0 done, 1 unexpected, 2 usage, 3 model or weights, 4 data, 5 nothing measurable, "
    "6 a scaling rule is broken, 7 undecided, 130 interrupted.",
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: half the time, and narrow terminals and pipes get the same
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(measure)
app.command()(fit)
app.command()(predict)
app.command()(tree)
app.command()(coordinate_check)
app.add_typer(dynamics, name="dynamics")
app.command()(groups)
app.command()(probe)
app.command()(robust)
app.command()(demo)
app.command()(doctor)


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Feature learning: how a model comes to depend on the directions of its input that matter."""
    if version:
        typer.echo(f"featlearn {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, default ``sys.argv[1:]``
        Command and options.

    Returns
    -------
    int
        0 done; 1 unexpected error; 2 bad usage; 3 the model or its weights cannot be loaded; 4 the data cannot be
        loaded or is invalid; 5 nothing measurable, or a model that mixes samples; 6 a scaling rule is broken, 7 whether
        it is cannot be decided (coordinate-check); 130 interrupted (what was measured until then is written and
        marked).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return int(app(args=given, prog_name="featlearn", standalone_mode=False, obj=given) or 0)
        except KeyboardInterrupt:
            return INTERRUPTED
        except Exception as error:
            return _report(error, show_traceback="--traceback" in given)


def _report(error: Exception, show_traceback: bool) -> int:
    """Print the error as one line on stderr (after its traceback, if asked for) and return its exit code."""
    if show_traceback:
        import traceback

        traceback.print_exception(error)
    code, message = _exit_code(error), str(error)
    if hasattr(error, "format_message"):
        message = error.format_message()
    elif code == UNEXPECTED:
        hint = "" if show_traceback else " Run again with --traceback for the whole story."
        message = f"unexpected {type(error).__name__}: {message}{hint}"
    _complain(f"error: {message}")
    return code


def _exit_code(error: Exception) -> int:
    kinds: dict[type[Exception], int] = {
        ModelError: MODEL,
        DataError: DATA,
        UnmeasurableError: UNMEASURABLE,
        MixingError: UNMEASURABLE,
        FeatlearnError: USAGE,  # what is left of the package's own errors refuses the value of an argument
    }
    # Usage errors are known by their method: their class moves from click to typer between versions of typer.
    own = USAGE if hasattr(error, "format_message") else UNEXPECTED
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), own)


def _show_warning(message: Warning | str, category: type[Warning], *place: object, **rest: object) -> None:
    _complain(f"warning: {message}")


def _complain(text: str) -> None:
    typer.echo(f"featlearn: {' '.join(text.split())}", err=True)
