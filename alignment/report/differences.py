"""The final model of a run minus its parent, its anchor, SFT and the base, in every metric.

Not here: which differences are worth a sentence (`compare.py`), how they are computed
(`evaluate/summary.py`).
"""

from collections.abc import Iterator, Mapping, Sequence

from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.evaluators import EVALUATORS
from alignment.evaluate.summary import Groups, Metrics, differences
from alignment.evaluate.verdict import Verdict
from alignment.records.base import Frozen
from alignment.records.evaluation import EvalReport
from alignment.report.metric import show_value
from alignment.report.table import Cell, Table
from alignment.report.tables import estimate_cell


class ModelDifferences(Frozen):
    """How much higher the final model is than another one, on the rows that both have.

    Attributes:
        other: label of the other model.
    """

    other: str
    overall: Metrics
    by_task_type: Groups
    by_source: Groups


def noise_floor(reports: Sequence[EvalReport], model: str | None) -> Mapping[str, float]:
    """By metric, what a model moves by when it is measured again; empty if that is not known."""
    return next((report.noise for report in reports if report.model == model), {})


def relatives(
    final: str, labels: Sequence[str], verdicts: Sequence[Verdict], anchor: str | None
) -> list[str]:
    """The base, SFT, the anchor and the parent of a model, each once, where they were evaluated."""
    parent = next((v.champion for v in reversed(verdicts) if v.candidate == final), None)
    wanted = ("base", "sft", "no sft", anchor, parent)
    return [label for label in labels if label in wanted and label != final]


def differences_of(
    final: str, others: Sequence[str], rows: Mapping[str, ScoredRows]
) -> Iterator[ModelDifferences]:
    """The final model against each of the others."""
    for other in others:
        found = differences(rows[final], rows[other])
        yield ModelDifferences(other=other, **found._asdict())


def difference_table(
    final: str, found: Sequence[ModelDifferences], noise: Mapping[str, float]
) -> Table:
    """One row per metric, one column per other model, and the noise floor if it was measured."""
    measured = {metric for one in found for metric in one.overall}
    rows = [
        [
            Cell(text=evaluator.label),
            *(estimate_cell(evaluator.name, one.overall.get(evaluator.name)) for one in found),
            *([_floor(evaluator.name, noise)] if noise else ()),
        ]
        for evaluator in EVALUATORS
        if evaluator.name in measured
    ]
    return Table.of(
        f"{final[:1].upper()}{final[1:]} minus the models before it, in every metric",
        ["Metric", *(one.other for one in found), *(["Noise floor"] if noise else ())],
        rows,
        note="95 % intervals of the difference, row by row. By task type and source in the JSON "
        "file beside this page."
        + (" Noise floor: how far the base model moves when it is measured again." * bool(noise)),
    )


def _floor(metric: str, noise: Mapping[str, float]) -> Cell:
    return Cell(text=show_value(metric, noise[metric]) if metric in noise else "-")
