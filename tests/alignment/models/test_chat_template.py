import copy

import pytest

from alignment.data.filters.lengths import fit_conversation, trim_prompt
from alignment.data.row import Reason, Rejected
from alignment.errors import DataError, ModelError
from alignment.models.chat_template import (
    IGNORED,
    CompletionOnlyCollator,
    check_spans,
    end_of_turn_id,
    offers_tools,
    render,
    response_template_ids,
    supervised_spans_from_template,
)
from alignment.records import Conversation, Function, Message, PreferencePair, ToolCall
from alignment.store.jsonl import read_rows


def talk(*contents: str, system: str | None = None) -> tuple[Message, ...]:
    """user, assistant, user, ... with an optional system turn before them."""
    roles = ("user", "assistant")
    turns = tuple(Message(role=roles[at % 2], content=text) for at, text in enumerate(contents))
    return turns if system is None else (Message(role="system", content=system), *turns)


CHATS = (
    talk("Hi", "Hello."),
    talk("What is 17 + 4?", "21", "And 21 + 4?", "25", "Thanks", "You are welcome.\n\nBye"),
    talk("Say\n\n- a\n- b", "- a\n- b", system="Be brief."),
    talk("assistant", "assistant\nassistant", "user\n", "x"),
    talk("Größe? 你好 🙂", "1,80 m\n  你好"),
)


def conversation(messages) -> Conversation:
    return Conversation.of(messages, task_type="chat", source="test")


def pair(prompt, chosen="yes, the answer is yes", rejected="no") -> PreferencePair:
    return PreferencePair.of(
        prompt,
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        task_type="chat",
        source="test",
        strength=0.5,
    )


@pytest.fixture(params=["chatml", "qwen template", "qwen"])
def tokenizer(request, chatml_tokenizer):
    if request.param == "chatml":
        return chatml_tokenizer
    if request.param == "qwen":
        return request.getfixturevalue("qwen_tokenizer")
    return with_template(chatml_tokenizer, "qwen2_5_chat_template")


def with_template(tokenizer, name):
    from trl import chat_template_utils

    other = copy.copy(tokenizer)
    other.chat_template = getattr(chat_template_utils, name)
    return other


def test_the_opening_of_a_reply_is_the_templates_own(tokenizer):
    assert tokenizer.decode(response_template_ids(tokenizer)) == "<|im_start|>assistant\n"


def test_the_stop_token_is_the_templates_own(tokenizer):
    assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_qwens_ids_are_those_of_its_real_tokenizer(qwen_tokenizer):
    assert response_template_ids(qwen_tokenizer) == [151644, 77091, 198]
    assert end_of_turn_id(qwen_tokenizer) == 151645
    assert len(qwen_tokenizer) == 151_665


@pytest.fixture
def thinking_tokenizer(chatml_tokenizer):
    """Qwen3's template: before the last reply, an empty thought between two added tokens."""
    tokenizer = with_template(copy.deepcopy(chatml_tokenizer), "qwen3_chat_template")
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def test_a_thought_before_a_reply_does_not_close_it(thinking_tokenizer):
    assert thinking_tokenizer.decode(end_of_turn_id(thinking_tokenizer)) == "<|im_end|>"
    chat = conversation(talk("Question", "Yes"))
    check_spans(thinking_tokenizer, [chat])
    ids = render(thinking_tokenizer, chat.messages)
    ((start, end),) = CompletionOnlyCollator.of(thinking_tokenizer).spans(ids)
    said = thinking_tokenizer.decode(ids[start:end])
    assert said == "<think>\n\n</think>\n\nYes<|im_end|>"


def test_a_template_that_drops_earlier_thoughts_is_refused_for_chats_of_many_turns(
    thinking_tokenizer,
):
    chat = conversation(talk("Question", "First", "More", "Second"))
    with pytest.raises(DataError, match="renders earlier replies differently from the last"):
        check_spans(thinking_tokenizer, [chat])


def test_targets_are_each_reply_with_its_stop_token(tokenizer):
    collator = CompletionOnlyCollator.of(tokenizer)
    ids = render(tokenizer, talk("Question", "First", "More", "Second"))
    texts = [tokenizer.decode(ids[start:end]) for start, end in collator.spans(ids)]
    assert texts == ["First<|im_end|>", "Second<|im_end|>"]


