"""What arrives in an inbox: which files are whole, and which batches are new.

A batch is one JSON Lines or Parquet file and is known by the sha256 of its bytes: the same content
under another name is the same batch. A file is left alone, for a later look, while

- its name begins with a dot or an underscore, or has no ending of a data file (`x.jsonl.part`);
- it changed less than `settle_seconds` ago, by the clock of the place where it lies, or its size
  or time changed while it was read;
- it is cut: the last line of a JSON Lines file neither ends in a line break nor is whole JSON, a
  compressed file has no end, or a Parquet file has no footer.

An upload that pauses longer than that at the end of a line is taken as it stands. Its full version
is another batch later, of which the rows that are known already are dropped.
Not here: what was used before (`head.py`), which rows may be trained on (`data/prepare.py`).
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
    """A whole file in the inbox."""

    file: str
    digest: str


class LeftAlone(Frozen):
    """A file that is not taken now, and why."""

    file: str
    why: str


def look(
    config: InboxConfig, *, now: Callable[[], float] = time.time
) -> Iterator[Arrival | LeftAlone]:
    """Every data file of the inbox in order of its name; an inbox that is not there is empty.

    Raises:
        DataError: the place cannot be read.
    """
    for file in list_files(config.path):
        hidden = PurePath(file.name).name.startswith((".", "_"))
        if not hidden and file.name.lower().endswith(SUFFIXES):
            yield _examined(file, settle=config.settle_seconds, now=now())


def _examined(file: FileStat, *, settle: float, now: float) -> Arrival | LeftAlone:
    if file.is_link:
        return LeftAlone(file=file.name, why="it is a symbolic link")
    age = None if file.modified is None else now - file.modified
    # further in the future than that is a clock that runs ahead, not an upload
    if age is not None and abs(age) < settle:
        return LeftAlone(file=file.name, why=f"it changed {max(age, 0):.0f} s ago")
    try:
        why = truncation(file.name)
        digest = sha256(file.name)
        if why is None and restat(file) != file:
            why = "it changed while it was read"
    except DataError as error:
        why = str(error)
    return LeftAlone(file=file.name, why=why) if why else Arrival(file=file.name, digest=digest)


def unreadable(config: InboxConfig, path: str) -> str | None:
    """Why a batch cannot be used whatever its rows are; None where it can be read."""
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
