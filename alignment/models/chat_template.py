"""Chats to token ids, and which of them are targets: assistant turns with their stop token.

Everything is derived from the tokenizer's own chat template; no id is hard-coded here.
Targets are found by *position*. Where the pad token is the stop token, a collator that masks by
token id removes the stop token from the labels, and the model never learns to stop.
Not here: batches by token budget (`scoring/batches.py`), checks of the text (`data/filters/`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

from alignment.errors import DataError, ModelError
from alignment.records import Conversation, Function, Message, ToolCall

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a position that is not a target, as torch and transformers define it."""

Span = tuple[int, int]
"""Positions start <= i < end."""

_QUESTION = (Message(role="user", content="Question"),)
_ANSWERED = (*_QUESTION, Message(role="assistant", content="Answer"))


def render(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
) -> list[int]:
    """Token ids of a chat under the tokenizer's template, optionally with a generation prompt."""
    encoding = tokenizer.apply_chat_template(
        **as_template(messages),
        add_generation_prompt=add_generation_prompt,
        tokenize=True,
        return_dict=True,
    )
    return cast(list[int], cast(Any, encoding)["input_ids"])


def as_template(messages: Sequence[Message]) -> dict[str, Any]:
    """A chat as arguments of `apply_chat_template`: `conversation` and the `tools` it offers."""
    tools = list(messages[0].tools) if messages else []
    bare = messages[1:] if tools and not messages[0].content else messages
    chat = [message.model_dump(exclude={"tools"}) for message in bare]
    return {"conversation": chat, "tools": tools or None}


def offers_tools(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template renders a tool call's name and arguments, and the tool's answer."""
    call = ToolCall(function=Function(name="look_up", arguments={"word": "amber"}))
    chat = [
        *_QUESTION,
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="resin"),
    ]
    try:
        text = str(tokenizer.apply_chat_template(**as_template(chat), tokenize=False))
    except Exception as error:  # a template may refuse roles with any error of its own
        if type(error).__module__.split(".")[0] not in ("jinja2", "builtins"):
            raise
        return False
    return all(word in text for word in ("look_up", "amber", "resin"))


def response_template_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Ids that open an assistant turn: what the generation prompt adds to a question.

    Raises:
        ModelError: the tokenizer has no chat template, or its generation prompt is empty or
            differs from how the template renders past assistant turns.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"tokenizer {tokenizer.name_or_path!r} has no chat template; use an instruct model's"
        )
    question = render(tokenizer, _QUESTION)
    opened = render(tokenizer, _QUESTION, add_generation_prompt=True)
    opening = opened[len(question) :]
    answered = render(tokenizer, _ANSWERED)
    if not opening or opened[: len(question)] != question or answered[: len(opened)] != opened:
        raise ModelError(
            f"the generation prompt of {tokenizer.name_or_path!r} differs from how its chat "
            "template renders past assistant turns, so replies cannot be located in a chat; "
            "use another template"
        )
    return opening


def end_of_turn_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Id of the stop token: the token that closes an assistant turn, e.g. `<|im_end|>`.

    Raises:
        ModelError: the template closes a reply without a special token.
    """
    reply_start = len(render(tokenizer, _QUESTION)) + len(response_template_ids(tokenizer))
    control, answer = control_tokens(tokenizer), _ANSWERED[-1].text
    reply = render(tokenizer, _ANSWERED)[reply_start:]
    ends = (at for at in range(len(reply)) if answer in tokenizer.decode(reply[: at + 1]))
    after = reply[next(ends, 0) :]  # a template may open and close a thinking block before the text
    closing = next((token for token in after if token in control), None)
    if closing is None:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path!r} does not end a reply with a special "
            "token, so a model cannot learn to stop; use another template"
        )
    return closing


