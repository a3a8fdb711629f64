"""Token ids and targets under the templates of many families."""

import copy

import pytest

from alignment.errors import DataError, ModelError
from alignment.models.chat_template import end_of_turn_id, render
from alignment.models.encoding import (
    IGNORED,
    encode_all,
    encode_chat,
    encode_completion,
    locate_completions,
    locate_replies,
)
from alignment.records.text import Message
from tests.chats import (
    CHATS,
    MISTRAL,
    MIXTRAL,
    PHI4,
    PHI4_MINI,
    YI,
    conversation,
    pair,
    talk,
    tool_chat,
    with_template,
)

TURNS = talk("Question", "First", "More", "Second")

FAMILIES = {
    "qwen2_5": ("First<|im_end|>", "Second<|im_end|>"),
    "qwen3": ("First<|im_end|>", "<think>\n\n</think>\n\nSecond<|im_end|>"),
    "qwen3_training": (
        "<think>\n\n</think>\n\nFirst<|im_end|>",
        "<think>\n\n</think>\n\nSecond<|im_end|>",
    ),
    "qwen3_instruct_2507": ("First<|im_end|>", "Second<|im_end|>"),
    "qwen3_5_think": ("First<|im_end|>", "\n</think>\n\nSecond<|im_end|>"),
    "qwen3_5_nothink": ("First<|im_end|>", "Second<|im_end|>"),
    "llama3": ("First<|eot_id|>", "Second<|eot_id|>"),
    "llama3_2": ("First<|eot_id|>", "Second<|eot_id|>"),
    "gemma": ("First<end_of_turn>", "Second<end_of_turn>"),
    "gemma3": ("First<end_of_turn>", "Second<end_of_turn>"),
    "phi3": ("First<|end|>", "Second<|end|>"),
    "phi3_5": ("First<|end|>", "Second<|end|>"),
    "cohere": ("First<|END_OF_TURN_TOKEN|>", "Second<|END_OF_TURN_TOKEN|>"),
    "lfm2": ("First<|im_end|>", "Second<|im_end|>"),
    "deepseek_r1_distill": (
        "First<\uff5cend\u2581of\u2581sentence\uff5c>",
        "Second<\uff5cend\u2581of\u2581sentence\uff5c>",
    ),
    "deepseekv3": (
        "First<\uff5cend\u2581of\u2581sentence\uff5c>",
        "Second<\uff5cend\u2581of\u2581sentence\uff5c>",
    ),
    "gptoss": (
        "<|channel|>final<|message|>First<|end|>",
        "<|channel|>final<|message|>Second<|return|>",
    ),
    MISTRAL: (" First<|im_end|>", " Second<|im_end|>"),
    MIXTRAL: (" First<|im_end|>", " Second<|im_end|>"),
    YI: ("First<|im_end|>", "Second<|im_end|>"),
    PHI4: ("First<|im_end|>", "Second<|im_end|>"),
    PHI4_MINI: ("First<|end|>", "Second<|end|>"),
    "glm4moe_training": (
        "\n<think></think>\nFirst<|user|>",
        "\n<think></think>\nSecond<|user|>",
    ),
}
MARKS = (
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<\uff5cUser\uff5c>",
    "<\uff5cAssistant\uff5c>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|return|>",
    "<|call|>",
    "<|im_sep|>",
    "[gMASK]",
    "<sop>",
)


@pytest.fixture(scope="module")
def marked_tokenizer(chatml_tokenizer):
    """The small tokenizer with the turn markers of all families as special tokens."""
    tokenizer = copy.deepcopy(chatml_tokenizer)
    tokenizer.add_tokens(list(MARKS), special_tokens=True)
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


@pytest.mark.parametrize("template", FAMILIES)
def test_the_targets_are_each_reply_with_its_stop_token(marked_tokenizer, template):
    tokenizer = with_template(marked_tokenizer, template)
    found = encode_chat(tokenizer, TURNS)
    said = tuple(tokenizer.decode(list(found.ids[start:end])) for start, end in found.spans)
    assert said == FAMILIES[template]
    assert found.ids[-1] == end_of_turn_id(tokenizer)


