"""The command line: flags in, the package's functions called, words and an exit code out.

Exit codes: 0 done, 1 wrong usage (nothing was done), 3 some case failed (the others are done),
130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import _thread
import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from radiolucent.cli.bench import bench
from radiolucent.cli.explain import demo, explain
from radiolucent.cli.hunt import hunt
from radiolucent.cli.measure import measure, metrics
from radiolucent.cli.models import layers, methods
from radiolucent.cli.study import app as study
from radiolucent.cli.train import train
from radiolucent.cli.worlds import app as worlds

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="See through medical-imaging models.",
)

for command in (explain, layers, methods, demo, measure, metrics, hunt, train, bench):
    app.command()(command)
app.add_typer(study, name="study")
app.add_typer(worlds, name="worlds")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from radiolucent import __version__

        print(__version__)
        raise typer.Exit


def _ask_again(lost: UnraisableHookArgs) -> None:
    """Python drops a Ctrl-C that falls into an object's `__del__`, and the program would go on: send it once more."""
    if lost.exc_type is KeyboardInterrupt:
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


def main() -> None:
    """Entry point: errors of usage and of input become one line and exit code 1."""
    from radiolucent.errors import BadInput

    before, sys.unraisablehook = sys.unraisablehook, _ask_again
    try:
        app()
    except SystemExit as end:
        if end.code == 130:  # Ctrl-C, of which typer says nothing
            print("radiolucent: interrupted; what is done is kept", file=sys.stderr)
        sys.exit(1 if end.code == 2 else end.code)  # 2 is the command-line library's own code for wrong usage
    except BrokenPipeError:  # `| head`: nobody reads on
        sys.stdout = None
    except (BadInput, OSError) as error:
        print(f"radiolucent: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    finally:
        sys.unraisablehook = before
