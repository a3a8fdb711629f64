"""A prepared set: its files, and a report on every row, by source."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pydantic import Field

from alignment.data.formats import Kind
from alignment.data.row import Reason
from alignment.records.base import Frozen
from alignment.records.refs import DataRef
from alignment.records.text import Quarantined

TRAIN, HELD_OUT, PROMPTS = "train.jsonl", "held_out.jsonl", "prompts.jsonl"
QUARANTINE, PROMPT_KEYS = "quarantine.jsonl", "prompt_keys.json"
SET_SIGNATURES = "likeness.npy"
"""MinHash signatures of a set's rows, to find near duplicates in later sets."""
REPORT = "report.json"
"""`PreparationReport`: counts of kept and dropped rows by source."""
UNREADABLE = frozenset({Reason.malformed, Reason.bad_encoding})
"""Reasons that point to a broken file rather than to a bad row."""


class SourceReport(Frozen):
    """Counts of one source's rows: read = kept + held_out + sum of `dropped`.

    Attributes:
        format: the format in which its rows were read.
        reason: why this format was chosen.
        read: records, plus rows that gave none; one row may hold several records.
        kept: training rows.
        dropped: rows not used, by reason.
        unread: columns and fields that the format does not read, with how many rows had them.
    """

    source: str
    format: str
    reason: str
    read: int
    kept: int
    held_out: int
    dropped: dict[str, int]
    unread: dict[str, int] = Field(default_factory=dict)


class PreparationReport(Frozen):
    """Counts by source, and notes for the user."""

    sources: tuple[SourceReport, ...]
    notes: tuple[str, ...] = ()


class Prepared(NamedTuple):
    """A prepared set, whose file names are relative to `out`, and its report."""

    ref: DataRef
    report: PreparationReport


def by_reason(counts: Iterable[Counter[str]]) -> dict[str, int]:
    """Sum of the counts, by reason."""
    total: Counter[str] = Counter()
    for counter in counts:
        total.update(counter)
    return {str(reason): count for reason, count in sorted(total.items())}


def listed_unread(unread: Mapping[str, int]) -> str:
    """Columns that were not read, with how many rows had them; the most frequent first."""
    most = sorted(unread.items(), key=lambda one: (-one[1], one[0]))
    shown = ", ".join(f"{name[:60]} ({count})" for name, count in most[:UNREAD_SHOWN])
    more = len(most) - UNREAD_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


UNREAD_SHOWN = 12


def too_many_unreadable(first: Quarantined, bad: int, read: int, *, tolerated: float) -> str:
    """Error message for too many unreadable rows: their number, the first one, what to do."""
    return (
        f"{bad} of {read} rows ({bad / read:.1%}) are unreadable, more than "
        f"max_malformed_share {tolerated:g} tolerates. The first: {first.file} line "
        f"{first.row}: {first.detail}. Fix the file, or raise max_malformed_share."
    )


def too_few(kind: Kind, kept: int, report: PreparationReport, *, min_rows: int) -> str:
    """Error message for too few training rows: why the others were dropped, what to do."""
    read = sum(source.read for source in report.sources)
    held = sum(source.held_out for source in report.sources)
    reasons: Counter[str] = Counter()
    for source in report.sources:
        reasons.update(source.dropped)
    counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    advice = [ADVICE[reason] for reason, _ in reasons.most_common() if reason in ADVICE]
    remaining = f"only {kept} usable {kind} remain" if kept else f"no usable {kind} remain"
    return (
        f"{remaining} to train on, min_rows is {min_rows}: {read} rows read, {held} held out, "
        f"dropped: {counts or 'none'}. {advice[0] if advice else 'Add rows or sources.'}"
    )


ADVICE: Mapping[str, str] = {
    Reason.used_by_earlier_round: "Give each round its own rows: other sources, or part: "
    "{index: 1, of: 2} in one round and {index: 2, of: 2} in the next.",
    Reason.template: "The chat template refuses them. If for their system turns, set template: "
    "{name: model, system: into_user}; otherwise choose another template.",
    Reason.no_tool_template: "Set template: {name: file, path: ...} to one that renders calls.",
    Reason.too_long: "Raise max_length; for SFT, `too_long: truncate_oldest_turns` keeps the rest.",
    Reason.prompt_too_long: "Raise max_prompt_length, or use shorter prompts.",
    Reason.in_evaluation_set: "Use other rows: these are held out for evaluation.",
}
