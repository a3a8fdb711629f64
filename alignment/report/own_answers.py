"""Rounds on the model's own answers, for readers: what became of the answers, and some pairs.

Which pairs are shown is a fixed rule: those of the first prompts, whose order is that of a hash.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from alignment.candidates.build import FATES
from alignment.candidates.pairing import CHOSEN, REJECTED
from alignment.candidates.records import CandidatePrompt, Fate
from alignment.pipeline.steps import PairAnswers, made_by
from alignment.pipeline.steps.own import rows_in
from alignment.records.base import Frozen
from alignment.records.manifest import StageRecord
from alignment.records.text import Message
from alignment.report import metric
from alignment.report.table import Cell, Table
from alignment.store.jsonl import read_rows
from alignment.store.store import Store

SHOWN = 6
"""Pairs of each round on the page."""
_PARTNER = re.compile(r"over sample (\d+)")


class OwnCounts(Frozen):
    """What became of the answers of one round.

    Attributes:
        fates: answers by what became of them: chosen, rejected, or why they are in no pair.
        chosen, rejected: mean score of those answers; None if there is none.
    """

    name: str
    prompts: int
    fates: dict[str, int]
    chosen: float | None
    rejected: float | None


class OwnPair(Frozen):
    """One pair of a model's own answers, and the scores of all answers to its prompt."""

    prompt: tuple[Message, ...]
    chosen: Fate
    rejected: Fate
    scores: tuple[float | None, ...]


class OwnRound(Frozen):
    """One round on own answers."""

    counts: OwnCounts
    pairs: tuple[OwnPair, ...]


def own_rounds(store: Store, records: Mapping[str, StageRecord]) -> Iterator[OwnRound]:
    """The rounds on own answers among some records, by name."""
    for name, record in records.items():
        if made_by(record, PairAnswers):
            fates = list(read_rows(store.folder(record.key) / FATES, Fate))
            prompts = rows_in(store, record.parents["prompts"], CandidatePrompt)
            yield OwnRound(
                counts=_counts(name, fates), pairs=tuple(islice(_pairs(prompts, fates), SHOWN))
            )


def own_table(counts: Sequence[OwnCounts]) -> Table:
    """A row for each round."""
    reasons = sorted({reason for one in counts for reason in one.fates} - {CHOSEN, REJECTED})
    columns = ["Round", "Prompts", "Answers", "Pairs", "Chosen", "Rejected", *map(_word, reasons)]
    rows = [
        [
            Cell(text=one.name),
            Cell(text=f"{one.prompts:,}"),
            Cell(text=f"{sum(one.fates.values()):,}"),
            Cell(text=f"{one.fates.get(CHOSEN, 0):,}"),
            Cell(text=shown_score(one.chosen)),
            Cell(text=shown_score(one.rejected)),
            *(Cell(text=f"{one.fates.get(reason, 0):,}") for reason in reasons),
        ]
        for one in counts
    ]
    note = (
        "Chosen and Rejected are mean scores. The last columns count answers that are in no pair."
    )
    return Table.of("Answers and what became of them", columns, rows, note=note)


def shown_score(score: float | None) -> str:
    """A score for readers."""
    return metric.MISSING if score is None else metric.show(score, digits=2)


def _word(reason: str) -> str:
    return reason.replace("_", " ").capitalize()


def _counts(name: str, fates: Sequence[Fate]) -> OwnCounts:
    return OwnCounts(
        name=name,
        prompts=len({fate.prompt_id for fate in fates}),
        fates=dict(Counter(fate.fate for fate in fates)),
        chosen=_mean(fates, CHOSEN),
        rejected=_mean(fates, REJECTED),
    )


def _mean(fates: Sequence[Fate], kind: str) -> float | None:
    scores = [fate.score for fate in fates if fate.fate == kind and fate.score is not None]
    return sum(scores) / len(scores) if scores else None


def _pairs(prompts: Sequence[CandidatePrompt], fates: Sequence[Fate]) -> Iterator[OwnPair]:
    answers: dict[str, dict[int, Fate]] = {}
    for fate in fates:
        answers.setdefault(fate.prompt_id, {})[fate.sample] = fate
    for prompt in prompts:
        mine = answers.get(prompt.id, {})
        for fate in mine.values():
            partner = _PARTNER.fullmatch(fate.detail) if fate.fate == CHOSEN else None
            if partner is not None:
                yield OwnPair(
                    prompt=prompt.prompt,
                    chosen=fate,
                    rejected=mine[int(partner[1])],
                    scores=tuple(one.score for one in mine.values()),
                )
