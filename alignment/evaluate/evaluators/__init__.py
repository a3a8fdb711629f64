"""The evaluators: one class per metric, one module per kind, and the tuple that registers them.

Tables, plots, sentences and the gate read `EVALUATORS` in its order; none of them refers to a
metric by name. Not here: the arithmetic on one row (`metrics.py`), intervals (`intervals.py`).
"""

from collections.abc import Iterable, Iterator

from alignment.evaluate.evaluator import Evaluator, RowValue, ScoredRows
from alignment.evaluate.evaluators.benchmarks import HarnessOther, HarnessScore, SuiteScore
from alignment.evaluate.evaluators.likelihood import KlFromBase, LogprobDrift, Nll
from alignment.evaluate.evaluators.preference import (
    CalibrationError,
    LengthControlledAccuracy,
    Margin,
    PreferenceAccuracy,
    PreferenceAccuracyPerToken,
    RewardAccuracy,
)
from alignment.evaluate.evaluators.replies import (
    Distinct,
    RefusalRate,
    Repetition,
    ReplyTokens,
    StopRate,
)
from alignment.evaluate.evaluators.verified import PassRate, PassRateSeen, PassRateUnseen
from alignment.records.evaluation import EvalReport


class UnknownMetric(Evaluator):
    """A metric in a stored report that no evaluator of this version measures."""

    meaning = "Written by another version; this one does not measure it."

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """Nothing."""
        del rows
        yield from ()


EVALUATORS: tuple[Evaluator, ...] = (
    PassRate(),
    PassRateSeen(),
    PassRateUnseen(),
    PreferenceAccuracy(),
    PreferenceAccuracyPerToken(),
    LengthControlledAccuracy(),
    RewardAccuracy(),
    Margin(),
    CalibrationError(),
    Nll(),
    KlFromBase(),
    LogprobDrift(),
    ReplyTokens(),
    StopRate(),
    Repetition(),
    Distinct(),
    RefusalRate(),
    SuiteScore(),
    HarnessScore(),
    HarnessOther(),
)
"""All evaluators, in the order of the tables."""


def evaluator_of(metric: str) -> Evaluator:
    """The evaluator of a metric by its name in a report; an `UnknownMetric` if there is none."""
    known = {evaluator.name: evaluator for evaluator in EVALUATORS}
    return known.get(metric) or UnknownMetric(name=metric)


def headline_metrics() -> tuple[str, ...]:
    """The metrics for a one-line summary of an evaluation: those that models are compared in."""
    return tuple(evaluator.name for evaluator in EVALUATORS if evaluator.compared)


def columns(reports: Iterable[EvalReport]) -> tuple[Evaluator, ...]:
    """The metrics that some report has and tables show; unknown ones last, by name."""
    measured = {metric for report in reports for metric in report.overall}
    known = [evaluator for evaluator in EVALUATORS if evaluator.name in measured]
    unknown = sorted(measured - {evaluator.name for evaluator in known})
    return (
        *(evaluator for evaluator in known if evaluator.column),
        *(UnknownMetric(name=metric) for metric in unknown),
    )
