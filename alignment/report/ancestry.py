"""The ancestry of a model, one row per model: its data, its metrics and the gate's verdict."""

from collections import Counter

from alignment.evaluate import evaluators
from alignment.evaluate.evaluator import Evaluator
from alignment.evaluate.verdict import GateResult, Verdict
from alignment.pipeline.steps import EvaluateModel, made_by
from alignment.records.evaluation import EvalReport
from alignment.records.manifest import StageRecord
from alignment.records.refs import BatchFile, DataRef, ModelRef
from alignment.report.metric import MISSING
from alignment.report.table import Cell, Table
from alignment.report.tables import estimate_cell
from alignment.store.lineage import ancestors
from alignment.store.store import Store


def ancestry_table(store: Store, key: str) -> Table:
    """The models that led to this one, oldest first, with their data, metrics and verdicts.

    Raises:
        ArtifactError: an ancestor is no longer in the store.
    """
    models = ancestors(store, key)
    records = {record.key: record for record in models}
    all_records = store.records()
    evaluations = _evaluations(models, all_records)
    rows = [
        [Cell(text=model.name), Cell(text=model.key, tone="muted"), _data(model, records),
         *_metrics(evaluations.get(model.key)), Cell(text=_verdict(model, all_records))]
        for model in models
        if model.output_as(ModelRef)
    ]  # fmt: skip
    labels = [evaluator.label for evaluator in _gate_evaluators()]
    return Table.of(
        f"Ancestry of {models[-1].name}",
        ["Model", "Key", "Trained on", *labels, "Verdict"],
        rows,
        align="lll" + "r" * len(labels) + "l",
    )


def _gate_evaluators() -> list[Evaluator]:
    """The evaluators that the gate uses."""
    return [evaluator for evaluator in evaluators.EVALUATORS if evaluator.gate]


def _data(model: StageRecord, records: dict[str, StageRecord]) -> Cell:
    """'pairs-4: 96 rows of monday.jsonl', the data of the model's adapter, if it has one."""
    adapter = records.get(model.parents.get("adapter", ""))
    if adapter is None:
        return Cell(text=MISSING, tone="muted")
    names = []
    for prepared in (records[key] for key in adapter.parents_as("data")):
        kept = DataRef.model_validate(prepared.output).kept
        read = records.get(prepared.parents.get("prompts", ""), prepared)
        batches = (records[key].output_as(BatchFile) for key in read.parents_as("batches"))
        files = ", ".join(batch.file for batch in batches if batch)
        names.append(f"{prepared.name}: {kept:,} rows{f' of {files}' if files else ''}")
    return Cell(text="; ".join(names) or adapter.name)


def _evaluations(
    models: list[StageRecord], all_records: list[StageRecord]
) -> dict[str, StageRecord]:
    """The evaluation of each model by its key, all on the rows that most of them share."""
    keys = {model.key for model in models}
    found = [r for r in all_records if made_by(r, EvaluateModel) and r.parents["model"] in keys]
    shared = Counter(
        rows for rows, _ in {(r.parents_as("data"), r.parents["model"]) for r in found}
    )
    rows = max(shared, key=lambda one: (shared[one], len(one)), default=())
    return {r.parents["model"]: r for r in found if r.parents_as("data") == rows}


def _metrics(evaluation: StageRecord | None) -> list[Cell]:
    overall = EvalReport.model_validate(evaluation.output).overall if evaluation else {}
    return [estimate_cell(e.name, overall.get(e.name)) for e in _gate_evaluators()]


def _verdict(model: StageRecord, all_records: list[StageRecord]) -> str:
    verdicts = (
        result.verdict
        for record in all_records
        if (result := record.output_as(GateResult)) and record.parents["candidate"] == model.key
    )
    return "; ".join(map(_in_words, verdicts))


def _in_words(verdict: Verdict) -> str:
    """'kept against round 1 (anchor base)': the word, and by which rule."""
    rule = "plain gate" if verdict.anchor is None else f"anchor {verdict.anchor}"
    return f"{verdict.word} against {verdict.champion} ({rule})"
