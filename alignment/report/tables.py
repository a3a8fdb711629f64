"""The tables of a run: every model's scores, the data, and what each step did.

Each function takes records and returns a `Table`; a column or metric that no record has is
omitted. Not here: comparisons of two models (`compare.py`).
"""

from collections.abc import Mapping, Sequence

from alignment.evaluate import evaluators
from alignment.evaluate.evaluators import columns, evaluator_of
from alignment.pipeline.steps import EvaluateModel, HandOver, headline_of, made_by
from alignment.records.evaluation import Estimate, EvalReport
from alignment.records.manifest import StageRecord
from alignment.records.refs import DataRef, ModelRef
from alignment.report.metric import (
    MISSING,
    show,
    show_any,
    show_interval,
    show_seconds,
    show_value,
)
from alignment.report.table import Cell, Table

Groups = Mapping[str, Mapping[str, Estimate]]


def evaluation_table(reports: Sequence[EvalReport]) -> Table:
    """One row per model in the given order, one column per metric that has a column."""
    shown = columns(reports)
    rows = [
        [
            Cell(text=report.model),
            *(estimate_cell(e.name, report.overall.get(e.name)) for e in shown),
        ]
        for report in reports
    ]
    return Table.of(
        "Held-out evaluation",
        ["Model", *(evaluator.label for evaluator in shown)],
        rows,
        note=" ".join(["95 % intervals over held-out rows.", *_row_counts(reports)]),
    )


def task_table(reports: Sequence[EvalReport], metric: str) -> Table:
    """One row per task type, one column per model."""
    groups = [report.by_task_type for report in reports]
    return _group_table("Task type", reports, groups, metric)


def source_table(reports: Sequence[EvalReport], metric: str) -> Table:
    """One row per source of held-out rows, one column per model."""
    return _group_table("Source", reports, [report.by_source for report in reports], metric)


def tasks_with(metric: str, reports: Sequence[EvalReport]) -> list[str]:
    """The task types for which some report has the metric, sorted."""
    return _groups_with(metric, [report.by_task_type for report in reports])


def task_metric(reports: Sequence[EvalReport]) -> str:
    """The metric to break down by task type: the first that some report has, otherwise any."""
    metrics = [e.name for e in evaluators.EVALUATORS if e.by_task]
    return next((metric for metric in metrics if tasks_with(metric, reports)), metrics[-1])


def estimate_cell(metric: str, estimate: Estimate | None) -> Cell:
    """A value of the metric with its interval, or a dash."""
    if estimate is None:
        return Cell(text=MISSING, tone="muted")
    return Cell(text=show_value(metric, estimate.value), small=show_interval(metric, estimate))


def data_table(data: Mapping[str, DataRef]) -> Table:
    """One row per data set: rows kept, held out and quarantined, with the reasons."""
    rows = [
        [
            name,
            f"{ref.kept:,}",
            f"{ref.held:,}",
            f"{ref.prompt_count:,}",
            f"{sum(ref.quarantined.values()):,}",
            _by_reason(ref.quarantined),
        ]
        for name, ref in data.items()
    ]
    return Table.of(
        "Data",
        ["Set", "Train", "Held out", "Prompts", "Quarantined", "Reasons"],
        rows,
        align="lrrrrl",
    )


def stage_table(
    records: Sequence[StageRecord], timings: Mapping[str, float] | None = None
) -> Table:
    """One row per step: key, time, headline numbers and notes.

    Args:
        records: in the order of the run.
        timings: seconds that this run spent per step; a step without an entry was reused.
            None: unknown, and the column is omitted.
    """
    rows = []
    for record in records:
        spent = [] if timings is None else [_spent(timings.get(record.name))]
        rows.append(
            [
                Cell(text=record.name),
                Cell(text=record.key, tone="muted"),
                Cell(text=show_seconds(record.seconds)),
                *spent,
                Cell(text=_headline(record)),
                Cell(text=" ".join(record.notes)),
            ]
        )
    spent_column = [] if timings is None else ["This run"]
    columns = ["Step", "Key", "Built in", *spent_column, "Headline", "Notes"]
    return Table.of("Steps", columns, rows, align="llr" + "r" * len(spent_column) + "ll")


def handover_table(records: Sequence[StageRecord]) -> Table:
    """One row per handover: how the adapters were written, and the error against training."""
    measured = {r.parents["model"]: r.metrics for r in records if made_by(r, EvaluateModel)}
    rows = [
        [*_handover_row(r), _shown_kl(measured.get(r.key, {}))]
        for r in records
        if made_by(r, HandOver) and "kl" in r.metrics
    ]
    names = ["Handover", "Adapters", "Written as", "Kept share", "d log-prob", "KL", "Top-1"]
    return Table.of(
        "Handovers",
        [*names, "KL, evaluated"],
        rows,
        align="lllrrrrr",
        note="Kept share: projection of the written weight change on the exact one. d log-prob "
        "(mean absolute change), KL (nats per token) and top-1 (share of equal arg-max): the "
        "model that the next stage loads against the one that was trained, on probe rows. KL, "
        "evaluated: the full-weight model that is evaluated and exported, against the trained one.",
    )


def _group_table(
    kind: str, reports: Sequence[EvalReport], by_group: Sequence[Groups], metric: str
) -> Table:
    rows = [
        [Cell(text=name), *(estimate_cell(metric, g.get(name, {}).get(metric)) for g in by_group)]
        for name in _groups_with(metric, by_group)
    ]
    title = f"{evaluator_of(metric).label} by {kind.lower()}"
    return Table.of(title, [kind, *(report.model for report in reports)], rows)


def _groups_with(metric: str, by_group: Sequence[Groups]) -> list[str]:
    return sorted({name for g in by_group for name, metrics in g.items() if metric in metrics})


def _handover_row(record: StageRecord) -> list[str]:
    model = ModelRef.model_validate(record.output)
    made = model.materialised if not model.adapters else None
    kept = record.metrics.get("kept_share")
    return [
        record.name,
        " + ".join(adapter.stage for adapter in (made.deltas if made else model.adapters)),
        made.dtype if made else "adapters",
        MISSING if kept is None else show(kept, digits=4),
        *(f"{record.metrics[name]:.1e}" for name in ("mean_abs_logprob", "kl")),
        show(record.metrics["top1"]),
    ]


def _shown_kl(metrics: Mapping[str, float]) -> str:
    kl = metrics.get("kl_from_training")
    return MISSING if kl is None else f"{kl:.1e}"


def _row_counts(reports: Sequence[EvalReport]) -> list[str]:
    """'Pass rate, Reply tokens: n = 240.' for each number of rows that occurs."""
    counts: dict[str, list[str]] = {}
    for evaluator in columns(reports):
        sizes = sorted(
            {r.overall[evaluator.name].n for r in reports if evaluator.name in r.overall}
        )
        counts.setdefault(" or ".join(f"{n:,}" for n in sizes), []).append(evaluator.label)
    return [f"{', '.join(labels)}: n = {n}." for n, labels in counts.items()]


def _by_reason(quarantined: Mapping[str, int]) -> str:
    ordered = sorted(quarantined.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered if count) or MISSING


def _spent(seconds: float | None) -> Cell:
    if seconds is None:
        return Cell(text="reused", tone="muted")
    return Cell(text=show_seconds(seconds))


def _headline(record: StageRecord) -> str:
    shown = (f"{name.replace('_', ' ')} {show_any(n)}" for name, n in headline_of(record).items())
    return " · ".join(shown) or MISSING
