"""The first pass: filters any number of rows, one batch at a time, onto disk.

A reading is split into shards of `SHARD` rows. Each becomes a folder with the kept rows
(`rows.jsonl`), their columns (`index.npy`), their signatures if near duplicates are to be dropped,
the dropped rows and a summary. A folder is renamed into place once it is complete, so an
interrupted pass resumes at the first missing shard.
Not here: rows compared with each other (`dedup/compare.py`).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Generic, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment.data.dedup import ngrams
from alignment.data.dedup.compare import COLUMNS, columns, prompt_and_replies
from alignment.data.read.reading import Reading
from alignment.data.row import Filtered, R, Row
from alignment.records import Quarantined
from alignment.store.durable import failpoint_span, flush_tree, remove, rename, write

SHARD = 20_000
"""Rows per shard: the most that a restart has to repeat, some twenty seconds of work."""
SHARD_LAYOUT = 3
"""Raise it when the files or columns of a shard change, or how rows are read: a preparation that an
earlier version began then starts again, instead of mixing shards of two kinds."""
BATCH = 1_000
"""Rows in memory at a time."""

RowFilter = Callable[[list[Row[R]]], Filtered[R]]
Item = Row[R] | Quarantined
ROWS, INDEX, SIGNATURES, DROPPED, SUMMARY = (
    "rows.jsonl",
    "index.npy",
    "signatures.npy",
    "dropped.jsonl",
    "summary.json",
)


class FilterPass(NamedTuple, Generic[R]):
    """What a pass does with every row.

    Attributes:
        row_filters: the filters, in order.
        salt: determines the rows' hash order.
        signatures: whether to compute MinHash signatures.
    """

    row_filters: Sequence[RowFilter[R]]
    salt: str
    signatures: bool


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
    filters: FilterPass[R],
    work: Path,
    on_progress: Callable[[int], None],
) -> Iterator[Path]:
    """Write one reading's shards under `work`, except those already there; yield each folder.

    Args:
        reading: the source to read.
        number: the source's number in the set.
        filters: what to do with each row.
        work: the folder of the shards.
        on_progress: called with the number of rows read since the last call.
    """
    items = iter(reading.items)
    shard = 0
    while True:
        folder = work / f"{number:03}-{shard:05}"
        rows: Iterator[Item[R]] = islice(items, SHARD)
        if (folder / SUMMARY).exists():
            count = sum(1 for _ in rows)
            on_progress(count)
        else:
            count = _write(folder, rows, number, filters, on_progress)
        if count or not shard:
            yield folder
        if count < SHARD:
            return
        shard += 1


def read_summary(folder: Path) -> ShardSummary:
    """The summary in a shard's folder."""
    return ShardSummary(**json.loads((folder / SUMMARY).read_text(encoding="utf-8")))


def _write(
    folder: Path,
    items: Iterator[Item[R]],
    number: int,
    filters: FilterPass[R],
    on_progress: Callable[[int], None],
) -> int:
    scratch = folder.with_suffix(".part")
    remove("shard.begun", scratch)
    scratch.mkdir(parents=True)
    writer = _Writer(scratch, number, filters)
    with (
        failpoint_span("shard.rows"),
        (scratch / ROWS).open("wb") as rows,
        (scratch / DROPPED).open("w", encoding="utf-8", newline="\n") as dropped,
    ):
        while batch := list(islice(items, BATCH)):
            kept, quarantined, _ = writer.filter_batch(batch)
            dropped.writelines(row.model_dump_json() + "\n" for row in quarantined)
            rows.writelines(writer.lines(kept))
            on_progress(len(batch))
    read = writer.finish()
    flush_tree("shard.flush", scratch)
    rename("shard.publish", scratch, folder)
    return read


class _Writer(Generic[R]):
    """Filters one shard's batches; keeps only the columns and signatures in memory."""

    def __init__(self, folder: Path, number: int, filters: FilterPass[R]) -> None:
        self._folder, self._number, self._filters = folder, number, filters
        self._columns: list[NDArray[np.void]] = []
        self._signatures: list[NDArray[np.uint16]] = []
        self._files: dict[str, int] = {}
        self._tasks: dict[str, int] = {}
        self._dropped: Counter[str] = Counter()
        self._changes: Counter[str] = Counter()
        self._read = self._offset = 0

    def filter_batch(self, batch: list[Item[R]]) -> Filtered[R]:
        """Apply all filters to a batch."""
        self._read += len(batch)
        kept = [item for item in batch if isinstance(item, Row)]
        dropped = [item for item in batch if isinstance(item, Quarantined)]
        for row_filter in self._filters.row_filters:
            kept, quarantined, changes = row_filter(kept)
            dropped += quarantined
            self._changes.update(changes)
        self._dropped.update(row.reason for row in dropped)
        return Filtered(kept, dropped)

    def lines(self, rows: list[Row[R]]) -> list[bytes]:
        """The rows as JSON lines; also records their columns and signatures."""
        lines = [row.record.model_dump_json().encode() + b"\n" for row in rows]
        index = columns(rows, salt=self._filters.salt)
        index["size"] = [len(line) for line in lines]
        index["offset"] = self._offset + np.cumsum(index["size"], dtype=np.uint64) - index["size"]
        index["source"] = self._number
        index["file"] = [_number(row.file, self._files) for row in rows]
        index["task"] = [_number(row.record.task_type, self._tasks) for row in rows]
        self._offset += int(index["size"].sum(dtype=np.uint64))
        self._columns.append(index)
        if self._filters.signatures and rows:
            self._signatures.append(ngrams.signatures([prompt_and_replies(row) for row in rows]))
        return lines

    def finish(self) -> int:
        """Write the columns, signatures and summary; return the number of rows read."""
        index = np.concatenate([np.zeros(0, COLUMNS), *self._columns])
        with failpoint_span("shard.index"):
            np.save(self._folder / INDEX, index)
        if self._filters.signatures:
            none = np.zeros((0, ngrams.HASHES), dtype=np.uint16)
            with failpoint_span("shard.signatures"):
                np.save(self._folder / SIGNATURES, np.concatenate([none, *self._signatures]))
        summary = ShardSummary(
            self._read,
            dict(self._dropped),
            dict(self._changes),
            list(self._files),
            list(self._tasks),
        )
        write("shard.account", self._folder / SUMMARY, json.dumps(summary._asdict()))
        return self._read


def _number(name: str, names: dict[str, int]) -> int:
    return names.setdefault(name, len(names))
