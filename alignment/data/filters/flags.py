"""Flags for kept rows that are worth a look: long, odd, or with a repeated prompt.

None of these is a fault, so a flag never drops a row. It is written beside the row and counted.
Not here: the reasons for dropping rows (`row.py`), and exact lengths in tokens (`lengths.py`).
"""

import re
from collections.abc import Iterable
from enum import StrEnum

from alignment.data.row import Record, turns
from alignment.records.text import Message, PreferencePair

LONG = 1024
"""Tokens of a prompt and its longer reply, estimated without a tokenizer, on the high side."""
ASCII_BYTES, OTHER_BYTES = 1 / 3, 0.6
"""Tokens per byte of UTF-8. Most tokenizers need fewer. One with 63,000 English entries needed more
than this estimate in 4 of 284 rows in English and Chinese."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Flag(StrEnum):
    """Why a row is worth a look. The order gives the bits in the `flags` column."""

    long = "long"
    """It may have more than `LONG` tokens."""
    control_character = "control_character"
    """It contains an invisible control character other than a tab or line end."""
    repeated_prompt = "repeated_prompt"
    """An earlier kept row has the same whole prompt."""


def flags(record: Record) -> tuple[Flag, ...]:
    """The flags that a row alone determines: `long`, `control_character`."""
    found = []
    if _tokens(record) > LONG:
        found.append(Flag.long)
    if any(_CONTROL.search(message.text) for message in turns(record)):
        found.append(Flag.control_character)
    return tuple(found)


def to_bits(found: Iterable[Flag]) -> int:
    """Flags as a bit mask; the first flag is bit 0."""
    return sum(1 << list(Flag).index(flag) for flag in found)


def from_bits(bits: int) -> list[Flag]:
    """The flags of a bit mask."""
    return [flag for at, flag in enumerate(Flag) if bits >> at & 1]


def _tokens(record: Record) -> float:
    if not isinstance(record, PreferencePair):
        return _estimate(turns(record))
    return _estimate(record.prompt) + max(_estimate(record.chosen), _estimate(record.rejected))


def _estimate(messages: Iterable[Message]) -> float:
    texts = [message.text for message in messages]
    plain = sum(len(text.encode("ascii", "ignore")) for text in texts)
    whole = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return plain * ASCII_BYTES + (whole - plain) * OTHER_BYTES
