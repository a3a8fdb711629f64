"""Builds rows for the tests of filters and comparisons."""

from alignment.data.row import Row
from alignment.data.split import prompt_key
from alignment.records.text import Conversation, Message, PreferencePair


def messages(*turns):
    return tuple(Message(role=role, content=content) for role, content in turns)


def chat(*turns, row=1, **place):
    record = Conversation.of(messages(*turns), task_type="chat", source="test")
    return Row(record, "a.jsonl", row, prompt_key(record.messages), **place)


def tool_chat(*turns, row=1):
    record = Conversation.of(turns, task_type="chat", source="test")
    return Row(record, "a.jsonl", row, prompt_key(turns))


def pair(prompt="Why?", chosen="good", rejected="bad", *, row=1, strength=None, **place):
    turns = messages(("user", prompt)) if isinstance(prompt, str) else messages(*prompt)
    replies = [
        messages(("assistant", reply)) if isinstance(reply, str) else messages(*reply)
        for reply in (chosen, rejected)
    ]
    record = PreferencePair.of(
        turns,
        chosen=replies[0],
        rejected=replies[1],
        task_type="chat",
        source="test",
        strength=strength,
    )
    return Row(record, "a.jsonl", row, prompt_key(turns), **place)


def dropped_rows(filtered, rows) -> list[tuple[int, str, str]]:
    """(row, reason, detail) of each dropped row, after checking that no row is lost."""
    kept = [row.row for row in filtered.kept]
    assert sorted(kept + [row.row for row in filtered.dropped]) == [row.row for row in rows]
    by_row = {row.row: row.record.id for row in rows}
    assert all(row.id == by_row[row.row] and row.file == "a.jsonl" for row in filtered.dropped)
    return [(row.row, row.reason, row.detail) for row in filtered.dropped]


GOOD = chat(("user", "Hi"), ("assistant", "Hello"))
