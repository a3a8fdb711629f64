"""What the first pass does with a batch of rows: filters, columns, signatures, lines.

Depends on nothing but the batch, so any process can do it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment.data.build.names import numbers_in
from alignment.data.dedup import ngrams
from alignment.data.dedup.compare import columns, prompt_and_replies
from alignment.data.row import Filtered, R, Row
from alignment.records.text import Quarantined

BATCH = 1_000
"""Rows in memory at a time, in each process."""

RowFilter = Callable[[list[Row[R]]], Filtered[R]]
Item = Row[R] | Quarantined


class Batch(NamedTuple):
    """Rows of one shard, named by its folder.

    Attributes:
        skipped: rows that are not here because the shard is complete.
    """

    shard: Path
    items: list[Item[Any]]
    skipped: int = 0


class FilteredBatch(NamedTuple):
    """What is left of a batch.

    Attributes:
        read: rows that were read.
        lines: the kept rows as JSON lines.
        dropped: the dropped rows as JSON lines.
        columns: of the kept rows; offsets and source are missing.
        signatures: [rows, HASHES], if near duplicates are to be dropped.
        files, tasks: the names to which numbers in the columns refer.
        reasons: dropped rows by reason.
        changes: rows changed by filters.
    """

    shard: Path
    read: int
    lines: bytes
    dropped: bytes
    columns: NDArray[np.void]
    signatures: NDArray[np.uint16] | None
    files: list[str]
    tasks: list[str]
    reasons: dict[str, int]
    changes: dict[str, int]


@dataclass(frozen=True)
class FilterPass(Generic[R]):
    """What the pass does with every row.

    Attributes:
        row_filters: the filters, in order.
        salt: determines the rows' hash order.
        signatures: whether to compute MinHash signatures.
    """

    row_filters: Sequence[RowFilter[R]]
    salt: str
    signatures: bool

    def __call__(self, batch: Batch) -> FilteredBatch:
        """Filter a batch, and describe the rows that are left."""
        kept, dropped, changes = self._filtered(batch.items)
        lines = [row.record.model_dump_json().encode() + b"\n" for row in kept]
        files: list[str] = []
        tasks: list[str] = []
        index = columns(kept, salt=self.salt)
        index["size"] = [len(line) for line in lines]
        index["file"] = numbers_in(files, [row.file for row in kept])
        index["task"] = numbers_in(tasks, [row.record.task_type for row in kept])
        return FilteredBatch(
            batch.shard,
            len(batch.items) + batch.skipped,
            b"".join(lines),
            b"".join(row.model_dump_json().encode() + b"\n" for row in dropped),
            index,
            self._signatures(kept) if self.signatures else None,
            files,
            tasks,
            dict(Counter(row.reason for row in dropped)),
            dict(changes),
        )

    def _signatures(self, rows: Sequence[Row[R]]) -> NDArray[np.uint16]:
        if not rows:
            return np.zeros((0, ngrams.HASHES), dtype=np.uint16)
        return ngrams.signatures([prompt_and_replies(row) for row in rows])

    def _filtered(self, items: Sequence[Item[R]]) -> Filtered[R]:
        kept = [item for item in items if isinstance(item, Row)]
        dropped = [item for item in items if isinstance(item, Quarantined)]
        changes: Counter[str] = Counter()
        for row_filter in self.row_filters:
            kept, quarantined, changed = row_filter(kept)
            dropped += quarantined
            changes.update(changed)
        return Filtered(kept, dropped, changes)
