"""The command line: parse, call, print. Every decision is made elsewhere.

Exit codes: 0 done, 1 the run failed, 2 bad usage, config, data or model (the message says what,
where and what to do), 75 interrupted but resumable, 130 / 143 stopped by Ctrl-C / SIGTERM.
Not here: a flow that runs in this process (`shell.py`), what is printed of a store (`printing.py`).
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from flows import printing

if TYPE_CHECKING:
    from alignment.config.pipeline import PipelineConfig
    from alignment.data.build.ingest import Wanted

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
    _run(config, overrides or [])


@app.command("round")
def round_(config: ConfigFile, overrides: Overrides = None) -> None:
    """Train one round on the batches of the config's inbox that no round has used yet."""
    from flows.display import Display
    from flows.shell import round_flow, watched

    settings = _load(config, overrides or [])
    _advise(settings)
    display = Display([], _history(settings.store))
    result = watched(display, round_flow, config, overrides or [])
    if result.table:
        print(result.table)
        print(f"report: {result.report}")
    print(result.words)
    if result.head:
        print(f"champion: {result.head}")


@app.command()
def plan(config: ConfigFile, overrides: Overrides = None, *, as_json: AsJson = False) -> None:
    """Show per stage whether it would run, resume or be skipped, and with which values."""
    from alignment.pipeline.plan import plan as plan_steps
    from alignment.pipeline.verdicts import chain_so_far
    from alignment.store.store import Store

    settings = _load(config, overrides or [])
    store = Store(root=settings.store)
    planned = list(plan_steps(chain_so_far(settings, store), store))
    if as_json:
        print(json.dumps([step.model_dump(mode="json") for step in planned], indent=2))
        return
    for step in planned:
        print(f"{step.status:<7} {step.name:<22} {step.key}")
    if assumed := dict.fromkeys(gate for step in planned for gate in step.assumes):
        names = ", ".join(assumed)
        print(
            f"not judged yet: {names}. The keys after them hold if they keep their rounds.",
            file=sys.stderr,
        )


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
    from alignment.data.build.ingest import Wanted, take_in
    from flows.display import counting

    wanted = {
        "format": {"name": format_},
        "columns": dict(_pair_of(column) for column in columns or []),
        "near_duplicates": near,
        "max_per_prompt": per_prompt,
    }
    with counting() as tell:
        report = take_in(paths, _validated(Wanted, wanted), out=out, on_progress=tell)
    if as_json:
        print(report.model_dump_json(indent=2))
        return
    for file in report.files:
        print(f"{file.file}: {file.format} ({file.reason}), {file.gives or 'nothing'}")
        print(f"  {printing.counts_of(file)}")
        if file.note:
            print(f"  note: {file.note}")
    print(f"in all: {printing.counts_of(report)}")
    print(f"written: {out / 'kept.jsonl'}, {out / 'quarantine.jsonl'}")


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
    from rich.console import Console

    from alignment.doctor import examine
    from alignment.doctor.page import write_page
    from flows.doctor import print_checkup

    settings = _load(config, overrides or [])
    notes = Console(stderr=True)
    checkup = examine(
        settings,
        device=device,
        command=_command("doctor", config, overrides or []),
        on_progress=lambda step: notes.print(f"preparing {step}", highlight=False),
    )
    page = write_page(checkup, settings.store / "reports" / f"{settings.name}-doctor.html")
    if as_json:
        print(checkup.model_dump_json(indent=2))
    else:
        print_checkup(checkup, Console(highlight=False, markup=False))
        print(f"page: {page}")
    if checkup.verdict == "fail":
        sys.exit(1)


@app.command()
def show(
    reference: AnyReference = None,
    store: StoreFolder = Path("runs"),
    *,
    lineage: Lineage = False,
    as_json: AsJson = False,
) -> None:
    """Show one artifact's record, its ancestry, or everything in the store."""
    from alignment.errors import UsageError
    from alignment.rounds.references import find_one
    from alignment.store.lineage import ancestors
    from alignment.store.store import Store

    opened = Store(root=store)
    if not store.is_dir():
        raise UsageError(f"no store {store}. Check --store; `sft-dpo run CONFIG` makes one.")
    if reference is None:
        records = opened.records()
    else:
        record = find_one(opened, reference)
        records = ancestors(opened, record.key) if lineage else [record]
    if as_json:
        dumped = [record.model_dump(mode="json") for record in records]
        print(json.dumps(dumped if reference is None or lineage else dumped[0], indent=2))
    elif reference is None:
        if not records:
            print(f"nothing in {store} yet; `sft-dpo run CONFIG` builds there", file=sys.stderr)
        printing.print_list(records)
        printing.print_lines(opened)
    elif lineage:
        printing.print_ancestry(opened, records)
    else:
        printing.print_record(records[0])


@app.command()
def promote(
    reference: Reference, store: StoreFolder = Path("runs"), line: LineName = "main", why: Why = ""
) -> None:
    """Make a model the champion of a line; the next round starts from it."""
    from alignment.rounds.line import RoundLine
    from alignment.rounds.references import find_one
    from alignment.rounds.steps import champion_of
    from alignment.store.store import Store

    opened = Store(root=store)
    head = champion_of(opened, find_one(opened, reference).key)
    RoundLine(store=opened, name=line).promote(head, why or "from the command line")
    print(f"champion of {line}: {head.label} {head.model}")


