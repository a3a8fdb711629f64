"""The anchored gate: a round is kept if it is shown to hold a margin to the last approved model.

Rounds compared only with their parents may lose a little each time, and the losses add up. So each
round is also compared with the anchor, on the same rows: it has to be shown not to lie below it by
more than the margin. The error of that test is divided evenly among the rounds until a person
approves another model (Bonferroni), so it holds however the verdicts depend on each other.
Means that a preference score does not see have budgets, over all rounds since the anchor.
What cannot be judged is never kept. Not here: the tests (`noninferiority.py`), which model is the
anchor (`pipeline/chain_builder.py`, `rounds/state.py`).
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from alignment.data.split import unit_hash
from alignment.evaluate.evaluator import Evaluator, at_most
from alignment.evaluate.gate import not_worse
from alignment.evaluate.judged import JudgedModel, Labels, gate_evaluators
from alignment.evaluate.noninferiority import (
    PairedCounts,
    is_shown_above,
    is_shown_below,
    lower_bound,
    paired_counts,
)
from alignment.evaluate.settings import AnchoredGate
from alignment.evaluate.verdict import Check, Finding, Verdict

TOO_FEW = "rows"
"""The check that finds too few rows for a verdict."""
SHOWN = 0.05
"""Error of the tests that reject a round; too strict a level would let a bad one pass."""


def judge_anchored(
    config: AnchoredGate,
    *,
    candidate: JudgedModel,
    champion: JudgedModel,
    anchor: JudgedModel,
    look: int,
) -> Verdict:
    """The verdict on a round.

    Args:
        config: margin, error and budgets.
        candidate: the round's model.
        champion: the model that the round started from.
        anchor: the model that a person approved last.
        look: the number of this verdict since then, 1 for the first.
    """
    seen, before, approved = (unsealed(config, one) for one in (candidate, champion, anchor))
    margins = tuple(_margins(config, seen, approved))
    checks = (
        *margins,
        *_within_error(config, look),
        *not_worse(seen, before),
        *_groups(config, seen, approved),
        *_unmeasured(seen, approved, "watched"),
        *_budgets(config, seen, approved),
        *(_on_sealed(config, candidate, anchor) if is_opened(config, look) else ()),
    )
    # on too few rows, nothing else that was found is evidence either
    checks = margins if any(check.name == TOO_FEW for check in margins) else checks
    return Verdict(
        candidate=candidate.label,
        champion=champion.label,
        anchor=anchor.label,
        checks=checks,
        keep_undecided=config.on_inconclusive == "keep_candidate",
    )


def unsealed(config: AnchoredGate, model: JudgedModel) -> JudgedModel:
    """The model on the rows that every verdict looks at."""
    return model.only(lambda prompt: not _is_sealed(config, prompt)) if _seals(config) else model


def sealed(config: AnchoredGate, model: JudgedModel) -> JudgedModel:
    """The model on the sealed rows."""
    return model.only(lambda prompt: _is_sealed(config, prompt))


def is_opened(config: AnchoredGate, look: int) -> bool:
    """Whether a verdict also looks at the sealed rows."""
    return _seals(config) and look % config.sealed_every == 0


def _seals(config: AnchoredGate) -> bool:
    return config.sealed_share > 0


def _is_sealed(config: AnchoredGate, prompt: str) -> bool:
    return unit_hash(prompt, salt="sealed") < config.sealed_share


def _on_sealed(
    config: AnchoredGate, candidate: JudgedModel, anchor: JudgedModel
) -> Iterator[Check]:
    """One check per paired metric: on rows that chose no champion, the mean holds the margin.

    Sealed rows that the candidate lacks cannot be judged.
    """
    yield from _unmeasured(
        sealed(config, candidate), sealed(config, anchor), "paired", where=" on sealed rows"
    )
    for evaluator, counts, words in compared_on_sealed(config, candidate, anchor):
        holds = at_most(-counts.difference, config.margin)
        name = f"{evaluator.in_words} on sealed rows"
        allowed = f"{words} ({config.margin:g} below is allowed)"
        yield Check(name=name, finding="passed" if holds else "failed", words=allowed)


def compared_on_sealed(
    config: AnchoredGate, candidate: JudgedModel, anchor: JudgedModel
) -> Iterator[tuple[Evaluator, PairedCounts, str]]:
    """The paired metrics with enough sealed rows: their counts, and the difference in words."""
    own, other = sealed(config, candidate), sealed(config, anchor)
    for evaluator in gate_evaluators("paired"):
        rows = _PairedRows.of(evaluator, own, other)
        if rows.n >= config.min_rows and (counts := rows.counts()) is not None:
            words = (
                f"{evaluator.in_words} on the {rows.n} sealed rows is {_away(counts.difference)} "
                f"{anchor.label}, at worst {_away(lower_bound(counts, SHOWN / 2))} (error .025)"
            )
            yield evaluator, counts, words


def _margins(config: AnchoredGate, candidate: JudgedModel, anchor: JudgedModel) -> Iterator[Check]:
    """One check per paired metric with enough rows; one that cannot be judged if there is none."""
    decided = False
    for evaluator in gate_evaluators("paired"):
        rows = _PairedRows.of(evaluator, candidate, anchor)
        decided |= rows.n >= config.min_rows
        if rows.missing:
            yield _missing(evaluator, rows, anchor.label)
        elif rows.n >= config.min_rows and (counts := rows.counts()) is not None:
            yield _margin(config, evaluator, counts, rows, anchor.label)
    if not decided:
        words = f"no metric has {config.min_rows} held-out rows, so nothing is decided"
        yield Check(name=TOO_FEW, finding="cannot be judged", words=words)


def _margin(
    config: AnchoredGate, evaluator: Evaluator, counts: PairedCounts, rows: "_PairedRows", to: str
) -> Check:
    lowest = lower_bound(counts, config.level)
    words = (
        f"{evaluator.in_words} is {_away(counts.difference)} {to}, at worst {_away(lowest)} "
        f"(error {config.level:g}; {rows.wins} won, {rows.losses} lost of {rows.n} rows; "
        f"{config.margin:g} below is allowed{f', noise {rows.noise:.3f}' if rows.noise else ''})"
    )
    name = f"{evaluator.in_words} to anchor"
    return Check(name=name, finding=margin_finding(config, counts, rows.noise), words=words)


def _away(difference: float) -> str:
    if difference == 0:
        return "equal to"
    return f"{abs(difference):.3f} {'above' if difference > 0 else 'below'}"


def margin_finding(config: AnchoredGate, counts: PairedCounts, noise: float = 0.0) -> Finding:
    """Whether a share is shown to hold the margin, shown to break it, or neither.

    Measured again, the difference might be lower by the noise, which therefore has to fit as well.
    """
    if noise < config.margin and is_shown_above(counts, config.margin - noise, config.level):
        return "passed"
    return "failed" if _shown_below(counts, config.margin, SHOWN, noise) else "inconclusive"


def _shown_below(counts: PairedCounts, margin: float, level: float, noise: float) -> bool:
    return -counts.difference > noise and is_shown_below(counts, margin, level)


def _within_error(config: AnchoredGate, look: int) -> Iterator[Check]:
    if look > config.rounds:
        words = (
            f"{look - 1} rounds were judged since a model was approved, and gate.rounds is "
            f"{config.rounds}: approve the champion with `sft-dpo promote champion`"
        )
        yield Check(name="error", finding="cannot be judged", words=words)


def _groups(config: AnchoredGate, candidate: JudgedModel, anchor: JudgedModel) -> Iterator[Check]:
    """The task types and sources that are shown to be worse; the error is divided among them.

    All rows of a metric that is only watched are one more group.
    """
    groups = [
        (evaluator, name, counts, rows.noise)
        for evaluator in gate_evaluators("paired", "watched")
        for name, rows in _PairedRows.of(evaluator, candidate, anchor).groups()
        if rows.n >= config.min_rows and (counts := rows.counts()) is not None
    ]
    for evaluator, name, counts, noise in groups:
        if _shown_below(counts, config.group_margin, SHOWN / len(groups), noise):
            words = (
                f"{evaluator.in_words} of {name} is {_away(counts.difference)} "
                f"{anchor.label} ({config.group_margin:g} below is allowed)"
            )
            yield Check(name=f"{evaluator.in_words} of {name}", finding="failed", words=words)


def _unmeasured(
    candidate: JudgedModel, anchor: JudgedModel, *parts: str, where: str = ""
) -> Iterator[Check]:
    """The metrics of these parts of which the candidate lacks rows."""
    for evaluator in gate_evaluators(*parts):
        rows = _PairedRows.of(evaluator, candidate, anchor)
        if rows.missing:
            yield _missing(evaluator, rows, anchor.label, where)


def _missing(evaluator: Evaluator, rows: "_PairedRows", to: str, where: str = "") -> Check:
    all_, name = rows.n + rows.missing, f"{evaluator.in_words}{where}"
    words = f"{name}: {rows.missing} of the {all_} rows of {to} are missing"
    return Check(name=name, finding="cannot be judged", words=words)


def _budgets(config: AnchoredGate, candidate: JudgedModel, anchor: JudgedModel) -> Iterator[Check]:
    """One check per metric with a budget that the anchor has."""
    for evaluator in gate_evaluators("guard", "budget"):
        now, then = candidate.mean(evaluator), anchor.mean(evaluator)
        if then is None:
            continue
        name, to = f"{evaluator.in_words} to anchor", anchor.label
        if now is None or not math.isfinite(now) or not math.isfinite(then):
            words = f"{evaluator.in_words} is {_number(now)}, and {_number(then)} for {to}"
            yield Check(name=name, finding="cannot be judged", words=words)
            continue
        budget = evaluator.budget(config, now, then)
        shown = f"{now:.{evaluator.digits}f} and {then:.{evaluator.digits}f} for {to}"
        words = f"{evaluator.in_words} is {shown}: {budget.change} ({budget.allowed})"
        yield Check(name=name, finding=_WITHIN[budget.holds], words=words)


_WITHIN: dict[bool | None, Finding] = {True: "passed", False: "failed", None: "cannot be judged"}


def _number(mean: float | None) -> str:
    return "not measured" if mean is None else f"{mean:g}"


class _PairedRows(NamedTuple):
    """The rows of one metric that both models have, and how many the candidate lacks."""

    candidate: Mapping[str, float]
    anchor: Mapping[str, float]
    rows: Mapping[str, Labels]
    watched: bool
    noise: float

    @classmethod
    def of(cls, evaluator: Evaluator, candidate: JudgedModel, anchor: JudgedModel) -> "_PairedRows":
        own, theirs = candidate.by_row(evaluator), anchor.by_row(evaluator)
        noise = candidate.noise.get(evaluator.name, 0.0)
        return cls(own, theirs, anchor.labels(evaluator), evaluator.gate == "watched", noise)

    @property
    def n(self) -> int:
        return len(self.anchor.keys() & self.candidate.keys())

    @property
    def missing(self) -> int:
        return len(self.anchor.keys() - self.candidate.keys())

    @property
    def wins(self) -> int:
        return sum(self.candidate[row] > self.anchor[row] for row in self._common())

    @property
    def losses(self) -> int:
        return sum(self.candidate[row] < self.anchor[row] for row in self._common())

    def _common(self) -> set[str]:
        return set(self.anchor.keys() & self.candidate.keys())

    def counts(self) -> PairedCounts | None:
        """The counts, adjusted for prompts that occur in several rows."""
        clusters = {key: row.prompt or key for key, row in self.rows.items()}
        return paired_counts(self.candidate, self.anchor, clusters)

    def groups(self) -> Iterator[tuple[str, "_PairedRows"]]:
        """The rows of each task type and each source, where there are several."""
        if self.watched:
            yield "all rows", self
        for kind, field in (("task type", "task_type"), ("source", "source")):
            ids: dict[str, set[str]] = defaultdict(set)
            for key, row in self.rows.items():
                ids[getattr(row, field)].add(key)
            for name, members in ids.items() if len(ids) > 1 else ():
                yield f"{kind} {name}", self._only(members)

    def _only(self, members: set[str]) -> "_PairedRows":
        def part(values: Mapping[str, float]) -> dict[str, float]:
            return {key: value for key, value in values.items() if key in members}

        return self._replace(candidate=part(self.candidate), anchor=part(self.anchor))
