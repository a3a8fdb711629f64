"""What chat templates write around the turns: openings, stop tokens, control tokens, thoughts."""

import copy

import pytest

from alignment.errors import DataError, ModelError
from alignment.models.chat_template import (
    answer_of,
    control_tokens,
    end_of_turn_id,
    format_of,
    offers_tools,
    render,
    render_text,
)
from alignment.records.text import Conversation, Message
from alignment.store.jsonl import read_rows
from tests.chats import MISTRAL, YI, talk, tool_chat, with_template


def test_the_opening_of_a_reply_is_the_templates_own(chatml_tokenizer):
    for tokenizer in (chatml_tokenizer, with_template(chatml_tokenizer, "qwen2_5")):
        assert format_of(tokenizer).opening == "<|im_start|>assistant\n"
        assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_qwens_ids_are_those_of_its_real_tokenizer(qwen_tokenizer):
    assert end_of_turn_id(qwen_tokenizer) == 151645
    assert len(qwen_tokenizer) == 151_665


def test_a_template_may_open_a_reply_within_the_question(chatml_tokenizer):
    yi = format_of(with_template(chatml_tokenizer, YI))
    assert (yi.opening, yi.thought) == ("<|im_start|>assistant\n", "")
    mistral = format_of(with_template(chatml_tokenizer, MISTRAL))
    assert (mistral.opening, mistral.thought) == ("[/INST]", "")


def test_a_generation_prompt_may_open_a_thought_that_past_replies_lack(chatml_tokenizer):
    known = format_of(with_template(chatml_tokenizer, "qwen3_5_think"))
    assert (known.opening, known.thought) == ("<|im_start|>assistant\n", "<think>\n")


def test_a_call_may_be_closed_otherwise_than_a_reply(chatml_tokenizer):
    """gpt-oss ends a call with <|call|>, earlier replies with <|end|>, the last with <|return|>."""
    tokenizer = copy.deepcopy(chatml_tokenizer)
    marks = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"]
    tokenizer.add_tokens(marks, special_tokens=True)
    known = format_of(with_template(tokenizer, "gptoss"))
    assert tokenizer.decode([known.stop]) == "<|return|>"
    assert set(known.closers) == {"<|return|>", "<|end|>", "<|call|>", "<|im_end|>"}


def test_a_tokenizer_without_a_template_is_refused(chatml_tokenizer):
    bare = copy.copy(chatml_tokenizer)
    bare.chat_template = None
    with pytest.raises(ModelError, match="has no chat template"):
        format_of(bare)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}", "with a special token"),
        ("{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}", "the ass"),
        (
            "{% for m in messages %}{{ '<|im_start|>' + m['role'] + m['content'] + '<|im_end|>' }}"
            "{% endfor %}",
            "ignores add_generation_prompt",
        ),
        ("{{ raise_exception('Not today') }}", r"a question and an answer \(.*Not today"),
    ],
)
def test_a_template_without_usable_replies_is_refused(chatml_tokenizer, template, reason):
    with pytest.raises(ModelError, match=reason):
        format_of(with_template(chatml_tokenizer, template))


def test_what_a_template_refuses_is_a_data_error_with_its_reason(chatml_tokenizer):
    gemma = with_template(chatml_tokenizer, "gemma")
    with pytest.raises(DataError, match="refuses this chat: System role not supported"):
        render_text(gemma, talk("Hi", "Hello.", system="Be brief."))


# --- control tokens -----------------------------------------------------------------------------


def test_added_tokens_are_text_unless_special_or_written_by_the_template(chatml_tokenizer):
    tokenizer = copy.deepcopy(chatml_tokenizer)
    tokenizer.add_tokens(["\n\n", "<b>", "    ", "<think>", "</think>", "<|user|>", "<tool_call>"])
    own = "{% for m in messages %}{{ '<|user|>' + m['content'] + '<|im_end|>\n\n' }}{% endfor %}"
    control = set(control_tokens(with_template(tokenizer, own)).values())
    assert control == {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|user|>"}
    qwen3 = set(control_tokens(with_template(tokenizer, "qwen3")).values())
    assert qwen3 == {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>"}


def test_gemmas_html_tags_and_blank_lines_are_text(gemma_tokenizer):
    control = control_tokens(gemma_tokenizer)
    assert {"<bos>", "<start_of_turn>", "<end_of_turn>"} <= set(control.values())
    ordinary = ("\n\n", "<b>", "</b>", "<table>", "\t\t")
    added = gemma_tokenizer.get_added_vocab()
    assert all(text in added and added[text] not in control for text in ordinary)


def test_deepseeks_turns_open_with_tokens_that_are_not_special(chatml_tokenizer):
    tokenizer = copy.deepcopy(chatml_tokenizer)
    tokenizer.add_tokens(["<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>"])
    control = set(control_tokens(with_template(tokenizer, "deepseek_r1_distill")).values())
    assert {"<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"} <= control
    assert "<think>" not in control


# --- thoughts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("42", "42"),
        ("<think>\n\n</think>\n\n42", "42"),
        ("Well,\nso be it.\n</think>\n\n42\n43", "42\n43"),
        ("<think>\nI never stop", ""),
        ("analysis<|channel|>final<|message|>42", "42"),
        ("a < b", "a < b"),
    ],
)
def test_an_answer_is_what_follows_the_thought(reply, answer):
    assert answer_of(reply) == answer


# --- tools --------------------------------------------------------------------------------------


def test_qwens_template_writes_tools(qwen_tokenizer):
    """Tools without a system text add no turn."""
    assert offers_tools(qwen_tokenizer)
    text = qwen_tokenizer.decode(render(qwen_tokenizer, tool_chat().messages))
    assert text.count("<|im_start|>system") == 1
    assert '"name": "weather"' in text


def test_a_template_that_drops_calls_offers_no_tools(chatml_tokenizer):
    assert not offers_tools(chatml_tokenizer)


def test_a_template_without_a_stop_token_is_refused_with_trls_version_of_it(chatml_tokenizer):
    with pytest.raises(ModelError, match=r"cannot learn to stop; set template: \{name: trl\}"):
        format_of(with_template(chatml_tokenizer, "glm4moe"))


def test_a_template_that_demands_ids_of_calls_offers_tools(chatml_tokenizer):
    """Mistral's demand nine characters, on the call and on its result."""
    tokenizer = with_template(
        chatml_tokenizer,
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content }}"
        "{% for call in message.tool_calls or [] %}{{ call.function | tojson }}"
        "{% if not call.id or call.id | length != 9 %}{{ raise_exception('id') }}{% endif %}"
        "{% endfor %}{% if message.role == 'tool' and message.tool_call_id | length != 9 %}"
        "{{ raise_exception('id') }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    )
    assert offers_tools(tokenizer)


def test_a_chat_with_tools_survives_a_file(tmp_path):
    chat = tool_chat()
    (tmp_path / "a.jsonl").write_text(chat.model_dump_json() + "\n")
    assert next(read_rows(tmp_path / "a.jsonl", Conversation)) == chat
    assert chat.messages[1].model_dump() == {"role": "user", "content": "Weather?"}
    assert isinstance(chat.messages[0], Message)
