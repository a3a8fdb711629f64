"""Finds the rows behind a step of a training: which they were, where they are, what they say.

A training keeps the ids of each step's rows (`records/training.py`); the rows themselves are in the
sets that it was trained on. Not here: which training a user means (`rounds/references.py`).
"""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from alignment.data.formats import chosen_conversation
from alignment.errors import UsageError
from alignment.records.base import Frozen
from alignment.records.manifest import StageRecord
from alignment.records.refs import DataRef
from alignment.records.text import Conversation, Message, PreferencePair
from alignment.records.training import TRAINED, Measure, TrainedStep
from alignment.store.jsonl import read_rows
from alignment.store.store import Store

AROUND = 5
"""Steps on either side that say what is usual."""
LONGEST_TEXT = 70

Found = Mapping[str, tuple[str, int, Conversation | PreferencePair]]
"""By id: the artifact of a set, the line in its training rows, and the row."""


class TracedRow(Frozen):
    """A row of a step.

    Attributes:
        value: as in `TrainedStep`.
        id: its id in its set, as `sft-dpo show` takes it; as trained if no set has it any more.
        source: where its set has it from; empty if no set has it.
        artifact, line: the set, and the line in its `train.jsonl`.
        texts: the last turns, shortened, by their role.
    """

    value: float | None
    id: str
    source: str = ""
    artifact: str = ""
    line: int = 0
    texts: dict[str, str] = Field(default_factory=dict)


class TracedStep(Frozen):
    """A step of a training, its rows with the worst first.

    Attributes:
        training: the name of the training.
        loss: as logged; while the training goes on, the mean of its rows.
        usual: the median loss of the steps around it; None if there are none.
    """

    training: str
    step: int
    measure: Measure
    loss: float | None
    usual: float | None
    rows: tuple[TracedRow, ...]


class TrainedSteps:
    """The steps of one training, in its artifact or, while it is not finished, in its workspace.

    Raises:
        UsageError: it was recorded before row ids were kept.
    """

    def __init__(self, store: Store, name: str, folder: Path, sets: Sequence[str]) -> None:
        self.name, self._store, self._sets = name, store, sets
        self._steps = {step.step: step for step in _kept(folder / TRAINED)}
        if not self._steps:
            raise UsageError(
                f"{name} ({folder.name}) was recorded before row ids were kept, so its steps "
                "cannot be traced. A new training keeps them, for example with another seed."
            )
        self._losses = _losses(folder / "history.jsonl") or {
            number: _mean(step.values) for number, step in self._steps.items()
        }

    def spikes(self, most: int) -> list[int]:
        """The steps whose losses are furthest above those around them, the worst first."""
        above = {n: self._above(n) for n in self._steps}
        worst = sorted(above, key=lambda n: (-above[n], n))[:most]
        return [n for n in worst if above[n] > 0]

    def traced(self, numbers: Sequence[int]) -> list[TracedStep]:
        """Steps with their rows.

        Raises:
            UsageError: there is no such step, or its rows were not kept.
        """
        steps = [self._step(number) for number in numbers]
        found = rows_by_id(self._store, self._sets, {name for step in steps for name in step.ids})
        return [self._traced(step, found) for step in steps]

    def _traced(self, step: TrainedStep, found: Found) -> TracedStep:
        rows = [_row(name, v, found) for name, v in zip(step.ids, step.values, strict=True)]
        sign = -1.0 if step.measure == "loss" else 1.0  # a high loss is bad, and a low margin
        return TracedStep(
            training=self.name,
            step=step.step,
            measure=step.measure,
            loss=self._losses.get(step.step),
            usual=self._usual(step.step),
            rows=tuple(sorted(rows, key=lambda row: _order(row.value, sign))),
        )

    def _step(self, number: int) -> TrainedStep:
        if number in self._steps:
            return self._steps[number]
        first, last = min(self._steps), max(self._steps)
        if 0 < number < first:
            raise UsageError(
                f"step {number} of {self.name} was recorded before row ids were kept; they are "
                f"from step {first} on"
            )
        raise UsageError(f"{self.name} has steps {first} to {last}, but no step {number}")

    def _above(self, number: int) -> float:
        loss, usual = self._losses.get(number), self._usual(number)
        if loss is None:  # not a finite number
            return float("inf")
        return loss - usual if usual is not None else 0.0

    def _usual(self, number: int) -> float | None:
        around = (n for n in range(number - AROUND, number + AROUND + 1) if n != number)
        losses = [loss for n in around if (loss := self._losses.get(n)) is not None]
        return statistics.median(losses) if losses else None


def training_sets(record: StageRecord) -> tuple[str, ...]:
    """The keys of the sets that a training was trained on."""
    return record.parents_as("data")


def rows_by_id(store: Store, sets: Iterable[str], ids: set[str]) -> Found:
    """The training rows with these ids; a pair also has that of what SFT imitates of it."""
    found: dict[str, tuple[str, int, Conversation | PreferencePair]] = {}
    for key in sets:
        for number, row in enumerate(_rows(store, key), start=1):
            for name in _names(row, ids - found.keys()):
                found[name] = (key, number, row)
    return found


def _rows(store: Store, key: str) -> Iterator[Conversation | PreferencePair]:
    record = store.find(key)
    data = record.output_as(DataRef) if record else None
    if data is None or not store.path(data.train).is_file():
        return
    if data.kind == "conversations":
        yield from read_rows(store.path(data.train), Conversation)
    else:
        yield from read_rows(store.path(data.train), PreferencePair)


def _names(row: Conversation | PreferencePair, ids: set[str]) -> Iterator[str]:
    if row.id in ids:
        yield row.id
    elif ids and isinstance(row, PreferencePair) and (name := chosen_conversation(row).id) in ids:
        yield name


def _row(name: str, value: float | None, found: Found) -> TracedRow:
    if name not in found:
        return TracedRow(value=value, id=name)
    key, line, row = found[name]
    return TracedRow(
        value=value,
        id=row.id,
        source=row.source,
        artifact=key,
        line=line,
        texts=_texts(row),
    )


def _texts(row: Conversation | PreferencePair) -> dict[str, str]:
    if isinstance(row, PreferencePair):
        parts = {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected}
        return {name: _shortened(turns[-1]) for name, turns in parts.items() if turns}
    return {turn.role: _shortened(turn) for turn in row.messages[-2:]}


def _shortened(turn: Message) -> str:
    text = " ".join(turn.text.split())
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


def _order(value: float | None, sign: float) -> float:
    return float("-inf") if value is None else sign * value


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None]
    return sum(finite) / len(finite) if len(finite) == len(values) else None


def _kept(path: Path) -> Iterator[TrainedStep]:
    """The whole lines of a file that may still grow; none if there is no file."""
    try:
        lines = path.read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return
    for line in lines:
        try:
            yield TrainedStep.model_validate_json(line)
        except ValidationError:  # being written
            return


def _losses(path: Path) -> dict[int, float | None]:
    if not path.is_file():
        return {}
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}
