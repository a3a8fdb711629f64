"""`sft-dpo data`: read any data by its path."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from alignment.config.file import no_such_kind
from alignment.data.build.ingest import (
    QUARANTINE,
    FileReport,
    IngestOptions,
    IngestReport,
    ingest,
)
from alignment.data.build.report import UNREADABLE, listed_unread
from alignment.data.build.settings import SetConfig
from alignment.data.formats import KNOWN
from alignment.errors import DataError, UsageError
from flows.display import counting
from flows.printing import say


def read_data(
    paths: list[str], wanted: Mapping[str, object], *, columns: list[str], out: Path, as_json: bool
) -> None:
    """Write usable and quarantined rows, and print how many there are.

    Raises:
        DataError: rows were read, and none of them is usable.
    """
    request = _validated({**wanted, "columns": dict(_pair_of(column) for column in columns)})
    with counting() as on_progress:
        report = ingest(paths, request, out=out, on_progress=on_progress)
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        _print(report, out)
    _warn_of_refusal(report)
    if report.read and not report.kept:
        raise DataError(nothing_kept(report, out))


def print_formats() -> None:
    """Print a line for each known format."""
    for name, expects in {one.name: one.expects for one in KNOWN}.items():
        say(f"{name:<28} {expects}")


def _warn_of_refusal(report: IngestReport) -> None:
    """Say that a run would refuse these rows, although this command does not."""
    bad = sum(report.quarantined.get(reason, 0) for reason in UNREADABLE)
    tolerated = SetConfig.model_fields["max_malformed_share"].default
    if report.kept and bad > tolerated * report.read:
        say(
            f"note: a run refuses these files: {bad} of {report.read} rows "
            f"({bad / report.read:.1%}) are unreadable, and its max_malformed_share is "
            f"{tolerated:g}. Fix them, train on kept.jsonl, or raise it.",
            error=True,
        )


def format_words(text: str) -> dict[str, str]:
    """The value of `--format`, NAME or NAME,FIELD=VALUE..., as the config has it.

    Raises:
        UsageError: a field has no value.
    """
    name, *fields = text.split(",")
    pairs = [field.partition("=") for field in fields]
    if any(not (key and equals) for key, equals, _ in pairs):
        raise UsageError(
            f"--format {text!r}: expected NAME or NAME,FIELD=VALUE, e.g. compared,zero_is=first"
        )
    return {"name": name, **{key: value for key, _, value in pairs}}


def nothing_kept(report: IngestReport, out: Path) -> str:
    """The error for data of which no row is usable: why, where to look, and words that may help."""
    reasons = ", ".join(f"{name} {count}" for name, count in report.quarantined.items())
    hints = [_HINTS[reason] for reason in report.quarantined if reason in _HINTS]
    chats = any(file.gives == "conversations" for file in report.files)
    hints += [_PROMPTS] * (chats and "role_order" in report.quarantined)
    return (
        f"none of {report.read} rows is usable: {reasons}. {out / QUARANTINE} says what was found "
        f"in each. {' '.join(hints)}".strip()
    )


_PROMPTS = (
    "If these are chats without replies, --column messages=prompt reads them as prompts (with the "
    "name of their column in place of messages)."
)
_HINTS = {
    "unpaired": "To imitate all replies, leave the column of the judgement out: --column label=.",
    "turn_marker": "Texts with the turns of a chat template in them are read as turns only where "
    "most of their column are; put those rows in a file of their own.",
}


def _print(report: IngestReport, out: Path) -> None:
    for file in report.files:
        say(f"{file.file}: {file.format} ({file.reason}), {file.gives or 'nothing'}")
        say(f"  {_counts_of(file)}")
        if file.note:
            say(f"  note: {file.note}")
        if file.unread:
            say(f"  not read: {listed_unread(file.unread)}")
    say(f"total: {_counts_of(report)}")
    say(f"written: {out / 'kept.jsonl'}, {out / 'quarantine.jsonl'}")


def _pair_of(column: str) -> tuple[str, str]:
    theirs, equals, ours = column.partition("=")
    if not (theirs and equals):
        raise UsageError(
            f"--column {column!r}: expected THEIRS=OURS, e.g. question=prompt, or THEIRS= to leave "
            "the column out"
        )
    return theirs, ours


def _validated(values: Mapping[str, object]) -> IngestOptions:
    try:
        return IngestOptions.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        unknown = problem["type"] == "union_tag_invalid"
        what = no_such_kind(problem) if unknown else problem["msg"]
        raise UsageError(f"--format: {what}") from error


def _counts_of(report: FileReport | IngestReport) -> str:
    """Rows read, kept (with flags) and quarantined (with reasons), as text."""
    quarantined = sum(report.quarantined.values())
    kept = f"{report.kept} kept{_named('of these ', report.flagged)}"
    return f"{report.read} read, {kept}, {quarantined} quarantined{_named('', report.quarantined)}"


def _named(prefix: str, counts: dict[str, int]) -> str:
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f" ({prefix}{listed})" if listed else ""