@pytest.mark.parametrize("template", FAMILIES)
def test_a_reply_follows_the_prompt_that_the_model_is_given(marked_tokenizer, template):
    """Unless that opens a thought which the reply lacks; then the row says so."""
    tokenizer = with_template(marked_tokenizer, template)
    for chat, found in (
        (TURNS[:2], encode_chat(tokenizer, TURNS[:2])),
        (TURNS, encode_completion(tokenizer, TURNS[:-1], TURNS[-1:])),
    ):
        given = render(tokenizer, chat[:-1], add_generation_prompt=True)
        prompt = list(found.ids[: found.spans[0][0]])
        assert found.asked == (not template.startswith("deepseek"))
        assert prompt == (given if found.asked else given[: len(prompt)])


def test_a_thought_of_gpt_oss_is_in_its_own_channel(marked_tokenizer):
    tokenizer = with_template(marked_tokenizer, "gptoss")
    thought = Message(role="assistant", content="Yes", reasoning_content="Hm")
    found = encode_chat(tokenizer, [*TURNS[:1], thought])
    ((start, end),) = found.spans
    assert tokenizer.decode(list(found.ids[start:end])) == (
        "<|channel|>analysis<|message|>Hm<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Yes<|return|>"
    )


def test_a_thought_that_is_left_out_once_the_reply_follows_is_refused(marked_tokenizer):
    """gpt-oss answers a tool's result with the thought before the call in view."""
    tokenizer = with_template(marked_tokenizer, "gptoss")
    chat = list(tool_chat().messages[1:])
    encode_chat(tokenizer, chat)
    chat[1] = chat[1].model_copy(update={"reasoning_content": "Hm"})
    encode_chat(tokenizer, chat[:2])
    with pytest.raises(DataError, match="differently once the reply follows"):
        encode_chat(tokenizer, chat)


@pytest.fixture(params=["chatml", "qwen", "gemma", "llama", "mistral"])
def real_tokenizer(request, chatml_tokenizer):
    if request.param == "chatml":
        return chatml_tokenizer
    return request.getfixturevalue(f"{request.param}_tokenizer")


@pytest.mark.parametrize("chat", CHATS, ids=str)
def test_before_the_last_target_is_the_rendered_prompt_with_one_bos(real_tokenizer, chat):
    if "raise_exception" in real_tokenizer.chat_template:
        chat = tuple(turn for turn in chat if turn.role != "system")
    found = encode_chat(real_tokenizer, chat)
    assert len(found.spans) == sum(turn.role == "assistant" for turn in chat)
    last = found.spans[-1][0]
    assert list(found.ids[:last]) == render(real_tokenizer, chat[:-1], add_generation_prompt=True)
    said = real_tokenizer.decode(list(found.ids[last:-1]))
    assert said.strip() == chat[-1].content.strip()
    bos = real_tokenizer.bos_token_id
    opens_every_turn = real_tokenizer.bos_token in (None, "<|im_start|>")
    assert opens_every_turn or list(found.ids).count(bos) == 1


@pytest.mark.parametrize("reply", ["\n\nyes", "\n\n\n- a", " \n yes", "<table>\n</table>"])
def test_no_token_crosses_into_a_reply(real_tokenizer, reply):
    """The line break that ends the opening and one of the reply could be a single token."""
    chat = talk("Question", reply)
    found = encode_chat(real_tokenizer, chat)
    given = render(real_tokenizer, chat[:1], add_generation_prompt=True)
    assert list(found.ids[: found.spans[0][0]]) == given
    text = real_tokenizer.decode(list(found.ids))
    assert real_tokenizer.decode(render(real_tokenizer, chat)).startswith(text)
    assert reply.strip() in text


@pytest.mark.parametrize(
    ("context", "said"), [({1}, ["Second<|im_end|>"]), ({3}, ["First<|im_end|>"]), ({1, 3}, [])]
)
def test_a_reply_that_is_marked_as_context_is_no_target(chatml_tokenizer, context, said):
    chat = [turn.model_copy(update={"untrained": at in context}) for at, turn in enumerate(TURNS)]
    if not said:
        with pytest.raises(DataError, match="there is no reply"):
            encode_chat(chatml_tokenizer, chat)
        return
    found, whole = encode_chat(chatml_tokenizer, chat), encode_chat(chatml_tokenizer, TURNS)
    assert [chatml_tokenizer.decode(list(found.ids[a:b])) for a, b in found.spans] == said
    assert found.ids == whole.ids[: len(found.ids)]
    assert "Question" in chatml_tokenizer.decode(list(found.ids))


