"""`sft-dpo trace`: the rows behind a step of a training."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alignment.data.trace import TracedRow, TracedStep, TrainedSteps, training_sets
from alignment.errors import UsageError
from alignment.records.manifest import StageRecord
from alignment.records.training import TRAINED
from alignment.rounds.references import find_one
from alignment.store.lineage import ancestors
from alignment.store.runs import called
from alignment.store.store import Store
from flows.printing import say
from flows.stores import existing_store

TRAININGS = ("sft", "dpo")
SPIKES = 3
WORST = 5
"""Rows that are printed of a spike; --step prints all."""


class Training(NamedTuple):
    """A training that a user may mean.

    Attributes:
        folder: its artifact, or its workspace while it is not finished.
        sets: keys of the sets that it was trained on.
    """

    name: str
    folder: Path
    sets: tuple[str, ...]


def trace(
    reference: str, store: Path, *, step: int | None, spikes: bool, stage: str | None, as_json: bool
) -> None:
    """Print the rows of one step, or of the steps whose losses stand out.

    Raises:
        UsageError: nothing is called so, or its steps were not kept.
    """
    if (step is None) != spikes:
        raise UsageError("give either --step N, or --spikes for the steps that stand out")
    opened = existing_store(store)
    trainings = _chosen(list(_trainings(opened, reference)), reference, stage)
    if step is not None and len(trainings) > 1:
        names = ", ".join(training.name for training in trainings)
        raise UsageError(f"{reference} has several trainings ({names}): choose one with --stage")
    kept = list(_kept(opened, trainings))
    traced = [
        one
        for steps in kept
        for one in steps.traced(steps.spikes(SPIKES) if step is None else [step])
    ]
    if as_json:
        print(json.dumps([one.model_dump(mode="json") for one in traced], indent=2))
        return
    if not traced:
        say("no step stands out from those around it")
    for one in traced:
        _print_step(one, most=WORST if spikes else len(one.rows))


def _kept(store: Store, trainings: list[Training]) -> Iterator[TrainedSteps]:
    """The steps of trainings; one without is named, or refused if there is no other."""
    for training in trainings:
        try:
            yield TrainedSteps(store, *training)
        except UsageError as error:
            if len(trainings) == 1:
                raise
            say(str(error), error=True)


def _chosen(trainings: list[Training], reference: str, stage: str | None) -> list[Training]:
    """The trainings of a name, else of a kind: the control is one of the kind sft."""
    if not trainings:
        raise UsageError(f"{reference} has no training; name a run, or a model that was trained")
    named = [one for one in trainings if stage in (None, one.name)]
    chosen = named or [one for one in trainings if one.folder.name.partition("-")[0] == stage]
    if not chosen:
        names = ", ".join(training.name for training in trainings)
        raise UsageError(f"{reference} has no training called {stage!r}; it has {names}")
    return chosen


def _trainings(store: Store, reference: str) -> Iterator[Training]:
    """Those of a run, the one that made a model, or one that is not finished, by its key."""
    entry = next(iter(called(store, reference)), None)
    if entry is not None and store.find(reference) is None:
        records = filter(None, map(store.find, entry.steps.values()))
        yield from (_training(store, record) for record in records if record.stage in TRAININGS)
    elif begun := _begun(store, reference):
        yield from (Training(path.parts[-3], path.parent, _all_sets(store)) for path in begun)
    else:
        lineage = ancestors(store, find_one(store, reference).key)
        newest = next((one for one in reversed(lineage) if one.stage in TRAININGS), None)
        yield from [_training(store, newest)] if newest else []


def _begun(store: Store, reference: str) -> list[Path]:
    """What trainings that are not finished have kept, by the beginning of their key."""
    kept = sorted(store.root.glob(f"work/*/out/{TRAINED}"))
    return [path for path in kept if reference and path.parts[-3].startswith(reference)]


def _training(store: Store, record: StageRecord) -> Training:
    return Training(record.name, store.folder(record.key), training_sets(record))


def _all_sets(store: Store) -> tuple[str, ...]:
    """Every set, the newest first: what a training is trained on is noted when it is finished."""
    return tuple(record.key for record in reversed(store.records()))


def _print_step(step: TracedStep, *, most: int) -> None:
    loss = "not a finite number" if step.loss is None else f"{step.loss:.4g}"
    usual = "" if step.usual is None else f" ({step.usual:.4g} is usual around it)"
    say(f"{step.training}, step {step.step}: loss {loss}{usual}, {len(step.rows)} rows")
    for row in step.rows[:most]:
        _print_row(step.measure, row)
    if len(step.rows) > most:
        say(f"  and {len(step.rows) - most} more: --step {step.step} --stage {step.training}")


def _print_row(measure: str, row: TracedRow) -> None:
    value = "not finite" if row.value is None else f"{row.value:.4g}"
    place = f"{row.source}, line {row.line} of {row.artifact}" if row.artifact else "in no set now"
    say(f"  {measure} {value}  {row.id}  {place}")
    for role, text in row.texts.items():
        say(f"    {role}: {text}")
