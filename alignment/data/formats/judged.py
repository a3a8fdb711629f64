"""Formats in which replies were judged: two replies with a verdict, or several with scores."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, PositiveFloat

from alignment.data.formats.base import (
    Columns,
    Kind,
    RowFormat,
    first_present,
    is_list,
    is_text,
    is_turns,
    mostly,
    number,
)
from alignment.data.formats.rows import (
    RawRow,
    Turns,
    as_prompt,
    as_reply,
    split_at_common_prefix,
    text,
)
from alignment.data.row import Reason, Rejected
from alignment.records import PreferencePair

FIRST, SECOND, TIE = 1, 2, 0

VERDICTS: dict[str, tuple[int, float]] = {
    "1": (FIRST, 1.0),
    "2": (SECOND, 1.0),
    "0": (TIE, 0.0),
    "a": (FIRST, 1.0),
    "b": (SECOND, 1.0),
    "model_a": (FIRST, 1.0),
    "model_b": (SECOND, 1.0),
    "model_1": (FIRST, 1.0),
    "model_2": (SECOND, 1.0),
    "a-is-better": (FIRST, 1.0),
    "b-is-better": (SECOND, 1.0),
    "a-is-slightly-better": (FIRST, 0.5),
    "b-is-slightly-better": (SECOND, 0.5),
    "tie": (TIE, 0.0),
    "tie (bothbad)": (TIE, 0.0),
    "both_bad": (TIE, 0.0),
}
"""Verdicts in common use: the better reply, and the strength of the preference."""

_QUESTIONS = ("prompt", "instruction", "question", "input")
_REPLIES = (
    ("output_1", "output_2"),
    ("response1", "response2"),
    ("response_1", "response_2"),
    ("completion_a", "completion_b"),
    ("response_a", "response_b"),
    ("answer_a", "answer_b"),
    ("conversation_a", "conversation_b"),
)
_JUDGES = ("label", "preference", "winner", "verdict", "annotator1", "annotator2", "annotator3")


class Compared(RowFormat):
    """Two replies, and one verdict or several votes on them.

    The majority decides. The pair's strength is the strength of the votes for it, summed and
    divided by the number of all votes. Without a majority the pair is a tie. Verdicts are 1, 2 and
    0 (tie), a and b, or words such as "a-is-slightly-better". Verdicts of only 0 and 1 are not
    guessed, since 0 may mean the first reply.
    """

    expects: ClassVar[str] = (
        "a question; two replies such as output_1, output_2; and a verdict in label, preference, "
        "winner or annotator1, annotator2 ..."
    )
    gives: ClassVar[Kind] = "pairs"
    name: Literal["compared"] = "compared"
    zero_is: Literal["tie", "first"] | None = Field(
        default=None,
        description="Meaning of verdict 0. `tie`: 1 and 2 are the two replies. `first`: 0 is the "
        "first reply and 1 the second. Default: a tie if 2 occurs too, otherwise an error.",
    )

    def detects(self, columns: Columns) -> str | None:
        """By two reply columns, a question and known verdicts."""
        replies, judges = _replies(columns), _judges(columns)
        if not replies or not judges or not _question(columns, replies):
            return None
        verdicts = {_word(value) for name in judges for value in columns[name]}
        if verdicts <= {"0", "1"} and "0" in verdicts and self.zero_is is None:
            return None
        known = mostly(columns, judges[0], lambda value: _word(value) in VERDICTS)
        return f"columns {', '.join((*replies, *judges))}" if known else None

    def parse(self, row: RawRow) -> Iterator[PreferencePair]:
        """The pair, with the better reply as chosen."""
        columns = {name: [value] for name, value in row.fields.items() if value is not None}
        replies = _replies(columns)
        if not replies:
            raise Rejected(
                Reason.malformed, f"columns of two replies are missing; expected {self.expects}"
            )
        winner, strength = self._verdict(row, _judges(row.fields))
        first, second = (row.turns(name, role="assistant") for name in replies)
        better, other = (second, first) if winner == SECOND else (first, second)
        if any(message.role == "user" for message in first):
            prompt, better, other = split_at_common_prefix(better, other)
        else:
            prompt = as_prompt(_full_question(row, columns, replies))
        yield row.pair(prompt, chosen=better, rejected=other, strength=strength)

    def _verdict(self, row: RawRow, judges: Sequence[str]) -> tuple[int, float]:
        """The majority's winner and the strength of its preference, 0 for a tie."""
        verdicts = [row.fields[name] for name in judges if row.fields[name] is not None]
        votes = [self._vote(value) for value in verdicts]
        if not votes:
            raise Rejected(Reason.malformed, "no verdict on the two replies")
        counts = Counter(winner for winner, _ in votes).most_common(2)
        winner, most = counts[0]
        if winner == TIE or (len(counts) == 2 and counts[1][1] == most):
            return TIE, 0.0
        return winner, sum(strength for vote, strength in votes if vote == winner) / len(votes)

    def _vote(self, value: object) -> tuple[int, float]:
        word = _word(value)
        if self.zero_is == "first" and word in ("0", "1"):
            return (FIRST, 1.0) if word == "0" else (SECOND, 1.0)
        if word not in VERDICTS:
            raise Rejected(Reason.malformed, f"verdict {word[:40]!r} is unknown")
        return VERDICTS[word]


