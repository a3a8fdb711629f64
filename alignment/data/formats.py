"""What the columns of a raw row mean: one class for each format, all in one union.

A format tells by a table's first values whether it is meant (`detects`), and turns one raw row
into records (`parse`). Auto asks all of them, states why it chose, and never guesses between two.
To add one: a class here, its place in `Format` and `KNOWN`, a fixture in the tests.
Not here: reading texts and chats out of a row (`rows.py`); whether a record may be used
(`clean.py`).
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, PositiveFloat

from alignment.data.clean import Reason, Record, Rejected
from alignment.data.rows import RawRow, Turns, exchange, split_at_common_prefix
from alignment.errors import DataError
from alignment.records import Conversation, Frozen, Json, Message, PreferencePair, Role

_SCORES = ("score_chosen", "score_rejected")
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_MARKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_SPEAKERS: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}

Kind = Literal["conversations", "pairs"]
Columns = Mapping[str, Sequence[object]]
"""Column name to its values in the first rows, missing and null ones left out."""


class RowFormat(Frozen, ABC):
    """One meaning of columns. Abstract; concrete formats are final.

    Attributes:
        wants: the columns it reads, for people.
        gives: what `parse` yields. Pairs also serve as conversations: prompt and chosen reply.
        note: what it does to the text, where that is not to be expected; stated in the report.
    """

    wants: ClassVar[str]
    gives: ClassVar[Kind]
    note: ClassVar[str] = ""

    @abstractmethod
    def detects(self, columns: Columns) -> str | None:
        """Why these columns look like this format, or None."""

    @abstractmethod
    def parse(self, row: RawRow) -> Iterator[Record]:
        """The records of one row, mostly one.

        Raises:
            Rejected: the row is not in this format.
        """


class Messages(RowFormat):
    """A chat as a list of `{role, content}`; roles are system, user and assistant."""

    wants: ClassVar[str] = "messages: a list of {role, content}"
    gives: ClassVar[Kind] = "conversations"
    name: Literal["messages"] = "messages"

    def detects(self, columns: Columns) -> str | None:
        """By a column `messages` of lists."""
        return "column messages holds lists" if _mostly(columns, "messages", _is_list) else None

    def parse(self, row: RawRow) -> Iterator[Conversation]:
        """The chat."""
        yield row.conversation(row.messages("messages"))


class Preference(RowFormat):
    """Prompt, chosen and rejected, each a text or a list of messages.

    Chosen and rejected may be whole chats; their longest common beginning is then the prompt,
    whatever else a prompt column holds. `score_chosen` and `score_rejected`, in the row or under
    `metadata`, become the pair's strength.
    """

    wants: ClassVar[str] = (
        "prompt, chosen, rejected: texts or lists of messages; "
        "or chosen, rejected: lists of messages with the prompt in both"
    )
    gives: ClassVar[Kind] = "pairs"
    name: Literal["preference"] = "preference"
    score_scale: PositiveFloat = Field(
        default=10.0,
        description="difference of two scores that counts as strength 1; a larger one too. "
        "Default: the width of the usual 0 to 10 scale",
    )

    def detects(self, columns: Columns) -> str | None:
        """By chosen and rejected with a prompt, or as lists of messages without one."""
        replies = ("chosen", "rejected")
        if all(_mostly(columns, name, _is_list) for name in replies):
            return "columns chosen, rejected hold lists of messages"
        texts = all(_mostly(columns, name, _is_text) for name in replies)
        return "columns prompt, chosen, rejected" if texts and "prompt" in columns else None

    def parse(self, row: RawRow) -> Iterator[PreferencePair]:
        """The pair."""
        strength = self._strength(row)
        chosen, rejected = (row.turns(name, role="assistant") for name in ("chosen", "rejected"))
        if _is_chat(chosen) and _is_chat(rejected):
            prompt, chosen, rejected = split_at_common_prefix(chosen, rejected)
        else:
            prompt = row.turns("prompt", role="user")
        yield row.pair(prompt, chosen=chosen, rejected=rejected, strength=strength)

    def _strength(self, row: RawRow) -> float | None:
        """(score_chosen - score_rejected) / score_scale within 0..1, or None without scores."""
        metadata = row.fields.get("metadata")
        places = (row.fields, metadata if isinstance(metadata, dict) else {})
        scores = [place.get(name) for name in _SCORES for place in places if name in place]
        if len(scores) != 2 or None in scores:
            return None
        chosen, rejected = (_number(score) for score in scores)
        if chosen < rejected:
            raise Rejected(Reason.score_inverted, f"chosen {chosen:g} < rejected {rejected:g}")
        return min(1.0, (chosen - rejected) / self.score_scale)


class HH(RowFormat):
    r"""Whole transcripts with `\n\nHuman:` and `\n\nAssistant:` before each turn (Bai et al. 2022).

    The prompt is the longest common beginning in messages, not in characters: a reply may hold
    a marker of its own. A marker without the blank line before it is text.
    """

    wants: ClassVar[str] = r"chosen, rejected: transcripts with \n\nHuman: and \n\nAssistant:"
    gives: ClassVar[Kind] = "pairs"
    name: Literal["hh"] = "hh"

    def detects(self, columns: Columns) -> str | None:
        """By chosen and rejected that start with a human turn, without a prompt column."""
        if "prompt" in columns:
            return None
        opening = all(_mostly(columns, name, _opens_with_human) for name in ("chosen", "rejected"))
        return "columns chosen, rejected open with 'Human:'" if opening else None

    def parse(self, row: RawRow) -> Iterator[PreferencePair]:
        """The pair."""
        chosen, rejected = (_transcript(row, column) for column in ("chosen", "rejected"))
        prompt, chosen, rejected = split_at_common_prefix(chosen, rejected)
        yield row.pair(prompt, chosen=chosen, rejected=rejected)


class Instruction(RowFormat):
    """One question and one answer, in columns of any name."""

    wants: ClassVar[str] = (
        "instruction, output: texts, and input: more of the question "
        "(other names: {name: instruction, instruction: question, output: answer})"
    )
    gives: ClassVar[Kind] = "conversations"
    name: Literal["instruction"] = "instruction"
    instruction: str = Field(default="instruction", description="column of what is asked")
    input: str = Field(
        default="input",
        description="column of what it is asked about, put below the instruction; may be absent",
    )
    output: str = Field(default="output", description="column of the answer")

    def detects(self, columns: Columns) -> str | None:
        """By its instruction and output columns as texts."""
        names = (self.instruction, self.output)
        texts = all(_mostly(columns, name, _is_text) for name in names)
        return f"columns {', '.join(names)}" if texts else None

    def parse(self, row: RawRow) -> Iterator[Conversation]:
        """The question and its answer."""
        question = row.text(self.instruction)
        if row.fields.get(self.input) is not None:
            question = f"{question}\n\n{row.text(self.input)}".strip()
        yield row.conversation(exchange(question, row.text(self.output)))


class Gsm8k(RowFormat):
    """Grade-school problems whose answers end in `#### number` (Cobbe et al. 2021)."""

    wants: ClassVar[str] = "question, answer: texts, the answer ending in '#### number'"
    gives: ClassVar[Kind] = "conversations"
    note: ClassVar[str] = "calculator marks such as <<48/2=24>> are removed from the answers"
    name: Literal["gsm8k"] = "gsm8k"

    def detects(self, columns: Columns) -> str | None:
        """By a question column and answers with a `####` line."""
        marked = _mostly(columns, "question", _is_text) and _mostly(columns, "answer", _has_result)
        return "columns question, answer, and answers end in '#### number'" if marked else None

    def parse(self, row: RawRow) -> Iterator[Conversation]:
        """The problem and its answer without calculator marks."""
        answer = _CALCULATOR.sub("", row.text("answer"))
        yield row.conversation(exchange(row.text("question"), answer))


class GradedSolutions(RowFormat):
    """One question and the solutions of several models, each marked right or wrong.

    Of all pairs of a right and a wrong solution the one nearest in length is taken, so that
    length does not tell them apart; among equals the first by column name.
    """

    wants: ClassVar[str] = "question: text, and two or more columns of {is_correct, solution}"
    gives: ClassVar[Kind] = "pairs"
    note: ClassVar[str] = "calculator marks such as <<48/2=24>> are removed from the solutions"
    name: Literal["graded_solutions"] = "graded_solutions"

    def detects(self, columns: Columns) -> str | None:
        """By a question column beside two or more of graded solutions."""
        graded = [name for name in columns if _mostly(columns, name, _is_graded)]
        if len(graded) < 2 or not _mostly(columns, "question", _is_text):
            return None
        return f"column question, and {', '.join(graded)} hold is_correct and solution"

    def parse(self, row: RawRow) -> Iterator[PreferencePair]:
        """The right and the wrong solution that are nearest in length."""
        right, wrong = self._solutions(row)
        if not right or not wrong:
            verdict = "right" if right else "wrong"
            raise Rejected(Reason.no_contrast, f"all {len(right or wrong)} solutions are {verdict}")
        chosen, rejected = min(
            ((good, bad) for good in right for bad in wrong),
            key=lambda pair: abs(len(pair[0]) - len(pair[1])),
        )
        yield row.pair(
            (Message(role="user", content=row.text("question")),),
            chosen=(Message(role="assistant", content=chosen),),
            rejected=(Message(role="assistant", content=rejected),),
        )

    def _solutions(self, row: RawRow) -> tuple[list[str], list[str]]:
        right: list[str] = []
        wrong: list[str] = []
        for name, value in sorted(row.fields.items()):
            if isinstance(value, dict) and _is_graded(value):
                verdict, solution = value["is_correct"], value["solution"]
                if not isinstance(verdict, bool) or not isinstance(solution, str):
                    raise Rejected(Reason.malformed, f"{name!r} needs a boolean and a text")
                (right if verdict else wrong).append(_CALCULATOR.sub("", solution).strip())
        if not right and not wrong:
            raise Rejected(Reason.malformed, "no column holds is_correct and solution")
        return right, wrong


RowFormats = Messages | Preference | HH | Instruction | Gsm8k | GradedSolutions
KNOWN: tuple[RowFormats, ...] = (
    Messages(),
    Preference(),
    HH(),
    Instruction(),
    Gsm8k(),
    GradedSolutions(),
)
"""What `Auto` chooses from, each with its default column names."""


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
    if len(found) == 1:
        return found[0]
    names = " and ".join(stated.format.name for stated in found)
    problem = f"look like {names}" if found else "look like no known format"
    options = "; ".join(f"{known.name} ({known.wants})" for known in KNOWN)
    raise DataError(
        f"{where}: columns {', '.join(columns) or '(none)'} {problem}. "
        f"Name one, for instance format: {{name: {KNOWN[0].name}}}. Known: {options}"
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


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise Rejected(Reason.malformed, f"score {value!r} is not a number")
    return float(value)


def _mostly(columns: Columns, name: str, test: Callable[[object], bool]) -> bool:
    """Whether more than half of a column's values pass: one odd row must not hide a format."""
    values = columns.get(name, ())
    return 2 * sum(map(test, values)) > len(values)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _opens_with_human(value: object) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("Human:")


def _has_result(value: object) -> bool:
    return isinstance(value, str) and "\n#### " in value


def _is_chat(messages: Turns) -> bool:
    """Whether these are a prompt and a reply, not a reply alone."""
    return any(message.role == "user" for message in messages)


def _is_graded(value: object) -> bool:
    return isinstance(value, dict) and {"is_correct", "solution"} <= value.keys()


def _transcript(row: RawRow, column: str) -> Turns:
    """The turns of an HH transcript. `re.split` gives text, speaker, text, speaker, text ..."""
    before, *pieces = _MARKER.split(row.text(column))
    if before.strip() or not pieces:
        raise Rejected(Reason.malformed, f"{column} does not open with 'Human:'")
    return tuple(
        Message(role=_SPEAKERS[speaker], content=text.strip())
        for speaker, text in zip(pieces[::2], pieces[1::2], strict=True)
    )
