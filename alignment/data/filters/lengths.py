"""Applies the length limits of training, in tokens under the chat template."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from alignment.data.row import Reason, Rejected, with_parts
from alignment.records.text import Conversation, Message, PreferencePair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
from alignment.models.chat_template import render, render_text
from alignment.models.encoding import (
    Rendered,
    encode_all,
    is_byte_level,
    locate_completions,
    locate_replies,
)


def longer_than(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    limit: int,
    *,
    add_generation_prompt: bool = False,
) -> bool:
    """Whether a chat has more than `limit` tokens under the chat template.

    A token is at least one byte, so text of at most `limit` bytes need not be encoded. That takes
    1,000 UltraFeedback pairs from 7.3 s to 1.8 s.
    """
    text = render_text(tokenizer, messages, add_generation_prompt=add_generation_prompt)
    if len(text.encode()) <= limit:
        return False
    return len(render(tokenizer, messages, add_generation_prompt=add_generation_prompt)) > limit


def fit_conversation(
    tokenizer: "PreTrainedTokenizerBase",
    conversation: Conversation,
    *,
    max_length: int,
    drop_oldest: bool = False,
) -> Conversation:
    """The conversation if it has at most `max_length` tokens under the chat template.

    With `drop_oldest`, it is made to fit by dropping its oldest exchanges, as few as necessary;
    the system turn and the last exchange stay. It is never cut within a turn: the model would not
    learn to stop.

    Raises:
        DataError: its replies cannot be located under the chat template.
        Rejected: it is too long, or with `drop_oldest` its last exchange is.
    """
    whole = conversation.messages
    for kept in (whole, *(newest for newest in newest_turns(whole) if newest != whole)):
        located = locate_replies(tokenizer, kept)
        tokens = _longest(tokenizer, [located], max_length)
        if tokens <= max_length:
            return conversation if kept == whole else with_parts(conversation, messages=kept)
        if not drop_oldest:
            break
    only = " with only its last exchange" if drop_oldest else ""
    raise Rejected(Reason.too_long, f"{tokens} tokens{only}, max_length is {max_length}")


def newest_turns(messages: tuple[Message, ...]) -> Iterator[tuple[Message, ...]]:
    """The messages from their first user turn on, then without the oldest exchange, and so on.

    A user turn goes together with its reply and tool results; the system turn stays.
    """
    system = messages[:1] if messages[0].role == "system" else ()
    dialogue = messages[len(system) :]
    for oldest, message in enumerate(dialogue):
        if message.role == "user":
            yield (*system, *dialogue[oldest:])


def _longest(tokenizer: "PreTrainedTokenizerBase", chats: Sequence[Rendered], limit: int) -> int:
    """Tokens of the longest of some chats; at most `limit` if their texts have no more bytes."""
    nbytes = max(len(chat.text.encode()) for chat in chats)
    if nbytes <= limit and is_byte_level(tokenizer):
        return nbytes
    return max(len(encoded.ids) for encoded in encode_all(tokenizer, chats))


class Trimmed(NamedTuple):
    """A pair whose prompt fits.

    Attributes:
        pair: the pair, without its oldest turns if they did not fit.
        replies_cut: how many of its two replies exceed `max_length`, where training truncates.
    """

    pair: PreferencePair
    replies_cut: int


def trim_prompt(
    tokenizer: "PreTrainedTokenizerBase",
    pair: PreferencePair,
    *,
    max_prompt_length: int,
    max_length: int,
    min_completion: int,
) -> Trimmed:
    """Trim a pair's prompt to the newest turns that fit into `max_prompt_length` tokens.

    The system turn and the last user turn are always kept. All lengths are in tokens. That of the
    prompt includes the generation prompt, which opens the reply.

    Raises:
        DataError: the replies cannot be located under the chat template.
        Rejected: `prompt_too_long` if even those two do not fit; `too_long` if `max_length`
            truncates a reply to fewer than `min_completion` tokens, or both to the same text.
    """
    prompt = _newest_turns(tokenizer, pair.prompt, max_prompt_length=max_prompt_length)
    if any(message.role == "assistant" for message in prompt):  # SFT may imitate these, too
        locate_replies(tokenizer, (*prompt, *pair.chosen))
    chats = locate_completions(tokenizer, prompt, (pair.chosen, pair.rejected))
    cut = 0
    if _longest(tokenizer, chats, max_length) > max_length:
        encoded = encode_all(tokenizer, chats)
        cut = sum(len(chat.ids) > max_length for chat in encoded)
        ((opened, _),) = encoded[0].spans
        _check_cut(
            [list(chat.ids[opened:max_length]) for chat in encoded],
            room=max_length - opened,
            min_completion=min_completion,
        )
    return Trimmed(pair if prompt == pair.prompt else with_parts(pair, prompt=prompt), cut)


def _newest_turns(
    tokenizer: "PreTrainedTokenizerBase", prompt: tuple[Message, ...], *, max_prompt_length: int
) -> tuple[Message, ...]:
    """The prompt without its oldest exchanges, as few as necessary."""
    for kept in newest_turns(prompt):
        if not longer_than(tokenizer, kept, max_prompt_length, add_generation_prompt=True):
            return kept
    tokens = len(render(tokenizer, kept, add_generation_prompt=True))
    detail = (
        f"{tokens} tokens with only the last user turn, max_prompt_length is {max_prompt_length}"
    )
    raise Rejected(Reason.prompt_too_long, detail)


def _check_cut(replies: Sequence[list[int]], *, room: int, min_completion: int) -> None:
    """Check two replies, at least one of them truncated, of which at most `room` tokens remain."""
    if room < min_completion:
        raise Rejected(
            Reason.too_long, f"only {max(room, 0)} tokens left for a reply that will be truncated"
        )
    if replies[0] == replies[1]:
        raise Rejected(Reason.too_long, f"both replies begin with the same {room} tokens")
