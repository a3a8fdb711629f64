"""Any data, named by its path alone: what could be used of it, and why not the rest.

Needs no configuration, no tokenizer and no model. Written under `out`, both or neither:
`kept.jsonl` (`Conversation`, `PreferencePair` or `Prompt`, each with its file, row and flags) and
`quarantine.jsonl` (`Quarantined`). For each file: read = kept + quarantined.
Not here: lengths, splits, control tokens of one tokenizer (`prepare.py`).
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt

from alignment.data.build.dataset import DatasetBuilder, OnProgress
from alignment.data.build.shards import Pass, Step
from alignment.data.dedup import compare
from alignment.data.filters import content, special_tokens
from alignment.data.filters.flags import Flag, as_bits, of_bits
from alignment.data.formats import Auto, Format, Kind
from alignment.data.read import files
from alignment.data.read.files import Meter
from alignment.data.read.reading import Reading, read_any
from alignment.data.read.sources import FileSource, HubSource, bytes_of
from alignment.data.row import Reason, Record
from alignment.errors import DataError, StorageError
from alignment.records import Frozen, Quarantined, digest_of
from alignment.store.durable import failpoint_span, flush, remove, rename
from alignment.store.jsonl import as_line

KEPT, QUARANTINE, WORK = "kept.jsonl", "quarantine.jsonl", ".shards"
HUB = "hub:"

Named = tuple[FileSource | HubSource, bool]
"""A source, and whether it was named itself rather than found in a folder."""

RULES: tuple[Step[Record], ...] = (
    content.broken_text,
    content.empty,
    content.role_order,
    special_tokens.turn_marker,
    special_tokens.placeholder,
    content.identical_pair,
    content.tie,
)
"""The filters that look at one row, in order."""


class Wanted(Frozen):
    """How the files are to be read.

    Attributes:
        columns: other names for their columns, {theirs: ours}.
        near_duplicates: drop rows alike by so much to one further up; None: equal rows only.
        max_per_prompt: keep the first so many rows of one whole prompt; None: all.
    """

    format: Format = Field(default=Auto())
    columns: dict[str, str] = Field(default_factory=dict)
    near_duplicates: PositiveFloat | None = 0.9
    max_per_prompt: PositiveInt | None = None


class FileReport(Frozen):
    """What became of one file: read = kept + sum of `quarantined`.

    Attributes:
        file: as it was found.
        format: in which its rows were read, and `reason`: why that one.
        gives: what its rows are, where the format is known.
        note: what the format does to the text.
        read: records, and rows that gave none; one row may hold several records.
        flagged: kept rows that are worth a look, by flag; a row may have several.
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


class IntakeReport(Frozen):
    """What became of every row."""

    read: int
    kept: int
    flagged: dict[str, int]
    quarantined: dict[str, int]
    files: tuple[FileReport, ...]


def take_in(
    paths: Sequence[str], wanted: Wanted, *, out: Path, on_progress: OnProgress
) -> IntakeReport:
    """Read files, folders, patterns, URLs and `hub:owner/name@revision`, and write what is left.

    A file of unknown columns is an error where it was named, and set aside row by row where a
    folder or pattern brought it along. Rows wait in `out`/.shards in between; the same call goes
    on where it was stopped.

    Raises:
        DataError: a path does not exist, or a file cannot be read.
        StorageError: `out` cannot be written.
    """
    sources = list(_sources(paths, wanted))
    with _storing(out):
        out.mkdir(parents=True, exist_ok=True)
        kinds: list[Kind | None] = []
        dataset = _read(sources, wanted, kinds, out=out, on_progress=on_progress)
        on_progress("comparing", 0, 0)
        _compare(dataset, wanted)
        on_progress("writing", 0, 0)
        _write(out, {KEPT: _kept(dataset), QUARANTINE: map(as_line, dataset.quarantine())})
        report = _report(dataset, kinds)
        dataset.close()
    return report


def _read(
    sources: Sequence[Named],
    wanted: Wanted,
    kinds: list[Kind | None],
    *,
    out: Path,
    on_progress: OnProgress,
) -> DatasetBuilder[Record]:
    """All rows through the rules; what each source gives is added to `kinds`."""
    meter = Meter(bytes_of([source for source, _ in sources]))

    def readings() -> Iterator[Reading[Record]]:
        for source, named in sources:
            kind, reading = _open(source, meter, named=named)
            kinds.append(kind)
            yield reading

    key = digest_of([wanted.model_dump(mode="json"), [_stamp(source) for source, _ in sources]])
    rules: Pass[Record] = Pass(RULES, salt="", likeness=wanted.near_duplicates is not None)
    try:
        return DatasetBuilder(
            readings(),
            rules,
            work=out / WORK,
            key=key[:16],
            on_progress=on_progress,
            expected=meter.expected,
        )
    except DataError:
        remove("intake.shards", out / WORK)
        raise


