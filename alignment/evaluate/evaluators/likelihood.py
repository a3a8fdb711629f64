"""Metrics of the log-probs of held-out replies, and of their distance from other models."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from alignment.evaluate.evaluator import Allowance, Evaluator, RowValue, ScoredRows
from alignment.evaluate.metrics import check_finite
from alignment.evaluate.settings import AnchoredGate


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
            if (nats := pair.kl_from_base) is not None:
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