@dataclass(frozen=True)
class CompletionOnlyCollator:
    """Pads rows into a batch whose labels are the assistant turns, each with its stop token.

    Attributes:
        response_template: ids that open an assistant turn.
        end_of_turn: id that closes it; a target even if it is also the padding token.
        pad_token: id used for padding, on the right.
    """

    response_template: tuple[int, ...]
    end_of_turn: int
    pad_token: int

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> Self:
        """The collator for a tokenizer's chat template.

        Raises:
            ModelError: the template does not mark replies, or there is no padding token.
        """
        if tokenizer.pad_token_id is None:
            raise ModelError(
                f"tokenizer {tokenizer.name_or_path!r} has no padding token; set pad_token"
            )
        return cls(
            response_template=tuple(response_template_ids(tokenizer)),
            end_of_turn=end_of_turn_id(tokenizer),
            pad_token=int(cast(int, tokenizer.pad_token_id)),
        )

    def spans(self, ids: Sequence[int]) -> list[Span]:
        """Positions of the replies in one chat: after the opening, through the stop token.

        A truncated turn without its stop token extends to the last id.
        """
        row, template = list(ids), list(self.response_template)
        spans: list[Span] = []
        at = 0
        while at + len(template) <= len(row):
            start = at + len(template)
            if row[at:start] != template:
                at += 1
                continue
            stops = (i + 1 for i in range(start, len(row)) if row[i] == self.end_of_turn)
            at = next(stops, len(row))
            if at > start:
                spans.append((start, at))
        return spans

    def labels(self, ids: Sequence[int], *, where: str) -> list[int]:
        """The ids, with `IGNORED` at every position outside a reply.

        Raises:
            DataError: there is no reply at all.
        """
        spans = self.spans(ids)
        if not spans:
            raise DataError(
                f"{where}: no reply found in {len(ids)} tokens: the opening "
                f"{list(self.response_template)} does not occur, or nothing follows it. "
                "Prepare the data with this tokenizer, or raise max_length."
            )
        labels = [IGNORED] * len(ids)
        for start, end in spans:
            labels[start:end] = ids[start:end]
        return labels

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, "Tensor"]:
        """`input_ids`, `attention_mask` and `labels`, each [rows, longest row] of int64.

        Raises:
            DataError: a row has no reply; the message names its `id` or its index in the batch.
        """
        import torch

        rows = [list(feature["input_ids"]) for feature in features]
        names = [f"row {feature.get('id', at)}" for at, feature in enumerate(features)]
        labels = [self.labels(ids, where=name) for ids, name in zip(rows, names, strict=True)]
        ones = [[1] * len(ids) for ids in rows]
        return {
            "input_ids": torch.tensor(_padded(rows, self.pad_token)),
            "attention_mask": torch.tensor(_padded(ones, 0)),
            "labels": torch.tensor(_padded(labels, IGNORED)),
        }


def supervised_spans_from_template(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]
) -> list[Span]:
    """Positions of the replies, found by rendering the chat turn by turn instead of by search.

    A reply starts where the preceding turns plus a generation prompt end. It ends at the last stop
    token of the chat rendered up to and including the reply.
    """
    stop = end_of_turn_id(tokenizer)
    spans: list[Span] = []
    for at, message in enumerate(messages):
        if message.role == "assistant":
            start = len(render(tokenizer, messages[:at], add_generation_prompt=True))
            until = render(tokenizer, messages[: at + 1])
            spans.append((start, len(until) - until[::-1].index(stop)))
    return spans


def check_spans(
    tokenizer: "PreTrainedTokenizerBase", conversations: Iterable[Conversation]
) -> None:
    """Check, chat by chat, that the collator finds the replies where the template renders them.

    Raises:
        DataError: they differ; the message names the conversation.
    """
    collator = CompletionOnlyCollator.of(tokenizer)
    for conversation in conversations:
        found = collator.spans(render(tokenizer, conversation.messages))
        expected = supervised_spans_from_template(tokenizer, conversation.messages)
        if found != expected:
            raise DataError(
                f"conversation {conversation.id} ({conversation.source}): the chat template "
                f"renders the replies at {expected}, but the search for the opening of a reply "
                f"finds {found}. Possible causes: white space at the start of a reply (strip it or "
                "drop the row), or a template that renders earlier replies differently from the "
                "last one (set another template in the tokenizer)."
            )


def _padded(rows: list[list[int]], padding: int) -> list[list[int]]:
    longest = max(map(len, rows))
    return [row + [padding] * (longest - len(row)) for row in rows]


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[int, str]:
    """Every added or special token of the vocabulary, as id to text."""
    added = {index: text for text, index in tokenizer.get_added_vocab().items()}
    special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return added | dict(special)
