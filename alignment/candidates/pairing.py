"""Makes preference pairs from scored answers to the same prompts, and says what became of each."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from alignment.answers.answer import Answer
from alignment.candidates.records import AnswerLabel, CandidatePrompt, Fate
from alignment.candidates.settings import Pairing
from alignment.data.row import Reason
from alignment.records.text import Message, PreferencePair

CHOSEN, REJECTED = "chosen", "rejected"
AnswerId = tuple[str, int]


class Scored(NamedTuple):
    """An answer and its score."""

    answer: Answer
    score: float


class PairedAnswers(NamedTuple):
    """Pairs, and one fate for every answer."""

    pairs: list[PreferencePair]
    fates: list[Fate]


def pair_answers(
    prompts: Sequence[CandidatePrompt],
    answers: Iterable[Answer],
    labels: Iterable[AnswerLabel],
    pairing: Pairing,
    *,
    seed: int,
) -> PairedAnswers:
    """Pairs of each prompt: the best answer against the worst of some drawn at random.

    The draw of a prompt depends on the seed and the prompt alone.
    """
    by_prompt: dict[str, list[Answer]] = {prompt.id: [] for prompt in prompts}
    for answer in answers:
        by_prompt[answer.prompt_id].append(answer)
    labelled = {(label.prompt_id, label.sample): label for label in labels}
    found = PairedAnswers([], [])
    for prompt in prompts:
        mine = sorted(by_prompt[prompt.id], key=lambda answer: answer.sample)
        one = _Prompt(prompt, mine, labelled, pairing, random.Random(f"{seed}/{prompt.id}"))
        found.pairs.extend(one.pairs())
        found.fates.extend(one.all_fates())
    return found


def unusable(answers: Sequence[Answer]) -> dict[int, tuple[Reason, str]]:
    """The answers to one prompt that can be in no pair, by sample, and why."""
    found: dict[int, tuple[Reason, str]] = {}
    seen: dict[str, int] = {}
    for answer in answers:
        if not answer.stopped:
            detail = f"did not end within {answer.tokens} tokens"
            found[answer.sample] = (Reason.unfinished, detail)
        elif not answer.answer.strip():
            found[answer.sample] = (Reason.empty, "no text")
        elif answer.answer in seen:
            detail = f"same text as sample {seen[answer.answer]}"
            found[answer.sample] = (Reason.duplicate, detail)
        else:
            seen[answer.answer] = answer.sample
    return found


class _Prompt:
    """The answers to one prompt."""

    def __init__(
        self,
        prompt: CandidatePrompt,
        answers: Sequence[Answer],
        labels: Mapping[AnswerId, AnswerLabel],
        pairing: Pairing,
        draw: random.Random,
    ) -> None:
        self._prompt, self._answers, self._pairing, self._draw = prompt, answers, pairing, draw
        self._labels = {one.sample: labels[one.prompt_id, one.sample] for one in answers}
        self._fates: dict[int, tuple[str, str]] = {}

    def pairs(self) -> Iterator[PreferencePair]:
        """The pairs; afterwards every answer has a fate."""
        usable = list(self._usable())
        scores = {one.score for one in usable}
        if len(usable) < 2 or len(scores) == 1:
            detail = f"{len(usable)} usable answers, scores {sorted(scores)}"
            self._set(usable, Reason.no_contrast, detail)
            return
        usable.sort(key=lambda one: (-one.score, self._draw.random()))
        for _ in range(self._pairing.max_per_prompt):
            pair = self._next(usable)
            if pair is None:
                break
            yield self._made(*pair)
            usable = [one for one in usable if one not in pair]
        self._set(usable, Reason.not_chosen, "other answers to the prompt made the pair")

    def all_fates(self) -> Iterator[Fate]:
        """What became of each answer."""
        for answer in self._answers:
            fate, detail = self._fates[answer.sample]
            yield Fate(
                prompt_id=answer.prompt_id,
                sample=answer.sample,
                score=self._labels[answer.sample].score,
                text=answer.answer,
                fate=fate,
                detail=detail,
            )

    def _usable(self) -> Iterator[Scored]:
        self._fates.update(unusable(self._answers))
        for answer in self._answers:
            label = self._labels[answer.sample]
            if answer.sample in self._fates:
                continue
            if label.score is None:
                self._fates[answer.sample] = (Reason.unlabelled, label.detail)
            else:
                yield Scored(answer, label.score)

    def _next(self, usable: Sequence[Scored]) -> tuple[Scored, Scored] | None:
        """The best answer and the worst of some others; None if no pair is far enough apart.

        The best answer is named in the fate of those that could not be paired with it.
        """
        if len(usable) < 2:
            return None
        best = usable[0]
        lower = [one for one in usable[1:] if best.score - one.score > self._pairing.margin]
        near = [one for one in lower if self._gap(best, one)]
        if not near:
            reason = Reason.length_gap if lower else Reason.tie
            self._set(usable, reason, self._why(best, lower))
            return None
        drawn = self._draw.sample(usable[1:], min(self._pairing.worst_of, len(usable) - 1))
        among = [one for one in drawn if one in near] or near
        return best, min(among, key=lambda one: one.score)

    def _gap(self, one: Scored, other: Scored) -> bool:
        limit = self._pairing.max_length_gap
        return limit is None or abs(one.answer.tokens - other.answer.tokens) <= limit

    def _why(self, best: Scored, lower: Sequence[Scored]) -> str:
        if lower:
            return (
                f"more than {self._pairing.max_length_gap} tokens between the best and the others"
            )
        return f"no score is more than {self._pairing.margin:g} below the best, {best.score:g}"

    def _made(self, best: Scored, worst: Scored) -> PreferencePair:
        self._fates[best.answer.sample] = (CHOSEN, f"over sample {worst.answer.sample}")
        self._fates[worst.answer.sample] = (REJECTED, f"under sample {best.answer.sample}")
        return PreferencePair.of(
            self._prompt.prompt,
            chosen=(Message(role="assistant", content=best.answer.answer),),
            rejected=(Message(role="assistant", content=worst.answer.answer),),
            task_type=self._prompt.task_type,
            source=self._prompt.source,
        )

    def _set(self, scored: Iterable[Scored], reason: Reason, detail: str) -> None:
        for one in scored:
            self._fates.setdefault(one.answer.sample, (reason, detail))
