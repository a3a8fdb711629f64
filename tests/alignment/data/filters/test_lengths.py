"""Rows that fit the limits of training, to the token."""

import pytest

from alignment.data.filters.lengths import fit_conversation, trim_prompt
from alignment.data.row import Reason, Rejected
from alignment.models.chat_template import render
from alignment.models.encoding import encode_chat
from tests.chats import CHATS, conversation, pair, talk, tool_chat, with_template


@pytest.fixture(params=["chatml", "qwen template", "qwen"])
def tokenizer(request, chatml_tokenizer):
    if request.param == "chatml":
        return chatml_tokenizer
    if request.param == "qwen":
        return request.getfixturevalue("qwen_tokenizer")
    return with_template(chatml_tokenizer, "qwen2_5")


def test_a_conversation_fits_to_the_token(chatml_tokenizer):
    chat = conversation(CHATS[1])
    tokens = len(encode_chat(chatml_tokenizer, chat.messages).ids)
    fit_conversation(chatml_tokenizer, chat, max_length=tokens)
    with pytest.raises(Rejected) as rejected:
        fit_conversation(chatml_tokenizer, chat, max_length=tokens - 1)
    assert rejected.value.reason == Reason.too_long
    assert rejected.value.detail == f"{tokens} tokens, max_length is {tokens - 1}"


@pytest.mark.parametrize("drop_oldest", [False, True])
def test_a_chat_with_tools_fits_or_loses_its_oldest_turns(chatml_tokenizer, drop_oldest):
    tokenizer = with_template(chatml_tokenizer, "qwen2_5")
    tools = tool_chat().messages
    chat = conversation((*tools, *talk("Thanks", "You are welcome.")))
    tokens = len(encode_chat(tokenizer, chat.messages).ids)
    assert fit_conversation(tokenizer, chat, max_length=tokens, drop_oldest=drop_oldest) == chat
    if drop_oldest:
        short = fit_conversation(tokenizer, chat, max_length=tokens - 1, drop_oldest=True)
        assert short.messages == (tools[0], *chat.messages[-2:])


def opened(tokenizer, prompt) -> int:
    return len(render(tokenizer, prompt, add_generation_prompt=True))


def trim(tokenizer, row, *, prompt=10_000, length=20_000, completion=2):
    return trim_prompt(
        tokenizer,
        row,
        max_prompt_length=prompt,
        max_length=length,
        min_completion=completion,
    )


LONG = talk("first " * 9, "one", "second " * 9, "two", "third", system="Be brief.")


def test_a_prompt_that_fits_is_left_alone(tokenizer):
    row = pair(LONG)
    assert trim(tokenizer, row, prompt=opened(tokenizer, LONG)) == (row, 0)


def test_the_oldest_exchange_leaves_first_and_the_system_turn_stays(tokenizer):
    trimmed = trim(tokenizer, pair(LONG), prompt=opened(tokenizer, LONG) - 1).pair
    assert trimmed.prompt == (LONG[0], *LONG[3:])
    assert (trimmed.chosen, trimmed.rejected) == (pair(LONG).chosen, pair(LONG).rejected)
    assert (trimmed.strength, trimmed.task_type, trimmed.source) == (0.5, "chat", "test")
    assert trimmed.id != pair(LONG).id


def test_the_last_user_turn_always_stays(tokenizer):
    shortest = (LONG[0], LONG[-1])
    trimmed = trim(tokenizer, pair(LONG), prompt=opened(tokenizer, shortest)).pair
    assert trimmed.prompt == shortest


def test_a_prompt_whose_last_turn_does_not_fit_is_rejected(tokenizer):
    shortest = opened(tokenizer, (LONG[0], LONG[-1]))
    with pytest.raises(Rejected) as rejected:
        trim(tokenizer, pair(LONG), prompt=shortest - 1)
    assert rejected.value.reason == Reason.prompt_too_long
    assert f"max_prompt_length is {shortest - 1}" in rejected.value.detail


def test_replies_that_will_be_cut_are_counted(tokenizer):
    row = pair(talk("Question"), chosen="a b c d e f g h", rejected="x y z u v w")
    prompt = opened(tokenizer, row.prompt)
    assert trim(tokenizer, row, length=prompt + 4).replies_cut == 2
    assert trim(tokenizer, row, length=prompt + 200).replies_cut == 0


def test_a_reply_cut_to_too_little_is_rejected(tokenizer):
    row = pair(talk("Question"), chosen="a b c d e f g h", rejected="x")
    with pytest.raises(Rejected) as rejected:
        trim(tokenizer, row, length=opened(tokenizer, row.prompt) + 3, completion=4)
    assert rejected.value.reason == Reason.too_long
    assert "3 tokens left" in rejected.value.detail


def test_a_short_reply_that_is_not_cut_is_fine(tokenizer):
    row = pair(talk("Question"), chosen="yes", rejected="no")
    assert trim(tokenizer, row, completion=100).replies_cut == 0


def test_replies_cut_to_the_same_text_are_rejected(tokenizer):
    row = pair(talk("Question"), chosen="a b c d e f g h", rejected="a b c d e f g x")
    with pytest.raises(Rejected) as rejected:
        trim(tokenizer, row, length=opened(tokenizer, row.prompt) + 3)
    assert rejected.value.reason == Reason.too_long
    assert "same 3 tokens" in rejected.value.detail
