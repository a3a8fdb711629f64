"""The command line: parse and call. What the commands do is in `commands/`, imported when called.

Exit codes: 0 done, 1 the run failed, 2 bad usage, config, data or model (the message says what,
where and what to do), 3 a round refused a batch, 75 interrupted but resumable, 130 / 143 stopped by
Ctrl-C / SIGTERM. `verdict` exits with 0 kept, 1 rejected, 3 inconclusive or cannot be judged.
"""

import gc
import os
import signal
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from alignment.errors import AlignmentError, UsageError, printable
from alignment.extras import how_to_install
from flows.cli import lines, looking, models, running, serving

GARBAGE = 100_000
"""New objects before garbage is looked for. Imports make many and drop none: with Python's 700, the
search was 7 % of a short command's time."""

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Iterative alignment: SFT, merge, DPO rounds and evaluation as one resumable run.",
)
for group in (running, looking, lines, models, serving):
    app.add_typer(group.app)


def show_version(*, wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        print(f"sft-dpo {version('sft-dpo')}")
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=lambda wanted: show_version(wanted=wanted),
            help="Print the version.",
        ),
    ] = False,
) -> None:
    """Take the options that come before a command."""


def main() -> NoReturn:
    """Entry point: run a command; print a known error as one line and use its exit code."""
    gc.set_threshold(GARBAGE, 50, 100)
    try:
        app()
    except AlignmentError as error:
        _exit(str(error), error.exit_code)
    except ModuleNotFoundError as error:  # an installation without the extra that this needs
        _exit(_how_to_install(error), UsageError.exit_code)
    except BrokenPipeError:  # the reader closed the pipe, as in `show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _how_to_install(missing: ModuleNotFoundError) -> str:
    if (missing.name or "").partition(".")[0] in ("alignment", "tasks", "flows"):
        raise missing
    return (
        f"{missing.name} is not installed. This installation reads and checks rows, plans and "
        "shows. To train, to publish, or to read Parquet and URLs: "
        f"{how_to_install('train')}"
    )


def _exit(message: str, code: int) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C must not interrupt the cleanup
    print(printable(message), file=sys.stderr)
    sys.exit(code)
