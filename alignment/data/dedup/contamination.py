"""Training rows that hold an evaluation's prompts.

A prompt has leaked into a row when most of its word 8-grams stand there, wherever and in whichever
order; one of fewer than 8 words, when it is the row's first user turn (Brown et al. 2020,
appendix C, counts 13-grams; 8 find a prompt that was shortened). Not here: prompts that this run
holds out itself, which are compared as a whole (`clean.in_evaluation_set`).
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
SHARE = 0.7
"""Of a prompt's n-grams that must stand in a row for it to count as leaked."""


@dataclass(frozen=True)
class EvaluationPrompts:
    """The prompts of an evaluation, ready to be looked for.

    Attributes:
        holders: n-gram to the prompts that have it, by number.
        sizes: how many n-grams each prompt has.
        places: where each stands, for people.
        short: keys of those with fewer than `WORDS` words, and where they stand.
    """

    holders: dict[int, list[int]]
    sizes: list[int]
    places: list[str]
    short: dict[str, str]

    @classmethod
    def of(cls, sources: Sequence[Source]) -> Self:
        """The prompts of some sources.

        Raises:
            DataError: one cannot be read.
        """
        holders: dict[int, list[int]] = defaultdict(list)
        sizes: list[int] = []
        places: list[str] = []
        short: dict[str, str] = {}
        rows = (row for source in sources for row in read_prompts(source).items)
        for row in rows:
            if not isinstance(row, Row):
                continue
            place = f"{row.file} row {row.row}"
            for message in row.record.prompt:
                if message.role != "user":
                    continue
                if len(words_of(message.content)) < WORDS:
                    short.setdefault(prompt_key([message]), place)
                    continue
                found = set(grams(message.content, words=WORDS).tolist())
                for gram in found:
                    holders[gram].append(len(sizes))
                sizes.append(len(found))
                places.append(place)
        return cls(dict(holders), sizes, places, short)


@rule(Reason.in_evaluation_set)
def leaked(row: Row[R], *, exam: EvaluationPrompts) -> str | None:
    """Drop rows to train on that hold a prompt of the exam."""
    if row.held_out:
        return None
    if row.prompt_key in exam.short:
        return f"asks what {exam.short[row.prompt_key]} asks"
    counts: Counter[int] = Counter()
    text = "\n".join(message.text for message in turns(row.record))
    for gram in set(grams(text, words=WORDS).tolist()):
        counts.update(exam.holders.get(gram, ()))
    for prompt, count in counts.most_common():
        if count >= SHARE * exam.sizes[prompt]:
            share = count / exam.sizes[prompt]
            return f"holds {share:.0%} of the prompt at {exam.places[prompt]}"
    return None
