"""The command line: parse and call. The commands are in `commands/`, imported when called.

Exit codes: 0 done, 1 the run failed, 2 bad usage, config, data or model (the message says what,
where and what to do), 3 a round refused a batch, 75 interrupted but resumable, 130 / 143 stopped by
Ctrl-C / SIGTERM. `verdict` exits with 0 kept, 1 rejected, 3 inconclusive or cannot be judged.
"""

import os
import re
import signal
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from alignment.errors import AlignmentError, UsageError, printable
from alignment.extras import how_to_install
from alignment.urls import is_url
from flows.presets import config_argument, preset_names

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Iterative alignment: SFT, merge, DPO rounds and evaluation as one resumable run.",
)

lines = typer.Typer(no_args_is_help=True, help="What a line of rounds is made of.")
app.add_typer(lines, name="line")

ConfigFile = Annotated[
    Path,
    typer.Argument(
        help="YAML file, or the name of a preset, e.g. practice.",
        callback=lambda path: config_argument(path),
        autocompletion=lambda: preset_names(),
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a config value: dotted.key=value; repeatable.",
        autocompletion=lambda incomplete: complete_settings(incomplete),
    ),
]


def _local(folder: Path) -> Path:
    if is_url(str(folder)):  # which may hold a secret, and would become a folder called `https:`
        raise UsageError("expected a local folder, not a URL")
    return folder


