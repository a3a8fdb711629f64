"""The plain gate: the candidate against the model it started from, on the same rows.

A round is kept unless it is shown to be worse. "Shown" is defined by `PairedDifference.shown`: the
95 % interval of the paired difference excludes zero *and* the exact two-sided sign test (McNemar's
test for pass and fail) gives p < .05. Guards check what a preference score does not see. The
evaluators define which metrics are compared and which have a guard. p-values are not corrected for
the number of comparisons. Not here: a bound on the loss of many rounds (`anchored.py`), the step
that passes a model on (`pipeline/steps/gate.py`).
"""

from collections.abc import Iterator

from alignment.evaluate.evaluator import Evaluator
from alignment.evaluate.intervals import PairedDifference
from alignment.evaluate.judged import JudgedModel, gate_evaluators
from alignment.evaluate.settings import PlainGate
from alignment.evaluate.verdict import Check, Verdict

_NO_COMMON_ROWS = Check(
    name="rows", finding="cannot be judged", words="the two models have no held-out row in common"
)


def judge(config: PlainGate, *, candidate: JudgedModel, champion: JudgedModel) -> Verdict:
    """The verdict on a round. One that lacks rows of the champion, or has none, is not kept.

    Args:
        config: the guards' limits.
        candidate: the round's model.
        champion: the model that the round started from.
    """
    compared = tuple(not_worse(candidate, champion))
    rows = (*compared, *_missing(candidate, champion)) if compared else (_NO_COMMON_ROWS,)
    checks = (*rows, *_guards(config, candidate, champion))
    return Verdict(candidate=candidate.label, champion=champion.label, checks=checks)


def not_worse(candidate: JudgedModel, champion: JudgedModel) -> Iterator[Check]:
    """One check per paired metric that both models have; metrics on pairs come first."""
    for evaluator in sorted(gate_evaluators("paired", "watched"), key=lambda e: e.needs != "pairs"):
        prompts = champion.prompts(evaluator)
        found = evaluator.paired(candidate.by_row(evaluator), champion.by_row(evaluator), prompts)
        if found is not None:
            found = found.above(candidate.noise.get(evaluator.name, 0.0))
            change = found.difference.value
            worse = found.shown and (change > 0 if evaluator.better == "lower" else change < 0)
            yield Check(
                name=evaluator.in_words,
                finding="failed" if worse else "passed",
                words=_in_words(evaluator, found),
            )


def _missing(candidate: JudgedModel, champion: JudgedModel) -> Iterator[Check]:
    """The compared metrics of which the candidate lacks rows, such as replies left unchecked."""
    for evaluator in gate_evaluators("paired", "watched"):
        own, theirs = candidate.by_row(evaluator).keys(), champion.by_row(evaluator).keys()
        if missing := theirs - own:
            words = (
                f"{evaluator.in_words}: {len(missing)} of the {len(theirs)} rows of "
                f"{champion.label} are missing"
            )
            yield Check(name=evaluator.in_words, finding="cannot be judged", words=words)


def _in_words(evaluator: Evaluator, paired: PairedDifference) -> str:
    change = paired.difference
    verb = "did not change" if change.value == 0 else "fell by" if change.value < 0 else "rose by"
    amount = "" if change.value == 0 else f" {abs(change.value):.3f}"
    chance = "p < 0.001" if paired.p_value < 0.001 else f"p = {paired.p_value:.3f}"
    noise = f", noise {paired.noise:.3f}" if paired.noise else ""
    return (
        f"{evaluator.in_words} {verb}{amount} (95 % interval {change.low:+.3f} to "
        f"{change.high:+.3f}, {paired.wins} won, {paired.losses} lost of {change.n} rows, "
        f"{chance}{noise})"
    )


def _guards(config: PlainGate, candidate: JudgedModel, champion: JudgedModel) -> Iterator[Check]:
    """One check per guarded metric that the champion has."""
    for evaluator in gate_evaluators("guard"):
        now, before = (model.stored.get(evaluator.name) for model in (candidate, champion))
        if now is not None and before is not None:
            check = evaluator.guard(config, now, before)
            if check is not None:
                yield check
        elif before is not None:
            words = f"{evaluator.in_words} of {candidate.label} was not measured"
            yield Check(name=evaluator.in_words, finding="cannot be judged", words=words)
