"""Ingests any data from its path alone: the usable rows, and why the others are not usable.

Needs no configuration, tokenizer or model. Writes both or neither of two files under `out`:
`kept.jsonl` (`Conversation`, `PreferencePair` or `Prompt`, each with its file, row and flags) and
`quarantine.jsonl` (`Quarantined`). For each file: read = kept + quarantined.
Not here: lengths, splits, control tokens of a tokenizer (`prepare.py`).
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePath

from pydantic import Field, PositiveFloat, PositiveInt

from alignment.data.build.batches import FilterPass, RowFilter
from alignment.data.build.dataset import DatasetBuilder, OnProgress
from alignment.data.dedup import compare
from alignment.data.filters import content, special_tokens
from alignment.data.filters.flags import Flag, from_bits, to_bits
from alignment.data.formats import Auto, Format, Kind
from alignment.data.read import files
from alignment.data.read.files import Meter
from alignment.data.read.reading import Reading, read_any
from alignment.data.read.sources import FileSource, HubSource, bytes_of, may_be_large
from alignment.data.row import Reason, Record
from alignment.errors import DataError, StorageError
from alignment.records.base import Frozen, digest_of
from alignment.records.text import Quarantined
from alignment.store.durable import failpoint_span, flush, remove, rename
from alignment.store.jsonl import as_line

KEPT, QUARANTINE, WORK = "kept.jsonl", "quarantine.jsonl", ".shards"
HUB = "hub:"

NamedSource = tuple[FileSource | HubSource, bool]
"""A source, and whether the user named it, rather than a folder or pattern that contains it."""

FILTERS: tuple[RowFilter[Record], ...] = (
    content.broken_text,
    content.empty,
    content.role_order,
    content.untrained,
    special_tokens.turn_marker,
    special_tokens.placeholder,
    content.identical_pair,
    content.tie,
)
"""The filters, in order."""


class IngestOptions(Frozen):
    """How to read the files.

    Attributes:
        columns: columns to rename, {theirs: ours}; to an empty text: to leave out.
        near_duplicates: drop rows at least this similar to an earlier row; None: only equal rows.
        max_per_prompt: keep at most this many rows with the same whole prompt; None: all.
    """

    format: Format = Field(default=Auto())
    columns: dict[str, str] = Field(default_factory=dict)
    near_duplicates: PositiveFloat | None = 0.9
    max_per_prompt: PositiveInt | None = None


class FileReport(Frozen):
    """Counts of one file's rows: read = kept + sum of `quarantined`.

    Attributes:
        file: its path.
        format: the format in which its rows were read.
        reason: why this format was chosen.
        gives: the kind of its records, if the format is known.
        note: what the format changes in the text.
        read: records, plus rows that gave none; one row may hold several records.
        flagged: kept rows by flag; a row may have several.
        unread: columns and fields that the format does not read, with how many rows had them.
    """

    file: str
    format: str
    reason: str
    gives: Kind | None
    note: str
    read: int
    kept: int
    flagged: dict[str, int]
    quarantined: dict[str, int]
    unread: dict[str, int]


class IngestReport(Frozen):
    """Counts of all files together and of each."""

    read: int
    kept: int
    flagged: dict[str, int]
    quarantined: dict[str, int]
    files: tuple[FileReport, ...]


def ingest(
    paths: Sequence[str], options: IngestOptions, *, out: Path, on_progress: OnProgress
) -> IngestReport:
    """Read files, folders, patterns, URLs and `hub:owner/name@revision`; write the usable rows.

    A file with unknown columns is an error if the user named it. If a folder or pattern matched
    it, its rows are quarantined. Intermediate rows are in `out`/.shards, from which the same call
    resumes if it was interrupted.

    Raises:
        DataError: a path does not exist, or a file cannot be read.
        StorageError: `out` cannot be written.
    """
    sources = list(_sources(paths, options))
    with _storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        kinds: list[Kind | None] = []
        dataset = _read(sources, options, kinds, out=out, on_progress=on_progress)
        on_progress("comparing", 0, 0)
        _compare(dataset, options)
        on_progress("writing", 0, 0)
        _write(out, {KEPT: _kept_lines(dataset), QUARANTINE: map(as_line, dataset.quarantine())})
        report = _report(dataset, kinds)
        dataset.close()
    return report


def _read(
    sources: Sequence[NamedSource],
    options: IngestOptions,
    kinds: list[Kind | None],
    *,
    out: Path,
    on_progress: OnProgress,
) -> DatasetBuilder[Record]:
    """Read and filter all rows; the kind of each source's records is appended to `kinds`."""
    meter = Meter(bytes_of([source for source, _ in sources]))

    def readings() -> Iterator[Reading[Record]]:
        for source, named in sources:
            kind, reading = _open(source, meter, named=named)
            kinds.append(kind)
            yield reading

    key = digest_of(
        [options.model_dump(mode="json"), [_fingerprint(source) for source, _ in sources]]
    )
    filters: FilterPass[Record] = FilterPass(
        FILTERS, salt="", signatures=options.near_duplicates is not None
    )
    try:
        return DatasetBuilder(
            readings(),
            filters,
            work=out / WORK,
            key=key[:16],
            on_progress=on_progress,
            expected=meter.expected,
            large=may_be_large([source for source, _ in sources]),
        )
    except DataError:
        remove("intake.shards", out / WORK)
        raise


