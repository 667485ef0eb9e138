"""The command's verbs, and what becomes of errors: one line on stderr and an exit status, never a traceback.

Exit status: 0 all went well, 1 something failed, 2 an input or option has to change, 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tomoscribe.cli.bench import bench
from tomoscribe.cli.dataset import dataset
from tomoscribe.cli.demo import demo
from tomoscribe.cli.doctor import doctor
from tomoscribe.cli.evaluate import evaluate
from tomoscribe.cli.export import export
from tomoscribe.cli.failure import INTERRUPTED, describe, exit_status, print_error
from tomoscribe.cli.inspect import inspect
from tomoscribe.cli.phantom import phantom
from tomoscribe.cli.picture import picture
from tomoscribe.cli.segment import EPILOG, segment
from tomoscribe.cli.train import train
from tomoscribe.cli.watch import EPILOG as WATCH_EPILOG
from tomoscribe.cli.watch import watch

__all__ = ["app", "main"]


class _Verbs(TyperGroup):
    """Lists the verbs in the order of their registration, and ends quietly on Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's own signature, whose Context it does not export
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print_error("interrupted")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Verbs,
    help="Annotate cellular cryo-electron tomograms: microtubules, ribosomes, membranes, carbon edges.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tomoscribe {version('tomoscribe')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere on the line.")
    ] = False,
) -> None:
    """Take the options that stand before the verb; `main` has seen to them."""


app.command("segment", no_args_is_help=True, epilog=EPILOG)(segment)
app.command("watch", no_args_is_help=True, epilog=WATCH_EPILOG)(watch)
app.command("picture", no_args_is_help=True)(picture)
app.command("phantom", no_args_is_help=True)(phantom)
app.add_typer(dataset, name="dataset", no_args_is_help=True)
app.command("train", no_args_is_help=True)(train)
app.add_typer(evaluate, name="evaluate", no_args_is_help=True)
app.command("export", no_args_is_help=True)(export)
app.command("inspect")(inspect)
app.command("bench")(bench)
app.command("doctor")(doctor)
app.command("demo")(demo)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line."""
    # Batch systems end a job with SIGTERM; it cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, _terminate)
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        app(arguments, obj=debug)
    except Exception as error:
        if debug:
            raise
        print_error(describe(error))
        sys.exit(exit_status(error))
