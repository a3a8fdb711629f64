"""From the store to the report: gathers the records of one chain and writes the page.

Not here: what the page looks like (`page.py`).
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from alignment.chain import Chain
from alignment.config import PipelineConfig
from alignment.data.sieve import read_rows
from alignment.records import (
    DataRef,
    EvalReport,
    Frozen,
    Generation,
    PairScore,
    PreferencePair,
    StageRecord,
)
from alignment.report.compare import headline
from alignment.report.page import RunReport, Sample, render, to_markdown
from alignment.report.table import Table
from alignment.report.tables import evaluation_table
from alignment.store import Store, storage_errors


class ReportFiles(Frozen):
    """A written report.

    Attributes:
        html: the self-contained page.
        markdown: the same in at most 60 lines.
        headline: the verdict in one sentence.
        table: base, SFT, rounds and control with their intervals.
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
        store: holds every artifact of the chain.
        chain: what ran.
        config: what was asked for.
        command: how it was started, for whoever wants to repeat it.
        timings: seconds that this run spent per step; steps that are missing were reused.
    """
    report = gather(store, chain, config=config, command=command, timings=timings)
    folder = store.root / "reports"
    path = folder / f"{config.name}.html"
    with storage_errors(store.root):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(render(report), encoding="utf-8")
    return ReportFiles(
        html=path,
        markdown=to_markdown(report),
        headline=headline(report.comparisons),
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
    evaluations = [
        EvalReport.model_validate(records[step.name].output) for step in chain.evaluations()
    ]
    data = {
        name: DataRef.model_validate(record.output)
        for name, record in records.items()
        if record.stage in ("conversations", "pairs")
    }
    return RunReport(
        title=f"{config.name}, seed {config.seed}",
        created=datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        command=command,
        config=_yaml(config),
        notes=_notes(records.values()),
        evaluations=tuple(evaluations),
        generations={
            report.model: tuple(read_rows(store.path(report.generations), Generation))
            for report in evaluations
        },
        pairs={
            report.model: tuple(read_rows(store.path(report.pairs), PairScore))
            for report in evaluations
        },
        pair_texts=tuple(_held_out_pairs(store, data.values())),
        histories={n: tuple(_lines(store, r, "history.jsonl")) for n, r in _trained(records)},
        samples={
            n: tuple(Sample.model_validate(row) for row in _lines(store, r, "samples.jsonl"))
            for n, r in _trained(records)
        },
        records=tuple(records.values()),
        data=data,
        timings=dict(timings) if timings is not None else None,
    )


def _notes(records: Iterable[StageRecord]) -> tuple[str, ...]:
    """What a reader must not miss: notes of hand-overs, such as a missing adapter."""
    return tuple(
        f"{record.name}: {note}"
        for record in records
        if record.stage in ("merge", "stack", "adapter")
        for note in record.notes
    )


def _held_out_pairs(store: Store, sets: Iterable[DataRef]) -> list[PreferencePair]:
    rows: dict[str, PreferencePair] = {}
    for ref in sets:
        if ref.kind == "pairs":
            rows |= {row.id: row for row in read_rows(store.path(ref.held_out), PreferencePair)}
    return list(rows.values())


def _trained(records: Mapping[str, StageRecord]) -> list[tuple[str, StageRecord]]:
    return [(name, record) for name, record in records.items() if record.stage in ("sft", "dpo")]


def _lines(store: Store, record: StageRecord, name: str) -> list[dict[str, object]]:
    path = store.folder(record.key) / name
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _yaml(config: PipelineConfig) -> str:
    import io

    from ruamel.yaml import YAML

    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(json.loads(config.model_dump_json()), text)
    return text.getvalue()
