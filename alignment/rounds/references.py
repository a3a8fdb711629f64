"""What a person may call an artifact by, and the keys it stands for."""

from alignment.errors import UsageError
from alignment.records import StageRecord
from alignment.rounds.line import RoundLine
from alignment.store.store import Store


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
        champion = RoundLine(store=store, name=reference[5:] or "main").state().champion
        return [champion.model] if champion else []
    keys = store.list_keys()
    if reference in keys:
        return [reference]
    if named := [record.key for record in store.records() if record.name == reference]:
        return named[::-1]
    return [key for key in keys if key.startswith(reference)]
