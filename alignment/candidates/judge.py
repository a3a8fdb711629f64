"""Labels by a judge, which compares each usable answer with the prompt's first usable one.

Every pair is shown in both orders. Answers that can be in no pair are not shown.
"""

from collections.abc import Iterator, Mapping, Sequence

from alignment.answers.answer import Answer
from alignment.candidates.ask_judge import ask_judge, decisions
from alignment.candidates.budget import JudgeQuestion
from alignment.candidates.pairing import unusable
from alignment.candidates.records import AnswerLabel, CandidatePrompt, JudgeCall
from alignment.candidates.settings import JudgeLabel
from alignment.store.journal import Journal
from alignment.store.progress import Progress

NO_REPLY = "the judge did not reply with A, B or C"


def label_by_judge(
    label: JudgeLabel,
    prompts: Mapping[str, CandidatePrompt],
    answers: Sequence[Answer],
    calls: Journal[JudgeCall],
    journal: Journal[AnswerLabel],
    progress: Progress,
) -> None:
    """Make every call that is not in `calls` yet, then write the labels; raises like `ask_judge`.

    The score of an answer is 1 if it is better than the prompt's first usable one, -1 if it is
    worse, and 0 if they are equal or it is that one. What was not shown has none.
    """
    shown = list(_usable(answers))
    ask_judge(label, list(_questions(prompts, shown)), calls, progress)
    bases = {(base.prompt_id, base.sample) for base, *_ in shown}
    found = {**decisions(calls.rows), **dict.fromkeys(bases, 0.0)}
    done = {(row.prompt_id, row.sample) for row in journal.rows}
    for answer in answers:
        name = (answer.prompt_id, answer.sample)
        if name not in done:
            score = found.get(name)
            detail = "" if score is not None else NO_REPLY if name in found else "not shown"
            row = AnswerLabel(prompt_id=name[0], sample=name[1], score=score, detail=detail)
            journal.append(row)


def _usable(answers: Sequence[Answer]) -> Iterator[list[Answer]]:
    """The answers to each prompt that may be in a pair, by number, where there are any."""
    by_prompt: dict[str, list[Answer]] = {}
    for answer in sorted(answers, key=lambda one: one.sample):
        by_prompt.setdefault(answer.prompt_id, []).append(answer)
    for mine in by_prompt.values():
        out = unusable(mine)
        if left := [one for one in mine if one.sample not in out]:
            yield left


def _questions(
    prompts: Mapping[str, CandidatePrompt], shown: Sequence[Sequence[Answer]]
) -> Iterator[JudgeQuestion]:
    for base, *others in shown:
        turns = prompts[base.prompt_id].prompt
        for other in others:
            for swapped in (False, True):
                yield JudgeQuestion(
                    base.prompt_id, other.sample, swapped, turns, base.answer, other.answer
                )
