"""Every metric in total and by group: of one model, and of the difference between two.

Not here: the metrics (`evaluators/`), which differences are worth a sentence
(`report/compare.py`).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from alignment.evaluate import evaluators
from alignment.evaluate.calibration import reliability
from alignment.evaluate.evaluator import Row, ScoredRows
from alignment.evaluate.metrics import check_finite, reward_margin
from alignment.records.evaluation import Estimate, ReliabilityBin

Metrics = dict[str, Estimate]
Groups = dict[str, Metrics]


class Summary(NamedTuple):
    """The numbers of an `EvalReport`."""

    overall: Metrics
    by_task_type: Groups
    by_source: Groups
    reliability: tuple[ReliabilityBin, ...] = ()


class Differences(NamedTuple):
    """How much higher one model is than another, by metric."""

    overall: Metrics
    by_task_type: Groups
    by_source: Groups


def summarise(rows: ScoredRows, *, seed: int = 0) -> Summary:
    """Every metric that can be computed from these rows, in total, by task type and by source.

    Args:
        rows: the model's results on the held-out rows.
        seed: seed of the bootstrap.

    Raises:
        TrainingError: a log-prob, KL or drift is not a finite number.
    """
    for pair in rows.pairs:
        check_finite("a log-prob", pair.id, pair.chosen + pair.rejected)
        check_finite("a log-prob of the base model", pair.id, reward_margin(pair))

    def estimates(part: Callable[[Row], bool]) -> Metrics:
        return _estimates(rows.only(part), seed=seed)

    overall, by_task_type, by_source = _by_group(rows, estimates)
    return Summary(overall, by_task_type, by_source, reliability(rows.pairs))


def means(rows: ScoredRows) -> dict[str, float]:
    """Every metric in total, without an interval."""
    measured = {e.name: list(e.measure(rows)) for e in evaluators.EVALUATORS}
    return {
        name: math.fsum(v.total for v in values) / math.fsum(v.weight for v in values)
        for name, values in measured.items()
        if values
    }


def differences(first: ScoredRows, second: ScoredRows, *, seed: int = 0) -> Differences:
    """Every metric of the first model minus the second's, on the rows that both have.

    Paired by row, with 95 % intervals. For a group of rows, a metric of all rows together (the
    accuracy at equal lengths, distinct-2) is computed on those of the group.

    Args:
        first: a model's results.
        second: those of its parent, the anchor, SFT or the base model.
        seed: seed of the bootstrap.
    """

    def estimates(part: Callable[[Row], bool]) -> Metrics:
        return _differences(first.only(part), second.only(part), seed=seed)

    return Differences(*_by_group(first, estimates))


def _by_group(
    rows: ScoredRows, estimates: Callable[[Callable[[Row], bool]], Metrics]
) -> tuple[Metrics, Groups, Groups]:
    """Estimates on all rows, on those of each task type, and on those of each source."""
    every: tuple[Row, ...] = (*rows.pairs, *rows.generations, *rows.tasks)
    tasks = sorted({row.task_type for row in every})
    sources = sorted({row.source for row in every})
    return (
        estimates(lambda _: True),
        {name: estimates(partial(_is_of_task, name)) for name in tasks},
        {name: estimates(partial(_is_from, name)) for name in sources},
    )


def _is_of_task(name: str, row: Row) -> bool:
    return row.task_type == name


def _is_from(name: str, row: Row) -> bool:
    return row.source == name


def _estimates(rows: ScoredRows, *, seed: int) -> Metrics:
    measured = {e: values for e in evaluators.EVALUATORS if (values := list(e.measure(rows)))}
    found = {e.name: e.estimate(values, seed=seed) for e, values in measured.items()}
    return {name: found[name] for name in sorted(found)}


def _differences(first: ScoredRows, second: ScoredRows, *, seed: int) -> Metrics:
    found = {
        e.name: difference
        for e in evaluators.EVALUATORS
        if (difference := e.difference(first, second, seed=seed))
    }
    return {name: found[name] for name in sorted(found)}
