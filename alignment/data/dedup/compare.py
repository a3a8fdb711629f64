"""Rows against each other, by columns of numbers: 80 bytes a row in memory, however long the text.

Each filter here is a pure function from columns to `Matches`: which rows leave, and because of
which others. Not here: rows against a rule (`clean.py`), and the texts, which stay on disk.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment.data.dedup.ngrams import BANDS, HASHES, similarity
from alignment.data.filters.flags import as_bits, flags
from alignment.data.row import R, Record, Row, normalise_space
from alignment.data.split import normalise, unit_hash
from alignment.records import Conversation, Message, PreferencePair

COLUMNS = np.dtype(
    [
        ("id", "u8"),
        ("prompt", "u8"),  # split.prompt_key
        ("asked", "u8"),  # everything before the reply
        ("question", "u8"),  # prompt and both replies, whichever way round
        ("better", "u8"),  # the chosen reply
        ("order", "f8"),  # place in hash order, 0..1
        ("offset", "u8"),  # of its line in its shard
        ("size", "u4"),  # of that line, in bytes
        ("shard", "u4"),
        ("file", "u4"),
        ("row", "u4"),
        ("source", "u2"),
        ("task", "u2"),
        ("held", "?"),
        ("exam", "?"),  # held out because its whole source is
        ("flags", "u1"),  # of `flags.py`, as bits
    ]
)
Index = NDArray[np.void]
"""Rows in the order they were read, with `COLUMNS`."""
KeptMask = NDArray[np.bool_]
"""Which rows of an index are still in."""

_PAIRS = 2**14


class Matches(NamedTuple):
    """Rows that leave (`at`), and for each the row because of which (`of`); positions."""

    at: NDArray[np.int64]
    of: NDArray[np.int64]


def columns(rows: Sequence[Row[R]], *, salt: str) -> Index:
    """The columns of some rows, but for where they lie on disk.

    Args:
        rows: any.
        salt: decides their hash order.
    """
    described = [
        {
            "id": int(row.record.id, 16),
            "prompt": int(row.prompt_key, 16),
            "asked": _hash(prompt_text(row.record)),
            "order": unit_hash(row.record.id, salt=f"order:{salt}"),
            "row": row.row,
            "held": row.held_out,
            "flags": as_bits(flags(row.record)),
            **_preference(row),
        }
        for row in rows
    ]
    index = np.zeros(len(rows), dtype=COLUMNS)
    for name in described[0] if described else ():
        index[name] = np.array([values[name] for values in described], dtype=COLUMNS[name])
    return index


def _preference(row: Row[R]) -> dict[str, int]:
    if not isinstance(row.record, PreferencePair):
        return {}
    better, other = normalise_space(row.record.chosen), normalise_space(row.record.rejected)
    question = "\0".join([normalise_space(row.record.prompt), *sorted((better, other))])
    return {"question": _hash(question), "better": _hash(better)}


def prompt_text(record: Record) -> str:
    """The whole prompt of a row, normalised."""
    before = record.messages[:-1] if isinstance(record, Conversation) else record.prompt
    return normalise(normalise_space(before))


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def reply_texts(row: Row[R]) -> list[str]:
    """What a row asks, and what it answers: by these its likeness to another is told."""
    record = row.record
    parts: tuple[Sequence[Message], ...]
    if isinstance(record, PreferencePair):
        parts = (record.prompt, record.chosen, record.rejected)
    elif isinstance(record, Conversation):
        parts = (record.messages[:-1], record.messages[-1:])
    else:
        parts = (record.prompt,)
    return ["\n".join(message.text for message in part) for part in parts]


def duplicate(index: Index, alive: KeptMask) -> Matches:
    """Rows whose content was there before; the first one stays."""
    return _repeats(index["id"], alive)


def repeated_prompt(index: Index, alive: KeptMask, *, at_most: int) -> Matches:
    """Rows whose whole prompt was asked `at_most` times further up; `of` is the first of these."""
    rows = np.flatnonzero(alive)
    rows = rows[np.argsort(index["asked"][rows], kind="stable")]
    _, first, sizes = np.unique(index["asked"][rows], return_index=True, return_counts=True)
    start = np.repeat(first, sizes)
    again = np.arange(len(rows)) - start >= at_most
    return _sorted(rows[again], rows[start[again]])


def in_own_evaluation(index: Index, alive: KeptMask) -> Matches:
    """Rows to train on whose prompt stands in one of the set's own files for evaluation."""
    exam = np.flatnonzero(alive & index["exam"])
    candidates = np.flatnonzero(alive & ~index["exam"])
    exam = exam[np.argsort(index["prompt"][exam], kind="stable")]
    keys = index["prompt"][exam]
    places = np.searchsorted(keys, index["prompt"][candidates])
    found = places < len(keys)
    found[found] = keys[places[found]] == index["prompt"][candidates[found]]
    return Matches(candidates[found], exam[places[found]])


