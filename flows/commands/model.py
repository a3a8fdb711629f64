"""`sft-dpo export` and `sft-dpo chat`: export a model in the store, or chat with it.

Heavy libraries are imported only after the model is found.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Literal

from alignment.rounds.line import check_sound
from alignment.rounds.references import find_one
from alignment.store.activity import announced
from flows.printing import say
from flows.quiet import quiet_libraries
from flows.stores import existing_store


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
        done = quiet_exports().write_with_card(
            opened, record, to, name=to.name, form=form, dtype=dtype, converter=converter
        )
    for note in done.notes():
        say(note)
    say(f"written to {to}")


def quiet_exports() -> ModuleType:
    """What writes a model with its card; it imports the heavy libraries, which would warn."""
    quiet_libraries()
    from alignment.api import exports

    return exports


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
