"""`sft-dpo show`: show what is in a store."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from alignment.data.lookup import FoundRow, find_rows
from alignment.rounds.references import find_one
from alignment.store.lineage import ancestors
from alignment.store.runs import names_of_keys
from alignment.store.store import Store
from flows import printing
from flows.line_printing import print_lines
from flows.stores import existing_store

ROW_ID = re.compile(r"[0-9a-f]{16}")


def _rows(store: Store, reference: str) -> Iterator[FoundRow]:
    """The rows of prepared sets with this id; none if the reference does not look like one."""
    if ROW_ID.fullmatch(reference):
        yield from find_rows(store, reference)


def show_store(reference: str | None, store: Path, *, lineage: bool, as_json: bool) -> None:
    """Print the record of an artifact, its ancestors, or everything in the store."""
    opened = existing_store(store)
    if reference is None:
        records = opened.records()
    elif found := list(_rows(opened, reference)):
        print(json.dumps([row.model_dump(mode="json") for row in found], indent=2))
        return
    else:
        record = find_one(opened, reference)
        records = ancestors(opened, record.key) if lineage else [record]
    if as_json:
        dumped = [record.model_dump(mode="json") for record in records]
        print(json.dumps(dumped if reference is None or lineage else dumped[0], indent=2))
    elif reference is None:
        if not records:
            printing.say(f"nothing in {store} yet; fill it with `sft-dpo run CONFIG`", error=True)
        printing.print_list(records, names_of_keys(opened))
        print_lines(opened, records)
    elif lineage:
        printing.print_ancestry(opened, records)
    else:
        printing.print_record(records[0])
