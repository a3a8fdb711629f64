"""The same text twice: within a set, across sets, and between what is trained and what is measured.

Sets are disjoint by the first user turn already (`data.split`); what is looked for here is what
that key does not see. Not here: taking rows out, which the data stage does.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from alignment.data.row import Reason, Record
from alignment.data.split import normalise, prompt_key
from alignment.doctor.finding import Example, Finding, Piece, graded, percent, share, worst
from alignment.doctor.inputs import PreparedSet
from alignment.records import Conversation, Message
from alignment.report.table import Table

DUPLICATES_WARN, REPEATS_WARN = 0.05, 0.3
LEAKS_WARN, LEAKS_FAIL = 0.005, 0.05
SHINGLE = 8
"""Words in a row that count as one piece of a prompt."""
LEAST, COVERED = 8, 0.8
"""A prompt is a near-copy when it has at least so many pieces and so many of them stand in one
held-out prompt."""
BOILERPLATE = 20
"""A piece that stands in more held-out prompts than this is phrasing, and tells nothing."""


def check_duplicates(sets: Sequence[PreparedSet]) -> Finding:
    """Rows left out as duplicates, and prompts that stand in a set more than once."""
    rows = []
    removed = repeated = kept = read = 0
    for set_ in sets:
        copies = set_.count(Reason.duplicate, Reason.near_duplicate)
        prompts = Counter(map(_key, set_.train))
        again = len(set_.train) - len(prompts)
        rows.append((set_.name, f"{copies:,}", f"{again:,}", f"{_shared(set_, sets):,}"))
        removed, repeated = removed + copies, repeated + again
        kept, read = kept + len(set_.train), read + set_.read
    parts = share(removed, read), share(repeated, kept)
    verdict = worst(
        "warn" if part >= limit else "ok"
        for part, limit in zip(parts, (DUPLICATES_WARN, REPEATS_WARN), strict=True)
    )
    columns = ("Set", "Copies left out", "Prompts asked again", "Prompts also in another set")
    return Finding(
        check="duplicates",
        verdict=verdict,
        headline=f"{removed:,} copies were left out ({percent(parts[0])} of rows read); "
        f"{repeated:,} rows ask a prompt that their set has already ({percent(parts[1])}).",
        figures={"copies": removed, "repeated_prompts": repeated},
        tables=(Table.of("The same text again", columns, rows),),
        remedy="Find out why the source repeats itself: a row that stands twice counts twice, "
        "and what looks like many examples are few.",
    )


def check_leaks(sets: Sequence[PreparedSet]) -> Finding:
    """Training prompts that are held out somewhere: as the split sees them, and as near-copies."""
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
                exact.append(_example(place, f"the same first turn as {at}", row))
            elif (copy := _copied(row, index)) is not None:
                near.append(_example(place, f"nearly a prompt of {copy}", row))
    removed = {
        reason: sum(set_.count(reason) for set_ in sets)
        for reason in (Reason.in_evaluation_set, Reason.used_by_earlier_round)
    }
    part = share(len(near), trained)
    verdict = "fail" if exact else graded(part, warn=LEAKS_WARN, fail=LEAKS_FAIL)
    return Finding(
        check="leaks",
        verdict=verdict,
        headline=f"{len(exact) + len(near):,} of {trained:,} training rows ask what is held out "
        f"({len(near):,} as near-copies); {removed[Reason.in_evaluation_set]:,} such rows and "
        f"{removed[Reason.used_by_earlier_round]:,} used by an earlier round were left out.",
        figures={"exact": len(exact), "near": len(near), "share": part}
        | {f"left_out_{reason}": count for reason, count in removed.items()},
        examples=(*exact[:3], *near[:3]),
        remedy="Take these rows out of the training sources, or the held-out figures will "
        "flatter the model.",
    )


Index = dict[int, list[str]]
"""Hash of a piece to the held-out prompts (by name) that hold it."""


def _index(sets: Sequence[PreparedSet]) -> Index:
    index: defaultdict[int, list[str]] = defaultdict(list)
    for set_ in sets:
        for row in set_.held_out:
            for piece in set(_pieces(row)):
                index[piece].append(f"{set_.name} · row {row.id}")
    return {piece: rows for piece, rows in index.items() if len(rows) <= BOILERPLATE}


def _copied(row: Record, index: Index) -> str | None:
    """The held-out prompt that holds most of this row's prompt, if one does."""
    pieces = set(_pieces(row))
    found = Counter(name for piece in pieces for name in index.get(piece, ()))
    name, most = max(found.items(), key=lambda item: item[1], default=("", 0))
    return name if len(pieces) >= LEAST and most >= COVERED * len(pieces) else None


def _pieces(row: Record) -> Iterator[int]:
    for message in _prompt(row):
        if message.role == "user":
            words = normalise(message.content).split()
            for at in range(len(words) - SHINGLE + 1):
                text = " ".join(words[at : at + SHINGLE]).encode("utf-8", "surrogatepass")
                yield int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _shared(set_: PreparedSet, sets: Sequence[PreparedSet]) -> int:
    """Training prompts of a set that another set trains on as well."""
    others = {_key(row) for other in sets if other is not set_ for row in other.train}
    return len({_key(row) for row in set_.train} & others)


def _key(row: Record) -> str:
    return prompt_key(_prompt(row))


def _prompt(row: Record) -> tuple[Message, ...]:
    return row.messages if isinstance(row, Conversation) else row.prompt


def _example(place: str, note: str, row: Record) -> Example:
    text = next((m.content for m in _prompt(row) if m.role == "user"), "")
    return Example(place=place, note=note, pieces=(Piece(text=text),))
