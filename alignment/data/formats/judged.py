"""Formats in which two replies were judged: a row with a verdict on them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveFloat

from alignment.data.formats.base import (
    QUESTIONS,
    Columns,
    Kind,
    RowFormat,
    first_present,
    is_chat,
    is_list,
    is_number,
    is_turns,
    mostly,
    number,
)
from alignment.data.formats.cells import structure_in
from alignment.data.formats.messages import Turns, text
from alignment.data.formats.rows import RawRow, as_prompt, as_reply, split_at_common_prefix
from alignment.data.formats.verdicts import FIRST, SECOND, TIE, VERDICTS, scale, word
from alignment.data.row import Reason, Rejected
from alignment.errors import DataError
from alignment.records.base import Json
from alignment.records.text import Message, PreferencePair

_BASES = (
    *("output", "response", "completion", "answer", "reply", "conversation", "generation"),
    *("candidate", "model_output", "text", "human_ref"),
)
_ENDS = (("1", "2"), ("a", "b"), ("A", "B"), ("0", "1"))
_VOTES = ("label", "preference", "winner", "verdict", "annotator1", "annotator2", "annotator3")
"""Columns with verdicts; where there are several, the majority decides."""
_SIGNED = ("preference_strength", "overall_preference")
"""Columns whose sign says which reply is better."""
_SINGLE = (
    *("labels", "better_response_id", "better", "comparison", "choice", "selected"),
    *("safer_response_id", "preferred", "chosen", *_SIGNED),
)
"""Columns with a verdict, of which the first is used if there is none of `_VOTES`."""
_ONE_HOT = ("winner_model_a", "winner_model_b", "winner_tie")
"""Columns of which one is 1: the arena's way to write a verdict in a table."""
_SCORES = ("score", "rating", "reward")


