"""Rows as the token ids that training sees before truncation, with the positions of the targets.

Texts are encoded in batches, which tokenizers do on all cores: the 1,000 UltraFeedback pairs of
the tests take one to two seconds. Not here: what is wrong with a row.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from alignment.models.chat_template import CompletionOnlyCollator, Span
from alignment.records import Conversation, Message, PreferencePair

Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One chat, rendered by the template and tokenized.

    Attributes:
        ids: the whole chat, not truncated to the training's limit.
        spans: positions of the targets; ordered and disjoint.
    """

    ids: Ids
    spans: tuple[Span, ...]

    def trained(self, limit: int) -> int:
        """Number of targets among the first `limit` tokens."""
        return sum(max(0, min(end, limit) - start) for start, end in self.spans)


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair: its prompt with the generation prompt appended, and its two chats."""

    prompt: Ids
    chosen: Encoded
    rejected: Encoded

    @property
    def whole(self) -> int:
        """Tokens of the prompt plus the longer reply."""
        return max(len(self.chosen.ids), len(self.rejected.ids))

    @property
    def replies(self) -> tuple[int, int]:
        """Tokens of the chosen and of the rejected reply."""
        return self.chosen.trained(self.whole), self.rejected.trained(self.whole)


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Conversation]
) -> tuple[Encoded, ...]:
    """Encodes conversations as for SFT: the targets are the replies, each with its stop token."""
    collator = CompletionOnlyCollator.of(tokenizer)
    encoded = _encode(tokenizer, [row.messages for row in rows])
    return tuple(Encoded(ids, tuple(collator.spans(ids))) for ids in encoded)


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[PreferencePair]
) -> tuple[EncodedPair, ...]:
    """Encodes pairs as for DPO: the targets are the tokens after the prompt in each chat."""
    prompts = _encode(tokenizer, [row.prompt for row in rows], opened=True)
    chosen = _encode(tokenizer, [(*row.prompt, *row.chosen) for row in rows])
    rejected = _encode(tokenizer, [(*row.prompt, *row.rejected) for row in rows])
    return tuple(
        EncodedPair(prompt, _after(prompt, one), _after(prompt, other))
        for prompt, one, other in zip(prompts, chosen, rejected, strict=True)
    )


def _after(prompt: Ids, ids: Ids) -> Encoded:
    # As in TRL's DPOTrainer: if the prompt is not a prefix, use the longest common prefix.
    start = len(prompt)
    if ids[:start] != prompt:
        pairs = zip(prompt, ids, strict=False)
        start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return Encoded(ids, ((start, len(ids)),))


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[Sequence[Message]],
    *,
    opened: bool = False,
) -> list[Ids]:
    if not chats:
        return []
    texts = tokenizer.apply_chat_template(
        [[message.model_dump() for message in chat] for chat in chats],
        add_generation_prompt=opened,
        tokenize=False,
    )
    rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [array("i", ids) for ids in rows]
