"""What may be trained on: rows go in, rows come out, and each row left out has one named reason.

Every filter here is a pure function `(rows) -> (kept, dropped)`; none changes a row.
Not here: reading (`files.py`, `formats.py`), lengths (`encode.py`), who goes to which
split (`split.py`).
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from alignment.data.split import Part, PromptKeys, hash_order
from alignment.records import Conversation, Message, PreferencePair, Quarantined

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Record = Conversation | PreferencePair
R = TypeVar("R", bound=Record)

_BATCH = 512
_DAMAGE = re.compile("[\\0\ufffd\ud800-\udfff]")


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
    empty = "empty"
    """A turn without text, or no turn at all."""
    role_order = "role_order"
    """Not [system] user assistant user ... assistant, or a reply of several turns."""
    special_token = "special_token"
    """Text that would be encoded to a control token or read as a turn marker."""
    identical_pair = "identical_pair"
    """Chosen and rejected are one text."""
    tie = "tie"
    """Both replies have the same score."""
    duplicate = "duplicate"
    """The same content stands further up."""
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
    over_limit = "over_limit"
    """Beyond the set's `limit`."""


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
class Placed(Generic[R]):
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


class Cleaned(NamedTuple, Generic[R]):
    """Rows that pass, and the others with their reasons. Together: every row that went in."""

    kept: list[Placed[R]]
    dropped: list[Quarantined]


def screen(
    rows: Iterable[Placed[R]], reason: Reason, problem: Callable[[Placed[R]], str | None]
) -> Cleaned[R]:
    """Drop for `reason` each row in which `problem` finds something to say."""
    cleaned: Cleaned[R] = Cleaned([], [])
    for row in rows:
        detail = problem(row)
        if detail is None:
            cleaned.kept.append(row)
        else:
            cleaned.dropped.append(row.dropped(reason, detail))
    return cleaned


def turns(record: Record) -> tuple[Message, ...]:
    """All messages of a record: the conversation, or prompt, chosen and rejected in this order."""
    if isinstance(record, Conversation):
        return record.messages
    return (*record.prompt, *record.chosen, *record.rejected)


# --- one row at a time ------------------------------------------------------------------------


def broken_text(rows: Iterable[Placed[R]]) -> Cleaned[R]:
    """Drop rows with text that no UTF-8 file can hold, or that a bad decoding has damaged."""

    def problem(row: Placed[R]) -> str | None:
        for message in turns(row.record):
            if found := _DAMAGE.search(message.content):
                return f"U+{ord(found[0]):04X} in the {message.role} turn"
        return None

    return screen(rows, Reason.bad_encoding, problem)


def empty(rows: Iterable[Placed[R]]) -> Cleaned[R]:
    """Drop rows without turns or with a turn of nothing but white space."""

    def problem(row: Placed[R]) -> str | None:
        parts = _parts(row.record)
        missing = next((name for name, part in parts.items() if not part), None)
        if missing:
            return f"{missing} has no turn"
        blank = (
            f"turn {number} of {name} ({message.role}) has no text"
            for name, part in parts.items()
            for number, message in enumerate(part, start=1)
            if not message.content.strip()
        )
        return next(blank, None)

    return screen(rows, Reason.empty, problem)


def role_order(rows: Iterable[Placed[R]]) -> Cleaned[R]:
    """Drop what is not [system] user assistant user ...: with one assistant turn as each reply."""

    def problem(row: Placed[R]) -> str | None:
        if isinstance(row.record, Conversation):
            return _wrong_order(row.record.messages, last="assistant")
        for name, reply in (("chosen", row.record.chosen), ("rejected", row.record.rejected)):
            if [message.role for message in reply] != ["assistant"]:
                return f"{name} is {_roles(reply)}, not one assistant turn"
        return _wrong_order(row.record.prompt, last="user")

    return screen(rows, Reason.role_order, problem)


def special_token(
    rows: Sequence[Placed[R]], *, tokenizer: "PreTrainedTokenizerBase", turn_marker: str
) -> Cleaned[R]:
    """Drop rows whose text alone encodes to an added token of the tokenizer, special or not.

    Such text would open a turn, or end one, in the middle of a message. `turn_marker` is the
    opening of an assistant turn as text, which need not be made of added tokens.
    """
    control = control_tokens(tokenizer)
    cleaned: Cleaned[R] = Cleaned([], [])
    for row, encoded in _encoded(rows, tokenizer):
        found = None
        for message, ids in zip(turns(row.record), encoded, strict=True):
            text = next((control[token] for token in ids if token in control), None)
            if text is None and turn_marker in message.content:
                text = turn_marker
            if text is not None:
                found = f"{text!r} in the {message.role} turn"
                break
        if found is None:
            cleaned.kept.append(row)
        else:
            cleaned.dropped.append(row.dropped(Reason.special_token, found))
    return cleaned


