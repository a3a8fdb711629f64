"""What a format is, and the words in which formats tell whether columns are meant for them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from alignment.data.formats.rows import RawRow
from alignment.data.row import Reason, Record, Rejected
from alignment.records import Frozen, Quarantined

Kind = Literal["conversations", "pairs", "prompts"]
Columns = Mapping[str, Sequence[object]]
"""Column name to its values in the first rows, missing and null ones left out."""
Made = tuple[RawRow, Record] | Quarantined
"""A record and the row it came from, or a row of which nothing came."""


class BaseFormat(Frozen, ABC):
    """One meaning of columns. Abstract; concrete formats are final.

    Attributes:
        wants: the columns it reads, for people.
        gives: what `records` yields. Pairs also serve as conversations: prompt and chosen reply.
        note: what it does to the text, where that is not to be expected; stated in the report.
    """

    wants: ClassVar[str]
    gives: ClassVar[Kind]
    note: ClassVar[str] = ""

    @abstractmethod
    def detects(self, columns: Columns) -> str | None:
        """Why these columns look like this format, or None."""

    @abstractmethod
    def records(self, rows: Iterable[RawRow]) -> Iterator[Made]:
        """The records of a whole table. Every row gives at least one of the two."""


class RowFormat(BaseFormat, ABC):
    """A format in which each row stands for itself."""

    @abstractmethod
    def parse(self, row: RawRow) -> Iterator[Record]:
        """The records of one row, mostly one.

        Raises:
            Rejected: the row is not in this format.
        """

    def records(self, rows: Iterable[RawRow]) -> Iterator[Made]:
        """Row after row."""
        for row in rows:
            try:
                found = list(self.parse(row))
            except Rejected as rejected:
                yield set_aside(row, rejected.reason, rejected.detail)
            else:
                yield from ((row, record) for record in found)


def set_aside(row: RawRow, reason: Reason, detail: str) -> Quarantined:
    """A row's line in the quarantine file."""
    return Quarantined(file=row.file, row=row.row, reason=reason, detail=detail)


def number(value: object, *, what: str) -> float:
    """A finite number.

    Raises:
        Rejected: the value is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e9:
        raise Rejected(Reason.malformed, f"{what} {str(value)[:40]!r} is not a number")
    return float(value)


# --- what columns hold --------------------------------------------------------------------------


def mostly(columns: Columns, name: str, test: Callable[[object], bool]) -> bool:
    """Whether more than half of a column's values pass: one odd row must not hide a format."""
    values = columns.get(name, ())
    return 2 * sum(map(test, values)) > len(values)


def first_present(columns: Columns, names: Iterable[str], test: Callable[[object], bool]) -> str:
    """The first of these columns that is there and mostly passes, or nothing."""
    return next((name for name in names if mostly(columns, name, test)), "")


def is_text(value: object) -> bool:
    """A text."""
    return isinstance(value, str)


def is_bool(value: object) -> bool:
    """True or false."""
    return isinstance(value, bool)


def is_list(value: object) -> bool:
    """A list."""
    return isinstance(value, list)


def is_chat(value: object) -> bool:
    """A list that opens with a message."""
    return isinstance(value, list) and bool(value) and is_message(value[0])


def is_message(value: object) -> bool:
    """An object with a speaker."""
    return isinstance(value, dict) and bool({"role", "from"} & value.keys())


def is_turns(value: object) -> bool:
    """A text, a message or a list of messages."""
    return is_text(value) or is_message(value) or is_list(value)