class Compared(RowFormat):
    """Two replies, and one verdict, several votes or two scores.

    The majority decides. The pair's strength is the strength of the votes for it, summed and
    divided by the number of all votes. Without a majority the pair is a tie. Verdicts are 1, 2 and
    0 (tie), a and b, the name of the reply's column or model, or words such as
    "a-is-slightly-better". What 0 and 1 alone mean is not guessed: the names of the columns
    (`response_0`) or the scores of all first rows decide it, or `zero_is`. What the sign of numbers
    such as -3 .. 3 means is only said by `negative_is`.
    """

    expects: ClassVar[str] = (
        "a question; two replies such as output_1 and output_2, response_a and response_b, "
        "human_ref_A and human_ref_B; and a verdict in label, labels, preference, winner, "
        "better_response_id, comparison or annotator1, annotator2 ..., in winner_model_a, "
        "winner_model_b and winner_tie, as score_A and score_B, or as a signed number in "
        "preference_strength or overall_preference"
    )
    reads: ClassVar[str] = "the majority's reply as chosen, its share of the votes as the strength"
    columns: ClassVar[tuple[str, ...]] = ("response_a", "response_b", "winner")
    gives: ClassVar[Kind] = "pairs"
    name: Literal["compared"] = "compared"
    zero_is: Literal["tie", "first", "second"] | None = Field(
        default=None,
        description="Meaning of verdict 0. `tie`: 1 and 2 are the two replies. `first`: 0 is the "
        "first reply and 1 the second. `second`: 1 is the first reply and 0 the second. Default: a "
        "tie if 2 occurs too, else what names of columns or scores say, otherwise an error.",
    )
    negative_is: Literal["first", "second"] | None = Field(
        default=None,
        description="The better reply where verdicts are signed and negative, as -3 of -3 .. 3; "
        "positive ones prefer the other, 0 is a tie. Default: signed verdicts are an error.",
    )
    score_scale: PositiveFloat = Field(
        default=3.0, description="Size of a signed verdict that counts as strength 1."
    )

    def detects(self, columns: Columns) -> str | None:
        """By two reply columns, a question, and known verdicts or scores."""
        names = tuple(name for name, values in columns.items() if values)
        replies = _replies(names)
        if not replies or not _question(columns, replies):
            return None
        judges = _judges(names)
        if not judges and (scores := _scores(names, replies)):
            numbers = all(mostly(columns, name, is_number) for name in scores)
            return f"columns {', '.join((*replies, *scores))}" if numbers else None
        if not judges:
            return None
        own = {name.lower() for name in replies}
        models = {word(value) for name in _MODELS for value in columns.get(name, ())}
        words = {*VERDICTS, *own, *models}
        known = mostly(
            columns, judges[0], lambda one: not words.isdisjoint(_spellings(one)) or is_number(one)
        )
        return f"columns {', '.join((*replies, *judges))}" if known else None

    def settled(self, rows: Sequence[Json], *, where: str) -> Self:
        """With the meaning of 0, if the verdicts of the first rows are only 0 and 1.

        Raises:
            DataError: neither names of columns nor scores decide it, or verdicts are a scale, or
                signed.
        """
        if self.negative_is is not None:
            return self
        seen, meanings, place = set(), set(), ("", "", "")
        for fields in rows:
            names = _filled(fields)
            replies, judges = _replies(names), _judges(names)
            if self.zero_is is not None or not replies or not judges or judges == _ONE_HOT:
                continue
            found = {word(fields[name]) for name in judges}
            seen |= found
            place = (judges[0], *replies)
            if len(found) == 1 and (meaning := _meaning(fields, found.pop(), replies)):
                meanings.add(meaning)
        if numbers := scale(seen, _allowed(place)):
            signed = place[0] in _SIGNED or any(float(one) < 0 for one in numbers)
            raise DataError((_which_sign if signed else _not_a_verdict)(where, place, numbers))
        if not seen or not seen <= {"0", "1"} or _ends(place[1:]) == ("0", "1"):
            return self
        if len(meanings) == 1:
            return self.model_copy(update={"zero_is": meanings.pop()})
        raise DataError(_which_reading(where, *place, agree=not meanings))

    def parse(self, row: RawRow) -> Iterator[PreferencePair]:
        """The pair, with the better reply as chosen."""
        names = _filled(row.fields)
        replies = _replies(names)
        if not replies:
            raise Rejected(
                Reason.malformed, f"columns of two replies are missing; expected {self.expects}"
            )
        winner, strength = self._verdict(row, replies, _judges(names))
        first, second = (_reply(row, name) for name in replies)
        if any(message.role == "user" for message in first):
            prompt, first, second = split_at_common_prefix(first, second)
        else:
            prompt = _asked(row, replies)
            if len(first) > 1 or len(second) > 1:
                first, second = (_interleaved(prompt, one) for one in (first, second))
                prompt, first, second = split_at_common_prefix(first, second)
        better, other = (second, first) if winner == SECOND else (first, second)
        yield row.pair(prompt, chosen=better, rejected=other, strength=strength)

    def _verdict(
        self, row: RawRow, replies: tuple[str, str], judges: Sequence[str]
    ) -> tuple[int, float]:
        """The majority's winner and the strength of its preference, 0 for a tie."""
        by_score = _by_score(row, replies)
        if judges == _ONE_HOT:
            return _one_hot(row)
        if not judges and by_score is not None:
            return by_score, float(by_score != TIE)
        votes = [self._vote(row, row.get(name), replies) for name in judges]
        if not votes:
            raise Rejected(Reason.malformed, "no verdict on the two replies")
        counts = Counter(winner for winner, _ in votes).most_common(2)
        winner, most = counts[0]
        if winner == TIE or (len(counts) == 2 and counts[1][1] == most):
            return TIE, 0.0
        if by_score is not None and by_score not in (TIE, winner):
            raise Rejected(Reason.score_inverted, "the preferred reply has the lower score")
        return winner, sum(strength for vote, strength in votes if vote == winner) / len(votes)

    def _vote(self, row: RawRow, value: object, replies: tuple[str, str]) -> tuple[int, float]:
        found, underscored = _spellings(value)
        if self.negative_is is not None:
            return self._signed(number(value, what="verdict"))
        if found in ("0", "1") and (self.zero_is in _SIDES or _ends(replies) == ("0", "1")):
            zero = _SIDES.get(self.zero_is or "first", FIRST)
            return (zero if found == "0" else FIRST + SECOND - zero), 1.0
        if found in VERDICTS:
            return VERDICTS[found]
        models = [word(row.get(name)) for name in _MODELS if row.fields.get(name) is not None]
        for names in ([name.lower() for name in replies], models):
            for one in {found, underscored}:
                if names.count(one) == 1:
                    return (FIRST, SECOND)[names.index(one)], 1.0
        raise Rejected(Reason.malformed, f"verdict {found[:40]!r} is unknown")

    def _signed(self, value: float) -> tuple[int, float]:
        negative = _SIDES[self.negative_is or "first"]
        winner = TIE if not value else negative if value < 0 else FIRST + SECOND - negative
        return winner, min(1.0, abs(value) / self.score_scale)


