"""A row as the filters see it: its record, its origin, and the reasons for dropping it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from types import MappingProxyType
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar

from alignment.records.text import Conversation, Message, PreferencePair, Prompt, Quarantined

Record = Conversation | PreferencePair | Prompt
R = TypeVar("R", bound=Record)
P = ParamSpec("P")


class Reason(StrEnum):
    """Why a row is not used. Every quarantined row has exactly one."""

    malformed = "malformed"
    """Not valid JSON, or not the columns and types that its format requires."""
    bad_encoding = "bad_encoding"
    """Not UTF-8; or contains NUL, half a surrogate pair, or U+FFFD from an earlier bad decoding."""
    contradictory = "contradictory"
    """Two columns say different things about the same, such as two system turns."""
    no_contrast = "no_contrast"
    """The candidates for one prompt are all right or all wrong, so none is preferred."""
    score_inverted = "score_inverted"
    """The chosen reply scores lower than the rejected one."""
    unknown_format = "unknown_format"
    """Columns of no known format, in a file that a folder or pattern matched."""
    unpaired = "unpaired"
    """A single judged reply, without a reply to the same prompt that has the other label."""
    no_prompt = "no_prompt"
    """A reply whose prompt is not in the file."""
    merged = "merged"
    """Part of the record at another row, so it has no record of its own."""
    empty = "empty"
    """A turn without text, or no turns at all."""
    role_order = "role_order"
    """Not [system] user assistant user ... assistant, or a reply with several turns."""
    special_token = "special_token"
    """Text that encodes to a control token, or that opens a turn in the chat template."""
    turn_marker = "turn_marker"
    """Text that opens or ends a turn in a known chat format: a forged or an unparsed turn."""
    placeholder = "placeholder"
    """A reply with an unfilled placeholder such as {{name}}."""
    no_tool_template = "no_tool_template"
    """Calls tools, which the chat template does not render."""
    untrained = "untrained"
    """Its source marks it as deleted, or each of its replies as not to be trained on."""
    template = "template"
    """The chat template refuses it, or renders its replies where no model is asked for them."""
    identical_pair = "identical_pair"
    """Chosen and rejected are the same text."""
    tie = "tie"
    """Both replies have the same score."""
    duplicate = "duplicate"
    """An earlier row has the same content."""
    near_duplicate = "near_duplicate"
    """An earlier row, or a row of an earlier round, has nearly the same content."""
    repeated_prompt = "repeated_prompt"
    """As many earlier rows as `max_per_prompt` allows have the same prompt."""
    conflicting_label = "conflicting_label"
    """Prefers A over B where another row prefers B over A for the same prompt."""
    prompt_too_long = "prompt_too_long"
    """The prompt does not fit even if cut down to its system turn and last user turn."""
    too_long = "too_long"
    """Does not fit; or the replies, once truncated, would be too short or identical."""
    in_evaluation_set = "in_evaluation_set"
    """Its prompt is held out elsewhere or belongs to an evaluation: not to be trained on."""
    used_by_earlier_round = "used_by_earlier_round"
    """An earlier step trained on its prompt."""
    other_part = "other_part"
    """Belongs to another `part` of the source."""
    not_sampled = "not_sampled"
    """Outside the share of its source that `weight` samples."""
    unlabelled = "unlabelled"
    """An answer of the model that its verifier or judge could not score."""
    unfinished = "unfinished"
    """An answer of the model that did not end within its limit of tokens."""
    length_gap = "length_gap"
    """The answers to one prompt that could be a pair are too unequal in length."""
    not_chosen = "not_chosen"
    """An answer of the model; others to the same prompt made the pair."""
    over_limit = "over_limit"
    """Beyond the `limit` of the set, or that of its task type."""


class Rejected(Exception):
    """A row cannot be used. Never leaves `alignment.data`: it becomes a `Quarantined` row.

    Attributes:
        reason: one of `Reason`.
        detail: what was found, for people.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Row(Generic[R]):
    """A record and where it came from.

    Attributes:
        file: display name of the file or source.
        row: 1-based line or row in it.
        prompt_key: `split.prompt_key` of the record as read; trimming does not change it.
        held_out: whether the record is held out, i.e. never trained on.
    """

    record: R
    file: str
    row: int
    prompt_key: str
    held_out: bool = False

    def as_quarantined(self, reason: Reason, detail: str = "") -> Quarantined:
        """This row's entry in the quarantine file."""
        return Quarantined(
            file=self.file, row=self.row, reason=reason, detail=detail, id=self.record.id
        )


class Filtered(NamedTuple, Generic[R]):
    """The rows that passed, and the dropped ones with reasons: together, all input rows.

    Attributes:
        changes: what else the filter did, with the number of rows affected.
    """

    kept: list[Row[R]]
    dropped: list[Quarantined]
    changes: Mapping[str, int] = MappingProxyType({})


def rule(
    reason: Reason,
) -> Callable[
    [Callable[Concatenate[Row[R], P], str | None]],
    Callable[Concatenate[Iterable[Row[R]], P], Filtered[R]],
]:
    """Turn a function that returns what is wrong with a row, or None, into a filter of rows."""

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
                    dropped.append(row.as_quarantined(reason, detail))
            return Filtered(kept, dropped)

        return filtered

    return as_filter


def turns(record: Record) -> tuple[Message, ...]:
    """All messages of a record; for a pair, those of prompt, chosen and rejected in this order."""
    return tuple(message for part in parts_of(record).values() for message in part)


def normalise_space(messages: Sequence[Message]) -> str:
    """The text of some turns, with each run of white space collapsed to one space."""
    return "\n".join(" ".join(message.text.split()) for message in messages)


def parts_of(record: Record) -> dict[str, tuple[Message, ...]]:
    """The messages of a record by part: `messages`, `prompt`, `chosen`, `rejected`."""
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
