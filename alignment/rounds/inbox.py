"""Scans an inbox for complete batches.

A batch is one data file, identified by the sha256 of its bytes: the same content under another name
is the same batch. Files and folders whose name begins with a dot or an underscore are left out. A
file is skipped, with the reason, until a later scan

- if it changed less than `settle_seconds` ago, judged by its modification time, or if its size or
  time changed while it was read;
- if it is truncated: the last line of a JSON Lines file neither ends in a line break nor is valid
  JSON, a compressed file ends too early, or a Parquet file has no footer;
- if it cannot be used as it is: another kind of file, a link that leaves the inbox, a name that is
  not UTF-8.

An upload that pauses for longer than that at the end of a line is used as it is. The finished file
is a different batch later, and the rows already used are dropped from it.
Not here: which batches were used before (`state.py`), which rows may be trained on
(`data/build/prepare.py`), reading in a process with limits (`inspection.py`).
"""

import time
from collections.abc import Callable, Collection, Iterator
from pathlib import PurePath

from alignment.config.inbox import InboxConfig
from alignment.data.build.report import UNREADABLE, too_many_unreadable
from alignment.data.read.files import sha256
from alignment.data.read.reading import Reading, read_pairs
from alignment.data.read.sources import FileSource
from alignment.errors import DataError, printable
from alignment.records.base import Frozen, digest_of
from alignment.records.text import PreferencePair, Quarantined
from alignment.rounds.inbox_files import FileStat, SkippedFile, list_files, restat, truncation


class Arrival(Frozen):
    """A complete file in the inbox."""

    file: str
    digest: str


def scan(
    config: InboxConfig,
    *,
    known: Collection[str] = (),
    now: Callable[[], float] = time.time,
) -> Iterator[Arrival | SkippedFile]:
    """All data files in the inbox, sorted by name, and files that cannot be used.

    Files with a digest that is `known` were complete before and are not looked at again, however
    young they are.

    Raises:
        DataError: the folder or URL cannot be read.
    """
    for file in list_files(config.path):
        if isinstance(file, SkippedFile):
            yield file
        else:
            yield _check(file, known, settle=config.settle_seconds, now=now())


def _check(
    file: FileStat, known: Collection[str], *, settle: float, now: float
) -> Arrival | SkippedFile:
    age = None if file.modified is None else now - file.modified
    # A time further in the future means that a clock is ahead, not that an upload is running.
    if age is not None and abs(age) < settle:
        if known and (whole := _known(file, known)):
            return whole
        return SkippedFile.of(file.name, f"it changed {max(age, 0):.0f} s ago")
    try:
        digest = sha256(file.name)
        why = None if digest in known else truncation(file)
        if why is None and restat(file) != file:
            why = "it changed while it was read"
    except Exception as error:  # whatever a file does, the others are looked at
        why = _in_words(error)
    return SkippedFile.of(file.name, why) if why else Arrival(file=file.name, digest=digest)


def _known(file: FileStat, known: Collection[str]) -> Arrival | None:
    """The file, if it is a known batch although it has just been written or touched."""
    try:
        digest = sha256(file.name)
    except Exception:  # it is looked at again once it has settled
        return None
    return Arrival(file=file.name, digest=digest) if digest in known else None


def reader_of(config: InboxConfig) -> str:
    """Identifies the settings that decide whether a batch can be read."""
    settings = {"format", "task_type", "max_malformed_share"}
    return digest_of(config.model_dump(mode="json", include=settings))[:12]


def why_unreadable(config: InboxConfig, path: str) -> str | None:
    """Why a batch cannot be read as preference pairs at all; None if it can be read."""
    return problem_in(config.source(path), config.max_malformed_share)


def problem_in(source: FileSource, tolerated: float) -> str | None:
    """The same, with the share of unreadable rows that is tolerated."""
    try:
        problem = _too_many_unreadable(read_pairs(source), tolerated)
    except Exception as error:  # the readers' libraries raise errors of many kinds
        problem = _in_words(error)
    return problem and printable(problem.replace(source.path, PurePath(source.path).name))


def _in_words(error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, MemoryError):
        return "reading it needs too much memory. Split it into smaller files."
    return f"it cannot be read: {type(error).__name__}: {error}"[:500]


def _too_many_unreadable(reading: Reading[PreferencePair], tolerated: float) -> str | None:
    first, bad, read = None, 0, 0
    for row in reading.items:
        read += 1
        if isinstance(row, Quarantined) and row.reason in UNREADABLE:
            first, bad = first or row, bad + 1
    if first is None or bad <= tolerated * read:
        return None
    return too_many_unreadable(first, bad, read, tolerated=tolerated)
