"""Chats as token ids, and which of them are targets: the replies, each with its stop token.

A reply that its source marks as context is none.

This is the only encoder: training, the doctor, evaluation and probes all use its ids. Targets are
found by *position*: where the pad token is the stop token, masking by token id would remove it from
the targets, and the model would never learn to stop.
No token crosses the beginning of a target. So the ids before it are those of the rendered prompt,
which is what the model is given when it answers.
"""

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

from alignment.errors import DataError
from alignment.models.chat_template import ChatFormat, format_of, ids_of, render_text
from alignment.records.text import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a position that is not a target, as torch and transformers define it."""

Span = tuple[int, int]
"""Positions start <= i < end."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One chat as token ids; it ends with its last target.

    Attributes:
        ids: the whole chat, not truncated to the training's limit.
        spans: positions of the targets; ordered and disjoint.
        asked: whether the last reply follows the whole generation prompt, with which the model is
            asked for it; False where that opens a thought which the reply lacks.
    """

    ids: Sequence[int]
    spans: tuple[Span, ...]
    asked: bool = True

    def trained(self, limit: int) -> int:
        """Number of targets among the first `limit` tokens."""
        return sum(max(0, min(end, limit) - start) for start, end in self.spans)

    def labels(self) -> list[int]:
        """The ids, with `IGNORED` at every position that is not a target."""
        labels = [IGNORED] * len(self.ids)
        for start, end in self.spans:
            labels[start:end] = self.ids[start:end]
        return labels


class Rendered(NamedTuple):
    """One chat as text, up to the end of its last target, with the targets' places in the text."""

    text: str
    spans: tuple[Span, ...]
    asked: bool


