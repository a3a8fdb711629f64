"""Reasoning in a field of its own, which only some chat templates render.

Where the template does not, the reasoning would be left out of training without a word. So it
becomes text between `<think>` and `</think>`, before the turn's content. Some templates render it
in the last turn and leave it out of earlier ones, as they do in use: that is counted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from alignment.data.row import Filtered, R, Row, parts_of, turns, with_parts
from alignment.errors import DataError
from alignment.models.chat_template import render_text
from alignment.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHANGED = "reasoning_as_text"
LEFT_OUT = "earlier_reasoning"
_CHAT = (
    Message(role="user", content="Which stone is it?"),
    Message(role="assistant", content="Quartz.", reasoning_content="amber"),
)


def renders_reasoning(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template renders the field `reasoning_content` of the last turn."""
    try:
        return "amber" in render_text(tokenizer, _CHAT)
    except DataError:
        return False  # it refuses such a turn


def renders_earlier_reasoning(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template also renders that field in turns before the last question."""
    later = (
        Message(role="user", content="Why?"),
        Message(role="assistant", content="It scratches."),
    )
    try:
        return "amber" in render_text(tokenizer, (*_CHAT, *later))
    except DataError:
        return False


def count_earlier(rows: Iterable[Row[R]]) -> Filtered[R]:
    """Keep all rows, and count those with reasoning before their last question."""
    kept = list(rows)
    return Filtered(kept, [], {LEFT_OUT: sum(_thought_earlier(turns(row.record)) for row in kept)})


def _thought_earlier(messages: Sequence[Message]) -> bool:
    asked = max((at for at, turn in enumerate(messages) if turn.role == "user"), default=0)
    return any(message.reasoning_content for message in messages[:asked])


def as_text(rows: Iterable[Row[R]]) -> Filtered[R]:
    """Keep all rows, and put the reasoning of their turns into the text."""
    kept, changed = [], 0
    for row in rows:
        thinks = any(message.reasoning_content for message in turns(row.record))
        kept.append(_rewritten(row) if thinks else row)
        changed += thinks
    return Filtered(kept, [], {CHANGED: changed})


def _rewritten(row: Row[R]) -> Row[R]:
    parts = {name: tuple(map(_in_text, part)) for name, part in parts_of(row.record).items()}
    return replace(row, record=with_parts(row.record, **parts))


def _in_text(message: Message) -> Message:
    if not message.reasoning_content:
        return message
    thought = f"<think>\n{message.reasoning_content}\n</think>"
    content = "\n\n".join(filter(None, (thought, message.content)))
    return message.model_copy(update={"content": content, "reasoning_content": ""})
