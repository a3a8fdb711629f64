"""The anchored gate on rows small enough to count."""

import math
from dataclasses import replace
from typing import NamedTuple

import pytest

from alignment.evaluate.anchored import judge_anchored, sealed
from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.judged import JudgedModel
from alignment.evaluate.settings import AnchoredGate
from alignment.evaluate.summary import summarise
from alignment.evaluate.verdict import Verdict
from alignment.records.evaluation import EvalReport, Generation, PairScore, TaskScore


class Evaluated(NamedTuple):
    """An evaluation and its rows."""

    report: EvalReport
    rows: ScoredRows


ROWS = 600
REPLIES = 40


def model(label, right, *, reply="a short and friendly answer", tokens=5, rows=ROWS, nats=-1.0):
    """A model that has `right` of the pairs right, the first ones, and answers all the same."""
    pairs = [pair(row, right=row < right, nats=nats) for row in range(rows)]
    replies = [answer(row, reply, tokens) for row in range(REPLIES)]
    return Evaluated(
        report=EvalReport(
            model=label, overall={}, by_task_type={}, by_source={}, generations="", pairs=""
        ),
        rows=ScoredRows(pairs=pairs, generations=replies),
    )


def pair(row, *, right, nats=-1.0):
    return PairScore(
        id=f"q{row}",
        task_type="city" if row % 10 == 0 else "mail",
        source="any",
        chosen=nats if right else nats - 2,
        rejected=nats - 1,
        base_chosen=-2.0,
        base_rejected=-2.0,
        chosen_tokens=4,
        rejected_tokens=4,
    )


def answer(row, reply, tokens):
    return Generation(
        id=f"p{row}", task_type="any", source="any", prompt=f"{row}?", reply=reply, tokens=tokens,
        stopped=True,
    )  # fmt: skip


ANCHOR = model("sft", 400)


def judged(candidate, champion=ANCHOR, look=1, **settings):
    return judge(AnchoredGate(**settings), candidate, champion, ANCHOR, look)


def judge(gate, candidate, champion, anchor, look=1):
    return judge_anchored(
        gate,
        candidate=JudgedModel.of(*candidate),
        champion=JudgedModel.of(*champion),
        anchor=JudgedModel.of(*anchor),
        look=look,
    )


def failed(verdict):
    return [check.name for check in verdict.checks if not check.passed]


def test_round_that_gains_is_kept():
    verdict = judged(model("round 1", 420))
    assert verdict.kept
    assert verdict.anchor == "sft"
    assert verdict.sentence.startswith(
        "round 1 is kept: preference accuracy is 0.033 above sft, at worst 0."
    )


def test_losses_too_small_to_be_shown_add_up_to_a_rejection():
    """Each model loses 3 of 600 rows to its parent, which no single comparison can show."""
    champion, found = ANCHOR, []
    for number in range(1, 31):
        candidate = model(f"round {number}", 400 - 3 * number)
        verdict = judged(candidate, champion, look=number)
        found.append(verdict.finding)
        assert "preference accuracy" not in failed(verdict)
        champion = candidate
    assert found[0] == "passed"
    assert "passed" not in found[5:]
    assert found[-1] == "failed"


def test_inconclusive_round_is_kept_only_if_asked_for():
    candidate = model("round 1", 400 - 18)
    verdict = judged(candidate, model("round 0", 400 - 16))
    assert (verdict.finding, verdict.kept) == ("inconclusive", False)
    assert verdict.sentence.startswith("round 1 is inconclusive, round 0 stays: preference")
    kept = judged(candidate, model("round 0", 400 - 16), on_inconclusive="keep_candidate")
    assert kept.kept
    assert kept.sentence.startswith("round 1 is inconclusive and kept: ")


