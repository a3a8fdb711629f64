"""The trail of a line: every round since the anchor, compared with it on the rows of its verdict.

A difference comes with the lowest value that the gate's test does not exclude, so the page shows
what the verdicts were based on. The plain gate has neither anchor nor margin: its rounds are
compared with the model that the first of them started from.
Not here: the verdicts themselves (`evaluate/anchored.py`), the chart (`plots/trail.py`).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alignment.evaluate import evaluators
from alignment.evaluate.evaluator import Evaluator, ScoredRows
from alignment.evaluate.intervals import SIGNIFICANCE
from alignment.evaluate.noninferiority import lower_bound, paired_counts, rows_needed
from alignment.evaluate.settings import AnchoredGate, GateConfig
from alignment.evaluate.verdict import Verdict
from alignment.records.base import Frozen

POWER = 0.9
"""Chance to be kept that a round without a change has on the rows that `needed` counts."""


class Point(Frozen):
    """One round against the anchor in one metric.

    Attributes:
        difference: the round's share minus the anchor's, on the same rows.
        at_worst: the lowest difference that is not excluded at the gate's error.
        n: common rows.
        differing: rows on which only one of the two models is right.
    """

    round: str
    metric: str
    difference: float
    at_worst: float
    n: int
    differing: int
    kept: bool


class Trail(Frozen):
    """The rounds since the anchor, in order.

    Attributes:
        anchor: label of the model that they are compared with.
        margin: how far below it a round may lie; None under the plain gate.
        error: one-sided error of `at_worst`.
        rounds: labels of all rounds that were judged.
    """

    anchor: str
    margin: float | None
    error: float
    rounds: tuple[str, ...]
    points: tuple[Point, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that some round was compared in, in the order of the tables."""
        found = {point.metric for point in self.points}
        return tuple(e.name for e in evaluators.EVALUATORS if e.name in found)

    def places(self, metric: str) -> Iterator[tuple[int, Point]]:
        """The points of a metric, each with the place of its round."""
        for point in self.points:
            if point.metric == metric:
                yield self.rounds.index(point.round), point

    def of_round(self, label: str) -> tuple[Point, ...]:
        """The points of one round, in the order of the tables."""
        by_metric = {point.metric: point for point in self.points if point.round == label}
        return tuple(by_metric[metric] for metric in self.metrics if metric in by_metric)

    def needed(self, point: Point) -> int | None:
        """Rows on which a round as good as the anchor is kept nine times in ten; None: no margin.

        The share of rows that differ is taken from this round.
        """
        if self.margin is None or not point.differing:
            return None
        share = point.differing / point.n
        return rows_needed(self.margin, self.error, discordant=share, power=POWER)


class JudgedRound(NamedTuple):
    """A verdict, and the rows of the models that it compares with the anchor."""

    verdict: Verdict
    candidate: ScoredRows
    anchor: ScoredRows


def trail_of(anchor: str, gate: GateConfig, rounds: Sequence[JudgedRound]) -> Trail:
    """The trail of these rounds under a gate; `anchor` is the label of the anchor."""
    error = gate.level if isinstance(gate, AnchoredGate) else SIGNIFICANCE / 2
    return Trail(
        anchor=anchor,
        margin=gate.margin if isinstance(gate, AnchoredGate) else None,
        error=error,
        rounds=tuple(round_.verdict.candidate for round_ in rounds),
        points=tuple(point for round_ in rounds for point in _points(round_, error)),
    )


def _points(judged: JudgedRound, error: float) -> Iterator[Point]:
    for evaluator in evaluators.EVALUATORS:
        if evaluator.gate == "paired" and (point := _point(evaluator, judged, error)):
            yield point


def _point(evaluator: Evaluator, judged: JudgedRound, error: float) -> Point | None:
    own, theirs = evaluator.by_row(judged.candidate), evaluator.by_row(judged.anchor)
    counts = paired_counts(own, theirs, evaluator.clusters_of(judged.anchor))
    if counts is None:
        return None
    common = own.keys() & theirs.keys()
    return Point(
        round=judged.verdict.candidate,
        metric=evaluator.name,
        difference=counts.difference,
        at_worst=lower_bound(counts, error),
        n=len(common),
        differing=sum(own[row] != theirs[row] for row in common),
        kept=judged.verdict.kept,
    )
