"""`sft-dpo export` and `sft-dpo chat`: export a model in the store, or chat with it.

Heavy libraries are imported only after the model is found.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Literal

from alignment.errors import UsageError
from alignment.rounds.line import check_sound
from alignment.rounds.references import find_model, find_one
from alignment.store.activity import announced
from flows.chat_page import compare_in_browser
from flows.commands.compare_chat import Comparison, Contender, Reply, Turns, compare_chat
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
    (reply,) = _opened([reference], store, tokens)
    turns: Turns = []
    while (line := _read_line("> ")) is not None:
        if not line:
            turns = []
            continue
        turns.append(("user", line))
        turns.append(("assistant", reply(turns)))
        say(turns[-1][1])


def compare(
    first: str, second: str, store: Path, *, inbox: Path, tokens: int, web: int | None
) -> None:
    """Show two models' replies to each message, blind, and note which one is preferred.

    On the terminal, or as a page at port `web`.
    """
    if first == second:
        raise UsageError(f"--compare needs two models, and {first!r} is one")
    one, other = _opened([first, second], store, tokens)
    session = Comparison(Contender(first, one), Contender(second, other), inbox)
    if web is None:
        compare_chat(session, _read_line)
    else:
        compare_in_browser(session, web)


def _opened(references: list[str], store: Path, tokens: int) -> list[Reply]:
    """The reply function of each model; all are in memory at once."""
    opened = existing_store(store)
    records = [find_model(opened, reference) for reference in references]
    quiet_libraries()  # before the import below, which warns
    from alignment.compose.export import open_for_chat

    with announced(opened, f"sft-dpo chat {' '.join(references)}"):  # while weights are read
        return [open_for_chat(opened, record, max_new_tokens=tokens) for record in records]


def _read_line(prompt: str) -> str | None:
    """A line of the user; nobody is prompted where nobody types."""
    try:
        return input(prompt if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
