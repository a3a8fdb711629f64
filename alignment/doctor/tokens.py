"""Rows as the token ids that training sees before truncation, with the positions of the targets.

They are made by the encoder that training uses, in one call, which tokenizers spread over all
cores: the 1,000 UltraFeedback pairs of the tests take one to two seconds.
Not here: what is wrong with a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignment.models.encoding import Encoded, encode_all, locate_completions, locate_replies
from alignment.records.text import Conversation, PreferencePair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair: its two chats, which have the same prompt."""

    chosen: Encoded
    rejected: Encoded

    @property
    def prompt(self) -> int:
        """Tokens of the prompt, with the opening of the reply."""
        return self.chosen.spans[0][0]

    @property
    def whole(self) -> int:
        """Tokens of the prompt plus the longer reply."""
        return max(len(self.chosen.ids), len(self.rejected.ids))

    @property
    def replies(self) -> tuple[int, int]:
        """Tokens of the chosen and of the rejected reply."""
        return self.chosen.trained(self.whole), self.rejected.trained(self.whole)


def encode_chats(
    tokenizer: "PreTrainedTokenizerBase", rows: Sequence[Conversation]
) -> tuple[Encoded, ...]:
    """Encodes conversations as for SFT: the targets are the replies, each with its stop token."""
    return tuple(encode_all(tokenizer, [locate_replies(tokenizer, row.messages) for row in rows]))


def encode_pairs(
    tokenizer: "PreTrainedTokenizerBase", rows: Sequence[PreferencePair]
) -> tuple[EncodedPair, ...]:
    """Encodes pairs as for DPO: the target is the reply with its stop token."""
    located = [
        chat
        for row in rows
        for chat in locate_completions(tokenizer, row.prompt, (row.chosen, row.rejected))
    ]
    encoded = encode_all(tokenizer, located)
    return tuple(map(EncodedPair, encoded[::2], encoded[1::2]))
