"""`sft-dpo export` and `sft-dpo chat`: a model of the store for others, or to talk to.

The libraries are imported once the model is found.
"""

import logging
import sys
from pathlib import Path
from typing import Literal

from alignment.rounds.references import find_one
from alignment.store.store import Store


def export_model(
    reference: str,
    store: Path,
    to: Path,
    *,
    form: Literal["merged", "adapter", "gguf"],
    dtype: str | None,
) -> None:
    """Write a folder others can load; print what it lost."""
    opened = Store(root=store)
    record = find_one(opened, reference)
    from alignment.compose.export import export

    _quiet_libraries()
    for note in export(opened, record, to, form=form, dtype=dtype).notes():
        print(note)
    print(f"written to {to}")


def chat(reference: str, store: Path, *, tokens: int) -> None:
    """Answer each line until the input ends; an empty one starts afresh."""
    opened = Store(root=store)
    record = find_one(opened, reference)
    from alignment.compose.export import open_for_chat

    _quiet_libraries()
    reply = open_for_chat(opened, record, max_new_tokens=tokens)
    prompt = "> " if sys.stdin.isatty() else ""
    turns: list[tuple[str, str]] = []
    while (line := _read_line(prompt)) is not None:
        if not line:
            turns = []
            continue
        turns.append(("user", line))
        turns.append(("assistant", reply(turns)))
        print(turns[-1][1])


def _quiet_libraries() -> None:
    """Bars of loading and remarks about kernels stay out of what a command prints."""
    from transformers.utils import logging as bars

    bars.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _read_line(prompt: str) -> str | None:
    try:
        return input(prompt).strip()
    except EOFError:
        return None