def _compare(dataset: DatasetBuilder[Record], options: IngestOptions) -> None:
    """Drop duplicates and conflicts among the remaining rows, and flag repeated prompts."""
    dataset.apply(Reason.duplicate, compare.duplicate, "same as {}".format)
    conflict = "{} prefers the other reply".format
    dataset.apply(Reason.conflicting_label, compare.conflicting_label, conflict)
    if options.max_per_prompt is not None:
        dataset.limit_prompts(options.max_per_prompt)
    if options.near_duplicates is not None:
        dataset.drop_near_duplicates(options.near_duplicates, {})
    repeated = compare.repeated_prompt(dataset.index, dataset.kept, at_most=1).rows
    dataset.index["flags"][repeated] |= to_bits([Flag.repeated_prompt])


def _sources(paths: Sequence[str], options: IngestOptions) -> Iterator[NamedSource]:
    """The sources at these paths, each file once."""
    seen: set[str] = set()
    for path in paths:
        if path.startswith(HUB):
            yield _hub(path.removeprefix(HUB), options), True
            continue
        for file in files.find(_checked(path)):
            if file not in seen:
                seen.add(file)
                yield _file(file, options), file in (path, str(Path(path).expanduser()))


def _file(file: str, options: IngestOptions) -> FileSource:
    try:
        files.without_user(file)
    except files.SecretFound as error:
        name = PurePath(file).name
        raise DataError(
            f"cannot read {name} ({file}): its name has a character that begins another part of "
            "a URL ('#', '?', or '@' on the web); rename it, or name the other files"
        ) from error
    return FileSource(path=file, format=options.format, columns=options.columns)


def _checked(path: str) -> str:
    try:
        return files.without_user(path)
    except files.SecretFound as error:
        raise DataError(str(error)) from error


def _hub(name: str, options: IngestOptions) -> HubSource:
    """The source for `owner/name` or `owner/name@revision`."""
    dataset, _, revision = name.partition("@")
    try:
        return HubSource(
            dataset=dataset,
            revision=revision or "main",
            format=options.format,
            columns=options.columns,
        )
    except ValueError as error:
        raise DataError(
            f"{HUB}{name}: expected {HUB}owner/name or {HUB}owner/name@commit"
        ) from error


def _open(
    source: FileSource | HubSource, meter: Meter, *, named: bool
) -> tuple[Kind | None, Reading[Record]]:
    try:
        return read_any(source, meter)
    except DataError as error:
        if named:
            raise
        items = _quarantine_all(source, str(error))
        return None, Reading(source.label, "unknown", "no known format", "", items)


def _quarantine_all(source: FileSource | HubSource, problem: str) -> Iterator[Quarantined]:
    """Quarantine each row of a file in no known format, or the whole file if it has no rows."""
    detail = problem.partition(". ")[0][:300]
    has_rows = False
    try:
        for row in source.read():
            has_rows = True
            reason = row.reason if isinstance(row, Quarantined) else Reason.unknown_format
            yield Quarantined(file=row.file, row=row.row, reason=reason, detail=detail)
    except DataError:
        if not has_rows:
            yield Quarantined(file=source.label, row=0, reason=Reason.malformed, detail=detail)


def _fingerprint(source: FileSource | HubSource) -> object:
    """Identifies a source's content, so that a resumed call notices a change."""
    if isinstance(source, HubSource) or "://" in source.path:
        return source.digest()
    stat = Path(source.path).stat()
    return [source.path, stat.st_size, stat.st_mtime_ns]


def _kept_lines(dataset: DatasetBuilder[Record]) -> Iterator[bytes]:
    rows = [int(row) for row in dataset.kept.nonzero()[0]]
    for row, line in zip(rows, dataset.lines(rows), strict=True):
        file, number = dataset.files[dataset.index["file"][row]], int(dataset.index["row"][row])
        origin: dict[str, object] = {"file": file, "row": number}
        if found := from_bits(int(dataset.index["flags"][row])):
            origin["flags"] = found
        # joins two JSON objects as text, which spares parsing the record
        yield json.dumps(origin).encode()[:-1] + b", " + line[1:]


@contextlib.contextmanager
def _storage_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"{out} cannot be written: {error.strerror or error}. Choose another --out."
        raise StorageError(problem) from error


def _write(out: Path, contents: dict[str, Iterable[bytes]]) -> None:
    """Write all files under temporary names, then rename each."""
    for name, lines in contents.items():
        with failpoint_span("intake.rows"), (out / f".{name}.part").open("wb") as file:
            file.writelines(lines)
        flush("intake.flush", out / f".{name}.part")
    for name in contents:
        rename("intake.publish", out / f".{name}.part", out / name)


def _report(dataset: DatasetBuilder[Record], kinds: Sequence[Kind | None]) -> IngestReport:
    parts = tuple(
        FileReport(
            file=source.source,
            format=source.format,
            reason=source.reason,
            gives=gives,
            note=reading.note,
            read=source.read,
            kept=source.kept,
            flagged=_flag_counts(dataset, number),
            quarantined=source.dropped,
            unread=source.unread,
        )
        for number, (source, reading, gives) in enumerate(
            zip(dataset.source_reports(), dataset.readings, kinds, strict=True)
        )
    )
    reasons = sorted(set(chain.from_iterable(part.quarantined for part in parts)))
    return IngestReport(
        read=sum(part.read for part in parts),
        kept=sum(part.kept for part in parts),
        flagged=dict(sum((Counter(part.flagged) for part in parts), Counter())),
        quarantined={
            reason: sum(part.quarantined.get(reason, 0) for part in parts) for reason in reasons
        },
        files=parts,
    )


def _flag_counts(dataset: DatasetBuilder[Record], source: int) -> dict[str, int]:
    """Number of a source's kept rows with each flag."""
    bits = dataset.index["flags"][dataset.kept & (dataset.index["source"] == source)]
    counts = {flag: int((bits & to_bits([flag]) > 0).sum()) for flag in Flag}
    return {str(flag): count for flag, count in counts.items() if count}
