"""Formats of prompts without replies, such as evaluation prompts."""

import re
from collections.abc import Iterator
from itertools import chain
from typing import ClassVar, Literal

from alignment.data.formats.base import Columns, Kind, RowFormat, is_list, is_turns, mostly
from alignment.data.formats.chats import CHATS, ends_with_user
from alignment.data.formats.messages import text
from alignment.data.formats.rows import RawRow, as_prompt
from alignment.data.row import Reason, Rejected
from alignment.records.text import Prompt

_REPLY = re.compile(r"(?i)chosen|rejected|response|repl|output|completion|answer|candidate|label")


class Prompts(RowFormat):
    """Prompts without replies; a line of a JSON Lines file may be just the text."""

    expects: ClassVar[str] = (
        "prompt: a text or a list of messages; or messages that all end with the user's turn; "
        "and no reply"
    )
    reads: ClassVar[str] = "the prompt; a line of JSON text is one too"
    columns: ClassVar[tuple[str, ...]] = ("prompt",)
    gives: ClassVar[Kind] = "prompts"
    name: Literal["prompts"] = "prompts"

    def detects(self, columns: Columns) -> str | None:
        """By a prompt column, if no column could be a reply and no other format matches."""
        if any(_REPLY.match(name) for name in columns):
            return None
        if mostly(columns, "prompt", is_turns):
            return "column prompt and no reply"
        column = next((name for name in _CHATS if ends_with_user(columns, name)), "")
        return f"column {column} holds chats without a last reply" if column else None

    def parse(self, row: RawRow) -> Iterator[Prompt]:
        """The prompt."""
        filled = (name for name in ("prompt", *_CHATS) if row.fields.get(name) is not None)
        yield row.prompt(row.turns(next(filled, "prompt"), role="user"))


_CHATS = ("messages", *CHATS)


class MtBench(RowFormat):
    """Questions of two turns, the second after the reply (Zheng et al. 2023, MT-bench).

    A file of answers refers to its questions by number only, so it cannot be used alone.
    """

    expects: ClassVar[str] = "question_id, turns: a list of texts"
    reads: ClassVar[str] = "all user turns"
    columns: ClassVar[tuple[str, ...]] = ("question_id", "turns")
    gives: ClassVar[Kind] = "prompts"
    name: Literal["mt_bench"] = "mt_bench"

    def detects(self, columns: Columns) -> str | None:
        """By question ids together with turns or choices."""
        found = [name for name in ("turns", "choices") if mostly(columns, name, is_list)]
        return f"columns question_id, {found[0]}" if "question_id" in columns and found else None

    def parse(self, row: RawRow) -> Iterator[Prompt]:
        """All user turns."""
        turns = row.get("turns")
        if "choices" in row.fields and turns is None:
            name = str(row.fields.get("question_id"))[:40]
            raise Rejected(
                Reason.no_prompt, f"an answer to question {name}, which is not in this file"
            )
        if not isinstance(turns, list) or not turns:
            raise Rejected(Reason.malformed, "turns is not a list of texts")
        questions = [as_prompt(text(turn, where=f"turns[{at}]")) for at, turn in enumerate(turns)]
        yield row.prompt(tuple(chain.from_iterable(questions)))
