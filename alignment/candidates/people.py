"""Measures a judge on pairs that people have labelled, before it labels anything."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alignment.candidates.ask_judge import ask_judge, decisions
from alignment.candidates.budget import JudgeQuestion
from alignment.candidates.records import JudgeCall
from alignment.candidates.settings import JudgeLabel, PeopleConfig
from alignment.data.read.reading import read_pairs
from alignment.data.split import unit_hash
from alignment.errors import ConfigError, DataError
from alignment.records.text import PreferencePair, Quarantined
from alignment.store.journal import Journal
from alignment.store.progress import Progress


class Agreement(NamedTuple):
    """On how many pairs a judge chose what people chose, and on how many it did not decide."""

    pairs: int
    agreed: int
    undecided: int

    @property
    def share(self) -> float:
        """The share of pairs on which it agrees."""
        return self.agreed / self.pairs

    def in_words(self) -> str:
        """In a sentence."""
        return (
            f"the judge agrees with people on {self.agreed} of {self.pairs} pairs "
            f"({self.share:.0%}), {self.undecided} undecided"
        )


def measure_judge(
    label: JudgeLabel, people: PeopleConfig, calls: Journal[JudgeCall], progress: Progress
) -> Agreement:
    """Show the judge both replies of each pair, in both orders; raises like `ask_judge`.

    Raises:
        DataError: there is no pair.
        ConfigError: it agrees with people less often than it has to.
    """
    pairs = _chosen(people)
    ask_judge(label, list(_questions(pairs)), calls, progress)
    found = decisions(calls.rows).values()
    agreement = Agreement(
        pairs=len(pairs),
        agreed=sum(one == 1.0 for one in found),
        undecided=sum(one in (None, 0.0) for one in found),
    )
    if agreement.share < people.min_agreement:
        raise ConfigError(
            f"{agreement.in_words()}; label.people.min_agreement is {people.min_agreement:.0%}. "
            "Use another judge, or another label.instruction."
        )
    return agreement


def _chosen(people: PeopleConfig) -> list[PreferencePair]:
    rows: dict[str, PreferencePair] = {}
    for source in people.sources:
        items = read_pairs(source).items
        rows |= {row.record.id: row.record for row in items if not isinstance(row, Quarantined)}
    if not rows:
        raise DataError("label.people: no pair can be read; it needs preference pairs")
    order = sorted(rows.values(), key=lambda pair: unit_hash(pair.id, salt="people"))
    return order[: people.limit]


def _questions(pairs: Sequence[PreferencePair]) -> Iterator[JudgeQuestion]:
    for pair in pairs:
        chosen, rejected = pair.chosen[-1].content, pair.rejected[-1].content
        for swapped in (False, True):
            yield JudgeQuestion(pair.id, 1, swapped, pair.prompt, rejected, chosen)
