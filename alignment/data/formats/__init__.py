"""What the columns of a table mean: one class for each format, all in one union.

A format tells by a table's first values whether it is meant (`detects`), and turns its raw rows
into records (`records`). Auto asks all of them, states why it chose, and never guesses between
two. To add one: a class in the file of its kind, its place in `Format` and `KNOWN`, a fixture in
the tests. Not here: reading texts and chats out of a row (`rows.py`); whether a record may be used
(`clean.py`).
"""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from alignment.data.formats.base import BaseFormat, Columns, Kind, Made, RowFormat
from alignment.data.formats.chats import Gsm8k, Instances, Instruction, Messages, ShareGpt
from alignment.data.formats.judged import Candidates, Compared
from alignment.data.formats.pairs import HH, GradedSolutions, Preference
from alignment.data.formats.prompts import MtBench, Prompts
from alignment.data.formats.threads import OpenAssistantNodes, OpenAssistantTrees
from alignment.data.formats.unpaired import Unpaired
from alignment.errors import DataError
from alignment.records import Conversation, Frozen, Json, PreferencePair

__all__ = [
    "HH",
    "KNOWN",
    "Auto",
    "BaseFormat",
    "Candidates",
    "Columns",
    "Compared",
    "Format",
    "GradedSolutions",
    "Gsm8k",
    "Instances",
    "Instruction",
    "Kind",
    "Made",
    "Messages",
    "MtBench",
    "OpenAssistantNodes",
    "OpenAssistantTrees",
    "Preference",
    "Prompts",
    "RowFormat",
    "RowFormats",
    "ShareGpt",
    "Stated",
    "Unpaired",
    "choose_format",
    "chosen_conversation",
    "columns_of",
]

RowFormats = (
    Messages
    | ShareGpt
    | Preference
    | HH
    | Instruction
    | Instances
    | Gsm8k
    | GradedSolutions
    | Compared
    | Candidates
    | OpenAssistantTrees
    | OpenAssistantNodes
    | Unpaired
    | MtBench
    | Prompts
)
KNOWN: tuple[RowFormats, ...] = (
    Messages(),
    ShareGpt(),
    Preference(),
    Preference(prompt="question"),
    Preference(prompt="instruction"),
    Preference(prompt="conversations"),
    Preference(chosen="chosen_messages", rejected="rejected_messages"),
    Preference(
        prompt="question",
        chosen="answer_matching_behavior",
        rejected="answer_not_matching_behavior",
    ),
    HH(),
    Instruction(),
    Instruction(output="response"),
    Instruction(instruction="prompt", output="response"),
    Instruction(instruction="prompt", output="completion"),
    Instances(),
    Gsm8k(),
    GradedSolutions(),
    Compared(),
    Candidates(),
    OpenAssistantTrees(),
    OpenAssistantNodes(),
    Unpaired(),
    MtBench(),
)
"""What `Auto` chooses from, under the column names that are in use."""
LAST: RowFormats = Prompts()
"""Asked where none of the others is found: a prompt column stands beside replies too."""


class Auto(Frozen):
    """The one known format that the columns look like; an error when none or several do."""

    name: Literal["auto"] = "auto"


Format = Annotated[Auto | RowFormats, Field(discriminator="name")]


class Stated(NamedTuple):
    """The format that a source's rows are read in, and why."""

    format: RowFormats
    reason: str


def choose_format(wanted: Auto | RowFormats, rows: Sequence[Json], *, where: str) -> Stated:
    """The format named in the config, or the one that the first rows' columns tell.

    Args:
        wanted: the config's choice.
        rows: the first few rows.
        where: the source's name, for the message.

    Raises:
        DataError: the columns look like no known format, or like several.
    """
    if not isinstance(wanted, Auto):
        return Stated(wanted, "named in the config")
    columns = columns_of(rows)
    found = [
        Stated(known, reason) for known in KNOWN if (reason := known.detects(columns)) is not None
    ]
    if not found and (reason := LAST.detects(columns)) is not None:
        found = [Stated(LAST, reason)]
    if len(found) == 1:
        return found[0]
    names = " and ".join(dict.fromkeys(stated.format.name for stated in found))
    problem = f"look like {names}" if found else "look like no known format"
    named = ", ".join(name[:40] for name in list(columns)[:20])
    options = "; ".join({known.name: f"{known.name} ({known.wants})" for known in KNOWN}.values())
    raise DataError(
        f"{where}: columns {named or '(none)'} {problem}. "
        f"Name one, for instance format: {{name: {KNOWN[0].name}}}, or rename columns with "
        f"columns: {{theirs: ours}}. Known: {options}"
    )


def columns_of(rows: Sequence[Json]) -> Columns:
    """The columns of some rows with the values that are there."""
    columns: dict[str, list[object]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, [])
            if value is not None:
                columns[name].append(value)
    return columns


def chosen_conversation(pair: PreferencePair) -> Conversation:
    """A pair read as a chat to imitate: the prompt and the chosen reply."""
    return Conversation.of(
        (*pair.prompt, *pair.chosen), task_type=pair.task_type, source=pair.source
    )