def locate_replies(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> Rendered:
    """Render a chat and find every reply in it that is to be imitated.

    A reply begins where the turns before it, with a generation prompt, end. It ends with the first
    token after its text that may close a reply.

    Raises:
        DataError: the template refuses the chat, or renders a reply elsewhere than where the model
            would be asked for it.
    """
    known, text = format_of(tokenizer), render_text(tokenizer, messages)
    spans: list[Span] = []
    for at, message in enumerate(messages):
        if message.role == "assistant" and not message.untrained:
            opened = render_text(tokenizer, messages[:at], add_generation_prompt=True)
            start = _start(known, text, opened)
            spans.append((start, _end(known, text, start, messages[at : at + 2])))
    if not spans:
        raise DataError("there is no reply in this chat")
    return Rendered(text[: spans[-1][1]], tuple(spans), asked=spans[-1][0] == len(opened))


def locate_completions(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Sequence[Message],
    replies: Sequence[Sequence[Message]],
) -> list[Rendered]:
    """Render a prompt with each of its replies; all turns of a reply are one target.

    All begin at the same place, so that they answer the same tokens.

    Raises:
        DataError: as `locate_replies`.
    """
    known = format_of(tokenizer)
    opened = render_text(tokenizer, prompt, add_generation_prompt=True)
    texts = [render_text(tokenizer, [*prompt, *reply]) for reply in replies]
    start = min(_start(known, text, opened) for text in texts)
    located = []
    for text, reply in zip(texts, replies, strict=True):
        earlier = render_text(tokenizer, [*prompt, *reply[:-1]]) if len(reply) > 1 else ""
        after = max(start, len(earlier)) if text.startswith(earlier) else start
        end = _end(known, text, after, reply[-1:])
        located.append(Rendered(text[:end], ((start, end),), asked=start == len(opened)))
    return located


def _start(known: ChatFormat, text: str, opened: str) -> int:
    without = opened.removesuffix(known.thought) if known.thought else opened
    for prompt in (opened, without):
        if text.startswith(prompt):
            return len(prompt)
    raise DataError(
        "the chat template renders the turns before a reply differently once the reply follows, so "
        "the model would learn from a prompt that it is never given"
    )


def _end(known: ChatFormat, text: str, start: int, messages: Sequence[Message]) -> int:
    """Where the first of some messages ends; a template may close each of its parts."""
    message, following = messages[0], messages[1:]
    said = message.content.strip()
    found = text.find(said, start) if said else -1
    after = start if found < 0 else found + len(said)
    closer = "|".join(map(re.escape, sorted(known.closers, key=len, reverse=True)))
    ends = [match.end() + after for match in re.finditer(closer, text[after:])]
    if not ends:
        raise DataError(
            f"the chat template does not close a reply with {' or '.join(known.closers)}, so the "
            "model would not learn to stop"
        )
    if not following:  # what a template writes after the last reply is no part of it
        rest = re.compile(rf"(?:\s|{closer})*")
        return next(end for end in ends if rest.fullmatch(text, end) or end == ends[-1])
    if text.find(following[0].content.strip(), ends[0]) < 0:
        raise DataError("the chat template does not close each reply before the next turn")
    return ends[0]


# --- from text to ids ---------------------------------------------------------------------------


def encode_chat(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> Encoded:
    """A chat as ids; the targets are the replies, each with its stop token.

    Raises:
        DataError: as `locate_replies`, or a reply's tokens cannot be separated from the prompt's.
    """
    (encoded,) = encode_all(tokenizer, [locate_replies(tokenizer, messages)])
    return encoded


def encode_completion(
    tokenizer: "PreTrainedTokenizerBase", prompt: Sequence[Message], reply: Sequence[Message]
) -> Encoded:
    """A prompt and what answers it; the one target is everything after the prompt.

    Raises:
        DataError: as `encode_chat`.
    """
    (encoded,) = encode_all(tokenizer, locate_completions(tokenizer, prompt, [reply]))
    return encoded


def encode_all(tokenizer: "PreTrainedTokenizerBase", chats: Sequence[Rendered]) -> list[Encoded]:
    """The ids of rendered chats; in one call, which tokenizers spread over all cores.

    Raises:
        DataError: as `encode_chat`.
    """
    if not chats:
        return []
    texts = [text for chat in chats for text in (chat.text, *_heads(chat))]
    rows = iter(cast(list[list[int]], ids_of(tokenizer, cast(str, texts))))
    return [
        _assembled(tokenizer, chat, next(rows), [next(rows) for _ in chat.spans]) for chat in chats
    ]


def is_byte_level(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the ids of text in parts always decode to the text, as in a byte-level BPE."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    plain = type(getattr(backend, "normalizer", "")).__name__ in ("NoneType", "NFC", "NFKC")
    return plain and "ByteLevel" in repr(getattr(backend, "pre_tokenizer", None))


def _heads(chat: Rendered) -> Iterable[str]:
    """The text before each target."""
    return (chat.text[:start] for start, _ in chat.spans)


def _assembled(
    tokenizer: "PreTrainedTokenizerBase", chat: Rendered, whole: list[int], heads: list[list[int]]
) -> Encoded:
    if any(whole[: len(head)] != head for head in heads):
        whole, heads = _cut(tokenizer, chat)
    starts = [len(head) for head in heads]
    limits = [*starts[1:], len(whole)]
    closers = format_of(tokenizer).closers
    ends = []
    for (start, end), begin, limit in zip(chat.spans, starts, limits, strict=True):
        count = sum(chat.text.count(closer, start, end) for closer in closers)
        found = [at for at in range(begin, limit) if whole[at] in closers.values()]
        ends.append(found[count - 1] + 1)
    return Encoded(
        array("i", whole[: ends[-1]]), tuple(zip(starts, ends, strict=True)), asked=chat.asked
    )


def _cut(tokenizer: "PreTrainedTokenizerBase", chat: Rendered) -> tuple[list[int], list[list[int]]]:
    """Ids of a chat whose text is encoded in parts, wherever a token would cross into a target."""
    done: list[int] = []
    heads: list[list[int]] = []
    rest, offset = ids_of(tokenizer, chat.text), 0
    for start, _ in chat.spans:
        head = (
            _ids_within(tokenizer, chat.text[offset:start])
            if offset
            else ids_of(tokenizer, chat.text[:start])
        )
        if rest[: len(head)] == head:
            heads.append([*done, *head])
            continue
        done += head
        heads.append(list(done))
        rest, offset = _ids_within(tokenizer, chat.text[start:]), start
    whole = [*done, *rest]
    if tokenizer.decode(whole) != tokenizer.decode(ids_of(tokenizer, chat.text)):
        raise DataError(
            "a reply's first token also holds the end of its prompt, and this tokenizer cannot "
            "encode the two separately"
        )
    return whole, heads


def _ids_within(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Ids of text that does not begin its row: SentencePiece would put a space before it."""
    before = ids_of(tokenizer, "\n")
    ids = ids_of(tokenizer, f"\n{text}")
    return ids[len(before) :] if ids[: len(before)] == before else ids_of(tokenizer, text)
