from collections import Counter
from itertools import combinations
from typing import get_args

import pytest

from alignment.data.practice.source import BUCKETS, SYSTEM, Part, PracticeSource
from alignment.data.practice.templates import AFTERWORDS, NOTHING_ELSE, PREAMBLES, SEEN, TASKS, Flaw
from alignment.data.verifiers import VerifiablePrompt
from alignment.errors import DataError

PARTS: tuple[Part, ...] = get_args(Part)
PERFECT = {"preamble_rate": 0, "afterword_rate": 0, "form_rate": 0, "slip_rate": 0}


def replies(pairs):
    return [(pair.chosen[0].content, pair.rejected[0].content) for pair in pairs]


def verifiers(**source):
    return [prompt.verifier for prompt in PracticeSource(**source).prompts()]


def test_the_same_source_gives_the_same_rows():
    source = PracticeSource(part="round-1", rows=48, seed=3)
    assert list(source.pairs()) == list(source.pairs())
    assert list(source.conversations()) == list(source.conversations())
    assert list(source.prompts()) == list(source.prompts())


def test_the_first_row_never_changes():
    first = next(PracticeSource(part="sft", rows=1).conversations())
    assert first.id == "b4346d7b1bdaea48"
    assert first.messages[0] == SYSTEM


@pytest.mark.parametrize("kind", ["conversations", "pairs", "prompts"])
def test_more_rows_only_append(kind):
    few, many = (getattr(PracticeSource(part="round-2", rows=n), kind)() for n in (30, 90))
    assert list(many)[:30] == list(few)


def test_another_seed_draws_other_instances():
    ids = [{p.id for p in PracticeSource(rows=96, seed=seed).prompts()} for seed in (0, 1)]
    assert len(ids[0] & ids[1]) < 10


def test_no_two_parts_share_an_instance_whatever_the_seeds():
    ids = {
        part: {
            prompt.id
            for seed in (0, 1)
            for prompt in PracticeSource(part=part, rows=240, seed=seed).prompts()
        }
        for part in PARTS
    }
    assert [(a, b) for a, b in combinations(PARTS, 2) if ids[a] & ids[b]] == []


def test_no_instance_occurs_twice_in_a_part():
    ids = [prompt.id for prompt in PracticeSource(part="held-out", rows=600).prompts()]
    assert len(set(ids)) == 600


def test_every_part_owns_a_bucket_of_sixteen():
    assert set(BUCKETS) == set(PARTS)
    assert len(BUCKETS) == 16


