"""The plan of a run: what it would do, step by step, without doing it.

`Planned.resolved` holds the values under the argument names of TRL, PEFT and bitsandbytes. The
trainers are built from the same dictionaries. Not here: running.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from alignment.pipeline.again import MadeAgain
from alignment.pipeline.chain import Chain
from alignment.pipeline.verdicts import verdict_of
from alignment.records.base import Frozen
from alignment.records.manifest import StageRecord
from alignment.store.store import Store

Status = Literal["RUN", "SKIP", "RESUME"]


class Planned(Frozen):
    """One step of a planned run.

    Attributes:
        status: SKIP if its artifact exists, RESUME if a checkpoint exists, otherwise RUN.
        resolved: arguments by library, for training steps.
        notes: what to know about it; of a built training, what it chose.
        assumes: gates without a verdict; the key is right only if they keep their rounds.
    """

    name: str
    stage: str
    key: str
    status: Status
    parents: dict[str, str]
    seed: int
    settings: dict[str, Any]
    resolved: dict[str, dict[str, Any]]
    notes: tuple[str, ...] = ()
    assumes: tuple[str, ...] = ()


def plan(
    chain: Chain, store: Store, records: Callable[[], Sequence[StageRecord]] | None = None
) -> Iterator[Planned]:
    """The plan of each step of a chain, in order; `records` as `store.records`."""
    assumed = _assumed(chain, store)
    again = MadeAgain(
        store, {step.key: step.name for step in chain.steps()}, records or store.records
    )
    for step in chain.steps():
        yield Planned(
            name=step.name,
            stage=step.stage,
            key=step.key,
            status=_status(store, step.key),
            parents=step.roles,
            seed=step.seed,
            settings=step.settings,
            resolved=step.library_arguments(chain.base.quantisation),
            notes=(*step.foreseen, *_chosen(store, step.key), *again.notes(step)),
            assumes=assumed.get(step.key, ()),
        )


def _assumed(chain: Chain, store: Store) -> dict[str, tuple[str, ...]]:
    """By the key of each step in a round: the gates before it that have no verdict yet."""
    pending = _assumed_at_start(chain, store)
    found: dict[str, tuple[str, ...]] = {}
    for round_ in chain.rounds:
        found |= {step.key: pending for step in round_.steps()}
        if round_.gate is not None and verdict_of(store, round_.gate) is None:
            pending += (round_.gate.name,)
    return found


def _assumed_at_start(chain: Chain, store: Store) -> tuple[str, ...]:
    """The check of SFT, if it has no verdict yet and may change where the rounds start."""
    gate = chain.sft_gate
    decides = gate is not None and gate.on_regression == "keep_base"
    return (gate.name,) if gate and decides and verdict_of(store, gate) is None else ()


def _chosen(store: Store, key: str) -> Iterator[str]:
    """What the packed engine chose in a training that is done."""
    record = store.find(key)
    if record is not None and "recompute" in record.metrics:
        tokens = record.metrics["tokens_per_micro_batch"]
        yield f"chose {tokens:,.0f} tokens at once, {record.metrics['recompute']:.0%} recomputed"


def _status(store: Store, key: str) -> Status:
    if store.find(key) is not None:
        return "SKIP"
    return "RESUME" if store.has_checkpoint(key) else "RUN"
