"""``featlearn dynamics``: phase diagrams, closed forms against simulation, and the regime of two checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

__all__ = ["dynamics"]

dynamics = typer.Typer(invoke_without_command=True, rich_markup_mode=None)

Json = Annotated[str | None, Option(metavar="FILE", help="Write the numbers as JSON; - is standard output.")]
Traceback = Annotated[bool, Option("--traceback", help="Show the traceback of an error.")]


@dynamics.callback()
def _room(context: typer.Context) -> None:
    """Phase diagrams, exact models, regime of a run."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@dynamics.command()
def phase_diagram(
    plane: Annotated[
        str,
        Option(
            metavar="PLANE",
            help="exponents: of a linear network's rates and scales; initialisation: of a ReLU network's initial "
            "scales.",
        ),
    ] = "exponents",
    width: Annotated[
        int | None, Option(metavar="D", help="Hidden neurons, for the plane of exponents; by default 1000.")
    ] = None,
    target: Annotated[float | None, Option(metavar="F", help="Slope to be learned there, not 0; by default 1.")] = None,
    mine: Annotated[
        list[str] | None,
        Option(
            metavar="NAME=EXPONENT,...",
            help="A point of your own: g, eta_u, eta_w, var_u, var_w (0 where left out), u being the output layer; or "
            "gamma and gamma_prime. Once.",
        ),
    ] = None,
    html: Annotated[
        Path | None, Option(metavar="FILE", help="Write one page with both planes that answers to the pointer.")
    ] = None,
    png: Annotated[Path | None, Option(metavar="FILE", help="Draw the plane: .png, .svg or .pdf.")] = None,
    json: Json = None,
    traceback: Traceback = False,
) -> int:
    """Lazy or rich: the phase of named scales and yours.

    Prints the named parametrisations of two-layer networks, and yours, with their phase: kernel (it stays at large
    width) or feature (it changes).

    Example: featlearn dynamics phase-diagram --mine g=-0.75,eta_u=0.5,eta_w=0.5 --html map.html
    """
    from .dynamics_run import run_phase_diagram

    return run_phase_diagram(plane, width, target, mine, html=html, png=png, json=json)


@dynamics.command()
def verify(
    names: Annotated[
        list[str] | None, Argument(metavar="[NAME]...", help="Models, as they are called in Python; by default all.")
    ] = None,
    fast: Annotated[bool, Option("--fast", help="Only cases of about a second.")] = False,
    json: Json = None,
    traceback: Traceback = False,
) -> int:
    """Compare closed forms with simulations.

    Prints one row a case: how far the two are apart, and up to where they count as equal. Exit code 0: all agree; 1:
    one does not.
    """
    from .dynamics_run import run_verify

    return run_verify(names or [], fast, json)


@dynamics.command()
def diagnose(
    context: typer.Context,
    before: Annotated[Path, Argument(metavar="BEFORE", help="Weights at initialisation: .safetensors, .pt, ...")],
    after: Annotated[Path, Argument(metavar="AFTER", help="Weights after training, with the same names and shapes.")],
    pair: Annotated[
        tuple[str, str],
        Option(metavar="FIRST SECOND", help="Two consecutive layers, or their weights, by name; repeatable."),
    ],
    html: Annotated[Path | None, Option(metavar="FILE", help="Write a page.")] = None,
    json: Json = None,
    traceback: Traceback = False,
) -> int:
    """How layers of a run learned, from its weights.

    Prints how far weights moved, the balance of the layers, and whether they turned towards each other or grew. The
    regime needs data: see featlearn.dynamics.diagnose.

    Example: featlearn dynamics diagnose before.safetensors after.safetensors --pair fc1.weight fc2.weight
    """
    from .dynamics_run import every_pair, run_diagnose

    return run_diagnose(before, after, every_pair(context.obj, pair), html, json)