@app.command()
def rollback(
    reference: AnyReference = None,
    store: StoreFolder = Path("runs"),
    line: LineName = "main",
    why: Why = "",
) -> None:
    """Make an earlier champion the champion again: the one before, or the one that is named."""
    from alignment.rounds.line import RoundLine
    from alignment.rounds.references import find_one
    from alignment.store.store import Store

    opened = Store(root=store)
    lined = RoundLine(store=opened, name=line)
    model = find_one(opened, reference).key if reference else None
    head = lined.state().earlier_champion(model)
    lined.roll_back(head, why or "from the command line")
    print(f"champion of {line}: {head.label} {head.model}")
    print("The batches of the rounds after it stay used: no round trains on them again.")


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
    from alignment.rounds.line import RoundLine
    from alignment.store.lineage import containing
    from alignment.store.store import Store

    opened = Store(root=store)
    lined = RoundLine(store=opened, name=line)
    bad = lined.state().find_batch(batch)
    found = containing(opened, bad.key)
    print(f"batch {bad.digest[:12]} ({bad.file}) is in {len(found)} models of {store}:")
    printing.print_list(found)
    state = lined.revoke(bad, why or "from the command line")
    assert state.champion is not None, "a batch was used, so there is a champion"
    print(f"champion of {line}: {state.champion.label} {state.champion.model}")
    print(f"{len(state.again)} rounds to train again without it")
    while rebuild is not None and lined.state().again:
        round_(rebuild, overrides)


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
    from alignment.compose.export import export as export_artifact
    from alignment.rounds.references import find_one
    from alignment.store.store import Store

    opened = Store(root=store)
    record = find_one(opened, reference)
    _quiet_libraries()
    for note in export_artifact(opened, record, to, form=form, dtype=dtype).notes():
        print(note)
    print(f"written to {to}")


@app.command()
def chat(
    reference: Reference,
    store: StoreFolder = Path("runs"),
    tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 256,
) -> None:
    """Talk to a model of the store; one line is one message, an empty line starts afresh."""
    from alignment.compose.export import open_for_chat
    from alignment.rounds.references import find_one
    from alignment.store.store import Store

    opened = Store(root=store)
    record = find_one(opened, reference)
    _quiet_libraries()
    reply = open_for_chat(opened, record, max_new_tokens=tokens)
    prompt = "> " if sys.stdin.isatty() else ""
    turns: list[tuple[str, str]] = []
    while (line := _read_line(prompt)) is not None:
        if not line:
            turns = []
            continue
        turns.append(("user", line))
        turns.append(("assistant", reply(turns)))
        print(turns[-1][1])


def main() -> NoReturn:
    """The console script: run a command, turn a known error into one line and its exit code."""
    from alignment.errors import AlignmentError

    try:
        app()
    except AlignmentError as error:
        _exit(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of a pipe went away, as in `show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def line_name(name: str) -> str:
    """The name of a line of rounds; it is a folder in the store, so it cannot be a path."""
    import re

    from alignment.errors import UsageError

    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise UsageError(f"--line {name!r}: a name of small letters, digits and dashes is expected")
    return name


def _quiet_libraries() -> None:
    """Bars of loading and remarks about kernels stay out of what a command prints."""
    import logging

    from transformers.utils import logging as bars

    bars.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _exit(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


def _command(name: str, config: Path, overrides: list[str]) -> str:
    import shlex

    words = [f"sft-dpo {name}", str(config), *(f"--set {shlex.quote(o)}" for o in overrides)]
    return " ".join(words)


# --- running ----------------------------------------------------------------------------------


def _run(config: Path, overrides: list[str]) -> None:
    from alignment.pipeline.chain import chain
    from flows.display import Display
    from flows.shell import run_flow, watched

    settings = _load(config, overrides)
    display = Display(list(chain(settings).steps()), _history(settings.store))
    _advise(settings)
    result = watched(display, run_flow, config, overrides)
    print(result.table)
    print(f"report: {result.report}")


def _advise(settings: "PipelineConfig") -> None:
    from alignment.execution.provenance import slow_bfloat16

    if settings.dpo.bf16 and slow_bfloat16():
        print(
            "note: this CPU is about four times slower in bfloat16 than in float32. Faster here: "
            "--set sft.training.bf16=false --set dpo.bf16=false --set evaluation.dtype=float32",
            file=sys.stderr,
        )


def _load(path: Path, overrides: list[str]) -> "PipelineConfig":
    from alignment.config.file import load

    return load(path, overrides)


def _history(root: Path) -> dict[str, float]:
    """Seconds that the last build of each kind of step took, as far as the store knows."""
    from alignment.store.store import Store

    return {record.stage: record.seconds for record in Store(root=root).records()}


# --- arguments ---------------------------------------------------------------------


def _pair_of(column: str) -> tuple[str, str]:
    from alignment.errors import UsageError

    theirs, equals, ours = column.partition("=")
    if not (theirs and equals and ours):
        raise UsageError(f"--column {column!r}: expected THEIRS=OURS, for instance question=prompt")
    return theirs, ours


def _validated(model: "type[Wanted]", values: dict[str, Any]) -> "Wanted":
    from pydantic import ValidationError

    from alignment.errors import UsageError

    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"--format: {error.errors()[0]['msg']}") from error


def _read_line(prompt: str) -> str | None:
    try:
        return input(prompt).strip()
    except EOFError:
        return None
