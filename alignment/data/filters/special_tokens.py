"""Text that looks like chat markup: control tokens, turn markers, unfilled placeholders.

A control token in the text of a message would end a turn, or open one, in the middle of it. Such
rows are dropped or, on request, the token is spelled out so that it stays text. The markers of
other chat formats are not control tokens of this tokenizer. But a reply with one mostly contains
a forged or an unparsed turn, so it is dropped too.
Not here: the chat template itself (`alignment/models/chat_template.py`).
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from alignment.data.row import Filtered, R, Reason, Row, parts_of, rule, turns, with_parts
from alignment.models.chat_template import control_tokens
from alignment.models.encoding import is_byte_level

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 512
"""Rows per call of the tokenizer."""
_MARKERS = re.compile(
    r"<\|[\w ]{1,40}\|>"  # ChatML and similar: <|im_start|>, <|eot_id|>, <|user|>
    r"|\[/?INST\]|<</?SYS>>|</?s>"  # Llama 2
    r"|(?m:^#{2,3} ?(?:Instruction|Response|Input|Human|Assistant|User|System):)"  # Alpaca
)
_SPEAKER = re.compile(r"\b(?:Human|Assistant):")
_PLACEHOLDER = re.compile(r"\{\{\s*\w+\s*\}\}")
_INLINE_CODE = re.compile(r"`[^`\n]*`")


def special_token(
    rows: Sequence[Row[R]], *, tokenizer: "PreTrainedTokenizerBase", turn_marker: str
) -> Filtered[R]:
    """Drop rows whose text encodes to a control token of the tokenizer.

    `turn_marker` is the text that opens an assistant turn. It is looked for as text, since it need
    not consist of control tokens; empty if the template has none.
    """
    control = control_tokens(tokenizer)
    suspected = _suspected_rows(rows, tokenizer, control, turn_marker)
    found: dict[int, str] = {}
    for at, encoded in _encoded(rows, suspected, tokenizer):
        for message, ids in zip(turns(rows[at].record), encoded, strict=True):
            token = next((control[index] for index in ids if index in control), None)
            if token is None and turn_marker and turn_marker in message.text:
                token = turn_marker
            if token is not None:
                found[at] = f"{token!r} in the {message.role} turn"
                break
    dropped = [
        rows[at].as_quarantined(Reason.special_token, detail) for at, detail in found.items()
    ]
    return Filtered([row for at, row in enumerate(rows) if at not in found], dropped)


@rule(Reason.turn_marker)
def turn_marker(row: Row[R]) -> str | None:
    """Drop rows with a marker of a known chat format, or `Human:` or `Assistant:` in a reply."""
    for message in turns(row.record):
        found = _MARKERS.search(message.content) or _MARKERS.search(message.reasoning_content)
        if found is None and message.role == "assistant":
            found = _SPEAKER.search(message.content)
        if found:
            return f"{found[0].strip()!r} in the {message.role} turn"
    return None


@rule(Reason.placeholder)
def placeholder(row: Row[R]) -> str | None:
    """Drop rows with a placeholder such as {{name}} in a reply, unless the reply contains code."""
    for message in turns(row.record):
        if message.role != "assistant" or "{{" not in message.content:
            continue
        found = _PLACEHOLDER.search(_INLINE_CODE.sub("", message.content))
        if found and "```" not in message.content:
            return f"{found[0][:60]} in the assistant turn"
    return None


def spelled_out(rows: Iterable[Row[R]], *, tokenizer: "PreTrainedTokenizerBase") -> Filtered[R]:
    """Keep all rows, and turn each control token in their text into plain text.

    A space is inserted after its first character: `<|im_end|>` becomes `< |im_end|>`. The trainers'
    own encoders offer no other way to keep such text from becoming a token.
    """
    pattern = _any_of(control_tokens(tokenizer).values())
    kept = [_rewritten(row, pattern) for row in rows]
    changed = sum(new is not old for new, old in zip(kept, rows, strict=False))
    return Filtered(kept, [], {"spelled_out": changed})


def _rewritten(row: Row[R], pattern: "re.Pattern[str]") -> Row[R]:
    if not any(
        pattern.search(text)
        for message in turns(row.record)
        for text in (message.content, message.reasoning_content)
    ):
        return row

    parts = {
        name: tuple(
            message.model_copy(
                update={
                    "content": _spaced(message.content, pattern),
                    "reasoning_content": _spaced(message.reasoning_content, pattern),
                }
            )
            for message in part
        )
        for name, part in parts_of(row.record).items()
    }
    return replace(row, record=with_parts(row.record, **parts))


def _spaced(text: str, pattern: "re.Pattern[str]") -> str:
    while pattern.search(text):  # splitting one token may join its neighbours into another
        text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text


def _any_of(texts: Iterable[str]) -> "re.Pattern[str]":
    longest_first = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _suspected_rows(
    rows: Sequence[Row[R]],
    tokenizer: "PreTrainedTokenizerBase",
    control: dict[int, str],
    turn_marker: str,
) -> list[int]:
    """Rows to encode. A byte-level BPE yields an added token only where the text spells it out."""
    if not is_byte_level(tokenizer):
        return list(range(len(rows)))
    pattern = _any_of([*control.values(), turn_marker])
    return [
        at
        for at, row in enumerate(rows)
        if any(_contains(message.text, pattern) for message in turns(row.record))
    ]


def _contains(text: str, pattern: "re.Pattern[str]") -> bool:
    if pattern.search(text):
        return True
    return not text.isascii() and bool(pattern.search(unicodedata.normalize("NFKC", text)))


def _encoded(
    rows: Sequence[Row[R]], places: Sequence[int], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[tuple[int, list[list[int]]]]:
    """Each row's position and its turns' token ids; batched, so that all cores are used."""
    for start in range(0, len(places), _BATCH):
        batch = places[start : start + _BATCH]
        texts = [message.text for at in batch for message in turns(rows[at].record)]
        ids = iter(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
        for at in batch:
            yield at, list(islice(ids, len(turns(rows[at].record))))
