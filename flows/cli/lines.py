"""Commands that change a line of rounds."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.arguments import (
    AnyReference,
    ConfigFile,
    LineName,
    Overrides,
    Reference,
    StoreFolder,
    Why,
    optional_config,
)
from flows.cli.running import round_

app = typer.Typer()
line = typer.Typer(no_args_is_help=True, help="What a line of rounds is made of.")
app.add_typer(line, name="line")


@app.command()
def promote(
    reference: Reference, store: StoreFolder = Path("runs"), line: LineName = None, why: Why = ""
) -> None:
    """Make a model the champion of a line; the next round starts from it."""
    from flows.commands import line as changes

    changes.promote(reference, store, line, why)


@app.command()
def rollback(
    reference: AnyReference = None,
    store: StoreFolder = Path("runs"),
    line: LineName = None,
    why: Why = "",
    *,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Even if its files are damaged.")
    ] = False,
) -> None:
    """Go back to an earlier champion: the previous one, or the one you name."""
    from flows.commands import line as changes

    changes.roll_back(reference, store, line, why, damaged=damaged)


@app.command()
def revoke(
    batch: Annotated[
        str, typer.Argument(help="Name of the batch file, or the beginning of its digest.")
    ],
    store: StoreFolder = Path("runs"),
    line: LineName = None,
    why: Why = "",
    rebuild: Annotated[
        Path | None,
        typer.Option(
            "--rebuild",
            metavar="CONFIG",
            help="Retrain the lost rounds now.",
            callback=lambda config: optional_config(config),
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Ban a bad batch, list the models trained on it, and go back to a champion without it."""
    from flows.commands import line as changes

    rebuild_round = None if rebuild is None else partial(round_, rebuild, overrides)
    changes.revoke(batch, store, line, why, rebuild=rebuild_round)


@line.command()
def adopt(config: ConfigFile, overrides: Overrides = None, why: Why = "") -> None:
    """Continue the config's line with it, although it describes another model, rows or gate."""
    from flows.commands import line as changes

    changes.adopt(config, overrides or [], why)
