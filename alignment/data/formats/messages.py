"""Reads the turns of a chat, in every common notation, as messages.

A turn is `{role, content}` or `{from, value}`; content is a text or a list of parts; tool calls are
a field, a part or a turn of their own. An exchange may be one object, `{human, assistant}`, or one
list of two texts; a list of texts alternates between user and assistant. Of an object's other
fields, those with a known meaning stay in the turn; the names of the rest go to `left`.
Not here: which columns hold chats (`rows.py` and the formats).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from alignment.data.row import Reason, Rejected
from alignment.records import Message, Role, ToolCall

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
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "observation": "tool",
    "ipython": "tool",
}
"""Names of speakers in common data sets, in lower case, and their role here."""

EXCHANGES = (
    ("human", "assistant"),
    ("user", "assistant"),
    ("human", "gpt"),
    ("query", "response"),
    ("question", "answer"),
    ("prompt", "response"),
    ("input", "output"),
)
"""Keys of a question and its answer in one object."""

_CONTENTS = {"from": ("value", "content", "text"), "role": ("content", "value", "text", "parts")}
_REASONING = ("reasoning_content", "reasoning", "thinking")
_INDENTED = re.compile(r"\t| {4}| {2,}\S.*\n+[ \t]")
"""A line indented as code is: by a tab, by four, or by two if the next line is indented too."""
_DEEPEST_JSON = 4
"""Times that JSON may be encoded as JSON text again."""


def text(value: object, *, where: str) -> str:
    """A value as text, without blank lines at its start and white space at its end.

    A first line that is indented as code is stays so; other leading white space goes, since it
    would merge into the last token of the turn marker before it.

    Raises:
        Rejected: it is not text, nor a number.
    """
    if isinstance(value, str):
        bare = value.strip()
        if not value[:1].isspace() or not bare:
            return bare
        line = value[: len(value) - len(value.lstrip())].rpartition("\n")[2] + bare
        return line if _INDENTED.match(line) else bare
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise Rejected(Reason.malformed, f"{where} holds {describe(value)}, not text")


def describe(value: object) -> str:
    """A value's type, for messages."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def is_blank(value: object) -> bool:
    """Whether a value says nothing: null, white space, an empty list or object."""
    return value is None or (not value.strip() if isinstance(value, str) else value in ([], {}))


def chat(items: Sequence[object], *, where: str, left: set[str]) -> Turns:
    """The turns of a list; the names of fields that are not read are added to `left`.

    Raises:
        Rejected: an item is no turn, or its role is unknown.
    """
    if len(items) > 1 and all(isinstance(item, str) for item in items):
        return alternating(items, where=where)
    turns: list[Message] = []
    for at, item in enumerate(items):
        for message in _turns(item, f"{where}[{at}]", f"{where}[]", left):
            _add(turns, message)
    return tuple(turns)


def alternating(items: Sequence[object], *, where: str) -> Turns:
    """Texts as turns of user, assistant, user ..."""
    roles: tuple[Role, Role] = ("user", "assistant")
    return tuple(
        Message(role=roles[at % 2], content=text(item, where=f"{where}[{at}]"))
        for at, item in enumerate(items)
    )


def message(item: object, *, where: str, left: set[str]) -> Message:
    """One object as one turn.

    Raises:
        Rejected: it is not one turn, or its role is unknown.
    """
    turns = list(_turns(item, where, where, left))
    if len(turns) != 1:
        raise Rejected(Reason.malformed, f"{where} holds {len(turns)} turns in one object")
    return turns[0]


def is_message(value: object) -> bool:
    """Whether it is an object that names a speaker."""
    return isinstance(value, dict) and bool({"role", "from"} & value.keys())


def is_exchange(value: object) -> bool:
    """Whether it is a question and its answer, as one object or as a list of two texts."""
    if isinstance(value, list):
        return len(value) == 2 and all(isinstance(item, str) for item in value)
    return isinstance(value, dict) and _exchange_keys(value) is not None


