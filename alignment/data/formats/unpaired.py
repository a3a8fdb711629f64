"""Replies judged one by one, which make a pair only where one prompt has a better and a worse."""

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat

from alignment.data.formats.base import (
    BaseFormat,
    Columns,
    Kind,
    Parsed,
    first_present,
    is_answer,
    is_number,
    is_talk,
    is_turns,
    mostly,
    number,
    set_aside,
)
from alignment.data.formats.chats import CHATS
from alignment.data.formats.messages import Turns, describe
from alignment.data.formats.rows import RawRow
from alignment.data.formats.verdicts import LABELS, SCORES, is_thumb, scale, thumb, word
from alignment.data.row import Reason, Rejected
from alignment.errors import DataError
from alignment.records.base import Json, digest_of

ADVICE = (
    "no reply to this prompt has the other label, and a pair needs both. To use the approved "
    "replies for SFT, write them as messages; to get pairs, sample a second reply to the prompt"
)
REPLIES = ("completion", "response", "output", "answer")
"""Columns with the reply to a prompt."""


class Unpaired(BaseFormat):
    """A chat, or a prompt and a reply, and whether the reply was liked.

    The first liked and the first disliked reply to a prompt make a pair, the next two another one,
    and so on. The table is held in memory, since the other label may be in any row.
    """

    expects: ClassVar[str] = (
        "label: true or false, 1 or 0 (or -1), good or bad; and messages, or prompt and completion"
    )
    reads: ClassVar[str] = "a pair where one prompt has both labels; other rows are quarantined"
    columns: ClassVar[tuple[str, ...]] = ("prompt", "completion", "label")
    outranks: ClassVar[tuple[str, ...]] = ("messages", "sharegpt", "instruction")
    gives: ClassVar[Kind] = "pairs"
    note: ClassVar[str] = "single ratings: they make a pair only where one prompt has both labels"
    name: Literal["unpaired"] = "unpaired"

    def detects(self, columns: Columns) -> str | None:
        """By a label that likes or dislikes, with a chat, or with a prompt and a reply."""
        column = first_present(columns, LABELS, is_thumb)
        found = column and _has_reply(columns)
        return f"column {column} holds true and false beside one reply" if found else None

    def settled(self, rows: Sequence[Json], *, where: str) -> Self:
        """This format.

        Raises:
            DataError: the labels are numbers of a scale, of which it is unknown what is liked.
        """
        column = next((name for name in LABELS if any(name in row for row in rows)), "")
        words = {word(row[column]) for row in rows if row.get(column) is not None}
        allowed = ("-1", "1") if "-1" in words else ("0", "1")
        if numbers := scale(words, allowed):
            raise DataError(_scale_of_labels(where, column[:40], numbers))
        return self

    def records(self, rows: Iterable[RawRow]) -> Iterator[Parsed]:
        """The pairs; all other rows are quarantined with advice."""
        waiting: dict[str, list[tuple[RawRow, bool, Turns, Turns]]] = {}
        for row in rows:
            try:
                liked = _liked(row)
                prompt, reply = _prompt_and_reply(row)
                others = waiting.setdefault(_key(prompt), [])
                at = next((at for at, one in enumerate(others) if one[1] != liked), None)
                if at is None:
                    others.append((row, liked, prompt, reply))
                    continue
                earlier, _, _, other = others[at]
                chosen, rejected_ = (reply, other) if liked else (other, reply)
                yield row, row.pair(prompt, chosen=chosen, rejected=rejected_)
            except Rejected as rejected:
                yield set_aside(row, rejected.reason, rejected.detail)
                continue
            del others[at]
            yield set_aside(earlier, Reason.merged, f"the other reply of the pair at row {row.row}")
        for unmatched in waiting.values():
            yield from (set_aside(row, Reason.unpaired, ADVICE) for row, *_ in unmatched)


