"""What is worth a look in a row that is used: it is long, or odd, or asks a known prompt again.

None of it is a fault, so a flag never takes a row out: it stands beside the row and is counted.
Not here: why a row is left out (`clean.py`), and length in tokens (`encode.py`).
"""

import re
from collections.abc import Iterable
from enum import StrEnum

from alignment.data.row import Record, turns
from alignment.records import Message, PreferencePair

LONG = 1024
"""Tokens of a prompt and its longer reply, guessed without a tokenizer and rather too high."""
ASCII_BYTES, OTHER_BYTES = 1 / 3, 0.6
"""Tokens a byte of UTF-8. Most tokenizers take fewer; one of 63,000 English entries took more than
this guess in 4 of 284 rows in English and Chinese."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Flag(StrEnum):
    """Why a row is worth a look. The order is that of the bits in a row's columns."""

    long = "long"
    """It may have more than `LONG` tokens."""
    control_character = "control_character"
    """A character that no one types and nothing shows, tabs and line ends aside."""
    repeated_prompt = "repeated_prompt"
    """Its whole prompt stands further up in a row that is used."""


def flags(record: Record) -> tuple[Flag, ...]:
    """What one row shows by itself: `long`, `control_character`."""
    found = []
    if _tokens(record) > LONG:
        found.append(Flag.long)
    if any(_CONTROL.search(message.text) for message in turns(record)):
        found.append(Flag.control_character)
    return tuple(found)


def as_bits(found: Iterable[Flag]) -> int:
    """Flags as a number, the first flag being 1."""
    return sum(1 << list(Flag).index(flag) for flag in found)


def of_bits(bits: int) -> list[Flag]:
    """The flags of such a number."""
    return [flag for at, flag in enumerate(Flag) if bits >> at & 1]


def _tokens(record: Record) -> float:
    if not isinstance(record, PreferencePair):
        return _guess(turns(record))
    return _guess(record.prompt) + max(_guess(record.chosen), _guess(record.rejected))


def _guess(messages: Iterable[Message]) -> float:
    texts = [message.text for message in messages]
    plain = sum(len(text.encode("ascii", "ignore")) for text in texts)
    whole = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return plain * ASCII_BYTES + (whole - plain) * OTHER_BYTES
