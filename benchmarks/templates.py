"""What works under each chat template: the second table of docs/models.md.

    python -m benchmarks.templates
    python -m benchmarks.templates gemma3 qwen3

Small chats go through the run's own preparation, and what is kept is held against the template: a
target begins where the model would be asked for it, has all that was said, and ends with a token
that closes a reply. The templates are those that TRL's package has of published models, under the
small tokenizer of the tests with their markers as special tokens. Nothing is downloaded.
"""

import argparse
import contextlib
import json
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import trl
from transformers import PreTrainedTokenizerBase

from alignment.config.pipeline import PipelineConfig
from alignment.errors import DataError, ModelError
from alignment.execution.run_step import build
from alignment.models.chat_template import format_of, render_text
from alignment.models.encoding import encode_chat
from alignment.models.template import ModelTemplate, TrlTemplate
from alignment.pipeline.chain_builder import chain
from alignment.records.refs import DataRef
from alignment.records.text import Conversation, Quarantined
from alignment.store.jsonl import read_rows
from alignment.store.progress import Progress
from alignment.store.store import Store
from benchmarks.families import Row, settings, table, write_model

FOLDER = Path(trl.__file__).parent / "chat_templates"
MARKER = re.compile(
    r"<[|\uff5c][^<>{}'\"\n]{1,40}>|<[^<>{}'\"\n]{1,40}[|\uff5c]>|<[a-z]+_of_[a-z]+>|\[gMASK\]|<sop>"
)
"""What a template writes around turns, as it stands in the template's text."""
CHATS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "one turn": ({"role": "user", "content": "One?"}, {"role": "assistant", "content": "Amber."}),
    "several turns": (
        {"role": "user", "content": "Several?"},
        {"role": "assistant", "content": "River.\n\nYes."},
        {"role": "user", "content": "More?"},
        {"role": "assistant", "content": "Lemon."},
    ),
    "system turn": (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Brief?"},
        {"role": "assistant", "content": "Cedar."},
    ),
    "tool call": (
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "call12345", "function": {"name": "look", "arguments": {"at": "Bern"}}}
            ],
        },
        {"role": "tool", "content": "clear", "tool_call_id": "call12345"},
        {"role": "assistant", "content": "Stone."},
    ),
    "thought": (
        {"role": "user", "content": "Think?"},
        {"role": "assistant", "content": "Maple.", "reasoning_content": "Hazel first."},
    ),
}
TOOLS = [{"type": "function", "function": {"name": "look", "description": "", "parameters": {}}}]
COLUMNS = ("Template", *CHATS)
LONGEST = 4096
"""Tokens of the longest row: the small tokenizer writes many, and templates explain tools."""


def names() -> list[str]:
    """The templates of TRL's package, without its versions for training."""
    found = sorted(path.stem for path in FOLDER.glob("*.jinja"))
    return [name for name in found if not name.endswith("_training")]