class LabelStudio(RowFormat):
    """An export of Label Studio: two answers under `data`, and who preferred which."""

    expects: ClassVar[str] = (
        "data: {prompt, answer1, answer2}; annotations: [{result: [{value: {selected: left}}]}]"
    )
    reads: ClassVar[str] = "left as the first answer, the majority's answer as chosen"
    columns: ClassVar[tuple[str, ...]] = ("data", "annotations")
    gives: ClassVar[Kind] = "pairs"
    name: Literal["label_studio"] = "label_studio"

    def detects(self, columns: Columns) -> str | None:
        """By annotations of data with two answers."""
        found = mostly(columns, "annotations", is_list) and mostly(columns, "data", _has_replies)
        return "columns data, annotations" if found else None

    def parse(self, row: RawRow) -> Iterator[PreferencePair]:
        """The pair that most annotators prefer."""
        data = row.get("data")
        fields: Json = dict(data) if isinstance(data, dict) else {}
        for number_, side in enumerate(_selected(row), start=1):
            fields[f"annotator{number_}"] = side
        inner = RawRow(row.file, row.row, fields, row.task_type, row.source)
        for record in Compared().parse(inner):
            row.left.update(f"data.{name}" for name in inner.unread(record))
            yield record


# --- two replies ----------------------------------------------------------------------------------

_MODELS = ("model_a", "model_b")
_SIDES: dict[str, int] = {"first": FIRST, "second": SECOND}


def _filled(fields: Json) -> tuple[str, ...]:
    """The columns of a row that have a value."""
    return tuple(name for name, value in fields.items() if value is not None)


@lru_cache(maxsize=256)
def _replies(names: tuple[str, ...]) -> tuple[str, str] | None:
    """The columns of the two replies; None if there are none, or more than two."""
    found = [
        (f"{base}{between}{first}", f"{base}{between}{second}")
        for base in _BASES
        for between in ("_", "")
        for first, second in _ENDS
        if f"{base}{between}{first}" in names and f"{base}{between}{second}" in names
    ]
    return found[0] if len(found) == 1 else None


@lru_cache(maxsize=256)
def _judges(names: tuple[str, ...]) -> tuple[str, ...]:
    """The columns with verdicts."""
    votes = tuple(name for name in _VOTES if name in names) or tuple(
        name for name in names if name.startswith("annotator") and name[9:].isdigit()
    )
    if votes:
        return votes
    if {*_ONE_HOT[:2]} <= {*names}:
        return _ONE_HOT
    return tuple(name for name in _SINGLE if name in names)[:1]


@lru_cache(maxsize=256)
def _scores(names: tuple[str, ...], replies: tuple[str, str]) -> tuple[str, str] | None:
    """The columns that score the two replies."""
    ends = _ends(replies)
    for kind in _SCORES:
        for pattern in (f"{kind}_{{}}", f"{kind}{{}}"):
            first, second = (pattern.format(end) for end in ends)
            if first in names and second in names:
                return first, second
    return None


def _ends(replies: Sequence[str]) -> tuple[str, str]:
    """What tells the two columns apart: 1 and 2, a and b ..."""
    first, second = replies
    return first[-1:], second[-1:]


def _by_score(row: RawRow, replies: tuple[str, str]) -> int | None:
    """The reply with the higher score; None without scores."""
    scores = _scores(_filled(row.fields), replies)
    if scores is None:
        return None
    first, second = (number(row.get(name), what="score") for name in scores)
    return TIE if first == second else FIRST if first > second else SECOND


def _meaning(fields: Json, verdict: str, replies: tuple[str, str]) -> str | None:
    """What 0 means if the verdict on this row agrees with its scores; None if they do not say."""
    row = RawRow("", 0, fields, "", "")
    try:
        better = _by_score(row, replies)
    except Rejected:
        return None
    if not better or verdict not in ("0", "1"):
        return None
    return "first" if (better == FIRST) == (verdict == "0") else "second"


def _which_reading(where: str, judge: str, first: str, second: str, *, agree: bool) -> str:
    """The error for verdicts that are only 0 and 1: both readings, and the word that decides."""
    why = "" if agree else ", and the scores agree with neither reading in all of the first rows"
    word_ = "--format compared,zero_is="
    return (
        f"{where}: column {judge[:40]} holds only 0 and 1{why}. 0 may be {first} and 1 {second}: "
        f"{word_}first. Or 1 may be {first} and 0 {second}: {word_}second. Or 0 may be a tie and 1 "
        f"{first}: {word_}tie. In a config, format: {{name: compared, zero_is: first}}"
    )


def _spellings(value: object) -> tuple[str, str]:
    """A verdict as it is written, and as the name of a column: Response A, response_a."""
    found = word(value)
    return found, found.replace(" ", "_")


def _allowed(place: tuple[str, str, str]) -> tuple[str, ...]:
    """The numbers that a column of verdicts may hold."""
    if place[0] in _SIGNED:
        return ()
    return ("0", "1") if _ends(place[1:]) == ("0", "1") else ("0", "1", "2")


