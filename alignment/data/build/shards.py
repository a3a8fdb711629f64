"""The first pass: filters any number of rows, batch by batch, onto disk.

A reading is split into shards of `SHARD` rows. Each becomes a folder with the kept rows
(`rows.jsonl`), their columns (`index.npy`), their signatures if near duplicates are to be dropped,
the dropped rows and a summary. A folder is renamed into place once it is complete, so an
interrupted pass resumes at the first missing shard.
Not here: what is done with a batch (`batches.py`), in which process (`forked_map.py`), and rows
compared with each other (`dedup/compare.py`).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import count, groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment.data.build.batches import BATCH, Batch, FilteredBatch, Item
from alignment.data.build.names import numbers_in
from alignment.data.dedup.compare import COLUMNS
from alignment.data.read.reading import Reading
from alignment.data.row import R
from alignment.store.durable import failpoint_span, flush_tree, remove, rename, write

SHARD = 20_000
"""Rows per shard: the most that a restart has to repeat, some twenty seconds of work."""
SHARD_LAYOUT = 3
"""Raise it when the files or columns of a shard change, or how rows are read: a preparation that an
earlier version began then starts again, instead of mixing shards of two kinds."""
FilterBatches = Callable[[Iterable[Batch]], Iterator[FilteredBatch]]
"""Filters batches, wherever that is done, and returns the results in their order."""
ROWS, INDEX, SIGNATURES, DROPPED, SUMMARY = (
    "rows.jsonl",
    "index.npy",
    "signatures.npy",
    "dropped.jsonl",
    "summary.json",
)


class ShardSummary(NamedTuple):
    """Counts of a shard: rows read, rows dropped by reason, rows changed by filters.

    `files` and `tasks` are the names to which the numbers in the columns refer.
    """

    read: int
    dropped: dict[str, int]
    changes: dict[str, int]
    files: list[str]
    tasks: list[str]


def fill_shards(
    reading: Reading[R],
    number: int,
    filtered: FilterBatches,
    work: Path,
    on_progress: Callable[[int], None],
) -> Iterator[Path]:
    """Write one reading's shards under `work`, except those already there; yield each folder.

    Args:
        reading: the source to read.
        number: the source's number in the set.
        filtered: what filters its batches.
        work: the folder of the shards.
        on_progress: called with the number of rows read since the last call.
    """
    folders = (work / f"{number:03}-{shard:05}" for shard in count())
    batches = _batches(iter(reading.items), folders)
    for folder, parts in groupby(filtered(batches), key=lambda part: part.shard):
        if (folder / SUMMARY).exists():
            on_progress(sum(part.read for part in parts))
        else:
            _write(folder, parts, number, on_progress)
        yield folder


def read_summary(folder: Path) -> ShardSummary:
    """The summary in a shard's folder."""
    return ShardSummary(**json.loads((folder / SUMMARY).read_text(encoding="utf-8")))


def _batches(items: Iterator[Item[R]], folders: Iterator[Path]) -> Iterator[Batch]:
    """The rows by batch, each with the folder of its shard; a reading has at least one batch.

    The rows of a shard that is already there are only counted.
    """
    for shard, folder in enumerate(folders):
        rows = islice(items, SHARD)
        if (folder / SUMMARY).exists():
            read = sum(1 for _ in rows)
            yield Batch(folder, [], skipped=read)
        else:
            read = 0
            while batch := list(islice(rows, BATCH)):
                read += len(batch)
                yield Batch(folder, batch)
            if not read and not shard:
                yield Batch(folder, [])
        if read < SHARD:
            return


def _write(
    folder: Path, parts: Iterable[FilteredBatch], number: int, on_progress: Callable[[int], None]
) -> None:
    scratch = folder.with_suffix(".part")
    remove("shard.begun", scratch)
    scratch.mkdir(parents=True)
    columns = _Columns(scratch, number)
    with (
        failpoint_span("shard.rows"),
        (scratch / ROWS).open("wb") as rows,
        (scratch / DROPPED).open("wb") as dropped,
    ):
        for part in parts:
            rows.write(part.lines)
            dropped.write(part.dropped)
            columns.add(part)
            on_progress(part.read)
    columns.write()
    flush_tree("shard.flush", scratch)
    rename("shard.publish", scratch, folder)


class _Columns:
    """The columns, signatures and counts of one shard; its rows are on disk."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number
        self._index: list[NDArray[np.void]] = []
        self._signatures: list[NDArray[np.uint16]] = []
        self._files: list[str] = []
        self._tasks: list[str] = []
        self._reasons: Counter[str] = Counter()
        self._changes: Counter[str] = Counter()
        self._read = self._offset = 0

    def add(self, part: FilteredBatch) -> None:
        """Add what a batch gave, with numbers for its names that hold in this shard."""
        index = part.columns
        index["offset"] = self._offset + np.cumsum(index["size"], dtype=np.uint64) - index["size"]
        index["source"] = self._number
        index["file"] = numbers_in(self._files, part.files)[index["file"]]
        index["task"] = numbers_in(self._tasks, part.tasks)[index["task"]]
        self._index.append(index)
        self._offset += len(part.lines)
        self._read += part.read
        self._reasons.update(part.reasons)
        self._changes.update(part.changes)
        if part.signatures is not None:
            self._signatures.append(part.signatures)

    def write(self) -> None:
        """Write the columns, signatures and summary."""
        with failpoint_span("shard.index"):
            np.save(self._folder / INDEX, np.concatenate([np.zeros(0, COLUMNS), *self._index]))
        if self._signatures:
            with failpoint_span("shard.signatures"):
                np.save(self._folder / SIGNATURES, np.concatenate(self._signatures))
        summary = ShardSummary(
            self._read, dict(self._reasons), dict(self._changes), self._files, self._tasks
        )
        write("shard.account", self._folder / SUMMARY, json.dumps(summary._asdict()))
