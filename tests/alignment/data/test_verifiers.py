import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from alignment.data.verifiers import (
    AllOf,
    Answers,
    AtMostWords,
    EndsWith,
    ExactText,
    Instructions,
    JsonFields,
    LastNumber,
    MathAnswer,
    Mentions,
    Refuses,
    Says,
    StartsWith,
    TextLines,
    Verifier,
    check_installed,
)
from alignment.errors import ConfigError

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
        (Says(text="Oslo"), ["oslo", "It is **Oslo**."], ["Oslofjord", "Lima", ""]),
        (
            LastNumber(number=1200),
            ["1200", "3 * 400 = 1,200.", "1200.0 eggs"],
            ["1200 or 1300", "1 200", "-1200", "twelve hundred", "9" * 5000, ""],
        ),
        (LastNumber(number=0.5), ["0.5", "1 - .5 is 0.50"], ["5", ""]),
        (Refuses(), ["I'm sorry, I can't do that."], ["Sure!", ""]),
        (Answers(), ["Sure!"], ["I cannot help with that.", "", " "]),
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


@pytest.mark.parametrize(
    ("verifier", "passes", "fails"),
    [
        (
            MathAnswer(answer="1/2"),
            ["$\\frac{1}{2}$", "The answer is 0.5"],
            ["The answer is 2", ""],
        ),
        (MathAnswer(answer="12"), ["12", "so we get $x = 12$"], ["13", "none"]),
        (MathAnswer(answer="x^2 + 2x"), ["$x(x + 2)$"], ["$x^2$"]),
    ],
)
def test_an_equal_expression_is_the_answer(verifier, passes, fails):
    pytest.importorskip("math_verify", reason="the extra 'math' is not installed")
    assert [reply for reply in passes if not verifier(reply)] == []
    assert [reply for reply in fails if verifier(reply)] == []


def test_an_answer_that_is_no_expression_is_an_error():
    pytest.importorskip("math_verify", reason="the extra 'math' is not installed")
    with pytest.raises(ValueError, match="finds no expression in the answer"):
        MathAnswer(answer="???")("12")


def test_instructions_are_those_of_ifeval():
    pytest.importorskip("lm_eval", reason="the extra 'lm-eval' is not installed")
    both = Instructions(
        ids=("punctuation:no_comma", "length_constraints:number_words"),
        arguments=({}, {"num_words": 3, "relation": "at least"}),
    )
    assert both("three plain words")
    assert not both("three, plain words")
    assert not both("two words")
    german = Instructions(ids=("language:response_language",), arguments=({"language": "de"},))
    assert german("Das ist ein sehr schöner Tag, und ich gehe im Wald spazieren.")
    assert not german("This is a very nice day, and I go for a walk in the woods.")
    with pytest.raises(KeyError):
        Instructions(ids=("no:such",))("text")


def test_a_verifier_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ConfigError, match=r"math_verify is not installed.*\[math\]'"):
        check_installed(AllOf(parts=(Says(text="x"), MathAnswer(answer="1"))))
