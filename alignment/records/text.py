"""What a model reads and writes: messages, and rows of data made of them."""

import json
from typing import Literal

from pydantic import JsonValue, SerializerFunctionWrapHandler, field_validator, model_serializer

from alignment.records.base import Frozen, digest_of

Role = Literal["system", "user", "assistant", "tool"]


class Function(Frozen):
    """The name of a function and the arguments of a call."""

    name: str
    arguments: dict[str, JsonValue]


class ToolCall(Frozen):
    """A tool call, in the form that chat templates expect."""

    type: Literal["function"] = "function"
    id: str = ""
    function: Function

    @model_serializer(mode="wrap")
    def _without_empty_id(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        dumped: dict[str, object] = serialise(self)
        return dumped if self.id else {k: value for k, value in dumped.items() if k != "id"}


class Message(Frozen):
    """One turn of a chat. All fields but the first two are left out of the JSON when empty.

    Attributes:
        tool_calls: calls made by an assistant turn, after its text or instead of it.
        tools: on the opening system turn, the functions that may be called (JSON schemas); such a
            turn may have no text.
        reasoning_content: what an assistant turn thought before its text.
        name: of the speaker; on a tool's turn, of the function that answers.
        tool_call_id: on a tool's turn, the `id` of the call that it answers.
        untrained: an assistant turn that its source marks as context: SFT does not imitate it.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tools: tuple[dict[str, JsonValue], ...] = ()
    reasoning_content: str = ""
    name: str = ""
    tool_call_id: str = ""
    untrained: bool = False

    @property
    def text(self) -> str:
        """What a chat template renders of its own: reasoning, content, tool calls and tools."""
        if not self.tool_calls and not self.tools and not self.reasoning_content:
            return self.content
        extra = [call.function.model_dump() for call in self.tool_calls] + list(self.tools)
        lines = [self.reasoning_content] * bool(self.reasoning_content) + [self.content]
        return "\n".join([*lines, *(json.dumps(e, ensure_ascii=False) for e in extra)])

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        dumped: dict[str, object] = serialise(self)
        return {name: value for name, value in dumped.items() if value or name in _ALWAYS_WRITTEN}


_ALWAYS_WRITTEN = ("role", "content")


class Conversation(Frozen):
    """A chat to imitate in SFT. `id` is a hash of its messages (`Conversation.of`)."""

    id: str
    messages: tuple[Message, ...]
    task_type: str
    source: str

    @classmethod
    def of(cls, messages: tuple[Message, ...], *, task_type: str, source: str) -> "Conversation":
        """Build a conversation; its id is a hash of its content."""
        content = [(message.role, message.text) for message in messages]
        return cls(
            id=digest_of(content)[:16], messages=messages, task_type=task_type, source=source
        )


class PreferencePair(Frozen):
    """Two replies to one prompt, one preferred. `id` is a hash of the three texts.

    Attributes:
        prompt: the turns before the replies, ending with a user turn.
        chosen: the preferred reply, usually one assistant message.
        rejected: the other reply.
        strength: how strongly `chosen` is preferred, 0..1; None if the source does not say.
    """

    id: str
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    task_type: str
    source: str
    strength: float | None = None

    @classmethod
    def of(
        cls,
        prompt: tuple[Message, ...],
        *,
        chosen: tuple[Message, ...],
        rejected: tuple[Message, ...],
        task_type: str,
        source: str,
        strength: float | None = None,
    ) -> "PreferencePair":
        """Build a pair; its id is a hash of its content."""
        parts = [[(m.role, m.text) for m in part] for part in (prompt, chosen, rejected)]
        return cls(
            id=digest_of(parts)[:16],
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            task_type=task_type,
            source=source,
            strength=strength,
        )


class Prompt(Frozen):
    """A prompt without a reply: user turns, perhaps after a system turn."""

    id: str
    prompt: tuple[Message, ...]
    task_type: str
    source: str

    @classmethod
    def of(cls, prompt: tuple[Message, ...], *, task_type: str, source: str) -> "Prompt":
        """Build a prompt; its id is a hash of its content."""
        content = [(message.role, message.text) for message in prompt]
        return cls(id=digest_of(content)[:16], prompt=prompt, task_type=task_type, source=source)


class Quarantined(Frozen):
    """A row that is not used: where it came from, and why it was dropped.

    Attributes:
        file: the source as named in the config (a path, a hub id, "practice").
        row: 1-based line in a JSONL file, 1-based row elsewhere.
        reason: one of `alignment.data.row.Reason`.
        detail: a short description of what was found.
        id: id of the record, if the row could be read.
    """

    file: str
    row: int
    reason: str
    detail: str = ""
    id: str | None = None

    @field_validator("file", "detail")
    @classmethod
    def _encodable(cls, text: str) -> str:
        """Escape what UTF-8 cannot encode: a broken row may contain lone surrogates."""
        return text.encode("utf-8", "backslashreplace").decode()
