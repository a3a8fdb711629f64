"""Entries that a ledger has lost at its end, where the chain of digests does not show it.

Every artifact notes the last entry of each ledger when it is finished (`StageRecord.ledgers`), so a
loss shows once anything was built after the lost entry. A loss before that does not show.
"""

from collections.abc import Iterable
from pathlib import Path

from alignment.records.manifest import LedgerTip, StageRecord
from alignment.store.checksum import file_sha256
from alignment.store.store import Store


def lost_entries(store: Store, records: Iterable[StageRecord] | None = None) -> tuple[str, ...]:
    """A sentence for each line whose ledger lacks an entry that an artifact was made after.

    Args:
        store: the store.
        records: all its records, if the caller has read them; a store has thousands.
    """
    noted: dict[str, dict[LedgerTip, str]] = {}
    for record in store.records() if records is None else records:
        for line, tip in record.ledgers.items():
            noted.setdefault(line, {}).setdefault(tip, record.key)
    lines = {path.name: path for path in store.root.glob("lines/*")}
    found = (_loss(name, lines.get(name), tips) for name, tips in sorted(noted.items()))
    return tuple(filter(None, found))


def _loss(line: str, folder: Path | None, tips: dict[LedgerTip, str]) -> str:
    """The first entry that is missing or another one; empty if there is none."""
    for tip, key in sorted(tips.items(), key=lambda item: item[0].number):
        if folder is None or not _holds(folder, tip):
            return (
                f"the ledger of line {line!r} has lost entries: {key} was made after entry "
                f"{tip.number}, which is no longer there. Restore lines/{line} from a backup; "
                "what the lost entries said (promotions, revoked batches) no longer holds."
            )
    return ""


def _holds(folder: Path, tip: LedgerTip) -> bool:
    try:
        return file_sha256(folder / f"{tip.number:08d}.json") == tip.sha256
    except FileNotFoundError:
        return False
