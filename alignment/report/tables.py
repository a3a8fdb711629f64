"""The tables of a run: what every model scored, what went in, what each step did.

Each function takes records and returns a `Table`; a column or metric that no record has is left
out. Comparisons of two models are in `compare.py`.
"""

from collections.abc import Mapping, Sequence

from alignment.evaluate import evaluators
from alignment.evaluate.evaluators import columns, evaluator_of
from alignment.pipeline.steps import EvaluateModel, HandOver, headline_of, made_by
from alignment.records import DataRef, Estimate, EvalReport, ModelRef, StageRecord, Verdict
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
    """A row for each model in the order given, a column for each metric that has one."""
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
    """A row for each task type, a column for each model."""
    groups = [report.by_task_type for report in reports]
    return _group_table("Task type", reports, groups, metric)


def source_table(reports: Sequence[EvalReport], metric: str) -> Table:
    """A row for each source of held-out rows, a column for each model."""
    return _group_table("Source", reports, [report.by_source for report in reports], metric)


def tasks_with(metric: str, reports: Sequence[EvalReport]) -> list[str]:
    """The task types that have the metric in some report, sorted."""
    return _groups_with(metric, [report.by_task_type for report in reports])


def task_metric(reports: Sequence[EvalReport]) -> str:
    """The metric to break down by task type: the first such that some report has, or else any."""
    metrics = [e.name for e in evaluators.EVALUATORS if e.by_task]
    return next((metric for metric in metrics if tasks_with(metric, reports)), metrics[-1])


def estimate_cell(metric: str, estimate: Estimate | None) -> Cell:
    """A value of the metric with its interval, or a dash."""
    if estimate is None:
        return Cell(text=MISSING, tone="muted")
    return Cell(text=show_value(metric, estimate.value), small=show_interval(metric, estimate))


def gate_table(verdicts: Sequence[Verdict]) -> Table:
    """A row for each question that a gate asked of a round, with what it found."""
    rows = []
    for verdict in verdicts:
        kept = verdict.kept
        head = [
            Cell(text=verdict.candidate),
            Cell(text="kept" if kept else "rejected", tone="good" if kept else "bad"),
        ]
        for check in verdict.checks:
            rows.append([*head, Cell(text=check.words, tone="" if check.passed else "bad")])
            head = [Cell(text=""), Cell(text="")]
    return Table.of(
        "What the gate found",
        ["Round", "Verdict", "Against the model it started from"],
        rows,
        align="lll",
        note="A round is kept unless it is shown to be worse on the same held-out rows (interval "
        "and sign test) or breaks one of the limits.",
    )


def data_table(data: Mapping[str, DataRef]) -> Table:
    """A row for each data set: rows kept, held out and quarantined, with the reasons."""
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
    """A row for each step: its key, its time, its headline numbers and its notes.

    Args:
        records: in the order of the run.
        timings: seconds that this run spent on a step; a step that is not in it was reused.
            None leaves the question open, and the column out.
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


def hand_over_table(records: Sequence[StageRecord]) -> Table:
    """A row for each hand-over: what became of the adapters, and how far that is from training."""
    measured = {r.parents["model"]: r.metrics for r in records if made_by(r, EvaluateModel)}
    rows = [
        [*_hand_over_row(r), _shown_kl(measured.get(r.key, {}))]
        for r in records
        if made_by(r, HandOver) and "kl" in r.metrics
    ]
    what = ["Hand-over", "Adapters", "Written as", "Kept share", "d log-prob", "KL", "Top-1"]
    return Table.of(
        "Hand-overs",
        [*what, "KL, evaluated"],
        rows,
        align="lllrrrrr",
        note="Kept share: projection of the written change of the weights on the exact one. Mean "
        "absolute d log-prob, KL (nats per token) and top-1 (equal arg-max): the model that the "
        "next stage loads against the one that was trained, on a probe set. KL, evaluated: the "
        "model that is evaluated, judged and exported, in full weights, against the trained one.",
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


def _hand_over_row(record: StageRecord) -> list[str]:
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
    """'Pass rate, Reply tokens: n = 240.' for each count of rows that occurs."""
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
