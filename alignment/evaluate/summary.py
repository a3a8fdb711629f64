"""Computes the numbers of an `EvalReport` from scored rows: every metric in total and by group."""

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from alignment.evaluate import evaluators
from alignment.evaluate.evaluator import Evaluator, RowValue, ScoredRows
from alignment.evaluate.metrics import check_finite, reward_margin
from alignment.records import Estimate, Generation, PairScore

Metrics = dict[str, Estimate]
Measured = dict[Evaluator, list[RowValue]]


class Summary(NamedTuple):
    """The three dictionaries of an `EvalReport`."""

    overall: Metrics
    by_task_type: dict[str, Metrics]
    by_source: dict[str, Metrics]


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
    measured = {e: values for e in evaluators.EVALUATORS if (values := list(e.measure(rows)))}
    return Summary(
        overall=_estimates(measured, seed=seed),
        by_task_type=_by_group(measured, lambda row: row.task_type, seed=seed),
        by_source=_by_group(measured, lambda row: row.source, seed=seed),
    )


def _by_group(
    measured: Measured, group: Callable[[PairScore | Generation], str], *, seed: int
) -> dict[str, Metrics]:
    groups: defaultdict[str, Measured] = defaultdict(dict)
    for evaluator, values in measured.items():
        for value in values:
            groups[group(value.row)].setdefault(evaluator, []).append(value)
    return {name: _estimates(groups[name], seed=seed) for name in sorted(groups)}


def _estimates(measured: Measured, *, seed: int) -> Metrics:
    found = {e.name: e.estimate(values, seed=seed) for e, values in measured.items()}
    return {name: found[name] for name in sorted(found)}
