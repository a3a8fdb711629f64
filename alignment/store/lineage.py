"""Ancestors and descendants of artifacts, read from their manifests."""

from alignment.records import ModelRef, StageRecord
from alignment.store.store import Store


def ancestors(store: Store, key: str) -> list[StageRecord]:
    """The records that a key was built from, each after its parents; the key's own comes last.

    Raises:
        ArtifactError: an ancestor is no longer in the store.
    """
    order: dict[str, StageRecord] = {}
    _visit(store, key, order)
    return list(order.values())


def descendants(store: Store, key: str) -> list[StageRecord]:
    """The records built from a key, directly or indirectly, in the order in which they started."""
    records = store.records()
    found = {key}
    while True:
        more = {r.key for r in records if r.key not in found and found & set(r.parents.values())}
        if not more:
            return [record for record in records if record.key in found - {key}]
        found |= more


def containing(store: Store, batch: str) -> list[StageRecord]:
    """The models that were trained on a batch (given by key), in the order of their creation."""
    return [record for record in descendants(store, batch) if record.output_as(ModelRef)]


def _visit(store: Store, key: str, order: dict[str, StageRecord]) -> None:
    if key in order:
        return
    record = store.find(key) or store.open(key)
    for parent in record.parents.values():
        _visit(store, parent, order)
    order[key] = record
