"""Compares rows with each other by numeric columns: 80 bytes of memory per row, however long.

Each comparison is a pure function from columns to `Matches`: which rows to drop, and which other
row each of them matches. Its name is the `Reason` for which rows are dropped.
Not here: rules for a single row (`filters/content.py`), and the texts, which stay on disk.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment.data.dedup.ngrams import BANDS, HASHES, similarity
from alignment.data.filters.flags import flags, to_bits
from alignment.data.row import R, Record, Row, normalise_space
from alignment.data.split import normalise, unit_hash
from alignment.records.text import Conversation, Message, PreferencePair

COLUMNS = np.dtype(
    [
        ("id", "u8"),
        ("prompt", "u8"),  # split.prompt_key
        ("prompt_text", "u8"),  # hash of everything before the reply
        ("pair", "u8"),  # hash of the prompt and both replies, in either order
        ("chosen", "u8"),  # hash of the chosen reply
        ("order", "f8"),  # position in hash order, 0..1
        ("offset", "u8"),  # start of its line in its shard, in bytes
        ("size", "u4"),  # length of that line, in bytes
        ("shard", "u4"),
        ("file", "u4"),
        ("row", "u4"),
        ("source", "u2"),
        ("task", "u2"),
        ("held_out", "?"),
        ("evaluation", "?"),  # held out because its whole source is
        ("flags", "u1"),  # `flags.py`, as bits
    ]
)
Index = NDArray[np.void]
"""Rows in the order in which they were read, with `COLUMNS`."""
KeptMask = NDArray[np.bool_]
"""Which rows of an index have not been dropped: [rows]."""

_PAIRS = 2**14
"""Pairs of signatures compared at once, which bounds memory."""


class Matches(NamedTuple):
    """Positions of the rows to drop and, for each, of the other row that it matches."""

    rows: NDArray[np.int64]
    others: NDArray[np.int64]


def columns(rows: Sequence[Row[R]], *, salt: str) -> Index:
    """The columns of some rows, except for their location on disk.

    Args:
        rows: the rows, in the order in which they were read.
        salt: determines their hash order.
    """
    described = [
        {
            "id": int(row.record.id, 16),
            "prompt": int(row.prompt_key, 16),
            "prompt_text": _hash(prompt_text(row.record)),
            "order": unit_hash(row.record.id, salt=f"order:{salt}"),
            "row": row.row,
            "held_out": row.held_out,
            "flags": to_bits(flags(row.record)),
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
    chosen, rejected = normalise_space(row.record.chosen), normalise_space(row.record.rejected)
    # sorted, so that A over B and B over A have the same hash
    pair = "\0".join([normalise_space(row.record.prompt), *sorted((chosen, rejected))])
    return {"pair": _hash(pair), "chosen": _hash(chosen)}


def prompt_text(record: Record) -> str:
    """A record's whole prompt, normalised."""
    before = record.messages[:-1] if isinstance(record, Conversation) else record.prompt
    return normalise(normalise_space(before))


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def prompt_and_replies(row: Row[R]) -> list[str]:
    """A row's prompt and then its replies, for its MinHash signature."""
    record = row.record
    parts: tuple[Sequence[Message], ...]
    if isinstance(record, PreferencePair):
        parts = (record.prompt, record.chosen, record.rejected)
    elif isinstance(record, Conversation):
        parts = (record.messages[:-1], record.messages[-1:])
    else:
        parts = (record.prompt,)
    return ["\n".join(message.text for message in part) for part in parts]


def duplicate(index: Index, kept: KeptMask) -> Matches:
    """Rows with the same content as an earlier row; the first one is kept."""
    return _repeats(index["id"], kept)


def repeated_prompt(index: Index, kept: KeptMask, *, at_most: int) -> Matches:
    """Rows whose whole prompt `at_most` earlier rows have; `others` is the first of these."""
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(index["prompt_text"][rows], kind="stable")]
    _, first, sizes = np.unique(index["prompt_text"][rows], return_index=True, return_counts=True)
    start = np.repeat(first, sizes)
    repeated = np.arange(len(rows)) - start >= at_most
    return _sorted(rows[repeated], rows[start[repeated]])


