"""What the columns of a table mean: one class per format, all in one union.

A format recognises its columns from a table's first values (`detects`) and turns raw rows into
records (`records`). `Auto` tries all formats, states why it chose one, and never guesses between
two. To add a format: write a class in the file of its kind, add it to `RowFormats` and `KNOWN`, and
add an example to the tests. Not here: reading texts and chats from a row (`rows.py`); whether a
record may be used (`filters/`).
"""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from alignment.data.formats import refusals
from alignment.data.formats.base import BaseFormat, Columns, Kind, Parsed, RowFormat
from alignment.data.formats.candidates import Candidates
from alignment.data.formats.chats import (
    Contents,
    Gsm8k,
    Instances,
    Instruction,
    Messages,
    ShareGpt,
)
from alignment.data.formats.judged import Compared, LabelStudio
from alignment.data.formats.pairs import (
    HH,
    OTHER_PROMPTS,
    OTHER_REPLIES,
    GradedSolutions,
    Preference,
    PreferredOutput,
    RejectedResponse,
)
from alignment.data.formats.prompts import MtBench, Prompts
from alignment.data.formats.threads import (
    OpenAssistantNodes,
    OpenAssistantRankedNodes,
    OpenAssistantTrees,
)
from alignment.data.formats.unpaired import Rated, Unpaired
from alignment.errors import DataError
from alignment.records.base import Frozen, Json
from alignment.records.text import Conversation, PreferencePair

__all__ = [
    "HH",
    "KNOWN",
    "Auto",
    "BaseFormat",
    "Candidates",
    "ChosenFormat",
    "Columns",
    "Compared",
    "Contents",
    "Format",
    "GradedSolutions",
    "Gsm8k",
    "Instances",
    "Instruction",
    "Kind",
    "LabelStudio",
    "Messages",
    "MtBench",
    "OpenAssistantNodes",
    "OpenAssistantRankedNodes",
    "OpenAssistantTrees",
    "Parsed",
    "Preference",
    "PreferredOutput",
    "Prompts",
    "Rated",
    "RejectedResponse",
    "RowFormat",
    "RowFormats",
    "ShareGpt",
    "Unpaired",
    "choose_format",
    "chosen_conversation",
    "columns_of",
]

RowFormats = (
    Messages
    | ShareGpt
    | Contents
    | Preference
    | PreferredOutput
    | RejectedResponse
    | HH
    | Instruction
    | Instances
    | Gsm8k
    | GradedSolutions
    | Compared
    | Candidates
    | OpenAssistantTrees
    | OpenAssistantNodes
    | OpenAssistantRankedNodes
    | LabelStudio
    | Unpaired
    | Rated
    | MtBench
    | Prompts
)
KNOWN: tuple[RowFormats, ...] = (
    Messages(),
    ShareGpt(),
    Contents(),
    Preference(),
    *(Preference(prompt=name) for name in OTHER_PROMPTS),
    Preference(chosen="chosen_messages", rejected="rejected_messages"),
    *(
        Preference(prompt=name, chosen=chosen, rejected=rejected)
        for chosen, rejected in OTHER_REPLIES
        for name in ("prompt", *OTHER_PROMPTS)
    ),
    Preference(
        prompt="question",
        chosen="answer_matching_behavior",
        rejected="answer_not_matching_behavior",
    ),
    PreferredOutput(),
    RejectedResponse(),
    HH(),
    Instruction(),
    Instruction(output="response"),
    Instruction(instruction="question", output="answer"),
    Instruction(instruction="question", output="response"),
    Instruction(instruction="query", output="response"),
    Instruction(instruction="human", output="assistant"),
    Instruction(instruction="user", output="assistant"),
    Instruction(instruction="prompt", output="response"),
    Instruction(instruction="prompt", output="completion"),
    Instruction(instruction="input", output="output"),
    Instances(),
    Gsm8k(),
    GradedSolutions(),
    Compared(),
    Candidates(),
    OpenAssistantTrees(),
    OpenAssistantNodes(),
    OpenAssistantRankedNodes(),
    LabelStudio(),
    Unpaired(),
    Rated(),
    MtBench(),
)
"""What `Auto` chooses from, with the column names in common use."""
FALLBACK: RowFormats = Prompts()
"""Tried only if no other format matches, since tables with replies have a prompt column too."""


class Auto(Frozen):
    """The one known format that matches the columns; an error if none or several match."""

    name: Literal["auto"] = "auto"


Format = Annotated[Auto | RowFormats, Field(discriminator="name")]


class ChosenFormat(NamedTuple):
    """The format in which a source's rows are read, and why."""

    format: RowFormats
    reason: str


def choose_format(wanted: Auto | RowFormats, rows: Sequence[Json], *, where: str) -> ChosenFormat:
    """The format named in the config, or the one detected from the columns of the first rows.

    Args:
        wanted: the config's choice.
        rows: the first few rows.
        where: the source's name, for the error message.

    Raises:
        DataError: the columns match no known format, or several; or the rows do not decide a
            convention of their format.
    """
    chosen = (
        _detected(columns_of(rows), where)
        if isinstance(wanted, Auto)
        else ChosenFormat(wanted, "named in the config")
    )
    settled = chosen.format.settled(rows, where=where)
    return ChosenFormat(settled, chosen.reason)


def _detected(columns: Columns, where: str) -> ChosenFormat:
    """The one format that matches, without those that another one outranks."""
    found = [
        ChosenFormat(known, reason)
        for known in KNOWN
        if (reason := known.detects(columns)) is not None
    ]
    outranked = {name for one in found for name in one.format.outranks}
    found = [one for one in found if one.format.name not in outranked]
    if not found and (reason := FALLBACK.detects(columns)) is not None:
        found = [ChosenFormat(FALLBACK, reason)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(refusals.several(where, columns, [one.format for one in found]))
    raise DataError(refusals.unknown(where, columns, KNOWN))


def columns_of(rows: Sequence[Json]) -> Columns:
    """The columns of some rows, each with its values that are not null."""
    columns: dict[str, list[object]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, [])
            if value is not None:
                columns[name].append(value)
    return columns


def chosen_conversation(pair: PreferencePair) -> Conversation:
    """A pair as a conversation to imitate: the prompt and the chosen reply."""
    return Conversation.of(
        (*pair.prompt, *pair.chosen), task_type=pair.task_type, source=pair.source
    )
