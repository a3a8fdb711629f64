"""`sft-dpo show`: show what is in a store."""

import json
from pathlib import Path

from alignment.errors import UsageError
from alignment.rounds.references import find_one
from alignment.store.lineage import ancestors
from alignment.store.store import Store
from flows import printing


def show_store(reference: str | None, store: Path, *, lineage: bool, as_json: bool) -> None:
    """Print the record of an artifact, its ancestors, or everything in the store."""
    opened = Store(root=store)
    if not store.is_dir():
        raise UsageError(
            f"no store {store}. Check --store, or create it with `sft-dpo run CONFIG`."
        )
    if reference is None:
        records = opened.records()
    else:
        record = find_one(opened, reference)
        records = ancestors(opened, record.key) if lineage else [record]
    if as_json:
        dumped = [record.model_dump(mode="json") for record in records]
        print(json.dumps(dumped if reference is None or lineage else dumped[0], indent=2))
    elif reference is None:
        if not records:
            printing.say(f"nothing in {store} yet; fill it with `sft-dpo run CONFIG`", error=True)
        printing.print_list(records)
        printing.print_lines(opened, records)
    elif lineage:
        printing.print_ancestry(opened, records)
    else:
        printing.print_record(records[0])