def content_text(value: object, *, where: str) -> str:
    """The text of a turn's content alone: text, parts, or an object that holds them.

    Raises:
        Rejected: it holds something else.
    """
    if isinstance(value, dict):
        value = next((value[key] for key in _CONTENTS["role"] if key in value), None)
    return _content(value, where).text


def tools(value: object) -> tuple[Any, ...]:
    """The functions that a chat may call, as JSON schemas, from a list or its JSON text.

    Raises:
        Rejected: it is neither.
    """
    parsed = _parsed(value)
    if not parsed:
        return ()
    if not isinstance(parsed, list) or not all(isinstance(tool, dict) for tool in parsed):
        raise Rejected(Reason.malformed, f"tools holds {describe(value)}, not a list of functions")
    return tuple(_tool(tool) for tool in parsed)


# --- one turn -----------------------------------------------------------------------------------


def _turns(item: object, where: str, column: str, left: set[str]) -> Iterator[Message]:
    if isinstance(item, dict) and not is_message(item) and (keys := _exchange_keys(item)):
        left.update(
            f"{column}.{key}" for key in item if key not in keys and not is_blank(item[key])
        )
        yield from alternating([item[key] for key in keys], where=where)
    elif isinstance(item, dict):
        yield from _spoken(item, where, column, left)
    elif is_exchange(item) and isinstance(item, list):
        yield from alternating(item, where=where)
    else:
        raise Rejected(Reason.malformed, f"{where} holds {describe(item)}, not {{role, content}}")


def _exchange_keys(item: Mapping[str, object]) -> tuple[str, str] | None:
    return next((keys for keys in EXCHANGES if keys[0] in item and keys[1] in item), None)


def _spoken(item: dict[str, Any], where: str, column: str, left: set[str]) -> Iterator[Message]:
    """The turn of an object, after the results of tools among its parts."""
    role_key = "from" if "from" in item else "role"
    keys = _CONTENTS[role_key]
    content_key = next((key for key in keys if item.get(key) is not None), keys[0])
    role = _role(item.get(role_key), where, role_key)
    reasoning_key = next((key for key in _REASONING if isinstance(item.get(key), str)), "")
    if len(item) > 2:
        known = {role_key, content_key, reasoning_key, *_FIELDS}
        left.update(
            f"{column}.{key}" for key in item if key not in known and not is_blank(item[key])
        )
    if item[role_key] in ("function_call", "tool_call"):
        yield Message(role=role, content="", tool_calls=_calls(item.get(content_key), where))
        return
    if len(item) == 2 and isinstance(item.get(content_key), str):  # the usual case, made fast
        yield Message(role=role, content=text(item[content_key], where=where))
        return
    calls = _calls(item.get("tool_calls"), where) + _calls(item.get("function_call"), where)
    value = item.get(content_key)
    found = _Content() if value is None and calls else _content(value, f"{where}: {content_key}")
    yield from found.results
    if found.results and not found.text and role == "user":
        return
    yield Message(
        role=role,
        content=found.text,
        tool_calls=calls + tuple(found.calls),
        tools=tools(item.get("tools")),
        reasoning_content=str(item.get(reasoning_key) or "").strip(),
        name=_name(item, "name"),
        tool_call_id=_name(item, "tool_call_id"),
    )


_FIELDS = ("tool_calls", "function_call", "tools", "name", "tool_call_id")


def _role(name: object, where: str, key: str) -> Role:
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None and isinstance(name, str):
        role = ROLES.get(name.strip().lower())
    if role is None:
        reason = Reason.role_order if isinstance(name, str) else Reason.malformed
        known = ", ".join(dict.fromkeys(ROLES.values()))
        raise Rejected(reason, f"{where}: {key} {str(name)[:40]!r} is none of {known}")
    return role


def _name(item: Mapping[str, object], key: str) -> str:
    value = item.get(key)
    return value if isinstance(value, str) else ""


