"""Finds a row in the prepared sets of a store by its id, which errors and reports name."""

import json
from collections.abc import Iterator

from alignment.records.base import Frozen, Json
from alignment.records.manifest import StageRecord
from alignment.records.refs import DataRef
from alignment.store.store import Store

PARTS = ("train", "held_out", "prompts", "quarantine")


class FoundRow(Frozen):
    """A row, and where it is: the artifact, its part of the set, the line in its file."""

    artifact: str
    part: str
    line: int
    row: Json


def find_rows(store: Store, row_id: str) -> Iterator[FoundRow]:
    """Every prepared row with an id, the newest set first; a set keeps the id of its source."""
    for record in reversed(store.records()):
        data = record.output_as(DataRef)
        if data is not None:
            yield from _in_set(store, record, data, row_id)


def _in_set(store: Store, record: StageRecord, data: DataRef, row_id: str) -> Iterator[FoundRow]:
    quoted = json.dumps(row_id).encode()
    for part in PARTS:
        uri = getattr(data, part)
        if uri is None or not store.path(uri).is_file():
            continue
        with store.path(uri).open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if quoted in line and (row := json.loads(line)).get("id") == row_id:
                    yield FoundRow(artifact=record.key, part=part, line=number, row=row)
