"""Reasoning in a field of its own, which only some chat templates render.

Where the template does not, the reasoning would be left out of training without a word. So it
becomes text between `<think>` and `</think>`, before the turn's content. Some templates render a
thought in the last turn and leave it out of earlier ones, as they do in use, and some leave it out
of all (DeepSeek's): both are counted.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from alignment.data.row import Filtered, R, Row, parts_of, turns, with_parts
from alignment.errors import DataError
from alignment.models.chat_template import render_text
from alignment.records.text import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHANGED = "reasoning_as_text"
LEFT_OUT = "earlier_reasoning"
LOST = "lost_reasoning"
Place = str
"""Where a thought stands in a message: "field" or "text"."""
_QUESTION = Message(role="user", content="Which stone is it?")
_THINKING = {
    "field": Message(role="assistant", content="Quartz.", reasoning_content="amber"),
    "text": Message(role="assistant", content="<think>\namber\n</think>\n\nQuartz."),
}
_LATER = (
    Message(role="user", content="Why?"),
    Message(role="assistant", content="It scratches."),
)


def renders_reasoning(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template renders the field `reasoning_content` of the last turn."""
    return "field" in _places(tokenizer)[True]


def count_left_out(rows: Iterable[Row[R]], *, tokenizer: "PreTrainedTokenizerBase") -> Filtered[R]:
    """Keep all rows, and count those with thoughts that the chat template does not render.

    Before the last question most templates leave them out, as they do when a model is asked. A
    template that leaves out those of the last reply, too, would have them trained nowhere.
    """
    kept, rendered = list(rows), _places(tokenizer)
    counts = dict.fromkeys((LEFT_OUT, LOST), 0)
    for row in kept:
        messages = turns(row.record)
        asked = max((at for at, turn in enumerate(messages) if turn.role == "user"), default=0)
        counts[LEFT_OUT] += not rendered[False] >= _thoughts(messages[:asked])
        counts[LOST] += not rendered[True] >= _thoughts(messages[asked:])
    return Filtered(kept, [], {name: count for name, count in counts.items() if count})


def _places(tokenizer: "PreTrainedTokenizerBase") -> dict[bool, set[Place]]:
    """Where a template renders thoughts, in the last reply (True) and before it (False)."""
    found: dict[bool, set[Place]] = {True: set(), False: set()}
    for place, thinking in _THINKING.items():
        for last, later in ((True, ()), (False, _LATER)):
            with suppress(DataError):  # it refuses such a turn
                if "amber" in render_text(tokenizer, (_QUESTION, thinking, *later)):
                    found[last].add(place)
    return found


def _thoughts(messages: Sequence[Message]) -> set[Place]:
    said = [message for message in messages if message.role == "assistant"]
    fields = {"field" for message in said if message.reasoning_content}
    return fields | {"text" for message in said if "</think>" in message.content}


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