def _compare(dataset: DatasetBuilder[Record], wanted: Wanted) -> None:
    """All rows that are left against each other; prompts that stand again are flagged."""
    dataset.apply(Reason.duplicate, compare.duplicate, "same as {}".format)
    conflict = "{} prefers the other reply".format
    dataset.apply(Reason.conflicting_label, compare.conflicting_label, conflict)
    if wanted.max_per_prompt is not None:
        dataset.limit_prompts(wanted.max_per_prompt)
    if wanted.near_duplicates is not None:
        dataset.drop_near_duplicates(wanted.near_duplicates, {})
    again = compare.repeated_prompt(dataset.index, dataset.alive, at_most=1).at
    dataset.index["flags"][again] |= as_bits([Flag.repeated_prompt])


def _sources(paths: Sequence[str], wanted: Wanted) -> Iterator[Named]:
    """Each file once."""
    seen: set[str] = set()
    for path in paths:
        if path.startswith(HUB):
            yield _hub(path.removeprefix(HUB), wanted), True
            continue
        for file in files.find(_named(path)):
            if file not in seen:
                seen.add(file)
                source = FileSource(path=file, format=wanted.format, columns=wanted.columns)
                yield source, file in (path, str(Path(path).expanduser()))


def _named(path: str) -> str:
    try:
        return files.without_secret(path)
    except files.SecretFound as error:
        raise DataError(str(error)) from error


def _hub(name: str, wanted: Wanted) -> HubSource:
    """`owner/name@revision`, where the revision may be left out."""
    dataset, _, revision = name.partition("@")
    try:
        return HubSource(
            dataset=dataset,
            revision=revision or "main",
            format=wanted.format,
            columns=wanted.columns,
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
        items = _unknown(source, str(error))
        return None, Reading(source.label, "unknown", "no known format", "", items)


def _unknown(source: FileSource | HubSource, problem: str) -> Iterator[Quarantined]:
    """Every row of a file that nobody can read, or one line for a file without rows."""
    detail = problem.partition(". ")[0][:300]
    known = False
    try:
        for row in source.read():
            known = True
            reason = row.reason if isinstance(row, Quarantined) else Reason.unknown_format
            yield Quarantined(file=row.file, row=row.row, reason=reason, detail=detail)
    except DataError:
        if not known:
            yield Quarantined(file=source.label, row=0, reason=Reason.malformed, detail=detail)


def _stamp(source: FileSource | HubSource) -> object:
    """What tells whether a source is still what it was when a stopped call read it."""
    if isinstance(source, HubSource) or "://" in source.path:
        return source.digest()
    stat = Path(source.path).stat()
    return [source.path, stat.st_size, stat.st_mtime_ns]


def _kept(dataset: DatasetBuilder[Record]) -> Iterator[bytes]:
    rows = [int(row) for row in dataset.alive.nonzero()[0]]
    for row, line in zip(rows, dataset.lines(rows), strict=True):
        file, number = dataset.files[dataset.index["file"][row]], int(dataset.index["row"][row])
        place: dict[str, object] = {"file": file, "row": number}
        if found := of_bits(int(dataset.index["flags"][row])):
            place["flags"] = found
        yield json.dumps(place).encode()[:-1] + b", " + line[1:]


@contextlib.contextmanager
def _storing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"{out} cannot be written: {error.strerror or error}. Name another --out."
        raise StorageError(problem) from error


def _write(out: Path, contents: dict[str, Iterable[bytes]]) -> None:
    """Write all files beside their places, then move each there."""
    for name, lines in contents.items():
        with failpoint_span("intake.rows"), (out / f".{name}.part").open("wb") as file:
            file.writelines(lines)
        flush("intake.flush", out / f".{name}.part")
    for name in contents:
        rename("intake.publish", out / f".{name}.part", out / name)


def _report(dataset: DatasetBuilder[Record], kinds: Sequence[Kind | None]) -> IntakeReport:
    parts = tuple(
        FileReport(
            file=account.source,
            format=account.format,
            reason=account.reason,
            gives=gives,
            note=reading.note,
            read=account.read,
            kept=account.kept,
            flagged=_flagged(dataset, number),
            quarantined=account.dropped,
        )
        for number, (account, reading, gives) in enumerate(
            zip(dataset.accounts(), dataset.readings, kinds, strict=True)
        )
    )
    reasons = sorted(set(chain.from_iterable(part.quarantined for part in parts)))
    return IntakeReport(
        read=sum(part.read for part in parts),
        kept=sum(part.kept for part in parts),
        flagged=dict(sum((Counter(part.flagged) for part in parts), Counter())),
        quarantined={
            reason: sum(part.quarantined.get(reason, 0) for part in parts) for reason in reasons
        },
        files=parts,
    )


def _flagged(dataset: DatasetBuilder[Record], source: int) -> dict[str, int]:
    """The kept rows of a source by flag."""
    bits = dataset.index["flags"][dataset.alive & (dataset.index["source"] == source)]
    counts = {flag: int((bits & as_bits([flag]) > 0).sum()) for flag in Flag}
    return {str(flag): count for flag, count in counts.items() if count}
