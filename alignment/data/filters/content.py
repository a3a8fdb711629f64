"""What may be trained on: rows go in, rows come out, and each row left out has one named reason.

Every filter here is a pure function `(rows) -> (kept, dropped)` that looks at one row at a time;
none changes a row. Not here: reading (`files.py`, `formats/`), control tokens (`markers.py`), rows
against each other (`index.py`), lengths (`encode.py`), who goes to which split (`split.py`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from alignment.data.row import R, Reason, Row, normalise_space, parts_of, rule, turns
from alignment.data.split import Part, PromptKeys
from alignment.records import Conversation, Message, PreferencePair, Prompt

DAMAGE = re.compile("[\\0\ufffd\ud800-\udfff]")
"""Characters that no text file holds, or that a bad decoding leaves."""


# --- one row at a time ------------------------------------------------------------------------


@rule(Reason.bad_encoding)
def broken_text(row: Row[R]) -> str | None:
    """Drop rows with text that no UTF-8 file can hold, or that a bad decoding has damaged."""
    for message in turns(row.record):
        if found := DAMAGE.search(message.text):
            return f"U+{ord(found[0]):04X} in the {message.role} turn"
    return None


@rule(Reason.empty)
def empty(row: Row[R]) -> str | None:
    """Drop rows without turns or with a turn of nothing but white space."""
    parts = parts_of(row.record)
    missing = next((name for name, part in parts.items() if not part), None)
    if missing:
        return f"{missing} has no turn"
    blank = (
        f"turn {number} of {name} ({message.role}) has no text"
        for name, part in parts.items()
        for number, message in enumerate(part, start=1)
        if not message.text.strip()
    )
    return next(blank, None)


@rule(Reason.role_order)
def role_order(row: Row[R]) -> str | None:
    """Drop what is not [system] user assistant user ...: with one assistant turn as each reply."""
    if isinstance(row.record, Prompt):
        return None
    if isinstance(row.record, Conversation):
        return _wrong_order(row.record.messages, last="assistant")
    for name, reply in (("chosen", row.record.chosen), ("rejected", row.record.rejected)):
        if [message.role for message in reply] != ["assistant"]:
            return f"{name} is {_roles(reply)}, not one assistant turn"
    return _wrong_order(row.record.prompt, last="user")


@rule(Reason.no_tool_template)
def uses_tools(row: Row[R]) -> str | None:
    """Drop rows with tools or their answers, for a chat template that would leave them out."""
    messages = turns(row.record)
    tools = any(m.tool_calls or m.tools or m.role == "tool" for m in messages)
    return "the chat template does not write tool calls" if tools else None


@rule(Reason.identical_pair)
def identical_pair(row: Row[R]) -> str | None:
    """Drop pairs whose replies differ in white space at most."""
    if not isinstance(row.record, PreferencePair):
        return None
    chosen, rejected = (normalise_space(part) for part in (row.record.chosen, row.record.rejected))
    return "both replies are the same" if chosen == rejected else None


@rule(Reason.tie)
def tie(row: Row[R]) -> str | None:
    """Drop pairs whose scores say that neither reply is better. Without scores nothing is a tie."""
    tied = isinstance(row.record, PreferencePair) and row.record.strength == 0
    return "neither reply is better by the scores or votes" if tied else None


# --- rows against the rest of the run -----------------------------------------------------------


@rule(Reason.in_evaluation_set)
def in_evaluation_set(row: Row[R], *, held_out: Mapping[str, frozenset[str]]) -> str | None:
    """Drop training rows whose prompt key some set, by name, holds out."""
    if row.held_out:
        return None
    names = (name for name, keys in held_out.items() if row.prompt_key in keys)
    name = next(names, None)
    return None if name is None else f"its prompt is held out by {name}"


Preference = tuple[str, frozenset[str], str]
"""A prompt, its two replies in either order, and the better one, white space aside."""


def preferred(trained: Mapping[str, Iterable[PreferencePair]]) -> dict[Preference, str]:
    """What earlier sets, by name, have trained to be the better reply to a question."""
    return {
        _preference(pair, better=pair.chosen): name
        for name, pairs in trained.items()
        for pair in pairs
    }


@rule(Reason.conflicting_label)
def contradicts_earlier(
    row: Row[PreferencePair], *, preferred: Mapping[Preference, str]
) -> str | None:
    """Drop pairs of which an earlier set has trained the opposite."""
    name = preferred.get(_preference(row.record, better=row.record.rejected))
    return None if name is None else f"{name} has trained the opposite"


@rule(Reason.used_by_earlier_round)
def used_by_earlier_round(row: Row[R], *, earlier: Mapping[str, PromptKeys]) -> str | None:
    """Drop rows whose prompt an earlier step, by name, has trained on.

    Two rounds never share a prompt. A set of conversations may share prompts with a round
    that trains on them again, but a held-out row must be new to both.
    """
    for name, keys in earlier.items():
        concerns = keys.kind == "pairs" or row.held_out
        if concerns and row.prompt_key in keys.trained_on:
            return f"its prompt was trained on by {name}"
    return None


# --- which rows this set takes --------------------------------------------------------------------


@rule(Reason.other_part)
def other_part(row: Row[R], *, part: Part, salt: str) -> str | None:
    """Drop rows whose prompt belongs to another part of the sources."""
    words = f"not in part {part.index} of {part.of}"
    return None if part.holds(row.prompt_key, salt=salt) else words


# --- small words --------------------------------------------------------------------------------


def _wrong_order(messages: Sequence[Message], *, last: str) -> str | None:
    before: Message | None = None
    for place, message in enumerate(messages, start=1):
        if place == 1 and message.role == "system":
            continue
        expected = _after(before)
        if message.role not in expected:
            return f"turn {place} is {message.role}, expected {' or '.join(expected)}"
        before = message
    if before is None or before.role not in ((last, "tool") if last == "user" else (last,)):
        return f"{_roles(messages)} does not end with {last}"
    return None


def _after(message: Message | None) -> tuple[str, ...]:
    """Who may speak after a turn. The answer to a call of tools comes from the tools."""
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
