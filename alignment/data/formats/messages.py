"""Reads the turns of a chat, in every common notation, as messages.

A turn is `{role, content}` or `{from, value}`; content is a text or a list of parts; tool calls are
a field, a part or a turn of their own. An exchange may be one object, `{human, assistant}`, or one
list of two texts; a list of texts alternates between user and assistant. Of an object's other
fields, those with a known meaning stay in the turn; the names of the rest go to `left`.
Not here: which columns hold chats (`rows.py` and the formats).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, NamedTuple

from pydantic import ValidationError

from alignment.data.row import Reason, Rejected
from alignment.records.text import Message, Role, ToolCall

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
    "chatbot": "assistant",
    "ai": "assistant",
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
    if _is_number(value):
        return str(value)
    raise Rejected(Reason.malformed, f"{where} holds {describe(value)}, not text")


def _is_number(value: object) -> bool:
    """Whether it is a number; what pandas writes for a missing cell, NaN, is none."""
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def describe(value: object) -> str:
    """A value's type, for messages."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def is_blank(value: object) -> bool:
    """Whether a value says nothing: null, white space, an empty list or object."""
    return value is None or (not value.strip() if isinstance(value, str) else value in ([], {}))


class _Place(NamedTuple):
    """Where an object is, for messages, and the names of its fields that are not read."""

    where: str
    column: str
    left: set[str]

    def inside(self, name: str, at: int | None = None) -> "_Place":
        """The place of a field, or of an item in it."""
        index, of_any = ("", "") if at is None else (f"[{at}]", "[]")
        return _Place(f"{self.where}{name}{index}", f"{self.column}{name}{of_any}", self.left)

    def leave(self, item: Mapping[str, object], read: Iterable[str]) -> None:
        """Note the fields of an object that say something and are not among those read."""
        known = {*read}
        self.left.update(
            f"{self.column}.{key}" for key in item if key not in known and not is_blank(item[key])
        )


def chat(items: Sequence[object], *, where: str, left: set[str]) -> Turns:
    """The turns of a list; the names of fields that are not read are added to `left`.

    Raises:
        Rejected: an item is no turn, or its role is unknown.
    """
    if len(items) > 1 and all(isinstance(item, str) for item in items):
        return alternating(items, where=where)
    place = _Place(where, where, left)
    turns: list[Message] = []
    for at, item in enumerate(items):
        if (plain := _plain(item)) is not None:
            turns.append(plain)
            continue
        for message in _turns(item, place.inside("", at)):
            _add(turns, message)
    return tuple(turns)


def _plain(item: object) -> Message | None:
    """The turn of an object of only a role and a text: the usual case, made fast."""
    if not isinstance(item, dict) or len(item) != 2:
        return None
    name, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if not isinstance(content, str) or name in ("function_call", "tool_call"):
        return None
    role = ROLES.get(name) if isinstance(name, str) else None
    return None if role is None else Message(role=role, content=text(content, where=""))


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
    turns = list(_turns(item, _Place(where, where, left)))
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


def content_text(value: object, *, where: str, left: set[str]) -> str:
    """The text of a turn's content alone: text, parts, or an object that holds them.

    Raises:
        Rejected: it holds something else.
    """
    place = _Place(where, where, left)
    if isinstance(value, dict):
        key = next((key for key in _CONTENTS["role"] if key in value), "")
        place.leave(value, (key, "role"))
        value = value.get(key)
    return _content(value, place).text


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


def _turns(item: object, place: _Place) -> Iterator[Message]:
    if isinstance(item, dict) and not is_message(item) and (keys := _exchange_keys(item)):
        place.leave(item, keys)
        yield from alternating([item[key] for key in keys], where=place.where)
    elif isinstance(item, dict):
        yield from _spoken(item, place)
    elif is_exchange(item) and isinstance(item, list):
        yield from alternating(item, where=place.where)
    else:
        problem = f"{place.where} holds {describe(item)}, not {{role, content}}"
        raise Rejected(Reason.malformed, problem)


def _exchange_keys(item: Mapping[str, object]) -> tuple[str, str] | None:
    return next((keys for keys in EXCHANGES if keys[0] in item and keys[1] in item), None)


def _spoken(item: dict[str, Any], place: _Place) -> Iterator[Message]:
    """The turn of an object, after the results of tools among its parts."""
    role_key = "from" if "from" in item else "role"
    keys = _CONTENTS[role_key]
    content_key = next((key for key in keys if item.get(key) is not None), keys[0])
    role, value = _role(item.get(role_key), place.where, role_key), item.get(content_key)
    if item[role_key] in ("function_call", "tool_call"):
        place.leave(item, (role_key, content_key, *_marks(item)))
        calls = _calls(value, place.inside(f".{content_key}"))
        yield Message(role=role, content="", tool_calls=calls, untrained=_is_context(item))
        return
    reasoning_key = next((key for key in _REASONING if isinstance(item.get(key), str)), "")
    untrained = role == "assistant" and _is_context(item)
    place.leave(item, (role_key, content_key, reasoning_key, *_FIELDS, *_marks(item)))
    found = _content_of(item, content_key, place)
    yield from found.results
    if found.results and not found.text and role == "user":
        return
    yield Message(
        role=role,
        content=found.text,
        tool_calls=tuple(found.calls),
        tools=tools(item.get("tools")),
        reasoning_content=str(item.get(reasoning_key) or "").strip(),
        name=_name(item, "name"),
        tool_call_id=_name(item, "tool_call_id"),
        untrained=untrained,
    )


