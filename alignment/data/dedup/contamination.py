"""Contamination: training rows that contain the prompts of an evaluation.

A prompt has leaked into a row if the row contains most of its word 8-grams, anywhere and in any
order. A prompt of fewer than 8 words has leaked if it is the row's first user turn. Brown et al.
(2020, appendix C) use 13-grams; 8-grams also find shortened prompts. Not here: prompts that this
run itself holds out, which are compared as a whole (`filters/content.py`, `in_evaluation_set`).
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from alignment.data.dedup.ngrams import grams, words_of
from alignment.data.read.reading import read_prompts
from alignment.data.read.sources import Source
from alignment.data.row import R, Reason, Row, rule, turns
from alignment.data.split import prompt_key

WORDS = 8
"""Words per n-gram."""
SHARE = 0.7
"""Share of a prompt's n-grams that a row must contain for the prompt to count as leaked."""


@dataclass(frozen=True)
class EvaluationPrompts:
    """The prompts of an evaluation, indexed for lookup.

    Attributes:
        prompts_with: n-gram to the numbers of the prompts that contain it.
        sizes: number of n-grams of each prompt.
        locations: file and row of each prompt, for people.
        short: prompt key to file and row, for prompts of fewer than `WORDS` words.
    """

    prompts_with: dict[int, list[int]]
    sizes: list[int]
    locations: list[str]
    short: dict[str, str]

    @classmethod
    def of(cls, sources: Sequence[Source]) -> Self:
        """Index the prompts of some sources.

        Raises:
            DataError: a source cannot be read.
        """
        prompts_with: dict[int, list[int]] = defaultdict(list)
        sizes: list[int] = []
        locations: list[str] = []
        short: dict[str, str] = {}
        rows = (row for source in sources for row in read_prompts(source).items)
        for row in rows:
            if not isinstance(row, Row):
                continue
            location = f"{row.file} row {row.row}"
            for message in row.record.prompt:
                if message.role != "user":
                    continue
                if len(words_of(message.content)) < WORDS:
                    short.setdefault(prompt_key([message]), location)
                    continue
                found = set(grams(message.content, words=WORDS).tolist())
                for gram in found:
                    prompts_with[gram].append(len(sizes))
                sizes.append(len(found))
                locations.append(location)
        return cls(dict(prompts_with), sizes, locations, short)


@rule(Reason.in_evaluation_set)
def leaked(row: Row[R], *, evaluation: EvaluationPrompts) -> str | None:
    """Drop training rows that contain a prompt of the evaluation."""
    if row.held_out:
        return None
    if row.prompt_key in evaluation.short:
        return f"same prompt as {evaluation.short[row.prompt_key]}"
    counts: Counter[int] = Counter()
    text = "\n".join(message.text for message in turns(row.record))
    for gram in set(grams(text, words=WORDS).tolist()):
        counts.update(evaluation.prompts_with.get(gram, ()))
    for prompt, count in counts.most_common():
        if count >= SHARE * evaluation.sizes[prompt]:
            share = count / evaluation.sizes[prompt]
            return f"contains {share:.0%} of the prompt at {evaluation.locations[prompt]}"
    return None
