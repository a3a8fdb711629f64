"""Applies the length limits of training, in tokens under the chat template."""

from collections.abc import Sequence
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
    tokenizer: "PreTrainedTokenizerBase", conversation: Conversation, *, max_length: int
) -> None:
    """Check a conversation's length. It is never truncated: the model would not learn to stop.

    Raises:
        Rejected: it has more than `max_length` tokens.
    """
    if longer_than(tokenizer, conversation.messages, max_length):
        tokens = len(render(tokenizer, conversation.messages))
        raise Rejected(Reason.too_long, f"{tokens} tokens, max_length is {max_length}")


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
    system = prompt[:1] if prompt[0].role == "system" else ()
    dialogue = prompt[len(system) :]
    starts = [at for at, message in enumerate(dialogue) if message.role == "user"]
    for oldest in starts:  # drop a user turn together with its reply and tool results
        kept = (*system, *dialogue[oldest:])
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
