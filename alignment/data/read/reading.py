"""Reads a source's rows as records, and states the format.

Not here: whether a record may be used (`filters/`).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Generic

from alignment.data.formats import (
    Auto,
    ChosenFormat,
    Kind,
    RowFormats,
    choose_format,
    chosen_conversation,
    columns_of,
)
from alignment.data.formats.cells import Decoder
from alignment.data.formats.refusals import check_nothing_lost
from alignment.data.formats.rows import RawRow
from alignment.data.practice.source import EVALUATION_PARTS, PracticeSource
from alignment.data.read.files import Meter
from alignment.data.read.sources import FileSource, HubSource, Source
from alignment.data.row import R, Reason, Record, Row, turns
from alignment.data.split import prompt_key
from alignment.errors import DataError
from alignment.records.text import Conversation, PreferencePair, Prompt, Quarantined

SAMPLE_ROWS = 20
"""Rows from which the format is detected."""


@dataclass(frozen=True)
class Reading(Generic[R]):
    """An open source.

    Attributes:
        source: its display name.
        format: name of the format in which its rows are read.
        reason: why this format was chosen.
        note: what the format changes in the text, or an empty string.
        items: its rows, including those that could not be read. Can be iterated over once; raises
            `DataError` at the end if no row was in the format.
        held_out: whether the whole source is held out.
        weight: share of its prompts to use.
        unread: columns and fields that the format does not read, with the number of rows that have
            them; complete once `items` is exhausted.
    """

    source: str
    format: str
    reason: str
    note: str
    items: Iterator[Row[R] | Quarantined]
    held_out: bool = False
    weight: float = 1.0
    unread: Counter[str] = field(default_factory=Counter)


def read_conversations(source: Source, meter: Meter | None = None) -> Reading[Conversation]:
    """Read a source as chats to imitate; of pairs, the prompt with the chosen reply.

    Raises:
        DataError: the source cannot be read; or its format is unknown or gives only prompts.
    """
    if isinstance(source, PracticeSource):
        return _generated(source, source.conversations())
    opened = _open(source, meter)
    if opened.choice.format.gives == "prompts":
        raise _wrong_kind(source, opened.choice, "replies to imitate. Use it in evaluation_prompts")
    return _read(source, opened, _as_conversation)


def read_pairs(source: Source, meter: Meter | None = None) -> Reading[PreferencePair]:
    """Read a source as preference pairs.

    Raises:
        DataError: the source cannot be read; or its format is unknown or gives no pairs.
    """
    if isinstance(source, PracticeSource):
        return _generated(source, source.pairs())
    opened = _open(source, meter)
    if opened.choice.format.gives != "pairs":
        raise _wrong_kind(
            source,
            opened.choice,
            "preference pairs. Use it for SFT, or name a format with two replies per prompt",
        )
    return _read(source, opened, _as_pair)


def read_prompts(source: Source) -> Reading[Prompt]:
    """Read a source as prompts: its prompts, or those of its chats and pairs.

    Raises:
        DataError: the source cannot be read, or its format is unknown.
    """
    if isinstance(source, PracticeSource):
        return _generated(source, map(_as_prompt, source.pairs()))
    return _read(source, _open(source, None), _as_prompt)


def read_any(
    source: FileSource | HubSource, meter: Meter | None = None
) -> tuple[Kind, Reading[Record]]:
    """Read a source as the kind of record that its format gives, and name the kind.

    Raises:
        DataError: the source cannot be read, or its format is unknown.
    """
    opened = _open(source, meter)
    return opened.choice.format.gives, _read(source, opened, lambda record: record)


@dataclass(frozen=True)
class _Opened:
    choice: ChosenFormat
    note: str
    rows: Iterator[RawRow | Quarantined]


def _open(source: FileSource | HubSource, meter: Meter | None) -> _Opened:
    """The source's format, detected from its first readable rows, and all of its rows."""
    rows = source.read(meter) if isinstance(source, FileSource) else source.read()
    sample: list[RawRow | Quarantined] = []
    fields = []
    for row in rows:
        sample.append(row)
        if isinstance(row, RawRow):
            fields.append(row.fields)
        if len(fields) == SAMPLE_ROWS:
            break
    if not fields:
        raise DataError(f"{source.label}: no row can be read; check the source")
    decoder = Decoder.of(columns_of(fields))
    decoded = decoder.rows(chain(sample, rows)) if decoder.note else chain(sample, rows)
    first = list(islice(decoded, len(sample)))
    choice = _chosen(source, [row for row in first if isinstance(row, RawRow)])
    note = "; ".join(filter(None, (choice.format.note, decoder.note)))
    return _Opened(choice, note, chain(first, decoded))


