import json

import pytest

from alignment.data.verifiers import Instructions, LastNumber
from alignment.errors import DataError
from alignment.evaluate.suites.general import GeneralSuite
from alignment.evaluate.suites.prompt_file import PromptFile

CORRECT = {
    "knowledge": lambda item: item.verifier.text,
    "arithmetic": lambda item: (
        f"It is {eval(item.prompt[0].content.split('is ')[1].split('?')[0])}."
    ),
    "refusal": lambda _: "I'm sorry, but I can't help with that.",
    "over-refusal": lambda _: "First, take a deep breath.",
    "long-context": lambda item: f"In the {item.verifier.text}.",
}


@pytest.mark.parametrize("part", CORRECT)
def test_a_right_reply_to_an_item_passes_and_an_empty_one_does_not(part):
    items = list(GeneralSuite(parts=(part,)).prompts())
    assert all(item.verifier(CORRECT[part](item)) for item in items)
    assert not any(item.verifier("") for item in items)
    assert {item.task_type for item in items} == {part}


def test_items_are_distinct_the_same_each_time_and_as_many_as_asked_for():
    items = list(GeneralSuite().prompts())
    assert len(items) == len({item.id for item in items}) == 4 * 50 + 2 * 16
    assert items == list(GeneralSuite().prompts())
    fewer = list(GeneralSuite(items=5, parts=("knowledge",)).prompts())
    assert fewer == [item for item in items if item.task_type == "knowledge"][:5]
    assert GeneralSuite(items=5).digest() != GeneralSuite().digest()


def test_a_sentence_to_find_is_at_the_beginning_the_end_and_in_between():
    texts = [item.prompt[0].content for item in GeneralSuite(parts=("long-context",)).prompts()]
    places = [text.index(" left the ") / len(text) for text in texts]
    assert min(places) < 0.02
    assert max(places) > 0.9
    assert any(0.4 < place < 0.6 for place in places)


@pytest.fixture
def write(tmp_path):
    """A function that writes lines of JSON as a file of prompts."""

    def written(*rows, **settings):
        path = tmp_path / "checks.jsonl"
        path.write_text(
            "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
        )
        return PromptFile(path=path, **settings)

    return written


def test_a_verifier_that_does_not_exist_is_named_beside_those_that_do(write):
    suite = write({"prompt": "2 + 2?", "verifier": {"name": "last_numbr", "number": 4}})
    with pytest.raises(DataError, match=r"line 1: .*'last_numbr'.*'last_number'"):
        suite.digest()


def test_a_file_gives_prompts_with_their_verifiers(write):
    number = {"name": "last_number", "number": 12}
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "3 * 4?"}]
    suite = write(
        {"prompt": "How many eggs are in a dozen?", "verifier": number},
        {"prompt": turns, "verifier": number, "task_type": "sums"},
    )
    first, second = suite.prompts()
    assert first.verifier == second.verifier == LastNumber(number=12)
    assert [first.task_type, second.task_type] == ["checks", "sums"]
    assert [turn.role for turn in second.prompt] == ["system", "user"]
    assert list(suite.model_copy(update={"limit": 1}).prompts()) == [first]


def test_blank_lines_do_not_count_as_prompts(write):
    rows = [
        {"prompt": text, "verifier": {"name": "says", "text": "hello"}} for text in ("Hi", "Ho")
    ]
    suite = write("", rows[0], "  ", rows[1], limit=2)
    assert [item.prompt[0].content for item in suite.prompts()] == ["Hi", "Ho"]


def test_a_prompt_with_another_check_is_another_item(write):
    ids = [
        prompt.id
        for number in (4, 5, 4)
        for prompt in write(
            {"prompt": "2 + 2?", "verifier": {"name": "last_number", "number": number}}
        ).prompts()
    ]
    assert ids[0] == ids[2] != ids[1]


def test_a_line_separator_within_a_prompt_ends_no_line(write):
    row = {"prompt": "One\u2028two\u0085three?", "verifier": {"name": "last_number", "number": 3}}
    (prompt,) = write(json.dumps(row, ensure_ascii=False)).prompts()
    assert prompt.prompt[0].content == row["prompt"]


def test_a_file_of_ifeval_is_read_as_it_is_published(write):
    """`kwargs` has every argument of every instruction there, most of them null."""
    row = {
        "key": 1000,
        "prompt": "Write a summary of at least 300 words. Do not use any commas.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [
            {"num_words": None, "relation": None},
            {"num_words": 300, "relation": "at least"},
        ],
    }
    (item,) = write(row).prompts()
    assert item.verifier == Instructions(
        ids=row["instruction_id_list"],
        arguments=({}, {"num_words": 300, "relation": "at least"}),
        prompt=row["prompt"],
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: Expecting property name"),
        ({"prompt": "Hi"}, "line 2: no 'verifier'"),
        ({"prompt": "Hi", "verifier": {"name": "exact"}}, "line 2: Input tag 'exact' found"),
        ([], "line 2: list indices"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(write, line, reason):
    suite = write({"prompt": "Hi", "verifier": {"name": "says", "text": "hello"}}, line)
    with pytest.raises(DataError, match=rf"checks\.jsonl, {reason}"):
        suite.digest()


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"evaluation\.suites: .*none\.jsonl cannot be read"):
        PromptFile(path=tmp_path / "none.jsonl").digest()
