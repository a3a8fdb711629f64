"""A raw row and how formats read texts and chats from it.

Chats are accepted in all common notations: `{role, content}` or `{from, value}`; content as text or
as a list of parts; tool calls as a field, as a part or as a turn of their own. All become the same
`Message`. Every text is stripped of white space at both ends, since a leading space or line break
in a reply would merge into the last token of the turn marker before it. A system turn without text
is dropped. Not here: which columns a format reads (the other files of `formats/`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from alignment.data.row import Reason, Rejected
from alignment.records import (
    Conversation,
    Json,
    Message,
    PreferencePair,
    Prompt,
    Role,
    ToolCall,
)

Turns = tuple[Message, ...]

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "ipython": "tool",
}
"""Names of speakers in common data sets, and their role here."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as read, before its columns are interpreted.

    Attributes:
        file: display name of the file or source.
        row: 1-based line or row in it.
        task_type, source: labels by which metrics of its records are reported.
    """

    file: str
    row: int
    fields: Json
    task_type: str
    source: str

    def text(self, column: str) -> str:
        """The text of a column, stripped.

        Raises:
            Rejected: the column is missing or does not hold text.
        """
        return text(self.fields.get(column), where=f"column {column!r}")

    def messages(self, column: str) -> Turns:
        """The chat in a column. The functions in a column `tools` are put on its system turn.

        Raises:
            Rejected: the column does not hold a list of messages, or a role is unknown.
        """
        value = self.fields.get(column)
        if not isinstance(value, list):
            raise Rejected(
                Reason.malformed, f"column {column!r} holds {describe(value)}, not a list"
            )
        chat = tuple(_message(item, where=f"{column}[{at}]") for at, item in enumerate(value))
        if chat and chat[0].role == "system" and not chat[0].text:
            chat = chat[1:]
        return _with_tools(chat, self.fields.get("tools"))

    def turns(self, column: str, *, role: Role) -> Turns:
        """The chat or single message in a column, or its text as one turn with this role.

        Raises:
            Rejected: the column holds none of these.
        """
        value = self.fields.get(column)
        if isinstance(value, list):
            return self.messages(column)
        if isinstance(value, dict):
            return (_message(value, where=column),)
        return (Message(role=role, content=self.text(column)),)

    def conversation(self, messages: Turns) -> Conversation:
        """A chat with this row's labels."""
        return Conversation.of(messages, task_type=self.task_type, source=self.source)

    def prompt(self, messages: Turns) -> Prompt:
        """A prompt with this row's labels."""
        return Prompt.of(messages, task_type=self.task_type, source=self.source)

    def pair(
        self, prompt: Turns, *, chosen: Turns, rejected: Turns, strength: float | None = None
    ) -> PreferencePair:
        """A preference pair with this row's labels."""
        return PreferencePair.of(
            prompt,
            chosen=chosen,
            rejected=rejected,
            task_type=self.task_type,
            source=self.source,
            strength=strength,
        )


def as_prompt(question: str) -> Turns:
    """A question as a prompt of one user turn."""
    return (Message(role="user", content=question),)


def as_reply(answer: str) -> Turns:
    """An answer as a reply of one assistant turn."""
    return (Message(role="assistant", content=answer),)


def exchange(question: str, answer: str) -> Turns:
    """A chat of one question and one answer."""
    return as_prompt(question) + as_reply(answer)


def split_at_common_prefix(chosen: Turns, rejected: Turns) -> tuple[Turns, Turns, Turns]:
    """(prompt, chosen, rejected): the messages with which both chats begin, and the rest of each.

    At least the last message of each is a reply, so two equal chats give two equal replies.
    """
    longest = max(0, min(len(chosen), len(rejected)) - 1)
    pairs = zip(chosen[:longest], rejected[:longest], strict=True)
    common = next((at for at, (one, other) in enumerate(pairs) if one != other), longest)
    return chosen[:common], chosen[common:], rejected[common:]


def text(value: object, *, where: str) -> str:
    """A value as text, stripped.

    Raises:
        Rejected: it is not text.
    """
    if not isinstance(value, str):
        raise Rejected(Reason.malformed, f"{where} holds {describe(value)}, not text")
    return value.strip()


