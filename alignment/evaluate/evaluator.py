"""The evaluator interface: one metric, how it is computed from scored rows and how it is shown.

A metric is a weighted mean over rows. The weight is 1, or a reply's tokens if the unit is nats per
token. Not here: the evaluators themselves (`evaluators.py`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from alignment.evaluate import intervals
from alignment.evaluate.intervals import PairedDifference
from alignment.evaluate.settings import AnchoredGate, PlainGate
from alignment.evaluate.verdict import Check
from alignment.records import Estimate, Frozen, Generation, PairScore

Need = Literal["pairs", "generations", "distributions", "parent"]
"""What a metric is computed from. Pairs and generations are stored with an evaluation; the base
model's distributions and the parent's scores are available only while a model is evaluated."""


@dataclass(frozen=True)
class ScoredRows:
    """One model's results on the held-out rows.

    Attributes:
        pairs: held-out pairs, scored.
        generations: greedy replies to held-out prompts.
        kl_from_base: KL to the base model in nats per token, averaged over the tokens of the
            chosen reply; by pair id, for some or all pairs.
        logprob_drift: log-prob of the chosen reply minus its log-prob under the parent model, in
            nats; by pair id, for some or all pairs.
    """

    pairs: Sequence[PairScore] = ()
    generations: Sequence[Generation] = ()
    kl_from_base: Mapping[str, float] = field(default_factory=dict)
    logprob_drift: Mapping[str, float] = field(default_factory=dict)


class RowValue(NamedTuple):
    """The contribution of one row to a metric: `total` over `weight`."""

    row: PairScore | Generation
    total: float
    weight: float = 1.0


class Allowance(NamedTuple):
    """What the anchored gate allows a mean: the change since the anchor, and its limits.

    Attributes:
        change: in the words and units of the metric, such as "0.120 higher" or "1.30 times".
        allowed: the limit in words.
        holds: whether the change is within the limit; never for a change that is not a number.
    """

    change: str
    allowed: str
    holds: bool

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
            gate allows it a margin. "guard": the methods `guard` and `budget` decide on two means.
            "budget": only the anchored gate looks at it, with `budget`.
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
    gate: ClassVar[Literal["paired", "guard", "budget"] | None] = None

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
        totals = [value.total for value in values]
        if self.share:
            return intervals.proportion(round(sum(totals)), len(totals))
        return intervals.ratio(totals, [value.weight for value in values], seed=seed)

    def by_row(self, rows: ScoredRows) -> dict[str, float]:
        """The value of each row by its id, for `paired`."""
        return {value.row.id: value.total / value.weight for value in self.measure(rows)}

    def paired(
        self, first: Mapping[str, float], second: Mapping[str, float]
    ) -> PairedDifference | None:
        """How much higher the first model is, given `by_row` of both; None without a common row."""
        if self.share:
            return intervals.paired_shares(first, second)
        return intervals.paired_means(first, second)
