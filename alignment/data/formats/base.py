"""The base classes of formats, and the predicates by which formats detect their columns."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import ClassVar, Literal, Self, SupportsFloat

from alignment.data.formats.messages import is_exchange, is_message
from alignment.data.formats.rows import RawRow
from alignment.data.row import Reason, Record, Rejected
from alignment.records.base import Frozen, Json
from alignment.records.text import Quarantined

Kind = Literal["conversations", "pairs", "prompts"]
QUESTIONS = ("prompt", "instruction", "question", "query", "history", "input")
"""Columns that hold what replies answer."""
Columns = Mapping[str, Sequence[object]]
"""Column name to its values in the first rows, without missing and null ones."""
Parsed = tuple[RawRow, Record] | Quarantined
"""A record and the row it came from, or a row that gave no record."""


class BaseFormat(Frozen, ABC):
    """A meaning of columns. Abstract; concrete formats are final.

    Attributes:
        expects: the columns it reads, for people.
        reads: what becomes of them, for people.
        columns: the columns that it cannot do without, to find the format nearest to a table.
        outranks: formats that may match the same table and would read less of it.
        gives: what `records` yields. Pairs also serve as conversations: prompt and chosen reply.
        note: a change to the text that a user would not expect; stated in the report.
    """

    expects: ClassVar[str]
    reads: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    outranks: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[Kind]
    note: ClassVar[str] = ""
    name: str

    @abstractmethod
    def detects(self, columns: Columns) -> str | None:
        """Why these columns match this format, or None if they do not."""

    def settled(self, rows: Sequence[Json], *, where: str) -> Self:
        """This format with its conventions decided by the first rows, if it has any.

        Raises:
            DataError: the rows do not decide them; says both readings and the word that does.
        """
        del rows, where
        return self

    @abstractmethod
    def records(self, rows: Iterable[RawRow]) -> Iterator[Parsed]:
        """The records of a whole table. Each row gives at least one record or quarantined row."""


class RowFormat(BaseFormat, ABC):
    """A format in which each row can be read independently of the others."""

    @abstractmethod
    def parse(self, row: RawRow) -> Iterator[Record]:
        """The records of one row, usually one.

        Raises:
            Rejected: the row is not in this format.
        """

    def records(self, rows: Iterable[RawRow]) -> Iterator[Parsed]:
        """The records of each row in turn."""
        for row in rows:
            try:
                found = list(self.parse(row))
            except Rejected as rejected:
                yield set_aside(row, rejected.reason, rejected.detail)
            else:
                yield from ((row, record) for record in found)


def set_aside(row: RawRow, reason: Reason, detail: str) -> Quarantined:
    """The row's entry in the quarantine file."""
    return Quarantined(file=row.file, row=row.row, reason=reason, detail=detail)


def number(value: object, *, what: str) -> float:
    """A value as a finite number; it may be written as text, as in a CSV file.

    Raises:
        Rejected: it is not one.
    """
    found = math.nan
    if isinstance(value, str | SupportsFloat) and not isinstance(value, bool):
        with suppress(TypeError, ValueError, OverflowError):
            found = float(value)
    if not abs(found) <= 1e9:
        raise Rejected(Reason.malformed, f"{what} {str(value)[:40]!r} is not a number")
    return found


# --- what columns hold --------------------------------------------------------------------------


def mostly(columns: Columns, name: str, test: Callable[[object], bool]) -> bool:
    """Whether more than half of a column's values pass, so that one odd row hides no format."""
    values = columns.get(name, ())
    return 2 * sum(map(test, values)) > len(values)


def first_present(columns: Columns, names: Iterable[str], test: Callable[[object], bool]) -> str:
    """The first of these columns whose values mostly pass, or an empty string."""
    return next((name for name in names if mostly(columns, name, test)), "")


def has_any(columns: Columns, names: Iterable[str]) -> bool:
    """Whether one of these columns has a value."""
    return any(columns.get(name) for name in names)


def is_text(value: object) -> bool:
    """Whether it is text."""
    return isinstance(value, str)


def is_number(value: object) -> bool:
    """Whether it is a number, perhaps written as text."""
    try:
        number(value, what="")
    except Rejected:
        return False
    return True


def is_answer(value: object) -> bool:
    """Whether it is text or a number, which an answer may be."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def is_bool(value: object) -> bool:
    """Whether it is true or false."""
    return isinstance(value, bool)


def is_list(value: object) -> bool:
    """Whether it is a list."""
    return isinstance(value, list)


def is_chat(value: object) -> bool:
    """Whether it is a list that starts with a message or an exchange."""
    return (
        isinstance(value, list) and bool(value) and (is_message(value[0]) or is_exchange(value[0]))
    )


def is_talk(value: object) -> bool:
    """Whether it is a chat in any notation: also a list of texts."""
    texts = isinstance(value, list) and bool(value) and all(map(is_text, value))
    return texts or is_chat(value)


def is_turns(value: object) -> bool:
    """Whether it is text, a message or a list."""
    return is_text(value) or is_message(value) or is_list(value)
