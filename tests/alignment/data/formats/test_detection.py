"""Which format a file has, by its columns, and what the documentation says of it."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from alignment.data.formats import (
    FALLBACK,
    KNOWN,
    Auto,
    Format,
    Instruction,
    Preference,
    choose_format,
)
from alignment.data.formats.rows import RawRow
from alignment.data.formats.table import formats_table, with_table
from alignment.errors import DataError
from tests.alignment.data.formats.examples import EXAMPLES, TALK

ROOT = Path(__file__).parents[4]


def test_there_is_an_example_of_every_known_format():
    assert set(EXAMPLES) == {known.name for known in (*KNOWN, FALLBACK)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_format_is_detected_by_its_columns_and_says_why(name):
    row, reason = EXAMPLES[name]
    choice = choose_format(Auto(), [row] * 3, where="a.jsonl")
    assert (choice.format.name, choice.reason) == (name, reason)
    made = list(choice.format.records([RawRow("a.jsonl", 1, row, "chat", "test")]))
    assert made


def test_chats_as_replies_are_detected_without_a_prompt():
    choice = choose_format(Auto(), [{"chosen": TALK, "rejected": TALK}], where="a")
    assert (choice.format, choice.reason) == (
        Preference(),
        "columns chosen, rejected hold lists of messages",
    )


def test_one_odd_row_does_not_hide_the_format():
    good = EXAMPLES["instruction"][0]
    rows: list[dict[str, object]] = [
        dict(good),
        {"instruction": 7, "output": None},
        {"other": 1},
        dict(good),
    ]
    assert choose_format(Auto(), rows, where="a").format == Instruction()


def test_a_format_in_the_config_is_not_second_guessed():
    row: dict[str, object] = {"question": "q", "answer": "a"}
    wanted = Instruction(instruction="question", output="answer")
    assert choose_format(wanted, [row], where="a") == (wanted, "named in the config")


def test_unknown_columns_are_listed_with_the_names_of_the_formats():
    with pytest.raises(DataError) as error:
        choose_format(Auto(), [{"text": "x", "label": 1}], where="a.jsonl")
    message = str(error.value)
    assert message.startswith("a.jsonl: columns text, label match no known format. ")
    assert "--format NAME" in message
    for known in KNOWN:
        assert known.name in message


def test_two_formats_at_once_are_an_error_that_names_both_and_the_words_for_each():
    row = {"prompt": "a", "response": "b", "messages": TALK}
    with pytest.raises(
        DataError,
        match=r"several formats: messages and instruction\. .*--format messages or --format instr",
    ):
        choose_format(Auto(), [row], where="a.jsonl")
    row = {"prompt": "a", "question": "a", "chosen": "b", "rejected": "c"}
    with pytest.raises(DataError, match=r"preference,prompt=prompt or .*preference,prompt=ques"):
        choose_format(Auto(), [row], where="a.jsonl")


def test_a_format_is_chosen_by_name_and_refuses_options_of_another():
    union = TypeAdapter(Format)
    assert union.validate_python({"name": "instruction", "output": "response"}) == Instruction(
        output="response"
    )
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        union.validate_python({"name": "hh", "output": "response"})
    with pytest.raises(ValidationError, match="'graded_solutions'"):
        union.validate_python({"name": "gpt"})


def test_the_documented_table_of_formats_is_what_the_classes_say():
    document = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert formats_table() in document
    assert with_table(document) == document
