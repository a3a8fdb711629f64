"""Gathers the records of one chain from the store and writes the report.

Not here: what the page looks like (`page.py`).
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from ruamel.yaml import YAML

from alignment.config.pipeline import PipelineConfig
from alignment.evaluate.verdict import GateResult, Verdict
from alignment.pipeline.chain import Chain, Round
from alignment.pipeline.step import data_of
from alignment.pipeline.steps import STEPS, EvaluateModel, TrainDpo, TrainSft, made_by
from alignment.records import (
    DataRef,
    EvalReport,
    Frozen,
    Generation,
    PairScore,
    PreferencePair,
    StageRecord,
)
from alignment.report.page import RunReport, Sample, render, to_markdown
from alignment.report.table import Table
from alignment.report.tables import evaluation_table
from alignment.store.durable import ensure_folder, replace
from alignment.store.jsonl import read_rows
from alignment.store.store import Store, storage_errors


class ReportFiles(Frozen):
    """A written report.

    Attributes:
        html: the self-contained page.
        markdown: a summary in at most 60 lines.
        headline: the verdict in one sentence.
        table: metrics of base, SFT, rounds and control with their intervals.
    """

    html: Path
    markdown: str
    headline: str
    table: Table


def write_report(
    store: Store,
    chain: Chain,
    *,
    config: PipelineConfig,
    command: str,
    timings: Mapping[str, float] | None = None,
) -> ReportFiles:
    """Write the page of a finished chain to `<store>/reports/<run name>.html`.

    Args:
        store: contains every artifact of the chain.
        chain: the chain that ran.
        config: the run's configuration.
        command: the command line, shown on the page so that readers can repeat it.
        timings: seconds that this run spent per step; steps without an entry were reused.
    """
    report = gather(store, chain, config=config, command=command, timings=timings)
    return _write(store, report, name=config.name)


def write_round_report(
    store: Store, round_: Round, *, config: PipelineConfig, command: str
) -> ReportFiles:
    """Write the page of a finished round to `<store>/reports/<run name>-<round>.html`.

    It shows the base model, the champion that the round started from and the round's model.
    """
    report = _gathered(
        store,
        {step.name: store.open(step.key) for step in (round_.pairs, *round_.steps())},
        _evaluations(store, round_.evaluate),
        config=config,
        command=command,
    )
    label = round_.evaluate.label
    report = report.model_copy(update={"title": f"{config.name}, {label}", "final": label})
    return _write(store, report, name=f"{config.name}-{label.replace(' ', '-')}")


def _write(store: Store, report: RunReport, *, name: str) -> ReportFiles:
    folder = store.root / "reports"
    path = folder / f"{name}.html"
    with storage_errors(store.root):
        ensure_folder(folder)
        replace("report.page", path, render(report))
    return ReportFiles(
        html=path,
        markdown=to_markdown(report),
        headline=report.headline,
        table=evaluation_table(report.evaluations),
    )


def gather(
    store: Store,
    chain: Chain,
    *,
    config: PipelineConfig,
    command: str,
    timings: Mapping[str, float] | None,
) -> RunReport:
    """Everything the page shows, read from the chain's artifacts."""
    records = {step.name: store.open(step.key) for step in chain.steps()}
    evaluations = [records[step.name] for step in chain.evaluations()]
    report = _gathered(store, records, evaluations, config=config, command=command)
    timings = dict(timings) if timings is not None else None
    return report.model_copy(update={"timings": timings, "final": _final(report.verdicts)})


def _evaluations(store: Store, step: EvaluateModel) -> list[StageRecord]:
    """The evaluations that a round is compared on: the base model's, the champion's and its own."""
    keys = (step.base, step.parent, step.key)
    return [store.open(key) for key in dict.fromkeys(filter(None, keys))]


def _gathered(
    store: Store,
    records: Mapping[str, StageRecord],
    evaluated: Sequence[StageRecord],
    *,
    config: PipelineConfig,
    command: str,
) -> RunReport:
    """The report on these steps and evaluations."""
    evaluations = [EvalReport.model_validate(record.output) for record in evaluated]
    rows = {key for record in evaluated for key in record.parents_as("data")}
    data = {name: ref for name, record in records.items() if (ref := record.output_as(DataRef))}
    verdicts = tuple(_verdicts(records.values()))
    return RunReport(
        title=f"{config.name}, seed {config.seed}",
        created=datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        command=command,
        config=_yaml(config),
        notes=(*_notes(records.values()), *_gate_notes(verdicts)),
        verdicts=verdicts,
        evaluations=tuple(evaluations),
        generations={
            report.model: tuple(read_rows(store.path(report.generations), Generation))
            for report in evaluations
        },
        pairs={
            report.model: tuple(read_rows(store.path(report.pairs), PairScore))
            for report in evaluations
        },
        pair_texts=tuple(_held_out_pairs(store, rows)),
        histories={n: tuple(_lines(store, r, "history.jsonl")) for n, r in _trained(records)},
        samples={
            n: tuple(Sample.model_validate(row) for row in _lines(store, r, "samples.jsonl"))
            for n, r in _trained(records)
        },
        records=tuple(records.values()),
        data=data,
    )


def _notes(records: Iterable[StageRecord]) -> tuple[str, ...]:
    """Notes that a reader must not miss, such as a missing adapter."""
    return tuple(
        f"{record.name}: {note}"
        for record in records
        if (kind := STEPS.get(record.stage)) and kind.notes_matter
        for note in record.notes
    )


def _verdicts(records: Iterable[StageRecord]) -> Iterator[Verdict]:
    return (result.verdict for r in records if (result := r.output_as(GateResult)))


def _gate_notes(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Which rounds were kept, and why others were rejected; all other findings are in a table."""
    if kept := [verdict.candidate for verdict in verdicts if verdict.kept]:
        yield f"The gate kept {', '.join(kept)}."
    yield from (f"The gate: {verdict.sentence}." for verdict in verdicts if not verdict.kept)


def _final(verdicts: Sequence[Verdict]) -> str | None:
    """The label of the model that the last gate passed on."""
    if not verdicts:
        return None
    return verdicts[-1].candidate if verdicts[-1].kept else verdicts[-1].champion


def _held_out_pairs(store: Store, keys: Iterable[str]) -> list[PreferencePair]:
    rows: dict[str, PreferencePair] = {}
    for ref in (data_of(store, key) for key in sorted(keys)):
        rows |= {row.id: row for row in read_rows(store.path(ref.held_out), PreferencePair)}
    return list(rows.values())


def _trained(records: Mapping[str, StageRecord]) -> list[tuple[str, StageRecord]]:
    return [item for item in records.items() if made_by(item[1], TrainSft, TrainDpo)]


def _lines(store: Store, record: StageRecord, name: str) -> list[dict[str, object]]:
    path = store.folder(record.key) / name
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _yaml(config: PipelineConfig) -> str:
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(json.loads(config.model_dump_json()), text)
    return text.getvalue()
