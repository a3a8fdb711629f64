"""A source as records: pairs, conversations and what is quarantined."""

from collections import Counter

import pytest

from alignment.data.formats import (
    HH,
    chosen_conversation,
)
from alignment.data.read.reading import read_any, read_conversations, read_pairs
from alignment.data.read.sources import FileSource
from alignment.data.row import Reason, Row
from alignment.errors import DataError
from alignment.records.text import Quarantined
from tests.alignment.data.formats.examples import EXAMPLES, contents


def source(tmp_path, *rows, **options):
    import json

    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FileSource(path=str(path), **options)


def test_pairs_are_read_as_conversations_by_their_chosen_reply(tmp_path):
    reading = read_conversations(source(tmp_path, EXAMPLES["hh"][0]))
    assert (reading.format, reading.reason) == ("hh", EXAMPLES["hh"][1])
    (row,) = reading.items
    assert isinstance(row, Row)
    assert contents(row.record.messages) == [("user", "a"), ("assistant", "b")]
    (pair,) = read_pairs(source(tmp_path, EXAMPLES["hh"][0])).items
    assert isinstance(pair, Row)
    assert chosen_conversation(pair.record) == row.record


def test_conversations_are_not_pairs(tmp_path):
    with pytest.raises(
        DataError, match=r"format 'messages' .* gives conversations, not preference"
    ):
        read_pairs(source(tmp_path, EXAMPLES["messages"][0]))


def test_rejected_rows_are_quarantined_with_their_location(tmp_path):
    good = EXAMPLES["instruction"][0]
    reading = read_conversations(source(tmp_path, good, {"instruction": "x"}, good))
    items = list(reading.items)
    (dropped,) = (item for item in items if isinstance(item, Quarantined))
    assert (dropped.row, dropped.reason) == (2, Reason.malformed)
    assert dropped.detail == "column 'output' holds nothing, not text"
    assert [item.row for item in items] == [1, 2, 3]


def test_a_wrong_format_is_one_error_that_lists_the_columns(tmp_path):
    wrong = source(tmp_path, {"b": "x", "a": "y"}, format=HH())
    with pytest.raises(
        DataError, match=r"no row is in format 'hh', .*; found columns a, b\. .*row 1"
    ):
        list(read_pairs(wrong).items)


@pytest.mark.parametrize(
    ("path", "name", "records", "unread"),
    [
        ("anthropic-evals/agreeableness.jsonl", "preference", 1000, {}),
        ("arena-hard/v0.1_question.jsonl", "prompts", 500, {}),
        ("arena-hard/v2.0_o3-mini-2025-01-31.jsonl", "messages", 750, {}),
        ("fastchat/dummy_conversation.json", "sharegpt", 500, {}),
        ("fastchat/mt_bench_question.jsonl", "mt_bench", 80, {}),
        ("fastchat/mt_bench_reference_gpt-4.jsonl", "mt_bench", 0, {"no_prompt": 30}),
        ("gpteacher/roleplay-simple-deduped-roleplay-instruct.json", "instruction", 1923, {}),
        ("gsm8k/example_model_solutions.jsonl", "graded_solutions", 731, {"no_contrast": 588}),
        ("gsm8k/train.jsonl", "gsm8k", 7473, {}),
        ("hh-rlhf/harmless-base.test.jsonl.gz", "hh", 2312, {}),
        ("hh-rlhf/helpful-base.test.jsonl.gz", "hh", 2354, {}),
        ("hh-rlhf/helpful-rejection-sampled.test.jsonl.gz", "hh", 2749, {}),
        ("llama-factory/alpaca_en_demo.json", "instruction", 999, {}),
        ("llama-factory/dpo_en_demo.json.gz", "preference", 300, {}),
        ("llama-factory/dpo_zh_demo.json", "preference", 300, {}),
        ("llama-factory/glaive_toolcall_en_demo.json", "sharegpt", 300, {}),
        ("llama-factory/kto_en_demo.json", "unpaired", 1, {"merged": 1, "unpaired": 298}),
        ("llama-factory/reason_tool_use_demo_50.jsonl", "messages", 50, {}),
        ("llama-factory/v1_dpo_demo.jsonl", "preference", 10, {}),
        ("llama-factory/v1_sft_demo.jsonl", "messages", 500, {}),
        ("llmbar/Natural.json", "compared", 100, {}),
        ("open-assistant/en_100_tree.jsonl", "open_assistant", 212, {}),
        ("open-assistant/prompt_lottery_en_250_text.jsonl", "prompts", 250, {}),
        ("open-assistant/realistic_seed_data.json", "open_assistant_nodes", 158, {"merged": 286}),
        ("open-instruct/eval_annotations_tulu_1.xlsx", "compared", 1150, {}),
        ("pandalm/testset-v1.json", "compared", 993, {"malformed": 6}),
        ("self-instruct/seed_tasks.jsonl", "instances", 175, {}),
        ("ultrafeedback-1k/train_clean.jsonl", "preference", 1000, {}),
    ],
)
def test_real_files_are_read_whole(real_data, path, name, records, unread):
    _, reading = read_any(FileSource(path=str(real_data / path)))
    assert reading.format == name
    items = list(reading.items)
    aside = [item.reason for item in items if isinstance(item, Quarantined)]
    assert Counter(aside) == unread
    assert len(items) - len(aside) == records