def _encoded(
    rows: Sequence[Placed[R]], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[tuple[Placed[R], list[list[int]]]]:
    """Each row with its turns' ids. In batches, because a tokenizer uses all cores for one."""
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        texts = [message.content for row in batch for message in turns(row.record)]
        ids = iter(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
        for row in batch:
            yield row, list(islice(ids, len(turns(row.record))))


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[int, str]:
    """Id to text of every token that was added to the vocabulary or has a special meaning."""
    added = {index: text for text, index in tokenizer.get_added_vocab().items()}
    special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return added | dict(special)


def identical_pair(rows: Iterable[Placed[PreferencePair]]) -> Cleaned[PreferencePair]:
    """Drop pairs whose replies differ in white space at most."""

    def problem(row: Placed[PreferencePair]) -> str | None:
        chosen, rejected = (_squeezed(part) for part in (row.record.chosen, row.record.rejected))
        return "both replies are the same" if chosen == rejected else None

    return screen(rows, Reason.identical_pair, problem)


def tie(rows: Iterable[Placed[PreferencePair]]) -> Cleaned[PreferencePair]:
    """Drop pairs whose scores say that neither reply is better. Without scores nothing is a tie."""

    def problem(row: Placed[PreferencePair]) -> str | None:
        return "both replies have the same score" if row.record.strength == 0 else None

    return screen(rows, Reason.tie, problem)


# --- rows against each other ------------------------------------------------------------------


def duplicate(rows: Iterable[Placed[R]]) -> Cleaned[R]:
    """Drop rows whose content was there before; the first one stays."""
    first: dict[str, str] = {}

    def problem(row: Placed[R]) -> str | None:
        here = f"{row.file} row {row.row}"
        place = first.setdefault(row.record.id, here)
        return None if place is here else f"same as {place}"

    return screen(rows, Reason.duplicate, problem)


def conflicting_label(rows: Sequence[Placed[PreferencePair]]) -> Cleaned[PreferencePair]:
    """Drop both of two pairs that prefer opposite replies to one prompt."""
    directions: dict[tuple[str, frozenset[str]], dict[str, str]] = defaultdict(dict)
    for row in rows:
        question, better = _question(row.record), _squeezed(row.record.chosen)
        directions[question].setdefault(better, f"{row.file} row {row.row}")

    def problem(row: Placed[PreferencePair]) -> str | None:
        opposite = directions[_question(row.record)].get(_squeezed(row.record.rejected))
        return None if opposite is None else f"{opposite} prefers the other reply"

    return screen(rows, Reason.conflicting_label, problem)


# --- rows against the rest of the run -----------------------------------------------------------


def in_evaluation_set(
    rows: Iterable[Placed[R]], *, held_out: Mapping[str, frozenset[str]]
) -> Cleaned[R]:
    """Drop training rows whose prompt key some set, by name, holds out."""

    def problem(row: Placed[R]) -> str | None:
        if row.held_out:
            return None
        names = (name for name, keys in held_out.items() if row.prompt_key in keys)
        name = next(names, None)
        return None if name is None else f"its prompt is held out by {name}"

    return screen(rows, Reason.in_evaluation_set, problem)


def used_by_earlier_round(
    rows: Iterable[Placed[R]], *, earlier: Mapping[str, PromptKeys]
) -> Cleaned[R]:
    """Drop rows whose prompt an earlier step, by name, has trained on.

    Two rounds never share a prompt. A set of conversations may share prompts with a round
    that trains on them again, but a held-out row must be new to both.
    """
    trained = {name: frozenset(keys.trained) for name, keys in earlier.items()}

    def problem(row: Placed[R]) -> str | None:
        for name, keys in earlier.items():
            concerns = keys.kind == "pairs" or row.held_out
            if concerns and row.prompt_key in trained[name]:
                return f"its prompt was trained on by {name}"
        return None

    return screen(rows, Reason.used_by_earlier_round, problem)


# --- which rows this set takes --------------------------------------------------------------------


def other_part(rows: Iterable[Placed[R]], *, part: Part, salt: str) -> Cleaned[R]:
    """Drop rows whose prompt belongs to another part of the sources."""
    words = f"not in part {part.index} of {part.of}"

    def problem(row: Placed[R]) -> str | None:
        return None if part.holds(row.prompt_key, salt=salt) else words

    return screen(rows, Reason.other_part, problem)


def over_limit(rows: Sequence[Placed[R]], *, limit: int | None, salt: str) -> Cleaned[R]:
    """The first `limit` rows in hash order, or all of them in that order."""
    order = hash_order([row.record.id for row in rows], salt=salt)
    ordered = [rows[at] for at in order]
    taken = len(ordered) if limit is None else limit
    beyond = [row.dropped(Reason.over_limit, f"limit is {limit}") for row in ordered[taken:]]
    return Cleaned(ordered[:taken], beyond)


# --- small words --------------------------------------------------------------------------------


def _parts(record: Record) -> dict[str, tuple[Message, ...]]:
    if isinstance(record, Conversation):
        return {"messages": record.messages}
    return {"prompt": record.prompt, "chosen": record.chosen, "rejected": record.rejected}


def _wrong_order(messages: Sequence[Message], *, last: str) -> str | None:
    talk = messages[1:] if messages and messages[0].role == "system" else messages
    expected = ("user", "assistant")
    for number, message in enumerate(talk):
        if message.role != expected[number % 2]:
            place = number + 1 + len(messages) - len(talk)
            return f"turn {place} is {message.role}, expected {expected[number % 2]}"
    if not talk or talk[-1].role != last:
        return f"{_roles(messages)} does not end with {last}"
    return None


def _roles(messages: Sequence[Message]) -> str:
    return " ".join(message.role for message in messages) or "nothing"


def _squeezed(messages: Sequence[Message]) -> str:
    """The text of some turns with every run of white space as one space."""
    return "\n".join(" ".join(message.content.split()) for message in messages)


def _question(pair: PreferencePair) -> tuple[str, frozenset[str]]:
    replies = frozenset({_squeezed(pair.chosen), _squeezed(pair.rejected)})
    return _squeezed(pair.prompt), replies
