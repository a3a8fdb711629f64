"""`sft-dpo init`: write a first configuration for a model and some files."""

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import typer
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alignment.config.convert.draft import Stage
from alignment.config.convert.write import as_text, draft_of
from alignment.config.file import load
from alignment.data.build.ingest import KEPT, FileReport, IngestOptions, IngestReport, ingest
from alignment.doctor.forecast.devices import NAMES
from alignment.errors import DataError, UsageError
from alignment.execution.device import device_facts, obstacle
from alignment.store.durable import ensure_folder, write
from flows.ci import WORKFLOW, github_workflow
from flows.presets import SCHEMA
from flows.printing import say

FILE, SCHEMA_FILE = "run.yaml", "config.schema.json"
WHEELS = "wheels"
INSTALL = f"python3 -m pip install {WHEELS}/sft_dpo-{version('sft-dpo')}-py3-none-any.whl[train]"
"""How the workflow of a repository that is not this one gets the command, which no index has."""
CHARACTERS_PER_TOKEN = 2.5
"""On the cautious side: English text has about four."""
SHORTEST, LONGEST = 128, 4096
"""Limits of the estimated length of a row, in tokens."""


def write_config(
    folder: Path, *, name: str | None, model: str | None, data: Sequence[str], card: str | None
) -> None:
    """Read the data, write the configuration and its schema, and say what to do next.

    Raises:
        UsageError: an answer is missing or unknown, there is a configuration already, or the folder
            cannot be written.
        DataError: no file has preference pairs.
    """
    target = folder / FILE
    if target.exists():
        raise UsageError(f"{target} exists; edit it, or remove it first")
    model = model or _ask("--model", "Model: a hub id, a folder, or package==version", _model)
    data = data or list(_ask_for_files())
    card = _card(card) if card else _ask("--card", f"Card: {', '.join(NAMES)}", _card, _usual())
    with tempfile.TemporaryDirectory() as scratch:
        report = ingest(data, IngestOptions(), out=Path(scratch), on_progress=lambda *_: None)
        longest = max(map(len, (Path(scratch) / KEPT).open(encoding="utf-8")), default=0)
        text = _rendered(
            report, folder, name=name or _name_of(folder), model=model, card=card, longest=longest
        )
        tried = Path(scratch) / FILE
        tried.write_text(text, encoding="utf-8")
        load(tried)  # before anything is written where the next try would find it
    _made(folder)
    write("init.config", target, text)
    write("init.schema", folder / SCHEMA_FILE, SCHEMA.read_text(encoding="utf-8"))
    for file in report.files:
        say(f"{file.file}: {file.kept} {file.gives}, {file.read - file.kept} rows not used")
    say(f"written: {target}, {folder / SCHEMA_FILE}")
    _say_next(folder)


def write_converted(
    folder: Path, origin: Path, *, stage: Stage | None, name: str | None, card: str | None
) -> None:
    """Write another trainer's configuration as one of ours, and name what has no equal.

    Raises:
        UsageError: it trains what this project does not, or there is a configuration already.
        ConfigError: it cannot be read.
    """
    target = folder / FILE
    if target.exists():
        raise UsageError(f"{target} exists; edit it, or remove it first")
    draft = draft_of(origin, stage)
    text = as_text(
        draft,
        origin=origin.name,
        schema=SCHEMA_FILE,
        name=name or _name_of(folder),
        on_cpu=_card(card) == "cpu" if card else False,
    )
    with tempfile.TemporaryDirectory() as scratch:
        tried = Path(scratch) / FILE
        tried.write_text(text, encoding="utf-8")
        load(tried)
    _made(folder)
    write("init.config", target, text)
    write("init.schema", folder / SCHEMA_FILE, SCHEMA.read_text(encoding="utf-8"))
    for note in draft.notes:
        say(note, error=True)
    say(f"written: {target}, {folder / SCHEMA_FILE}; {len(draft.notes)} keys without an equal")
    _say_next(folder)


def _say_next(folder: Path) -> None:
    there = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    say(f"next: {there}sft-dpo doctor {FILE}")


