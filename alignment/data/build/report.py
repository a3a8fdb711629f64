"""A prepared set: its files, and what became of every row, source by source."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from alignment.data.formats import Kind
from alignment.data.row import Reason
from alignment.records import DataRef, Frozen, Quarantined

TRAIN, HELD_OUT, PROMPTS = "train.jsonl", "held_out.jsonl", "prompts.jsonl"
QUARANTINE, PROMPT_KEYS = "quarantine.jsonl", "prompt_keys.json"
LIKENESS = "likeness.npy"
"""MinHash signatures of the rows of a set, for the near duplicates of later ones."""
REPORT = "report.json"
"""`PreparationReport`: what became of every row."""
UNREADABLE = frozenset({Reason.malformed, Reason.bad_encoding})
"""Reasons that speak against the file, not against the row."""


class SourceReport(Frozen):
    """What became of one source's rows: read = kept + held_out + sum of `dropped`.

    Attributes:
        format: in which its rows were read, and `reason`: why that one.
        read: records, and rows that gave none; one row may hold several records.
        kept: rows to train on.
        dropped: rows not used, by reason.
    """

    source: str
    format: str
    reason: str
    read: int
    kept: int
    held_out: int
    dropped: dict[str, int]


class PreparationReport(Frozen):
    """What became of every row, and in words what a person should know about it."""

    sources: tuple[SourceReport, ...]
    notes: tuple[str, ...] = ()


class Prepared(NamedTuple):
    """A prepared set, its uris being names of files under `out`, and how it came to be."""

    ref: DataRef
    report: PreparationReport


def by_reason(counts: Iterable[Counter[str]]) -> dict[str, int]:
    """Rows not used, by reason."""
    total: Counter[str] = Counter()
    for counter in counts:
        total.update(counter)
    return {str(reason): count for reason, count in sorted(total.items())}


def too_many_unreadable(first: Quarantined, bad: int, read: int, *, tolerated: float) -> str:
    """How many rows cannot be read, the first of them, and the way out."""
    return (
        f"{bad} of {read} rows ({bad / read:.1%}) are unreadable, more than "
        f"max_malformed_share {tolerated:g} tolerates. The first: {first.file} line "
        f"{first.row}: {first.detail}. Mend the file, or raise max_malformed_share."
    )


def too_few(kind: Kind, kept: int, report: PreparationReport, *, min_rows: int) -> str:
    """That too little is left, what became of the rest, and the way out."""
    read = sum(source.read for source in report.sources)
    held = sum(source.held_out for source in report.sources)
    reasons: Counter[str] = Counter()
    for source in report.sources:
        reasons.update(source.dropped)
    counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    advice = [_ADVICE[reason] for reason, _ in reasons.most_common() if reason in _ADVICE]
    left = f"only {kept} usable {kind} are" if kept else f"no usable {kind} are"
    return (
        f"{left} left to train on, min_rows is {min_rows}: {read} rows read, {held} held out, "
        f"not used: {counts or 'none'}. {advice[0] if advice else 'Add rows or sources.'}"
    )


_ADVICE: Mapping[str, str] = {
    Reason.used_by_earlier_round: "Give each round its own rows: other sources, or part: "
    "{index: 1, of: 2} in one round and {index: 2, of: 2} in the next.",
    Reason.too_long: "Raise max_length, or take shorter rows.",
    Reason.prompt_too_long: "Raise max_prompt_length, or take shorter prompts.",
    Reason.in_evaluation_set: "Take other rows: these are held out for evaluation.",
}
