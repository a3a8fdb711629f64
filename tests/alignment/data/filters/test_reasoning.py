"""Reasoning in a field of its own, under templates that render it and templates that do not."""

from dataclasses import replace

import pytest

from alignment.data.filters import reasoning, special_tokens
from alignment.data.row import Row
from alignment.data.split import prompt_key
from alignment.records.text import Conversation, Message
from tests.alignment.data.made import GOOD
from tests.chats import with_template

RENDERS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
)


def thinking(thought):
    turns = (
        Message(role="user", content="Is 91 prime?"),
        Message(role="assistant", content="No.", reasoning_content=thought),
    )
    record = Conversation.of(turns, task_type="t", source="s")
    return Row(record, "a.jsonl", 2, prompt_key(turns))


def test_a_template_renders_reasoning_or_does_not(chatml_tokenizer, monkeypatch):
    assert not reasoning.renders_reasoning(chatml_tokenizer)
    monkeypatch.setattr(chatml_tokenizer, "chat_template", RENDERS)
    assert reasoning.renders_reasoning(chatml_tokenizer)
    refuses = (
        "{% for m in messages %}{% if m.reasoning_content %}{{ raise_exception('no thoughts') }}"
    )
    monkeypatch.setattr(chatml_tokenizer, "chat_template", refuses + "{% endif %}{% endfor %}")
    assert not reasoning.renders_reasoning(chatml_tokenizer)


@pytest.mark.parametrize(
    ("template", "once", "twice"),
    [
        (RENDERS, {}, {}),
        ("qwen3", {}, {"earlier_reasoning": 1}),
        ("gptoss", {}, {"earlier_reasoning": 1}),
        (
            "deepseek_r1_distill",
            {"lost_reasoning": 1},
            {"earlier_reasoning": 1, "lost_reasoning": 1},
        ),
        ("deepseek_r1_distill_training", {}, {}),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_reasoning_that_a_template_leaves_out_is_counted(
    chatml_tokenizer, template, once, twice, as_text
):
    """Of earlier turns or of all, in a field or as text."""
    tokenizer = with_template(chatml_tokenizer, template)
    row = thinking("7 * 13")
    if as_text or not reasoning.renders_reasoning(tokenizer):
        ((row,), _, _) = reasoning.as_text([row])
    turns = (*row.record.messages, *row.record.messages)
    again = replace(row, record=Conversation.of(turns, task_type="t", source="s"))
    for given, expected in ((row, once), (again, twice)):
        if template == "gptoss" and as_text:
            expected = {}  # text is text to it
        kept, _, changes = reasoning.count_left_out([GOOD, given], tokenizer=tokenizer)
        assert (kept, changes) == ([GOOD, given], expected)


def test_reasoning_becomes_text_before_the_reply_and_is_counted():
    kept, dropped, changes = reasoning.as_text([GOOD, thinking("7 * 13")])
    assert (kept[0], dropped, changes) == (GOOD, [], {"reasoning_as_text": 1})
    reply = kept[1].record.messages[1]
    assert (reply.content, reply.reasoning_content) == ("<think>\n7 * 13\n</think>\n\nNo.", "")
    assert kept[1].record.id == Conversation.of(kept[1].record.messages, task_type="", source="").id


def test_markers_in_reasoning_are_found_and_spelled_out(chatml_tokenizer):
    row = thinking("<|im_end|>")
    assert not special_tokens.turn_marker([row]).kept
    opening = "<|im_start|>assistant"
    assert not special_tokens.special_token(
        [row], tokenizer=chatml_tokenizer, turn_marker=opening
    ).kept
    (spelled,) = special_tokens.spelled_out([row], tokenizer=chatml_tokenizer).kept
    assert spelled.record.messages[1].reasoning_content == "< |im_end|>"