@pytest.mark.parametrize(
    ("candidate", "check"),
    [
        (model("round 1", 420, reply="", tokens=0), "reply tokens to anchor"),
        (model("round 1", 420, tokens=8), "reply tokens to anchor"),
        (model("round 1", 420, tokens=3), "reply tokens to anchor"),
        (model("round 1", 420, reply="the the the the the"), "repetition to anchor"),
        (model("round 1", 420, reply="I'm sorry, but I can't do that"), "refusal rate to anchor"),
        (model("round 1", 420, nats=-100.0), "nll to anchor"),
    ],
    ids=["empty", "long", "short", "repeats", "refuses", "unlikely"],
)
def test_what_a_preference_score_does_not_see_has_a_budget(candidate, check):
    verdict = judged(candidate)
    assert not verdict.kept
    assert check in failed(verdict)


def test_budgets_add_up_over_rounds():
    """7 tokens are 1.4 times 5, and 9 are 1.29 times 7; but 9 are 1.8 times the anchor's 5."""
    first, second = model("round 1", 420, tokens=7), model("round 2", 440, tokens=9)
    assert judged(first).kept
    assert failed(judged(second, first, look=2)) == ["reply tokens to anchor"]


def test_limit_is_met_by_a_number_that_rounding_puts_above_it():
    """.8 - .7 is .10000000000000009."""
    drop = ANCHOR.rows.generations
    stops = [row.model_copy(update={"stopped": i >= 8}) for i, row in enumerate(drop)]
    later = [row.model_copy(update={"stopped": i >= 12}) for i, row in enumerate(drop)]
    before = Evaluated(ANCHOR.report, ScoredRows(pairs=ANCHOR.rows.pairs, generations=stops))
    after = Evaluated(
        model("round 1", 420).report,
        ScoredRows(pairs=model("round 1", 420).rows.pairs, generations=later),
    )
    assert judge(AnchoredGate(), after, before, before).kept


def test_collapse_of_one_task_type_is_rejected_though_the_whole_improves():
    """Every `city` row is lost (60 of 600); 80 others are won."""
    right = {row for row in range(480) if row % 10}
    pairs = [pair(row, right=row in right) for row in range(ROWS)]
    candidate = Evaluated(
        model("round 1", 0).report,
        ScoredRows(pairs=pairs, generations=ANCHOR.rows.generations),
    )
    assert failed(judged(candidate)) == ["preference accuracy of task type city"]


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (model("round 1", 400, rows=500), "100 of the 600 rows of sft are missing"),
        (
            Evaluated(ANCHOR.report, ScoredRows(pairs=ANCHOR.rows.pairs)),
            "not measured, and 5 for sft",
        ),
        (model("round 1", 400, nats=math.nan), "nan, and"),
    ],
    ids=["rows", "replies", "nan"],
)
def test_what_cannot_be_judged_is_never_kept(candidate, reason):
    verdict = judged(candidate, on_inconclusive="keep_candidate")
    assert not verdict.kept
    assert any(reason in check.words for check in verdict.checks if not check.passed)


def test_replies_that_are_all_empty_cannot_be_judged():
    """Of the anchor and of the round: no ratio of lengths says whether they grew."""
    empty = model("sft", 400, reply="", tokens=0)
    verdict = judge(AnchoredGate(), model("round 1", 420, reply="", tokens=0), empty, empty)
    assert verdict.finding == "cannot be judged"
    assert "reply tokens is 0.0 and 0.0 for sft: no reply of the anchor has a" in verdict.sentence


