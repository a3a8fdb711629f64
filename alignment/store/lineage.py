"""Who descends from whom, read from the manifests alone."""

from alignment.records import ModelRef, StageRecord
from alignment.store.store import Store


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
    records = store.records()
    found = {key}
    while True:
        more = {r.key for r in records if r.key not in found and found & set(r.parents.values())}
        if not more:
            return [record for record in records if record.key in found - {key}]
        found |= more


def containing(store: Store, batch: str) -> list[StageRecord]:
    """The models that were trained on a batch, given by its key, in the order of their making."""
    return [record for record in descendants(store, batch) if record.output_as(ModelRef)]


def _visit(store: Store, key: str, order: dict[str, StageRecord]) -> None:
    if key in order:
        return
    record = store.find(key) or store.open(key)
    for parent in record.parents.values():
        _visit(store, parent, order)
    order[key] = record
