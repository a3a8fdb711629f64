"""The command line: parse and call. What a command does is in `commands/`, imported when called.

Exit codes: 0 done, 1 the run failed, 2 bad usage, config, data or model (the message says what,
where and what to do), 75 interrupted but resumable, 130 / 143 stopped by Ctrl-C / SIGTERM.
"""

import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from alignment.errors import AlignmentError, UsageError

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Iterative alignment: SFT, merge, rounds of DPO and evaluation, as one resumable run.",
)

ConfigFile = Annotated[Path, typer.Argument(help="YAML file, e.g. deployments/configs/a100.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override dotted.key=value; repeatable."),
]
StoreFolder = Annotated[Path, typer.Option("--store", help="Folder that holds the artifacts.")]
Reference = Annotated[str, typer.Argument(help="A step's name, a key, or its beginning.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Lineage = Annotated[bool, typer.Option("--lineage", help="All ancestors, oldest first.")]
LineName = Annotated[
    str, typer.Option("--line", callback=lambda name: line_name(name), help="The line of rounds.")
]
Why = Annotated[str, typer.Option("--why", help="One line for the ledger.")]
AnyReference = Annotated[str | None, typer.Argument(help="A step's name, a key, or its beginning.")]


@app.command()
def run(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run the whole pipeline in this process; finished stages are reused."""
    from flows.commands.run import run_pipeline

    run_pipeline(config, overrides or [])


@app.command("round")
def round_(config: ConfigFile, overrides: Overrides = None) -> None:
    """Train one round on the batches of the config's inbox that no round has used yet."""
    from flows.commands.run import run_round

    run_round(config, overrides or [])


@app.command()
def plan(config: ConfigFile, overrides: Overrides = None, *, as_json: AsJson = False) -> None:
    """Show per stage whether it would run, resume or be skipped, and with which values."""
    from flows.commands.plan import print_plan

    print_plan(config, overrides or [], as_json=as_json)


@app.command()
def data(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="File, folder, pattern, URL or hub:owner/name@commit."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for kept.jsonl and quarantine.jsonl.")],
    format_: Annotated[
        str, typer.Option("--format", help="Format of all files; default: told by the columns.")
    ] = "auto",
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="THEIRS=OURS", help="Rename a column; repeatable."),
    ] = None,
    near: Annotated[
        float,
        typer.Option("--near-duplicates", min=0.5, max=1.0, help="Likeness that is one too much."),
    ] = 0.9,
    per_prompt: Annotated[
        int | None, typer.Option("--max-per-prompt", min=1, help="Rows of one prompt; default all.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Read any data by its path: usable rows, and the others with file, row and reason."""
    from flows.commands.data import read_data

    wanted = {"format": {"name": format_}, "near_duplicates": near, "max_per_prompt": per_prompt}
    read_data(paths, wanted, columns=columns or [], out=out, as_json=as_json)


@app.command()
def doctor(
    config: ConfigFile,
    overrides: Overrides = None,
    device: Annotated[
        str | None,
        typer.Option(help="Forecast for a100-40gb, a100-80gb, h100-80gb, h200 or cpu (this one)."),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Check data, template, lengths, rates, memory and time before a GPU is rented."""
    from flows.commands.doctor import run_doctor

    run_doctor(config, overrides or [], device=device, as_json=as_json)


@app.command()
def show(
    reference: AnyReference = None,
    store: StoreFolder = Path("runs"),
    *,
    lineage: Lineage = False,
    as_json: AsJson = False,
) -> None:
    """Show one artifact's record, its ancestry, or everything in the store."""
    from flows.commands.show import show_store

    show_store(reference, store, lineage=lineage, as_json=as_json)


@app.command()
def promote(
    reference: Reference, store: StoreFolder = Path("runs"), line: LineName = "main", why: Why = ""
) -> None:
    """Make a model the champion of a line; the next round starts from it."""
    from flows.commands import line as lines

    lines.promote(reference, store, line, why)


@app.command()
def rollback(
    reference: AnyReference = None,
    store: StoreFolder = Path("runs"),
    line: LineName = "main",
    why: Why = "",
) -> None:
    """Make an earlier champion the champion again: the one before, or the one that is named."""
    from flows.commands import line as lines

    lines.roll_back(reference, store, line, why)


@app.command()
def revoke(
    batch: Annotated[str, typer.Argument(help="A batch: its file, or its digest's beginning.")],
    store: StoreFolder = Path("runs"),
    line: LineName = "main",
    why: Why = "",
    rebuild: Annotated[
        Path | None,
        typer.Option("--rebuild", metavar="CONFIG", help="Train the lost rounds again now."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Bar a bad batch, say which models contain it, and take them off the head."""
    from flows.commands import line as lines

    again = None if rebuild is None else partial(round_, rebuild, overrides)
    lines.revoke(batch, store, line, why, rebuild=again)


@app.command()
def export(
    reference: Reference,
    to: Annotated[Path, typer.Option("--to", help="Folder to write; must not exist yet.")],
    store: StoreFolder = Path("runs"),
    form: Annotated[
        Literal["merged", "adapter", "gguf"],
        typer.Option(
            help="Full weights; all adapters since the base model as one; a file for llama.cpp."
        ),
    ] = "merged",
    dtype: Annotated[
        Literal["bfloat16", "float32"] | None,
        typer.Option(help="Of merged weights; chosen by what bfloat16 would lose, otherwise."),
    ] = None,
) -> None:
    """Write a model or an adapter as a folder others can load, with its lineage and distances."""
    from flows.commands.model import export_model

    export_model(reference, store, to, form=form, dtype=dtype)


@app.command()
def chat(
    reference: Reference,
    store: StoreFolder = Path("runs"),
    tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 256,
) -> None:
    """Talk to a model of the store; one line is one message, an empty line starts afresh."""
    from flows.commands import model

    model.chat(reference, store, tokens=tokens)


def main() -> NoReturn:
    """The console script: run a command, turn a known error into one line and its exit code."""
    try:
        app()
    except AlignmentError as error:
        _exit(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of a pipe went away, as in `show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def line_name(name: str) -> str:
    """The name of a line of rounds; it is a folder in the store, so it cannot be a path."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise UsageError(f"--line {name!r}: a name of small letters, digits and dashes is expected")
    return name


def _exit(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)
