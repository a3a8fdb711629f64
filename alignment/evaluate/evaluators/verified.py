"""Metrics of replies that a program has checked."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from alignment.evaluate.evaluator import Evaluator, RowValue, ScoredRows


class PassRate(Evaluator):
    """The share of replies that pass the program check of their prompt."""

    name: Literal["pass_rate"] = "pass_rate"
    needs = "generations"
    meaning = "Share of held-out prompts whose reply passes its program check, format included."
    better = "higher"
    share = True
    plotted = True
    by_task = True
    compared = True
    gate = "paired"

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """1 for a pass; prompts without a check are skipped."""
        for row in rows.generations:
            if row.passed is not None:
                yield RowValue(row, row.passed)

    def series(self, measured: frozenset[str]) -> dict[str, str]:
        """Seen and unseen phrasings as separate series, if there are unseen ones."""
        if "pass_rate_unseen" in measured:
            return {"pass_rate_seen": "seen phrasing", "pass_rate_unseen": "unseen phrasing"}
        return {self.name: "all prompts"}


class PassRateSeen(Evaluator):
    """The pass rate on prompts whose phrasing was in training."""

    name: Literal["pass_rate_seen"] = "pass_rate_seen"
    needs = "generations"
    label: ClassVar[str] = "Pass rate, seen phrasing"
    meaning = "The pass rate of prompts whose phrasing occurs in the training set."
    better = "higher"
    share = True
    column = False

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """1 for a pass."""
        for row in rows.generations:
            if row.passed is not None and row.unseen is False:
                yield RowValue(row, row.passed)


class PassRateUnseen(Evaluator):
    """The pass rate on prompts whose phrasing was not in training."""

    name: Literal["pass_rate_unseen"] = "pass_rate_unseen"
    needs = "generations"
    label: ClassVar[str] = "Pass rate, unseen phrasing"
    meaning = "The pass rate of prompts whose phrasing does not occur in the training set."
    better = "higher"
    share = True
    column = False

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """1 for a pass."""
        for row in rows.generations:
            if row.passed is not None and row.unseen:
                yield RowValue(row, row.passed)
