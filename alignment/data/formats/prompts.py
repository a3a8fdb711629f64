"""Formats of what is only asked: evaluation prompts, which no training row may contain."""

import re
from collections.abc import Iterator
from typing import ClassVar, Literal

from alignment.data.formats.base import Columns, Kind, RowFormat, is_list, is_turns, mostly
from alignment.data.formats.rows import RawRow, asked, text
from alignment.data.row import Reason, Rejected
from alignment.records import Prompt

_REPLY = re.compile(r"(?i)chosen|rejected|response|repl|output|completion|answer|candidate|label")


class Prompts(RowFormat):
    """Prompts without replies; a line of a JSON Lines file may be the text itself."""

    wants: ClassVar[str] = "prompt: a text or a list of messages, and no reply"
    gives: ClassVar[Kind] = "prompts"
    name: Literal["prompts"] = "prompts"

    def detects(self, columns: Columns) -> str | None:
        """By a prompt without a column that could be a reply, where no other format is found."""
        replies = any(_REPLY.match(name) for name in columns)
        alone = not replies and mostly(columns, "prompt", is_turns)
        return "column prompt and no reply" if alone else None

    def parse(self, row: RawRow) -> Iterator[Prompt]:
        """The prompt."""
        yield row.prompt(row.turns("prompt", role="user"))


class MtBench(RowFormat):
    """Questions of two turns, the second asked after the reply (Zheng et al. 2023, MT-bench).

    A file of answers names its questions by number only, so none of them can be used alone.
    """

    wants: ClassVar[str] = "question_id, turns: a list of texts"
    gives: ClassVar[Kind] = "prompts"
    name: Literal["mt_bench"] = "mt_bench"

    def detects(self, columns: Columns) -> str | None:
        """By question ids beside turns or choices."""
        found = [name for name in ("turns", "choices") if mostly(columns, name, is_list)]
        return f"columns question_id, {found[0]}" if "question_id" in columns and found else None

    def parse(self, row: RawRow) -> Iterator[Prompt]:
        """All turns of the user."""
        turns = row.fields.get("turns")
        if "choices" in row.fields and turns is None:
            name = str(row.fields.get("question_id"))[:40]
            raise Rejected(Reason.no_prompt, f"an answer to question {name}, which is not here")
        if not isinstance(turns, list) or not turns:
            raise Rejected(Reason.malformed, "turns is no list of texts")
        said = [asked(text(turn, where=f"turns[{at}]")) for at, turn in enumerate(turns)]
        yield row.prompt(tuple(message for one in said for message in one))
