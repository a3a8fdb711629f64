"""Labels by a judge on loopback that prefers the longer answer, and what it does besides."""

import time

import pytest

from alignment.answers.answer import Answer
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
        answers = texts if isinstance(texts[0], Answer) else samples(texts)
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


def test_a_judge_that_says_only_nonsense_is_an_error_before_every_call_is_paid(ask, server):
    with pytest.raises(DataError, match="in 20 calls the judge never replied with A, B or C: 'I c"):
        ask([f"nonsense {n}" for n in range(30)])
    assert len(server.seen) == 20


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


def test_answers_that_can_be_in_no_pair_are_not_shown(ask, server):
    first, *others = samples(["cut off", "four", "seven..", "four", " "])
    scores, _ = ask([first.model_copy(update={"stopped": False}), *others])
    assert scores == [None, 0, 1, None, None]
    assert len(server.seen) == 2, "of two usable answers, in both orders"


PRICES = {"price_read": 10.0, "price_written": 100.0}


def test_a_call_costs_what_the_endpoint_says_it_read_and_wrote(ask, server):
    server.usage = {"prompt_tokens": 200, "completion_tokens": 3, "total_tokens": 203}
    _, calls = ask(["four", "seven.."], max_cost=1.0, **PRICES)
    assert [(call.tokens, call.cost) for call in calls] == [(203, pytest.approx(0.0023))] * 2
    server.usage = {"total_tokens": 100}
    _, calls = ask(["four", "seven..", "two"], max_cost=1.0, **PRICES)
    assert calls[-1].cost == pytest.approx((84 * 10 + 16 * 100) / 1e6), "16 is reply_tokens"


def test_too_little_money_is_refused_before_the_first_call(ask, server):
    with pytest.raises(
        ConfigError, match=r"2 calls of the judge may cost 0\.0\d, and label.max_cost"
    ):
        ask(["four " * 500, "seven.."], max_cost=0.01, **PRICES)
    assert not server.seen


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_tokens": 900}, r"label.max_tokens \(900\) is spent after 2 of 4 calls"),
        ({"max_cost": 0.01, **PRICES}, r"label.max_cost \(0.01\) is spent after 2 of 4 calls"),
    ],
)
def test_a_budget_that_is_spent_early_stops_the_calls_and_more_money_goes_on(
    ask, server, limits, said
):
    server.usage = {"prompt_tokens": 500, "completion_tokens": 3}
    with pytest.raises(ConfigError, match=said):
        ask(["four", "seven..", "two"], **limits)
    server.seen.clear()
    ask(["four", "seven..", "two"])
    assert len(server.seen) == 2


def test_a_ceiling_in_money_needs_prices():
    with pytest.raises(ValueError, match="max_cost needs price_read and price_written"):
        JudgeLabel(name="judge", url="http://host/v1", model="m", max_tokens=1, max_cost=1.0)


def test_the_endpoint_says_how_long_to_wait(ask, server):
    server.failures, server.headers = [429], {"Retry-After": "1"}
    began = time.monotonic()
    ask(["four", "seven.."])
    assert time.monotonic() - began > 1


def test_too_small_a_budget_is_refused_before_the_first_call(ask, server):
    with pytest.raises(ConfigError, match=r"2 calls of the judge may cost \d+ tokens"):
        ask(["four", "seven.."], max_tokens=100)
    assert not server.seen
