"""`sft-dpo data`: read any data by its path."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from alignment.data.build.ingest import FileReport, IngestOptions, IngestReport, ingest
from alignment.errors import UsageError
from flows.display import counting


def read_data(
    paths: list[str], wanted: Mapping[str, object], *, columns: list[str], out: Path, as_json: bool
) -> None:
    """Write usable and quarantined rows, and print how many there are."""
    request = _validated({**wanted, "columns": dict(_pair_of(column) for column in columns)})
    with counting() as on_progress:
        report = ingest(paths, request, out=out, on_progress=on_progress)
    if as_json:
        print(report.model_dump_json(indent=2))
        return
    for file in report.files:
        print(f"{file.file}: {file.format} ({file.reason}), {file.gives or 'nothing'}")
        print(f"  {_counts_of(file)}")
        if file.note:
            print(f"  note: {file.note}")
    print(f"total: {_counts_of(report)}")
    print(f"written: {out / 'kept.jsonl'}, {out / 'quarantine.jsonl'}")


def _pair_of(column: str) -> tuple[str, str]:
    theirs, equals, ours = column.partition("=")
    if not (theirs and equals and ours):
        raise UsageError(f"--column {column!r}: expected THEIRS=OURS, e.g. question=prompt")
    return theirs, ours


def _validated(values: Mapping[str, object]) -> IngestOptions:
    try:
        return IngestOptions.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"--format: {error.errors()[0]['msg']}") from error


def _counts_of(report: FileReport | IngestReport) -> str:
    """Rows read, kept (with flags) and quarantined (with reasons), as text."""
    quarantined = sum(report.quarantined.values())
    kept = f"{report.kept} kept{_named('of these ', report.flagged)}"
    return f"{report.read} read, {kept}, {quarantined} quarantined{_named('', report.quarantined)}"


def _named(prefix: str, counts: dict[str, int]) -> str:
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f" ({prefix}{listed})" if listed else ""