def _add(turns: list[Message], message: Message) -> None:
    """Append a turn; an assistant's call joins the assistant's text right before it."""
    last = turns[-1] if turns else None
    if not (message.tool_calls and last and last.role == message.role == "assistant"):
        turns.append(message)
        return
    turns[-1] = last.model_copy(
        update={
            "content": "\n\n".join(filter(None, (last.content, message.content))),
            "tool_calls": last.tool_calls + message.tool_calls,
            "reasoning_content": "\n\n".join(
                filter(None, (last.reasoning_content, message.reasoning_content))
            ),
        }
    )


# --- content ------------------------------------------------------------------------------------


@dataclass
class _Content:
    """What is in the content of a turn."""

    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n\n".join(self.texts).strip("\n")


def _content(value: object, where: str) -> _Content:
    """A text, an answer object, or a list of parts."""
    if isinstance(value, dict) and isinstance(value.get("answer"), str):
        return _Content([value["answer"].strip()])
    if not isinstance(value, list):
        return _Content([text(value, where=where)])
    found = _Content()
    for at, part in enumerate(value):
        _read_part(part, f"{where}[{at}]", found)
    return found


def _read_part(part: object, where: str, found: _Content) -> None:
    fields: dict[str, Any] = part if isinstance(part, dict) else {"text": part}
    kind = fields.get("type") or next(
        (k for k in ("functionCall", "functionResponse") if k in fields), "text"
    )
    inner = fields.get("text", fields.get("value"))
    if kind == "tool_call":
        found.calls += _calls(inner, where)
    elif kind in ("tool_use", "functionCall"):
        call = fields.get("functionCall", fields)
        given = {"input": "arguments", "args": "arguments"}
        found.calls += _calls({given.get(key, key): call[key] for key in call}, where)
    elif kind in ("tool_result", "functionResponse"):
        found.results.append(_result(fields, where))
    elif kind in ("text", "output_text", "input_text"):
        found.texts.append(text(inner, where=where))
    elif kind in ("reasoning", "thinking"):
        thought = text(fields.get("thinking", inner), where=where)
        found.texts.append(f"<think>\n{thought}\n</think>")
    else:
        raise Rejected(Reason.malformed, f"{where}: a part of type {str(kind)[:40]!r}, not text")


def _result(fields: dict[str, Any], where: str) -> Message:
    """What a tool answered, as a turn of its own."""
    inner = fields.get("functionResponse", fields)
    value = inner.get("response", inner.get("content")) if isinstance(inner, dict) else None
    content = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else None
    return Message(
        role="tool",
        content=content or _content("" if value is None else value, where).text,
        name=_name(inner, "name") if isinstance(inner, dict) else "",
        tool_call_id=_name(fields, "tool_use_id"),
    )


# --- tools --------------------------------------------------------------------------------------


def _calls(value: object, where: str) -> tuple[ToolCall, ...]:
    """Tool calls as JSON text or objects, one or a list, with or without the `function` wrapper."""
    value = _parsed(value)
    if value is None:
        return ()
    calls = value if isinstance(value, list) else [value]
    return tuple(_call(item, where) for item in calls)


def _call(item: object, where: str) -> ToolCall:
    outer: dict[str, Any] = item if isinstance(item, dict) else {}
    inner = outer.get("function", outer)
    fields: dict[str, Any] = inner if isinstance(inner, dict) else {}
    called = {"name": fields.get("name"), "arguments": _parsed(fields.get("arguments"))}
    try:
        return ToolCall.model_validate({"id": _name(outer, "id"), "function": called})
    except ValidationError as error:
        problem = f"{where}: a tool call needs a name and its arguments"
        raise Rejected(Reason.malformed, problem) from error


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A function's schema under the usual names; Anthropic calls its parameters `input_schema`."""
    if "function" in tool:
        return tool
    names = {"input_schema": "parameters"}
    return {"type": "function", "function": {names.get(key, key): tool[key] for key in tool}}


def _parsed(value: object) -> Any:
    """A value that may be given as JSON text, or as JSON text of JSON text."""
    for _ in range(_DEEPEST_JSON):
        if not isinstance(value, str):
            break
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError) as error:
            raise Rejected(Reason.malformed, "tools or a tool call are not valid JSON") from error
    return value
