"""Metrics of what is measured beside a run's own rows: suites, and tasks of lm-eval."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Literal

from alignment.evaluate.evaluator import Evaluator, RowValue, ScoredRows
from alignment.records import TaskScore


class BenchmarkScore(Evaluator):
    """The mean score of some of the benchmark's rows. Abstract."""

    needs = "tasks"
    better = "higher"
    by_task = True
    gate = "watched"

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
    """The mean score over the documents of all tasks of lm-eval."""

    name: Literal["harness_score"] = "harness_score"
    label: ClassVar[str] = "lm-eval"
    meaning = (
        "Mean score over the documents of all lm-eval tasks, each by the first metric of its task. "
        "Metrics of which lower is better count as negative."
    )

    def includes(self, row: TaskScore) -> bool:
        """Tasks of lm-eval."""
        return row.source == "lm-eval"