def _content_of(item: dict[str, Any], key: str, place: _Place) -> "_Content":
    """The content of a turn with its calls, which may stand without a content."""
    calls = [
        call
        for name in ("tool_calls", "function_call")
        for call in _calls(item.get(name), place.inside(f".{name}"))
    ]
    if item.get(key) is None and calls:
        return _Content(calls=calls)
    found = _content(
        item.get(key), _Place(f"{place.where}: {key}", f"{place.column}.{key}", place.left)
    )
    found.calls[:0] = calls
    return found


_TRAINED = ("weight", "train", "training", "loss")
"""Fields of a turn that say whether it is trained on: 0 or false in files of many trainers."""


def _marks(item: Mapping[str, object]) -> list[str]:
    """Those of these fields that say so; a weight between 0 and 1 says something else."""
    return [name for name in _TRAINED if name in item and item[name] in (0, 1)]


def _is_context(item: Mapping[str, object]) -> bool:
    return item.get("untrained") is True or any(not item[name] for name in _marks(item))


_FIELDS = ("tool_calls", "function_call", "tools", "name", "tool_call_id", "untrained")


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
            "untrained": last.untrained or message.untrained,
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


def _content(value: object, place: _Place) -> _Content:
    """A text, an answer object, or a list of parts."""
    if isinstance(value, dict) and isinstance(value.get("answer"), str):
        place.leave(value, ("answer",))
        return _Content([value["answer"].strip()])
    if not isinstance(value, list):
        return _Content([text(value, where=place.where)])
    found = _Content()
    for at, part in enumerate(value):
        _read_part(part, place.inside("", at), found)
    return found


def _read_part(part: object, place: _Place, found: _Content) -> None:
    fields: dict[str, Any] = part if isinstance(part, dict) else {"text": part}
    google = next((name for name in ("functionCall", "functionResponse") if name in fields), "")
    kind = fields.get("type") or google or "text"
    key = next((key for key in ("text", "value", "thinking") if key in fields), "text")
    if kind == "tool_call":
        found.calls += _calls(fields.get(key), place)
    elif kind in ("tool_use", "functionCall"):
        call = fields.get("functionCall", fields)
        given = {"input": "arguments", "args": "arguments"}
        renamed = {given.get(name, name): call[name] for name in call if name != "type"}
        found.calls += _calls(renamed, place)
        return
    elif kind in ("tool_result", "functionResponse"):
        found.results.append(_result(fields, place))
        return
    elif kind in ("text", "output_text", "input_text"):
        found.texts.append(text(fields.get(key), where=place.where))
    elif kind in ("reasoning", "thinking"):
        found.texts.append(f"<think>\n{text(fields.get(key), where=place.where)}\n</think>")
    else:
        problem = f"{place.where}: a part of type {str(kind)[:40]!r}, not text"
        raise Rejected(Reason.malformed, problem)
    place.leave(fields, ("type", key))


def _result(fields: dict[str, Any], place: _Place) -> Message:
    """What a tool answered, as a turn of its own."""
    inner = fields.get("functionResponse", fields)
    if not isinstance(inner, dict):
        raise Rejected(Reason.malformed, f"{place.where}: a tool's result is no object")
    key = "response" if "response" in inner else "content"
    value = inner.get(key)
    place.leave(fields, ("type", "tool_use_id", "functionResponse", "name", key))
    return Message(
        role="tool",
        content=_result_text(value, place),
        name=_name(inner, "name"),
        tool_call_id=_name(fields, "tool_use_id"),
    )


def _result_text(value: object, place: _Place) -> str:
    """What a tool answered: a text, an object as JSON, or parts with texts."""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(value, list):
        return "" if value is None else text(value, where=place.where)
    texts = []
    for at, part in enumerate(value):
        fields = part if isinstance(part, dict) else {"text": part}
        inside = place.inside(".content", at)
        inside.leave(fields, ("type", "text"))
        texts.append(text(fields.get("text"), where=inside.where))
    return "\n\n".join(texts)


# --- tools --------------------------------------------------------------------------------------


def _calls(value: object, place: _Place) -> tuple[ToolCall, ...]:
    """Tool calls as JSON text or objects, one or a list, with or without the `function` wrapper."""
    value = _parsed(value)
    if value is None:
        return ()
    calls = value if isinstance(value, list) else [value]
    return tuple(_call(item, place.inside("[]")) for item in calls)


def _call(item: object, place: _Place) -> ToolCall:
    outer: dict[str, Any] = item if isinstance(item, dict) else {}
    inner = outer.get("function", outer)
    fields: dict[str, Any] = inner if isinstance(inner, dict) else {}
    called = {"name": fields.get("name"), "arguments": _parsed(fields.get("arguments"))}
    for one in (outer, fields):
        place.leave(one, ("type", "id", "function", "name", "arguments"))
    try:
        return ToolCall.model_validate({"id": _name(outer, "id"), "function": called})
    except ValidationError as error:
        where = place.where.rpartition(".")[0] or place.where
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