def write_workflow(folder: Path) -> None:
    """Write the GitHub workflow that runs a round each night, and fails unless it is kept."""
    target = folder / WORKFLOW
    _made(target.parent)
    write("init.workflow", target, github_workflow(FILE, install=INSTALL))
    say(f"written: {target}")
    say(
        f"it installs a wheel from {WHEELS}/ of the repository; to make it, in a checkout of "
        f"sft-dpo: python3 -m pip wheel --no-deps --wheel-dir {WHEELS} ."
    )


def _made(folder: Path) -> None:
    try:
        ensure_folder(folder)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error


def _ask(
    flag: str, question: str, check: Callable[[str], object], default: str | None = None
) -> str:
    """Ask on a terminal until the answer can be used."""
    if not sys.stdin.isatty():
        raise UsageError(f"{flag} is missing. {question}")
    while True:
        answer: str = typer.prompt(question, default=default).strip()
        try:
            check(answer)
        except UsageError as error:
            say(str(error), error=True)
        else:
            return answer


def _ask_for_files() -> Iterator[str]:
    """Ask for one file after the other, and say what is in each; an empty line ends."""
    question = "File of preference pairs or conversations"
    yield _ask("--data", question, _described)
    while more := _ask("--data", "Another file, or enter to go on", _described, ""):
        yield more


def _described(path: str) -> None:
    """Read a file and say what it holds, before the next question."""
    if not path:
        return
    with tempfile.TemporaryDirectory() as scratch:
        report = ingest([path], IngestOptions(), out=Path(scratch), on_progress=lambda *_: None)
    for file in report.files:
        say(f"  {file.file}: {file.kept} {file.gives or 'usable rows'}, {file.format}")


def _card(name: str) -> str:
    if name not in NAMES:
        raise UsageError(f"--card {name!r} is not known; choose one of {', '.join(NAMES)}")
    return name


def _usual() -> str | None:
    """The answer for a machine without a usable GPU; which card another has is for a person."""
    return "cpu" if obstacle(device_facts()) else None


def _name_of(folder: Path) -> str:
    """The folder's name as that of a run."""
    return re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "run"


def _rendered(
    report: IngestReport, folder: Path, *, name: str, model: str, card: str, longest: int
) -> str:
    pairs = list(_paths(report.files, folder, "pairs"))
    if not pairs:
        kinds = ", ".join(f"{file.file}: {file.gives or 'nothing'}" for file in report.files)
        raise DataError(
            f"no file has preference pairs, which a round of DPO needs. {kinds}. Add --data with "
            "a file of pairs. Where they are under other names, `sft-dpo data FILE --out DIR "
            "--column THEIRS=prompt --column THEIRS=chosen --column THEIRS=rejected` writes them "
            "to DIR/kept.jsonl"
        )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template("config.yaml.j2").render(
        schema=SCHEMA_FILE,
        found=", ".join(f"{one.kept} {one.gives} ({Path(one.file).name})" for one in report.files),
        file=FILE,
        name=name,
        on_cpu=card == "cpu",
        model=_model(model),
        pairs=pairs,
        conversations=list(_paths(report.files, folder, "conversations")),
        length=_length(longest),
    )


def _paths(files: Sequence[FileReport], folder: Path, kind: str) -> Iterator[str]:
    """The files with rows of a kind, in quotes: from the folder, or whole if they are elsewhere."""
    for file in files:
        if file.gives == kind and file.kept:
            path = Path(file.file).resolve()
            inside = path.is_relative_to(folder.resolve())
            yield json.dumps(str(path.relative_to(folder.resolve()) if inside else path))


def _model(text: str) -> str:
    if Path(text).is_dir():
        return f"{{name: folder, path: {json.dumps(str(Path(text).resolve()))}}}"
    if "==" in text:
        return f"{{name: package, requirement: {json.dumps(text)}}}"
    if text.startswith(("/", ".", "~")):
        raise UsageError(f"--model {text}: there is no such folder")
    return f"{{name: hub, id: {json.dumps(text)}}}"


def _length(characters: int) -> int:
    """The power of two that holds a row of so many characters, in tokens."""
    length = SHORTEST
    while length < min(characters / CHARACTERS_PER_TOKEN, LONGEST):
        length *= 2
    return length
