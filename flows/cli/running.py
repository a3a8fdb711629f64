"""Commands that start from a configuration: write it, check it, run it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from alignment.errors import UsageError
from flows.arguments import (
    AsJson,
    ConfigFile,
    Overrides,
    local_folder,
)

app = typer.Typer()


def show_formats(*, wanted: bool) -> None:
    """Print what each format of data expects, and stop."""
    if wanted:
        from flows.commands.data import print_formats

        print_formats()
        raise typer.Exit


@app.command()
def join(
    address: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="`machines.address` of the run's config.")
    ],
) -> None:
    """Lend this machine's devices to a run on another machine, until Ctrl-C."""
    from alignment.execution.machines import join_others

    join_others(address)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder to write to.")] = Path(),
    model: Annotated[
        str | None, typer.Option(help="Hub id, folder, or package==version of the model.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="File with preference pairs or conversations; repeatable."),
    ] = None,
    card: Annotated[
        str | None, typer.Option(help="cpu, or a card that the doctor knows, e.g. a100-40gb.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run; default: the folder's.")
    ] = None,
    origin: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Convert a file of LLaMA-Factory, Axolotl or TRL; every key without an equal is "
            "named.",
        ),
    ] = None,
    stage: Annotated[
        Literal["sft", "dpo"] | None,
        typer.Option(help="With --from: the command that a TRL file is for, if it does not say."),
    ] = None,
    *,
    ci: Annotated[
        bool,
        typer.Option(
            "--ci",
            help="Also write a GitHub workflow that runs rounds; alone it is added to a folder "
            "that has a configuration. GitHub reads it in a repository's root.",
        ),
    ] = False,
) -> None:
    """Write a first configuration for a model and some files; asks for what is not given."""
    from flows.commands.init import FILE, write_config, write_converted, write_workflow

    given = model or data or card or name
    if origin:
        if model or data:
            raise UsageError("--from takes model and data from the file; leave --model and --data")
        write_converted(folder, origin, stage=stage, name=name, card=card)
    elif given or not (ci and (folder / FILE).exists()):
        write_config(folder, name=name, model=model, data=data or [], card=card)
    if ci:
        write_workflow(folder)


@app.command()
def run(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run the whole pipeline in this process; finished stages are reused.

    Exit codes: 0 done, 1 failed, 2 usage, config, data or model, 75 interrupted, 130 Ctrl-C.
    """
    from flows.commands.run import run_pipeline

    run_pipeline(config, overrides or [])


@app.command("round")
def round_(
    config: ConfigFile,
    overrides: Overrides = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="A file of prompts: the round is on the champion's answers to them; repeatable.",
        ),
    ] = None,
    *,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers", help="Only a round on own answers; batches of pairs are left for another."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train one DPO round on the batches in the config's inbox that no round has used yet.

    Of pairs if there are enough, else the champion's own answers to batches of prompts.

    Exit codes: those of run, and 3 if a batch was refused; sft-dpo verdict has some for the gate.
    """
    from flows.commands.run import run_round

    run_round(config, overrides or [], prompts=prompts or [], answers=answers, as_json=as_json)


@app.command()
def plan(config: ConfigFile, overrides: Overrides = None, *, as_json: AsJson = False) -> None:
    """Show for each stage whether it would run, resume or be reused, and its settings."""
    from flows.commands.plan import print_plan

    print_plan(config, overrides or [], as_json=as_json)


@app.command()
def data(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="File, folder, glob pattern, URL or hub:owner/name@commit."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="Folder for kept.jsonl and quarantine.jsonl.", callback=local_folder
        ),
    ],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME[,FIELD=VALUE]",
            help="Format of all files; by default detected from the columns.",
        ),
    ] = "auto",
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="THEIRS=OURS",
            help="Rename a column, or leave it out (THEIRS=); repeatable.",
        ),
    ] = None,
    near: Annotated[
        float,
        typer.Option(
            "--near-duplicates", min=0.5, max=1.0, help="Similarity above which a row is dropped."
        ),
    ] = 0.9,
    per_prompt: Annotated[
        int | None,
        typer.Option("--max-per-prompt", min=1, help="Maximum rows per prompt; default: no limit."),
    ] = None,
    *,
    as_json: AsJson = False,
    formats: Annotated[
        bool,
        typer.Option(
            "--formats",
            is_eager=True,
            callback=lambda wanted: show_formats(wanted=wanted),
            help="List the known formats and what each expects.",
        ),
    ] = False,
) -> None:
    """Read any data by its path; write usable rows, and dropped ones with file, row and reason."""
    del formats  # `show_formats` has acted on it
    from flows.commands.data import format_words, read_data

    wanted = {
        "format": format_words(format_),
        "near_duplicates": near,
        "max_per_prompt": per_prompt,
    }
    read_data(paths, wanted, columns=columns or [], out=out, as_json=as_json)


@app.command()
def doctor(
    config: ConfigFile,
    overrides: Overrides = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Forecast for a100-40gb, a100-80gb, h100-80gb, h200 or cpu (this machine's)."
        ),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Check data, template, lengths, rates, memory and time before you rent a GPU.

    Exit codes: 0 the run can start, 1 it should not, 2 usage, config, data or model.
    """
    from flows.commands.doctor import run_doctor

    run_doctor(config, overrides or [], device=device, as_json=as_json)


@app.command()
def inbox(
    config: ConfigFile,
    overrides: Overrides = None,
    *,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try refused and set-aside batches again.")
    ] = False,
) -> None:
    """Show what became of each file in the config's inbox, and why it is not used."""
    from flows.commands.inbox import show_inbox

    show_inbox(config, overrides or [], retry=retry)
