"""Says which evaluations and verdicts a run would make again, and why.

All models of a run are evaluated on the same rows, so a set that joins (with another round) changes
the rows of every evaluation, and a verdict on other rows may be another one. Trainings keep their
keys.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property

from alignment.pipeline.step import Step
from alignment.pipeline.steps import EvaluateModel, Gate, made_by
from alignment.records.manifest import StageRecord
from alignment.store.store import Store


class MadeAgain:
    """Notes on the evaluations and gates that would run although an earlier one is in the store.

    Args:
        store: the store.
        names: the names of the run's steps by key.
    """

    def __init__(self, store: Store, names: Mapping[str, str]) -> None:
        self._store, self._names = store, names

    def notes(self, step: Step) -> Iterator[str]:
        """Why a step that has been made would be made again; nothing for all others."""
        if self._store.find(step.key) is not None:
            return
        if isinstance(step, EvaluateModel) and (earlier := self._earlier(step, model=step.model)):
            yield f"measured again: {self._difference(step, earlier)}"
        if isinstance(step, Gate) and self._earlier(
            step, candidate=step.candidate, champion=step.champion
        ):
            yield "judged again on the new evaluations; the verdict may be another one"

    def _earlier(self, step: Step, **parents: str) -> StageRecord | None:
        """The newest record of such a step with these parents."""
        if any(self._store.find(key) is None for key in parents.values()):
            return None
        found = (
            record
            for record in self._records
            if made_by(record, type(step)) and parents.items() <= record.parents.items()
        )
        return next(found, None)

    @cached_property
    def _records(self) -> list[StageRecord]:
        return self._store.records()[::-1]

    def _difference(self, step: EvaluateModel, earlier: StageRecord) -> str:
        before = earlier.parents_as("data")
        joined = [self._names.get(key, key) for key in step.data if key not in before]
        if joined:
            return f"the held-out rows of {', '.join(joined)} join those of all evaluations"
        return "its rows are others" if step.data != before else "its settings are others"
