"""The rows of a round on own answers: prompts, labels, and what became of each answer."""

from alignment.answers.answer import Answer
from alignment.data.verifiers import Verifier
from alignment.records.base import Frozen
from alignment.records.text import Message

ROWS = "rows.jsonl"
"""The file of an artifact with prompts, answers or labels."""


class CandidatePrompt(Frozen):
    """A prompt to answer.

    Attributes:
        id: hash of its text.
        verifier: its own verifier, if its source has one.
        reference: text of the source's own reply, if there is one.
    """

    id: str
    prompt: tuple[Message, ...]
    task_type: str
    source: str
    verifier: Verifier | None = None
    reference: str | None = None


class CheckRequest(Frozen):
    """One answer for a verifier to score."""

    prompt: tuple[Message, ...]
    answer: str
    verifier: Verifier | None = None
    reference: str | None = None


class CheckResult(Frozen):
    """Its score, or what went wrong; neither says that the check is ready."""

    score: float | None = None
    error: str = ""


class AnswerLabel(Frozen):
    """The score of one answer.

    Attributes:
        score: higher is better; None if the answer could not be scored.
        detail: why it could not.
    """

    prompt_id: str
    sample: int
    score: float | None
    detail: str = ""


def answer_id(row: Answer | AnswerLabel) -> tuple[str, int]:
    """What distinguishes an answer, or its label, from all others."""
    return row.prompt_id, row.sample


class JudgeCall(Frozen):
    """One call of a judge, which compared an answer with the prompt's first.

    Attributes:
        swapped: whether the prompt's first answer was shown first.
        choice: 1 if the answer is better, -1 if it is worse, 0 if both are equal; None if the reply
            says none of this.
        raw: what the judge replied.
        tokens: tokens that the judge read and wrote.
        cost: what they cost, by the prices in the config.
    """

    prompt_id: str
    sample: int
    swapped: bool
    choice: float | None
    raw: str
    tokens: int
    cost: float = 0.0


class Fate(Frozen):
    """What became of one answer: chosen, rejected, or one of `alignment.data.row.Reason`."""

    prompt_id: str
    sample: int
    score: float | None
    text: str
    fate: str
    detail: str = ""