def under(name: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer with a template of TRL's package, and its markers as special tokens."""
    text = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer.add_tokens(sorted(set(MARKER.findall(text))), special_tokens=True)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = text
    return tokenizer


def measure(name: str, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Row:
    """One row of the table; a chat that the template refuses is tried with other settings."""
    write_model("llama", tokenizer, folder / "model")
    own = tokenizer.chat_template
    cells = _checked(tokenizer, folder / "own")
    for setting, template in (
        ("into_user", ModelTemplate(system="into_user")),
        ("trl", TrlTemplate()),
    ):
        refused = [chat for chat, cell in cells.items() if cell in ("R", "N")]
        tokenizer.chat_template = own
        try:
            tokenizer.chat_template = template.text(tokenizer)
        except ModelError:
            continue
        if refused and tokenizer.chat_template != own:
            found = _checked(tokenizer, folder / setting)
            cells |= {chat: f"`{setting}`" for chat in refused if found[chat] == "ok"}
            cells |= {chat: found[chat] for chat in refused if found[chat].startswith("W")}
    return {"Template": name, **cells}


def _checked(tokenizer: PreTrainedTokenizerBase, folder: Path) -> Row:
    """A cell for each chat: `ok`, `R` set aside with a reason, `N` named in a note, `W` wrong."""
    try:
        kept, dropped, notes = _prepared(tokenizer, folder)
    except (DataError, ModelError) as error:
        logging.getLogger(__name__).warning("%s", error)
        return dict.fromkeys(CHATS, "R")
    for row in dropped:
        logging.getLogger(__name__).warning("%s: %s %s", row.row, row.reason, row.detail)
    cells = {}
    for name, chat in CHATS.items():
        asked = next(turn["content"] for turn in chat if turn["role"] == "user")
        found = [record for record in kept if asked in str(record)]
        cells[name] = _cell(tokenizer, found[0], chat) if found else "R"
    if cells["thought"] == "W text" and "reasoning in the last reply" in notes:
        cells["thought"] = "N"
    return cells


def _prepared(
    tokenizer: PreTrainedTokenizerBase, folder: Path
) -> tuple[list[Conversation], list[Quarantined], str]:
    """What was kept and what was set aside of all chats, and the notes of the set."""
    folder.mkdir()
    rows = folder / "rows.jsonl"
    rows.write_text("".join(f"{json.dumps(_row(name))}\n" for name in CHATS))
    values = settings(folder.parent, "llama", all_linear=True).model_dump(mode="json")
    values["sft"]["training"]["max_length"] = LONGEST
    source = {"name": "file", "path": str(rows)}
    values["sft"]["data"] = {"sources": [source], "held_out_share": 0.0, "min_rows": 0}
    store, steps = Store(root=folder / "store"), chain(PipelineConfig.model_validate(values))
    assert steps.held_out is not None
    assert steps.conversations is not None
    build(store, steps.held_out, Progress(), tokenizer=tokenizer)
    record = build(store, steps.conversations, Progress(), tokenizer=tokenizer)
    made = DataRef.model_validate(record.output)
    return (
        list(read_rows(store.path(made.train), Conversation)),
        list(read_rows(store.path(made.quarantine), Quarantined)),
        "; ".join(record.notes),
    )


def _row(name: str) -> dict[str, Any]:
    return {"messages": CHATS[name], **({"tools": TOOLS} if name == "tool call" else {})}


def _cell(
    tokenizer: PreTrainedTokenizerBase, kept: Conversation, chat: Sequence[Mapping[str, Any]]
) -> str:
    """`ok`, or what is wrong with the targets of a chat that was kept."""
    found = encode_chat(tokenizer, kept.messages)
    at = [number for number, turn in enumerate(kept.messages) if turn.role == "assistant"]
    asked = [*kept.messages[: at[-1]]]
    given = render_text(tokenizer, asked, add_generation_prompt=True)
    prompt = str(tokenizer.decode(list(found.ids[: found.spans[-1][0]])))
    if not given.startswith(prompt) or found.asked != (prompt == given):
        return "W prompt"
    said = [tokenizer.decode(list(found.ids[start:end])) for start, end in found.spans]
    expected = [_words(turn) for turn in chat if turn["role"] == "assistant"]
    if len(said) != len(expected):
        return "W targets"
    if any(word not in text for text, words in zip(said, expected, strict=True) for word in words):
        return "W text"
    closers = format_of(tokenizer).closers.values()
    if any(found.ids[end - 1] not in closers for _, end in found.spans):
        return "W stop"
    return "ok" if found.asked else "T"


def _words(turn: Mapping[str, Any]) -> list[str]:
    """What a target has to contain of a reply."""
    calls = [call["function"] for call in turn.get("tool_calls", ())]
    called = [word for call in calls for word in (call["name"], *call["arguments"].values())]
    return [turn["content"].strip(), turn.get("reasoning_content", ""), *called]


def rows_of(templates: Sequence[str]) -> Iterator[Row]:
    """The row of each template, one after another."""
    from tests.tiny import tokenizer

    make: Callable[[], PreTrainedTokenizerBase] = tokenizer
    for name in templates:
        # trainers print their logs
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            row = measure(name, under(name, make()), Path(folder))
        yield row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("templates", nargs="*", default=names())
    chosen = parser.parse_args().templates
    warnings.simplefilter("ignore")
    for line in table(rows_of(chosen), COLUMNS):
        print(line, flush=True)


if __name__ == "__main__":
    main()
