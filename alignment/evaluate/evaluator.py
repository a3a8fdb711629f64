"""The evaluator interface: one metric, how it is computed from scored rows and how it is shown.

A metric is a weighted mean over rows. The weight is 1, or a reply's tokens if the unit is nats per
token. Not here: the evaluators themselves (`evaluators/`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple

from alignment.evaluate import intervals
from alignment.evaluate.clusters import design_effect
from alignment.evaluate.intervals import PairedDifference
from alignment.evaluate.settings import AnchoredGate, PlainGate
from alignment.evaluate.verdict import Check
from alignment.records.base import Frozen
from alignment.records.evaluation import Estimate, Generation, PairScore, TaskScore

Need = Literal["pairs", "generations", "tasks", "distributions", "parent"]
"""What a metric is computed from. Pairs, generations and tasks are stored with an evaluation, and
so is what the base model's distributions are needed for. The parent's scores are available only
while a model is evaluated."""

Row = PairScore | Generation | TaskScore


@dataclass(frozen=True)
class ScoredRows:
    """One model's results on the held-out rows.

    Attributes:
        pairs: held-out pairs, scored.
        generations: greedy replies to held-out prompts.
        tasks: items of suites and documents of lm-eval tasks.
        logprob_drift: log-prob of the chosen reply minus its log-prob under the parent model, in
            nats; by pair id, for some or all pairs.
    """

    pairs: Sequence[PairScore] = ()
    generations: Sequence[Generation] = ()
    tasks: Sequence[TaskScore] = ()
    logprob_drift: Mapping[str, float] = field(default_factory=dict)

    def of(self, need: Need) -> Sequence[Row]:
        """The rows of the kind that a metric is computed from."""
        kinds: dict[Need, Sequence[Row]] = {"generations": self.generations, "tasks": self.tasks}
        return kinds.get(need, self.pairs)

    def only(self, test: Callable[[Row], bool]) -> "ScoredRows":
        """The rows that pass a test."""
        return replace(
            self,
            pairs=tuple(row for row in self.pairs if test(row)),
            generations=tuple(row for row in self.generations if test(row)),
            tasks=tuple(row for row in self.tasks if test(row)),
        )


class RowValue(NamedTuple):
    """The contribution of one row to a metric: `total` over `weight`."""

    row: Row
    total: float
    weight: float = 1.0

    @property
    def cluster(self) -> str:
        """The prompt: rows that share it are not independent."""
        return self.row.prompt or self.row.id


class Allowance(NamedTuple):
    """What the anchored gate allows a mean: the change since the anchor, and its limits.

    Attributes:
        change: in the words and units of the metric, such as "0.120 higher" or "1.30 times".
        allowed: the limit in words.
        holds: whether the change is within the limit; never for a change that is not a number.
            None: the two means cannot be compared.
    """

    change: str
    allowed: str
    holds: bool | None

    @classmethod
    def of_rise(cls, rise: float, most: float) -> "Allowance":
        """A mean that may rise by at most `most`."""
        words = f"{abs(rise):.3f} {'higher' if rise >= 0 else 'lower'}"
        return cls(words, f"at most {most:g} higher", at_most(rise, most))


def at_most(number: float, limit: float) -> bool:
    """Whether a number is within a limit, up to rounding; a NaN is not."""
    return number <= limit or math.isclose(number, limit, rel_tol=1e-9, abs_tol=1e-12)


class Evaluator(Frozen, ABC):
    """One metric. A subclass defines its name, its meaning and the contribution of a row.

    Attributes:
        name: name of the metric in stored reports; never changed once released.
        needs: what it is computed from.
        meaning: one sentence for a reader who sees the metric for the first time.
        digits: decimals.
        better: the desirable direction; None if neither direction is good or bad.
        share: whether every row is 0 or 1. Shares have their own interval and paired test.
        chance: the value that random guessing gives, if there is one.
        column: whether the metric has a column in the evaluation table.
        plotted: whether the page plots it for every model.
        by_task: whether the page may break it down by task type and source. It does so with the
            first such metric that was measured.
        compared: whether the report compares models in it row by row, in sentences and a table.
        gate: "paired": reject a round that is shown to be worse in it, row by row; the anchored
            gate allows it a margin. "watched": likewise, but rows that do not suffice to show the
            margin stop no round; the anchored gate applies its `group_margin`. "guard": the methods
            `guard` and `budget` decide on two means. "budget": only the anchored gate looks at it,
            with `budget`.
    """

    name: str
    needs: ClassVar[Need]
    meaning: ClassVar[str]
    digits: ClassVar[int] = 3
    better: ClassVar[Literal["higher", "lower"] | None] = None
    share: ClassVar[bool] = False
    chance: ClassVar[float | None] = None
    column: ClassVar[bool] = True
    plotted: ClassVar[bool] = False
    by_task: ClassVar[bool] = False
    compared: ClassVar[bool] = False
    gate: ClassVar[Literal["paired", "watched", "guard", "budget"] | None] = None

    @abstractmethod
    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """Yields each row's contribution; nothing if the rows do not allow the metric."""

    @property
    def label(self) -> str:
        """The metric's name as a column title."""
        return self.name.replace("_", " ").capitalize()

    @property
    def in_words(self) -> str:
        """The label as used inside a sentence."""
        return self.label.replace("acc.", "accuracy").lower()

    @property
    def decides(self) -> bool:
        """Whether a sentence of the report or a verdict of the gate is based on it."""
        return self.compared or self.gate is not None

    def series(self, measured: frozenset[str]) -> dict[str, str]:
        """The metrics in its plot, with their names in the legend.

        Args:
            measured: every metric that at least one of the plotted reports has.
        """
        del measured
        return {self.name: self.label}

    def guard(self, limits: PlainGate, now: Estimate, before: Estimate) -> Check | None:
        """The plain gate's check of a round, for `gate = "guard"`. None: nothing to compare.

        Args:
            limits: the configured limits. A new guard keeps its limit in its class: a new field
                here would change the key of every gate.
            now: the candidate's mean.
            before: the champion's mean.
        """
        raise NotImplementedError(f"{self.name}: gate is 'guard', so implement the method `guard`")

    def budget(self, limits: AnchoredGate, now: float, anchor: float) -> Allowance:
        """What the anchored gate allows, for `gate = "guard"` and `"budget"`.

        Args:
            limits: the configured limits.
            now: the candidate's mean.
            anchor: the anchor's mean.
        """
        raise NotImplementedError(f"{self.name}: the gate looks at it, so implement `budget`")

    def estimate(self, values: Sequence[RowValue], *, seed: int) -> Estimate:
        """The mean of at least one row with its interval; `seed` seeds the bootstrap."""
        totals, clusters = [value.total for value in values], [value.cluster for value in values]
        if self.share:
            effect = design_effect(totals, clusters)
            return intervals.proportion(round(sum(totals)), len(totals), effect=effect)
        weights = [value.weight for value in values]
        return intervals.ratio(totals, weights, clusters=clusters, seed=seed)

    def clusters_of(self, rows: ScoredRows) -> dict[str, str]:
        """The prompt of each row by the row's id."""
        return {value.row.id: value.cluster for value in self.measure(rows)}

    def by_row(self, rows: ScoredRows) -> dict[str, float]:
        """The value of each row by its id."""
        return {value.row.id: value.total / value.weight for value in self.measure(rows)}

    def paired(
        self,
        first: Mapping[str, float],
        second: Mapping[str, float],
        clusters: Mapping[str, str] | None = None,
    ) -> PairedDifference | None:
        """How much higher the first model is, row by row; None without a common row.

        Args:
            first: `by_row` of a model.
            second: that of the other.
            clusters: `clusters_of` either; None: no two rows share a prompt.
        """
        test = intervals.paired_shares if self.share else intervals.paired_means
        return test(first, second, clusters)

    def difference(self, first: ScoredRows, second: ScoredRows, *, seed: int) -> Estimate | None:
        """How much higher the first model's mean is over the rows that both have; None without.

        Of two means over weights, each row adds what it changes in either (the linear part of the
        difference), so that the interval knows that both are over the same rows.
        """
        own, other = self.common(first, second)
        if not own:
            return None
        clusters = [value.cluster for value in own.values()]
        if self.share:
            shares = [{row: value.total for row, value in side.items()} for side in (own, other)]
            found = self.paired(shares[0], shares[1], dict(zip(own, clusters, strict=True)))
            return found.difference if found else None
        changes = [
            mine - theirs
            for mine, theirs in zip(_linear(own.values()), _linear(other.values()), strict=True)
        ]
        return intervals.mean(changes, clusters=clusters, seed=seed)

    def common(
        self, first: ScoredRows, second: ScoredRows
    ) -> tuple[dict[str, RowValue], dict[str, RowValue]]:
        """The values of the rows that both models have, measured on these rows alone, by id."""
        values = [self._by_id(rows) for rows in (first, second)]
        ids = values[0].keys() & values[1].keys()
        own, other = (
            found
            if all(row.id in ids for row in rows.of(self.needs))
            else self._by_id(rows.only(lambda row: row.id in ids))
            for rows, found in zip((first, second), values, strict=True)
        )
        both = sorted(own.keys() & other.keys())
        return {row: own[row] for row in both}, {row: other[row] for row in both}

    def _by_id(self, rows: ScoredRows) -> dict[str, RowValue]:
        return {value.row.id: value for value in self.measure(rows)}


def _linear(values: Collection[RowValue]) -> list[float]:
    """Numbers with the mean sum(totals) / sum(weights) that change with each row as it does."""
    weight = math.fsum(value.weight for value in values)
    mean = math.fsum(value.total for value in values) / weight
    scale = len(values) / weight
    return [mean + scale * (value.total - mean * value.weight) for value in values]