def _which_sign(where: str, place: tuple[str, str, str], numbers: Sequence[str]) -> str:
    """The error for signed verdicts: both readings, and the word that decides."""
    judge, first, second = place[0][:40], *place[1:]
    word_ = "--format compared,negative_is="
    return (
        f"{where}: column {judge} holds {', '.join(numbers[:8])}, and nothing says which sign "
        f"prefers which reply. Where negative numbers prefer {first}: {word_}first. Where they "
        f"prefer {second}: {word_}second. In a config, format: {{name: compared, negative_is: "
        "first}"
    )


def _not_a_verdict(where: str, place: tuple[str, str, str], numbers: Sequence[str]) -> str:
    """The error for numbers whose direction nothing decides."""
    judge, first, second = place[0][:40], *place[1:]
    return (
        f"{where}: column {judge} holds {', '.join(numbers[:8])}, and nothing says which of them "
        f"prefer {first} and which {second}. Write a, b or tie in their place; or leave the column "
        f"out, --column {judge}= (in a config, columns: {{{judge}: ''}}), and score both replies "
        "in columns score_a and score_b"
    )


def _one_hot(row: RawRow) -> tuple[int, float]:
    """The verdict of the one column that is 1."""
    chosen = [name for name in _ONE_HOT if word(row.get(name)) in ("1", "true")]
    if len(chosen) != 1:
        raise Rejected(Reason.malformed, f"{len(chosen)} of {', '.join(_ONE_HOT)} are 1")
    winner = (FIRST, SECOND, TIE)[_ONE_HOT.index(chosen[0])]
    return winner, float(winner != TIE)


def _question(columns: Columns, replies: tuple[str, str]) -> str:
    return (
        first_present(columns, QUESTIONS, lambda value: is_turns(value) or _is_worded(value))
        or first_present(columns, ("context",), is_chat)
        or ("the chats" if mostly(columns, replies[0], is_list) else "")
    )


def _is_worded(value: object) -> bool:
    """Whether it is an object with the text of a question, as WebGPT has it."""
    return isinstance(value, dict) and isinstance(value.get("full_text"), str)


def _reply(row: RawRow, name: str) -> Turns:
    """A reply; a list of texts, perhaps as JSON, holds one for each user turn."""
    texts = _texts(row.fields.get(name))
    if texts is None:
        return row.turns(name, role="assistant")
    row.used.add(name)
    return tuple(as_reply(text(item, where=name))[0] for item in texts)


def _asked(row: RawRow, replies: tuple[str, str]) -> Turns:
    """The prompt; beside replies in lists of texts, it is one too."""
    names = (*QUESTIONS, *(("context",) if is_chat(row.fields.get("context")) else ()))
    name = next((name for name in names if row.fields.get(name) is not None), "")
    if _is_worded(row.fields.get(name)):
        return as_prompt(text(row.get_in(name, "full_text"), where=f"{name}.full_text"))
    if not name:
        raise Rejected(Reason.malformed, f"none of the columns {', '.join(QUESTIONS)} holds text")
    texts = _texts(row.fields[name]) if _texts(row.fields[replies[0]]) is not None else None
    if texts is None:
        return row.turns(name, role="user")
    row.used.add(name)
    return tuple(as_prompt(text(item, where=name))[0] for item in texts)


def _texts(value: object) -> list[object] | None:
    """The texts of a list, or of a list as JSON text; None if it is neither."""
    found = structure_in(value) if isinstance(value, str) and value.startswith('["') else value
    if (
        isinstance(found, list)
        and found
        and all(item is None or isinstance(item, str) for item in found)
    ):
        return ["" if item is None else item for item in found]
    return None


def _interleaved(questions: Turns, answers: Turns) -> Turns:
    """Question, answer, question, answer ..."""
    if len(questions) != len(answers):
        detail = f"{len(questions)} questions, {len(answers)} answers"
        raise Rejected(Reason.malformed, detail)
    turns: list[Message] = []
    for question, answer in zip(questions, answers, strict=True):
        turns += [question, answer]
    return tuple(turns)


def _has_replies(value: object) -> bool:
    return isinstance(value, dict) and _replies(tuple(value)) is not None


def _selected(row: RawRow) -> Iterator[object]:
    """What each annotator selected, who did not cancel."""
    annotations = row.get("annotations")
    for annotation in annotations if isinstance(annotations, list) else ():
        fields = annotation if isinstance(annotation, dict) else {}
        row.leave("annotations", fields, "result", "was_cancelled")
        results = fields.get("result")
        for result in results if isinstance(results, list) else ():
            value = result.get("value") if isinstance(result, dict) else None
            row.leave("annotations[].result", result, "value")
            row.leave("annotations[].result[].value", value, "selected")
            if isinstance(value, dict) and "selected" in value and not fields.get("was_cancelled"):
                yield value["selected"]
