"""Chats as text under a tokenizer's chat template, and what the template writes around the turns.

Everything is derived from the template itself, by rendering small chats; no id is hard-coded here.
Not here: token ids and targets (`encoding.py`), which template is used (`template.py`), checks of
the text of a row (`data/filters/`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from jinja2.exceptions import TemplateError

from alignment.errors import DataError, ModelError, one_line
from alignment.models.template import TrlTemplate
from alignment.records.text import Function, Message, ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SYSTEM = Message(role="system", content="Rules")
_QUESTION = Message(role="user", content="Question")
_ANSWER = Message(role="assistant", content="Answer")
_ID = "call12345"  # Mistral's templates refuse ids of another length
_CALL = ToolCall(id=_ID, function=Function(name="look_up", arguments={"word": "amber"}))
_CALLED = (
    _QUESTION,
    Message(role="assistant", content="", tool_calls=(_CALL,)),
    Message(role="tool", content="resin", name="look_up", tool_call_id=_ID),
)
_TOOL = {
    "type": "function",
    "function": {"name": "look_up", "description": "Explains.", "parameters": {"type": "object"}},
}
_SAMPLES = (
    (_QUESTION, _ANSWER),
    (_SYSTEM, _QUESTION, _ANSWER, _QUESTION, _ANSWER),
    (Message(role="system", content="Rules", tools=(_TOOL,)), *_CALLED, _ANSWER),
    (*_CALLED, _ANSWER),
)
"""Chats that show what a template writes around turns, tool calls and their results."""

_THOUGHT = re.compile(r"\W*(?:seed:)?think(?:ing)?\W*", re.IGNORECASE)
"""The text of tokens that open or close a thought, such as <think>. They cannot forge a turn."""
_SPOKEN = re.compile(r"(?s).*(?:</think>|</seed:think>|\[/THINK\]|<\|channel\|>final<\|message\|>)")
_BEGUN = re.compile(r"(?:<think>|<seed:think>|\[THINK\])\s*\Z")
_THINKING = re.compile(r"\s*(?:<think>|<seed:think>|\[THINK\]|<\|channel\|>analysis)")


def render_text(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
) -> str:
    """A chat as text under the tokenizer's template, optionally with a generation prompt.

    Raises:
        DataError: the template refuses this chat, e.g. because it has no system turns.
    """
    try:
        text = tokenizer.apply_chat_template(
            **as_template(messages), add_generation_prompt=add_generation_prompt, tokenize=False
        )
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        reason = one_line(error)
        raise DataError(f"the chat template refuses this chat: {reason}") from error
    return cast(str, text)


def render(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
) -> list[int]:
    """Token ids of a chat under the tokenizer's template, optionally with a generation prompt."""
    text = render_text(tokenizer, messages, add_generation_prompt=add_generation_prompt)
    return ids_of(tokenizer, text)


