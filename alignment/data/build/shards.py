"""The first pass: rows of any number, filtered a batch at a time, onto disk.

A reading is cut into shards of `SHARD` rows. Each becomes a folder with the rows that are still
in (`rows.jsonl`), their columns (`index.npy`), signatures where near duplicates are looked for,
the quarantine so far and an account. A folder is renamed into place when it is whole, so a pass
that was stopped goes on with the first shard that is missing.
Not here: rows against each other (`index.py`).
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
from alignment.data.dedup.compare import COLUMNS, columns, reply_texts
from alignment.data.read.reading import Reading
from alignment.data.row import Filtered, R, Row
from alignment.records import Quarantined
from alignment.store.durable import failpoint_span, flush_tree, remove, rename, write

SHARD = 20_000
"""Rows of a shard: what a second attempt loses at most, some twenty seconds."""
BATCH = 1_000
"""Rows in memory at once."""

Step = Callable[[list[Row[R]]], Filtered[R]]
Item = Row[R] | Quarantined
ROWS, INDEX, SIGNATURES, DROPPED, ACCOUNT = (
    "rows.jsonl",
    "index.npy",
    "signatures.npy",
    "dropped.jsonl",
    "account.json",
)


class Names(NamedTuple):
    """Texts that rows share, each with a number: their files and task types."""

    files: dict[str, int]
    tasks: dict[str, int]


class Pass(NamedTuple, Generic[R]):
    """What every shard of a pass is made with.

    Attributes:
        steps: filters, in order.
        salt: decides the rows' hash order.
        likeness: compute signatures as well.
    """

    steps: Sequence[Step[R]]
    salt: str
    likeness: bool


class Account(NamedTuple):
    """A shard's numbers: rows that came in, that fell out by reason, and what the steps noted."""

    read: int
    dropped: dict[str, int]
    noted: dict[str, int]
    files: list[str]
    tasks: list[str]


def fill_shards(
    reading: Reading[R],
    number: int,
    made_with: Pass[R],
    work: Path,
    on_progress: Callable[[int], None],
) -> Iterator[Path]:
    """Write one reading's shards under `work`, but for those that are there; yields each.

    Args:
        reading: what to read.
        number: its number in the set.
        made_with: filters and salt.
        work: the folder of the shards.
        on_progress: is told how many rows were read since the last time.
    """
    items = iter(reading.items)
    shard = 0
    while True:
        folder = work / f"{number:03}-{shard:05}"
        taken: Iterator[Item[R]] = islice(items, SHARD)
        if (folder / ACCOUNT).exists():
            count = sum(1 for _ in taken)
            on_progress(count)
        else:
            count = _write(folder, taken, number, made_with, on_progress)
        if count or not shard:
            yield folder
        if count < SHARD:
            return
        shard += 1


def account_of(folder: Path) -> Account:
    """What happened in a shard."""
    return Account(**json.loads((folder / ACCOUNT).read_text(encoding="utf-8")))


def _write(
    folder: Path,
    items: Iterator[Item[R]],
    number: int,
    made_with: Pass[R],
    on_progress: Callable[[int], None],
) -> int:
    scratch = folder.with_suffix(".part")
    remove("shard.begun", scratch)
    scratch.mkdir(parents=True)
    writer = _Writer(scratch, number, made_with)
    with (
        failpoint_span("shard.rows"),
        (scratch / ROWS).open("wb") as rows,
        (scratch / DROPPED).open("w", encoding="utf-8", newline="\n") as dropped,
    ):
        while batch := list(islice(items, BATCH)):
            kept, out, _ = writer.sift(batch)
            dropped.writelines(row.model_dump_json() + "\n" for row in out)
            rows.writelines(writer.lines(kept))
            on_progress(len(batch))
    read = writer.close()
    flush_tree("shard.flush", scratch)
    rename("shard.publish", scratch, folder)
    return read


class _Writer(Generic[R]):
    """Takes batches of one shard; what must stay in memory is its columns."""

    def __init__(self, folder: Path, number: int, made_with: Pass[R]) -> None:
        self._folder, self._number, self._with = folder, number, made_with
        self._columns: list[NDArray[np.void]] = []
        self._signatures: list[NDArray[np.uint16]] = []
        self._names = Names({}, {})
        self._dropped: Counter[str] = Counter()
        self._noted: Counter[str] = Counter()
        self._read = self._offset = 0

    def sift(self, batch: list[Item[R]]) -> Filtered[R]:
        """Take a batch through the steps."""
        self._read += len(batch)
        kept = [item for item in batch if isinstance(item, Row)]
        dropped = [item for item in batch if isinstance(item, Quarantined)]
        for step in self._with.steps:
            kept, out, noted = step(kept)
            dropped += out
            self._noted.update(noted)
        self._dropped.update(row.reason for row in dropped)
        return Filtered(kept, dropped)

    def lines(self, rows: list[Row[R]]) -> list[bytes]:
        """The rows as they are written; their columns are remembered."""
        lines = [row.record.model_dump_json().encode() + b"\n" for row in rows]
        index = columns(rows, salt=self._with.salt)
        index["size"] = [len(line) for line in lines]
        index["offset"] = self._offset + np.cumsum(index["size"], dtype=np.uint64) - index["size"]
        index["source"] = self._number
        index["file"] = [_number(row.file, self._names.files) for row in rows]
        index["task"] = [_number(row.record.task_type, self._names.tasks) for row in rows]
        self._offset += int(index["size"].sum(dtype=np.uint64))
        self._columns.append(index)
        if self._with.likeness and rows:
            self._signatures.append(ngrams.signatures([reply_texts(row) for row in rows]))
        return lines

    def close(self) -> int:
        """Write the columns and the account; gives how many rows came in."""
        index = np.concatenate([np.zeros(0, COLUMNS), *self._columns])
        with failpoint_span("shard.index"):
            np.save(self._folder / INDEX, index)
        if self._with.likeness:
            none = np.zeros((0, ngrams.HASHES), dtype=np.uint16)
            with failpoint_span("shard.signatures"):
                np.save(self._folder / SIGNATURES, np.concatenate([none, *self._signatures]))
        account = Account(
            self._read,
            dict(self._dropped),
            dict(self._noted),
            list(self._names.files),
            list(self._names.tasks),
        )
        write("shard.account", self._folder / ACCOUNT, json.dumps(account._asdict()))
        return self._read


def _number(name: str, names: dict[str, int]) -> int:
    return names.setdefault(name, len(names))
