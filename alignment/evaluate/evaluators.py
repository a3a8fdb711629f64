"""The evaluators: one class per metric, and the tuple that registers them.

Tables, plots, sentences and the gate read `EVALUATORS` in its order; none of them refers to a
metric by name. Not here: the arithmetic on one row (`metrics.py`), intervals (`intervals.py`).
"""

import math
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from alignment.evaluate.evaluator import Allowance, Evaluator, RowValue, ScoredRows, at_most
from alignment.evaluate.metrics import (
    check_finite,
    is_preferred,
    is_preferred_per_token,
    is_refusal,
    repeated_share,
    reward_margin,
)
from alignment.evaluate.settings import AnchoredGate, PlainGate
from alignment.evaluate.verdict import Check
from alignment.records import Estimate, EvalReport


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


class Nll(Evaluator):
    """The negative log-likelihood of the chosen replies."""

    name: Literal["nll"] = "nll"
    needs = "pairs"
    label: ClassVar[str] = "NLL"
    meaning = "Negative log-likelihood of the held-out chosen replies, in nats per token."
    digits = 2
    better = "lower"
    gate = "budget"

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """Nats over tokens."""
        for pair in rows.pairs:
            yield RowValue(pair, -pair.chosen, weight=pair.chosen_tokens)

    def budget(self, limits: AnchoredGate, now: float, anchor: float) -> Allowance:
        """Limits how unlikely the chosen replies may become: DPO lowers both likelihoods."""
        return Allowance.of_rise(now - anchor, limits.max_nll_rise)


class KlFromBase(Evaluator):
    """The KL divergence from the base model on the probe pairs."""

    name: Literal["kl_from_base"] = "kl_from_base"
    needs = "distributions"
    label: ClassVar[str] = "KL from base"
    meaning = "How far the model has moved from the base model, in nats per token."
    gate = "budget"

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """Nats over tokens."""
        for pair in rows.pairs:
            if (nats := rows.kl_from_base.get(pair.id)) is not None:
                check_finite("the KL from the base model", pair.id, nats)
                yield RowValue(pair, nats * pair.chosen_tokens, weight=pair.chosen_tokens)

    def budget(self, limits: AnchoredGate, now: float, anchor: float) -> Allowance:
        """Limits the distance from the base model that is added since the anchor."""
        return Allowance.of_rise(now - anchor, limits.max_kl_rise)


class LogprobDrift(Evaluator):
    """How far the last stage moved the log-probs of the chosen replies."""

    name: Literal["logprob_drift"] = "logprob_drift"
    needs = "parent"
    label: ClassVar[str] = "Drift"
    meaning = "Mean absolute change of a chosen reply's log-prob since the previous stage, in nats."
    digits = 1
    column = False

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """Absolute value in nats."""
        for pair in rows.pairs:
            if (nats := rows.logprob_drift.get(pair.id)) is not None:
                check_finite("the drift of a log-prob", pair.id, nats)
                yield RowValue(pair, abs(nats))


class ReplyTokens(Evaluator):
    """The length of the replies."""

    name: Literal["reply_tokens"] = "reply_tokens"
    needs = "generations"
    meaning = "Mean length of a greedy reply."
    digits = 1
    gate = "guard"

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """Tokens."""
        for row in rows.generations:
            yield RowValue(row, row.tokens)

    def guard(self, limits: PlainGate, now: Estimate, before: Estimate) -> Check | None:
        """Limits the growth of replies, which a preference score does not see."""
        if before.value <= 0:
            return None
        growth = now.value / before.value
        return Check(
            name="length",
            finding="passed" if at_most(growth, limits.max_length_growth) else "failed",
            words=f"replies went from {before.value:.1f} to {now.value:.1f} tokens, "
            f"{growth:.2f} times (at most {limits.max_length_growth:g})",
        )

    def budget(self, limits: AnchoredGate, now: float, anchor: float) -> Allowance:
        """Limits the change in both directions, over all rounds since the anchor."""
        ratio = now / anchor if anchor > 0 else math.nan
        least, most = 1 / limits.max_length_ratio, limits.max_length_ratio
        within = at_most(ratio, most) and at_most(least, ratio)
        return Allowance(f"{ratio:.2f} times", f"{least:.2f} to {most:g} times", within)


class StopRate(Evaluator):
    """The share of replies that end by themselves."""

    name: Literal["stop_rate"] = "stop_rate"
    needs = "generations"
    meaning = "Share of greedy replies that end by themselves before the length limit."
    better = "higher"
    share = True
    column = False
    gate = "guard"

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """1 for a reply that ends by itself."""
        for row in rows.generations:
            yield RowValue(row, row.stopped)

    def guard(self, limits: PlainGate, now: Estimate, before: Estimate) -> Check | None:
        """Limits the drop of the share: a preference score does not see truncated replies."""
        return Check(
            name="stop rate",
            finding="passed"
            if at_most(before.value - now.value, limits.max_stop_drop)
            else "failed",
            words=f"the share of replies that end by themselves went from {before.value:.3f} to "
            f"{now.value:.3f} (may fall by {limits.max_stop_drop:g})",
        )

    def budget(self, limits: AnchoredGate, now: float, anchor: float) -> Allowance:
        """Limits the drop over all rounds since the anchor."""
        drop = anchor - now
        words = f"{abs(drop):.3f} {'lower' if drop >= 0 else 'higher'}"
        most = limits.max_stop_drop
        return Allowance(words, f"at most {most:g} lower", at_most(drop, most))


class Repetition(Evaluator):
    """How much of a reply repeats itself."""

    name: Literal["repetition"] = "repetition"
    needs = "generations"
    meaning = "Share of a reply's sequences of four words that occurred in it before."
    better = "lower"
    column = False
    gate = "budget"

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """The repeated share of each reply."""
        for row in rows.generations:
            yield RowValue(row, repeated_share(row.reply))

    def budget(self, limits: AnchoredGate, now: float, anchor: float) -> Allowance:
        """Limits the rise since the anchor."""
        return Allowance.of_rise(now - anchor, limits.max_repetition_rise)


class RefusalRate(Evaluator):
    """The share of replies that refuse."""

    name: Literal["refusal_rate"] = "refusal_rate"
    needs = "generations"
    meaning = "Share of greedy replies that begin with an English phrase of refusal."
    share = True
    column = False
    gate = "budget"

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """1 for a refusal."""
        for row in rows.generations:
            yield RowValue(row, is_refusal(row.reply))

    def budget(self, limits: AnchoredGate, now: float, anchor: float) -> Allowance:
        """Limits the rise since the anchor."""
        return Allowance.of_rise(now - anchor, limits.max_refusal_rise)


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
    RewardAccuracy(),
    Margin(),
    Nll(),
    KlFromBase(),
    LogprobDrift(),
    ReplyTokens(),
    StopRate(),
    Repetition(),
    RefusalRate(),
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
