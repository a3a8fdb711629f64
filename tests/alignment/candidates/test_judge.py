"""Labels by a judge on loopback that prefers the longer answer, and what it does besides."""

import pytest

from alignment.candidates.judge import label_by_judge
from alignment.candidates.records import AnswerLabel, JudgeCall
from alignment.candidates.settings import JudgeLabel
from alignment.errors import ConfigError, DataError, Interrupted
from alignment.pipeline.steps.own import LabelAnswers
from alignment.store.journal import Journal
from alignment.store.progress import Progress
from tests.alignment.candidates.written import PROMPT, samples
from tests.judge import judging


@pytest.fixture
def server():
    with judging() as found:
        yield found


@pytest.fixture
def ask(server, tmp_path):
    """A function that labels texts and gives the scores; a second call goes on with the first."""

    def labelled(texts, **options):
        defaults = {"max_tokens": 100_000, "backoff": 0.01, "retries": 2}
        label = JudgeLabel(
            name="judge",
            url=server.url,
            model="m",
            **{**defaults, **options},
        )
        answers = samples(texts)
        calls = Journal(tmp_path / "calls.jsonl", JudgeCall)
        labels = Journal(tmp_path / "rows.jsonl", AnswerLabel)
        label_by_judge(label, {"p": PROMPT}, answers, calls, labels, Progress())
        return [row.score for row in labels.rows], calls.rows

    return labelled


def test_each_answer_is_compared_with_the_first_in_both_orders(ask, server, tmp_path):
    (tmp_path / "key").write_text("secret\n")
    scores, calls = ask(["four", "seven..", "two", "five"], key_file=tmp_path / "key")
    assert scores == [0, 1, -1, 0]
    assert [(call.sample, call.swapped, call.raw) for call in calls][:2] == [
        (1, False, "A"),
        (1, True, "B"),
    ]
    assert len(server.seen) == 6
    assert {key for _, key in server.seen} == {"Bearer secret"}


def test_a_judge_that_changes_its_mind_with_the_order_has_not_decided(ask):
    scores, _ = ask(["four", "a vain answer", "seven.."])
    assert scores == [0, 0, 1]


def test_nonsense_is_no_label(ask):
    assert ask(["four", "nonsense", "seven.."])[0] == [0, None, 1]


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("A", 1),
        (" **A**.\n", 1),
        ("(A)", 1),
        ("A good answer", None),
        ("A, or perhaps B", None),
        ("A\nB", None),
        ("a", None),
        ("", None),
    ],
)
def test_only_a_letter_alone_is_a_vote(ask, server, reply, score):
    server.replies = [reply, {1: "B"}.get(score, reply), "B", "A"]
    assert ask(["four", "seven..", "two"])[0] == [0, score, -1]


def test_a_judge_that_says_only_nonsense_is_an_error(ask):
    with pytest.raises(DataError, match="never replied with A, B or C: 'I cannot say'"):
        ask(["nonsense", "nonsense"])


def test_an_overloaded_judge_is_asked_again_then_the_run_stops_and_goes_on(ask, server):
    server.failures = [429, 503]
    assert ask(["four", "seven..", "two"])[0] == [0, 1, -1]
    server.failures = [429] * 3
    with pytest.raises(Interrupted, match="failed 3 times, at last with status 429"):
        ask(["four", "seven..", "two", "three"])
    server.seen.clear()
    ask(["four", "seven..", "two", "three"])
    assert len(server.seen) == 2, "only the two calls that were missing"


def test_a_refused_call_is_an_error_of_the_configuration(ask, server):
    server.failures = [401]
    with pytest.raises(ConfigError, match="refuses: status 401"):
        ask(["four", "seven.."])


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"max_tokens": 20}, True),
        ({"key_file": "other"}, True),
        ({"seconds": 9.0, "retries": 9, "backoff": 9.0}, True),
        ({"model": "other"}, False),
        ({"reply_tokens": 9}, False),
    ],
)
def test_how_a_judge_is_reached_and_paid_repeats_no_call(change, same):
    def key(**settings):
        fields = {"name": "judge", "url": "http://host/v1", "model": "m", "max_tokens": 10}
        label = {**fields, **settings}
        step = {"name": "labels-1", "label": label, "answers": "answers-1", "prompts": "prompts-1"}
        return LabelAnswers.model_validate(step).key

    assert (key(**change) == key()) is same


def test_the_time_limit_of_a_verifier_is_part_of_the_key():
    def key(seconds):
        label = {"name": "verifier", "seconds": seconds}
        step = {"name": "labels-1", "label": label, "answers": "answers-1", "prompts": "prompts-1"}
        return LabelAnswers.model_validate(step).key

    assert key(1.0) != key(2.0)


@pytest.mark.parametrize(
    ("status", "said"), [(200, "no JSON object: '<html>'"), (308, r"elsewhere \(status 308\)")]
)
def test_what_is_no_judge_is_an_error_of_the_configuration(ask, server, status, said):
    server.failures = [status]
    with pytest.raises(ConfigError, match=said):
        ask(["four", "seven.."])


@pytest.mark.parametrize("key", ["", "sk-first\nsk-second", "sk-sécret", "key = sk-first"])
def test_a_file_that_holds_more_than_a_key_is_refused_without_showing_it(ask, tmp_path, key):
    (tmp_path / "key").write_text(key, encoding="utf-8")
    with pytest.raises(ConfigError, match="does not hold one key") as refused:
        ask(["four", "seven.."], key_file=tmp_path / "key")
    assert "sk-" not in str(refused.value)


def test_too_small_a_budget_is_refused_before_the_first_call(ask, server):
    with pytest.raises(ConfigError, match=r"2 calls of the judge may cost \d+ tokens"):
        ask(["four", "seven.."], max_tokens=100)
    assert not server.seen
