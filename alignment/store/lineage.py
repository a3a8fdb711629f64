"""Ancestors and descendants of artifacts, read from their manifests."""

from alignment.records.manifest import StageRecord
from alignment.records.refs import ModelRef
from alignment.store.store import Store


def ancestors(store: Store, key: str) -> list[StageRecord]:
    """The records that a key was built from, each after its parents; the key's own comes last.

    Raises:
        ArtifactError: an ancestor is no longer in the store.
    """
    order: dict[str, StageRecord] = {}
    entered: dict[str, StageRecord] = {}
    waiting = [key]  # a stack of our own: a line of many rounds is deeper than Python's
    while waiting:
        current = waiting[-1]
        if current in order:
            waiting.pop()
        elif current in entered:
            order[current] = entered[current]
        else:
            entered[current] = store.find(current) or store.open(current)
            waiting += reversed(entered[current].parents.values())
    return list(order.values())


def descendants(store: Store, key: str) -> list[StageRecord]:
    """The records built from a key, directly or indirectly, in the order in which they started."""
    records = store.records()
    children: dict[str, list[str]] = {}
    for record in records:
        for parent in record.parents.values():
            children.setdefault(parent, []).append(record.key)
    found, waiting = set[str](), [key]
    while waiting:
        new = set(children.get(waiting.pop(), ())) - found
        found |= new
        waiting += new
    return [record for record in records if record.key in found]


def containing(store: Store, batch: str) -> list[StageRecord]:
    """The models that were trained on a batch (given by key), in the order of their creation."""
    return [record for record in descendants(store, batch) if record.output_as(ModelRef)]