class Candidates(RowFormat):
    """One prompt and several replies with scores or ranks.

    Either two lists of equal length, `responses` and `scores` or `ranks`, or one list of objects
    that each have a text and a score or rank. The lowest rank is the best.
    """

    expects: ClassVar[str] = (
        "prompt; responses, completions, candidates or answers; and scores or ranks, in a list of "
        "their own or in each reply"
    )
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
        question = first_present(columns, _QUESTIONS, is_turns)
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
        prompt = row.turns(_present(row, _QUESTIONS), role="user")
        ranked = sorted(self._candidates(row), key=lambda one: -one.score)
        if len(ranked) < 2:
            raise Rejected(Reason.no_contrast, f"{len(ranked)} candidates: nothing to compare")
        pairs = combinations(ranked, 2) if self.take == "all_pairs" else [(ranked[0], ranked[-1])]
        found = [pair for pair in pairs if pair[0].score - pair[1].score > self.margin]
        if not found:
            raise Rejected(Reason.tie, f"no two of {len(ranked)} candidates differ in score")
        for better, other in found:
            strength = min(1.0, (better.score - other.score) / better.scale)
            yield row.pair(prompt, chosen=better.reply, rejected=other.reply, strength=strength)

    def _candidates(self, row: RawRow) -> list["_Candidate"]:
        replies = row.fields[_present(row, _REPLY_LISTS)]
        score_list = next(
            (name for name in _SCORE_LISTS if isinstance(row.fields.get(name), list)), ""
        )
        scores = row.fields.get(score_list)
        if not isinstance(replies, list):
            raise Rejected(Reason.malformed, "the candidates are not a list")
        if isinstance(scores, list):
            if len(scores) != len(replies):
                raise Rejected(
                    Reason.malformed, f"{len(replies)} candidates, {len(scores)} {score_list}"
                )
            pairs = zip(replies, scores, strict=True)
            return [
                self._candidate(reply, score, score_list, len(replies)) for reply, score in pairs
            ]
        return [self._from_object(item, len(replies)) for item in replies]

    def _from_object(self, item: object, count: int) -> "_Candidate":
        name = _score_key([item])
        if not isinstance(item, dict) or not name:
            raise Rejected(Reason.malformed, "a candidate has neither score nor rank")
        return self._candidate(item, item[name], name, count)

    def _candidate(self, reply: object, score: object, name: str, count: int) -> "_Candidate":
        content = (
            next((reply[key] for key in _TEXT_KEYS if key in reply), None)
            if isinstance(reply, dict)
            else reply
        )
        value = number(score, what=name)
        ranked = name.startswith("rank")
        return _Candidate(
            reply=as_reply(text(content, where="a candidate")),
            score=-value if ranked else value,
            scale=max(1.0, count - 1.0) if ranked else self.score_scale,
        )


class _Candidate(NamedTuple):
    """A reply; `score`: higher is better; `scale`: the difference that counts as strength 1."""

    reply: Turns
    score: float
    scale: float


_REPLY_LISTS = ("candidates", "responses", "completions", "answers", "replies")
_SCORE_LISTS = ("scores", "ranks", "ranking", "ratings")
_SCORE_KEYS = ("score", "overall_score", "rank", "rating")
_TEXT_KEYS = ("text", "response", "content", "answer", "completion", "value")


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


def _replies(columns: Columns) -> tuple[str, str] | None:
    return next((pair for pair in _REPLIES if all(name in columns for name in pair)), None)


def _judges(columns: Columns | dict[str, object]) -> tuple[str, ...]:
    return tuple(name for name in _JUDGES if name in columns)


def _question(columns: Columns, replies: tuple[str, str]) -> str:
    return first_present(columns, _QUESTIONS, is_text) or (
        "the chats" if mostly(columns, replies[0], is_list) else ""
    )


def _full_question(row: RawRow, columns: Columns, replies: tuple[str, str]) -> str:
    """The question; for an instruction with an input, both."""
    name = _question(columns, replies)
    if name not in row.fields:
        raise Rejected(Reason.malformed, f"none of the columns {', '.join(_QUESTIONS)} holds text")
    input_ = row.text("input") if name == "instruction" and row.fields.get("input") else ""
    return f"{row.text(name)}\n\n{input_}".strip()


def _word(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower()
