"""What the calls of a judge may cost, checked before the first of them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from alignment.candidates.records import CandidatePrompt, JudgeCall
from alignment.candidates.settings import JudgeLabel
from alignment.errors import ConfigError
from alignment.records.text import Message

BYTES_PER_TOKEN = 3
"""Few, so that the estimate of the cost is high."""


class JudgeQuestion(NamedTuple):
    """Two answers in the order in which the judge sees them; `other` is the one being labelled.

    Attributes:
        about, sample: what identifies `other`: its prompt (or pair) and its number.
        swapped: whether `base` is shown first.
    """

    about: str
    sample: int
    swapped: bool
    turns: tuple[Message, ...]
    base: str
    other: str

    @property
    def id(self) -> tuple[str, int, bool]:
        """What identifies the call."""
        return self.about, self.sample, self.swapped

    def text(self, label: JudgeLabel) -> str:
        """What the judge reads."""
        turns = "\n\n".join(f"{turn.role}: {turn.content}" for turn in self.turns)
        first, second = (self.base, self.other) if self.swapped else (self.other, self.base)
        return (
            f"{label.instruction}\n\n[Conversation]\n{turns}\n\n[Answer A]\n{first}\n\n"
            f"[Answer B]\n{second}\n\nReply with one letter: A, B, or C for equally good."
        )


class Paid(NamedTuple):
    """Tokens and money."""

    tokens: int = 0
    cost: float = 0.0

    def plus(self, call: JudgeCall) -> "Paid":
        """The same and one more call."""
        return Paid(self.tokens + call.tokens, self.cost + call.cost)

    def exceeds(self, label: JudgeLabel) -> str:
        """The setting that allows no further call; empty if none does."""
        if self.tokens >= label.max_tokens:
            return f"label.max_tokens ({label.max_tokens:,})"
        if label.max_cost is not None and self.cost >= label.max_cost:
            return f"label.max_cost ({label.max_cost:,.2f})"
        return ""


def check_budget(label: JudgeLabel, questions: Sequence[JudgeQuestion], spent: Paid) -> None:
    """Refuse to begin what the budget cannot pay for.

    Raises:
        ConfigError: the calls are likely to take more tokens or money than is left.
    """
    read = sum(len(one.text(label).encode()) // BYTES_PER_TOKEN for one in questions)
    _check(label, len(questions), read, spent)


def check_before_answers(
    label: JudgeLabel, prompts: Iterable[CandidatePrompt], *, samples: int
) -> None:
    """The same before there are answers: as if all were empty, which is the least.

    Raises:
        ConfigError: even then, the calls are likely to take more than the budget.
    """
    calls = read = 0
    for prompt in prompts:
        one = JudgeQuestion(prompt.id, 1, swapped=False, turns=prompt.prompt, base="", other="")
        calls += 2 * (samples - 1)
        read += 2 * (samples - 1) * (len(one.text(label).encode()) // BYTES_PER_TOKEN)
    _check(label, calls, read, Paid())


def _check(label: JudgeLabel, calls: int, read: int, spent: Paid) -> None:
    written = calls * label.reply_tokens
    if spent.tokens + read + written > label.max_tokens:
        raise ConfigError(
            f"{calls} calls of the judge may cost {read + written:,} tokens, and label.max_tokens "
            f"is {label.max_tokens:,} ({spent.tokens:,} are spent); raise it, or draw fewer "
            "samples."
        )
    cost = label.cost(read, written)
    if label.max_cost is not None and spent.cost + cost > label.max_cost:
        raise ConfigError(
            f"{calls} calls of the judge may cost {cost:,.2f}, and label.max_cost is "
            f"{label.max_cost:,.2f} ({spent.cost:,.2f} is spent); raise it, or draw fewer samples."
        )
