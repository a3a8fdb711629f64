"""A source's rows as records, with the format stated and unreadable rows set aside.

Not here: whether a record may be used (`clean.py`).
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Generic, NamedTuple

from alignment.data.clean import Placed, R, Reason, Record, Rejected, turns
from alignment.data.formats import Stated, choose_format, chosen_conversation
from alignment.data.practice import PracticeSource
from alignment.data.rows import RawRow
from alignment.data.sources import FileSource, HubSource, Source
from alignment.data.split import prompt_key
from alignment.errors import DataError
from alignment.records import Conversation, PreferencePair, Quarantined

HEAD = 20
"""Rows whose columns tell the format."""


class Reading(NamedTuple, Generic[R]):
    """One source, read.

    Attributes:
        source: its name for people.
        format: the name of the format its rows were read in.
        reason: why that one.
        note: what the format did to the text, or nothing.
        rows: what could be read; `dropped` is the rest.
    """

    source: str
    format: str
    reason: str
    note: str
    rows: list[Placed[R]]
    dropped: list[Quarantined]


def read_conversations(source: Source) -> Reading[Conversation]:
    """A source as chats to imitate; pairs give their prompt with the chosen reply.

    Raises:
        DataError: the source cannot be read, or its format is not known.
    """
    if isinstance(source, PracticeSource):
        return _generated(source, source.conversations())
    return _read(source, _state(source), _as_conversation)


def read_pairs(source: Source) -> Reading[PreferencePair]:
    """A source as preference pairs.

    Raises:
        DataError: the source cannot be read, its format is not known, or gives no pairs.
    """
    if isinstance(source, PracticeSource):
        return _generated(source, source.pairs())
    opened = _state(source)
    format_, reason = opened[0]
    if format_.gives != "pairs":
        raise DataError(
            f"{source.label}: format {format_.name!r} ({reason}) gives conversations, not "
            "preference pairs. Use it for SFT, or name a format with two replies to a prompt."
        )
    return _read(source, opened, _as_pair)


Opened = tuple[Stated, Iterator[RawRow | Quarantined]]


def _state(source: FileSource | HubSource) -> Opened:
    """The source's format, told by its first readable rows, and all of its rows."""
    rows = source.read()
    head: list[RawRow | Quarantined] = []
    fields = []
    for row in rows:
        head.append(row)
        if isinstance(row, RawRow):
            fields.append(row.fields)
        if len(fields) == HEAD:
            break
    if not fields:
        raise DataError(f"{source.label}: not one row can be read; check the source")
    return choose_format(source.format, fields, where=source.label), chain(head, rows)


def _read(
    source: FileSource | HubSource, opened: Opened, convert: Callable[[Record], R]
) -> Reading[R]:
    (format_, reason), rows = opened
    reading: Reading[R] = Reading(source.label, format_.name, reason, format_.note, [], [])
    columns: set[str] = set()
    for row in rows:
        if isinstance(row, Quarantined):
            reading.dropped.append(row)
            continue
        columns |= row.fields.keys()
        try:
            found = [convert(record) for record in format_.parse(row)]
        except Rejected as rejected:
            reading.dropped.append(_dropped(row, rejected))
            continue
        reading.rows.extend(
            _placed(row.file, row.row, record, held_out=source.use == "held_out")
            for record in found
        )
    if not reading.rows and all(row.reason == Reason.malformed for row in reading.dropped):
        first = reading.dropped[0]
        raise DataError(
            f"{source.label}: no row is in format {format_.name!r}, which wants {format_.wants}; "
            f"found columns {', '.join(sorted(columns))}. The first, {first.file} row {first.row}: "
            f"{first.detail}. Name another format, or the right columns."
        )
    return reading


def _generated(source: PracticeSource, records: Iterator[R]) -> Reading[R]:
    held_out = source.part in ("development", "held-out")
    label = f"practice part {source.part}, seed {source.seed}"
    rows = [
        _placed(label, number, record, held_out=held_out)
        for number, record in enumerate(records, start=1)
    ]
    return Reading(label, "practice", "generated", "", rows, [])


def _placed(file: str, row: int, record: R, *, held_out: bool) -> Placed[R]:
    return Placed(record, file, row, prompt_key(turns(record)), held_out)


def _dropped(row: RawRow, rejected: Rejected) -> Quarantined:
    return Quarantined(file=row.file, row=row.row, reason=rejected.reason, detail=rejected.detail)


def _as_conversation(record: Record) -> Conversation:
    return record if isinstance(record, Conversation) else chosen_conversation(record)


def _as_pair(record: Record) -> PreferencePair:
    assert isinstance(record, PreferencePair), "a format that gives pairs gave a conversation"
    return record
