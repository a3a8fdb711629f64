from collections import Counter

import pytest

from alignment.answers.answer import Answer
from alignment.candidates.pairing import pair_answers
from alignment.candidates.records import AnswerLabel, CandidatePrompt
from alignment.candidates.settings import Pairing
from alignment.records.text import Message

PROMPT = CandidatePrompt(
    id="p", prompt=(Message(role="user", content="Ask"),), task_type="t", source="s"
)


def answer(sample, *, tokens=10, stopped=True, text=None):
    text = f"answer {sample}" if text is None else text
    return Answer(
        prompt_id="p",
        sample=sample,
        text=text,
        answer=text,
        tokens=tokens,
        logprob=-1.0,
        stopped=stopped,
        seed=0,
    )


def paired(scores, answers=None, seed=0, **pairing):
    answers = answers or [answer(sample) for sample in range(len(scores))]
    labels = [
        AnswerLabel(prompt_id="p", sample=sample, score=score, detail="why" * (score is None))
        for sample, score in enumerate(scores)
    ]
    found = pair_answers([PROMPT], answers, labels, Pairing(**pairing), seed=seed)
    assert len(found.fates) == len(answers)
    texts = [(pair.chosen[0].content[-1], pair.rejected[0].content[-1]) for pair in found.pairs]
    return texts, [fate.fate for fate in found.fates]


def test_the_best_answer_is_paired_with_the_worst_of_all():
    assert paired([0.2, 0.9, 0.1]) == ([("1", "2")], ["not_chosen", "chosen", "rejected"])


def test_with_fewer_drawn_the_rejected_one_is_seldom_the_worst():
    """The worst of 2 drawn from 9 others is the worst of all in 8 of 36 draws."""
    scores = [float(n) for n in range(10)]
    drawn = Counter(paired(scores, seed=seed, worst_of=2)[0][0] for seed in range(300))
    assert {chosen for chosen, _ in drawn} == {"9"}
    assert drawn["9", "0"] / 300 == pytest.approx(8 / 36, abs=4 * (8 / 36 * 28 / 36 / 300) ** 0.5)


@pytest.mark.parametrize("scores", [[1, 1, 1], [0, 0], [1]])
def test_equal_answers_give_no_pair(scores):
    assert paired(scores) == ([], ["no_contrast"] * len(scores))


def test_scores_within_the_margin_are_a_tie():
    assert paired([0.5, 0.4], margin=0.2) == ([], ["tie", "tie"])
    assert paired([0.5, 0.2], margin=0.2)[0] == [("0", "1")]


def test_answers_of_too_unequal_length_are_not_paired():
    answers = [answer(0, tokens=100), answer(1, tokens=10), answer(2, tokens=95)]
    assert paired([1, 0, 0.5], answers, max_length_gap=10) == (
        [("0", "2")],
        ["chosen", "not_chosen", "rejected"],
    )
    assert paired([1, 0], answers[:2], max_length_gap=10) == ([], ["length_gap", "length_gap"])


def test_what_cannot_be_trained_on_is_named():
    answers = [
        answer(0),
        answer(1, stopped=False),
        answer(2, text=" "),
        answer(3, text="answer 0"),
        answer(4),
        answer(5),
    ]
    assert paired([1, 1, 1, 1, None, 0], answers) == (
        [("0", "5")],
        ["chosen", "unfinished", "empty", "duplicate", "unlabelled", "rejected"],
    )


def test_more_pairs_of_a_prompt_share_no_answer():
    texts, fates = paired([4, 3, 2, 1, 0], max_per_prompt=2)
    assert texts == [("0", "4"), ("1", "3")]
    assert fates == ["chosen", "chosen", "not_chosen", "rejected", "rejected"]


def test_the_draw_depends_on_seed_and_prompt_alone():
    scores = [float(n) for n in range(10)]
    assert paired(scores, seed=1, worst_of=2) == paired(scores, seed=1, worst_of=2)
