import pytest
from pydantic import TypeAdapter, ValidationError

from alignment.data.practice.verifiers import (
    AllOf,
    AtMostWords,
    EndsWith,
    ExactText,
    JsonFields,
    Mentions,
    StartsWith,
    TextLines,
    Verifier,
)

LETTER = AllOf(
    parts=(
        StartsWith(text="Dear Ana,"),
        Mentions(text="lamp"),
        EndsWith(text="Yours, Tom"),
        AtMostWords(words=9),
    )
)


@pytest.mark.parametrize(
    ("verifier", "passes", "fails"),
    [
        (ExactText(text="[Oslo] END"), ["[Oslo] END", " [Oslo] END\n"], ["[Oslo]END", "", "x"]),
        (
            JsonFields(fields={"name": "Ana", "age": 31}),
            ['{"name": "Ana", "age": 31}', '{"age":31,\n"name":"Ana"}'],
            [
                '{"name": "Ana", "age": "31"}',
                '{"name": "Ana", "age": 31.0}',
                '{"name": "Ana"}',
                '{"name": "Ana", "age": 31, "city": "Oslo"}',
                'Sure! {"name": "Ana", "age": 31}',
                '["name", "Ana"]',
                "31",
                "",
            ],
        ),
        (TextLines(lines=("- a", "- b")), ["- a\n- b", "\n- a \n- b\n"], ["- b\n- a", "- a", ""]),
        (StartsWith(text="Dear"), ["Dear Ana", " Dear"], ["dear Ana", ""]),
        (EndsWith(text="Tom"), ["Yours, Tom", "Tom\n"], ["Tom.", ""]),
        (Mentions(text="lamp"), ["the lamp."], ["the Lamp", ""]),
        (AtMostWords(words=2), ["one", "one two"], ["one two three", "", " \n"]),
        (
            LETTER,
            ["Dear Ana, thank you for the lamp. Yours, Tom"],
            [
                "Dear Ana, thank you for the book. Yours, Tom",
                "Dear Ana, thank you so much for the lamp. Yours, Tom",
                "Thank you for the lamp. Yours, Tom",
            ],
        ),
    ],
)
def test_a_verifier_passes_only_replies_that_follow_the_prompt(verifier, passes, fails):
    assert [reply for reply in passes if not verifier(reply)] == []
    assert [reply for reply in fails if verifier(reply)] == []


def test_a_reply_that_nests_a_hundred_thousand_brackets_is_wrong_not_a_crash():
    assert not JsonFields(fields={"name": "Ana"})("[" * 100_000)


def test_a_verifier_comes_back_from_json_as_itself():
    adapter = TypeAdapter(Verifier)
    assert adapter.validate_json(adapter.dump_json(LETTER)) == LETTER


def test_an_unknown_verifier_is_refused():
    with pytest.raises(ValidationError, match="regex"):
        TypeAdapter(Verifier).validate_python({"name": "regex", "text": ".*"})
