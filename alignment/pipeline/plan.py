"""What a run would do, step by step, before it does anything.

`Planned.resolved` holds the values under the names that TRL, PEFT and bitsandbytes give them:
the trainers are built from the same dictionaries. Not here: running.
"""

from collections.abc import Iterator
from typing import Any, Literal

from alignment.pipeline.chain import Chain
from alignment.pipeline.verdicts import verdict_of
from alignment.records import Frozen
from alignment.store.store import Store

Status = Literal["RUN", "SKIP", "RESUME"]


class Planned(Frozen):
    """One step of a run that has not happened yet.

    Attributes:
        status: SKIP, its artifact exists; RESUME, a checkpoint exists; RUN otherwise.
        resolved: library name to its arguments, for training steps.
        assumes: gates that have not spoken yet: the key holds if they keep their rounds.
    """

    name: str
    stage: str
    key: str
    status: Status
    parents: dict[str, str]
    seed: int
    settings: dict[str, Any]
    resolved: dict[str, dict[str, Any]]
    assumes: tuple[str, ...] = ()


def plan(chain: Chain, store: Store) -> Iterator[Planned]:
    """Every step of a chain in order, with what would happen to it."""
    assumed = _assumed(chain, store)
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
            assumes=assumed.get(step.key, ()),
        )


def _assumed(chain: Chain, store: Store) -> dict[str, tuple[str, ...]]:
    """Keys of steps of rounds to the gates of the rounds before that have not spoken yet."""
    silent: tuple[str, ...] = ()
    found: dict[str, tuple[str, ...]] = {}
    for round_ in chain.rounds:
        found |= {step.key: silent for step in round_.steps()}
        if round_.gate is not None and verdict_of(store, round_.gate) is None:
            silent += (round_.gate.name,)
    return found


def _status(store: Store, key: str) -> Status:
    if store.find(key) is not None:
        return "SKIP"
    return "RESUME" if store.has_checkpoint(key) else "RUN"
