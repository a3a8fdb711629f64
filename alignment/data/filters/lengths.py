"""Applies the length limits of training, in tokens under the chat template."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from alignment.data.row import Reason, Rejected, with_parts
from alignment.records import Conversation, Message, PreferencePair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
from alignment.models.chat_template import as_template, render


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
    text = tokenizer.apply_chat_template(
        **as_template(messages),
        add_generation_prompt=add_generation_prompt,
        tokenize=False,
    )
    if len(str(text).encode()) <= limit:
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
        Rejected: it is too long, or with `drop_oldest` its last exchange is.
    """
    for kept in dict.fromkeys((conversation.messages, *newest_turns(conversation.messages))):
        if not longer_than(tokenizer, kept, max_length):
            unchanged = kept == conversation.messages
            return conversation if unchanged else with_parts(conversation, messages=kept)
        if not drop_oldest:
            break
    tokens = len(render(tokenizer, kept))
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
        Rejected: `prompt_too_long` if even those two do not fit; `too_long` if `max_length`
            truncates a reply to fewer than `min_completion` tokens, or both to the same text.
    """
    prompt = _newest_turns(tokenizer, pair.prompt, max_prompt_length=max_prompt_length)
    chats = [(*prompt, *reply) for reply in (pair.chosen, pair.rejected)]
    cut = sum(longer_than(tokenizer, chat, max_length) for chat in chats)
    if cut:
        opened = len(render(tokenizer, prompt, add_generation_prompt=True))
        _check_cut(
            [render(tokenizer, chat)[opened:max_length] for chat in chats],
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
