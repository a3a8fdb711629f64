"""Commands that look at a store, and at this machine."""

from pathlib import Path
from typing import Annotated

import typer

from flows.arguments import (
    COMPARED_HELP,
    AnyReference,
    AsJson,
    Lineage,
    Overrides,
    StoreFolder,
    complete_reference,
    optional_config,
)

app = typer.Typer()


@app.command()
def show(
    reference: AnyReference = None,
    store: StoreFolder = Path("runs"),
    *,
    lineage: Lineage = False,
    as_json: AsJson = False,
) -> None:
    """Show the record of an artifact, its ancestors, or everything in the store."""
    from flows.commands.show import show_store

    show_store(reference, store, lineage=lineage, as_json=as_json)


@app.command()
def runs(store: StoreFolder = Path("runs"), *, as_json: AsJson = False) -> None:
    """List the runs of a store: result, age, what their configs change; what has not finished."""
    from flows.commands.runs import show_runs

    show_runs(store, as_json=as_json)


@app.command()
def status(store: StoreFolder = Path("runs"), *, as_json: AsJson = False) -> None:
    """Show what is being built in a store: step, how far, since when, and where its log is."""
    from flows.commands.status import show_status

    show_status(store, as_json=as_json)


@app.command()
def trace(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run by its name or NAME-ID, a model of it (practice/round-3), or the key of a "
            "training, finished or not.",
            autocompletion=complete_reference,
        ),
    ],
    step: Annotated[int | None, typer.Option(min=1, help="The step of the training.")] = None,
    stage: Annotated[
        str | None, typer.Option(help="Which training of a run: sft, dpo-1, control, ...")
    ] = None,
    store: StoreFolder = Path("runs"),
    *,
    spikes: Annotated[
        bool, typer.Option("--spikes", help="The steps whose losses stand out most.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Name the rows behind a step of a training, each with its loss or margin and its source."""
    from flows.commands.trace import trace as print_trace

    print_trace(reference, store, step=step, spikes=spikes, stage=stage, as_json=as_json)


@app.command()
def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="RUN_A",
            help=COMPARED_HELP,
            autocompletion=complete_reference,
        ),
    ],
    second: Annotated[
        str,
        typer.Argument(
            metavar="RUN_B",
            help="What is compared with it.",
            autocompletion=complete_reference,
        ),
    ],
    store: StoreFolder = Path("runs"),
    *,
    as_json: AsJson = False,
) -> None:
    """Compare two runs on the same held-out rows: settings, metrics with intervals, replies."""
    from flows.commands.compare import compare_runs

    compare_runs(first, second, store, as_json=as_json)


@app.command()
def verdict(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="FILE|REF", help="A file verdict.json, or a gate or the model of a round."
        ),
    ],
    store: StoreFolder = Path("runs"),
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Also refuse a verdict under another gate or evaluation.",
            callback=lambda config: optional_config(config),
        ),
    ] = None,
    overrides: Overrides = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Repeat a gate's verdict from its evidence, without a model; the exit code is the verdict.

    Exit codes: 0 kept, 1 rejected, 3 inconclusive or cannot be judged, 2 no evidence, or changed.
    """
    from flows.commands.verdict import show_verdict

    show_verdict(reference, store, config=config, overrides=overrides or [], as_json=as_json)


@app.command()
def du(store: StoreFolder = Path("runs"), *, as_json: AsJson = False) -> None:
    """Show what a store takes, by kind of content."""
    from flows.commands.tidy import show_usage

    show_usage(store, as_json=as_json)


@app.command()
def gc(
    store: StoreFolder = Path("runs"),
    days: Annotated[
        float, typer.Option("--older-than", min=0, help="Keep what changed in so many days.")
    ] = 30.0,
    megabytes: Annotated[
        float, typer.Option("--larger-than", min=0, help="Leave smaller things, in MiB.")
    ] = 0.0,
    *,
    act: Annotated[
        bool, typer.Option("--delete", help="Remove it; without this, it is only listed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List what no line, no recent run and no newest run of a name is made of; or remove it."""
    from flows.commands.tidy import tidy

    tidy(store, days=days, megabytes=megabytes, act=act, as_json=as_json)


@app.command()
def env(*, as_json: AsJson = False) -> None:
    """Show versions, device, driver and paths, for a report of a problem; no secrets."""
    from flows.commands.env import show_environment

    show_environment(as_json=as_json)
