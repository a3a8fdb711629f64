"""The rows of a round on own answers: prompts, labels, and what became of each answer."""

from alignment.data.practice.verifiers import Verifier
from alignment.records import Frozen, Message


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


class Fate(Frozen):
    """What became of one answer: chosen, rejected, or one of `alignment.data.row.Reason`."""

    prompt_id: str
    sample: int
    score: float | None
    text: str
    fate: str
    detail: str = ""
