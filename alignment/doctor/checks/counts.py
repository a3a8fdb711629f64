"""Row counts by source and by drop reason, with examples for each reason."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from alignment.answers.interpreter import HOW
from alignment.config.inbox import InboxConfig
from alignment.data.build.report import ADVICE, listed_unread
from alignment.data.row import Reason
from alignment.doctor.finding import Example, Finding, Piece, graded, percent, share
from alignment.doctor.sets import PreparedSet, shown
from alignment.pipeline.chain import Chain
from alignment.pipeline.steps import PreparePairs
from alignment.records.text import Quarantined
from alignment.report.table import Table

BY_CHOICE = frozenset(
    {
        Reason.merged,
        Reason.not_sampled,
        Reason.other_part,
        Reason.over_limit,
        Reason.repeated_prompt,
    }
)
"""Drops that the configuration asks for, and rows that are part of another record."""
NO_DEFECT = BY_CHOICE | frozenset(
    {
        Reason.no_contrast,
        Reason.tie,
        Reason.score_inverted,
        Reason.duplicate,
        Reason.near_duplicate,
        Reason.unpaired,
        Reason.conflicting_label,
        Reason.too_long,
        Reason.prompt_too_long,
        Reason.in_evaluation_set,
        Reason.used_by_earlier_round,
        Reason.untrained,
    }
)
"""Reasons that do not mean the row's text is damaged, or that another check covers."""
WARN, FAIL = 0.05, 0.5
"""Limits on the share of a source's rows that are damaged."""


def check_rows(sets: Sequence[PreparedSet]) -> Finding:
    """Rows per source and reason; a source that loses many rows was misread or is bad."""
    lost = {
        source.source: _lost(source.read, source.dropped)
        for set_ in sets
        for source in set_.report.sources
    }
    worst_source = max(lost, key=lost.__getitem__, default="")
    worst_share = lost.get(worst_source, 0.0)
    read = sum(set_.read for set_ in sets)
    unused = sum(row.reason not in NO_DEFECT for set_ in sets for row in set_.dropped)
    verdict = graded(worst_share, warn=WARN, fail=FAIL)
    headline = f"{unused:,} of {read:,} rows read are damaged ({percent(share(unused, read))})"
    if verdict != "ok":
        headline += f"; in {worst_source} it is {percent(worst_share)}"
    return Finding(
        check="rows",
        verdict=verdict,
        headline=f"{headline}.",
        figures={"read": read, "unused": unused, "worst_source_share": worst_share},
        tables=(_sources(sets), *([_reasons(sets)] if any(s.dropped for s in sets) else [])),
        examples=tuple(
            example(set_, row)
            for set_ in sets
            for row in shown(set_.dropped)
            if row.reason not in BY_CHOICE
        ),
        remedy=_remedy(sets),
    )


def check_unwritten(chain: Chain, inbox: InboxConfig | None) -> Iterator[Finding]:
    """The rounds whose pairs the run itself writes, so that nothing of them can be checked."""
    steps = [r.pairs.name for r in chain.rounds if not isinstance(r.pairs, PreparePairs)]
    answers = [r.own.answers for r in chain.rounds if r.own is not None]
    obstacles = dict.fromkeys(obstacle for step in answers for obstacle in step.foreseen)
    later = inbox.foreseen if inbox else ()
    here = "".join(f" Here, {obstacle}." for obstacle in (*obstacles, *later))
    rounds = (
        f"{', '.join(steps)}: written during the run, so rows, lengths, memory and time of these "
        "rounds are not checked."
        if steps
        else "No round of the run is on own answers; rounds on prompts from the inbox are."
    )
    if steps or later:
        yield Finding(
            check="own answers",
            verdict="warn" if obstacles or later else "skip",
            headline=f"{rounds}{here}",
            remedy=HOW,
        )


def _remedy(sets: Sequence[PreparedSet]) -> str:
    """What helps against the most frequent of the reasons that mean damage."""
    found = Counter(row.reason for set_ in sets for row in set_.dropped)
    damage = [reason for reason, _ in found.most_common() if reason not in NO_DEFECT]
    return ADVICE.get(
        damage[0] if damage else "",
        "Read the examples below. If the format was misread, set the source's `format`; if "
        "the source is bad, fix or remove it.",
    )


def example(set_: PreparedSet, row: Quarantined) -> Example:
    """A dropped row, with its raw fields if the source could be read again."""
    fields = set_.originals.get((row.file, row.row))
    text = "" if fields is None else json.dumps(fields, ensure_ascii=False, indent=1)
    return Example(
        place=f"{set_.name} · {row.file} row {row.row}",
        note=f"{row.reason}: {row.detail}" if row.detail else row.reason,
        pieces=(Piece(text=text),) if text else (),
    )


def _lost(read: int, dropped: dict[str, int]) -> float:
    """The damaged share of the rows that belong to this set."""
    damaged = sum(count for reason, count in dropped.items() if reason not in NO_DEFECT)
    return share(damaged, read - dropped.get(Reason.other_part, 0))


def _sources(sets: Sequence[PreparedSet]) -> Table:
    rows = [
        (
            set_.name,
            source.source,
            f"{source.read:,}",
            f"{source.kept:,}",
            f"{source.held_out:,}",
            f"{sum(source.dropped.values()):,}",
            f"{source.format}: {source.reason}",
            listed_unread(source.unread),
        )
        for set_ in sets
        for source in set_.report.sources
    ]
    columns = (
        "Set",
        "Source",
        "Read",
        "Train",
        "Held out",
        "Dropped",
        "Format, and why",
        "Not read (rows)",
    )
    return Table.of("Rows by source", columns, rows, align="llrrrrll")


def _reasons(sets: Sequence[PreparedSet]) -> Table:
    counts = {set_.name: Counter(row.reason for row in set_.dropped) for set_ in sets}
    reasons = sorted({reason for counter in counts.values() for reason in counter})
    rows = [
        (
            reason,
            *(f"{counter[reason]:,}" if counter[reason] else "" for counter in counts.values()),
        )
        for reason in reasons
    ]
    return Table.of("Dropped rows by reason", ("Reason", *counts), rows)
