"""A row on its way through the filters: where it came from, and why it may be dropped."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from types import MappingProxyType
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar

from alignment.records import Conversation, Message, PreferencePair, Prompt, Quarantined

Record = Conversation | PreferencePair | Prompt
R = TypeVar("R", bound=Record)
P = ParamSpec("P")


class Reason(StrEnum):
    """Why a row is not used. Every quarantined row has exactly one."""

    malformed = "malformed"
    """Not the JSON, the columns or the types that its format asks for."""
    bad_encoding = "bad_encoding"
    """Bytes that are not UTF-8, NUL, half a surrogate pair, or U+FFFD left by a bad decoding."""
    no_contrast = "no_contrast"
    """Candidates of one question that are all right or all wrong: nothing to prefer."""
    score_inverted = "score_inverted"
    """The chosen reply scores lower than the rejected one."""
    unknown_format = "unknown_format"
    """Columns of no known format, in a file that a folder or pattern brought along."""
    unpaired = "unpaired"
    """A judged reply without another to the same prompt."""
    no_prompt = "no_prompt"
    """A reply whose prompt is not in the file."""
    merged = "merged"
    """No record of its own: it is part of the record at another row."""
    empty = "empty"
    """A turn without text, or no turn at all."""
    role_order = "role_order"
    """Not [system] user assistant user ... assistant, or a reply of several turns."""
    special_token = "special_token"
    """Text that would be encoded to a control token, or opens a turn in the chat template."""
    turn_marker = "turn_marker"
    """Text that opens or ends a turn in a chat format in use: a forged or a lost turn."""
    placeholder = "placeholder"
    """A reply with a blank such as {{name}} that nobody has filled."""
    no_tool_template = "no_tool_template"
    """Calls tools, which the chat template leaves out."""
    identical_pair = "identical_pair"
    """Chosen and rejected are one text."""
    tie = "tie"
    """Both replies have the same score."""
    duplicate = "duplicate"
    """The same content stands further up."""
    near_duplicate = "near_duplicate"
    """Nearly the same content stands further up, or in an earlier round."""
    repeated_prompt = "repeated_prompt"
    """Its prompt stands further up as often as `max_per_prompt` allows."""
    conflicting_label = "conflicting_label"
    """A over B here and B over A elsewhere, for one prompt."""
    prompt_too_long = "prompt_too_long"
    """The prompt does not fit even with only its system turn and its last user turn."""
    too_long = "too_long"
    """Does not fit; or the replies, once cut, would be too short or the same."""
    in_evaluation_set = "in_evaluation_set"
    """Its prompt is held out elsewhere, so nobody may train on it."""
    used_by_earlier_round = "used_by_earlier_round"
    """Its prompt has been trained on by an earlier step."""
    other_part = "other_part"
    """Belongs to another `part` of the source."""
    not_sampled = "not_sampled"
    """Beyond the share of its source that `weight` asks for."""
    over_limit = "over_limit"
    """Beyond the set's `limit`, or its task type's."""


class Rejected(Exception):
    """One row cannot be used. Never leaves `alignment.data`: it becomes a `Quarantined` row.

    Attributes:
        reason: one of `Reason`.
        detail: what was found, in a few words.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Row(Generic[R]):
    """A record and where it came from.

    Attributes:
        file: the source's name for people.
        row: 1-based line or row in it.
        prompt_key: `split.prompt_key` of the record as it was read; trimming does not change it.
        held_out: the record is never trained on.
    """

    record: R
    file: str
    row: int
    prompt_key: str
    held_out: bool = False

    def dropped(self, reason: Reason, detail: str = "") -> Quarantined:
        """This row's line in the quarantine file."""
        return Quarantined(
            file=self.file, row=self.row, reason=reason, detail=detail, id=self.record.id
        )


class Filtered(NamedTuple, Generic[R]):
    """Rows that pass, and the others with their reasons. Together: every row that went in.

    Attributes:
        noted: what else was done, and to how many rows.
    """

    kept: list[Row[R]]
    dropped: list[Quarantined]
    noted: Mapping[str, int] = MappingProxyType({})


def rule(
    reason: Reason,
) -> Callable[
    [Callable[Concatenate[Row[R], P], str | None]],
    Callable[Concatenate[Iterable[Row[R]], P], Filtered[R]],
]:
    """Turn a function that says what is wrong with a row, if anything, into a filter of rows."""

    def as_filter(
        problem: Callable[Concatenate[Row[R], P], str | None],
    ) -> Callable[Concatenate[Iterable[Row[R]], P], Filtered[R]]:
        @wraps(problem)
        def filtered(rows: Iterable[Row[R]], /, *args: P.args, **kwargs: P.kwargs) -> Filtered[R]:
            kept, dropped = [], []
            for row in rows:
                detail = problem(row, *args, **kwargs)
                if detail is None:
                    kept.append(row)
                else:
                    dropped.append(row.dropped(reason, detail))
            return Filtered(kept, dropped)

        return filtered

    return as_filter


def turns(record: Record) -> tuple[Message, ...]:
    """All messages of a record, of a pair prompt, chosen and rejected in this order."""
    return tuple(message for part in parts_of(record).values() for message in part)


def normalise_space(messages: Sequence[Message]) -> str:
    """The text of some turns with every run of white space as one space."""
    return "\n".join(" ".join(message.text.split()) for message in messages)


def parts_of(record: Record) -> dict[str, tuple[Message, ...]]:
    """The messages of a record by the name of its part."""
    if isinstance(record, Conversation):
        return {"messages": record.messages}
    if isinstance(record, Prompt):
        return {"prompt": record.prompt}
    return {"prompt": record.prompt, "chosen": record.chosen, "rejected": record.rejected}


def with_parts(record: R, **parts: tuple[Message, ...]) -> R:
    """The record with other messages in some of its parts, and the id that they give it."""
    kind: Any = type(record)
    kept = {name: getattr(record, name) for name in kind.model_fields if name != "id"}
    made: R = kind.of(**{**kept, **parts})
    return made
