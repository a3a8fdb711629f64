"""`sft-dpo export` and `sft-dpo chat`: export a model in the store, or chat with it.

Heavy libraries are imported only after the model is found.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from alignment.records.manifest import StageRecord
from alignment.rounds.line import check_sound
from alignment.rounds.references import find_one
from alignment.store.activity import announced
from alignment.store.store import Store
from flows.printing import say
from flows.quiet import quiet_libraries
from flows.stores import existing_store

if TYPE_CHECKING:
    from alignment.compose.export import Exported


def export_model(
    reference: str,
    store: Path,
    to: Path,
    *,
    form: Literal["merged", "adapter", "gguf"],
    dtype: str | None,
    converter: Path | None = None,
) -> None:
    """Write a folder that other programs can load; print the measured differences."""
    opened = existing_store(store)
    record = find_one(opened, reference)
    check_sound(opened, record.name, record.key)
    with announced(opened, f"sft-dpo export {reference}"):
        done = export_with_card(
            opened, record, to, name=to.name, form=form, dtype=dtype, converter=converter
        )
    for note in done.notes():
        say(note)
    say(f"written to {to}")


def export_with_card(
    store: Store,
    record: StageRecord,
    to: Path,
    *,
    name: str,
    form: Literal["merged", "adapter", "gguf"],
    dtype: str | None = None,
    converter: Path | None = None,
) -> "Exported":
    """Write the folder with a model card as its README."""
    quiet_libraries()  # before the import below, which warns
    from alignment.api.exports import write_with_card

    return write_with_card(
        store, record, to, name=name, form=form, dtype=dtype, converter=converter
    )


def chat(reference: str, store: Path, *, tokens: int) -> None:
    """Reply to each line until the input ends; an empty line starts a new chat."""
    opened = existing_store(store)
    record = find_one(opened, reference)
    quiet_libraries()  # before the import below, which warns
    from alignment.compose.export import open_for_chat

    with announced(opened, f"sft-dpo chat {reference}"):  # while its weights are read
        reply = open_for_chat(opened, record, max_new_tokens=tokens)
    prompt = "> " if sys.stdin.isatty() else ""
    turns: list[tuple[str, str]] = []
    while (line := _read_line(prompt)) is not None:
        if not line:
            turns = []
            continue
        turns.append(("user", line))
        turns.append(("assistant", reply(turns)))
        say(turns[-1][1])


def _read_line(prompt: str) -> str | None:
    try:
        return input(prompt).strip()
    except EOFError:
        return None
