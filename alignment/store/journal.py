"""A file of records that grows one by one and survives being killed at any moment.

Each record is on disk before the next one is made, so whatever made it is never repeated. A line
that was cut off by a crash is removed when the file is opened again.
"""

import os
from pathlib import Path
from typing import Generic

from pydantic import ValidationError

from alignment.store.durable import failpoint_span, flush
from alignment.store.jsonl import RowT, as_line


class Journal(Generic[RowT]):
    """The records of one file.

    Attributes:
        rows: all records, in the order in which they were added.
        kind: their class.

    Args:
        path: the file; it is created with the first record.
        model: class of the records.
    """

    def __init__(self, path: Path, model: type[RowT]) -> None:
        self._path, self.kind = path, model
        self.rows: list[RowT] = []
        self._read(model)

    def append(self, row: RowT) -> None:
        """Add a record; it is on disk when this returns."""
        new = not self._path.exists()
        with failpoint_span("journal.append"), self._path.open("ab") as stream:
            stream.write(as_line(row))
        flush("journal.flush", self._path)
        if new:
            flush("journal.folder", self._path.parent)
        self.rows.append(row)

    def _read(self, model: type[RowT]) -> None:
        if not self._path.exists():
            return
        whole = 0
        for line in self._path.read_bytes().splitlines(keepends=True):
            try:
                row = model.model_validate_json(line)
            except ValidationError:  # cut off, or never flushed
                break
            if not line.endswith(b"\n"):
                break
            self.rows.append(row)
            whole += len(line)
        with failpoint_span("journal.cut"):
            os.truncate(self._path, whole)
