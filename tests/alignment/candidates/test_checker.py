import pytest

from alignment.answers.answer import Answer
from alignment.candidates.checker import checker
from alignment.candidates.label import label_by_verifier
from alignment.candidates.records import AnswerLabel, CandidatePrompt, CheckRequest
from alignment.candidates.settings import (
    FunctionCheck,
    JsonSchemaCheck,
    OwnCheck,
    PatternCheck,
    VerifierLabel,
)
from alignment.data.verifiers import ExactText
from alignment.errors import ConfigError, DataError
from alignment.records.text import Message
from alignment.store.journal import Journal
from alignment.store.progress import Progress

TURNS = (Message(role="user", content="Is it so?"),)

MODULE = """
import os, time

def score(prompt, answer, reference):
    print("not an answer")
    if answer == "raise":
        raise KeyError("no such thing")
    if answer == "hang":
        time.sleep(60)
    if answer == "die":
        os._exit(3)
    if answer == "nan":
        return float("nan")
    return len(answer) + len(prompt) / 10 + (0.5 if reference == "yes" else 0)
"""


def asked(answer, **more):
    return CheckRequest(prompt=TURNS, answer=answer, **more)


@pytest.fixture
def function(tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return FunctionCheck(entry="my_rules:score")


def test_a_function_that_fails_in_any_way_fails_for_that_answer_only(function):
    with checker(function, seconds=5) as opened:
        found = [
            opened.score(asked(answer, reference="yes"))
            for answer in ("four", "raise", "hang", "four", "die", "nan", "four")
        ]
    assert [one.score for one in found] == [4.6, None, None, 4.6, None, None, 4.6]
    errors = [one.error for one in found if one.score is None]
    assert errors == [
        "KeyError: 'no such thing'",
        "took longer than 5 s",
        "its process ended with code 3",
        "the score is nan, not a number",
    ]


def test_a_check_that_scores_nothing_ends_early_and_says_how_to_go_on(tmp_path):
    answers = [
        Answer(
            prompt_id="p", sample=n, text="x", answer="x", tokens=1, logprob=0, stopped=True, seed=0
        )
        for n in range(60)
    ]
    prompt = CandidatePrompt(
        id="p", prompt=(Message(role="user", content="?"),), task_type="t", source="s"
    )
    journal = Journal(tmp_path / "rows.jsonl", AnswerLabel)
    with pytest.raises(DataError, match=r"of 50 answers.*LookupError: .* change its version too"):
        label_by_verifier(VerifierLabel(), {"p": prompt}, answers, journal, Progress())


def test_a_pattern_that_backtracks_for_ever_is_stopped():
    with checker(PatternCheck(pattern="(a+)+$"), seconds=5) as opened:
        assert opened.score(asked("a" * 40 + "b")).error == "took longer than 5 s"
        assert opened.score(asked("aa")).score == 1


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (OwnCheck(), "yes", "no"),
        (PatternCheck(pattern="^yes$"), "yes", "yes, yes"),
        (
            JsonSchemaCheck(json_schema={"type": "object", "required": ["a"]}),
            '{"a": 1}',
            '{"b": 1}',
        ),
        (JsonSchemaCheck(json_schema={"type": "integer"}), "1", "one"),
    ],
    ids=["own", "pattern", "schema", "schema of a number"],
)
def test_a_check_tells_a_good_answer_from_another(check, good, bad):
    with checker(check, seconds=60) as opened:
        scores = [
            opened.score(asked(text, verifier=ExactText(text="yes"))).score for text in (good, bad)
        ]
    assert scores == [1, 0]


def test_a_function_that_is_missing_is_named():
    with (
        pytest.raises(ConfigError, match="AttributeError: module 'json' has no attribute 'score'"),
        checker(FunctionCheck(entry="json:score"), seconds=5),
    ):
        pass


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (PatternCheck, {"pattern": "("}, "not a regular expression"),
        (JsonSchemaCheck, {"json_schema": {"type": "nonsense"}}, "not a JSON schema"),
        (FunctionCheck, {"entry": "no colon"}, "should match pattern"),
    ],
)
def test_a_check_that_cannot_be_one_is_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)