def conflicting_label(index: Index, alive: KeptMask) -> Matches:
    """Both of two pairs that prefer opposite replies to one prompt."""
    rows = np.flatnonzero(alive)
    rows = rows[np.lexsort((rows, index["better"][rows], index["question"][rows]))]
    question, better = index["question"][rows], index["better"][rows]
    starts = np.flatnonzero(np.r_[True, question[1:] != question[:-1]][: len(rows)])
    ends = np.r_[starts[1:], len(rows)][: len(starts)]
    at: list[int] = []
    of: list[int] = []
    for start, end in zip(starts, ends, strict=True):
        if better[start] != better[end - 1]:
            ways = (rows[start:end], better[start:end] == better[start])
            first = {way: int(ways[0][ways[1] == way].min()) for way in (True, False)}
            at += [int(row) for row in ways[0]]
            of += [first[not way] for way in ways[1].tolist()]
    return _sorted(np.array(at, dtype=np.int64), np.array(of, dtype=np.int64))


def near_duplicate(
    signatures: Iterable[NDArray[np.uint16]],
    alive: KeptMask,
    *,
    threshold: float,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Matches:
    """Rows that ask and answer nearly what one further up does, by `grams.similarity`.

    Args:
        signatures: of the rows in one or several parts, [rows, 128], and behind them those of
            earlier sets, which stay. Gone through several times.
        alive: of the rows.
        threshold: 0..1, of the n-grams of five words that two prompts share, and two answers.
        on_progress: is told how many of the rows have been compared, and of how many.

    `of` counts on into the earlier sets.
    """
    rows = len(alive)
    candidates = np.r_[alive, np.ones(sum(map(len, signatures)) - rows, dtype=bool)].nonzero()[0]
    found: dict[int, int] = {}
    for number, band in enumerate(np.split(np.arange(HASHES), BANDS)):
        on_progress(rows * number // BANDS, rows)
        keys = np.concatenate([_key(part[:, band]) for part in signatures])[candidates]
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        for start in range(0, len(same), _PAIRS):
            chunk = same[start : start + _PAIRS]
            one, other = candidates[order[chunk]], candidates[order[chunk + 1]]
            likeness = similarity(_rows_of(signatures, one), _rows_of(signatures, other))
            alike = likeness >= threshold
            for low, high in zip(one[alike].tolist(), other[alike].tolist(), strict=True):
                # an earlier set's row stays, and so does the one further up
                at, of = (low, high) if high >= rows else (high, low)
                if at < rows:
                    found.setdefault(at, of)
    at = np.array(sorted(found), dtype=np.int64)
    return Matches(at, np.array([found[int(row)] for row in at], dtype=np.int64))


def in_order(index: Index, alive: KeptMask) -> NDArray[np.int64]:
    """Rows in hash order; equal rows keep theirs."""
    rows = np.flatnonzero(alive)
    return rows[np.argsort(index["order"][rows], kind="stable")]


def _repeats(keys: NDArray[np.uint64], alive: KeptMask) -> Matches:
    rows = np.flatnonzero(alive)
    _, first, which = np.unique(keys[rows], return_index=True, return_inverse=True)
    again = first[which] != np.arange(len(rows))
    return Matches(rows[again], rows[first[which][again]])


def _sorted(at: NDArray[np.int64], of: NDArray[np.int64]) -> Matches:
    order = np.argsort(at, kind="stable")
    return Matches(at[order], of[order])


def _key(band: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """One number for the 128 bits of each row's band."""
    halves = np.ascontiguousarray(band).view(np.uint64)
    mixed = halves[:, 0] * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(31)
    key: NDArray[np.uint64] = mixed + halves[:, 1] * np.uint64(0xC2B2AE3D27D4EB4F)
    return key


def _rows_of(signatures: Iterable[NDArray[np.uint16]], at: NDArray[np.int64]) -> NDArray[np.uint16]:
    taken = np.empty((len(at), HASHES), dtype=np.uint16)
    start = 0
    for part in signatures:
        mine = (at >= start) & (at < start + len(part))
        taken[mine] = part[at[mine] - start]
        start += len(part)
    return taken
