"""How long the commands at work in a store still take, as another process can tell."""

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from alignment.pipeline.effort import Efforts
from alignment.pipeline.steps import Step, read_step
from alignment.records.base import Frozen
from alignment.store.activity import Activity, noted_steps
from alignment.store.store import Store

NOT_LAST = ("scoring",)
"""Phases that are followed by another phase of the same step: evaluations score, then generate."""


class Remaining(Frozen):
    """What is left of a run.

    Attributes:
        seconds: of the steps of which something is known; None if that is none of them.
        steps: number of steps that have not ended.
        forecast: the device of the doctor's forecast, for each step that nothing else is known of.
        unknown: names of the steps about which nothing is known.
    """

    seconds: float | None
    steps: int
    forecast: dict[str, str]
    unknown: tuple[str, ...]


class _Judged(NamedTuple):
    step: Step
    seconds: float | None
    forecast_for: str = ""


def remaining(store: Store, at_work: Iterable[Activity]) -> Remaining | None:
    """What is left of the runs at work; None if they have not said what they do."""
    left = [step for step in map(read_step, noted_steps(store)) if not store.find(step.key)]
    if not left:
        return None
    judged = list(_judged(store, left, {one.key: one for one in at_work if one.running}))
    known = [one.seconds for one in judged if one.seconds is not None]
    return Remaining(
        seconds=sum(known) if known else None,
        steps=len(left),
        forecast={one.step.name: one.forecast_for for one in judged if one.forecast_for},
        unknown=tuple(one.step.name for one in judged if one.seconds is None),
    )


def _judged(store: Store, left: Sequence[Step], running: dict[str, Activity]) -> Iterator[_Judged]:
    """The time of each step: by its own pace, the last of its kind, the doctor; in this order."""
    efforts = Efforts(store)
    rates = efforts.rates()
    for step in left:
        usual = rates[step.stage] * efforts.work(step) if step.stage in rates else None
        device = ""
        if usual is None and (forecast := store.forecast(step.key)):
            usual, device = forecast
        if step.key not in running:
            yield _Judged(step, usual, device)
            continue
        one = running[step.key]
        spent = _spent(one)
        if one.left is None or (one.mark and one.mark.phase in NOT_LAST):
            yield _Judged(step, None if usual is None else max(usual - spent, 0.0), device)
            continue
        yield _Judged(step, one.left)
        # so far the best basis for others of its kind, which may all be later in this run
        rates.setdefault(step.stage, (spent + one.left) / efforts.work(step))


def _spent(one: Activity) -> float:
    if one.holder is None:
        return 0.0
    return time.time() - datetime.fromisoformat(one.holder.since).timestamp()
