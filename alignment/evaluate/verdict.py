"""What a gate decides: the findings of its checks, the verdict, and the model that goes on."""

from typing import Any, Literal

from pydantic import model_validator

from alignment.records.base import Frozen
from alignment.records.refs import ModelRef

Finding = Literal["passed", "failed", "inconclusive", "cannot be judged"]


class Check(Frozen):
    """One check of the gate: its name, what it found, and the numbers in words."""

    name: str
    finding: Finding
    words: str

    @model_validator(mode="before")
    @classmethod
    def _of_two_outcomes(cls, stored: Any) -> Any:
        """Verdicts used to store `passed`, true or false."""
        if isinstance(stored, dict) and "passed" in stored:
            passed = stored["passed"]
            stored = {key: value for key, value in stored.items() if key != "passed"}
            stored["finding"] = "passed" if passed else "failed"
        return stored

    @property
    def passed(self) -> bool:
        """Whether the check has no objection."""
        return self.finding == "passed"


class Verdict(Frozen):
    """The gate's decision on a round: the candidate against the champion it started from.

    Attributes:
        anchor: label of the approved model that bounds the loss; None for the plain gate.
        keep_undecided: whether an inconclusive round is kept.
    """

    candidate: str
    champion: str
    checks: tuple[Check, ...]
    anchor: str | None = None
    keep_undecided: bool = False

    @property
    def finding(self) -> Finding:
        """The worst finding of all checks. A failed check outweighs one that cannot be judged."""
        found = {check.finding for check in self.checks}
        return next((worst for worst in _WORST_FIRST if worst in found), "passed")

    @property
    def kept(self) -> bool:
        """Whether the next round starts from the candidate."""
        return self.finding == "passed" or (self.finding == "inconclusive" and self.keep_undecided)

    @property
    def word(self) -> str:
        """The finding in one or two words: 'kept', 'rejected', 'inconclusive, kept', ..."""
        word = {"passed": "kept", "failed": "rejected"}.get(self.finding, self.finding)
        return "inconclusive, kept" if self.kept and word == "inconclusive" else word

    @property
    def reasons(self) -> tuple[str, ...]:
        """The deciding sentences: those of the worst checks, or of all checks if all passed."""
        return tuple(check.words for check in self.checks if check.finding == self.finding)

    @property
    def outcome(self) -> str:
        """'is rejected, round 2 stays'."""
        if self.finding == "inconclusive" and self.kept:
            return "is inconclusive and kept"
        words = _IN_WORDS[self.finding]
        return words if self.kept else f"{words}, {self.champion} stays"

    @property
    def sentence(self) -> str:
        """'round 3 is rejected, round 2 stays: pass rate fell by ...'."""
        return f"{self.candidate} {self.outcome}: {'; '.join(self.reasons)}"


_WORST_FIRST: tuple[Finding, ...] = ("failed", "cannot be judged", "inconclusive")
_IN_WORDS: dict[Finding, str] = {
    "passed": "is kept",
    "failed": "is rejected",
    "inconclusive": "is inconclusive",
    "cannot be judged": "cannot be judged",
}


class GateResult(Frozen):
    """The output of a gate: the model that the next round starts from, and why.

    Attributes:
        model: the candidate if the round is kept, otherwise the champion.
        evaluation: key of that model's evaluation.
    """

    model: ModelRef
    evaluation: str
    verdict: Verdict
