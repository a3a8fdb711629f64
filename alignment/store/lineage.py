"""Who descends from whom, read from the manifests alone."""

from alignment.errors import UsageError
from alignment.records import StageRecord
from alignment.rounds.line import Line
from alignment.store.store import Store

HAND_OVERS = ("merge", "stack")
"""The stages whose artifact is a model that was trained here."""


def ancestors(store: Store, key: str) -> list[StageRecord]:
    """The records a key was built from, itself last; each after its own parents.

    Raises:
        ArtifactError: when an ancestor is no longer in the store.
    """
    order: dict[str, StageRecord] = {}
    _visit(store, key, order)
    return list(order.values())


def descendants(store: Store, key: str) -> list[StageRecord]:
    """The records built from a key, directly or not, in the order of their start."""
    records = {k: record for k in store.list_keys() if (record := store.find(k)) is not None}
    found = {key}
    while True:
        more = {k for k, r in records.items() if k not in found and found & set(r.parents.values())}
        if not more:
            break
        found |= more
    return sorted((records[k] for k in found - {key}), key=lambda record: record.started)


def containing(store: Store, batch: str) -> list[StageRecord]:
    """The models that were trained on a batch, given by its key, in the order of their making."""
    return [record for record in descendants(store, batch) if record.stage in HAND_OVERS]


def find_one(store: Store, reference: str) -> StageRecord:
    """The one record that a person means, see `resolve`.

    Raises:
        UsageError: nothing matches, or several do.
    """
    keys = resolve(store, reference)
    if not keys:
        raise UsageError(
            f"nothing called {reference!r} in {store.root}. `sft-dpo show` lists what there is."
        )
    records = [record for key in keys if (record := store.find(key)) is not None]
    if len(records) > 1:
        listed = "\n".join(f"  {record.key}  {record.started}" for record in records)
        raise UsageError(f"{reference!r} names {len(records)} artifacts; give a key:\n{listed}")
    return records[0]


def resolve(store: Store, reference: str) -> list[str]:
    """Keys that a person may mean: the whole key, a step's name, or the beginning of a key.

    A name goes before a beginning: "sft" is the step, though the control's key begins with it too.
    "head" is the champion of the line "main", "head:NAME" that of another line.

    Returns:
        All matches, newest first for a name; empty when nothing matches.
    """
    if reference == "head" or reference.startswith("head:"):
        champion = Line(store=store, name=reference[5:] or "main").state().head
        return [champion.model] if champion else []
    keys = store.list_keys()
    if reference in keys:
        return [reference]
    records = [record for key in keys if (record := store.find(key)) is not None]
    named = [record for record in records if record.name == reference]
    if named:
        return [r.key for r in sorted(named, key=lambda record: record.started, reverse=True)]
    return [key for key in keys if key.startswith(reference)]


def _visit(store: Store, key: str, order: dict[str, StageRecord]) -> None:
    if key in order:
        return
    record = store.find(key) or store.open(key)
    for parent in record.parents.values():
        _visit(store, parent, order)
    order[key] = record
