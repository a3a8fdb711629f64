"""What share of a round's time its evaluation takes, from the records of a store.

    python -m benchmarks.share --store runs

A round is the making of its pairs (answers and labels included, if the model writes them itself),
its training, the handover and the evaluation of its model; the evaluation has scoring and
answering, but also loading and the distance from the trained model. A step that was resumed counts
with the time of its last part only.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from alignment.records.base import Frozen
from alignment.records.manifest import StageRecord
from alignment.store.store import Store


class RoundTime(Frozen):
    """Seconds of the steps of one round."""

    evaluation: str
    pairs: float
    training: float
    handover: float
    evaluating: float

    @property
    def share(self) -> float:
        """The evaluation's part of the round, 0 to 1."""
        return self.evaluating / (self.pairs + self.training + self.handover + self.evaluating)

    def row(self) -> str:
        """The figures as text."""
        return (
            f"{self.evaluation:<20} pairs {self.pairs:6.1f} s  training {self.training:6.1f} s  "
            f"handover {self.handover:5.1f} s  evaluation {self.evaluating:5.1f} s  "
            f"{self.share:.1%}"
        )


def round_times(records: Sequence[StageRecord]) -> Iterator[RoundTime]:
    """The rounds among these records whose every step is there."""
    by_key = {record.key: record for record in records}
    for evaluation in records:
        handover = by_key.get(evaluation.parents.get("model", ""))
        training = handover and by_key.get(handover.parents.get("adapter", ""))
        if evaluation.stage == "evaluate" and handover and training and training.stage == "dpo":
            yield RoundTime(
                evaluation=evaluation.name,
                pairs=sum(one.seconds for one in _making(training.parents["data"], by_key)),
                training=training.seconds,
                handover=handover.seconds,
                evaluating=evaluation.seconds,
            )


def _making(pairs: str, by_key: Mapping[str, StageRecord]) -> Iterator[StageRecord]:
    """The steps that made a round's pairs: one, or also prompts, answers and labels."""
    if made := by_key.get(pairs):
        own = {made.parents.get(role) for role in ("prompts", "answers", "labels")}
        yield from (record for key, record in by_key.items() if key in own | {pairs})


def main() -> None:
    """Print one line per round of a store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="the store of a run")
    for found in round_times(Store(root=parser.parse_args().store).records()):
        print(found.row())


if __name__ == "__main__":
    main()
