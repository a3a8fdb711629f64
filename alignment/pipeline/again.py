"""Says which steps a run would make again, and why: which setting or parent is another one.

All models of a run are evaluated on the same rows, so a set that joins (with another round) changes
the rows of every evaluation, and a verdict on other rows may be another one. Trainings keep their
keys.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from alignment.pipeline.step import Step
from alignment.pipeline.steps import EvaluateModel, Gate, made_by
from alignment.records.manifest import StageRecord
from alignment.store.runs import changes
from alignment.store.store import Store

SHOWN = 4
"""Settings that are listed."""


class MadeAgain:
    """Notes on the steps that would run although an earlier one is in the store.

    Args:
        store: the store.
        names: the names of the run's steps by key.
        records: gives all records of the store, the oldest first; called if they are needed.
    """

    def __init__(
        self, store: Store, names: Mapping[str, str], records: Callable[[], Sequence[StageRecord]]
    ) -> None:
        self._store, self._names, self._all = store, names, records

    def notes(self, step: Step) -> Iterator[str]:
        """Why a step that has been made would be made again; nothing for all others."""
        if self._store.find(step.key) is not None:
            return
        if isinstance(step, EvaluateModel) and (earlier := self._earlier(step, model=step.model)):
            yield f"measured again: {self._difference(step, earlier)}"
        elif isinstance(step, Gate) and self._earlier(
            step, candidate=step.candidate, champion=step.champion
        ):
            yield "judged again on the new evaluations; the verdict may be another one"
        elif before := self._before(step):
            yield f"not {before.key}: {'; '.join(self._causes(step, before))}"

    def _earlier(self, step: Step, **parents: str) -> StageRecord | None:
        """The record of such a step with these parents that differs least."""
        if any(self._store.find(key) is None for key in parents.values()):
            return None
        return self._closest(
            step,
            (
                record
                for record in self._records
                if made_by(record, type(step)) and parents.items() <= record.parents.items()
            ),
        )

    def _before(self, step: Step) -> StageRecord | None:
        """The artifact of this name that differs least: that of another run, if it is closer."""
        named = (r for r in self._records if r.name == step.name and made_by(r, type(step)))
        return self._closest(step, named)

    def _closest(self, step: Step, records: Iterable[StageRecord]) -> StageRecord | None:
        """Of several that differ as little, the newest, which comes first."""

        def distance(record: StageRecord) -> tuple[bool, int]:
            return record.version != step.version, len(list(self._causes(step, record)))

        return min(records, key=distance, default=None)

    @cached_property
    def _records(self) -> Sequence[StageRecord]:
        return self._all()[::-1]

    def _difference(self, step: EvaluateModel, earlier: StageRecord) -> str:
        before = earlier.parents_as("data")
        joined = [self._names.get(key, key) for key in step.data if key not in before]
        if joined:
            return f"the held-out rows of {', '.join(joined)} join those of all evaluations"
        if step.data != before:
            return "its rows are others"
        return ", ".join(_settings(step, earlier)) or "its settings are others"

    def _causes(self, step: Step, before: StageRecord) -> Iterator[str]:
        """What made the key another one: the version, the seed, settings, parents."""
        if before.version != step.version:
            yield f"made by version {before.version} of this step, now {step.version}"
            return
        if before.seed != step.seed:
            yield f"seed {before.seed} -> {step.seed}"
        yield from _settings(step, before)
        known = set(before.parents.items())
        for field in dict.fromkeys(parent.field for parent in step.parents):
            others = [one for one in step.parents if one.field == field]
            if new := [one.key for one in others if (one.role, one.key) not in known]:
                names = ", ".join(dict.fromkeys(self._names.get(key, key) for key in new))
                yield f"another {field} ({names})"


def _settings(step: Step, before: StageRecord) -> Iterator[str]:
    """The settings that differ, with their values; a digest only says that files do."""
    found = list(changes(before.config, step.settings))
    for change in found[:SHOWN]:
        if change.key.rpartition(".")[2] in ("digest", "sha256"):
            yield "the content of its files is another one"
        else:
            yield f"{change.key} {change.before} -> {change.after}"
    if len(found) > SHOWN:
        yield f"{len(found) - SHOWN} more settings"
