"""Metrics of how a model ranks the two replies of held-out pairs."""

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from alignment.evaluate import calibration, length_control
from alignment.evaluate.evaluator import Evaluator, Row, RowValue, ScoredRows
from alignment.evaluate.length_control import LengthControlled
from alignment.evaluate.metrics import is_preferred, is_preferred_per_token, reward_margin
from alignment.records.evaluation import Estimate, PairScore


class PreferenceAccuracy(Evaluator):
    """The share of pairs whose chosen reply is likelier under the model."""

    name: Literal["preference_accuracy"] = "preference_accuracy"
    needs = "pairs"
    label: ClassVar[str] = "Preference acc."
    meaning = "Share of held-out pairs where the chosen reply has the higher summed log-prob."
    better = "higher"
    share = True
    chance = 0.5
    plotted = True
    by_task = True
    compared = True
    gate = "paired"

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """1 where the chosen reply is likelier."""
        for pair in rows.pairs:
            yield RowValue(pair, is_preferred(pair))

    def series(self, measured: frozenset[str]) -> dict[str, str]:
        """Adds the accuracy per token, which does not favour short replies."""
        del measured
        return {self.name: "summed log-prob", "preference_accuracy_per_token": "per token"}


class PreferenceAccuracyPerToken(Evaluator):
    """The share of pairs whose chosen reply is likelier per token under the model."""

    name: Literal["preference_accuracy_per_token"] = "preference_accuracy_per_token"
    needs = "pairs"
    label: ClassVar[str] = "Preference acc. per token"
    meaning = "The same with the mean log-prob per token, which does not favour short replies."
    better = "higher"
    share = True
    chance = 0.5
    column = False

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """1 where the chosen reply is likelier per token."""
        for pair in rows.pairs:
            yield RowValue(pair, is_preferred_per_token(pair))


class LengthControlledAccuracy(Evaluator):
    """Preference accuracy without the influence of reply length (`length_control.py`)."""

    name: Literal["length_controlled_accuracy"] = "length_controlled_accuracy"
    needs = "pairs"
    label: ClassVar[str] = "Preference acc., equal lengths"
    meaning = (
        "Preference accuracy of pairs whose replies are equally long, by a logistic regression on "
        "the difference of their lengths, as in AlpacaEval 2."
    )
    better = "higher"
    chance = 0.5
    column = False

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """Numbers whose mean is the accuracy, and which vary as each row moves it."""
        if rows.pairs:
            fitted = _length_controlled(rows.pairs)
            moved = fitted.accuracy_influence()
            start = fitted.accuracy - math.fsum(moved)
            for pair, share in zip(rows.pairs, moved, strict=True):
                yield RowValue(pair, start + len(moved) * share)

    def estimate(self, values: Sequence[RowValue], *, seed: int) -> Estimate:
        """The accuracy with the interval of the regression."""
        del seed
        fitted = _length_controlled([value.row for value in values])
        return fitted.estimate([value.cluster for value in values])

    def difference(self, first: ScoredRows, second: ScoredRows, *, seed: int) -> Estimate | None:
        """The difference of two regressions over the pairs that both models have."""
        del seed
        own, other = self.common(first, second)
        if not own:
            return None
        return length_control.difference(
            _length_controlled([value.row for value in own.values()]),
            _length_controlled([value.row for value in other.values()]),
            [value.cluster for value in own.values()],
        )


class RewardAccuracy(Evaluator):
    """The share of pairs with a positive margin."""

    name: Literal["reward_accuracy"] = "reward_accuracy"
    needs = "pairs"
    label: ClassVar[str] = "Reward acc."
    meaning = "Share of held-out pairs with a positive margin."
    better = "higher"
    share = True
    chance = 0.5
    column = False

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """1 for a positive margin; nothing for the base model."""
        margins = [reward_margin(pair) for pair in rows.pairs]
        # The base model's margins are all 0: an accuracy of 0 would look like a failure.
        if any(margins):
            for pair, margin in zip(rows.pairs, margins, strict=True):
                yield RowValue(pair, margin > 0)


class Margin(Evaluator):
    """The implicit reward of the chosen reply over the rejected one."""

    name: Literal["margin"] = "margin"
    needs = "pairs"
    meaning = (
        "How much log-prob the chosen reply gained over the rejected one compared with the base "
        "model, in nats (the implicit reward of DPO without the factor beta)."
    )
    digits = 1
    compared = True

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """Nats."""
        for pair in rows.pairs:
            yield RowValue(pair, reward_margin(pair))


class CalibrationError(Evaluator):
    """How far the confidence of margins is from how often they are right (`calibration.py`)."""

    name: Literal["calibration_error"] = "calibration_error"
    needs = "pairs"
    label: ClassVar[str] = "Calibration error"
    meaning = (
        "Expected calibration error: over ten bins of margins, from small to large, the mean "
        "distance between confidence, sigmoid(scale * margin), and the share of pairs that is "
        "right. Above 0 by chance alone where bins have few pairs."
    )
    better = "lower"
    column = False

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """The row's part in the distance of its bin; nothing for the base model."""
        found = calibration.confidences(rows.pairs)
        for part in calibration.bins(found) if found else ():
            sign = math.copysign(1.0, calibration.gap(part))
            for row in part:
                yield RowValue(row.pair, sign * (row.right - row.confidence))

    def estimate(self, values: Sequence[RowValue], *, seed: int) -> Estimate:
        """The mean distance; its interval does not go below 0."""
        found = super().estimate(values, seed=seed)
        return found.model_copy(update={"low": max(0.0, found.low)})


def _length_controlled(rows: Sequence[Row]) -> LengthControlled:
    pairs = [row for row in rows if isinstance(row, PairScore)]
    return length_control.fit(
        [is_preferred(pair) for pair in pairs],
        [pair.chosen_tokens - pair.rejected_tokens for pair in pairs],
    )
