"""Gathers the records of one chain from the store and writes the report.

Not here: what the page looks like (`page.py`).
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from ruamel.yaml import YAML

from alignment.config.inbox import InboxConfig
from alignment.config.pipeline import PipelineConfig
from alignment.evaluate.verdict import GateResult, Verdict
from alignment.pipeline.chain import Chain, Round
from alignment.pipeline.step import data_of
from alignment.pipeline.steps import (
    AnchorGate,
    ParentGate,
    SftGate,
    TrainDpo,
    TrainSft,
    made_by,
)
from alignment.records.base import Frozen, digest_of
from alignment.records.evaluation import EvalReport
from alignment.records.manifest import StageRecord
from alignment.records.refs import DataRef
from alignment.records.text import PreferencePair
from alignment.report.gates import gates_since_anchor, rows_of, trail_in
from alignment.report.markdown import to_markdown
from alignment.report.notes import gate_notes, step_notes
from alignment.report.own_answers import own_rounds
from alignment.report.page import render
from alignment.report.run_report import RunReport, Sample
from alignment.report.table import Table
from alignment.report.tables import evaluation_table
from alignment.store.checksum import file_sha256
from alignment.store.durable import ensure_folder, replace
from alignment.store.errors import storage_errors
from alignment.store.jsonl import read_rows
from alignment.store.runs import RunEntry, finished_at, note_run, page_of, run_id
from alignment.store.store import Store

_UNNAMED = InboxConfig.model_fields["line"].default
"""The line of a config that names none."""


class ReportFiles(Frozen):
    """A written report.

    Attributes:
        html: the self-contained page.
        numbers: the numbers of the page, as JSON.
        markdown: a summary in at most 60 lines.
        headline: the verdict in one sentence.
        table: metrics of base, SFT, rounds and control with their intervals.
    """

    html: Path
    numbers: Path
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
    """Write the page of a finished chain to `<store>/reports/<run name>.html`, and note the run.

    If another config of this name has that page, the name gets the run's id.

    Args:
        store: contains every artifact of the chain.
        chain: the chain that ran.
        config: the run's configuration.
        command: the command line, shown on the page so that readers can repeat it.
        timings: seconds that this run spent per step; steps without an entry were reused.
    """
    report = gather(store, chain, config=config, command=command, timings=timings)
    resolved = config.model_dump(mode="json")
    id_ = run_id(resolved)
    files = _write(store, report, name=page_of(store, config.name, id_))
    entry = RunEntry(
        name=config.name,
        id=id_,
        finished=finished_at(report.records),
        command=command,
        report=str(files.html.relative_to(store.root)),
        headline=report.headline,
        config=resolved,
        steps={step.name: step.key for step in chain.steps()},
    )
    note_run(store, entry)
    return files


def write_round_report(
    store: Store, round_: Round, *, config: PipelineConfig, command: str
) -> ReportFiles:
    """Write the page of a finished round to `<store>/reports/<run name>-<round>.html`.

    A line with a name of its own is named as well: lines of one store number their rounds alike.
    It shows the base model, the champion that the round started from and the round's model.
    """
    records = {step.name: store.open(step.key) for step in (round_.source, *round_.steps())}
    gates = gates_since_anchor(store, store.open(round_.gate.key)) if round_.gate else []
    report = _gathered(
        store,
        records,
        _evaluations(store, round_),
        gates=gates,
        config=config,
        command=command,
    )
    label = round_.evaluate.label
    report = report.model_copy(update={"title": f"{config.name}, {label}", "final": label})
    line = config.inbox.line if config.inbox is not None else _UNNAMED
    own = () if line in (_UNNAMED, config.name) else (line,)
    return _write(store, report, name="-".join([config.name, *own, label.replace(" ", "-")]))


def _write(store: Store, report: RunReport, *, name: str) -> ReportFiles:
    folder = store.root / "reports"
    path, numbers = folder / f"{name}.html", folder / f"{name}.json"
    made_of = _made_of(report)
    if not (numbers.exists() and _ends_with(path, made_of)):
        with storage_errors(store.root):
            ensure_folder(folder)
            replace("report.page", path, render(report) + made_of)
            replace("report.numbers", numbers, report.numbers.model_dump_json(indent=1))
    return ReportFiles(
        html=path,
        numbers=numbers,
        markdown=to_markdown(report),
        headline=report.headline,
        table=evaluation_table(report.evaluations),
    )


def _made_of(report: RunReport) -> str:
    """The last line of a page: a digest of what it shows, and of the code that draws it.

    Not of the time: a run that builds nothing leaves the page of the run that did, which is the one
    that says how long the steps took.
    """
    own = Path(__file__).parent
    code = [file_sha256(path) for path in sorted(own.rglob("*.*")) if path.suffix != ".pyc"]
    shown = report.model_dump(mode="json", exclude={"created", "timings"})
    return f"<!-- made of {digest_of([shown, code])} -->\n"


def _ends_with(path: Path, line: str) -> bool:
    try:
        return path.read_bytes().endswith(line.encode())
    except FileNotFoundError:
        return False


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
    gates = [record for record in records.values() if made_by(record, ParentGate, AnchorGate)]
    report = _gathered(store, records, evaluations, gates=gates, config=config, command=command)
    timings = dict(timings) if timings is not None else None
    return report.model_copy(update={"timings": timings, "final": _final(report.verdicts)})


def _evaluations(store: Store, round_: Round) -> list[StageRecord]:
    """The evaluations that a round is compared on: base, anchor, champion and its own."""
    step, gate = round_.evaluate, round_.gate
    anchor = gate.anchor if isinstance(gate, AnchorGate) else None
    keys = (step.base, anchor, step.parent, step.key)
    return [store.open(key) for key in dict.fromkeys(filter(None, keys))]


def _gathered(
    store: Store,
    records: Mapping[str, StageRecord],
    evaluated: Sequence[StageRecord],
    *,
    gates: Sequence[StageRecord],
    config: PipelineConfig,
    command: str,
) -> RunReport:
    """The report on these steps and evaluations."""
    evaluations = [EvalReport.model_validate(record.output) for record in evaluated]
    sets = {key for record in evaluated for key in record.parents_as("data")}
    data = {name: ref for name, record in records.items() if (ref := record.output_as(DataRef))}
    verdicts, trail = tuple(_verdicts(records.values())), trail_in(store, gates)
    rows = {report.model: rows_of(store, report) for report in evaluations}
    return RunReport(
        title=f"{config.name}, seed {config.seed}",
        created=datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        command=command,
        config=_yaml(config),
        notes=(*step_notes(records.values()), *gate_notes(verdicts, trail)),
        verdicts=verdicts,
        trail=trail,
        models={
            report.model: record.parents["model"]
            for report, record in zip(evaluations, evaluated, strict=True)
        },
        store=str(store.root),
        evaluations=tuple(evaluations),
        generations={label: tuple(found.generations) for label, found in rows.items()},
        pairs={label: tuple(found.pairs) for label, found in rows.items()},
        tasks={label: tuple(found.tasks) for label, found in rows.items() if found.tasks},
        pair_texts=tuple(_held_out_pairs(store, sets)),
        histories={n: tuple(_lines(store, r, "history.jsonl")) for n, r in _trained(records)},
        samples={
            n: tuple(Sample.model_validate(row) for row in _lines(store, r, "samples.jsonl"))
            for n, r in _trained(records)
        },
        records=tuple(records.values()),
        data=data,
        own=tuple(own_rounds(store, records)),
    )


def _verdicts(records: Iterable[StageRecord]) -> Iterator[Verdict]:
    """The verdicts on rounds; the check of SFT has a note of its own."""
    rounds = (record for record in records if not made_by(record, SftGate))
    return (result.verdict for r in rounds if (result := r.output_as(GateResult)))


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
    with path.open(encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


def _yaml(config: PipelineConfig) -> str:
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(json.loads(config.model_dump_json()), text)
    return text.getvalue()
