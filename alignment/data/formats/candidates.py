"""The format of several replies to one prompt, with scores or ranks."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, PositiveFloat

from alignment.data.formats.base import (
    QUESTIONS,
    Columns,
    Kind,
    RowFormat,
    first_present,
    is_list,
    is_turns,
    mostly,
    number,
)
from alignment.data.formats.messages import Turns, content_text, text
from alignment.data.formats.rows import RawRow, as_reply
from alignment.data.row import Reason, Rejected
from alignment.records.text import PreferencePair

_PROMPTS = (*QUESTIONS, "contents")
_REPLY_LISTS = ("candidates", "responses", "completions", "answers", "replies", "generations")
_SCORE_LISTS = ("scores", "ranks", "ranking", "ratings", "rating", "rewards")
_SCORE_KEYS = ("score", "overall_score", "rank", "rating", "pm_score")
_TEXT_KEYS = ("text", "response", "content", "answer", "completion", "value")


class _Candidate(NamedTuple):
    """A reply; `score`: higher is better; `scale`: the difference that counts as strength 1."""

    reply: Turns
    score: float
    scale: float


class Candidates(RowFormat):
    """One prompt and several replies with scores or ranks.

    Either two lists of equal length, `responses` and `scores` or `ranks`, or one list of objects
    that each have a text and a score or rank. The lowest rank is the best.
    """

    expects: ClassVar[str] = (
        "prompt; responses, completions, candidates or answers; and scores or ranks, in a list of "
        "their own or in each reply"
    )
    reads: ClassVar[str] = "the best and the worst reply, or all pairs of different score"
    columns: ClassVar[tuple[str, ...]] = ("prompt", "responses", "scores")
    gives: ClassVar[Kind] = "pairs"
    name: Literal["candidates"] = "candidates"
    take: Literal["best_worst", "all_pairs"] = Field(
        default="best_worst",
        description="`best_worst`: one pair, the highest against the lowest score. `all_pairs`: "
        "every two replies whose scores differ.",
    )
    score_scale: PositiveFloat = Field(
        default=10.0, description="Difference of scores that counts as strength 1."
    )
    margin: NonNegativeFloat = Field(
        default=0.0, description="Scores, or ranks, that differ by no more than this are ties."
    )

    def detects(self, columns: Columns) -> str | None:
        """By a prompt and a list of replies with scores or ranks."""
        replies = first_present(columns, _REPLY_LISTS, is_list)
        question = first_present(columns, _PROMPTS, is_turns)
        if not replies or not question:
            return None
        score_list = first_present(columns, _SCORE_LISTS, is_list)
        if score_list:
            return f"columns {question}, {replies}, {score_list}"
        scored = mostly(columns, replies, lambda value: bool(_score_key(value)))
        return f"columns {question}, {replies} with scores or ranks in it" if scored else None

    def parse(self, row: RawRow) -> Iterator[PreferencePair]:
        """The pairs that `take` selects.

        Raises:
            Rejected: `tie` if no two candidates differ by more than `margin`.
        """
        prompt = row.turns(_present(row, _PROMPTS), role="user")
        ranked = sorted(self._candidates(row), key=lambda one: -one.score)
        if len(ranked) < 2:
            raise Rejected(Reason.no_contrast, f"{len(ranked)} candidates: nothing to compare")
        pairs = combinations(ranked, 2) if self.take == "all_pairs" else [(ranked[0], ranked[-1])]
        found = [pair for pair in pairs if pair[0].score - pair[1].score > self.margin]
        if not found:
            raise Rejected(Reason.tie, f"no two of {len(ranked)} candidates differ in score")
        if len({id(one) for pair in found for one in pair}) < len(ranked):
            row.left.add(f"{_present(row, _REPLY_LISTS)}[]")
        for better, other in found:
            strength = min(1.0, (better.score - other.score) / better.scale)
            yield row.pair(prompt, chosen=better.reply, rejected=other.reply, strength=strength)

    def _candidates(self, row: RawRow) -> list[_Candidate]:
        column = _present(row, _REPLY_LISTS)
        replies = row.get(column)
        score_list = next(
            (name for name in _SCORE_LISTS if isinstance(row.fields.get(name), list)), ""
        )
        scores = row.get(score_list) if score_list else None
        if not isinstance(replies, list):
            raise Rejected(Reason.malformed, "the candidates are not a list")
        if isinstance(scores, list):
            if len(scores) != len(replies):
                raise Rejected(
                    Reason.malformed, f"{len(replies)} candidates, {len(scores)} {score_list}"
                )
            pairs = zip(replies, scores, strict=True)
            texts = ((self._text(row, reply, column), score) for reply, score in pairs)
            return [
                self._candidate(text_, score, score_list, len(replies)) for text_, score in texts
            ]
        return [self._from_object(row, item, column, len(replies)) for item in replies]

    def _from_object(self, row: RawRow, item: object, column: str, count: int) -> _Candidate:
        name = _score_key([item])
        if not isinstance(item, dict) or not name:
            raise Rejected(Reason.malformed, "a candidate has neither score nor rank")
        return self._candidate(self._text(row, item, column, name), item[name], name, count)

    def _text(self, row: RawRow, reply: object, column: str, *read: str) -> str:
        """The text of a reply, which may be an object with a text, or with a turn."""
        if not isinstance(reply, dict):
            return text(reply, where="a candidate")
        key = _text_key(reply)
        row.leave(column, reply, key, *read)
        if isinstance(reply.get(key), dict):
            return content_text(reply[key], where=f"{column}[].{key}", left=row.left)
        return text(reply.get(key), where="a candidate")

    def _candidate(self, reply: str, score: object, name: str, count: int) -> _Candidate:
        value = number(score, what=name)
        ranked = name.startswith("rank")
        return _Candidate(
            reply=as_reply(reply),
            score=-value if ranked else value,
            scale=max(1.0, count - 1.0) if ranked else self.score_scale,
        )


def _text_key(reply: object) -> str:
    """Key of the text of a reply that is an object."""
    keys = reply if isinstance(reply, dict) else ()
    return next((key for key in _TEXT_KEYS if key in keys), "")


def _score_key(value: object) -> str:
    """Key of the score or rank in the first of these candidates, or an empty string."""
    first = value[0] if isinstance(value, list) and value else None
    names = first.keys() if isinstance(first, dict) else ()
    return next((name for name in _SCORE_KEYS if name in names), "")


def _present(row: RawRow, names: Sequence[str]) -> str:
    found = next((name for name in names if row.fields.get(name) is not None), None)
    if found is None:
        raise Rejected(Reason.malformed, f"none of the columns {', '.join(names)}")
    return found