def describe(value: object) -> str:
    """A value's type, for messages."""
    return "nothing" if value is None else f"a {type(value).__name__}"


# --- messages -----------------------------------------------------------------------------------


def _message(item: object, *, where: str) -> Message:
    if not isinstance(item, dict):
        raise Rejected(Reason.malformed, f"{where} holds {describe(item)}, not {{role, content}}")
    role_key, content_key = ("from", "value") if "from" in item else ("role", "content")
    name = item.get(role_key)
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        reason = Reason.role_order if isinstance(name, str) else Reason.malformed
        detail = f"{where}: {role_key} {str(name)[:40]!r} is none of {_known_roles()}"
        raise Rejected(reason, detail)
    if name == "function_call":
        calls = _calls(item.get(content_key), where=where)
        return Message(role="assistant", content="", tool_calls=calls)
    calls = _calls(item.get("tool_calls"), where=where)
    content = item.get(content_key)
    if content is None and calls:
        return Message(role=role, content="", tool_calls=calls)
    content, more = _content(content, where=f"{where}: {content_key}")
    tools = _tools(item.get("tools")) if "tools" in item else ()
    return Message(role=role, content=content, tool_calls=calls + more, tools=tools)


def _known_roles() -> str:
    return ", ".join(dict.fromkeys(ROLES.values()))


def _content(value: object, *, where: str) -> tuple[str, tuple[ToolCall, ...]]:
    """The text of a turn, and any tool calls among its parts."""
    if isinstance(value, dict) and isinstance(value.get("answer"), str):
        return value["answer"].strip(), ()
    if not isinstance(value, list):
        return text(value, where=where), ()
    texts: list[str] = []
    calls: list[ToolCall] = []
    for at, part in enumerate(value):
        place = f"{where}[{at}]"
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        inner = part.get("text", part.get("value")) if isinstance(part, dict) else part
        if kind == "tool_call":
            calls += _calls(inner, where=place)
        elif kind in ("text", "output_text", "input_text"):
            texts.append(text(inner, where=place))
        elif kind in ("reasoning", "thinking"):
            texts.append(f"<think>\n{text(inner, where=place)}\n</think>")
        else:
            raise Rejected(
                Reason.malformed, f"{place}: a part of type {str(kind)[:40]!r}, not text"
            )
    return "\n\n".join(texts).strip(), tuple(calls)


def _calls(value: object, *, where: str) -> tuple[ToolCall, ...]:
    """Tool calls as JSON text or objects, one or a list, with or without the `function` wrapper."""
    value = _parsed(value)
    if value is None:
        return ()
    calls = value if isinstance(value, list) else [value]
    return tuple(_call(item, where=where) for item in calls)


def _call(item: object, *, where: str) -> ToolCall:
    inner = item.get("function", item) if isinstance(item, dict) else None
    fields: dict[str, Any] = inner if isinstance(inner, dict) else {}
    called = {"name": fields.get("name"), "arguments": _parsed(fields.get("arguments"))}
    try:
        return ToolCall.model_validate({"function": called})
    except ValidationError as error:
        problem = f"{where}: a tool call needs a name and its arguments"
        raise Rejected(Reason.malformed, problem) from error


def _with_tools(chat: Turns, value: object) -> Turns:
    """The chat, with the functions that it may call on its system turn."""
    tools = _tools(value)
    if not tools:
        return chat
    if chat and chat[0].role == "system":
        return (chat[0].model_copy(update={"tools": tools}), *chat[1:])
    return (Message(role="system", content="", tools=tools), *chat)


def _tools(value: object) -> tuple[Any, ...]:
    parsed = _parsed(value)
    if not parsed:
        return ()
    if not isinstance(parsed, list) or not all(isinstance(tool, dict) for tool in parsed):
        raise Rejected(Reason.malformed, f"tools holds {describe(value)}, not a list of functions")
    return tuple(
        tool if "function" in tool else {"type": "function", "function": tool} for tool in parsed
    )


def _parsed(value: object) -> Any:
    """A value that may be given as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError) as error:
        raise Rejected(Reason.malformed, "tools or a tool call are not valid JSON") from error
