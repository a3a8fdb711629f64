"""Metrics of what is measured beside a run's own rows: suites, and tasks of lm-eval."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Literal

from alignment.evaluate.evaluator import Evaluator, RowValue, ScoredRows
from alignment.records.evaluation import TaskScore

OTHER_SCALES = frozenset(
    {
        "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "likelihood",
        "brier_score", "mcc", "bleu", "chrf", "chrf++", "ter",
    }
)  # fmt: skip
"""Metrics of lm-eval that are no share of something right, whatever a model happens to score."""


class BenchmarkScore(Evaluator):
    """The mean score of some of the benchmark's rows. Abstract."""

    needs = "tasks"
    better = "higher"
    by_task = True
    gate: ClassVar[Literal["watched"] | None] = "watched"

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """The score of each row; those that could not be judged have none.

        A score that is no number is none: the perplexity of a broken model is NaN or infinite.
        """
        for row in rows.tasks:
            if row.score is not None and math.isfinite(row.score) and self.includes(row):
                yield RowValue(row, row.score)

    @abstractmethod
    def includes(self, row: TaskScore) -> bool:
        """Whether the row belongs to this metric."""


class SuiteScore(BenchmarkScore):
    """The share of suite prompts whose reply passes."""

    name: Literal["suite_score"] = "suite_score"
    label: ClassVar[str] = "Suites"
    meaning = "Share of the prompts of all suites, beside the run's own, whose reply passes."
    share = True

    def includes(self, row: TaskScore) -> bool:
        """Everything that is not a task of lm-eval."""
        return row.source != "lm-eval"


class HarnessScore(BenchmarkScore):
    """The mean score over the documents of all tasks of lm-eval that score from 0 to 1."""

    name: Literal["harness_score"] = "harness_score"
    label: ClassVar[str] = "lm-eval"
    meaning = (
        "Mean score over the documents of all lm-eval tasks, each by the first metric of its task. "
        "Tasks that do not score from 0 to 1, such as perplexities, are left out."
    )

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """The score of each document, without the tasks on other scales."""
        others = _on_other_scales(rows)
        yield from (value for value in super().measure(rows) if value.row.task_type not in others)

    def includes(self, row: TaskScore) -> bool:
        """Tasks of lm-eval."""
        return row.source == "lm-eval"


class HarnessOther(BenchmarkScore):
    """The mean of one task of lm-eval that does not score from 0 to 1."""

    name: Literal["harness_other"] = "harness_other"
    label: ClassVar[str] = "lm-eval, other scale"
    meaning = (
        "Mean of an lm-eval task that does not score from 0 to 1, such as a perplexity. Where "
        "lower is better, it counts as negative. Several such tasks have no mean together."
    )
    digits = 2
    gate = None

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """What lm-eval gives; nothing for rows of several tasks, which have several scales."""
        others = _on_other_scales(rows)
        if len(others) == 1:
            yield from (value for value in super().measure(rows) if value.row.task_type in others)

    def includes(self, row: TaskScore) -> bool:
        """Tasks of lm-eval."""
        return row.source == "lm-eval"


def _on_other_scales(rows: ScoredRows) -> set[str]:
    """The tasks of lm-eval that do not score from 0 to 1, by their metric or by what they gave."""
    return {
        row.task_type
        for row in rows.tasks
        if row.source == "lm-eval" and (row.metric in OTHER_SCALES or not _is_share(row.score))
    }


def _is_share(score: float | None) -> bool:
    return score is None or not math.isfinite(score) or 0 <= score <= 1
