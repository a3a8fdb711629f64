"""What a gate looks at of one model: the value of each held-out row in each metric, and its means.

No text of a row is in here, so it can be kept and handed on as evidence (`evidence.py`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Self

from alignment.evaluate import evaluators
from alignment.evaluate.evaluator import Evaluator, Need, Row, ScoredRows
from alignment.records.base import digest_of
from alignment.records.evaluation import Estimate, EvalReport, Generation

Kind = Literal["pairs", "generations", "tasks"]
"""The kinds of rows that are stored with an evaluation; tasks only if some are configured."""
KINDS: tuple[Kind, ...] = ("pairs", "generations", "tasks")


class Labels(NamedTuple):
    """The groups that a row belongs to; `prompt` is the same for rows of one prompt."""

    task_type: str
    source: str
    prompt: str


class Value(NamedTuple):
    """The contribution of one row to a metric: `total` over `weight`."""

    total: float
    weight: float = 1.0


@dataclass(frozen=True)
class JudgedModel:
    """A model as a gate sees it.

    Attributes:
        label: its name in tables.
        values: by metric and id of the row.
        rows: the rows by kind ("pairs", "generations") and id.
        stored: means of the metrics that the gate looks at, as the evaluation reported them.
        noise: by metric, the difference up to which nothing counts as shown; 0 if it is missing.
    """

    label: str
    values: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    rows: Mapping[Kind, Mapping[str, Labels]] = field(default_factory=dict)
    stored: Mapping[str, Estimate] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, report: EvalReport, rows: ScoredRows) -> Self:
        """The model with this evaluation."""
        return cls(
            label=report.model,
            values={
                evaluator.name: {value.row.id: Value(*value[1:]) for value in measured}
                for evaluator in gate_evaluators()
                if (measured := list(evaluator.measure(rows)))
            },
            rows={
                "pairs": {row.id: _labels(row) for row in rows.pairs},
                "generations": {row.id: _labels(row) for row in rows.generations},
                "tasks": {row.id: _labels(row) for row in rows.tasks},
            },
            stored={
                evaluator.name: report.overall[evaluator.name]
                for evaluator in gate_evaluators()
                if evaluator.name in report.overall
            },
            noise=report.noise,
        )

    def by_row(self, evaluator: Evaluator) -> dict[str, float]:
        """The value of each row in a metric, by its id."""
        found = self.values.get(evaluator.name, {})
        return {key: value.total / value.weight for key, value in found.items()}

    def labels(self, evaluator: Evaluator) -> dict[str, Labels]:
        """The groups of each row that has a value in a metric, by its id."""
        rows = self.rows.get(kind_of(evaluator), {})
        return {key: rows[key] for key in self.values.get(evaluator.name, {})}

    def prompts(self, evaluator: Evaluator) -> dict[str, str]:
        """What is the same for rows of one prompt, by row; the row's own id if it has none."""
        return {key: row.prompt or key for key, row in self.labels(evaluator).items()}

    def only(self, test: Callable[[str], bool]) -> Self:
        """The model on the rows whose prompt passes a test."""
        kept = {
            kind: {key: row for key, row in rows.items() if test(row.prompt or key)}
            for kind, rows in self.rows.items()
        }
        return replace(
            self,
            rows=kept,
            values={
                evaluator.name: {
                    key: value
                    for key, value in self.values[evaluator.name].items()
                    if key in kept.get(kind_of(evaluator), {})
                }
                for evaluator in gate_evaluators()
                if evaluator.name in self.values
            },
        )

    def mean(self, evaluator: Evaluator) -> float | None:
        """The mean over the rows; else as reported; None if it was not measured."""
        values = self.values.get(evaluator.name, {}).values()
        if values:
            # exact sums, so that the mean does not depend on the order of the rows
            return math.fsum(v.total for v in values) / math.fsum(v.weight for v in values)
        stored = self.stored.get(evaluator.name)
        return stored.value if stored else None


def gate_evaluators(*parts: str) -> list[Evaluator]:
    """The evaluators that have a part in the gate: one of these parts, or any."""
    known = (evaluator for evaluator in evaluators.EVALUATORS if evaluator.gate)
    return [evaluator for evaluator in known if not parts or evaluator.gate in parts]


def kind_of(evaluator: Evaluator) -> Kind:
    """The kind of rows that a metric is computed from."""
    kinds: dict[Need, Kind] = {"generations": "generations", "tasks": "tasks"}
    return kinds.get(evaluator.needs, "pairs")


def _labels(row: Row) -> Labels:
    """The groups of a row; the text of a prompt becomes its digest."""
    prompt = row.prompt
    if isinstance(row, Generation):
        prompt = row.digest or digest_of(row.prompt)[:16]
    return Labels(row.task_type, row.source, prompt)
