"""`sft-dpo promote`, `rollback` and `revoke`: the champion of a line of rounds."""

from collections.abc import Callable
from pathlib import Path

from alignment.rounds.line import RoundLine
from alignment.rounds.references import find_one
from alignment.rounds.steps import champion_of
from alignment.store.lineage import containing
from alignment.store.store import Store
from flows.printing import print_list

NO_REASON = "from the command line"


def promote(reference: str, store: Path, line: str, why: str) -> None:
    """Make a model the champion of a line."""
    opened = Store(root=store)
    head = champion_of(opened, find_one(opened, reference).key)
    RoundLine(store=opened, name=line).promote(head, why or NO_REASON)
    print(f"champion of {line}: {head.label} {head.model}")


def roll_back(reference: str | None, store: Path, line: str, why: str) -> None:
    """Make an earlier champion the champion again."""
    opened = Store(root=store)
    lined = RoundLine(store=opened, name=line)
    model = find_one(opened, reference).key if reference else None
    head = lined.state().earlier_champion(model)
    lined.roll_back(head, why or NO_REASON)
    print(f"champion of {line}: {head.label} {head.model}")
    print("The batches of the rounds after it stay used: no round trains on them again.")


def revoke(
    batch: str, store: Path, line: str, why: str, *, rebuild: Callable[[], None] | None
) -> None:
    """Bar a batch; `rebuild` trains one lost round again, and is called until none is left."""
    opened = Store(root=store)
    lined = RoundLine(store=opened, name=line)
    bad = lined.state().find_batch(batch)
    found = containing(opened, bad.key)
    print(f"batch {bad.digest[:12]} ({bad.file}) is in {len(found)} models of {store}:")
    print_list(found)
    state = lined.revoke(bad, why or NO_REASON)
    assert state.champion is not None, "a batch was used, so there is a champion"
    print(f"champion of {line}: {state.champion.label} {state.champion.model}")
    print(f"{len(state.again)} rounds to train again without it")
    while rebuild is not None and lined.state().again:
        rebuild()