def test_models_that_agree_on_every_row_need_enough_rows_all_the_same():
    """Only ties: 500 rows without a loss show the margin of .03, and 100 do not."""
    many, few = (model("sft", rows // 2, rows=rows) for rows in (500, 100))
    assert judge(AnchoredGate(), many, many, many).kept
    assert judge(AnchoredGate(), few, few, few).finding == "inconclusive"


def test_one_task_type_is_judged_as_a_whole():
    pairs = [
        pair(row, right=row < 420).model_copy(update={"task_type": "one"}) for row in range(600)
    ]
    before = [row.model_copy(update={"task_type": "one"}) for row in ANCHOR.rows.pairs]
    candidate, anchor = (
        Evaluated(made.report, ScoredRows(pairs=rows, generations=ANCHOR.rows.generations))
        for made, rows in ((model("round 1", 0), pairs), (ANCHOR, before))
    )
    verdict = judge(AnchoredGate(), candidate, anchor, anchor)
    assert verdict.kept
    assert not [check for check in verdict.checks if "task type" in check.name]


def test_sealed_rows_are_opened_in_every_kth_verdict_and_hold_the_mean():
    """Of 600 prompts 183 are sealed. The round wins where it is looked at, and loses 30 others."""
    gate = AnchoredGate(sealed_share=0.3, sealed_every=5, margin=0.1)
    hidden = sorted(sealed(gate, JudgedModel.of(*ANCHOR)).values["preference_accuracy"])
    assert len(hidden) == 183
    lost = [row for row in hidden if int(row[1:]) < 400][:30]
    right = {f"q{row}" for row in range(420)} - set(lost)
    pairs = [pair(row, right=f"q{row}" in right) for row in range(ROWS)]
    candidate = Evaluated(
        model("round 5", 0).report, ScoredRows(pairs=pairs, generations=ANCHOR.rows.generations)
    )
    closed = judge(gate, candidate, ANCHOR, ANCHOR, look=4)
    assert closed.kept
    assert f"of {ROWS - 183} rows" in closed.sentence
    assert "sealed" not in closed.sentence
    opened = judge(gate, candidate, ANCHOR, ANCHOR, look=5)
    assert failed(opened) == ["preference accuracy on sealed rows"]
    assert opened.sentence.startswith(
        "round 5 is rejected, sft stays: preference accuracy on the 183 sealed rows is 0."
    )


def test_a_round_that_lacks_sealed_rows_cannot_be_judged_when_they_are_opened():
    gate = AnchoredGate(sealed_share=0.3, sealed_every=5, margin=0.1)
    hidden = sorted(sealed(gate, JudgedModel.of(*ANCHOR)).values["preference_accuracy"])
    made = model("round 5", 420)
    left = tuple(row for row in made.rows.pairs if row.id not in hidden[:80])
    candidate = made._replace(rows=replace(made.rows, pairs=left))
    assert judge(gate, candidate, ANCHOR, ANCHOR, look=4).kept
    verdict = judge(gate, candidate, ANCHOR, ANCHOR, look=5)
    assert verdict.finding == "cannot be judged"
    assert verdict.reasons == (
        "preference accuracy on sealed rows: 80 of the 183 rows of sft are missing",
    )


def test_gate_without_sealed_rows_is_written_as_before_they_existed():
    assert not {"sealed_share", "sealed_every"} & AnchoredGate().model_dump().keys()


def test_five_rows_decide_nothing():
    """Though the round is worse in all of them, and its replies repeat themselves."""
    few = model("sft", 3, rows=5)
    candidate = model("round 1", 0, rows=5, reply="the the the the the")
    verdict = judge(AnchoredGate(), candidate, few, few)
    assert verdict.finding == "cannot be judged"
    assert "no metric has 30 held-out rows" in verdict.sentence


def test_error_is_spent_after_as_many_rounds_as_it_was_divided_among():
    assert judged(model("round 50", 420), look=50).kept
    spent = judged(model("round 51", 420), look=51)
    assert spent.finding == "cannot be judged"
    assert "sft-dpo promote" in spent.sentence


def test_verdict_of_an_earlier_version_is_read():
    stored = {
        "candidate": "round 1",
        "champion": "sft",
        "checks": [{"name": "length", "passed": False, "words": "too long"}],
    }
    verdict = Verdict.model_validate(stored)
    assert (verdict.kept, verdict.word) == (False, "rejected")
    assert Verdict.model_validate(verdict.model_dump()) == verdict


def with_tasks(evaluated, passed, *, rows=60):
    """The same model with items of a suite, of which it passes these."""
    items = [
        TaskScore(
            id=f"t{row}", task_type="sums", source="general", prompt=f"t{row}", metric="passed",
            score=float(row < passed),
        )
        for row in range(rows)
    ]  # fmt: skip
    return evaluated._replace(rows=replace(evaluated.rows, tasks=items))


@pytest.mark.parametrize(("passed", "finding"), [(60, "passed"), (56, "passed"), (30, "failed")])
def test_what_a_model_unlearns_rejects_its_round_and_few_items_stop_none(passed, finding):
    """60 items cannot show a margin of .03, and do not have to; half of them lost is shown."""
    anchor, candidate = with_tasks(ANCHOR, 60), with_tasks(model("round 1", 480), passed)
    verdict = judge(AnchoredGate(), candidate, with_tasks(ANCHOR, passed), anchor)
    assert verdict.finding == finding
    if finding == "failed":
        assert failed(verdict) == ["suites of all rows"]
        assert verdict.reasons == ("suites of all rows is 0.500 below sft (0.1 below is allowed)",)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_none(score):
    anchor, made = with_tasks(ANCHOR, 60), with_tasks(model("round 1", 480), 60)
    first, *others = made.rows.tasks
    tasks = [first.model_copy(update={"score": score}), *others]
    rows = replace(made.rows, tasks=tasks)
    assert summarise(rows).overall["suite_score"].n == 59
    verdict = judge(AnchoredGate(), made._replace(rows=rows), anchor, anchor)
    assert verdict.reasons == ("suites: 1 of the 60 rows of sft are missing",)


def test_a_round_that_lacks_items_of_a_suite_cannot_be_judged():
    anchor = with_tasks(ANCHOR, 60)
    verdict = judge(AnchoredGate(), with_tasks(model("round 1", 480), 50, rows=50), anchor, anchor)
    assert verdict.finding == "cannot be judged"
    assert verdict.reasons == ("suites: 10 of the 60 rows of sft are missing",)


def on_tasks(label, right, nats):
    """A model with documents of two lm-eval tasks: `right` of 100 right, and a mean log-prob."""
    rows = [
        TaskScore(
            id=f"{task}/{row}", task_type=task, source="lm-eval", prompt=f"{task} {row}",
            metric=metric, score=score,
        )
        for task, metric, score_of in (
            ("arc", "acc", lambda row: float(row < right)),
            ("wiki", "word_perplexity", lambda row: nats - row / 100),
        )
        for row in range(100)
        for score in (score_of(row),)
    ]  # fmt: skip
    report, before = model(label, 400)
    return Evaluated(report, replace(before, tasks=rows))


def test_a_perplexity_that_falls_does_not_hide_an_accuracy_that_collapses():
    """Of 100 answers 80 become wrong, while each perplexity halves."""
    before, after = on_tasks("sft", 90, -60.0), on_tasks("round 1", 10, -30.0)
    verdict = judge(AnchoredGate(margin=0.2), after, before, before)
    assert verdict.finding == "failed"
    assert failed(verdict) == ["lm-eval", "lm-eval of all rows"]
    overall = summarise(after.rows).overall
    assert (overall["harness_score"].value, overall["harness_score"].n) == (0.1, 100)
    assert overall["harness_other"].value == pytest.approx(-30.495)


def test_tasks_on_several_other_scales_have_no_mean():
    rows = on_tasks("sft", 90, -60.0).rows
    bleu = rows.tasks[0].model_copy(update={"task_type": "wmt", "metric": "bleu", "score": 31.0})
    found = summarise(replace(rows, tasks=(*rows.tasks, bleu)))
    assert "harness_other" not in found.overall
    assert found.by_task_type["wmt"]["harness_other"].value == 31.0
