"""Replies rated thumbs up or down, which make a pair only where one prompt has both."""

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from alignment.data.formats.base import (
    BaseFormat,
    Columns,
    Kind,
    Parsed,
    is_bool,
    is_list,
    is_turns,
    mostly,
    set_aside,
)
from alignment.data.formats.rows import RawRow, Turns, describe
from alignment.data.row import Reason, Rejected
from alignment.records import digest_of

ADVICE = (
    "no reply to this prompt has the other label, and a pair needs both. To use the approved "
    "replies for SFT, write them as messages; to get pairs, sample a second reply to the prompt"
)
_REPLIES = ("completion", "response", "output", "answer")


class Unpaired(BaseFormat):
    """A chat, or a prompt and a reply, and whether the reply was liked.

    The first liked and the first disliked reply to a prompt make a pair, the next two another one,
    and so on. The table is held in memory, since the other label may be in any row.
    """

    expects: ClassVar[str] = "label: true or false; and messages, or prompt and completion"
    gives: ClassVar[Kind] = "pairs"
    note: ClassVar[str] = "single ratings: they make a pair only where one prompt has both labels"
    name: Literal["unpaired"] = "unpaired"

    def detects(self, columns: Columns) -> str | None:
        """By a boolean label with a chat, or with a prompt and a reply."""
        if not mostly(columns, "label", is_bool):
            return None
        reply = any(mostly(columns, name, is_turns) for name in _REPLIES)
        chat = mostly(columns, "messages", is_list) or ("prompt" in columns and reply)
        return "column label holds true and false beside one reply" if chat else None

    def records(self, rows: Iterable[RawRow]) -> Iterator[Parsed]:
        """The pairs; all other rows are quarantined with advice."""
        waiting: dict[str, list[tuple[RawRow, bool, Turns, Turns]]] = {}
        for row in rows:
            try:
                prompt, reply, liked = _judged(row)
            except Rejected as rejected:
                yield set_aside(row, rejected.reason, rejected.detail)
                continue
            key = digest_of([(message.role, message.text) for message in prompt])
            others = waiting.setdefault(key, [])
            at = next((at for at, one in enumerate(others) if one[1] != liked), None)
            if at is None:
                others.append((row, liked, prompt, reply))
                continue
            earlier, _, _, other = others.pop(at)
            chosen, rejected_ = (reply, other) if liked else (other, reply)
            yield row, row.pair(prompt, chosen=chosen, rejected=rejected_)
            yield set_aside(earlier, Reason.merged, f"the other reply of the pair at row {row.row}")
        for unmatched in waiting.values():
            yield from (set_aside(row, Reason.unpaired, ADVICE) for row, *_ in unmatched)


def _judged(row: RawRow) -> tuple[Turns, Turns, bool]:
    """(prompt, reply, liked)."""
    liked = row.fields.get("label")
    if not isinstance(liked, bool):
        raise Rejected(Reason.malformed, f"label holds {describe(liked)}, not true or false")
    if row.fields.get("messages") is not None:
        chat = row.messages("messages")
        return chat[:-1], chat[-1:], liked
    name = next((name for name in _REPLIES if row.fields.get(name) is not None), _REPLIES[0])
    prompt, reply = row.turns("prompt", role="user"), row.turns(name, role="assistant")
    return prompt, reply, liked