def test_the_stop_token_is_a_target_even_where_it_is_the_padding(chatml_tokenizer):
    stop = end_of_turn_id(chatml_tokenizer)
    assert chatml_tokenizer.pad_token_id == chatml_tokenizer.eos_token_id == stop
    collator = CompletionOnlyCollator.of(chatml_tokenizer)
    long, short = ({"input_ids": render(chatml_tokenizer, chat)} for chat in (CHATS[1], CHATS[0]))
    labels = collator([long, short])["labels"]
    assert (labels == stop).sum(dim=1).tolist() == [3, 1]  # three replies, one reply


def test_a_batch_is_padded_on_the_right(chatml_tokenizer):
    collator = CompletionOnlyCollator.of(chatml_tokenizer)
    rows = [{"input_ids": render(chatml_tokenizer, chat)} for chat in CHATS[:2]]
    batch = collator(rows)
    lengths = [len(render(chatml_tokenizer, chat)) for chat in CHATS[:2]]
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    for at, row in enumerate(rows):
        alone = collator([row])
        assert batch["input_ids"][at, : lengths[at]].tolist() == row["input_ids"]
        assert batch["labels"][at, : lengths[at]].tolist() == alone["labels"][0].tolist()
        assert set(batch["labels"][at, lengths[at] :].tolist()) <= {IGNORED}
        assert not batch["attention_mask"][at, lengths[at] :].any()
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_a_reply_that_was_cut_is_a_target_to_its_end(chatml_tokenizer):
    collator = CompletionOnlyCollator.of(chatml_tokenizer)
    ids = render(chatml_tokenizer, talk("Question", "A long answer"))[:-3]
    ((start, end),) = collator.spans(ids)
    assert end == len(ids)
    assert chatml_tokenizer.decode(ids[start:end]).startswith("A long")


def test_a_row_without_a_reply_is_an_error_that_names_it(chatml_tokenizer):
    collator = CompletionOnlyCollator.of(chatml_tokenizer)
    ids = render(chatml_tokenizer, talk("Only a question"))
    with pytest.raises(DataError, match=rf"row abc: no reply found in {len(ids)} tokens"):
        collator([{"input_ids": ids, "id": "abc"}])


def test_a_row_cut_before_its_reply_is_an_error(chatml_tokenizer):
    collator = CompletionOnlyCollator.of(chatml_tokenizer)
    ids = render(chatml_tokenizer, talk("Question"), add_generation_prompt=True)
    with pytest.raises(DataError, match=r"row 0: no reply found .* raise max_length"):
        collator([{"input_ids": ids}])


def test_search_and_template_agree_about_the_replies(tokenizer):
    collator = CompletionOnlyCollator.of(tokenizer)
    for chat in CHATS:
        expected = supervised_spans_from_template(tokenizer, chat)
        assert collator.spans(render(tokenizer, chat)) == expected
        assert len(expected) == sum(message.role == "assistant" for message in chat)


def test_white_space_before_a_reply_is_caught_by_name(chatml_tokenizer):
    """The line break that ends the opening and one of the reply are a single token."""
    broken = conversation(talk("Question", "\n\nyes"))
    with pytest.raises(DataError, match=f"conversation {broken.id} .*renders the replies at"):
        check_spans(chatml_tokenizer, [conversation(CHATS[0]), broken])