def _chosen(source: FileSource | HubSource, rows: list[RawRow]) -> ChosenFormat:
    """The format of the first rows; refuses one that was detected and would lose a column."""
    fields = [row.fields for row in rows]
    choice = choose_format(source.format, fields, where=source.label)
    if isinstance(source.format, Auto):
        unread: set[str] = set()
        copies = (replace(row, used=set(row.used), left=set()) for row in rows)
        for made in choice.format.records(copies):
            if not isinstance(made, Quarantined):
                unread.update(made[0].unread(made[1]))
        check_nothing_lost(source.label, columns_of(fields), unread, choice.format.gives)
    return choice


def _read(
    source: FileSource | HubSource, opened: _Opened, convert: Callable[[Record], R]
) -> Reading[R]:
    format_, reason = opened.choice
    held_out = source.use == "held_out"
    unread: Counter[str] = Counter()
    items = _items(source.label, format_, opened.rows, convert, unread, held_out=held_out)
    return Reading(
        source.label,
        format_.name,
        reason,
        opened.note,
        items,
        held_out,
        source.weight,
        unread,
    )


def _items(
    label: str,
    format_: RowFormats,
    rows: Iterator[RawRow | Quarantined],
    convert: Callable[[Record], R],
    unread: Counter[str],
    *,
    held_out: bool,
) -> Iterator[Row[R] | Quarantined]:
    """The source's rows; counts in `unread` what the format does not read of them."""
    unreadable: list[Quarantined] = []
    last: RawRow | None = None
    columns: tuple[str, ...] = ()

    def readable() -> Iterator[RawRow]:
        nonlocal columns
        for row in rows:
            if isinstance(row, RawRow):
                columns = columns or tuple(row.fields)[:20]
                yield row
            else:
                unreadable.append(row)

    first: Quarantined | None = None
    usable = False
    for made in format_.records(readable()):
        yield from unreadable
        unreadable.clear()
        if isinstance(made, Quarantined):
            first = first or (made if made.reason == Reason.malformed else None)
            usable = usable or made.reason != Reason.malformed
            yield made
            continue
        row, record = made
        usable = True
        if row is not last:  # a row that gives several records is counted once
            last = row
            unread.update(row.unread(record))
        yield _row_of(row.file, row.row, convert(record), held_out=held_out)
    yield from unreadable
    if not usable and first is not None:
        raise DataError(
            f"{label}: no row is in format {format_.name!r}, which expects {format_.expects}; "
            f"found columns {', '.join(name[:40] for name in sorted(columns))}. "
            f"The first, {first.file} row {first.row}: {first.detail}. "
            "Name another format, or rename the columns."
        )


def _generated(source: PracticeSource, records: Iterator[R]) -> Reading[R]:
    held_out = source.part in EVALUATION_PARTS
    label = f"practice part {source.part}, seed {source.seed}"
    items = (
        _row_of(label, number, record, held_out=held_out)
        for number, record in enumerate(records, start=1)
    )
    return Reading(label, "practice", "generated", "", items, held_out)


def _wrong_kind(source: FileSource | HubSource, choice: ChosenFormat, needed: str) -> DataError:
    return DataError(
        f"{source.label}: format {choice.format.name!r} ({choice.reason}) gives "
        f"{choice.format.gives}, not {needed}."
    )


def _row_of(file: str, row: int, record: R, *, held_out: bool) -> Row[R]:
    return Row(record, file, row, prompt_key(turns(record)), held_out)


def _as_conversation(record: Record) -> Conversation:
    assert not isinstance(record, Prompt), "a format that gives replies gave a prompt"
    return record if isinstance(record, Conversation) else chosen_conversation(record)


def _as_pair(record: Record) -> PreferencePair:
    assert isinstance(record, PreferencePair), "a format that gives pairs gave something else"
    return record


def _as_prompt(record: Record) -> Prompt:
    if isinstance(record, Prompt):
        return record
    messages = record.prompt if isinstance(record, PreferencePair) else record.messages
    user_turns = tuple(message for message in messages if message.role == "user")
    return Prompt.of(user_turns, task_type=record.task_type, source=record.source)