def in_own_evaluation(index: Index, kept: KeptMask) -> Matches:
    """Training rows whose prompt is also in a source that this set uses for evaluation only."""
    evaluation = np.flatnonzero(kept & index["evaluation"])
    candidates = np.flatnonzero(kept & ~index["evaluation"])
    evaluation = evaluation[np.argsort(index["prompt"][evaluation], kind="stable")]
    keys = index["prompt"][evaluation]
    places = np.searchsorted(keys, index["prompt"][candidates])
    found = places < len(keys)
    found[found] = keys[places[found]] == index["prompt"][candidates[found]]
    return Matches(candidates[found], evaluation[places[found]])


def conflicting_label(index: Index, kept: KeptMask) -> Matches:
    """Pairs that prefer opposite replies to the same prompt: both sides are dropped."""
    rows = np.flatnonzero(kept)
    rows = rows[np.lexsort((rows, index["chosen"][rows], index["pair"][rows]))]
    pair, chosen = index["pair"][rows], index["chosen"][rows]
    starts = np.flatnonzero(np.r_[True, pair[1:] != pair[:-1]][: len(rows)])
    ends = np.r_[starts[1:], len(rows)][: len(starts)]
    dropped: list[int] = []
    others: list[int] = []
    for start, end in zip(starts, ends, strict=True):
        if chosen[start] != chosen[end - 1]:
            group, side = rows[start:end], chosen[start:end] == chosen[start]
            first = {value: int(group[side == value].min()) for value in (True, False)}
            dropped += [int(row) for row in group]
            others += [first[not value] for value in side.tolist()]
    return _sorted(np.array(dropped, dtype=np.int64), np.array(others, dtype=np.int64))


def near_duplicate(
    signatures: Iterable[NDArray[np.uint16]],
    kept: KeptMask,
    *,
    threshold: float,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Matches:
    """Rows whose prompt and replies are nearly those of an earlier row, by `ngrams.similarity`.

    Args:
        signatures: [rows, 128] signatures of the rows, in one or several parts, followed by those
            of earlier sets, which are never dropped. Iterated over several times.
        kept: which rows to compare.
        threshold: similarity, 0..1, from which both the prompts and the replies of two rows count
            as nearly the same; it is the share of five-word n-grams that they have in common.
        on_progress: called with the number of rows compared so far and their total.

    Positions in `others` from `len(kept)` on are rows of the earlier sets.
    """
    rows = len(kept)
    candidates = np.r_[kept, np.ones(sum(map(len, signatures)) - rows, dtype=bool)].nonzero()[0]
    found: dict[int, int] = {}
    for number, band in enumerate(np.split(np.arange(HASHES), BANDS)):
        on_progress(rows * number // BANDS, rows)
        keys = np.concatenate([_key(part[:, band]) for part in signatures])[candidates]
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        for start in range(0, len(same), _PAIRS):
            chunk = same[start : start + _PAIRS]
            one, other = candidates[order[chunk]], candidates[order[chunk + 1]]
            scores = similarity(_rows_of(signatures, one), _rows_of(signatures, other))
            similar = scores >= threshold
            for low, high in zip(one[similar].tolist(), other[similar].tolist(), strict=True):
                # keep the row of an earlier set; within this set, keep the earlier row
                row, match = (low, high) if high >= rows else (high, low)
                if row < rows:
                    found.setdefault(row, match)
    dropped = np.array(sorted(found), dtype=np.int64)
    return Matches(dropped, np.array([found[int(row)] for row in dropped], dtype=np.int64))


def in_order(index: Index, kept: KeptMask) -> NDArray[np.int64]:
    """Positions of the kept rows in hash order; rows with equal hashes keep their order."""
    rows = np.flatnonzero(kept)
    return rows[np.argsort(index["order"][rows], kind="stable")]


def _repeats(keys: NDArray[np.uint64], kept: KeptMask) -> Matches:
    rows = np.flatnonzero(kept)
    _, first, group = np.unique(keys[rows], return_index=True, return_inverse=True)
    repeated = first[group] != np.arange(len(rows))
    return Matches(rows[repeated], rows[first[group][repeated]])


def _sorted(rows: NDArray[np.int64], others: NDArray[np.int64]) -> Matches:
    order = np.argsort(rows, kind="stable")
    return Matches(rows[order], others[order])


def _key(band: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """A 64-bit hash of the 128 bits of each row's band."""
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
