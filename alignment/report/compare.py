"""Compares the final model of a run with the others, row by row, and puts the result into words.

Sentences follow from the numbers alone: "beats" needs an interval that excludes zero *and* an
exact p below .05. p-values are not corrected for the number of comparisons.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from alignment.evaluate import evaluators
from alignment.evaluate.evaluator import Evaluator, ScoredRows
from alignment.evaluate.evaluators import evaluator_of
from alignment.evaluate.intervals import PairedDifference
from alignment.records.base import Frozen
from alignment.records.evaluation import Estimate, Generation, PairScore
from alignment.report.metric import show_interval, show_p, show_value
from alignment.report.table import Cell, Table, Tone

Verdict = Literal["better", "worse", "higher", "lower", "not shown"]
_TONES: dict[Verdict, Tone] = {"better": "good", "worse": "bad", "not shown": "muted"}
_READINGS: dict[Verdict, str] = {
    "better": "better than",
    "worse": "worse than",
    "not shown": "not shown to differ from",
}
_FEWEST = 6
"""Rows without which even an exact test of all of them shows nothing: 2 / 2^5 > .05."""
_POWER_80 = 1 + 0.8416 / 1.96
"""Half an interval of 95 % times this is a difference that is found with a chance of 80 %."""
_NAMES = {"base": "the base model", "sft": "SFT", "control": "the control"}


class Comparison(Frozen):
    """Two models compared on the same rows in one metric; `final` is the model the run produces."""

    final: str
    other: str
    metric: str
    paired: PairedDifference

    @property
    def verdict(self) -> Verdict:
        """What the numbers allow us to say about `final`."""
        if not self.paired.shown:
            return "not shown"
        direction: Literal["higher", "lower"] = (
            "higher" if self.paired.difference.value > 0 else "lower"
        )
        better = evaluator_of(self.metric).better
        if better is None:
            return direction
        return "better" if direction == better else "worse"

    @property
    def tone(self) -> Tone:
        """The tone of the verdict; higher or lower alone is neither good nor bad."""
        return _TONES.get(self.verdict, "")

    @property
    def words(self) -> str:
        """The claim up to its numbers: 'Round 3 beats the control in pass rate by'."""
        final, other = name_of(self.final), name_of(self.other)
        metric = evaluator_of(self.metric).in_words
        if self.verdict == "not shown":
            return f"No difference shown between {final} and {other} in {metric}:"
        verbs = {"better": "beats", "worse": "falls behind"}
        verb = verbs.get(self.verdict, f"is {self.verdict} than")
        return _capitalised(f"{final} {verb} {other} in {metric} by")

    @property
    def numbers(self) -> str:
        """'.120 [.050, .190] (p = .001)', without a sign if the words say which model is ahead."""
        difference = self.paired.difference
        if self.verdict != "not shown" and difference.value < 0:
            difference = _negative(difference)
        value = show_value(self.metric, difference.value)
        interval = show_interval(self.metric, difference)
        numbers = f"{value} {interval} ({show_p(self.paired.p_value)})".replace("  ", " ")
        return f"{numbers}; {self.sensitivity}" if self.verdict == "not shown" else numbers

    @property
    def sensitivity(self) -> str:
        """'168 rows would show about .090': a difference found in four of five such comparisons."""
        found = self.paired.difference
        if found.n < _FEWEST:
            return f"n = {found.n} decides nothing"
        if abs(found.value) <= self.paired.noise:
            return (
                f"measured again, one model moves by {show_value(self.metric, self.paired.noise)}"
            )
        least = (found.high - found.low) / 2 * _POWER_80
        return f"{found.n:,} rows would show about {show_value(self.metric, least)}"

    @property
    def claim(self) -> str:
        """Words and numbers as one sentence."""
        return f"{self.words} {self.numbers}."


def name_of(label: str) -> str:
    """The name of a model inside a sentence."""
    return _NAMES.get(label, label)


def final_model(labels: Sequence[str]) -> str | None:
    """The last round; without rounds the last label except the control; otherwise the last."""
    rounds = [label for label in labels if label.startswith("round ")]
    trained = [label for label in labels if label != "control"]
    candidates = rounds or trained or list(labels)
    return candidates[-1] if candidates else None


def compare(
    final: str,
    *,
    generations: Mapping[str, Iterable[Generation]],
    pairs: Mapping[str, Iterable[PairScore]],
    noise: Mapping[str, float] | None = None,
) -> tuple[Comparison, ...]:
    """Compares `final` with every model that is not another round, in the metrics they share.

    Rounds are compared with each other by the gate.

    Args:
        final: label of the model.
        generations: replies by label.
        pairs: scores by label.
        noise: the difference up to which nothing counts as shown, by metric.
    """
    rows = {
        label: ScoredRows(
            pairs=tuple(pairs.get(label, ())), generations=tuple(generations.get(label, ()))
        )
        for label in dict.fromkeys((*generations, *pairs))
    }
    return tuple(
        comparison
        for evaluator in evaluators.EVALUATORS
        if evaluator.compared
        for comparison in _against_others(final, evaluator, rows, noise or {})
    )


def claims(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The comparisons worth a sentence: those in a metric where higher or lower is better."""
    return tuple(c for c in comparisons if evaluator_of(c.metric).better)


