"""What a step takes and writes, judged by the last one of its kind in a store.

A training takes as long as its rows: one of ten steps, to try something, says little of one of a
thousand. Not here: rates of cards that nothing has run on (`doctor/forecast/`).
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from alignment.pipeline.step import Step
from alignment.pipeline.steps import TrainDpo, TrainSft
from alignment.records.base import Frozen
from alignment.records.manifest import StageRecord
from alignment.records.refs import DataRef
from alignment.store.store import Store


class Effort(Frozen):
    """What some steps take.

    Attributes:
        seconds, size: time, and bytes of their artifacts.
        gpu_gib: the most memory of a GPU that one of them needs; None: not known, or no GPU.
        unknown: the kinds of steps that have not run in this store, which count as nothing.
    """

    seconds: float
    size: int
    gpu_gib: float | None
    unknown: tuple[str, ...]


class Efforts:
    """Judges steps by what a store has.

    Args:
        store: the store.
        records: as `store.records`, for who has read them already.
    """

    def __init__(
        self, store: Store, records: Callable[[], Sequence[StageRecord]] | None = None
    ) -> None:
        self._store, self._records = store, records or store.records

    @cached_property
    def _last(self) -> dict[str, StageRecord]:
        return {record.stage: record for record in self._records()}

    def rates(self) -> dict[str, float]:
        """Seconds per unit of work, by the kind of step."""
        return {stage: _seconds(one) / (_trained(one) or 1.0) for stage, one in self._last.items()}

    def work(self, step: Step) -> float:
        """Units of work: rows of a training, as many as last time if they are not known yet."""
        if not isinstance(step, TrainSft | TrainDpo):
            return 1.0
        last = self._last.get(step.stage)
        return self._rows(step) or (last and _trained(last)) or 1.0

    def of(self, steps: Iterable[Step]) -> Effort:
        """What these steps will take."""
        every = tuple(steps)
        seen, rates = [step for step in every if step.stage in self._last], self.rates()
        last = [self._last[step.stage] for step in seen]
        peaks = [one.metrics["peak_gpu_gib"] for one in last if "peak_gpu_gib" in one.metrics]
        return Effort(
            seconds=sum(rates[step.stage] * self.work(step) for step in seen),
            size=sum(file.size for one in last for file in one.files),
            gpu_gib=max(peaks, default=None),
            unknown=tuple(dict.fromkeys(s.stage for s in every if s.stage not in self._last)),
        )

    def _rows(self, step: TrainSft | TrainDpo) -> float | None:
        """Rows that a training goes through; None before its sets are prepared."""
        config = step.config
        if config.max_steps:
            return float(config.max_steps * config.batch.effective)
        keys = step.data if isinstance(step, TrainSft) else (step.data,)
        records = [self._store.find(key) for key in keys]
        sets = [one.output_as(DataRef) for one in records if one is not None]
        if len(sets) < len(keys):
            return None
        return config.epochs * sum(data.kept for data in sets if data is not None)


def _seconds(record: StageRecord) -> float:
    return record.seconds + sum(attempt.seconds for attempt in record.earlier)


def _trained(record: StageRecord) -> float | None:
    """Rows that a training went through; None for other steps."""
    settings = record.config.get("config")
    batch = settings.get("batch") if isinstance(settings, dict) else None
    if not isinstance(batch, dict) or "steps" not in record.metrics:
        return None
    return float(record.metrics["steps"] * batch["per_device"] * batch["accumulation"])
