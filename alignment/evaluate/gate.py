"""Whether a round is kept: the candidate against the model it started from, on the same rows.

A round is kept unless it is shown to be worse. "Shown" is what `PairedDifference.shown` says: the
95 % interval of the paired difference excludes zero *and* the exact two-sided sign test (on pass
and fail: McNemar's) gives p < .05. Two guards look at what a preference score does not see:
replies that grow, and replies that no longer end. p-values are not corrected for two questions.
Not here: which model goes on from there (`stages/gate.py`, `head.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from alignment.evaluate.intervals import PairedDifference, paired_shares
from alignment.records import Check, EvalReport, Frozen, Verdict


class GateConfig(Frozen):
    """Keep a round unless it is shown to be worse or breaks a guard."""

    name: Literal["plain"] = "plain"
    max_length_growth: float = Field(
        default=1.5,
        gt=1,
        description="A round whose mean reply grows beyond so many times its parent's is rejected.",
    )
    max_stop_drop: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="A round whose share of replies that end by themselves falls by more is "
        "rejected, 0 to 1.",
    )


@dataclass(frozen=True)
class JudgedModel:
    """A model on the held-out rows.

    Attributes:
        report: its evaluation.
        passes: pass or fail by prompt id, where something verifies the reply.
        preferences: right or wrong by pair id.
    """

    report: EvalReport
    passes: Mapping[str, bool]
    preferences: Mapping[str, bool]


_NOTHING_IN_COMMON = Check(
    name="rows", passed=False, words="there is no held-out row that both models were measured on"
)


def judge(config: GateConfig, *, candidate: JudgedModel, champion: JudgedModel) -> Verdict:
    """The verdict on a round. A round that cannot be compared by a single row is not kept.

    Args:
        config: the guards.
        candidate: the round's model.
        champion: the model that it started from.
    """
    compared = (
        *_not_worse("preference accuracy", candidate.preferences, champion.preferences),
        *_not_worse("pass rate", candidate.passes, champion.passes),
    )
    checks = (
        *(compared or (_NOTHING_IN_COMMON,)),
        *_length(config, candidate.report, champion.report),
        *_stops(config, candidate.report, champion.report),
    )
    return Verdict(candidate=candidate.report.model, champion=champion.report.model, checks=checks)


def _not_worse(
    metric: str, candidate: Mapping[str, bool], champion: Mapping[str, bool]
) -> Iterator[Check]:
    paired = paired_shares(candidate, champion)
    if paired is not None:
        worse = paired.shown and paired.difference.value < 0
        yield Check(name=metric, passed=not worse, words=_told(metric, paired))


def _told(metric: str, paired: PairedDifference) -> str:
    change = paired.difference
    verb = "did not change" if change.value == 0 else "fell by" if change.value < 0 else "rose by"
    amount = "" if change.value == 0 else f" {abs(change.value):.3f}"
    chance = "p < 0.001" if paired.p_value < 0.001 else f"p = {paired.p_value:.3f}"
    return (
        f"{metric} {verb}{amount} (95 % interval {change.low:+.3f} to {change.high:+.3f}, "
        f"{paired.wins} won, {paired.losses} lost of {change.n} rows, {chance})"
    )


def _length(config: GateConfig, candidate: EvalReport, champion: EvalReport) -> Iterator[Check]:
    now, before = (report.overall.get("reply_tokens") for report in (candidate, champion))
    if now is not None and before is not None and before.value > 0:
        growth = now.value / before.value
        yield Check(
            name="length",
            passed=growth <= config.max_length_growth,
            words=f"replies went from {before.value:.1f} to {now.value:.1f} tokens, "
            f"{growth:.2f} times (at most {config.max_length_growth:g})",
        )


def _stops(config: GateConfig, candidate: EvalReport, champion: EvalReport) -> Iterator[Check]:
    now, before = (report.overall.get("stop_rate") for report in (candidate, champion))
    if now is not None and before is not None:
        yield Check(
            name="stop rate",
            passed=before.value - now.value <= config.max_stop_drop,
            words=f"the share of replies that end by themselves went from {before.value:.3f} to "
            f"{now.value:.3f} (may fall by {config.max_stop_drop:g})",
        )
