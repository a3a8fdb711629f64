"""Filters on the content of a row. Each dropped row has one named reason.

Every filter is a pure function `(rows) -> (kept, dropped)` that looks at one row at a time and
changes none. Most are named after their `Reason`. Not here: reading (`read/`, `formats/`), control
tokens (`special_tokens.py`), rows compared with each other (`dedup/compare.py`), lengths
(`lengths.py`), the choice of held-out rows (`split.py`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from alignment.data.row import R, Reason, Row, normalise_space, parts_of, rule, turns
from alignment.data.split import Part, PromptKeys
from alignment.records.text import Conversation, Message, PreferencePair, Prompt

DAMAGE = re.compile("[\\0\ufffd\ud800-\udfff]")
"""NUL, half surrogate pairs, and U+FFFD, which a bad decoding leaves behind."""


# --- one row at a time ------------------------------------------------------------------------


@rule(Reason.bad_encoding)
def broken_text(row: Row[R]) -> str | None:
    """Drop rows with text that is not valid UTF-8 or was damaged by a bad decoding."""
    for message in turns(row.record):
        if found := DAMAGE.search(message.text):
            return f"U+{ord(found[0]):04X} in the {message.role} turn"
    return None


@rule(Reason.empty)
def empty(row: Row[R]) -> str | None:
    """Drop rows without turns, or with a turn that is only white space."""
    parts = parts_of(row.record)
    missing = next((name for name, part in parts.items() if not part), None)
    if missing:
        return f"{missing} has no turns"
    blank = (
        f"turn {number} of {name} ({message.role}) has no text"
        for name, part in parts.items()
        for number, message in enumerate(part, start=1)
        if not message.text.strip()
    )
    return next(blank, None)


@rule(Reason.role_order)
def role_order(row: Row[R]) -> str | None:
    """Drop rows not in the order [system] user assistant ..., or with several turns per reply."""
    if isinstance(row.record, Prompt):
        return None
    if isinstance(row.record, Conversation):
        return _wrong_order(row.record.messages, last="assistant")
    for name, reply in (("chosen", row.record.chosen), ("rejected", row.record.rejected)):
        if [message.role for message in reply] != ["assistant"]:
            return f"{name} is {_roles(reply)}, not one assistant turn"
    return _wrong_order(row.record.prompt, last="user")


@rule(Reason.untrained)
def untrained(row: Row[R]) -> str | None:
    """Drop chats in which every reply is marked as context: there is nothing to imitate."""
    if not isinstance(row.record, Conversation):
        return None
    replies = [message for message in row.record.messages if message.role == "assistant"]
    marked = bool(replies) and all(message.untrained for message in replies)
    return "every reply is marked as not to be trained on" if marked else None


@rule(Reason.no_tool_template)
def uses_tools(row: Row[R]) -> str | None:
    """Drop rows that use tools; for chat templates that do not render tool calls."""
    messages = turns(row.record)
    tools = any(m.tool_calls or m.tools or m.role == "tool" for m in messages)
    return "the chat template does not render tool calls" if tools else None


@rule(Reason.identical_pair)
def identical_pair(row: Row[R]) -> str | None:
    """Drop pairs whose replies are equal except for white space."""
    if not isinstance(row.record, PreferencePair):
        return None
    chosen, rejected = (normalise_space(part) for part in (row.record.chosen, row.record.rejected))
    return "both replies are the same" if chosen == rejected else None


@rule(Reason.tie)
def tie(row: Row[R]) -> str | None:
    """Drop pairs whose scores prefer neither reply. A pair without scores is never a tie."""
    tied = isinstance(row.record, PreferencePair) and row.record.strength == 0
    return "neither reply is better by the scores or votes" if tied else None


# --- rows and the rest of the run ---------------------------------------------------------------


@rule(Reason.in_evaluation_set)
def in_evaluation_set(row: Row[R], *, held_out: Mapping[str, frozenset[str]]) -> str | None:
    """Drop training rows whose prompt another set holds out; `held_out` has keys by set name."""
    if row.held_out:
        return None
    names = (name for name, keys in held_out.items() if row.prompt_key in keys)
    name = next(names, None)
    return None if name is None else f"its prompt is held out by {name}"


Preference = tuple[str, frozenset[str], str]
"""A prompt, its two replies in either order, and the preferred one; white space normalised."""


def preferred(trained: Mapping[str, Iterable[PreferencePair]]) -> dict[Preference, str]:
    """The preferences that earlier sets were trained on, each with the name of its set."""
    return {
        _preference(pair, better=pair.chosen): name
        for name, pairs in trained.items()
        for pair in pairs
    }


@rule(Reason.conflicting_label)
def contradicts_earlier(
    row: Row[PreferencePair], *, preferred: Mapping[Preference, str]
) -> str | None:
    """Drop pairs whose opposite an earlier set was trained on."""
    name = preferred.get(_preference(row.record, better=row.record.rejected))
    return None if name is None else f"{name} was trained on the opposite preference"


@rule(Reason.used_by_earlier_round)
def used_by_earlier_round(row: Row[R], *, earlier: Mapping[str, PromptKeys]) -> str | None:
    """Drop rows whose prompt an earlier step was trained on; `earlier` has keys by step name.

    Two rounds never share a prompt. A round may train on prompts that SFT was trained on, but the
    prompt of a held-out row must be new to both.
    """
    for name, keys in earlier.items():
        must_be_new = keys.kind == "pairs" or row.held_out
        if must_be_new and row.prompt_key in keys.trained_on:
            return f"its prompt was trained on by {name}"
    return None


# --- which rows this set uses -------------------------------------------------------------------


@rule(Reason.other_part)
def other_part(row: Row[R], *, part: Part, salt: str) -> str | None:
    """Drop rows whose prompt belongs to another part of the sources."""
    detail = f"not in part {part.index} of {part.of}"
    return None if part.contains(row.prompt_key, salt=salt) else detail


# --- helpers ------------------------------------------------------------------------------------


def _wrong_order(messages: Sequence[Message], *, last: str) -> str | None:
    previous: Message | None = None
    for number, message in enumerate(messages, start=1):
        if number == 1 and message.role == "system":
            continue
        expected = _roles_after(previous)
        if message.role not in expected:
            return f"turn {number} is {message.role}, expected {' or '.join(expected)}"
        previous = message
    # a prompt may end with the result of a tool call, which the reply then answers
    if previous is None or previous.role not in ((last, "tool") if last == "user" else (last,)):
        return f"{_roles(messages)} does not end with {last}"
    return None


def _roles_after(message: Message | None) -> tuple[str, ...]:
    """The roles that may follow a turn. A tool call is followed by the tool's result."""
    if message is None:
        return ("user",)
    if message.role == "assistant":
        return ("tool",) if message.tool_calls else ("user",)
    return ("tool", "assistant") if message.role == "tool" else ("assistant",)


def _roles(messages: Sequence[Message]) -> str:
    return " ".join(message.role for message in messages) or "nothing"


def _preference(pair: PreferencePair, *, better: Sequence[Message]) -> Preference:
    replies = frozenset({normalise_space(pair.chosen), normalise_space(pair.rejected)})
    return normalise_space(pair.prompt), replies, normalise_space(better)