@pytest.mark.parametrize("which", ["chatml", "qwen"])
def test_own_collator_equals_trls_assistant_mask(which, request, chatml_tokenizer):
    """TRL's training template marks "\\nanswer<|im_end|>\\n"; ours leaves both line breaks out."""
    base = chatml_tokenizer if which == "chatml" else request.getfixturevalue("qwen_tokenizer")
    own = CompletionOnlyCollator.of(with_template(base, "qwen2_5_chat_template"))
    marked = with_template(base, "qwen2_5_training_chat_template")
    for chat in CHATS:
        theirs = marked.apply_chat_template(
            [message.model_dump() for message in chat],
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids, mask = theirs["input_ids"], theirs["assistant_masks"]
        expected = []
        for start, end in runs(mask):
            assert base.decode([ids[start]]) == base.decode([ids[end - 1]]) == "\n"
            expected.append((start + 1, end - 1))
        assert own.spans(ids) == expected
        assert ids == render(with_template(base, "qwen2_5_chat_template"), chat)


def runs(mask):
    """(start, end) of each run of ones."""
    edges = [at for at, (a, b) in enumerate(zip([0, *mask], [*mask, 0], strict=True)) if a != b]
    return list(zip(edges[::2], edges[1::2], strict=True))


def test_a_tokenizer_without_a_template_is_refused(chatml_tokenizer):
    bare = with_template(chatml_tokenizer, "qwen2_5_chat_template")
    bare.chat_template = None
    with pytest.raises(ModelError, match="has no chat template"):
        response_template_ids(bare)


def test_a_template_that_opens_no_reply_is_refused(chatml_tokenizer):
    mute = with_template(chatml_tokenizer, "qwen2_5_chat_template")
    mute.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(ModelError, match="differs from how its chat template renders"):
        response_template_ids(mute)


def test_a_template_that_closes_no_reply_is_refused(chatml_tokenizer):
    endless = with_template(chatml_tokenizer, "qwen2_5_chat_template")
    endless.chat_template = (
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    with pytest.raises(
        ModelError, match=r"differs from how its chat template|with a special token"
    ):
        end_of_turn_id(endless)


def test_a_tokenizer_without_padding_is_refused(chatml_tokenizer):
    unpadded = copy.deepcopy(chatml_tokenizer)
    unpadded.pad_token = None
    with pytest.raises(ModelError, match="has no padding token"):
        CompletionOnlyCollator.of(unpadded)


def test_a_conversation_fits_to_the_token(chatml_tokenizer):
    chat = conversation(CHATS[1])
    tokens = len(render(chatml_tokenizer, chat.messages))
    fit_conversation(chatml_tokenizer, chat, max_length=tokens)
    with pytest.raises(Rejected) as rejected:
        fit_conversation(chatml_tokenizer, chat, max_length=tokens - 1)
    assert rejected.value.reason == Reason.too_long
    assert rejected.value.detail == f"{tokens} tokens, max_length is {tokens - 1}"


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


def tool_chat():
    call = ToolCall(function=Function(name="weather", arguments={"city": "Bern"}))
    tools = ({"type": "function", "function": {"name": "weather", "parameters": {}}},)
    messages = (
        Message(role="system", content="", tools=tools),
        Message(role="user", content="Weather?"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="clear"),
        Message(role="assistant", content="It is clear."),
    )
    return Conversation.of(messages, task_type="tools", source="test")


def test_qwens_template_writes_tools_and_both_replies_are_targets(qwen_tokenizer):
    """The call is the assistant's, the answer is not; tools without a system text add no turn."""
    assert offers_tools(qwen_tokenizer)
    chat = tool_chat()
    ids = render(qwen_tokenizer, chat.messages)
    text = qwen_tokenizer.decode(ids)
    assert text.count("<|im_start|>system") == 1
    assert '"name": "weather"' in text
    check_spans(qwen_tokenizer, [chat])
    spans = CompletionOnlyCollator.of(qwen_tokenizer).spans(ids)
    said = [qwen_tokenizer.decode(ids[start:end]) for start, end in spans]
    assert said == [
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call><|im_end|>',
        "It is clear.<|im_end|>",
    ]


def test_a_template_that_drops_calls_offers_no_tools(chatml_tokenizer):
    assert not offers_tools(chatml_tokenizer)


def test_a_chat_with_tools_survives_a_file(tmp_path):
    chat = tool_chat()
    (tmp_path / "a.jsonl").write_text(chat.model_dump_json() + "\n")
    assert next(read_rows(tmp_path / "a.jsonl", Conversation)) == chat
    assert chat.messages[1].model_dump() == {"role": "user", "content": "Weather?"}


def test_a_prompt_is_cut_before_a_question_never_between_a_call_and_its_answer(qwen_tokenizer):
    asked = (*tool_chat().messages, Message(role="user", content="And tomorrow?"))
    reply = (Message(role="assistant", content="Rain."),)
    pair = PreferencePair.of(
        asked, chosen=reply, rejected=asked[3:4], task_type="tools", source="test"
    )
    whole = len(render(qwen_tokenizer, asked, add_generation_prompt=True))
    trimmed = trim_prompt(
        qwen_tokenizer, pair, max_prompt_length=whole - 1, max_length=4096, min_completion=1
    )
    assert trimmed.pair.prompt == (asked[0], asked[-1])
