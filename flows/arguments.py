"""The arguments that several commands share: their types, checks and completion.

What they need is imported when it is called, so that `--help` responds immediately.
"""

import re
from pathlib import Path
from typing import Annotated

import typer

from alignment.errors import UsageError
from alignment.urls import is_url
from flows.presets import config_argument, preset_names


def local_folder(folder: Path) -> Path:
    """Refuse a URL where a folder of this machine is meant."""
    if is_url(str(folder)):  # which may hold a secret, and would become a folder called `https:`
        raise UsageError("expected a local folder, not a URL")
    return folder


def store_folder(place: str | Path) -> Path:
    """The folder of a store; of a bucket that is named by its URL, its working copy."""
    if not is_url(str(place)):
        return Path(place)
    from alignment.store.places import store_at

    return store_at(str(place)).root


def optional_config(config: Path | None) -> Path | None:
    """The file of a preset's name, or the file that is named."""
    return config and config_argument(config)


def line_name(name: str | None) -> str | None:
    """Check the name of a line of rounds: it becomes a folder name, so it cannot be a path."""
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise UsageError(f"--line {name!r}: use lower-case letters, digits and dashes only")
    return name


def complete_reference(ctx: typer.Context, incomplete: str) -> list[str]:
    """What a shell offers for a half-typed reference."""
    from flows.completion import references

    return references(ctx.params.get("store"), incomplete)


def complete_settings(incomplete: str) -> list[str]:
    """What a shell offers for a half-typed `--set`."""
    from flows.completion import settings

    return settings(incomplete)


ConfigFile = Annotated[
    Path,
    typer.Argument(
        help="YAML file, or the name of a preset, e.g. practice.",
        callback=config_argument,
        autocompletion=preset_names,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a config value: dotted.key=value; repeatable.",
        autocompletion=complete_settings,
    ),
]


StoreFolder = Annotated[
    Path,
    typer.Option(
        "--store",
        metavar="FOLDER",
        help="Folder that holds the artifacts, or a bucket: s3://, gs://, az://.",
        parser=store_folder,
    ),
]
REFERENCE_HELP = (
    "A run and a step or model of it (practice/round-3), a step's name, a key or its beginning, a "
    "label ('round 4'), or `champion` (`champion:LINE`)."
)
COMPARED_HELP = (
    "A run by its name or by NAME-ID (sft-dpo runs), which means its final model; or a model, such "
    "as practice/round-2."
)
Reference = Annotated[
    str,
    typer.Argument(
        help=REFERENCE_HELP,
        autocompletion=complete_reference,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Lineage = Annotated[bool, typer.Option("--lineage", help="Show all ancestors, oldest first.")]
LineName = Annotated[
    str | None,
    typer.Option(
        "--line",
        callback=line_name,
        help="Name of the line of rounds; not needed if the store has only one.",
    ),
]
Why = Annotated[str, typer.Option("--why", help="Reason, recorded in the ledger.")]
AnyReference = Annotated[
    str | None,
    typer.Argument(
        help=REFERENCE_HELP,
        autocompletion=complete_reference,
    ),
]
