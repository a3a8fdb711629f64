"""The notes of a report: sentences about the whole run that a reader must not miss."""

from collections.abc import Iterable, Iterator, Sequence

from alignment.evaluate.evaluators import evaluator_of
from alignment.evaluate.verdict import Verdict
from alignment.pipeline.steps import STEPS
from alignment.records.manifest import StageRecord
from alignment.report.metric import show
from alignment.report.trail import Point, Trail

_BLIND = 0.1
"""A possible fall above which the plain gate, which has no margin, decided nothing."""


def step_notes(records: Iterable[StageRecord]) -> Iterator[str]:
    """Notes of steps, such as a missing adapter."""
    for record in records:
        if (kind := STEPS.get(record.stage)) and kind.notes_matter:
            yield from (f"{record.name}: {note}" for note in record.notes)


def gate_notes(verdicts: Sequence[Verdict], trail: Trail | None) -> Iterator[str]:
    """Which rounds were kept, why others were not, and what the last verdict leaves open."""
    if kept := [verdict.candidate for verdict in verdicts if verdict.kept]:
        yield f"The gate kept {', '.join(kept)}."
    yield from (f"The gate: {verdict.sentence}." for verdict in verdicts if not verdict.kept)
    if verdicts and trail is not None:
        yield from _undecided(verdicts[-1], trail)


def _undecided(verdict: Verdict, trail: Trail) -> Iterator[str]:
    """What the rows of a verdict are too few to decide."""
    for point in trail.of_round(verdict.candidate):
        allowed = _BLIND if trail.margin is None else trail.margin
        if point.at_worst < -allowed and verdict.finding != "failed":
            yield f"{_not_excluded(point, trail.anchor)}{_needed(point, trail)}."


def _not_excluded(point: Point, anchor: str) -> str:
    metric = evaluator_of(point.metric).in_words
    return (
        f"{point.n:,} rows are too few to decide on {metric}: {point.round} may lie up to "
        f"{show(-point.at_worst)} below {anchor}"
    )


def _needed(point: Point, trail: Trail) -> str:
    needed = trail.needed(point)
    if needed is None:
        return ""
    return f"; a margin of {trail.margin:g} takes about {max(needed, point.n + 1):,} rows"
