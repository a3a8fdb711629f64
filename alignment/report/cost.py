"""What a run cost: time, tokens and GPU-hours of each kind of step."""

from collections.abc import Iterable, Mapping, Sequence

from alignment.pipeline.steps import (
    STEPS,
    EvaluateModel,
    MergeAdapter,
    ScoreReference,
    StackAdapter,
    Step,
    TrainDpo,
    TrainSft,
    made_by,
)
from alignment.records.base import Frozen
from alignment.records.manifest import StageRecord
from alignment.report.metric import MISSING, show, show_seconds
from alignment.report.table import Table

_KINDS: dict[str, tuple[type[Step], ...]] = {
    "SFT": (TrainSft,),
    "DPO": (ScoreReference, TrainDpo),
    "handover": (MergeAdapter, StackAdapter),
    "evaluation": (EvaluateModel,),
}
_OTHER = "data and the rest"


class Spent(Frozen):
    """What one kind of step spent.

    Attributes:
        seconds: of all processes that worked on it, finished or not.
        tokens: trained on, or scored and generated; None where none are counted.
        gpu_hours: of the steps that ran on a GPU.
    """

    kind: str
    seconds: float
    tokens: int | None = None
    gpu_hours: float = 0.0


def cost_of(records: Sequence[StageRecord], tokens: Mapping[str, int]) -> tuple[Spent, ...]:
    """One entry per kind of step, in the order of a run.

    Args:
        records: every step of the run.
        tokens: by the step's key, for those that count them.
    """
    groups: dict[str, list[StageRecord]] = {kind: [] for kind in (_OTHER, *_KINDS)}
    for record in records:
        groups[_kind_of(record)].append(record)
    return tuple(_spent(kind, group, tokens) for kind, group in groups.items() if group)


def cost_table(cost: Sequence[Spent]) -> Table:
    """One row per kind of step, and the total."""
    tokens = [spent.tokens for spent in cost if spent.tokens is not None]
    total = Spent(
        kind="total",
        seconds=sum(spent.seconds for spent in cost),
        tokens=sum(tokens) if tokens else None,
        gpu_hours=sum(spent.gpu_hours for spent in cost),
    )
    rows = [
        [
            spent.kind,
            show_seconds(spent.seconds),
            f"{spent.seconds / total.seconds:.0%}" if total.seconds else MISSING,
            MISSING if spent.tokens is None else f"{spent.tokens:,}",
            show(spent.gpu_hours, digits=2) if spent.gpu_hours else "0",
        ]
        for spent in (*cost, total)
    ]
    return Table.of(
        "Cost",
        ["Steps", "Time", "Share", "Tokens", "GPU-hours"],
        rows,
        note="Time of all processes that worked on the artifacts of this page, in this run or an "
        "earlier one. Tokens: trained on, or scored and generated.",
    )


def _kind_of(record: StageRecord) -> str:
    return next((kind for kind, steps in _KINDS.items() if made_by(record, *steps)), _OTHER)


def _spent(kind: str, records: Iterable[StageRecord], tokens: Mapping[str, int]) -> Spent:
    records = list(records)
    counted = [tokens[record.key] for record in records if record.key in tokens]
    return Spent(
        kind=kind,
        seconds=sum(map(_seconds, records)),
        tokens=sum(counted) if counted else None,
        gpu_hours=sum(_seconds(record) for record in records if _on_gpu(record)) / 3600,
    )


def _seconds(record: StageRecord) -> float:
    return record.seconds + sum(attempt.seconds for attempt in record.earlier)


def _on_gpu(record: StageRecord) -> bool:
    kind = STEPS.get(record.stage)
    return "gpu" in record.hardware and kind is not None and kind.needs_gpu
