"""Scans an inbox for complete batches.

A batch is one JSON Lines or Parquet file, identified by the sha256 of its bytes: the same content
under another name is the same batch. Files are ignored if their name begins with a dot or an
underscore, or does not end like a data file (`x.jsonl.part`). A file is skipped until a later scan

- if it changed less than `settle_seconds` ago, judged by its modification time, or if its size or
  time changed while it was read;
- if it is truncated: the last line of a JSON Lines file neither ends in a line break nor is valid
  JSON, a compressed file ends too early, or a Parquet file has no footer.

An upload that pauses for longer than that at the end of a line is used as it is. The finished file
is a different batch later, and the rows already used are dropped from it.
Not here: which batches were used before (`state.py`), which rows may be trained on
(`data/build/prepare.py`).
"""

import time
from collections.abc import Callable, Iterator
from pathlib import PurePath

from alignment.config.inbox import InboxConfig
from alignment.data.build.report import UNREADABLE, too_many_unreadable
from alignment.data.read.files import sha256
from alignment.data.read.reading import Reading, read_pairs
from alignment.errors import DataError
from alignment.records import Frozen, PreferencePair, Quarantined
from alignment.rounds.inbox_files import FileStat, list_files, restat, truncation

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


class Arrival(Frozen):
    """A complete file in the inbox."""

    file: str
    digest: str


class SkippedFile(Frozen):
    """A file that this scan skips, and why."""

    file: str
    why: str


def scan(
    config: InboxConfig, *, now: Callable[[], float] = time.time
) -> Iterator[Arrival | SkippedFile]:
    """All data files in the inbox, sorted by name; an inbox that does not exist is empty.

    Raises:
        DataError: the folder or URL cannot be read.
    """
    for file in list_files(config.path):
        hidden = PurePath(file.name).name.startswith((".", "_"))
        if not hidden and file.name.lower().endswith(SUFFIXES):
            yield _check(file, settle=config.settle_seconds, now=now())


def _check(file: FileStat, *, settle: float, now: float) -> Arrival | SkippedFile:
    if file.is_link:
        return SkippedFile(file=file.name, why="it is a symbolic link")
    age = None if file.modified is None else now - file.modified
    # A time further in the future means that a clock is ahead, not that an upload is running.
    if age is not None and abs(age) < settle:
        return SkippedFile(file=file.name, why=f"it changed {max(age, 0):.0f} s ago")
    try:
        why = truncation(file.name)
        digest = sha256(file.name)
        if why is None and restat(file) != file:
            why = "it changed while it was read"
    except DataError as error:
        why = str(error)
    return SkippedFile(file=file.name, why=why) if why else Arrival(file=file.name, digest=digest)


def why_unreadable(config: InboxConfig, path: str) -> str | None:
    """Why a batch cannot be read as preference pairs at all; None if it can be read."""
    try:
        problem = _too_many_unreadable(read_pairs(config.source(path)), config.max_malformed_share)
    except DataError as error:
        problem = str(error)
    return problem and problem.replace(path, PurePath(path).name)


def _too_many_unreadable(reading: Reading[PreferencePair], tolerated: float) -> str | None:
    first, bad, read = None, 0, 0
    for row in reading.items:
        read += 1
        if isinstance(row, Quarantined) and row.reason in UNREADABLE:
            first, bad = first or row, bad + 1
    if first is None or bad <= tolerated * read:
        return None
    return too_many_unreadable(first, bad, read, tolerated=tolerated)
