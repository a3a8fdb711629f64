"""`sft-dpo promote`, `rollback` and `revoke`: change the champion of a line of rounds."""

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
    champion = champion_of(opened, find_one(opened, reference).key)
    RoundLine(store=opened, name=line).promote(champion, why or NO_REASON)
    print(f"champion of {line}: {champion.label} {champion.model}")


def roll_back(reference: str | None, store: Path, line: str, why: str) -> None:
    """Make an earlier champion the champion again."""
    opened = Store(root=store)
    rounds = RoundLine(store=opened, name=line)
    model = find_one(opened, reference).key if reference else None
    champion = rounds.state().earlier_champion(model)
    rounds.roll_back(champion, why or NO_REASON)
    print(f"champion of {line}: {champion.label} {champion.model}")
    print("The batches of later rounds stay used: no round trains on them again.")


def revoke(
    batch: str, store: Path, line: str, why: str, *, rebuild: Callable[[], None] | None
) -> None:
    """Ban a batch; `rebuild`, if given, retrains one lost round at a time until none is left."""
    opened = Store(root=store)
    rounds = RoundLine(store=opened, name=line)
    bad = rounds.state().find_batch(batch)
    found = containing(opened, bad.key)
    print(f"batch {bad.digest[:12]} ({bad.file}) is in {len(found)} models of {store}:")
    print_list(found)
    state = rounds.revoke(bad, why or NO_REASON)
    assert state.champion is not None, "a used batch implies a champion"
    print(f"champion of {line}: {state.champion.label} {state.champion.model}")
    print(f"{len(state.requeued)} rounds to retrain without it")
    while rebuild is not None and rounds.state().requeued:
        rebuild()
