"""Formats in which each row is one pair, with chosen and rejected given by its columns."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from alignment.data.formats.base import (
    Columns,
    Kind,
    RowFormat,
    first_present,
    has_any,
    is_list,
    is_talk,
    is_text,
    is_turns,
    mostly,
    number,
)
from alignment.data.formats.chats import CHATS, without_calculator
from alignment.data.formats.messages import Turns, chat, tools
from alignment.data.formats.rows import (
    RawRow,
    as_prompt,
    as_reply,
    exchange,
    split_at_common_prefix,
)
from alignment.data.row import Reason, Rejected
from alignment.records.text import Message, PreferencePair, Role

_SCORES = ("score", "rating", "reward")
"""Words in the names of columns that score the replies: the higher, the better."""
_MARKER = re.compile(r"(?:\A\s*|\r?\n\r?\n)(Human|Assistant):")
_SPEAKERS: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}


class Preference(RowFormat):
    """Prompt, chosen and rejected, each a text, a message or a list of messages.

    Chosen and rejected may be whole chats. Then their longest common prefix is the prompt, and any
    prompt column is ignored. Scores of both (`score_chosen` and `score_rejected`, `chosen-rating`
    and `rejected-rating` ...), in the row or under `metadata`, become the pair's strength.
    """

    expects: ClassVar[str] = (
        "prompt, chosen, rejected: texts, messages or lists of messages; "
        "or chosen, rejected: lists of messages that both start with the prompt (also as accepted "
        "and rejected, preferred and dispreferred, win and lose, positive and negative ...)"
    )
    reads: ClassVar[str] = (
        "the pair; scores, ratings or rewards of both replies become its strength, ties and "
        "inverted pairs are quarantined"
    )
    columns: ClassVar[tuple[str, ...]] = ("prompt", "chosen", "rejected")
    outranks: ClassVar[tuple[str, ...]] = ("messages", "sharegpt", "candidates")
    gives: ClassVar[Kind] = "pairs"
    name: Literal["preference"] = "preference"
    prompt: str = Field(
        default="prompt", description="Column of the prompt. Not read if the replies include it."
    )
    chosen: str = Field(default="chosen", description="Column of the preferred reply.")
    rejected: str = Field(default="rejected", description="Column of the other reply.")
    score_scale: PositiveFloat = Field(
        default=10.0,
        description="Difference of scores that counts as strength 1, as does any larger one. "
        "Default: 10, the width of the usual 0 to 10 scale.",
    )
    tie_below: NonNegativeFloat = Field(
        default=0.0,
        description="Score differences up to this are ties. Default: 0, only equal scores.",
    )

    def detects(self, columns: Columns) -> str | None:
        """By chosen and rejected with a prompt, or by both as lists of messages without one."""
        replies = (self.chosen, self.rejected)
        if self.prompt in SECONDARY and has_any(columns, ("prompt", "question", "instruction")):
            return None
        if all(mostly(columns, name, is_turns) for name in (self.prompt, *replies)):
            return f"columns {', '.join((self.prompt, *replies))}"
        whole = all(mostly(columns, name, is_list) for name in replies)
        # several known formats differ only in the prompt column; only the usual one may match
        matches = whole and self.prompt == "prompt" and not has_any(columns, OTHER_PROMPTS)
        return f"columns {', '.join(replies)} hold lists of messages" if matches else None

    def parse(self, row: RawRow) -> Iterator[PreferencePair]:
        """The pair."""
        strength = self._strength(row)
        chosen, rejected = (
            row.turns(name, role="assistant") for name in (self.chosen, self.rejected)
        )
        if _is_chat(chosen) and _is_chat(rejected):
            prompt, chosen, rejected = split_at_common_prefix(chosen, rejected)
        else:
            prompt = row.turns(self.prompt, role="user")
        yield row.pair(prompt, chosen=chosen, rejected=rejected, strength=strength)

    def _strength(self, row: RawRow) -> float | None:
        """(score_chosen - score_rejected) / score_scale, within 0..1; None without scores."""
        if names := _scored(tuple(row.fields)):
            scores = [row.get(name) for name in names]
        else:
            metadata = row.fields.get("metadata")
            inner = _scored(tuple(metadata)) if isinstance(metadata, dict) else None
            scores = [row.get_in("metadata", name) for name in inner or ()]
        if not scores or None in scores:
            return _stated_strength(row)
        chosen, rejected = (number(score, what="score") for score in scores)
        return strength_of(chosen - rejected, self.score_scale, self.tie_below)


SECONDARY = ("input", "messages", "conversations", "conversation")
"""Columns that hold the prompt of a pair only where no column with a plainer name does."""
OTHER_PROMPTS = ("question", "instruction", "query", *SECONDARY)
"""Columns that hold the prompt of a pair, besides `prompt`."""
OTHER_REPLIES = (
    *(("chosen_response", "rejected_response"), ("accepted", "rejected")),
    *(("preferred", "dispreferred"), ("preferred", "rejected"), ("win", "lose")),
    *(("positive", "negative"), ("better", "worse"), ("better_response", "worse_response")),
)
"""Columns that hold the better and the worse reply of a pair, besides `chosen` and `rejected`."""


@lru_cache(maxsize=64)
def _scored(columns: tuple[str, ...]) -> tuple[str, str] | None:
    """The columns that score chosen and rejected: of the first kind of `_SCORES` that is there."""
    plain = {re.sub(r"[-. ]", "_", name.lower()): name for name in columns if isinstance(name, str)}
    for kind in _SCORES:
        for names in ((f"{kind}_{{}}", f"{{}}_{kind}"), (f"{kind}s_{{}}", f"{{}}_{kind}s")):
            for name in names:
                chosen, rejected = (plain.get(name.format(of)) for of in ("chosen", "rejected"))
                if chosen and rejected:
                    return chosen, rejected
    return None


def _stated_strength(row: RawRow) -> float | None:
    """The column `strength`, as this package writes it: 0..1."""
    value = row.fields.get("strength")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        return None
    row.used.add("strength")
    return float(value)


def strength_of(difference: float, scale: float, tie_below: float) -> float:
    """Strength of preference, 0..1, for a chosen score that is higher by `difference`.

    Raises:
        Rejected: `score_inverted` if the chosen score is lower.
    """
    if abs(difference) <= tie_below:
        return 0.0
    if difference < 0:
        raise Rejected(Reason.score_inverted, f"chosen scores {-difference:g} below rejected")
    return min(1.0, difference / scale)


class HH(RowFormat):
    r"""Whole transcripts with `\n\nHuman:` and `\n\nAssistant:` before each turn (Bai et al. 2022).

    The prompt is the longest common prefix in messages, not in characters, since replies may start
    with the same words. A marker without a blank line before it is text.
    """

    expects: ClassVar[str] = r"chosen, rejected: transcripts with \n\nHuman: and \n\nAssistant:"
    reads: ClassVar[str] = "every turn; the pair is split where the messages diverge"
    columns: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    gives: ClassVar[Kind] = "pairs"
    name: Literal["hh"] = "hh"

    def detects(self, columns: Columns) -> str | None:
        """By chosen and rejected that start with a human turn, if there is no prompt column."""
        if "prompt" in columns:
            return None
        opening = all(mostly(columns, name, _opens_with_human) for name in ("chosen", "rejected"))
        return "columns chosen, rejected open with 'Human:'" if opening else None

    def parse(self, row: RawRow) -> Iterator[PreferencePair]:
        """The pair."""
        chosen, rejected = (_transcript(row, column) for column in ("chosen", "rejected"))
        prompt, chosen, rejected = split_at_common_prefix(chosen, rejected)
        yield row.pair(prompt, chosen=chosen, rejected=rejected)


class PreferredOutput(RowFormat):
    """A pair as OpenAI and Azure take it: the prompt under `input`, and two outputs."""

    expects: ClassVar[str] = (
        "input: {messages, tools}; preferred_output, non_preferred_output: lists of messages"
    )
    reads: ClassVar[str] = "the prompt with its tools, and both replies"
    columns: ClassVar[tuple[str, ...]] = ("input", "preferred_output", "non_preferred_output")
    gives: ClassVar[Kind] = "pairs"
    name: Literal["preferred_output"] = "preferred_output"

    def detects(self, columns: Columns) -> str | None:
        """By both outputs."""
        outputs = ("preferred_output", "non_preferred_output")
        found = all(mostly(columns, name, is_turns) for name in outputs)
        return f"columns input, {', '.join(outputs)}" if found else None

    def parse(self, row: RawRow) -> Iterator[PreferencePair]:
        """The pair."""
        if isinstance(row.fields.get("input"), dict):
            prompt = self._prompt(row)
        else:
            prompt = row.turns("input", role="user")
        chosen, rejected = (
            row.turns(name, role="assistant")
            for name in ("preferred_output", "non_preferred_output")
        )
        yield row.pair(prompt, chosen=chosen, rejected=rejected)

    def _prompt(self, row: RawRow) -> Turns:
        found = row.get_in("input", "messages")
        if not isinstance(found, list):
            raise Rejected(Reason.malformed, "input has no list of messages")
        prompt = chat(found, where="input.messages", left=row.left)
        offered = tools(row.get_in("input", "tools"))
        if not offered:
            return prompt
        if prompt and prompt[0].role == "system":
            return (prompt[0].model_copy(update={"tools": offered}), *prompt[1:])
        return (Message(role="system", content="", tools=offered), *prompt)


class RejectedResponse(RowFormat):
    """A chat whose last reply is the preferred one, and beside it the other (ms-swift)."""

    expects: ClassVar[str] = (
        "rejected_response: text or message; and messages, conversations, or query and response"
    )
    reads: ClassVar[str] = "the chat's last reply as chosen, rejected_response as rejected"
    columns: ClassVar[tuple[str, ...]] = ("messages", "rejected_response")
    outranks: ClassVar[tuple[str, ...]] = ("messages", "sharegpt")
    gives: ClassVar[Kind] = "pairs"
    name: Literal["rejected_response"] = "rejected_response"

    def detects(self, columns: Columns) -> str | None:
        """By a rejected response beside a chat, or beside a query and its response."""
        others = has_any(columns, ("chosen", "chosen_response"))
        if others or not mostly(columns, "rejected_response", is_turns):
            return None
        found = first_present(columns, ("messages", *CHATS), is_talk)
        if not found and mostly(columns, "response", is_text):
            found = first_present(columns, _QUERIES, is_text)
        return f"columns {found}, rejected_response" if found else None

    def parse(self, row: RawRow) -> Iterator[PreferencePair]:
        """The pair."""
        columns = (name for name in ("messages", *CHATS) if isinstance(row.fields.get(name), list))
        if column := next(columns, ""):
            turns = row.messages(column)
        else:
            query = next((name for name in _QUERIES if row.fields.get(name) is not None), "query")
            turns = exchange(row.question(query), row.text("response"))
        rejected = row.turns("rejected_response", role="assistant")
        if _is_chat(rejected):
            prompt, chosen, rejected = split_at_common_prefix(turns, rejected)
        else:
            prompt, chosen = turns[:-1], turns[-1:]
        yield row.pair(prompt, chosen=chosen, rejected=rejected)


_QUERIES = ("query", "prompt", "instruction", "question")


class GradedSolutions(RowFormat):
    """One question and the solutions of several models, each marked right or wrong.

    Of all pairs of a right and a wrong solution, the one closest in length is used, so that length
    does not give the answer away; of equally close pairs, the first by column name.
    """

    expects: ClassVar[str] = "question: text, and two or more columns of {is_correct, solution}"
    reads: ClassVar[str] = "of all right and wrong solutions, the two closest in length"
    columns: ClassVar[tuple[str, ...]] = ("question", "is_correct", "solution")
    gives: ClassVar[Kind] = "pairs"
    note: ClassVar[str] = (
        "calculator annotations such as <<48/2=24>> are removed from the solutions"
    )
    name: Literal["graded_solutions"] = "graded_solutions"

    def detects(self, columns: Columns) -> str | None:
        """By a question column and two or more columns of graded solutions."""
        graded = [name for name in columns if mostly(columns, name, _is_graded)]
        if len(graded) < 2 or not mostly(columns, "question", is_text):
            return None
        return f"column question, and {', '.join(graded)} hold is_correct and solution"

    def parse(self, row: RawRow) -> Iterator[PreferencePair]:
        """The right and the wrong solution that are closest in length."""
        right, wrong = self._solutions(row)
        if not right or not wrong:
            verdict = "right" if right else "wrong"
            raise Rejected(Reason.no_contrast, f"all {len(right or wrong)} solutions are {verdict}")
        chosen, rejected = min(
            ((good, bad) for good in right for bad in wrong),
            key=lambda pair: abs(len(pair[0]) - len(pair[1])),
        )
        row.left.update(
            f"{name}.solution"
            for name, value in row.fields.items()
            if isinstance(value, dict)
            and _is_graded(value)
            and without_calculator(value["solution"]) not in (chosen, rejected)
        )
        yield row.pair(
            as_prompt(row.question("question")),
            chosen=as_reply(chosen),
            rejected=as_reply(rejected),
        )

    def _solutions(self, row: RawRow) -> tuple[list[str], list[str]]:
        right: list[str] = []
        wrong: list[str] = []
        for name, value in sorted(row.fields.items()):
            if isinstance(value, dict) and _is_graded(value):
                row.used.update((f"{name}.is_correct", f"{name}.solution"))
                verdict, solution = value["is_correct"], value["solution"]
                if not isinstance(verdict, bool) or not isinstance(solution, str):
                    raise Rejected(Reason.malformed, f"{name[:40]!r} needs a boolean and a text")
                (right if verdict else wrong).append(without_calculator(solution))
        if not right and not wrong:
            raise Rejected(Reason.malformed, "no column holds is_correct and solution")
        return right, wrong


def _opens_with_human(value: object) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("Human:")


def _is_chat(messages: Turns) -> bool:
    """Whether these include the prompt, rather than a reply alone."""
    return any(message.role == "user" for message in messages)


def _is_graded(value: object) -> bool:
    return isinstance(value, dict) and {"is_correct", "solution"} <= value.keys()


def _transcript(row: RawRow, column: str) -> Turns:
    """The turns of an HH transcript. `split` gives text, speaker, text, speaker, text ..."""
    before, *pieces = _MARKER.split(row.text(column))
    if before.strip() or not pieces:
        raise Rejected(Reason.malformed, f"{column} does not open with 'Human:'")
    return tuple(
        Message(role=_SPEAKERS[speaker], content=text.strip())
        for speaker, text in zip(pieces[::2], pieces[1::2], strict=True)
    )
