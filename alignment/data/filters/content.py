"""What may be trained on: rows go in, rows come out, and each row left out has one named reason.

Every filter here is a pure function `(rows) -> (kept, dropped)` that looks at one row at a time;
none changes a row. Not here: reading (`files.py`, `formats/`), control tokens (`markers.py`), rows
against each other (`index.py`), lengths (`encode.py`), who goes to which split (`split.py`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from alignment.data.row import Filtered, R, Reason, Row, drop_if, normalise_space, parts_of, turns
from alignment.data.split import Part, PromptKeys
from alignment.records import Conversation, Message, PreferencePair, Prompt

DAMAGE = re.compile("[\\0\ufffd\ud800-\udfff]")
"""Characters that no text file holds, or that a bad decoding leaves."""


# --- one row at a time ------------------------------------------------------------------------


def broken_text(rows: Iterable[Row[R]]) -> Filtered[R]:
    """Drop rows with text that no UTF-8 file can hold, or that a bad decoding has damaged."""

    def problem(row: Row[R]) -> str | None:
        for message in turns(row.record):
            if found := DAMAGE.search(message.text):
                return f"U+{ord(found[0]):04X} in the {message.role} turn"
        return None

    return drop_if(rows, Reason.bad_encoding, problem)


def empty(rows: Iterable[Row[R]]) -> Filtered[R]:
    """Drop rows without turns or with a turn of nothing but white space."""

    def problem(row: Row[R]) -> str | None:
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

    return drop_if(rows, Reason.empty, problem)


def role_order(rows: Iterable[Row[R]]) -> Filtered[R]:
    """Drop what is not [system] user assistant user ...: with one assistant turn as each reply."""

    def problem(row: Row[R]) -> str | None:
        if isinstance(row.record, Prompt):
            return None
        if isinstance(row.record, Conversation):
            return _wrong_order(row.record.messages, last="assistant")
        for name, reply in (("chosen", row.record.chosen), ("rejected", row.record.rejected)):
            if [message.role for message in reply] != ["assistant"]:
                return f"{name} is {_roles(reply)}, not one assistant turn"
        return _wrong_order(row.record.prompt, last="user")

    return drop_if(rows, Reason.role_order, problem)


def uses_tools(rows: Iterable[Row[R]]) -> Filtered[R]:
    """Drop rows with tools or their answers, for a chat template that would leave them out."""

    def problem(row: Row[R]) -> str | None:
        messages = turns(row.record)
        tools = any(m.tool_calls or m.tools or m.role == "tool" for m in messages)
        return "the chat template does not write tool calls" if tools else None

    return drop_if(rows, Reason.no_tool_template, problem)


def identical_pair(rows: Iterable[Row[R]]) -> Filtered[R]:
    """Drop pairs whose replies differ in white space at most."""

    def problem(row: Row[R]) -> str | None:
        if not isinstance(row.record, PreferencePair):
            return None
        chosen, rejected = (
            normalise_space(part) for part in (row.record.chosen, row.record.rejected)
        )
        return "both replies are the same" if chosen == rejected else None

    return drop_if(rows, Reason.identical_pair, problem)


def tie(rows: Iterable[Row[R]]) -> Filtered[R]:
    """Drop pairs whose scores say that neither reply is better. Without scores nothing is a tie."""

    def problem(row: Row[R]) -> str | None:
        tied = isinstance(row.record, PreferencePair) and row.record.strength == 0
        return "neither reply is better by the scores or votes" if tied else None

    return drop_if(rows, Reason.tie, problem)


# --- rows against the rest of the run -----------------------------------------------------------


def in_evaluation_set(
    rows: Iterable[Row[R]], *, held_out: Mapping[str, frozenset[str]]
) -> Filtered[R]:
    """Drop training rows whose prompt key some set, by name, holds out."""

    def problem(row: Row[R]) -> str | None:
        if row.held_out:
            return None
        names = (name for name, keys in held_out.items() if row.prompt_key in keys)
        name = next(names, None)
        return None if name is None else f"its prompt is held out by {name}"

    return drop_if(rows, Reason.in_evaluation_set, problem)


Preference = tuple[str, frozenset[str], str]
"""A prompt, its two replies in either order, and the better one, white space aside."""


def preferred(trained: Mapping[str, Iterable[PreferencePair]]) -> dict[Preference, str]:
    """What earlier sets, by name, have trained to be the better reply to a question."""
    return {
        _preference(pair, better=pair.chosen): name
        for name, pairs in trained.items()
        for pair in pairs
    }


def contradicts_earlier(
    rows: Iterable[Row[PreferencePair]], *, preferred: Mapping[Preference, str]
) -> Filtered[PreferencePair]:
    """Drop pairs of which an earlier set has trained the opposite."""

    def problem(row: Row[PreferencePair]) -> str | None:
        name = preferred.get(_preference(row.record, better=row.record.rejected))
        return None if name is None else f"{name} has trained the opposite"

    return drop_if(rows, Reason.conflicting_label, problem)


def used_by_earlier_round(
    rows: Iterable[Row[R]], *, earlier: Mapping[str, PromptKeys]
) -> Filtered[R]:
    """Drop rows whose prompt an earlier step, by name, has trained on.

    Two rounds never share a prompt. A set of conversations may share prompts with a round
    that trains on them again, but a held-out row must be new to both.
    """

    def problem(row: Row[R]) -> str | None:
        for name, keys in earlier.items():
            concerns = keys.kind == "pairs" or row.held_out
            if concerns and row.prompt_key in keys.trained_on:
                return f"its prompt was trained on by {name}"
        return None

    return drop_if(rows, Reason.used_by_earlier_round, problem)


# --- which rows this set takes --------------------------------------------------------------------


def other_part(rows: Iterable[Row[R]], *, part: Part, salt: str) -> Filtered[R]:
    """Drop rows whose prompt belongs to another part of the sources."""
    words = f"not in part {part.index} of {part.of}"

    def problem(row: Row[R]) -> str | None:
        return None if part.holds(row.prompt_key, salt=salt) else words

    return drop_if(rows, Reason.other_part, problem)


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