def headline(comparisons: Sequence[Comparison]) -> str:
    """One sentence on the first metric: which models the final one is better or worse than."""
    claimed = claims(comparisons)
    if not claimed:
        return "Nothing to compare: only one model has held-out rows."
    first = [c for c in claimed if c.metric == claimed[0].metric]
    parts = [
        f"{words} {_listed([name_of(c.other) for c in chosen])}"
        for verdict, words in _READINGS.items()
        if (chosen := [c for c in first if c.verdict == verdict])
    ]
    metric = evaluator_of(first[0].metric).in_words
    return f"In {metric}, {name_of(first[0].final)} is {', and '.join(parts)}."


def paired_table(comparisons: Sequence[Comparison]) -> Table:
    """One row per comparison: difference, interval, rows won and lost, p."""
    final = comparisons[0].final if comparisons else "the last model"
    rows = [
        [
            Cell(text=c.other),
            Cell(text=evaluator_of(c.metric).label),
            Cell(
                text=show_value(c.metric, c.paired.difference.value),
                small=show_interval(c.metric, c.paired.difference),
                tone=c.tone,
            ),
            Cell(text=f"{c.paired.wins} / {c.paired.losses} / {c.paired.ties}"),
            Cell(text=show_p(c.paired.p_value)),
            Cell(text=c.verdict, tone=c.tone),
        ]
        for c in comparisons
    ]
    return Table.of(
        f"{_capitalised(final)} against the other models, on the same rows",
        ["Against", "Metric", "Difference", "Won / lost / tied", "Sign test", "Reading"],
        rows,
        align="llrrrl",
        note="The sign test over rows is exact and two-sided (McNemar's test for pass and fail), "
        "and not corrected for the number of comparisons. A difference counts as shown if p < .05, "
        "the 95 % interval excludes zero, and it is above the noise floor, if one was measured.",
    )


def _against_others(
    final: str, evaluator: Evaluator, rows: Mapping[str, ScoredRows], noise: Mapping[str, float]
) -> Iterator[Comparison]:
    own = evaluator.by_row(rows.get(final, ScoredRows()))
    clusters = evaluator.clusters_of(rows.get(final, ScoredRows()))
    for other, theirs in rows.items():
        if other == final or other.startswith("round "):
            continue
        if difference := evaluator.paired(own, evaluator.by_row(theirs), clusters):
            found = difference.above(noise.get(evaluator.name, 0.0))
            yield Comparison(final=final, other=other, metric=evaluator.name, paired=found)


def _negative(difference: Estimate) -> Estimate:
    return Estimate(
        value=-difference.value, low=-difference.high, high=-difference.low, n=difference.n
    )


def _listed(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
