"""Repeated text: within a set, across sets, and between training and held-out rows.

The split already separates prompts by their first user turn (`data/split.py`); these checks look
for what its key does not see. Not here: dropping rows, which the data stages do.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from alignment.data.row import Reason, Record
from alignment.data.split import normalise, prompt_key
from alignment.doctor.finding import Example, Finding, Piece, graded, percent, share, worst
from alignment.doctor.sets import PreparedSet
from alignment.records.text import Conversation, Message
from alignment.report.table import Table

DUPLICATES_WARN, REPEATS_WARN = 0.05, 0.3
CONTAMINATION_WARN, CONTAMINATION_FAIL = 0.005, 0.05
SHINGLE = 8
"""Consecutive words that form one shingle of a prompt."""
MIN_SHINGLES, COVERED = 8, 0.8
"""A prompt is a near-copy if it has at least this many shingles, and at least this share of them
occurs in one held-out prompt."""
BOILERPLATE = 20
"""A shingle that occurs in more held-out prompts than this is common phrasing, and is ignored."""


def check_duplicates(sets: Sequence[PreparedSet]) -> Finding:
    """Rows dropped as duplicates, and prompts that occur more than once in a set."""
    rows = []
    removed = repeated = kept = read = 0
    for set_ in sets:
        copies = set_.count(Reason.duplicate, Reason.near_duplicate)
        prompts = Counter(map(_key, set_.train))
        repeats = len(set_.train) - len(prompts)
        rows.append((set_.name, f"{copies:,}", f"{repeats:,}", f"{_shared(set_, sets):,}"))
        removed, repeated = removed + copies, repeated + repeats
        kept, read = kept + len(set_.train), read + set_.read
    parts = share(removed, read), share(repeated, kept)
    verdict = worst(
        "warn" if part >= limit else "ok"
        for part, limit in zip(parts, (DUPLICATES_WARN, REPEATS_WARN), strict=True)
    )
    columns = ("Set", "Copies dropped", "Repeated prompts", "Prompts also in another set")
    return Finding(
        check="duplicates",
        verdict=verdict,
        headline=f"{removed:,} copies were dropped ({percent(parts[0])} of rows read); "
        f"{repeated:,} rows repeat a prompt of their set ({percent(parts[1])}).",
        figures={"copies": removed, "repeated_prompts": repeated},
        tables=(Table.of("Repeated text", columns, rows),),
        remedy="Find out why the source repeats itself: a repeated row counts twice, and the set "
        "has fewer distinct examples than it seems.",
    )


def check_contamination(sets: Sequence[PreparedSet]) -> Finding:
    """Training prompts that are held out elsewhere: with the same split key, or as near-copies."""
    held = {
        _key(row): f"{set_.name} · row {row.id}" for set_ in sets for row in set_.held_out
    }  # fmt: skip
    index = _index(sets)
    exact: list[Example] = []
    near: list[Example] = []
    trained = 0
    for set_ in sets:
        for row in set_.train:
            trained += 1
            place = f"{set_.name} · row {row.id}"
            if (at := held.get(_key(row))) is not None:
                exact.append(_example(place, f"same first turn as {at}", row))
            elif (copied := _copied_prompt(row, index)) is not None:
                near.append(_example(place, f"near-copy of the prompt of {copied}", row))
    removed = {
        reason: sum(set_.count(reason) for set_ in sets)
        for reason in (Reason.in_evaluation_set, Reason.used_by_earlier_round)
    }
    part = share(len(near), trained)
    verdict = "fail" if exact else graded(part, warn=CONTAMINATION_WARN, fail=CONTAMINATION_FAIL)
    return Finding(
        check="contamination",
        verdict=verdict,
        headline=f"{len(exact) + len(near):,} of {trained:,} training rows have a held-out prompt "
        f"({len(near):,} as near-copies); {removed[Reason.in_evaluation_set]:,} such rows and "
        f"{removed[Reason.used_by_earlier_round]:,} used by an earlier round were dropped.",
        figures={"exact": len(exact), "near": len(near), "share": part}
        | {f"left_out_{reason}": count for reason, count in removed.items()},
        examples=(*exact[:3], *near[:3]),
        remedy="Remove these rows from the training sources; otherwise the held-out results are "
        "too optimistic.",
    )


Index = dict[int, list[str]]
"""Maps the hash of a shingle to the names of the held-out prompts that contain it."""


def _index(sets: Sequence[PreparedSet]) -> Index:
    index: defaultdict[int, list[str]] = defaultdict(list)
    for set_ in sets:
        for row in set_.held_out:
            for shingle in set(_shingles(row)):
                index[shingle].append(f"{set_.name} · row {row.id}")
    return {shingle: rows for shingle, rows in index.items() if len(rows) <= BOILERPLATE}


def _copied_prompt(row: Record, index: Index) -> str | None:
    """The held-out prompt that this row's prompt is a near-copy of, if any."""
    shingles = set(_shingles(row))
    found = Counter(name for shingle in shingles for name in index.get(shingle, ()))
    name, most = max(found.items(), key=lambda item: item[1], default=("", 0))
    return name if len(shingles) >= MIN_SHINGLES and most >= COVERED * len(shingles) else None


def _shingles(row: Record) -> Iterator[int]:
    for message in _prompt(row):
        if message.role == "user":
            words = normalise(message.content).split()
            for at in range(len(words) - SHINGLE + 1):
                text = " ".join(words[at : at + SHINGLE]).encode("utf-8", "surrogatepass")
                yield int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _shared(set_: PreparedSet, sets: Sequence[PreparedSet]) -> int:
    """Number of training prompts of a set that another set trains on too."""
    others = {_key(row) for other in sets if other is not set_ for row in other.train}
    return len({_key(row) for row in set_.train} & others)


def _key(row: Record) -> str:
    return prompt_key(_prompt(row))


def _prompt(row: Record) -> tuple[Message, ...]:
    return row.messages if isinstance(row, Conversation) else row.prompt


def _example(place: str, note: str, row: Record) -> Example:
    text = next((m.content for m in _prompt(row) if m.role == "user"), "")
    return Example(place=place, note=note, pieces=(Piece(text=text),))
