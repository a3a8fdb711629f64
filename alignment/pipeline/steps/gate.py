"""The steps that decide which model the next round starts from: one per kind of gate."""

from abc import abstractmethod
from typing import ClassVar, Literal

from alignment.evaluate.anchored import judge_anchored
from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.gate import JudgedModel, judge
from alignment.evaluate.settings import AnchoredGate, PlainGate
from alignment.evaluate.verdict import GateResult, Verdict
from alignment.pipeline.step import Context, Key, Outcome, Step, model_of
from alignment.records import EvalReport, Generation, PairScore
from alignment.store.jsonl import read_rows
from alignment.store.store import Store


class Gate(Step):
    """Keep a round's model, or go back to the one it started from.

    Attributes:
        candidate, evaluation: the round's model, and its evaluation.
        champion, against: the model that the round started from, and its evaluation.
    """

    produces = GateResult
    parent_fields: ClassVar[tuple[str, ...]] = ("candidate", "evaluation", "champion", "against")
    in_child = False
    nominal_seconds = 1.0
    candidate: Key
    evaluation: Key
    champion: Key
    against: Key

    @abstractmethod
    def verdict(self, store: Store) -> Verdict:
        """Compare the models row by row."""

    def build(self, context: Context) -> Outcome:
        """Judge the round, and choose the model to continue from."""
        store = context.store
        verdict = self.verdict(store)
        result = GateResult(
            model=model_of(store, self.candidate if verdict.kept else self.champion),
            evaluation=self.evaluation if verdict.kept else self.against,
            verdict=verdict,
        )
        return Outcome(
            output=result, metrics={"kept": float(verdict.kept)}, notes=(verdict.sentence,)
        )


class ParentGate(Gate):
    """The plain gate: the round against the model it started from."""

    stage: Literal["gate"] = "gate"
    title = "gate"
    config: PlainGate

    def verdict(self, store: Store) -> Verdict:
        """Compare both models row by row."""
        return judge(
            self.config,
            candidate=_judged(store, self.evaluation),
            champion=_judged(store, self.against),
        )


class AnchorGate(Gate):
    """The anchored gate: the round against the model approved last, and against its parent.

    Attributes:
        anchor: the evaluation of the model approved last.
        look: the number of this verdict since then, 1 for the first.
    """

    stage: Literal["anchored"] = "anchored"
    title = "anchored gate"
    parent_fields = (*Gate.parent_fields, "anchor")
    config: AnchoredGate
    anchor: Key
    look: int

    def verdict(self, store: Store) -> Verdict:
        """Compare the three models row by row."""
        return judge_anchored(
            self.config,
            candidate=_judged(store, self.evaluation),
            champion=_judged(store, self.against),
            anchor=_judged(store, self.anchor),
            look=self.look,
        )


def _judged(store: Store, key: str) -> JudgedModel:
    report = EvalReport.model_validate(store.open(key).output)
    rows = ScoredRows(
        pairs=tuple(read_rows(store.path(report.pairs), PairScore)),
        generations=tuple(read_rows(store.path(report.generations), Generation)),
    )
    return JudgedModel(report=report, rows=rows)
