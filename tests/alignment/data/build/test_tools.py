"""Tools, calls, reasoning and marked turns of chats."""

import json

import pytest

from tests.alignment.data.build.reading import BAD, CLOCK, A, U, read, summary


def test_tools_beside_a_pair_belong_to_its_prompt(tmp_path):
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "clock", "arguments": {}}}]}
    rows = [
        {"prompt": [U], "chosen": [call], "rejected": [BAD], "tools": [CLOCK]},
        {"prompt": "r", "chosen": "x", "rejected": "y", "functions": json.dumps([CLOCK])},
    ]
    kept, aside, report = read(tmp_path, rows)
    assert (len(kept), aside, report.unread) == (2, {}, {})
    assert [row["prompt"][0]["tools"] for row in kept] == [
        [{"type": "function", "function": CLOCK}]
    ] * 2
    assert all("tools" not in message for row in kept for message in row["chosen"])


def test_a_call_joins_the_text_right_before_it(tmp_path):
    encoded = json.dumps(json.dumps({"id": "12"}))
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": encoded}}
    chat = [
        U,
        {"role": "assistant", "content": "Let me look."},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "name": "find", "tool_call_id": "c1", "content": "in transit"},
        A,
    ]
    kept, _, report = read(tmp_path, [{"messages": chat}])
    assert summary(kept[0]) == "u:q a:Let me look. t:in transit a:good"
    (found,) = kept[0]["messages"][1]["tool_calls"]
    assert (found["id"], found["function"]["arguments"]) == ("c1", {"id": "12"})
    assert kept[0]["messages"][2]["tool_call_id"] == "c1"
    assert report.unread == {}


def test_older_and_other_notations_of_a_call_are_read(tmp_path):
    legacy = [
        U,
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "clock", "arguments": "{}"},
        },
        {"role": "function", "name": "clock", "content": "12:00"},
        A,
    ]
    use = {"type": "tool_use", "id": "t1", "name": "clock", "input": {"city": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "12:00"}
    anthropic = [
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": [{"type": "text", "text": "I ask."}, use]},
        {"role": "user", "content": [result]},
        A,
    ]
    schema = {"name": "clock", "input_schema": {"type": "object"}}
    kept, aside, _ = read(
        tmp_path,
        [{"messages": legacy, "functions": [CLOCK]}, {"messages": anthropic, "tools": [schema]}],
    )
    assert [summary(row) for row in kept] == [
        "s: u:q a: t:12:00 a:good",
        "s: u:r a:I ask. t:12:00 a:good",
    ]
    assert aside == {}
    assert kept[1]["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo"}
    assert kept[1]["messages"][0]["tools"][0]["function"]["parameters"] == {"type": "object"}


def nested(depth, inner, wrap):
    for _ in range(depth):
        inner = wrap(inner)
    return inner


def test_deep_nesting_ends_in_quarantine_or_as_not_read(tmp_path):
    """As deep as the JSON parser goes; deeper rows are malformed to it already."""
    result = nested(140, "x", lambda it: [{"type": "tool_result", "content": it}])
    earlier = nested(140, "x", lambda it: [{"role": "user", "content": it}])
    rows = [
        {"messages": [{"role": "user", "content": result}, A]},
        {"messages": [U, A], "extra": {"deep": earlier}},
    ]
    kept, aside, report = read(tmp_path, rows)
    assert (len(kept), aside, report.unread) == (1, {1: "malformed"}, {"extra.deep": 1})


@pytest.mark.parametrize("field", ["reasoning_content", "thinking"])
def test_reasoning_stays_in_its_turn_and_unknown_fields_are_counted(tmp_path, field):
    reply = {**A, field: "7 * 13", "weight": 0.5, "name": "Ada"}
    kept, _, report = read(
        tmp_path, [{"messages": [U, reply]}, {"messages": [{**U, "content": "r"}, A]}]
    )
    turn = kept[0]["messages"][1]
    assert (turn["reasoning_content"], turn["name"]) == ("7 * 13", "Ada")
    assert report.unread == {"messages[].weight": 1}
    again, _, _ = read(tmp_path / "again", kept)
    assert [row["messages"] for row in again] == [row["messages"] for row in kept]


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"train": False}, {"training": False}, {"loss": 0}, {"untrained": True}]
)
def test_a_turn_that_is_marked_as_context_stays_and_is_no_target(tmp_path, mark):
    more = {"role": "assistant", "content": "better", "weight": 1}
    rows = [
        {"messages": [U, {**A, **mark}, {**U, "content": "r"}, more]},
        {"messages": [U, {**A, **mark}]},
    ]
    kept, aside, report = read(tmp_path, rows)
    assert (aside, report.unread) == ({2: "untrained"}, {})
    (chat,) = kept
    assert [turn.get("untrained") for turn in chat["messages"]] == [None, True, None, None]
    again, _, _ = read(tmp_path / "again", kept)
    assert again[0]["messages"] == chat["messages"]


def test_the_reply_of_a_pair_is_compared_whatever_its_weight(tmp_path):
    rows = [{"prompt": [U], "chosen": [{**A, "weight": 0}], "rejected": [BAD]}]
    kept, aside, report = read(tmp_path, rows)
    assert (kept[0]["chosen"], aside, report.unread) == ([A], {}, {})