StoreFolder = Annotated[
    Path, typer.Option("--store", help="Folder that holds the artifacts.", callback=_local)
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
        autocompletion=lambda ctx, incomplete: complete_reference(ctx, incomplete),
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Lineage = Annotated[bool, typer.Option("--lineage", help="Show all ancestors, oldest first.")]
LineName = Annotated[
    str | None,
    typer.Option(
        "--line",
        callback=lambda name: line_name(name),
        help="Name of the line of rounds; not needed if the store has only one.",
    ),
]
Why = Annotated[str, typer.Option("--why", help="Reason, recorded in the ledger.")]
AnyReference = Annotated[
    str | None,
    typer.Argument(
        help=REFERENCE_HELP,
        autocompletion=lambda ctx, incomplete: complete_reference(ctx, incomplete),
    ),
]


def complete_reference(ctx: typer.Context, incomplete: str) -> list[str]:
    """What a shell offers for a half-typed reference."""
    from flows.completion import references

    return references(ctx.params.get("store"), incomplete)


def complete_settings(incomplete: str) -> list[str]:
    """What a shell offers for a half-typed `--set`."""
    from flows.completion import settings

    return settings(incomplete)


def show_version(*, wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        print(f"sft-dpo {version('sft-dpo')}")
        raise typer.Exit


def show_formats(*, wanted: bool) -> None:
    """Print what each format of data expects, and stop."""
    if wanted:
        from flows.commands.data import print_formats

        print_formats()
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
        typer.Option("--out", help="Folder for kept.jsonl and quarantine.jsonl.", callback=_local),
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
    """List the runs that have ended in a store: result, age, and what their configs change."""
    from flows.commands.runs import show_runs

    show_runs(store, as_json=as_json)


@app.command()
def trace(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run by its name or NAME-ID, a model of it (practice/round-3), or the key of a "
            "training, finished or not.",
            autocompletion=lambda ctx, incomplete: complete_reference(ctx, incomplete),
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
            autocompletion=lambda ctx, incomplete: complete_reference(ctx, incomplete),
        ),
    ],
    second: Annotated[
        str,
        typer.Argument(
            metavar="RUN_B",
            help="What is compared with it.",
            autocompletion=lambda ctx, incomplete: complete_reference(ctx, incomplete),
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
        typer.Option("--config", help="Also refuse a verdict under another gate or evaluation."),
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
def status(store: StoreFolder = Path("runs"), *, as_json: AsJson = False) -> None:
    """Show what is being built in a store: step, how far, since when, and where its log is."""
    from flows.commands.status import show_status

    show_status(store, as_json=as_json)


@app.command()
def env(*, as_json: AsJson = False) -> None:
    """Show versions, device, driver and paths, for a report of a problem; no secrets."""
    from flows.commands.env import show_environment

    show_environment(as_json=as_json)


@app.command()
def promote(
    reference: Reference, store: StoreFolder = Path("runs"), line: LineName = None, why: Why = ""
) -> None:
    """Make a model the champion of a line; the next round starts from it."""
    from flows.commands import line as lines

    lines.promote(reference, store, line, why)


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
    from flows.commands import line as lines

    lines.roll_back(reference, store, line, why, damaged=damaged)


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
        typer.Option("--rebuild", metavar="CONFIG", help="Retrain the lost rounds now."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Ban a bad batch, list the models trained on it, and go back to a champion without it."""
    from flows.commands import line as lines

    rebuild_round = None if rebuild is None else partial(round_, rebuild, overrides)
    lines.revoke(batch, store, line, why, rebuild=rebuild_round)


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


@lines.command()
def adopt(config: ConfigFile, overrides: Overrides = None, why: Why = "") -> None:
    """Continue the config's line with it, although it describes another model, rows or gate."""
    from flows.commands import line

    line.adopt(config, overrides or [], why)


@app.command()
def export(
    reference: Reference,
    to: Annotated[
        Path, typer.Option("--to", help="Folder to write to; must not exist.", callback=_local)
    ],
    store: StoreFolder = Path("runs"),
    form: Annotated[
        Literal["merged", "adapter", "gguf"],
        typer.Option(
            help="merged: full weights; adapter: all adapters on the base model as one; "
            "gguf: a file for llama.cpp."
        ),
    ] = "merged",
    dtype: Annotated[
        Literal["bfloat16", "float32"] | None,
        typer.Option(
            help="Dtype of merged weights; default: bfloat16 unless it would lose too much."
        ),
    ] = None,
    converter: Annotated[
        Path | None,
        typer.Option(
            help="llama.cpp's convert_hf_to_gguf.py for --form gguf, or its folder; default: the "
            "one on the PATH, or a writer for Llama and Qwen2."
        ),
    ] = None,
) -> None:
    """Export a model or adapter to a folder, with its lineage and measured differences."""
    from flows.commands.model import export_model

    export_model(reference, store, to, form=form, dtype=dtype, converter=converter)


@app.command()
def publish(
    reference: Reference,
    to: Annotated[str, typer.Option("--to", metavar="ORG/NAME", help="Repository on the hub.")],
    store: StoreFolder = Path("runs"),
    form: Annotated[
        Literal["merged", "adapter"],
        typer.Option(help="merged: full weights; adapter: all adapters on the base model as one."),
    ] = "merged",
    *,
    upload: Annotated[
        bool,
        typer.Option(
            "--upload/--dry-run",
            help="Upload it, with the token in HF_TOKEN; by default, show card and files.",
        ),
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Let everyone see it; by default it is private.")
    ] = False,
) -> None:
    """Show a model with its card as a hub would get it, and upload it where asked to."""
    from flows.commands import publish as publishing

    publishing.publish(reference, store, to, form=form, upload=upload, public=public)


@app.command()
def chat(
    reference: AnyReference = None,
    store: StoreFolder = Path("runs"),
    tokens: Annotated[int, typer.Option(min=1, help="Maximum length of a reply, in tokens.")] = 256,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Show the replies of two models, without saying which is whose, and ask which is "
            "better: each vote is a pair in the inbox. Both are in memory.",
        ),
    ] = None,
    inbox: Annotated[
        Path, typer.Option(help="Folder for these pairs, a file for each session.")
    ] = Path("inbox"),
) -> None:
    """Chat with a model in the store: one message per line; an empty line starts a new chat."""
    from flows.commands import model

    if compare is not None and reference is None:
        model.compare(*compare, store, inbox=inbox, tokens=tokens)
    elif reference is not None and compare is None:
        model.chat(reference, store, tokens=tokens)
    else:
        raise typer.BadParameter("name a model, or two with --compare")


@app.command()
def deploy(
    pool: Annotated[
        Literal["process", "docker", "kubernetes"] | None,
        typer.Option(
            help="How runs are started: by the worker, in containers of its machine, or as jobs "
            "of its cluster. Default: as the pool is; a new one is process."
        ),
    ] = None,
) -> None:
    """Create work pool, queues and deployments on the Prefect server in PREFECT_API_URL."""
    from flows.commands.deploy import deploy_all

    deploy_all(pool)


@app.command()
def worker(
    queues: Annotated[
        list[str] | None,
        typer.Option(
            "--queue",
            help="Queue to serve: cpu or a100; repeatable. By default cpu, and a100 where a GPU "
            "can be used.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum runs at the same time.")] = 1,
) -> None:
    """Run what is deployed, in this folder; when stopped, lets runs save a checkpoint first."""
    from flows.commands.deploy import start_worker

    start_worker(queues or [], limit)


def main() -> NoReturn:
    """Entry point: run a command; print a known error as one line and use its exit code."""
    try:
        app()
    except AlignmentError as error:
        _exit(str(error), error.exit_code)
    except ModuleNotFoundError as error:  # an installation without the extra that this needs
        _exit(_how_to_install(error), UsageError.exit_code)
    except BrokenPipeError:  # the reader closed the pipe, as in `show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def line_name(name: str | None) -> str | None:
    """Check the name of a line of rounds: it becomes a folder name, so it cannot be a path."""
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise UsageError(f"--line {name!r}: use lower-case letters, digits and dashes only")
    return name


def _how_to_install(missing: ModuleNotFoundError) -> str:
    if (missing.name or "").partition(".")[0] in ("alignment", "tasks", "flows"):
        raise missing
    return (
        f"{missing.name} is not installed. This installation reads and checks rows (sft-dpo data), "
        "plans and shows. To train, to run the doctor, or to read Parquet and URLs: "
        f"{how_to_install('train')}"
    )


def _exit(message: str, code: int) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C must not interrupt the cleanup
    print(printable(message), file=sys.stderr)
    sys.exit(code)
