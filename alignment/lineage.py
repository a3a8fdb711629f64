"""Who descends from whom, read from the manifests alone."""

from alignment.records import StageRecord
from alignment.store import Store


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


def resolve(store: Store, reference: str) -> list[str]:
    """Keys that a person may mean: the whole key, its beginning, or a step's name.

    Returns:
        All matches, newest first for a name; empty when nothing matches.
    """
    keys = store.list_keys()
    if reference in keys:
        return [reference]
    prefixed = [key for key in keys if key.startswith(reference)]
    if prefixed:
        return prefixed
    records = [record for key in keys if (record := store.find(key)) is not None]
    named = [record for record in records if record.name == reference]
    return [r.key for r in sorted(named, key=lambda record: record.started, reverse=True)]


def _visit(store: Store, key: str, order: dict[str, StageRecord]) -> None:
    if key in order:
        return
    record = store.find(key) or store.open(key)
    for parent in record.parents.values():
        _visit(store, parent, order)
    order[key] = record
