"""What a run and a round return, to a shell and to Prefect."""

from alignment.evaluate.evidence import EVIDENCE
from alignment.evaluate.verdict import GateResult, Verdict
from alignment.records.base import Frozen
from alignment.records.manifest import StageRecord
from alignment.rounds.driver import DriverOutcome, RoundOutcome
from alignment.store.store import Store


class RunResult(Frozen):
    """The result of a run.

    Attributes:
        report: path of the report on the machine that ran the flow.
        headline: the result in one sentence.
        table: base, SFT, rounds and control, as aligned text.
    """

    report: str
    headline: str
    table: str


class RoundResult(Frozen):
    """The result of a round.

    Attributes:
        outcome: the outcome in a word or two.
        message: the outcome as a sentence, with the gate's numbers.
        champion: key of the current champion's model; empty before the line has started.
        table: base, champion and the round's model; empty if nothing was trained.
        report: path of the report on the machine that ran the flow; empty if nothing was trained.
        notes: files in the inbox that the line does not use, and why.
        refused: number of batches that this round refused.
        verdict: what the gate found; None if nothing was judged.
        evidence: path of the verdict's evidence on the machine that ran the flow.
    """

    outcome: DriverOutcome
    message: str
    champion: str
    table: str = ""
    report: str = ""
    notes: tuple[str, ...] = ()
    refused: int = 0
    verdict: Verdict | None = None
    evidence: str = ""

    @classmethod
    def of(
        cls, outcome: RoundOutcome, store: Store, *, table: str = "", report: str = ""
    ) -> "RoundResult":
        """The result of a round that the driver has made in a store."""
        champion = outcome.state.champion
        gate = store.find(outcome.gate) if outcome.gate else None
        return cls(
            outcome=outcome.outcome,
            message=outcome.message,
            champion=champion.model if champion else "",
            table=table,
            report=report,
            notes=tuple(map(str, outcome.notes)),
            refused=outcome.refused,
            verdict=GateResult.model_validate(gate.output).verdict if gate else None,
            evidence=_evidence(store, gate) if gate else "",
        )


def _evidence(store: Store, gate: StageRecord) -> str:
    """The path of a verdict's evidence; empty for a verdict of an earlier version."""
    path = store.folder(gate.key) / EVIDENCE
    return str(path) if path.exists() else ""