def ids_of(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of rendered text, which holds its own BOS token if the model has one."""
    return cast(list[int], tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def as_template(messages: Sequence[Message]) -> dict[str, Any]:
    """A chat as arguments of `apply_chat_template`: `conversation` and the `tools` it offers."""
    tools = list(messages[0].tools) if messages else []
    bare = messages[1:] if tools and not messages[0].content else messages
    return {"conversation": [_as_dict(message) for message in bare], "tools": tools or None}


def _as_dict(message: Message) -> dict[str, Any]:
    turn = message.model_dump(exclude={"tools", "untrained"})
    if message.reasoning_content:  # gpt-oss and LFM2.5 read it under another name
        turn["thinking"] = message.reasoning_content
    return turn


def offers_tools(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template renders a tool call's name and arguments, and the tool's answer."""
    try:
        text = render_text(tokenizer, _CALLED)
    except DataError:
        return False
    return all(word in text for word in ("look_up", "amber", "resin"))


def answer_of(reply: str) -> str:
    """A reply without the thought before it; empty if the thought never ended."""
    spoken = _SPOKEN.match(reply)
    if spoken:
        return reply[spoken.end() :].lstrip("\n")
    return "" if _THINKING.match(reply) else reply


def opens_thought(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the generation prompt opens a thought, so that a reply begins within it."""
    known = format_of(tokenizer)
    return _BEGUN.search(known.opening + known.thought) is not None


# --- what a template writes around the turns ----------------------------------------------------


@dataclass(frozen=True)
class ChatFormat:
    """What a chat template writes around the turns.

    Attributes:
        opening: the text that opens a reply, after what closes the question.
        thought: what the generation prompt adds to `opening` and past replies lack, e.g. the
            opening of a thought; mostly empty.
        stop: id of the token that closes the last reply of a chat.
        closers: every token that may close a reply, id by text; `stop` is one of them.
    """

    opening: str
    thought: str
    stop: int
    closers: Mapping[str, int]


_FORMATS: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, ChatFormat]]" = (
    WeakKeyDictionary()
)
_CONTROL: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, dict[int, str]]]" = (
    WeakKeyDictionary()
)


def format_of(tokenizer: "PreTrainedTokenizerBase") -> ChatFormat:
    """What the tokenizer's template writes around the turns; derived once per template.

    Raises:
        ModelError: there is no template, it does not render a question and an answer, or it
            closes a reply without a special token.
    """
    state = (tokenizer.chat_template, len(tokenizer), tokenizer.eos_token)
    known = _FORMATS.get(tokenizer)
    if known is None or known[0] != state:
        known = _FORMATS[tokenizer] = (state, _derived(tokenizer))
    return known[1]


def end_of_turn_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Id of the stop token: the token that closes a reply, e.g. `<|im_end|>`.

    Raises:
        ModelError: as `format_of`.
    """
    return format_of(tokenizer).stop


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[int, str]:
    """The tokens that could forge a turn, as id to text.

    They are the special tokens, and the added ones that the template writes around turns, tool
    calls and tool results. Other added tokens are ordinary text (blank lines and HTML tags in
    Gemma's vocabulary), and so are those that open and close a thought.
    """
    state = (tokenizer.chat_template, len(tokenizer))
    known = _CONTROL.get(tokenizer)
    if known is None or known[0] != state:
        known = _CONTROL[tokenizer] = (state, _control_tokens(tokenizer))
    return known[1]


def written_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[int, str]:
    """The added tokens that the template itself writes, as id to text."""
    written = {index for text in _rendered_samples(tokenizer) for index in ids_of(tokenizer, text)}
    added = {index: text for text, index in tokenizer.get_added_vocab().items()}
    return {index: added[index] for index in written & added.keys()}


def _control_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[int, str]:
    special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    special |= {
        index: token.content
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special
    }
    found = written_tokens(tokenizer) | special
    return {index: text for index, text in found.items() if _is_structural(text)}


def _is_structural(text: str) -> bool:
    return not text.isspace() and not _THOUGHT.fullmatch(text)


def _rendered_samples(tokenizer: "PreTrainedTokenizerBase") -> Iterator[str]:
    for chat in _SAMPLES if tokenizer.chat_template else ():
        try:
            yield render_text(tokenizer, chat)
            yield render_text(tokenizer, chat[:-1], add_generation_prompt=True)
        except DataError:
            continue  # another sample shows what this template has


def _derived(tokenizer: "PreTrainedTokenizerBase") -> ChatFormat:
    name = tokenizer.name_or_path
    if not tokenizer.chat_template:
        raise ModelError(f"tokenizer {name!r} has no chat template; use an instruct model's")
    try:
        opened = render_text(tokenizer, [_QUESTION], add_generation_prompt=True)
        last = render_text(tokenizer, [_QUESTION, _ANSWER])
        past = [
            render_text(tokenizer, [_QUESTION, answer, _QUESTION])
            for answer in (_ANSWER, Message(role="assistant", content="Yes"))
        ]
    except DataError as error:
        raise ModelError(
            f"the chat template of {name!r} does not render a question and an answer ({error}); "
            "use another template"
        ) from error
    if _ANSWER.content not in last or _ANSWER.content not in past[0]:
        raise ModelError(
            f"the chat template of {name!r} does not render what the assistant said; use another "
            "template"
        )
    _check_opening(tokenizer, opened, last)
    begun = min(_shared(opened, text) for text in past)
    if _QUESTION.content not in opened[:begun]:
        raise ModelError(
            f"the chat template of {name!r} renders a question differently once it is answered, so "
            f"replies cannot be located in a chat; {_other_template(tokenizer)}"
        )
    closers = [_closer(tokenizer, text) for text in (last, past[0])]
    if closers[0] is None:
        raise ModelError(
            f"the chat template of {name!r} does not end a reply with a special token, so a model "
            f"cannot learn to stop; {_other_template(tokenizer)}"
        )
    found = (*closers, tokenizer.eos_token_id)
    known = {str(tokenizer.decode([index])): index for index in found if index is not None}
    return ChatFormat(
        opening=_opening(opened[:begun], known),
        thought=opened[begun:],
        stop=closers[0],
        closers=known | _call_closer(tokenizer, known),
    )


def _check_opening(tokenizer: "PreTrainedTokenizerBase", opened: str, last: str) -> None:
    """Refuse a template that opens a reply only once there is one; the model would be asked so."""
    before = last[: last.rindex(_ANSWER.content)]
    written = before[len(opened) :] if before.startswith(opened) else ""
    control = control_tokens(tokenizer)
    if opened == render_text(tokenizer, [_QUESTION]) and any(
        index in control for index in ids_of(tokenizer, written)
    ):
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path!r} does not open a reply: it ignores "
            f"add_generation_prompt, so the model would have to write {written!r} itself; "
            f"{_other_template(tokenizer)}"
        )


def _other_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    try:
        known = TrlTemplate().source(tokenizer) != tokenizer.chat_template
    except ModelError:
        known = False
    return (
        "set template: {name: trl}, TRL's version for training"
        if known
        else ("use another template")
    )


def _opening(opened: str, closers: Mapping[str, int]) -> str:
    """What follows the question in an opened chat, without what closes the question."""
    after = opened[opened.rindex(_QUESTION.content) + len(_QUESTION.content) :]
    ends = [after.rindex(closer) + len(closer) for closer in closers if closer in after]
    return after[max(ends, default=0) :].lstrip()


def _closer(tokenizer: "PreTrainedTokenizerBase", text: str) -> int | None:
    """The first control token after the answer in a rendered chat."""
    after = text[text.rindex(_ANSWER.content) + len(_ANSWER.content) :]
    control = control_tokens(tokenizer)
    return next((index for index in ids_of(tokenizer, after) if index in control), None)


def _call_closer(tokenizer: "PreTrainedTokenizerBase", known: Mapping[str, int]) -> dict[str, int]:
    """The token that closes a tool call, in templates that close calls otherwise than replies."""
    if not offers_tools(tokenizer):
        return {}
    before, _, after = render_text(tokenizer, _CALLED).partition("amber")
    after = after.partition("resin")[0]
    if any(closer in after for closer in known):
        return {}
    control = control_tokens(tokenizer)
    new = (index for index in ids_of(tokenizer, after) if control.get(index, before) not in before)
    return {control[index]: index for index in list(new)[:1]}


def _shared(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of the longest common prefix."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
