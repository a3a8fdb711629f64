"""Training rows worth a look: long, odd, or with a repeated prompt. They never change the verdict.

Not here: what the length limits truncate (`lengths.py`), how many repeats are too many
(`overlap.py`).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from alignment.data.dedup.compare import prompt_text
from alignment.data.filters.flags import Flag, flags
from alignment.data.row import Record, turns
from alignment.doctor.finding import Example, Finding, Piece, percent, share
from alignment.doctor.sets import SHOWN, PreparedSet
from alignment.records.text import PreferencePair
from alignment.report.table import Table


def check_flags(sets: Sequence[PreparedSet]) -> Finding:
    """How many training rows have each flag, with the first few of each set as examples."""
    found = {set_.name: _flagged(set_.train) for set_ in sets}
    rows = sum(len(set_.train) for set_ in sets)
    counts = {flag: sum(len(flagged[flag]) for flagged in found.values()) for flag in Flag}
    listed = ", ".join(
        f"{_words(flag)} {n:,} ({percent(share(n, rows))})" for flag, n in counts.items()
    )
    return Finding(
        check="flags",
        verdict="ok",
        headline=f"Worth a look among {rows:,} training rows: {listed}.",
        figures={str(flag): count for flag, count in counts.items()},
        tables=(
            Table.of(
                "Rows worth a look",
                ("Set", *map(_words, Flag)),
                [(name, *(f"{len(of[flag]):,}" for flag in Flag)) for name, of in found.items()],
            ),
        ),
        examples=tuple(
            Example(
                place=f"{name} · row {row.id}",
                note=_words(flag),
                pieces=(Piece(text="\n\n".join(_labelled_texts(row))),),
            )
            for name, of in found.items()
            for flag in Flag
            for row in of[flag][:SHOWN]
        ),
    )


def _flagged(rows: Sequence[Record]) -> defaultdict[Flag, list[Record]]:
    found: defaultdict[Flag, list[Record]] = defaultdict(list)
    seen: set[str] = set()
    for row in rows:
        for flag in flags(row):
            found[flag].append(row)
        prompt = prompt_text(row)
        if prompt in seen:
            found[Flag.repeated_prompt].append(row)
        seen.add(prompt)
    return found


def _labelled_texts(row: Record) -> Iterator[str]:
    if not isinstance(row, PreferencePair):
        yield from (f"{message.role}: {message.text}" for message in turns(row))
        return
    yield from (f"{message.role}: {message.text}" for message in row.prompt)
    yield from (f"chosen: {message.text}" for message in row.chosen)
    yield from (f"rejected: {message.text}" for message in row.rejected)


def _words(flag: Flag) -> str:
    return flag.replace("_", " ")