def test_task_types_alternate():
    counts = Counter(pair.task_type for pair in PracticeSource(part="round-1", rows=120).pairs())
    assert counts == {task.name: 120 // len(TASKS) for task in TASKS}


def test_all_kinds_of_rows_of_a_source_have_the_same_prompts():
    source = PracticeSource(part="round-3", rows=60)
    prompts = [prompt.prompt for prompt in source.prompts()]
    assert [pair.prompt for pair in source.pairs()] == prompts
    assert [row.messages[:-1] for row in source.conversations()] == prompts


@pytest.mark.parametrize("part", ["sft", "round-1", "held-out"])
def test_a_flawless_reply_passes_its_verifier(part):
    rows = PracticeSource(part=part, rows=480, **PERFECT).conversations()
    judges = verifiers(part=part, rows=480)
    assert all(judge(row.messages[-1].content) for judge, row in zip(judges, rows, strict=True))


def test_a_reply_with_any_one_flaw_fails_its_verifier():
    rates: dict[Flaw, dict[str, float]] = {
        "preamble": {"preamble_rate": 0.999},
        "afterword": {"afterword_rate": 0.999},
        "slip": {"slip_rate": 0.999},
    }
    judges = verifiers(rows=120, seed=5)
    for flaw, rate in rates.items():
        rows = PracticeSource(rows=120, seed=5, **{**PERFECT, **rate}).conversations()
        passed = [judge(row.messages[-1].content) for judge, row in zip(judges, rows, strict=True)]
        assert sum(passed) <= 1, flaw


@pytest.mark.parametrize("flaw", ["bare", "cut", "slip"])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_body_with_a_flaw_fails_its_verifier(task, flaw):
    slots = {name: choices[i] for i, (name, choices) in enumerate(task.slots.items())}
    slots |= {"left": "[", "right": "]", "mark": "END"}
    judge = task.verifier(slots)
    assert judge(task.body(slots, frozenset()))
    assert not judge(task.body(slots, frozenset({flaw})))


def test_a_rejected_reply_never_passes_and_few_chosen_ones_do():
    source = {"part": "round-1", "rows": 480}
    judged = [
        (judge(chosen), judge(rejected))
        for judge, (chosen, rejected) in zip(
            verifiers(**source), replies(PracticeSource(**source).pairs()), strict=True
        )
    ]
    assert sum(rejected for _, rejected in judged) == 0
    assert 0.06 < sum(chosen for chosen, _ in judged) / 480 < 0.16


def test_few_drafts_are_flawless():
    # (1 - .75)^2 * (1 - .25)^2 * (1 - .1) = .0316
    rows = PracticeSource(rows=960).conversations()
    passed = sum(
        judge(row.messages[-1].content)
        for judge, row in zip(verifiers(rows=960), rows, strict=True)
    )
    assert passed / 960 == pytest.approx(0.0316, abs=0.015)


def test_choosing_the_shorter_reply_is_right_in_exactly_half_of_the_pairs():
    pairs = replies(PracticeSource(part="held-out", rows=240).pairs())
    shorter = sum(len(chosen) < len(rejected) for chosen, rejected in pairs)
    assert shorter / len(pairs) == 0.5


def test_half_of_the_evaluated_prompts_use_phrasings_that_training_never_does():
    prompts = list(PracticeSource(part="held-out", rows=240).prompts())
    assert sum(prompt.unseen for prompt in prompts) == 120
    shown = [prompt.prompt[1].content for prompt in PracticeSource(rows=240).prompts()]
    for phrasing in NOTHING_ELSE[SEEN:]:
        assert not any(text.endswith(phrasing) for text in shown)
        assert any(p.prompt[1].content.endswith(phrasing) for p in prompts if p.unseen)
        assert not any(p.prompt[1].content.endswith(phrasing) for p in prompts if not p.unseen)


def test_every_task_has_held_out_phrasings_and_no_phrasing_twice():
    for task in TASKS:
        for phrasings in (task.asks, task.shapes, NOTHING_ELSE):
            assert len(set(phrasings)) == len(phrasings) >= SEEN + 2


def test_a_draft_differs_from_a_flawless_reply_only_by_its_flaws():
    kind = {**PERFECT, "preamble_rate": 0.999, "afterword_rate": 0.999}
    chatty = PracticeSource(rows=48, **kind).conversations()
    plain = PracticeSource(rows=48, **PERFECT).conversations()
    wrapped = 0
    for long, short in zip(chatty, plain, strict=True):
        text = long.messages[-1].content
        before = next((words for words in PREAMBLES if text.startswith(words)), "")
        after = next((words for words in AFTERWORDS if text.endswith(words)), "")
        assert text == before + short.messages[-1].content + after
        wrapped += bool(before and after)
    assert wrapped >= 46


def test_a_prompt_with_its_verifier_comes_back_from_json_as_itself():
    for prompt in PracticeSource(part="development", rows=24).prompts():
        assert VerifiablePrompt.model_validate_json(prompt.model_dump_json()) == prompt


def test_rates_without_flaws_for_pairs_are_refused_with_advice():
    with pytest.raises(DataError, match="set afterword_rate and form_rate above 0"):
        next(PracticeSource(part="round-1", rows=1, **PERFECT).pairs())


def test_rates_that_hardly_ever_give_a_pair_are_refused():
    rates = {"preamble_rate": 1e-9, "afterword_rate": 1e-9, "form_rate": 1e-9, "slip_rate": 0}
    with pytest.raises(DataError, match=r"gave no pair; set the four rates"):
        next(PracticeSource(part="round-1", rows=1, **rates).pairs())


def test_the_error_for_more_rows_than_a_part_has_names_the_exhausted_task():
    with pytest.raises(DataError, match=r"'round-1' has no further 'order' task after \d+"):
        list(PracticeSource(part="round-1", rows=5000).prompts())
