"""Metrics of greedy replies that need no program to check them."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar, Literal

from alignment.data.refusals import is_refusal
from alignment.evaluate.evaluator import Allowance, Evaluator, RowValue, ScoredRows, at_most
from alignment.evaluate.metrics import adjacent_words, repeated_share
from alignment.evaluate.settings import AnchoredGate, PlainGate
from alignment.evaluate.verdict import Check
from alignment.records.evaluation import Estimate


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
        if limits.max_length_growth is None or before.value <= 0:
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
        if anchor <= 0:
            return Allowance("no reply of the anchor has a token", "a ratio needs one", None)
        ratio = now / anchor
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


class Distinct(Evaluator):
    """How varied the replies are among themselves."""

    name: Literal["distinct_2"] = "distinct_2"
    needs = "generations"
    label: ClassVar[str] = "Distinct-2"
    meaning = "Different pairs of adjacent words in all replies, as a share of all such pairs."
    column = False

    def measure(self, rows: ScoredRows) -> Iterator[RowValue]:
        """Each pair of words counts as one over its number of occurrences in all replies.

        So totals add up to the number of different ones (Li et al. 2016). Replies of one word have
        none.
        """
        replies = [adjacent_words(row.reply) for row in rows.generations]
        occurrences = Counter(pair for reply in replies for pair in reply)
        for row, reply in zip(rows.generations, replies, strict=True):
            if reply:
                share = math.fsum(1 / occurrences[pair] for pair in reply)
                yield RowValue(row, share, weight=len(reply))


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