def test_both_replies_of_a_pair_answer_the_same_tokens(chatml_tokenizer):
    row = pair(talk("Question"), chosen="\n\nyes", rejected="no")
    located = locate_completions(chatml_tokenizer, row.prompt, (row.chosen, row.rejected))
    chosen, rejected = encode_all(chatml_tokenizer, located)
    assert chosen.spans[0][0] == rejected.spans[0][0]
    assert chosen.ids[: chosen.spans[0][0]] == rejected.ids[: rejected.spans[0][0]]


def test_the_stop_token_is_a_target_even_where_it_is_the_padding(chatml_tokenizer):
    stop = end_of_turn_id(chatml_tokenizer)
    assert chatml_tokenizer.pad_token_id == chatml_tokenizer.eos_token_id == stop
    assert encode_chat(chatml_tokenizer, CHATS[1]).labels().count(stop) == 3


def test_labels_are_ignored_outside_the_replies(chatml_tokenizer):
    found = encode_chat(chatml_tokenizer, TURNS)
    kept = [label for label in found.labels() if label != IGNORED]
    assert chatml_tokenizer.decode(kept) == "First<|im_end|>Second<|im_end|>"
    assert found.trained(len(found.ids)) == len(kept)


def test_a_call_is_a_target_and_its_result_is_not(qwen_tokenizer):
    found = encode_chat(qwen_tokenizer, tool_chat().messages)
    said = [qwen_tokenizer.decode(list(found.ids[start:end])) for start, end in found.spans]
    assert said == [
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call><|im_end|>',
        "It is clear.<|im_end|>",
    ]


def test_a_reply_of_several_turns_is_one_target(qwen_tokenizer):
    messages = tool_chat().messages
    found = encode_completion(qwen_tokenizer, messages[:2], messages[2:])
    ((start, end),) = found.spans
    said = qwen_tokenizer.decode(list(found.ids[start:end]))
    assert said.startswith("<tool_call>")
    assert said.endswith("It is clear.<|im_end|>")


REWRITES = (
    "{%% for m in messages %%}<|im_start|>{{ m['role'] }}\n"
    "{%% if m['role'] == 'user' and not loop.last and %s %%}Earlier: {%% endif %%}"
    "{{ m['content'] }}<|im_end|>\n{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|im_start|>assistant\n{%% endif %%}"
)


def test_a_prompt_that_changes_once_the_reply_follows_is_refused(chatml_tokenizer):
    always = with_template(chatml_tokenizer, REWRITES % "true")
    with pytest.raises(ModelError, match="renders a question differently once it is answered"):
        locate_replies(always, TURNS)
    long = with_template(chatml_tokenizer, REWRITES % "loop.length > 3")
    with pytest.raises(DataError, match="renders the turns before a reply differently"):
        locate_replies(long, TURNS)


def test_a_chat_without_a_reply_is_refused(chatml_tokenizer):
    with pytest.raises(DataError, match="no reply"):
        encode_chat(chatml_tokenizer, conversation(talk("Only a question")).messages)


@pytest.mark.parametrize("which", ["chatml", "qwen"])
def test_targets_equal_trls_assistant_mask(which, request, chatml_tokenizer):
    """TRL's training template marks "\\nanswer<|im_end|>\\n"; ours leaves both line breaks out."""
    base = chatml_tokenizer if which == "chatml" else request.getfixturevalue("qwen_tokenizer")
    own, marked = with_template(base, "qwen2_5"), with_template(base, "qwen2_5_training")
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
        found = encode_chat(own, chat)
        assert list(found.spans) == expected
        assert list(found.ids) == ids[: len(found.ids)]


def runs(mask):
    """(start, end) of each run of ones."""
    edges = [at for at, (a, b) in enumerate(zip([0, *mask], [*mask, 0], strict=True)) if a != b]
    return list(zip(edges[::2], edges[1::2], strict=True))
