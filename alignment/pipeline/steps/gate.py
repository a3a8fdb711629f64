"""The step that decides which model the next round starts from."""

from typing import Literal

from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.gate import JudgedModel, judge
from alignment.evaluate.settings import GateConfig
from alignment.pipeline.step import Context, Key, Outcome, Step, model_of
from alignment.records import EvalReport, GateResult, Generation, PairScore
from alignment.store.jsonl import read_rows
from alignment.store.store import Store


class Gate(Step):
    """Keep a round's model, or go back to the one it started from.

    Attributes:
        candidate, evaluation: the round's model, and its evaluation.
        champion, against: the model that the round started from, and its evaluation.
    """

    stage: Literal["gate"] = "gate"
    title = "gate"
    produces = GateResult
    parent_fields = ("candidate", "evaluation", "champion", "against")
    in_child = False
    nominal_seconds = 1.0
    config: GateConfig
    candidate: Key
    evaluation: Key
    champion: Key
    against: Key

    def build(self, context: Context) -> Outcome:
        """Compare both models row by row, and choose the one to continue from."""
        store = context.store
        verdict = judge(
            self.config,
            candidate=_judged(store, self.evaluation),
            champion=_judged(store, self.against),
        )
        result = GateResult(
            model=model_of(store, self.candidate if verdict.kept else self.champion),
            evaluation=self.evaluation if verdict.kept else self.against,
            verdict=verdict,
        )
        return Outcome(
            output=result, metrics={"kept": float(verdict.kept)}, notes=(verdict.sentence,)
        )


def _judged(store: Store, key: str) -> JudgedModel:
    report = EvalReport.model_validate(store.open(key).output)
    rows = ScoredRows(
        pairs=tuple(read_rows(store.path(report.pairs), PairScore)),
        generations=tuple(read_rows(store.path(report.generations), Generation)),
    )
    return JudgedModel(report=report, rows=rows)