class Rated(BaseFormat):
    """A prompt, a reply and its score in each row, with several replies to a prompt.

    The best and the worst reply to a prompt make a pair, listed at the row of the best. The table
    is held in memory, since another reply may be in any row.
    """

    expects: ClassVar[str] = (
        "score (or rating, reward, overall_score): a number; and prompt and response, or messages; "
        "several rows with the same prompt"
    )
    reads: ClassVar[str] = "the best and the worst reply to each prompt"
    columns: ClassVar[tuple[str, ...]] = ("prompt", "response", "score")
    outranks: ClassVar[tuple[str, ...]] = ("messages", "sharegpt", "instruction")
    gives: ClassVar[Kind] = "pairs"
    note: ClassVar[str] = "the best and the worst reply to a prompt make a pair; others are merged"
    name: Literal["rated"] = "rated"
    score_scale: PositiveFloat = Field(
        default=10.0, description="Difference of scores that counts as strength 1."
    )
    margin: NonNegativeFloat = Field(
        default=0.0, description="Scores that differ by no more than this are ties."
    )

    def detects(self, columns: Columns) -> str | None:
        """By a score beside one reply, if a prompt occurs twice in the first rows."""
        score = next((name for name in SCORES if columns.get(name)), "")
        if not score or not mostly(columns, score, is_number) or not _has_reply(columns):
            return None
        prompts = [digest_of(value) for value in _prompts(columns)]
        repeated = len({*prompts}) < len(prompts)
        return f"column {score} scores one reply per row" if repeated else None

    def records(self, rows: Iterable[RawRow]) -> Iterator[Parsed]:
        """The pairs; the rows between best and worst are merged, ties quarantined."""
        groups: dict[str, list[tuple[float, RawRow, Turns, Turns]]] = {}
        for row in rows:
            try:
                score = number(_present(row, SCORES), what="score")
                prompt, reply = _prompt_and_reply(row)
            except Rejected as rejected:
                yield set_aside(row, rejected.reason, rejected.detail)
                continue
            groups.setdefault(_key(prompt), []).append((score, row, prompt, reply))
        for group in groups.values():
            yield from self._pair(sorted(group, key=lambda one: -one[0]))

    def _pair(self, group: list[tuple[float, RawRow, Turns, Turns]]) -> Iterator[Parsed]:
        """The pair of the first and the last, and what becomes of the others."""
        (high, best, prompt, chosen), (low, *_, rejected) = group[0], group[-1]
        if high - low <= self.margin:
            reason = Reason.unpaired if len(group) == 1 else Reason.tie
            detail = _ALONE if len(group) == 1 else f"{len(group)} replies with the same score"
            yield from (set_aside(row, reason, detail) for _, row, *_ in group)
            return
        strength = min(1.0, (high - low) / self.score_scale)
        try:
            yield best, best.pair(prompt, chosen=chosen, rejected=rejected, strength=strength)
        except Rejected as problem:
            yield set_aside(best, problem.reason, problem.detail)
        detail = f"another reply to the prompt of row {best.row}"
        yield from (set_aside(row, Reason.merged, detail) for _, row, *_ in group[1:])


def _scale_of_labels(where: str, column: str, numbers: Sequence[str]) -> str:
    return (
        f"{where}: column {column} holds {', '.join(numbers[:8])}, which is a scale and not two "
        f"labels. Say which: --column {column}=score makes pairs of the best and the worst reply "
        f"to a prompt; --column {column}= imitates all (in a config, columns: {{{column}: score}} "
        f"or {{{column}: ''}})"
    )


_ALONE = "the only reply to this prompt, and a pair needs two"


def _has_reply(columns: Columns) -> bool:
    """Whether each row has one reply."""
    reply = any(mostly(columns, name, lambda v: is_turns(v) or is_answer(v)) for name in REPLIES)
    chat = first_present(columns, ("messages", *CHATS), is_talk)
    return bool(chat) or (bool(_prompt_column(columns)) and reply)


def _prompts(columns: Columns) -> list[object]:
    """The prompts of the first rows, of chats without their last turn."""
    name = first_present(columns, ("messages", *CHATS), is_talk)
    chats: list[object] = [value[:-1] for value in columns.get(name, ()) if isinstance(value, list)]
    return chats or list(columns.get(_prompt_column(columns), ()))


def _prompt_column(columns: Columns) -> str:
    return first_present(columns, _PROMPTS, is_turns)


_PROMPTS = ("prompt", "instruction", "question", "query")


def _present(row: RawRow, names: Iterable[str]) -> object:
    """The value of the first of these columns that the row has."""
    return next((row.get(name) for name in names if row.fields.get(name) is not None), None)


def _liked(row: RawRow) -> bool:
    value = _present(row, LABELS)
    liked = thumb(value)
    if liked is None:
        problem = describe(value) if value is None else repr(str(value)[:40])
        raise Rejected(Reason.malformed, f"label holds {problem}, not true or false")
    return liked


def _prompt_and_reply(row: RawRow) -> tuple[Turns, Turns]:
    chats = (name for name in ("messages", *CHATS) if isinstance(row.fields.get(name), list))
    if column := next(chats, ""):
        chat = row.messages(column)
        return row.opened(chat[:-1]), chat[-1:]
    reply = next((name for name in REPLIES if row.fields.get(name) is not None), REPLIES[0])
    prompt = next((name for name in _PROMPTS if row.fields.get(name) is not None), _PROMPTS[0])
    return row.opened(row.turns(prompt, role="user")), row.turns(reply, role="assistant")


def _key(prompt: Turns) -> str:
    return digest_of([(message.role, message.text) for message in prompt])
