"""The steps that decide which model the next round starts from: one per kind of gate."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Literal

from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.evidence import (
    EVIDENCE,
    Evidence,
    ModelEvidence,
    Role,
    RowList,
    columns_of,
    judged_by,
    rows_of,
)
from alignment.evaluate.judged import KINDS, JudgedModel, Kind
from alignment.evaluate.settings import AnchoredGate, GateConfig, OnRegression, PlainGate
from alignment.evaluate.verdict import GateResult, Verdict
from alignment.pipeline.step import Context, Key, Outcome, Step, model_of
from alignment.records.base import Json
from alignment.records.evaluation import EvalReport, Generation, PairScore, TaskScore
from alignment.records.manifest import StageRecord
from alignment.records.refs import ModelRef
from alignment.store.durable import write
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

    @property
    def compared(self) -> dict[Role, str]:
        """The keys of the evaluations that are compared, by the role of their model."""
        return {"candidate": self.evaluation, "champion": self.against}

    @property
    @abstractmethod
    def rule(self) -> GateConfig:
        """The rule and its settings."""

    @property
    def number(self) -> int:
        """The number of this verdict since a person approved a model, 1 for the first."""
        return 1

    def build(self, context: Context) -> Outcome:
        """Judge the round, keep the evidence, and choose the model to continue from."""
        store = context.store
        evidence = self.evidence(store)
        write("gate.evidence", context.workspace.out / EVIDENCE, evidence.encoded())
        verdict = evidence.verdict
        kept = self.keeps(verdict)
        metrics = {"kept": float(kept), **self.numbers(verdict)}
        result = GateResult(
            model=model_of(store, self.candidate if kept else self.champion),
            evaluation=self.evaluation if kept else self.against,
            verdict=verdict,
        )
        return Outcome(output=result, metrics=metrics, notes=tuple(self.notes(verdict)))

    def keeps(self, verdict: Verdict) -> bool:
        """Whether the run continues from the candidate."""
        return verdict.kept

    def notes(self, verdict: Verdict) -> Iterator[str]:
        """The verdict in words."""
        yield verdict.sentence

    def numbers(self, verdict: Verdict) -> dict[str, float]:
        """What the record says of the verdict besides whether the candidate is kept."""
        del verdict
        return {}

    def evidence(self, store: Store) -> Evidence:
        """The verdict with everything it is decided from."""
        evaluations = {role: store.open(key) for role, key in self.compared.items()}
        models = {role: judged_model(store, record) for role, record in evaluations.items()}
        rows = rows_of(list(models.values()))
        return Evidence(
            gate=self.key,
            rule=self.rule,
            look=self.number,
            rows=rows,
            models={
                role: _evidence(store, record, models[role], rows)
                for role, record in evaluations.items()
            },
            verdict=judged_by(self.rule, models, look=self.number),
        )


class ParentGate(Gate):
    """The plain gate: the round against the model it started from."""

    stage: Literal["gate"] = "gate"
    title = "gate"
    config: PlainGate

    @property
    def rule(self) -> PlainGate:
        """The rule and its settings."""
        return self.config


class SftGate(Gate):
    """The check of SFT: the SFT model against the base model, before any round.

    A regression is reported; whether the rounds then start from the base model is a setting.
    """

    stage: Literal["sft-gate"] = "sft-gate"
    title = "check SFT"
    notes_matter = True
    headline = ("regression",)
    config: PlainGate
    on_regression: OnRegression

    @property
    def rule(self) -> PlainGate:
        """The rule and its settings."""
        return self.config

    def keeps(self, verdict: Verdict) -> bool:
        """Whether the rounds start from the SFT model."""
        return verdict.finding != "failed" or self.on_regression == "keep_sft"

    def numbers(self, verdict: Verdict) -> dict[str, float]:
        """1 for a regression."""
        return {"regression": float(verdict.finding == "failed")}

    def notes(self, verdict: Verdict) -> Iterator[str]:
        """A regression, and where the rounds start; nothing if there is none."""
        if verdict.finding == "failed":
            start = verdict.candidate if self.keeps(verdict) else verdict.champion
            yield (
                f"{verdict.candidate} is worse than {verdict.champion}, and the rounds start from "
                f"{start} (sft.on_regression): {'; '.join(verdict.reasons)}"
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

    @property
    def rule(self) -> AnchoredGate:
        """The rule and its settings."""
        return self.config

    @property
    def number(self) -> int:
        """The number of this verdict since a person approved a model, 1 for the first."""
        return self.look

    @property
    def compared(self) -> dict[Role, str]:
        """The round, the model that it started from, and the model approved last."""
        return {**super().compared, "anchor": self.anchor}


def _evidence(
    store: Store, evaluation: StageRecord, judged: JudgedModel, rows: dict[Kind, RowList]
) -> ModelEvidence:
    model = evaluation.parents["model"]
    return ModelEvidence(
        label=judged.label,
        model=model,
        weights=digest_of_model(store, model),
        evaluation=evaluation.key,
        rows=digests_of_rows(evaluation),
        settings=evaluation_settings(evaluation),
        values=columns_of(judged, rows),
        stored=dict(judged.stored),
        noise=dict(judged.noise),
    )


def digest_of_model(store: Store, key: str) -> str | None:
    """The digest of what a model computes, from its manifest; None if it is not in the store."""
    record = store.find(key)
    return None if record is None else ModelRef.model_validate(record.output).ref_hash


def digests_of_rows(evaluation: StageRecord) -> dict[Kind, str]:
    """The sha256 of the files of rows that an evaluation wrote."""
    found = {file.path: file.sha256 for file in evaluation.files}
    return {kind: found[name] for kind in KINDS if (name := f"{kind}.jsonl") in found}


def evaluation_settings(evaluation: StageRecord) -> Json:
    """The settings of an evaluation as its record has them."""
    settings = evaluation.config.get("config")
    return settings if isinstance(settings, dict) else {}


def judged_model(store: Store, evaluation: StageRecord) -> JudgedModel:
    """The evaluated model as a gate sees it."""
    report = EvalReport.model_validate(evaluation.output)
    rows = ScoredRows(
        pairs=tuple(read_rows(store.path(report.pairs), PairScore)),
        generations=tuple(read_rows(store.path(report.generations), Generation)),
        tasks=tuple(read_rows(store.path(report.tasks), TaskScore)) if report.tasks else (),
    )
    return JudgedModel.of(report, rows)
