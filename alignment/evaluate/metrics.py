"""From scored rows to the numbers of an `EvalReport`: arithmetic only, no model is run.

A metric is a weighted mean over rows; the weight is 1, or the tokens of a reply where the unit
is nats per token. Rows keep their task type and source, so every number exists in total and by
group. Not here: what a reply is worth (verifiers) and what a difference leads to (the gate).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from alignment.errors import TrainingError
from alignment.evaluate import intervals
from alignment.records import Estimate, Generation, PairScore

Metrics = dict[str, Estimate]

SHARES = frozenset(
    {
        "pass_rate",
        "pass_rate_seen",
        "pass_rate_unseen",
        "preference_accuracy",
        "preference_accuracy_per_token",
        "reward_accuracy",
        "stop_rate",
    }
)
"""The metrics that count rows: each row is 0 or 1."""


class Summary(NamedTuple):
    """The three dictionaries of an `EvalReport`."""

    overall: Metrics
    by_task_type: dict[str, Metrics]
    by_source: dict[str, Metrics]


class Measured(NamedTuple):
    """What one row adds to one metric: `total` over `weight`."""

    metric: str
    task_type: str
    source: str
    total: float
    weight: float = 1.0


def summarise(
    pairs: Sequence[PairScore],
    generations: Sequence[Generation],
    *,
    kl_from_base: Mapping[str, float] | None = None,
    logprob_drift: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Summary:
    """Every metric that these rows allow, in total, by task type and by source.

    Args:
        pairs: held-out pairs, scored.
        generations: greedy replies to held-out prompts.
        kl_from_base: by pair id, for all pairs or some: KL to the base model in nats per token,
            averaged over the tokens of the chosen reply.
        logprob_drift: by pair id, for all pairs or some: log-prob of the chosen reply minus that
            under the parent model, in nats; the sign is dropped here.
        seed: of the bootstrap.

    Raises:
        TrainingError: a log-prob, KL or drift is not a finite number.
    """
    measured = [*_of_pairs(pairs), *_of_generations(generations)]
    measured += _of_kl(pairs, kl_from_base or {})
    measured += _of_drift(pairs, logprob_drift or {})
    return Summary(
        overall=_estimates(measured, seed=seed),
        by_task_type=_grouped(measured, lambda row: row.task_type, seed=seed),
        by_source=_grouped(measured, lambda row: row.source, seed=seed),
    )


def is_preferred(pair: PairScore) -> bool:
    """Whether the model gives the chosen reply more summed log-prob than the rejected one."""
    return pair.chosen > pair.rejected


def is_preferred_per_token(pair: PairScore) -> bool:
    """The same on the mean log-prob of a token, which a short reply does not win by length."""
    return pair.chosen / pair.chosen_tokens > pair.rejected / pair.rejected_tokens


def reward_margin(pair: PairScore) -> float:
    """Implicit reward of chosen - rejected against the base model, over beta, in nats.

    Rafailov et al. 2023, eq. 5: r(x, y) = beta log(pi(y|x) / pi_base(y|x)) + beta log Z(x);
    Z(x) cancels between two replies to one prompt.
    """
    return (pair.chosen - pair.base_chosen) - (pair.rejected - pair.base_rejected)


def passes_by_id(generations: Iterable[Generation]) -> dict[str, bool]:
    """Pass or fail for every prompt that something verifies, for `intervals.paired_shares`."""
    return {row.id: row.passed for row in generations if row.passed is not None}


def preferences_by_id(pairs: Iterable[PairScore]) -> dict[str, bool]:
    """Right or wrong for every pair: `is_preferred`."""
    return {pair.id: is_preferred(pair) for pair in pairs}


def margins_by_id(pairs: Iterable[PairScore]) -> dict[str, float]:
    """Nats for every pair: `reward_margin`, for `intervals.paired_means`."""
    return {pair.id: reward_margin(pair) for pair in pairs}


def _of_pairs(pairs: Sequence[PairScore]) -> Iterator[Measured]:
    for pair in pairs:
        _check_finite("a log-prob", pair.id, pair.chosen + pair.rejected)
        _check_finite("a log-prob of the base model", pair.id, reward_margin(pair))
    # The base model has no reward against itself: an accuracy of 0 would read as a failure.
    rewarded = any(reward_margin(pair) != 0 for pair in pairs)
    for pair in pairs:
        margin = reward_margin(pair)
        yield _measure(pair, "preference_accuracy", is_preferred(pair))
        yield _measure(pair, "preference_accuracy_per_token", is_preferred_per_token(pair))
        yield _measure(pair, "margin", margin)
        yield _measure(pair, "nll", -pair.chosen, weight=pair.chosen_tokens)
        if rewarded:
            yield _measure(pair, "reward_accuracy", margin > 0)


def _of_generations(generations: Sequence[Generation]) -> Iterator[Measured]:
    for row in generations:
        yield _measure(row, "reply_tokens", row.tokens)
        yield _measure(row, "stop_rate", row.stopped)
        if row.passed is None:
            continue
        yield _measure(row, "pass_rate", row.passed)
        if row.unseen is not None:
            yield _measure(row, f"pass_rate_{'unseen' if row.unseen else 'seen'}", row.passed)


def _of_kl(pairs: Sequence[PairScore], kl: Mapping[str, float]) -> Iterator[Measured]:
    for pair in pairs:
        if (nats := kl.get(pair.id)) is None:
            continue
        _check_finite("the KL from the base model", pair.id, nats)
        yield _measure(pair, "kl_from_base", nats * pair.chosen_tokens, weight=pair.chosen_tokens)


def _of_drift(pairs: Sequence[PairScore], drift: Mapping[str, float]) -> Iterator[Measured]:
    for pair in pairs:
        if (nats := drift.get(pair.id)) is None:
            continue
        _check_finite("the drift of a log-prob", pair.id, nats)
        yield _measure(pair, "logprob_drift", abs(nats))


def _measure(
    row: PairScore | Generation, metric: str, total: float, *, weight: float = 1.0
) -> Measured:
    return Measured(metric, row.task_type, row.source, float(total), float(weight))


def _check_finite(what: str, row: str, number: float) -> None:
    if not math.isfinite(number):
        raise TrainingError(
            f"{what} on held-out pair {row!r} is {number}: the model's weights or logits are "
            "not finite. Look at the loss of the stage that made it, and lower its learning rate"
        )


def _grouped(
    measured: Iterable[Measured], group: Callable[[Measured], str], *, seed: int
) -> dict[str, Metrics]:
    groups: defaultdict[str, list[Measured]] = defaultdict(list)
    for row in measured:
        groups[group(row)].append(row)
    return {name: _estimates(groups[name], seed=seed) for name in sorted(groups)}


def _estimates(measured: Iterable[Measured], *, seed: int) -> Metrics:
    metrics: defaultdict[str, list[Measured]] = defaultdict(list)
    for row in measured:
        metrics[row.metric].append(row)
    return {name: _estimate(metrics[name], seed=seed) for name in sorted(metrics)}


def _estimate(rows: Sequence[Measured], *, seed: int) -> Estimate:
    totals, weights = [row.total for row in rows], [row.weight for row in rows]
    if rows[0].metric in SHARES:
        return intervals.proportion(round(sum(totals)), len(rows))
    return intervals.ratio(totals, weights, seed=seed)
