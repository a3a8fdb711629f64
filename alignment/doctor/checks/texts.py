"""What the texts contain: forged turns, markers of other templates, refusals."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from alignment.data.row import Reason, Record, turns
from alignment.doctor.checks.counts import example
from alignment.doctor.finding import Example, Finding, Piece, graded, percent, share
from alignment.doctor.sets import PreparedSet, shown
from alignment.records.text import Conversation, PreferencePair
from alignment.report.table import Table

FOREIGN = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id)\|>|\[/?INST\]|<</?SYS>>|</?s>"
    r"|^\#{2,3} ?(?:Instruction|Response|Human|Assistant):?|^(?:Human|Assistant|User|AI): ",
    re.MULTILINE,
)
"""Turn markers of common templates as plain text: ChatML, Llama 2 and 3, Alpaca, HH transcripts."""
FORGED = (Reason.special_token, Reason.turn_marker)
FOREIGN_WARN, FORGED_WARN, FORGED_FAIL = 0.01, 0.001, 0.1
REFUSAL = re.compile(
    r"\W*(?:I['\u2019]?m (?:really |very |so )?sorry|I apologi[sz]e|Sorry,|As an AI"
    r"|Unfortunately, I (?:can|am)|I['\u2019]?m (?:just )?an AI"
    r"|I (?:can(?:not|['\u2019]?t| not)|won['\u2019]?t) "
    r"|I(?: am|['\u2019]?m) (?:unable|not able) )",
    re.IGNORECASE,
)
"""How replies that refuse or apologise begin. English only."""
REFUSALS_WARN, REFUSALS_RATIO = 0.1, 2.0


def check_forged_turns(sets: Sequence[PreparedSet]) -> Finding:
    """Texts that would open or close a turn, and markers of other templates in kept rows."""
    removed = [row for set_ in sets for row in set_.dropped if row.reason in FORGED]
    foreign = [
        (set_, row, found)
        for set_ in sets
        for row in set_.train
        if (found := _foreign(row)) is not None
    ]
    read, kept = sum(s.read for s in sets), sum(len(s.train) for s in sets)
    parts = share(len(removed), read), share(len(foreign), kept)
    verdict = graded(parts[0], warn=FORGED_WARN, fail=FORGED_FAIL)
    if verdict == "ok" and parts[1] >= FOREIGN_WARN:
        verdict = "warn"
    marks = sorted({found for _, _, found in foreign})
    seen = f" ({', '.join(marks[:5])})" if marks else ""
    return Finding(
        check="forged turns",
        verdict=verdict,
        headline=f"{len(removed):,} rows with control tokens or turn markers in their text were "
        f"dropped; {len(foreign):,} kept rows contain markers of other templates{seen}.",
        figures={"left_out": len(removed), "foreign_marks": len(foreign)},
        examples=(
            *(
                example(set_, row)
                for set_ in sets
                for row in shown(set_.dropped)
                if row.reason in FORGED
            ),
            *(
                Example(
                    place=f"{set_.name} · row {row.id}",
                    note=f"foreign marker: {found}",
                    pieces=(Piece(text=_around(row, found)),),
                )
                for set_, row, found in foreign[:3]
            ),
        ),
        remedy="Strip what an earlier template left in the texts. A row whose text opens a turn "
        "of its own is an attack or a broken export.",
    )


def check_refusals(sets: Sequence[PreparedSet]) -> Finding:
    """How often replies open with a refusal, by source: chosen, rejected, imitated."""
    counts: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    for set_ in sets:
        for row in set_.train:
            for side, text in _replies(row):
                counts[f"{set_.name} · {row.source}", side].append(bool(REFUSAL.match(text)))
    shares = {key: share(sum(found), len(found)) for key, found in counts.items()}
    groups = sorted({group for group, _ in counts})
    taught = {
        group: max(shares.get((group, "chosen"), 0.0), shares.get((group, "imitated"), 0.0))
        for group in groups
        if shares.get((group, "chosen"), 0.0)
        >= REFUSALS_RATIO * shares.get((group, "rejected"), 0.0)
    }
    where = max(taught, key=taught.__getitem__, default="")
    part = taught.get(where, 0.0)
    verdict = "warn" if part >= REFUSALS_WARN else "ok"
    total = share(sum(sum(f) for f in counts.values()), sum(len(f) for f in counts.values()))
    sides = ("imitated", "chosen", "rejected")
    rows = [
        (
            group,
            *(percent(shares[group, side]) if (group, side) in shares else "" for side in sides),
        )
        for group in groups
    ]
    return Finding(
        check="refusals",
        verdict=verdict,
        headline=f"{percent(total)} of all replies open with a refusal or an apology"
        + (
            f", and {percent(part)} of the replies that {where} teaches."
            if verdict == "warn"
            else "."
        ),
        figures={f"{group} / {side}": value for (group, side), value in shares.items()},
        tables=(
            Table.of(
                "Replies that open with a refusal",
                ("Set and source", "Imitated", "Chosen", "Rejected"),
                rows,
            ),
        ),
        remedy="The model learns to refuse from these rows: keep them only where you want to teach "
        "refusals.",
    )


def _replies(row: Record) -> Iterator[tuple[str, str]]:
    if isinstance(row, Conversation):
        yield from (("imitated", m.content) for m in row.messages if m.role == "assistant")
    elif isinstance(row, PreferencePair):
        yield "chosen", row.chosen[-1].content
        yield "rejected", row.rejected[-1].content


def _foreign(row: Record) -> str | None:
    found = (FOREIGN.search(message.content) for message in turns(row))
    return next((match[0].strip() for match in found if match), None)


def _around(row: Record, mark: str) -> str:
    text = next(m.content for m in turns(row) if mark in m.content)
    at = text.index(mark)
    return f"…{text[max(0, at - 120) : at + 120]}…"
