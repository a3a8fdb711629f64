"""Scans an inbox for complete batches.

A batch is one data file, identified by the sha256 of its bytes: the same content under another name
is the same batch. A file with `.prompts.` in its name holds prompts, any other one pairs. Files and
folders whose name begins with a dot or an underscore are left out. A file is skipped, with the
reason, until a later scan

- if it changed less than `settle_seconds` ago, judged by its modification time, or if its size or
  time changed while it was read;
- if it is truncated: the last line of a JSON Lines file neither ends in a line break nor is valid
  JSON, a compressed file ends too early, or a Parquet file has no footer;
- if it cannot be used as it is: another kind of file, a link that leaves the inbox, a name that is
  not UTF-8, prompts where the config does not say what to do with them.

An upload that pauses for longer than that at the end of a line is used as it is. The finished file
is a different batch later, and the rows already used are dropped from it.
Not here: which batches were used before (`state.py`), which rows may be trained on
(`data/build/prepare.py`), reading in a process with limits (`inspection.py`).
"""

import time
from collections.abc import Callable, Collection, Iterator
from pathlib import PurePath
from typing import Any

from alignment.config.inbox import InboxConfig
from alignment.data.build.report import UNREADABLE, too_many_unreadable
from alignment.data.read.files import sha256
from alignment.data.read.reading import Reading, read_any, read_pairs
from alignment.data.read.sources import FileSource
from alignment.errors import DataError, printable
from alignment.records.base import Frozen, digest_of
from alignment.records.text import Quarantined
from alignment.rounds.inbox_files import (
    FileStat,
    SkippedFile,
    list_files,
    restat,
    stat_of,
    truncation,
)
from alignment.rounds.ledger import BatchKind
from alignment.urls import is_url, storable

PROMPTS = ".prompts."
"""In the name of a file of prompts."""
HOW = "add inbox.answers to the config, with the label that scores the champion's answers"


class Arrival(Frozen):
    """A complete file in the inbox."""

    file: str
    digest: str
    kind: BatchKind = "pairs"


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
            yield _check(file, config, known, now=now())


def handed_in(file: str) -> Arrival:
    """A file of prompts that somebody names, whatever it is called and wherever it lies.

    Raises:
        DataError: it is not there, truncated, or of another kind.
    """
    if is_url(file):
        raise DataError(
            f"{storable(file)} is a URL; fetch the file first, or put it into the inbox"
        )
    found = stat_of(file)
    why = found.why if isinstance(found, SkippedFile) else truncation(found)
    if why:
        raise DataError(f"{printable(file)}: {why}")
    return Arrival(file=file, digest=sha256(file), kind="prompts")


def _check(
    file: FileStat, config: InboxConfig, known: Collection[str], *, now: float
) -> Arrival | SkippedFile:
    kind: BatchKind = "prompts" if PROMPTS in PurePath(file.name).name else "pairs"
    settle = config.settle_seconds
    age = None if file.modified is None else now - file.modified
    # A time further in the future means that a clock is ahead, not that an upload is running.
    if age is not None and abs(age) < settle:
        if known and (whole := _known(file, known, kind)):
            return whole
        return SkippedFile.of(file.name, f"it changed {max(age, 0):.0f} s ago")
    try:
        digest = sha256(file.name)
        why = None if digest in known else _unwanted(kind, config) or truncation(file)
        if why is None and restat(file) != file:
            why = "it changed while it was read"
    except Exception as error:  # whatever a file does, the others are looked at
        why = _in_words(error)
    if why:
        return SkippedFile.of(file.name, why)
    return Arrival(file=file.name, digest=digest, kind=kind)


def _unwanted(kind: BatchKind, config: InboxConfig) -> str | None:
    unwanted = kind == "prompts" and config.answers is None
    return f"it holds prompts; to use them, {HOW}" if unwanted else None


def _known(file: FileStat, known: Collection[str], kind: BatchKind) -> Arrival | None:
    """The file, if it is a known batch although it has just been written or touched."""
    try:
        digest = sha256(file.name)
    except Exception:  # it is looked at again once it has settled
        return None
    return Arrival(file=file.name, digest=digest, kind=kind) if digest in known else None


def reader_of(config: InboxConfig, kind: BatchKind = "pairs") -> str:
    """Identifies the settings that decide whether a batch can be read."""
    names = {"format", "task_type", "max_malformed_share"}
    settings = config.model_dump(mode="json", include=names)
    if kind == "prompts":
        settings["kind"] = kind
        settings["format"] = config.format_of(prompts=True).model_dump(mode="json")
    return digest_of(settings)[:12]


def why_unreadable(config: InboxConfig, path: str, kind: BatchKind = "pairs") -> str | None:
    """Why a batch cannot be read at all; None if it can be read."""
    prompts = kind == "prompts"
    return problem_in(config.source(path, prompts=prompts), config.max_malformed_share, kind)


def problem_in(source: FileSource, tolerated: float, kind: BatchKind) -> str | None:
    """The same, with the share of unreadable rows that is tolerated."""
    try:
        reading = read_pairs(source) if kind == "pairs" else read_any(source)[1]
        problem = _too_many_unreadable(reading, tolerated)
    except Exception as error:  # the readers' libraries raise errors of many kinds
        problem = _in_words(error)
    return problem and printable(problem.replace(source.path, PurePath(source.path).name))


def _in_words(error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, MemoryError):
        return "reading it needs too much memory. Split it into smaller files."
    return f"it cannot be read: {type(error).__name__}: {error}"[:500]


def _too_many_unreadable(reading: Reading[Any], tolerated: float) -> str | None:
    first, bad, read = None, 0, 0
    for row in reading.items:
        read += 1
        if isinstance(row, Quarantined) and row.reason in UNREADABLE:
            first, bad = first or row, bad + 1
    if first is None or bad <= tolerated * read:
        return None
    return too_many_unreadable(first, bad, read, tolerated=tolerated)
